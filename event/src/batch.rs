//! One transmission of an agent: a header for the protocol and the events as columns.
//!
//! Bytes: version (1), header (postcard), varint length of the columns before compression, the
//! columns (LZ4 block), XXH3-64 of everything before it (8 bytes, little-endian).

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::{Reader, put_varint};
use crate::columns::{self, Columns};
use crate::{AgentId, EventTime, IdError, Incarnation, RefusalReason, Sample, TimeRange};

/// The format version that this code writes and the only one it reads.
pub const VERSION: u8 = 1;
/// Most events in a batch.
pub const EVENTS_MAX: usize = 65_536;
/// Most bytes of an encoded batch.
pub const BYTES_MAX: usize = 1 << 20;
/// Most bytes of the columns before compression.
pub const COLUMNS_BYTES_MAX: usize = 8 << 20;
/// Upper bound of what decoding one batch allocates: the columns, their strings and 32 bytes an event.
pub const DECODED_BYTES_MAX: usize = 3 * COLUMNS_BYTES_MAX;
/// Most lineage entries and most declared gaps in one batch.
pub const LINEAGE_MAX: usize = 1024;

/// How good the agent's clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockQuality {
    /// Never set in this boot.
    #[default]
    None,
    /// From a battery-backed clock.
    Rtc,
    /// Synchronised over the network.
    Ntp,
    /// From satellites.
    Gnss,
}

impl ClockQuality {
    /// The name in the API: `none`, `rtc`, `ntp` or `gnss`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rtc => "rtc",
            Self::Ntp => "ntp",
            Self::Gnss => "gnss",
        }
    }
}

/// What the agent knows of its own clock at a transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockState {
    /// Where the time comes from.
    pub quality: ClockQuality,
    /// Its own estimate of the error, milliseconds; `u32::MAX` = unknown.
    pub error_ms: u32,
}

/// The backlog of an agent, for dashboards and flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Events held un-acked, those of this batch included.
    pub events: u64,
    /// Their size in the buffer, bytes.
    pub bytes: u64,
    /// The earliest event time among them.
    pub oldest: Option<EventTime>,
}

/// What became of an earlier incarnation of the same buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Which one.
    pub incarnation: Incarnation,
    /// The last seq it gave out (0 = none).
    pub last_seq: u64,
    /// Whether any event of it is still held.
    pub held: bool,
}

/// Why events that were numbered will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The buffer was full.
    Overflow,
    /// The buffer was damaged.
    Corruption,
    /// Older than the configured maximum age.
    Expired,
}

/// A declared loss: these seqs will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose seqs.
    pub incarnation: Incarnation,
    /// First lost seq.
    pub from: u64,
    /// Last lost seq.
    pub to: u64,
    /// The event times of what was lost.
    pub time: TimeRange,
    /// Why.
    pub reason: GapReason,
}

/// Everything of a batch but its events. PROTOCOL.md, "Batch", says what each field is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// The sender.
    pub agent: AgentId,
    /// The sender's present incarnation.
    pub incarnation: Incarnation,
    /// Grows by one on every transmission of this incarnation, retries included.
    pub tx_no: u64,
    /// The agent's time at this transmission.
    pub sent_at: EventTime,
    /// Microseconds since the device booted, suspend included.
    pub boottime_us: u64,
    /// How good its clock is.
    pub clock: ClockState,
    /// Incarnation that numbered the events inside (may be an earlier one).
    pub e_inc: Incarnation,
    /// Seq of the first event inside.
    pub first_seq: u64,
    /// How many events are inside; 0 = heartbeat.
    pub count: u32,
    /// Earliest event time among the events held un-acked that are not in this batch; if there is
    /// none, the agent's present time.
    pub low_watermark: EventTime,
    /// A sleeping device promises to make no event before this time.
    pub quiet_until: Option<EventTime>,
    /// The backlog.
    pub held: Held,
    /// Earlier incarnations of this buffer.
    pub lineage: Vec<Lineage>,
    /// A stretch in which an unclean stop may have lost events that were never numbered.
    pub unclean: Option<TimeRange>,
    /// Declared losses.
    pub gaps: Vec<Gap>,
}

