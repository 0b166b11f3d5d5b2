//! The truth: every event that an agent accepted, what the log says became of it, and what therefore every
//! window, ledger and alert must be. Written a second time and by the simplest means on purpose.

mod alerts;
mod check;
mod ledger;
mod members;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use event::{Incarnation, Sample, SeqRange, Value};
use rustc_hash::FxHashMap;

use crate::cloud::{Group, Row};
use crate::matrix::Fault;
use crate::scenario::{Declared, METRICS};

pub use ledger::Block;

use alerts::Episodes;
use windows::{TIERS, Windows};

/// The number of the attribute `rack`, which is in no group.
const RACK: u8 = METRICS as u8 + 1;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Measured {
    Number(f64),
    Bool(bool),
    Text,
    /// The attribute `site` has this value.
    Site(u8),
}

impl Measured {
    fn of(value: &Value, is_site: bool) -> Self {
        match value {
            Value::Number(n) => Self::Number(*n),
            Value::Bool(b) => Self::Bool(*b),
            Value::Text(text) if is_site => {
                Self::Site(text.strip_prefix('s').map_or(0, |n| n.parse().unwrap_or(0)))
            }
            Value::Text(_) => Self::Text,
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(n),
            Self::Bool(b) => Some(f64::from(u8::from(b))),
            Self::Text | Self::Site(_) => None,
        }
    }
}

/// What has become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Held by its agent, or on its way.
    Pending,
    Counted,
    /// Its time is implausible, or its identity ambiguous.
    Quarantined,
    /// Older than everything that is kept.
    TooOld,
    /// Declared lost, and never seen.
    Lost,
}

/// An event that an agent accepted (A1).
#[derive(Debug, Clone, Copy)]
struct Made {
    device: u16,
    /// Its metric; [`METRICS`] = the attribute `site`.
    metric: u8,
    time: i64,
    value: Measured,
    fate: Fate,
    /// It came from beyond the end of a closed life and was set aside, whatever became of it then.
    aside: bool,
}

/// An agent's id, however many machines run under it.
#[derive(Debug, Default)]
struct Agent {
    /// Its disk was rolled back, cloned or lost at this time: what it promises is worth less from then on.
    suspect: Option<i64>,
    /// A clock of its machines was set back.
    set_back: bool,
    /// What happened to it.
    suspicions: Vec<Fault>,
    /// One of its devices.
    device: u16,
    /// Accepted, not counted, and promised not to be forgotten: (time, event).
    pending: BTreeSet<(i64, u32)>,
    /// No event before this will come, it said.
    promise: i64,
    /// Stretches in which it told of losses.
    losses: Vec<(i64, i64)>,
    incidents: u64,
    /// Lives that the log has heard of.
    heard: BTreeSet<Incarnation>,
    /// The newest watermark of each of its lives in the log.
    watermarks: BTreeMap<Incarnation, i64>,
    /// The newest transmission of each of its lives in the log, and its watermark.
    newest: BTreeMap<Incarnation, (u64, i64)>,
    /// It has no clock: its times are corrected when they arrive (P5).
    clockless: bool,
    /// Of its newest transmission: the number, and its clock minus ours.
    clock: (u64, i64),
    /// Times of samples that died in memory with a process.
    unsaved: Vec<i64>,
}

#[derive(Debug)]
struct Device {
    name: String,
    /// Whose it is.
    agent: u16,
    /// Newest attribute that was counted: (time, site).
    site: (i64, u8),
    /// Earliest counted event time.
    first: i64,
    /// Metrics of which some value was counted.
    metrics: [bool; METRICS],
    /// Earliest event time of all that was taken, attributes included.
    known: i64,
}

/// The ledger as it must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub accepted: u64,
    pub counted: u64,
    pub duplicate: u64,
    pub quarantined: u64,
    pub too_old: u64,
    pub refused: u64,
}

/// The truth.
#[derive(Default)]
pub struct Oracle {
    made: Vec<Made>,
    lives: FxHashMap<(u16, Incarnation), Vec<u32>>,
    /// How many events there were when a transmission left.
    sent: FxHashMap<(u16, Incarnation, u64), u32>,
    agents: Vec<Agent>,
    devices: Vec<Device>,
    numbers: BTreeMap<String, u16>,
    windows: Windows,
    episodes: Episodes,
    declared: Declared,
    ledger: Ledger,
    /// What is kept of each aggregate, and the newest counted event time it is counted back from.
    horizons: BTreeMap<usize, [i64; TIERS]>,
    newest: Option<i64>,
    /// (day, device): events older than everything that is kept.
    too_old: BTreeMap<(i64, u16), u64>,
    /// The newest row of each window that the processor gave out.
    rows: FxHashMap<(usize, u32, i64), Row>,
    groups: FxHashMap<(usize, u32), Group>,
    /// Set aside and not released.
    held: BTreeSet<u64>,
    /// Devices that were taken out of service, and where they were expected.
    retired: Vec<members::Retired>,
    /// Events that were found missing and excused, and why.
    pub(crate) excused: BTreeMap<&'static str, u64>,
    columns: event::Columns,
}

