//! Clocks that are wrong (P5).

use event::{BatchHeader, ClockQuality};

/// A clock that is off by more than this, microseconds, is flagged; and corrected if nothing ever set it.
const OFFSET_MAX: u64 = 60_000_000;

/// The clock of an agent minus ours, microseconds, by one transmission.
pub(super) fn offset(header: &BatchHeader, ingest: i64) -> i64 {
    header.sent_at.as_micros().saturating_sub(ingest)
}

/// Whether that is too much.
pub(super) fn is_off(offset: i64) -> bool {
    offset.unsigned_abs() > OFFSET_MAX
}

/// What must be added to the times of an agent, microseconds: nothing unless its clock was never set in this
/// boot and is off by more than a minute.
pub(super) fn shift(quality: ClockQuality, offset: i64) -> i64 {
    if quality == ClockQuality::None && is_off(offset) {
        offset.saturating_neg()
    } else {
        0
    }
}