impl BatchHeader {
    /// Seq of the last event inside; none for a heartbeat.
    pub fn last_seq(&self) -> Option<u64> {
        match self.count {
            0 => None,
            n => Some(self.first_seq + u64::from(n) - 1),
        }
    }
}

/// Why a batch could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// `count` in the header is not the number of events.
    #[error("the header says {said} events, the batch holds {held}")]
    Count {
        /// In the header.
        said: u32,
        /// In the batch.
        held: usize,
    },
    /// NaN or an infinity.
    #[error("event {at} of the batch has a number that is not finite")]
    NotFinite {
        /// Index of the event.
        at: usize,
    },
    /// A text beyond the limit.
    #[error("event {at} of the batch has a text of {len} bytes, more than 1024")]
    TextTooLong {
        /// Index of the event.
        at: usize,
        /// Its length, bytes.
        len: usize,
    },
    /// Over a limit; cut the range in two.
    #[error(
        "batch of {events} events and {bytes} bytes is over a limit; send fewer events at once"
    )]
    TooLarge {
        /// How many events.
        events: usize,
        /// Encoded size, bytes (0 = not reached).
        bytes: usize,
    },
}

/// Why bytes are not a batch. The position counts bytes within the part that was being read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("empty payload; a heartbeat is a batch with no events, not an empty message")]
    Empty,
    /// A version this code does not know.
    #[error(
        "format version {found} is not known here (this is version {VERSION}); update the cloud first"
    )]
    UnknownVersion {
        /// What the first byte says.
        found: u8,
    },
    /// The checksum does not fit.
    #[error(
        "checksum {found:016x} does not fit the bytes ({computed:016x}); the message was damaged on its way"
    )]
    Checksum {
        /// In the message.
        found: u64,
        /// Of its bytes.
        computed: u64,
    },
    /// Over a stated limit.
    #[error("{what} of {size} is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// The bytes end too early.
    #[error("the bytes end at {at} in the middle of a field")]
    Truncated {
        /// Position.
        at: usize,
    },
    /// Text that is not UTF-8.
    #[error("text at byte {at} is not UTF-8")]
    Utf8 {
        /// Position.
        at: usize,
    },
    /// A name that breaks the rules.
    #[error("{error} (dictionary, before byte {at})")]
    Id {
        /// Which rule.
        error: IdError,
        /// Position behind the name.
        at: usize,
    },
    /// A field with an impossible value.
    #[error("{what} at byte {at} is not valid")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// Position.
        at: usize,
    },
}

impl DecodeError {
    /// The reason under which this is refused and counted.
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Empty => RefusalReason::Empty,
            Self::UnknownVersion { .. } => RefusalReason::UnknownVersion,
            Self::Checksum { .. } => RefusalReason::Checksum,
            Self::TooLarge { .. } => RefusalReason::TooLarge,
            Self::Utf8 { .. } => RefusalReason::InvalidUtf8,
            Self::Id { .. } => RefusalReason::InvalidId,
            Self::Truncated { .. } | Self::Invalid { .. } => RefusalReason::Malformed,
        }
    }
}

/// The events of a batch, still compressed. Its checksum has been verified.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    block: &'a [u8],
    raw_len: usize,
    count: usize,
}

impl Body<'_> {
    /// How many events it holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Decodes the events into `columns`, whose buffers are reused.
    ///
    /// **Errors**: bytes that do not decode; `columns` is then empty.
    pub fn decode_into(&self, columns: &mut Columns) -> Result<(), DecodeError> {
        columns.decode(self.block, self.raw_len, self.count)
    }
}