impl Oracle {
    /// Makes an agent (or a plain device as its own agent) known.
    pub fn add_agent(&mut self) -> u16 {
        self.agents.push(Agent {
            promise: i64::MIN,
            ..Agent::default()
        });
        self.agents.len() as u16 - 1
    }

    /// Makes a device known.
    pub fn add_device(&mut self, name: &str, agent: u16) {
        let number = self.devices.len() as u16;
        self.agents[agent as usize].device = number;
        self.numbers.insert(name.to_owned(), number);
        self.devices.push(Device {
            name: name.to_owned(),
            agent,
            site: (i64::MIN, 0),
            first: i64::MAX,
            metrics: [false; METRICS],
            known: i64::MAX,
        });
    }

    /// How many events were accepted.
    pub fn made(&self) -> usize {
        self.made.len()
    }

    /// An agent has accepted these events.
    ///
    /// **Errors**: their numbers do not follow on those before.
    pub fn accept(
        &mut self,
        agent: u16,
        range: SeqRange,
        samples: &[Sample],
    ) -> Result<(), String> {
        let life = self.lives.entry((agent, range.incarnation)).or_default();
        if life.len() as u64 + 1 != range.first
            || range.last + 1 - range.first != samples.len() as u64
        {
            return Err(format!(
                "agent {agent} gave {} events the numbers {range:?} after {}",
                samples.len(),
                life.len()
            ));
        }
        let truth = &mut self.agents[agent as usize];
        for sample in samples {
            let id = self.made.len() as u32;
            let Some(made) = made(&self.numbers, sample) else {
                return Err(format!("no such series: {sample:?}"));
            };
            if truth.suspect.is_none() && !truth.clockless && made.time >= truth.promise {
                truth.pending.insert((made.time, id));
            }
            self.made.push(made);
            life.push(id);
        }
        Ok(())
    }

    /// The agent has no clock; it lives only once.
    pub fn correct(&mut self, agent: u16) {
        self.agents[agent as usize].clockless = true;
    }

    /// Whether a life has accepted anything.
    pub fn has_stored(&self, agent: u16, life: Incarnation) -> bool {
        let life = self.lives.get(&(agent, life));
        life.is_some_and(|l| !l.is_empty())
    }

    /// Samples of these times died in memory with a process: its successor must tell of that stretch.
    pub fn unsaved(&mut self, agent: u16, times: &[i64]) {
        self.agents[agent as usize].unsaved.extend_from_slice(times);
    }

    /// A transmission leaves.
    pub fn sent(&mut self, agent: u16, life: Incarnation, tx_no: u64) {
        self.sent
            .insert((agent, life, tx_no), self.made.len() as u32);
    }

    /// The clock of one of the agent's machines was set back.
    pub fn set_back(&mut self, agent: u16) {
        self.agents[usize::from(agent)].set_back = true;
    }

    /// The disk of an agent is rolled back, cloned or lost.
    pub fn suspect(&mut self, agent: u16, now: i64, fault: Fault) {
        let truth = &mut self.agents[agent as usize];
        truth.suspicions.push(fault);
        truth.suspect.get_or_insert(now);
        truth.pending.clear();
    }

    /// Whether a batch may be taken in more than one way, so that it must stand alone in its block: its
    /// agent's identity is in doubt, or it brings what was declared lost.
    pub fn is_special(&self, agent: u16, range: Option<SeqRange>) -> bool {
        let Some(range) = range else { return false };
        if self.agents[agent as usize].suspect.is_some() {
            return true;
        }
        let life = self.lives.get(&(agent, range.incarnation));
        let events = life.and_then(|l| l.get(range.first as usize - 1..range.last as usize));
        events.is_some_and(|ids| {
            ids.iter()
                .any(|id| self.made[*id as usize].fate == Fate::Lost)
        })
    }

    /// The newest watermark of a life of an agent in the log.
    pub fn watermark(&self, agent: u16, life: Option<&Incarnation>) -> i64 {
        let watermarks = &self.agents[agent as usize].watermarks;
        life.and_then(|l| watermarks.get(l))
            .copied()
            .unwrap_or(i64::MIN)
    }
}

fn made(numbers: &BTreeMap<String, u16>, sample: &Sample) -> Option<Made> {
    let metric = metric(sample.metric.as_str())?;
    Some(Made {
        device: *numbers.get(sample.device.as_str())?,
        metric,
        time: sample.time.as_micros(),
        value: Measured::of(&sample.value, metric as usize == METRICS),
        fate: Fate::Pending,
        aside: false,
    })
}

/// The number of a metric by its name.
fn metric(name: &str) -> Option<u8> {
    match name.as_bytes() {
        b"@site" => Some(METRICS as u8),
        b"@rack" => Some(RACK),
        [b'm', n] => Some(n - b'0'),
        _ => None,
    }
}
