//! Checkpoints are written by a thread of their own: a partition pauses only while its state is copied.
//!
//! One at a time over all partitions, so that there is one copy in memory and one big write on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use eventlog::{Checkpoint, Error, Log, Offset, PartitionId};
use xxhash_rust::xxh3::xxh3_64;

use crate::core::{Partition, Saving};

/// What is to be written.
pub(super) struct Job {
    pub(super) partition: PartitionId,
    /// Offset of the checkpoint that is there.
    pub(super) expected: Option<Offset>,
    pub(super) saving: Saving,
    pub(super) state: Arc<RwLock<Partition>>,
    pub(super) turn: Turn,
    pub(super) done: Sender<Done>,
}

/// How it went.
pub(super) struct Done {
    pub(super) offset: Offset,
    pub(super) ingest: i64,
    pub(super) hash: u64,
    pub(super) result: Result<(), Failure>,
}

/// Why a checkpoint was not saved.
#[derive(Debug)]
pub(super) enum Failure {
    /// The disk is full or fails: the next try may go better.
    Passing(anyhow::Error),
    /// Every try would end like this one: what is stored is damaged, or the program is wrong.
    Lasting(anyhow::Error),
}

impl Failure {
    fn passing(error: impl Into<anyhow::Error>) -> Self {
        Self::Passing(error.into())
    }
}

/// The right to make a checkpoint, and the memory of the last copy. Given back when it is dropped.
pub(super) struct Turn {
    buffer: Vec<u8>,
    back: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Turn {
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
    }
}

/// The thread that writes checkpoints, as the partitions see it.
#[derive(Clone)]
pub(super) struct Saver {
    jobs: Sender<Job>,
    free: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Saver {
    /// Starts the thread; it ends when the last copy of the result is gone.
    pub(super) fn start(log: &Log) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let log = log.clone();
        std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || run(&log, &queue))?;
        Ok(Self {
            jobs,
            free: Arc::new(Mutex::new(Some(Vec::new()))),
        })
    }

    /// The turn, unless another partition has it.
    pub(super) fn turn(&self) -> Option<Turn> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Turn {
            buffer: free.take()?,
            back: self.free.clone(),
        })
    }

    /// Gives a job to the thread. False if it is gone.
    pub(super) fn save(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }
}

fn run(log: &Log, jobs: &Receiver<Job>) {
    for mut job in jobs {
        let size = job.saving.snapshot.len();
        let (offset, ingest) = (Offset(job.saving.offset), job.saving.now);
        let hash = xxh3_64(&job.saving.snapshot);
        let (partition, expected, saving) = (job.partition, job.expected, job.saving);
        let result = guarded(partition, || {
            save(log, partition, expected, saving, &job.state)
        });
        // Memory that was never touched would cost the next partition a page fault every 4 KiB in its pause.
        job.turn.buffer = vec![1; size + size / 16];
        job.turn.buffer.clear();
        drop(job.turn);
        // The partition may have given up waiting.
        let _ = job.done.send(Done {
            offset,
            ingest,
            hash,
            result,
        });
    }
}

/// A panic ends the partition whose checkpoint it was, as one of its own thread would. The others can still
/// save theirs.
fn guarded(
    partition: PartitionId,
    save: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(save)).unwrap_or_else(|_| {
        Err(Failure::Lasting(anyhow::anyhow!(
            "writing a checkpoint of partition {partition} panicked; see the log above. This is a fault of the program: the log is replayed at the next start, so if it happens again, start another version, or restore the data folder from a backup"
        )))
    })
}

fn save(
    log: &Log,
    partition: PartitionId,
    expected: Option<Offset>,
    mut saving: Saving,
    state: &RwLock<Partition>,
) -> Result<(), Failure> {
    let stored = log
        .rows_get(partition, &saving.keys())
        .map_err(|error| match error {
            // Names the row and the remedy.
            Error::Corrupt { .. } => Failure::Lasting(error.into()),
            error => Failure::passing(error),
        })?;
    // Asked only where two devices set the same extreme at the same time.
    let before = |a, b| {
        let state = state.read().unwrap_or_else(PoisonError::into_inner);
        state.is_before(a, b)
    };
    let rows = saving.rows(&stored, before).map_err(|error| {
        let context = format!("failed to merge a checkpoint of partition {partition}");
        Failure::Lasting(anyhow::Error::from(error).context(context))
    })?;
    let checkpoint = Checkpoint {
        offset: Offset(saving.offset),
        snapshot: std::mem::take(&mut saving.snapshot),
        rows,
        outbox: Vec::new(),
    };
    log.commit_and_forget(partition, expected, checkpoint, saving.forget())
        .map_err(Failure::passing)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_lasting_failure_that_names_the_partition() {
        let failure = guarded(PartitionId(7), || panic!("a fault")).unwrap_err();
        let Failure::Lasting(error) = failure else {
            panic!("{failure:?}");
        };
        assert!(
            error.to_string().contains("partition 7 panicked"),
            "{error}"
        );
        assert!(guarded(PartitionId(7), || Ok(())).is_ok());
    }
}
