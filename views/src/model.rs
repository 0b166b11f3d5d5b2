//! What the API answers, as values. Field names are the API's; times are RFC 3339 texts in UTC.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// A point in time as the API writes it: RFC 3339 UTC. Microseconds since the epoch inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub i64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        event::EventTime(self.0).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}

impl utoipa::ToSchema for Time {}

/// A measured value in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// A finite number.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// A text.
    Text(String),
}

/// How many devices, by what is known of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct DeviceCounts {
    /// Known and not dormant (heard from within 7 days).
    pub expected: u64,
    /// Caught up: progress within the last two minutes.
    pub online: u64,
    /// In contact or known to hold a backlog, but behind.
    pub buffering: u64,
    /// No contact for two minutes or more.
    pub silent: u64,
}

/// How many agents (a plain device is its own agent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct AgentCounts {
    /// Ever heard of.
    pub known: u64,
    /// Caught up.
    pub online: u64,
    /// Holding a backlog.
    pub buffering: u64,
}

/// Where every event went. `accepted = counted + duplicate + quarantined + too_old`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct Totals {
    /// Events that entered the log.
    pub accepted: u64,
    /// Events that entered a result.
    pub counted: u64,
    /// Events that had been counted before.
    pub duplicate: u64,
    /// Events set aside with a reason.
    pub quarantined: u64,
    /// Events older than every retention tier.
    pub too_old: u64,
    /// Messages refused at the door, never accepted.
    pub refused: u64,
    /// Events that arrived behind their agent's own low watermark.
    pub broken_promises: u64,
}

impl Totals {
    /// Adds another part.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.counted += other.counted;
        self.duplicate += other.duplicate;
        self.quarantined += other.quarantined;
        self.too_old += other.too_old;
        self.refused += other.refused;
        self.broken_promises += other.broken_promises;
    }
}

/// Where every event went: `accepted = counted + duplicate + quarantined + too_old`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Ledger {
    /// Events that entered the log and were processed.
    pub accepted: u64,
    /// Events that entered a result.
    pub counted: u64,
    /// Events that had been counted before.
    pub duplicate: u64,
    /// Events set aside with a reason.
    pub quarantined: u64,
    /// Events older than every retention tier.
    pub too_old: u64,
    /// Whether the four parts make `accepted`. If not, it is a fault of the server.
    pub adds_up: bool,
    /// Beside it: messages refused at the door, never accepted.
    pub refused: u64,
    /// Beside it: events that arrived behind their agent's own low watermark; they are counted.
    pub broken_promises: u64,
}

/// Events of a device and a day that were older than every retention tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TooOldItem {
    /// Start of the UTC day of their event time.
    pub day: Time,
    /// The device.
    pub device: String,
    /// How many.
    pub events: u64,
}

/// Alerts that are firing, by severity, and those nobody has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct AlertCounts {
    /// Severity → number.
    pub firing: BTreeMap<String, u64>,
    /// Firing and not acknowledged.
    pub unacknowledged: u64,
}

/// Who keeps the fleet's completeness back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct HeldBackBy {
    /// The agent.
    pub agent: String,
    /// How many devices are behind it.
    pub devices: u64,
    /// How far it is known to be complete.
    pub progress: Time,
}

/// Completeness of one window of the default aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WindowCompleteness {
    /// Start of the window.
    pub start: Time,
    /// End of the window (not in it).
    pub end: Time,
    /// Devices it should contain.
    pub expected: u64,
    /// Devices that are done with it.
    pub complete: u64,
    /// Devices from which nothing more comes, but something was lost.
    pub lossy: u64,
    /// Devices still awaited.
    pub outstanding: u64,
    /// Devices silent for longer than 7 days, beside and not inside.
    pub dormant: u64,
    /// `(complete + lossy) / expected`; none where nothing is expected.
    pub completeness: Option<f64>,
}

/// The fleet at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Overview {
    /// The newest ingest time that was processed.
    pub now: Option<Time>,
    /// Devices by state.
    pub devices: DeviceCounts,
    /// Agents by state.
    pub agents: AgentCounts,
    /// Events counted per second of ingest time, mean over the last 10 s.
    pub events_per_second: f64,
    /// The ledger.
    pub totals: Totals,
    /// Alerts.
    pub alerts: AlertCounts,
    /// Every expected device has progressed to here.
    pub complete_to: Option<Time>,
    /// Who is furthest behind.
    pub held_back_by: Option<HeldBackBy>,
    /// The newest 30 windows of the default aggregate, oldest first.
    pub completeness: Vec<WindowCompleteness>,
    /// Incidents (rolled-back or cloned disks) so far.
    pub incidents: u64,
    /// The aggregate that the page opens with.
    pub default_aggregate: Option<String>,
}

