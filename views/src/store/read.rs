//! The read side: parts merged into what the API answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use event::AggregateSpec;

use super::{
    Changes, GroupKey, OVERVIEW_WINDOWS, SECOND, SETTLE_AFTER, SETTLE_DEADLINE, Views, read,
};
use crate::completeness::Counts;
use crate::model::{
    Aggregate, Alert, AlertCounts, Device, HeldBackBy, Incident, Notification, Outstanding,
    Overview, Point, QuarantineItem, Row, System, Time, Totals, WindowCompleteness,
};
use crate::part::{
    DeviceQuery, DeviceSource, Group, LagReport, OutstandingQuery, Page, RowPart, RowState,
};

/// The last microsecond of the year 9999.
const TIME_MAX: i64 = 253_402_300_799_999_999;
/// Groups listed per aggregate.
const GROUPS_LISTED_MAX: usize = 100;
/// Open rows that are watched for settling by themselves.
const SHOWN_OPEN_MAX: usize = 500;

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
    #[error("{start} is no start of a window of {seconds} s; windows are aligned to the epoch")]
    Unaligned {
        /// What was asked for.
        start: String,
        /// Window length.
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

/// Reading: for the dashboard.
impl Views {
    /// Whether the processor has caught up after the start.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The fleet at a glance.
    pub fn overview(&self) -> Overview {
        let mut o = Overview {
            now: None,
            devices: Default::default(),
            agents: Default::default(),
            events_per_second: 0.0,
            totals: Totals::default(),
            alerts: AlertCounts::default(),
            complete_to: None,
            held_back_by: None,
            completeness: self.newest_completeness(),
            incidents: 0,
            default_aggregate: read(&self.declared)
                .aggregates
                .first()
                .map(|a| a.name.clone()),
        };
        for severity in ["critical", "error", "warning", "info"] {
            o.alerts.firing.insert(severity.to_owned(), 0);
        }
        for part in &self.parts {
            let part = read(part);
            o.now = o.now.max(part.now.map(Time));
            o.totals.add(&part.totals);
            let (d, s) = (&mut o.devices, part.status.devices);
            d.expected += s.expected;
            d.online += s.online;
            d.buffering += s.buffering;
            d.silent += s.silent;
            let (a, s) = (&mut o.agents, part.status.agents);
            a.known += s.known;
            a.online += s.online;
            a.buffering += s.buffering;
            o.incidents += part.incident_total;
            o.events_per_second += rate(&part.counted);
            if let Some(LagReport(lag)) = &part.lag {
                let further: fn(&HeldBackBy) -> (Time, &str) = |h| (h.progress, &h.agent);
                if o.held_back_by
                    .as_ref()
                    .is_none_or(|h| further(lag) < further(h))
                {
                    o.held_back_by = Some(lag.clone());
                }
            }
            for alert in part.alerts.values().filter(|a| a.state == "firing") {
                *o.alerts
                    .firing
                    .entry(alert.severity.to_owned())
                    .or_default() += 1;
                o.alerts.unacknowledged += 1;
            }
        }
        o.complete_to = o.held_back_by.as_ref().map(|h| h.progress);
        o
    }

    /// The first aggregate over the whole fleet.
    fn default_aggregate(&self) -> Option<(u32, AggregateSpec)> {
        let declared = read(&self.declared);
        let i = declared
            .aggregates
            .iter()
            .position(|a| a.group_by.is_empty())?;
        Some((i as u32, declared.aggregates[i].clone()))
    }

    /// The newest windows of the default aggregate, oldest first.
    fn newest_completeness(&self) -> Vec<WindowCompleteness> {
        let Some((number, spec)) = self.default_aggregate() else {
            return Vec::new();
        };
        let window = spec.window;
        let Some(now) = self.parts.iter().filter_map(|p| read(p).now).max() else {
            return Vec::new();
        };
        let key: GroupKey = (number, Group::from([]));
        let mut starts: BTreeSet<i64> = BTreeSet::new();
        for part in &self.parts {
            if let Some(rows) = read(part).rows.get(&key) {
                starts.extend(rows.keys().rev().take(OVERVIEW_WINDOWS));
            }
        }
        let Some(&newest) = starts.last() else {
            return Vec::new();
        };
        // While data is flowing, windows without any event show too: a silent fleet is news. A replay
        // of old data is far from now; there only windows with events are of interest.
        let current = now.div_euclid(window) * window;
        let span = OVERVIEW_WINDOWS as i64 * window;
        if newest > current - span {
            let oldest = starts
                .first()
                .copied()
                .unwrap_or(newest)
                .max(current - span + window);
            starts = (0..OVERVIEW_WINDOWS as i64)
                .map(|i| current - i * window)
                .filter(|&s| s >= oldest)
                .collect();
        }
        let skip = starts.len().saturating_sub(OVERVIEW_WINDOWS);
        starts
            .into_iter()
            .skip(skip)
            .map(|s| self.counts(&key, s, s + window).for_window(s, s + window))
            .collect()
    }

    fn counts(&self, key: &GroupKey, start: i64, end: i64) -> Counts {
        let mut sum = Counts::default();
        for part in &self.parts {
            if let Some(index) = read(part).indexes.get(key) {
                sum.add(&index.counts(start, end));
            }
        }
        sum
    }

    /// The declared aggregates.
    pub fn aggregates(&self) -> Vec<Aggregate> {
        let specs = read(&self.declared).aggregates.clone();
        specs
            .iter()
            .enumerate()
            .map(|(i, spec)| {
                let mut groups: BTreeSet<Group> = BTreeSet::new();
                for part in &self.parts {
                    let part = read(part);
                    groups.extend(
                        part.rows
                            .keys()
                            .filter(|k| k.0 == i as u32)
                            .map(|k| k.1.clone()),
                    );
                }
                Aggregate {
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
                        .iter()
                        .take(GROUPS_LISTED_MAX)
                        .map(|g| group_map(spec, g))
                        .collect(),
                }
            })
            .collect()
    }

    fn spec(&self, name: &str) -> Result<(u32, AggregateSpec), QueryError> {
        let declared = read(&self.declared);
        let i = declared.aggregates.iter().position(|a| a.name == name);
        let i = i.ok_or_else(|| QueryError::UnknownAggregate(name.to_owned()))?;
        Ok((i as u32, declared.aggregates[i].clone()))
    }

    /// Rows of an aggregate: with `from`, `to` or `after` the first ones in that range, else the
    /// newest ones; ascending by (start, group) either way.
    ///
    /// **Errors**: an aggregate or an attribute that is not declared, or a strange cursor.
    pub fn windows(&self, q: &WindowQuery) -> Result<RowPage, QueryError> {
        let (aggregate, spec) = self.spec(&q.aggregate)?;
        let mut wanted: Vec<Option<&str>> = vec![None; spec.group_by.len()];
        for (key, value) in &q.group {
            let i = spec.group_by.iter().position(|g| g == key);
            let i = i.ok_or_else(|| QueryError::UnknownGroupKey {
                aggregate: q.aggregate.clone(),
                key: key.clone(),
            })?;
            wanted[i] = Some(value);
        }
        let fits = |g: &Group| {
            g.iter()
                .zip(&wanted)
                .all(|(have, want)| want.is_none_or(|want| **have == *want))
        };
        let after = q.after.as_deref().map(parse_cursor).transpose()?;
        let newest_first = q.from.is_none() && q.to.is_none() && after.is_none();
        // What one partition has forgotten would show as if the others were all.
        let horizons = self
            .parts
            .iter()
            .filter_map(|p| read(p).horizons.get(&aggregate).copied());
        let from = q
            .from
            .unwrap_or(i64::MIN)
            .max(horizons.max().unwrap_or(i64::MIN))
            .max(after.as_ref().map_or(i64::MIN, |a| a.0));
        let to = q.to.unwrap_or(i64::MAX);
        let limit = q.limit.max(1);

        // Each stream gives its first `limit + 1` keys; the first `limit` of all are among them.
        let mut keys: BTreeSet<(i64, Group)> = BTreeSet::new();
        for part in &self.parts {
            let part = read(part);
            for (key, rows) in &part.rows {
                if key.0 != aggregate || !fits(&key.1) || from >= to {
                    continue;
                }
                let starts = rows.range(from..to).map(|(&s, _)| s);
                let add = |s: i64| (s, key.1.clone());
                if newest_first {
                    keys.extend(starts.rev().take(limit + 1).map(add));
                } else {
                    let behind = |s: &i64| {
                        after
                            .as_ref()
                            .is_none_or(|(at, g)| (*s, group_text(&key.1)) > (*at, g.clone()))
                    };
                    keys.extend(starts.filter(behind).take(limit + 1).map(add));
                }
            }
        }
        let more = keys.len() > limit;
        let mut keys: Vec<(i64, Group)> = if newest_first {
            let skip = keys.len().saturating_sub(limit);
            keys.into_iter().skip(skip).collect()
        } else {
            // The cursor compares the groups' texts, so the page must be ordered by them.
            let mut keys: Vec<_> = keys.into_iter().collect();
            keys.sort_by_cached_key(|(s, g)| (*s, group_text(g)));
            keys.truncate(limit);
            keys
        };
        if newest_first {
            keys.sort_by_cached_key(|(s, g)| (*s, group_text(g)));
        }
        let next = (more && !newest_first)
            .then(|| keys.last().map(|(s, g)| format!("{s}:{}", group_text(g))))
            .flatten();
        let items = keys
            .iter()
            .filter_map(|(start, group)| self.row(aggregate, &spec, group, *start))
            .collect();
        Ok(RowPage { items, next })
    }

    /// One row, merged over the partitions.
    fn row(&self, aggregate: u32, spec: &AggregateSpec, group: &Group, start: i64) -> Option<Row> {
        let key = (aggregate, group.clone());
        let end = start + spec.window;
        let (mut counts, mut settled) = (Counts::default(), (0u64, 0u64));
        let mut merged: Option<RowPart> = None;
        let (mut open, mut revised) = (false, false);
        for part in &self.parts {
            let part = read(part);
            let own = part
                .indexes
                .get(&key)
                .map(|i| i.counts(start, end))
                .unwrap_or_default();
            counts.add(&own);
            let Some(row) = part.rows.get(&key).and_then(|rows| rows.get(&start)) else {
                // No event here yet: that part has settled as empty, or is still awaited.
                if own.expected > 0 {
                    open |= !is_settled(&own, part.now.unwrap_or(i64::MIN), end);
                    settled = (
                        settled.0 + own.complete + own.lossy,
                        settled.1 + own.expected,
                    );
                }
                continue;
            };
            open |= row.state == RowState::Open;
            revised |= row.state == RowState::Revised;
            if let Some(s) = row.settled {
                settled = (settled.0 + s.done, settled.1 + s.expected);
            }
            match &mut merged {
                None => merged = Some(row.clone()),
                Some(m) => {
                    m.revision += row.revision;
                    m.count += row.count;
                    // Wrapping on purpose: `sum_f64` says when a sum cannot be told.
                    m.sum = m.sum.wrapping_add(row.sum);
                    if row.numeric > 0 {
                        let none = m.numeric == 0;
                        m.min = if none || row.min < m.min {
                            row.min
                        } else {
                            m.min
                        };
                        m.max = if none || row.max > m.max {
                            row.max
                        } else {
                            m.max
                        };
                    }
                    m.numeric += row.numeric;
                    m.distinct += row.distinct;
                    m.late_events += row.late_events;
                }
            }
        }
        let m = merged?;
        let sum = sum_f64(&m);
        let numeric = m.numeric > 0;
        Some(Row {
            aggregate: spec.name.clone(),
            group: group_map(spec, group),
            start: Time(start),
            end: Time(end),
            state: match (open, revised) {
                (true, _) => RowState::Open,
                (false, true) => RowState::Revised,
                (false, false) => RowState::Settled,
            }
            .as_str(),
            revision: m.revision,
            count: m.count,
            sum,
            mean: sum.map(|s| s / m.numeric as f64),
            min: numeric.then_some(m.min),
            max: numeric.then_some(m.max),
            distinct_devices: m.distinct,
            expected: counts.expected,
            complete: counts.complete,
            lossy: counts.lossy,
            outstanding: counts.outstanding,
            dormant: counts.dormant,
            completeness: counts.completeness(),
            late_events: m.late_events,
            // Parts settle one by one: as long as one is awaited, the window has not settled.
            settled_completeness: (!open && settled.1 > 0)
                .then(|| settled.0 as f64 / settled.1 as f64),
        })
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
        let (index, spec) = self.spec(aggregate)?;
        if let Some((key, _)) = group.iter().find(|(k, _)| !spec.group_by.contains(k)) {
            return Err(QueryError::UnknownGroupKey {
                aggregate: aggregate.to_owned(),
                key: key.clone(),
            });
        }
        let mut values: Vec<Arc<str>> = Vec::new();
        for key in &spec.group_by {
            let value = group.iter().find(|(k, _)| k == key);
            values.push(
                value
                    .ok_or_else(|| QueryError::GroupNeeded(key.clone()))?
                    .1
                    .as_str()
                    .into(),
            );
        }
        if !(0..=TIME_MAX).contains(&start) {
            return Err(QueryError::TimeOutOfRange(Time(start).to_string()));
        }
        if spec.window_start(start) != start {
            return Err(QueryError::Unaligned {
                start: Time(start).to_string(),
                seconds: spec.window / SECOND,
            });
        }
        let query = OutstandingQuery {
            aggregate: index,
            group: values.into(),
            start,
            after,
            limit,
        };
        Ok(self.merge_pages(limit, |s| s.outstanding(&query), |o| o.device.clone()))
    }

    /// The devices that match, ascending by id.
    pub fn devices(&self, query: &DeviceQuery) -> Page<Device> {
        self.merge_pages(query.limit, |s| s.devices(query), |d| d.id.clone())
    }

    fn merge_pages<T>(
        &self,
        limit: usize,
        ask: impl Fn(&dyn DeviceSource) -> Page<T>,
        id: impl Fn(&T) -> String,
    ) -> Page<T> {
        let mut all = Page {
            items: Vec::new(),
            total: 0,
        };
        for source in read(&self.sources).iter() {
            let page = ask(source.as_ref());
            all.total += page.total;
            all.items.extend(page.items);
        }
        all.items.sort_by_cached_key(id);
        all.items.truncate(limit);
        all
    }

    /// One device.
    pub fn device(&self, id: &str) -> Option<Device> {
        read(&self.sources).iter().find_map(|s| s.device(id))
    }

    /// Recent points of a series, oldest first; none if the device or metric is not known.
    pub fn recent(&self, id: &str, metric: &str) -> Option<Vec<Point>> {
        read(&self.sources)
            .iter()
            .find_map(|s| s.recent(id, metric))
    }

    /// Alerts, newest first (by the time they were reported, then by id). `after` is the id of the
    /// last one seen.
    pub fn alerts(&self, state: Option<&str>, after: Option<&str>, limit: usize) -> Page<Alert> {
        let mut items: Vec<Alert> = Vec::new();
        for part in &self.parts {
            let part = read(part);
            items.extend(
                part.alerts
                    .values()
                    .filter(|a| state.is_none_or(|s| s == a.state))
                    .cloned(),
            );
        }
        items.sort_by(|a, b| (b.reported, &b.id).cmp(&(a.reported, &a.id)));
        let total = items.len() as u64;
        let skip = after
            .and_then(|id| items.iter().position(|a| a.id == id))
            .map_or(0, |i| i + 1);
        let items = items.into_iter().skip(skip).take(limit).collect();
        Page { items, total }
    }

    /// The rules as declared.
    pub fn rules(&self) -> Vec<serde_json::Value> {
        read(&self.declared).rules.clone()
    }

    /// One rule by its name.
    pub fn rule(&self, name: &str) -> Option<serde_json::Value> {
        let declared = read(&self.declared);
        declared.rules.iter().find(|r| r["name"] == name).cloned()
    }

    /// Notifications, newest first.
    pub fn notifications(&self, limit: usize) -> Vec<Notification> {
        read(&self.notifications)
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect()
    }

    /// What was refused or quarantined: totals by reason, and the newest entries, newest first.
    pub fn quarantine(&self, limit: usize) -> (BTreeMap<&'static str, u64>, Vec<QuarantineItem>) {
        let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut items: Vec<QuarantineItem> = Vec::new();
        for part in &self.parts {
            let part = read(part);
            for (&reason, n) in &part.quarantine_totals {
                *totals.entry(reason).or_default() += n;
            }
            items.extend(part.quarantine.iter().rev().take(limit).cloned());
        }
        items.sort_by_key(|i| std::cmp::Reverse(i.time));
        items.truncate(limit);
        (totals, items)
    }

    /// The machine room.
    pub fn system(&self) -> System {
        let mut incidents: Vec<Incident> = Vec::new();
        let mut partitions = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let part = read(part);
            incidents.extend(part.incidents.iter().cloned());
            partitions.push(part.report.clone());
        }
        incidents.sort_by_key(|i| std::cmp::Reverse(i.time));
        incidents.truncate(100);
        let (log, state) = *read(&self.files);
        System {
            version: self.version.clone(),
            started: Some(Time(self.started)),
            ready: self.ready(),
            partitions,
            log,
            state,
            incidents,
        }
    }

    /// What changed since the last call. For one consumer: the task that feeds the live stream.
    pub fn take_changes(&self) -> Changes {
        let pending = std::mem::take(&mut *self.pending());
        let specs = read(&self.declared).aggregates.clone();
        let mut open = self
            .shown_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut windows: Vec<Row> = Vec::new();
        for (a, start, group) in &pending.rows {
            let Some(spec) = specs.get(*a as usize) else {
                continue;
            };
            let Some(row) = self.row(*a, spec, group, *start) else {
                continue;
            };
            let key = (*start, *a, group.clone());
            if row.state == RowState::Open.as_str() {
                open.insert(key);
            } else {
                open.remove(&key);
            }
            windows.push(row);
        }
        open.retain(|(start, a, group)| {
            if pending.rows.contains(&(*a, *start, group.clone())) {
                return true;
            }
            let spec = specs.get(*a as usize);
            let row = spec.and_then(|spec| self.row(*a, spec, group, *start));
            let Some(row) = row else { return false };
            let stays = row.state == RowState::Open.as_str();
            if !stays {
                windows.push(row);
            }
            stays
        });
        while open.len() > SHOWN_OPEN_MAX {
            open.pop_first();
        }
        drop(open);
        let mut alerts = Vec::new();
        for part in &self.parts {
            let part = read(part);
            alerts.extend(
                pending
                    .alerts
                    .iter()
                    .filter_map(|id| part.alerts.get(id).cloned()),
            );
        }
        Changes {
            windows,
            dropped: pending.dropped,
            alerts,
            overview: pending.overview,
        }
    }
}

