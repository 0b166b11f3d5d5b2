//! Episodes of rules on devices, and when they page.
//!
//! Every rule is stepped along every series that it watches, in the order (event time, incarnation, seq):
//! - An agent's progress says up to when everything has come. Values before it are **final** and step the
//!   rule's own state ([`Run`]) in order.
//! - Values ahead of it wait in a [`Buffer`](buffer::Buffer). The rule is stepped through them on a copy of its
//!   state: that is **provisional**, shows and pages at once, and is found anew when a value comes between.
//! - So the episodes in the end depend on the values alone, not on the order in which they came, as long as the
//!   agent keeps its promises and no buffer runs over ([`buffer::SERIES_MAX`]).
//! - A value older than what was stepped as final (a broken promise, a plain device out of order, a forced
//!   buffer) is **historical**: the late values of a record are stepped on their own, and episodes among them
//!   that are not known yet are recorded, never paged. Where such an episode ended is known only up to the last of
//!   these values; what is recorded of its series already is not changed by it.
//!
//! A page goes out iff the episode is open at the newest known value **and** the agent has caught up (progress
//! within 30 s of ingest time), or 60 s of ingest time after it was learned. An episode that is learned only
//! after it ended is recorded, and pages only if its rule says `safety`.
//!
//! A rule without memory (threshold, silence) costs nothing on a series where nothing is under way; a silence has
//! a timer of 16 bytes.

mod book;
pub(crate) mod buffer;
mod edge;
mod quiet;
pub(crate) mod run;
mod text;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rules::{Kind, Rule};
use serde::{Deserialize, Serialize};

pub(crate) use book::{Active, Ended, HISTORY_MAX, Round, Track};
use buffer::{Buffers, Held, Key, SERIES_MAX, TOTAL_MAX};
pub(crate) use edge::EDGE;
use edge::Edge;
use run::{Closed, Point, Run};

use super::effects::Effects;
use super::partition::Partition;

/// Most places (rule, series) of kinds that remember something of every series. Further ones are not watched.
const MEMORY_MAX: usize = 1_000_000;
/// No rule watches it.
pub(crate) const UNWATCHED: u32 = u32::MAX;
/// Agents tell of alerts with it.
pub(crate) const EDGE_WATCH: u32 = u32::MAX - 1;

/// Where an episode is: (position of the rule, number of the device; of an agent for the kind `offline`).
pub(crate) type Place = (u32, u32);

/// A rule that runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Watching {
    pub(crate) rule: Rule,
    /// It sees values of records from this offset on.
    pub(crate) since: u64,
}

/// The rules of one metric.
#[derive(Debug, Clone, PartialEq, Default)]
struct Watch {
    rules: Vec<(u32, Kind)>,
}

/// All episodes of a partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Alerts {
    pub(crate) rules: Vec<Watching>,
    /// By metric; the position is the number that [`Self::watch_of`] gives.
    watch: Vec<Watch>,
    names: BTreeMap<String, u32>,
    pub(crate) tracks: BTreeMap<Place, Track>,
    /// How many tracks are of kinds with memory.
    remembered: usize,
    pub(crate) buffers: Buffers,
    /// When a silence is looked at: (ingest time, rule, device).
    pub(crate) timers: BTreeSet<(i64, u32, u32)>,
    pub(crate) edge: Edge,
    /// Something is to be told of them, when their agents have caught up; looked through once a second.
    waiting: BTreeSet<Place>,
    /// Those of them that began to fire in this record: most page at once.
    fresh: Vec<Place>,
    /// To be shown at the next flush. A batch may change an episode many times: only what it is then counts.
    changed: BTreeSet<Place>,
    ended: VecDeque<Ended>,
    /// Those that were shown as open: all of them are told, or they would be shown so for ever.
    ended_shown: Vec<Ended>,
    pub(crate) history: VecDeque<Ended>,
    /// Ids of all that is open or in the history.
    ids: BTreeSet<u64>,
    /// Series of the record under way whose buffers changed.
    dirty: BTreeSet<Key>,
}

