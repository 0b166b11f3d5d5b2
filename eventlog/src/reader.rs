//! Reading a partition from an offset, and waiting for more.

use std::time::Duration;

use crate::block::{Block, verify};
use crate::tail::{BLOCKS, PARTITIONS, stored};
use crate::{Error, Log, Offset, PartitionId};

impl Log {
    /// The blocks of `partition` that hold records at or after `from`, in offset order; records before `from` are
    /// cut off. Empty exactly when `from` is the end. Reading stops with the block that reaches `max_bytes` of
    /// payload, so at least one block comes back; it blocks the thread for the disk.
    ///
    /// Only durable records are returned. Each block's checksum and the continuity of offsets are verified.
    ///
    /// **Errors.** [`Error::Trimmed`] and [`Error::BeyondEnd`] when `from` is outside the log,
    /// [`Error::Corrupt`] naming the block, [`Error::Io`].
    pub fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Block>, Error> {
        self.check(partition)?;
        let store = &self.inner().log;
        store.read(|txn| {
            let corrupt = |offset: u64, what: String| Error::Corrupt {
                path: store.path().to_path_buf(),
                partition: Some(partition),
                offset: Some(Offset(offset)),
                what,
            };
            // The row of the same snapshot says which offsets must be there: a trim or an append in
            // between cannot be mistaken for a hole.
            let tail = stored(store, &txn.open_table(PARTITIONS)?, partition)?;
            if from.0 < tail.first {
                return Err(Error::Trimmed { partition, from, first: Offset(tail.first) }.into());
            }
            if from.0 > tail.end {
                return Err(Error::BeyondEnd { partition, from, end: Offset(tail.end) }.into());
            }
            let mut found = Vec::new();
            if from.0 == tail.end {
                return Ok(found);
            }
            let blocks = txn.open_table(BLOCKS)?;
            let holding = blocks
                .range((partition.0, tail.first)..=(partition.0, from.0))?
                .next_back()
                .transpose()?
                .map(|(key, _)| key.value().1)
                .ok_or_else(|| corrupt(from.0, "the block that holds this offset is missing".to_owned()))?;
            let mut expected = holding;
            let mut bytes = 0;
            let mut ingest_time = i64::MIN;
            for entry in blocks.range((partition.0, holding)..(partition.0, tail.end))? {
                let (key, value) = entry?;
                let first = key.value().1;
                if first != expected {
                    return Err(corrupt(
                        expected,
                        format!("the next block begins at offset {first}: the records in between are missing"),
                    )
                    .into());
                }
                let block = verify(value.value(), partition, Offset(first)).map_err(|what| corrupt(first, what))?;
                expected = first + u64::from(block.count);
                if expected > tail.end || block.ingest_time < ingest_time {
                    return Err(corrupt(first, "the block contradicts its neighbours".to_owned()).into());
                }
                ingest_time = block.ingest_time;
                let skip = from.0.saturating_sub(first);
                if skip >= u64::from(block.count) {
                    let what = format!("the block ends at offset {expected}, the records after it are missing");
                    return Err(corrupt(first, what).into());
                }
                let records = block.records(skip as u32).map_err(|what| corrupt(first, what))?;
                let block = Block { first: Offset(first + skip), ingest_time, records };
                bytes += block.bytes();
                found.push(block);
                if bytes >= max_bytes {
                    return Ok(found);
                }
            }
            if expected != tail.end {
                let what = format!("the log should reach to offset {}, its newest blocks are missing", tail.end);
                return Err(corrupt(expected, what).into());
            }
            Ok(found)
        })
    }

    /// Blocks the thread until the end of `partition` is beyond `beyond`, `timeout` is over, or the log is closed.
    /// Returns the end. Offset 0 at once for a partition that does not exist.
    pub fn wait(&self, partition: PartitionId, beyond: Offset, timeout: Duration) -> Offset {
        Offset(self.inner().tails.wait(partition, beyond.0, timeout))
    }
}
