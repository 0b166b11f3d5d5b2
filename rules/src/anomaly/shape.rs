//! Which levels a series visits within a short time, and whether it has done so before.
//!
//! The range of the values is cut into equal bins. The bins that were visited within the last values are
//! a set; a few sets of the past are remembered, each widened a little. A set that lies in none of them
//! is a shape that is new, though every value of it may be ordinary: a dip on a plateau, the level of
//! the day at night, noise where there was none.

use serde::{Deserialize, Serialize};

/// Most bins.
pub(crate) const BINS: usize = 24;
/// Sets remembered.
const SETS: usize = 6;
/// A value further outside than so many ranges is taken as that far: one wild value must not make all
/// others one bin.
const GROWTH: f32 = 4.0;
/// When the range of the values has become this much smaller than that of the bins, they are cut anew.
const SHRUNK: f32 = 4.0;

/// How it is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    /// Bins, 8 to [`BINS`].
    pub(crate) bins: u8,
    /// By how many bins a remembered set is widened on each side.
    pub(crate) widen: u8,
    /// Within how many values a bin counts as visited: 2 to 250.
    pub(crate) window: u8,
}

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Lower end of the lowest bin.
    low: f32,
    /// Width of a bin; 0 until two values differ.
    width: f32,
    /// Values since a bin was visited; 255 = longer ago, or never.
    ages: [u8; BINS],
    /// Sets of bins, the one that fitted last first. 0 = none.
    sets: [u32; SETS],
}

impl Shape {
    pub(crate) fn at(y: f32) -> Self {
        Self {
            low: y,
            width: 0.0,
            ages: [u8::MAX; BINS],
            sets: [0; SETS],
        }
    }

    /// Takes a value; whether the shape that ends with it is new. `span` is the width of the range in
    /// which values have been of late.
    #[inline]
    pub(crate) fn learn(&mut self, y: f32, span: f32, cut: Cut) -> bool {
        let bins = f32::from(cut.bins);
        let range = self.width * bins;
        let y = if range > 0.0 {
            y.clamp(self.low - GROWTH * range, self.low + range * (1.0 + GROWTH))
        } else {
            y
        };
        for age in &mut self.ages {
            *age = age.saturating_add(1);
        }
        if y < self.low || y > self.low + range || (range > SHRUNK * span && span > 0.0) {
            self.cut_anew(y, span, cut);
        }
        let bin = bin_of(y, self.low, self.width, cut.bins);
        self.ages[bin] = 0;
        let set = self.recent(cut);
        if let Some(at) = self.sets.iter().position(|s| set & !s == 0) {
            self.sets[..=at].rotate_right(1);
            return false;
        }
        let mut wide = set;
        for _ in 0..cut.widen {
            wide |= wide << 1 | wide >> 1;
        }
        self.sets.rotate_right(1);
        self.sets[0] = wide & ((1 << cut.bins) - 1);
        true
    }

    /// The lowest and the highest level of the last values.
    pub(crate) fn recent_range(&self, cut: Cut) -> (f32, f32) {
        let set = self.recent(cut);
        let lowest = set.trailing_zeros() as f32;
        let highest = (u32::BITS - set.leading_zeros()) as f32;
        (
            self.low + lowest * self.width,
            self.low + highest * self.width,
        )
    }

    pub(crate) fn rescale(&mut self, factor: f32) {
        self.low *= factor;
        self.width *= factor;
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.low.is_finite() && self.width.is_finite() && self.width >= 0.0
    }

    #[inline]
    fn recent(&self, cut: Cut) -> u32 {
        let mut set = 0;
        for (i, age) in self.ages.iter().enumerate() {
            set |= u32::from(*age < cut.window) << i;
        }
        set
    }

