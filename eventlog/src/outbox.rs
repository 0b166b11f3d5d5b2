//! The outbox: effects that have been decided and are to be delivered, at least once.
//!
//! Rows enter with the checkpoint that decided them, or one by one, and only if their key is not there:
//! a replay after a crash decides the same effects again and finds them.

use std::collections::BTreeMap;

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::log::META;
use crate::rows::{Digest, seal, unseal};
use crate::store::{Fault, Store};
use crate::{Error, Log};

/// Rows by the owner's key.
pub(crate) const OUTBOX: TableDefinition<&[u8], &[u8]> = TableDefinition::new("outbox");

/// Sets the seals of outbox rows apart from those of partition rows.
const SEED: u64 = 0x6f75_7462_6f78;

/// Key and value of an outbox row.
pub type OutboxRow = (Vec<u8>, Vec<u8>);

impl Log {
    /// Inserts each row unless its key is there already. When this returns, they are durable; all or none after an
    /// error. Blocks the thread.
    ///
    /// **Errors.** [`Error::Full`], [`Error::Io`]: unknown whether they are there; repeat the call.
    pub fn outbox_put(&self, rows: &[OutboxRow]) -> Result<(), Error> {
        self.inner().state.write(|txn| insert_absent(txn, rows))
    }

    /// Replaces the value of a row, durably. `false` (and no change) if there is no such row: a row that was
    /// delivered and deleted does not come back.
    ///
    /// **Errors.** As [`Log::outbox_put`].
    pub fn outbox_update(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.inner().state.write(|txn| {
            let mut outbox = txn.open_table(OUTBOX)?;
            if outbox.get(key)?.is_none() {
                return Ok(false);
            }
            change(txn, &mut outbox, [(key, Some(value))].into_iter())
        })
    }

    /// Deletes a row, durably. `false` if there was none.
    ///
    /// **Errors.** As [`Log::outbox_put`].
    pub fn outbox_delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.inner().state.write(|txn| {
            let mut outbox = txn.open_table(OUTBOX)?;
            change(txn, &mut outbox, [(key, None)].into_iter())
        })
    }

    /// All rows in key order, as of one moment.
    ///
    /// **Errors.** [`Error::Corrupt`] when a row is damaged or one is missing, [`Error::Io`].
    pub fn outbox_all(&self) -> Result<Vec<OutboxRow>, Error> {
        let store = &self.inner().state;
        store.read(|txn| {
            let expected = digest(&txn.open_table(META)?)?;
            let mut found = Digest::default();
            let mut rows = Vec::new();
            for entry in txn.open_table(OUTBOX)?.iter()? {
                let (key, value) = entry?;
                let (key, sealed) = (key.value(), value.value());
                found.add(sealed);
                let value = unseal(key, sealed, SEED).ok_or_else(|| {
                    corrupt(
                        store,
                        format!(
                            "the checksum of the outbox row with key {key:02x?} does not match"
                        ),
                    )
                })?;
                rows.push((key.to_vec(), value.to_vec()));
            }
            if found != expected {
                let what = format!(
                    "the outbox has {} rows, there should be {} (or others)",
                    found.rows, expected.rows
                );
                return Err(corrupt(store, what).into());
            }
            Ok(rows)
        })
    }
}

pub(crate) fn insert_absent(txn: &WriteTransaction, rows: &[OutboxRow]) -> Result<(), Fault> {
    let mut outbox = txn.open_table(OUTBOX)?;
    let mut absent = BTreeMap::new();
    for (key, value) in rows {
        if outbox.get(key.as_slice())?.is_none() {
            // The first of several with one key counts.
            absent.entry(key.as_slice()).or_insert(value.as_slice());
        }
    }
    if !absent.is_empty() {
        change(
            txn,
            &mut outbox,
            absent.into_iter().map(|(key, value)| (key, Some(value))),
        )?;
    }
    Ok(())
}

/// Puts or deletes rows and keeps the digest. Whether one of the keys was there.
fn change<'a>(
    txn: &WriteTransaction,
    outbox: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<bool, Fault> {
    let mut meta = txn.open_table(META)?;
    let mut digest = digest(&meta)?;
    let mut any = false;
    for (key, value) in rows {
        let old = match value {
            Some(value) => {
                let sealed = seal(key, value, SEED);
                digest.add(&sealed);
                outbox.insert(key, sealed.as_slice())?
            }
            None => outbox.remove(key)?,
        };
        if let Some(old) = old {
            any = true;
            digest.remove(old.value());
        }
    }
    meta.insert(ROWS_KEY, digest.rows)?;
    meta.insert(SUM_KEY, digest.sum)?;
    Ok(any)
}

const ROWS_KEY: &str = "outbox_rows";
const SUM_KEY: &str = "outbox_sum";

fn digest(meta: &impl ReadableTable<&'static str, u64>) -> Result<Digest, Fault> {
    let number =
        |key: &str| -> Result<u64, Fault> { Ok(meta.get(key)?.map_or(0, |value| value.value())) };
    Ok(Digest {
        rows: number(ROWS_KEY)?,
        sum: number(SUM_KEY)?,
    })
}

fn corrupt(store: &Store, what: String) -> Error {
    Error::Corrupt {
        path: store.path().to_path_buf(),
        partition: None,
        offset: None,
        what,
    }
}
