//! What has left the hot state: contents of panes on their way to the state store, where they are merged
//! with what is there.
//!
//! A row of the store is one pane of one group, or one hour or day of it (*tiers*). Merging is exact and
//! commutative, so it does not matter how often and when it happens: the state does not remember it.
//!
//! Keys (order-keeping, big endian): tier `u8`, slot of the aggregate `u32`, start `i64` with its sign bit
//! flipped, group `u32`. Tier 3 is the ledger of events that were too old (day, id of the device: a page of
//! it is one range), tier 4 holds quarantined records by id.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::pane::Pane;
use super::snapshot::RestoreError;

/// Panes, hours, days.
pub(crate) const TIERS: usize = 3;
const TIER_TOO_OLD: u8 = 3;
const TIER_HELD: u8 = 4;
const VERSION: u8 = 1;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ColdKey {
    pub(crate) tier: u8,
    pub(crate) slot: u32,
    /// Microseconds.
    pub(crate) start: i64,
    pub(crate) group: u32,
}

fn put_signed(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(&((n as u64) ^ (1 << 63)).to_be_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(take(bytes)?) ^ (1 << 63)) as i64)
}

impl ColdKey {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Self::prefix(self.tier, self.slot, self.start);
        out.extend_from_slice(&self.group.to_be_bytes());
        out
    }

    /// The first key of a start.
    pub(crate) fn prefix(tier: u8, slot: u32, start: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        out.push(tier);
        out.extend_from_slice(&slot.to_be_bytes());
        put_signed(&mut out, start);
        out
    }

    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let key = Self {
            tier: take::<1>(&mut bytes)?[0],
            slot: u32::from_be_bytes(take(&mut bytes)?),
            start: take_signed(&mut bytes)?,
            group: u32::from_be_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(key)
    }
}

/// How a window settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Settlement {
    pub(crate) done: u64,
    pub(crate) expected: u64,
    /// Events it had.
    pub(crate) count: u64,
    /// Offset of the newest record then.
    pub(crate) revision: u64,
}

/// A pane's content and the life of the window that starts with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColdRow {
    pub(crate) pane: Pane,
    /// None if the window was over before its first event came (or the row is an hour or a day).
    pub(crate) settled: Option<Settlement>,
}

impl ColdRow {
    pub(crate) fn new() -> Self {
        Self {
            pane: Pane::new(),
            settled: None,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self, before: &impl Fn(u32, u32) -> bool) {
        self.pane.merge(&other.pane, before);
        self.settled = self.settled.or(other.settled);
    }

    pub(crate) fn save(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        // Postcard fails only for values of unknown length.
        out.extend(postcard::to_allocvec(&self.settled).unwrap_or_default());
        self.pane.save(&mut out);
        out
    }

    pub(crate) fn load(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (settled, mut rest) = postcard::take_from_bytes(rest).ok()?;
        let pane = Pane::load(&mut rest)?;
        (version == VERSION && rest.is_empty()).then_some(Self { pane, settled })
    }
}

/// A quarantined record that can be released: which of its events, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldRecord<'a> {
    /// Indexes of the events, ascending.
    pub(crate) events: std::borrow::Cow<'a, [u32]>,
    /// The batch as it came.
    pub(crate) batch: std::borrow::Cow<'a, [u8]>,
}

/// What the next checkpoint merges into the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    index: FxHashMap<ColdKey, u32>,
    pub(crate) rows: Vec<(ColdKey, ColdRow)>,
    /// (day, device) → events.
    pub(crate) too_old: BTreeMap<(i64, u32), u64>,
    /// Quarantined records by id: kept, or released and dropped.
    pub(crate) held: BTreeMap<u64, Option<Vec<u8>>>,
    /// Slots of aggregates that are gone.
    pub(crate) removed: Vec<u32>,
}

impl Outbox {
    /// The place of a row, which is made if need be.
    pub(crate) fn row(&mut self, key: ColdKey) -> u32 {
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let at = self.rows.len() as u32;
        self.rows.push((key, ColdRow::new()));
        self.index.insert(key, at);
        at
    }

    pub(crate) fn get(&self, key: &ColdKey) -> Option<&ColdRow> {
        let at = *self.index.get(key)?;
        Some(&self.rows[at as usize].1)
    }

