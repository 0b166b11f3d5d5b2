//! Checkpoints: one atomic transaction per partition with the snapshot, rows, outbox rows and the log offset.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::block::array;
use crate::outbox::{self, OutboxRow};
use crate::store::{Fault, Store};
use crate::tail::{PARTITIONS, stored};
use crate::{Error, Log, Offset, PartitionId};

/// One per partition: offset, length and checksum of the snapshot.
pub(crate) const CHECKPOINTS: TableDefinition<u16, &[u8]> = TableDefinition::new("checkpoints");
/// The newest snapshot of each partition in chunks.
pub(crate) const SNAPSHOTS: TableDefinition<(u16, u32), &[u8]> = TableDefinition::new("snapshots");
/// Rows by partition and the owner's key.
pub(crate) const ROWS: TableDefinition<(u16, &[u8]), &[u8]> = TableDefinition::new("rows");

/// Snapshot bytes per chunk: with key and page header a chunk just fits a page of 1 MiB.
pub(crate) const CHUNK: usize = (1 << 20) - 512;

/// Everything that changes together when an owner saves its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Next record to read: the state contains the effect of all records before it.
    pub offset: Offset,
    /// The state. Replaces the partition's previous snapshot. At most 4 TiB; held in memory while it is written.
    pub snapshot: Vec<u8>,
    /// Rows to put (`Some`) or delete (`None`), by key; applied in order. Deleting an absent row is fine.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Outbox rows to insert unless their key is there already.
    pub outbox: Vec<OutboxRow>,
}

/// The newest checkpoint of a partition, without its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Next record to read.
    pub offset: Offset,
    /// The state at that offset.
    pub snapshot: Vec<u8>,
}

impl Log {
    /// Commits a checkpoint. When this returns `Ok`, it is durable with all its rows and outbox rows; after a crash
    /// there is either all of it or the previous one. Blocks the thread; commits of all partitions go one by one.
    ///
    /// `expected` is the offset of the checkpoint that the caller last loaded or committed, `None` for the first.
    ///
    /// **Errors.** [`Error::Fenced`] when another checkpoint is there: the caller no longer owns the partition.
    /// [`Error::CheckpointOutOfRange`] when the offset goes back or beyond the log. After [`Error::Full`],
    /// [`Error::Io`] and [`Error::Corrupt`] the checkpoint may be there or not: load [`Log::latest`].
    // By value as other forms of the log will send it on.
    #[allow(clippy::needless_pass_by_value)]
    pub fn commit(
        &self,
        partition: PartitionId,
        expected: Option<Offset>,
        checkpoint: Checkpoint,
    ) -> Result<(), Error> {
        self.check(partition)?;
        let mut end = self.end(partition);
        if checkpoint.offset > end {
            // Who reads may be ahead of the announcement: what came back is durable before it is announced.
            end = self.durable_end(partition)?;
        }
        let first = self.first(partition);
        let store = &self.inner().state;
        store.write(|txn| {
            let mut heads = txn.open_table(CHECKPOINTS)?;
            let previous = head(store, &heads, partition)?;
            let found = previous.map(|head| head.offset);
            if found != expected {
                return Err(Error::Fenced {
                    partition,
                    expected,
                    found,
                }
                .into());
            }
            let offset = checkpoint.offset;
            let least = found.unwrap_or(first);
            if offset < least || offset > end {
                return Err(Error::CheckpointOutOfRange {
                    partition,
                    offset,
                    least,
                    end,
                }
                .into());
            }
            let mut head = put_snapshot(txn, partition, offset, &checkpoint.snapshot, previous)?;
            let mut rows = txn.open_table(ROWS)?;
            for (key, value) in &checkpoint.rows {
                let old = match value {
                    Some(value) => {
                        let sealed = seal(key, value, u64::from(partition.0));
                        head.rows.add(&sealed);
                        rows.insert((partition.0, key.as_slice()), sealed.as_slice())?
                    }
                    None => rows.remove((partition.0, key.as_slice()))?,
                };
                if let Some(old) = old {
                    head.rows.remove(old.value());
                }
            }
            heads.insert(partition.0, head.encode(partition).as_slice())?;
            outbox::insert_absent(txn, &checkpoint.outbox)
        })
    }

    fn durable_end(&self, partition: PartitionId) -> Result<Offset, Error> {
        let store = &self.inner().log;
        store.read(|txn| {
            let tail = stored(store, &txn.open_table(PARTITIONS)?, partition)?;
            Ok(Offset(tail.end))
        })
    }

    /// The newest checkpoint of `partition`, its snapshot verified against length and checksum. Blocks the thread.
    ///
    /// **Errors.** [`Error::Corrupt`], [`Error::Io`].
    pub fn latest(&self, partition: PartitionId) -> Result<Option<Stored>, Error> {
        self.check(partition)?;
        let store = &self.inner().state;
        store.read(|txn| {
            let Some(head) = head(store, &txn.open_table(CHECKPOINTS)?, partition)? else {
                return Ok(None);
            };
            let snapshot = get_snapshot(&txn.open_table(SNAPSHOTS)?, partition, head)?
                .map_err(|what| corrupt(store, partition, Some(head.offset), what))?;
            Ok(Some(Stored {
                offset: head.offset,
                snapshot,
            }))
        })
    }

