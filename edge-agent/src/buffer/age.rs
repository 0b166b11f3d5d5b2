//! Dropping what has been held for too long ([`Settings::age_max`]).
//!
//! Age counts from when an event was *stored*, not from when it happened: a recording of last year that
//! is replayed today is new. Each chunk keeps the agent's time of its last commit, so an event goes
//! once it is older than the limit, and before it is older than nine eighths of it (a chunk that grows
//! for longer than an eighth is ended).
//!
//! A clock that errs must not empty the buffer:
//! - Under a clock that was never set, nothing is dropped. What was stored under one counts from the
//!   first time that was known afterwards in the same life.
//! - A clock that is set back only makes events younger.
//! - After the start, and after each step of the clock by more than [`STEP`], nothing is dropped for
//!   [`SETTLE`]: a step may be a mistake that is put right.
//! - Each round drops only the oldest, at most [`CHUNKS_A_ROUND`] chunks or a 64th of all, and rounds are
//!   [`EVERY`] apart.

use std::time::Duration;

use event::{EventTime, GapReason};

use super::index::Kind;
use super::{Buffer, BufferError, Settings};

/// Time between two rounds.
pub const EVERY: Duration = Duration::from_secs(10);
/// A clock that goes on by more or less than the monotonic one, by at least this between two looks, has
/// been set.
const STEP: Duration = Duration::from_secs(60);
/// So long nothing is dropped after a start or a step.
const SETTLE: Duration = Duration::from_secs(600);
/// Most chunks dropped in one round, unless a 64th of all is more.
const CHUNKS_A_ROUND: usize = 64;

/// What is known of the time.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last look at both clocks: monotonic, and microseconds since 1970.
    seen: Option<(Duration, i64)>,
    /// Since when the clock goes on without a step, monotonic.
    steady_since: Duration,
    /// The first time that was known in this life, seconds since 1970.
    first: Option<u32>,
    next: Duration,
}

impl State {
    /// What a chunk that is stored now is stamped with: [`super::index::ChunkMeta::stored`].
    pub fn stored(&self) -> u32 {
        self.seen.map_or(0, |(_, wall)| seconds(wall))
    }
}

fn seconds(micros: i64) -> u32 {
    u32::try_from(micros.max(0) / 1_000_000).unwrap_or(u32::MAX)
}

impl Settings {
    /// Whether a chunk that was begun then takes nothing more, so that its first event does not stay
    /// much longer than the limit.
    pub(super) fn outgrown(&self, begun: u32, now: u32) -> bool {
        self.age_max
            .is_some_and(|max| now.saturating_sub(begun) > max / 8)
    }
}

impl Buffer {
    /// Takes the present time; `wall` is none under a clock that was never set. `monotonic` never steps.
    /// What is stored from now on is stamped with it.
    pub fn set_clock(&mut self, monotonic: Duration, wall: Option<EventTime>) {
        let age = &mut self.age;
        let Some(wall) = wall.map(EventTime::as_micros) else {
            age.seen = None;
            return;
        };
        let stepped = age.seen.is_none_or(|(then, before)| {
            let passed = i64::try_from(monotonic.saturating_sub(then).as_micros());
            let expected = before.saturating_add(passed.unwrap_or(i64::MAX));
            u128::from(expected.abs_diff(wall)) > STEP.as_micros()
        });
        if stepped {
            age.steady_since = monotonic;
        }
        age.first.get_or_insert(seconds(wall));
        age.seen = Some((monotonic, wall));
    }

    /// When [`Self::expire`] may have something to do, monotonic; none without an age limit, or if
    /// nothing is held.
    pub fn next_expiry(&self) -> Option<Duration> {
        (self.settings.age_max.is_some() && self.held().events > 0).then_some(self.age.next)
    }

    /// Drops what is too old, as declared gaps, if it is time to look and the clock can be relied on.
    /// The file follows with the next commit. Returns how many events were dropped.
    ///
    /// **Errors**: open the buffer again.
    pub fn expire(&mut self, monotonic: Duration) -> Result<u64, BufferError> {
        let Some(age_max) = self.settings.age_max else {
            return Ok(0);
        };
        if monotonic < self.age.next {
            return Ok(0);
        }
        self.check()?;
        self.age.next = monotonic + EVERY;
        let (Some((_, wall)), Some(first)) = (self.age.seen, self.age.first) else {
            return Ok(0);
        };
        if monotonic < self.age.steady_since + SETTLE {
            return Ok(0);
        }
        let now = seconds(wall);
        let mut left = CHUNKS_A_ROUND.max(self.index.chunks() / 64);
        let mut dropped = 0;
        for kind in [Kind::Raw, Kind::Summary, Kind::Fault] {
            while left > 0
                && let Some((key, meta)) = self.index.oldest_of(kind)
            {
                let stored = if meta.stored == 0 { first } else { meta.stored };
                if now.saturating_sub(stored) <= age_max {
                    break;
                }
                self.declare_lost(key, meta, GapReason::Expired);
                dropped += u64::from(meta.count);
                left -= 1;
            }
        }
        Ok(dropped)
    }
}
