//! Where things belong: devices to agents, classes of devices to groups.

use std::collections::BTreeSet;

use event::aggregate::{ALL_METRICS, METRIC_ATTRIBUTE};
use smallvec::SmallVec;
use views::Group as GroupValues;

use super::group::{GROUPS_MAX, Group};
use super::members::Past;
use super::partition::Partition;
use super::registry::{NONE, micros_of, second_of};

impl Partition {
    /// Finds the groups of a class from the declaration, its attributes and its metrics.
    pub(crate) fn place_class(&mut self, number: u32) {
        if self.registry.classes[number as usize].placed {
            return;
        }
        let class = std::mem::take(&mut self.registry.classes[number as usize]);
        let mut slots: Vec<SmallVec<[u32; 4]>> = vec![SmallVec::new(); class.metrics.len()];
        for slot in 0..self.aggregates.len() as u32 {
            for (i, &metric) in class.metrics.iter().enumerate() {
                let Some(aggregate) = self.aggregate(slot) else {
                    continue;
                };
                let spec = &aggregate.spec;
                let name = self.registry.metrics.get(metric);
                if spec.metric != ALL_METRICS && spec.metric != name {
                    continue;
                }
                let values: GroupValues = spec
                    .group_by
                    .iter()
                    .map(|by| match by.as_str() {
                        METRIC_ATTRIBUTE => name.into(),
                        by => {
                            let by = self.registry.attributes.find(by);
                            let text = class.attributes.iter().find(|a| Some(a.0) == by);
                            match text {
                                Some((_, text)) => self.registry.texts.get(*text).clone(),
                                None => "".into(),
                            }
                        }
                    })
                    .collect();
                let hop = spec.hop;
                let key = (slot, values);
                let group = match self.group_index.get(&key) {
                    Some(&group) => group,
                    // Remembered as missing, so that its events are not lost without a word.
                    None if self.group_index.len() >= GROUPS_MAX => NONE,
                    None => {
                        let group = self.groups.len() as u32;
                        self.groups.push(Group::new(slot, key.1.clone(), hop));
                        self.group_index.insert(key, group);
                        group
                    }
                };
                slots[i].push(group);
            }
        }
        let mut groups: Vec<u32> = slots.iter().flatten().copied().collect();
        groups.retain(|g| *g != NONE);
        groups.sort_unstable();
        groups.dedup();
        self.registry.classes[number as usize] = super::registry::Class {
            placed: true,
            groups,
            slots,
            ..class
        };
    }

    /// The groups that the device belongs to, and since when (seconds since 2020), ascending. A device without
    /// attributes that matter belongs from its first event on, else from when they were set.
    pub(crate) fn memberships(&mut self, device: u32) -> Vec<(u32, u32)> {
        let class = self.registry.devices[device as usize].class;
        self.place_class(class);
        let first = self.registry.devices[device as usize].first;
        let placed = self.registry.placed_since(device);
        let groups = &self.registry.classes[class as usize].groups;
        groups
            .iter()
            .map(|&group| {
                let slot = self.groups[group as usize].slot;
                let by_attribute = self.aggregate(slot).is_some_and(|a| a.by_attribute());
                (group, if by_attribute { placed } else { first })
            })
            .collect()
    }

