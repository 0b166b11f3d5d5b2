//! `[[command]]`: the allow-list as it is typed, and what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use event::{DeviceId, MetricName};
use serde::{Deserialize, Serialize};

use super::{ConfigError, nearest, within};
use crate::commands::{Allowed, Characters, Limit, Template};

pub(super) const KEYS: &[&str] = &[
    "name",
    "program",
    "args",
    "allowed",
    "max_length",
    "characters",
    "devices",
    "timeout_ms",
    "stop_grace_ms",
    "user",
    "dir",
    "env",
    "output_bytes_max",
    "max_per_hour",
    "dry_run",
];

/// Most entries, arguments of one, and characters of a value: a hand-written list has far fewer, and
/// what a program can be given has limits, too.
const COMMANDS_MAX: usize = 64;
const ARGS_MAX: usize = 64;
const LENGTH_MAX: usize = 4096;
/// Output is kept in memory for every running command.
const OUTPUT_MAX: u64 = 64 << 10;
/// Budgets are counted from rows that are kept; see `commands::ledger`.
const PER_HOUR_MAX: u64 = 1000;
const DAY_MS: u64 = 86_400_000;

/// One `[[command]]`. `agent.sample.toml` says what each key means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Command {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub allowed: BTreeMap<String, Vec<String>>,
    pub max_length: BTreeMap<String, usize>,
    pub characters: BTreeMap<String, String>,
    pub devices: Vec<String>,
    pub timeout_ms: u64,
    pub stop_grace_ms: u64,
    pub user: Option<String>,
    pub dir: PathBuf,
    pub env: BTreeMap<String, String>,
    pub output_bytes_max: u64,
    pub max_per_hour: u64,
    pub dry_run: bool,
}

impl Default for Command {
    fn default() -> Self {
        Self {
            name: String::new(),
            program: PathBuf::new(),
            args: Vec::new(),
            allowed: BTreeMap::new(),
            max_length: BTreeMap::new(),
            characters: BTreeMap::new(),
            devices: Vec::new(),
            timeout_ms: 30_000,
            stop_grace_ms: 5000,
            user: None,
            dir: "/".into(),
            env: BTreeMap::new(),
            output_bytes_max: 4096,
            max_per_hour: 60,
            dry_run: false,
        }
    }
}

pub(super) fn commands(list: &[Command]) -> Result<Vec<Allowed>, ConfigError> {
    if list.len() > COMMANDS_MAX {
        let message = format!("{} entries, more than {COMMANDS_MAX}", list.len());
        return Err(ConfigError::value("command", message));
    }
    let mut commands: Vec<Allowed> = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let command = command(item, &|name| format!("command[{i}].{name}"))?;
        if commands.iter().any(|c| c.name == command.name) {
            let message = format!("{:?} is taken", command.name);
            return Err(ConfigError::value(format!("command[{i}].name"), message));
        }
        commands.push(command);
    }
    Ok(commands)
}

