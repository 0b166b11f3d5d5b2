//! Plain JSON of devices without our agent (DESIGN.md §7).
//!
//! Three shapes: `{"ts": …, "values": {…}, "attributes": {…}}`, an array of those, or a flat object
//! of values (which may have a `ts` too). A field that cannot be taken is refused with a reason and
//! the others are kept. Timestamps far off are not judged here: the processor, which knows the ingest
//! time, sets them aside (P5).

use std::fmt;

use event::value::TEXT_BYTES_MAX;
use event::{DeviceId, EventTime, MetricName, Plain, PlainSample, RefusalReason, Value};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Refusal;
use crate::settings::AdmissionSettings;

/// Most refused fields of one message that are told apart.
const REFUSALS_MAX: usize = 16;

/// A field that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRefusal {
    /// Why, naming the field.
    pub refusal: Refusal,
    /// How many fields this stands for.
    pub count: u32,
}

/// What a message of a plain device holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The record for the log; it has at least one sample.
    pub plain: Plain,
    /// Fields that were left out.
    pub refused: Vec<FieldRefusal>,
}

/// Reads a message of `device`.
///
/// **Errors**: the refusal, if nothing of the message can be taken.
///
/// **Limits**: of the settings; texts have at most 1024 bytes.
pub fn admit(
    device: &DeviceId,
    payload: &[u8],
    limits: &AdmissionSettings,
) -> Result<Message, Refusal> {
    if payload.is_empty() {
        return Err(Refusal::new(
            RefusalReason::Empty,
            "empty payload; send {\"values\": {\"name\": value}}",
        ));
    }
    if payload.len() > limits.plain_bytes_max {
        let (len, max) = (payload.len(), limits.plain_bytes_max);
        let text = format!("message of {len} bytes is over the limit of {max}");
        return Err(Refusal::new(RefusalReason::TooLarge, text));
    }
    let text = std::str::from_utf8(payload)
        .map_err(|e| Refusal::new(RefusalReason::InvalidUtf8, format!("payload: {e}")))?;
    let mut collect = Collect {
        limits,
        samples: Vec::new(),
        refused: Vec::new(),
        fields: 0,
        over: None,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Top(&mut collect)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    if let Err(error) = read {
        if let Some(over) = collect.over {
            return Err(over);
        }
        return Err(Refusal::new(
            RefusalReason::InvalidJson,
            format!("payload: {error}"),
        ));
    }
    if collect.samples.is_empty() {
        return Err(match collect.refused.into_iter().next() {
            Some(first) => first.refusal,
            None => Refusal::new(RefusalReason::Empty, "no value in the message"),
        });
    }
    let plain = Plain {
        device: device.clone(),
        samples: collect.samples,
    };
    Ok(Message {
        plain,
        refused: collect.refused,
    })
}

/// The message as it is read, one pass, without a tree in between.
struct Collect<'l> {
    limits: &'l AdmissionSettings,
    samples: Vec<PlainSample>,
    refused: Vec<FieldRefusal>,
    fields: usize,
    /// A limit that ended the reading.
    over: Option<Refusal>,
}

