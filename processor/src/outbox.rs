//! The durable list of notices that are to be delivered.
//!
//! A notice enters once under its id, however often a replay makes it again, and leaves only by age
//! after it was delivered. Delivery is at least once with a stable id; per target and alert the end is
//! sent only after the begin was accepted.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use eventlog::Log;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use views::Views;
use views::model::{Notification, Time};

use crate::core::Notice;
use crate::runtime::Clock;
use crate::webhook::{Outcome, Sender, Target};

/// Delivered rows kept for the delivery log.
const DELIVERED_MAX: usize = 2000;
/// After this long without success a notice is given up (microseconds): a day.
const GIVE_UP: i64 = 86_400_000_000;
/// Deliveries under way at once, per target.
const IN_FLIGHT_MAX: usize = 8;

/// Where a notice is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Queued,
    Delivered,
    Failed,
}

/// One notice for one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    /// `<alert id>:raised|cleared`.
    notice: String,
    alert: String,
    kind: String,
    target: String,
    body: String,
    /// For the order of delivery: ingest time at which the episode was learned; its end is one later.
    made: i64,
    /// Ingest time of the record that caused it.
    at: i64,
    /// When it was first tried.
    since: Option<i64>,
    state: State,
    attempts: u32,
    last_attempt: Option<i64>,
    status: Option<u16>,
    error: Option<String>,
    /// Not before this time.
    due: i64,
}

impl Row {
    fn model(&self) -> Notification {
        Notification {
            id: self.notice.clone(),
            alert: self.alert.clone(),
            target: self.target.clone(),
            kind: self.kind.clone(),
            attempts: self.attempts,
            state: match self.state {
                State::Queued => "queued",
                State::Delivered => "delivered",
                State::Failed => "failed",
            }
            .to_owned(),
            last_attempt: self.last_attempt.map(Time),
            status: self.status,
            error: self.error.clone(),
        }
    }
}

/// (time made, notice, target): the order of delivery.
type Place = (i64, String, String);

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Place, Row>,
    known: HashSet<Vec<u8>>,
}

/// A handle of the outbox; clones are the same outbox.
#[derive(Clone)]
pub struct Outbox {
    log: Log,
    views: Arc<Views>,
    targets: Arc<Vec<Target>>,
    inner: Arc<Mutex<Inner>>,
    news: Arc<Notify>,
    /// For each partition the ingest time of its newest checkpoint: a replay makes no notice older than that.
    saved: Arc<Vec<AtomicI64>>,
}

fn key(target: &str, notice: &str) -> Vec<u8> {
    format!("{target}\0{notice}").into_bytes()
}

impl Outbox {
    /// Reads what is there.
    ///
    /// **Errors**: the state file cannot be read.
    pub fn open(log: &Log, views: &Arc<Views>, targets: Vec<Target>) -> anyhow::Result<Self> {
        let mut inner = Inner::default();
        for (key, value) in log.outbox_all()? {
            let row: Row = serde_json::from_slice(&value).with_context(|| {
                format!(
                    "outbox row {:?} does not decode",
                    String::from_utf8_lossy(&key)
                )
            })?;
            inner.known.insert(key);
            inner
                .rows
                .insert((row.made, row.notice.clone(), row.target.clone()), row);
        }
        for row in inner.rows.values() {
            views.put_notification(row.model());
        }
        Ok(Self {
            log: log.clone(),
            views: views.clone(),
            targets: Arc::new(targets),
            inner: Arc::new(Mutex::new(inner)),
            news: Arc::new(Notify::new()),
            saved: Arc::new(
                (0..log.partitions())
                    .map(|_| AtomicI64::new(i64::MIN))
                    .collect(),
            ),
        })
    }

    /// Notes that a partition's state as of `ingest` is saved.
    pub(crate) fn note_saved(&self, partition: u16, ingest: i64) {
        self.saved[usize::from(partition)].store(ingest, Ordering::Release);
    }

