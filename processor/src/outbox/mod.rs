//! The durable list of messages that are to be delivered, and what delivers them.
//!
//! A message enters once under its id, however often a replay makes it again, in one transaction with what its
//! maker wants to remember, and leaves only by age after it was finished. [`queue`] decides what is sent when;
//! [`delivery`] sends it and saves what came of it. Delivery is at least once with a stable id.

mod delivery;
mod queue;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use eventlog::{Log, OutboxChange, OutboxRow};
use notify::Target;
use tokio::sync::Notify;
use views::Views;

use crate::runtime::Clock;
pub use queue::{Outgoing, ResendError};
use queue::{Queue, Row};

/// First byte of the keys of what makers of messages remember.
const STATE_PREFIX: u8 = 3;

/// A handle of the outbox; clones are the same outbox.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    views: Arc<Views>,
    clock: Clock,
    targets: Vec<Arc<Target>>,
    queue: Mutex<Queue>,
    /// Held from the making of a transaction until what it wrote is installed and shown, so that transactions are
    /// written in the order in which they were made. Taken before `queue`, never while that is held.
    writing: Mutex<()>,
    /// Something may be to be sent.
    news: Notify,
    /// Something is to be saved.
    dirt: Notify,
    /// For each partition the ingest time of its newest checkpoint: a replay makes no message older than that.
    saved: Vec<AtomicI64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Reads what is there. Blocks the thread.
    ///
    /// **Errors**: the state file cannot be read, or holds a row that does not decode.
    pub fn open(
        log: &Log,
        views: &Arc<Views>,
        targets: Vec<Target>,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let targets: Vec<Arc<Target>> = targets.into_iter().map(Arc::new).collect();
        let (queue, foreign) = Queue::open(&targets, &log.outbox_all()?, clock())?;
        if !foreign.is_empty() {
            let rows = foreign.len();
            tracing::warn!(
                rows,
                "the outbox holds rows of an earlier version; they are deleted"
            );
            log.outbox_apply(&foreign)?;
        }
        for row in queue.rows() {
            views.put_notification(row.model());
        }
        let saved = (0..log.partitions()).map(|_| AtomicI64::new(i64::MIN));
        Ok(Self {
            inner: Arc::new(Inner {
                log: log.clone(),
                views: views.clone(),
                clock: clock.clone(),
                targets,
                queue: Mutex::new(queue),
                writing: Mutex::new(()),
                news: Notify::new(),
                dirt: Notify::new(),
                saved: saved.collect(),
            }),
        })
    }

    /// Whom messages can be sent to.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.inner.targets.iter().map(Arc::as_ref)
    }

    /// What makers of messages remember, by key: what [`Outbox::commit`] was given. Blocks the thread.
    ///
    /// **Errors**: the state file cannot be read.
    pub fn state(&self) -> anyhow::Result<Vec<OutboxRow>> {
        let rows = self.inner.log.outbox_all()?.into_iter();
        let ours = rows.filter(|(key, _)| key.first() == Some(&STATE_PREFIX));
        Ok(ours
            .map(|(key, value)| (key[1..].to_vec(), value))
            .collect())
    }

    /// Saves `state` (`None` deletes) and adds messages, in one transaction. When this returns, all of it is
    /// durable, and the messages are on their way, those of a page in the order in which they were given. Messages
    /// that a target knows by their id, or has no words for, are left out. Blocks the thread for one commit.
    ///
    /// **Errors**: the state file cannot be written. Nothing of it shows or is sent; whether it is on disk is
    /// unknown. The same call may be repeated.
    pub fn commit(&self, state: Vec<OutboxChange>, outgoing: Vec<Outgoing>) -> anyhow::Result<()> {
        if state.is_empty() && outgoing.is_empty() {
            return Ok(());
        }
        for message in &outgoing {
            if !self.targets().any(|t| t.name == message.target) {
                let (target, id) = (&message.target, &message.message.id);
                tracing::error!(
                    target,
                    id,
                    "there is no notifier of that name; the message is lost"
                );
            }
        }
        let _writing = lock(&self.inner.writing);
        let now = (self.inner.clock)();
        let rows = lock(&self.inner.queue).prepare(outgoing, now);
        let state = state.into_iter().map(|(key, value)| {
            let mut full = vec![STATE_PREFIX];
            full.extend_from_slice(&key);
            (full, value)
        });
        self.write(state.collect(), rows)
    }

    /// Sends a finished message again, under the same idempotency key, as a new row of the delivery log. Answers
    /// that row's id. Blocks the thread for one commit.
    ///
    /// **Errors**: a [`ResendError`] within, or the state file cannot be written.
    pub fn resend(&self, id: &str) -> anyhow::Result<String> {
        let _writing = lock(&self.inner.writing);
        let now = (self.inner.clock)();
        let row = lock(&self.inner.queue).resend(id, now)?;
        let id = row.public_id();
        self.write(Vec::new(), vec![row])?;
        Ok(id)
    }

    /// Writes, with all else that is to be saved; then installs and shows. `writing` must be held.
    fn write(&self, mut changes: Vec<OutboxChange>, rows: Vec<Row>) -> anyhow::Result<()> {
        let inner = &*self.inner;
        for row in &rows {
            changes.push((queue::key(row.seq), Some(row.encode()?)));
        }
        let mut dirty = {
            let mut queue = lock(&inner.queue);
            queue.forget_old(self.saved());
            queue.take_dirty()?
        };
        changes.append(&mut dirty.changes);
        if let Err(error) = inner.log.outbox_apply(&changes) {
            lock(&inner.queue).put_back(dirty);
            return Err(error).context("failed to save the outbox");
        }
        for row in dirty.shown.iter().chain(&rows) {
            inner.views.put_notification(row.model());
        }
        if !rows.is_empty() {
            let now = (inner.clock)();
            let mut queue = lock(&inner.queue);
            queue.install(rows, now);
            let is_dirty = queue.is_dirty();
            drop(queue);
            inner.news.notify_one();
            if is_dirty {
                inner.dirt.notify_one();
            }
        }
        Ok(())
    }

    /// Saves what came of deliveries. Blocks the thread.
    fn save(&self) -> anyhow::Result<()> {
        let _writing = lock(&self.inner.writing);
        self.write(Vec::new(), Vec::new())
    }

    /// Notes that a partition's state as of `ingest` is saved.
    pub(crate) fn note_saved(&self, partition: u16, ingest: i64) {
        self.inner.saved[usize::from(partition)].store(ingest, Ordering::Release);
    }

    fn saved(&self) -> i64 {
        let times = self.inner.saved.iter().map(|t| t.load(Ordering::Acquire));
        times.min().unwrap_or(i64::MIN)
    }
}
