//! JSON readings: the shapes of plain devices, plus a key that names the device.
//!
//! `{"device": "d1", "ts": 1700000000123, "values": {"t": 21.5}, "attributes": {"site": "p1"}}`, an
//! array of those, or a flat object of values (`{"device": "d1", "t": 21.5}`).

use event::{DeviceId, EventTime, MetricName, Value};
use serde_json::Value as Json;

use super::mapping::{Devices, Mapping};
use crate::inbox::Reading;

/// Most objects in one array.
const OBJECTS_MAX: usize = 1000;
/// Most fields of one object.
const FIELDS_MAX: usize = 1024;

/// What was in one line.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub readings: Vec<Reading>,
    /// Fields and objects that were not taken, with the reason.
    pub refused: Vec<String>,
}

/// Reads one line. `mapping` says which keys are the device and the time, and how metrics are
/// called.
///
/// **Errors**: nothing of the line can be taken; the reason as a text for people.
pub(super) fn parse(
    line: &[u8],
    mapping: &Mapping,
    devices: &mut Devices,
) -> Result<Parsed, String> {
    let json: Json = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let mut parsed = Parsed::default();
    match json {
        Json::Array(objects) if objects.len() > OBJECTS_MAX => {
            return Err(format!(
                "{} objects in one array, more than {OBJECTS_MAX}",
                objects.len()
            ));
        }
        Json::Array(objects) => {
            for (i, object) in objects.iter().enumerate() {
                if let Err(reason) = object_readings(object, mapping, devices, &mut parsed) {
                    parsed.refused.push(format!("object {i}: {reason}"));
                }
            }
        }
        object => object_readings(&object, mapping, devices, &mut parsed)?,
    }
    Ok(parsed)
}

fn object_readings(
    object: &Json,
    mapping: &Mapping,
    devices: &mut Devices,
    parsed: &mut Parsed,
) -> Result<(), String> {
    let Json::Object(fields) = object else {
        return Err("neither an object nor an array of objects".to_owned());
    };
    let device_key = mapping.device_column.as_deref().unwrap_or("device");
    let time_key = mapping.time_column.as_deref().unwrap_or("ts");
    let device = match (fields.get(device_key), &mapping.device) {
        (Some(Json::String(name)), _) => devices.get(name)?,
        (Some(Json::Number(n)), _) => devices.get(&n.to_string())?,
        (Some(_), _) => return Err(format!("{device_key:?} is not a text")),
        (None, Some(device)) => device.clone(),
        (None, None) => return Err(format!("no device: no {device_key:?} and no default")),
    };
    let time = match fields.get(time_key) {
        None => None,
        // RFC 3339 is taken whatever the numbers mean.
        Some(Json::String(s)) => Some(match EventTime::parse_rfc3339(s) {
            Ok(time) => time,
            Err(_) => mapping.time_format.parse(s)?,
        }),
        Some(Json::Number(n)) => Some(mapping.time_format.parse(&n.to_string())?),
        Some(_) => return Err(format!("{time_key:?} is neither a number nor a text")),
    };
    if let Some(Json::Object(attributes)) = fields.get("attributes") {
        bounded(attributes.len())?;
        for (name, value) in attributes {
            let metric = MetricName::attribute(name).map_err(|e| e.to_string());
            let text = match value {
                Json::String(s) => Ok(s.clone()),
                Json::Number(_) | Json::Bool(_) => Ok(value.to_string()),
                _ => Err(format!("attribute {name:?} is not a text")),
            };
            match metric.and_then(|metric| Ok((metric, text?))) {
                Ok((metric, text)) => {
                    let value = Value::Text(text.as_str().into());
                    parsed.readings.push(Reading {
                        device: device.clone(),
                        metric,
                        time,
                        value,
                    });
                }
                Err(reason) => parsed.refused.push(reason),
            }
        }
    }
    let values = match fields.get("values") {
        Some(Json::Object(values)) => values,
        Some(_) => return Err("\"values\" is not an object".to_owned()),
        None => fields,
    };
    bounded(values.len())?;
    let flat = std::ptr::eq(values, fields);
    for (key, json) in values {
        let special = [device_key, time_key, "attributes"].contains(&key.as_str());
        if flat && special {
            continue;
        }
        value_reading(&device, time, key, json, mapping, parsed);
    }
    Ok(())
}

