//! Quarantined events that can be released.
//!
//! Nothing that was accepted is discarded: the batch's bytes go to the state store under an id, until an
//! operator releases them or newer ones need the room. A release comes through the log with those bytes, so a
//! replay does the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use event::{Columns, RefusalReason, Release};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::cold::HeldRecord;
use super::count::{Origin, Which};
use super::effects::Effects;
use super::evaluate::rank;
use super::partition::Partition;

/// Records held per partition, ...
const RECORDS_MAX: usize = 10_000;
/// ... and their bytes. Beyond it the oldest can no longer be released.
const BYTES_MAX: u64 = 256 << 20;

/// One record that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    count: u64,
    reason: RefusalReason,
    bytes: u64,
    checksum: u64,
}

/// What can be released, by id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
    /// Tells several in one record apart.
    next: u64,
}

impl Held {
    /// Whether it adds up, and is not more than `quarantined` events.
    pub(crate) fn is_sound(&self, quarantined: u64) -> bool {
        let sum = |of: fn(&Entry) -> u64| {
            let mut all = self.entries.values().map(of);
            all.try_fold(0u64, |sum, n| sum.checked_add(n))
        };
        self.entries.len() <= RECORDS_MAX
            && sum(|e| e.bytes) == Some(self.bytes)
            && sum(|e| e.count).is_some_and(|n| n <= quarantined)
            && self
                .entries
                .last_key_value()
                .is_none_or(|e| *e.0 < self.next)
    }
}

impl Partition {
    /// Keeps `events` (indexes) of a batch for a release; gives the id that people see.
    pub(crate) fn hold(
        &mut self,
        batch: &[u8],
        events: &[u32],
        agent: &str,
        reason: RefusalReason,
        fx: &mut Effects,
    ) -> Option<String> {
        let _ = (agent, fx);
        let record = HeldRecord {
            events: Cow::Borrowed(events),
            batch: Cow::Borrowed(batch),
        };
        let bytes = postcard::to_allocvec(&record).ok()?;
        let id = self.held.next;
        self.held.next += 1;
        self.held.bytes += bytes.len() as u64;
        let entry = Entry {
            count: events.len() as u64,
            reason,
            bytes: bytes.len() as u64,
            checksum: xxh3_64(&bytes),
        };
        self.held.entries.insert(id, entry);
        self.outbox.held.insert(id, Some(bytes));
        while self.held.entries.len() > RECORDS_MAX || self.held.bytes > BYTES_MAX {
            let Some((old, entry)) = self.held.entries.pop_first() else {
                break;
            };
            self.held.bytes -= entry.bytes;
            self.outbox.held.insert(old, None);
        }
        Some(format!("{}-{id}", self.number))
    }

    /// Counts what was quarantined. A release of what is not held (any more), or with other bytes, is nothing.
    pub(crate) fn release(&mut self, release: &Release, fx: &mut Effects) {
        let fits = |e: &&Entry| e.checksum == xxh3_64(&release.record);
        let Some(entry) = self.held.entries.get(&release.id).filter(fits).cloned() else {
            return;
        };
        let Ok(record) = postcard::from_bytes::<HeldRecord<'_>>(&release.record) else {
            return;
        };
        let Ok((header, body)) = event::batch::peek(&record.batch) else {
            return;
        };
        let mut columns: Columns = std::mem::take(&mut self.scratch.columns);
        if body.decode_into(&mut columns).is_ok()
            && let Some(agent) = self.agent(header.agent.as_str(), false)
        {
            self.held.entries.remove(&release.id);
            self.held.bytes -= entry.bytes;
            self.outbox.held.insert(release.id, None);
            self.totals.quarantined -= entry.count;
            if let Some(n) = self.reasons.get_mut(&entry.reason) {
                *n = n.saturating_sub(entry.count);
            }
            let origin = Origin {
                agent,
                first_seq: header.first_seq,
                shift: release.shift,
                raw: Some(&record.batch),
            };
            self.count_some(&mut columns, &origin, Which::Events(&record.events), fx);
            let first = rank(header.e_inc, header.first_seq);
            self.evaluate(&columns, agent, first, fx);
            self.note_moved(agent);
        }
        self.scratch.columns = columns;
    }

    /// The bytes of a held record that have not reached the state store yet.
    pub fn held_record(&self, id: u64) -> Option<Vec<u8>> {
        let flying = self.in_flight.as_ref().and_then(|f| f.1.held.get(&id));
        self.outbox.held.get(&id).or(flying).cloned().flatten()
    }

    /// Whether a quarantined record can still be released.
    pub fn is_held(&self, id: u64) -> bool {
        self.held.entries.contains_key(&id)
    }
}
