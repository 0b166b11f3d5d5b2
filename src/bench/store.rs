//! The state store under the engine: checkpoints as the server makes them, and windows read back.

use std::path::Path;
use std::time::{Duration, Instant};

use event::time::SECOND;
use eventlog::{Checkpoint, Log, Offset, PartitionId, Settings};
use processor::core::{Partition, StoredRow};
use views::{HistoryQuery, RowPart, Tier};

use super::args::START;
use super::measure::measured;

/// Placeholders that are appended at once.
const APPEND_AT_ONCE: usize = 1 << 16;

/// What checkpoints took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub checkpoints: u64,
    /// Snapshots, keys and values of rows.
    pub bytes: u64,
    pub rows: u64,
    /// CPU time in which the partition could not step, all together and the longest.
    pub pause: Duration,
    pub pause_max: Duration,
    /// From begin to end, commit included, by the clock.
    pub wall: Duration,
}

impl Spent {
    pub fn add(&mut self, other: &Self) {
        self.checkpoints += other.checkpoints;
        self.bytes += other.bytes;
        self.rows += other.rows;
        self.pause += other.pause;
        self.pause_max = self.pause_max.max(other.pause_max);
        self.wall += other.wall;
    }
}

pub struct Store {
    log: Log,
    saved: Vec<Option<Offset>>,
}

impl Store {
    /// A new one in an empty folder.
    ///
    /// **Errors**: the folder cannot be written.
    pub fn open(dir: &Path, partitions: u16) -> anyhow::Result<Self> {
        let settings = Settings {
            partitions,
            queue_records_max: 2 * APPEND_AT_ONCE,
            ..Settings::default()
        };
        let clock = std::sync::Arc::new(|| START * SECOND);
        Ok(Self {
            log: Log::open(dir, settings, clock)?,
            saved: vec![None; usize::from(partitions)],
        })
    }

    /// A checkpoint lies within the log: the log gets as many records as were stepped through. Nobody reads
    /// them, so they are one byte each.
    fn lengthen(&self, partition: PartitionId, to: u64) -> anyhow::Result<()> {
        let mut missing = (to - self.log.end(partition).0) as usize;
        while missing > 0 {
            let n = missing.min(APPEND_AT_ONCE);
            let records = vec![bytes::Bytes::from_static(&[0]); n];
            self.log.append_blocking(partition, records)?;
            missing -= n;
        }
        Ok(())
    }

    /// Saves a partition that is at rest.
    ///
    /// **Errors**: the store's.
    pub fn save(&mut self, number: u16, p: &mut Partition) -> anyhow::Result<Spent> {
        let partition = PartitionId(number);
        self.lengthen(partition, p.offset())?;
        let began = Instant::now();
        // As the server's thread for checkpoints does: memory that was touched before.
        let mut buffer = vec![1; p.memory() + p.memory() / 8];
        buffer.clear();
        let (saving, pause) = measured(|| p.begin_checkpoint(buffer));
        let Some(mut saving) = saving else {
            anyhow::bail!("partition {number} is not at rest");
        };
        let stored = self.log.rows_get(partition, &saving.keys())?;
        let rows = saving.rows(&stored, |a, b| p.is_before(a, b))?;
        let row_bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            (key.len() + value.as_ref().map_or(0, Vec::len)) as u64
        };
        let spent = Spent {
            checkpoints: 1,
            bytes: saving.snapshot.len() as u64 + rows.iter().map(row_bytes).sum::<u64>(),
            rows: rows.len() as u64,
            pause,
            pause_max: pause,
            wall: Duration::ZERO,
        };
        let offset = Offset(saving.offset);
        let checkpoint = Checkpoint {
            offset,
            snapshot: std::mem::take(&mut saving.snapshot),
            rows,
            outbox: Vec::new(),
        };
        let place = &mut self.saved[usize::from(number)];
        self.log
            .commit_and_forget(partition, *place, checkpoint, saving.forget())?;
        *place = Some(offset);
        p.finish_checkpoint(true);
        Ok(Spent {
            wall: began.elapsed(),
            ..spent
        })
    }

    /// A partition as it was saved.
    ///
    /// **Errors**: the store's; there is no checkpoint.
    pub fn restore(&self, number: u16) -> anyhow::Result<Partition> {
        let stored = self.log.latest(PartitionId(number))?;
        let Some(stored) = stored else {
            anyhow::bail!("partition {number} was never saved");
        };
        Ok(Partition::restore(&stored.snapshot)?)
    }

    /// All rows of a tier that start in `[from, to)`, from the store and from memory.
    ///
    /// **Errors**: the store's.
    pub fn rows(
        &self,
        number: u16,
        p: &Partition,
        tier: Tier,
        (from, to): (i64, i64),
    ) -> anyhow::Result<Vec<RowPart>> {
        let query = HistoryQuery {
            aggregate: 0,
            tier,
            from,
            to,
            group: Vec::new(),
            after: None,
            newest: false,
            limit: usize::MAX,
        };
        let Some((first, last)) = p.history_range(&query, from, to) else {
            return Ok(Vec::new());
        };
        let mut stored: Vec<StoredRow> = Vec::new();
        self.log.rows_range(
            PartitionId(number),
            &first,
            &last,
            usize::MAX,
            |key, value| stored.push((key.to_vec(), value.to_vec())),
        )?;
        let saved = self.saved[usize::from(number)].map(|o| o.0);
        Ok(p.history(&query, (from, to), &stored, saved))
    }
}
