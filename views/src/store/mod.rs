//! The store itself: one part per partition, merged on read.
//!
//! Locks are held for the time of one lookup or one write, never across I/O: the past is asked for
//! without any. Everything that grows has a limit: of rows the newest are held ([`ROWS_MAX`]), lists are
//! rings.

mod changes;
mod commands;
mod look;
mod merge;
mod oncall;
mod read;
mod rows;
mod windows;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use event::AggregateSpec;

use crate::commands::Command;
use crate::completeness::CompletenessIndex;
use crate::model::{
    Alert, FileReport, Incident, Notification, PartitionReport, QuarantineItem, Row, Totals,
};
use crate::oncall::{AlertPage, MarkedAlert};
use crate::part::{DeviceSource, Group, HistorySource, LagReport, StatusCounts};

use rows::Rows;

pub use look::{Known, Look};
pub use rows::ROWS_MAX;
pub use windows::{QueryError, RowPage, WindowQuery};

const SECOND: i64 = 1_000_000;
/// A window settles no earlier than this after its end (ingest time).
pub const SETTLE_AFTER: i64 = 5 * SECOND;
/// A window settles at the latest this long after its end (ingest time).
pub const SETTLE_DEADLINE: i64 = 15 * 60 * SECOND;
/// Windows shown by the overview.
pub const OVERVIEW_WINDOWS: usize = 30;
/// Newest entries kept of quarantine, incidents, notifications and alerts, each per partition.
pub const RING: usize = 1000;

/// What changed since the last call of [`Views::take_changes`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Changed rows, merged.
    pub windows: Vec<Row>,
    /// Changed rows that found no room.
    pub dropped: u64,
    /// Changed alerts.
    pub alerts: Vec<MarkedAlert>,
    /// Changed pages.
    pub pages: Vec<AlertPage>,
    /// Changed commands; of one that changed again the newest form only.
    pub commands: Vec<Command>,
    /// Changed commands that found no room.
    pub commands_dropped: u64,
    /// Whether the overview may have changed.
    pub overview: bool,
}

type GroupKey = (u32, Group);

#[derive(Default)]
struct Part {
    now: Option<i64>,
    declared: Declared,
    rows: Rows,
    indexes: HashMap<GroupKey, Arc<CompletenessIndex>>,
    totals: Totals,
    /// (ingest time, counted) at most once a second, for the rate.
    counted: VecDeque<(i64, u64)>,
    status: StatusCounts,
    lag: Option<LagReport>,
    alerts: BTreeMap<String, Alert>,
    /// Ended ones in the order of their end.
    ended_alerts: VecDeque<String>,
    quarantine_totals: BTreeMap<&'static str, u64>,
    quarantine: VecDeque<QuarantineItem>,
    incidents: VecDeque<Incident>,
    incident_total: u64,
    report: PartitionReport,
}

#[derive(Default)]
struct Pending {
    rows: BTreeSet<(u32, i64, Group)>,
    dropped: u64,
    alerts: BTreeSet<String>,
    pages: BTreeSet<String>,
    commands: BTreeMap<String, Command>,
    commands_dropped: u64,
    /// In the form that says so.
    dropped_alerts: Vec<Alert>,
    overview: bool,
}

/// What is computed.
#[derive(Default, Clone, PartialEq)]
struct Declared {
    /// By slot, in the order of their declaration.
    aggregates: Vec<(u32, AggregateSpec)>,
    rules: Vec<serde_json::Value>,
}

impl Declared {
    fn slot(&self, slot: u32) -> Option<&AggregateSpec> {
        let found = self.aggregates.iter().find(|a| a.0 == slot);
        found.map(|a| &a.1)
    }

    /// The slot of an aggregate. Partitions number for themselves: one that died in the middle of a change may
    /// have come to another number, and what is put together must mean the same.
    fn slot_of(&self, spec: &AggregateSpec) -> Option<u32> {
        let found = self.aggregates.iter().find(|a| a.1 == *spec);
        found.map(|a| a.0)
    }
}

/// The live results of all partitions.
pub struct Views {
    version: String,
    started: i64,
    ready: AtomicBool,
    parts: Vec<RwLock<Part>>,
    /// What any of the partitions computes.
    declared: RwLock<Declared>,
    /// In the order of the partitions.
    sources: RwLock<Vec<Arc<dyn DeviceSource>>>,
    /// By partition.
    histories: RwLock<BTreeMap<u16, Arc<dyn HistorySource>>>,
    notifications: RwLock<VecDeque<Notification>>,
    on_call: RwLock<oncall::OnCall>,
    files: RwLock<(FileReport, FileReport)>,
    pending: Mutex<Pending>,
    /// Rows that the live stream has shown as open, oldest first: one may settle without any new record,
    /// when the last partition to be done with it holds no event of it.
    shown_open: Mutex<BTreeSet<(i64, u32, Group)>>,
}

// A panic while a lock was held leaves plain values behind, at worst an older result: go on.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn push_ring<T>(ring: &mut VecDeque<T>, item: T) {
    if ring.len() == RING {
        ring.pop_front();
    }
    ring.push_back(item);
}
