//! InfluxDB line protocol: `weather,device=d1,site=p1 temp=21.5,ok=t 1700000000000000000`.
//!
//! Integers become floating-point numbers, as in JSON: beyond 2⁵³ the nearest one.

mod parse;

use event::{EventTime, Value};
use serde::{Deserialize, Serialize};

use self::parse::{Field, Line};
use super::Mapping;
use super::decode::Decoded;
use super::tags::{TagRules, Tags};
use crate::inbox::Reading;

/// This field's metric is called as its measurement.
const VALUE_FIELD: &str = "value";

/// The unit of times in lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Precision {
    /// Nanoseconds; what is below a microsecond is cut.
    #[default]
    #[serde(rename = "ns")]
    Nanos,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
}

impl Precision {
    fn time(self, n: i64) -> Option<EventTime> {
        match self {
            Self::Nanos => Some(n.div_euclid(1000)),
            Self::Micros => Some(n),
            Self::Millis => n.checked_mul(1000),
            Self::Seconds => n.checked_mul(1_000_000),
        }
        .map(EventTime::from_micros)
    }
}

/// What metrics are called. The field `value` is always called as its measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricNames {
    /// `<measurement>.<field>`
    #[default]
    MeasurementField,
    /// `<field>`
    Field,
}

/// How lines are to be understood.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What tags mean.
    pub tags: TagRules,
    /// Unit of times.
    pub precision: Precision,
    /// Names of metrics.
    pub names: MetricNames,
    /// Metrics to take, to leave out and to call otherwise, by the name they have above.
    pub mapping: Mapping,
}

/// Reads lines, and remembers which attributes were told.
#[derive(Debug)]
pub(super) struct LineProtocol {
    tags: Tags,
    precision: Precision,
    names: MetricNames,
    mapping: Mapping,
}

impl LineProtocol {
    pub fn new(settings: Settings) -> Self {
        Self {
            tags: Tags::new(settings.tags),
            precision: settings.precision,
            names: settings.names,
            mapping: settings.mapping,
        }
    }

    /// Adds what is in the lines of `bytes`. Nothing of a bad line is taken, and nothing but a bad
    /// field is left out of a good one.
    pub fn read(&mut self, bytes: &[u8], out: &mut Decoded) {
        for (number, line) in parse::lines(bytes) {
            out.lines += 1;
            if let Err(reason) = line.and_then(|line| self.readings(number, &line, out)) {
                out.refused.push((number, reason));
            }
        }
    }

    fn readings(&mut self, number: u64, line: &Line<'_>, out: &mut Decoded) -> Result<(), String> {
        let device = self.tags.device(&line.tags)?;
        let far = |n| format!("time {n} is out of range; is `precision` right?");
        let time = line
            .time
            .map(|n| self.precision.time(n).ok_or_else(|| far(n)))
            .transpose()?;
        self.tags
            .attributes(&device, time, &line.tags, &mut out.readings);
        for (key, value) in &line.fields {
            let value = match value {
                Ok(Field::Int(n)) => Value::Number(*n as f64),
                Ok(Field::Uint(n)) => Value::Number(*n as f64),
                Ok(Field::Float(n)) => Value::Number(*n),
                Ok(Field::Bool(b)) => Value::Bool(*b),
                Ok(Field::Text(text)) => Value::Text(text.as_ref().into()),
                Err(reason) => {
                    let key: String = key.chars().take(64).collect();
                    out.refused.push((number, format!("{key}: {reason}")));
                    continue;
                }
            };
            let metric = if key == VALUE_FIELD {
                self.mapping.metric(&line.measurement)
            } else {
                match self.names {
                    MetricNames::Field => self.mapping.metric(key),
                    MetricNames::MeasurementField => {
                        self.mapping.metric(&format!("{}.{key}", line.measurement))
                    }
                }
            };
            if let Some(metric) = metric {
                out.readings.push(Reading {
                    device: device.clone(),
                    metric,
                    time,
                    value,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
