//! The keys there are, and the nearest one to a key there is not.

use toml::{Table, Value};

use super::{ConfigError, command, inputs, rule, tls};

const TOP: &[&str] = &[
    "agent",
    "server",
    "user",
    "password",
    "password_file",
    "data_dir",
    "log",
    "exit_when_done",
    "clock",
    "attributes",
    "buffer",
    "uplink",
    "tls",
    "source",
    "command",
    "rule",
];
const BUFFER: &[&str] = &[
    "bytes_max",
    "cache_bytes",
    "commit_interval_ms",
    "commit_events",
    "commit_bytes",
    "waiting_events_max",
    "replay_backlog_max",
    "overflow",
    "age_max_s",
    "disk_free_min",
];
const UPLINK: &[&str] = &[
    "batch_events_max",
    "batch_bytes_max",
    "in_flight_max",
    "ack_timeout_ms",
    "ack_timeout_max_ms",
    "heartbeat_ms",
    "refused_retry_ms",
    "refused_retry_max_ms",
    "silence_max_ms",
    "reconnect_min_ms",
    "reconnect_max_ms",
    "connect_timeout_ms",
    "keep_alive_s",
    "stop_grace_ms",
];
pub(super) use super::mqtt::{KEYS as MQTT, TOPIC_KEYS};
pub(super) use super::sysfs::KEYS as SYSFS;
pub(super) use super::tail::KEYS as TAIL;

/// Keys of every source.
pub(super) const COMMON: &[&str] = &[
    "name",
    "attributes",
    "units",
    "dead_band",
    "min_interval_ms",
    "max_interval_ms",
    "priority",
];
pub(super) const HOST: &[&str] = &["kind", "device", "interval_ms", "disk"];
pub(super) const OWN: &[&str] = &["kind", "device", "interval_ms", "card_endurance_gb"];
pub(super) const STDIN: &[&str] = &[
    "kind",
    "device",
    "device_key",
    "time_key",
    "time_format",
    "utc_offset",
    "lag_ms",
    "metrics",
    "skip",
    "rename",
];
pub(super) const FILE: &[&str] = &[
    "kind",
    "path",
    "format",
    "delimiter",
    "header",
    "columns",
    "device",
    "device_column",
    "time_column",
    "time_format",
    "utc_offset",
    "metrics",
    "skip",
    "text",
    "rename",
    "timestamps",
    "speed",
];
/// Kinds of sources.
const KINDS: &[&str] = &[
    "host", "agent", "stdin", "file", "socket", "exec", "sysfs", "mqtt", "tail",
];
/// Keys whose value is taken as it stands from the environment and from flags.
const TEXTS: &[&str] = &[
    "agent",
    "server",
    "user",
    "password",
    "password_file",
    "data_dir",
    "log",
    "clock",
    "buffer.overflow",
];

/// Checks every key of a file.
pub(super) fn check(table: &Table, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        one(key, "", TOP, origin)?;
        match (key.as_str(), value) {
            ("buffer", Value::Table(t)) => all(t, "buffer.", BUFFER, origin)?,
            ("uplink", Value::Table(t)) => all(t, "uplink.", UPLINK, origin)?,
            ("tls", Value::Table(t)) => all(t, "tls.", tls::KEYS, origin)?,
            ("source", Value::Array(sources)) => {
                for (i, source) in sources.iter().enumerate() {
                    let Value::Table(source) = source else {
                        continue;
                    };
                    let keys = match source.get("kind").and_then(Value::as_str) {
                        Some("host") => HOST,
                        Some("agent") => OWN,
                        Some("stdin") => STDIN,
                        Some("file") => FILE,
                        Some("socket") => inputs::SOCKET,
                        Some("exec") => inputs::EXEC,
                        Some("sysfs") => SYSFS,
                        Some("mqtt") => MQTT,
                        Some("tail") => TAIL,
                        Some(other) => {
                            let nearest = nearest(other, KINDS);
                            let hint = nearest.map(|n| format!("; did you mean {n:?}?"));
                            return Err(ConfigError::value(
                                format!("source[{i}].kind"),
                                format!("unknown {other:?}{}", hint.unwrap_or_default()),
                            ));
                        }
                        None => {
                            return Err(ConfigError::value(
                                format!("source[{i}].kind"),
                                format!("is missing; set it to one of {}", KINDS.join(", ")),
                            ));
                        }
                    };
                    let keys = [keys, COMMON].concat();
                    all(source, &format!("source[{i}]."), &keys, origin)?;
                    let topics = source.get("topics").and_then(Value::as_array);
                    for (n, topic) in topics.into_iter().flatten().enumerate() {
                        let Value::Table(topic) = topic else {
                            continue;
                        };
                        let prefix = format!("source[{i}].topics[{n}].");
                        all(topic, &prefix, TOPIC_KEYS, origin)?;
                    }
                }
            }
            ("command", Value::Array(commands)) => {
                for (i, item) in commands.iter().enumerate() {
                    if let Value::Table(item) = item {
                        all(item, &format!("command[{i}]."), command::KEYS, origin)?;
                    }
                }
            }
            ("rule", Value::Array(rules)) => {
                for (i, item) in rules.iter().enumerate() {
                    if let Value::Table(item) = item {
                        all(item, &format!("rule[{i}]."), rule::KEYS, origin)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A key that the environment or a flag may set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub is_text: bool,
}

pub(super) fn known(key: &str, origin: &str) -> Result<Known, ConfigError> {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    match section {
        "" => one(name, "", TOP, origin)?,
        "buffer" => one(name, "buffer.", BUFFER, origin)?,
        "uplink" => one(name, "uplink.", UPLINK, origin)?,
        "tls" => one(name, "tls.", tls::KEYS, origin)?,
        "attributes" => return Ok(Known { is_text: true }),
        other => one(
            other,
            "",
            &["buffer", "uplink", "tls", "attributes"],
            origin,
        )?,
    }
    Ok(Known {
        is_text: TEXTS.contains(&key) || tls::TEXTS.contains(&key),
    })
}

fn all(table: &Table, prefix: &str, known: &[&str], origin: &str) -> Result<(), ConfigError> {
    table
        .keys()
        .try_for_each(|key| one(key, prefix, known, origin))
}

fn one(key: &str, prefix: &str, known: &[&str], origin: &str) -> Result<(), ConfigError> {
    if known.contains(&key) {
        return Ok(());
    }
    Err(ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: format!("{prefix}{key}"),
        nearest: nearest(key, known).map(|n| format!("{prefix}{n}")),
    })
}

/// The one of `known` that is most like `key`, if any is.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(key, k), *k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.7)
        .map(|(_, k)| k)
}

#[cfg(test)]
pub(super) fn every_key() -> Vec<String> {
    let plain = |prefix: &'static str, keys: &'static [&'static str]| {
        keys.iter().map(move |k| format!("{prefix}{k}"))
    };
    plain("", TOP)
        .filter(|k| {
            ![
                "buffer",
                "uplink",
                "tls",
                "source",
                "command",
                "rule",
                "attributes",
            ]
            .contains(&k.as_str())
        })
        .chain(plain("buffer.", BUFFER))
        .chain(plain("uplink.", UPLINK))
        .chain(plain("tls.", tls::KEYS))
        .collect()
}