impl Collect<'_> {
    fn refuse(&mut self, reason: RefusalReason, message: String) {
        // One entry per reason: the first field is the example for the others.
        if let Some(same) = self.refused.iter_mut().find(|r| r.refusal.reason == reason) {
            same.count += 1;
        } else if self.refused.len() < REFUSALS_MAX {
            self.refused.push(FieldRefusal {
                refusal: Refusal::new(reason, message),
                count: 1,
            });
        }
    }

    fn count_field<E: de::Error>(&mut self) -> Result<(), E> {
        self.fields += 1;
        if self.fields > self.limits.plain_fields_max {
            let text = format!(
                "more than {} fields in the message",
                self.limits.plain_fields_max
            );
            self.over = Some(Refusal::new(RefusalReason::TooManyFields, text));
            return Err(E::custom("too many fields"));
        }
        Ok(())
    }

    /// Takes one field, as a metric or an attribute.
    fn take(&mut self, name: &str, attribute: bool, scalar: Scalar) {
        let metric = if attribute {
            MetricName::attribute(name)
        } else {
            plain_metric(name)
        };
        let metric = match metric {
            Ok(metric) => metric,
            Err(error) => return self.refuse(RefusalReason::InvalidId, error.to_string()),
        };
        let value = match scalar {
            Scalar::Number(n) if n.is_finite() => Value::Number(n),
            Scalar::Number(_) => {
                let text = format!("field {metric} is a number beyond the range of a double");
                return self.refuse(RefusalReason::NotFinite, text);
            }
            Scalar::Bool(b) => Value::Bool(b),
            Scalar::Text(t) if t.len() <= TEXT_BYTES_MAX => Value::Text(t.into()),
            Scalar::Text(t) => {
                let text = format!(
                    "field {metric} has a text of {} bytes, more than {TEXT_BYTES_MAX}",
                    t.len()
                );
                return self.refuse(RefusalReason::TooLongText, text);
            }
            Scalar::Other(what) => {
                let text = format!("field {metric} is {what}; send a number, a boolean or a text");
                return self.refuse(RefusalReason::UnsupportedType, text);
            }
        };
        self.samples.push(PlainSample {
            metric,
            time: None,
            value,
        });
    }
}

/// A metric of a plain device cannot be an attribute in disguise.
fn plain_metric(name: &str) -> Result<MetricName, event::IdError> {
    match name.char_indices().next() {
        Some((at, found @ '@')) => Err(event::IdError::Character {
            kind: "metric name",
            name: name.chars().take(64).collect(),
            found,
            at,
        }),
        _ => MetricName::new(name),
    }
}

enum Scalar {
    Number(f64),
    Bool(bool),
    Text(String),
    Other(&'static str),
}

/// Reads any JSON value, keeping only scalars.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Scalar, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, b: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n as f64))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n as f64))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n))
    }

    fn visit_str<E>(self, s: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(s.to_owned()))
    }

    fn visit_string<E>(self, s: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(s))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map
            .next_entry::<de::IgnoredAny, de::IgnoredAny>()?
            .is_some()
        {}
        Ok(Scalar::Other("an object"))
    }
}

/// The whole payload: an object or an array of objects.
struct Top<'a, 'l>(&'a mut Collect<'l>);

impl<'de> DeserializeSeed<'de> for Top<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of values, or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Object(self.0).visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let max = self.0.limits.plain_objects_max;
        let mut objects = 0;
        loop {
            if objects == max {
                // One more element would be over; the end of the array is fine.
                if seq.next_element::<de::IgnoredAny>()?.is_none() {
                    return Ok(());
                }
                let text = format!("more than {max} objects in the array");
                self.0.over = Some(Refusal::new(RefusalReason::TooManyFields, text));
                return Err(de::Error::custom("too many objects"));
            }
            if seq.next_element_seed(Object(self.0))?.is_none() {
                return Ok(());
            }
            objects += 1;
        }
    }
}

/// One object: structured if it has `values` or `attributes` that are objects, else flat.
struct Object<'a, 'l>(&'a mut Collect<'l>);

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.0.samples.len();
        let mut time: Option<Option<EventTime>> = None;
        while let Some(key) = map.next_key::<String>()? {
            self.0.count_field()?;
            match key.as_str() {
                "ts" => {
                    let scalar = map.next_value_seed(ScalarSeed)?;
                    time = Some(match read_time(&scalar) {
                        Ok(t) => Some(t),
                        Err(message) => {
                            self.0.refuse(RefusalReason::InvalidTime, message);
                            None
                        }
                    });
                }
                "values" => map.next_value_seed(Fields {
                    collect: self.0,
                    name: &key,
                })?,
                "attributes" => map.next_value_seed(Fields {
                    collect: self.0,
                    name: &key,
                })?,
                name => {
                    let scalar = map.next_value_seed(ScalarSeed)?;
                    self.0.take(name, false, scalar);
                }
            }
        }
        match time {
            // A time that cannot be read must not become "now": that would put the values into the
            // wrong window for ever.
            Some(None) => {
                let lost = self.0.samples.len() - start;
                self.0.samples.truncate(start);
                for _ in 0..lost {
                    self.0.refuse(RefusalReason::InvalidTime, String::new());
                }
            }
            Some(time) => self.0.samples[start..]
                .iter_mut()
                .for_each(|s| s.time = time),
            None => {}
        }
        Ok(())
    }
}

