//! Windows: the newest from memory, older ones and the coarser tiers from the past.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::AggregateSpec;

use super::merge::{Merged, group_map};
use super::{OVERVIEW_WINDOWS, Part, SECOND, Views, read, write};
use crate::completeness::Counts;
use crate::model::{Aggregate, Outstanding, Row, Time, WindowCompleteness};
use crate::part::{
    DeviceSource, Group, HistoryQuery, HistorySource, OutstandingQuery, Page, RowPart, Tier,
};

/// The last microsecond of the year 9999.
const TIME_MAX: i64 = 253_402_300_799_999_999;
/// Groups listed per aggregate.
const GROUPS_LISTED_MAX: usize = 100;

/// Why a query cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No aggregate has this name.
    #[error("aggregate {0:?} is not declared")]
    UnknownAggregate(String),
    /// The aggregate is not grouped by this attribute.
    #[error("aggregate {aggregate:?} is not grouped by {key:?}")]
    UnknownGroupKey {
        /// The aggregate.
        aggregate: String,
        /// The attribute.
        key: String,
    },
    /// A single group is needed.
    #[error("name one group: group.{0}=VALUE is missing")]
    GroupNeeded(String),
    /// The start is not a start of a window.
    #[error(
        "no window starts at {start}: they start at every multiple of {seconds} s since the epoch"
    )]
    Unaligned {
        /// What was asked for.
        start: String,
        /// From the start of a window to the start of the next.
        seconds: i64,
    },
    /// A time that no window has.
    #[error("{0} is not a time between the years 1970 and 9999")]
    TimeOutOfRange(String),
    /// The cursor was not made here.
    #[error("the cursor is not one that this list gave out")]
    BadCursor,
}

/// Which rows to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowQuery {
    /// The aggregate.
    pub aggregate: String,
    /// How coarse.
    pub tier: Tier,
    /// First start, microseconds.
    pub from: Option<i64>,
    /// Starts before this, microseconds.
    pub to: Option<i64>,
    /// Attribute values that must fit.
    pub group: Vec<(String, String)>,
    /// Cursor of the last page.
    pub after: Option<String>,
    /// At most so many rows.
    pub limit: usize,
}

/// A page of rows, ascending by (start, group).
#[derive(Debug, Clone, PartialEq)]
pub struct RowPage {
    /// The rows.
    pub items: Vec<Row>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
}

impl Views {
    /// The declared aggregates.
    pub fn aggregates(&self) -> Vec<Aggregate> {
        let declared = read(&self.declared).clone();
        let mut groups: BTreeMap<u32, BTreeSet<Group>> = BTreeMap::new();
        for part in &self.parts {
            let part = read(part);
            let shown = |slot| declared.slot_of(part.declared.slot(slot)?);
            // Of a group whose windows are all in the past at least the completeness is held.
            for (slot, group) in part.rows.keys().chain(part.indexes.keys()) {
                if let Some(slot) = shown(*slot) {
                    groups.entry(slot).or_default().insert(group.clone());
                }
            }
        }
        let model = |(slot, spec): &(u32, AggregateSpec)| Aggregate {
            name: spec.name.clone(),
            metric: spec.metric.clone(),
            group_by: spec.group_by.clone(),
            window: format!("{}s", spec.window / SECOND),
            window_seconds: spec.window / SECOND,
            hop_seconds: spec.hop / SECOND,
            functions: spec
                .functions
                .iter()
                .filter_map(|f| serde_json::to_value(f).ok()?.as_str().map(str::to_owned))
                .collect(),
            groups: groups
                .get(slot)
                .into_iter()
                .flatten()
                .take(GROUPS_LISTED_MAX)
                .map(|g| group_map(spec, g))
                .collect(),
        };
        declared.aggregates.iter().map(model).collect()
    }

    pub(super) fn spec(&self, name: &str) -> Result<AggregateSpec, QueryError> {
        let declared = read(&self.declared);
        let found = declared.aggregates.iter().find(|a| a.1.name == name);
        found
            .map(|a| a.1.clone())
            .ok_or_else(|| QueryError::UnknownAggregate(name.to_owned()))
    }

