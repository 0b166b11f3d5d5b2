//! A set of sequence numbers as disjoint ranges.
//!
//! An agent numbers its events without holes, so the set of seqs seen is nearly always one range; a
//! lost or reordered batch makes a second one for a while. That is why dedup for ever is cheap.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Ascending, disjoint ranges that do not touch; both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IntervalSet {
    ranges: SmallVec<[(u64, u64); 1]>,
}

impl IntervalSet {
    /// The parts of `first..=last` that are not in the set, ascending.
    pub(crate) fn missing(&self, first: u64, last: u64) -> SmallVec<[(u64, u64); 2]> {
        let mut out = SmallVec::new();
        let mut next = first;
        let start = self.ranges.partition_point(|r| r.1 < first);
        for &(a, b) in &self.ranges[start..] {
            if a > last {
                break;
            }
            if a > next {
                out.push((next, a - 1));
            }
            next = b + 1;
        }
        if next <= last {
            out.push((next, last));
        }
        out
    }

    /// Adds `first..=last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        // The ranges that overlap or touch the new one.
        let from = self
            .ranges
            .partition_point(|r| r.1.saturating_add(1) < first);
        let to = self
            .ranges
            .partition_point(|r| r.0 <= last.saturating_add(1));
        if from == to {
            self.ranges.insert(from, (first, last));
        } else {
            self.ranges[from] = (
                first.min(self.ranges[from].0),
                last.max(self.ranges[to - 1].1),
            );
            self.ranges.drain(from + 1..to);
        }
    }

    /// Whether `first..=last` overlaps or touches a range that is there.
    pub(crate) fn touches(&self, first: u64, last: u64) -> bool {
        let at = self
            .ranges
            .partition_point(|r| r.1.saturating_add(1) < first);
        self.ranges
            .get(at)
            .is_some_and(|r| r.0 <= last.saturating_add(1))
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The last number up to which nothing is missing from 1 on; 0 if 1 is missing.
    pub(crate) fn prefix(&self) -> u64 {
        self.ranges
            .first()
            .map_or(0, |r| if r.0 == 1 { r.1 } else { 0 })
    }

    /// Whether the set together with `other` holds exactly all of `1..=last`: one walk over both.
    pub(crate) fn covers_with(&self, other: &Self, last: u64) -> bool {
        let (mut a, mut b) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut covered = 0u64;
        loop {
            let next = match (a.first(), b.first()) {
                (Some(x), Some(y)) if y.0 < x.0 => &mut b,
                (Some(_), _) => &mut a,
                (None, Some(_)) => &mut b,
                (None, None) => return covered == last,
            };
            let Some((&(from, to), rest)) = next.split_first() else {
                return false;
            };
            if from > covered + 1 {
                return false;
            }
            covered = covered.max(to);
            *next = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(ops in prop::collection::vec((1u64..60, 0u64..9), 1..40)) {
            let mut set = IntervalSet::default();
            let mut model = BTreeSet::new();
            for (first, len) in ops {
                let last = first + len;
                let missing: Vec<u64> =
                    set.missing(first, last).iter().flat_map(|&(a, b)| a..=b).collect();
                let expected: Vec<u64> = (first..=last).filter(|n| !model.contains(n)).collect();
                prop_assert_eq!(missing, expected);
                set.insert(first, last);
                model.extend(first..=last);
                let all: Vec<u64> = set.ranges.iter().flat_map(|&(a, b)| a..=b).collect();
                prop_assert_eq!(&all, &model.iter().copied().collect::<Vec<_>>());
                prop_assert!(set.ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            }
        }
    }

    #[test]
    fn coverage_needs_every_number_and_no_more() {
        let (mut seen, mut lost) = (IntervalSet::default(), IntervalSet::default());
        assert!(seen.covers_with(&lost, 0));
        seen.insert(1, 4);
        seen.insert(8, 9);
        assert!(!seen.covers_with(&lost, 9));
        lost.insert(5, 7);
        assert!(seen.covers_with(&lost, 9));
        assert!(!seen.covers_with(&lost, 8));
        assert!(!seen.covers_with(&lost, 10));
    }
}
