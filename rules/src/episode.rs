//! What every kind of rule has in common: an episode that begins, waits for `for`, fires and ends.

use serde::{Deserialize, Serialize};

/// One episode that has begun and not ended. No episode = inactive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Event time of the first value beyond the limit (silence: of the last value heard), microseconds.
    pub began: i64,
    /// Whether it has lasted long enough.
    pub firing: bool,
}

/// What a value, or time that passed, did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Nothing to tell.
    None,
    /// An episode began and waits for `for`.
    Pending,
    /// A pending episode was dropped.
    Dropped,
    /// An episode is firing now.
    Fired,
    /// A firing episode ended.
    Resolved,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Beyond the limit that begins an episode.
    Beyond,
    /// Not beyond it, and not back at the one that ends an episode.
    Between,
    /// At or behind the limit that ends an episode.
    Clear,
}

/// Takes an episode on by a value at `time`. `hold` is how long values must have been beyond the limit
/// before it fires, microseconds; 0 = at once.
#[inline]
pub(crate) fn advance(
    episode: &mut Option<Episode>,
    time: i64,
    side: Side,
    hold: i64,
) -> Transition {
    match episode {
        None if side == Side::Beyond => {
            let firing = hold == 0;
            *episode = Some(Episode {
                began: time,
                firing,
            });
            if firing {
                Transition::Fired
            } else {
                Transition::Pending
            }
        }
        None => Transition::None,
        Some(e) if e.firing => {
            if side == Side::Clear {
                *episode = None;
                Transition::Resolved
            } else {
                Transition::None
            }
        }
        Some(e) => {
            if side != Side::Beyond {
                *episode = None;
                Transition::Dropped
            } else if time.saturating_sub(e.began) >= hold {
                e.firing = true;
                Transition::Fired
            } else {
                Transition::None
            }
        }
    }
}
