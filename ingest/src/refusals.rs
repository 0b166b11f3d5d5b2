//! What was refused, as records in the log: counted together, so that a broken device that sends a
//! thousand times a second costs one record per interval.
//!
//! The first refusal of a (source, claim, reason) is written at once; those that follow are counted and
//! written once per interval. Refusals are not data: a crash may lose the counts of the last interval.
//!
//! What is written is said in the server's log too, a few lines per interval, so that who looks there
//! sees why data does not arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use event::{AgentId, Record, RefusalReason, Refused, slot};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::Append;
use crate::broker::EarlyRefusal;
use crate::meters::Meters;

const SOURCE_CHARS_MAX: usize = 128;
const MESSAGE_CHARS_MAX: usize = 256;
/// The source under which everything beyond `keys_max` is counted.
const OTHERS: &str = "(others)";
/// Lines in the server's log per interval.
const LINES_MAX: u32 = 20;
/// Pause after a round of writing, so that many new keys make few appends.
const PAUSE: Duration = Duration::from_millis(20);

/// Collects refusals and writes them.
pub struct Refusals {
    entries: Mutex<HashMap<Key, Entry>>,
    lines: Mutex<Lines>,
    fresh: Notify,
    keys_max: usize,
    interval: Duration,
    meters: Arc<Meters>,
}

/// Source, claim, reason.
type Key = (Arc<str>, Option<Arc<str>>, RefusalReason);

struct Entry {
    agent: Option<AgentId>,
    message: String,
    count: u32,
    bytes: u64,
    written: Option<Instant>,
}

impl Refusals {
    /// Keeps at most `keys_max` (source, claim, reason) apart and writes each at most once per
    /// `interval`.
    pub fn new(keys_max: usize, interval: Duration, meters: Arc<Meters>) -> Self {
        Self {
            entries: Mutex::default(),
            lines: Mutex::default(),
            fresh: Notify::new(),
            keys_max,
            interval,
            meters,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a refusal that stands for `count` messages or fields.
    pub fn note(&self, refusal: EarlyRefusal, count: u32) {
        self.meters.refused_by(refusal.reason, count);
        let mut entries = self.lock();
        let mut key = (refusal.source, refusal.claim, refusal.reason);
        let mut agent = refusal.agent;
        if entries.len() >= self.keys_max && !entries.contains_key(&key) {
            key.0 = OTHERS.into();
            key.1 = None;
            agent = None;
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            agent: None,
            message: String::new(),
            count: 0,
            bytes: 0,
            written: None,
        });
        if entry.count == 0 {
            // The first one of an interval is the example for the others.
            entry.agent = agent;
            entry.message = refusal.message.chars().take(MESSAGE_CHARS_MAX).collect();
        }
        entry.count = entry.count.saturating_add(count);
        entry.bytes = entry.bytes.saturating_add(refusal.bytes);
        if entry.written.is_none() {
            self.fresh.notify_one();
        }
    }

    /// Writes refusals until `stop`, then what is left.
    pub async fn run(&self, log: &dyn Append, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.fresh.notified() => {}
                () = tokio::time::sleep(self.interval / 2) => {}
            }
            self.write(log, false).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        self.write(log, true).await;
    }

    /// Says what is due in the server's log, as far as the interval has lines left.
    fn say(&self, due: &[(Key, Refused, u32, u64)], now: Instant) {
        for (_, record, _, _) in due {
            let said = {
                let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.next(now, self.interval)
            };
            if let Some(hidden) = said.hidden {
                tracing::warn!(hidden, "more refusals than are shown here");
            }
            if said.shown {
                tracing::warn!(
                    source = record.source,
                    agent = record.agent.as_ref().map(AgentId::as_str),
                    reason = record.reason.as_str(),
                    count = record.count,
                    "refused: {}",
                    record.message
                );
            }
        }
    }

    /// Writes what is due (or everything). What the log does not take is kept for the next round.
    async fn write(&self, log: &dyn Append, all: bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        self.lock().retain(|key, entry| {
            let ripe = entry.written.is_none_or(|at| now >= at + self.interval);
            if entry.count > 0 && (ripe || all) {
                due.push((key.clone(), entry.record(key), entry.count, entry.bytes));
                entry.written = Some(now);
                entry.count = 0;
                entry.bytes = 0;
            }
            // A key without news for a whole interval is forgotten.
            entry.count > 0 || !ripe || entry.written == Some(now)
        });
        self.say(&due, now);
        let mut appends = Vec::with_capacity(due.len());
        for (key, record, count, bytes) in due {
            let home = record
                .agent
                .as_ref()
                .map_or(&record.source as &str, AgentId::as_str);
            let partition = slot::partition(slot::of(home), log.partitions());
            let encoded = Bytes::from(Record::Refused(record.clone()).encode());
            appends.push((key, count, bytes, log.try_append(partition, vec![encoded])));
        }
        for (key, count, bytes, append) in appends {
            let failed = match append {
                Ok(pending) => pending.await.is_err(),
                Err(_) => true,
            };
            if failed && let Some(entry) = self.lock().get_mut(&key) {
                entry.count = entry.count.saturating_add(count);
                entry.bytes = entry.bytes.saturating_add(bytes);
            }
        }
    }
}

/// How many lines the running interval has.
#[derive(Default)]
struct Lines {
    since: Option<Instant>,
    count: u32,
}

struct Said {
    shown: bool,
    /// So many of the interval before were not shown.
    hidden: Option<u32>,
}

