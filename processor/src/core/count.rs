//! The hot path: events into windows, series and episodes.
//!
//! Names are resolved once per series of a batch, windows once per (series, window): what is left per
//! event is a few compares and adds.

use std::sync::Arc;

use event::{Cell, Columns, Plain, RefusalReason, Value};
use smallvec::SmallVec;
use views::model::{QuarantineItem, Time};
use views::store::SETTLE_AFTER;
use views::{RowState, SettledCounts};

use super::effects::Effects;
use super::flush::DEADLINE;
use super::partition::{Partition, RECENT_POINTS_MAX, RECENT_SERIES_MAX};
use super::registry::DEVICE_SERIES_MAX;
use super::window::Window;

/// 2020-01-01T00:00:00Z: an earlier event time is a clock that was never set (P5).
const TIME_MIN: i64 = 1_577_836_800_000_000;
/// An event time may be this far ahead of ingest time (P5).
const AHEAD_MAX: i64 = 5 * 60 * 1_000_000;
/// No cell, no group.
pub(super) const NONE: u32 = u32::MAX;
/// Longer texts are not among the recent points, which are held in memory.
const RECENT_TEXT_MAX: usize = 64;

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
    /// By the batch's device index: how often its groups changed within the batch, and since when.
    moves: Vec<(u32, i64)>,
}

/// One series of the batch, resolved at its first event.
#[derive(Clone, Copy)]
struct Pair {
    kind: Kind,
    series: u32,
    slots: (u32, u32),
    /// Moves of its device when it was resolved.
    moves: u32,
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

impl Kind {
    fn is_value(self) -> bool {
        matches!(self, Self::Value | Self::Watched)
    }
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
    forgotten: Option<(usize, u64)>,
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
                moves: 0,
                first: i64::MAX,
                last: i64::MIN,
            },
        );
        s.slots.clear();
        s.devices.clear();
        s.devices.resize(columns.devices.len(), NONE);
        s.moves.clear();
        s.moves.resize(columns.devices.len(), (0, 0));
        let mut moved = false;
        let mut aside = Aside::default();
        let latest = self.now.saturating_add(AHEAD_MAX);
        let agent = &self.agents[origin.agent as usize];
        // A plain device promises nothing.
        let promised = if agent.plain {
            i64::MIN
        } else {
            agent.progress
        };
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
            let unresolved = s.pairs[p].kind == Kind::Unresolved;
            let moves = if moved {
                s.moves[columns.series[p].device as usize].0
            } else {
                0
            };
            if unresolved || s.pairs[p].moves != moves {
                let old = s.pairs[p];
                let mut new = self.resolve(columns, p, origin, t, &mut s);
                (new.first, new.last) = (old.first, old.last);
                s.pairs[p] = new;
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
            let mut forgotten = false;
            for slot in slots {
                if slot.cell == NONE || t < slot.start || t - slot.start >= slot.window {
                    slot.start = t.div_euclid(slot.window) * slot.window;
                    slot.cell = self.window(slot.group, slot.start, pair.series);
                    if slot.cell == NONE {
                        forgotten = true;
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
            if forgotten {
                Aside::note(&mut aside.forgotten, i);
            }
            if let Some(since) = self.newest(&pair, t, columns, i, number, fx) {
                let moves = &mut s.moves[columns.series[p].device as usize];
                *moves = (moves.0 + 1, since);
                moved = true;
            }
        }
        self.totals.counted += counted;
        self.totals.too_old += too_old;
        self.totals.broken_promises += broken;
        for p in &s.pairs {
            if p.kind.is_value() && p.first <= p.last {
                self.seen(p.series, p.first, p.last);
            }
        }
        for (device, &(moves, since)) in s.moves.iter().enumerate() {
            if moves > 0 {
                self.regroup(s.devices[device], since);
            }
        }
        let name = self.agents[origin.agent as usize].name.clone();
        for (reason, noted) in [
            (RefusalReason::TimeTooOld, aside.old),
            (RefusalReason::TimeInFuture, aside.future),
            (RefusalReason::CapacityReached, aside.no_room),
            (RefusalReason::WindowForgotten, aside.forgotten),
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
        s: &mut Scratch,
    ) -> Pair {
        let of = columns.series[pair];
        let mut out = Pair {
            kind: Kind::NoRoom,
            series: 0,
            slots: (0, 0),
            moves: 0,
            first: i64::MAX,
            last: i64::MIN,
        };
        let device = &mut s.devices[of.device as usize];
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
        out.moves = s.moves[of.device as usize].0;
        if out.moves > 0 {
            self.place_series(series);
        }
        if name.starts_with('@') {
            out.kind = Kind::Attribute;
            return out;
        }
        let watched = self.alerts.rules.iter().any(|r| r.metric == name);
        out.kind = if watched { Kind::Watched } else { Kind::Value };
        out.slots.0 = s.slots.len() as u32;
        for &group in &self.series[series as usize].groups {
            if group == NONE {
                s.slots.push(Slot {
                    group,
                    window: i64::MAX,
                    start: 0,
                    cell: NONE,
                });
            } else if let Some(a) = self.groups[group as usize].aggregate {
                let window = self.aggregates[a as usize].spec.window;
                s.slots.push(Slot {
                    group,
                    window,
                    start: 0,
                    cell: NONE,
                });
            }
        }
        out.slots.1 = s.slots.len() as u32;
        out
    }

    /// The cell of a window, made if need be, with the device of `series` in it; [`NONE`] if the window
    /// is forgotten.
    fn window(&mut self, group: u32, start: i64, series: u32) -> u32 {
        if group == NONE {
            return NONE;
        }
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

    /// Last value, attributes, recent points and rules of an event's series. If the event moves its device to
    /// other groups, it gives the time from which on.
    #[inline]
    fn newest(
        &mut self,
        pair: &Pair,
        t: i64,
        columns: &Columns,
        event: usize,
        number: Option<f64>,
        fx: &mut Effects,
    ) -> Option<i64> {
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
            (Kind::Attribute, _) if is_newest => return self.attribute(pair.series, t),
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
        None
    }

    fn remember(&mut self, series: u32, t: i64, value: Value) {
        if matches!(&value, Value::Text(text) if text.len() > RECENT_TEXT_MAX) {
            return;
        }
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

    fn set_events_aside(
        &mut self,
        reason: RefusalReason,
        agent: &Arc<str>,
        columns: &Columns,
        event: usize,
        count: u64,
        fx: &mut Effects,
    ) {
        // An event that some aggregate has is counted; the entry says where it is missing.
        if reason != RefusalReason::WindowForgotten {
            self.totals.quarantined += count;
        }
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
            RefusalReason::WindowForgotten => {
                "an aggregate no longer holds the window of this event, or has no room for it; the others count it"
                    .to_owned()
            }
            _ => format!(
                "no room for more devices in partition {}, or for more than {DEVICE_SERIES_MAX} metrics of a device",
                self.number
            ),
        };
        let item = QuarantineItem {
            id: None,
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
