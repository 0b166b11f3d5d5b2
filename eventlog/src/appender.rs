//! The one thread that writes `log.redb`: group commit, ingest times, trims, and recovery after a failure.
//!
//! A group is everything that was queued (up to the group's limit). It becomes one block per partition (a few,
//! where that fills pages better), all in one transaction with one durable commit; then every caller is answered. Being the only writer, the
//! thread knows each partition's end without reading, and still compares it with the stored row.

use std::sync::Arc;

use bytes::Bytes;
use redb::WriteTransaction;

use crate::block::{encode, encoded_len, record_len};
use crate::queue::{Appended, Group, Queue, Request, Trim};
use crate::retention;
use crate::store::{Fault, Store};
use crate::tail::{self, BLOCKS, PARTITIONS, Tail, Tails};
use crate::{Clock, Error, Offset, PartitionId};

pub(crate) struct Appender {
    pub(crate) store: Arc<Store>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tails: Arc<Tails>,
    pub(crate) clock: Clock,
}

impl Appender {
    /// Works until the queue is closed and drained.
    pub(crate) fn run(self) {
        let mut busy = false;
        // After a failed write the stored tails may be those before or after it.
        let mut stale = false;
        while let Some((
            Group {
                mut requests,
                trims,
            },
            load,
        )) = self.queue.next(busy)
        {
            busy = load;
            // Order between partitions means nothing; within one it is kept (the sort is stable).
            requests.sort_by_key(|request| request.partition);
            if !requests.is_empty() {
                let written = self
                    .catch_up(&mut stale)
                    .and_then(|()| self.write(&requests));
                stale |= written.is_err();
                self.answer(requests, written);
            }
            if !trims.is_empty() {
                self.trim(trims, &mut stale);
            }
            if stale {
                // At once, so that readers see what there is; if it fails, again before the next write.
                let _ = self.catch_up(&mut stale);
            }
        }
    }

    /// Writes one group and returns the tails after it, one per partition in the group.
    fn write(&self, requests: &[Request]) -> Result<Vec<(PartitionId, Tail)>, Error> {
        let now = (self.clock)();
        self.store.write(|txn| {
            requests
                .chunk_by(|a, b| a.partition == b.partition)
                .map(|run| Ok((run[0].partition, self.write_blocks(txn, run, now)?)))
                .collect()
        })
    }

    /// Writes all records of one partition's requests: one block, or a few whose pages they fill.
    fn write_blocks(
        &self,
        txn: &WriteTransaction,
        run: &[Request],
        now: i64,
    ) -> Result<Tail, Fault> {
        let partition = run[0].partition;
        let before = self.tails.get(partition).unwrap_or_default();
        let ingest_time = before.last_ingest_time().map_or(now, |last| last.max(now));
        let mut after = Tail {
            ingest_time,
            ..before
        };
        let mut blocks = txn.open_table(BLOCKS)?;
        let records: Vec<&Bytes> = run.iter().flat_map(|request| &request.records).collect();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(piece(rest));
            let length = encoded_len(piece);
            let mut value = blocks.insert_reserve((partition.0, after.end), length)?;
            encode(
                value.as_mut(),
                partition,
                Offset(after.end),
                ingest_time,
                piece,
            );
            after.end += piece.len() as u64;
            after.blocks += 1;
            after.bytes += length as u64;
            rest = later;
        }
        replace_row(&self.store, txn, partition, before, after)?;
        Ok(after)
    }

    /// Makes a written group visible and answers its callers.
    fn answer(&self, requests: Vec<Request>, written: Result<Vec<(PartitionId, Tail)>, Error>) {
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                tracing::debug!(%error, requests = requests.len(), "a group of appends was not written");
                for request in requests {
                    request.reply.send(Err(error.clone()));
                }
                return;
            }
        };
        let mut answers = Vec::with_capacity(requests.len());
        let mut tails = written.into_iter();
        let mut tail = Tail::default();
        let mut next = 0;
        let mut partition = None;
        for request in requests {
            if partition != Some(request.partition) {
                partition = Some(request.partition);
                next = self.tails.get(request.partition).unwrap_or_default().end;
                tail = tails.next().map(|(_, tail)| tail).unwrap_or_default();
                self.tails.set(request.partition, tail);
            }
            let count = request.records.len() as u32;
            let appended = Appended {
                first: Offset(next),
                count,
                ingest_time: tail.ingest_time,
            };
            next += u64::from(count);
            answers.push((request.reply, appended));
        }
        for (reply, appended) in answers {
            reply.send(Ok(appended));
        }
    }

    /// Does all trims, a bounded number of blocks per transaction.
    fn trim(&self, trims: Vec<Trim>, stale: &mut bool) {
        for trim in trims {
            let result = loop {
                let step = self.catch_up(stale).and_then(|()| {
                    let before = self.tails.get(trim.partition).unwrap_or_default();
                    self.store.write(|txn| {
                        retention::step(&self.store, txn, trim.partition, before, trim.before)
                    })
                });
                match step {
                    Ok((tail, more)) => {
                        self.tails.set(trim.partition, tail);
                        if !more {
                            break Ok(());
                        }
                    }
                    Err(error) => {
                        *stale = true;
                        break Err(error);
                    }
                }
            };
            // A caller that no longer waits has dropped its end.
            let _ = trim.reply.send(result);
        }
    }

    /// Reads the tails again after a failure. What was acknowledged must still be there.
    fn catch_up(&self, stale: &mut bool) -> Result<(), Error> {
        if !*stale {
            return Ok(());
        }
        let stored = self
            .store
            .read(|txn| tail::load(&self.store, txn, self.tails.len()))?;
        for (index, stored) in stored.iter().enumerate() {
            let partition = PartitionId(index as u16);
            let known = self.tails.get(partition).unwrap_or_default();
            if stored.end < known.end || stored.first < known.first {
                return Err(Error::Corrupt {
                    path: self.store.path().to_path_buf(),
                    partition: Some(partition),
                    offset: Some(Offset(known.end)),
                    what: format!(
                        "offsets {} to {} were durable, the file has {} to {}",
                        known.first, known.end, stored.first, stored.end
                    ),
                });
            }
        }
        for (index, stored) in stored.into_iter().enumerate() {
            self.tails.set(PartitionId(index as u16), stored);
        }
        *stale = false;
        Ok(())
    }
}

