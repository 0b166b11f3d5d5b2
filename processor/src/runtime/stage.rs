//! Alerting as it runs: one state behind a lock, fed by all partitions, saved with the outbox.
//!
//! A partition's thread gives what its core made and waits until it is durable. While one thread commits, others
//! add theirs; the next commit takes all of it. A thread of its own looks at the time and appends to the log what
//! rules have devices do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use event::Record;
use eventlog::{Log, PartitionId};
use views::Views;

use super::Clock;
use super::groups::Watcher;
use crate::alerting::{Alerting, Output, Settings};
use crate::core::Effects;
use crate::outbox::Outbox;

/// Longest time between two looks at the time.
const NAP: Duration = Duration::from_millis(500);
/// Time between two looks at what can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// Time between two looks for rules on groups.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a start such rules wait as long as the server was away, but no longer than this: agents bring what they
/// held meanwhile, and it is not their fault that it is missing.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Pause after what the disk did not take.
const RETRY: Duration = Duration::from_secs(5);

struct Inner {
    alerting: Alerting,
    /// Decided and not durable yet.
    unsaved: Output,
    /// Number of the newest input, and of the newest that is durable.
    taken: u64,
    durable: u64,
}

/// A handle; clones are the same.
#[derive(Clone)]
pub(crate) struct Stage(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Held while a transaction is written and shown: they come in the order in which they were decided.
    writing: Mutex<()>,
    /// The thread that looks at the time has something to look at.
    news: Condvar,
    has_news: Mutex<bool>,
    log: Log,
    outbox: Outbox,
    views: Arc<Views>,
    clock: Clock,
    /// For each partition the ingest time of its newest checkpoint.
    saved: Vec<AtomicI64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Goes on from what was saved. Blocks the thread.
    ///
    /// **Errors**: the state file cannot be read, or holds a row that does not decode.
    pub(crate) fn open(
        settings: Settings,
        log: &Log,
        outbox: &Outbox,
        views: &Arc<Views>,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let rows = outbox.state()?;
        let rows = rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice()));
        let alerting = Alerting::restore(settings, rows).map_err(anyhow::Error::msg)?;
        views.put_on_call(alerting.show());
        let saved = (0..log.partitions()).map(|_| AtomicI64::new(i64::MIN));
        Ok(Self(Arc::new(Shared {
            inner: Mutex::new(Inner {
                alerting,
                unsaved: Output::default(),
                taken: 0,
                durable: 0,
            }),
            writing: Mutex::new(()),
            news: Condvar::new(),
            has_news: Mutex::new(false),
            log: log.clone(),
            outbox: outbox.clone(),
            views: views.clone(),
            clock: clock.clone(),
            saved: saved.collect(),
        })))
    }

    /// Notes that a partition's state as of `ingest` is saved.
    pub(super) fn note_saved(&self, partition: u16, ingest: i64) {
        self.0.saved[usize::from(partition)].store(ingest, Ordering::Release);
        self.0.outbox.note_saved(partition, ingest);
    }

    /// How long the server was away at most, before it was started; nothing if it never ran.
    pub(super) fn away(&self) -> Duration {
        let saved = self.0.saved.iter().map(|s| s.load(Ordering::Acquire));
        let newest = saved.max().filter(|t| *t != i64::MIN);
        let away = newest.map_or(0, |t| (self.0.clock)().saturating_sub(t).max(0));
        Duration::from_micros(away.unsigned_abs()).min(AWAY_MAX)
    }

    /// Says what the rules are.
    pub(super) fn set_rules(&self, rules: &[String]) {
        lock(&self.0.inner).alerting.set_rules(rules);
    }

    /// Takes what a block made: notices, operators' records, what became of commands. `agent_of` gives the agent
    /// of a device. When this returns, what follows from it is durable and shown. Blocks the thread.
    ///
    /// **Errors**: the state file cannot be written. The same may be given again.
    pub(super) fn take(
        &self,
        partition: u16,
        fx: &Effects,
        agent_of: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<()> {
        if let Some(declared) = &fx.declared {
            self.set_rules(&declared.rules);
        }
        let nothing = fx.notices.is_empty()
            && fx.operations.is_empty()
            && fx.decommissioned.is_empty()
            && fx.outcomes.is_empty()
            && fx.controls.is_empty();
        if nothing {
            return Ok(());
        }
        let agents: Vec<_> = fx
            .notices
            .iter()
            .map(|n| agent_of(&n.alert.device))
            .collect();
        let number = {
            let mut inner = lock(&self.0.inner);
            let now = (self.0.clock)();
            let alerting = &mut inner.alerting;
            for (notice, agent) in fx.notices.iter().zip(&agents) {
                alerting.notice(partition, notice, agent.as_deref(), now);
            }
            for (device, at) in &fx.decommissioned {
                alerting.decommissioned(partition, device, *at, now);
            }
            for operated in &fx.operations {
                if let Err(error) = alerting.operate(operated, now) {
                    tracing::warn!(
                        offset = operated.offset,
                        "an operator's record is skipped: {error}"
                    );
                }
            }
            for (offset, control) in &fx.controls {
                alerting.steer(*offset, control, now);
            }
            for outcome in &fx.outcomes {
                alerting.outcome(outcome, now);
            }
            self.decided(&mut inner)
        };
        self.commit(number)?;
        self.wake();
        Ok(())
    }

    /// Adds what was decided to what is to be saved. The number of the newest input.
    fn decided(&self, inner: &mut Inner) -> u64 {
        let out = inner.alerting.take();
        inner.unsaved.append(out);
        inner.taken += 1;
        inner.taken
    }

    /// Makes everything durable up to the input of that number.
    fn commit(&self, number: u64) -> anyhow::Result<()> {
        let _writing = lock(&self.0.writing);
        let (mut out, newest) = {
            let mut inner = lock(&self.0.inner);
            if inner.durable >= number {
                return Ok(());
            }
            (std::mem::take(&mut inner.unsaved), inner.taken)
        };
        // Of several values of one key the last counts.
        let rows: BTreeMap<_, _> = out.rows.iter().cloned().collect();
        let result = self
            .0
            .outbox
            .commit(rows.into_iter().collect(), out.outgoing.clone());
        if let Err(error) = result {
            let mut inner = lock(&self.0.inner);
            // What came meanwhile was decided later.
            out.append(std::mem::take(&mut inner.unsaved));
            inner.unsaved = out;
            return Err(error);
        }
        self.0.views.put_on_call(out.shown);
        lock(&self.0.inner).durable = newest;
        Ok(())
    }

    /// There may be something to do, or it is time to stop.
    pub(super) fn wake(&self) {
        *lock(&self.0.has_news) = true;
        self.0.news.notify_one();
    }

    /// Does what is due until `stop`. To be run on a thread of its own once all partitions have caught up:
    /// before that nobody knows what is over by now. Rules on groups are looked at from `away` on.
    pub(super) fn run(&self, away: Duration, stop: &AtomicBool) {
        let (mut forgot, mut look_at) = (Instant::now(), Instant::now() + away);
        let mut watcher = Watcher::default();
        while !stop.load(Ordering::Acquire) {
            let forget = forgot.elapsed() >= FORGET_EVERY;
            if Instant::now() >= look_at {
                // The views are read without the lock.
                let findings = watcher.look(&self.0.views);
                let now = (self.0.clock)();
                findings.apply(&mut lock(&self.0.inner).alerting, now);
                look_at = Instant::now() + LOOK_EVERY;
            }
            match self.step(forget, stop) {
                Ok(()) if forget => forgot = Instant::now(),
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(
                        "alerting failed to save what is due, trying again in {RETRY:?}: {error:#}"
                    );
                    self.sleep(RETRY);
                }
            }
            let due = lock(&self.0.inner).alerting.next_due();
            let wait = due.map_or(NAP, |due| {
                let micros = due.saturating_sub((self.0.clock)()).max(0);
                Duration::from_micros(micros.unsigned_abs()).min(NAP)
            });
            if !wait.is_zero() {
                self.sleep(wait);
            }
        }
    }

    fn sleep(&self, time: Duration) {
        let mut has_news = lock(&self.0.has_news);
        if !*has_news {
            let woken = self.0.news.wait_timeout(has_news, time);
            has_news = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *has_news = false;
    }

    /// What is due now: messages, ends of silences, records for devices.
    fn step(&self, forget: bool, stop: &AtomicBool) -> anyhow::Result<()> {
        let (number, orders) = {
            let mut inner = lock(&self.0.inner);
            inner.alerting.tick((self.0.clock)());
            if forget {
                let saved = |p: u16| {
                    let known = self.0.saved.get(usize::from(p));
                    known.map_or(i64::MAX, |t| t.load(Ordering::Acquire))
                };
                while inner.alerting.forget(saved) {}
            }
            let orders = inner.alerting.orders();
            let out = inner.alerting.take();
            let waits = !inner.unsaved.is_empty();
            if out.is_empty() && orders.is_empty() && !waits {
                return Ok(());
            }
            inner.unsaved.append(out);
            inner.taken += 1;
            (inner.taken, orders)
        };
        self.commit(number)?;
        if orders.is_empty() || stop.load(Ordering::Acquire) {
            return Ok(());
        }
        for (partition, order) in &orders {
            let record = Bytes::from(Record::Command(order.clone()).encode());
            self.0
                .log
                .append_blocking(PartitionId(*partition), vec![record])
                .with_context(|| format!("command {} of a rule is not in the log", order.id))?;
            metrics::counter!("tidewatch_rule_commands_total").increment(1);
        }
        let number = {
            let mut inner = lock(&self.0.inner);
            for (_, order) in &orders {
                inner.alerting.ordered(&order.id);
            }
            self.decided(&mut inner)
        };
        self.commit(number)
    }
}
