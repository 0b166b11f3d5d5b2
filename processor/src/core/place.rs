//! Where things belong: devices to agents, series to devices, series and devices to groups.

use std::sync::Arc;

use event::aggregate::{ALL_METRICS, METRIC_ATTRIBUTE};
use event::{AggregateSpec, Value};
use smallvec::SmallVec;
use views::Group as GroupValues;

use super::count::NONE;
use super::group::{GROUPS_MAX, Group};
use super::partition::Partition;
use super::registry::{
    ATTRIBUTES_MAX, DEVICE_SERIES_MAX, DEVICES_MAX, Device, METRICS_MAX, SERIES_MAX, SeriesState,
};

/// Up to so many series of a device are looked through.
const FEW_SERIES: usize = 16;

impl Partition {
    pub(super) fn device(&mut self, id: &str, agent: u32, t: i64) -> Option<u32> {
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
    pub(super) fn move_device(&mut self, number: u32, agent: u32) {
        let device = &mut self.devices[number as usize];
        let old = std::mem::replace(&mut device.agent, agent);
        self.dirty = true;
        for &(group, first) in &device.groups {
            self.groups[group as usize].leave(old, first);
            self.groups[group as usize].join(agent, first);
        }
        self.agents[old as usize].devices.retain(|d| *d != number);
        self.agents[agent as usize].devices.push(number);
    }

    pub(super) fn series_number(&mut self, device: u32, metric: &str) -> Option<u32> {
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
        if self.series.len() >= SERIES_MAX
            || self.devices[device as usize].series.len() >= DEVICE_SERIES_MAX
        {
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
    fn index_wide(&mut self, device: u32, number: u32) {
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
                // Remembered as missing, so that its events are not lost without a word.
                None if self.groups.len() >= GROUPS_MAX => NONE,
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
        for &group in series.groups.iter().filter(|g| **g != NONE) {
            match device.groups.binary_search_by_key(&group, |g| g.0) {
                Ok(i) if device.groups[i].1 <= second => continue,
                Ok(i) => {
                    self.groups[group as usize].leave(device.agent, device.groups[i].1);
                    device.groups[i].1 = second;
                }
                Err(i) => device.groups.insert(i, (group, second)),
            }
            self.groups[group as usize].join(device.agent, second);
            self.dirty = true;
        }
    }

    /// A series had events from `first` to `last` in this batch.
    pub(super) fn seen(&mut self, series: u32, first: i64, last: i64) {
        let device = &mut self.devices[self.series[series as usize].device as usize];
        device.first = device.first.min(first);
        device.last = device.last.max(last);
        self.join_groups(series, first);
    }

    /// Takes the newest value of an attribute. If events may go to other groups from now on, it gives the
    /// time since when the device belongs there.
    pub(super) fn attribute(&mut self, series: u32, t: i64) -> Option<i64> {
        let state = &self.series[series as usize];
        let text: Arc<str> = match &state.value {
            Value::Text(text) => text.clone(),
            Value::Bool(b) => b.to_string().into(),
            Value::Number(n) => n.to_string().into(),
        };
        let name: Arc<str> = self.metrics[state.metric as usize]
            .trim_start_matches('@')
            .into();
        let device = &mut self.devices[state.device as usize];
        // A first value says where the device has been all along, a changed one where it is from now on.
        let mut since = device.first;
        match device.attributes.binary_search_by(|a| a.0.cmp(&name)) {
            Ok(i) if device.attributes[i].2 == text => {
                device.attributes[i].1 = t;
                return None;
            }
            Ok(i) => {
                device.attributes[i] = (name.clone(), t, text);
                since = t;
            }
            Err(_) if device.attributes.len() >= ATTRIBUTES_MAX => return None,
            Err(i) => device.attributes.insert(i, (name.clone(), t, text)),
        }
        let matters = |spec: &AggregateSpec| spec.group_by.iter().any(|g| **g == *name);
        self.aggregates
            .iter()
            .any(|a| matters(&a.spec))
            .then_some(since)
    }

    /// Places all series of a device again: it leaves the groups it is no longer in and joins the new ones.
    pub(super) fn regroup(&mut self, number: u32, since: i64) {
        let all = self.devices[number as usize].series.clone();
        let mut now_in: Vec<u32> = Vec::new();
        for &series in &all {
            self.place_series(series);
            let series = &self.series[series as usize];
            if series.last > i64::MIN {
                now_in.extend(series.groups.iter().copied());
            }
        }
        now_in.sort_unstable();
        self.dirty = true;
        let device = &mut self.devices[number as usize];
        let agent = device.agent;
        device.groups.retain(|(group, from)| {
            let stays = now_in.binary_search(group).is_ok();
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
}
