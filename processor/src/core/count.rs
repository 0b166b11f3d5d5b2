//! The hot path: events into windows, series and episodes.
//!
//! Names are resolved once per series of a batch, windows once per (series, window): what is left per
//! event is a few compares and adds.

use std::sync::Arc;

use event::aggregate::{ALL_METRICS, METRIC_ATTRIBUTE};
use event::{Cell, Columns, Plain, RefusalReason, Value};
use smallvec::SmallVec;
use views::model::{QuarantineItem, Time};
use views::store::SETTLE_AFTER;
use views::{Group as GroupValues, RowState, SettledCounts};

use super::effects::Effects;
use super::flush::DEADLINE;
use super::group::{GROUPS_MAX, Group};
use super::partition::{Partition, RECENT_POINTS_MAX, RECENT_SERIES_MAX};
use super::registry::{ATTRIBUTES_MAX, DEVICES_MAX, Device, METRICS_MAX, SERIES_MAX, SeriesState};
use super::window::Window;

/// 2020-01-01T00:00:00Z: an earlier event time is a clock that was never set (P5).
const TIME_MIN: i64 = 1_577_836_800_000_000;
/// An event time may be this far ahead of ingest time (P5).
const AHEAD_MAX: i64 = 5 * 60 * 1_000_000;
const NONE: u32 = u32::MAX;
/// Up to so many series of a device are looked through.
const FEW_SERIES: usize = 16;

/// Where a batch comes from.
pub(crate) struct Origin {
    pub(crate) agent: u32,
    pub(crate) first_seq: u64,
}

/// Buffers that live from batch to batch so that the hot path does not allocate.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) columns: Columns,
    pairs: Vec<Pair>,
    slots: Vec<Slot>,
    /// Device numbers by the batch's device index.
    devices: Vec<u32>,
}

/// One series of the batch, resolved at its first event.
#[derive(Clone, Copy)]
struct Pair {
    kind: Kind,
    series: u32,
    slots: (u32, u32),
    first: i64,
    last: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unresolved,
    Value,
    /// A rule watches its metric.
    Watched,
    Attribute,
    NoRoom,
}

/// Where a series' events go in one group; the window of the last event is remembered.
#[derive(Clone, Copy)]
struct Slot {
    group: u32,
    window: i64,
    start: i64,
    cell: u32,
}

/// Events of a batch that were set aside, by reason.
#[derive(Default)]
struct Aside {
    old: Option<(usize, u64)>,
    future: Option<(usize, u64)>,
    no_room: Option<(usize, u64)>,
}

impl Aside {
    fn note(slot: &mut Option<(usize, u64)>, event: usize) {
        slot.get_or_insert((event, 0)).1 += 1;
    }
}

