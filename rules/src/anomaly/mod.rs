//! Anomalies: values unlike those that a series has had, found without knowing anything of the series.
//!
//! One pass, no clock, no randomness. Three parts look at each value:
//! - *value*: the range in which values have been. A value outside of it by more than 2 % of its width;
//! - *trend*: the same for the difference of a fast and a slow mean (of about 33 and 250 values);
//! - *shape*: which levels were visited within the last 24 values. A set of levels that fits in none of
//!   those remembered, though each level may be ordinary. This is what follows daily seasons, of any
//!   length and without a clock: a level of the day in the middle of the night comes with levels that it
//!   never came with. What it cannot see is a peak that does not come: there is nothing new in that.
//!
//! Each finding raises bars that fall back within some hundred values, so that only something stronger
//! speaks at once again. **The budget**: with `false_alarms = "1/month"`, alarms of a series beyond the
//! first three halve its sensitivity each, and a month gives one back. So in a time T there are at most T
//! × rate + 12 alarms at sensitivity 1 (the next would need a strength that nothing has), whatever the
//! series does, and in the long run the rate is what a series comes to in which nothing happens. Alarms
//! that are right count, too: nobody tells the detector which are false. **A young series is not
//! calibrated yet**: one day after the other may be the coldest so far. In its first month it gives up to
//! 10 alarms instead of one, with a `warm_up` of a week up to 6. bench/README.md has what was measured.
//!
//! **Ranges forget**: without values that confirm them, their width halves in each `half_life`. One wild
//! value widens a range fivefold at most.
//!
//! **Warm-up**: nothing is said before 200 values *and* `warm_up` of event time. **Late values**: one that
//! is older than the newest changes nothing and has no score. **Missing values**: what is no finite
//! number, or one of the codes in `missing`, changes nothing and has no score. −200 and −127 are codes by
//! default (they stand for "no sensor" in common hardware, and are far outside of what that hardware
//! measures). 85, which some thermometers say after a reset, is not: it is an ordinary temperature and an
//! ordinary percentage. Add it where it is known to be the code.

mod core;
mod detector;
mod envelope;
mod gate;
mod reason;
mod scale;
mod settings;
mod shape;
mod watch;

use serde::{Deserialize, Serialize};

pub use self::core::Part;
pub use detector::{Detector, Large, Small};
pub use settings::{Anomaly, FalseAlarms, MISSING_MAX, Missing, Options, Per, Variant};
pub(crate) use watch::Watch;

/// At and above this score an anomaly begins.
pub const THRESHOLD: f32 = 0.5;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// No value: nothing was done.
    Missing,
    /// Older than the newest value: nothing was done.
    Late,
    /// As expected, or not enough is known yet; with its score, below [`THRESHOLD`].
    Quiet(f32),
    /// An anomaly begins with it.
    Alarm(Evidence),
    /// It belongs to an anomaly that began before; with its score, kept below [`THRESHOLD`].
    GoesOn(f32),
}

/// Why a value is an anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which part of the detector found it.
    pub part: Part,
    /// The value.
    pub value: f64,
    /// What was compared: the value, or the difference of the means.
    pub compared: f64,
    /// What was expected of it; of a shape the range that the last values cover together.
    pub expected: (f64, f64),
    /// [`THRESHOLD`] to 1.
    pub score: f32,
}

impl Verdict {
    /// 0 to 1; [`THRESHOLD`] and more = an anomaly begins. Never NaN.
    pub fn score(&self) -> f32 {
        match self {
            Self::Alarm(evidence) => evidence.score,
            Self::GoesOn(score) | Self::Quiet(score) => *score,
            Self::Missing | Self::Late => 0.0,
        }
    }
}
