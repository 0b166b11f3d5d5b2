//! `kind = "socket"` and `kind = "exec"`: what is typed, the keys, and what they mean.

use std::collections::BTreeMap;
use std::time::Duration;

use event::{AgentId, DeviceId, MetricName};
use serde::{Deserialize, Serialize};

use super::{ConfigError, at_least, within};
use crate::sources::line_protocol::{self, MetricNames, Precision};
use crate::sources::{Decoding, Mapping, MappingError, TagRules, TimeFormat, exec, socket, statsd};

/// Most tags that are attributes of a device.
const TAGS_MAX: usize = 32;

pub(super) const SOCKET: &[&str] = &[
    "kind",
    "listen",
    "format",
    "interval_ms",
    "device",
    "device_tag",
    "tags",
    "metric_names",
    "precision",
    "device_key",
    "time_key",
    "time_format",
    "utc_offset",
    "lag_ms",
    "metrics",
    "skip",
    "rename",
];
pub(super) const EXEC: &[&str] = &[
    "kind",
    "command",
    "env",
    "mode",
    "interval_ms",
    "timeout_ms",
    "restart_min_ms",
    "restart_max_ms",
    "format",
    "metric",
    "device",
    "device_tag",
    "tags",
    "metric_names",
    "precision",
    "device_key",
    "time_key",
    "time_format",
    "utc_offset",
    "lag_ms",
    "metrics",
    "skip",
    "rename",
];

/// `kind = "socket"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketSource {
    pub listen: String,
    pub format: Option<SocketFormat>,
    pub interval_ms: u64,
    #[serde(flatten)]
    pub content: Content,
}

impl Default for SocketSource {
    fn default() -> Self {
        Self {
            listen: String::new(),
            format: None,
            interval_ms: 10_000,
            content: Content::default(),
        }
    }
}

/// What a socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketFormat {
    Line,
    Statsd,
    Json,
}

/// `kind = "exec"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSource {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub mode: ExecMode,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub restart_min_ms: u64,
    pub restart_max_ms: u64,
    pub format: Option<ExecFormat>,
    pub metric: Option<String>,
    #[serde(flatten)]
    pub content: Content,
}

impl Default for ExecSource {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: BTreeMap::new(),
            mode: ExecMode::Interval,
            interval_ms: 10_000,
            timeout_ms: 5000,
            restart_min_ms: 1000,
            restart_max_ms: 60_000,
            format: None,
            metric: None,
            content: Content::default(),
        }
    }
}

/// How a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    Interval,
    Stream,
}

/// What a program prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecFormat {
    Json,
    Line,
    Value,
}

/// What lines mean, whatever brings them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    pub device: Option<String>,
    pub device_tag: String,
    pub tags: Vec<String>,
    pub metric_names: MetricNames,
    pub precision: Precision,
    pub device_key: Option<String>,
    pub time_key: Option<String>,
    pub time_format: String,
    pub utc_offset: String,
    pub lag_ms: u64,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub rename: BTreeMap<String, String>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            device: None,
            device_tag: "device".to_owned(),
            tags: Vec::new(),
            metric_names: MetricNames::default(),
            precision: Precision::default(),
            device_key: None,
            time_key: None,
            time_format: "ms".to_owned(),
            utc_offset: "+00:00".to_owned(),
            lag_ms: 0,
            metrics: Vec::new(),
            skip: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

/// Names keys of one source.
type Key<'a> = &'a dyn Fn(&str) -> String;

impl Content {
    fn device(&self, key: Key<'_>) -> Result<Option<DeviceId>, ConfigError> {
        let device = self.device.as_deref().map(DeviceId::new).transpose();
        device.map_err(|e| ConfigError::value(key("device"), e))
    }

    /// With the keys of a JSON object that are no metrics; tags need none.
    fn mapping(&self, key: Key<'_>, json: bool) -> Result<Mapping, ConfigError> {
        let bad = |name| move |e: MappingError| ConfigError::value(key(name), e);
        Ok(Mapping {
            device_column: self.device_key.clone().filter(|_| json),
            device: self.device(key)?,
            time_column: self.time_key.clone().filter(|_| json),
            time_format: TimeFormat::new(&self.time_format, &self.utc_offset)
                .map_err(bad("time_format"))?,
            metrics: self.metrics.clone(),
            skip: self.skip.clone(),
            text: Vec::new(),
            rename: Mapping::renames(&self.rename).map_err(bad("rename"))?,
        })
    }