impl Partition {
    /// Counts the events of a batch; with `fresh` only those whose seq is in these ranges.
    pub(crate) fn count_columns(
        &mut self,
        columns: &Columns,
        origin: &Origin,
        fresh: Option<&SmallVec<[(u64, u64); 2]>>,
        fx: &mut Effects,
    ) {
        let mut s = std::mem::take(&mut self.scratch);
        s.pairs.clear();
        s.pairs.resize(
            columns.series.len(),
            Pair {
                kind: Kind::Unresolved,
                series: 0,
                slots: (0, 0),
                first: i64::MAX,
                last: i64::MIN,
            },
        );
        s.slots.clear();
        s.devices.clear();
        s.devices.resize(columns.devices.len(), NONE);
        let mut aside = Aside::default();
        let latest = self.now.saturating_add(AHEAD_MAX);
        let promised = self.agents[origin.agent as usize].progress;
        let (mut counted, mut too_old, mut broken) = (0u64, 0u64, 0u64);
        for i in 0..columns.len() {
            if let Some(fresh) = fresh {
                let seq = origin.first_seq + i as u64;
                if !fresh.iter().any(|r| (r.0..=r.1).contains(&seq)) {
                    continue;
                }
            }
            let t = columns.times[i];
            if t < TIME_MIN {
                Aside::note(&mut aside.old, i);
                continue;
            }
            if t > latest {
                Aside::note(&mut aside.future, i);
                continue;
            }
            let p = columns.series_of[i] as usize;
            if s.pairs[p].kind == Kind::Unresolved {
                s.pairs[p] = self.resolve(columns, p, origin, t, &mut s.slots, &mut s.devices);
            }
            let pair = &mut s.pairs[p];
            if pair.kind == Kind::NoRoom {
                Aside::note(&mut aside.no_room, i);
                continue;
            }
            if t < promised {
                broken += 1;
            }
            if t < pair.first {
                pair.first = t;
            }
            if t > pair.last {
                pair.last = t;
            }
            let number = match columns.values[i] {
                Cell::Number(n) => Some(n),
                Cell::Bool(b) => Some(f64::from(u8::from(b))),
                Cell::Text(_) => None,
            };
            let pair = *pair;
            let slots = &mut s.slots[pair.slots.0 as usize..pair.slots.1 as usize];
            let mut kept = slots.is_empty();
            for slot in slots {
                if slot.cell == NONE || t < slot.start || t - slot.start >= slot.window {
                    slot.start = t.div_euclid(slot.window) * slot.window;
                    slot.cell = self.window(slot.group, slot.start, pair.series);
                    if slot.cell == NONE {
                        continue;
                    }
                }
                kept = true;
                self.windows[slot.cell as usize].add(number);
            }
            if !kept {
                too_old += 1;
                continue;
            }
            counted += 1;
            self.newest(&pair, t, columns, i, number, fx);
        }
        self.totals.counted += counted;
        self.totals.too_old += too_old;
        self.totals.broken_promises += broken;
        for p in &s.pairs {
            if matches!(p.kind, Kind::Value | Kind::Watched) && p.first <= p.last {
                self.seen(p.series, p.first, p.last);
            }
        }
        let name = self.agents[origin.agent as usize].name.clone();
        for (reason, noted) in [
            (RefusalReason::TimeTooOld, aside.old),
            (RefusalReason::TimeInFuture, aside.future),
            (RefusalReason::CapacityReached, aside.no_room),
        ] {
            if let Some((event, count)) = noted {
                self.set_events_aside(reason, &name, columns, event, count, fx);
            }
        }
        self.scratch = s;
    }

    /// Takes a plain device's message: the same path, as a batch of one device.
    pub(crate) fn plain(&mut self, plain: &Plain, fx: &mut Effects) {
        let count = plain.samples.len() as u64;
        self.totals.accepted += count;
        let Some(agent) = self.agent(plain.device.as_str(), true) else {
            return self.no_room(plain.device.as_str(), "agents", count, fx);
        };
        self.contact(agent);
        let mut columns = std::mem::take(&mut self.scratch.columns);
        columns.set_plain(plain, self.now);
        self.count_columns(
            &columns,
            &Origin {
                agent,
                first_seq: 1,
            },
            None,
            fx,
        );
        let latest = self.now.saturating_add(AHEAD_MAX);
        let newest = columns
            .times
            .iter()
            .filter(|t| (TIME_MIN..=latest).contains(*t))
            .max();
        if let Some(&newest) = newest {
            // No backlog report: it counts as caught up with its newest event.
            let agent = &mut self.agents[agent as usize];
            agent.progress = agent.progress.max(newest.min(self.now));
        }
        self.scratch.columns = columns;
    }

    fn resolve(
        &mut self,
        columns: &Columns,
        pair: usize,
        origin: &Origin,
        t: i64,
        slots: &mut Vec<Slot>,
        devices: &mut [u32],
    ) -> Pair {
        let of = columns.series[pair];
        let mut out = Pair {
            kind: Kind::NoRoom,
            series: 0,
            slots: (0, 0),
            first: i64::MAX,
            last: i64::MIN,
        };
        let device = &mut devices[of.device as usize];
        if *device == NONE {
            match self.device(columns.devices.get(of.device), origin.agent, t) {
                Some(number) => *device = number,
                None => return out,
            }
        }
        let name = columns.metrics.get(of.metric);
        let Some(series) = self.series_number(*device, name) else {
            return out;
        };
        out.series = series;
        if name.starts_with('@') {
            out.kind = Kind::Attribute;
            return out;
        }
        let watched = self.alerts.rules.iter().any(|r| r.metric == name);
        out.kind = if watched { Kind::Watched } else { Kind::Value };
        out.slots.0 = slots.len() as u32;
        for &group in &self.series[series as usize].groups {
            if let Some(a) = self.groups[group as usize].aggregate {
                let window = self.aggregates[a as usize].spec.window;
                slots.push(Slot {
                    group,
                    window,
                    start: 0,
                    cell: NONE,
                });
            }
        }
        out.slots.1 = slots.len() as u32;
        out
    }

