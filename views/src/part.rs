//! What one partition contributes, and the seam through which devices are looked up.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::commands::{Command, CommandQuery, CommandStop, Rollout};
use crate::model::{Device, DeviceCounts, HeldBackBy, Outstanding, Point};
use crate::sketch::{Quantiles, Values};

/// The values of an aggregate's `group_by`, in its order; empty for the whole fleet.
pub type Group = Arc<[Arc<str>]>;

/// How coarse a row is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The aggregate's own window.
    #[default]
    Window,
    /// An hour of event time.
    Hour,
    /// A day of event time, UTC.
    Day,
}

impl Tier {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Which device set an extreme, and when. Of equal values the earlier one counts, then the one of the
/// smaller device id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Event time, microseconds.
    pub time: i64,
    /// The device.
    pub device: Arc<str>,
}

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
    /// How coarse it is.
    pub tier: Tier,
    /// Slot of the aggregate: stable and never reused within its partition.
    pub aggregate: u32,
    /// The group.
    pub group: Group,
    /// Start of the window (or hour, or day), microseconds.
    pub start: i64,
    /// Its end (not in it), microseconds.
    pub end: i64,
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
    /// Who set `min`; none if `numeric` is 0, or if extremes are not wanted.
    pub min_at: Option<Origin>,
    /// Who set `max`; none as above.
    pub max_at: Option<Origin>,
    /// Different devices.
    pub distinct: u64,
    /// The different text values; none if they are not wanted.
    pub values: Option<Arc<Values>>,
    /// The distribution of the numeric values; none if it is not wanted.
    pub quantiles: Option<Arc<Quantiles>>,
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
    /// Slot of the aggregate.
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

/// A page of a list, ascending by id where nothing else is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many match in all.
    pub total: u64,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            total: 0,
        }
    }
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
    /// One command.
    fn command(&self, id: &str) -> Option<Command> {
        let _ = id;
        None
    }
    /// The commands that match, newest first (by the time they were issued, then by id).
    fn commands(&self, query: &CommandQuery) -> Page<Command> {
        let _ = query;
        Page::default()
    }
    /// The stop switch.
    fn command_stop(&self) -> CommandStop {
        CommandStop::default()
    }
    /// The rollouts, newest first.
    fn rollouts(&self) -> Vec<Rollout> {
        Vec::new()
    }
}

/// Which rows of the past to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Slot of the aggregate.
    pub aggregate: u32,
    /// How coarse.
    pub tier: Tier,
    /// First start, microseconds.
    pub from: i64,
    /// Starts before this, microseconds.
    pub to: i64,
    /// The value that each attribute of `group_by` must have, in its order; none = any. Empty = all groups.
    pub group: Vec<Option<String>>,
    /// Only rows behind this one, in the order of (start, group).
    pub after: Option<(i64, Group)>,
    /// The last rows of the range are wanted, not the first. They come in ascending order all the same.
    pub newest: bool,
    /// At most so many.
    pub limit: usize,
}

impl HistoryQuery {
    /// Whether a group is among the wanted ones.
    pub fn fits(&self, group: &Group) -> bool {
        let same = |(want, have): (&Option<String>, &Arc<str>)| {
            want.as_deref().is_none_or(|want| want == &**have)
        };
        self.group.is_empty()
            || (self.group.len() == group.len() && self.group.iter().zip(group.iter()).all(same))
    }
}

/// Events of a device and a day that were older than every retention tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooOld {
    /// Start of the UTC day, microseconds.
    pub day: i64,
    /// The device.
    pub device: String,
    /// How many.
    pub events: u64,
}

/// Looks up what a partition has counted and memory no longer holds. The processor implements it over the
/// state store.
pub trait HistorySource: Send + Sync {
    /// Rows of a tier, ascending by (start, values of the group), whole: with what waits for the next
    /// checkpoint, and with what is still hot.
    fn rows(&self, query: &HistoryQuery) -> Vec<RowPart>;
    /// What came too late for every tier, ascending by (day, device).
    fn too_old(&self, after: Option<&(i64, String)>, limit: usize) -> Vec<TooOld>;
    /// The bytes of a quarantined record, if it can still be released.
    fn quarantined(&self, id: u64) -> Option<Vec<u8>>;
}