    fn tag_rules(&self, key: Key<'_>) -> Result<TagRules, ConfigError> {
        if self.device_tag.is_empty() {
            return Err(ConfigError::value(key("device_tag"), "is empty"));
        }
        within(&key("tags"), self.tags.len() as u64, 0, TAGS_MAX as u64)?;
        let attributes = self.tags.iter().map(|tag| {
            let name = MetricName::attribute(tag);
            Ok((
                tag.clone(),
                name.map_err(|e| ConfigError::value(key("tags"), e))?,
            ))
        });
        Ok(TagRules {
            device_tag: self.device_tag.clone(),
            device: self.device(key)?,
            attributes: attributes.collect::<Result<_, _>>()?,
        })
    }

    fn line(&self, key: Key<'_>) -> Result<Decoding, ConfigError> {
        Ok(Decoding::Line(line_protocol::Settings {
            tags: self.tag_rules(key)?,
            precision: self.precision,
            names: self.metric_names,
            mapping: self.mapping(key, false)?,
        }))
    }

    fn json(&self, key: Key<'_>) -> Result<Decoding, ConfigError> {
        Ok(Decoding::Json(self.mapping(key, true)?))
    }
}

/// The name by default, and what the source reads.
pub(super) fn socket(
    s: &SocketSource,
    key: Key<'_>,
) -> Result<(String, socket::Settings), ConfigError> {
    if s.listen.is_empty() {
        let message = "is missing; set it to udp://127.0.0.1:8094, tcp://…, unix://path or \
                       unix-stream://path";
        return Err(ConfigError::value(key("listen"), message));
    }
    let listen = s.listen.parse::<socket::Listen>();
    let listen = listen.map_err(|e| ConfigError::value(key("listen"), e))?;
    at_least(&key("interval_ms"), s.interval_ms, 10)?;
    let decoding = match s.format {
        None => {
            let message = "is missing; set it to line, statsd or json";
            return Err(ConfigError::value(key("format"), message));
        }
        Some(SocketFormat::Line) => s.content.line(key)?,
        Some(SocketFormat::Json) => s.content.json(key)?,
        Some(SocketFormat::Statsd) => Decoding::Statsd(statsd::Settings {
            tags: s.content.tag_rules(key)?,
            mapping: s.content.mapping(key, false)?,
            interval: Duration::from_millis(s.interval_ms),
        }),
    };
    let settings = socket::Settings {
        listen,
        decoding,
        lag: Duration::from_millis(s.content.lag_ms),
    };
    Ok((s.listen.clone(), settings))
}