/// A declared aggregate and the groups seen so far.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Aggregate {
    /// Its name.
    pub name: String,
    /// A metric or `*`.
    pub metric: String,
    /// The attributes that make its groups.
    pub group_by: Vec<String>,
    /// Window length as a text, such as `10s`.
    pub window: String,
    /// Window length, seconds.
    pub window_seconds: i64,
    /// From the start of a window to the start of the next, seconds; tumbling windows: the same.
    pub hop_seconds: i64,
    /// Names of its functions.
    pub functions: Vec<String>,
    /// Known groups, at most 100.
    pub groups: Vec<BTreeMap<String, String>>,
}

/// Who set an extreme, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Extreme {
    /// Event time.
    pub time: Time,
    /// The device.
    pub device: String,
}

/// One window of one group, merged over the partitions. What its aggregate does not declare is null or absent.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Row {
    /// The aggregate.
    pub aggregate: String,
    /// The group: attribute → value; empty for the whole fleet.
    pub group: BTreeMap<String, String>,
    /// Start of the window.
    pub start: Time,
    /// End of the window (not in it).
    pub end: Time,
    /// `open`, `settled` or `revised`.
    pub state: &'static str,
    /// Grows with every change. The sum of the partitions' revisions (each a log offset + 1).
    pub revision: u64,
    /// Events.
    pub count: u64,
    /// Sum of the numeric values.
    pub sum: Option<f64>,
    /// Mean of the numeric values.
    pub mean: Option<f64>,
    /// Smallest value.
    pub min: Option<f64>,
    /// Largest value.
    pub max: Option<f64>,
    /// Who set `min`: of several the earliest, then the one with the smallest id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_at: Option<Extreme>,
    /// Who set `max`; as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at: Option<Extreme>,
    /// Different devices, exact.
    pub distinct_devices: Option<u64>,
    /// Median of the numeric values, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// 90 % of the numeric values are not above it, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    /// 95 % of the numeric values are not above it, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// 99 % of the numeric values are not above it, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// An estimated quantile differs from the exact one by at most this share of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile_relative_error: Option<f64>,
    /// Different text values: exact up to 64, estimated beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_values: Option<u64>,
    /// Standard error of that estimate as a share of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_values_relative_error: Option<f64>,
    /// Devices it should contain.
    pub expected: u64,
    /// Devices that are done with it.
    pub complete: u64,
    /// Devices from which nothing more comes, but something was lost.
    pub lossy: u64,
    /// Devices still awaited.
    pub outstanding: u64,
    /// Devices silent for longer than 7 days, beside and not inside.
    pub dormant: u64,
    /// `(complete + lossy) / expected`; none where nothing is expected.
    pub completeness: Option<f64>,
    /// Events that arrived after the window settled.
    pub late_events: u64,
    /// The completeness at which it settled.
    pub settled_completeness: Option<f64>,
}

/// A backlog as an agent reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Backlog {
    /// Events held un-acked.
    pub events: u64,
    /// Their size, bytes.
    pub bytes: u64,
    /// The earliest event time among them.
    pub oldest: Option<Time>,
}

/// A device that a window still waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Outstanding {
    /// The device.
    pub device: String,
    /// Its agent; none for a plain device.
    pub agent: Option<String>,
    /// Ingest time of the last message.
    pub last_contact: Option<Time>,
    /// How far it is known to be complete.
    pub progress: Option<Time>,
    /// The last reported backlog.
    pub backlog: Option<Backlog>,
    /// Whether the agent says it is connected; none if it never said.
    pub online: Option<bool>,
}

/// The last value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LastValue {
    /// The metric.
    pub metric: String,
    /// Event time.
    pub time: Time,
    /// The value.
    pub value: Scalar,
}

/// What a device's agent says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ClockReport {
    /// `none`, `rtc`, `ntp` or `gnss`.
    pub quality: &'static str,
    /// Its own estimate of the error, milliseconds; none = unknown.
    pub error_ms: Option<u32>,
    /// Its clock minus the server's at its newest transmission, milliseconds. It contains the delay of the
    /// network.
    pub offset_ms: Option<i64>,
    /// Whether that is more than a minute: event times are off by as much, unless `quality` is `none`, where
    /// they were corrected.
    pub off: bool,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its agent; none for a plain device.
    pub agent: Option<String>,
    /// `online`, `buffering` or `silent`.
    pub status: &'static str,
    /// Earliest event time.
    pub first_seen: Time,
    /// Latest event time.
    pub last_event: Time,
    /// Ingest time of the last message of its agent.
    pub last_contact: Time,
    /// How far it is known to be complete.
    pub progress: Time,
    /// Attributes by name.
    pub attributes: BTreeMap<String, String>,
    /// Last values by event time.
    pub values: Vec<LastValue>,
    /// The agent's last reported backlog.
    pub backlog: Option<Backlog>,
    /// The agent's clock.
    pub clock: Option<ClockReport>,
}

/// One recent point of a series.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Point {
    /// Event time.
    pub time: Time,
    /// The value.
    pub value: Scalar,
}

/// One value around the onset of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Event time.
    pub time: Time,
    /// The value; booleans are 0 and 1.
    pub value: f64,
}

