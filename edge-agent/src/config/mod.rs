//! Configuration: a TOML file, then the environment (`TIDEWATCH_AGENT_…`), then flags.
//!
//! What was typed is in `raw`; what it means is [`Settings`]. `agent.sample.toml` documents every
//! option with its default, unit and an example, and a test keeps it complete.

mod command;
mod inputs;
mod keys;
mod mqtt;
mod raw;
mod rule;
mod sysfs;
mod tail;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use event::{AgentId, DeviceId, IdError};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub(crate) use self::keys::nearest;
use self::raw::Raw;
use crate::clock::Quality;
use crate::sources::file::{Format, Timestamps};
use crate::sources::{
    Mapping, MappingError, TimeFormat, change, exec, file, host, own, socket, stdin,
};
use crate::uplink::{link, session};
use crate::{buffer, commands, inbox, rules};

/// What the environment variables begin with; `__` separates section and key, as in
/// `TIDEWATCH_AGENT_BUFFER__BYTES_MAX`.
pub const ENV_PREFIX: &str = "TIDEWATCH_AGENT_";

/// Everything an agent needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's id.
    pub agent: AgentId,
    /// Where the buffer lives.
    pub data_dir: PathBuf,
    /// Filter of the log, as `info` or `warn,edge_agent=debug`.
    pub log: String,
    /// Stop when all sources have ended and everything is acked.
    pub exit_when_done: bool,
    /// How long the last sending may take at a stop.
    pub stop_grace: Duration,
    /// Quality of the wall clock.
    pub clock: Quality,
    /// Limits of the buffer.
    pub buffer: buffer::Settings,
    /// While less than this is free on the buffer's disk, bytes, the buffer does not grow; 0 = it may.
    pub disk_free_min: u64,
    /// Grouping of commits.
    pub inbox: inbox::Settings,
    /// Limits of the uplink.
    pub session: session::Settings,
    /// Most bytes of an encoded batch.
    pub batch_bytes_max: usize,
    /// Where to connect.
    pub link: link::Settings,
    /// Where readings come from.
    pub sources: Vec<Source>,
    /// What commands may do.
    pub commands: Vec<commands::Allowed>,
    /// What the device looks for itself.
    pub rules: Vec<rules::EdgeRule>,
}

/// One source.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, unique in the agent.
    pub name: String,
    /// Attributes of its devices.
    pub attributes: BTreeMap<String, String>,
    /// What of it is left out because it says nothing new.
    pub on_change: change::Settings,
    /// What the buffer gives up first.
    pub priority: Priority,
    /// What it reads.
    pub kind: SourceKind,
}

/// Which readings the buffer gives up first when it has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// As the policy says, the oldest first.
    #[default]
    Normal,
    /// When there is nothing else left.
    Fault,
}

/// What a source reads.
#[derive(Debug, Clone)]
pub enum SourceKind {
    /// This machine.
    Host(host::Settings),
    /// The agent itself.
    Own(own::Settings),
    /// JSON lines on standard input.
    Stdin(stdin::Settings),
    /// A file that is replayed.
    File(file::Settings),
    /// A socket for programs that push.
    Socket(socket::Settings),
    /// A program whose output is read.
    Exec(exec::Settings),
    /// Messages of a broker nearby.
    Mqtt(crate::sources::mqtt::Settings),
    /// A log that is followed.
    Tail(crate::sources::tail::Settings),
    /// Sensors of this machine.
    Sysfs(crate::sources::sysfs::Settings),
}

/// Why a configuration cannot be used. `Display` names the key and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column, and the parser's text.
        message: String,
    },
    /// A key that nobody knows.
    #[error("{origin}: unknown key {key:?}{}", nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// The key with its section.
        key: String,
        /// The nearest valid one.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{key}: {message}")]
    Value {
        /// The key with its section.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl ConfigError {
    fn value(key: impl Into<String>, message: impl ToString) -> Self {
        Self::Value {
            key: key.into(),
            message: message.to_string(),
        }
    }
}

/// Reads the configuration: `file` if there is one, then `environment`, then `flags` (pairs of key
/// and value, sections with a dot, as `buffer.bytes_max`).
///
/// **Errors**: the first thing that is wrong, by key.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Settings, ConfigError> {
    let mut table = Table::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Syntax {
                path: path.to_owned(),
                message: syntax(&text, &e),
            })?;
        keys::check(&table, &path.display().to_string())?;
    }
    let mut environment: Vec<(String, String)> = environment
        .filter_map(|(name, value)| {
            let key = name
                .strip_prefix(ENV_PREFIX)?
                .to_lowercase()
                .replace("__", ".");
            // The path of the file itself is not part of it.
            (key != "config").then_some((key, value))
        })
        .collect();
    environment.sort();
    for (key, value) in &environment {
        set(
            &mut table,
            key,
            value,
            &format!("environment {ENV_PREFIX}…"),
        )?;
    }
    for (key, value) in flags {
        set(&mut table, key, value, "flag")?;
    }
    // The reader's error would show the value.
    if table.get("password").is_some_and(|v| !v.is_str()) {
        return Err(ConfigError::value("password", "must be a text in quotes"));
    }
    let raw: Raw = Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| ConfigError::value("configuration", e.message()))?;
    settings(raw)
}

