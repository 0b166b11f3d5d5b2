//! Numbers of a series in half the space: offsets from its first value, in a unit of their own, as `f32`.
//!
//! What is learned of a series are distances between its values, and those need seven digits, not
//! sixteen. The first value is kept exactly; the unit is the power of two at or below the first change,
//! so that series of any size (10⁻³⁰⁰ or 10³⁰⁰) look alike, and a series multiplied by a power of two
//! gives the same results bit for bit.

/// No change was seen yet.
pub(crate) const NONE: i16 = i16::MIN;
/// Powers of two are kept where both 2ⁿ and 2⁻ⁿ are ordinary numbers. Distances go from 2⁻¹⁰⁷⁴ to 2¹⁰²⁵,
/// so what is cut off here, an `f32` can still tell.
const EXPONENT_MAX: i16 = 1000;
/// An offset above this many units makes the unit larger: squares of it must fit in an `f32`.
const UNITS_MAX: f32 = (1_u64 << 60) as f32;

/// Where a series has its zero, and its unit. It is not stored as such: its padding would cost six bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    pub(crate) origin: f64,
    /// [`NONE`] until a value differs from the origin.
    pub(crate) exponent: i16,
}

impl Scale {
    /// The offset of a finite value in units: finite. The second number is by what everything that was
    /// kept in the old unit must be multiplied; nearly always none.
    #[inline]
    pub(crate) fn offset(&mut self, value: f64) -> (f32, Option<f32>) {
        // Halves cannot overflow.
        let half = value * 0.5 - self.origin * 0.5;
        if self.exponent == NONE {
            if half == 0.0 {
                return (0.0, None);
            }
            self.exponent = exponent(half);
        }
        let units = self.units(half);
        if units.abs() <= UNITS_MAX {
            return (units, None);
        }
        let old = self.exponent;
        self.exponent = exponent(half);
        let factor = two_to(i32::from(old) - i32::from(self.exponent)) as f32;
        (self.units(half), Some(factor))
    }

    #[inline]
    fn units(&self, half: f64) -> f32 {
        (half * two_to(1 - i32::from(self.exponent))) as f32
    }

    /// What an offset is in the unit of the series; finite.
    pub(crate) fn value(&self, offset: f32) -> f64 {
        finite(self.origin * 0.5 + self.half(offset))
    }

    /// What a distance is in the unit of the series; finite.
    pub(crate) fn length(&self, units: f32) -> f64 {
        finite(self.half(units))
    }

    /// Half of a distance in the unit of the series.
    fn half(&self, units: f32) -> f64 {
        let exponent = match self.exponent {
            NONE => 0,
            exponent => i32::from(exponent),
        };
        f64::from(units) * two_to(exponent - 1)
    }

    /// Whether it can have come from [`Self::offset`].
    pub(crate) fn is_sound(&self) -> bool {
        let exponent = self.exponent;
        self.origin.is_finite()
            && (exponent == NONE || (-EXPONENT_MAX..=EXPONENT_MAX).contains(&exponent))
    }
}

/// The power of two at or below twice `half`.
fn exponent(half: f64) -> i16 {
    let bits = ((half.to_bits() >> 52) & 0x7FF) as i16;
    (bits - 1022).clamp(-EXPONENT_MAX, EXPONENT_MAX)
}

/// Twice the number, or the nearest there is.
fn finite(half: f64) -> f64 {
    (half * 2.0).clamp(f64::MIN, f64::MAX)
}

/// 2ⁿ, 0 if that is too small for an ordinary number. n is at most 1001.
#[inline]
fn two_to(n: i32) -> f64 {
    f64::from_bits(((n.max(-1023) + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_any_size_read_back() {
        for (origin, value) in [
            (20.0, 21.5),
            (-1e308, 1e308),
            (0.0, 5e-324),
            (1e300, 1.5e300),
            (-3.0, -3.0),
            (1e9, 1e9 + 0.25),
        ] {
            let mut scale = Scale {
                origin,
                exponent: NONE,
            };
            let (offset, again) = scale.offset(value);
            assert!(offset.is_finite() && again.is_none(), "{origin} {value}");
            let back = scale.value(offset);
            let error = (back * 0.5 - value * 0.5).abs();
            let distance = (value * 0.5 - origin * 0.5).abs();
            assert!(
                error <= distance * 1e-6 + 1e-320,
                "{origin} {value}: {back}"
            );
            assert!(scale.is_sound());
        }
    }

    #[test]
    fn a_far_value_makes_the_unit_larger() {
        let mut scale = Scale {
            origin: 0.0,
            exponent: NONE,
        };
        assert_eq!(scale.offset(1.0), (1.0, None));
        let (offset, factor) = scale.offset(2_f64.powi(100));
        assert_eq!(offset, 1.0);
        assert_eq!(factor, Some(2_f32.powi(-100)));
        let (offset, factor) = scale.offset(f64::MAX);
        // As large as units get.
        assert_eq!(offset, 2_f32.powi(24));
        assert_eq!(factor, Some(0.0));
        assert_eq!(scale.offset(0.0), (0.0, None));
        // From a change of nearly nothing to one of everything: what was kept is nothing now.
        let mut scale = Scale {
            origin: 0.0,
            exponent: NONE,
        };
        scale.offset(1e-300);
        assert_eq!(scale.offset(f64::MAX).1, Some(0.0));
    }
}
