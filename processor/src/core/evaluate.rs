//! Rules see what was counted, when the header that came with it was read: only then is known what is final.

use std::collections::BTreeMap;

use event::{Cell, Columns, Incarnation};

use super::alerts::buffer::Key;
use super::alerts::run::Point;
use super::alerts::{EDGE_WATCH, UNWATCHED, Value};
use super::effects::Effects;
use super::partition::Partition;
use super::registry::{Kind, NONE};

/// Bits of a rank that are the seq.
const SEQ_BITS: u32 = 40;

/// What orders values of the same time: incarnation, then seq. Beyond 16 million incarnations or a trillion
/// events of one, equal times are in the order of arrival.
pub(crate) fn rank(incarnation: Incarnation, seq: u64) -> u64 {
    let no = u64::from(incarnation.no).min((1 << (64 - SEQ_BITS)) - 1);
    no << SEQ_BITS | seq.min((1 << SEQ_BITS) - 1)
}

fn point(columns: &Columns, event: u32) -> Point {
    Point {
        time: columns.times[event as usize],
        value: match columns.values[event as usize] {
            Cell::Number(n) => Some(n),
            Cell::Bool(b) => Some(f64::from(u8::from(b))),
            Cell::Text(_) => None,
        },
    }
}

impl Partition {
    /// Steps the rules with what was counted of a record of the agent. `first` is the rank of its first event.
    pub(crate) fn evaluate(&mut self, columns: &Columns, agent: u32, first: u64, fx: &mut Effects) {
        let mut s = std::mem::take(&mut self.scratch);
        let mut alerts = std::mem::take(&mut self.alerts);
        if !s.in_order {
            // Of equal times the earlier seq comes first: indexes ascend with them.
            let time = |event: &u32| columns.times[*event as usize];
            s.watched.sort_by_key(time);
        }
        let hot = self.agents.hot(agent);
        // A plain device promises nothing: what it sent is all there is.
        let progress = if hot.plain() { i64::MAX } else { hot.progress };
        let mut late: BTreeMap<u32, Vec<Point>> = BTreeMap::new();
        for &event in &s.watched {
            let at = columns.series_of[event as usize];
            let pair = &mut s.pairs[at as usize];
            let point = point(columns, event);
            let before = pair.before;
            if before.is_none_or(|b| b.time <= point.time) {
                pair.before = Some(point);
            }
            if pair.watch == EDGE_WATCH {
                if let Cell::Text(text) = columns.values[event as usize] {
                    let when = (point.time, first.saturating_add(u64::from(event)));
                    let text = columns.texts.get(text);
                    alerts.hear_edge(pair.device, text, when, self, fx);
                }
                continue;
            }
            let flagged = self.registry.series[pair.series as usize].is_flagged();
            // Nothing is under way and nothing begins: so it is for nearly all.
            if !flagged
                && point.time < progress
                && before.is_none_or(|b| b.time <= point.time)
                && alerts.is_quiet(pair.watch, before.map(|b| b.time), point)
            {
                continue;
            }
            let value = Value {
                key: (agent, pair.device, pair.metric),
                watch: pair.watch,
                point,
                rank: first.saturating_add(u64::from(event)),
                before,
                progress,
            };
            if !alerts.take(&value, self, fx) {
                late.entry(at).or_default().push(point);
            }
            let holds = alerts.holds(value.key, value.watch);
            self.registry.series[pair.series as usize].set_flag(holds);
        }
        for (at, points) in late {
            let pair = &s.pairs[at as usize];
            let key = (agent, pair.device, pair.metric);
            alerts.take_historical(key, pair.watch, &points, self, fx);
        }
        s.watched.clear();
        self.alerts = alerts;
        self.scratch = s;
        self.settle_rules(agent, fx);
    }

