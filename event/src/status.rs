//! The retained status of an agent, which is its last will too: JSON, so that any MQTT tool can read it.

use serde::{Deserialize, Serialize};

use crate::RefusalReason;

/// Most bytes of a status message.
pub const BYTES_MAX: usize = 4096;

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it is connected. The last will says false.
    pub online: bool,
    /// Its incarnation in text form ([`crate::Incarnation`]).
    #[serde(default)]
    pub incarnation: String,
    /// Version of the agent program.
    #[serde(default)]
    pub version: String,
    /// Events held un-acked.
    #[serde(default)]
    pub backlog: u64,
}

impl Status {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a status; unknown fields are allowed, so that agents may say more later.
    ///
    /// **Errors**: the reason and a text for people.
    pub fn parse(bytes: &[u8]) -> Result<Self, (RefusalReason, String)> {
        if bytes.is_empty() {
            return Err((
                RefusalReason::Empty,
                "empty status; send {\"online\": …}".to_owned(),
            ));
        }
        if bytes.len() > BYTES_MAX {
            let text = format!(
                "status of {} bytes is over the limit of {BYTES_MAX}",
                bytes.len()
            );
            return Err((RefusalReason::TooLarge, text));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| (RefusalReason::InvalidUtf8, format!("status: {e}")))?;
        let status: Self = serde_json::from_str(text)
            .map_err(|e| (RefusalReason::InvalidJson, format!("status: {e}")))?;
        if status.incarnation.len() > 64 || status.version.len() > 64 {
            return Err((
                RefusalReason::TooLongText,
                "status: a text over 64 bytes".to_owned(),
            ));
        }
        Ok(status)
    }
}
