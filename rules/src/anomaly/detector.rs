//! The two detectors: one core in 128 bytes, or a vote of fifteen.

use serde::{Deserialize, Serialize};

use super::core::{Core, Finding, Look, Part, Tuning};
use super::gate::{Gate, Passage};
use super::shape::Cut;
use super::{Anomaly, Evidence, THRESHOLD, Variant, Verdict};

/// Cores of the large detector.
pub(crate) const CORES: usize = 15;
/// As many of them must have found something …
const VOTES: usize = 7;
/// … within so many values.
const VOTE_VALUES: u8 = 24;
/// Highest score of what is no alarm.
const SCORE_BELOW: f32 = 0.499;

/// The default detector: what it knows of a series, in 128 bytes without anything elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Small {
    core: Core,
    gate: Gate,
}

/// The large detector: fifteen cores that look at the series with different eyes, and vote. What one of
/// them stumbles over by chance, most do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Large {
    gate: Gate,
    /// [`CORES`]; none before the first value.
    cores: Vec<Core>,
    /// Values since each found something; 255 = longer ago, or never.
    votes: [u8; CORES],
}

/// What is known of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Detector {
    /// No value was seen.
    New(Variant),
    /// In 128 bytes.
    Small(Small),
    /// In 1.7 kB.
    Large(Box<Large>),
}

impl Small {
    /// Of a series of which only a first value is known; none if it is no finite number.
    pub fn begin(time: i64, value: f64, settings: &Anomaly) -> Option<Self> {
        let mut small = Self {
            core: Core::at(if value.is_finite() {
                value
            } else {
                return None;
            }),
            gate: Gate::default(),
        };
        small.step(time, value, settings);
        Some(small)
    }

    /// Takes the next value in event-time order (`time` in microseconds).
    #[inline]
    pub fn step(&mut self, time: i64, value: f64, settings: &Anomaly) -> Verdict {
        if settings.is_missing(value) {
            return Verdict::Missing;
        }
        let pace = settings.pace();
        let Some(seconds) = self.gate.advance(time, pace) else {
            return Verdict::Late;
        };
        let look = look(&self.gate, seconds, settings);
        let (strength, finding) = self.core.step(value, look, &Tuning::DEFAULT);
        let passage = self.gate.pass(finding.is_some(), pace);
        verdict(passage, strength, finding, value)
    }
}

impl Large {
    fn at(value: f64) -> Self {
        Self {
            gate: Gate::default(),
            cores: vec![Core::at(value); CORES],
            votes: [u8::MAX; CORES],
        }
    }

    fn step(&mut self, time: i64, value: f64, settings: &Anomaly) -> Verdict {
        let pace = settings.pace();
        let Some(seconds) = self.gate.advance(time, pace) else {
            return Verdict::Late;
        };
        let look = look(&self.gate, seconds, settings);
        let mut strongest: Option<Finding> = None;
        for ((core, tuning), vote) in self.cores.iter_mut().zip(&TUNINGS).zip(&mut self.votes) {
            *vote = vote.saturating_add(1);
            if let (_, Some(finding)) = core.step(value, look, tuning) {
                *vote = 0;
                if strongest.is_none_or(|s| finding.strength > s.strength) {
                    strongest = Some(finding);
                }
            }
        }
        let votes = self.votes.iter().filter(|v| **v < VOTE_VALUES).count();
        let finding = strongest.filter(|_| votes >= VOTES);
        let passage = self.gate.pass(finding.is_some(), pace);
        let strength = match finding {
            Some(finding) => finding.strength,
            None => votes as f32 / VOTES as f32,
        };
        verdict(passage, strength, finding, value)
    }

    fn is_sound(&self) -> bool {
        let cores = self.cores.len() == CORES && self.cores.iter().all(Core::is_sound);
        cores && self.gate.is_sound()
    }
}

impl Detector {
    /// Takes the next value in event-time order (`time` in microseconds).
    ///
    /// What is no value ([`Anomaly::missing`], no number, not finite) and what is older than the newest
    /// value changes nothing. Of the same time as the newest is not older.
    pub fn step(&mut self, time: i64, value: f64, settings: &Anomaly) -> Verdict {
        if settings.is_missing(value) {
            return Verdict::Missing;
        }
        if let Self::New(variant) = self {
            *self = match variant {
                Variant::Default => Self::Small(Small {
                    core: Core::at(value),
                    gate: Gate::default(),
                }),
                Variant::Large => Self::Large(Box::new(Large::at(value))),
            };
        }
        match self {
            Self::Small(small) => small.step(time, value, settings),
            Self::Large(large) => large.step(time, value, settings),
            Self::New(_) => Verdict::Missing,
        }
    }