    /// Rows of an aggregate: with `from`, `to` or `after` the first ones in that range, else the
    /// newest ones; ascending by (start, group) either way. May read from disk.
    ///
    /// **Errors**: an aggregate or an attribute that is not declared, or a strange cursor.
    pub fn windows(&self, q: &WindowQuery) -> Result<RowPage, QueryError> {
        let spec = self.spec(&q.aggregate)?;
        let mut group: Vec<Option<String>> = vec![None; spec.group_by.len()];
        for (key, value) in &q.group {
            let i = spec.group_by.iter().position(|g| g == key);
            let i = i.ok_or_else(|| QueryError::UnknownGroupKey {
                aggregate: q.aggregate.clone(),
                key: key.clone(),
            })?;
            group[i] = Some(value.clone());
        }
        let after = q.after.as_deref().map(parse_cursor).transpose()?;
        if after.as_ref().is_some_and(|a| a.1.len() != group.len()) {
            return Err(QueryError::BadCursor);
        }
        // What one partition has forgotten would show as if the others were all.
        let horizons = self.parts.iter().filter(|_| q.tier == Tier::Window);
        let horizon = horizons.filter_map(|p| {
            let part = read(p);
            part.rows.horizon(part.declared.slot_of(&spec)?)
        });
        let horizon = horizon.max();
        let limit = q.limit.max(1);
        let query = HistoryQuery {
            // Each partition is asked by its own slot.
            aggregate: 0,
            tier: q.tier,
            from: q.from.unwrap_or(i64::MIN).max(horizon.unwrap_or(i64::MIN)),
            to: q.to.unwrap_or(i64::MAX),
            group,
            newest: q.from.is_none() && q.to.is_none() && after.is_none(),
            after,
            limit: limit + 1,
        };
        // Each partition gives its first `limit + 1` rows (or last): all parts of the first `limit` of all
        // are among them.
        let mut rows: BTreeMap<(i64, Group), Vec<(usize, RowPart)>> = BTreeMap::new();
        for partition in 0..self.parts.len() {
            for row in self.rows_of(partition, &spec, query.clone()) {
                let key = (row.start, row.group.clone());
                rows.entry(key).or_default().push((partition, row));
            }
        }
        let more = rows.len() > limit;
        let skip = match query.newest {
            true => rows.len().saturating_sub(limit),
            false => 0,
        };
        let rows: Vec<_> = rows.into_iter().skip(skip).take(limit).collect();
        let next = rows
            .last()
            .filter(|_| more && !query.newest)
            .map(|((start, group), _)| cursor(*start, group));
        let items = rows
            .into_iter()
            .filter_map(|(_, parts)| self.merge(&spec, &parts))
            .collect();
        Ok(RowPage { items, next })
    }

    /// One partition's rows, from memory and from the past.
    fn rows_of(
        &self,
        partition: usize,
        spec: &AggregateSpec,
        mut query: HistoryQuery,
    ) -> Vec<RowPart> {
        let memory = {
            let part = read(&self.parts[partition]);
            let Some(slot) = part.declared.slot_of(spec) else {
                return Vec::new();
            };
            query.aggregate = slot;
            match query.tier {
                Tier::Window => part.rows.range(&query),
                Tier::Hour | Tier::Day => Vec::new(),
            }
        };
        let source = self.history(partition);
        if query.tier != Tier::Window {
            return source.map_or_else(Vec::new, |s| s.rows(&query));
        }
        let Some(source) = source else {
            return memory;
        };
        // After the look into memory: what is dropped between the two is looked up.
        let floor = self.floor(partition, query.aggregate, source.as_ref());
        let from = query
            .after
            .as_ref()
            .map_or(query.from, |a| query.from.max(a.0));
        let whole = memory.iter().filter(|r| r.start >= floor).count();
        if from >= floor.min(query.to) || (query.newest && whole >= query.limit) {
            return memory;
        }
        let past = source.rows(&HistoryQuery {
            to: query.to.min(floor),
            ..query.clone()
        });
        let mut rows: BTreeMap<(i64, Group), RowPart> = BTreeMap::new();
        for row in past.into_iter().chain(memory) {
            let key = (row.start, row.group.clone());
            let newer = |old: &RowPart| old.revision < row.revision;
            if rows.get(&key).is_none_or(newer) {
                rows.insert(key, row);
            }
        }
        let skip = match query.newest {
            true => rows.len().saturating_sub(query.limit),
            false => 0,
        };
        rows.into_values().skip(skip).take(query.limit).collect()
    }