    /// Adds notices for every target. When this returns they are durable; known ones are left alone.
    ///
    /// **Errors**: the state file cannot be written.
    pub fn put(&self, notices: &[Notice]) -> anyhow::Result<()> {
        if notices.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::new();
        {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            for notice in notices {
                for target in self.targets.iter() {
                    let key = key(&target.name, &notice.id);
                    if !inner.known.contains(&key) {
                        rows.push((key, self.row(notice, target)));
                    }
                }
            }
        }
        let encoded: Vec<(Vec<u8>, Vec<u8>)> = rows
            .iter()
            .map(|(key, row)| Ok((key.clone(), serde_json::to_vec(row)?)))
            .collect::<anyhow::Result<_>>()?;
        self.log
            .outbox_put(&encoded)
            .context("failed to save notices in the outbox")?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in rows {
            if inner.known.insert(key) {
                self.views.put_notification(row.model());
                inner
                    .rows
                    .insert((row.made, row.notice.clone(), row.target.clone()), row);
            }
        }
        drop(inner);
        self.news.notify_one();
        Ok(())
    }

    fn row(&self, notice: &Notice, target: &Target) -> Row {
        let made = match notice.kind {
            crate::core::NoticeKind::Raised => notice.alert.reported.0,
            // Behind its begin, whatever its event time says.
            crate::core::NoticeKind::Revised => notice.alert.reported.0 + 1,
            crate::core::NoticeKind::Cleared => notice.alert.reported.0 + 2,
        };
        Row {
            notice: notice.id.clone(),
            alert: notice.alert.id.clone(),
            kind: notice.kind.as_str().to_owned(),
            target: target.name.clone(),
            body: crate::webhook::body(notice),
            made,
            at: notice.at,
            since: None,
            state: State::Queued,
            attempts: 0,
            last_attempt: None,
            status: None,
            error: None,
            due: 0,
        }
    }

    /// Delivers until `stop`. The task ends when deliveries under way have ended.
    ///
    /// **Errors**: a target that cannot be used.
    pub fn deliver(
        &self,
        clock: Clock,
        stop: CancellationToken,
    ) -> anyhow::Result<tokio::task::JoinHandle<()>> {
        let mut senders = BTreeMap::new();
        for target in self.targets.iter() {
            senders.insert(target.name.clone(), Arc::new(Sender::new(target)?));
        }
        let outbox = self.clone();
        Ok(tokio::spawn(async move {
            outbox.run(senders, clock, stop).await
        }))
    }

