//! What is to be done when.

use std::collections::{BTreeMap, BTreeSet};

/// Whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Silences and maintenance windows.
    Mutes,
    /// Commands that wait.
    Commands,
    /// A page, by its number.
    Page(u64),
    /// A subject that flaps.
    Flap(u64),
}

/// At most one time for each.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Timers {
    by_time: BTreeSet<(i64, Timer)>,
    times: BTreeMap<Timer, i64>,
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<i64>) {
        if let Some(old) = self.times.remove(&timer) {
            self.by_time.remove(&(old, timer));
        }
        if let Some(at) = at {
            self.times.insert(timer, at);
            self.by_time.insert((at, timer));
        }
    }

    /// The first whose time is not after `now`; it has no time any more.
    pub(crate) fn pop_due(&mut self, now: i64) -> Option<Timer> {
        let &(at, timer) = self.by_time.first().filter(|t| t.0 <= now)?;
        self.by_time.remove(&(at, timer));
        self.times.remove(&timer);
        Some(timer)
    }

    pub(crate) fn next(&self) -> Option<i64> {
        self.by_time.first().map(|t| t.0)
    }
}
