//! One message for one target, and what became of it.

use std::sync::Arc;

use anyhow::Context as _;
use notify::Message;
use serde::{Deserialize, Serialize};
use views::model::{Notification, Time};

use super::lane::LaneKey;

/// First byte of the keys of rows.
pub(super) const PREFIX: u8 = 1;

/// Where a row is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It waits for its turn, or for another try.
    Queued,
    /// It was accepted.
    Delivered,
    /// It was refused for good, or given up.
    Failed,
    /// It was not sent: nobody needs it any more.
    Dropped,
}

impl State {
    /// The name in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A row. Times are microseconds UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Its place in the order; the key.
    #[serde(skip)]
    pub(crate) seq: u64,
    pub(crate) target: String,
    pub(crate) message: Arc<Message>,
    /// Which manual repetition it is; 0 = the original.
    #[serde(default)]
    pub(crate) resend: u32,
    /// It came here because another target did not take it.
    #[serde(default)]
    pub(crate) by_fallback: bool,
    /// It was copied to the target's fallback.
    #[serde(default)]
    pub(crate) handed: bool,
    /// When it entered.
    pub(crate) made: i64,
    pub(crate) first_tried: Option<i64>,
    pub(crate) last_attempt: Option<i64>,
    /// Not before this time.
    pub(crate) due: i64,
    pub(crate) state: State,
    pub(crate) attempts: u32,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

impl Row {
    pub(super) fn new(seq: u64, target: String, message: Arc<Message>, now: i64) -> Self {
        Self {
            seq,
            target,
            message,
            resend: 0,
            by_fallback: false,
            handed: false,
            made: now,
            first_tried: None,
            last_attempt: None,
            due: now,
            state: State::Queued,
            attempts: 0,
            status: None,
            error: None,
        }
    }

    /// `<target>:<message id>`, and `~<n>` behind it for a manual repetition. No target has a colon.
    pub(crate) fn public_id(&self) -> String {
        let id = format!("{}:{}", self.target, self.message.id);
        match self.resend {
            0 => id,
            n => format!("{id}~{n}"),
        }
    }

    pub(super) fn lane(&self) -> LaneKey {
        (self.target.clone(), self.message.dedup_key.clone())
    }

    /// The row of the delivery log.
    pub(crate) fn model(&self) -> Notification {
        Notification {
            id: self.public_id(),
            message: self.message.id.clone(),
            page: self.message.dedup_key.clone(),
            alert: self
                .message
                .alerts
                .first()
                .map(|a| a.id.clone())
                .unwrap_or_default(),
            target: self.target.clone(),
            kind: self.message.kind.as_str().to_owned(),
            summary: self.message.summary.clone(),
            attempts: self.attempts,
            state: self.state.as_str().to_owned(),
            queued: Time(self.made),
            last_attempt: self.last_attempt.map(Time),
            status: self.status,
            error: self.error.clone(),
            by_fallback: self.by_fallback,
            handed_on: self.handed,
        }
    }

    pub(crate) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        serde_json::to_vec(self).context("a row of the outbox cannot be written as JSON")
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> anyhow::Result<Self> {
        let seq = key.get(1..).and_then(|bytes| bytes.try_into().ok());
        let seq = u64::from_be_bytes(seq.context("its key is not one byte and a number")?);
        let row: Self = serde_json::from_slice(value)?;
        Ok(Self { seq, ..row })
    }
}

/// The key of a row: sorts by its place.
pub(crate) fn key(seq: u64) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&seq.to_be_bytes());
    key
}