    pub(crate) fn at(&mut self, at: u32) -> &mut ColdRow {
        &mut self.rows[at as usize].1
    }

    pub(crate) fn remove_slot(&mut self, slot: u32) {
        self.removed.push(slot);
        self.rows.retain(|(key, _)| key.slot != slot);
        self.index = self
            .rows
            .iter()
            .enumerate()
            .map(|(i, (key, _))| (*key, i as u32))
            .collect();
    }

    /// Takes back what could not be saved.
    pub(crate) fn put_back(&mut self, older: &Self, before: &impl Fn(u32, u32) -> bool) {
        for (key, row) in &older.rows {
            if !self.removed.contains(&key.slot) {
                let at = self.row(*key);
                self.at(at).merge(row, before);
            }
        }
        for (key, n) in &older.too_old {
            *self.too_old.entry(*key).or_default() += n;
        }
        for (id, record) in &older.held {
            self.held.entry(*id).or_insert_with(|| record.clone());
        }
        self.removed.extend_from_slice(&older.removed);
    }

    /// Memory, bytes, about.
    pub(crate) fn memory(&self) -> usize {
        self.index.capacity() * 32
            + self
                .rows
                .iter()
                .map(|(_, row)| size_of::<(ColdKey, ColdRow)>() + row.pane.bytes())
                .sum::<usize>()
    }
}

/// A checkpoint that is to be committed: the snapshot, and what is to be merged into the rows.
///
/// The owner reads the rows of [`Self::keys`], gives them to [`Self::rows`] and commits the result together
/// with the snapshot and the offset, in one transaction.
pub struct Saving {
    /// Next record to read.
    pub offset: u64,
    /// Newest ingest time, microseconds.
    pub now: i64,
    /// The hot state.
    pub snapshot: Vec<u8>,
    pub(crate) cold: Arc<Outbox>,
    /// What was too old: key and events, ascending.
    pub(crate) too_old: Vec<(Vec<u8>, u64)>,
    /// (slot, starts of what is kept by tier).
    pub(crate) horizons: Vec<(u32, [i64; TIERS])>,
}

/// The key of a row of the too-old ledger.
pub(crate) fn too_old_key(day: i64, device: &str) -> Vec<u8> {
    let mut key = vec![TIER_TOO_OLD];
    put_signed(&mut key, day);
    key.extend_from_slice(device.as_bytes());
    key
}

/// (day, device) of a row of the too-old ledger.
pub(crate) fn parse_too_old(key: &[u8]) -> Option<(i64, String)> {
    let (&TIER_TOO_OLD, mut rest) = key.split_first()? else {
        return None;
    };
    let day = take_signed(&mut rest)?;
    Some((day, std::str::from_utf8(rest).ok()?.to_owned()))
}

/// The keys of the too-old ledger behind an entry, or of all of it: from, to.
pub(crate) fn too_old_range(after: Option<&(i64, String)>) -> (Vec<u8>, Vec<u8>) {
    let from = match after {
        Some((day, device)) => {
            let mut key = too_old_key(*day, device);
            // The next one that there can be.
            key.push(0);
            key
        }
        None => vec![TIER_TOO_OLD],
    };
    (from, vec![TIER_TOO_OLD + 1])
}

