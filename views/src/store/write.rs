//! The write side: for the processor only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use event::AggregateSpec;

use super::{Declared, Pending, RING, ROWS_MAX, SECOND, Views, push_ring, read, write};
use crate::completeness::CompletenessIndex;
use crate::model::{
    Alert, FileReport, Incident, Notification, PartitionReport, QuarantineItem, Totals,
};
use crate::part::{DeviceSource, Group, HistorySource, LagReport, RowPart, StatusCounts};

/// Newest windows of a group whose completeness is watched for changes.
const WATCHED_WINDOWS: usize = 60;
/// Changed rows remembered between two frames of the live stream.
pub(super) const CHANGES_MAX: usize = 500;

/// Writing: for the processor only.
impl Views {
    /// Empty views of `partitions` partitions. `started` is the time of the server's start,
    /// microseconds UTC.
    pub fn new(partitions: u16, version: &str, started: i64) -> Arc<Self> {
        Arc::new(Self {
            version: version.to_owned(),
            started,
            ready: AtomicBool::new(false),
            parts: (0..partitions).map(|_| RwLock::default()).collect(),
            declared: RwLock::default(),
            sources: RwLock::default(),
            histories: RwLock::default(),
            notifications: RwLock::default(),
            on_call: RwLock::default(),
            files: RwLock::default(),
            pending: Mutex::default(),
            shown_open: Mutex::default(),
        })
    }

    /// Says what is going to be computed, as the configuration has it: shown until the first partition has
    /// caught up and says what it computes. No rows belong to it.
    pub fn expect(&self, aggregates: Vec<AggregateSpec>, rules: Vec<serde_json::Value>) {
        let mut declared = write(&self.declared);
        if declared.aggregates.is_empty() && declared.rules.is_empty() {
            let aggregates = (0..).zip(aggregates).collect();
            *declared = Declared { aggregates, rules };
        }
    }

