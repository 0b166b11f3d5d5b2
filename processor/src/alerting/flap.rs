//! Alerts that come and go: beyond a number of episodes their subject (one rule on one device) is flapping. It
//! stays in its page as one alert until it has been quiet, or steady, for long enough.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::settings::FlapSettings;

/// A subject that flaps, or that did so recently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flap {
    /// The pages in which it counts as one alert.
    pub(crate) pages: Vec<u64>,
    /// Whether it counts as muted there.
    pub(crate) muted: bool,
    /// Its newest episode.
    pub(crate) last: Facts,
    /// Whether that is open, and since when it is as it is.
    pub(crate) firing: bool,
    pub(crate) since: i64,
    /// When it was over; episodes up to then count no more.
    pub(crate) over: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Flaps {
    settings: FlapSettings,
    all: BTreeMap<u64, Flap>,
    /// Ingest times at which a subject's newest episodes were raised, as many as are needed.
    raises: BTreeMap<u64, VecDeque<i64>>,
    /// The same in the order in which they came, to forget them.
    order: VecDeque<(i64, u64)>,
}

impl Flaps {
    pub(crate) fn new(settings: FlapSettings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Notes an episode. Whether its subject has had too many of them with this one.
    pub(crate) fn note(&mut self, subject: u64, at: i64) -> bool {
        if self.settings.episodes == 0 {
            return false;
        }
        let limit = self.settings.episodes as usize;
        let from = at.saturating_sub(self.settings.within);
        let over = self.all.get(&subject).and_then(|f| f.over);
        let times = self.raises.entry(subject).or_default();
        times.push_back(at);
        if times.len() > limit + 1 {
            times.pop_front();
        }
        let counts = |t: &&i64| **t > from && over.is_none_or(|over| **t > over);
        let many = times.iter().filter(counts).count() > limit;
        self.order.push_back((at, subject));
        while self.order.front().is_some_and(|o| o.0 <= from) {
            if let Some((old, subject)) = self.order.pop_front()
                && let Some(times) = self.raises.get_mut(&subject)
            {
                times.retain(|t| *t > old);
                if times.is_empty() {
                    self.raises.remove(&subject);
                }
            }
        }
        many
    }

    /// The subject, while it flaps.
    pub(crate) fn get(&self, subject: u64) -> Option<&Flap> {
        self.all.get(&subject).filter(|f| f.over.is_none())
    }

    pub(crate) fn get_mut(&mut self, subject: u64) -> Option<&mut Flap> {
        self.all.get_mut(&subject).filter(|f| f.over.is_none())
    }

    /// All that flap.
    pub(crate) fn subjects(&self) -> Vec<u64> {
        let flapping = self.all.iter().filter(|(_, f)| f.over.is_none());
        flapping.map(|(subject, _)| *subject).collect()
    }

    /// What is saved of a subject.
    pub(crate) fn stored(&self, subject: u64) -> Option<&Flap> {
        self.all.get(&subject)
    }

    pub(crate) fn insert(&mut self, subject: u64, flap: Flap) {
        self.all.insert(subject, flap);
    }

    /// When it is over, if nothing happens.
    pub(crate) fn end_of(&self, flap: &Flap) -> Option<i64> {
        let wait = match flap.firing {
            true => self.settings.steady,
            false => self.settings.quiet,
        };
        flap.over.is_none().then(|| flap.since.saturating_add(wait))
    }

    /// Forgets subjects of which no episode counts any more.
    pub(crate) fn forget(&mut self, now: i64) -> Vec<u64> {
        let horizon = now.saturating_sub(self.settings.within);
        let is_old = |f: &Flap| f.over.is_some_and(|over| over < horizon);
        let old: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, f)| is_old(f))
            .map(|(s, _)| *s)
            .collect();
        for subject in &old {
            self.all.remove(subject);
        }
        old
    }
}
