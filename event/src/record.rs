//! What stands in the event log: everything that can change the processor's state.
//!
//! Bytes: one tag, then the raw batch as it came (tag 1) or postcard (all others).

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, AggregateSpec, DecodeError, DeviceId, EventTime, IngestTime, MetricName,
    RefusalReason, Status, Value,
};

const TAG_BATCH: u8 = 1;
const TAG_PLAIN: u8 = 2;
const TAG_REFUSED: u8 = 3;
const TAG_STATUS: u8 = 4;
const TAG_TICK: u8 = 5;
const TAG_GAP: u8 = 6;
const TAG_DECLARE: u8 = 7;

/// One value of a plain device (no agent of ours, so no seq).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlainSample {
    /// What was measured (`@name` for an attribute).
    pub metric: MetricName,
    /// When; none = the block's ingest time.
    pub time: Option<EventTime>,
    /// The value.
    pub value: Value,
}

/// One message of a plain device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plain {
    /// The device, which is its own agent.
    pub device: DeviceId,
    /// What it said.
    pub samples: Vec<PlainSample>,
}

/// Input that was refused at the door. It is not data, but people must be able to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Client id or topic, at most 128 characters.
    pub source: String,
    /// The agent, if it is known.
    pub agent: Option<AgentId>,
    /// Why.
    pub reason: RefusalReason,
    /// For people, at most 256 characters.
    pub message: String,
    /// How many messages (or fields of messages) this stands for.
    pub count: u32,
    /// Their size, bytes.
    pub bytes: u64,
}

/// A status message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Whose.
    pub agent: AgentId,
    /// What it says.
    pub status: Status,
}

/// Aggregates and rules as declared by config. Each partition gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Declaration {
    /// All aggregates; one that is no longer named is dropped.
    pub aggregates: Vec<AggregateSpec>,
    /// All rules as JSON texts, because this crate does not know what a rule is.
    pub rules: Vec<String>,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A batch, byte for byte as it came.
    Batch(Vec<u8>),
    /// A plain device's message.
    Plain(Plain),
    /// Something refused at the door.
    Refused(Refused),
    /// An agent's status.
    Status(StatusRecord),
    /// Time goes on in an idle partition.
    Tick,
    /// Nothing could enter the log in this stretch of ingest time; silence timers do not count it.
    AvailabilityGap {
        /// The last ingest time before it.
        from: IngestTime,
        /// The first ingest time after it.
        to: IngestTime,
    },
    /// Aggregates and rules.
    Declare(Declaration),
}

/// A record as it is read: a batch stays where it is.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordRef<'a> {
    /// A raw batch, for [`crate::batch::peek`].
    Batch(&'a [u8]),
    /// Any other record.
    Other(Record),
}

impl Record {
    /// The bytes in the log.
    pub fn encode(&self) -> Vec<u8> {
        fn body<T: Serialize>(tag: u8, value: &T) -> Vec<u8> {
            // Fails only for values of unknown length, which records do not have.
            postcard::to_extend(value, vec![tag]).unwrap_or_default()
        }
        match self {
            Self::Batch(raw) => Self::encode_batch(raw),
            Self::Plain(r) => body(TAG_PLAIN, r),
            Self::Refused(r) => body(TAG_REFUSED, r),
            Self::Status(r) => body(TAG_STATUS, r),
            Self::Tick => vec![TAG_TICK],
            Self::AvailabilityGap { from, to } => body(TAG_GAP, &(from, to)),
            Self::Declare(r) => body(TAG_DECLARE, r),
        }
    }

    /// The bytes of a batch record, without reading the batch.
    pub fn encode_batch(raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(raw.len() + 1);
        out.push(TAG_BATCH);
        out.extend_from_slice(raw);
        out
    }
}

impl<'a> RecordRef<'a> {
    /// Reads a record.
    ///
    /// **Errors**: an unknown tag (a newer version wrote the log) or bytes that do not decode.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&tag, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        fn body<'a, T: Deserialize<'a>>(
            rest: &'a [u8],
            what: &'static str,
        ) -> Result<T, DecodeError> {
            postcard::from_bytes(rest).map_err(|_| DecodeError::Invalid { what, at: 1 })
        }
        Ok(Self::Other(match tag {
            TAG_BATCH => return Ok(Self::Batch(rest)),
            TAG_PLAIN => Record::Plain(body(rest, "plain record")?),
            TAG_REFUSED => Record::Refused(body(rest, "refused record")?),
            TAG_STATUS => Record::Status(body(rest, "status record")?),
            TAG_TICK => Record::Tick,
            TAG_GAP => {
                let (from, to) = body(rest, "gap record")?;
                Record::AvailabilityGap { from, to }
            }
            TAG_DECLARE => Record::Declare(body(rest, "declaration record")?),
            found => return Err(DecodeError::UnknownVersion { found }),
        }))
    }
}
