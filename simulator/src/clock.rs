//! The two times of a run: real time since its start, and the wall clock that events are stamped with.

use std::time::{SystemTime, UNIX_EPOCH};

use event::EventTime;

/// Maps real time to the devices' wall clock: `wall = base + scale × real`.
///
/// Without a simulated start the scale is 1 and the base is the moment of the start. With one, the
/// wall clock runs through the past `scale` times as fast; timeouts and fault times stay real.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wall {
    base: i64,
    scale: f64,
}

impl Wall {
    /// A clock that shows `base` at real time 0 and runs `scale` times as fast as real time.
    pub fn new(base: EventTime, scale: f64) -> Self {
        Self {
            base: base.0,
            scale,
        }
    }

    /// The wall time at a real time (microseconds since the start of the run).
    pub fn at(&self, real: u64) -> EventTime {
        // At scale 1 no rounding: the sum is exact.
        let elapsed = if self.scale == 1.0 {
            real as i64
        } else {
            (real as f64 * self.scale) as i64
        };
        EventTime(self.base.saturating_add(elapsed))
    }

    /// The stamp of a measurement at a real time: whole milliseconds, as sensors give them.
    pub fn stamp(&self, real: u64) -> EventTime {
        EventTime(self.at(real).0.div_euclid(1000) * 1000)
    }
}

/// A moment as a virtual agent knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since the start of the run, never backward: for timeouts.
    pub real: u64,
    /// The device's wall clock.
    pub wall: EventTime,
}

/// The real wall clock.
pub fn wall_clock() -> EventTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    EventTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_runs_faster() {
        let wall = Wall::new(EventTime(1_000_000), 480.0);
        assert_eq!(
            wall.at(60_000_000),
            EventTime(1_000_000 + 8 * 3600 * 1_000_000)
        );
    }

    #[test]
    fn a_stamp_is_never_later_than_the_moment() {
        let wall = Wall::new(EventTime(1_234_567), 1.0);
        for real in [0, 1, 432, 433, 999_999] {
            let (stamp, at) = (wall.stamp(real), wall.at(real));
            assert!(stamp <= at && at.0 - stamp.0 < 1000 && stamp.0 % 1000 == 0);
        }
    }
}