/// What is wrong with a file, and where. The line itself is not shown: a secret may stand in it.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let place = error
        .span()
        .and_then(|s| text.get(..s.start))
        .map(|before| {
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {line}, column {column}: ")
        });
    format!("{}{}", place.unwrap_or_default(), error.message())
}

/// Puts one value in its place. Texts stay texts; everything else is read as TOML.
fn set(table: &mut Table, key: &str, value: &str, origin: &str) -> Result<(), ConfigError> {
    let known = keys::known(key, origin)?;
    let value = if known.is_text {
        Value::String(value.to_owned())
    } else {
        let parsed: Result<Table, _> = format!("v = {value}").parse();
        match parsed.ok().and_then(|mut t| t.remove("v")) {
            Some(value) => value,
            None => {
                return Err(ConfigError::value(
                    key,
                    format!("{value:?} is no TOML value"),
                ));
            }
        }
    };
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let target = if section.is_empty() {
        table
    } else {
        let entry = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        match entry {
            Value::Table(t) => t,
            _ => return Err(ConfigError::value(section, "is not a section")),
        }
    };
    target.insert(name.to_owned(), value);
    Ok(())
}

fn settings(raw: Raw) -> Result<Settings, ConfigError> {
    let agent = match &raw.agent {
        Some(name) => AgentId::new(name).map_err(|e| ConfigError::value("agent", e))?,
        None => host_agent()?,
    };
    let server = tls::address(&raw.server)?;
    let tls = tls::settings(&raw.tls, &server)?;
    let password = tls::password(&raw)?;
    let b = &raw.buffer;
    let u = &raw.uplink;
    at_least("buffer.bytes_max", b.bytes_max, 64 << 10)?;
    if let Some(seconds) = b.age_max_s {
        at_least("buffer.age_max_s", u64::from(seconds), 60)?;
    }
    at_least("buffer.commit_events", b.commit_events as u64, 1)?;
    at_least("buffer.waiting_events_max", b.waiting_events_max as u64, 1)?;
    within(
        "uplink.batch_events_max",
        u64::from(u.batch_events_max),
        1,
        65_536,
    )?;
    within(
        "uplink.batch_bytes_max",
        u.batch_bytes_max as u64,
        4096,
        1 << 20,
    )?;
    within("uplink.in_flight_max", u.in_flight_max as u64, 1, 8)?;
    within("uplink.keep_alive_s", u.keep_alive_s, 1, 65_535)?;
    for (key, ms) in [
        ("uplink.ack_timeout_ms", u.ack_timeout_ms),
        ("uplink.heartbeat_ms", u.heartbeat_ms),
        ("uplink.refused_retry_ms", u.refused_retry_ms),
        ("uplink.silence_max_ms", u.silence_max_ms),
        ("uplink.reconnect_min_ms", u.reconnect_min_ms),
        ("uplink.connect_timeout_ms", u.connect_timeout_ms),
    ] {
        at_least(key, ms, 1)?;
    }
    let ms = Duration::from_millis;
    let sources = sources(&raw, &agent)?;
    let commands = command::commands(&raw.command)?;
    let rules = rule::rules(&raw.rule, &commands, &agent)?;
    Ok(Settings {
        data_dir: raw.data_dir,
        log: raw.log,
        exit_when_done: raw.exit_when_done,
        stop_grace: ms(u.stop_grace_ms),
        clock: raw.clock,
        buffer: buffer::Settings {
            bytes_max: b.bytes_max,
            overflow: b.overflow,
            age_max: b.age_max_s,
            cache_bytes: b.cache_bytes,
            ..buffer::Settings::default()
        },
        disk_free_min: b.disk_free_min,
        inbox: inbox::Settings {
            commit_interval: ms(b.commit_interval_ms),
            commit_events: b.commit_events,
            commit_bytes: b.commit_bytes,
            events_max: b.waiting_events_max,
            replay_backlog_max: b.replay_backlog_max.unwrap_or(b.bytes_max / 2),
        },
        session: session::Settings {
            batch_events_max: u.batch_events_max,
            in_flight_max: u.in_flight_max,
            ack_timeout: ms(u.ack_timeout_ms),
            ack_timeout_max: ms(u.ack_timeout_max_ms),
            heartbeat: ms(u.heartbeat_ms),
            refused_retry: ms(u.refused_retry_ms),
            refused_retry_max: ms(u.refused_retry_max_ms),
            silence_max: ms(u.silence_max_ms),
            ..session::Settings::default()
        },
        batch_bytes_max: u.batch_bytes_max,
        link: link::Settings {
            host: server.host,
            port: server.port,
            tls,
            user: raw.user,
            password,
            connect_timeout: ms(u.connect_timeout_ms),
            reconnect_min: ms(u.reconnect_min_ms),
            reconnect_max: ms(u.reconnect_max_ms),
            keep_alive: Duration::from_secs(u.keep_alive_s),
            // Room for the topic and headers beside the largest batch, and for any ack.
            packet_bytes_max: (u.batch_bytes_max + (64 << 10)).max(256 << 10),
        },
        sources,
        commands,
        rules,
        agent,
    })
}

