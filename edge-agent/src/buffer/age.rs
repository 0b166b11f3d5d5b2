//! Dropping what has been held for too long ([`Settings::age_max`]).
//!
//! Age counts from when an event was *stored*, not from when it happened: a recording of last year that
//! is replayed today is new. Each chunk keeps the agent's time of its last commit, so an event goes
//! once it is older than the limit, and before it is older than nine eighths of it (a chunk that grows
//! for longer than an eighth is ended).
//!
//! A clock that errs must not empty the buffer:
//! - Under a clock that was never set, nothing is dropped. What was stored under one counts from the
//!   next time that is known, in the same life.
//! - A clock that is set back only makes events younger.
//! - After the start, and after each step of the clock by more than [`STEP`], nothing is dropped for
//!   [`SETTLE`]: a step may be a mistake that is put right. A suspend is no step: time since boot counts it.
//! - Each round drops only the oldest, at most [`CHUNKS_A_ROUND`] chunks or a 64th of all, and rounds are
//!   [`EVERY`] apart.

use std::time::Duration;

use event::{EventTime, GapReason};

use super::index::Kind;
use super::{Buffer, BufferError, Settings};

/// Time between two rounds.
pub const EVERY: Duration = Duration::from_secs(10);
/// A clock that goes on by more or less than time since boot, by at least this between two looks, has
/// been set.
const STEP: Duration = Duration::from_secs(60);
/// So long nothing is dropped after a start or a step.
const SETTLE: Duration = Duration::from_secs(600);
/// Most chunks dropped in one round, unless a 64th of all is more.
const CHUNKS_A_ROUND: usize = 64;

/// A stamp further ahead of the present, seconds, is of a clock that was wrong.
const AHEAD_MAX: u32 = 86_400;

