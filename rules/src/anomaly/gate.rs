//! From findings to alarms: warm-up, one alarm for what belongs together, and the budget of alarms.

use serde::{Deserialize, Serialize};

const SECOND: i64 = 1_000_000;
/// No value was seen, or the clock of the values was set.
const NEVER: i64 = i64::MIN;
/// Fewest values before the first alarm.
pub(crate) const VALUES_MIN: u16 = 200;
/// Fewest values without a finding before an alarm is over.
const QUIET_MIN: u8 = 12;
/// Alarms that cost no sensitivity.
const FREE: f32 = 3.0;

/// What an operator sets, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// Alarms per second.
    pub(crate) rate: f32,
    pub(crate) hold: u32,
    pub(crate) warm_up: u32,
}

/// State between values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gate {
    /// Event time of the newest value, microseconds.
    newest: i64,
    /// Seconds of event time that values covered.
    age: u32,
    /// Until when, in seconds of age, an alarm lasts at least.
    until: u32,
    /// Alarms so far, less those that the rate allowed in the time since.
    spent: f32,
    /// Values seen, at most 65,535.
    pub(crate) seen: u16,
    /// Values for which an alarm lasts at least; 0 = there is none, if the time is over, too.
    quiet: u8,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            newest: NEVER,
            age: 0,
            until: 0,
            spent: 0.0,
            seen: 0,
            quiet: 0,
        }
    }
}

/// What became of a finding, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Nothing is, or begins, or goes on.
    Quiet,
    /// An alarm begins.
    Begins,
    /// An alarm goes on.
    GoesOn,
}

impl Gate {
    /// Time has come to `time`. Returns the seconds since the value before; none if it is older than that.
    #[inline]
    pub(crate) fn advance(&mut self, time: i64, pace: Pace) -> Option<u32> {
        if self.newest == NEVER {
            self.newest = time.max(NEVER + 1);
            return Some(0);
        }
        if time < self.newest {
            return None;
        }
        // Differences of whole seconds add up exactly, however close the values are.
        let seconds = time.div_euclid(SECOND) - self.newest.div_euclid(SECOND);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.newest = time;
        self.age = self.age.saturating_add(seconds);
        self.spent = (self.spent - pace.rate * seconds as f32).max(0.0);
        Some(seconds)
    }

    /// Whether enough is known.
    #[inline]
    pub(crate) fn is_armed(&self, pace: Pace) -> bool {
        self.seen >= VALUES_MIN && self.age >= pace.warm_up
    }

    /// By which factor what was spent makes findings weaker: 1, then a half for each alarm too many.
    #[inline]
    pub(crate) fn damping(&self) -> f32 {
        let over = (self.spent - FREE).clamp(0.0, 100.0);
        let whole = over as u32;
        // Between powers of two a straight line: the same on every machine.
        let part = 1.0 - 0.5 * (over - whole as f32);
        part * f32::from_bits((127 - whole) << 23)
    }

    /// Takes note of a value, and whether something was found.
    #[inline]
    pub(crate) fn pass(&mut self, found: bool, pace: Pace) -> Passage {
        self.seen = self.seen.saturating_add(1);
        let on = self.quiet > 0 || self.age < self.until;
        self.quiet = self.quiet.saturating_sub(1);
        if found {
            self.hold(pace);
            if !on {
                self.spent += 1.0;
                return Passage::Begins;
            }
        }
        if on { Passage::GoesOn } else { Passage::Quiet }
    }

    /// An alarm is under way from now on.
    pub(crate) fn hold(&mut self, pace: Pace) {
        self.quiet = QUIET_MIN;
        self.until = self.age.saturating_add(pace.hold);
    }

    /// The clock of the values was set: the next one is not compared with those of before.
    pub(crate) fn clock_set(&mut self) {
        self.newest = NEVER;
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.spent.is_finite() && self.spent >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        rate: 0.01,
        hold: 20,
        warm_up: 300,
    };

    #[test]
    fn it_is_armed_after_values_and_time() {
        let mut gate = Gate::default();
        for i in 0..200 {
            assert!(!gate.is_armed(PACE), "{i}");
            assert_eq!(
                gate.advance(i * 1_500_000, PACE),
                Some(u32::from(i > 0) * (1 + (i % 2 == 0) as u32))
            );
            gate.pass(false, PACE);
        }
        assert!(!gate.is_armed(PACE));
        gate.advance(301 * SECOND, PACE);
        assert!(gate.is_armed(PACE));
        // Enough time, too few values.
        let mut gate = Gate::default();
        gate.advance(0, PACE);
        gate.advance(i64::MAX, PACE);
        assert!(!gate.is_armed(PACE));
    }

    #[test]
    fn an_alarm_lasts_until_values_and_time_were_quiet() {
        let mut gate = Gate::default();
        let mut at = |time: i64, found: bool| {
            gate.advance(time * SECOND, PACE);
            gate.pass(found, PACE)
        };
        assert_eq!(at(0, true), Passage::Begins);
        assert_eq!(at(1, true), Passage::GoesOn);
        // Twelve values are over long before 20 s are.
        for time in 2..=20 {
            assert_eq!(at(time, false), Passage::GoesOn, "{time}");
        }
        assert_eq!(at(21, false), Passage::Quiet);
        assert_eq!(at(22, true), Passage::Begins);
        // And 20 s long before twelve values.
        for i in 1..=12 {
            assert_eq!(at(22 + i * 20, false), Passage::GoesOn, "{i}");
        }
        assert_eq!(at(300, false), Passage::Quiet);
    }

    #[test]
    fn what_is_spent_weakens_and_comes_back_with_time() {
        let mut gate = Gate::default();
        let pace = Pace { hold: 0, ..PACE };
        for alarm in 0..6 {
            assert_eq!(gate.damping(), [1.0, 1.0, 1.0, 1.0, 0.5, 0.25][alarm]);
            gate.spent += 1.0;
        }
        assert_eq!(gate.damping(), 0.125);
        gate.advance(0, pace);
        gate.advance(50 * SECOND, pace);
        assert_eq!(gate.damping(), 0.1875);
        gate.advance(100 * SECOND, pace);
        assert_eq!(gate.damping(), 0.25);
        gate.advance(i64::MAX, pace);
        assert_eq!(gate.damping(), 1.0);
        gate.spent = f32::MAX;
        assert!(gate.damping() > 0.0);
    }

    #[test]
    fn an_older_value_is_none() {
        let mut gate = Gate::default();
        assert_eq!(gate.advance(5, PACE), Some(0));
        assert_eq!(gate.advance(5, PACE), Some(0));
        assert_eq!(gate.advance(4, PACE), None);
        gate.clock_set();
        assert_eq!(gate.advance(4, PACE), Some(0));
        assert_eq!(gate.advance(i64::MIN, PACE), None);
    }
}
