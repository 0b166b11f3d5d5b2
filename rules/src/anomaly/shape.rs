//! Which levels a series visits within a short time, and whether it has done so before.
//!
//! The range of the values is cut into equal bins. The bins that were visited within the last values are
//! a set; a few sets of the past are remembered, each widened a little. A set that lies in none of them
//! is a shape that is new, though every value of it may be ordinary: a dip on a plateau, the level of
//! the day at night, noise where there was none.

use serde::{Deserialize, Serialize};

/// Bins at most; three bytes a set.
pub(crate) const BINS: u8 = 24;
/// Sets remembered.
const SETS: usize = 11;
/// The last values are counted in so many blocks, the newest of them not yet full.
const BLOCKS: usize = 4;
/// A value further outside than so many ranges is taken as that far: one wild value must not make all
/// others one bin.
const GROWTH: f32 = 4.0;
/// When the range of the values has become this much smaller than that of the bins, they are cut anew.
const SHRUNK: f32 = 4.0;
/// A value that leaves the bins makes a new shape only if it leaves the range of the values by this part
/// of its width: a series that creeps on, as a meter does, is not new with each step.
const EXCESS_MIN: f32 = 0.02;

/// How it is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    /// Bins, 8 to [`BINS`].
    pub(crate) bins: u8,
    /// By how many bins a remembered set is widened on each side.
    pub(crate) widen: u8,
    /// Values in a block: a bin counts as visited for three to four blocks. 1 to 60.
    pub(crate) block: u8,
}

/// A set of bins, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Bins([u8; 3]);

impl Bins {
    #[inline]
    fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }

    #[inline]
    fn of(bits: u32) -> Self {
        let [a, b, c, _] = bits.to_le_bytes();
        Self([a, b, c])
    }
}

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Lower end of the lowest bin.
    low: f32,
    /// Width of a bin; 0 until two values differ.
    width: f32,
    /// Sets of the past, the one that fitted last first. Empty = none.
    sets: [Bins; SETS],
    /// Bins visited in each of the last blocks, the newest first.
    blocks: [Bins; BLOCKS],
    /// Values in the newest block.
    filled: u8,
}

impl Shape {
    pub(crate) fn at(y: f32) -> Self {
        Self {
            low: y,
            width: 0.0,
            sets: [Bins::default(); SETS],
            blocks: [Bins::default(); BLOCKS],
            filled: 0,
        }
    }

    /// Takes a value; whether the shape that ends with it is new. `excess` is by how much it left the range
    /// of the values before, in widths of that range, and `span` the width of the range with it.
    #[inline]
    pub(crate) fn learn(&mut self, y: f32, excess: f32, span: f32, cut: Cut) -> bool {
        let range = self.width * f32::from(cut.bins);
        let y = if range > 0.0 {
            y.clamp(self.low - GROWTH * range, self.low + range * (1.0 + GROWTH))
        } else {
            y
        };
        let leaves = y < self.low || y > self.low + range;
        if leaves || (range > SHRUNK * span && span > 0.0) {
            self.cut_anew(y, span, cut);
        }
        if self.filled >= cut.block {
            self.blocks.rotate_right(1);
            self.blocks[0] = Bins::default();
            self.filled = 0;
        }
        self.filled += 1;
        let bin = bin_of(y, self.low, self.width, cut.bins);
        self.blocks[0] = Bins::of(self.blocks[0].get() | 1 << bin);
        let set = self.recent();
        if let Some(at) = self.sets.iter().position(|s| set & !s.get() == 0) {
            self.sets[..=at].rotate_right(1);
            return false;
        }
        let mut wide = set;
        for _ in 0..cut.widen {
            wide |= wide << 1 | wide >> 1;
        }
        self.sets.rotate_right(1);
        self.sets[0] = Bins::of(wide & ((1 << cut.bins) - 1));
        !leaves || excess >= EXCESS_MIN
    }

    /// The lowest and the highest level of the last values.
    pub(crate) fn recent_range(&self) -> (f32, f32) {
        let set = self.recent();
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
    fn recent(&self) -> u32 {
        self.blocks.iter().fold(0, |set, block| set | block.get())
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
        let new_width = (new_high - new_low) / bins;
        if new_width <= 0.0 {
            // Closer together than numbers can tell.
            return;
        }
        (self.low, self.width) = (new_low, new_width);
        // For each bin, the bins of before that it stands for.
        let mut from = [0_u32; BINS as usize];
        for i in 0..usize::from(cut.bins) {
            let middle = i as f32 + 0.5;
            if new_width < width {
                // A bin of before is several now.
                from[i] = 1 << bin_of(new_low + middle * new_width, low, width, cut.bins);
            } else {
                let new = bin_of(low + middle * width, new_low, new_width, cut.bins);
                from[new] |= 1 << i;
            }
        }
        for set in self.sets.iter_mut().chain(&mut self.blocks) {
            let old = set.get();
            let bits = from.iter().enumerate();
            let bits = bits.map(|(new, olds)| u32::from(olds & old != 0) << new);
            *set = Bins::of(bits.fold(0, |set, bit| set | bit));
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
        block: 6,
    };

    #[test]
    fn a_shape_is_new_once() {
        let mut shape = Shape::at(0.0);
        let plateau = |shape: &mut Shape, level: f32| {
            let new = (0..100).filter(|i| shape.learn(level + (i % 2) as f32, 0.0, 100.0, CUT));
            new.count()
        };
        // Slow ways up and down.
        let slope = |shape: &mut Shape, from: f32, step: f32| {
            for i in 0..3000 {
                shape.learn(from + step * i as f32 / 30.0, 0.0, 100.0, CUT);
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
        assert!(shape.learn(60.0, 0.0, 100.0, CUT));
        let (low, high) = shape.recent_range();
        assert!(low <= 0.0 && (60.0..70.0).contains(&high), "{low} {high}");
        for _ in 0..24 {
            shape.learn(0.0, 0.0, 100.0, CUT);
        }
        assert!(!shape.learn(60.0, 0.0, 100.0, CUT));
    }

    #[test]
    fn a_meter_that_only_rises_is_not_new_with_each_step() {
        let mut shape = Shape::at(0.0);
        let new = (1..100_000).filter(|&i| {
            let excess = 1.0 / i as f32;
            shape.learn(i as f32, excess, i as f32, CUT) && i > 100
        });
        assert_eq!(new.count(), 0);
        // A jump is.
        assert!(shape.learn(130_000.0, 0.3, 130_000.0, CUT));
    }

    #[test]
    fn bins_follow_a_range_that_became_small() {
        let mut shape = Shape::at(0.0);
        for i in 0..1000 {
            shape.learn((i % 100) as f32, 0.0, 100.0, CUT);
        }
        for i in 0..1000 {
            shape.learn(50.0 + (i % 2) as f32, 0.0, 1.0, CUT);
        }
        assert!(shape.width * 24.0 <= 4.0, "{}", shape.width);
        assert!(shape.is_sound());
    }

    #[test]
    fn one_wild_value_does_not_make_all_others_one_bin() {
        let mut shape = Shape::at(0.0);
        for i in 0..100 {
            shape.learn((i % 11) as f32, 0.0, 10.0, CUT);
        }
        shape.learn(1e20, 1.0, 10.0, CUT);
        assert!(shape.width < 10.0, "{}", shape.width);
    }
}
