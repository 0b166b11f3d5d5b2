//! Alerts that agents found themselves: what they say in events of the metric `tidewatch.alert`.
//!
//! The key of an alert is (name of the rule, device), whoever found it. Where the server has a rule of that name,
//! it finds the same by itself, with better facts: what the agent says is passed over then. Else the agent's word
//! counts, and pages under the same conditions as any other.

use std::collections::BTreeMap;

use event::alert::{EdgeAlert, State};
use rules::Severity;
use serde::{Deserialize, Serialize};

use super::super::effects::Effects;
use super::super::partition::Partition;
use super::run::{Closed, Open};
use super::{Alerts, Place, Round};

/// From this number on rules are agents' own.
pub(crate) const EDGE: u32 = 1 << 30;
/// Most of them; and most places that are remembered.
pub(crate) const RULES_MAX: usize = 4096;
const PLACES_MAX: usize = 200_000;

/// A rule on agents, as its alerts tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EdgeRule {
    pub(crate) name: String,
    pub(crate) metric: String,
    pub(crate) severity: Severity,
}

/// All that were heard of, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub(crate) rules: Vec<EdgeRule>,
    /// The newest transition of each place: (event time, rank).
    pub(crate) newest: BTreeMap<Place, (i64, u64)>,
}

fn severity(text: &str) -> Option<Severity> {
    let all = [
        Severity::Info,
        Severity::Warning,
        Severity::Error,
        Severity::Critical,
    ];
    all.into_iter().find(|s| s.as_str() == text)
}

impl Edge {
    /// The number of a rule; none if there is no room.
    fn number(&mut self, said: &EdgeAlert) -> Option<u32> {
        let rule = EdgeRule {
            name: said.rule.clone(),
            metric: said.metric.clone(),
            severity: severity(&said.severity)?,
        };
        if let Some(at) = self.rules.iter().position(|r| *r == rule) {
            return Some(EDGE + at as u32);
        }
        if self.rules.len() >= RULES_MAX || rule.name.is_empty() || rule.name.len() > 64 {
            return None;
        }
        self.rules.push(rule);
        Some(EDGE + self.rules.len() as u32 - 1)
    }

    pub(crate) fn rule(&self, number: u32) -> Option<&EdgeRule> {
        self.rules.get(number.checked_sub(EDGE)? as usize)
    }
}

impl Alerts {
    /// Takes what an agent says; `when` orders it among all that it says of the rule and device. What cannot be
    /// read is a text like any other.
    pub(crate) fn hear_edge(
        &mut self,
        device: u32,
        text: &str,
        when: (i64, u64),
        p: &Partition,
        fx: &mut Effects,
    ) {
        let Ok(said) = EdgeAlert::parse(text) else {
            return;
        };
        let fits = |t: i64| t.unsigned_abs() <= 1 << 60;
        // Times beyond that would make a snapshot that is refused when it is read.
        let fits = fits(said.since) && fits(said.at);
        if self.rules.iter().any(|w| w.rule.name == said.rule) || !fits {
            return;
        }
        let Some(rule) = self.edge.number(&said) else {
            return;
        };
        let place = (rule, device);
        let full = self.edge.newest.len() >= PLACES_MAX;
        let newest = self.edge.newest.get(&place).copied();
        if newest.is_none() && full {
            return;
        }
        let is_newest = newest.is_none_or(|n| when > n);
        if is_newest {
            self.edge.newest.insert(place, when);
        }
        let track = self.tracks.remove(&place).unwrap_or_default();
        let shown = track.shown.as_ref().map(|a| a.open.clone());
        let is_shown = shown
            .as_ref()
            .is_some_and(|o| o.episode.began == said.since);
        let fresh = Open {
            episode: rules::Episode {
                began: said.since,
                firing: true,
            },
            value: said.value.unwrap_or_default(),
            seen: when.0.max(said.since),
            evidence: said.value.map(|v| (said.at, v)).into_iter().collect(),
            reason: said.reason.clone(),
        };
        let ended = |open: Open, ended: i64| Closed { open, ended };
        let mut round = Round {
            closed: Vec::new(),
            finals: 0,
            open: shown.clone(),
            floor: i64::MAX,
        };
        match (said.state, shown) {
            // What began then is over: its end comes, or came.
            (State::Firing, _) if !is_newest => {}
            (State::Firing, Some(mut open)) if is_shown => {
                open.seen = open.seen.max(when.0);
                round.open = Some(open);
            }
            (State::Firing, before) => {
                let end = said.since;
                round.closed.extend(before.map(|open| ended(open, end)));
                round.open = Some(fresh);
            }
            (State::Resolved, Some(mut open)) if is_shown => {
                open.value = said.value.unwrap_or(open.value);
                open.reason = said.reason;
                round.closed.push(ended(open, said.at));
                round.open = None;
            }
            (State::Resolved, shown) => {
                if let Some(open) = shown.filter(|_| is_newest) {
                    round.closed.push(ended(open, said.since));
                    round.open = None;
                }
                // An end of what nobody heard the begin of, unless it is recorded already.
                let is_past = self.history.iter().any(|e| {
                    e.subject == device
                        && e.rule == said.rule
                        && e.active.open.episode.began == said.since
                });
                if !is_past {
                    let at = said.at.max(said.since);
                    let at_begin = round
                        .closed
                        .partition_point(|c| c.open.episode.began <= said.since);
                    round.closed.insert(at_begin, ended(fresh, at));
                }
            }
        }
        round.finals = round.closed.len();
        self.reconcile(place, track, round, p, fx);
    }
}
