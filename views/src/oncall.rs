//! What people do about alerts, and what they get of them: pages, silences, acknowledgements. It lies over the
//! alerts of the partitions and is joined with them on reading.

use std::collections::BTreeMap;

use event::Matcher;
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{Alert, Time};

/// Somebody looks after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Acknowledged {
    /// Who.
    pub by: String,
    /// Since when (ingest time).
    pub at: Time,
    /// What they say; may be empty.
    pub comment: String,
}

/// What alerting says of one alert.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Mark {
    /// Key of the page that it is in; none if it pages nobody (silenced, or no page was sent yet).
    pub page: Option<String>,
    /// Who looks after it.
    pub acknowledged: Option<Acknowledged>,
    /// Ids of the silences on it.
    pub silenced_by: Vec<String>,
    /// Names of the weekly maintenance windows on it.
    pub maintenance: Vec<String>,
    /// Id of an alert that explains it.
    pub inhibited_by: Option<String>,
    /// Whether it comes and goes so often that it is not said each time.
    pub flapping: bool,
}

impl Mark {
    /// Whether nobody is told of it at present.
    pub fn is_muted(&self) -> bool {
        !self.silenced_by.is_empty() || !self.maintenance.is_empty() || self.inhibited_by.is_some()
    }
}

/// An alert with what alerting says of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MarkedAlert {
    /// The alert.
    #[serde(flatten)]
    pub alert: Alert,
    /// What alerting says of it.
    #[serde(flatten)]
    pub mark: Mark,
}

impl From<Alert> for MarkedAlert {
    /// An alert of which alerting says nothing.
    fn from(alert: Alert) -> Self {
        let mark = Mark::default();
        Self { alert, mark }
    }
}

/// What changed of it: everything that is given replaces what was there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OnCallChange {
    /// By alert id; none = nothing is known of it any more.
    pub marks: Vec<(String, Option<Mark>)>,
    /// Pages by number; none = it is no more.
    pub pages: Vec<(u64, Option<AlertPage>)>,
    /// All silences and maintenance windows.
    pub silences: Option<Vec<Silence>>,
    /// Decisions by id of the command; none = it is forgotten.
    pub commands: Vec<(String, Option<CommandDecision>)>,
    /// Alerts on groups, which are of no partition: their newest form.
    pub alerts: Vec<Alert>,
}

impl OnCallChange {
    /// Adds what changed after it.
    pub fn append(&mut self, mut later: Self) {
        self.marks.append(&mut later.marks);
        self.pages.append(&mut later.pages);
        self.silences = later.silences.or(self.silences.take());
        self.commands.append(&mut later.commands);
        self.alerts.append(&mut later.alerts);
    }
}

/// Which alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertQuery {
    /// `pending`, `firing` or `resolved`.
    pub state: Option<String>,
    /// A severity.
    pub severity: Option<String>,
    /// A rule.
    pub rule: Option<String>,
    /// A device.
    pub device: Option<String>,
    /// Attributes of the device and their texts.
    pub attributes: Vec<(String, String)>,
    /// Whether somebody looks after it.
    pub acknowledged: Option<bool>,
    /// Whether it is silenced, in maintenance or inhibited.
    pub silenced: Option<bool>,
    /// The key of a page.
    pub page: Option<String>,
}

/// What people got for a group of alerts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlertPage {
    /// Its key: the dedup key at every receiver.
    pub key: String,
    /// The route that it took; `default` where no route matched.
    pub route: String,
    /// The rule.
    pub rule: String,
    /// The worst severity of its alerts.
    pub severity: String,
    /// What its alerts have in common.
    pub labels: BTreeMap<String, String>,
    /// One sentence for people.
    pub summary: String,
    /// `firing` or `resolved`.
    pub state: &'static str,
    /// When its first message was decided.
    pub opened: Time,
    /// Event time at which the first of its alerts began.
    pub began: Time,
    /// When its last alert was over.
    pub closed: Option<Time>,
    /// Its alerts that are firing.
    pub firing: u32,
    /// Of them, those that are silenced or inhibited at present.
    pub muted: u32,
    /// Its alerts so far.
    pub total: u32,
    /// Ids of its first and newest alerts, at most 20.
    pub alerts: Vec<String>,
    /// Who looks after it.
    pub acknowledged: Option<Acknowledged>,
    /// Steps of the escalation that were taken.
    pub escalated: u32,
    /// Notifiers that have been told of it.
    pub notifiers: Vec<String>,
    /// Messages so far.
    pub messages: u32,
}

/// Alerts about which nobody is told for some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Silence {
    /// Its id; of a weekly window of the configuration its name behind `window:`.
    pub id: String,
    /// `silence` or `maintenance`.
    #[schema(value_type = String)]
    pub kind: &'static str,
    /// `pending`, `active` or `expired`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// All must hold.
    #[schema(value_type = Vec<Object>)]
    pub matchers: Vec<Matcher>,
    /// From here. Of a weekly window the present one, or else the next one.
    pub starts_at: Time,
    /// Up to here, not included.
    pub ends_at: Time,
    /// Who asked for it.
    pub by: String,
    /// What for.
    pub comment: String,
    /// When it was last changed (ingest time).
    pub updated: Time,
    /// Whether it comes again each week; then it is part of the configuration.
    pub weekly: bool,
}

/// What became of a command that a rule asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CommandDecision {
    /// Id of the command; the same for the same episode.
    pub id: String,
    /// When it was decided.
    pub at: Time,
    /// The rule.
    pub rule: String,
    /// The alert.
    pub alert: String,
    /// The device.
    pub device: String,
    /// Name of the command.
    pub command: String,
    /// `sent`, `dry_run`, `over_budget`, `cooling_down`, `waiting_for_canary`, `stopped` or `maintenance`.
    pub decision: String,
    /// What came of it: `succeeded`, `failed`, `expired` or `refused`; none if that is not known (yet).
    pub outcome: Option<String>,
}
