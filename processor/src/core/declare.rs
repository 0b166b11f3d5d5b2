//! Aggregates and rules, from the configuration and from people at run time.
//!
//! The configuration is declared as a whole at every start; what people set or removed lies over it and
//! survives. An aggregate that is declared as before keeps its slot and its results; any other gets a slot
//! of its own, which is never used again.

use std::collections::BTreeMap;

use event::aggregate::AGGREGATES_MAX;
use event::{AggregateSpec, Declaration};
use rules::Rule;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::effects::{Declarations, Effects};
use super::group::Group;
use super::members::Past;
use super::partition::Partition;

/// What is declared, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Declared {
    config: Declaration,
    /// By name: set, or removed.
    aggregates: BTreeMap<String, Option<AggregateSpec>>,
    rules: BTreeMap<String, Option<String>>,
}

fn rule_name(json: &str) -> Option<String> {
    Rule::parse(json).ok().map(|r| r.name)
}

impl Declared {
    fn aggregates(&self) -> Vec<AggregateSpec> {
        let mut all: Vec<AggregateSpec> = Vec::new();
        for spec in &self.config.aggregates {
            match self.aggregates.get(&spec.name) {
                Some(over) => all.extend(over.clone()),
                None => all.push(spec.clone()),
            }
        }
        for spec in self.aggregates.values().flatten() {
            if !all.iter().any(|a| a.name == spec.name) {
                all.push(spec.clone());
            }
        }
        all.retain(|spec| spec.check().is_ok());
        all.truncate(AGGREGATES_MAX);
        all
    }

    /// The same, checked.
    pub(crate) fn parsed_rules(&self) -> Vec<Rule> {
        let texts = self.rules();
        texts.iter().filter_map(|t| Rule::parse(t).ok()).collect()
    }

    /// Rules that count, as JSON texts.
    pub(crate) fn rules(&self) -> Vec<String> {
        let mut all: Vec<(String, String)> = Vec::new();
        for json in &self.config.rules {
            let Some(name) = rule_name(json) else {
                continue;
            };
            match self.rules.get(&name) {
                Some(Some(over)) => all.push((name, over.clone())),
                Some(None) => {}
                None => all.push((name, json.clone())),
            }
        }
        for (name, json) in &self.rules {
            if let Some(json) = json
                && !all.iter().any(|a| a.0 == *name)
            {
                all.push((name.clone(), json.clone()));
            }
        }
        all.into_iter().map(|a| a.1).collect()
    }
}

impl Partition {
    pub(crate) fn declare(&mut self, declaration: &Declaration, fx: &mut Effects) {
        let refused = declaration
            .rules
            .iter()
            .filter_map(|r| Rule::parse(r).err());
        fx.refused_rules.extend(refused);
        self.declared.config = declaration.clone();
        self.apply_declared(fx);
    }

    pub(crate) fn set_aggregate(&mut self, spec: AggregateSpec, fx: &mut Effects) {
        if spec.check().is_ok() {
            let name = spec.name.clone();
            self.declared.aggregates.insert(name, Some(spec));
            self.apply_declared(fx);
        }
    }

    pub(crate) fn remove_aggregate(&mut self, name: &str, fx: &mut Effects) {
        let config = &self.declared.config.aggregates;
        if config.iter().any(|a| a.name == name) {
            self.declared.aggregates.insert(name.to_owned(), None);
        } else {
            self.declared.aggregates.remove(name);
        }
        self.apply_declared(fx);
    }

    pub(crate) fn set_rule(&mut self, json: &str, fx: &mut Effects) {
        match Rule::parse(json) {
            Ok(rule) => {
                self.declared.rules.insert(rule.name, Some(json.to_owned()));
                self.apply_declared(fx);
            }
            Err(error) => fx.refused_rules.push(error),
        }
    }

    pub(crate) fn remove_rule(&mut self, name: &str, fx: &mut Effects) {
        let config = &self.declared.config.rules;
        if config.iter().any(|r| rule_name(r).as_deref() == Some(name)) {
            self.declared.rules.insert(name.to_owned(), None);
        } else {
            self.declared.rules.remove(name);
        }
        self.apply_declared(fx);
    }

