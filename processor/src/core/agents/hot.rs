//! The record of an ordinary agent: plain old data, in one table.

use event::{ClockQuality, ClockState, Incarnation};

use super::super::flat;

/// [`Hot::flags`]: a device without our agent, that is its own agent.
const PLAIN: u16 = 1;
/// Whether it is connected is known; and it is.
const ONLINE_KNOWN: u16 = 1 << 1;
const ONLINE: u16 = 1 << 2;
/// The clock is known; its quality in two bits.
const CLOCK_KNOWN: u16 = 1 << 3;
const QUALITY_SHIFT: u16 = 4;
/// The clock is off by more than a minute (P5).
const CLOCK_OFF: u16 = 1 << 6;
/// A rollback or clone was seen at some time (P4).
const IRREGULAR: u16 = 1 << 7;
/// The newest life is in this record.
const INLINE: u16 = 1 << 8;
/// There is a rare record; and it holds more than tombstones and losses.
const RARE: u16 = 1 << 9;
const MORE: u16 = 1 << 10;
const ALL: u16 = (1 << 11) - 1;

/// One agent, or a plain device that is its own agent. What an ordinary one does not have is in
/// [`super::Rare`].
///
/// The fields of the life are meaningful only while the newest life is ordinary: one range of seqs seen,
/// nothing declared lost, no other life, no conflict about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hot {
    /// Event time up to which it is known to be complete, microseconds; `i64::MIN` = unknown.
    pub(crate) progress: i64,
    /// Ingest time of the last message, microseconds.
    pub(crate) last_contact: i64,
    /// Ingest time without our own outages at the last message; for silence.
    pub(crate) contact_uptime: i64,
    pub(super) inc_rand: u64,
    /// Newest transmission seen of that life; 0 = none.
    pub(super) tx_no: u64,
    /// From that transmission; `i64::MIN` = none.
    pub(super) watermark: i64,
    /// Seqs seen, both ends included; 0 and 0 = none.
    pub(super) seen_first: u64,
    pub(super) seen_last: u64,
    pub(super) inc_no: u32,
    /// The agent's own estimate of the error of its clock, milliseconds; `u32::MAX` = unknown.
    pub(super) clock_error: u32,
    /// Its clock minus ours at the newest transmission, microseconds; `i32::MIN` = too much for this field,
    /// it is in the rare record.
    pub(super) offset: i32,
    /// How many devices it has, and one of them.
    pub(crate) devices: u32,
    pub(crate) first_device: u32,
    /// When its newest device joined, seconds since 2020.
    pub(crate) newest_join: u32,
    pub(super) flags: u16,
}

/// An ordinary agent costs this many bytes and its name.
const _: () = assert!(size_of::<Hot>() <= 96);

/// Bytes of a record as it is saved.
const ROW: usize = 92;