    pub(super) fn history(&self, partition: usize) -> Option<Arc<dyn HistorySource>> {
        let number = u16::try_from(partition).ok()?;
        read(&self.histories).get(&number).cloned()
    }

    /// From which start on a partition's rows are all in memory.
    pub(super) fn floor(&self, partition: usize, slot: u32, source: &dyn HistorySource) -> i64 {
        // Until the processor has caught up, rows come and go that never reach us.
        if !self.ready() {
            return i64::MAX;
        }
        if let Some(floor) = read(&self.parts[partition]).rows.floor(slot) {
            return floor;
        }
        let newest = source.rows(&HistoryQuery {
            aggregate: slot,
            tier: Tier::Window,
            from: i64::MIN,
            to: i64::MAX,
            group: Vec::new(),
            after: None,
            newest: true,
            limit: 1,
        });
        let stored = newest.last().map_or(i64::MIN, |r| r.start + 1);
        let rows = &mut write(&self.parts[partition]).rows;
        rows.set_stored(slot, stored);
        rows.floor(slot).unwrap_or(stored)
    }

    /// The parts of a row (one of each partition that has any) as one, with what the other partitions
    /// know of it.
    fn merge(&self, spec: &AggregateSpec, parts: &[(usize, RowPart)]) -> Option<Row> {
        let first = &parts.first()?.1;
        let (start, end) = (first.start, first.end);
        let mut merged = Merged::default();
        for (number, part) in self.parts.iter().enumerate() {
            let part = read(part);
            let counts = part.counts(spec, &first.group, start, end);
            match parts.iter().find(|p| p.0 == number) {
                Some((_, row)) => merged.add(&counts, row),
                None => merged.add_empty(&counts, part.now, end),
            }
        }
        merged.row(spec)
    }

    /// One window of one group. `lookups` is how many partitions' pasts may still be asked for it.
    ///
    /// **Errors**: none are left, so that the row cannot be told.
    pub(super) fn row(
        &self,
        spec: &AggregateSpec,
        group: &Group,
        start: i64,
        lookups: &mut usize,
    ) -> Result<Option<Row>, NoLookups> {
        let mut parts = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            let (slot, here) = {
                let part = read(part);
                let Some(slot) = part.declared.slot_of(spec) else {
                    continue;
                };
                let key = (slot, group.clone());
                (slot, part.rows.get(&key, start).cloned())
            };
            if let Some(row) = here {
                parts.push((number, row));
                continue;
            }
            let Some(source) = self.history(number) else {
                continue;
            };
            if start >= self.floor(number, slot, source.as_ref()) {
                continue;
            }
            *lookups = lookups.checked_sub(1).ok_or(NoLookups)?;
            let found = source.rows(&HistoryQuery {
                aggregate: slot,
                tier: Tier::Window,
                from: start,
                to: start + 1,
                group: group.iter().map(|v| Some(v.to_string())).collect(),
                after: None,
                newest: false,
                limit: 1,
            });
            parts.extend(found.into_iter().next().map(|row| (number, row)));
        }
        Ok(self.merge(spec, &parts))
    }

    /// The first aggregate over the whole fleet.
    fn default_aggregate(&self) -> Option<AggregateSpec> {
        let declared = read(&self.declared);
        let found = declared.aggregates.iter().find(|a| a.1.group_by.is_empty());
        found.map(|a| a.1.clone())
    }

    /// The newest windows of the default aggregate, oldest first.
    pub(super) fn newest_completeness(&self) -> Vec<WindowCompleteness> {
        let Some(spec) = self.default_aggregate() else {
            return Vec::new();
        };
        let Some(now) = self.parts.iter().filter_map(|p| read(p).now).max() else {
            return Vec::new();
        };
        let mut starts: BTreeSet<i64> = BTreeSet::new();
        let newest = HistoryQuery {
            aggregate: 0,
            tier: Tier::Window,
            from: i64::MIN,
            to: i64::MAX,
            group: Vec::new(),
            after: None,
            newest: true,
            limit: OVERVIEW_WINDOWS,
        };
        for partition in 0..self.parts.len() {
            let rows = self.rows_of(partition, &spec, newest.clone());
            starts.extend(rows.iter().map(|r| r.start));
        }
        let Some(&newest) = starts.last() else {
            return Vec::new();
        };
        // While data is flowing, windows without any event show too: a silent fleet is news. A replay
        // of old data is far from now; there only windows with events are of interest.
        let current = spec.pane_start(now);
        let span = OVERVIEW_WINDOWS as i64 * spec.hop;
        if newest > current - span {
            let oldest = starts
                .first()
                .copied()
                .unwrap_or(newest)
                .max(current - span + spec.hop);
            starts = (0..OVERVIEW_WINDOWS as i64)
                .map(|i| current - i * spec.hop)
                .filter(|&s| s >= oldest)
                .collect();
        }
        let skip = starts.len().saturating_sub(OVERVIEW_WINDOWS);
        let fleet = Group::from([]);
        starts
            .into_iter()
            .skip(skip)
            .map(|start| {
                let end = start + spec.window;
                let mut sum = Counts::default();
                for part in &self.parts {
                    sum.add(&read(part).counts(&spec, &fleet, start, end));
                }
                sum.for_window(start, end)
            })
            .collect()
    }

    /// The devices that a window waits for, ascending by id.
    ///
    /// **Errors**: an undeclared aggregate, a group that is not fully named, a start off the grid.
    pub fn outstanding(
        &self,
        aggregate: &str,
        start: i64,
        group: &[(String, String)],
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<Outstanding>, QueryError> {
        let spec = self.spec(aggregate)?;
        if let Some((key, _)) = group.iter().find(|(k, _)| !spec.group_by.contains(k)) {
            return Err(QueryError::UnknownGroupKey {
                aggregate: aggregate.to_owned(),
                key: key.clone(),
            });
        }
        let mut values: Vec<Arc<str>> = Vec::new();
        for key in &spec.group_by {
            let value = group.iter().find(|(k, _)| k == key);
            let value = value.ok_or_else(|| QueryError::GroupNeeded(key.clone()))?;
            values.push(value.1.as_str().into());
        }
        if !(0..=TIME_MAX).contains(&start) {
            return Err(QueryError::TimeOutOfRange(Time(start).to_string()));
        }
        if spec.pane_start(start) != start {
            return Err(QueryError::Unaligned {
                start: Time(start).to_string(),
                seconds: spec.hop / SECOND,
            });
        }
        let query = OutstandingQuery {
            aggregate: 0,
            group: values.into(),
            start,
            after,
            limit,
        };
        let ask = |partition: usize, source: &dyn DeviceSource| {
            let part = self.parts.get(partition)?;
            let aggregate = read(part).declared.slot_of(&spec)?;
            Some(source.outstanding(&OutstandingQuery {
                aggregate,
                ..query.clone()
            }))
        };
        Ok(self.merge_pages(limit, ask, |o| o.device.clone()))
    }
}