    fn device(&mut self, id: &str, agent: u32, t: i64) -> Option<u32> {
        if let Some(number) = self.device_index.get(id) {
            if self.devices[number as usize].agent != agent {
                self.move_device(number, agent);
            }
            return Some(number);
        }
        if self.devices.len() >= DEVICES_MAX {
            return None;
        }
        let number = self.devices.len() as u32;
        let id: Arc<str> = id.into();
        self.device_index.insert(id.clone(), number);
        self.devices.push(Device {
            id,
            agent,
            first: t,
            last: t,
            attributes: Vec::new(),
            groups: SmallVec::new(),
            series: SmallVec::new(),
        });
        self.agents[agent as usize].devices.push(number);
        Some(number)
    }

    /// The device was plugged in behind another agent.
    fn move_device(&mut self, number: u32, agent: u32) {
        let device = &mut self.devices[number as usize];
        let old = std::mem::replace(&mut device.agent, agent);
        for &(group, first) in &device.groups {
            self.groups[group as usize].leave(old, first);
            self.groups[group as usize].join(agent, first);
        }
        self.agents[old as usize].devices.retain(|d| *d != number);
        self.agents[agent as usize].devices.push(number);
    }

    fn series_number(&mut self, device: u32, metric: &str) -> Option<u32> {
        let metric_number = match self.metric_index.get(metric) {
            Some(number) => number,
            None if self.metrics.len() >= METRICS_MAX => return None,
            None => {
                let number = self.metrics.len() as u32;
                let name: Arc<str> = metric.into();
                self.metric_index.insert(name.clone(), number);
                self.metrics.push(name);
                number
            }
        };
        if let Some(series) = self.find_series(device, metric_number) {
            return Some(series);
        }
        if self.series.len() >= SERIES_MAX {
            return None;
        }
        let number = self.series.len() as u32;
        self.series.push(SeriesState {
            device,
            metric: metric_number,
            groups: SmallVec::new(),
            last: i64::MIN,
            value: Value::Bool(false),
        });
        self.devices[device as usize].series.push(number);
        self.index_wide(device, number);
        if !metric.starts_with('@') {
            self.place_series(number);
        }
        Some(number)
    }

    /// The series of a device's metric. Most devices have few: looking through them touches memory that
    /// the event needs anyway, where a map of all series would touch some more. Only devices with many
    /// are in a map.
    pub(crate) fn find_series(&self, device: u32, metric: u32) -> Option<u32> {
        let own = &self.devices[device as usize].series;
        if own.len() > FEW_SERIES {
            return self.wide_series.get(&(device, metric)).copied();
        }
        own.iter()
            .copied()
            .find(|&s| self.series[s as usize].metric == metric)
    }

    /// Puts a new series into the map if its device has many now.
    pub(crate) fn index_wide(&mut self, device: u32, number: u32) {
        let own = &self.devices[device as usize].series;
        let new = match own.len() {
            0..=FEW_SERIES => return,
            // The first one too many brings the others with it.
            n if n == FEW_SERIES + 1 => own.as_slice(),
            _ => std::slice::from_ref(&number),
        };
        for &series in new {
            self.wide_series
                .insert((device, self.series[series as usize].metric), series);
        }
    }

    /// The map of a restored state.
    pub(crate) fn index_all_wide(&mut self) {
        for (number, device) in self.devices.iter().enumerate() {
            if device.series.len() > FEW_SERIES {
                for &series in &device.series {
                    let metric = self.series[series as usize].metric;
                    self.wide_series.insert((number as u32, metric), series);
                }
            }
        }
    }

    /// Finds the groups of a series from the declaration and the device's attributes.
    pub(crate) fn place_series(&mut self, number: u32) {
        let series = &self.series[number as usize];
        let metric = self.metrics[series.metric as usize].clone();
        if metric.starts_with('@') {
            return;
        }
        let device = &self.devices[series.device as usize];
        let mut groups: SmallVec<[u32; 2]> = SmallVec::new();
        for (a, aggregate) in self.aggregates.iter().enumerate() {
            let spec = &aggregate.spec;
            if spec.metric != ALL_METRICS && spec.metric != *metric {
                continue;
            }
            let values: GroupValues = spec
                .group_by
                .iter()
                .map(|name| match name.as_str() {
                    METRIC_ATTRIBUTE => metric.clone(),
                    name => device.attribute(name),
                })
                .collect();
            let key = (a as u32, values);
            let group = match self.group_index.get(&key) {
                Some(&group) => group,
                None if self.groups.len() >= GROUPS_MAX => continue,
                None => {
                    let group = self.groups.len() as u32;
                    self.groups.push(Group::new(key.0, key.1.clone()));
                    self.group_index.insert(key, group);
                    group
                }
            };
            groups.push(group);
        }
        self.series[number as usize].groups = groups;
    }

