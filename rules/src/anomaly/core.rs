//! What is learned of one series, and how unlike that a value is: 104 bytes, no clock.

use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::scale::{NONE, Scale};
use super::shape::{BINS, Cut, Shape};

/// Excess of 1/50 of the range is strength 1, at sensitivity 1.
const STRENGTH: f32 = 50.0;
/// Strength of a shape that is new. It does not depend on how new it is.
const SHAPE_STRENGTH: f32 = 256.0;
/// By what bars rise when something was found, and by which part they fall back with each value.
const BAR_RISE: f32 = 8.0;
const BAR_RISE_ALL: f32 = 4.0;
const BAR_FALL: f32 = 0.01;
/// Bars rise no higher: nothing gets over this one.
const BAR_MAX: f32 = 1e6;

/// What differs between detectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tuning {
    /// By which part of the distance the means follow a value.
    pub(crate) fast: f32,
    pub(crate) slow: f32,
    pub(crate) cut: Cut,
    /// A factor on the sensitivity.
    pub(crate) gain: f32,
}

impl Tuning {
    pub(crate) const DEFAULT: Self = Self {
        fast: 0.03,
        slow: 0.004,
        cut: Cut {
            bins: BINS,
            widen: 2,
            block: 6,
        },
        gain: 1.0,
    };
}

/// What a value is measured with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Look {
    /// Values seen before.
    pub(crate) seen: u16,
    /// By which part of its width a range shrinks at each end: 0 to ½.
    pub(crate) shrink: f32,
    /// What strengths are multiplied with.
    pub(crate) gain: f32,
    /// Whether enough is known to say something.
    pub(crate) armed: bool,
}

/// Which part of the detector found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The value is outside of the range in which values have been.
    Value,
    /// The mean of the last values moves against the longer mean as it never did.
    Trend,
    /// The last values together are no shape that is remembered.
    Shape,
}

/// Something unlike what was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finding {
    pub(crate) part: Part,
    /// More than 1.
    pub(crate) strength: f32,
    /// Value: the range learned. Trend: the range of the difference of means. Shape: the range of the last
    /// values. In the unit of the series.
    pub(crate) range: (f64, f64),
    /// What was compared with it.
    pub(crate) seen: f64,
}

/// What is learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Core {
    origin: f64,
    value: Envelope,
    trend: Envelope,
    fast: f32,
    slow: f32,
    /// The bar over all parts, 1 at rest.
    bar: f32,
    shape: Shape,
    exponent: i16,
}

impl Core {
    /// Of nothing but a first value, which must be finite.
    pub(crate) fn at(value: f64) -> Self {
        Self {
            origin: value,
            value: Envelope::at(0.0),
            trend: Envelope::at(0.0),
            fast: 0.0,
            slow: 0.0,
            bar: 1.0,
            shape: Shape::at(0.0),
            exponent: NONE,
        }
    }

    fn scale(&self) -> Scale {
        Scale {
            origin: self.origin,
            exponent: self.exponent,
        }
    }

    /// Takes the next value, which must be finite. Returns how strongly it is unlike the past, and what was
    /// found if that is more than 1.
    #[inline]
    pub(crate) fn step(
        &mut self,
        value: f64,
        look: Look,
        tuning: &Tuning,
    ) -> (f32, Option<Finding>) {
        let mut scale = self.scale();
        let (y, factor) = scale.offset(value);
        self.exponent = scale.exponent;
        if let Some(factor) = factor {
            self.rescale(factor);
        }
        // The mean of all values at first, a moving one later.
        let first = 1.0 / (f32::from(look.seen) + 1.0);
        self.fast += tuning.fast.max(first) * (y - self.fast);
        self.slow += tuning.slow.max(first) * (y - self.slow);
        let trend = self.fast - self.slow;

        let gain = look.gain * tuning.gain;
        let over = STRENGTH * gain / self.bar;
        let excess = self.value.excess(y);
        let by_value = excess * over / self.value.bar;
        let by_trend = self.trend.excess(trend) * over / self.trend.bar;
        let (was_value, was_trend) = (self.value, self.trend);
        self.value.learn(y, look.shrink);
        self.trend.learn(trend, look.shrink);
        let span = self.value.hi - self.value.lo;
        let is_new = self.shape.learn(y, excess, span, tuning.cut);
        for bar in [&mut self.value.bar, &mut self.trend.bar, &mut self.bar] {
            *bar += BAR_FALL * (1.0 - *bar);
        }

        if !look.armed {
            return (0.0, None);
        }
        let found = by_value.max(by_trend);
        if found > 1.0 {
            let finding = if by_value >= by_trend {
                raise(&mut self.value.bar, BAR_RISE);
                Finding {
                    part: Part::Value,
                    strength: found,
                    range: (scale.value(was_value.lo), scale.value(was_value.hi)),
                    seen: value,
                }
            } else {
                raise(&mut self.trend.bar, BAR_RISE);
                Finding {
                    part: Part::Trend,
                    strength: found,
                    range: (scale.length(was_trend.lo), scale.length(was_trend.hi)),
                    seen: scale.length(trend),
                }
            };
            raise(&mut self.bar, BAR_RISE_ALL);
            return (found, Some(finding));
        }
        let strength = SHAPE_STRENGTH * look.gain;
        if is_new && strength > 1.0 {
            // All shapes are equally new: what is told is nearer to the middle.
            let strength = strength.sqrt().sqrt();
            let (low, high) = self.shape.recent_range();
            let finding = Finding {
                part: Part::Shape,
                strength,
                range: (scale.value(low), scale.value(high)),
                seen: value,
            };
            return (strength, Some(finding));
        }
        (found, None)
    }

    /// Whether it can have come from [`Self::step`]: what was read from outside must be looked at.
    pub(crate) fn is_sound(&self) -> bool {
        let means = self.fast.is_finite() && self.slow.is_finite();
        let bar = self.bar.is_finite() && self.bar >= 1.0;
        let parts = self.value.is_sound() && self.trend.is_sound() && self.shape.is_sound();
        means && bar && parts && self.scale().is_sound()
    }

    #[cold]
    fn rescale(&mut self, factor: f32) {
        self.value.rescale(factor);
        self.trend.rescale(factor);
        self.shape.rescale(factor);
        self.fast *= factor;
        self.slow *= factor;
    }
}

fn raise(bar: &mut f32, by: f32) {
    *bar = (*bar * by).min(BAR_MAX);
}