/// Whether a partition without any event of a window has settled it as empty.
fn is_settled(counts: &Counts, now: i64, end: i64) -> bool {
    (now >= end + SETTLE_AFTER && counts.is_enough()) || now >= end + SETTLE_DEADLINE
}

/// The sum as a double; none without numeric values, or if the exact sum may have overflowed.
fn sum_f64(row: &RowPart) -> Option<f64> {
    const UNIT: f64 = (1u64 << 48) as f64;
    const RANGE: f64 = (1u128 << 78) as f64;
    let largest = row.min.abs().max(row.max.abs());
    (row.numeric > 0 && largest * (row.numeric as f64) < RANGE).then(|| row.sum as f64 / UNIT)
}

fn rate(counted: &VecDeque<(i64, u64)>) -> f64 {
    match (counted.front(), counted.back()) {
        (Some(a), Some(b)) if b.0 > a.0 => {
            b.1.saturating_sub(a.1) as f64 * SECOND as f64 / (b.0 - a.0) as f64
        }
        _ => 0.0,
    }
}

fn group_map(spec: &AggregateSpec, group: &Group) -> BTreeMap<String, String> {
    spec.group_by
        .iter()
        .cloned()
        .zip(group.iter().map(|v| v.to_string()))
        .collect()
}

/// A group as one text that no other group has, for cursors.
fn group_text(group: &Group) -> String {
    group.iter().map(|v| format!("{}:{v}", v.len())).collect()
}