    /// Makes the device a member of its series' groups from `first` (microseconds) on.
    pub(crate) fn join_groups(&mut self, series: u32, first: i64) {
        let series = &self.series[series as usize];
        let device = &mut self.devices[series.device as usize];
        let second = first.div_euclid(1_000_000) * 1_000_000;
        for &group in &series.groups {
            match device.groups.iter_mut().find(|g| g.0 == group) {
                Some(known) if known.1 <= second => {}
                Some(known) => {
                    self.groups[group as usize].leave(device.agent, known.1);
                    self.groups[group as usize].join(device.agent, second);
                    known.1 = second;
                }
                None => {
                    device.groups.push((group, second));
                    self.groups[group as usize].join(device.agent, second);
                }
            }
        }
    }

    /// A series had events from `first` to `last` in this batch.
    fn seen(&mut self, series: u32, first: i64, last: i64) {
        let device = &mut self.devices[self.series[series as usize].device as usize];
        device.first = device.first.min(first);
        device.last = device.last.max(last);
        self.join_groups(series, first);
    }

    /// The cell of a window, made if need be, with the device of `series` in it; [`NONE`] if the window
    /// is forgotten.
    fn window(&mut self, group: u32, start: i64, series: u32) -> u32 {
        let cell = match self.window_index.get(&(group, start)) {
            Some(&cell) => cell,
            None => {
                let cell = self.new_window(group, start);
                if cell == NONE {
                    return NONE;
                }
                cell
            }
        };
        let window = &mut self.windows[cell as usize];
        window.devices.insert(self.series[series as usize].device);
        // Greater than what was emitted before: settling may have taken the number of the next record.
        let last = window.revision;
        window.revision = self
            .offset
            .max(if window.changed { last } else { last + 1 });
        if !window.changed {
            window.changed = true;
            self.changed.push(cell);
        }
        if !window.unsaved {
            window.unsaved = true;
            self.unsaved.push(cell);
        }
        cell
    }

    fn new_window(&mut self, group: u32, start: i64) -> u32 {
        let owner = &self.groups[group as usize];
        let Some(a) = owner.aggregate else {
            return NONE;
        };
        let aggregate = &mut self.aggregates[a as usize];
        if start < aggregate.forgotten {
            return NONE;
        }
        let end = start + aggregate.spec.window;
        // A window that had settled as empty, or whose deadline has passed, is revised by its first event.
        let counts = owner.index.counts(start, end);
        let settled = self.now >= end + DEADLINE
            || (counts.expected > 0 && counts.is_enough() && self.now >= end + SETTLE_AFTER);
        let state = if settled {
            RowState::Settled
        } else {
            RowState::Open
        };
        let mut window = Window::new(group, start, state);
        if settled {
            window.settled = Some(SettledCounts {
                done: counts.complete + counts.lossy,
                expected: counts.expected,
            });
        }
        let cell = match self.free.pop() {
            Some(cell) => {
                self.windows[cell as usize] = window;
                cell
            }
            None => {
                self.windows.push(window);
                self.windows.len() as u32 - 1
            }
        };
        aggregate.windows += 1;
        self.window_index.insert((group, start), cell);
        self.by_start.insert((a, start, group), cell);
        if !settled {
            self.open.insert((end, group, start));
        }
        cell
    }

