//! The state of one partition and its `step`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use event::{Columns, DecodeError, EventTime, Record, RecordRef, RefusalReason, Retention, Value};
use rustc_hash::FxHashMap;
use views::Group as GroupValues;
use views::model::{Incident, QuarantineItem, Time, Totals};

use super::agents::{Agents, Fresh};
use super::aggregate::Aggregate;
use super::alerts::Alerts;
use super::cold::{Outbox, Saving};
use super::commands::Commands;
use super::count::{Origin, Scratch};
use super::declare::Declared;
use super::effects::{Changed, Effects, Operated};
use super::evaluate::rank;
use super::flush::Scan;
use super::group::Group;
use super::held::Held;
use super::members::Profiles;
use super::registry::{Registry, TIME_MIN};
use super::warm::AHEAD;
use super::windows::{Cell, Due};

/// How large a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Agents, plain devices included.
    pub agents: usize,
    /// Devices.
    pub devices: usize,
    /// Series.
    pub series: usize,
    /// Panes and windows in memory.
    pub windows: usize,
    /// Rows waiting for the next checkpoint.
    pub cold: usize,
    /// Ranges of seqs held for dedup.
    pub seq_ranges: usize,
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
    /// Newest event time that was counted; retention counts back from it.
    pub(crate) newest: i64,
    pub(crate) retention: Retention,
    pub(crate) declared: Declared,
    /// By slot; a slot is never used again.
    pub(crate) aggregates: Vec<Option<Aggregate>>,
    pub(crate) agents: Agents,
    /// Agents with news since the last flush, and whether an agent is among them.
    pub(crate) moved: Vec<u32>,
    pub(crate) is_moved: Vec<bool>,
    /// Devices of an agent that do not follow its first one.
    pub(crate) further_devices: BTreeMap<u32, BTreeSet<u32>>,
    pub(crate) registry: Registry,
    pub(crate) profiles: Profiles,
    pub(crate) groups: Vec<Group>,
    pub(crate) group_index: FxHashMap<(u32, GroupValues), u32>,
    /// Groups whose completeness is to be published, oldest first.
    pub(crate) unpublished: VecDeque<u32>,
    /// A slab: freed cells are used again.
    pub(crate) cells: Vec<Cell>,
    pub(crate) free_cells: Vec<u32>,
    /// Groups with cells.
    pub(crate) active: Vec<u32>,
    /// By group: when it is to be looked at.
    pub(crate) due: Vec<Due>,
    /// Cells that changed, and cells whose window is to be emitted, since the last flush.
    pub(crate) changed: Vec<u32>,
    pub(crate) emit: Vec<u32>,
    /// (group, pane) of rows of the outbox that changed since the last flush.
    pub(crate) cold_changed: Vec<(u32, i64)>,
    /// Windows to be read from the store that a hot pane changed; empty between flushes.
    pub(crate) cold_windows: Vec<Changed>,
    pub(crate) outbox: Outbox,
    /// A checkpoint under way: its offset and what it carries.
    pub(crate) in_flight: Option<(u64, Arc<Outbox>)>,
    /// Sum over everything that went cold: the part of the state hash that no snapshot holds.
    pub(crate) cold_digest: u64,
    pub(crate) alerts: Alerts,
    pub(crate) commands: Commands,
    pub(crate) held: Held,
    pub(crate) totals: Totals,
    pub(crate) reasons: BTreeMap<RefusalReason, u64>,
    pub(crate) incidents: u64,
    pub(crate) scan: Scan,
    /// Decommissioned devices.
    pub(crate) gone: BTreeSet<u32>,
    /// Whether the newest step ended with a flush.
    pub(crate) at_rest: bool,
    /// Not part of the state: what memory happens to hold of recent values, by (device, metric).
    pub(crate) recent: FxHashMap<(u32, u32), VecDeque<(i64, Value)>>,
    pub(crate) scratch: Scratch,
}

