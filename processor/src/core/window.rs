//! One window of one group: values whose merge does not depend on order.

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use views::{RowState, SettledCounts};

/// One unit of a sum is 2^-48.
const UNITS: f64 = (1u64 << 48) as f64;

/// A window's contents in one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(crate) group: u32,
    pub(crate) start: i64,
    pub(crate) count: u64,
    pub(crate) numeric: u64,
    /// Exact: each value is rounded once to a multiple of 2^-48 and added as an integer, so order cannot
    /// matter. It wraps on overflow; the reader knows from count, min and max when that is possible.
    pub(crate) sum: i128,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Dense numbers of the devices in it.
    pub(crate) devices: RoaringBitmap,
    pub(crate) late_events: u64,
    pub(crate) state: RowState,
    pub(crate) settled: Option<SettledCounts>,
    pub(crate) revision: u64,
    /// To be emitted at the next flush.
    pub(crate) changed: bool,
    /// To be written at the next checkpoint.
    pub(crate) unsaved: bool,
}

/// A value as a whole number of 2^-48, rounded half away from zero. Beyond ±2^79 it saturates.
#[inline]
pub(crate) fn fixed(value: f64) -> i128 {
    let scaled = value * UNITS;
    // The short way for the common range; both give the same.
    if scaled.abs() < 4.6e18 {
        i128::from(scaled.round() as i64)
    } else {
        scaled.round() as i128
    }
}

impl Window {
    pub(crate) fn new(group: u32, start: i64, state: RowState) -> Self {
        Self {
            group,
            start,
            count: 0,
            numeric: 0,
            sum: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            devices: RoaringBitmap::new(),
            late_events: 0,
            state,
            settled: None,
            revision: 0,
            changed: false,
            unsaved: false,
        }
    }

    /// Takes one event.
    #[inline]
    pub(crate) fn add(&mut self, number: Option<f64>) {
        self.count += 1;
        if let Some(n) = number {
            self.numeric += 1;
            self.sum = self.sum.wrapping_add(fixed(n));
            // Not `f64::min`: which zero it returns for ±0 is not defined, and order must not show.
            if n < self.min || (n == 0.0 && self.min == 0.0 && n.is_sign_negative()) {
                self.min = n;
            }
            if n > self.max || (n == 0.0 && self.max == 0.0 && n.is_sign_positive()) {
                self.max = n;
            }
        }
        if self.state != RowState::Open {
            self.late_events += 1;
            self.state = RowState::Revised;
        }
    }

    /// The form in the state store (postcard).
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut devices = Vec::with_capacity(self.devices.serialized_size());
        // Writing to memory does not fail.
        let _ = self.devices.serialize_into(&mut devices);
        let saved = Saved {
            count: self.count,
            numeric: self.numeric,
            sum: self.sum,
            min: self.min,
            max: self.max,
            devices: &devices,
            late_events: self.late_events,
            state: match self.state {
                RowState::Open => 0,
                RowState::Settled => 1,
                RowState::Revised => 2,
            },
            settled: self.settled.map(|s| (s.done, s.expected)),
            revision: self.revision,
        };
        postcard::to_allocvec(&saved).unwrap_or_default()
    }

    /// Reads [`Self::save`]; none if the bytes are not of that form.
    pub(crate) fn load(group: u32, start: i64, bytes: &[u8]) -> Option<Self> {
        let s: Saved<'_> = postcard::from_bytes(bytes).ok()?;
        Some(Self {
            group,
            start,
            count: s.count,
            numeric: s.numeric,
            sum: s.sum,
            min: s.min,
            max: s.max,
            devices: RoaringBitmap::deserialize_from(s.devices).ok()?,
            late_events: s.late_events,
            state: match s.state {
                0 => RowState::Open,
                1 => RowState::Settled,
                2 => RowState::Revised,
                _ => return None,
            },
            settled: s
                .settled
                .map(|(done, expected)| SettledCounts { done, expected }),
            revision: s.revision,
            changed: false,
            unsaved: false,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    count: u64,
    numeric: u64,
    sum: i128,
    min: f64,
    max: f64,
    devices: &'a [u8],
    late_events: u64,
    state: u8,
    settled: Option<(u64, u64)>,
    revision: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_of_rounding_agree() {
        for v in [
            0.0, 0.1, -0.1, 21.5, -273.15, 1e4, 16383.9, 1.7e4, 1e9, -1e15, 1e-15, -2e-15,
        ] {
            assert_eq!(fixed(v), (v * UNITS).round() as i128, "{v}");
        }
    }

    proptest! {
        #[test]
        fn order_does_not_matter(values in prop::collection::vec(-1e6f64..1e6, 1..50), seed in any::<u64>()) {
            let mut shuffled = values.clone();
            let mut s = seed | 1;
            for i in (1..shuffled.len()).rev() {
                s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                shuffled.swap(i, (s >> 33) as usize % (i + 1));
            }
            let sum = |values: &[f64]| {
                let mut w = Window::new(0, 0, RowState::Open);
                values.iter().for_each(|v| w.add(Some(*v)));
                w
            };
            prop_assert_eq!(sum(&values), sum(&shuffled));
        }

        #[test]
        fn a_saved_window_reads_back(devices in prop::collection::btree_set(0u32..100_000, 0..50), sum in any::<i128>()) {
            let mut w = Window::new(3, 10, RowState::Settled);
            w.add(Some(1.5));
            w.add(None);
            w.sum = sum;
            w.devices = devices.into_iter().collect();
            w.settled = Some(SettledCounts { done: 1, expected: 2 });
            prop_assert_eq!(Window::load(3, 10, &w.save()), Some(w));
        }
    }
}
