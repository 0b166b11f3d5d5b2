//! Commands to devices as the API answers them. They are not copied here: they are looked up in the state of
//! the partitions ([`crate::DeviceSource`]).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::Time;

/// A command, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Command {
    /// Its id.
    pub id: String,
    /// The device.
    pub device: String,
    /// The agent that gets it; none if there is none, or none is chosen yet.
    pub agent: Option<String>,
    /// Name on the device's allow-list.
    pub name: String,
    /// Arguments.
    pub args: BTreeMap<String, String>,
    /// `queued`, `sent`, `running`, `succeeded`, `failed`, `expired`, `refused`, `cancelled` or `dry_run`.
    pub state: &'static str,
    /// Whether what `state` says is known. False where a command was sent and the device has not told its end:
    /// then a final state is what the server supposes, and the device's word replaces it when it comes.
    pub certain: bool,
    /// Who gave it.
    pub by: String,
    /// Why it was given.
    pub why: String,
    /// The rule that gave it.
    pub rule: Option<String>,
    /// The rollout that it belongs to.
    pub rollout: Option<String>,
    /// The alert that it answers.
    pub alert: Option<String>,
    /// It is only recorded, never sent.
    pub dry_run: bool,
    /// It is sent although the stop switch is on.
    pub forced: bool,
    /// When it entered the log.
    pub issued: Time,
    /// From then on the device does not start it.
    pub expires: Time,
    /// When it was first given to the agent's connection.
    pub sent: Option<Time>,
    /// How often it was given to it. The device runs it once.
    pub sends: u32,
    /// When the server learned that it runs.
    pub started: Option<Time>,
    /// When the server learned its end.
    pub ended: Option<Time>,
    /// The program's exit code.
    pub exit_code: Option<i32>,
    /// How long it ran on the device, milliseconds.
    pub duration_ms: Option<u64>,
    /// The end of what it wrote.
    pub output: Option<String>,
    /// Why it came to this.
    pub reason: Option<String>,
}

/// The stop switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CommandStop {
    /// While it is on, no command is sent but a forced one.
    pub on: bool,
    /// Who turned it on.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// Since when.
    pub since: Option<Time>,
}

/// A command to many devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rollout {
    /// Its id. The command of the n-th device has the id `<rollout>:<n>`, counted from 1.
    pub id: String,
    /// Name on the devices' allow-lists.
    pub name: String,
    /// Arguments.
    pub args: BTreeMap<String, String>,
    /// `canary`, `rolling`, `stopped` or `done`.
    pub state: &'static str,
    /// Why it is stopped.
    pub reason: Option<String>,
    /// Who began it.
    pub by: String,
    /// Why.
    pub why: String,
    /// When it began.
    pub created: Time,
    /// When the last command had ended.
    pub ended: Option<Time>,
    /// So many must succeed before the rest.
    pub canary: u32,
    /// So many may be under way at a time; 0 = no limit.
    pub at_once: u32,
    /// So many of the rest may fail without stopping it.
    pub max_failures: u32,
    /// The commands are only recorded, never sent.
    pub dry_run: bool,
    /// Devices.
    pub total: u64,
    /// Commands not given out yet.
    pub waiting: u64,
    /// Commands given out that have not ended.
    pub under_way: u64,
    /// Commands that have succeeded.
    pub succeeded: u64,
    /// Commands that have failed, were refused, or have expired.
    pub failed: u64,
}

/// Which commands to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandQuery {
    /// One of the states.
    pub state: Option<String>,
    /// Of this device.
    pub device: Option<String>,
    /// Of this rollout.
    pub rollout: Option<String>,
    /// Of this rule.
    pub rule: Option<String>,
    /// That answer this alert.
    pub alert: Option<String>,
    /// Only those older than this one: (issued, id).
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub limit: usize,
}

impl CommandQuery {
    /// Whether a place in the list, newest first, is behind the page before.
    pub fn is_behind(&self, issued: i64, id: &str) -> bool {
        let after = self.after.as_ref();
        after.is_none_or(|(at, last)| (issued, id) < (*at, last.as_str()))
    }
}
