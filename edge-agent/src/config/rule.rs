//! `[[rule]]`: a rule as the server has it, and what the device does about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event::{AgentId, DeviceId};
use rules::{Direction, Kind, Rule, parse_duration};
use toml::{Table, Value};

use super::{ConfigError, nearest};
use crate::commands::{Allowed, DEVICE, Template};
use crate::rules::{EdgeRule, PLACEHOLDERS, Run, SERIES_MAX, values};

/// Keys of the rule itself, and ours.
pub(super) const KEYS: &[&str] = &[
    "name",
    "kind",
    "metric",
    "severity",
    "direction",
    "raise",
    "clear",
    "for",
    "within",
    "after",
    "tolerance",
    "detector",
    "false_alarms",
    "sensitivity",
    "hold",
    "half_life",
    "warm_up",
    "missing",
    "devices",
    "stale_after",
    "run",
    "args",
];
const OURS: &[&str] = &["devices", "stale_after", "run", "args"];

/// A hand-written list has far fewer.
const RULES_MAX: usize = 64;
const STALE_AFTER: &str = "60s";
const STALE_AFTER_MIN_US: i64 = 100_000;
const STALE_AFTER_MAX_US: i64 = 86_400_000_000;

pub(super) fn rules(
    list: &[Table],
    commands: &[Allowed],
    agent: &AgentId,
) -> Result<Vec<EdgeRule>, ConfigError> {
    if list.len() > RULES_MAX {
        let message = format!("{} entries, more than {RULES_MAX}", list.len());
        return Err(ConfigError::value("rule", message));
    }
    let mut rules: Vec<EdgeRule> = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let entry = Entry {
            number: i,
            name: item.get("name").and_then(Value::as_str).unwrap_or_default(),
            item,
        };
        let rule = entry.rule(commands, agent)?;
        if rules.iter().any(|r| r.rule.name == rule.rule.name) {
            return Err(entry.wrong("name", "it is taken by an earlier one"));
        }
        rules.push(rule);
    }
    let awaited = rules
        .iter()
        .filter(|r| matches!(r.rule.kind, Kind::Silence(_)));
    let awaited: usize = awaited.map(|r| r.devices.len()).sum();
    if awaited > SERIES_MAX {
        let message = format!(
            "rules of the kind \"silence\" name {awaited} devices, more than {SERIES_MAX}; leave `devices` \
             out where a device need not be missed before it was heard"
        );
        return Err(ConfigError::value("rule", message));
    }
    Ok(rules)
}

/// One entry as it is typed.
struct Entry<'a> {
    number: usize,
    name: &'a str,
    item: &'a Table,
}

