//! The newest rows of a partition. Older ones are dropped where they can be asked for again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::GroupKey;
use crate::part::{Group, HistoryQuery, RowPart};

/// Rows of an aggregate held per partition where a history stands behind them. One with sketches counts as
/// several, by their size. The rows of the newest start are held however many there are.
pub const ROWS_MAX: usize = 20_000;
/// Bytes of sketches that count as one row more.
const SKETCH_BYTES: usize = 512;

/// What is held of one aggregate.
#[derive(Default)]
struct Held {
    /// Start → the groups that have a row there, and their weight.
    starts: BTreeMap<i64, Start>,
    weight: usize,
    /// Rows that start before this were dropped, or never came here; none = nothing is known to be missing.
    floor: Option<i64>,
    /// The same for what the store held when it was first asked; none = not asked yet.
    stored: Option<i64>,
    /// Rows that start before this are forgotten for good.
    horizon: Option<i64>,
}

#[derive(Default)]
struct Start {
    groups: BTreeSet<Group>,
    weight: usize,
}

/// The rows of all aggregates of a partition, in memory.
#[derive(Default)]
pub(super) struct Rows {
    groups: HashMap<GroupKey, BTreeMap<i64, RowPart>>,
    aggregates: HashMap<u32, Held>,
}

fn weight(row: &RowPart) -> usize {
    let values = row.values.as_ref().map_or(0, |v| v.bytes());
    let quantiles = row.quantiles.as_ref().map_or(0, |q| q.bytes());
    1 + (values + quantiles) / SKETCH_BYTES
}

impl Rows {
    /// Takes a row with a revision greater than that of the one held. Beyond `most` the oldest ones go.
    /// Says whether it was taken.
    pub(super) fn put(&mut self, row: RowPart, most: usize) -> bool {
        let held = self.aggregates.entry(row.aggregate).or_default();
        let gone = |limit: Option<i64>| limit.is_some_and(|limit| row.start < limit);
        if gone(held.floor) || gone(held.horizon) {
            return false;
        }
        let (aggregate, start, added) = (row.aggregate, row.start, weight(&row));
        let windows = self
            .groups
            .entry((aggregate, row.group.clone()))
            .or_default();
        let old = windows.get(&start);
        if old.is_some_and(|old| old.revision >= row.revision) {
            return false;
        }
        let removed = old.map_or(0, weight);
        let at = held.starts.entry(start).or_default();
        if old.is_none() {
            at.groups.insert(row.group.clone());
        }
        windows.insert(start, row);
        at.weight = at.weight + added - removed;
        held.weight = held.weight + added - removed;
        while held.weight > most && held.starts.len() > 1 {
            let Some((start, gone)) = held.starts.pop_first() else {
                break;
            };
            held.weight -= gone.weight;
            held.floor = Some(start + 1);
            drop_rows(&mut self.groups, aggregate, start, gone.groups);
        }
        // A row older than all others may have been the first to go.
        self.aggregates
            .get(&aggregate)
            .and_then(|h| h.floor)
            .is_none_or(|floor| start >= floor)
    }

    /// Forgets for good what starts before `start`.
    pub(super) fn forget(&mut self, aggregate: u32, start: i64) {
        let held = self.aggregates.entry(aggregate).or_default();
        held.horizon = Some(start.max(held.horizon.unwrap_or(i64::MIN)));
        while let Some(first) = held.starts.first_entry() {
            if *first.key() >= start {
                break;
            }
            let (start, gone) = first.remove_entry();
            held.weight -= gone.weight;
            drop_rows(&mut self.groups, aggregate, start, gone.groups);
        }
    }

    /// Drops from memory what starts before `start`: it can be asked for again.
    pub(super) fn drop_before(&mut self, aggregate: u32, start: i64) {
        let held = self.aggregates.entry(aggregate).or_default();
        held.floor = Some(start.max(held.floor.unwrap_or(i64::MIN)));
        while let Some(first) = held.starts.first_entry() {
            if *first.key() >= start {
                break;
            }
            let (start, gone) = first.remove_entry();
            held.weight -= gone.weight;
            drop_rows(&mut self.groups, aggregate, start, gone.groups);
        }
    }

    /// Keeps only the aggregates that `same` names.
    pub(super) fn retain(&mut self, same: impl Fn(u32) -> bool) {
        self.groups.retain(|key, _| same(key.0));
        self.aggregates.retain(|aggregate, _| same(*aggregate));
    }

    pub(super) fn get(&self, key: &GroupKey, start: i64) -> Option<&RowPart> {
        self.groups.get(key)?.get(&start)
    }

    /// The starts of a group's rows, newest first.
    pub(super) fn newest(&self, key: &GroupKey) -> impl Iterator<Item = i64> {
        self.groups
            .get(key)
            .into_iter()
            .flat_map(|rows| rows.keys().rev().copied())
    }