    /// Makes the bins cover `y`, or no more than is in use.
    #[cold]
    fn cut_anew(&mut self, y: f32, span: f32, cut: Cut) {
        let bins = f32::from(cut.bins);
        let (low, width) = (self.low, self.width);
        let high = low + width * bins;
        let (new_low, new_high) = if width == 0.0 {
            let margin = (y - low).abs() * 2.0 / bins;
            if y > high {
                (low, y + margin)
            } else {
                (y - margin, high)
            }
        } else if y > high {
            (low, y + 2.0 * width)
        } else if y < low {
            (y - 2.0 * width, high)
        } else {
            // Twice the range, around the value: what lies further out is forgotten.
            ((y - span).max(low), (y + span).min(high))
        };
        self.low = new_low;
        self.width = (new_high - new_low) / bins;
        if self.width <= 0.0 {
            // Closer together than numbers can tell.
            (self.low, self.width) = (low, width);
            return;
        }
        let mut ages = [u8::MAX; BINS];
        let mut from = [0_u32; BINS];
        for new in 0..usize::from(cut.bins) {
            let middle = self.low + (new as f32 + 0.5) * self.width;
            if self.width < width {
                // A bin of before is several now.
                from[new] = 1 << bin_of(middle, low, width, cut.bins);
            }
        }
        for old in 0..usize::from(cut.bins) {
            if self.width >= width {
                let middle = low + (old as f32 + 0.5) * width;
                from[bin_of(middle, self.low, self.width, cut.bins)] |= 1 << old;
            }
        }
        for (new, olds) in from.iter().enumerate() {
            for (old, age) in self.ages.iter().enumerate() {
                if olds >> old & 1 == 1 {
                    ages[new] = ages[new].min(*age);
                }
            }
        }
        self.ages = ages;
        for set in &mut self.sets {
            let old = *set;
            *set = 0;
            for (new, olds) in from.iter().enumerate() {
                *set |= u32::from(olds & old != 0) << new;
            }
        }
    }
}

#[inline]
fn bin_of(y: f32, low: f32, width: f32, bins: u8) -> usize {
    if width > 0.0 {
        // A cast of a negative number is 0.
        (((y - low) / width) as usize).min(usize::from(bins) - 1)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut {
        bins: 24,
        widen: 2,
        window: 24,
    };

    #[test]
    fn a_shape_is_new_once() {
        let mut shape = Shape::at(0.0);
        let plateau = |shape: &mut Shape, level: f32| {
            let new = (0..100).filter(|i| shape.learn(level + (i % 2) as f32, 100.0, CUT));
            new.count()
        };
        // Slow ways up and down.
        let slope = |shape: &mut Shape, from: f32, step: f32| {
            for i in 0..3000 {
                shape.learn(from + step * i as f32 / 30.0, 100.0, CUT);
            }
        };
        for _ in 0..5 {
            plateau(&mut shape, 0.0);
            slope(&mut shape, 0.0, 1.0);
            plateau(&mut shape, 99.0);
            slope(&mut shape, 100.0, -1.0);
        }
        assert_eq!(plateau(&mut shape, 0.0), 0);
        // 60 is an ordinary level, but not here.
        assert!(shape.learn(60.0, 100.0, CUT));
        let (low, high) = shape.recent_range(CUT);
        assert!(low <= 0.0 && (60.0..70.0).contains(&high), "{low} {high}");
        for _ in 0..CUT.window {
            shape.learn(0.0, 100.0, CUT);
        }
        assert!(!shape.learn(60.0, 100.0, CUT));
    }

    #[test]
    fn bins_follow_a_range_that_became_small() {
        let mut shape = Shape::at(0.0);
        for i in 0..1000 {
            shape.learn((i % 100) as f32, 100.0, CUT);
        }
        for i in 0..1000 {
            shape.learn(50.0 + (i % 2) as f32, 1.0, CUT);
        }
        assert!(shape.width * 24.0 <= 4.0, "{}", shape.width);
        assert!(shape.is_sound());
    }

    #[test]
    fn one_wild_value_does_not_make_all_others_one_bin() {
        let mut shape = Shape::at(0.0);
        for i in 0..100 {
            shape.learn((i % 11) as f32, 10.0, CUT);
        }
        shape.learn(1e20, 10.0, CUT);
        assert!(shape.width < 10.0, "{}", shape.width);
    }
}
