//! Opening, appending, closing; positions and sizes.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{ReadTransaction, TableDefinition, TableError, WriteTransaction};

use crate::appender::Appender;
use crate::queue::{Appended, Pending, Queue, Reply};
use crate::store::{DirLock, Fault, Files, Storage, Store, lock};
use crate::tail::{BLOCKS, PARTITIONS, Tails};
use crate::{Error, Settings, checkpoint, outbox, rows, tail};

/// Gives the present time: microseconds UTC. It may step back; ingest times will not.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A partition of a log: 0 to `partitions - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a record in its partition: the number of records before it since the log was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of `log.redb`. Trimming does not make it smaller; its pages are used again.
    pub log_file_bytes: u64,
    /// Bytes of `state.redb`.
    pub state_file_bytes: u64,
    /// Records waiting to be written.
    pub queue_records: usize,
    /// Payload bytes waiting to be written.
    pub queue_bytes: usize,
    /// One entry per partition, in order.
    pub partitions: Vec<PartitionSize>,
}

/// How much a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSize {
    /// Offset of the oldest record still there.
    pub first: Offset,
    /// Offset of the next record.
    pub end: Offset,
    /// Blocks stored.
    pub blocks: u64,
    /// Bytes of the stored blocks, with their headers; without the database's own overhead.
    pub stored_bytes: u64,
    /// Ingest time of the newest block ever, microseconds UTC.
    pub last_ingest_time: Option<i64>,
}

/// An open log with its checkpoint store. Clones are handles of the same log.
///
/// The files stay open, and locked, until the last handle is gone. Dropping the last one closes the log and
/// waits for the appender.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) log: Arc<Store>,
    pub(crate) state: Store,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tails: Arc<Tails>,
    appender: Mutex<Option<JoinHandle<()>>>,
    /// Released last, when both databases are closed.
    _lock: DirLock,
}

impl Log {
    /// Opens the log in folder `dir`, creating both if they are not there. Blocks the thread.
    ///
    /// Compares what the two files say: partitions, ends of the log, offsets of the checkpoints.
    ///
    /// **Errors.** [`Error::Settings`], [`Error::InUse`], [`Error::PartitionsChanged`], [`Error::Format`],
    /// [`Error::LogShorterThanCheckpoint`], [`Error::LogTrimmedPastCheckpoint`], [`Error::Corrupt`],
    /// [`Error::Full`], [`Error::Io`].
    // Settings are passed by value throughout the project.
    #[allow(clippy::needless_pass_by_value)]
    pub fn open(dir: &Path, settings: Settings, clock: Clock) -> Result<Log, Error> {
        Log::open_on(
            &(Arc::new(Files) as Arc<dyn Storage>),
            dir,
            &settings,
            clock,
        )
    }