/// The key of a quarantined record.
pub(crate) fn held_key(id: u64) -> Vec<u8> {
    let mut key = vec![TIER_HELD];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

impl Saving {
    fn is_kept(&self, key: &ColdKey) -> bool {
        let horizons = self.horizons.iter().find(|h| h.0 == key.slot);
        horizons.is_some_and(|h| key.start >= h.1[usize::from(key.tier)])
    }

    /// Keys of the rows that are merged with, ascending.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<ColdKey> = self
            .cold
            .rows
            .iter()
            .map(|r| r.0)
            .filter(|key| self.is_kept(key))
            .collect();
        keys.sort_unstable();
        let rows = keys.iter().map(ColdKey::bytes);
        let ledger = self.too_old.iter().map(|t| t.0.clone());
        rows.chain(ledger).collect()
    }

    /// The rows to put (`Some`) or delete (`None`): what the store has under [`Self::keys`], in that order,
    /// merged with what is new. `before` says whether the id of a device comes before that of another.
    ///
    /// **Errors**: a stored row that does not decode.
    #[allow(clippy::type_complexity)]
    pub fn rows(
        &self,
        stored: &[Option<Vec<u8>>],
        before: impl Fn(u32, u32) -> bool,
    ) -> Result<Vec<(Vec<u8>, Option<Vec<u8>>)>, RestoreError> {
        let mut kept: Vec<(ColdKey, &ColdRow)> = self
            .cold
            .rows
            .iter()
            .filter(|(key, _)| self.is_kept(key))
            .map(|(key, row)| (*key, row))
            .collect();
        kept.sort_unstable_by_key(|r| r.0);
        let damaged = |key: &[u8]| RestoreError::Damaged {
            what: format!("stored row {key:02x?}"),
        };
        let mut out = Vec::with_capacity(stored.len() + self.cold.held.len());
        let mut stored = stored.iter();
        for (key, new) in kept {
            let key = key.bytes();
            let value = match stored.next().and_then(Option::as_ref) {
                Some(old) => {
                    let mut row = ColdRow::load(old).ok_or_else(|| damaged(&key))?;
                    row.merge(new, &before);
                    row.save()
                }
                None => new.save(),
            };
            out.push((key, Some(value)));
        }
        for (key, n) in &self.too_old {
            let old = match stored.next().and_then(Option::as_ref) {
                Some(old) => parse_count(old).ok_or_else(|| damaged(key))?,
                None => 0,
            };
            let sum = old.checked_add(*n).ok_or_else(|| damaged(key))?;
            out.push((key.clone(), Some(sum.to_le_bytes().to_vec())));
        }
        for (&id, record) in &self.cold.held {
            out.push((held_key(id), record.clone()));
        }
        Ok(out)
    }

    /// Ranges of keys (from, to; half-open) that are no longer kept.
    pub fn forget(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let old = self.horizons.iter().flat_map(|(slot, starts)| {
            starts
                .iter()
                .enumerate()
                .filter(|(_, start)| **start > i64::MIN)
                .map(|(tier, start)| {
                    (
                        ColdKey::prefix(tier as u8, *slot, i64::MIN),
                        ColdKey::prefix(tier as u8, *slot, *start),
                    )
                })
        });
        let gone = self.cold.removed.iter().flat_map(|slot| {
            (0..TIERS).map(|tier| {
                let mut to = ColdKey::prefix(tier as u8, *slot, i64::MAX);
                // Behind every key of that start.
                to.extend_from_slice(&[0xff; 5]);
                (ColdKey::prefix(tier as u8, *slot, i64::MIN), to)
            })
        });
        old.chain(gone).collect()
    }
}

/// Events in a row of the too-old ledger.
pub(crate) fn parse_count(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_tier_slot_time_and_group_and_read_back() {
        let key = |tier, slot, start, group| ColdKey {
            tier,
            slot,
            start,
            group,
        };
        let keys = [
            key(0, 0, -5, 9),
            key(0, 0, 3, 0),
            key(0, 0, 3, 1),
            key(0, 1, 2, 0),
            key(1, 0, 0, 0),
        ];
        let bytes: Vec<Vec<u8>> = keys.iter().map(ColdKey::bytes).collect();
        assert!(bytes.windows(2).all(|w| w[0] < w[1]));
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(ColdKey::parse(bytes), Some(*key));
            assert!(ColdKey::prefix(key.tier, key.slot, key.start) < *bytes);
        }
        let entries = [(-3, "b"), (5, "a"), (5, "ab"), (5, "b")].map(|e| (e.0, e.1.to_owned()));
        for (i, entry) in entries.iter().enumerate() {
            assert_eq!(
                parse_too_old(&too_old_key(entry.0, &entry.1)).as_ref(),
                Some(entry)
            );
            let (from, to) = too_old_range(Some(entry));
            let behind = entries.iter().map(|e| too_old_key(e.0, &e.1));
            let behind = behind.filter(|key| (&from..&to).contains(&key));
            assert_eq!(behind.count(), entries.len() - 1 - i);
        }
    }
}
