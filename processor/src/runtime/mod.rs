//! Threads, checkpoints and effects around the core.
//!
//! One thread per partition: it restores the newest checkpoint, replays the log to its end, publishes
//! what it has, and follows. Until it has caught up two things only leave it: notices, which go to the outbox,
//! where ids decide what is new; and records that a partition writes for another, which may come twice. Commands
//! of a replay are not sent: what is still unanswered at its end is.

mod groups;
mod lookup;
mod past;
mod saver;
mod stage;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use event::{Declaration, Record};
use eventlog::{Log, PartitionId};
use notify::Target;
use tokio_util::sync::CancellationToken;
use views::Views;

use crate::core::SendCommand;
use crate::outbox::Outbox;
use saver::Saver;
use stage::Stage;
use worker::Worker;

/// Between two looks at whether all partitions have caught up.
const CAUGHT_UP_NAP: Duration = Duration::from_millis(20);

/// Microseconds UTC now; passed in so that tests can say what time it is.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The way of a command to its agent's connection: says whether it was handed over. It must not wait. What is
/// not handed over is given again later.
#[derive(Clone)]
pub struct Downlink(Arc<dyn Fn(&SendCommand) -> bool + Send + Sync>);

impl Downlink {
    /// Wraps what carries commands down.
    pub fn new(send: impl Fn(&SendCommand) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }
}

impl std::fmt::Debug for Downlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Downlink")
    }
}

/// How the processor runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between checkpoints of a partition; the partitions take turns. Default 30 s.
    pub checkpoint_every: Duration,
    /// How long records stay in the log behind the checkpoint. Default 24 h.
    pub log_keep: Duration,
    /// Payload bytes that stay in the log behind the checkpoint at most, over all partitions.
    /// Default 2 GiB.
    pub log_keep_bytes: u64,
    /// Bytes read from the log at once. Default 4 MiB.
    pub read_bytes: usize,
    /// Who is told of alerts.
    pub targets: Vec<Target>,
    /// What becomes of alerts.
    pub alerting: crate::alerting::Settings,
    /// Where commands go; none: nowhere, they wait until they expire.
    pub downlink: Option<Downlink>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            checkpoint_every: Duration::from_secs(30),
            log_keep: Duration::from_secs(24 * 3600),
            log_keep_bytes: 2 << 30,
            read_bytes: 4 << 20,
            targets: Vec::new(),
            alerting: crate::alerting::Settings::default(),
            downlink: None,
        }
    }
}

/// Declares aggregates and rules in every partition, behind whatever the log holds already. Blocks the thread.
/// To be done before [`Processor::start`] and before ingest takes data: events of a new data folder would
/// belong to no window otherwise. Declaring the same twice changes nothing.
///
/// **Errors**: the log cannot be written; the call may be repeated.
pub fn declare(log: &Log, declaration: &Declaration) -> Result<(), eventlog::Error> {
    let record = Bytes::from(Record::Declare(declaration.clone()).encode());
    for number in 0..log.partitions() {
        log.append_blocking(PartitionId(number), vec![record.clone()])?;
    }
    Ok(())
}

/// Shows what a partition computes.
fn show(views: &Views, partition: u16, declared: &crate::core::Declarations) {
    let rules = declared.rules.iter();
    let rules = rules.filter_map(|r| serde_json::from_str(r).ok()).collect();
    views.declare(partition, declared.aggregates.clone(), rules);
}

/// A running processor.
pub struct Processor {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    stage: Stage,
    outbox: Outbox,
    delivery: tokio::task::JoinHandle<()>,
    delivery_stop: CancellationToken,
}

impl Processor {
    /// Restores every partition and starts.
    ///
    /// `failed` is cancelled if a partition's thread ends with an error; [`Processor::stop`] then tells it.
    /// Must be called within a tokio runtime, on which notices are delivered.
    ///
    /// **Errors**: a checkpoint that cannot be read.
    pub fn start(
        settings: &Settings,
        log: &Log,
        views: &Arc<Views>,
        clock: &Clock,
        failed: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let partitions = log.partitions();
        let stop = Arc::new(AtomicBool::new(false));
        let behind = Arc::new(AtomicUsize::new(usize::from(partitions)));
        let outbox = Outbox::open(log, views, settings.targets.clone(), clock)
            .context("failed to read the outbox")?;
        let stage = Stage::open(settings.alerting.clone(), log, &outbox, views, clock)
            .context("failed to read the state of alerting")?;
        let saver =
            Saver::start(log).context("failed to start the thread that writes checkpoints")?;
        let mut workers = Vec::with_capacity(usize::from(partitions));
        for number in 0..partitions {
            workers.push(
                Worker::open(number, settings, log, views, &stage, &saver, clock)
                    .with_context(|| format!("failed to restore partition {number}"))?,
            );
        }
        let delivery_stop = CancellationToken::new();
        let delivery = outbox.deliver(delivery_stop.clone())?;
        let mut threads = Vec::with_capacity(workers.len());
        for (number, worker) in workers.into_iter().enumerate() {
            let (stop, behind, failed) = (stop.clone(), behind.clone(), failed.clone());
            let views = views.clone();
            let caught_up = move || {
                if behind.fetch_sub(1, Ordering::AcqRel) == 1 {
                    views.set_ready();
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("processor-{number}"))
                .spawn(move || {
                    // A panic must not leave a server that looks alive and counts nothing.
                    let _guard = CancelOnDrop {
                        token: &failed,
                        stop: &stop,
                    };
                    worker.run(&stop, caught_up)
                })
                .context("failed to start a processor thread")?;
            threads.push(thread);
        }
        threads.push({
            let (stop, behind, failed) = (stop.clone(), behind, failed.clone());
            let stage = stage.clone();
            let away = stage.away();
            std::thread::Builder::new()
                .name("alerting".to_owned())
                .spawn(move || {
                    let _guard = CancelOnDrop {
                        token: &failed,
                        stop: &stop,
                    };
                    while behind.load(Ordering::Acquire) > 0 && !stop.load(Ordering::Acquire) {
                        std::thread::sleep(CAUGHT_UP_NAP);
                    }
                    stage.run(away, &stop);
                    Ok(())
                })
                .context("failed to start the thread of alerting")?
        });
        Ok(Self {
            stop,
            threads,
            stage,
            outbox,
            delivery,
            delivery_stop,
        })
    }

    /// What is delivered, and what became of it.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Processes what is in the log, saves a last checkpoint of every partition, stops delivering, and
    /// returns. What was not delivered stays in the outbox.
    ///
    /// **Errors**: the first error of a partition's thread.
    pub fn stop(self) -> anyhow::Result<Stopping> {
        self.stop.store(true, Ordering::Release);
        self.stage.wake();
        let mut result = Ok(());
        for thread in self.threads {
            let ended = match thread.join() {
                Ok(ended) => ended,
                Err(_) => Err(anyhow::anyhow!(
                    "a processor thread panicked; see the log above"
                )),
            };
            result = result.and(ended);
        }
        self.delivery_stop.cancel();
        result.map(|()| Stopping {
            delivery: self.delivery,
        })
    }
}

/// The part of stopping that is waited for without blocking a thread.
pub struct Stopping {
    delivery: tokio::task::JoinHandle<()>,
}

impl Stopping {
    /// Resolves when the delivery task has ended.
    pub async fn finished(self) {
        if let Err(error) = self.delivery.await {
            tracing::error!(%error, "the delivery task ended badly");
        }
    }
}

struct CancelOnDrop<'a> {
    token: &'a CancellationToken,
    stop: &'a AtomicBool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Acquire) {
            self.token.cancel();
        }
    }
}