    /// Last value, attributes, recent points and rules of an event's series.
    #[inline]
    fn newest(
        &mut self,
        pair: &Pair,
        t: i64,
        columns: &Columns,
        event: usize,
        number: Option<f64>,
        fx: &mut Effects,
    ) {
        let state = &mut self.series[pair.series as usize];
        let is_newest = t >= state.last;
        let with_recent = (pair.series as usize) < RECENT_SERIES_MAX;
        if is_newest || with_recent {
            let value = match columns.values[event] {
                Cell::Number(n) => Value::Number(n),
                Cell::Bool(b) => Value::Bool(b),
                Cell::Text(text) => Value::Text(columns.texts.get(text).into()),
            };
            if is_newest {
                state.last = t;
                if with_recent {
                    state.value = value.clone();
                    self.remember(pair.series, t, value);
                } else {
                    state.value = value;
                }
            } else {
                self.remember(pair.series, t, value);
            }
        }
        match (pair.kind, number) {
            (Kind::Attribute, _) if is_newest => self.attribute(pair.series, t),
            (Kind::Watched, Some(n)) if is_newest => {
                let mut alerts = std::mem::take(&mut self.alerts);
                let metric =
                    self.metrics[self.series[pair.series as usize].metric as usize].clone();
                let about = || self.about(pair.series);
                alerts.step(&metric, pair.series, (t, n), self.now, &about, fx);
                self.alerts = alerts;
            }
            _ => {}
        }
    }

    fn remember(&mut self, series: u32, t: i64, value: Value) {
        let series = series as usize;
        if self.recent.len() <= series {
            self.recent.resize_with(series + 1, Default::default);
        }
        let ring = &mut self.recent[series];
        let at = ring.iter().rposition(|p| p.0 <= t).map_or(0, |i| i + 1);
        if ring.len() == RECENT_POINTS_MAX {
            if at == 0 {
                return;
            }
            ring.pop_front();
            ring.insert(at - 1, (t, value));
        } else {
            ring.insert(at, (t, value));
        }
    }

    /// The newest value of an attribute changed: the device's events go to other groups from now on.
    fn attribute(&mut self, series: u32, t: i64) {
        let state = &self.series[series as usize];
        let text: Arc<str> = match &state.value {
            Value::Text(text) => text.clone(),
            Value::Bool(b) => b.to_string().into(),
            Value::Number(n) => n.to_string().into(),
        };
        let name: Arc<str> = self.metrics[state.metric as usize]
            .trim_start_matches('@')
            .into();
        let number = state.device;
        let device = &mut self.devices[number as usize];
        // A first value says where the device has been all along, a changed one where it is from now on.
        let mut since = device.first;
        match device.attributes.binary_search_by(|a| a.0.cmp(&name)) {
            Ok(i) if device.attributes[i].2 == text => {
                device.attributes[i].1 = t;
                return;
            }
            Ok(i) => {
                device.attributes[i] = (name, t, text);
                since = t;
            }
            Err(_) if device.attributes.len() >= ATTRIBUTES_MAX => return,
            Err(i) => device.attributes.insert(i, (name, t, text)),
        }
        let all = self.devices[number as usize].series.clone();
        for &series in &all {
            self.place_series(series);
        }
        let mut now_in: SmallVec<[u32; 4]> = SmallVec::new();
        for &series in &all {
            let series = &self.series[series as usize];
            if series.last > i64::MIN {
                now_in.extend(series.groups.iter().copied());
            }
        }
        let device = &mut self.devices[number as usize];
        let agent = device.agent;
        device.groups.retain(|(group, from)| {
            let stays = now_in.contains(group);
            if !stays {
                self.groups[*group as usize].leave(agent, *from);
            }
            stays
        });
        for series in all {
            if self.series[series as usize].last > i64::MIN {
                self.join_groups(series, since);
            }
        }
    }

    fn set_events_aside(
        &mut self,
        reason: RefusalReason,
        agent: &Arc<str>,
        columns: &Columns,
        event: usize,
        count: u64,
        fx: &mut Effects,
    ) {
        self.totals.quarantined += count;
        let series = columns.series[columns.series_of[event] as usize];
        let t = columns.times[event];
        let message = match reason {
            RefusalReason::TimeTooOld => {
                format!(
                    "event time {} is before 2020: the device's clock was never set",
                    Time(t)
                )
            }
            RefusalReason::TimeInFuture => format!(
                "event time {} is more than 5 minutes after the ingest time {}: set the device's clock",
                Time(t),
                Time(self.now)
            ),
            _ => format!(
                "partition {} has no room for more devices, metrics or series",
                self.number
            ),
        };
        let item = QuarantineItem {
            time: Time(self.now),
            kind: "quarantined",
            source: None,
            agent: Some(agent.to_string()),
            device: Some(columns.devices.get(series.device).to_owned()),
            metric: Some(columns.metrics.get(series.metric).to_owned()),
            event_time: Some(Time(t)),
            reason: reason.as_str(),
            message,
            count,
        };
        self.set_aside(reason, item, fx);
    }
}
