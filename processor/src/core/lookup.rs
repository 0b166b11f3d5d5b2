//! Answers about devices, from the state.

use std::collections::BTreeMap;

use event::{ClockState, Value};
use views::completeness::DORMANT_AFTER;
use views::model::{
    Backlog, ClockReport, Device as DeviceModel, LastValue, Outstanding, Point, Scalar, Time,
};
use views::{DeviceQuery, OutstandingQuery, Page};

use super::partition::Partition;

fn scalar(value: &Value) -> Scalar {
    match value {
        Value::Number(n) => Scalar::Number(*n),
        Value::Bool(b) => Scalar::Bool(*b),
        Value::Text(t) => Scalar::Text(t.to_string()),
    }
}

fn clock(state: ClockState) -> ClockReport {
    ClockReport {
        quality: state.quality.as_str(),
        error_ms: (state.error_ms != u32::MAX).then_some(state.error_ms),
    }
}

impl Partition {
    fn model(&self, number: u32) -> DeviceModel {
        let device = &self.devices[number as usize];
        let agent = &self.agents[device.agent as usize];
        let mut values: Vec<LastValue> = device
            .series
            .iter()
            .map(|&s| &self.series[s as usize])
            .filter(|s| s.last > i64::MIN && !self.metrics[s.metric as usize].starts_with('@'))
            .map(|s| LastValue {
                metric: self.metrics[s.metric as usize].to_string(),
                time: Time(s.last),
                value: scalar(&s.value),
            })
            .collect();
        values.sort_by(|a, b| a.metric.cmp(&b.metric));
        DeviceModel {
            id: device.id.to_string(),
            agent: (!agent.plain).then(|| agent.name.to_string()),
            status: self.standing(device.agent).as_str(),
            first_seen: Time(device.first),
            last_event: Time(device.last),
            last_contact: Time(agent.last_contact),
            progress: Time(agent.progress),
            attributes: device
                .attributes
                .iter()
                .map(|a| (a.0.to_string(), a.2.to_string()))
                .collect::<BTreeMap<_, _>>(),
            values,
            backlog: self.backlog(device.agent),
            clock: agent.clock.map(clock),
        }
    }

    fn backlog(&self, agent: u32) -> Option<Backlog> {
        let agent = &self.agents[agent as usize];
        (!agent.plain).then(|| Backlog {
            events: agent.held.events,
            bytes: agent.held.bytes,
            oldest: agent.held.oldest.map(|t| Time(t.as_micros())),
        })
    }

    /// One device.
    pub fn find_device(&self, id: &str) -> Option<DeviceModel> {
        self.device_index.get(id).map(|number| self.model(number))
    }

    /// The devices that match, ascending by id.
    pub fn list_devices(&self, query: &DeviceQuery) -> Page<DeviceModel> {
        let text = query.text.to_ascii_lowercase();
        let matching = self.devices.iter().enumerate().filter(|(_, d)| {
            (text.is_empty() || d.id.to_ascii_lowercase().contains(&text))
                && query.attributes.iter().all(|(k, v)| *d.attribute(k) == **v)
                && query
                    .status
                    .as_ref()
                    .is_none_or(|s| s == self.standing(d.agent).as_str())
        });
        self.page_of(
            matching.map(|(i, _)| i as u32),
            query.after.as_deref(),
            query.limit,
            |n| self.model(n),
        )
    }

    /// The devices that a window waits for, ascending by id.
    pub fn list_outstanding(&self, query: &OutstandingQuery) -> Page<Outstanding> {
        let none = Page {
            items: Vec::new(),
            total: 0,
        };
        let key = (query.aggregate, query.group.clone());
        let Some(&group) = self.group_index.get(&key) else {
            return none;
        };
        let Some(aggregate) = self.aggregates.get(query.aggregate as usize) else {
            return none;
        };
        let end = query.start + aggregate.spec.window;
        let dormant = query.start.saturating_sub(DORMANT_AFTER);
        let matching = self.devices.iter().enumerate().filter(|(_, d)| {
            let agent = &self.agents[d.agent as usize];
            d.groups.iter().any(|&(g, since)| g == group && since < end)
                && agent.progress < end
                && agent.last_contact >= dormant
        });
        self.page_of(
            matching.map(|(i, _)| i as u32),
            query.after.as_deref(),
            query.limit,
            |n| {
                let device = &self.devices[n as usize];
                let agent = &self.agents[device.agent as usize];
                Outstanding {
                    device: device.id.to_string(),
                    agent: (!agent.plain).then(|| agent.name.to_string()),
                    last_contact: Some(Time(agent.last_contact)),
                    progress: (agent.progress > i64::MIN).then_some(Time(agent.progress)),
                    backlog: self.backlog(device.agent),
                    online: agent.online,
                }
            },
        )
    }

    fn page_of<T>(
        &self,
        matching: impl Iterator<Item = u32>,
        after: Option<&str>,
        limit: usize,
        make: impl Fn(u32) -> T,
    ) -> Page<T> {
        let mut total = 0;
        let mut numbers: Vec<u32> = matching
            .inspect(|_| total += 1)
            .filter(|&n| after.is_none_or(|a| *self.devices[n as usize].id > *a))
            .collect();
        let id = |n: &u32| &self.devices[*n as usize].id;
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
        let device = self.device_index.get(id)?;
        let metric = self.metric_index.get(metric)?;
        let series = self.find_series(device, metric)?;
        let state = &self.series[series as usize];
        Some(match self.recent.get(series as usize) {
            Some(ring) if !ring.is_empty() => ring
                .iter()
                .map(|p| Point {
                    time: Time(p.0),
                    value: scalar(&p.1),
                })
                .collect(),
            // Nothing but the last value is held (a large fleet, or a restart).
            _ => vec![Point {
                time: Time(state.last),
                value: scalar(&state.value),
            }],
        })
    }
}