/// The name by default, and what the source reads.
pub(super) fn exec(
    s: &ExecSource,
    agent: &AgentId,
    key: Key<'_>,
) -> Result<(String, exec::Settings), ConfigError> {
    let Some(program) = s.command.first().filter(|program| !program.is_empty()) else {
        let message =
            "is missing; set it to the program and its arguments, as [\"/usr/bin/x\", \"-v\"]";
        return Err(ConfigError::value(key("command"), message));
    };
    if let Some(name) = s
        .env
        .keys()
        .find(|n| n.is_empty() || n.contains(['=', '\0']))
    {
        let message = format!("{name:?} is no name of a variable");
        return Err(ConfigError::value(key("env"), message));
    }
    let ms = Duration::from_millis;
    for (name, value) in [
        ("interval_ms", s.interval_ms),
        ("timeout_ms", s.timeout_ms),
        ("restart_min_ms", s.restart_min_ms),
        ("restart_max_ms", s.restart_max_ms),
    ] {
        at_least(&key(name), value, 10)?;
    }
    let decoding = match s.format {
        None => {
            let message = "is missing; set it to json, line or value";
            return Err(ConfigError::value(key("format"), message));
        }
        Some(ExecFormat::Line) => s.content.line(key)?,
        Some(ExecFormat::Json) => s.content.json(key)?,
        Some(ExecFormat::Value) => {
            let Some(metric) = &s.metric else {
                let message =
                    "is missing; format = \"value\" needs the name of what the numbers are";
                return Err(ConfigError::value(key("metric"), message));
            };
            let metric = MetricName::new(metric)
                .ok()
                .filter(|m| m.as_attribute().is_none());
            let metric = metric.ok_or_else(|| {
                let message = "must be 1 to 64 of A-Z a-z 0-9 _ . -";
                ConfigError::value(key("metric"), message)
            })?;
            let device = match s.content.device(key)? {
                Some(device) => device,
                None => DeviceId::new(agent.as_str())
                    .map_err(|e| ConfigError::value(key("device"), e))?,
            };
            Decoding::Value { device, metric }
        }
    };
    let mode = match s.mode {
        ExecMode::Interval => exec::Mode::Interval {
            interval: ms(s.interval_ms),
            timeout: ms(s.timeout_ms),
        },
        ExecMode::Stream => exec::Mode::Stream {
            restart_min: ms(s.restart_min_ms),
            restart_max: ms(s.restart_max_ms),
        },
    };
    let settings = exec::Settings {
        command: s.command.clone(),
        env: s.env.clone(),
        mode,
        decoding,
        lag: ms(s.content.lag_ms),
    };
    Ok((program.clone(), settings))
}

#[cfg(test)]
mod tests {
    use super::super::SourceKind;
    use super::super::tests::{check_error, load_text};
    use crate::sources::Decoding;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, error) in [
            (
                "kind = 'socket'",
                "source[0].listen: is missing; set it to udp://",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a'",
                "source[0].listen: \"a\" is not like 127.0.0.1:8094",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a:1'",
                "source[0].format: is missing; set it to line, statsd or json",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a:1'\nformat = 'line'\ndevcie_tag = 'x'",
                "did you mean \"source[0].device_tag\"?",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a:1'\nformat = 'line'\ntags = ['a b']",
                "source[0].tags: attribute name \"a b\"",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a:1'\nformat = 'statsd'\ninterval_ms = 1",
                "source[0].interval_ms: 1 is out of range",
            ),
            (
                "kind = 'socket'\nlisten = 'udp://a:1'\nformat = 'line'\nprecision = 'm'",
                "unknown variant `m`",
            ),
            ("kind = 'exec'", "source[0].command: is missing"),
            ("kind = 'exec'\ncommand = 'ls -l'", "expected a sequence"),
            (
                "kind = 'exec'\ncommand = ['x']",
                "source[0].format: is missing; set it to json, line or value",
            ),
            (
                "kind = 'exec'\ncommand = ['x']\nformat = 'value'",
                "source[0].metric: is missing",
            ),
            (
                "kind = 'exec'\ncommand = ['x']\nformat = 'value'\nmetric = 'a b'",
                "source[0].metric: must be",
            ),
            (
                "kind = 'exec'\ncommand = ['x']\nformat = 'json'\nenv = { 'a=b' = 'c' }",
                "source[0].env: \"a=b\" is no name",
            ),
        ] {
            check_error(&format!("[[source]]\n{text}"), error);
        }
    }

    #[test]
    fn names_and_devices_have_defaults() {
        let text = "agent = 'gw'\n\
            [[source]]\nkind = 'socket'\nlisten = 'udp://127.0.0.1:0'\nformat = 'line'\n\
            [[source]]\nkind = 'exec'\ncommand = ['/bin/x', '-v']\nformat = 'value'\nmetric = 't'\n";
        let settings = load_text(text, &[], &[]).unwrap();
        let names: Vec<_> = settings.sources.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["udp://127.0.0.1:0", "/bin/x"]);
        let SourceKind::Exec(exec) = &settings.sources[1].kind else {
            panic!("{:?}", settings.sources[1]);
        };
        let Decoding::Value { device, metric } = &exec.decoding else {
            panic!("{:?}", exec.decoding);
        };
        assert_eq!((device.as_str(), metric.as_str()), ("gw", "t"));
    }
}
