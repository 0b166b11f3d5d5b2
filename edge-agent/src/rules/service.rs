//! The rules beside the sources: takes readings in, and a task that reports, stores and gives commands.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use event::alert::METRIC;
use event::{MetricName, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::engine::{Act, Engine};
use super::{EdgeRule, row};
use crate::buffer::{CommandChanges, SavedCommands};
use crate::commands::Commands;
use crate::health::Health;
use crate::inbox::{Closed, Inbox, Position, Reading};

/// Sources wait while so much is to be done; one group of readings may add as much as it has.
const ACTS_MAX: usize = 1024;
/// So many are stored in one transaction.
const GROUP_MAX: usize = 256;
/// Time between two groups, so that a storm is no storm of commits. The first goes at once.
const GROUP_EVERY: Duration = Duration::from_millis(100);
/// Groups in a row that go at once.
const BURST: u32 = 10;
/// Turns of the runtime from a command that is given to the note that it starts.
const TURNS: u32 = 4;
/// A wait for room longer than this is no silence of the devices.
const NOT_HEARD: Duration = Duration::from_secs(1);
/// Silence is not looked for more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A source's way to the rules. Without rules it costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Rules(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    inbox: Arc<Inbox>,
    metrics: HashSet<String>,
    engine: Mutex<Engine>,
    wake: Notify,
    /// What is to be done.
    waiting: watch::Sender<usize>,
    /// The agent stops: nothing more can be done.
    closed: AtomicBool,
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Splits what the buffer keeps into commands and rows of open episodes.
pub(crate) fn split(saved: SavedCommands) -> (SavedCommands, Vec<(String, Vec<u8>)>) {
    let (episodes, rows) = saved.rows.into_iter().partition(|(k, _)| row::is_key(k));
    let marks = saved.marks;
    (SavedCommands { rows, marks }, episodes)
}

impl Rules {
    /// The rules, going on with the open episodes of earlier lives.
    pub(crate) fn new(
        rules: Vec<EdgeRule>,
        episodes: Vec<(String, Vec<u8>)>,
        inbox: Arc<Inbox>,
    ) -> Self {
        // Episodes of rules that are gone must be ended by somebody.
        if rules.is_empty() && episodes.is_empty() {
            return Self::default();
        }
        let metrics = rules.iter().map(|r| r.rule.metric.clone()).collect();
        let (wall, mono) = (inbox.clock().wall(), inbox.clock().monotonic());
        let mut engine = Engine::new(rules, wall, mono);
        engine.resume(episodes, wall, mono);
        Self(Some(Arc::new(Shared {
            waiting: watch::Sender::new(engine.waiting()),
            engine: Mutex::new(engine),
            inbox,
            metrics,
            wake: Notify::new(),
            closed: AtomicBool::new(false),
        })))
    }

    /// Waits while so much is to be done that no more readings should be taken.
    pub(crate) async fn room(&self) {
        if let Some(shared) = &self.0 {
            let mut waiting = shared.waiting.subscribe();
            // It cannot end while we exist.
            let _ = waiting.wait_for(|n| *n < ACTS_MAX).await;
        }
    }

    /// Takes a reading as it comes: before it is left out for saying nothing new, and before it is
    /// stored.
    pub(crate) fn take(&self, reading: &Reading) {
        let Some(shared) = &self.0 else {
            return;
        };
        if !shared.metrics.contains(reading.metric.as_str())
            || shared.closed.load(Ordering::Relaxed)
        {
            return;
        }
        let clock = shared.inbox.clock();
        let mut engine = shared.engine();
        let wall = (clock.wall(), clock.offset_us().is_some());
        if engine.take(reading, wall, clock.monotonic()) {
            shared.waiting.send_replace(engine.waiting());
            shared.wake.notify_one();
        }
    }

    /// Waits until all that was to be done is in the inbox, at most for `patience`.
    pub(crate) async fn drained(&self, patience: Duration) {
        if let Some(shared) = &self.0 {
            let mut waiting = shared.waiting.subscribe();
            let drained = waiting.wait_for(|n| *n == 0);
            if tokio::time::timeout(patience, drained).await.is_err() {
                tracing::warn!("alerts of rules have not reached the disk; they are found again");
            }
        }
    }
}

/// The task; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    task: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the task, if there is anything to do.
    ///
    /// **Errors**: the name of our metric is none, which a test excludes.
    pub fn start(rules: &Rules, commands: Commands, health: Health) -> anyhow::Result<Self> {
        let Some(shared) = rules.0.clone() else {
            return Ok(Self { task: None });
        };
        let metric = MetricName::new(METRIC)?;
        shared.inbox.register(Position::Live);
        let worker = Worker {
            shared,
            metric,
            commands,
            health,
        };
        let task = tokio::spawn(async move {
            if let Err(Closed) = worker.run().await {
                // Sources that wait for us wait for the inbox next, which tells them.
                worker.shared.closed.store(true, Ordering::Relaxed);
                worker.shared.waiting.send_replace(0);
            }
        });
        Ok(Self { task: Some(task) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    metric: MetricName,
    commands: Commands,
    health: Health,
}

impl Worker {
    async fn run(&self) -> Result<(), Closed> {
        let mut burst = 0;
        loop {
            let (acts, due) = self.next();
            if acts.is_empty() {
                burst = 0;
                self.wait(due).await;
                continue;
            }
            self.log(&acts);
            self.carry_out(acts).await?;
            // Only now: who waits for the end waits for the inbox, too.
            // Under the lock: otherwise it could go over a newer word of a feed.
            {
                let engine = self.shared.engine();
                self.shared.waiting.send_replace(engine.waiting());
            }
            burst += 1;
            if burst >= BURST {
                tokio::time::sleep(GROUP_EVERY).await;
            }
        }
    }

    /// What is to be done, and when to look again if there is nothing.
    fn next(&self) -> (Vec<Act>, Option<Duration>) {
        let clock = self.shared.inbox.clock();
        let mut engine = self.shared.engine();
        if self.shared.inbox.has_room() {
            engine.pass(clock.wall(), clock.monotonic());
        } else {
            engine.excuse(clock.monotonic());
        }
        let acts = engine.drain(GROUP_MAX);
        self.health.rules_are(engine.counts());
        (acts, engine.due())
    }

    async fn wait(&self, due: Option<Duration>) {
        let now = self.shared.inbox.clock().monotonic();
        let nap = async {
            match due {
                Some(due) => tokio::time::sleep(due.saturating_sub(now).max(LOOK_EVERY)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.wake.notified() => {}
            () = nap => {}
        }
    }

    /// Reports first: whatever happens then, the next life knows of the episode.
    async fn carry_out(&self, acts: Vec<Act>) -> Result<(), Closed> {
        let mut readings = Vec::new();
        let mut changes = CommandChanges::default();
        let mut commands = Vec::new();
        for act in acts {
            readings.extend(act.alert.map(|(device, alert)| Reading {
                device,
                metric: self.metric.clone(),
                // The time of the reading is in the text; an event of that time might come behind
                // what was promised.
                time: None,
                value: Value::Text(alert.to_text().into()),
            }));
            changes.rows.extend(act.row);
            commands.extend(act.command);
        }
        let with_commands = !commands.is_empty();
        if !readings.is_empty() || !changes.is_empty() {
            // Nobody waits for the disk: the start of a command is noted before its program starts, and
            // that is in this transaction or a later one.
            let inbox = &self.shared.inbox;
            let began = inbox.clock().monotonic();
            inbox
                .push_command(readings, changes, !with_commands)
                .await?;
            let now = inbox.clock().monotonic();
            if now > began + NOT_HEARD {
                // Sources waited, too, and have not spoken since.
                self.shared.engine().excuse(now);
            }
        }
        for command in commands {
            let id = command.id.clone();
            if self.commands.give_local(command).await.is_err() {
                tracing::warn!(
                    id,
                    "the command of a rule was not given, because the agent stops; the next start gives \
                     it if that is soon"
                );
            }
        }
        if with_commands {
            // A command that starts at once has its own news in the inbox after these turns: one
            // transaction for both saves the time and the wear of another.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            self.shared.inbox.hurry();
        }
        Ok(())
    }

    fn log(&self, acts: &[Act]) {
        const SHOWN: usize = 10;
        let alerts = acts.iter().filter_map(|a| a.alert.as_ref());
        for (device, alert) in alerts.take(SHOWN) {
            tracing::warn!(
                rule = alert.rule, %device, metric = alert.metric, value = alert.value,
                severity = alert.severity, command = alert.command, reason = alert.reason,
                "a rule is {:?}", alert.state
            );
        }
        if acts.len() > SHOWN {
            tracing::warn!(
                more = acts.len() - SHOWN,
                "more rules are firing or resolved"
            );
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
