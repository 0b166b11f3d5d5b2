//! What a step gives to the world. The core only lists it; the runtime carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use event::command::State as CommandState;
use event::order::Origin;
use event::{AggregateSpec, Command, CommandControl, Record, RefusalReason};
use rules::RuleError;
use serde::{Deserialize, Serialize};
use views::model::{Alert, Incident, QuarantineItem, Totals};
use views::{CompletenessIndex, Group, LagReport, RowPart, StatusCounts};

/// What is to be told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// It pages.
    Raised,
    /// What was paged for began at another time than was told.
    Revised,
    /// What was paged for is over.
    Cleared,
}

impl NoticeKind {
    /// The name in the API: `raised`, `revised` or `cleared`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Revised => "revised",
            Self::Cleared => "cleared",
        }
    }
}

/// A notification to send. Its id is the same in every replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// `<alert id>:raised`, `<alert id>:revised:<n>` or `<alert id>:cleared`. Each alert that was raised is cleared
    /// exactly once, unless its device is decommissioned before.
    pub id: String,
    /// Which of them.
    pub kind: NoticeKind,
    /// Ingest time of the record that caused it, microseconds.
    pub at: i64,
    /// The alert as it was then.
    pub alert: Alert,
}

/// An operator's record, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operated {
    /// Its place in the partition: it is applied at most once by it.
    pub offset: u64,
    /// Ingest time, microseconds.
    pub at: i64,
    /// An [`event::Operation`].
    pub json: String,
}

/// A command for an agent's connection. It may come many times with one id; the agent runs it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendCommand {
    /// The agent.
    pub agent: String,
    /// What it gets.
    pub command: Command,
}

/// How a command has ended. It comes again in every replay, and again if the device's word changes what was
/// supposed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Its id.
    pub id: String,
    /// Where it came from.
    pub origin: Origin,
    /// How it ended; none if it was taken back before it was sent.
    pub state: Option<CommandState>,
}

/// The ledger and the statuses of a partition at a moment of ingest time.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The moment.
    pub now: i64,
    /// The ledger.
    pub totals: Totals,
    /// Devices and agents by status.
    pub status: StatusCounts,
    /// Who is furthest behind.
    pub lag: Option<LagReport>,
    /// Incidents so far.
    pub incidents: u64,
    /// Everything refused or quarantined so far, by reason.
    pub reasons: BTreeMap<RefusalReason, u64>,
}

/// What is declared: aggregates with their slots, and rules as JSON texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declarations {
    /// A slot names an aggregate for ever; it is never used again for another one.
    pub aggregates: Vec<(u32, AggregateSpec)>,
    /// Rules.
    pub rules: Vec<String>,
}

/// A window that changed and is not wholly in memory: its row is to be put together with what the state
/// store has ([`Partition::window_with`](super::Partition::window_with)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// Start of the window in panes.
    pub pane: i64,
    /// Number of the group.
    pub group: u32,
}

/// Everything that steps have given since it was last emptied, in order within each list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// Changed rows.
    pub rows: Vec<RowPart>,
    /// Changed windows whose rows need the state store.
    pub cold: Vec<Changed>,
    /// (aggregate, start): windows before `start` are no longer kept.
    pub evicted: Vec<(u32, i64)>,
    /// Changed completeness of groups.
    pub indexes: Vec<(u32, Group, Arc<CompletenessIndex>)>,
    /// Changed alerts; one with the state `dropped` is none any more.
    pub alerts: Vec<Alert>,
    /// Notifications to send.
    pub notices: Vec<Notice>,
    /// What operators did about alerts.
    pub operations: Vec<Operated>,
    /// Devices that are no longer expected, and when: their alerts end without a notice.
    pub decommissioned: Vec<(String, i64)>,
    /// Refused and quarantined input.
    pub quarantine: Vec<QuarantineItem>,
    /// Incidents.
    pub incidents: Vec<Incident>,
    /// The newest summary, at most one a second.
    pub summary: Option<Summary>,
    /// A new declaration.
    pub declared: Option<Declarations>,
    /// Commands to send now. Not to be carried out in a replay: [`Partition::unanswered`] says afterwards what
    /// is due.
    ///
    /// [`Partition::unanswered`]: super::Partition::unanswered
    pub sends: Vec<SendCommand>,
    /// Changed commands.
    pub commands: Vec<views::Command>,
    /// Commands that ended.
    pub outcomes: Vec<CommandOutcome>,
    /// (partition, record) to append to the log, before a checkpoint covers what made them; in a replay too:
    /// the same twice is the same as once.
    pub appends: Vec<(u16, Record)>,
    /// (offset, what) for those who decide on the commands of rules: the stop switch, and what is said of a
    /// rule's commands. From partition 0 only.
    pub controls: Vec<(u64, CommandControl)>,
    /// Rules of records that cannot be run here; they are not declared.
    pub refused_rules: Vec<RuleError>,
}
