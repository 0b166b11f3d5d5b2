//! Time for partitions in which nothing happens, and the note that we were away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event::{IngestTime, Record};
use eventlog::Clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::{Append, describe};
use crate::meters::Meters;

/// When each partition last got a record.
pub struct Activity {
    start: Instant,
    /// Milliseconds since `start`.
    last: Vec<AtomicU64>,
}

impl Activity {
    /// All partitions count as busy now.
    pub fn new(partitions: u16) -> Self {
        Self {
            start: Instant::now(),
            last: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A record was queued for `partition`.
    pub fn note(&self, partition: u16) {
        if let Some(last) = self.last.get(usize::from(partition)) {
            last.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn idle(&self, for_ms: u64) -> Vec<u16> {
        let now = self.now_ms();
        let idle = |last: &AtomicU64| now.saturating_sub(last.load(Ordering::Relaxed)) >= for_ms;
        (0u16..)
            .zip(&self.last)
            .filter(|(_, last)| idle(last))
            .map(|(p, _)| p)
            .collect()
    }
}

/// Writes to every partition that nothing could enter the log since its last record, so that silence
/// timers do not count our own outage. A partition without a record has nothing to note.
///
/// May be called again after an error: what was noted already ends where the next note begins.
///
/// **Errors**: the log does not take it; then serving must not begin.
pub async fn note_gap(log: &dyn Append, clock: &Clock) -> Result<(), eventlog::Error> {
    let now = clock();
    let mut appends = Vec::new();
    for partition in 0..log.partitions() {
        let Some(from) = log.last_ingest_time(partition) else {
            continue;
        };
        // The clock may have stepped back while we were away; ingest time does not.
        let record = Record::AvailabilityGap {
            from: IngestTime::from_micros(from),
            to: IngestTime::from_micros(now.max(from)),
        };
        let record = Bytes::from(record.encode());
        let pending = loop {
            match log.try_append(partition, vec![record.clone()]) {
                Ok(pending) => break pending,
                Err(eventlog::Error::QueueFull { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
            }
        };
        appends.push(pending);
    }
    // All are waited for, so that none is still under way when the next try begins.
    let mut result = Ok(());
    for pending in appends {
        result = result.and(pending.await.map(drop));
    }
    result
}

/// Gives every partition that was idle for `tick_ms` a tick, until `stop`.
pub async fn run(
    log: Arc<dyn Append>,
    activity: Arc<Activity>,
    tick_ms: u64,
    meters: Arc<Meters>,
    stop: CancellationToken,
) {
    let tick = Bytes::from(Record::Tick.encode());
    let mut failing = false;
    // Looking four times as often keeps a tick within 1.25 of its time.
    let mut timer = tokio::time::interval(Duration::from_millis((tick_ms / 4).max(1)));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timer.tick() => {}
        }
        let idle = activity.idle(tick_ms);
        let mut appends = Vec::with_capacity(idle.len());
        let mut failure = None;
        for partition in idle {
            match log.try_append(partition, vec![tick.clone()]) {
                Ok(pending) => {
                    activity.note(partition);
                    appends.push(pending);
                }
                // A full queue means that time goes on by itself as soon as it is written.
                Err(eventlog::Error::QueueFull { .. }) => break,
                Err(error) => failure = Some(error),
            }
        }
        for pending in appends {
            match pending.await {
                Ok(_) => meters.ticks.increment(1),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if !failing => {
                tracing::error!(error = describe(&error), "failed to append a tick");
                meters.log_failing.set(1.0);
                failing = true;
            }
            None if failing => {
                tracing::info!("ticks are appended again");
                meters.log_failing.set(0.0);
                failing = false;
            }
            _ => {}
        }
    }
}