/// What is needed to go on from a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    since: Vec<u64>,
    tracks: Vec<(Place, Track)>,
    buffers: BTreeMap<Key, buffer::Buffer>,
    timers: Vec<(i64, u32, u32)>,
    edge: Edge,
    history: VecDeque<Ended>,
}

/// A value of a series that some rule watches.
pub(crate) struct Value {
    pub(crate) key: Key,
    /// As of [`Alerts::watch_of`].
    pub(crate) watch: u32,
    pub(crate) point: Point,
    pub(crate) rank: u64,
    /// The one before it, as far as the series' newest value and this record say.
    pub(crate) before: Option<Point>,
    /// Everything before this has come.
    pub(crate) progress: i64,
}

impl Alerts {
    /// The number of the metric, if a rule is about it; else [`UNWATCHED`].
    pub(crate) fn watch_of(&self, metric: &str) -> u32 {
        match self.names.get(metric) {
            Some(number) => *number,
            None if metric == event::alert::METRIC => EDGE_WATCH,
            None => UNWATCHED,
        }
    }

    /// Whether a value changes nothing on a series where nothing is under way and nothing waits.
    #[inline]
    pub(crate) fn is_quiet(&self, watch: u32, before: Option<i64>, point: Point) -> bool {
        let rules = &self.watch[watch as usize].rules;
        rules.iter().all(|(_, kind)| match kind {
            Kind::Threshold(t) => point.value.is_none_or(|v| !t.is_beyond(v)),
            Kind::Silence(s) => before.is_some_and(|b| point.time.saturating_sub(b) <= s.after),
            _ => false,
        })
    }

    /// Whether something is under way or waits on the series.
    pub(crate) fn holds(&self, key: Key, watch: u32) -> bool {
        let rules = self.watch.get(watch as usize).map(|w| w.rules.as_slice());
        self.buffers.by.contains_key(&key)
            || rules
                .unwrap_or_default()
                .iter()
                .any(|(rule, _)| self.tracks.contains_key(&(*rule, key.1)))
    }

    /// Whether values of the agent wait.
    pub(crate) fn has_waiting_of(&self, agent: u32) -> bool {
        !self.buffers.by.is_empty() && {
            let range = (agent, 0, 0)..=(agent, u32::MAX, u32::MAX);
            self.buffers.by.range(range).next().is_some()
        }
    }

    /// Whether the rule is for the device.
    fn applies(&self, rule: u32, device: u32, p: &Partition) -> bool {
        let only_on = &self.rules[rule as usize].rule.only_on;
        only_on
            .iter()
            .all(|(name, text)| p.has_attribute(device, name, text))
    }

    /// Takes a value. Those of one record come in event-time order for each series; [`Self::settle`] follows.
    /// False: it is older than what is final.
    pub(crate) fn take(&mut self, value: &Value, p: &Partition, fx: &mut Effects) -> bool {
        let Value {
            key, watch, point, ..
        } = *value;
        if let Some(buffer) = self.buffers.by.get_mut(&key) {
            if buffer.stepped.is_some_and(|s| point.time < s.time) {
                return false;
            }
            self.hold(value, p.offset);
            return true;
        }
        if value.before.is_some_and(|b| point.time < b.time) {
            return false;
        }
        if value.before.is_none() {
            self.set_timers(key.1, watch, point.time);
        }
        if point.time >= value.progress {
            self.hold(value, p.offset);
            return true;
        }
        for i in 0..self.watch[watch as usize].rules.len() {
            let (rule, kind) = self.watch[watch as usize].rules[i];
            let place = (rule, key.1);
            let Some(mut track) = self.track(place, &kind, p) else {
                continue;
            };
            let mut closed = Vec::new();
            track.run.step(&kind, value.before, point, &mut closed);
            let round = Round {
                finals: closed.len(),
                closed,
                open: track.run.open.clone(),
                floor: i64::MAX,
            };
            self.reconcile(place, track, round, p, fx);
        }
        true
    }

    fn hold(&mut self, value: &Value, offset: u64) {
        let buffer = self.buffers.by.entry(value.key).or_default();
        if buffer.values.is_empty() && buffer.stepped.is_none() {
            buffer.stepped = value.before;
        }
        buffer.insert(Held {
            point: value.point,
            rank: value.rank,
            offset,
        });
        self.buffers.len += 1;
        self.dirty.insert(value.key);
    }

