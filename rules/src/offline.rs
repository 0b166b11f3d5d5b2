//! Offline: an agent that has not been heard from. Only the server can see that.

/// The limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offline {
    /// Longest time between two messages of an agent, microseconds of ingest time, in which the server itself
    /// was there; 1 s to 30 days.
    pub after: i64,
}