/// What is known of the time.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last look at both clocks: time since boot, and microseconds since 1970.
    seen: Option<(Duration, i64)>,
    /// Since when the clock goes on without a step, monotonic.
    steady_since: Duration,
    /// The first time that was known since it was not, seconds since 1970.
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
    /// Takes the present time; `wall` is none under a clock that was never set. `monotonic` and `boottime` (since
    /// boot, suspend included) never step. What is stored from now on is stamped with `wall`.
    pub fn set_clock(&mut self, monotonic: Duration, boottime: Duration, wall: Option<EventTime>) {
        let age = &mut self.age;
        let Some(wall) = wall.map(EventTime::as_micros) else {
            // What is stored from here on is as old as the next time that is known.
            age.seen = None;
            age.first = None;
            return;
        };
        let stepped = age.seen.is_none_or(|(then, before)| {
            let passed = i64::try_from(boottime.saturating_sub(then).as_micros());
            let expected = before.saturating_add(passed.unwrap_or(i64::MAX));
            u128::from(expected.abs_diff(wall)) > STEP.as_micros()
        });
        if stepped {
            age.steady_since = monotonic;
        }
        age.first.get_or_insert(seconds(wall));
        age.seen = Some((boottime, wall));
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
                // Stored under no clock, or one that was ahead.
                let unknown = meta.stored == 0 || meta.stored > now.saturating_add(AHEAD_MAX);
                let stored = if unknown { first } else { meta.stored };
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

#[cfg(test)]
mod tests {
    use super::super::{Settings, open_backend};
    use super::*;
    use event::{AgentId, DeviceId, Gap, MetricName, Sample, Value};
    use redb::backends::InMemoryBackend;

    const WALL: i64 = 1_700_000_000;
    const AGE_MAX: u64 = 8000;

    struct Agent {
        buffer: Buffer,
        monotonic: u64,
        suspended: u64,
        wall: i64,
        is_set: bool,
    }

    impl Agent {
        fn new() -> Self {
            let settings = Settings {
                age_max: Some(AGE_MAX as u32),
                chunk_events_max: 5,
                ..Settings::default()
            };
            let agent = AgentId::new("gw").unwrap();
            let now = EventTime::from_secs(WALL);
            Self {
                buffer: open_backend(InMemoryBackend::new(), &agent, &settings, 1, now).unwrap(),
                monotonic: 0,
                suspended: 0,
                wall: WALL,
                is_set: true,
            }
        }

        fn tell(&mut self) {
            let wall = self.is_set.then(|| EventTime::from_secs(self.wall));
            let monotonic = Duration::from_secs(self.monotonic);
            let boottime = monotonic + Duration::from_secs(self.suspended);
            self.buffer.set_clock(monotonic, boottime, wall);
        }

        /// Stores events that happened long ago.
        fn store(&mut self, count: usize) {
            self.tell();
            let sample = Sample {
                device: DeviceId::new("d").unwrap(),
                metric: MetricName::new("m").unwrap(),
                time: EventTime::from_secs(WALL - 100_000_000),
                value: Value::Bool(true),
            };
            let now = EventTime::from_secs(self.wall);
            let samples = vec![sample; count];
            self.buffer.append(&samples, &[], false, now).unwrap();
        }

        /// Time goes on without anything happening but a look now and then; returns what was dropped.
        fn pass(&mut self, seconds: u64) -> u64 {
            let end = self.monotonic + seconds;
            let mut dropped = 0;
            while self.monotonic < end {
                let step = (end - self.monotonic).min(100);
                self.monotonic += step;
                self.wall += step as i64;
                self.tell();
                let now = Duration::from_secs(self.monotonic);
                dropped += self.buffer.expire(now).unwrap();
            }
            dropped
        }
    }

    #[test]
    fn what_was_stored_too_long_ago_goes_as_a_declared_gap() {
        let mut agent = Agent::new();
        assert_eq!(agent.buffer.next_expiry(), None);
        agent.store(7);
        assert_eq!(agent.pass(4000), 0);
        agent.store(3);
        // The first seven end with a chunk of two, which was full for its age.
        assert_eq!(agent.pass(4000), 0);
        assert!(agent.buffer.next_expiry().is_some());
        assert_eq!(agent.pass(100), 7);
        assert!(agent.buffer.is_dirty());
        let gaps: Vec<Gap> = agent.buffer.announcement(9).gaps;
        assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (1, 1, 7));
        assert_eq!(gaps[0].reason, GapReason::Expired);
        assert_eq!((agent.buffer.held().events, agent.buffer.dropped()), (3, 7));
        assert_eq!(agent.pass(4000), 3);
        // The number goes on behind what is gone.
        assert_eq!(agent.buffer.next_seq(), 11);
        agent.store(1);
        assert_eq!(agent.buffer.held().events, 1);
    }

    #[test]
    fn a_step_of_the_clock_drops_nothing_until_it_has_lasted() {
        let mut agent = Agent::new();
        agent.store(5);
        assert_eq!(agent.pass(1000), 0);
        // Set to next year by mistake, and put right before ten minutes are over.
        agent.wall += 31_000_000;
        assert_eq!(agent.pass(500), 0);
        agent.wall -= 31_000_000;
        assert_eq!(agent.pass(6000), 0);
        // Set back by a year: what is held is younger, not older.
        agent.wall -= 31_000_000;
        assert_eq!(agent.pass(3000), 0);
        // This time it lasts.
        agent.wall += 62_000_000;
        assert_eq!(agent.pass(600), 0);
        assert_eq!(agent.pass(200), 5);
    }

    #[test]
    fn a_suspend_is_no_step_of_the_clock() {
        let mut agent = Agent::new();
        agent.store(5);
        assert_eq!(agent.pass(1000), 0);
        // It sleeps longer than anything may be held, and goes on where it was.
        agent.suspended += AGE_MAX;
        agent.wall += AGE_MAX as i64;
        assert_eq!(agent.pass(100), 5);
    }

    #[test]
    fn a_clock_that_was_never_set_drops_nothing() {
        let mut agent = Agent::new();
        agent.is_set = false;
        agent.store(5);
        agent.wall += 300_000_000;
        assert_eq!(agent.pass(3 * AGE_MAX), 0);
        // Set at last: what was stored before counts from here.
        agent.is_set = true;
        assert_eq!(agent.pass(AGE_MAX), 0);
        assert_eq!(agent.pass(200), 5);
        // Lost again: nothing is known of its age any more.
        agent.store(5);
        agent.is_set = false;
        assert_eq!(agent.pass(3 * AGE_MAX), 0);
        agent.store(5);
        agent.is_set = true;
        // Known again: what was stored before it was lost is too old, what was stored since is not.
        assert_eq!(agent.pass(AGE_MAX), 5);
        assert_eq!(agent.pass(200), 5);
    }

    #[test]
    fn each_round_drops_a_part() {
        let mut agent = Agent::new();
        agent.store(5 * 3 * CHUNKS_A_ROUND);
        agent.pass(AGE_MAX);
        let round = 5 * CHUNKS_A_ROUND as u64;
        for left in [2, 1, 0] {
            assert_eq!(agent.pass(100), round);
            assert_eq!(agent.buffer.held().events, left * round);
            // Not twice in ten seconds.
            assert_eq!(agent.pass(9), 0);
        }
    }
}