fn at_least(key: &str, value: u64, min: u64) -> Result<(), ConfigError> {
    within(key, value, min, u64::MAX)
}

fn within(key: &str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let limits = if max == u64::MAX {
        format!("at least {min}")
    } else {
        format!("{min} to {max}")
    };
    Err(ConfigError::value(
        key,
        format!("{value} is out of range; it must be {limits}"),
    ))
}

/// The machine's name, with what no id can hold replaced.
fn host_agent() -> Result<AgentId, ConfigError> {
    let name = sysinfo::System::host_name().unwrap_or_default();
    let name: String = name
        .chars()
        .map(|c| if c == '.' || c == ' ' { '-' } else { c })
        .collect();
    AgentId::new(&name).map_err(|e| {
        ConfigError::value(
            "agent",
            format!("not set, and the host name does not serve: {e}"),
        )
    })
}

fn sources(raw: &Raw, agent: &AgentId) -> Result<Vec<Source>, ConfigError> {
    let mut sources: Vec<Source> = Vec::new();
    for (i, item) in raw.source.iter().enumerate() {
        let source = source(item, i, raw, agent)?;
        if sources.iter().any(|s| s.name == source.name) {
            let key = format!("source[{i}].name");
            return Err(ConfigError::value(
                key,
                format!("{:?} is taken", source.name),
            ));
        }
        let stdin = |s: &Source| matches!(s.kind, SourceKind::Stdin(_));
        if stdin(&source) && sources.iter().any(stdin) {
            return Err(ConfigError::value(
                format!("source[{i}]"),
                "standard input is taken",
            ));
        }
        sources.push(source);
    }
    Ok(sources)
}

fn source(item: &raw::Entry, i: usize, raw: &Raw, agent: &AgentId) -> Result<Source, ConfigError> {
    let key = |name: &str| format!("source[{i}].{name}");
    let id = |name: &str, text: &str| {
        DeviceId::new(text).map_err(|e: IdError| ConfigError::value(key(name), e))
    };
    let bad_mapping = |e: MappingError| ConfigError::value(format!("source[{i}]"), e);
    let mut attributes = raw.attributes.clone();
    // The name that it has if it is given none, and what it reads.
    let given = &item.common.name;
    let (default_name, kind) = match &item.kind {
        raw::Source::Host(s) => {
            at_least(&key("interval_ms"), s.interval_ms, 10)?;
            let settings = host::Settings {
                device: id("device", s.device.as_deref().unwrap_or(agent.as_str()))?,
                interval: Duration::from_millis(s.interval_ms),
                disk: s.disk.clone(),
            };
            ("host".to_owned(), SourceKind::Host(settings))
        }
        raw::Source::Own(s) => {
            at_least(&key("interval_ms"), s.interval_ms, 10)?;
            let endurance = s.card_endurance_gb;
            if endurance.is_some_and(|gb| !(gb > 0.0 && gb < 1e9)) {
                let message = "must be more than 0 gigabytes, as 20000 for a card of 20 TBW";
                return Err(ConfigError::value(key("card_endurance_gb"), message));
            }
            let settings = own::Settings {
                device: id("device", s.device.as_deref().unwrap_or(agent.as_str()))?,
                interval: Duration::from_millis(s.interval_ms),
                card_endurance: endurance.map(|gb| (gb * 1e9) as u64),
            };
            ("agent".to_owned(), SourceKind::Own(settings))
        }
        raw::Source::Stdin(s) => {
            let settings = stdin::Settings {
                mapping: Mapping {
                    device_column: s.device_key.clone(),
                    device: s.device.as_deref().map(|d| id("device", d)).transpose()?,
                    time_column: s.time_key.clone(),
                    time_format: TimeFormat::new(&s.time_format, &s.utc_offset)
                        .map_err(bad_mapping)?,
                    metrics: s.metrics.clone(),
                    skip: s.skip.clone(),
                    text: Vec::new(),
                    rename: Mapping::renames(&s.rename).map_err(bad_mapping)?,
                },
                lag: Duration::from_millis(s.lag_ms),
            };
            ("stdin".to_owned(), SourceKind::Stdin(settings))
        }
        raw::Source::File(s) => {
            let mut settings = file_source(s, &key, id, bad_mapping)?;
            settings.keep_trying = !raw.exit_when_done;
            (s.path.display().to_string(), SourceKind::File(settings))
        }
        raw::Source::Socket(s) => {
            let (name, settings) = inputs::socket(s, &key)?;
            (name, SourceKind::Socket(settings))
        }
        raw::Source::Exec(s) => {
            let (name, settings) = inputs::exec(s, agent, &key)?;
            (name, SourceKind::Exec(settings))
        }
        raw::Source::Mqtt(s) => {
            let name = given.as_deref().unwrap_or("mqtt");
            let settings = mqtt::settings(s, name, &key, agent)?;
            ("mqtt".to_owned(), SourceKind::Mqtt(settings))
        }
        raw::Source::Tail(s) => {
            let kind = SourceKind::Tail(tail::settings(s, &key)?);
            (s.path.display().to_string(), kind)
        }
        raw::Source::Sysfs(s) => {
            let kind = SourceKind::Sysfs(sysfs::settings(s, &key, agent)?);
            ("sysfs".to_owned(), kind)
        }
    };
    attributes.extend(item.common.attributes.clone());
    let units = item.common.units.iter();
    attributes.extend(units.map(|(metric, unit)| (format!("unit.{metric}"), unit.clone())));
    for name in attributes.keys() {
        if let Err(e) = event::MetricName::attribute(name) {
            return Err(ConfigError::value(key("attributes"), e));
        }
    }
    Ok(Source {
        name: given.clone().unwrap_or(default_name),
        attributes,
        on_change: on_change(&item.common, &key)?,
        priority: item.common.priority,
        kind,
    })
}

