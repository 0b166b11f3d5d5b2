//! From bytes of a socket or a program to readings, whatever the format.

use std::time::Duration;

use event::{DeviceId, MetricName, Value};

use super::line_protocol::{self, LineProtocol};
use super::mapping::Devices;
use super::statsd::{self, Aggregator};
use super::{Mapping, json};
use crate::inbox::{Position, Reading};

/// A format, with what its parts mean.
#[derive(Debug, Clone)]
pub enum Decoding {
    /// JSON, one value a line, as standard input takes it.
    Json(Mapping),
    /// InfluxDB line protocol.
    Line(line_protocol::Settings),
    /// StatsD packets, gathered over an interval.
    Statsd(statsd::Settings),
    /// One number a line.
    Value {
        /// The device they are about.
        device: DeviceId,
        /// What they are.
        metric: MetricName,
    },
}

impl Decoding {
    /// The time between two flushes, for a format that gathers.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self {
            Self::Statsd(settings) => Some(settings.interval),
            Self::Json(_) | Self::Line(_) | Self::Value { .. } => None,
        }
    }

    /// What a source with this format promises about times, when those in its lines lie at most `lag`
    /// behind the present.
    pub(super) fn position(&self, lag: Duration) -> Position {
        match self {
            Self::Json(_) | Self::Line(_) if !lag.is_zero() => Position::Behind(lag),
            // Stamped when it is pushed.
            _ => Position::Live,
        }
    }
}

/// What was in one line or one datagram.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// Lines that were no comment and not empty.
    pub lines: u64,
    pub readings: Vec<Reading>,
    /// What was not taken: the number of the line and the reason.
    pub refused: Vec<(u64, String)>,
}

/// Reads lines of one format.
#[derive(Debug)]
pub(super) enum Decoder {
    Json(Mapping, Devices),
    Line(LineProtocol),
    Statsd(Aggregator),
    Value(DeviceId, MetricName),
}

impl Decoder {
    pub fn new(decoding: Decoding) -> Self {
        match decoding {
            Decoding::Json(mapping) => Self::Json(mapping, Devices::default()),
            Decoding::Line(settings) => Self::Line(LineProtocol::new(settings)),
            Decoding::Statsd(settings) => Self::Statsd(Aggregator::new(settings)),
            Decoding::Value { device, metric } => Self::Value(device, metric),
        }
    }

    /// Reads one line or many.
    pub fn read(&mut self, bytes: &[u8]) -> Decoded {
        let mut out = Decoded::default();
        match self {
            Self::Line(lines) => lines.read(bytes, &mut out),
            Self::Statsd(aggregator) => aggregator.take(bytes, &mut out),
            Self::Json(mapping, devices) => each_line(bytes, &mut out, |line, out| {
                let parsed = json::parse(line, mapping, devices)?;
                out.readings.extend(parsed.readings);
                Ok(parsed.refused)
            }),
            Self::Value(device, metric) => each_line(bytes, &mut out, |line, out| {
                out.readings.push(Reading {
                    device: device.clone(),
                    metric: metric.clone(),
                    time: None,
                    value: Value::Number(number(line)?),
                });
                Ok(Vec::new())
            }),
        }
        out
    }

    /// What has been gathered; nothing, for a format that gathers nothing.
    pub fn flush(&mut self) -> Vec<Reading> {
        match self {
            Self::Statsd(aggregator) => aggregator.flush(),
            Self::Json(..) | Self::Line(_) | Self::Value(..) => Vec::new(),
        }
    }
}

fn each_line(
    bytes: &[u8],
    out: &mut Decoded,
    mut read: impl FnMut(&[u8], &mut Decoded) -> Result<Vec<String>, String>,
) {
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        out.lines += 1;
        let refused = read(line, out).unwrap_or_else(|reason| vec![reason]);
        let number = i as u64 + 1;
        out.refused
            .extend(refused.into_iter().map(|reason| (number, reason)));
    }
}

fn number(line: &[u8]) -> Result<f64, String> {
    let text = String::from_utf8_lossy(line);
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(n),
        _ => {
            let shown: String = text.chars().take(40).collect();
            Err(format!("{shown:?} is not a finite number"))
        }
    }
}

/// Takes everything, and names no device.
#[cfg(test)]
pub(super) fn every_metric() -> Mapping {
    Mapping {
        device_column: None,
        device: None,
        time_column: None,
        time_format: super::TimeFormat::Millis,
        metrics: Vec::new(),
        skip: Vec::new(),
        text: Vec::new(),
        rename: std::collections::BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_json_are_read_line_by_line_and_bad_lines_are_numbered() {
        let mut decoder = Decoder::new(Decoding::Value {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
        });
        let out = decoder.read(b"21.5\r\n\n -3e2 \nopen\nnan\n1e999");
        let values: Vec<_> = out.readings.iter().map(|r| r.value.as_number()).collect();
        assert_eq!(values, [Some(21.5), Some(-300.0)]);
        let lines: Vec<_> = out.refused.iter().map(|(line, _)| *line).collect();
        assert_eq!((out.lines, lines), (5, vec![4, 5, 6]));
        assert!(out.refused[0].1.contains("\"open\" is not a finite number"));

        let mut decoder = Decoder::new(Decoding::Json(every_metric()));
        let out = decoder.read(
            b"{\"device\":\"a\",\"t\":1}\n{\"t\":2}\r\n{\"device\":\"b\",\"t\":3,\"x\":null}\n\xff",
        );
        assert_eq!(out.readings.len(), 2);
        let lines: Vec<_> = out.refused.iter().map(|(line, _)| *line).collect();
        assert_eq!((out.lines, lines), (4, vec![2, 3, 4]));
        assert!(decoder.flush().is_empty());
    }
}
