//! The newest windows of one group, and the episodes that follow from them.
//!
//! A window that changes is stepped again with all that are remembered, so whatever order they come in, the same
//! values give the same episodes.

use std::collections::VecDeque;

use rules::{Episode, Threshold, Transition};
use serde::{Deserialize, Serialize};

use crate::alerting::facts::Pairs;

/// Newest windows of a group that a rule remembers: what happened before them is final.
pub const RING: usize = 64;
/// Values that an alert shows.
const EVIDENCE_MAX: usize = 16;

/// One window as a rule sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Event time, microseconds.
    pub start: i64,
    /// Event time, microseconds; not in it.
    pub end: i64,
    /// A smaller one than that of the same window before is old news.
    pub revision: u64,
    /// The number that is compared; none = nothing is expected there any more, so nothing is wrong.
    pub value: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Seen {
    start: i64,
    end: i64,
    value: Option<f64>,
    /// Counted anew in each life of the process.
    #[serde(skip)]
    revision: u64,
}

/// One episode that fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) began: i64,
    /// None while it goes on in the newest window.
    pub(crate) resolved: Option<i64>,
}

/// An episode of which there is an alert, and that may still change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) id: Box<str>,
    pub(crate) began: i64,
    pub(crate) resolved: Option<i64>,
    /// Whether it was raised; else it is only recorded.
    pub(crate) raised: bool,
    /// How often its begin moved.
    pub(crate) revised: u32,
}

impl Told {
    /// Whether an episode can be this one: what was raised and cleared is over.
    pub(crate) fn can_be(&self, found: &Found) -> bool {
        !(self.raised && self.resolved.is_some() && found.resolved.is_none())
    }

    pub(crate) fn overlaps(&self, found: &Found) -> bool {
        self.began < found.resolved.unwrap_or(i64::MAX)
            && found.began < self.resolved.unwrap_or(i64::MAX)
    }
}

/// What is remembered of a rule in a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watched {
    pub(crate) name: Box<str>,
    pub(crate) group: Pairs,
    /// Of the text of the rule.
    pub(crate) rule: u64,
    ring: VecDeque<Seen>,
    /// What starts before this is final.
    from: i64,
    /// What was under way before the ring; of a share what is under way now.
    pub(crate) base: Option<Episode>,
    pub(crate) told: Vec<Told>,
    /// Whether something is under way at the end.
    under_way: bool,
    /// Whether it has a row.
    #[serde(skip)]
    pub(crate) saved: bool,
}

/// Takes an episode on by a window. What ended with it, if it had fired.
fn step(threshold: &Threshold, episode: &mut Option<Episode>, seen: &Seen) -> Option<Found> {
    let before = *episode;
    let ended = || {
        let before = before.filter(|e| e.firing)?;
        Some(Found {
            began: before.began,
            resolved: Some(seen.start),
        })
    };
    let Some(value) = seen.value else {
        *episode = None;
        return ended();
    };
    if threshold.step(episode, seen.start, value) == Transition::Resolved {
        return ended();
    }
    // It holds to the end of the window.
    if episode.is_some_and(|e| !e.firing) {
        threshold.step(episode, seen.end, value);
    }
    None
}

impl Watched {
    pub(crate) fn new(name: &str, group: Pairs, rule: u64) -> Self {
        Self {
            name: name.into(),
            group,
            rule,
            ring: VecDeque::new(),
            from: i64::MIN,
            base: None,
            told: Vec::new(),
            under_way: false,
            saved: false,
        }
    }

    /// Takes windows, in any order. The episodes that follow from what is remembered now, by their begin; none if
    /// nothing changed.
    pub(crate) fn take(&mut self, threshold: &Threshold, judged: &[Judged]) -> Option<Vec<Found>> {
        let mut changed = false;
        let mut found = Vec::new();
        for window in judged.iter().filter(|w| w.start >= self.from) {
            let seen = Seen {
                start: window.start,
                end: window.end,
                value: window.value,
                revision: window.revision,
            };
            match self.ring.binary_search_by_key(&seen.start, |s| s.start) {
                Ok(at) if seen.revision < self.ring[at].revision => {}
                Ok(at) => {
                    changed |= self.ring[at].value != seen.value;
                    self.ring[at] = seen;
                }
                Err(at) => {
                    self.ring.insert(at, seen);
                    changed = true;
                }
            }
        }
        while self.ring.len() > RING
            && let Some(oldest) = self.ring.pop_front()
        {
            found.extend(step(threshold, &mut self.base, &oldest));
            self.from = oldest.start + 1;
        }
        if !changed {
            return None;
        }
        let mut episode = self.base;
        for seen in &self.ring {
            found.extend(step(threshold, &mut episode, seen));
        }
        self.under_way = episode.is_some();
        found.extend(episode.filter(|e| e.firing).map(|e| Found {
            began: e.began,
            resolved: None,
        }));
        Some(found)
    }

    /// Takes a share as it is `now`; `began` is since when it is beyond the limit, if it is.
    pub(crate) fn take_share(
        &mut self,
        threshold: &Threshold,
        value: Option<f64>,
        began: i64,
        now: i64,
    ) -> Vec<Found> {
        let seen = Seen {
            start: if self.base.is_none() { began } else { now },
            end: now,
            value,
            revision: 0,
        };
        let mut found: Vec<Found> = step(threshold, &mut self.base, &seen).into_iter().collect();
        self.under_way = self.base.is_some();
        found.extend(self.base.filter(|e| e.firing).map(|e| Found {
            began: e.began,
            resolved: None,
        }));
        found
    }

    /// Forgets what cannot change any more.
    pub(crate) fn forget_final(&mut self, all_ended: bool) {
        let from = self.from;
        self.told
            .retain(|t| t.resolved.is_none_or(|end| !all_ended && end >= from));
    }

    /// Whether it says more than the windows of the views do.
    pub(crate) fn is_worth_saving(&self) -> bool {
        self.base.is_some() || self.under_way || !self.told.is_empty()
    }

    /// The newest value of an episode.
    pub(crate) fn value(&self, found: &Found) -> Option<f64> {
        let before = |s: &&Seen| found.resolved.is_none_or(|end| s.start < end);
        let mut values = self.ring.iter().rev().filter(before);
        values.find_map(|s| s.value)
    }

    /// The last value before an episode, and its first ones.
    pub(crate) fn evidence(&self, found: &Found) -> Vec<(i64, f64)> {
        let at = self.ring.partition_point(|s| s.start < found.began);
        let of = self.ring.iter().skip(at.saturating_sub(1));
        of.filter(|s| found.resolved.is_none_or(|end| s.start < end))
            .filter_map(|s| Some((s.start, s.value?)))
            .take(EVIDENCE_MAX)
            .collect()
    }
}
