//! The state of one partition and its `step`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use event::{
    AggregateSpec, Columns, Declaration, DecodeError, Record, RecordRef, RefusalReason, Value,
};
use rules::Rule;
use rustc_hash::FxHashMap;
use views::Group as GroupValues;
use views::model::{Incident, QuarantineItem, Time, Totals};

use super::agent::{Agent, Fresh};
use super::alerts::Alerts;
use super::count::{Origin, Scratch};
use super::effects::Effects;
use super::group::Group;
use super::registry::{AGENTS_MAX, Device, Index, SeriesState};
use super::window::Window;

/// Windows held per aggregate. Beyond it the oldest are forgotten, but never one whose deadline has not
/// passed for an hour; events for forgotten ones are too old.
pub(crate) const WINDOWS_MAX: usize = 500_000;
/// Recent points are kept for the first so many series of a partition.
pub(crate) const RECENT_SERIES_MAX: usize = 8192;
/// Recent points kept per series.
pub(crate) const RECENT_POINTS_MAX: usize = 120;

/// How large a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Agents, plain devices included.
    pub agents: usize,
    /// Devices.
    pub devices: usize,
    /// Series.
    pub series: usize,
    /// Windows held.
    pub windows: usize,
    /// Ranges of seqs held for dedup.
    pub seq_ranges: usize,
}

/// What is kept per declared aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) spec: AggregateSpec,
    /// Windows that start before this are forgotten.
    pub(crate) forgotten: i64,
    pub(crate) windows: usize,
}

/// The state of one partition. [`Partition::step`] is the only way in.
#[derive(Default)]
pub struct Partition {
    pub(crate) number: u16,
    /// Newest ingest time; `i64::MIN` before the first record.
    pub(crate) now: i64,
    /// Second of the newest flush.
    pub(crate) flushed: i64,
    /// Next record.
    pub(crate) offset: u64,
    /// Ingest time in which nothing could enter, so far.
    pub(crate) outage: i64,
    pub(crate) declaration: Declaration,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) agent_index: Index,
    pub(crate) plain_index: Index,
    pub(crate) devices: Vec<Device>,
    pub(crate) device_index: Index,
    pub(crate) metrics: Vec<Arc<str>>,
    pub(crate) metric_index: Index,
    pub(crate) series: Vec<SeriesState>,
    /// (device, metric) → series, only of devices with many.
    pub(crate) wide_series: FxHashMap<(u32, u32), u32>,
    pub(crate) groups: Vec<Group>,
    pub(crate) group_index: FxHashMap<(u32, GroupValues), u32>,
    /// A slab: freed cells are reused.
    pub(crate) windows: Vec<Window>,
    pub(crate) free: Vec<u32>,
    pub(crate) window_index: FxHashMap<(u32, i64), u32>,
    /// (aggregate, start, group) → cell.
    pub(crate) by_start: BTreeMap<(u32, i64, u32), u32>,
    /// Open windows by (end, group, start).
    pub(crate) open: BTreeSet<(i64, u32, i64)>,
    pub(crate) changed: Vec<u32>,
    pub(crate) unsaved: Vec<u32>,
    pub(crate) deleted: Vec<Vec<u8>>,
    pub(crate) alerts: Alerts,
    pub(crate) totals: Totals,
    pub(crate) reasons: BTreeMap<RefusalReason, u64>,
    pub(crate) incidents: u64,
    /// Whether the newest step ended with a flush.
    pub(crate) at_rest: bool,
    /// Whether completeness may have changed since the newest flush.
    pub(crate) dirty: bool,
    /// Not part of the state: what memory happens to hold of recent values.
    pub(crate) recent: Vec<VecDeque<(i64, Value)>>,
    pub(crate) scratch: Scratch,
}

impl Partition {
    /// An empty partition. Its first record should declare aggregates and rules.
    pub fn new(number: u16) -> Self {
        Self {
            number,
            now: i64::MIN,
            flushed: i64::MIN,
            ..Self::default()
        }
    }