    /// The clock of the values was set. What was learned stays; the next value is older than none.
    pub fn clock_set(&mut self) {
        match self {
            Self::New(_) => {}
            Self::Small(small) => small.gate.clock_set(),
            Self::Large(large) => large.gate.clock_set(),
        }
    }

    /// Begins to wait for the end of an alarm of which nothing else is known.
    pub(crate) fn hold(&mut self, settings: &Anomaly) {
        match self {
            Self::New(_) => {}
            Self::Small(small) => small.gate.hold(settings.pace()),
            Self::Large(large) => large.gate.hold(settings.pace()),
        }
    }

    /// Bytes that the state of a series takes in memory.
    pub const fn bytes(variant: Variant) -> usize {
        match variant {
            Variant::Default => size_of::<Small>(),
            Variant::Large => size_of::<Large>() + CORES * size_of::<Core>(),
        }
    }

    /// Which detector it is.
    pub fn variant(&self) -> Variant {
        match self {
            Self::New(variant) => *variant,
            Self::Small(_) => Variant::Default,
            Self::Large(_) => Variant::Large,
        }
    }

    /// Whether it can have come from steps: to be asked of what was read from outside.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::New(_) => true,
            Self::Small(small) => small.core.is_sound() && small.gate.is_sound(),
            Self::Large(large) => large.is_sound(),
        }
    }
}

#[inline]
fn look(gate: &Gate, seconds: u32, settings: &Anomaly) -> Look {
    Look {
        seen: gate.seen,
        shrink: settings.shrink(seconds),
        gain: gate.damping() * settings.options().sensitivity as f32,
        armed: gate.is_armed(settings.pace()),
    }
}

#[inline]
fn verdict(passage: Passage, strength: f32, finding: Option<Finding>, value: f64) -> Verdict {
    // Strength 1 is one half.
    let score = strength / (1.0 + strength);
    match (passage, finding) {
        (Passage::Begins, Some(finding)) => Verdict::Alarm(Evidence {
            part: finding.part,
            value,
            compared: finding.seen,
            expected: finding.range,
            score: score.max(THRESHOLD),
        }),
        (Passage::GoesOn, _) => Verdict::GoesOn(score.min(SCORE_BELOW)),
        _ => Verdict::Quiet(score.min(SCORE_BELOW)),
    }
}

/// The eyes of the large detector: windows from 12 to 48 values, means from twice as slow to twice as
/// fast, 20 to 24 bins, sensitivities from 3/4 to 4/3, each spread evenly (steps of equal ratio), in
/// orders that have nothing to do with each other.
static TUNINGS: [Tuning; CORES] = tunings();

const fn tunings() -> [Tuning; CORES] {
    let mut all = [Tuning::DEFAULT; CORES];
    let blocks = [3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 8, 9, 10, 11, 12];
    let fast = [
        0.015, 0.0166, 0.0183, 0.0202, 0.0223, 0.0246, 0.0272, 0.03, 0.0331, 0.0366, 0.0404,
        0.0446, 0.0492, 0.0544, 0.06,
    ];
    let slow = [
        0.002, 0.00221, 0.00244, 0.00269, 0.00297, 0.00328, 0.00362, 0.004, 0.00442, 0.00488,
        0.00538, 0.00594, 0.00656, 0.00725, 0.008,
    ];
    let gain = [
        0.75, 0.781, 0.814, 0.848, 0.883, 0.92, 0.96, 1.0, 1.042, 1.086, 1.131, 1.178, 1.227, 1.28,
        1.333,
    ];
    let mut i = 0;
    while i < CORES {
        all[i] = Tuning {
            fast: fast[(i * 4 + 3) % CORES],
            slow: slow[(i * 7 + 1) % CORES],
            gain: gain[(i * 2 + 5) % CORES],
            cut: Cut {
                bins: 20 + (i * 3 % 5) as u8,
                widen: 2,
                block: blocks[i],
            },
        };
        i += 1;
    }
    all
}

impl Part {
    /// Its name in declarations and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Trend => "trend",
            Self::Shape => "shape",
        }
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