impl Entry<'_> {
    fn wrong(&self, field: &str, message: impl std::fmt::Display) -> ConfigError {
        let name: String = self.name.chars().take(64).collect();
        ConfigError::value(
            format!("rule[{}].{field}", self.number),
            format!("rule {name:?}: {message}"),
        )
    }

    fn rule(&self, commands: &[Allowed], agent: &AgentId) -> Result<EdgeRule, ConfigError> {
        let mut declared = self.item.clone();
        declared.retain(|key, _| !OURS.contains(&key));
        for (field, value) in &declared {
            // JSON has no such numbers: it would pass for one that is left out.
            if value.as_float().is_some_and(|n| !n.is_finite()) {
                return Err(self.wrong(field, "must be a finite number, such as 60.0"));
            }
        }
        let declared = serde_json::to_value(&declared).map_err(|e| self.wrong("name", e))?;
        let rule = Rule::from_value(&declared).map_err(|e| self.wrong(&e.field, e.message))?;
        if matches!(rule.kind, Kind::Offline(_)) {
            let message =
                "\"offline\" is for the server: an agent cannot see that it is not heard from";
            return Err(self.wrong("kind", message));
        }
        if rule.kind.is_of_groups() {
            let message = format!(
                "{:?} is for the server: an agent does not know the devices of others",
                rule.kind.name()
            );
            return Err(self.wrong("kind", message));
        }
        let devices = self.devices()?;
        let run = self.run(&rule, &devices, commands, agent)?;
        Ok(EdgeRule {
            rule,
            devices,
            stale_after: self.stale_after()?,
            run,
        })
    }

    fn devices(&self) -> Result<Vec<DeviceId>, ConfigError> {
        let wrong = || {
            self.wrong(
                "devices",
                "must be a list of ids, as [\"pump-1\", \"pump-2\"]",
            )
        };
        let list = match self.item.get("devices") {
            None => return Ok(Vec::new()),
            Some(value) => value
                .as_array()
                .filter(|l| !l.is_empty())
                .ok_or_else(wrong)?,
        };
        if list.len() > SERIES_MAX {
            let message = format!("{} devices, more than {SERIES_MAX}", list.len());
            return Err(self.wrong("devices", message));
        }
        let mut devices = BTreeSet::new();
        for id in list {
            let id = DeviceId::new(id.as_str().ok_or_else(wrong)?);
            devices.insert(id.map_err(|e| self.wrong("devices", e))?);
        }
        Ok(devices.into_iter().collect())
    }

    fn stale_after(&self) -> Result<Duration, ConfigError> {
        let text = match self.item.get("stale_after") {
            None => STALE_AFTER,
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.wrong("stale_after", "must be a text in quotes, as \"60s\""))?,
        };
        let micros = parse_duration(text).map_err(|e| self.wrong("stale_after", e))?;
        if !(STALE_AFTER_MIN_US..=STALE_AFTER_MAX_US).contains(&micros) {
            return Err(self.wrong("stale_after", "must be 100ms to 1d"));
        }
        Ok(Duration::from_micros(micros.unsigned_abs()))
    }

    /// What it runs, and that the allow-list has it and takes what it is given.
    fn run(
        &self,
        rule: &Rule,
        devices: &[DeviceId],
        commands: &[Allowed],
        agent: &AgentId,
    ) -> Result<Option<Run>, ConfigError> {
        let name = match (self.item.get("run"), self.item.get("args")) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(self.wrong("args", "set `run`, too, or leave it out")),
            (Some(name), _) => name
                .as_str()
                .ok_or_else(|| self.wrong("run", "must be the name of a [[command]] in quotes"))?,
        };
        let Some(command) = commands.iter().find(|c| c.name == name) else {
            let names: Vec<&str> = commands.iter().map(|c| c.name.as_str()).collect();
            let hint = match nearest(name, &names) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add it".to_owned(),
            };
            let message = format!("there is no [[command]] with the name {name:?}; {hint}");
            return Err(self.wrong("run", message));
        };
        let args = self.args(rule, devices, command)?;
        let names_device = command
            .args
            .iter()
            .flat_map(Template::names)
            .any(|n| n == DEVICE);
        let allowed = |d: &DeviceId| d.as_str() == agent.as_str() || command.devices.contains(d);
        if names_device && (devices.is_empty() || !devices.iter().all(allowed)) {
            let message = format!(
                "the command {name:?} has {{device}} among its args: name the `devices` of the rule, and add \
                 each of them to `devices` of the command"
            );
            return Err(self.wrong("run", message));
        }
        Ok(Some(Run {
            command: name.to_owned(),
            args,
            devices: command.devices.clone(),
        }))
    }

    fn args(
        &self,
        rule: &Rule,
        devices: &[DeviceId],
        command: &Allowed,
    ) -> Result<BTreeMap<String, Template>, ConfigError> {
        let wrong = |message: String| self.wrong("args", message);
        let none = Table::new();
        let table = match self.item.get("args") {
            None => &none,
            Some(Value::Table(table)) => table,
            Some(_) => {
                return Err(wrong(
                    "must be a table, as { unit = \"{device}\" }".to_owned(),
                ));
            }
        };
        let name = &command.name;
        let mut args = BTreeMap::new();
        for (key, value) in table {
            let Some(text) = value.as_str() else {
                return Err(wrong(format!("{key} must be a text in quotes")));
            };
            let template = Template::new(text).map_err(|e| wrong(format!("{key}: {e}")))?;
            if let Some(other) = template.names().find(|n| !PLACEHOLDERS.contains(n)) {
                let known = PLACEHOLDERS.join("}, {");
                return Err(wrong(format!(
                    "{key}: there is no {{{other}}} in a rule; there are {{{known}}}"
                )));
            }
            args.insert(key.clone(), template);
        }
        // The command decides as it will then; of what is not known yet with an example.
        let value = match rule.kind {
            Kind::Silence(_) => None,
            Kind::Threshold(t) if t.direction == Direction::Below => Some(t.raise.min(2.5) - 1.0),
            _ => Some(1.5),
        };
        let example = DeviceId::new("device-1").map_err(|e| wrong(e.to_string()))?;
        let devices = if devices.is_empty() {
            std::slice::from_ref(&example)
        } else {
            devices
        };
        for device in devices {
            let values = values(rule, device.as_str(), value);
            let filled = args
                .iter()
                .map(|(k, t)| Ok((k.clone(), t.fill(&values)?)))
                .collect::<Result<_, String>>()
                .map_err(wrong)?;
            command.check_args(&filled).map_err(|reason| {
                wrong(format!(
                    "the command {name:?} does not take them: {reason}; change them, or what the command \
                     allows (`allowed`, `max_length`, `characters`)"
                ))
            })?;
        }
        Ok(args)
    }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
