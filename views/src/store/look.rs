//! Windows as rules look at them: also those in which nothing happened, which are in no list.

use std::collections::BTreeSet;

use event::AggregateSpec;

use super::merge::{Merged, is_open_if_empty};
use super::{Views, read};
use crate::completeness::Counts;
use crate::model::Row;
use crate::part::{Group, RowState};

/// A look at the windows of one aggregate. Made anew for each look.
pub struct Look<'a> {
    views: &'a Views,
    spec: AggregateSpec,
    /// By partition: its slot, and from which start on all of its rows are in memory.
    places: Vec<Option<(u32, i64)>>,
    /// Looks into the past that are left.
    lookups: usize,
}

/// What is known of a window without a look into the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Sum of the revisions of what is in memory; 0 = nothing is.
    pub revision: u64,
    /// Whether nothing of it is in the past only.
    pub whole: bool,
}

impl Views {
    /// The declared aggregates, as they were declared.
    pub fn specs(&self) -> Vec<AggregateSpec> {
        let declared = read(&self.declared);
        declared.aggregates.iter().map(|a| a.1.clone()).collect()
    }

    /// Looks at an aggregate, with at most so many looks into the past; none if it is not declared.
    pub fn look(&self, aggregate: &str, lookups: usize) -> Option<Look<'_>> {
        let spec = self.spec(aggregate).ok()?;
        let places = (0..self.parts.len()).map(|number| {
            let slot = read(&self.parts[number]).declared.slot_of(&spec)?;
            let floor = self
                .history(number)
                .map_or(i64::MIN, |source| self.floor(number, slot, source.as_ref()));
            Some((slot, floor))
        });
        Some(Look {
            views: self,
            places: places.collect(),
            spec,
            lookups,
        })
    }
}

impl Look<'_> {
    /// What is looked at.
    pub fn spec(&self) -> &AggregateSpec {
        &self.spec
    }

    /// Every group of which something is known.
    pub fn groups(&self) -> BTreeSet<Group> {
        let mut groups = BTreeSet::new();
        for (part, place) in self.views.parts.iter().zip(&self.places) {
            let Some((slot, _)) = place else {
                continue;
            };
            let part = read(part);
            let keys = part.rows.keys().chain(part.indexes.keys());
            groups.extend(keys.filter(|k| k.0 == *slot).map(|k| k.1.clone()));
        }
        groups
    }

    /// What is known of the window that starts at `start`.
    pub fn known(&self, group: &Group, start: i64) -> Known {
        let mut known = Known {
            revision: 0,
            whole: true,
        };
        for (part, place) in self.views.parts.iter().zip(&self.places) {
            let Some((slot, floor)) = place else {
                continue;
            };
            match read(part).rows.get(&(*slot, group.clone()), start) {
                Some(row) => known.revision += row.revision,
                None => known.whole &= start >= *floor,
            }
        }
        known
    }

    /// The devices of a group in the window that starts at `start`, and whether the window is open still.
    pub fn standing(&self, group: &Group, start: i64) -> (Counts, bool) {
        let end = start + self.spec.window;
        let (mut sum, mut open) = (Counts::default(), false);
        for (part, place) in self.views.parts.iter().zip(&self.places) {
            let part = read(part);
            let counts = part.counts(&self.spec, group, start, end);
            sum.add(&counts);
            let row = place.and_then(|(slot, _)| part.rows.get(&(slot, group.clone()), start));
            open |= match row {
                Some(row) => row.state == RowState::Open,
                None => is_open_if_empty(&counts, part.now, end),
            };
        }
        (sum, open)
    }

    /// The window that starts at `start` with what is in memory.
    fn in_memory(&self, group: &Group, start: i64) -> Option<Row> {
        let end = start + self.spec.window;
        let mut merged = Merged::default();
        for (part, place) in self.views.parts.iter().zip(&self.places) {
            let part = read(part);
            let counts = part.counts(&self.spec, group, start, end);
            let row = place.and_then(|(slot, _)| part.rows.get(&(slot, group.clone()), start));
            match row {
                Some(row) => merged.add(&counts, row),
                None => merged.add_empty(&counts, part.now, end),
            }
        }
        merged.row_or_empty(&self.spec, group, start)
    }

    /// The window that starts at `start`, with what is in the past. None if the past was asked often enough.
    pub fn whole(&mut self, group: &Group, start: i64) -> Option<Row> {
        let found = self
            .views
            .row(&self.spec, group, start, &mut self.lookups)
            .ok()?;
        found.or_else(|| self.in_memory(group, start))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::completeness::IndexBuilder;
    use crate::model::Totals;
    use crate::part::StatusCounts;
    use crate::store::{SECOND, SETTLE_DEADLINE};
    use crate::testing::part;

    #[test]
    fn a_window_without_any_event_says_who_is_awaited_and_settles() {
        let views = Views::new(2, "test", 0);
        let mut spec = AggregateSpec::defaults().remove(0);
        spec.window = 10 * SECOND;
        spec.hop = spec.window;
        spec.group_by = vec!["site".to_owned()];
        let group: Group = ["s1".into()].into();
        for partition in 0..2 {
            views.declare(
                partition,
                vec![(partition.into(), spec.clone())],
                Vec::new(),
            );
            let mut index = IndexBuilder::default();
            let progress = if partition == 0 { 100 } else { 5 };
            index.add(1, SECOND, progress * SECOND, 100 * SECOND);
            views.put_index(partition, partition.into(), &group, Arc::new(index.build()));
        }
        let now = |now: i64| {
            for partition in 0..2 {
                let (totals, status) = (Totals::default(), StatusCounts::default());
                views.put_summary(partition, now, totals, status, None);
            }
        };
        let look = || views.look("fleet", 0).unwrap();
        now(30 * SECOND);
        assert_eq!(
            look().groups().into_iter().collect::<Vec<_>>(),
            std::slice::from_ref(&group)
        );
        let (counts, open) = look().standing(&group, 20 * SECOND);
        assert_eq!((counts.expected, counts.outstanding), (2, 1));
        assert_eq!((counts.completeness(), open), (Some(0.5), true));
        now(30 * SECOND + SETTLE_DEADLINE);
        assert!(!look().standing(&group, 20 * SECOND).1);
        let row = look().whole(&group, 20 * SECOND).unwrap();
        assert_eq!((row.count, row.state, row.revision), (0, "settled", 0));
        assert_eq!((row.group["site"].as_str(), row.outstanding), ("s1", 1));
        views.put_rows(0, vec![part(0, &["s1"], 20 * SECOND, 7)]);
        let known = look().known(&group, 20 * SECOND);
        assert_eq!((known.revision, known.whole), (7, true));
        let row = look().whole(&group, 20 * SECOND).unwrap();
        assert_eq!((row.revision, row.outstanding), (7, 1));
        assert!(views.look("other", 0).is_none());
    }
}