    /// What is declared, with slots.
    pub fn declarations(&self) -> Declarations {
        Declarations {
            aggregates: self
                .aggregates
                .iter()
                .enumerate()
                .filter_map(|(slot, a)| Some((slot as u32, a.as_ref()?.spec.clone())))
                .collect(),
            rules: self.declared.rules(),
        }
    }

    /// Brings aggregates and rules to what is declared. What is as before keeps its state.
    fn apply_declared(&mut self, fx: &mut Effects) {
        let rules = self.declared.parsed_rules();
        if !rules.iter().eq(self.alerts.rules.iter().map(|w| &w.rule)) {
            let mut alerts = std::mem::take(&mut self.alerts);
            alerts.declare(rules, self, fx);
            self.alerts = alerts;
            self.flag_series();
        }
        let specs = self.declared.aggregates();
        let mut changed = false;
        for slot in 0..self.aggregates.len() as u32 {
            let gone = self
                .aggregate(slot)
                .is_some_and(|a| !specs.contains(&a.spec));
            if gone {
                self.drop_aggregate(slot);
                changed = true;
            }
        }
        for spec in specs {
            let known = self.aggregates.iter().flatten().any(|a| a.spec == spec);
            if !known {
                let mut aggregate = Aggregate::new(spec);
                aggregate.frontier = self.frontier(aggregate.spec.hop, aggregate.spec.window);
                self.aggregates.push(Some(aggregate));
                changed = true;
            }
        }
        if changed {
            self.place_again();
        }
        fx.declared = Some(self.declarations());
    }

    fn drop_aggregate(&mut self, slot: u32) {
        for group in 0..self.groups.len() as u32 {
            if self.groups[group as usize].slot == slot {
                self.drop_cells(group);
                self.groups[group as usize].active = false;
            }
        }
        let groups = &self.groups;
        self.active.retain(|group| groups[*group as usize].active);
        self.group_index.retain(|key, _| key.0 != slot);
        self.outbox.remove_slot(slot);
        self.aggregates[slot as usize] = None;
    }

    /// Finds all groups and memberships anew.
    pub(crate) fn place_again(&mut self) {
        for class in &mut self.registry.classes {
            class.placed = false;
        }
        self.rebuild_members();
        let all = (0..self.groups.len() as u32).collect();
        self.queue(all);
    }

    /// Builds all memberships from devices, classes and agents. Former members stay.
    pub(crate) fn rebuild_members(&mut self) {
        self.profiles.clear();
        for number in 0..self.groups.len() {
            let slot = self.groups[number].slot;
            let hop = self.aggregate(slot).map_or(1, |a| a.spec.hop);
            let group = &mut self.groups[number];
            let past: Vec<Past> = std::mem::take(&mut group.members.past);
            let index = std::mem::take(&mut group.members.index);
            let fresh = Group::new(slot, group.values.clone(), hop);
            group.members = fresh.members;
            group.members.past = past;
            group.members.index = index;
        }
        // Devices behind one agent are mostly in a row: one change for each row.
        let mut row: Vec<(u32, u32)> = Vec::new();
        let mut newest = 0;
        for device in 0..self.registry.len() as u32 {
            let agent = self.registry.devices[device as usize].agent;
            if agent == super::registry::NONE {
                continue;
            }
            for membership in self.memberships(device) {
                newest = newest.max(membership.1);
                row.push(membership);
            }
            let next = self.registry.devices.get(device as usize + 1);
            if next.is_none_or(|next| next.agent != agent) {
                let hot = self.agents.hot_mut(agent);
                hot.newest_join = hot.newest_join.max(newest);
                self.profiles
                    .change(agent, &[], &row, &self.agents, &mut self.groups, |_| {});
                row.clear();
                newest = 0;
            }
        }
        self.profiles.know_all(&self.agents);
    }

    /// Says at every series where something is under way that it is so.
    pub(crate) fn flag_series(&mut self) {
        let places: Vec<(u32, u32)> = self.alerts.tracks.keys().copied().collect();
        for (rule, device) in places {
            let Some(watching) = self.alerts.rules.get(rule as usize) else {
                continue;
            };
            if self.alerts.is_of_agents(rule) {
                continue;
            }
            let metric = self.registry.metrics.find(&watching.rule.metric);
            if let Some(series) = metric.and_then(|m| self.registry.find_series(device, m)) {
                self.registry.series[series as usize].set_flag(true);
            }
        }
    }
}
