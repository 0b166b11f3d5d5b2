//! An open episode on disk. The rows stand between those of commands, whose ids have no space.

use event::DeviceId;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "rule ";

/// An episode that fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// The metric of the rule.
    pub metric: String,
    /// The rule's kind.
    pub kind: String,
    pub severity: String,
    /// Begin, microseconds of event time.
    pub since: i64,
    /// When it began to fire, microseconds of event time.
    pub at: i64,
}

impl Row {
    pub fn encode(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The key of the row of a rule on a device.
pub(super) fn key(rule: &str, device: &DeviceId) -> String {
    format!("{PREFIX}{rule} {device}")
}

/// Whether a key is of such a row.
pub(super) fn is_key(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Rule and device of a key.
pub(super) fn parse_key(key: &str) -> Option<(&str, DeviceId)> {
    let (rule, device) = key.strip_prefix(PREFIX)?.split_once(' ')?;
    Some((rule, DeviceId::new(device).ok()?))
}