fn on_change(
    common: &raw::Common,
    key: &dyn Fn(&str) -> String,
) -> Result<change::Settings, ConfigError> {
    if common
        .dead_band
        .is_some_and(|b| !(b.is_finite() && b >= 0.0))
    {
        return Err(ConfigError::value(key("dead_band"), "must be 0 or more"));
    }
    let (min, max) = (common.min_interval_ms, common.max_interval_ms);
    if max != 0 && max < min {
        let message = format!("{max} is less than min_interval_ms, {min}");
        return Err(ConfigError::value(key("max_interval_ms"), message));
    }
    Ok(change::Settings {
        dead_band: common.dead_band,
        min_interval: Duration::from_millis(min),
        max_interval: Duration::from_millis(max),
    })
}

fn file_source(
    s: &raw::FileSource,
    key: &dyn Fn(&str) -> String,
    id: impl Fn(&str, &str) -> Result<DeviceId, ConfigError>,
    bad_mapping: impl Fn(MappingError) -> ConfigError,
) -> Result<file::Settings, ConfigError> {
    let jsonl = s
        .path
        .extension()
        .is_some_and(|e| e == "jsonl" || e == "ndjson" || e == "json");
    let format = s
        .format
        .unwrap_or(if jsonl { Format::Jsonl } else { Format::Csv });
    let [delimiter] = *s.delimiter.as_bytes() else {
        return Err(ConfigError::value(
            key("delimiter"),
            "must be one ASCII character",
        ));
    };
    if !(s.speed.is_finite() && s.speed >= 0.0) {
        return Err(ConfigError::value(
            key("speed"),
            "must be 0 (as fast as possible) or more",
        ));
    }
    if s.timestamps == Timestamps::Shifted && s.speed == 0.0 {
        let message = "\"shifted\" needs a speed: without one all rows would happen at once";
        return Err(ConfigError::value(key("timestamps"), message));
    }
    if format == Format::Csv && s.device.is_none() && s.device_column.is_none() {
        let message = "set it, or `device` if the whole file is one device's";
        return Err(ConfigError::value(key("device_column"), message));
    }
    if !s.header && s.columns.is_empty() && format == Format::Csv {
        let message = "a file without a header needs the names of its columns";
        return Err(ConfigError::value(key("columns"), message));
    }
    Ok(file::Settings {
        path: s.path.clone(),
        format,
        delimiter,
        header: s.header,
        columns: s.columns.clone(),
        mapping: Mapping {
            device_column: s.device_column.clone(),
            device: s.device.as_deref().map(|d| id("device", d)).transpose()?,
            time_column: s.time_column.clone(),
            time_format: TimeFormat::new(&s.time_format, &s.utc_offset).map_err(&bad_mapping)?,
            metrics: s.metrics.clone(),
            skip: s.skip.clone(),
            text: s.text.clone(),
            rename: Mapping::renames(&s.rename).map_err(&bad_mapping)?,
        },
        timestamps: s.timestamps,
        speed: s.speed,
        keep_trying: true,
    })
}

#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod tests;