impl Hot {
    pub(super) fn new(plain: bool) -> Self {
        Self {
            progress: i64::MIN,
            last_contact: 0,
            contact_uptime: 0,
            inc_rand: 0,
            tx_no: 0,
            watermark: i64::MIN,
            seen_first: 0,
            seen_last: 0,
            inc_no: 0,
            clock_error: 0,
            offset: 0,
            devices: 0,
            first_device: u32::MAX,
            newest_join: 0,
            flags: if plain { PLAIN } else { 0 },
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Something of the second half of the record, to have it fetched.
    pub(crate) fn tx_hint(&self) -> u64 {
        self.seen_last
    }

    /// Whether it is a plain device: it has no backlog report and promises nothing.
    pub(crate) fn plain(&self) -> bool {
        self.has(PLAIN)
    }

    /// Whether it is connected; none if no status came yet.
    pub(crate) fn online(&self) -> Option<bool> {
        self.has(ONLINE_KNOWN).then(|| self.has(ONLINE))
    }

    pub(super) fn set_online(&mut self, online: bool) {
        self.set(ONLINE_KNOWN, true);
        self.set(ONLINE, online);
    }

    /// Its clock at the newest transmission.
    pub(crate) fn clock(&self) -> Option<ClockState> {
        let quality = match (self.flags >> QUALITY_SHIFT) & 3 {
            0 => ClockQuality::None,
            1 => ClockQuality::Rtc,
            2 => ClockQuality::Ntp,
            _ => ClockQuality::Gnss,
        };
        self.has(CLOCK_KNOWN).then_some(ClockState {
            quality,
            error_ms: self.clock_error,
        })
    }

    pub(super) fn set_clock(&mut self, clock: ClockState) {
        let quality = match clock.quality {
            ClockQuality::None => 0,
            ClockQuality::Rtc => 1,
            ClockQuality::Ntp => 2,
            ClockQuality::Gnss => 3,
        };
        self.flags &= !(3 << QUALITY_SHIFT);
        self.flags |= CLOCK_KNOWN | quality << QUALITY_SHIFT;
        self.clock_error = clock.error_ms;
    }

    /// Whether its clock is off by more than a minute (P5).
    pub(crate) fn clock_off(&self) -> bool {
        self.has(CLOCK_OFF)
    }

    pub(super) fn set_clock_off(&mut self, off: bool) {
        self.set(CLOCK_OFF, off);
    }

    /// Whether a rollback or clone was seen at some time (P4).
    #[cfg(test)]
    pub(crate) fn irregular(&self) -> bool {
        self.has(IRREGULAR)
    }

    pub(super) fn set_irregular(&mut self) {
        self.set(IRREGULAR, true);
    }

    pub(super) fn inline(&self) -> bool {
        self.has(INLINE)
    }

    pub(super) fn has_rare(&self) -> bool {
        self.has(RARE)
    }

    pub(super) fn has_more(&self) -> bool {
        self.has(MORE)
    }

    pub(super) fn set_rare(&mut self, rare: bool, more: bool) {
        self.set(RARE, rare);
        self.set(MORE, more);
    }

    /// The life in this record.
    pub(super) fn life(&self) -> Option<Incarnation> {
        self.inline().then_some(Incarnation {
            no: self.inc_no,
            rand: self.inc_rand,
        })
    }

    /// Begins an ordinary life of which nothing has come yet.
    pub(super) fn begin(&mut self, incarnation: Incarnation) {
        self.end();
        self.set(INLINE, true);
        self.inc_no = incarnation.no;
        self.inc_rand = incarnation.rand;
    }

    /// Takes the life out of this record.
    pub(super) fn end(&mut self) {
        self.set(INLINE, false);
        self.inc_no = 0;
        self.inc_rand = 0;
        self.tx_no = 0;
        self.watermark = i64::MIN;
        self.seen_first = 0;
        self.seen_last = 0;
    }

    /// The record as it is saved: its fields in their order, little endian.
    #[inline]
    pub(super) fn to_bytes(self) -> [u8; ROW] {
        let mut row = [0; ROW];
        let wide = [
            self.progress as u64,
            self.last_contact as u64,
            self.contact_uptime as u64,
            self.inc_rand,
            self.tx_no,
            self.watermark as u64,
            self.seen_first,
            self.seen_last,
        ];
        let narrow = [
            self.inc_no,
            self.clock_error,
            self.offset as u32,
            self.devices,
            self.first_device,
            self.newest_join,
            u32::from(self.flags),
        ];
        let (first, rest) = row.split_at_mut(64);
        for (place, n) in first.chunks_exact_mut(8).zip(wide) {
            place.copy_from_slice(&n.to_le_bytes());
        }
        for (place, n) in rest.chunks_exact_mut(4).zip(narrow) {
            place.copy_from_slice(&n.to_le_bytes());
        }
        row
    }

    /// Reads [`Self::to_bytes`]; none if there are flags that no version has.
    pub(super) fn from_bytes(row: &[u8; ROW]) -> Option<Self> {
        let wide = |at: usize| flat::number::<u64>(&row[at * 8..at * 8 + 8]);
        let narrow = |at: usize| flat::number::<u32>(&row[64 + at * 4..68 + at * 4]);
        Some(Self {
            progress: wide(0) as i64,
            last_contact: wide(1) as i64,
            contact_uptime: wide(2) as i64,
            inc_rand: wide(3),
            tx_no: wide(4),
            watermark: wide(5) as i64,
            seen_first: wide(6),
            seen_last: wide(7),
            inc_no: narrow(0),
            clock_error: narrow(1),
            offset: narrow(2) as i32,
            devices: narrow(3),
            first_device: narrow(4),
            newest_join: narrow(5),
            flags: u16::try_from(narrow(6)).ok()?,
        })
    }

    /// Whether the bits are of this version and do not contradict each other.
    pub(super) fn sound(&self) -> bool {
        let empty = self.seen_first == 0 && self.seen_last == 0;
        let range = 1 <= self.seen_first && self.seen_first <= self.seen_last;
        self.flags & !ALL == 0
            && (empty || range)
            && self.seen_last < u64::MAX
            && (self.has_rare() || !self.has_more())
    }
}