    pub(crate) fn open_on(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        settings: &Settings,
        clock: Clock,
    ) -> Result<Log, Error> {
        settings.check()?;
        storage
            .create_dir(dir)
            .map_err(|error| Error::of_io(dir, "create", error))?;
        let lock_path = dir.join("lock");
        let lock = storage
            .lock_dir(&lock_path)
            .map_err(|error| Error::of_io(&lock_path, "lock", error))?;
        let lock = lock.ok_or(Error::InUse { path: lock_path })?;
        let (log_path, state_path) = (dir.join("log.redb"), dir.join("state.redb"));
        let exists = |path| {
            storage
                .exists(path)
                .map_err(|error| Error::of_io(path, "open", error))
        };
        // In this order: a crash in between leaves a log without checkpoints, which is a new log.
        if !exists(&log_path)? {
            if exists(&state_path)? {
                return Err(corrupt(
                    &log_path,
                    "it is missing although state.redb is there",
                ));
            }
            Store::create(&log_path, storage, |txn| {
                txn.open_table(BLOCKS)?;
                txn.open_table(PARTITIONS)?;
                found(txn, settings.partitions)
            })?;
        }
        if !exists(&state_path)? {
            Store::create(&state_path, storage, |txn| {
                txn.open_table(checkpoint::CHECKPOINTS)?;
                txn.open_table(checkpoint::SNAPSHOTS)?;
                txn.open_table(rows::ROWS)?;
                txn.open_table(outbox::OUTBOX)?;
                found(txn, settings.partitions)
            })?;
        }
        let cache_bytes = settings.cache_bytes / 2;
        let log = Arc::new(Store::open(log_path, cache_bytes, storage.clone())?);
        let state = Store::open(state_path, cache_bytes, storage.clone())?;
        check_meta(&log, settings.partitions)?;
        check_meta(&state, settings.partitions)?;

        let tails = log.read(|txn| tail::load(&log, txn, settings.partitions))?;
        let checkpoints =
            state.read(|txn| checkpoint::offsets(&state, txn, settings.partitions))?;
        for (index, (tail, checkpoint)) in tails.iter().zip(checkpoints).enumerate() {
            let partition = PartitionId(index as u16);
            let (first, end) = (Offset(tail.first), Offset(tail.end));
            let checkpoint = checkpoint.unwrap_or_default();
            if checkpoint > end {
                return Err(Error::LogShorterThanCheckpoint {
                    partition,
                    checkpoint,
                    end,
                });
            }
            if checkpoint < first {
                return Err(Error::LogTrimmedPastCheckpoint {
                    partition,
                    checkpoint,
                    first,
                });
            }
        }

        let tails = Arc::new(Tails::new(tails));
        let queue = Arc::new(Queue::new(settings));
        let appender = Appender {
            store: log.clone(),
            queue: queue.clone(),
            tails: tails.clone(),
            clock,
        };
        let thread = std::thread::Builder::new()
            .name("log-appender".to_owned())
            .spawn(move || appender.run())
            .map_err(|error| Error::of_io(dir, "start the appender of", error))?;
        Ok(Log(Arc::new(Inner {
            log,
            state,
            queue,
            tails,
            appender: Mutex::new(Some(thread)),
            _lock: lock,
        })))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn check(&self, partition: PartitionId) -> Result<(), Error> {
        let partitions = self.partitions();
        if partition.0 < partitions {
            Ok(())
        } else {
            Err(Error::NoSuchPartition {
                partition,
                partitions,
            })
        }
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u16 {
        self.0.tails.len()
    }

    /// Appends records to a partition; they get consecutive offsets. Resolves when they are durable. Waits while the
    /// queue is full. Appends of one partition are stored in the order in which they were queued. Dropping the
    /// future does not take back an append that has been queued.
    ///
    /// **Errors.** [`Error::NoSuchPartition`], [`Error::NothingToAppend`], [`Error::RecordTooLarge`],
    /// [`Error::AppendTooLarge`] and [`Error::Closed`]: nothing was stored. [`Error::Full`], [`Error::Io`] and
    /// [`Error::Corrupt`]: *unknown*, the records may be there later or not; append again and recognise repeats.
    pub async fn append(
        &self,
        partition: PartitionId,
        records: Vec<Bytes>,
    ) -> Result<Appended, Error> {
        self.check(partition)?;
        let (reply, pending) = Pending::channel();
        let request = self.0.queue.request(partition, records, reply)?;
        self.0.queue.push(request).await?;
        pending.await
    }

    /// As [`Log::append`], for threads: blocks until the records are durable.
    ///
    /// **Errors.** As [`Log::append`].
    pub fn append_blocking(
        &self,
        partition: PartitionId,
        records: Vec<Bytes>,
    ) -> Result<Appended, Error> {
        self.check(partition)?;
        let (sender, answer) = mpsc::sync_channel(1);
        let request = self
            .0
            .queue
            .request(partition, records, Reply::Thread(sender))?;
        self.0.queue.push_blocking(request)?;
        answer.recv().unwrap_or(Err(Error::Closed))
    }

    /// As [`Log::append`], but does not wait for room: the caller learns that the queue is full and can hold back
    /// its own sources. `Ok` means queued; the [`Pending`] resolves when the records are durable.
    ///
    /// **Errors.** [`Error::QueueFull`] and those of [`Log::append`] that say that nothing was stored; the others
    /// come from the [`Pending`].
    pub fn try_append(
        &self,
        partition: PartitionId,
        records: Vec<Bytes>,
    ) -> Result<Pending, Error> {
        self.check(partition)?;
        let (reply, pending) = Pending::channel();
        let request = self.0.queue.request(partition, records, reply)?;
        self.0.queue.try_push(request)?;
        Ok(pending)
    }

    /// Offset of the oldest record still in the partition; its end if there is none. 0 for a partition that does
    /// not exist.
    pub fn first(&self, partition: PartitionId) -> Offset {
        Offset(self.0.tails.get(partition).unwrap_or_default().first)
    }

    /// Offset that the partition's next record will get: all before it are durable. 0 for a partition that does not
    /// exist.
    pub fn end(&self, partition: PartitionId) -> Offset {
        Offset(self.0.tails.get(partition).unwrap_or_default().end)
    }

    /// Ingest time of the partition's newest block, microseconds UTC; `None` before the first. Trimming does not
    /// change it.
    pub fn last_ingest_time(&self, partition: PartitionId) -> Option<i64> {
        self.0
            .tails
            .get(partition)
            .and_then(|tail| tail.last_ingest_time())
    }

    /// How much the log holds.
    ///
    /// **Errors.** [`Error::Io`].
    pub fn sizes(&self) -> Result<Sizes, Error> {
        let (queue_records, queue_bytes) = self.0.queue.waiting();
        let partition = |p| {
            let tail = self.0.tails.get(PartitionId(p)).unwrap_or_default();
            PartitionSize {
                first: Offset(tail.first),
                end: Offset(tail.end),
                blocks: tail.blocks,
                stored_bytes: tail.bytes,
                last_ingest_time: tail.last_ingest_time(),
            }
        };
        Ok(Sizes {
            log_file_bytes: self.0.log.file_bytes()?,
            state_file_bytes: self.0.state.file_bytes()?,
            queue_records,
            queue_bytes,
            partitions: (0..self.partitions()).map(partition).collect(),
        })
    }

    /// Takes no more appends and trims, writes what is queued, and waits for the appender. Readers that wait are
    /// woken. Reading and committing checkpoints still work until the last handle is dropped. May be called again.
    /// Blocks the thread.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    fn close(&self) {
        self.queue.close();
        if let Some(thread) = lock(&self.appender).take() {
            // It does not panic: everything that could is caught where it happens.
            let _ = thread.join();
        }
        self.tails.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// What kind of file this is. In both databases.
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;

/// Refuses a database of another format or partition count.
fn check_meta(store: &Store, partitions: u16) -> Result<(), Error> {
    store.read(|txn: &ReadTransaction| {
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                return Err(corrupt(store.path(), "it is not a database of the event log").into());
            }
            Err(error) => return Err(error.into()),
        };
        let path = || store.path().to_path_buf();
        let number = |key: &str| -> Result<u64, Fault> {
            Ok(meta.get(key)?.map_or(0, |value| value.value()))
        };
        let found = number("format")?;
        if found != FORMAT {
            return Err(Error::Format {
                path: path(),
                found,
                known: FORMAT,
            }
            .into());
        }
        let stored = number("partitions")?;
        if stored != u64::from(partitions) {
            let stored = u16::try_from(stored).unwrap_or(u16::MAX);
            return Err(Error::PartitionsChanged {
                path: path(),
                stored,
                wanted: partitions,
            }
            .into());
        }
        Ok(())
    })
}

/// Writes what a database is.
fn found(txn: &WriteTransaction, partitions: u16) -> Result<(), Fault> {
    let mut meta = txn.open_table(META)?;
    meta.insert("format", FORMAT)?;
    meta.insert("partitions", u64::from(partitions))?;
    Ok(())
}

fn corrupt(path: &Path, what: &str) -> Error {
    Error::Corrupt {
        path: path.to_path_buf(),
        partition: None,
        offset: None,
        what: what.to_owned(),
    }
}
