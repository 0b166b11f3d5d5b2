//! The range in which a quantity has been, and how far out of it a new one is.

use serde::{Deserialize, Serialize};

/// An outlier widens the range by at most so many times its width: one wild value must not blind it.
const GROWTH: f32 = 4.0;

/// A range, and the bar that rises when something was outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) lo: f32,
    pub(crate) hi: f32,
    /// 1 at rest; what is found is divided by it.
    pub(crate) bar: f32,
}

impl Envelope {
    pub(crate) fn at(y: f32) -> Self {
        Self {
            lo: y,
            hi: y,
            bar: 1.0,
        }
    }

    /// How far `y` is out of the range, in widths of the range: 0 to 1. Where there is no width yet, all
    /// that is outside is 1.
    #[inline]
    pub(crate) fn excess(&self, y: f32) -> f32 {
        let out = (y - self.hi).max(self.lo - y);
        if out <= 0.0 {
            return 0.0;
        }
        let span = self.hi - self.lo;
        if out >= span { 1.0 } else { out / span }
    }

    /// Takes `y` in. `shrink` is by which part of its width each end moves inwards first: 0 to ½.
    #[inline]
    pub(crate) fn learn(&mut self, y: f32, shrink: f32) {
        let span = self.hi - self.lo;
        let y = if span > 0.0 {
            let far = GROWTH * span;
            y.clamp(self.lo - far, self.hi + far)
        } else {
            y
        };
        let inward = shrink * span;
        self.lo = (self.lo + inward).min(y);
        self.hi = (self.hi - inward).max(y);
    }

    pub(crate) fn rescale(&mut self, factor: f32) {
        self.lo *= factor;
        self.hi *= factor;
    }

    pub(crate) fn is_sound(&self) -> bool {
        let ends = self.lo.is_finite() && self.hi.is_finite() && self.lo <= self.hi;
        ends && self.bar.is_finite() && self.bar >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_is_in_widths_of_the_range() {
        let mut e = Envelope::at(2.0);
        assert_eq!(
            (e.excess(2.0), e.excess(2.5), e.excess(-9.0)),
            (0.0, 1.0, 1.0)
        );
        e.learn(4.0, 0.0);
        assert_eq!((e.lo, e.hi), (2.0, 4.0));
        assert_eq!(
            (e.excess(4.5), e.excess(1.0), e.excess(90.0)),
            (0.25, 0.5, 1.0)
        );
    }

    #[test]
    fn one_wild_value_widens_it_by_a_bounded_factor() {
        let mut e = Envelope::at(0.0);
        e.learn(1.0, 0.0);
        e.learn(65_535.0, 0.0);
        assert_eq!((e.lo, e.hi), (0.0, 5.0));
        // A value that stays there is reached in a few steps.
        for _ in 0..6 {
            e.learn(65_535.0, 0.0);
        }
        assert_eq!(e.excess(65_535.0), 0.0);
    }

    #[test]
    fn it_forgets() {
        let mut e = Envelope::at(0.0);
        e.learn(8.0, 0.0);
        e.learn(4.0, 0.25);
        assert_eq!((e.lo, e.hi), (2.0, 6.0));
        e.learn(4.0, 0.5);
        assert_eq!((e.lo, e.hi), (4.0, 4.0));
    }
}