    /// The agent's progress may have moved: what waited for it may be final.
    pub(crate) fn settle_rules(&mut self, agent: u32, fx: &mut Effects) {
        if !self.alerts.has_waiting_of(agent) {
            return;
        }
        let hot = self.agents.hot(agent);
        let progress = if hot.plain() { i64::MAX } else { hot.progress };
        let mut alerts = std::mem::take(&mut self.alerts);
        let seen = alerts.settle(agent, progress, self, fx);
        for key in seen {
            self.flag(key, &alerts);
        }
        self.alerts = alerts;
    }

    /// Says at a series whether something is under way or waits there.
    fn flag(&mut self, key: Key, alerts: &super::alerts::Alerts) {
        let watch = alerts.watch_of(self.metric_name(key.2));
        if let Some(series) = self.registry.find_series(key.1, key.2) {
            let holds = watch != UNWATCHED && alerts.holds(key, watch);
            self.registry.series[series as usize].set_flag(holds);
        }
    }

    /// Once a second: pages that are due, what fires although nothing comes, what changed.
    pub(crate) fn tend_alerts(&mut self, fx: &mut Effects) {
        let mut alerts = std::mem::take(&mut self.alerts);
        for (device, metric) in alerts.look_at_silence(self, fx) {
            if let Some(series) = self.registry.find_series(device, metric) {
                self.registry.series[series as usize].set_flag(true);
            }
        }
        alerts.page_fresh(self, fx);
        alerts.page_waiting(self, fx);
        alerts.take_changed(self, fx);
        self.alerts = alerts;
    }

    /// Pages what began to fire in this record.
    pub(crate) fn page(&mut self, fx: &mut Effects) {
        if self.alerts.has_fresh() {
            let mut alerts = std::mem::take(&mut self.alerts);
            alerts.page_fresh(self, fx);
            self.alerts = alerts;
        }
    }

    /// The agent itself was heard from.
    pub(crate) fn heard(&mut self, agent: u32, fx: &mut Effects) {
        if self.alerts.watches_agents() {
            let mut alerts = std::mem::take(&mut self.alerts);
            alerts.heard(agent, self, fx);
            self.alerts = alerts;
        }
    }

    pub(crate) fn metric_name(&self, metric: u32) -> &str {
        self.registry.metrics.get(metric)
    }

    /// The newest value of a series as rules see it.
    pub(crate) fn newest_point(&self, device: u32, metric: u32) -> Option<Point> {
        let series = self.registry.find_series(device, metric)?;
        self.registry.series[series as usize].point()
    }

    /// Whether the device has no agent of ours.
    pub(crate) fn is_plain(&self, device: u32) -> bool {
        let agent = self.registry.devices[device as usize].agent;
        agent != NONE && self.agents.hot(agent).plain()
    }

    /// Whether an attribute of the device has this value.
    pub(crate) fn has_attribute(&self, device: u32, name: &str, text: &str) -> bool {
        let name = self.registry.attributes.find(name);
        let held = name.and_then(|name| self.registry.attribute(device, name));
        held.is_some_and(|held| **self.registry.texts.get(held) == *text)
    }

    /// The agent's id, and attributes of its own device; without one, of its first device.
    pub(crate) fn about_agent(&self, agent: u32) -> (String, BTreeMap<String, String>) {
        let name = self.agents.name(agent).to_owned();
        let own = self.registry.ids.find(&name);
        let own = own.filter(|d| self.registry.devices[*d as usize].agent == agent);
        let hot = self.agents.hot(agent);
        let device = own.or((hot.devices > 0).then_some(hot.first_device));
        let attributes = device.map(|d| self.about(d).1).unwrap_or_default();
        (name, attributes)
    }
}

impl super::registry::Series {
    /// As rules see it; none before the first value.
    pub(crate) fn point(self) -> Option<Point> {
        let (kind, bits) = self.value()?;
        Some(Point {
            time: self.time(),
            value: match kind {
                Kind::Number => Some(f64::from_bits(bits)),
                Kind::Bool => Some(bits as f64),
                Kind::Text => None,
            },
        })
    }
}
