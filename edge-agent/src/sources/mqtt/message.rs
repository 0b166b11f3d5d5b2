//! From a message to readings: which device, which metrics, what the values mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event::{DeviceId, EventTime, MetricName, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::filter::Filter;
use crate::inbox::Reading;
use crate::sources::Mapping;
use crate::sources::hash::fnv1a;

/// Objects in objects down to this depth become metrics. Tasmota needs three; more is no reading.
const DEPTH_MAX: usize = 4;
/// Most values of one message.
const VALUES_MAX: usize = 1024;
/// Most elements of a list of values (`"Power": [12, 0, 3]`).
const LIST_MAX: usize = 16;
/// Most devices of one source: what one broker of a site has. It keeps a filter such as `#` from
/// making a device of everything.
const DEVICES_MAX: usize = 4096;

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An object of values.
    #[default]
    Json,
    /// One value as text.
    Value,
}

/// Where the device's name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFrom {
    /// A level of the topic, counted from 1.
    Level(usize),
    /// A key of the object; dots lead into objects.
    Key(String),
    /// It is always this one.
    Fixed(DeviceId),
}

/// Where the name of the metric comes from when a payload is one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricFrom {
    /// A level of the topic, counted from 1.
    Level(usize),
    /// The last level.
    Last,
    /// It is always this one.
    Fixed(String),
}

/// What messages on some topics mean.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Which messages.
    pub filter: Filter,
    /// The form of their payloads.
    pub format: Format,
    /// Their device.
    pub device: DeviceFrom,
    /// Ids of devices by the names that they have at the broker.
    pub devices: BTreeMap<String, DeviceId>,
    /// The metric of a payload that is one value.
    pub metric: MetricFrom,
    /// ON and OFF are true and false.
    pub on_off: bool,
    /// Whether a message is taken that the broker had kept.
    pub retained: bool,
    /// Names of metrics, and the time if a key is named.
    pub mapping: Mapping,
}

/// What was in one message.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub readings: Vec<Reading>,
    /// Values that were not taken, with the reason.
    pub refused: Vec<String>,
}

/// Reads one message. A payload without bytes (a retained message that is deleted) has nothing.
///
/// **Errors**: nothing of it can be taken; the reason as a text for people.
pub(super) fn parse(
    topic: &Topic,
    name: &str,
    payload: &[u8],
    devices: &mut Devices,
) -> Result<Parsed, String> {
    if payload.is_empty() {
        return Ok(Parsed::default());
    }
    match topic.format {
        Format::Json => object(topic, name, payload, devices),
        Format::Value => one_value(topic, name, payload, devices),
    }
}

fn one_value(
    topic: &Topic,
    name: &str,
    payload: &[u8],
    devices: &mut Devices,
) -> Result<Parsed, String> {
    let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?;
    let metric = match &topic.metric {
        MetricFrom::Fixed(metric) => metric.as_str(),
        MetricFrom::Level(n) => level(name, *n)?,
        MetricFrom::Last => name.rsplit('/').next().unwrap_or(name),
    };
    let device = match &topic.device {
        DeviceFrom::Fixed(device) => device.clone(),
        DeviceFrom::Level(n) => devices.get(topic, level(name, *n)?)?,
        DeviceFrom::Key(key) => return Err(format!("one value has no key {key:?}")),
    };
    let mut parsed = Parsed::default();
    let Some(metric) = topic.mapping.metric(metric) else {
        return Ok(parsed);
    };
    let value = match on_off(topic, text.trim()) {
        Some(value) => Some(value),
        None => topic.mapping.value(metric.as_str(), text)?,
    };
    parsed.readings.extend(value.map(|value| Reading {
        device,
        metric,
        time: None,
        value,
    }));
    Ok(parsed)
}

fn object(
    topic: &Topic,
    name: &str,
    payload: &[u8],
    devices: &mut Devices,
) -> Result<Parsed, String> {
    let json: Json = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    if !json.is_object() {
        return Err("no object; is it one value (format = \"value\")?".to_owned());
    }
    let device = match &topic.device {
        DeviceFrom::Fixed(device) => device.clone(),
        DeviceFrom::Level(n) => devices.get(topic, level(name, *n)?)?,
        DeviceFrom::Key(key) => match at(&json, key) {
            Some(Json::String(name)) => devices.get(topic, name)?,
            Some(Json::Number(n)) => devices.get(topic, &n.to_string())?,
            Some(_) => return Err(format!("{key:?} is neither a text nor a number")),
            None => return Err(format!("no device: no {key:?}")),
        },
    };
    let time = match &topic.mapping.time_column {
        None => None,
        Some(key) => time(topic, key, at(&json, key))?,
    };
    let mut walk = Walk {
        topic,
        device,
        time,
        taken: BTreeSet::new(),
        parsed: Parsed::default(),
    };
    walk.go("", &json, 0)?;
    Ok(walk.parsed)
}

fn time(topic: &Topic, key: &str, json: Option<&Json>) -> Result<Option<EventTime>, String> {
    let format = &topic.mapping.time_format;
    match json {
        None | Some(Json::Null) => Ok(None),
        // RFC 3339 is taken whatever the numbers mean.
        Some(Json::String(s)) => match EventTime::parse_rfc3339(s) {
            Ok(time) => Ok(Some(time)),
            Err(_) => format.parse(s).map(Some),
        },
        Some(Json::Number(n)) => format.parse(&n.to_string()).map(Some),
        Some(_) => Err(format!("{key:?} is neither a number nor a text")),
    }
}

