//! The hot path: events into panes, series and episodes.
//!
//! Names are resolved once per batch (devices behind one agent have numbers in a row, so mostly a guess is
//! enough), panes once per group and stretch of time: what is left per event is a few compares and adds.

use std::collections::BTreeMap;

use event::{Cell, Columns, Plain, RefusalReason, Value};
use rustc_hash::FxHashMap;
use views::model::{QuarantineItem, Time};

use super::alerts::UNWATCHED;
use super::alerts::run::Point;
use super::effects::Effects;
use super::group::EMPTY;
use super::pane::Wants;
use super::partition::Partition;
use super::registry::{DEVICE_SERIES_MAX, Kind, METRICS_MAX, NONE, TIME_MIN, second_of};
use super::windows::{DAY, Target, mix};

/// An event time may be this far ahead of ingest time (P5).
const AHEAD_MAX: i64 = 5 * 60 * 1_000_000;
/// Recent points are kept of the first so many devices of a partition, ...
const RECENT_DEVICES_MAX: u32 = 2048;
/// ... of so many series, ...
const RECENT_SERIES_MAX: usize = 8192;
/// ... so many each.
const RECENT_POINTS_MAX: usize = 120;
/// Longer texts are not among the recent points, which are held in memory.
const RECENT_TEXT_MAX: usize = 64;

/// Where a batch comes from.
pub(crate) struct Origin<'a> {
    pub(crate) agent: u32,
    pub(crate) first_seq: u64,
    /// Added to its event times.
    pub(crate) shift: i64,
    /// The batch's bytes, to hold what is quarantined.
    pub(crate) raw: Option<&'a [u8]>,
}