fn command(c: &Command, key: &dyn Fn(&str) -> String) -> Result<Allowed, ConfigError> {
    let wrong = |name: &str, message: String| Err(ConfigError::value(key(name), message));
    if let Err(error) = MetricName::check(&c.name) {
        let message =
            format!("{error} (1 to 64 of A-Z a-z 0-9 _ . -)").replace("metric name", "name");
        return wrong("name", message);
    }
    if c.name.starts_with('@') {
        return wrong("name", "must not begin with @".to_owned());
    }
    for (name, path) in [("program", &c.program), ("dir", &c.dir)] {
        if !path.is_absolute() {
            let message = format!(
                "{path:?} is not an absolute path; write it out, as \"/usr/bin/systemctl\""
            );
            return wrong(name, message);
        }
    }
    if c.args.len() > ARGS_MAX {
        return wrong(
            "args",
            format!("{} arguments, more than {ARGS_MAX}", c.args.len()),
        );
    }
    within(&key("timeout_ms"), c.timeout_ms, 1, DAY_MS)?;
    within(&key("stop_grace_ms"), c.stop_grace_ms, 0, 60_000)?;
    within(&key("output_bytes_max"), c.output_bytes_max, 0, OUTPUT_MAX)?;
    within(&key("max_per_hour"), c.max_per_hour, 1, PER_HOUR_MAX)?;
    let args = c
        .args
        .iter()
        .map(|text| Template::new(text).map_err(|e| ConfigError::value(key("args"), e)))
        .collect::<Result<Vec<_>, _>>()?;
    let devices = c
        .devices
        .iter()
        .map(|d| DeviceId::new(d).map_err(|e| ConfigError::value(key("devices"), e)))
        .collect::<Result<_, _>>()?;
    for (name, value) in &c.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return wrong(
                "env",
                format!("{name:?} cannot be a variable of the environment"),
            );
        }
    }
    Ok(Allowed {
        name: c.name.clone(),
        program: c.program.clone(),
        limits: limits(c, &args, key)?,
        args,
        devices,
        timeout: Duration::from_millis(c.timeout_ms),
        stop_grace: Duration::from_millis(c.stop_grace_ms),
        user: c.user.clone(),
        dir: c.dir.clone(),
        env: c.env.clone(),
        output_bytes_max: c.output_bytes_max as usize,
        max_per_hour: c.max_per_hour as u32,
        dry_run: c.dry_run,
    })
}

/// Every placeholder must say what it may be, and nothing is said of others.
fn limits(
    c: &Command,
    args: &[Template],
    key: &dyn Fn(&str) -> String,
) -> Result<BTreeMap<String, Limit>, ConfigError> {
    let names: BTreeSet<&str> = args
        .iter()
        .flat_map(Template::names)
        .filter(|n| *n != crate::commands::DEVICE)
        .collect();
    let known: Vec<&str> = names.iter().copied().collect();
    let said = c.allowed.keys().map(|k| ("allowed", k));
    let said = said.chain(c.max_length.keys().map(|k| ("max_length", k)));
    for (table, name) in said.chain(c.characters.keys().map(|k| ("characters", k))) {
        if !names.contains(name.as_str()) {
            let hint = nearest(name, &known).map(|n| format!("; did you mean {n:?}?"));
            let message = format!("{{{name}}} is not in `args`{}", hint.unwrap_or_default());
            return Err(ConfigError::value(key(table), message));
        }
    }
    let limit = |name: &str| {
        let wrong = |table: &str, message: String| Err(ConfigError::value(key(table), message));
        match (c.allowed.get(name), c.max_length.get(name)) {
            (Some(_), Some(_)) => wrong(
                "max_length",
                format!("{{{name}}} has a list of allowed values already; leave one out"),
            ),
            (Some(_), None) if c.characters.contains_key(name) => wrong(
                "characters",
                format!("{{{name}}} has a list of allowed values already; leave one out"),
            ),
            (Some(values), None) if values.iter().any(|v| v.contains('\0')) => wrong(
                "allowed",
                format!("a value of {{{name}}} has a NUL character"),
            ),
            (Some(values), None) => Ok(Limit::OneOf(values.clone())),
            (None, Some(max)) => {
                within(&key("max_length"), *max as u64, 1, LENGTH_MAX as u64)?;
                let set = c.characters.get(name).map_or(Characters::DEFAULT, |s| s);
                let characters = Characters::new(set)
                    .map_err(|e| ConfigError::value(key("characters"), format!("{name}: {e}")))?;
                Ok(Limit::Text {
                    max_length: *max,
                    characters,
                })
            }
            (None, None) => wrong(
                "args",
                format!(
                    "say what {{{name}}} may be: allowed = {{ {name} = [\"…\"] }}, or max_length = {{ {name} = 64 }}"
                ),
            ),
        }
    };
    names
        .into_iter()
        .map(|name| Ok((name.to_owned(), limit(name)?)))
        .collect()
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