/// Walks through an object.
struct Walk<'a> {
    topic: &'a Topic,
    device: DeviceId,
    time: Option<EventTime>,
    taken: BTreeSet<MetricName>,
    parsed: Parsed,
}

impl Walk<'_> {
    fn go(&mut self, path: &str, json: &Json, depth: usize) -> Result<(), String> {
        // Leaving out an object leaves out all that is in it.
        if self.topic.mapping.skip.iter().any(|s| s == path) {
            return Ok(());
        }
        let below = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        match json {
            // Bridges say null for "not known".
            Json::Null => {}
            Json::Object(_) if depth > DEPTH_MAX => {
                self.refuse(format!("{path:?} is deeper than {DEPTH_MAX} objects"));
            }
            Json::Object(fields) => {
                for (key, json) in fields {
                    self.go(&below(key), json, depth + 1)?;
                }
            }
            Json::Array(list) if list.len() > LIST_MAX || depth > DEPTH_MAX => {
                let n = list.len();
                self.refuse(format!(
                    "{path:?} is a list of {n} elements, more than {LIST_MAX}"
                ));
            }
            Json::Array(list) => {
                for (i, json) in list.iter().enumerate() {
                    self.go(&below(&i.to_string()), json, depth + 1)?;
                }
            }
            Json::Bool(b) => self.take(path, Value::Bool(*b))?,
            Json::Number(n) => match n.as_f64() {
                Some(n) => self.take(path, Value::Number(n))?,
                None => self.refuse(format!("{path:?} is not a finite number")),
            },
            Json::String(s) => {
                let value = on_off(self.topic, s).unwrap_or(Value::Text(s.as_str().into()));
                self.take(path, value)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &str, value: Value) -> Result<(), String> {
        if matches!(&self.topic.device, DeviceFrom::Key(key) if key == path) {
            return Ok(());
        }
        let Some(metric) = self.topic.mapping.metric(path) else {
            return Ok(());
        };
        if self.parsed.readings.len() >= VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values"));
        }
        if !self.taken.insert(metric.clone()) {
            self.refuse(format!(
                "{path:?} would be {metric} as another key is; rename it"
            ));
            return Ok(());
        }
        let (device, time) = (self.device.clone(), self.time);
        self.parsed.readings.push(Reading {
            device,
            metric,
            time,
            value,
        });
        Ok(())
    }

    fn refuse(&mut self, reason: String) {
        // One message says enough with a few.
        if self.parsed.refused.len() < LIST_MAX {
            self.parsed.refused.push(reason);
        }
    }
}

fn on_off(topic: &Topic, text: &str) -> Option<Value> {
    let is = |word: &str| topic.on_off && text.eq_ignore_ascii_case(word);
    match (is("on"), is("off")) {
        (false, false) => None,
        (on, _) => Some(Value::Bool(on)),
    }
}

/// What lies at a path with dots. A key may hold dots itself.
fn at<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    let fields = json.as_object()?;
    if let Some(found) = fields.get(path) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.')?;
    at(fields.get(first)?, rest)
}

fn level(topic: &str, n: usize) -> Result<&str, String> {
    topic
        .split('/')
        .nth(n.saturating_sub(1))
        .ok_or_else(|| format!("the topic has no level {n}"))
}

/// Devices by the names that they have at the broker.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: HashMap<String, DeviceId>,
    /// Which name a device was first seen under.
    names: HashMap<DeviceId, String>,
    /// Things to tell a person, once.
    pub told: Vec<String>,
}

impl Devices {
    fn get(&mut self, topic: &Topic, name: &str) -> Result<DeviceId, String> {
        if let Some(id) = topic.devices.get(name).or_else(|| self.known.get(name)) {
            return Ok(id.clone());
        }
        if self.known.len() >= DEVICES_MAX {
            return Err(format!(
                "device {name:?} would be one more than {DEVICES_MAX}; is the filter {:?} too wide?",
                topic.filter.as_str()
            ));
        }
        let id = device_id(name)?;
        self.known.insert(name.to_owned(), id.clone());
        match self.names.get(&id) {
            None => drop(self.names.insert(id.clone(), name.to_owned())),
            Some(first) => self.told.push(format!(
                "{first:?} and {name:?} both become the device \"{id}\"; \
                 give one of them another id in `devices`"
            )),
        }
        Ok(id)
    }
}

/// A device's id from a friendly name: what no id can hold (`. * > + # /`, white space, control
/// characters) becomes `-`. A name that is too long is cut and ends with a hash of the whole.
///
/// **Errors**: there is nothing left of it.
fn device_id(name: &str) -> Result<DeviceId, String> {
    let bad = |c: char| ".*>+#/".contains(c) || c.is_whitespace() || c.is_control();
    let name = name.trim();
    let mut id: String = name.chars().map(|c| if bad(c) { '-' } else { c }).collect();
    if id.len() > event::id::ID_BYTES_MAX {
        let mut end = event::id::ID_BYTES_MAX - 17;
        while !id.is_char_boundary(end) {
            end -= 1;
        }
        id.truncate(end);
        id.push_str(&format!("-{:016x}", fnv1a(name.as_bytes())));
    }
    DeviceId::new(&id).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
