//! What an operator can set.

use super::gate::Pace;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// Most codes of missing values.
pub const MISSING_MAX: usize = 8;
/// Most false alarms per unit.
pub(crate) const COUNT_MAX: u32 = 1000;

/// Which detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// In 128 bytes a series.
    #[default]
    Default,
    /// In 1.7 kB a series, and a little better.
    Large,
}

/// Unit of a rate of alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// 3,600 s.
    Hour,
    /// 24 h.
    Day,
    /// 7 d.
    Week,
    /// 30 d.
    Month,
    /// 365 d.
    Year,
}

impl Per {
    /// All, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The name in declarations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Microseconds.
    pub const fn micros(self) -> i64 {
        match self {
            Self::Hour => HOUR,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
        }
    }
}

/// How many alarms a series may give in the long run, such as one per month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FalseAlarms {
    /// 1 to 1,000.
    pub count: u32,
    /// The unit.
    pub per: Per,
}

impl FalseAlarms {
    /// Reads `1/month`.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits)?;
        let per = Per::ALL.into_iter().find(|p| p.as_str() == per)?;
        (1..=COUNT_MAX)
            .contains(&count)
            .then_some(Self { count, per })
    }
}

impl std::fmt::Display for FalseAlarms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, self.per.as_str())
    }
}

/// Values that stand for no value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Missing {
    codes: [f64; MISSING_MAX],
    len: u8,
}

impl Missing {
    /// None if there are more than [`MISSING_MAX`], or one is not finite.
    pub fn new(codes: &[f64]) -> Option<Self> {
        if codes.len() > MISSING_MAX || codes.iter().any(|c| !c.is_finite()) {
            return None;
        }
        let mut all = [0.0; MISSING_MAX];
        all[..codes.len()].copy_from_slice(codes);
        Some(Self {
            codes: all,
            len: codes.len() as u8,
        })
    }

    /// In the order in which they were given.
    pub fn codes(&self) -> &[f64] {
        &self.codes[..usize::from(self.len)]
    }
}

/// What can be set, with defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Which detector.
    pub detector: Variant,
    /// Alarms of a series in the long run; default 1 per month.
    pub false_alarms: FalseAlarms,
    /// A factor on how little out of the ordinary is an anomaly; 0.1 to 10, default 1.
    pub sensitivity: f64,
    /// For how long nothing may be found, over 12 values at least, before an anomaly is over;
    /// microseconds, 10 s to a day, default 2 h. It also keeps what belongs together one alarm.
    pub hold: i64,
    /// In what time the range of values becomes half as wide if nothing confirms it; microseconds, an
    /// hour to 10 years, default 180 d.
    pub half_life: i64,
    /// Event time that values must cover before the first alarm; microseconds, 0 to 30 days, default a
    /// day. 200 values are needed in any case.
    pub warm_up: i64,
    /// Default −200 and −127. What is not finite is always missing.
    pub missing: Missing,
}

impl Options {
    pub(crate) const SENSITIVITY: (f64, f64) = (0.1, 10.0);
    pub(crate) const HOLD: (i64, i64) = (10 * SECOND, DAY);
    pub(crate) const HALF_LIFE: (i64, i64) = (HOUR, 3650 * DAY);
    pub(crate) const WARM_UP: (i64, i64) = (0, 30 * DAY);
}

impl Default for Options {
    fn default() -> Self {
        let mut codes = [0.0; MISSING_MAX];
        codes[..2].copy_from_slice(&[-200.0, -127.0]);
        Self {
            detector: Variant::Default,
            false_alarms: FalseAlarms {
                count: 1,
                per: Per::Month,
            },
            sensitivity: 1.0,
            hold: 2 * HOUR,
            half_life: 180 * DAY,
            warm_up: DAY,
            missing: Missing { codes, len: 2 },
        }
    }
}

/// Checked options, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anomaly {
    options: Options,
    pace: Pace,
    /// By which part of its width a range shrinks in a second, both ends together.
    forgetting: f32,
}

impl Default for Anomaly {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Anomaly {
    /// Options outside of their ranges are taken as the nearest end.
    pub fn new(options: Options) -> Self {
        let within = |value: i64, (min, max): (i64, i64)| value.clamp(min, max);
        let (least, most) = Options::SENSITIVITY;
        let options = Options {
            sensitivity: options.sensitivity.max(least).min(most),
            hold: within(options.hold, Options::HOLD),
            half_life: within(options.half_life, Options::HALF_LIFE),
            warm_up: within(options.warm_up, Options::WARM_UP),
            false_alarms: FalseAlarms {
                count: options.false_alarms.count.clamp(1, COUNT_MAX),
                per: options.false_alarms.per,
            },
            ..options
        };
        let FalseAlarms { count, per } = options.false_alarms;
        let seconds =
            |micros: i64| u32::try_from((micros + SECOND - 1) / SECOND).unwrap_or(u32::MAX);
        let half_life = options.half_life as f64 / SECOND as f64;
        Self {
            pace: Pace {
                rate: (f64::from(count) / (per.micros() / SECOND) as f64) as f32,
                hold: seconds(options.hold),
                warm_up: seconds(options.warm_up),
            },
            forgetting: (std::f64::consts::LN_2 / half_life) as f32,
            options,
        }
    }

    /// What was set.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether this is no value.
    #[inline]
    pub fn is_missing(&self, value: f64) -> bool {
        !value.is_finite() || self.options.missing.codes().contains(&value)
    }

    #[inline]
    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// By which part of its width a range shrinks at each end in the time between two values.
    ///
    /// Of steps that are short against the half-life this is a halving in each; of longer ones less, which
    /// needs no function of the platform's mathematics, and never more than a half.
    #[inline]
    pub(crate) fn shrink(&self, seconds: u32) -> f32 {
        let rate = self.forgetting * seconds as f32;
        0.5 * rate / (1.0 + rate)
    }
}