    /// All groups that have a row.
    pub(super) fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.groups.keys()
    }

    /// Where what was forgotten for good ends.
    pub(super) fn horizon(&self, aggregate: u32) -> Option<i64> {
        self.aggregates.get(&aggregate)?.horizon
    }

    /// From where on nothing is missing here; none as long as [`Self::set_stored`] was not called.
    pub(super) fn floor(&self, aggregate: u32) -> Option<i64> {
        let held = self.aggregates.get(&aggregate)?;
        Some(held.stored?.max(held.floor.unwrap_or(i64::MIN)))
    }

    /// Says from where on everything that was ever counted has come here.
    pub(super) fn set_stored(&mut self, aggregate: u32, floor: i64) {
        self.aggregates.entry(aggregate).or_default().stored = Some(floor);
    }

    /// The rows of a range that are here, ascending by (start, group): its first, or its newest ones.
    pub(super) fn range(&self, q: &HistoryQuery) -> Vec<RowPart> {
        let from = q.after.as_ref().map_or(q.from, |a| q.from.max(a.0));
        if from >= q.to || q.limit == 0 {
            return Vec::new();
        }
        let behind = |start: i64, group: &Group| {
            let after = q.after.as_ref();
            after.is_none_or(|(at, last)| (start, group) > (*at, last))
        };
        if let Some(group) = exact(q) {
            let Some(rows) = self.groups.get(&(q.aggregate, group.clone())) else {
                return Vec::new();
            };
            let fitting = rows
                .range(from..q.to)
                .filter(|(start, _)| behind(**start, &group))
                .map(|(_, row)| row);
            return cut(fitting, q);
        }
        let Some(held) = self.aggregates.get(&q.aggregate) else {
            return Vec::new();
        };
        let keys = held.starts.range(from..q.to).flat_map(|(start, at)| {
            let fitting = at.groups.iter().filter(|g| q.fits(g) && behind(*start, g));
            fitting.map(|group| (*start, group))
        });
        let rows = keys.filter_map(|(start, group)| {
            let rows = self.groups.get(&(q.aggregate, group.clone()))?;
            rows.get(&start)
        });
        cut(rows, q)
    }
}

/// The group, if the query names a single one.
fn exact(q: &HistoryQuery) -> Option<Group> {
    if q.group.is_empty() {
        return None;
    }
    q.group
        .iter()
        .map(|v| v.as_deref().map(Into::into))
        .collect()
}

fn cut<'a>(rows: impl DoubleEndedIterator<Item = &'a RowPart>, q: &HistoryQuery) -> Vec<RowPart> {
    if !q.newest {
        return rows.take(q.limit).cloned().collect();
    }
    let mut newest: Vec<RowPart> = rows.rev().take(q.limit).cloned().collect();
    newest.reverse();
    newest
}

fn drop_rows(
    all: &mut HashMap<GroupKey, BTreeMap<i64, RowPart>>,
    aggregate: u32,
    start: i64,
    groups: BTreeSet<Group>,
) {
    for group in groups {
        let key = (aggregate, group);
        if let Some(rows) = all.get_mut(&key) {
            rows.remove(&start);
            if rows.is_empty() {
                all.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::part;

    fn query(from: i64, to: i64, limit: usize) -> HistoryQuery {
        HistoryQuery {
            aggregate: 0,
            tier: crate::Tier::Window,
            from,
            to,
            group: Vec::new(),
            after: None,
            newest: false,
            limit,
        }
    }

    fn keys(rows: &[RowPart]) -> Vec<(i64, String)> {
        rows.iter().map(|r| (r.start, r.group.join(","))).collect()
    }

    #[test]
    fn the_oldest_starts_go_and_late_rows_below_are_not_taken() {
        let mut rows = Rows::default();
        for start in 0..6 {
            for group in ["a", "b"] {
                assert!(rows.put(part(0, &[group], start, 1), 8));
            }
        }
        assert_eq!(keys(&rows.range(&query(0, 9, 3)))[0], (2, "a".into()));
        assert_eq!(rows.aggregates[&0].weight, 8);
        assert!(!rows.put(part(0, &["a"], 1, 9), 8));
        assert!(rows.put(part(0, &["a"], 2, 2), 8));
        assert!(!rows.put(part(0, &["a"], 2, 2), 8), "not newer");
        assert_eq!(rows.aggregates[&0].weight, 8);
        rows.forget(0, 5);
        assert_eq!(rows.keys().count(), 2);
        rows.forget(0, 6);
        assert_eq!((rows.keys().count(), rows.aggregates[&0].weight), (0, 0));
    }

    #[test]
    fn one_start_is_held_whole() {
        let mut rows = Rows::default();
        for group in ["a", "b", "c"] {
            assert!(rows.put(part(0, &[group], 7, 1), 2));
        }
        assert_eq!(rows.range(&query(0, 9, 9)).len(), 3);
        assert!(!rows.put(part(0, &["a"], 6, 1), 2), "older, and no room");
    }

    #[test]
    fn ranges_go_by_start_and_group_in_both_directions() {
        let mut rows = Rows::default();
        for start in [10, 20] {
            for group in ["b", "a", "ab"] {
                rows.put(part(0, &[group], start, 1), ROWS_MAX);
            }
        }
        let first = rows.range(&query(0, 99, 4));
        let order = [(10, "a"), (10, "ab"), (10, "b"), (20, "a")];
        let order: Vec<(i64, String)> = order.iter().map(|k| (k.0, k.1.into())).collect();
        assert_eq!(keys(&first), order);
        let mut q = query(0, 99, 2);
        q.after = Some((10, first[1].group.clone()));
        assert_eq!(keys(&rows.range(&q)), order[2..]);
        let mut q = query(0, 20, 2);
        q.newest = true;
        assert_eq!(keys(&rows.range(&q)), order[1..3]);
        let mut q = query(0, 99, 9);
        q.group = vec![Some("ab".into())];
        assert_eq!(rows.range(&q).len(), 2);
        q.after = Some((10, first[1].group.clone()));
        assert_eq!(keys(&rows.range(&q)), [(20, "ab".into())]);
    }
}