/// The bytes of a batch.
///
/// **Errors**: a count that does not fit, a value out of range, or more than [`EVENTS_MAX`] events
/// or [`BYTES_MAX`] bytes (cut the range in two and try again).
pub fn encode(header: &BatchHeader, samples: &[Sample]) -> Result<Vec<u8>, EncodeError> {
    if header.count as usize != samples.len() {
        return Err(EncodeError::Count {
            said: header.count,
            held: samples.len(),
        });
    }
    let too_large = |bytes| EncodeError::TooLarge {
        events: samples.len(),
        bytes,
    };
    if samples.len() > EVENTS_MAX
        || header.lineage.len() > LINEAGE_MAX
        || header.gaps.len() > LINEAGE_MAX
    {
        return Err(too_large(0));
    }
    let raw = columns::encode(samples)?;
    if raw.len() > COLUMNS_BYTES_MAX {
        return Err(too_large(raw.len()));
    }
    let out = Vec::with_capacity(128 + raw.len() / 2);
    let mut out = postcard::to_extend(header, {
        let mut out = out;
        out.push(VERSION);
        out
    })
    .map_err(|_| too_large(0))?;
    put_varint(&mut out, raw.len() as u64);
    let start = out.len();
    out.resize(
        start + lz4_flex::block::get_maximum_output_size(raw.len()),
        0,
    );
    let n = lz4_flex::block::compress_into(&raw, &mut out[start..]).map_err(|_| too_large(0))?;
    out.truncate(start + n);
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    if out.len() > BYTES_MAX {
        Err(too_large(out.len()))
    } else {
        Ok(out)
    }
}

/// The agent that a batch names, read without any check: a hint of what will be needed, never a fact.
pub fn hint_agent(bytes: &[u8]) -> Option<&str> {
    // Behind the version the header begins with the agent: its length and its text.
    let mut r = Reader::new(bytes.get(1..)?);
    r.str().ok()
}

/// Reads version, checksum and header of a batch: all that admission needs.
///
/// **Errors**: [`DecodeError`] says what is wrong and where.
pub fn peek(bytes: &[u8]) -> Result<(BatchHeader, Body<'_>), DecodeError> {
    let too_large = |what, size: usize, max: usize| DecodeError::TooLarge {
        what,
        size: size as u64,
        max: max as u64,
    };
    match bytes.first() {
        None => return Err(DecodeError::Empty),
        Some(&VERSION) => {}
        Some(&found) => return Err(DecodeError::UnknownVersion { found }),
    }
    if bytes.len() > BYTES_MAX {
        return Err(too_large("batch", bytes.len(), BYTES_MAX));
    }
    let Some((content, sum)) = bytes.split_last_chunk::<8>().filter(|(c, _)| !c.is_empty()) else {
        return Err(DecodeError::Truncated { at: bytes.len() });
    };
    let found = u64::from_le_bytes(*sum);
    let computed = xxh3_64(content);
    if found != computed {
        return Err(DecodeError::Checksum { found, computed });
    }
    let (header, rest): (BatchHeader, &[u8]) =
        postcard::take_from_bytes(&content[1..]).map_err(|_| DecodeError::Invalid {
            what: "batch header",
            at: 1,
        })?;
    if header.lineage.len() > LINEAGE_MAX || header.gaps.len() > LINEAGE_MAX {
        let size = header.lineage.len().max(header.gaps.len());
        return Err(too_large(
            "list of lineage entries or gaps",
            size,
            LINEAGE_MAX,
        ));
    }
    let count = header.count as usize;
    if count > EVENTS_MAX {
        return Err(too_large("number of events", count, EVENTS_MAX));
    }
    let invalid = |what| DecodeError::Invalid {
        what,
        at: content.len() - rest.len(),
    };
    if header.first_seq == 0 && count > 0 {
        return Err(invalid("first seq (seqs count from 1)"));
    }
    if header.first_seq.checked_add(count as u64).is_none() {
        return Err(invalid("seq range"));
    }
    if header
        .gaps
        .iter()
        .any(|g| g.from == 0 || g.from > g.to || g.to == u64::MAX)
    {
        return Err(invalid("seq range of a gap"));
    }
    let mut r = Reader::new(rest);
    let raw_len = r.varint()?;
    if raw_len > COLUMNS_BYTES_MAX as u64 {
        return Err(DecodeError::TooLarge {
            what: "uncompressed columns",
            size: raw_len,
            max: COLUMNS_BYTES_MAX as u64,
        });
    }
    let block = r.take(r.left())?;
    // LZ4 cannot expand more than 255-fold: a liar must not make us reserve more than that.
    if raw_len > 16 + 255 * block.len() as u64 {
        return Err(invalid("length of the uncompressed columns"));
    }
    Ok((
        header,
        Body {
            block,
            raw_len: raw_len as usize,
            count,
        },
    ))
}