    /// Offset of the newest checkpoint of `partition`, without reading its snapshot.
    ///
    /// **Errors.** As [`Log::latest`].
    pub fn latest_offset(&self, partition: PartitionId) -> Result<Option<Offset>, Error> {
        self.check(partition)?;
        let store = &self.inner().state;
        store.read(|txn| {
            Ok(head(store, &txn.open_table(CHECKPOINTS)?, partition)?.map(|head| head.offset))
        })
    }

    /// Calls `f` with key and value of each row of `partition`, in key order, as of one moment. That no row is
    /// missing is known only at the end: what `f` gathered is to be used only after `Ok`.
    ///
    /// **Errors.** [`Error::Corrupt`], [`Error::Io`]; `f` has then seen some rows, or none.
    pub fn rows(
        &self,
        partition: PartitionId,
        mut f: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        self.check(partition)?;
        let store = &self.inner().state;
        let mut begun = false;
        let mut panicked = None;
        let result = store.read(|txn| {
            if begun {
                // A second run would show rows twice.
                let source = std::io::Error::from(std::io::ErrorKind::Interrupted);
                return Err(Error::of_io(store.path(), "read", source).into());
            }
            let expected = head(store, &txn.open_table(CHECKPOINTS)?, partition)?
                .map_or_else(Digest::default, |head| head.rows);
            let mut found = Digest::default();
            let rows = txn.open_table(ROWS)?;
            let (from, to) = ((partition.0, &[][..]), (partition.0 + 1, &[][..]));
            for entry in rows.range(from..to)? {
                begun = true;
                let (key, value) = entry?;
                let (_, key) = key.value();
                found.add(value.value());
                let value = row_value(store, partition, key, value.value())?;
                // A panic of the caller is not one of redb: it is passed on below.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| f(key, value))) {
                    panicked = Some(panic);
                    return Ok(());
                }
            }
            if found != expected {
                let what = format!(
                    "there are {} rows, the checkpoint has {} (or others)",
                    found.rows, expected.rows
                );
                return Err(corrupt(store, partition, None, what).into());
            }
            Ok(())
        });
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        result
    }

    /// One row of `partition`.
    ///
    /// **Errors.** [`Error::Corrupt`], [`Error::Io`].
    pub fn row(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.check(partition)?;
        let store = &self.inner().state;
        store.read(|txn| {
            let rows = txn.open_table(ROWS)?;
            match rows.get((partition.0, key))? {
                None => Ok(None),
                Some(value) => Ok(Some(
                    row_value(store, partition, key, value.value())?.to_vec(),
                )),
            }
        })
    }
}

/// Offsets of all checkpoints, for the check at open.
pub(crate) fn offsets(
    store: &Store,
    txn: &ReadTransaction,
    partitions: u16,
) -> Result<Vec<Option<Offset>>, Fault> {
    let heads = txn.open_table(CHECKPOINTS)?;
    (0..partitions)
        .map(|p| Ok(head(store, &heads, PartitionId(p))?.map(|head| head.offset)))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    offset: Offset,
    length: u64,
    checksum: u64,
    rows: Digest,
}

const HEAD: usize = 48;

/// How many rows a table holds and the sum of their checksums: a row that a damaged page hides is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    pub(crate) sum: u64,
}

impl Digest {
    /// Takes in a row by its stored value, which ends with its checksum.
    pub(crate) fn add(&mut self, sealed: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(seal_of(sealed));
    }

    /// Takes out a row by its stored value.
    pub(crate) fn remove(&mut self, sealed: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(seal_of(sealed));
    }
}

fn seal_of(sealed: &[u8]) -> u64 {
    sealed
        .last_chunk()
        .map_or(0, |checksum| u64::from_le_bytes(*checksum))
}

impl Head {
    fn chunks(&self) -> u32 {
        self.length.div_ceil(CHUNK as u64) as u32
    }

    fn encode(&self, partition: PartitionId) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..8].copy_from_slice(&self.offset.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.length.to_le_bytes());
        out[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        out[24..32].copy_from_slice(&self.rows.rows.to_le_bytes());
        out[32..40].copy_from_slice(&self.rows.sum.to_le_bytes());
        let own = xxh3_64_with_seed(&out[..40], u64::from(partition.0));
        out[40..].copy_from_slice(&own.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], partition: PartitionId) -> Option<Head> {
        if bytes.len() != HEAD
            || xxh3_64_with_seed(&bytes[..40], u64::from(partition.0)).to_le_bytes() != bytes[40..]
        {
            return None;
        }
        let field = |index: usize| u64::from_le_bytes(array(&bytes[index * 8..]));
        let rows = Digest {
            rows: field(3),
            sum: field(4),
        };
        Some(Head {
            offset: Offset(field(0)),
            length: field(1),
            checksum: field(2),
            rows,
        })
    }
}