/// `ts`: integer milliseconds or RFC 3339.
fn read_time(scalar: &Scalar) -> Result<EventTime, String> {
    match scalar {
        Scalar::Number(ms) if ms.fract() == 0.0 && ms.abs() < 9.0e15 => {
            Ok(EventTime::from_millis(*ms as i64))
        }
        Scalar::Text(text) => EventTime::parse_rfc3339(text).map_err(|error| {
            let start: String = text.chars().take(40).collect();
            format!("ts {start:?}: {error}; send integer milliseconds or RFC 3339")
        }),
        _ => Err("ts is neither integer milliseconds nor an RFC 3339 text".to_owned()),
    }
}

/// What stands behind `values` or `attributes`: an object of fields; in a flat object a scalar with
/// that very name.
struct Fields<'a, 'l, 'n> {
    collect: &'a mut Collect<'l>,
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl Fields<'_, '_, '_> {
    fn scalar<E>(self, scalar: Scalar) -> Result<(), E> {
        self.collect.take(self.name, false, scalar);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let attribute = self.name == "attributes";
        while let Some(key) = map.next_key::<String>()? {
            self.collect.count_field()?;
            let scalar = map.next_value_seed(ScalarSeed)?;
            self.collect.take(&key, attribute, scalar);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        self.scalar(Scalar::Other("an array"))
    }

    fn visit_bool<E>(self, b: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.scalar(Scalar::Number(n as f64))
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.scalar(Scalar::Number(n as f64))
    }

    fn visit_f64<E>(self, n: f64) -> Result<(), E> {
        self.scalar(Scalar::Number(n))
    }

    fn visit_str<E>(self, s: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(s.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar(Scalar::Other("null"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &[u8]) -> Result<Message, Refusal> {
        admit(
            &DeviceId::new("d").unwrap(),
            json,
            &AdmissionSettings::default(),
        )
    }

    /// `metric@time=value` of every sample, then `-reason*count` of every refusal.
    fn show(json: &str) -> String {
        match read(json.as_bytes()) {
            Err(refusal) => format!("!{}", refusal.reason),
            Ok(message) => {
                let samples = message.plain.samples.iter().map(|s| {
                    let time = s
                        .time
                        .map_or(String::new(), |t| format!("@{}", t.as_millis()));
                    match &s.value {
                        Value::Number(n) => format!("{}{time}={n}", s.metric),
                        Value::Bool(b) => format!("{}{time}={b}", s.metric),
                        Value::Text(t) => format!("{}{time}={t:?}", s.metric),
                    }
                });
                let refused = message
                    .refused
                    .iter()
                    .map(|r| format!("-{}*{}", r.refusal.reason, r.count));
                samples.chain(refused).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(show(json), expected, "{json}");
    }

    #[test]
    fn the_three_shapes_are_read() {
        check(
            r#"{"ts": 1700000000123, "values": {"t": 21.5, "door": "open", "ok": true}, "attributes": {"site": "plant-1"}}"#,
            r#"t@1700000000123=21.5 door@1700000000123="open" ok@1700000000123=true @site@1700000000123="plant-1""#,
        );
        check(
            r#"{"values": {"t": 1}, "ts": "2023-11-14T22:13:20.123Z"}"#,
            "t@1700000000123=1",
        );
        check(
            r#"[{"ts": 1, "values": {"t": 1}}, {"ts": 2, "t": 2}, {"t": 3}]"#,
            "t@1=1 t@2=2 t=3",
        );
        check(
            r#"{"latitude": 52.5, "longitude": 13.4, "ts": 5}"#,
            "latitude@5=52.5 longitude@5=13.4",
        );
        check(
            r#"{"values": 3, "attributes": false}"#,
            "values=3 attributes=false",
        );
        check(r#" {"a":-0.5e3} "#, "a=-500");
    }

    #[test]
    fn bad_fields_are_left_out_and_the_others_kept() {
        check(
            r#"{"a": 1, "b": null, "c": {"d": 1}, "e": [1], "f": 2}"#,
            "a=1 f=2 -unsupported_type*3",
        );
        check(
            r#"{"values": {"a": {"b": [{}]}, "c": 1}}"#,
            "c=1 -unsupported_type*1",
        );
        check(r#"{"a b": 1, "@x": 2, "": 3, "c": 4}"#, "c=4 -invalid_id*3");
        check(r#"{"a": 1e400, "b": 1}"#, "!invalid_json");
        let long = format!(r#"{{"a": "{}", "b": 1}}"#, "x".repeat(1025));
        check(&long, "b=1 -too_long_text*1");
    }

    #[test]
    fn messages_with_nothing_to_take_are_refused() {
        check("", "!empty");
        check("{}", "!empty");
        check("[]", "!empty");
        check(r#"{"ts": 5}"#, "!empty");
        check(r#"{"a": null}"#, "!unsupported_type");
        check(r#"{"t": NaN}"#, "!invalid_json");
        check(r#"{"t": Infinity}"#, "!invalid_json");
        check(r#"{"t": 1"#, "!invalid_json");
        check(r#"{"t": 1} x"#, "!invalid_json");
        check("5", "!invalid_json");
        check("\"text\"", "!invalid_json");
        check("[5]", "!invalid_json");
        assert_eq!(
            read(b"{\"a\": \"\xff\"}").unwrap_err().reason,
            RefusalReason::InvalidUtf8
        );
    }

    #[test]
    fn a_time_that_cannot_be_read_never_becomes_now() {
        check(r#"{"ts": "yesterday", "t": 1}"#, "!invalid_time");
        check(r#"{"t": 1, "ts": 1.5}"#, "!invalid_time");
        check(r#"{"t": 1, "ts": null}"#, "!invalid_time");
        check(
            r#"[{"ts": "x", "t": 1, "u": 2}, {"t": 2}]"#,
            "t=2 -invalid_time*3",
        );
    }

    #[test]
    fn times_far_off_are_for_the_processor() {
        check(r#"{"ts": 0, "t": 1}"#, "t@0=1");
        check(r#"{"ts": 3786912000000, "t": 1}"#, "t@3786912000000=1");
    }

    #[test]
    fn limits_hold() {
        let fields = |n: usize| {
            let all: Vec<String> = (0..n).map(|i| format!("\"f{i}\": 1")).collect();
            format!("{{{}}}", all.join(","))
        };
        assert!(read(fields(1024).as_bytes()).is_ok());
        check(&fields(1025), "!too_many_fields");
        let objects = |n: usize| format!("[{}]", vec!["{\"a\":1}"; n].join(","));
        assert_eq!(
            read(objects(1000).as_bytes()).unwrap().plain.samples.len(),
            1000
        );
        check(&objects(1001), "!too_many_fields");
        check(&" ".repeat((256 << 10) + 1), "!too_large");
        // Deep nesting is refused by the parser's own limit, not by the stack.
        check(
            &format!("{{\"a\": {}", "[".repeat(100_000)),
            "!invalid_json",
        );
    }
}