/// Replaces a partition's row, and refuses if the stored one is not the one we know.
pub(crate) fn replace_row(
    store: &Store,
    txn: &WriteTransaction,
    partition: PartitionId,
    before: Tail,
    after: Tail,
) -> Result<(), Fault> {
    let mut rows = txn.open_table(PARTITIONS)?;
    let stored = tail::stored(store, &rows, partition)?;
    if stored != before {
        return Err(Error::Corrupt {
            path: store.path().to_path_buf(),
            partition: Some(partition),
            offset: Some(Offset(before.end)),
            what: format!("the partition's row says {stored:?}, it should be {before:?}"),
        }
        .into());
    }
    rows.insert(partition.0, after.encode(partition.0).as_slice())?;
    Ok(())
}

/// Key, length and header that redb puts before a value that has a page of its own, and a little more.
const PAGE_OVERHEAD: usize = 32;
/// Below this, wasted page space is cheaper than more blocks.
const PIECE_BYTES_LEAST: usize = 64 << 10;

/// How many of the records make the next block. redb gives a large value a page of a power of two and writes
/// all of it: a block that fills less than 7/8 of its page is cut, so that its first part fills the next
/// smaller page.
fn piece(records: &[&Bytes]) -> usize {
    let whole = encoded_len(records) + PAGE_OVERHEAD;
    let page = whole.next_power_of_two();
    if page <= PIECE_BYTES_LEAST || whole >= page / 8 * 7 {
        return records.len();
    }
    let room = page / 2 - PAGE_OVERHEAD;
    let mut length = encoded_len(&[]);
    let fits = |record: &&&Bytes| {
        length += record_len(record);
        length <= room
    };
    match records.iter().take_while(fits).count() {
        // The first record needs the larger page in any case; the others fit beside it.
        0 => records.len(),
        count => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(sizes: &[usize]) -> Vec<usize> {
        let records: Vec<Bytes> = sizes
            .iter()
            .map(|size| Bytes::from(vec![0; *size]))
            .collect();
        let records: Vec<&Bytes> = records.iter().collect();
        let mut rest = &records[..];
        let mut counts = Vec::new();
        while !rest.is_empty() {
            let count = piece(rest);
            counts.push(count);
            rest = &rest[count..];
        }
        counts
    }

    #[test]
    fn blocks_fill_their_pages() {
        // Small groups stay whole, whatever their page wastes.
        assert_eq!(pieces(&[2500; 14]), [14]);
        assert_eq!(pieces(&[2500; 26]), [26]);
        // 75,000 bytes: one page of 64 KiB and the rest.
        assert_eq!(pieces(&[2500; 30]), [26, 4]);
        // 125,000 bytes nearly fill 128 KiB.
        assert_eq!(pieces(&[2500; 50]), [50]);
        // 1 MiB is cut by whole pages: 1 MiB would not hold its own header.
        let cut = pieces(&[1024; 1024]);
        assert_eq!(cut.iter().sum::<usize>(), 1024);
        assert!(cut[0] >= 500 && cut.len() <= 5, "{cut:?}");
        // Records that fill a page alone.
        assert_eq!(pieces(&[300_000, 300_000, 10]), [1, 2]);
        assert_eq!(pieces(&[4 << 20]), [1]);
    }

    #[test]
    fn pages_waste_little() {
        for count in 27..900 {
            let sizes = vec![2500; count];
            let mut at = 0;
            let mut written = 0;
            for piece in pieces(&sizes) {
                let length: usize =
                    sizes[at..at + piece].iter().sum::<usize>() + piece * 2 + 21 + 18;
                written += length.next_power_of_two().max(4096);
                at += piece;
            }
            assert!(
                written <= count * 2500 * 5 / 4 + 65_536,
                "{count}: {written}"
            );
        }
    }
}
