//! Threshold with hysteresis and `for`.
//!
//! A value beyond `raise` makes the episode *pending*; when values have stayed beyond `raise` for at
//! least `for` of event time, it is *firing*; it ends with the first value at or behind `clear`. Between
//! `clear` and `raise` a firing episode goes on and a pending one is dropped.

use serde::{Deserialize, Serialize};

use crate::episode::{Episode, Side, Transition, advance};

/// On which side of the limit the fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Too high is bad.
    #[default]
    Above,
    /// Too low is bad.
    Below,
}

/// The limits, in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Which side is bad.
    pub direction: Direction,
    /// Beyond this (strictly) it begins.
    pub raise: f64,
    /// At or behind this it ends.
    pub clear: f64,
    /// How long it must last before it fires, microseconds of event time; 0 = at once.
    pub hold: i64,
}

impl Threshold {
    /// Whether `value` is beyond the limit that begins an episode.
    #[inline]
    pub fn is_beyond(&self, value: f64) -> bool {
        match self.direction {
            Direction::Above => value > self.raise,
            Direction::Below => value < self.raise,
        }
    }

    fn is_clear(&self, value: f64) -> bool {
        match self.direction {
            Direction::Above => value <= self.clear,
            Direction::Below => value >= self.clear,
        }
    }

    /// Takes the next value in event-time order. `time` is in microseconds.
    #[inline]
    pub fn step(&self, episode: &mut Option<Episode>, time: i64, value: f64) -> Transition {
        let side = if self.is_beyond(value) {
            Side::Beyond
        } else if self.is_clear(value) {
            Side::Clear
        } else {
            Side::Between
        };
        advance(episode, time, side, self.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::Transition::{Dropped, Fired, None as Nothing, Pending, Resolved};
    use super::*;

    #[track_caller]
    fn check(rule: Threshold, values: &[(i64, f64, Transition)]) {
        let mut episode = None;
        for &(time, value, expected) in values {
            let got = rule.step(&mut episode, time, value);
            assert_eq!(got, expected, "at {time} with {value}");
        }
    }

    const HOT: Threshold = Threshold {
        direction: Direction::Above,
        raise: 80.0,
        clear: 75.0,
        hold: 0,
    };

    #[test]
    fn hysteresis_keeps_one_episode() {
        check(
            HOT,
            &[
                (0, 80.0, Nothing),
                (1, 80.1, Fired),
                (2, 79.0, Nothing),
                (3, 81.0, Nothing),
                (4, 75.0, Resolved),
                (5, 79.0, Nothing),
                (6, 90.0, Fired),
            ],
        );
    }

    #[test]
    fn hold_needs_values_beyond_the_limit_for_long_enough() {
        check(
            Threshold { hold: 10, ..HOT },
            &[
                (0, 81.0, Pending),
                (5, 79.0, Dropped),
                (6, 81.0, Pending),
                (15, 82.0, Nothing),
                (16, 82.0, Fired),
                (17, 78.0, Nothing),
                (18, 70.0, Resolved),
            ],
        );
    }

    #[test]
    fn below_is_the_mirror() {
        let low = Threshold {
            direction: Direction::Below,
            raise: 10.0,
            clear: 12.0,
            hold: 0,
        };
        check(
            low,
            &[
                (0, 10.0, Nothing),
                (1, 9.9, Fired),
                (2, 11.0, Nothing),
                (3, 12.0, Resolved),
            ],
        );
    }
}