fn parse_cursor(cursor: &str) -> Result<(i64, String), QueryError> {
    let (start, group) = cursor.split_once(':').ok_or(QueryError::BadCursor)?;
    Ok((
        start.parse().map_err(|_| QueryError::BadCursor)?,
        group.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completeness::IndexBuilder;
    use crate::part::StatusCounts;

    #[test]
    fn a_row_that_settles_without_a_new_record_is_shown_again() {
        let views = Views::new(2, "test", 0);
        let mut spec = AggregateSpec::defaults().remove(0);
        spec.window = 10 * SECOND;
        spec.hop = 10 * SECOND;
        views.declare(vec![spec], Vec::new());
        let group: Group = [].into();
        for partition in 0..2 {
            let mut index = IndexBuilder::default();
            // Partition 0 is done with the first window, partition 1 is not and has no event of it.
            let progress = if partition == 0 { 100 } else { 5 };
            index.add(1, SECOND, progress * SECOND, 100 * SECOND);
            views.put_index(partition, 0, &group, Arc::new(index.build()));
        }
        let row = RowPart {
            tier: crate::Tier::Window,
            aggregate: 0,
            group,
            start: 0,
            end: 10 * SECOND,
            revision: 1,
            state: RowState::Settled,
            count: 1,
            numeric: 1,
            sum: 0,
            min: 0.0,
            max: 0.0,
            min_at: None,
            max_at: None,
            distinct: 1,
            values: None,
            quantiles: None,
            late_events: 0,
            settled: None,
        };
        views.put_rows(0, vec![row]);
        let states = |now: i64| {
            for partition in 0..2 {
                let (totals, status) = (Totals::default(), StatusCounts::default());
                views.put_summary(partition, now, totals, status, None);
            }
            let rows = views.take_changes().windows;
            rows.iter().map(|r| r.state).collect::<Vec<_>>()
        };
        assert_eq!(states(100 * SECOND), ["open"]);
        assert_eq!(states(101 * SECOND), [""; 0]);
        assert_eq!(states(10 * SECOND + SETTLE_DEADLINE), ["settled"]);
        assert_eq!(states(11 * SECOND + SETTLE_DEADLINE), [""; 0]);
    }
}