    /// Says what a partition computes: aggregates by their slots, and rules. Rows of a slot that it no longer
    /// computes, or that has another meaning now, are dropped.
    ///
    /// Partitions come to a change one after the other; until the last one has, what any of them computes is
    /// shown, and of two aggregates with one name that of the greater slot.
    pub fn declare(
        &self,
        partition: u16,
        aggregates: Vec<(u32, AggregateSpec)>,
        rules: Vec<serde_json::Value>,
    ) {
        let new = Declared { aggregates, rules };
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            if part.declared == new {
                return;
            }
            let old = std::mem::replace(&mut part.declared, new.clone());
            let same = |slot: u32| new.slot(slot).is_some_and(|a| old.slot(slot) == Some(a));
            part.rows.retain(same);
            part.indexes.retain(|k, _| same(k.0));
        }
        let mut all = Declared::default();
        for part in &self.parts {
            let own = read(part).declared.clone();
            for (slot, spec) in own.aggregates {
                let known = all.aggregates.iter_mut().find(|a| a.1.name == spec.name);
                match known {
                    None => all.aggregates.push((slot, spec)),
                    Some(known) if slot > known.0 => *known = (slot, spec),
                    Some(_) => {}
                }
            }
            for rule in own.rules {
                if !all.rules.iter().any(|r| r["name"] == rule["name"]) {
                    all.rules.push(rule);
                }
            }
        }
        // Partitions that number differently may use one slot for two: here each has its own.
        for i in 1..all.aggregates.len() {
            let (before, rest) = all.aggregates.split_at_mut(i);
            if before.iter().any(|a| a.0 == rest[0].0) {
                let greatest = before.iter().chain(rest.iter()).map(|a| a.0).max();
                rest[0].0 = greatest.unwrap_or_default().saturating_add(1);
            }
        }
        *write(&self.declared) = all;
    }

    /// Adds the place where a partition's devices are looked up; to be called in the order of the partitions.
    pub fn add_device_source(&self, source: Arc<dyn DeviceSource>) {
        write(&self.sources).push(source);
    }

    /// Sets the place where a partition's past is looked up.
    pub fn add_history_source(&self, partition: u16, source: Arc<dyn HistorySource>) {
        write(&self.histories).insert(partition, source);
    }

    /// Says that the processor has caught up after the start.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Takes new parts of rows; one with a revision that is not greater is ignored. Where a history stands
    /// behind them, the newest [`ROWS_MAX`] of an aggregate are held.
    pub fn put_rows(&self, partition: u16, rows: Vec<RowPart>) {
        if rows.is_empty() {
            return;
        }
        let most = match read(&self.histories).contains_key(&partition) {
            true => ROWS_MAX,
            false => usize::MAX,
        };
        let mut changed = Vec::with_capacity(rows.len());
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            for row in rows {
                let key = (row.aggregate, row.start, row.group.clone());
                if part.rows.put(row, most) {
                    changed.push(key);
                }
            }
        }
        self.mark_rows(partition, changed);
    }

    /// Forgets for good the windows of an aggregate that start before `start`.
    pub fn evict_rows(&self, partition: u16, aggregate: u32, start: i64) {
        let mut part = write(&self.parts[usize::from(partition)]);
        part.rows.forget(aggregate, start);
    }

    /// Drops from memory the windows of an aggregate that start before `start`; queries ask the history for
    /// them. For when too many of them change at once.
    pub fn drop_rows(&self, partition: u16, aggregate: u32, start: i64) {
        let mut part = write(&self.parts[usize::from(partition)]);
        part.rows.drop_before(aggregate, start);
    }

    /// Takes the completeness of a group; the newest windows whose counts changed are reported.
    pub fn put_index(
        &self,
        partition: u16,
        aggregate: u32,
        group: &Group,
        index: Arc<CompletenessIndex>,
    ) {
        let mut changed = Vec::new();
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            let Some(window) = part.declared.slot(aggregate).map(|a| a.window) else {
                return;
            };
            let key = (aggregate, group.clone());
            let old = part
                .indexes
                .insert(key.clone(), index.clone())
                .unwrap_or_default();
            if *old == *index {
                return;
            }
            for start in part.rows.newest(&key).take(WATCHED_WINDOWS) {
                let end = start + window;
                if old.counts(start, end) != index.counts(start, end) {
                    changed.push((aggregate, start, group.clone()));
                }
            }
        }
        self.mark_rows(partition, changed);
    }

    /// Takes ledger, statuses and the newest ingest time of a partition.
    pub fn put_summary(
        &self,
        partition: u16,
        now: i64,
        totals: Totals,
        status: StatusCounts,
        lag: Option<LagReport>,
    ) {
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            part.now = Some(now);
            part.totals = totals;
            part.status = status;
            part.lag = lag;
            if part.counted.back().is_none_or(|&(t, _)| now - t >= SECOND) {
                part.counted.push_back((now, totals.counted));
                while part.counted.len() > 2 && part.counted[1].0 <= now - 10 * SECOND {
                    part.counted.pop_front();
                }
            }
        }
        self.pending().overview = true;
    }

    /// Takes the newest form of an alert; one with the state `dropped` is forgotten. Beyond [`RING`] resolved ones
    /// the oldest give way.
    pub fn put_alert(&self, partition: u16, alert: Alert) {
        let id = alert.id.clone();
        if alert.state == "dropped" {
            let mut part = write(&self.parts[usize::from(partition)]);
            if part.alerts.remove(&id).is_some() {
                part.ended_alerts.retain(|e| *e != id);
                drop(part);
                let mut pending = self.pending();
                pending.alerts.remove(&id);
                // Viewers that are too slow load everything again anyway.
                if pending.dropped_alerts.len() < RING {
                    pending.dropped_alerts.push(alert);
                }
            }
            return;
        }
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            let ended = alert.state == "resolved";
            let old = part.alerts.insert(id.clone(), alert);
            if ended && old.is_none_or(|old| old.state != "resolved") {
                part.ended_alerts.push_back(id.clone());
            }
            while part.ended_alerts.len() > RING {
                if let Some(old) = part.ended_alerts.pop_front() {
                    part.alerts.remove(&old);
                }
            }
        }
        self.pending().alerts.insert(id);
    }

    /// Adds an entry of the quarantine.
    pub fn push_quarantine(&self, partition: u16, item: QuarantineItem) {
        push_ring(
            &mut write(&self.parts[usize::from(partition)]).quarantine,
            item,
        );
    }

    /// Adds an incident.
    pub fn push_incident(&self, partition: u16, incident: Incident) {
        push_ring(
            &mut write(&self.parts[usize::from(partition)]).incidents,
            incident,
        );
    }

    /// Takes how much was refused or quarantined so far by reason, and how many incidents there were.
    pub fn put_troubles(
        &self,
        partition: u16,
        reasons: BTreeMap<&'static str, u64>,
        incidents: u64,
    ) {
        let mut part = write(&self.parts[usize::from(partition)]);
        part.quarantine_totals = reasons;
        part.incident_total = incidents;
    }

    /// Takes the newest form of a notification.
    pub fn put_notification(&self, notification: Notification) {
        let mut all = write(&self.notifications);
        // From the newest: it is they that change.
        match all.iter_mut().rfind(|n| n.id == notification.id) {
            Some(old) => *old = notification,
            None => push_ring(&mut all, notification),
        }
    }

    /// Takes a partition's report.
    pub fn put_report(&self, report: PartitionReport) {
        let partition = usize::from(report.partition);
        write(&self.parts[partition]).report = report;
    }

    /// Takes the sizes of the log file and of the state file.
    pub fn put_files(&self, log: FileReport, state: FileReport) {
        *write(&self.files) = (log, state);
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes rows for the live stream, under the slots that are shown.
    fn mark_rows(&self, partition: u16, changed: Vec<(u32, i64, Group)>) {
        if changed.is_empty() {
            return;
        }
        let own = read(&self.parts[usize::from(partition)]).declared.clone();
        let shown: BTreeMap<u32, u32> = {
            let declared = read(&self.declared);
            let slot = |(own, spec): &(u32, AggregateSpec)| Some((*own, declared.slot_of(spec)?));
            own.aggregates.iter().filter_map(slot).collect()
        };
        let mut pending = self.pending();
        for (slot, start, group) in changed {
            let Some(&slot) = shown.get(&slot) else {
                continue;
            };
            let key = (slot, start, group);
            if pending.rows.len() >= CHANGES_MAX && !pending.rows.contains(&key) {
                pending.dropped += 1;
            } else {
                pending.rows.insert(key);
            }
        }
    }
}