fn value_reading(
    device: &DeviceId,
    time: Option<EventTime>,
    key: &str,
    json: &Json,
    mapping: &Mapping,
    parsed: &mut Parsed,
) {
    let value = match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_f64() {
            Some(n) => Value::Number(n),
            None => {
                return parsed
                    .refused
                    .push(format!("{key:?} is not a finite number"));
            }
        },
        Json::String(s) => Value::Text(s.as_str().into()),
        Json::Null => return parsed.refused.push(format!("{key:?} is null")),
        Json::Array(_) => return parsed.refused.push(format!("{key:?} is an array")),
        Json::Object(_) => return parsed.refused.push(format!("{key:?} is an object")),
    };
    if let Some(metric) = mapping.metric(key) {
        parsed.readings.push(Reading {
            device: device.clone(),
            metric,
            time,
            value,
        });
    }
}

fn bounded(fields: usize) -> Result<(), String> {
    if fields > FIELDS_MAX {
        return Err(format!(
            "{fields} fields in one object, more than {FIELDS_MAX}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::TimeFormat;
    use std::collections::BTreeMap;

    fn read(line: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let mapping = Mapping {
            device_column: None,
            device: Some(DeviceId::new("me").unwrap()),
            time_column: None,
            time_format: TimeFormat::Millis,
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
        };
        let parsed = parse(line.as_bytes(), &mapping, &mut Devices::default())?;
        let show = |r: &Reading| {
            let time = r.time.map_or("-".to_owned(), |t| t.as_millis().to_string());
            format!("{} {} {time} {:?}", r.device, r.metric, r.value)
        };
        Ok((parsed.readings.iter().map(show).collect(), parsed.refused))
    }

    #[test]
    fn all_shapes_are_read() {
        let (readings, refused) = read(
            r#"{"device":"d1","ts":1700000000123,"values":{"t":21.5,"ts":1},"attributes":{"site":"p"}}"#,
        )
        .unwrap();
        assert_eq!(
            readings,
            [
                "d1 @site 1700000000123 Text(\"p\")",
                "d1 t 1700000000123 Number(21.5)",
                "d1 ts 1700000000123 Number(1.0)"
            ]
        );
        assert!(refused.is_empty());
        let (readings, _) =
            read(r#"{"ts":"2023-11-14T22:13:20Z","ok":true,"door":"open"}"#).unwrap();
        assert_eq!(
            readings,
            [
                "me door 1700000000000 Text(\"open\")",
                "me ok 1700000000000 Bool(true)"
            ]
        );
        let (readings, refused) = read(r#"[{"a":1},{"device":"x y","a":2},5]"#).unwrap();
        assert_eq!(readings, ["me a - Number(1.0)"]);
        assert_eq!(refused.len(), 2, "{refused:?}");
    }

    #[test]
    fn bad_fields_are_refused_one_by_one_and_bad_lines_whole() {
        let (readings, refused) =
            read(r#"{"a":null,"b":[1],"c":{"d":1},"e":2,"attributes":{"x y":"1","z":[]}}"#)
                .unwrap();
        assert_eq!(readings, ["me e - Number(2.0)"]);
        assert_eq!(refused.len(), 5, "{refused:?}");
        for bad in [
            r#"{"a":NaN}"#,
            r#"{"a":1"#,
            "7",
            r#"{"ts":[],"a":1}"#,
            r#"{"values":3}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(r#"{"ts":"soon","a":1}"#).is_err());
        assert!(read(r#"{"a":1e400}"#).is_err());
        let many: Vec<String> = (0..1025).map(|i| format!("\"m{i}\":1")).collect();
        assert!(read(&format!("{{{}}}", many.join(","))).is_err());
    }
}
