//! Checkpoints are written by a thread of their own: a partition pauses only while its state is copied.
//!
//! One at a time over all partitions, so that there is one copy in memory and one big write on the disk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use eventlog::{Checkpoint, Log, Offset, PartitionId};
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
    pub(super) result: anyhow::Result<()>,
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
        let result = save(log, job.partition, job.expected, job.saving, &job.state);
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

fn save(
    log: &Log,
    partition: PartitionId,
    expected: Option<Offset>,
    mut saving: Saving,
    state: &RwLock<Partition>,
) -> anyhow::Result<()> {
    let stored = log.rows_get(partition, &saving.keys())?;
    // Asked only where two devices set the same extreme at the same time.
    let before = |a, b| {
        let state = state.read().unwrap_or_else(PoisonError::into_inner);
        state.is_before(a, b)
    };
    let rows = saving.rows(&stored, before)?;
    let checkpoint = Checkpoint {
        offset: Offset(saving.offset),
        snapshot: std::mem::take(&mut saving.snapshot),
        rows,
        outbox: Vec::new(),
    };
    log.commit_and_forget(partition, expected, checkpoint, saving.forget())?;
    Ok(())
}
