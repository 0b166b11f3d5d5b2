//! What is asked, checked.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::ErrorKind;
use event::batch::{BYTES_MAX, EVENTS_MAX};
use event::time::SECOND;
use event::{AggregateSpec, Declaration, Function};

/// Batches that are kept back arrive up to so much later, seconds.
pub const LATE_MAX: i64 = 1800;
/// The fleet shows itself within so many seconds.
pub const REGISTER_SPAN: i64 = 60;
/// Most metrics of a device that the processor takes.
const METRICS_MAX: u64 = 1024;
/// Encoded bytes of an event that no batch of this fleet exceeds, device ids and attributes included.
const EVENT_BYTES_MAX: usize = 40;
/// The first measured second: 2023-11-15T06:00:00Z, seconds.
pub const START: i64 = 1_700_028_000;

#[derive(clap::Args)]
pub struct Args {
    /// Devices of the fleet
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    devices: u64,
    /// Events to measure; the run ends with the simulated second in which they are reached
    #[arg(long, value_name = "N", default_value_t = 40_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Sites; all devices of an agent belong to one
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    sites: u64,
    /// Metrics of a device
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=METRICS_MAX))]
    metrics: u64,
    /// Devices behind an agent
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    per_agent: u64,
    /// Simulated seconds between two values of a series
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(i64).range(1..=3600))]
    interval: i64,
    /// Values of each series that an agent sends in one batch
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch_rounds: u64,
    /// Share of batches that are kept back and come up to 30 minutes late, evenly spread
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = share)]
    late_share: f64,
    /// Share of batches that come a second time within a minute
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share)]
    repeat_share: f64,
    /// Windows of 60 s every 10 s instead of tumbling ones of 10 s
    #[arg(long)]
    hop: bool,
    /// Partitions that the one thread works on in turn
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    partitions: u16,
    /// Simulated seconds before the measured ones (a window that is not complete is open for 15 minutes)
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=86_400))]
    warmup: i64,
    /// Simulated seconds between two checkpoints of a partition
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=86_400))]
    checkpoint_every: i64,
    /// Where the temporary folder of the state store is made [default: the system's]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Also write every event (events.csv) and every window, hour and day that came of them (windows.csv)
    /// into this folder, for tests/oracle/duckdb_check.py. Windows then have sums too, and half-way through all
    /// partitions are saved and recovered
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

/// What is to be run. Times in microseconds unless they say otherwise.
#[derive(Debug, Clone)]
pub struct Plan {
    pub devices: u64,
    pub agents: u64,
    pub per_agent: u64,
    pub events: u64,
    pub sites: u64,
    pub metrics: u64,
    pub interval: i64,
    pub batch_rounds: u64,
    pub late_share: f64,
    pub repeat_share: f64,
    pub hop: bool,
    pub partitions: u16,
    /// Seconds.
    pub warmup: i64,
    pub checkpoint_every: i64,
    pub scratch: Option<PathBuf>,
    pub check: Option<PathBuf>,
}

impl Args {
    /// The plan.
    ///
    /// **Errors**: values that do not go together; the flag is named.
    pub fn plan(&self) -> Result<Plan, clap::Error> {
        let wrong = |message: String| {
            Err(clap::Error::raw(ErrorKind::ValueValidation, message + "\n")
                .with_cmd(&crate::Cli::command()))
        };
        if !self.devices.is_multiple_of(self.per_agent) {
            return wrong(format!(
                "--devices {} must be a multiple of --per-agent {}",
                self.devices, self.per_agent
            ));
        }
        if self.interval as u64 * self.batch_rounds > 86_400 {
            return wrong(format!(
                "--interval {} × --batch-rounds {} is more than a day",
                self.interval, self.batch_rounds
            ));
        }
        let size = self.per_agent * (self.metrics * self.batch_rounds).max(self.metrics + 1);
        let most = EVENTS_MAX.min(BYTES_MAX / EVENT_BYTES_MAX) as u64;
        if size > most {
            return wrong(format!(
                "batches would have {size} events, more than {most}: --per-agent {} × --metrics {} × --batch-rounds {}",
                self.per_agent, self.metrics, self.batch_rounds
            ));
        }
        Ok(Plan {
            devices: self.devices,
            agents: self.devices / self.per_agent,
            per_agent: self.per_agent,
            events: self.events,
            sites: self.sites,
            metrics: self.metrics,
            interval: self.interval * SECOND,
            batch_rounds: self.batch_rounds,
            late_share: self.late_share,
            repeat_share: self.repeat_share,
            hop: self.hop,
            partitions: self.partitions,
            warmup: self.warmup,
            checkpoint_every: self.checkpoint_every * SECOND,
            scratch: self.scratch.clone(),
            check: self.check.clone(),
        })
    }
}

impl Plan {
    /// Between two batches of an agent.
    pub fn cycle(&self) -> i64 {
        self.interval * self.batch_rounds as i64
    }

    /// Events in a batch.
    pub fn batch_events(&self) -> u64 {
        self.per_agent * self.metrics * self.batch_rounds
    }

    /// Events with which an agent shows itself: the site and one value of each series of each device.
    pub fn first_events(&self) -> u64 {
        self.per_agent * (self.metrics + 1)
    }

    /// When registration begins, seconds: before the oldest event of any late batch.
    pub fn register_at(&self) -> i64 {
        let seconds = LATE_MAX + 2 * self.cycle() / SECOND + 2 * REGISTER_SPAN;
        START - (seconds + 59) / 60 * 60
    }

    /// The one aggregate and the one rule.
    pub fn declaration(&self) -> Declaration {
        let mut functions = BTreeSet::from([
            Function::Count,
            Function::Min,
            Function::Max,
            Function::DistinctDevices,
        ]);
        if self.check.is_some() {
            functions.insert(Function::Sum);
        }
        let aggregate = AggregateSpec {
            name: "by_site".to_owned(),
            metric: event::aggregate::ALL_METRICS.to_owned(),
            group_by: vec!["site".to_owned(), "metric".to_owned()],
            window: if self.hop { 60 } else { 10 } * SECOND,
            hop: 10 * SECOND,
            functions,
        };
        let rule = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75}"#;
        Declaration {
            aggregates: vec![aggregate],
            rules: vec![rule.to_owned()],
        }
    }
}
