//! What the cloud answers: exactly which ranges are durable, and which were refused.

use serde::{Deserialize, Serialize};

use crate::{DecodeError, EventTime, Incarnation, RefusalReason};

/// Most bytes of an encoded ack.
pub const BYTES_MAX: usize = 64 << 10;

/// A contiguous range of seqs of one incarnation, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqRange {
    /// Who numbered them.
    pub incarnation: Incarnation,
    /// First seq.
    pub first: u64,
    /// Last seq.
    pub last: u64,
}

/// A range that the cloud did not take. The agent keeps it and tries again slowly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRange {
    /// Which events.
    pub range: SeqRange,
    /// The reason, from the closed list.
    pub reason: RefusalReason,
    /// What a person should read.
    pub message: String,
}

/// One answer to an agent. It names **exactly** what was appended (PROTOCOL.md N2): nothing is ever
/// acked "up to".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {
    /// The life that sent the transmission: an answer that comes late must not be taken by the next life
    /// for an answer to its own transmission of the same number.
    pub incarnation: Incarnation,
    /// The transmission that is answered (0 = none): its lineage, gaps and clock data are durable too.
    pub tx_no: u64,
    /// Durable ranges.
    pub ranges: Vec<SeqRange>,
    /// Refused ranges.
    pub refused: Vec<RefusedRange>,
    /// The cloud's time when the batch arrived.
    pub cloud_received_at: EventTime,
    /// The cloud's time when this ack left: with the above the agent computes its offset as NTP does.
    pub cloud_sent_at: EventTime,
    /// Events per second that the agent may drain of its backlog; none = no limit.
    pub backfill_budget: Option<u32>,
}

impl Ack {
    /// The bytes on the wire: version 1, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(self)
    }

    /// Reads an ack.
    ///
    /// **Errors**: unknown version, too large, or bytes that do not decode.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_versioned(bytes, BYTES_MAX, "ack")
    }
}

/// A small message: one version byte, then postcard.
pub(crate) fn encode_versioned<T: Serialize>(value: &T) -> Vec<u8> {
    // Postcard fails only for maps and sequences of unknown length, which our messages do not have.
    postcard::to_extend(value, vec![1]).unwrap_or_default()
}

pub(crate) fn decode_versioned<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    max: usize,
    what: &'static str,
) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLarge {
            what,
            size: bytes.len() as u64,
            max: max as u64,
        });
    }
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((1, rest)) => {
            postcard::from_bytes(rest).map_err(|_| DecodeError::Invalid { what, at: 1 })
        }
        Some((&found, _)) => Err(DecodeError::UnknownVersion { found }),
    }
}