    /// Next record that it expects.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The newest ingest time, microseconds; `i64::MIN` before the first record.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// What is declared.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Whether the newest step ended with a flush. Only then may the state be saved: completeness as of the
    /// flush decides how new windows begin, and a restored state knows it as of the snapshot.
    pub fn at_rest(&self) -> bool {
        self.at_rest
    }

    /// How large it is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            agents: self.agents.len(),
            devices: self.devices.len(),
            series: self.series.len(),
            windows: self.window_index.len(),
            seq_ranges: self.agents.iter().map(Agent::ranges).sum(),
        }
    }

    /// Takes one block: `records` begin at `offset` and entered the log at `ingest` (microseconds).
    /// Effects are added to `fx`. Once per second of ingest time, changed rows are emitted and windows
    /// settle.
    ///
    /// A record that does not decode is quarantined; the rest goes on.
    pub fn step<R: AsRef<[u8]>>(
        &mut self,
        offset: u64,
        ingest: i64,
        records: &[R],
        fx: &mut Effects,
    ) {
        debug_assert_eq!(offset, self.offset);
        self.now = ingest.max(self.now);
        for (i, record) in records.iter().enumerate() {
            self.offset = offset + i as u64 + 1;
            self.record(record.as_ref(), fx);
        }
        self.flush(fx);
    }

    fn record(&mut self, bytes: &[u8], fx: &mut Effects) {
        match RecordRef::decode(bytes) {
            Ok(RecordRef::Batch(raw)) => self.batch(raw, fx),
            Ok(RecordRef::Other(record)) => match record {
                Record::Plain(plain) => self.plain(&plain, fx),
                Record::Refused(refused) => {
                    self.totals.refused += u64::from(refused.count);
                    let item = QuarantineItem {
                        id: None,
                        time: Time(self.now),
                        kind: "refused",
                        source: Some(refused.source),
                        agent: refused.agent.map(|a| a.to_string()),
                        device: None,
                        metric: None,
                        event_time: None,
                        reason: refused.reason.as_str(),
                        message: refused.message,
                        count: u64::from(refused.count),
                    };
                    self.set_aside(refused.reason, item, fx);
                }
                Record::Status(status) => {
                    if let Some(number) = self.agent(status.agent.as_str(), false) {
                        let incarnation = status.status.incarnation.parse();
                        let agent = &mut self.agents[number as usize];
                        if incarnation.is_ok_and(|i| !agent.is_present(i)) {
                            return;
                        }
                        agent.online = Some(status.status.online);
                        self.contact(number);
                    }
                }
                Record::Tick => {}
                Record::AvailabilityGap { from, to } => {
                    self.outage += (to.as_micros() - from.as_micros()).max(0);
                }
                Record::Declare(declaration) => self.declare(declaration, fx),
                // Nobody writes these yet; until they are understood they are set aside, in sight.
                Record::SetAggregate(_)
                | Record::RemoveAggregate(_)
                | Record::SetRule(_)
                | Record::RemoveRule(_)
                | Record::SetDevice(_)
                | Record::Decommission(_)
                | Record::Release(_)
                | Record::Retain(_) => {
                    let found = bytes.first().copied().unwrap_or_default();
                    self.foreign(&DecodeError::UnknownVersion { found }, fx);
                }
                // `decode` never gives an owned batch.
                Record::Batch(_) => {}
            },
            Err(error) => self.foreign(&error, fx),
        }
        self.page(fx);
    }

    fn batch(&mut self, raw: &[u8], fx: &mut Effects) {
        let (header, body) = match event::batch::peek(raw) {
            Ok(parts) => parts,
            Err(error) => return self.foreign(&error, fx),
        };
        let count = u64::from(header.count);
        self.totals.accepted += count;
        let Some(number) = self.agent(header.agent.as_str(), false) else {
            return self.no_room(header.agent.as_str(), "agents", count, fx);
        };
        self.contact(number);
        let agent = &mut self.agents[number as usize];
        if let Some(last) = header.last_seq() {
            match agent.take_range(header.e_inc, header.first_seq, last) {
                Fresh::Ranges(fresh) => {
                    let new: u64 = fresh.iter().map(|(a, b)| b - a + 1).sum();
                    self.totals.duplicate += count - new;
                    if new > 0 {
                        let mut columns: Columns = std::mem::take(&mut self.scratch.columns);
                        match body.decode_into(&mut columns) {
                            Ok(()) => {
                                let origin = Origin {
                                    agent: number,
                                    first_seq: header.first_seq,
                                };
                                let all = new == count;
                                self.count_columns(&columns, &origin, (!all).then_some(&fresh), fx);
                            }
                            Err(e) => self.undecodable(&e, Some(header.agent.as_str()), new, fx),
                        }
                        self.scratch.columns = columns;
                    }
                }
                Fresh::Fork { last: end } => {
                    let old = (end + 1).saturating_sub(header.first_seq).min(count);
                    self.totals.duplicate += old;
                    let reason = RefusalReason::AmbiguousIdentity;
                    let message = format!(
                        "events beyond the end ({end}) of closed incarnation {}: the agent's disk was rolled back or cloned",
                        header.e_inc
                    );
                    self.quarantine(
                        reason,
                        Some(header.agent.as_str()),
                        message.clone(),
                        count - old,
                        fx,
                    );
                    self.incident(header.agent.as_str(), message, fx);
                }
                Fresh::NoRoom => {
                    let what = "incarnations or holes in the numbering of this agent";
                    self.no_room(header.agent.as_str(), what, count, fx);
                }
            }
        }
        let agent = &mut self.agents[number as usize];
        if let Some(conflict) = agent.take_header(&header, self.now) {
            self.incident(header.agent.as_str(), conflict.0, fx);
        }
    }

    /// The number of an agent or of a plain device as its own agent; none if there is no room.
    pub(crate) fn agent(&mut self, name: &str, plain: bool) -> Option<u32> {
        let index = if plain {
            &mut self.plain_index
        } else {
            &mut self.agent_index
        };
        if let Some(number) = index.get(name) {
            return Some(number);
        }
        if self.agents.len() >= AGENTS_MAX {
            return None;
        }
        let number = self.agents.len() as u32;
        let name: Arc<str> = name.into();
        index.insert(name.clone(), number);
        self.agents.push(Agent::new(name, plain));
        Some(number)
    }

    pub(crate) fn contact(&mut self, agent: u32) {
        self.dirty = true;
        let agent = &mut self.agents[agent as usize];
        agent.last_contact = self.now;
        agent.contact_uptime = self.now.saturating_sub(self.outage);
    }

    /// A record that admission lets nobody write: by a newer version, or by other hands.
    fn foreign(&mut self, error: &DecodeError, fx: &mut Effects) {
        self.totals.accepted += 1;
        self.undecodable(error, None, 1, fx);
    }

    fn undecodable(&mut self, e: &DecodeError, agent: Option<&str>, count: u64, fx: &mut Effects) {
        self.quarantine(
            e.reason(),
            agent,
            format!("record {}: {e}", self.offset - 1),
            count,
            fx,
        );
    }

    pub(crate) fn no_room(&mut self, agent: &str, what: &str, count: u64, fx: &mut Effects) {
        let message = format!("partition {} has no room for more {what}", self.number);
        self.quarantine(
            RefusalReason::CapacityReached,
            Some(agent),
            message,
            count,
            fx,
        );
    }

    /// Accepted, but set aside.
    pub(crate) fn quarantine(
        &mut self,
        reason: RefusalReason,
        agent: Option<&str>,
        message: String,
        count: u64,
        fx: &mut Effects,
    ) {
        self.totals.quarantined += count;
        let item = QuarantineItem {
            id: None,
            time: Time(self.now),
            kind: "quarantined",
            source: None,
            agent: agent.map(str::to_owned),
            device: None,
            metric: None,
            event_time: None,
            reason: reason.as_str(),
            message,
            count,
        };
        self.set_aside(reason, item, fx);
    }

    pub(crate) fn set_aside(
        &mut self,
        reason: RefusalReason,
        item: QuarantineItem,
        fx: &mut Effects,
    ) {
        *self.reasons.entry(reason).or_default() += item.count;
        fx.quarantine.push(item);
    }

    fn incident(&mut self, agent: &str, message: String, fx: &mut Effects) {
        self.incidents += 1;
        fx.incidents.push(Incident {
            time: Time(self.now),
            kind: "rollback_or_clone",
            agent: Some(agent.to_owned()),
            message,
        });
    }

    /// Device id and attributes of a series, for texts.
    pub(crate) fn about(&self, series: u32) -> (String, BTreeMap<String, String>) {
        let device = &self.devices[self.series[series as usize].device as usize];
        let attributes = device
            .attributes
            .iter()
            .map(|a| (a.0.to_string(), a.2.to_string()))
            .collect();
        (device.id.to_string(), attributes)
    }

    fn page(&mut self, fx: &mut Effects) {
        let mut alerts = std::mem::take(&mut self.alerts);
        alerts.page_fresh(self.now, |s| self.progress_of(s), |s| self.about(s), fx);
        self.alerts = alerts;
    }

    /// How far the agent of a series is known to be complete.
    pub(crate) fn progress_of(&self, series: u32) -> i64 {
        let device = &self.devices[self.series[series as usize].device as usize];
        self.agents[device.agent as usize].progress
    }

    /// Takes aggregates and rules. What is declared as before keeps its state; a new aggregate begins
    /// empty, with every known device that belongs to it expected.
    fn declare(&mut self, declaration: Declaration, fx: &mut Effects) {
        if declaration == self.declaration && !self.aggregates.is_empty() {
            fx.declared = Some(declaration);
            return;
        }
        let rules: Vec<Rule> = declaration
            .rules
            .iter()
            .filter_map(|text| Rule::parse(text).ok())
            .collect();
        let mut alerts = std::mem::take(&mut self.alerts);
        alerts.declare(rules, self.now, |series| self.about(series), fx);
        self.alerts = alerts;
        self.declare_aggregates(&declaration.aggregates);
        self.declaration = declaration.clone();
        fx.declared = Some(declaration);
    }

    fn declare_aggregates(&mut self, specs: &[AggregateSpec]) {
        self.dirty = true;
        let moved: Vec<Option<u32>> = self
            .aggregates
            .iter()
            .map(|old| {
                specs
                    .iter()
                    .position(|new| *new == old.spec)
                    .map(|i| i as u32)
            })
            .collect();
        let mut aggregates: Vec<Aggregate> = specs
            .iter()
            .map(|spec| Aggregate {
                spec: spec.clone(),
                forgotten: i64::MIN,
                windows: 0,
            })
            .collect();
        for (old, new) in self.aggregates.iter().zip(&moved) {
            if let Some(new) = new {
                aggregates[*new as usize] = old.clone();
            }
        }
        // Windows of what is gone.
        let gone: Vec<(u32, i64, u32)> = self
            .by_start
            .keys()
            .filter(|k| moved[k.0 as usize].is_none())
            .copied()
            .collect();
        for key in gone {
            self.drop_window(key);
        }
        self.aggregates = aggregates;
        self.by_start = std::mem::take(&mut self.by_start)
            .into_iter()
            .filter_map(|((a, start, group), cell)| {
                Some(((moved[a as usize]?, start, group), cell))
            })
            .collect();
        self.group_index.clear();
        for (number, group) in self.groups.iter_mut().enumerate() {
            group.aggregate = group.aggregate.and_then(|a| moved[a as usize]);
            if let Some(a) = group.aggregate {
                self.group_index
                    .insert((a, group.values.clone()), number as u32);
            }
        }
        for device in &mut self.devices {
            device
                .groups
                .retain(|(g, _)| self.groups[*g as usize].aggregate.is_some());
        }
        for series in 0..self.series.len() as u32 {
            self.place_series(series);
            let device = self.series[series as usize].device;
            let first = self.devices[device as usize].first;
            self.join_groups(series, first);
        }
    }
}