    async fn run(
        self,
        senders: BTreeMap<String, Arc<Sender>>,
        clock: Clock,
        stop: CancellationToken,
    ) {
        let mut under_way = tokio::task::JoinSet::new();
        let mut busy: HashSet<Place> = HashSet::new();
        loop {
            let now = clock();
            let (start, wake) = self.due(now, &busy, &senders);
            for (place, row) in start {
                let Some(sender) = senders.get(&row.target).cloned() else {
                    continue;
                };
                busy.insert(place.clone());
                let clock = clock.clone();
                under_way.spawn(async move {
                    let outcome = sender.send(&row.notice, clock(), row.body.as_bytes()).await;
                    (place, outcome)
                });
            }
            let sleep =
                std::time::Duration::from_micros((wake - now).clamp(10_000, 60_000_000) as u64);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.news.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                Some(done) = under_way.join_next() => {
                    if let Ok((place, outcome)) = done {
                        busy.remove(&place);
                        self.finish(&place, &outcome, clock()).await;
                    }
                }
            }
        }
        // What has left is waited for, so that its outcome is written down and it is not sent again.
        while let Some(done) = under_way.join_next().await {
            if let Ok((place, outcome)) = done {
                self.finish(&place, &outcome, clock()).await;
            }
        }
    }

    /// What to send now, and when to look again.
    fn due(
        &self,
        now: i64,
        busy: &HashSet<Place>,
        senders: &BTreeMap<String, Arc<Sender>>,
    ) -> (Vec<(Place, Row)>, i64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut start = Vec::new();
        let mut wake = now + 60_000_000;
        // (target, alert) with something earlier that is not done yet.
        let mut blocked: HashSet<(&str, &str)> = HashSet::new();
        let mut in_flight: BTreeMap<&str, usize> = BTreeMap::new();
        for place in busy {
            *in_flight.entry(place.2.as_str()).or_default() += 1;
        }
        for (place, row) in &inner.rows {
            if row.state != State::Queued || !senders.contains_key(&row.target) {
                continue;
            }
            if !blocked.insert((&row.target, &row.alert)) || busy.contains(place) {
                continue;
            }
            let flying = in_flight.entry(&row.target).or_default();
            if *flying >= IN_FLIGHT_MAX {
                continue;
            }
            if row.due <= now {
                *flying += 1;
                start.push((place.clone(), row.clone()));
            } else {
                wake = wake.min(row.due);
            }
        }
        (start, wake)
    }

    async fn finish(&self, place: &Place, outcome: &Outcome, now: i64) {
        let row = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(row) = inner.rows.get_mut(place) else {
                return;
            };
            row.attempts += 1;
            let age = now - *row.since.get_or_insert(now);
            row.last_attempt = Some(now);
            row.status = outcome.status;
            row.error = outcome.error.clone();
            if outcome.delivered {
                row.state = State::Delivered;
            } else if outcome.gone || age > GIVE_UP {
                row.state = State::Failed;
            } else {
                row.due = now + backoff(row.attempts, age, outcome.retry_after, now);
            }
            row.clone()
        };
        self.views.put_notification(row.model());
        let metric = match row.state {
            State::Delivered => "delivered",
            State::Failed => "failed",
            State::Queued => "retry",
        };
        metrics::counter!("tidewatch_notifications_total", "integration" => "webhook", "result" => metric)
            .increment(1);
        if !outcome.delivered {
            let error = outcome.error.as_deref().unwrap_or("no reason given");
            tracing::warn!(
                notice = row.notice,
                target = row.target,
                "failed to deliver: {error}"
            );
        }
        let (log, outbox, key) = (
            self.log.clone(),
            self.clone(),
            key(&row.target, &row.notice),
        );
        let saved = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            log.outbox_update(&key, &serde_json::to_vec(&row)?)?;
            outbox.forget_old()
        })
        .await;
        match saved {
            Ok(Ok(())) => {}
            // It may be sent again after a restart, under the same id.
            Ok(Err(error)) => {
                tracing::error!("failed to save the outcome of a delivery: {error:#}")
            }
            Err(error) => tracing::error!("failed to save the outcome of a delivery: {error}"),
        }
    }

    /// Forgets the oldest finished rows beyond the limit, but none that a replay could make again.
    fn forget_old(&self) -> anyhow::Result<()> {
        let saved = self
            .saved
            .iter()
            .map(|t| t.load(Ordering::Acquire))
            .min()
            .unwrap_or(i64::MIN);
        let mut old = Vec::new();
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let finished: Vec<Place> = inner
                .rows
                .iter()
                .filter(|(_, r)| r.state != State::Queued && r.at < saved)
                .map(|(place, _)| place.clone())
                .collect();
            for place in finished
                .iter()
                .take(finished.len().saturating_sub(DELIVERED_MAX))
            {
                if let Some(row) = inner.rows.remove(place) {
                    let key = key(&row.target, &row.notice);
                    inner.known.remove(&key);
                    old.push(key);
                }
            }
        }
        for key in old {
            self.log.outbox_delete(&key)?;
        }
        Ok(())
    }
}

/// Wait before the next try, microseconds: fast for ten minutes, then slowly; never before what the
/// receiver asked for. The jitter comes from the clock's last digits: enough to spread retries.
fn backoff(attempts: u32, age: i64, retry_after: Option<i64>, now: i64) -> i64 {
    let base = if age < 600_000_000 {
        (1_000_000i64 << attempts.min(5).saturating_sub(1)).min(30_000_000)
    } else {
        300_000_000
    };
    let jitter = base / 5 * (now.rem_euclid(1000)) / 1000;
    (base + jitter).max(retry_after.unwrap_or(0).min(3_600_000_000))
}