/// Which events of a batch are meant.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    All,
    /// Those with seqs in these ranges.
    Seqs(&'a [(u64, u64)]),
    /// Those at these indexes, ascending.
    Events(&'a [u32]),
}

/// Buffers that live from batch to batch so that the hot path does not allocate.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) columns: Columns,
    /// By event: whether it is taken. Unused if all are.
    taken: Vec<bool>,
    /// By the batch's device index.
    devices: Vec<u32>,
    used: Vec<bool>,
    firsts: Vec<i64>,
    /// Events that rules watch, by index; and whether those of each series are in event-time order.
    pub(crate) watched: Vec<u32>,
    pub(crate) in_order: bool,
    /// By the batch's metric index; kept as guesses for the next batch.
    metrics: Vec<Metric>,
    pub(crate) pairs: Vec<Pair>,
    slots: Vec<Slot>,
    /// Class → where the ranges of its metrics begin.
    classes: FxHashMap<u32, u32>,
    ranges: Vec<(u32, u32)>,
    /// (device, metric) that are new.
    missing: Vec<(u32, u32)>,
    /// Devices whose groups may change with this batch, and those they were in before.
    touched: BTreeMap<u32, Vec<(u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Metric {
    number: u32,
    attribute: bool,
    /// As of [`Alerts::watch_of`](super::alerts::Alerts::watch_of).
    watch: u32,
}

/// One series of the batch.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    kind: PairKind,
    pub(crate) device: u32,
    /// Place of the series; of an attribute the number of its name.
    pub(crate) series: u32,
    pub(crate) metric: u32,
    slots: (u32, u32),
    /// Of a watched one: the number of its rules, the newest value before the one that is looked at, and the
    /// time of the newest event of this batch so far.
    pub(crate) watch: u32,
    pub(crate) before: Option<Point>,
    newest: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PairKind {
    Unused,
    Value,
    /// A rule watches its metric.
    Watched,
    Attribute,
    NoRoom,
}

/// Where events go in one group; the pane of the last event is remembered.
#[derive(Clone, Copy)]
struct Slot {
    group: u32,
    wants: Wants,
    hop: i64,
    start: i64,
    target: Target,
    /// Devices in a row that are still to be put into the pane: those behind an agent mostly are.
    run: (u32, u32),
}

/// Events of a batch that were set aside, by reason.
#[derive(Default)]
struct Aside {
    old: Vec<u32>,
    future: Vec<u32>,
    no_room: Vec<u32>,
    no_group: Vec<u32>,
}

impl Partition {
    /// Counts events of a batch.
    pub(crate) fn count_columns(
        &mut self,
        columns: &mut Columns,
        origin: &Origin<'_>,
        fresh: Option<&[(u64, u64)]>,
        fx: &mut Effects,
    ) {
        let which = fresh.map_or(Which::All, Which::Seqs);
        self.count_some(columns, origin, which, fx);
    }

    /// Counts the events of a batch that `which` names.
    pub(crate) fn count_some(
        &mut self,
        columns: &mut Columns,
        origin: &Origin<'_>,
        which: Which<'_>,
        fx: &mut Effects,
    ) {
        if origin.shift != 0 {
            for t in &mut columns.times {
                *t = t.saturating_add(origin.shift);
            }
        }
        let columns = &*columns;
        let mut s = std::mem::take(&mut self.scratch);
        let mut aside = Aside::default();
        let (lo, hi) = columns
            .times
            .iter()
            .fold((i64::MAX, i64::MIN), |(lo, hi), t| (lo.min(*t), hi.max(*t)));
        let latest = self.now.saturating_add(AHEAD_MAX);
        let simple = lo >= TIME_MIN && hi <= latest && matches!(which, Which::All);
        let (lo, hi) = if simple {
            s.used.clear();
            (lo, hi)
        } else {
            select(columns, origin.first_seq, which, latest, &mut s, &mut aside)
        };
        s.touched.clear();
        s.watched.clear();
        s.in_order = true;
        self.resolve_devices(columns, origin.agent, lo, simple, &mut s);
        self.resolve_metrics(columns, &mut s);
        self.resolve_pairs(columns, simple, &mut s);
        self.add_events(columns, origin, simple, &mut s, &mut aside, fx);
        self.newest = self.newest.max(hi);
        self.join_touched(origin.agent, &s.touched);
        self.set_events_aside(columns, origin, aside, fx);
        self.scratch = s;
    }

    fn resolve_devices(
        &mut self,
        columns: &Columns,
        agent: u32,
        lo: i64,
        simple: bool,
        s: &mut Scratch,
    ) {
        s.devices.clear();
        s.firsts.clear();
        let lo_second = second_of(lo);
        let mut guess = self.agents.hot(agent).first_device;
        for i in 0..columns.devices.len() {
            if !simple && !s.used[i] {
                s.devices.push(NONE);
                continue;
            }
            let id = columns.devices.get(i as u32);
            let ids = &self.registry.ids;
            let known = if ids.is(guess, id) {
                Some(guess)
            } else {
                ids.find(id)
            };
            let number = match known {
                Some(number) => {
                    let device = self.registry.devices[number as usize];
                    if device.agent != agent {
                        self.move_device(number, agent, s);
                    }
                    if device.first > lo_second {
                        self.earlier(number, device_first(columns, i, simple, s), s);
                    }
                    number
                }
                None => {
                    let first = device_first(columns, i, simple, s);
                    match self.registry.add(id, agent, first) {
                        Some(number) => {
                            self.own(agent, number);
                            s.touched.insert(number, Vec::new());
                            number
                        }
                        None => NONE,
                    }
                }
            };
            s.devices.push(number);
            guess = number.wrapping_add(1);
        }
    }

    /// The device had an event before its first one.
    fn earlier(&mut self, device: u32, first: i64, s: &mut Scratch) {
        let second = second_of(first);
        if second < self.registry.devices[device as usize].first {
            self.touch(device, s);
            self.registry.devices[device as usize].first = second;
        }
    }

    /// Remembers the groups of a device that is about to change.
    fn touch(&mut self, device: u32, s: &mut Scratch) {
        if let std::collections::btree_map::Entry::Vacant(place) = s.touched.entry(device) {
            place.insert(self.memberships(device));
        }
    }

    /// The device was plugged in behind another agent (or is back after it was decommissioned).
    fn move_device(&mut self, device: u32, agent: u32, s: &mut Scratch) {
        let from = self.registry.devices[device as usize].agent;
        self.alerts.buffers.move_device(device, from, agent);
        self.leave_agent(device);
        self.gone.remove(&device);
        self.registry.devices[device as usize].agent = agent;
        self.own(agent, device);
        // It has left everywhere; with the end of the batch it joins with its new agent.
        s.touched.insert(device, Vec::new());
    }

    fn resolve_metrics(&mut self, columns: &Columns, s: &mut Scratch) {
        for (i, name) in columns.metrics.iter().enumerate() {
            let attribute = name.starts_with('@');
            let names = if attribute {
                &mut self.registry.attributes
            } else {
                &mut self.registry.metrics
            };
            let plain = name.strip_prefix('@').unwrap_or(name);
            let guess = s.metrics.get(i).filter(|m| m.attribute == attribute);
            let number = match guess {
                Some(guess) if names.is(guess.number, plain) => guess.number,
                _ => match names.find(plain) {
                    Some(number) => number,
                    None if names.len() >= METRICS_MAX => NONE,
                    None => names.insert(plain).unwrap_or(NONE),
                },
            };
            let watch = match attribute {
                true => UNWATCHED,
                false => self.alerts.watch_of(plain),
            };
            let metric = Metric {
                number,
                attribute,
                watch,
            };
            match s.metrics.get_mut(i) {
                Some(place) => *place = metric,
                None => s.metrics.push(metric),
            }
        }
        self.commands.resolve(&self.registry.metrics);
    }

    fn resolve_pairs(&mut self, columns: &Columns, simple: bool, s: &mut Scratch) {
        s.slots.clear();
        s.ranges.clear();
        s.classes.clear();
        s.missing.clear();
        if simple {
            s.pairs.clear();
        }
        for (p, of) in columns.series.iter().enumerate() {
            let used = simple || s.pairs[p].kind != PairKind::Unused;
            let device = s.devices[of.device as usize];
            let metric = s.metrics[of.metric as usize];
            let mut pair = Pair {
                kind: PairKind::NoRoom,
                device,
                series: 0,
                metric: metric.number,
                slots: (0, 0),
                watch: metric.watch,
                before: None,
                newest: i64::MIN,
            };
            if !used {
                pair.kind = PairKind::Unused;
            } else if device == NONE || metric.number == NONE {
            } else if metric.attribute {
                pair.kind = PairKind::Attribute;
                pair.series = metric.number;
            } else {
                pair.kind = if metric.watch != UNWATCHED {
                    PairKind::Watched
                } else {
                    PairKind::Value
                };
                match self.registry.find_series(device, metric.number) {
                    Some(series) => pair.series = series,
                    None => s.missing.push((device, metric.number)),
                }
            }
            if simple {
                s.pairs.push(pair);
            } else {
                s.pairs[p] = pair;
            }
        }
        if !s.missing.is_empty() {
            self.add_missing(s);
        }
        // Groups only where an attribute in this very batch cannot change them before the first event.
        if !columns.metrics.iter().any(|m| m.starts_with('@')) {
            for p in 0..s.pairs.len() {
                self.place_pair(p, s);
            }
        }
    }

    fn add_missing(&mut self, s: &mut Scratch) {
        let mut missing = std::mem::take(&mut s.missing);
        missing.sort_unstable();
        missing.dedup();
        for of_device in missing.chunk_by(|a, b| a.0 == b.0) {
            let device = of_device[0].0;
            let metrics: Vec<u32> = of_device.iter().map(|m| m.1).collect();
            self.touch(device, s);
            if !self.registry.add_metrics(device, &metrics) {
                // As many as there is room for.
                for metric in metrics {
                    self.registry.add_metrics(device, &[metric]);
                }
            }
        }
        s.missing = missing;
        for pair in &mut s.pairs {
            if matches!(pair.kind, PairKind::Value | PairKind::Watched) {
                match self.registry.find_series(pair.device, pair.metric) {
                    Some(series) => pair.series = series,
                    None => pair.kind = PairKind::NoRoom,
                }
            }
        }
    }

    /// Finds the groups of a pair's events.
    fn place_pair(&mut self, p: usize, s: &mut Scratch) {
        let pair = s.pairs[p];
        if !matches!(pair.kind, PairKind::Value | PairKind::Watched) {
            return;
        }
        let device = self.registry.devices[pair.device as usize];
        let position = (pair.series - device.series) as usize;
        let base = match s.classes.get(&device.class) {
            Some(&base) => base,
            None => {
                self.place_class(device.class);
                let base = s.ranges.len() as u32;
                for groups in &self.registry.classes[device.class as usize].slots {
                    let from = s.slots.len() as u32;
                    for &group in groups {
                        let (wants, hop) = match group {
                            NONE => (Wants::SUM, i64::MAX),
                            group => match self.aggregate(self.groups[group as usize].slot) {
                                Some(a) => (a.wants, a.spec.hop),
                                None => continue,
                            },
                        };
                        s.slots.push(Slot {
                            group,
                            wants,
                            hop,
                            // No time is in it.
                            start: i64::MAX,
                            target: Target::TooOld,
                            run: (0, 0),
                        });
                    }
                    s.ranges.push((from, s.slots.len() as u32));
                }
                s.classes.insert(device.class, base);
                base
            }
        };
        s.pairs[p].slots = s.ranges[base as usize + position];
    }

    fn add_events(
        &mut self,
        columns: &Columns,
        origin: &Origin<'_>,
        simple: bool,
        s: &mut Scratch,
        aside: &mut Aside,
        fx: &mut Effects,
    ) {
        let hot = self.agents.hot(origin.agent);
        // A plain device promises nothing.
        let promised = if hot.plain() { i64::MIN } else { hot.progress };
        let lazily = columns.metrics.iter().any(|m| m.starts_with('@'));
        let mut placed = vec![!lazily; if lazily { s.pairs.len() } else { 0 }];
        let (mut counted, mut broken) = (0u64, 0u64);
        for i in 0..columns.len() {
            if !simple && !s.taken[i] {
                continue;
            }
            let p = columns.series_of[i] as usize;
            let t = columns.times[i];
            match s.pairs[p].kind {
                PairKind::Value | PairKind::Watched => {}
                PairKind::Attribute => {
                    counted += 1;
                    broken += u64::from(t < promised);
                    if self.attribute_event(columns, i, s.pairs[p], s) {
                        // Its class is another one: series and groups are to be found again. The number of the old
                        // one may be given out again within this very batch.
                        s.classes.clear();
                        let device = s.pairs[p].device;
                        for (pair, placed) in s.pairs.iter().zip(&mut placed) {
                            *placed &= pair.device != device;
                        }
                    }
                    continue;
                }
                PairKind::NoRoom | PairKind::Unused => {
                    aside.no_room.push(i as u32);
                    continue;
                }
            }
            if lazily && !std::mem::replace(&mut placed[p], true) {
                self.place_pair(p, s);
            }
            let pair = s.pairs[p];
            broken += u64::from(t < promised);
            let value = columns.values[i];
            let series = &mut self.registry.series[pair.series as usize];
            if pair.kind == PairKind::Watched {
                let pair = &mut s.pairs[p];
                if pair.newest == i64::MIN {
                    pair.before = series.point();
                }
                s.in_order &= t >= pair.newest;
                pair.newest = pair.newest.max(t);
                s.watched.push(i as u32);
            }
            let is_newest = t >= series.time();
            if is_newest {
                if let Some((Kind::Text, text)) = series.value() {
                    self.registry.texts.release(text as u32);
                }
                match value {
                    Cell::Number(n) => series.set(t, Kind::Number, n.to_bits()),
                    Cell::Bool(b) => series.set(t, Kind::Bool, u64::from(b)),
                    Cell::Text(text) => {
                        let text = self.registry.texts.hold(columns.texts.get(text));
                        series.set(t, Kind::Text, u64::from(text));
                    }
                }
            }
            let slots = &mut s.slots[pair.slots.0 as usize..pair.slots.1 as usize];
            let mut kept = slots.is_empty();
            for slot in slots {
                // Wrapping: before the start is far beyond the end.
                if (t.wrapping_sub(slot.start) as u64) >= slot.hop as u64 {
                    if slot.group == NONE {
                        aside.no_group.push(i as u32);
                        kept = true;
                        continue;
                    }
                    self.put_run(slot);
                    slot.start = t.div_euclid(slot.hop) * slot.hop;
                    slot.target = self.target(slot.group, t);
                }
                match slot.target {
                    Target::Hot(cell) => {
                        kept = true;
                        if pair.device.wrapping_sub(slot.run.0) >= slot.run.1 {
                            if pair.device == slot.run.0 + slot.run.1 && slot.run.1 > 0 {
                                slot.run.1 += 1;
                            } else {
                                self.put_run(slot);
                                slot.run = (pair.device, 1);
                            }
                        }
                        let Some(pane) = self.cells[cell as usize].content.as_deref_mut() else {
                            continue;
                        };
                        let ids = &self.registry.ids;
                        let before = |a, b| ids.bytes(a) < ids.bytes(b);
                        match value {
                            Cell::Number(n) => {
                                pane.add_number(slot.wants, n, t, pair.device, &before)
                            }
                            Cell::Bool(b) => pane.add_bool(slot.wants, b, t, pair.device, &before),
                            Cell::Text(text) => pane.add_text(slot.wants, columns.texts.get(text)),
                        }
                    }
                    Target::Cold(..) => {
                        kept = true;
                        self.add_cold(*slot, pair.device, t, value, columns);
                    }
                    Target::TooOld => {}
                }
            }
            if !kept {
                self.totals.too_old += 1;
                let day = t.div_euclid(DAY) * DAY;
                *self.outbox.too_old.entry((day, pair.device)).or_default() += 1;
                continue;
            }
            counted += 1;
            if self.commands.is_report(pair.metric)
                && let Cell::Text(text) = value
            {
                self.command_report(origin.agent, t, columns.texts.get(text), fx);
            }
            if pair.device < RECENT_DEVICES_MAX {
                self.remember(pair.device, pair.metric, t, value, columns);
            }
        }
        for slot in &mut s.slots {
            self.put_run(slot);
        }
        self.totals.counted += counted;
        self.totals.broken_promises += broken;
    }

    /// Puts a slot's row of devices into its pane.
    #[inline]
    fn put_run(&mut self, slot: &mut Slot) {
        let (first, len) = std::mem::take(&mut slot.run);
        if len > 0
            && slot.wants.has(Wants::DEVICES)
            && let Target::Hot(cell) = slot.target
            && let Some(pane) = self.cells[cell as usize].content.as_deref_mut()
        {
            pane.devices.insert_run(first, len);
        }
    }

    /// An event of a pane that is not in memory.
    fn add_cold(&mut self, slot: Slot, device: u32, t: i64, value: Cell, columns: &Columns) {
        let Target::Cold(rows, cell) = slot.target else {
            return;
        };
        let bits = match value {
            Cell::Number(n) => n.to_bits(),
            Cell::Bool(b) => u64::from(b),
            Cell::Text(text) => xxhash_rust::xxh3::xxh3_64(columns.texts.get(text).as_bytes()),
        };
        let seed = bits ^ (t as u64).rotate_left(20) ^ (u64::from(device) << 40);
        self.cold_digest = self
            .cold_digest
            .wrapping_add(mix(seed ^ u64::from(slot.group)));
        let ids = &self.registry.ids;
        let before = |a, b| ids.bytes(a) < ids.bytes(b);
        for row in rows.into_iter().filter(|r| *r != EMPTY) {
            let pane = &mut self.outbox.at(row).pane;
            if slot.wants.has(Wants::DEVICES) {
                pane.devices.insert(device);
            }
            match value {
                Cell::Number(n) => pane.add_number(slot.wants, n, t, device, &before),
                Cell::Bool(b) => pane.add_bool(slot.wants, b, t, device, &before),
                Cell::Text(text) => pane.add_text(slot.wants, columns.texts.get(text)),
            }
        }
        if cell != EMPTY {
            self.cells[cell as usize].life.sealed += 1;
        }
    }

    /// Takes an attribute's event; true if the device's class changed.
    fn attribute_event(
        &mut self,
        columns: &Columns,
        i: usize,
        pair: Pair,
        s: &mut Scratch,
    ) -> bool {
        let (device, name, t) = (pair.device, pair.series, columns.times[i]);
        if t < self.registry.attribute_time(device, name) {
            return false;
        }
        let text = match columns.values[i] {
            Cell::Text(text) => columns.texts.get(text).to_owned(),
            Cell::Bool(b) => b.to_string(),
            Cell::Number(n) => n.to_string(),
        };
        let class = self.registry.devices[device as usize].class;
        self.touch(device, s);
        let is_first = self.registry.attribute(device, name).is_none();
        let set = self.registry.set_attribute(device, name, t, Some(&text));
        if !set || self.registry.devices[device as usize].class == class {
            return false;
        }
        // A first value says where the device has been all along, a changed one where it is from now on.
        if !is_first && self.places_devices(name) {
            self.placed_from(device, t);
        }
        true
    }

    fn remember(&mut self, device: u32, metric: u32, t: i64, value: Cell, columns: &Columns) {
        let value = match value {
            Cell::Number(n) => Value::Number(n),
            Cell::Bool(b) => Value::Bool(b),
            Cell::Text(text) if columns.texts.get(text).len() > RECENT_TEXT_MAX => return,
            Cell::Text(text) => Value::Text(columns.texts.get(text).into()),
        };
        let full = self.recent.len() >= RECENT_SERIES_MAX;
        let ring = match self.recent.get_mut(&(device, metric)) {
            Some(ring) => ring,
            None if full => return,
            None => self.recent.entry((device, metric)).or_default(),
        };
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
        let origin = Origin {
            agent,
            first_seq: 1,
            shift: 0,
            raw: None,
        };
        self.count_columns(&mut columns, &origin, None, fx);
        let latest = self.now.saturating_add(AHEAD_MAX);
        let valid = columns
            .times
            .iter()
            .filter(|t| (TIME_MIN..=latest).contains(*t));
        if let Some(&newest) = valid.max() {
            // No backlog report: it counts as caught up with its newest event.
            let now = self.now;
            let hot = self.agents.hot_mut(agent);
            hot.progress = hot.progress.max(newest.min(now));
        }
        self.evaluate(&columns, agent, 0, fx);
        self.scratch.columns = columns;
    }

    fn set_events_aside(
        &mut self,
        columns: &Columns,
        origin: &Origin<'_>,
        aside: Aside,
        fx: &mut Effects,
    ) {
        for (reason, events) in [
            (RefusalReason::TimeTooOld, aside.old),
            (RefusalReason::TimeInFuture, aside.future),
            (RefusalReason::CapacityReached, aside.no_room),
            (RefusalReason::WindowForgotten, aside.no_group),
        ] {
            let Some(&first) = events.first() else {
                continue;
            };
            let agent = self.agents.name(origin.agent).to_owned();
            let count = events.len() as u64;
            let mut id = None;
            // An event that some aggregate has is counted; the entry says where it is missing.
            if reason != RefusalReason::WindowForgotten {
                self.totals.quarantined += count;
                if let Some(raw) = origin.raw {
                    id = self.hold(raw, &events, &agent, reason, fx);
                }
            }
            let series = columns.series[columns.series_of[first as usize] as usize];
            let t = columns.times[first as usize];
            let message = match reason {
                RefusalReason::TimeTooOld => format!(
                    "event time {} is before 2020: the device's clock was never set",
                    Time(t)
                ),
                RefusalReason::TimeInFuture => format!(
                    "event time {} is more than 5 minutes after the ingest time {}: set the device's clock",
                    Time(t),
                    Time(self.now)
                ),
                RefusalReason::WindowForgotten => {
                    "an aggregate has no room for the group of this event; the others count it"
                        .to_owned()
                }
                _ => format!(
                    "no room for more devices in partition {}, or for more than {DEVICE_SERIES_MAX} metrics of a device",
                    self.number
                ),
            };
            let item = QuarantineItem {
                id,
                time: Time(self.now),
                kind: "quarantined",
                source: None,
                agent: Some(agent),
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
}

/// Marks the events that are to be taken, and the devices and series that have some. Gives their earliest and
/// latest time.
fn select(
    columns: &Columns,
    first_seq: u64,
    which: Which<'_>,
    latest: i64,
    s: &mut Scratch,
    aside: &mut Aside,
) -> (i64, i64) {
    let n = columns.len();
    s.taken.clear();
    s.taken.resize(n, matches!(which, Which::All));
    match which {
        Which::All => {}
        Which::Seqs(ranges) => {
            for &(from, to) in ranges {
                let from = from.saturating_sub(first_seq) as usize;
                let to = (to.saturating_sub(first_seq) as usize).saturating_add(1);
                s.taken[from.min(n)..to.min(n)].fill(true);
            }
        }
        Which::Events(events) => {
            for &event in events.iter().filter(|e| (**e as usize) < n) {
                s.taken[event as usize] = true;
            }
        }
    }
    s.used.clear();
    s.used.resize(columns.devices.len(), false);
    s.pairs.clear();
    s.pairs.resize(
        columns.series.len(),
        Pair {
            kind: PairKind::Unused,
            device: NONE,
            series: 0,
            metric: 0,
            slots: (0, 0),
            watch: UNWATCHED,
            before: None,
            newest: i64::MIN,
        },
    );
    let (mut lo, mut hi) = (i64::MAX, i64::MIN);
    for i in 0..n {
        if !s.taken[i] {
            continue;
        }
        let t = columns.times[i];
        if t < TIME_MIN {
            aside.old.push(i as u32);
            s.taken[i] = false;
        } else if t > latest {
            aside.future.push(i as u32);
            s.taken[i] = false;
        } else {
            let p = columns.series_of[i] as usize;
            s.pairs[p].kind = PairKind::Value;
            s.used[columns.series[p].device as usize] = true;
            (lo, hi) = (lo.min(t), hi.max(t));
        }
    }
    (lo, hi)
}

/// Earliest taken event of the batch's device at `index`.
fn device_first(columns: &Columns, index: usize, simple: bool, s: &mut Scratch) -> i64 {
    if s.firsts.is_empty() {
        s.firsts.resize(columns.devices.len(), i64::MAX);
        for (i, &t) in columns.times.iter().enumerate() {
            if simple || s.taken[i] {
                let series = columns.series[columns.series_of[i] as usize];
                let first = &mut s.firsts[series.device as usize];
                *first = (*first).min(t);
            }
        }
    }
    s.firsts[index]
}
