//! What is known of each partition without reading its blocks: where it begins and ends.
//!
//! Stored as one row per partition in `log.redb`, written in the transaction that changes the blocks.
//! A log whose rows and blocks disagree is refused.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, TableDefinition};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::block::{array, verify};
use crate::store::{Fault, Store, lock};
use crate::{Error, Offset, PartitionId};

/// Blocks by partition and first offset.
pub(crate) const BLOCKS: TableDefinition<(u16, u64), &[u8]> = TableDefinition::new("blocks");
/// One row per partition that has ever had a record.
pub(crate) const PARTITIONS: TableDefinition<u16, &[u8]> = TableDefinition::new("partitions");

/// State of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// Of the newest block; meaningful when `end` > 0.
    pub(crate) ingest_time: i64,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

pub(crate) const ROW: usize = 48;

impl Tail {
    pub(crate) fn last_ingest_time(&self) -> Option<i64> {
        (self.end > 0).then_some(self.ingest_time)
    }

    pub(crate) fn encode(&self, partition: u16) -> [u8; ROW] {
        let mut row = [0; ROW];
        let fields = [
            self.first,
            self.end,
            self.ingest_time as u64,
            self.blocks,
            self.bytes,
        ];
        for (field, out) in fields.iter().zip(row.chunks_exact_mut(8)) {
            out.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(&row[..40], u64::from(partition));
        row[40..].copy_from_slice(&checksum.to_le_bytes());
        row
    }

    pub(crate) fn decode(partition: u16, row: &[u8]) -> Result<Tail, String> {
        if row.len() != ROW
            || xxh3_64_with_seed(&row[..40], u64::from(partition)).to_le_bytes() != row[40..]
        {
            return Err("the checksum of the partition's row does not match".to_owned());
        }
        let field = |index: usize| u64::from_le_bytes(array(&row[index * 8..]));
        let tail = Tail {
            first: field(0),
            end: field(1),
            ingest_time: field(2) as i64,
            blocks: field(3),
            bytes: field(4),
        };
        if tail.first > tail.end || (tail.first == tail.end) != (tail.blocks == 0) {
            return Err(format!("the partition's row contradicts itself: {tail:?}"));
        }
        Ok(tail)
    }
}

/// The row of a partition in a snapshot.
pub(crate) fn stored(
    store: &Store,
    table: &impl ReadableTable<u16, &'static [u8]>,
    partition: PartitionId,
) -> Result<Tail, Fault> {
    match table.get(partition.0)? {
        None => Ok(Tail::default()),
        Some(row) => Ok(
            Tail::decode(partition.0, row.value()).map_err(|what| Error::Corrupt {
                path: store.path().to_path_buf(),
                partition: Some(partition),
                offset: None,
                what,
            })?,
        ),
    }
}

/// Reads all rows and compares each with the oldest and newest block of its partition.
pub(crate) fn load(
    store: &Store,
    txn: &ReadTransaction,
    partitions: u16,
) -> Result<Vec<Tail>, Fault> {
    let rows = txn.open_table(PARTITIONS)?;
    let blocks = txn.open_table(BLOCKS)?;
    let mut tails = Vec::with_capacity(partitions as usize);
    for partition in (0..partitions).map(PartitionId) {
        let tail = stored(store, &rows, partition)?;
        let corrupt = |offset: u64, what: String| Error::Corrupt {
            path: store.path().to_path_buf(),
            partition: Some(partition),
            offset: Some(Offset(offset)),
            what,
        };
        let mut range = blocks.range((partition.0, 0)..=(partition.0, u64::MAX))?;
        let oldest = range.next().transpose()?.map(|(key, _)| key.value().1);
        drop(range);
        let newest = blocks
            .range((partition.0, 0)..=(partition.0, u64::MAX))?
            .next_back()
            .transpose()?;
        match (oldest, newest) {
            (None, _) | (_, None) if tail.blocks == 0 => {}
            (Some(oldest), Some((key, value))) if tail.blocks > 0 => {
                let newest = key.value().1;
                let block = verify(value.value(), partition, Offset(newest))
                    .map_err(|what| corrupt(newest, what))?;
                let end = newest.saturating_add(u64::from(block.count));
                if (oldest, end, block.ingest_time) != (tail.first, tail.end, tail.ingest_time) {
                    return Err(corrupt(
                        newest,
                        format!(
                            "the blocks reach from offset {oldest} to {end}, the partition's row says {} to {}",
                            tail.first, tail.end
                        ),
                    )
                    .into());
                }
            }
            (oldest, _) => {
                let blocks = if oldest.is_some() { "some" } else { "none" };
                return Err(corrupt(
                    tail.first,
                    format!(
                        "the partition's row counts {} blocks, there are {blocks}",
                        tail.blocks
                    ),
                )
                .into());
            }
        }
        tails.push(tail);
    }
    Ok(tails)
}

/// The durable tails as readers see them, and the bell that rings when one grows.
#[derive(Debug)]
pub(crate) struct Tails(Vec<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tail: Tail,
    closed: bool,
}

impl Tails {
    pub(crate) fn new(tails: Vec<Tail>) -> Tails {
        let shared = |tail| Shared {
            state: Mutex::new(State {
                tail,
                closed: false,
            }),
            changed: Condvar::new(),
        };
        Tails(tails.into_iter().map(shared).collect())
    }

    pub(crate) fn len(&self) -> u16 {
        self.0.len() as u16
    }

    /// `None` for a partition that does not exist.
    pub(crate) fn get(&self, partition: PartitionId) -> Option<Tail> {
        self.0
            .get(partition.0 as usize)
            .map(|shared| lock(&shared.state).tail)
    }

    pub(crate) fn set(&self, partition: PartitionId, tail: Tail) {
        if let Some(shared) = self.0.get(partition.0 as usize) {
            lock(&shared.state).tail = tail;
            shared.changed.notify_all();
        }
    }

    pub(crate) fn close(&self) {
        for shared in &self.0 {
            lock(&shared.state).closed = true;
            shared.changed.notify_all();
        }
    }

    /// Blocks until the partition's end is greater than `beyond`, the timeout is over, or the log is closed.
    pub(crate) fn wait(&self, partition: PartitionId, beyond: u64, timeout: Duration) -> u64 {
        let Some(shared) = self.0.get(partition.0 as usize) else {
            return 0;
        };
        let (state, _) = shared
            .changed
            .wait_timeout_while(lock(&shared.state), timeout, |state| {
                state.tail.end <= beyond && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.tail.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_damage_is_noticed() {
        let tail = Tail {
            first: 3,
            end: 9,
            ingest_time: -1,
            blocks: 2,
            bytes: 500,
        };
        let row = tail.encode(5);
        assert_eq!(Tail::decode(5, &row), Ok(tail));
        assert!(Tail::decode(6, &row).is_err());
        for at in 0..ROW {
            let mut damaged = row;
            damaged[at] ^= 1;
            assert!(Tail::decode(5, &damaged).is_err(), "byte {at}");
            assert!(Tail::decode(5, &row[..at]).is_err(), "cut at {at}");
        }
        let contradiction = Tail {
            first: 3,
            end: 9,
            blocks: 0,
            ..tail
        }
        .encode(5);
        assert!(Tail::decode(5, &contradiction).is_err());
    }
}