fn head(
    store: &Store,
    heads: &impl ReadableTable<u16, &'static [u8]>,
    partition: PartitionId,
) -> Result<Option<Head>, Fault> {
    let Some(bytes) = heads.get(partition.0)? else {
        return Ok(None);
    };
    match Head::decode(bytes.value(), partition) {
        Some(head) => Ok(Some(head)),
        None => {
            let what = "the checksum of the checkpoint's head does not match".to_owned();
            Err(corrupt(store, partition, None, what).into())
        }
    }
}

fn put_snapshot(
    txn: &WriteTransaction,
    partition: PartitionId,
    offset: Offset,
    snapshot: &[u8],
    previous: Option<Head>,
) -> Result<Head, Fault> {
    let mut table = txn.open_table(SNAPSHOTS)?;
    for (index, chunk) in snapshot.chunks(CHUNK).enumerate() {
        table.insert((partition.0, index as u32), chunk)?;
    }
    let checksum = xxh3_64_with_seed(snapshot, offset.0);
    let head = Head {
        offset,
        length: snapshot.len() as u64,
        checksum,
        rows: previous.map_or_else(Digest::default, |previous| previous.rows),
    };
    for index in head.chunks()..previous.map_or(0, |previous| previous.chunks()) {
        table.remove((partition.0, index))?;
    }
    Ok(head)
}

fn get_snapshot(
    table: &ReadOnlyTable<(u16, u32), &'static [u8]>,
    partition: PartitionId,
    head: Head,
) -> Result<Result<Vec<u8>, String>, Fault> {
    let mut snapshot = Vec::new();
    let mut checksum = Xxh3::with_seed(head.offset.0);
    for entry in table.range((partition.0, 0)..=(partition.0, u32::MAX))? {
        let (key, chunk) = entry?;
        if u64::from(key.value().1) * CHUNK as u64 != snapshot.len() as u64 {
            return Ok(Err(format!(
                "chunk {} of the snapshot is out of place",
                key.value().1
            )));
        }
        checksum.update(chunk.value());
        snapshot.extend_from_slice(chunk.value());
    }
    if snapshot.len() as u64 != head.length {
        return Ok(Err(format!(
            "the snapshot has {} bytes, its head says {}",
            snapshot.len(),
            head.length
        )));
    }
    if checksum.digest() != head.checksum {
        return Ok(Err("the checksum of the snapshot does not match".to_owned()));
    }
    Ok(Ok(snapshot))
}

fn row_value<'a>(
    store: &Store,
    partition: PartitionId,
    key: &[u8],
    value: &'a [u8],
) -> Result<&'a [u8], Error> {
    unseal(key, value, u64::from(partition.0)).ok_or_else(|| {
        corrupt(
            store,
            partition,
            None,
            format!("the checksum of the row with key {key:02x?} does not match"),
        )
    })
}

const SEAL: usize = 8;

/// A value followed by a checksum over key and value.
pub(crate) fn seal(key: &[u8], value: &[u8], seed: u64) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(value.len() + SEAL);
    sealed.extend_from_slice(value);
    sealed.extend_from_slice(&checksum(key, value, seed).to_le_bytes());
    sealed
}

pub(crate) fn unseal<'a>(key: &[u8], sealed: &'a [u8], seed: u64) -> Option<&'a [u8]> {
    let (value, found) = sealed.split_at_checked(sealed.len().checked_sub(SEAL)?)?;
    (checksum(key, value, seed).to_le_bytes() == found).then_some(value)
}

fn checksum(key: &[u8], value: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(key, seed))
}

fn corrupt(store: &Store, partition: PartitionId, offset: Option<Offset>, what: String) -> Error {
    Error::Corrupt {
        path: store.path().to_path_buf(),
        partition: Some(partition),
        offset,
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_damage_is_noticed() {
        let head = Head {
            offset: Offset(5),
            length: CHUNK as u64 + 1,
            checksum: 77,
            rows: Digest { rows: 3, sum: 9 },
        };
        assert_eq!(head.chunks(), 2);
        let bytes = head.encode(PartitionId(1));
        assert_eq!(Head::decode(&bytes, PartitionId(1)), Some(head));
        assert_eq!(Head::decode(&bytes, PartitionId(2)), None);
        for at in 0..HEAD {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(Head::decode(&damaged, PartitionId(1)), None, "byte {at}");
        }
    }

    #[test]
    fn a_sealed_value_belongs_to_its_key() {
        let sealed = seal(b"key", b"value", 3);
        assert_eq!(unseal(b"key", &sealed, 3), Some(&b"value"[..]));
        assert_eq!(unseal(b"kez", &sealed, 3), None);
        assert_eq!(unseal(b"key", &sealed, 4), None);
        assert_eq!(unseal(b"key", &sealed[1..], 3), None);
        assert_eq!(unseal(b"key", b"short", 3), None);
    }
}
