//! Carries out what the queue decides: sends, and saves what came of it.
//!
//! The next message does not wait for what came of the one before to be on disk; that is saved beside, in order,
//! as many outcomes in one transaction as there are by then.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use notify::format::{Attempt, Outcome, Verdict};
use notify::{Client, Message};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::queue::{Job, Page};
use super::{Outbox, lock};

/// Longest and shortest sleep between two looks at the queue.
const SLEEP: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));
/// Attempts under way have this long to end when we stop; others are made again at the next start.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pause after outcomes could not be saved.
const SAVE_RETRY: Duration = Duration::from_secs(1);

impl Outbox {
    /// Delivers until `stop`. The task ends when attempts under way have ended, at the latest after two seconds,
    /// and what came of them is saved.
    ///
    /// **Errors**: a target that cannot be used.
    pub fn deliver(&self, stop: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
        let mut clients = BTreeMap::new();
        for target in self.targets() {
            let client = Client::new(target.clone())
                .with_context(|| format!("notifier {:?} cannot be used", target.name))?;
            clients.insert(target.name.clone(), client);
        }
        let saver = tokio::spawn(self.clone().save_until(stop.clone()));
        Ok(tokio::spawn(self.clone().run(clients, stop, saver)))
    }

    async fn run(
        self,
        clients: BTreeMap<String, Client>,
        stop: CancellationToken,
        saver: tokio::task::JoinHandle<()>,
    ) {
        let mut under_way: JoinSet<Outcome> = JoinSet::new();
        let mut jobs: HashMap<Id, Job> = HashMap::new();
        loop {
            let now = (self.inner.clock)();
            let (start, wake) = {
                let mut queue = lock(&self.inner.queue);
                let taken = queue.take(now);
                metrics::gauge!("tidewatch_notifications_waiting").set(queue.waiting() as f64);
                if queue.is_dirty() {
                    self.inner.dirt.notify_one();
                }
                taken
            };
            for job in start {
                let handle = under_way.spawn(self.clone().attempt(&clients, &job));
                jobs.insert(handle.id(), job);
            }
            let sleep = Duration::from_micros(wake.saturating_sub(now).max(0) as u64);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.inner.news.notified() => {}
                () = tokio::time::sleep(sleep.clamp(SLEEP.0, SLEEP.1)) => {}
                Some(done) = under_way.join_next_with_id() => {
                    self.take_outcome(done, &mut jobs);
                    while let Some(done) = under_way.try_join_next_with_id() {
                        self.take_outcome(done, &mut jobs);
                    }
                }
            }
        }
        let rest = async {
            while let Some(done) = under_way.join_next_with_id().await {
                self.take_outcome(done, &mut jobs);
            }
        };
        if tokio::time::timeout(STOP_GRACE, rest).await.is_err() {
            let left = under_way.len();
            tracing::warn!(
                left,
                "receivers have not answered; they are told again at the next start"
            );
            under_way.shutdown().await;
        }
        // The saver's last transaction is under way at most; then what is left is saved.
        if let Err(error) = saver.await {
            tracing::error!(%error, "the task that saves deliveries ended badly");
        }
        if let Err(error) = self.save_blocking().await {
            tracing::error!("failed to save what came of deliveries: {error:#}");
        }
    }

    /// One attempt. What it needs is fetched before the future is made.
    fn attempt(
        self,
        clients: &BTreeMap<String, Client>,
        job: &Job,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let name = match job {
            Job::Tell { target, .. } | Job::Repeat { target, .. } => target,
        };
        let (client, job) = (clients.get(name).cloned(), job.clone());
        async move {
            let Some(client) = client else {
                let error = "there is no notifier of that name".to_owned();
                return Outcome::failed(Verdict::Refused, error);
            };
            let at = (self.inner.clock)();
            match &job {
                Job::Tell {
                    message, handle, ..
                } => {
                    let handle = handle.as_deref();
                    client.send(message, &Attempt { at, handle }).await
                }
                Job::Repeat { pages, .. } => {
                    let pages: Vec<(&Message, Option<&str>)> = pages
                        .iter()
                        .map(|p| (&*p.message, p.handle.as_deref()))
                        .collect();
                    client.repeat(&pages, at).await
                }
            }
        }
    }

    fn take_outcome(
        &self,
        done: Result<(Id, Outcome), tokio::task::JoinError>,
        jobs: &mut HashMap<Id, Job>,
    ) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "an attempt to deliver ended badly");
                let outcome = Outcome::failed(Verdict::Retry, "the attempt ended badly".to_owned());
                (error.id(), outcome)
            }
        };
        let Some(job) = jobs.remove(&id) else {
            return;
        };
        let now = (self.inner.clock)();
        match &job {
            Job::Tell {
                seq,
                target,
                message,
                ..
            } => {
                lock(&self.inner.queue).finish(*seq, &outcome, now);
                self.count(target, &outcome);
                if let Some(error) = &outcome.error {
                    tracing::warn!(message = message.id, target, "failed to deliver: {error}");
                }
            }
            Job::Repeat { target, pages } => self.take_repeat(target, pages, &outcome, now),
        }
        self.inner.dirt.notify_one();
    }

    fn take_repeat(&self, target: &str, pages: &[Page], outcome: &Outcome, now: i64) {
        lock(&self.inner.queue).finish_repeat(target, pages, outcome, now);
        if let Some(error) = &outcome.error {
            let pages = pages.len();
            tracing::warn!(target, pages, "failed to remind of open pages: {error}");
        }
    }

    fn count(&self, target: &str, outcome: &Outcome) {
        let format = self
            .targets()
            .find(|t| t.name == target)
            .map(|t| t.format.as_str());
        let result = match outcome.verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry => "retry",
            Verdict::Refused | Verdict::Gone => "failed",
        };
        let format = format.unwrap_or("unknown");
        metrics::counter!("tidewatch_notifications_total", "integration" => format, "result" => result)
            .increment(1);
    }

    /// Saves what came of deliveries as it comes.
    async fn save_until(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.dirt.notified() => {}
            }
            while let Err(error) = self.save_blocking().await {
                // It may be sent again after a restart, under the same id.
                tracing::error!(
                    "failed to save what came of deliveries, trying again in {SAVE_RETRY:?}: {error:#}"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(SAVE_RETRY) => {}
                }
            }
        }
    }

    async fn save_blocking(&self) -> anyhow::Result<()> {
        let outbox = self.clone();
        let saved = tokio::task::spawn_blocking(move || outbox.save()).await;
        saved.context("the task was interrupted")?
    }
}
