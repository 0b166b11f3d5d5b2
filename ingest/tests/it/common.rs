//! A running ingest over a log in a temporary folder, and what the tests want to know of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use event::{
    AgentId, BatchHeader, ClockState, DeviceId, EventTime, Held, Incarnation, MetricName, Record,
    RecordRef, Refused, Sample, Value, slot,
};
use eventlog::{Clock, Log, Offset, PartitionId};
use ingest::{Append, Downlink, Ingest, Settings};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; a test that needs it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const PARTITIONS: u16 = 4;

pub struct System {
    pub addr: SocketAddr,
    pub log: Log,
    pub downlink: Downlink,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    pub dir: TempDir,
}

pub fn clock() -> Clock {
    Arc::new(|| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        now.as_micros() as i64
    })
}

/// Settings for tests: a free port and short times.
pub fn settings() -> Settings {
    let mut settings = Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        refusal_interval_ms: 50,
        ..Settings::default()
    };
    settings.front.log_failure_grace_ms = 50;
    settings
}

pub fn open_log(dir: &TempDir) -> Log {
    let settings = eventlog::Settings {
        partitions: PARTITIONS,
        ..eventlog::Settings::default()
    };
    Log::open(dir.path(), settings, clock()).unwrap()
}

pub async fn start(settings: Settings) -> System {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    start_on(settings, dir, log.clone(), Arc::new(log)).await
}

pub async fn start_on(
    settings: Settings,
    dir: TempDir,
    log: Log,
    append: Arc<dyn Append>,
) -> System {
    let auth = ingest::auth::from_settings(&settings.auth);
    let ingest = Ingest::bind_to(settings, append, auth, clock())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let addr = ingest
        .local_addr()
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let downlink = ingest.downlink();
    let task = tokio::spawn(ingest.run(stop.clone()));
    System {
        addr,
        log,
        downlink,
        stop,
        task,
        dir,
    }
}

impl System {
    /// Stops ingest and closes the log; returns its folder.
    pub async fn stop(self) -> TempDir {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("stops in time")
            .unwrap()
            .unwrap();
        tokio::task::spawn_blocking(move || self.log.close())
            .await
            .unwrap();
        self.dir
    }

    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// All records but ticks, partition by partition.
    pub fn records(&self) -> Vec<Record> {
        records(&self.log)
    }

    pub fn refusals(&self) -> Vec<Refused> {
        let refused = |r| match r {
            Record::Refused(r) => Some(r),
            _ => None,
        };
        self.records().into_iter().filter_map(refused).collect()
    }

    /// Waits until `found` finds something in the log.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&[Record]) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let records = self.records();
            if let Some(t) = found(&records) {
                return t;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {what} in {records:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a refusal with this reason.
    pub async fn refusal(&self, reason: event::RefusalReason) -> Refused {
        self.until(reason.as_str(), |records| {
            records.iter().find_map(|r| match r {
                Record::Refused(r) if r.reason == reason => Some(r.clone()),
                _ => None,
            })
        })
        .await
    }
}

pub fn records(log: &Log) -> Vec<Record> {
    let mut all = Vec::new();
    for p in 0..log.partitions() {
        let p = PartitionId(p);
        let mut from = log.first(p);
        while from < log.end(p) {
            for block in log.read(p, from, 1 << 20).unwrap() {
                for record in &block.records {
                    match RecordRef::decode(record).unwrap() {
                        RecordRef::Batch(raw) => all.push(Record::Batch(raw.to_vec())),
                        RecordRef::Other(Record::Tick) => {}
                        RecordRef::Other(r) => all.push(r),
                    }
                }
                from = Offset(block.first.0 + block.records.len() as u64);
            }
        }
    }
    all
}

pub fn agent(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

pub fn partition_of(name: &str) -> u16 {
    slot::partition(slot::of(name), PARTITIONS)
}

/// A batch of `count` temperatures of one device behind `agent`.
pub fn batch(agent: &str, tx_no: u64, first_seq: u64, count: u32) -> Vec<u8> {
    let inc = Incarnation { no: 1, rand: 7 };
    let header = BatchHeader {
        agent: self::agent(agent),
        incarnation: inc,
        tx_no,
        sent_at: EventTime(1_800_000_000_000_000),
        boottime_us: 1,
        clock: ClockState::default(),
        e_inc: inc,
        first_seq,
        count,
        low_watermark: EventTime(1_800_000_000_000_000),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    };
    let samples: Vec<Sample> = (0..count)
        .map(|i| Sample {
            device: DeviceId::new("d-1").unwrap(),
            metric: MetricName::new("temperature").unwrap(),
            time: EventTime(1_800_000_000_000_000 + i64::from(i) * 1_000_000),
            value: Value::Number(20.0 + f64::from(i % 10) / 10.0),
        })
        .collect();
    event::batch::encode(&header, &samples).unwrap()
}
