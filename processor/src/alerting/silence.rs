//! Silences that operators ask for.

use std::collections::BTreeMap;

use event::{Matcher, SilenceKind, SilenceSpec};
use serde::{Deserialize, Serialize};
use views::model::Time;
use views::oncall;

use super::facts::Facts;
use views::matcher::Matchers;

/// Most silences, expired ones included.
pub const SILENCES_MAX: usize = 1000;
/// How long an expired one is shown, microseconds: five days.
const SHOWN_AFTER: i64 = 5 * 86_400_000_000;

/// One silence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: Box<str>,
    pub(crate) kind: SilenceKind,
    matchers: Vec<Matcher>,
    starts: i64,
    ends: i64,
    by: Box<str>,
    comment: Box<str>,
    updated: i64,
}

impl Stored {
    fn state(&self, now: i64) -> &'static str {
        match now {
            _ if self.ends <= now => "expired",
            _ if self.starts <= now => "active",
            _ => "pending",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Silences {
    all: BTreeMap<Box<str>, (Stored, Matchers)>,
}

impl Silences {
    pub(crate) fn restore(&mut self, stored: Stored) -> Result<(), String> {
        let matchers = Matchers::new(&stored.matchers)?;
        self.all.insert(stored.id.clone(), (stored, matchers));
        Ok(())
    }

    /// Makes a silence, or changes the one with that id if it is not over.
    ///
    /// **Errors**: for the server's log; nothing is changed.
    pub(crate) fn set(
        &mut self,
        old: Option<&str>,
        new: String,
        spec: SilenceSpec,
        at: i64,
    ) -> Result<Box<str>, String> {
        let matchers = Matchers::new(&spec.matchers)?;
        let is_open = |id: &&str| self.all.get(*id).is_some_and(|(s, _)| s.ends > at);
        let id: Box<str> = old.filter(is_open).map_or_else(|| new.into(), Into::into);
        if self.all.len() >= SILENCES_MAX && !self.all.contains_key(&id) {
            return Err(format!(
                "there are {SILENCES_MAX} silences, which is the most"
            ));
        }
        let stored = Stored {
            id: id.clone(),
            kind: spec.kind,
            matchers: spec.matchers,
            starts: spec.starts,
            ends: spec.ends,
            by: spec.by.into(),
            comment: spec.comment.into(),
            updated: at,
        };
        self.all.insert(id.clone(), (stored, matchers));
        Ok(id)
    }

    /// Ends one at `at`. Whether that changes something.
    pub(crate) fn expire(&mut self, id: &str, at: i64) -> bool {
        let Some((silence, _)) = self.all.get_mut(id).filter(|(s, _)| s.ends > at) else {
            return false;
        };
        silence.ends = at;
        silence.starts = silence.starts.min(at);
        silence.updated = at;
        true
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Stored> {
        self.all.get(id).map(|s| &s.0)
    }

    /// Forgets those that have been over for long, and, if there are too many, the first that were over.
    pub(crate) fn forget(&mut self, now: i64) -> Vec<Box<str>> {
        let mut over: Vec<(i64, Box<str>)> = self
            .all
            .values()
            .filter(|(s, _)| s.ends <= now)
            .map(|(s, _)| (s.ends, s.id.clone()))
            .collect();
        over.sort();
        let excess = (self.all.len() + 1).saturating_sub(SILENCES_MAX);
        let old = over.iter().take_while(|o| o.0 <= now - SHOWN_AFTER).count();
        over.truncate(excess.max(old));
        let gone: Vec<Box<str>> = over.into_iter().map(|o| o.1).collect();
        for id in &gone {
            self.all.remove(id);
        }
        gone
    }

    /// Active ones on an alert.
    pub(crate) fn on<'a>(&'a self, facts: &'a Facts, now: i64) -> impl Iterator<Item = &'a Stored> {
        let active = move |s: &Stored| s.starts <= now && now < s.ends;
        self.all
            .values()
            .filter(move |(s, matchers)| active(s) && matchers.hold(facts))
            .map(|(s, _)| s)
    }

    /// When the next one begins or ends.
    pub(crate) fn next_change(&self, now: i64) -> Option<i64> {
        let times = self.all.values().flat_map(|(s, _)| [s.starts, s.ends]);
        times.filter(|t| *t > now).min()
    }

    pub(crate) fn models(&self, now: i64) -> Vec<oncall::Silence> {
        let model = |(s, _): &(Stored, Matchers)| oncall::Silence {
            id: s.id.to_string(),
            kind: s.kind.as_str(),
            state: s.state(now),
            matchers: s.matchers.clone(),
            starts_at: Time(s.starts),
            ends_at: Time(s.ends),
            by: s.by.to_string(),
            comment: s.comment.to_string(),
            updated: Time(s.updated),
            weekly: false,
        };
        self.all.values().map(model).collect()
    }
}
