//! The write side: for the processor only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use event::AggregateSpec;

use super::{Declared, Pending, RING, SECOND, Views, push_ring, read, write};
use crate::completeness::CompletenessIndex;
use crate::model::{
    Alert, FileReport, Incident, Notification, PartitionReport, QuarantineItem, Totals,
};
use crate::part::{DeviceSource, Group, HistorySource, LagReport, RowPart, StatusCounts};

/// Newest windows of a group whose completeness is watched for changes.
const WATCHED_WINDOWS: usize = 60;
/// Changed rows remembered between two frames of the live stream.
const CHANGES_MAX: usize = 500;

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
            files: RwLock::default(),
            pending: Mutex::default(),
            shown_open: Mutex::default(),
        })
    }

    /// Says what is computed. Rows of an aggregate whose index changed its meaning are dropped.
    pub fn declare(&self, aggregates: Vec<AggregateSpec>, rules: Vec<serde_json::Value>) {
        let mut declared = write(&self.declared);
        if declared.aggregates != aggregates {
            for part in &self.parts {
                let mut part = write(part);
                let same = |i: u32| {
                    let i = i as usize;
                    declared
                        .aggregates
                        .get(i)
                        .is_some_and(|a| aggregates.get(i) == Some(a))
                };
                part.rows.retain(|k, _| same(k.0));
                part.indexes.retain(|k, _| same(k.0));
                part.horizons.retain(|k, _| same(*k));
            }
        }
        *declared = Declared { aggregates, rules };
    }

    /// Adds the place where a partition's devices are looked up.
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

    /// Takes new parts of rows; one with a revision that is not greater is ignored.
    pub fn put_rows(&self, partition: u16, rows: Vec<RowPart>) {
        if rows.is_empty() {
            return;
        }
        let mut changed = Vec::with_capacity(rows.len());
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            for row in rows {
                let windows = part
                    .rows
                    .entry((row.aggregate, row.group.clone()))
                    .or_default();
                if windows
                    .get(&row.start)
                    .is_some_and(|old| old.revision >= row.revision)
                {
                    continue;
                }
                changed.push((row.aggregate, row.start, row.group.clone()));
                windows.insert(row.start, row);
            }
        }
        self.mark_rows(changed);
    }

    /// Forgets the windows of an aggregate that start before `start`.
    pub fn evict_rows(&self, partition: u16, aggregate: u32, start: i64) {
        let mut part = write(&self.parts[usize::from(partition)]);
        part.horizons.insert(aggregate, start);
        part.rows.retain(|key, windows| {
            if key.0 == aggregate {
                *windows = windows.split_off(&start);
            }
            !windows.is_empty()
        });
    }

    /// Takes the completeness of a group; the newest windows whose counts changed are reported.
    pub fn put_index(
        &self,
        partition: u16,
        aggregate: u32,
        group: &Group,
        index: Arc<CompletenessIndex>,
    ) {
        let Some(window) = read(&self.declared)
            .aggregates
            .get(aggregate as usize)
            .map(|a| a.window)
        else {
            return;
        };
        let mut changed = Vec::new();
        {
            let mut part = write(&self.parts[usize::from(partition)]);
            let key = (aggregate, group.clone());
            let old = part
                .indexes
                .insert(key.clone(), index.clone())
                .unwrap_or_default();
            if *old == *index {
                return;
            }
            if let Some(rows) = part.rows.get(&key) {
                for &start in rows.keys().rev().take(WATCHED_WINDOWS) {
                    let end = start + window;
                    if old.counts(start, end) != index.counts(start, end) {
                        changed.push((aggregate, start, group.clone()));
                    }
                }
            }
        }
        self.mark_rows(changed);
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

    /// Takes the newest form of an alert. Beyond [`RING`] resolved ones the oldest give way.
    pub fn put_alert(&self, partition: u16, alert: Alert) {
        let id = alert.id.clone();
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
        // The same notice goes to every target under the same id.
        let same =
            |n: &&mut Notification| n.id == notification.id && n.target == notification.target;
        match all.iter_mut().find(same) {
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

    fn mark_rows(&self, changed: Vec<(u32, i64, Group)>) {
        if changed.is_empty() {
            return;
        }
        let mut pending = self.pending();
        for key in changed {
            if pending.rows.len() >= CHANGES_MAX && !pending.rows.contains(&key) {
                pending.dropped += 1;
            } else {
                pending.rows.insert(key);
            }
        }
    }
}
