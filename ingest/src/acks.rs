//! Acks: exactly what was appended, or what was refused (N2).

use event::{Ack, EventTime, Incarnation, RefusedRange, SeqRange};

use crate::admission::Refusal;
use crate::admission::batch::Admitted;

/// Longest text of a refusal in an ack, characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// The ack of a batch that is on disk. A heartbeat has no range and is answered all the same, so that
/// its lineage and gaps are known to be durable.
pub fn stored(admitted: Admitted, received_at: EventTime, now: EventTime) -> Ack {
    Ack {
        incarnation: admitted.incarnation,
        tx_no: admitted.tx_no,
        ranges: admitted.range.into_iter().collect(),
        refused: Vec::new(),
        cloud_received_at: received_at,
        cloud_sent_at: now,
        backfill_budget: None,
    }
}

/// The answer to a refused batch. If its header could not be read, the transmission is 0 and the
/// range is 0 to 0 of incarnation 0: "something that you sent, I cannot tell what".
pub fn refused(admitted: Option<Admitted>, refusal: &Refusal, received_at: EventTime) -> Ack {
    let unknown = SeqRange {
        incarnation: Incarnation { no: 0, rand: 0 },
        first: 0,
        last: 0,
    };
    Ack {
        incarnation: admitted.map_or(unknown.incarnation, |a| a.incarnation),
        tx_no: admitted.map_or(0, |a| a.tx_no),
        ranges: Vec::new(),
        refused: vec![RefusedRange {
            range: admitted.and_then(|a| a.range).unwrap_or(unknown),
            reason: refusal.reason,
            message: refusal.message.chars().take(MESSAGE_CHARS_MAX).collect(),
        }],
        cloud_received_at: received_at,
        cloud_sent_at: received_at,
        backfill_budget: None,
    }
}
