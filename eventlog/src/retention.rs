//! Retention: the log is trimmed only behind checkpoints, by whole blocks.

use std::sync::mpsc;

use redb::{ReadableTable, WriteTransaction};

use crate::appender::replace_row;
use crate::block::verify;
use crate::queue::Trim;
use crate::store::{Fault, Store};
use crate::tail::{BLOCKS, Tail};
use crate::{Error, Log, Offset, PartitionId};

/// Blocks deleted in one transaction: appends wait for at most one of these.
const BLOCKS_PER_STEP: usize = 64;

impl Log {
    /// Deletes the blocks of `partition` all of whose records lie before `before`. When this returns, they are
    /// gone for good; [`Log::first`] tells up to where, and is at most `before`. Blocks the thread; the work is
    /// done by the appender between groups. The file does not shrink: its pages are used again.
    ///
    /// **Errors.** [`Error::TrimBeyondCheckpoint`] when `before` is beyond the newest checkpoint of the partition;
    /// [`Error::Full`], [`Error::Io`]: some or all of it may have been done, call it again.
    pub fn trim(&self, partition: PartitionId, before: Offset) -> Result<(), Error> {
        self.check(partition)?;
        let checkpoint = self.latest_offset(partition)?.unwrap_or_default();
        if before > checkpoint {
            return Err(Error::TrimBeyondCheckpoint {
                partition,
                before,
                checkpoint,
            });
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.inner().queue.push_trim(Trim {
            partition,
            before,
            reply,
        })?;
        answer.recv().unwrap_or(Err(Error::Closed))
    }
}

/// Deletes up to [`BLOCKS_PER_STEP`] blocks. Returns the tail after it and whether there is more to do.
pub(crate) fn step(
    store: &Store,
    txn: &WriteTransaction,
    partition: PartitionId,
    tail: Tail,
    before: Offset,
) -> Result<(Tail, bool), Fault> {
    let corrupt = |offset: u64, what: String| Error::Corrupt {
        path: store.path().to_path_buf(),
        partition: Some(partition),
        offset: Some(Offset(offset)),
        what,
    };
    let mut blocks = txn.open_table(BLOCKS)?;
    let mut after = tail;
    let mut doomed = Vec::new();
    // A block's successor says where it ends; only the newest has to be looked into.
    let mut range = blocks.range((partition.0, tail.first)..(partition.0, before.0))?;
    let mut held = range
        .next()
        .transpose()?
        .map(|(key, value)| (key.value().1, value));
    while let Some((first, value)) = held.take() {
        if doomed.len() == BLOCKS_PER_STEP {
            break;
        }
        let next = range
            .next()
            .transpose()?
            .map(|(key, value)| (key.value().1, value));
        let end = match &next {
            Some((next, _)) => *next,
            None => {
                let block = verify(value.value(), partition, Offset(first))
                    .map_err(|what| corrupt(first, what))?;
                first + u64::from(block.count)
            }
        };
        if end > before.0 {
            break;
        }
        doomed.push(first);
        after.first = end;
        after.blocks = after.blocks.saturating_sub(1);
        after.bytes = after.bytes.saturating_sub(value.value().len() as u64);
        held = next;
    }
    drop((range, held));
    if doomed.is_empty() {
        return Ok((tail, false));
    }
    for first in &doomed {
        blocks.remove((partition.0, *first))?;
    }
    drop(blocks);
    replace_row(store, txn, partition, tail, after)?;
    Ok((after, doomed.len() == BLOCKS_PER_STEP))
}
