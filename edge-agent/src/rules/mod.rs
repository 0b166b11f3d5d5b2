//! Rules on the device: the engine of the server over readings as they are taken, without the cloud.
//!
//! Each reading of a watched metric steps the rules of its series before it becomes an event
//! ([`engine`], pure). What begins or ends goes to the cloud as an event, at once, and an episode that
//! begins gives its command ([`service`]). Open episodes are rows on disk, written in the transaction
//! of the event that tells of them: a restart goes on with them, and no command is given twice.
//!
//! Reading order: `engine`, `row`, `service`.

mod engine;
mod row;
mod service;

use std::collections::BTreeMap;
use std::time::Duration;

use event::DeviceId;

use crate::commands::Template;

pub(crate) use engine::{Counts, values};
pub use service::Rules;
pub(crate) use service::{Service, split};

/// Most series (a rule on a device) that are watched.
pub(crate) const SERIES_MAX: usize = 4096;

/// What argument templates of a rule may name.
pub(crate) const PLACEHOLDERS: [&str; 5] = ["device", "metric", "value", "rule", "severity"];

/// One `[[rule]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeRule {
    /// The rule as it is declared to the server, too.
    pub rule: ::rules::Rule,
    /// The devices it watches, ascending; none = all.
    pub devices: Vec<DeviceId>,
    /// A reading is not evaluated if its time is further than this from the agent's clock.
    pub stale_after: Duration,
    /// What to run when it fires.
    pub run: Option<Run>,
}

/// The command of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its name on the allow-list.
    pub command: String,
    /// Values for its argument template, with [`PLACEHOLDERS`].
    pub args: BTreeMap<String, Template>,
    /// Devices that the command may be for; for others it is given to the agent.
    pub devices: Vec<DeviceId>,
}

/// A number as argument: as short as it reads back exactly, at most 24 characters.
pub(crate) fn number(n: f64) -> String {
    let text = format!("{n:?}");
    match text.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => text,
    }
}
