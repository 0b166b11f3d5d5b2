//! Lines that a regular expression reads: its named groups are the device, the time and the metrics.

use event::MetricName;
use regex_lite::Regex;

use crate::inbox::Reading;
use crate::sources::Mapping;
use crate::sources::json::Parsed;
use crate::sources::mapping::Devices;

/// A checked pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    /// Groups that are metrics.
    metrics: Vec<(String, MetricName)>,
}

impl Pattern {
    /// Reads a pattern and looks for the groups that the mapping names. `mapping` must name the groups
    /// of device and time.
    ///
    /// **Errors**: a text for people.
    pub fn new(text: &str, mapping: &Mapping) -> Result<Self, String> {
        let regex = Regex::new(text).map_err(|e| e.to_string())?;
        let groups: Vec<&str> = regex.capture_names().flatten().collect();
        let named = mapping
            .metrics
            .iter()
            .chain(&mapping.skip)
            .chain(&mapping.text);
        for name in named.chain(mapping.rename.keys()) {
            if !groups.contains(&name.as_str()) {
                return Err(no_group(name, &groups));
            }
        }
        let device = mapping.device_column.as_deref().unwrap_or_default();
        if mapping.device.is_none() && !groups.contains(&device) {
            let error = no_group(device, &groups);
            return Err(format!(
                "{error}; set `device` if all lines are one device's"
            ));
        }
        let metrics: Vec<_> = groups
            .iter()
            .filter_map(|g| Some(((*g).to_owned(), mapping.metric(g)?)))
            .collect();
        if metrics.is_empty() {
            return Err(
                "no named group is a metric; name one as in (?<temperature>[0-9.]+)".into(),
            );
        }
        Ok(Self { regex, metrics })
    }

    /// Whether there is a group of this name.
    pub fn has_group(&self, name: &str) -> bool {
        self.regex.capture_names().flatten().any(|g| g == name)
    }

    /// Reads one line; none if it does not match.
    ///
    /// **Errors**: nothing of the line can be taken; the reason as a text for people.
    pub(super) fn parse(
        &self,
        line: &[u8],
        mapping: &Mapping,
        devices: &mut Devices,
    ) -> Result<Option<Parsed>, String> {
        let line = String::from_utf8_lossy(line);
        let Some(found) = self.regex.captures(&line) else {
            return Ok(None);
        };
        let group = |name: &Option<String>| {
            let found = found.name(name.as_deref()?)?.as_str().trim();
            (!found.is_empty()).then_some(found)
        };
        let device = match (group(&mapping.device_column), &mapping.device) {
            (Some(name), _) => devices.get(name)?,
            (None, Some(device)) => device.clone(),
            (None, None) => return Err("no device".to_owned()),
        };
        let time = group(&mapping.time_column)
            .map(|text| mapping.time_format.parse(text))
            .transpose()?;
        let mut parsed = Parsed::default();
        for (name, metric) in &self.metrics {
            let Some(text) = found.name(name) else {
                continue;
            };
            match mapping.value(name, text.as_str()) {
                Ok(None) => {}
                Ok(Some(value)) => parsed.readings.push(Reading {
                    device: device.clone(),
                    metric: metric.clone(),
                    time,
                    value,
                }),
                Err(reason) => parsed.refused.push(reason),
            }
        }
        Ok(Some(parsed))
    }
}

fn no_group(name: &str, groups: &[&str]) -> String {
    let mut text = format!("no group {name:?}");
    if let Some(nearest) = crate::config::nearest(name, groups) {
        text.push_str(&format!("; did you mean {nearest:?}?"));
    }
    text.push_str(&format!("; its named groups are {}", groups.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::TimeFormat;
    use std::collections::BTreeMap;

    fn mapping() -> Mapping {
        Mapping {
            device_column: Some("device".to_owned()),
            device: None,
            time_column: Some("time".to_owned()),
            time_format: TimeFormat::new("%Y-%m-%d %H:%M:%S", "+00:00").unwrap(),
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
        }
    }

    const TEXT: &str = r"^(?<time>\S+ \S+) (?<device>\S+) t=(?<temp>\S+)( open=(?<open>\w+))?( v=(?<version>\S+))?$";

    fn read(mapping: &Mapping, line: &str) -> Result<Option<Vec<String>>, String> {
        let pattern = Pattern::new(TEXT, mapping).unwrap();
        let parsed = pattern.parse(line.as_bytes(), mapping, &mut Devices::default())?;
        let show = |r: &Reading| {
            let time = r.time.map_or(0, |t| t.as_micros() / 1_000_000);
            format!("{time} {} {} {:?}", r.device, r.metric, r.value)
        };
        Ok(parsed.map(|p| p.readings.iter().map(show).collect()))
    }

    #[test]
    fn named_groups_become_device_time_and_metrics() {
        let line = "2023-11-14 22:13:20 pump-1 t=21.5 open=true v=1.10";
        assert_eq!(
            read(&mapping(), line).unwrap().unwrap(),
            [
                "1700000000 pump-1 temp Number(21.5)",
                "1700000000 pump-1 open Bool(true)",
                "1700000000 pump-1 version Number(1.1)"
            ]
        );
        let mut m = mapping();
        m.text = vec!["version".to_owned()];
        m.skip = vec!["open".to_owned()];
        assert_eq!(
            read(&m, line).unwrap().unwrap()[1],
            "1700000000 pump-1 version Text(\"1.10\")"
        );
        let short = read(&m, "2023-11-14 22:13:20 pump-1 t=1").unwrap().unwrap();
        assert_eq!(short.len(), 1);
        assert_eq!(read(&m, "something else").unwrap(), None);
        assert!(
            read(&m, "2023-11-14 25:13:20 pump-1 t=1")
                .unwrap_err()
                .contains("time")
        );
        assert!(
            read(&m, "2023-11-14 22:13:20 a/b t=1")
                .unwrap_err()
                .contains("device id")
        );
    }

    #[test]
    fn patterns_are_checked_against_the_mapping() {
        let mut m = mapping();
        let error = |text: &str, m: &Mapping| Pattern::new(text, m).map(drop).unwrap_err();
        assert!(error("(?<temp>x", &m).contains("unclosed") || !error("(?<temp>x", &m).is_empty());
        assert!(error("(?<temp>x)", &m).contains("no group \"device\"; its named groups are temp"));
        m.device = event::DeviceId::new("d").ok();
        assert!(error("(?<time>x)", &m).contains("no named group is a metric"));
        m.metrics = vec!["tmp".to_owned()];
        assert!(error("(?<temp>x)", &m).contains("did you mean \"temp\"?"));
    }
}