impl Partition {
    /// An empty partition. Its first record should declare aggregates and rules.
    pub fn new(number: u16) -> Self {
        Self {
            number,
            now: i64::MIN,
            flushed: i64::MIN,
            newest: i64::MIN,
            retention: Retention::default(),
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

    /// The ledger.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether the newest step ended with a flush. Only then may the state be saved: what the groups know of
    /// agents is that of the flush, and a restored state knows it as of the snapshot.
    pub fn at_rest(&self) -> bool {
        self.at_rest
    }

    /// How large it is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            agents: self.agents.len(),
            devices: self.registry.len() - self.gone.len(),
            series: self.registry.live_series,
            windows: self.cells.len() - self.free_cells.len(),
            cold: self.outbox.rows.len(),
            seq_ranges: self.agents.seq_ranges(),
        }
    }

    /// Memory that grows with the fleet, bytes, about: tables, panes, and what waits for a checkpoint.
    pub fn memory(&self) -> usize {
        let cells = self.cells.iter().flat_map(|c| &c.content);
        self.agents.memory()
            + self.registry.memory()
            + self.outbox.memory()
            + self.cells.capacity() * size_of::<Cell>()
            + cells.map(|pane| pane.bytes()).sum::<usize>()
    }

    /// The aggregate in a slot.
    #[inline]
    pub(crate) fn aggregate(&self, slot: u32) -> Option<&Aggregate> {
        self.aggregates.get(slot as usize)?.as_ref()
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
            if i % AHEAD == 0 {
                self.warm(&records[i..records.len().min(i + AHEAD)]);
            }
            self.offset = offset + i as u64 + 1;
            self.record(record.as_ref(), fx);
        }
        self.flush(fx);
        self.show_commands(fx);
    }

    fn record(&mut self, bytes: &[u8], fx: &mut Effects) {
        match RecordRef::decode(bytes) {
            Ok(RecordRef::Batch(raw)) => self.batch(raw, fx),
            Ok(RecordRef::Other(record)) => self.other(record, fx),
            Err(error) => self.foreign(&error, fx),
        }
        self.page(fx);
    }

    fn other(&mut self, record: Record, fx: &mut Effects) {
        match record {
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
                    if incarnation.is_ok_and(|i| !self.agents.is_present(number, i)) {
                        return;
                    }
                    self.agents.set_online(number, status.status.online);
                    self.contact(number);
                    // It says so when it connects.
                    self.dispatch(number, true, fx);
                    // A last will is no word of the agent.
                    if status.status.online {
                        self.heard(number, fx);
                    }
                }
            }
            Record::Tick => {}
            Record::AvailabilityGap { from, to } => {
                self.outage += (to.as_micros() - from.as_micros()).max(0);
            }
            Record::Declare(declaration) => self.declare(&declaration, fx),
            Record::SetAggregate(spec) => self.set_aggregate(spec, fx),
            Record::RemoveAggregate(name) => self.remove_aggregate(&name, fx),
            Record::SetRule(json) => self.set_rule(&json, fx),
            Record::RemoveRule(name) => self.remove_rule(&name, fx),
            Record::SetDevice(change) => self.set_device(&change),
            Record::Decommission(device) => {
                self.decommission(device.as_str());
                fx.decommissioned.push((device.to_string(), self.now));
            }
            Record::Release(release) => self.release(&release, fx),
            Record::Retain(retention) => self.retention = retention,
            // It changes nothing here: the record gives it a place in the order of things.
            Record::Operate(json) => fx.operations.push(Operated {
                offset: self.offset - 1,
                at: self.now,
                json,
            }),
            Record::Command(order) => self.command(order, fx),
            Record::CommandControl(control) => self.control_commands(control, fx),
            // `decode` never gives an owned batch.
            Record::Batch(_) => {}
        }
    }

    fn batch(&mut self, raw: &[u8], fx: &mut Effects) {
        let (header, body) = match event::batch::peek(raw) {
            Ok(parts) => parts,
            Err(error) => return self.foreign(&error, fx),
        };
        let count = u64::from(header.count);
        self.totals.accepted += count;
        let name = header.agent.as_str();
        let Some(number) = self.agent(name, false) else {
            return self.no_room(name, "agents", count, fx);
        };
        let back = self.commands.awaits(number) && self.is_away(number);
        self.contact(number);
        self.heard(number, fx);
        let mut counted = None;
        let shift = self.agents.correction(number, &header, self.now);
        if let Some(last) = header.last_seq() {
            match self
                .agents
                .take_range(number, header.e_inc, header.first_seq, last)
            {
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
                                    shift,
                                    raw: Some(raw),
                                };
                                let some = (new < count).then_some(fresh.as_slice());
                                self.count_columns(&mut columns, &origin, some, fx);
                                counted = Some(columns);
                            }
                            Err(e) => {
                                self.scratch.columns = columns;
                                self.undecodable(&e, Some(name), new, fx);
                            }
                        }
                    }
                }
                Fresh::Fork {
                    last: end,
                    fresh,
                    known,
                } => {
                    let events: Vec<u32> = fresh
                        .iter()
                        .flat_map(|(a, b)| a - header.first_seq..=b - header.first_seq)
                        .map(|at| at as u32)
                        .collect();
                    let aside = events.len() as u64;
                    self.totals.duplicate += count - aside;
                    if aside > 0 {
                        let reason = RefusalReason::AmbiguousIdentity;
                        let message = format!(
                            "events beyond the end ({end}) of closed incarnation {}: the agent's disk was rolled back or cloned",
                            header.e_inc
                        );
                        // What could come again unnoticed must not be released twice, so not at all.
                        let id = known
                            .then(|| self.hold(raw, &events, name, reason, fx))
                            .flatten();
                        self.quarantine(reason, id, Some(name), message.clone(), aside, fx);
                        self.incident(name, message, fx);
                    }
                    let old = (end + 1).saturating_sub(header.first_seq).min(count);
                    // Set aside is not counted: a window without them must not pass for complete.
                    let columns = &mut self.scratch.columns;
                    let earliest = match body.decode_into(columns) {
                        // No window is of a time before the first possible one.
                        Ok(()) => {
                            let times = columns.times.iter().skip(old as usize);
                            times.filter(|t| t.saturating_add(shift) >= TIME_MIN).min()
                        }
                        Err(_) => None,
                    };
                    let earliest = earliest.copied().map(EventTime);
                    self.agents.take_fork(number, &header, earliest, self.now);
                }
                Fresh::NoRoom => {
                    let what = "incarnations or holes in the numbering of this agent";
                    self.no_room(name, what, count, fx);
                }
            }
        }
        if let Some(conflict) = self.agents.take_header(number, &header, self.now) {
            self.incident(name, conflict.0, fx);
        }
        if back {
            self.dispatch(number, true, fx);
        }
        match counted {
            Some(columns) => {
                let first = rank(header.e_inc, header.first_seq);
                self.evaluate(&columns, number, first, fx);
                self.scratch.columns = columns;
            }
            None => self.settle_rules(number, fx),
        }
    }

    /// The number of an agent or of a plain device as its own agent; none if there is no room.
    pub(crate) fn agent(&mut self, name: &str, plain: bool) -> Option<u32> {
        let number = self.agents.number(name, plain)?;
        if self.is_moved.len() <= number as usize {
            self.is_moved.resize(number as usize + 1, false);
        }
        Some(number)
    }

    /// The agent was heard from: at the next flush its groups learn how far it is.
    pub(crate) fn contact(&mut self, agent: u32) {
        let uptime = self.now.saturating_sub(self.outage);
        self.agents.contact(agent, self.now, uptime);
        self.note_moved(agent);
    }

    pub(crate) fn note_moved(&mut self, agent: u32) {
        if !std::mem::replace(&mut self.is_moved[agent as usize], true) {
            self.moved.push(agent);
        }
    }

    /// A record that admission lets nobody write: by a newer version, or by other hands.
    fn foreign(&mut self, error: &DecodeError, fx: &mut Effects) {
        self.totals.accepted += 1;
        self.undecodable(error, None, 1, fx);
    }

    fn undecodable(&mut self, e: &DecodeError, agent: Option<&str>, count: u64, fx: &mut Effects) {
        let message = format!("record {}: {e}", self.offset - 1);
        self.quarantine(e.reason(), None, agent, message, count, fx);
    }

    pub(crate) fn no_room(&mut self, agent: &str, what: &str, count: u64, fx: &mut Effects) {
        let message = format!("partition {} has no room for more {what}", self.number);
        let reason = RefusalReason::CapacityReached;
        self.quarantine(reason, None, Some(agent), message, count, fx);
    }

    /// Accepted, but set aside.
    pub(crate) fn quarantine(
        &mut self,
        reason: RefusalReason,
        id: Option<String>,
        agent: Option<&str>,
        message: String,
        count: u64,
        fx: &mut Effects,
    ) {
        self.totals.quarantined += count;
        let item = QuarantineItem {
            id,
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

    /// Device id and attributes, for texts.
    pub(crate) fn about(&self, device: u32) -> (String, BTreeMap<String, String>) {
        let class = self.registry.devices[device as usize].class;
        let attributes = self.registry.classes[class as usize]
            .attributes
            .iter()
            .map(|(name, text)| {
                let name = self.registry.attributes.get(*name).to_owned();
                (name, self.registry.texts.get(*text).to_string())
            })
            .collect();
        (self.registry.ids.get(device).to_owned(), attributes)
    }

    /// How far the agent of a device is known to be complete.
    pub(crate) fn progress_of(&self, device: u32) -> i64 {
        let agent = self.registry.devices[device as usize].agent;
        self.agents.hot(agent).progress
    }

    /// Begins a checkpoint: the hot state as bytes, and what has gone cold since the last one. Steps may go
    /// on; [`Self::finish_checkpoint`] must follow before the next one begins.
    ///
    /// Only [at rest](Self::at_rest), and not while one is under way (then none is given).
    pub fn begin_checkpoint(&mut self, buffer: Vec<u8>) -> Option<Saving> {
        if self.in_flight.is_some() || !self.at_rest {
            return None;
        }
        let snapshot = self.snapshot_into(buffer);
        let cold = Arc::new(std::mem::take(&mut self.outbox));
        let too_old = cold.too_old.iter().map(|(&(day, device), n)| {
            let key = super::cold::too_old_key(day, self.registry.ids.get(device));
            (key, *n)
        });
        let mut too_old: Vec<(Vec<u8>, u64)> = too_old.collect();
        too_old.sort_unstable();
        self.in_flight = Some((self.offset, cold.clone()));
        let horizons = self
            .aggregates
            .iter()
            .enumerate()
            .filter_map(|(slot, a)| Some((slot as u32, a.as_ref()?.horizons)))
            .collect();
        Some(Saving {
            offset: self.offset,
            now: self.now,
            snapshot,
            cold,
            too_old,
            horizons,
        })
    }

    /// Ends a checkpoint. What could not be saved comes again with the next one.
    pub fn finish_checkpoint(&mut self, saved: bool) {
        let Some((_, cold)) = self.in_flight.take() else {
            return;
        };
        if !saved {
            let mut outbox = std::mem::take(&mut self.outbox);
            outbox.put_back(&cold, &self.registry.order());
            self.outbox = outbox;
        }
    }

    /// Whether the id of device `a` comes before that of device `b`.
    pub fn is_before(&self, a: u32, b: u32) -> bool {
        self.registry.order()(a, b)
    }
}