impl Part {
    /// How many devices a window of a group waits for, here.
    pub(super) fn counts(
        &self,
        spec: &AggregateSpec,
        group: &Group,
        start: i64,
        end: i64,
    ) -> Counts {
        let slot = self.declared.slot_of(spec);
        let index = slot.and_then(|slot| self.indexes.get(&(slot, group.clone())));
        index.map(|i| i.counts(start, end)).unwrap_or_default()
    }
}

/// The past was asked often enough.
pub(super) struct NoLookups;

/// Where a page ended: the start, and each value of the group with its length, so that any text can stand
/// in it.
fn cursor(start: i64, group: &Group) -> String {
    let values: String = group.iter().map(|v| format!("{}:{v}", v.len())).collect();
    format!("{start}:{values}")
}

fn parse_cursor(cursor: &str) -> Result<(i64, Group), QueryError> {
    let parsed = || {
        let (start, mut rest) = cursor.split_once(':')?;
        let mut values: Vec<Arc<str>> = Vec::new();
        while !rest.is_empty() {
            let (len, text) = rest.split_once(':')?;
            let (value, behind) = text.split_at_checked(len.parse().ok()?)?;
            values.push(value.into());
            rest = behind;
        }
        Some((start.parse().ok()?, Group::from(values)))
    };
    parsed().ok_or(QueryError::BadCursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        for values in [&[][..], &["a"], &["", "1:x"], &["ä:ö", "3"]] {
            let group: Group = values.iter().map(|v| Arc::from(*v)).collect();
            assert_eq!(parse_cursor(&cursor(-5, &group)), Ok((-5, group)));
        }
        for bad in ["", "1", "x:", "1:2:a", "1:a", "1:1:ä", "1:-1:a"] {
            assert!(parse_cursor(bad).is_err(), "{bad}");
        }
    }
}
