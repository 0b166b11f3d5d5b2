//! `kind = "mqtt"`.

use std::collections::BTreeMap;
use std::time::Duration;

use event::{AgentId, DeviceId};
use serde::{Deserialize, Serialize};

use super::{ConfigError, tls, within};
use crate::sources::mqtt::{DeviceFrom, Filter, Format, MetricFrom, Settings, TOPICS_MAX, Topic};
use crate::sources::{Mapping, TimeFormat};
use crate::uplink::secret::Secret;

pub(super) const KEYS: &[&str] = &[
    "kind",
    "server",
    "user",
    "password",
    "client_id",
    "payload_bytes_max",
    "lag_ms",
    "topics",
];
pub(super) const TOPIC_KEYS: &[&str] = &[
    "filter",
    "format",
    "device",
    "device_level",
    "device_key",
    "devices",
    "metric",
    "metric_level",
    "time_key",
    "time_format",
    "utc_offset",
    "on_off",
    "retained",
    "metrics",
    "skip",
    "rename",
];

/// As it is typed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct MqttSource {
    pub server: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub client_id: Option<String>,
    pub payload_bytes_max: usize,
    pub lag_ms: Option<u64>,
    pub topics: Vec<MqttTopic>,
}

impl Default for MqttSource {
    fn default() -> Self {
        Self {
            server: "mqtt://127.0.0.1:1883".to_owned(),
            user: None,
            password: None,
            client_id: None,
            payload_bytes_max: 64 << 10,
            lag_ms: None,
            topics: Vec::new(),
        }
    }
}

/// One `[[source.topics]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct MqttTopic {
    pub filter: String,
    pub format: Format,
    pub device: Option<String>,
    pub device_level: Option<usize>,
    pub device_key: Option<String>,
    pub devices: BTreeMap<String, String>,
    pub metric: Option<String>,
    pub metric_level: Option<usize>,
    pub time_key: Option<String>,
    pub time_format: String,
    pub utc_offset: String,
    pub on_off: bool,
    pub retained: bool,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub rename: BTreeMap<String, String>,
}