    /// Devices that changed leave the groups they were in and join those they are in now.
    pub(crate) fn join_touched(
        &mut self,
        agent: u32,
        touched: &std::collections::BTreeMap<u32, Vec<(u32, u32)>>,
    ) {
        if touched.is_empty() {
            return;
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut newest = self.agents.hot(agent).newest_join;
        for (&device, before) in touched {
            let now = self.memberships(device);
            for m in before {
                if !now.contains(m) {
                    old.push(*m);
                }
                // It was there before: windows of that time go on expecting it.
                let moved_at = micros_of(self.registry.placed_since(device));
                if now.binary_search_by_key(&m.0, |n| n.0).is_err() && moved_at > micros_of(m.1) {
                    self.groups[m.0 as usize].members.add_past(Past {
                        device,
                        agent,
                        join: micros_of(m.1),
                        leave: moved_at,
                    });
                }
            }
            for m in now {
                if !before.contains(&m) {
                    newest = newest.max(m.1);
                    new.push(m);
                }
            }
        }
        self.agents.hot_mut(agent).newest_join = newest;
        self.change_memberships(agent, &old, &new);
    }

    fn change_memberships(&mut self, agent: u32, old: &[(u32, u32)], new: &[(u32, u32)]) {
        let mut changed = Vec::new();
        self.profiles
            .change(agent, old, new, &self.agents, &mut self.groups, |group| {
                changed.push(group)
            });
        self.queue(changed);
    }

    /// The groups' completeness is to be published.
    pub(crate) fn queue(&mut self, groups: Vec<u32>) {
        for number in groups {
            let group = &mut self.groups[number as usize];
            if !std::mem::replace(&mut group.queued, true) {
                self.unpublished.push_back(number);
            }
        }
    }

    /// The devices of an agent that are in a row: the first one, and how many. The others are listed in
    /// [`Self::further_devices`]; a row is empty only if there is no other.
    pub(super) fn row_of(&self, agent: u32) -> (u32, u32) {
        let hot = self.agents.hot(agent);
        let further = self.further_devices.get(&agent).map_or(0, BTreeSet::len);
        (hot.first_device, hot.devices.saturating_sub(further as u32))
    }

    /// The device is behind this agent from now on.
    pub(crate) fn own(&mut self, agent: u32, device: u32) {
        let (first, row) = self.row_of(agent);
        let hot = self.agents.hot_mut(agent);
        hot.devices += 1;
        if row == 0 {
            hot.first_device = device;
        } else if first.wrapping_add(row) != device {
            // Not the next in the row.
            let further = self.further_devices.entry(agent).or_default();
            further.insert(device);
        }
    }

    /// Numbers of the devices behind an agent.
    pub(crate) fn devices_of(&self, agent: u32) -> Vec<u32> {
        let (first, row) = self.row_of(agent);
        let further = self.further_devices.get(&agent).into_iter().flatten();
        (first..first.saturating_add(row))
            .chain(further.copied())
            .collect()
    }

    /// The device leaves its groups and its agent. It costs the same behind a gateway with very many devices.
    pub(crate) fn leave_agent(&mut self, device: u32) {
        let agent = self.registry.devices[device as usize].agent;
        if agent == NONE {
            return;
        }
        let old = self.memberships(device);
        self.change_memberships(agent, &old, &[]);
        let (mut first, mut row) = self.row_of(agent);
        let mut further = self.further_devices.remove(&agent).unwrap_or_default();
        let at = device.wrapping_sub(first);
        if at >= row {
            further.remove(&device);
        } else {
            // The longer part stays the row, so that no device is put on the list again and again.
            let (end, after) = (first + row, row - at - 1);
            if at >= after {
                row = at;
                further.extend(device + 1..end);
            } else {
                further.extend(first..device);
                (first, row) = (device + 1, after);
            }
        }
        if row == 0
            && let Some(lowest) = further.pop_first()
        {
            (first, row) = (lowest, 1);
            while further.remove(&(first + row)) {
                row += 1;
            }
        }
        let hot = self.agents.hot_mut(agent);
        hot.devices = row + further.len() as u32;
        hot.first_device = if row > 0 { first } else { 0 };
        if !further.is_empty() {
            self.further_devices.insert(agent, further);
        }
        self.registry.devices[device as usize].agent = NONE;
    }

    /// Whether an attribute decides the groups of an aggregate.
    pub(crate) fn places_devices(&self, attribute: u32) -> bool {
        let name = self.registry.attributes.get(attribute);
        self.aggregates
            .iter()
            .flatten()
            .any(|a| a.spec.group_by.iter().any(|g| g == name))
    }

    /// The device is where it is since `t`.
    pub(crate) fn placed_from(&mut self, device: u32, t: i64) {
        let second = second_of(t);
        if second > self.registry.placed_since(device) {
            self.registry.placed.insert(device, second);
        }
    }

    /// An operator took the device out of service: it is expected in no window that begins later.
    pub(crate) fn decommission(&mut self, id: &str) {
        let Some(device) = self.registry.ids.find(id) else {
            return;
        };
        let agent = self.registry.devices[device as usize].agent;
        if agent == NONE || !self.gone.insert(device) {
            return;
        }
        let old = self.memberships(device);
        for (group, since) in old {
            self.groups[group as usize].members.add_past(Past {
                device,
                agent,
                join: micros_of(since),
                leave: self.now,
            });
        }
        self.leave_agent(device);
        self.registry.strip(device);
        self.alerts.drop_device(device);
    }

    /// An operator says what a device is; it goes over what the device says of itself.
    pub(crate) fn set_device(&mut self, change: &event::record::DeviceChange) {
        let Some(device) = self.registry.ids.find(change.device.as_str()) else {
            return;
        };
        let agent = self.registry.devices[device as usize].agent;
        if agent == NONE {
            return;
        }
        let mut touched = std::collections::BTreeMap::new();
        touched.insert(device, self.memberships(device));
        for (name, text) in &change.attributes {
            let name = name.as_str().trim_start_matches('@');
            let names = &mut self.registry.attributes;
            let Some(name) = names.find(name).or_else(|| names.insert(name)) else {
                continue;
            };
            let had = self.registry.attribute(device, name);
            // The end of time: no event of the device is newer. Taken back, the next one counts.
            let time = if text.is_some() { i64::MAX } else { i64::MIN };
            self.registry
                .set_attribute(device, name, time, text.as_deref());
            if had.is_some() && self.places_devices(name) {
                self.placed_from(device, self.now);
            }
        }
        self.join_touched(agent, &touched);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::registry::TIME_MIN;
    use super::*;

    proptest! {
        #[test]
        fn an_agent_has_the_devices_that_came_and_did_not_leave(
            ops in prop::collection::vec((0u32..2, 0u32..24), 1..200)
        ) {
            let mut p = Partition::new(0);
            for name in ["a", "b"] {
                p.agent(name, false);
            }
            for device in 0..24 {
                p.registry.add(&format!("d{device}"), NONE, TIME_MIN);
            }
            let mut model = [const { BTreeSet::new() }; 2];
            for (agent, device) in ops {
                p.leave_agent(device);
                model[0].remove(&device);
                // Back where it was: out of service.
                if !model[1].remove(&device) || agent == 0 {
                    p.registry.devices[device as usize].agent = agent;
                    p.own(agent, device);
                    model[agent as usize].insert(device);
                }
                for (agent, model) in (0..).zip(&model) {
                    let mut devices = p.devices_of(agent);
                    devices.sort_unstable();
                    prop_assert_eq!(&devices, &model.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(p.agents.hot(agent).devices as usize, devices.len());
                    let (_, row) = p.row_of(agent);
                    prop_assert!(row > 0 || devices.is_empty());
                    prop_assert!(p.further_devices.get(&agent).is_none_or(|f| !f.is_empty()));
                }
            }
        }
    }
}
