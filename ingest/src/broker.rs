//! The one small interface between "something that speaks MQTT" and the rest of the tier.
//!
//! What arrives is a [`Publish`], offered to an [`Intake`] that answers with a future. What goes out
//! goes through a [`Downlink`]. The front, the in-process broker and the external broker are three
//! forms of this; nothing above it knows which one runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event::{AgentId, RefusalReason};
use tokio_util::sync::CancellationToken;

use crate::auth::Principal;

/// One message that arrived.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Who sent it, as far as this form of the broker can know.
    pub principal: Principal,
    /// What a refusal record names as its source: the MQTT client id, or the topic where the broker
    /// does not tell the client.
    pub source: Arc<str>,
    /// The topic name as it came.
    pub topic: String,
    /// The payload. It shares one allocation with the packet it came in.
    pub payload: Bytes,
    /// The retain flag. A broker that keeps it to itself is taken to have seen it set.
    pub retain: bool,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk.
    Stored,
    /// It was not taken and never will be; the refusal is counted and will be in the log.
    Refused {
        /// The class of the reason.
        reason: RefusalReason,
        /// One sentence for a person.
        message: String,
    },
    /// The log could not take it. It must not be acknowledged: the sender keeps it (N3).
    Failed {
        /// The log is full (as against broken).
        full: bool,
        /// One sentence for a person.
        message: String,
    },
}

/// Resolves when the message is durable, refused or failed.
pub type Receipt = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The immediate answer to an offered message.
pub enum Offer {
    /// It is admitted and queued, or refused; the receipt tells.
    Taken(Receipt),
    /// The queue of the log is full: here it is back. Stop reading and offer it again.
    Busy(Publish),
}

/// Takes messages from a broker form.
pub trait Intake: Send + Sync + 'static {
    /// Offers one message. Never blocks and never waits: back-pressure is [`Offer::Busy`].
    fn offer(&self, publish: Publish) -> Offer;

    /// Notes that a packet was refused before it became a message (too large, broken, not allowed).
    fn refuse(&self, refusal: EarlyRefusal);
}

/// Longest wait between two offers of the same message.
pub(crate) const BUSY_RETRY_MAX: Duration = Duration::from_millis(100);

/// Offers until the queue of the log has room; none if it is time to stop.
pub(crate) async fn offer_until(
    intake: &dyn Intake,
    mut publish: Publish,
    stop: &CancellationToken,
) -> Option<Receipt> {
    let mut wait = Duration::from_millis(2);
    loop {
        match intake.offer(publish) {
            Offer::Taken(receipt) => return Some(receipt),
            Offer::Busy(back) => publish = back,
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(BUSY_RETRY_MAX),
        }
    }
}

/// A refusal that a broker form found by itself.
#[derive(Debug, Clone)]
pub struct EarlyRefusal {
    /// The MQTT client id or the peer's address.
    pub source: Arc<str>,
    /// Who it says it is, before that is believed: user and client id of a CONNECT. Kept apart in
    /// counting, as many clients share an address.
    pub claim: Option<Arc<str>>,
    /// The agent, where one is known.
    pub agent: Option<AgentId>,
    /// The class of the reason.
    pub reason: RefusalReason,
    /// One sentence for a person.
    pub message: String,
    /// Bytes that were refused.
    pub bytes: u64,
}

/// Why a message to an agent was not handed over. Nothing is queued for later: acks are asked for
/// again by the protocol, commands are kept by their sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DownlinkError {
    /// No connection of that agent listens on that topic.
    #[error("agent is not connected or not subscribed to the topic; try again when it is back")]
    NotConnected,
    /// The agent's connection has its queue full; the agent reads too slowly.
    #[error("the agent's delivery queue is full; try again later")]
    QueueFull,
}

/// A form of broker that can hand a message to an agent.
pub trait Deliver: Send + Sync + 'static {
    /// Hands over without waiting.
    ///
    /// **Errors**: [`DownlinkError`]; the message is then dropped.
    fn deliver(&self, agent: &AgentId, topic: &str, payload: Bytes) -> Result<(), DownlinkError>;
}

/// The way down to the agents. Cheap to clone.
#[derive(Clone)]
pub struct Downlink(Arc<dyn Deliver>);

impl Downlink {
    /// Wraps a form of broker.
    pub fn new(deliver: Arc<dyn Deliver>) -> Self {
        Self(deliver)
    }

    /// Hands `payload` to the agent's connection on `topic`, without waiting.
    ///
    /// `Ok` says that it is queued for a connection, not that the agent has it.
    ///
    /// **Errors**: [`DownlinkError`]. A full queue is counted in
    /// `tidewatch_ingest_deliveries_dropped_total`.
    pub fn send(&self, agent: &AgentId, topic: &str, payload: Bytes) -> Result<(), DownlinkError> {
        self.0.deliver(agent, topic, payload)
    }
}

impl std::fmt::Debug for Downlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Downlink")
    }
}