impl Default for MqttTopic {
    fn default() -> Self {
        Self {
            filter: String::new(),
            format: Format::Json,
            device: None,
            device_level: None,
            device_key: None,
            devices: BTreeMap::new(),
            metric: None,
            metric_level: None,
            time_key: None,
            time_format: "ms".to_owned(),
            utc_offset: "+00:00".to_owned(),
            on_off: false,
            retained: false,
            metrics: Vec::new(),
            skip: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

/// How far times in messages may lie behind the present unless something else is said, ms.
const LAG_MS: u64 = 2000;

pub(super) fn settings(
    s: &MqttSource,
    name: &str,
    key: &dyn Fn(&str) -> String,
    agent: &AgentId,
) -> Result<Settings, ConfigError> {
    let address = tls::address(&s.server).map_err(|e| match e {
        ConfigError::Value { message, .. } => ConfigError::value(key("server"), message),
        other => other,
    })?;
    if address.tls {
        let message = "a broker nearby is reached without TLS; write mqtt://";
        return Err(ConfigError::value(key("server"), message));
    }
    let (host, port) = (address.host, address.port);
    let max = s.payload_bytes_max as u64;
    within(&key("payload_bytes_max"), max, 1, 1 << 20)?;
    let n = s.topics.len() as u64;
    if n == 0 {
        let message = "is missing; add a [[source.topics]] with a filter";
        return Err(ConfigError::value(key("topics"), message));
    }
    within(&key("topics"), n, 1, TOPICS_MAX as u64)?;
    if s.client_id.as_deref() == Some("") {
        let message = "is empty; the broker keeps what we have not taken by this name";
        return Err(ConfigError::value(key("client_id"), message));
    }
    let mut topics: Vec<Topic> = Vec::new();
    for (i, t) in s.topics.iter().enumerate() {
        let key = |name: &str| key(&format!("topics[{i}].{name}"));
        let topic = topic(t, &key)?;
        if let Some(other) = topics.iter().find(|o| o.filter.overlaps(&topic.filter)) {
            return Err(ConfigError::value(
                key("filter"),
                format!(
                    "\"{}\" and \"{}\" overlap: a broker may send what both mean twice; \
                     make them narrower, or put one into another source",
                    other.filter, topic.filter
                ),
            ));
        }
        topics.push(topic);
    }
    let has_time = topics.iter().any(|t| t.mapping.time_column.is_some());
    let lag = s.lag_ms.unwrap_or(if has_time { LAG_MS } else { 0 });
    Ok(Settings {
        host,
        port,
        user: s.user.clone(),
        password: s.password.clone().map(Secret::new),
        client_id: match &s.client_id {
            Some(id) => id.clone(),
            None => format!("tidewatch-{agent}-{name}"),
        },
        payload_bytes_max: s.payload_bytes_max,
        lag: Duration::from_millis(lag),
        topics,
    })
}

fn topic(t: &MqttTopic, key: &dyn Fn(&str) -> String) -> Result<Topic, ConfigError> {
    let bad = |name: &str, message: &str| Err(ConfigError::value(key(name), message));
    let id =
        |name: &str, text: &str| DeviceId::new(text).map_err(|e| ConfigError::value(key(name), e));
    let filter = Filter::new(&t.filter).map_err(|e| ConfigError::value(key("filter"), e))?;
    let level = |name: &str, n: usize| {
        let (levels, open) = filter.levels();
        if n >= 1 && (n <= levels || open) {
            return Ok(n);
        }
        let message = format!("{n}: {:?} has levels 1 to {levels}", filter.as_str());
        Err(ConfigError::value(key(name), message))
    };
    let device = match (&t.device, t.device_level, &t.device_key) {
        (Some(device), None, None) => DeviceFrom::Fixed(id("device", device)?),
        (None, Some(n), None) => DeviceFrom::Level(level("device_level", n)?),
        (None, None, Some(path)) if t.format == Format::Json => DeviceFrom::Key(path.clone()),
        (None, None, Some(_)) => {
            return bad(
                "device_key",
                "one value has no keys; set device_level or device",
            );
        }
        (None, None, None) => {
            return bad(
                "device_level",
                "set it (the level of the topic that names the device, \
                counted from 1), or device_key, or device",
            );
        }
        _ => {
            return bad(
                "device_level",
                "set only one of device_level, device_key and device",
            );
        }
    };
    if t.format == Format::Json && (t.metric.is_some() || t.metric_level.is_some()) {
        return bad(
            "metric",
            "is for format = \"value\"; the keys of an object name the metrics",
        );
    }
    if t.format == Format::Value && t.time_key.is_some() {
        return bad(
            "time_key",
            "one value has no keys; it gets the time of its arrival",
        );
    }
    let metric = match (&t.metric, t.metric_level) {
        (Some(metric), None) => {
            event::MetricName::new(metric).map_err(|e| ConfigError::value(key("metric"), e))?;
            MetricFrom::Fixed(metric.clone())
        }
        (None, Some(n)) => MetricFrom::Level(level("metric_level", n)?),
        (None, None) => {
            let (levels, open) = filter.levels();
            let last = DeviceFrom::Level(levels);
            if t.format == Format::Value && device == last && !open {
                return bad(
                    "metric",
                    "set it: the last level of the topic is the device already",
                );
            }
            MetricFrom::Last
        }
        _ => return bad("metric", "set only one of metric and metric_level"),
    };
    let devices = t.devices.iter().map(|(name, device)| {
        let at = format!("devices.{name}");
        Ok((name.clone(), id(&at, device)?))
    });
    let mapping = |e: crate::sources::MappingError| ConfigError::value(key("rename"), e);
    Ok(Topic {
        format: t.format,
        device,
        devices: devices.collect::<Result<_, ConfigError>>()?,
        metric,
        on_off: t.on_off,
        retained: t.retained,
        mapping: Mapping {
            device_column: None,
            device: None,
            time_column: t.time_key.clone(),
            time_format: TimeFormat::new(&t.time_format, &t.utc_offset)
                .map_err(|e| ConfigError::value(key("time_format"), e))?,
            metrics: t.metrics.clone(),
            skip: t.skip.clone(),
            text: Vec::new(),
            rename: Mapping::renames(&t.rename).map_err(mapping)?,
        },
        filter,
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check_error, load_text};

    fn check(lines: &str, expected: &str) {
        let head = "[[source]]\nkind = 'mqtt'\n[[source.topics]]\nfilter = 'a/+/b'\n";
        check_error(
            &format!("{head}{lines}"),
            &format!("source[0].topics[0].{expected}"),
        );
    }

    #[test]
    fn it_is_checked() {
        check_error("[[source]]\nkind = 'mqtt'", "source[0].topics: is missing");
        check_error(
            "[[source]]\nkind = 'mqtt'\nserver = 'mqtts://h'\ntopics = [{}]",
            "source[0].server: a broker nearby is reached without TLS",
        );
        check(
            "devise_level = 2",
            "devise_level\"; did you mean \"source[0].topics[0].device_level",
        );
        check("", "device_level: set it");
        check(
            "device_level = 4",
            "device_level: 4: \"a/+/b\" has levels 1 to 3",
        );
        check("device_level = 0", "device_level: 0");
        check(
            "device_level = 2\ndevice = 'x'",
            "device_level: set only one",
        );
        check("device = 'x y'", "device: device id \"x y\"");
        check(
            "device_level = 2\ndevices = { a = 'x/y' }",
            "devices.a: device id",
        );
        check("device_level = 2\nmetric = 'x'", "metric: is for format");
        check("format = 'value'\ndevice_level = 3", "metric: set it");
        check(
            "format = 'value'\ndevice_key = 'x'",
            "device_key: one value has no keys",
        );
        check(
            "format = 'value'\ndevice_level = 2\ntime_key = 't'",
            "time_key: one value",
        );
        check(
            "device_level = 2\ntime_format = '%Q'",
            "time_format: time_format \"%Q\"",
        );
        check_error(
            "[[source]]\nkind = 'mqtt'\n[[source.topics]]\nfilter = 'a/+/b'\ndevice_level = 2\n\
             [[source.topics]]\nfilter = 'a/x/+'\ndevice_level = 2",
            "source[0].topics[1].filter: \"a/+/b\" and \"a/x/+\" overlap",
        );
        check_error(
            "[[source]]\nkind = 'mqtt'\n[[source.topics]]\nfilter = 'a+'",
            "source[0].topics[0].filter: \"a+\": + and # stand alone",
        );
    }

    #[test]
    fn the_session_has_a_name_of_its_own() {
        let text = "agent = 'gw'\n[[source]]\nkind = 'mqtt'\nname = 'home'\n[[source.topics]]\n\
            filter = 'a/#'\ndevice_level = 9";
        let settings = load_text(text, &[], &[]).unwrap();
        let shown = format!("{:?}", settings.sources[0].kind);
        assert!(
            shown.contains("client_id: \"tidewatch-gw-home\""),
            "{shown}"
        );
    }
}
