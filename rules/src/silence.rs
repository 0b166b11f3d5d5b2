//! Silence: no value for longer than `after`.
//!
//! It is stepped with every value, of whatever type, and with the time that passes. Both must be of one
//! clock; which one is the caller's choice.

use crate::episode::{Episode, Transition};

/// The limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Longest time between two values, microseconds; 100 ms to 30 days.
    pub after: i64,
}

impl Silence {
    /// A value was heard.
    pub(crate) fn heard(
        &self,
        last: &mut Option<i64>,
        episode: &mut Option<Episode>,
        time: i64,
    ) -> Transition {
        // An older one than the last breaks the silence, too: somebody speaks.
        *last = Some(last.map_or(time, |l| l.max(time)));
        match episode.take() {
            Some(_) => Transition::Resolved,
            None => Transition::None,
        }
    }

    /// It is `now`.
    pub(crate) fn pass(
        &self,
        last: Option<i64>,
        episode: &mut Option<Episode>,
        now: i64,
    ) -> Transition {
        match last {
            Some(last) if episode.is_none() && now.saturating_sub(last) > self.after => {
                *episode = Some(Episode {
                    began: last,
                    firing: true,
                });
                Transition::Fired
            }
            _ => Transition::None,
        }
    }

    /// The first time at which [`Self::pass`] fires, if nothing is heard.
    pub(crate) fn due(&self, last: Option<i64>, episode: Option<Episode>) -> Option<i64> {
        let last = last.filter(|_| episode.is_none())?;
        Some(last.saturating_add(self.after).saturating_add(1))
    }
}
