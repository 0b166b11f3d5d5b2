//! What may enter the log: pure functions from a payload to a record or a refusal.

pub mod batch;
pub mod plain;
pub mod status;

use event::RefusalReason;

/// Why a payload is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class of the reason.
    pub reason: RefusalReason,
    /// One sentence for a person.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
