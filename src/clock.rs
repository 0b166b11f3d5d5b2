//! Ingest time: the system's clock, but never backwards and never standing still.
//!
//! Watermarks, silence timers and windows go by ingest time. If the system's clock is set back, ingest
//! time goes on at half speed from where it was until the system has caught up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;

/// Farther behind than this is said as an error, microseconds.
const BEHIND_SAID: i64 = 5 * 60 * 1_000_000;
/// Farther behind than this the server does not start, microseconds.
const BEHIND_MAX: i64 = 24 * 3600 * 1_000_000;

/// The clock of the log, of ingest and of the processor.
#[derive(Debug)]
pub struct SteadyClock {
    started: Instant,
    core: Mutex<Core>,
}

impl SteadyClock {
    /// A clock that knows no earlier time yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            core: Mutex::default(),
        })
    }

    /// Microseconds UTC; never less than an earlier answer.
    pub fn now(&self) -> i64 {
        let reading = {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            // Read under the lock, so that the readings come in order.
            core.read(system(), self.elapsed())
        };
        match reading.news {
            Some(News::Behind(by)) => tracing::error!(
                seconds = by / 1_000_000,
                "the system's clock is behind ingest time, which goes on at half speed until it has caught up; \
                 set the clock (NTP)"
            ),
            Some(News::CaughtUp) => {
                tracing::info!("the system's clock has caught up with ingest time");
            }
            None => {}
        }
        reading.micros
    }

    /// Goes on from `newest`, the newest ingest time in the log, if the system's clock is behind it.
    ///
    /// **Errors**: it is more than a day behind. Serving would stretch that day to two.
    pub fn go_on_from(&self, newest: i64) -> anyhow::Result<()> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.go_on_from(newest, system(), self.elapsed())
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

fn system() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The rule itself: what the clocks say comes in, what the time is comes out. Microseconds throughout.
#[derive(Debug, Default)]
struct Core {
    /// The newest time that the system's clock said first, and when by the monotonic clock; none
    /// before the first reading.
    anchor: Option<(i64, i64)>,
    is_behind: bool,
}

#[derive(Debug, PartialEq)]
struct Reading {
    micros: i64,
    news: Option<News>,
}

#[derive(Debug, PartialEq)]
enum News {
    /// The system's clock is so far behind; said once until it has caught up.
    Behind(i64),
    CaughtUp,
}

impl Core {
    fn read(&mut self, system: i64, elapsed: i64) -> Reading {
        // The anchor stays while the system is behind: halves of short steps would round to nothing.
        let steady = self.anchor.map_or(i64::MIN, |(at, since)| {
            at.saturating_add(elapsed.saturating_sub(since).max(0) / 2)
        });
        if system >= steady {
            self.anchor = Some((system, elapsed));
            let news = std::mem::take(&mut self.is_behind).then_some(News::CaughtUp);
            return Reading {
                micros: system,
                news,
            };
        }
        let behind = steady.saturating_sub(system);
        let is_news = behind > BEHIND_SAID && !self.is_behind;
        self.is_behind |= is_news;
        Reading {
            micros: steady,
            news: is_news.then_some(News::Behind(behind)),
        }
    }

    fn go_on_from(&mut self, newest: i64, system: i64, elapsed: i64) -> anyhow::Result<()> {
        let behind = newest.saturating_sub(system);
        ensure!(
            behind <= BEHIND_MAX,
            "the system's clock says {}, more than a day before the newest record in the log ({}): set the clock (NTP) and start again",
            event::IngestTime(system),
            event::IngestTime(newest),
        );
        if self.anchor.is_none_or(|(at, _)| at < newest) {
            self.anchor = Some((newest, elapsed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;
    /// A time of day.
    const T: i64 = 1_800_000_000 * S;

    #[track_caller]
    fn says(core: &mut Core, system: i64, elapsed: i64, expected: i64) {
        assert_eq!(core.read(system, elapsed).micros, expected);
    }

    #[test]
    fn it_is_the_systems_time_while_that_goes_forward() {
        let mut core = Core::default();
        says(&mut core, T, 0, T);
        says(&mut core, T + S, S, T + S);
        // A slow system clock is not corrected, a step forward is taken.
        says(&mut core, T + S + S / 2, 2 * S, T + S + S / 2);
        says(&mut core, T + 1000 * S, 3 * S, T + 1000 * S);
    }

    #[test]
    fn after_a_step_back_it_goes_on_at_half_speed_until_the_system_has_caught_up() {
        let mut core = Core::default();
        says(&mut core, T, 0, T);
        says(&mut core, T - 100 * S, 0, T);
        for i in 1..=199 {
            says(&mut core, T - 100 * S + i * S, i * S, T + i * S / 2);
        }
        says(&mut core, T + 100 * S, 200 * S, T + 100 * S);
        says(&mut core, T + 101 * S, 201 * S, T + 101 * S);
    }

    #[test]
    fn many_short_steps_lose_nothing() {
        let mut core = Core::default();
        says(&mut core, T, 0, T);
        let mut last = T;
        for i in 0..10_000 {
            let now = core.read(T - 60 * S + i, i).micros;
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last, T + 4_999);
    }

    #[test]
    fn it_goes_on_from_the_log() {
        let mut core = Core::default();
        // The log is opened with the clock before its newest record is known.
        says(&mut core, T, 0, T);
        core.go_on_from(T + 10 * S, T, 0).unwrap();
        says(&mut core, T + S, S, T + 10 * S + S / 2);
        // An older newest record changes nothing.
        core.go_on_from(T, T + S, S).unwrap();
        says(&mut core, T + S, S, T + 10 * S + S / 2);
    }

    #[test]
    fn far_behind_is_said_once_and_a_day_is_too_far() {
        let mut core = Core::default();
        core.go_on_from(T + BEHIND_SAID + 10 * S, T, 0).unwrap();
        let news = |core: &mut Core, system, elapsed| core.read(system, elapsed).news;
        assert_eq!(
            news(&mut core, T, 0),
            Some(News::Behind(BEHIND_SAID + 10 * S))
        );
        assert_eq!(news(&mut core, T + S, S), None);
        assert_eq!(news(&mut core, T + 3600 * S, 2 * S), Some(News::CaughtUp));
        let error = core
            .go_on_from(T + BEHIND_MAX + 1, T, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("set the clock"), "{error}");
    }
}
