//! Answers about devices, from the state.

use event::Value;
use views::completeness::DORMANT_AFTER;
use views::model::{
    Backlog, ClockReport, Device as DeviceModel, LastValue, Outstanding, Point, Scalar, Time,
};
use views::{DeviceQuery, OutstandingQuery, Page};

use super::members::hour_of;
use super::partition::Partition;
use super::registry::{Kind, NONE, Series, micros_of};

fn scalar(value: &Value) -> Scalar {
    match value {
        Value::Number(n) => Scalar::Number(*n),
        Value::Bool(b) => Scalar::Bool(*b),
        Value::Text(t) => Scalar::Text(t.to_string()),
    }
}

impl Partition {
    fn held_value(&self, series: Series) -> Option<Scalar> {
        Some(match series.value()? {
            (Kind::Number, bits) => Scalar::Number(f64::from_bits(bits)),
            (Kind::Bool, bits) => Scalar::Bool(bits != 0),
            (Kind::Text, text) => Scalar::Text(self.registry.texts.get(text as u32).to_string()),
        })
    }

    fn model(&self, number: u32) -> DeviceModel {
        let device = self.registry.devices[number as usize];
        let hot = self.agents.hot(device.agent);
        let mut last_event = i64::MIN;
        let mut values: Vec<LastValue> = Vec::new();
        for (metric, series) in self.registry.series_of(number) {
            if let Some(value) = self.held_value(series) {
                last_event = last_event.max(series.time());
                values.push(LastValue {
                    metric: self.registry.metrics.get(metric).to_owned(),
                    time: Time(series.time()),
                    value,
                });
            }
        }
        values.sort_by(|a, b| a.metric.cmp(&b.metric));
        let first = micros_of(device.first);
        let (id, attributes) = self.about(number);
        DeviceModel {
            id,
            agent: (!hot.plain()).then(|| self.agents.name(device.agent).to_owned()),
            status: self.standing(device.agent).as_str(),
            first_seen: Time(first),
            last_event: Time(last_event.max(first)),
            last_contact: Time(hot.last_contact),
            progress: Time(hot.progress.min(self.now)),
            attributes,
            values,
            backlog: self.backlog(device.agent),
            clock: self.clock_report(device.agent),
        }
    }

    fn clock_report(&self, agent: u32) -> Option<ClockReport> {
        let state = self.agents.clock(agent)?;
        Some(ClockReport {
            quality: state.quality.as_str(),
            error_ms: (state.error_ms != u32::MAX).then_some(state.error_ms),
            offset_ms: self.agents.offset(agent).map(|us| us / 1000),
            off: self.agents.hot(agent).clock_off(),
        })
    }

    fn backlog(&self, agent: u32) -> Option<Backlog> {
        let held = self.agents.held(agent);
        (!self.agents.hot(agent).plain()).then(|| Backlog {
            events: held.events,
            bytes: held.bytes,
            oldest: held.oldest.map(|t| Time(t.as_micros())),
        })
    }

    fn is_here(&self, number: u32) -> bool {
        self.registry.devices[number as usize].agent != NONE
    }

    /// One device.
    pub fn find_device(&self, id: &str) -> Option<DeviceModel> {
        let number = self.registry.ids.find(id).filter(|n| self.is_here(*n))?;
        Some(self.model(number))
    }

    /// The agent of a device; none of a plain device, and of what is no device here.
    pub fn agent_of(&self, id: &str) -> Option<&str> {
        let number = self.registry.ids.find(id).filter(|n| self.is_here(*n))?;
        let agent = self.registry.devices[number as usize].agent;
        (!self.agents.hot(agent).plain()).then(|| self.agents.name(agent))
    }

    /// The devices that match, ascending by id.
    pub fn list_devices(&self, query: &DeviceQuery) -> Page<DeviceModel> {
        let text = query.text.to_ascii_lowercase();
        let registry = &self.registry;
        // Attributes are the same for all devices of a class.
        let wanted: Option<Vec<(u32, u32)>> = query
            .attributes
            .iter()
            .map(|(name, value)| {
                let name = registry.attributes.find(name)?;
                Some((name, registry.texts.find(value).unwrap_or(NONE)))
            })
            .collect();
        let Some(wanted) = wanted else {
            return Page {
                items: Vec::new(),
                total: 0,
            };
        };
        let fits: Vec<bool> = registry
            .classes
            .iter()
            .map(|class| wanted.iter().all(|pair| class.attributes.contains(pair)))
            .collect();
        let matching = (0..registry.len() as u32).filter(|&number| {
            let device = registry.devices[number as usize];
            device.agent != NONE
                && fits[device.class as usize]
                && (text.is_empty()
                    || registry
                        .ids
                        .get(number)
                        .to_ascii_lowercase()
                        .contains(&text))
                && query
                    .status
                    .as_ref()
                    .is_none_or(|s| s == self.standing(device.agent).as_str())
        });
        self.page_of(matching, query.after.as_deref(), query.limit, |n| {
            self.model(n)
        })
    }