impl Lines {
    fn next(&mut self, now: Instant, interval: Duration) -> Said {
        let mut hidden = None;
        if self.since.is_none_or(|since| now >= since + interval) {
            let over = self.count.saturating_sub(LINES_MAX);
            hidden = (over > 0).then_some(over);
            *self = Self {
                since: Some(now),
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        Said {
            shown: self.count <= LINES_MAX,
            hidden,
        }
    }
}

impl Entry {
    fn record(&self, (source, _, reason): &Key) -> Refused {
        Refused {
            source: source.chars().take(SOURCE_CHARS_MAX).collect(),
            agent: self.agent.clone(),
            reason: *reason,
            message: self.message.clone(),
            count: self.count,
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use event::RecordRef;
    use eventlog::{Appended, Error, Offset};

    use super::*;
    use crate::append::Appending;

    /// Remembers what was appended, or refuses it.
    #[derive(Default)]
    struct Memory {
        records: StdMutex<Vec<Refused>>,
        broken: StdMutex<bool>,
    }

    impl Append for Memory {
        fn partitions(&self) -> u16 {
            4
        }

        fn last_ingest_time(&self, _: u16) -> Option<i64> {
            None
        }

        fn try_append(&self, _: u16, records: Vec<Bytes>) -> Result<Appending, Error> {
            if *self.broken.lock().unwrap() {
                return Ok(Box::pin(std::future::ready(Err(Error::Closed))));
            }
            for record in &records {
                match RecordRef::decode(record) {
                    Ok(RecordRef::Other(Record::Refused(r))) => {
                        self.records.lock().unwrap().push(r);
                    }
                    other => panic!("{other:?}"),
                }
            }
            let appended = Appended {
                first: Offset(0),
                count: records.len() as u32,
                ingest_time: 0,
            };
            Ok(Box::pin(std::future::ready(Ok(appended))))
        }
    }

    fn refusal(source: &str, message: &str) -> EarlyRefusal {
        EarlyRefusal {
            source: source.into(),
            claim: None,
            agent: None,
            reason: RefusalReason::Checksum,
            message: message.into(),
            bytes: 10,
        }
    }

    fn counts(log: &Memory) -> Vec<(String, u32, u64)> {
        let records = log.records.lock().unwrap();
        let mut all: Vec<_> = records
            .iter()
            .map(|r| (r.source.clone(), r.count, r.bytes))
            .collect();
        all.sort();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_written_once_per_interval() {
        let refusals = Refusals::new(10, Duration::from_secs(10), Arc::new(Meters::new()));
        let log = Memory::default();
        refusals.note(refusal("a", "first"), 1);
        refusals.write(&log, false).await;
        for _ in 0..1000 {
            refusals.note(refusal("a", "more"), 1);
            refusals.write(&log, false).await;
        }
        assert_eq!(counts(&log), [("a".to_owned(), 1, 10)]);
        tokio::time::advance(Duration::from_secs(10)).await;
        refusals.write(&log, false).await;
        assert_eq!(
            counts(&log),
            [("a".to_owned(), 1, 10), ("a".to_owned(), 1000, 10_000)]
        );
        // Without news it is forgotten, and the next one is written at once again.
        tokio::time::advance(Duration::from_secs(10)).await;
        refusals.write(&log, false).await;
        assert!(refusals.lock().is_empty());
        refusals.note(refusal("a", "x"), 1);
        refusals.write(&log, false).await;
        assert_eq!(counts(&log).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_are_counted_together_and_none_is_lost() {
        let refusals = Refusals::new(10, Duration::from_secs(10), Arc::new(Meters::new()));
        let log = Memory::default();
        for i in 0..1000 {
            refusals.note(refusal(&format!("s{i}"), ""), 1);
        }
        assert!(refusals.lock().len() <= 11);
        refusals.write(&log, true).await;
        assert_eq!(counts(&log).iter().map(|c| c.1).sum::<u32>(), 1000);
        assert_eq!(counts(&log)[0], (OTHERS.to_owned(), 990, 9900));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_behind_one_address_are_told_apart() {
        let refusals = Refusals::new(10, Duration::from_secs(10), Arc::new(Meters::new()));
        let log = Memory::default();
        for name in ["one", "two"] {
            refusals.note(
                EarlyRefusal {
                    claim: Some(name.into()),
                    ..refusal("10.0.0.1", name)
                },
                1,
            );
        }
        refusals.write(&log, false).await;
        let records = log.records.lock().unwrap();
        let mut messages: Vec<&str> = records.iter().map(|r| r.message.as_str()).collect();
        messages.sort_unstable();
        assert_eq!(messages, ["one", "two"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_has_few_lines_and_says_how_many_it_left_out() {
        let (mut lines, second) = (Lines::default(), Duration::from_secs(1));
        let now = Instant::now();
        let shown = (0..100).filter(|_| lines.next(now, second).shown).count();
        assert_eq!(shown, LINES_MAX as usize);
        let said = lines.next(now + second, second);
        assert!(said.shown);
        assert_eq!(said.hidden, Some(100 - LINES_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_log_does_not_take_is_kept() {
        let refusals = Refusals::new(10, Duration::from_secs(10), Arc::new(Meters::new()));
        let log = Memory::default();
        *log.broken.lock().unwrap() = true;
        refusals.note(refusal("a", ""), 3);
        refusals.write(&log, false).await;
        *log.broken.lock().unwrap() = false;
        tokio::time::advance(Duration::from_secs(10)).await;
        refusals.write(&log, false).await;
        assert_eq!(counts(&log), [("a".to_owned(), 3, 10)]);
    }
}
