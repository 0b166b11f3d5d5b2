//! The outbox: effects that have been decided and are to be delivered, at least once.
//!
//! Rows enter with the checkpoint that decided them, or one by one, and only if their key is not there:
//! a replay after a crash decides the same effects again and finds them.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::checkpoint::{seal, unseal};
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
            let there = outbox.get(key)?.is_some();
            if there {
                outbox.insert(key, seal(key, value, SEED).as_slice())?;
            }
            Ok(there)
        })
    }

    /// Deletes a row, durably. `false` if there was none.
    ///
    /// **Errors.** As [`Log::outbox_put`].
    pub fn outbox_delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.inner()
            .state
            .write(|txn| Ok(txn.open_table(OUTBOX)?.remove(key)?.is_some()))
    }

    /// All rows in key order, as of one moment.
    ///
    /// **Errors.** [`Error::Corrupt`], [`Error::Io`].
    pub fn outbox_all(&self) -> Result<Vec<OutboxRow>, Error> {
        let store = &self.inner().state;
        store.read(|txn| {
            let mut rows = Vec::new();
            for entry in txn.open_table(OUTBOX)?.iter()? {
                let (key, value) = entry?;
                let key = key.value();
                let value = unseal(key, value.value(), SEED).ok_or_else(|| corrupt(store, key))?;
                rows.push((key.to_vec(), value.to_vec()));
            }
            Ok(rows)
        })
    }
}

pub(crate) fn insert_absent(txn: &WriteTransaction, rows: &[OutboxRow]) -> Result<(), Fault> {
    let mut outbox = txn.open_table(OUTBOX)?;
    for (key, value) in rows {
        if outbox.get(key.as_slice())?.is_none() {
            outbox.insert(key.as_slice(), seal(key, value, SEED).as_slice())?;
        }
    }
    Ok(())
}

fn corrupt(store: &Store, key: &[u8]) -> Error {
    Error::Corrupt {
        path: store.path().to_path_buf(),
        partition: None,
        offset: None,
        what: format!("the checksum of the outbox row with key {key:02x?} does not match"),
    }
}