    /// The devices that a window waits for, ascending by id.
    pub fn list_outstanding(&self, query: &OutstandingQuery) -> Page<Outstanding> {
        let none = Page {
            items: Vec::new(),
            total: 0,
        };
        let key = (query.aggregate, query.group.clone());
        let (Some(&group), Some(aggregate)) =
            (self.group_index.get(&key), self.aggregate(query.aggregate))
        else {
            return none;
        };
        let end = query.start.saturating_add(aggregate.spec.window);
        let by_attribute = aggregate.by_attribute();
        let dormant = hour_of(query.start.saturating_sub(DORMANT_AFTER));
        let registry = &self.registry;
        let member: Vec<bool> = registry
            .classes
            .iter()
            .map(|class| class.groups.binary_search(&group).is_ok())
            .collect();
        let present = (0..registry.len() as u32).filter(|&number| {
            let device = registry.devices[number as usize];
            if device.agent == NONE || !member[device.class as usize] {
                return false;
            }
            let since = match by_attribute {
                true => registry.placed_since(number),
                false => device.first,
            };
            let hot = self.agents.hot(device.agent);
            micros_of(since) < end && hot.progress < end && hour_of(hot.last_contact) >= dormant
        });
        let past = &self.groups[group as usize].members.past;
        let former = past
            .iter()
            .filter(|p| {
                let progress = self.agents.hot(p.agent).progress;
                p.join < end && p.leave > query.start && progress < end.min(p.leave)
            })
            .map(|p| (p.device, p.agent));
        let agents: std::collections::BTreeMap<u32, u32> = former.collect();
        let all = present.chain(agents.keys().copied());
        self.page_of(all, query.after.as_deref(), query.limit, |n| {
            let agent = match agents.get(&n) {
                Some(&agent) => agent,
                None => registry.devices[n as usize].agent,
            };
            let hot = self.agents.hot(agent);
            Outstanding {
                device: registry.ids.get(n).to_owned(),
                agent: (!hot.plain()).then(|| self.agents.name(agent).to_owned()),
                last_contact: Some(Time(hot.last_contact)),
                progress: (hot.progress > i64::MIN).then_some(Time(hot.progress)),
                backlog: self.backlog(agent),
                online: self.agents.hot(agent).online(),
            }
        })
    }

    fn page_of<T>(
        &self,
        matching: impl Iterator<Item = u32>,
        after: Option<&str>,
        limit: usize,
        make: impl Fn(u32) -> T,
    ) -> Page<T> {
        let id = |n: &u32| self.registry.ids.get(*n);
        let mut total = 0;
        let mut numbers: Vec<u32> = matching
            .inspect(|_| total += 1)
            .filter(|n| after.is_none_or(|a| id(n) > a))
            .collect();
        if numbers.len() > limit {
            if limit == 0 {
                numbers.clear();
            } else {
                numbers.select_nth_unstable_by(limit - 1, |a, b| id(a).cmp(id(b)));
                numbers.truncate(limit);
            }
        }
        numbers.sort_unstable_by(|a, b| id(a).cmp(id(b)));
        Page {
            items: numbers.into_iter().map(make).collect(),
            total,
        }
    }

    /// Recent points of a series, oldest first; none if device or metric is not known.
    pub fn recent_points(&self, id: &str, metric: &str) -> Option<Vec<Point>> {
        let device = self.registry.ids.find(id)?;
        let metric = self.registry.metrics.find(metric)?;
        let series = self.registry.find_series(device, metric)?;
        let state = self.registry.series[series as usize];
        Some(match self.recent.get(&(device, metric)) {
            Some(ring) if !ring.is_empty() => ring
                .iter()
                .map(|p| Point {
                    time: Time(p.0),
                    value: scalar(&p.1),
                })
                .collect(),
            // Nothing but the last value is held (a large fleet, or a restart).
            _ => vec![Point {
                time: Time(state.time()),
                value: self.held_value(state)?,
            }],
        })
    }
}
