//! What one partition contributes, and the seam through which devices are looked up.

use std::sync::Arc;

use crate::model::{Device, DeviceCounts, HeldBackBy, Outstanding, Point};

/// The values of an aggregate's `group_by`, in its order; empty for the whole fleet.
pub type Group = Arc<[Arc<str>]>;

/// Life of a window within a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowState {
    /// More is expected.
    Open,
    /// Published as final, with its completeness.
    Settled,
    /// Changed after that.
    Revised,
}

impl RowState {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled => "settled",
            Self::Revised => "revised",
        }
    }
}

/// Done and expected devices when the window settled in this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SettledCounts {
    /// Complete + lossy.
    pub done: u64,
    /// Expected.
    pub expected: u64,
}

/// One partition's part of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPart {
    /// Index of the aggregate in the declaration.
    pub aggregate: u32,
    /// The group.
    pub group: Group,
    /// Start of the window, microseconds.
    pub start: i64,
    /// Offset + 1 of the record that caused this emission.
    pub revision: u64,
    /// Its life so far.
    pub state: RowState,
    /// Events.
    pub count: u64,
    /// Events with a numeric value.
    pub numeric: u64,
    /// Exact sum in units of 2^-48.
    pub sum: i128,
    /// Smallest value; meaningless if `numeric` is 0.
    pub min: f64,
    /// Largest value; meaningless if `numeric` is 0.
    pub max: f64,
    /// Different devices.
    pub distinct: u64,
    /// Events that came after it settled.
    pub late_events: u64,
    /// How complete it was when it settled.
    pub settled: Option<SettledCounts>,
}

/// Devices and agents by status in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusCounts {
    /// Devices.
    pub devices: DeviceCounts,
    /// Agents (a plain device is its own agent).
    pub agents: crate::model::AgentCounts,
}

/// The agent furthest behind in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LagReport(pub HeldBackBy);

/// What to list of the devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Part of the id, ASCII case ignored; empty = all.
    pub text: String,
    /// `online`, `buffering` or `silent`.
    pub status: Option<String>,
    /// Attributes that must have these values.
    pub attributes: Vec<(String, String)>,
    /// Only ids greater than this.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Which window's awaited devices to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutstandingQuery {
    /// Index of the aggregate in the declaration.
    pub aggregate: u32,
    /// The group.
    pub group: Group,
    /// Start of the window, microseconds.
    pub start: i64,
    /// Only ids greater than this.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A page of a list, ascending by id.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many match in all.
    pub total: u64,
}

/// Looks devices up in the state of one partition. The processor implements it: ten million devices
/// are not copied into the views.
pub trait DeviceSource: Send + Sync {
    /// One device.
    fn device(&self, id: &str) -> Option<Device>;
    /// The devices that match, ascending by id.
    fn devices(&self, query: &DeviceQuery) -> Page<Device>;
    /// The devices that a window waits for, ascending by id.
    fn outstanding(&self, query: &OutstandingQuery) -> Page<Outstanding>;
    /// Recent points of a series, oldest first; none if the device or the metric is not known.
    fn recent(&self, id: &str, metric: &str) -> Option<Vec<Point>>;
}