/// One episode of a rule on a device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub struct Alert {
    /// Stable id made from rule, device and begin.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// What the rule looks for: `threshold`, `rate`, `silence`, `stuck`, `offline`, `window`, ...
    pub kind: &'static str,
    /// `critical`, `error`, `warning` or `info`.
    pub severity: &'static str,
    /// `pending`, `firing` or `resolved`; on the live stream `dropped`, too: it is none any more.
    pub state: &'static str,
    /// The device; of the kind `offline` the agent; empty of the kinds `window` and `share`, which are on groups.
    pub device: String,
    /// The metric; empty for the kinds `offline`, `window` and `share`.
    pub metric: String,
    /// Attributes of the device, as they are now; of an alert on a group what it is grouped by.
    pub group: BTreeMap<String, String>,
    /// Labels of the rule.
    pub labels: BTreeMap<String, String>,
    /// A link for people, from the rule.
    pub runbook: Option<String>,
    /// For people, from the rule.
    pub description: Option<String>,
    /// Newest value; of a silence the last one before it.
    pub value: f64,
    /// The rule's limit; for `silence` and `offline` seconds.
    pub threshold: f64,
    /// Event time at which it began.
    pub began: Time,
    /// Ingest time at which it was learned.
    pub reported: Time,
    /// Event time at which it ended.
    pub resolved: Option<Time>,
    /// Whether a page goes out for it.
    pub notified: bool,
    /// Why it fires, or ended, where rule and values alone do not say it.
    pub reason: Option<String>,
    /// Values around the onset, at most 16: the last one before it, and the first ones of it.
    pub evidence: Vec<Evidence>,
    /// One sentence for people.
    pub summary: String,
}

/// One message to one notifier, in the delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Notification {
    /// `<notifier>:<message>`, and `~<n>` behind it for the nth repetition by hand.
    pub id: String,
    /// Id of the message: the receiver's idempotency key, the same for all notifiers and all tries.
    pub message: String,
    /// The page: the receiver's dedup key.
    pub page: String,
    /// The alert that opened the page.
    pub alert: String,
    /// Name of the notifier.
    pub target: String,
    /// `raised`, `updated`, `acknowledged` or `cleared`.
    pub kind: String,
    /// One sentence for people.
    pub summary: String,
    /// Tries so far.
    pub attempts: u32,
    /// `queued`, `delivered`, `failed` (refused, or given up after a day) or `dropped` (not needed any more).
    pub state: String,
    /// When it was decided to send it.
    pub queued: Time,
    /// When it was last tried.
    pub last_attempt: Option<Time>,
    /// The last HTTP status.
    pub status: Option<u16>,
    /// The last error, or why it was dropped.
    pub error: Option<String>,
    /// Whether it came here because another notifier did not take it.
    pub by_fallback: bool,
    /// Whether the notifier's own fallback got it too.
    pub handed_on: bool,
}

/// Something that was refused or set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QuarantineItem {
    /// What to release it by, `<partition>-<offset>`; null if it cannot be released.
    pub id: Option<String>,
    /// Ingest time.
    pub time: Time,
    /// `refused` (at the door) or `quarantined` (accepted, set aside).
    pub kind: &'static str,
    /// Client id or topic.
    pub source: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// The metric.
    pub metric: Option<String>,
    /// The event's own time.
    pub event_time: Option<Time>,
    /// Reason from the closed list.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// How many events or messages this entry stands for.
    pub count: u64,
}

/// Something that needs a person: a rolled-back or cloned disk, lost state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Incident {
    /// Ingest time.
    pub time: Time,
    /// Its kind, such as `rollback_or_clone`.
    pub kind: &'static str,
    /// The agent.
    pub agent: Option<String>,
    /// For people.
    pub message: String,
}

/// State of one partition.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub struct PartitionReport {
    /// Its number.
    pub partition: u16,
    /// First record still in the log.
    pub first_offset: u64,
    /// Next record that will be written.
    pub end_offset: u64,
    /// Next record that will be processed.
    pub processed_offset: u64,
    /// Records written and not yet processed.
    pub lag_records: u64,
    /// Ingest time between the newest written and the newest processed record, seconds.
    pub lag_seconds: f64,
    /// The newest checkpoint.
    pub checkpoint_offset: Option<u64>,
    /// Ingest time since the newest checkpoint, seconds.
    pub checkpoint_age_seconds: Option<f64>,
    /// Agents known.
    pub agents: u64,
    /// Devices known.
    pub devices: u64,
    /// Windows held.
    pub windows: u64,
    /// Hash of the newest checkpoint's snapshot, hex: equal for equal states.
    pub state_hash: Option<String>,
}

/// Size of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct FileReport {
    /// Bytes on disk.
    pub bytes: u64,
}

/// The machine room.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct System {
    /// Version of the server.
    pub version: String,
    /// When it started.
    pub started: Option<Time>,
    /// Whether the processor has caught up since the start.
    pub ready: bool,
    /// Partitions.
    pub partitions: Vec<PartitionReport>,
    /// The log file.
    pub log: FileReport,
    /// The checkpoint file.
    pub state: FileReport,
    /// Newest incidents, at most 100, newest first.
    pub incidents: Vec<Incident>,
}
