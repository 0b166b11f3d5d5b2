//! The outbox: effects that have been decided and are to be delivered, at least once.
//!
//! Rows enter with the checkpoint that decided them, and only if their key is not there (a replay after a crash
//! decides the same effects again and finds them), or in a transaction of their own, by which they also change and go.

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

/// Key of an outbox row, and its new value; none = it goes.
pub type OutboxChange = (Vec<u8>, Option<Vec<u8>>);

impl Log {
    /// Puts (`Some`) or deletes (`None`) rows, in order, in one transaction. When this returns, all changes are
    /// durable; after an error all or none. Deleting an absent row is fine. Blocks the thread.
    ///
    /// **Errors.** [`Error::Full`], [`Error::Io`]: unknown whether they are there; repeat the call.
    pub fn outbox_apply(&self, rows: &[OutboxChange]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        self.inner().state.write(|txn| {
            let mut outbox = txn.open_table(OUTBOX)?;
            let rows = rows.iter();
            change(
                txn,
                &mut outbox,
                rows.map(|(key, value)| (key.as_slice(), value.as_deref())),
            )
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

/// Puts or deletes rows and keeps the digest.
fn change<'a>(
    txn: &WriteTransaction,
    outbox: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<(), Fault> {
    let mut meta = txn.open_table(META)?;
    let mut digest = digest(&meta)?;
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
            digest.remove(old.value());
        }
    }
    meta.insert(ROWS_KEY, digest.rows)?;
    meta.insert(SUM_KEY, digest.sum)?;
    Ok(())
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