    /// What is known of a place, taken out; none if the rule is not for the device, or there is no room.
    fn track(&mut self, place: Place, kind: &Kind, p: &Partition) -> Option<Track> {
        if let Some(track) = self.tracks.remove(&place) {
            self.remembered -= usize::from(kind.has_memory());
            return Some(track);
        }
        let fits = !kind.has_memory() || self.remembered < MEMORY_MAX;
        (fits && self.applies(place.0, place.1, p)).then(Track::default)
    }

    fn put_back(&mut self, place: Place, track: Track) {
        if !track.is_blank() {
            self.remembered += usize::from(self.has_memory(place.0));
            self.tracks.insert(place, track);
        }
    }

    /// Whether the rule remembers something of every series; false for agents' own.
    fn has_memory(&self, rule: u32) -> bool {
        let rule = self.rules.get(rule as usize);
        rule.is_some_and(|w| w.rule.kind.has_memory())
    }

    /// The end of a record: what waits of an agent is stepped as far as its `progress` allows, and what changed
    /// is found anew. Gives the series that were looked at.
    pub(crate) fn settle(
        &mut self,
        agent: u32,
        progress: i64,
        p: &Partition,
        fx: &mut Effects,
    ) -> Vec<Key> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut seen = Vec::new();
        for key in self.buffers.of_agent(agent) {
            let buffer = &self.buffers.by[&key];
            let surplus = buffer.values.len().saturating_sub(SERIES_MAX);
            let total = self.buffers.len.saturating_sub(TOTAL_MAX);
            let forced = surplus.max(total.min(buffer.values.len()));
            let due = buffer.due(progress).max(forced);
            if due > 0 || dirty.contains(&key) {
                self.settle_series(key, due, progress, p, fx);
                seen.push(key);
            }
        }
        seen
    }

    /// The first `due` values of a series are final.
    fn settle_series(
        &mut self,
        key: Key,
        due: usize,
        progress: i64,
        p: &Partition,
        fx: &mut Effects,
    ) {
        let Some(mut buffer) = self.buffers.by.remove(&key) else {
            return;
        };
        let watch = self.watch_of(p.metric_name(key.2));
        let rules = match self.watch.get(watch as usize) {
            Some(watch) => watch.rules.clone(),
            None => Vec::new(),
        };
        let all_final = due == buffer.values.len();
        for (rule, kind) in rules {
            let place = (rule, key.1);
            let Some(mut track) = self.track(place, &kind, p) else {
                continue;
            };
            let since = self.rules[rule as usize].since;
            let mut closed = Vec::new();
            let mut before = buffer.stepped;
            for held in buffer.values.iter().take(due) {
                if held.offset >= since {
                    track.run.step(&kind, before, held.point, &mut closed);
                }
                before = Some(held.point);
            }
            let finals = closed.len();
            let open = if all_final {
                track.run.open.clone()
            } else {
                let mut ahead = track.run.clone();
                for held in buffer.values.iter().skip(due) {
                    if held.offset >= since {
                        ahead.step(&kind, before, held.point, &mut closed);
                    }
                    before = Some(held.point);
                }
                ahead.open
            };
            let round = Round {
                finals,
                closed,
                open,
                floor: if all_final { i64::MAX } else { progress },
            };
            self.reconcile(place, track, round, p, fx);
        }
        if let Some(last) = buffer.values.drain(..due).next_back() {
            buffer.stepped = Some(last.point);
        }
        self.buffers.len -= due;
        if !buffer.values.is_empty() {
            self.buffers.by.insert(key, buffer);
        }
    }

    /// Values of one series and record that are older than what is final, ascending by time.
    pub(crate) fn take_historical(
        &mut self,
        key: Key,
        watch: u32,
        points: &[Point],
        p: &Partition,
        fx: &mut Effects,
    ) {
        for i in 0..self.watch[watch as usize].rules.len() {
            let (rule, kind) = self.watch[watch as usize].rules[i];
            let place = (rule, key.1);
            if matches!(kind, Kind::Silence(_)) || !self.applies(rule, key.1, p) {
                continue;
            }
            let (mut run, mut before, mut closed) = (Run::default(), None, Vec::new());
            for &point in points {
                run.step(&kind, before, point, &mut closed);
                before = Some(point);
            }
            if let (Some(open), Some(last)) = (run.open, before) {
                closed.push(Closed {
                    open,
                    ended: last.time,
                });
            }
            for closed in closed {
                self.record_historical(place, closed, p, fx);
            }
        }
    }

    /// The device is gone: what was under way is over without a word.
    pub(crate) fn drop_device(&mut self, device: u32) {
        let edge = (0..self.edge.rules.len() as u32).map(|n| EDGE + n);
        for rule in (0..self.rules.len() as u32).chain(edge) {
            if !self.is_of_agents(rule) {
                self.forget((rule, device));
                self.edge.newest.remove(&(rule, device));
            }
        }
        self.buffers.drop_device(device);
    }

    /// What was under way at a place is over without a word.
    fn forget(&mut self, place: Place) {
        if let Some(track) = self.tracks.remove(&place) {
            self.remembered -= usize::from(self.has_memory(place.0));
            for active in track.shown.iter().chain(track.told.iter().map(|t| &t.0)) {
                self.ids.remove(&active.id);
            }
        }
        self.waiting.remove(&place);
        self.changed.remove(&place);
        self.fresh.retain(|p| *p != place);
    }

    /// Whether the rule watches agents.
    pub(crate) fn is_of_agents(&self, rule: u32) -> bool {
        let rule = self.rules.get(rule as usize);
        rule.is_some_and(|w| matches!(w.rule.kind, Kind::Offline(_)))
    }

    /// Changes the rules. One with the same name, metric, condition and `match` goes on, whatever else changed;
    /// episodes of the others end at the present ingest time.
    pub(crate) fn declare(&mut self, rules: Vec<Rule>, p: &Partition, fx: &mut Effects) {
        let same = |a: &Rule, b: &Rule| {
            (&a.name, &a.metric, &a.kind, &a.only_on) == (&b.name, &b.metric, &b.kind, &b.only_on)
        };
        let moved: Vec<Option<u32>> = self
            .rules
            .iter()
            .map(|old| rules.iter().position(|new| same(new, &old.rule)))
            .map(|at| at.map(|i| i as u32))
            .collect();
        for (rule, _) in moved.iter().enumerate().filter(|m| m.1.is_none()) {
            self.finish(rule as u32, p, fx);
        }
        let mut watching: Vec<Watching> = rules
            .into_iter()
            .map(|rule| Watching {
                rule,
                since: p.offset,
            })
            .collect();
        let mut added = vec![true; watching.len()];
        for (old, new) in self.rules.iter().zip(&moved) {
            if let Some(new) = new {
                watching[*new as usize].since = old.since;
                added[*new as usize] = false;
            }
        }
        // Agents' own rules stay, but for those that the server has now.
        let edge = (EDGE..).zip(&self.edge.rules);
        let taken: Vec<u32> = edge
            .filter(|(_, e)| watching.iter().any(|w| w.rule.name == e.name))
            .map(|(number, _)| number)
            .collect();
        for rule in taken {
            self.finish_places(rule, p, fx);
        }
        let renumber = |p: &Place| match p.0 {
            EDGE.. => Some(*p),
            rule => moved[rule as usize].map(|rule| (rule, p.1)),
        };
        self.tracks = std::mem::take(&mut self.tracks)
            .into_iter()
            .filter_map(|(p, t)| Some((renumber(&p)?, t)))
            .collect();
        self.waiting = self.waiting.iter().filter_map(renumber).collect();
        self.changed = self.changed.iter().filter_map(renumber).collect();
        let timers = self.timers.iter();
        self.timers = timers
            .filter_map(|t| Some((t.0, moved[t.1 as usize]?, t.2)))
            .collect();
        self.fresh.clear();
        self.set_rules(watching);
        for (rule, _) in added.iter().enumerate().filter(|a| *a.1) {
            self.begin_timers(rule as u32, p);
        }
        // What no rule watches any more need not wait.
        let watched = |key: &Key| self.names.contains_key(p.metric_name(key.2));
        self.buffers.by.retain(|key, _| watched(key));
        self.buffers.len = self.buffers.by.values().map(|b| b.values.len()).sum();
    }

    /// Ends what a rule has under way; what waits counts as it is.
    fn finish(&mut self, rule: u32, p: &Partition, fx: &mut Effects) {
        let Watching { rule: r, since } = self.rules[rule as usize].clone();
        let keys: Vec<Key> = self.buffers.by.keys().copied().collect();
        for key in keys {
            let place = (rule, key.1);
            if p.metric_name(key.2) != r.metric {
                continue;
            }
            let Some(mut track) = self.track(place, &r.kind, p) else {
                continue;
            };
            let buffer = &self.buffers.by[&key];
            let (mut before, mut closed) = (buffer.stepped, Vec::new());
            for held in &buffer.values {
                if held.offset >= since {
                    track.run.step(&r.kind, before, held.point, &mut closed);
                }
                before = Some(held.point);
            }
            let round = Round {
                finals: closed.len(),
                closed,
                open: track.run.open.clone(),
                floor: i64::MAX,
            };
            self.reconcile(place, track, round, p, fx);
        }
        self.finish_places(rule, p, fx);
    }

    fn finish_places(&mut self, rule: u32, p: &Partition, fx: &mut Effects) {
        let places = (rule, 0)..=(rule, u32::MAX);
        let places: Vec<Place> = self.tracks.range(places).map(|t| *t.0).collect();
        for place in places {
            self.end_with_rule(place, p, fx);
            self.forget(place);
        }
    }

    fn set_rules(&mut self, rules: Vec<Watching>) {
        self.watch.clear();
        self.names.clear();
        for (number, watching) in (0u32..).zip(&rules) {
            let rule = &watching.rule;
            // Those of groups are for alerting, which has the results of all partitions.
            if matches!(rule.kind, Kind::Offline(_)) || rule.kind.is_of_groups() {
                continue;
            }
            let next = self.watch.len() as u32;
            let at = *self.names.entry(rule.metric.clone()).or_insert(next);
            if at == next {
                self.watch.push(Watch::default());
            }
            self.watch[at as usize].rules.push((number, rule.kind));
        }
        self.rules = rules;
    }

    /// What must be saved.
    pub(crate) fn save(&self) -> Saved {
        Saved {
            since: self.rules.iter().map(|r| r.since).collect(),
            tracks: self.tracks.iter().map(|(p, t)| (*p, t.clone())).collect(),
            buffers: self.buffers.by.clone(),
            timers: self.timers.iter().copied().collect(),
            edge: self.edge.clone(),
            history: self.history.clone(),
        }
    }

    /// What was saved; the rest follows from it. None if it does not fit the rules.
    pub(crate) fn restore(rules: Vec<Rule>, saved: Saved) -> Option<Self> {
        (rules.len() == saved.since.len()).then_some(())?;
        let mut alerts = Self::default();
        let rules = rules.into_iter().zip(saved.since);
        alerts.set_rules(
            rules
                .map(|(rule, since)| Watching { rule, since })
                .collect(),
        );
        alerts.edge = saved.edge;
        for (place, track) in saved.tracks {
            let known = alerts.edge.rule(place.0).is_some();
            let watching = alerts.rules.get(place.0 as usize);
            (known || watching.is_some_and(|w| track.run.fits(&w.rule.kind))).then_some(())?;
            alerts.remembered += usize::from(alerts.has_memory(place.0));
            if track.shown.as_ref().is_some_and(Active::has_to_tell) {
                alerts.waiting.insert(place);
            }
            for active in track.shown.iter().chain(track.told.iter().map(|t| &t.0)) {
                alerts.ids.insert(active.id);
            }
            alerts.tracks.insert(place, track);
        }
        alerts.ids.extend(saved.history.iter().map(|e| e.active.id));
        alerts.history = saved.history;
        alerts.buffers = Buffers::restore(saved.buffers);
        alerts.timers = saved.timers.into_iter().collect();
        let rules = alerts.rules.len() as u32;
        let fits = |t: &(i64, u32, u32)| t.1 < rules;
        alerts.timers.iter().all(fits).then_some(alerts)
    }
}
