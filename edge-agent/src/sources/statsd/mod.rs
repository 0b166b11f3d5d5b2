//! StatsD: many small packets in, one reading for each metric and interval out.
//!
//! | sent | reported at the end of the interval |
//! |---|---|
//! | counter `c` | the sum of the interval, each value divided by its sample rate |
//! | gauge `g` | the last value, if there was one in the interval |
//! | timer `ms`, histogram `h`, distribution `d` | `.count`, `.min`, `.max`, `.mean` |
//! | set `s` | `.distinct`: how many different members |
//!
//! A metric about which nothing was said reports nothing.

mod parse;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use event::{DeviceId, MetricName, Value, id::NAME_BYTES_MAX};

use self::parse::Change;
use super::Mapping;
use super::decode::Decoded;
use super::tags::{TagRules, Tags};
use crate::inbox::Reading;

/// Most metrics of all devices together: with the longest names a few megabytes.
const METRICS_MAX: usize = 8192;
/// Most members of all sets together in one interval: about a megabyte.
const MEMBERS_MAX: usize = 65_536;
/// A gauge is forgotten when nothing was said about it for so many intervals. Until then `+` and `-`
/// go on from its value.
const IDLE_INTERVALS_MAX: u32 = 8640;

/// How packets are to be understood.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What tags mean.
    pub tags: TagRules,
    /// Metrics to take, to leave out and to call otherwise, by the name in the packet.
    pub mapping: Mapping,
    /// Time between two reports.
    pub interval: Duration,
}

/// What one metric has gathered.
#[derive(Debug)]
enum Gathered {
    Counter(f64),
    Gauge {
        value: f64,
        said: bool,
        idle: u32,
    },
    Timer(Timer),
    /// Hashes of the members.
    Set(HashSet<u64>),
}

impl Gathered {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "a counter",
            Self::Gauge { .. } => "a gauge",
            Self::Timer(_) => "a timer",
            Self::Set(_) => "a set",
        }
    }
}

#[derive(Debug, Default)]
struct Timer {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
}

/// Gathers what packets say. It knows no clock: who drives it says when an interval ends.
#[derive(Debug)]
pub(super) struct Aggregator {
    tags: Tags,
    mapping: Mapping,
    metrics: BTreeMap<(DeviceId, MetricName), Gathered>,
    members: usize,
    hasher: RandomState,
}

impl Aggregator {
    pub fn new(settings: Settings) -> Self {
        Self {
            tags: Tags::new(settings.tags),
            mapping: settings.mapping,
            metrics: BTreeMap::new(),
            members: 0,
            hasher: RandomState::new(),
        }
    }

    /// Takes the lines of a packet. Only attributes of devices are handed out at once.
    pub fn take(&mut self, packet: &[u8], out: &mut Decoded) {
        for (i, line) in packet.split(|b| *b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            out.lines += 1;
            if let Err(reason) = self.line(line, out) {
                out.refused.push((i as u64 + 1, reason));
            }
        }
    }

    fn line(&mut self, line: &[u8], out: &mut Decoded) -> Result<(), String> {
        let line = parse::line(line)?;
        let device = self.tags.device(&line.tags)?;
        let Some(metric) = self.mapping.metric(line.name) else {
            return Ok(());
        };
        let key = (device, metric);
        let full = self.metrics.len() >= METRICS_MAX && !self.metrics.contains_key(&key);
        if full {
            return Err(format!(
                "{}: {METRICS_MAX} other metrics are known already; send fewer different names",
                key.1
            ));
        }
        for change in &line.changes {
            self.change(&key, change)?;
        }
        self.tags
            .attributes(&key.0, None, &line.tags, &mut out.readings);
        Ok(())
    }

    fn change(&mut self, key: &(DeviceId, MetricName), change: &Change<'_>) -> Result<(), String> {
        let empty = || match change {
            Change::Count(_) => Gathered::Counter(0.0),
            Change::Set(_) | Change::Move(_) => Gathered::Gauge {
                value: 0.0,
                said: false,
                idle: 0,
            },
            Change::Observe(..) => Gathered::Timer(Timer {
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
                ..Timer::default()
            }),
            Change::Member(_) => Gathered::Set(HashSet::new()),
        };
        let gathered = self.metrics.entry(key.clone()).or_insert_with(empty);
        match (gathered, change) {
            (Gathered::Counter(sum), Change::Count(n)) => *sum += n,
            (Gathered::Gauge { value, said, .. }, Change::Set(n)) => (*value, *said) = (*n, true),
            (Gathered::Gauge { value, said, .. }, Change::Move(n)) => {
                (*value, *said) = (*value + n, true);
            }
            (Gathered::Timer(t), Change::Observe(n, weight)) => {
                t.count += weight;
                t.sum += n * weight;
                t.min = t.min.min(*n);
                t.max = t.max.max(*n);
            }
            (Gathered::Set(members), Change::Member(text)) => {
                let member = self.hasher.hash_one(text);
                if self.members < MEMBERS_MAX {
                    self.members += usize::from(members.insert(member));
                } else if !members.contains(&member) {
                    return Err(format!(
                        "{}: sets have {MEMBERS_MAX} members in this interval already; \
                         its count will be too small",
                        key.1
                    ));
                }
            }
            (gathered, _) => {
                return Err(format!(
                    "{} is {} already; one name can have one type only",
                    key.1,
                    gathered.kind()
                ));
            }
        }
        Ok(())
    }

    /// The interval has ended: what it has gathered, and a new one begins.
    pub fn flush(&mut self) -> Vec<Reading> {
        let mut readings = Vec::new();
        self.members = 0;
        self.metrics.retain(|(device, metric), gathered| {
            let mut push = |suffix: &str, n: f64| {
                if let Some(metric) = with_suffix(metric, suffix) {
                    readings.push(Reading {
                        device: device.clone(),
                        metric,
                        time: None,
                        value: Value::Number(n),
                    });
                }
            };
            match gathered {
                Gathered::Counter(sum) => push("", *sum),
                Gathered::Timer(t) => {
                    push(".count", t.count);
                    push(".min", t.min);
                    push(".max", t.max);
                    push(".mean", t.sum / t.count);
                }
                Gathered::Set(members) => push(".distinct", members.len() as f64),
                Gathered::Gauge { value, said, idle } => {
                    *idle = if *said { 0 } else { *idle + 1 };
                    if std::mem::take(said) {
                        push("", *value);
                    }
                    return *idle < IDLE_INTERVALS_MAX;
                }
            }
            false
        });
        readings
    }
}

/// The name with its suffix; a name that is too long for both is cut before it.
fn with_suffix(metric: &MetricName, suffix: &str) -> Option<MetricName> {
    if suffix.is_empty() {
        return Some(metric.clone());
    }
    let room = NAME_BYTES_MAX.saturating_sub(suffix.len());
    let name = metric.as_str();
    let name = name.get(..room.min(name.len())).unwrap_or(name);
    MetricName::new(&format!("{name}{suffix}")).ok()
}

#[cfg(test)]
mod tests;
