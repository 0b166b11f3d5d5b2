//! JSON from strangers: arbitrary bytes, arbitrary JSON, and valid messages that were changed. Admission
//! never panics, and what it lets in keeps the limits and reads back from the log.

use event::value::TEXT_BYTES_MAX;
use event::{DeviceId, Record, RecordRef, Value};
use ingest::admission::plain::admit;
use ingest::settings::AdmissionSettings;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Small limits, so that they are met.
fn limits() -> AdmissionSettings {
    AdmissionSettings {
        plain_bytes_max: 2048,
        plain_fields_max: 12,
        plain_objects_max: 3,
        ..AdmissionSettings::default()
    }
}

fn check(payload: &[u8]) {
    let limits = limits();
    let device = DeviceId::new("d").unwrap();
    let Ok(message) = admit(&device, payload, &limits) else {
        return;
    };
    assert!(payload.len() <= limits.plain_bytes_max);
    let samples = &message.plain.samples;
    assert!(!samples.is_empty() && samples.len() <= limits.plain_fields_max);
    for sample in samples {
        match &sample.value {
            Value::Number(n) => assert!(n.is_finite()),
            Value::Text(text) => assert!(text.len() <= TEXT_BYTES_MAX),
            Value::Bool(_) => {}
        }
    }
    for field in &message.refused {
        assert!(field.count > 0 && field.refusal.message.len() <= 1024);
    }
    let record = Record::Plain(message.plain);
    let stored = record.encode();
    assert_eq!(RecordRef::decode(&stored), Ok(RecordRef::Other(record)));
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        "-?[0-9]{1,3}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?",
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        Just("\"2026-01-02T03:04:05Z\"".to_owned()),
        Just(format!("\"{}\"", "x".repeat(TEXT_BYTES_MAX + 1))),
        "\\PC{0,10}".prop_map(|s| serde_json::to_string(&s).unwrap()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &["ts", "values", "attributes", "temperature", "@site", ""];
    prop_oneof![
        3 => prop::sample::select(KNOWN).prop_map(|k| format!("{k:?}")),
        1 => "\\PC{0,6}".prop_map(|s| serde_json::to_string(&s).unwrap()),
    ]
}

/// JSON of any shape with the names that mean something.
fn json() -> impl Strategy<Value = String> {
    scalar().prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..5).prop_map(|all| format!("[{}]", all.join(","))),
            3 => vec((key(), inner), 0..5).prop_map(|all| {
                let all: Vec<String> = all.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
        check(&bytes);
        check(text.as_bytes());
    }

    #[test]
    fn changed_json(json in json(), edits in vec((any::<Index>(), any::<u8>()), 0..4), cut in prop::option::of(any::<Index>())) {
        check(json.as_bytes());
        let mut bytes = json.into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(&bytes);
    }

    /// Brackets without end must not cost a stack.
    #[test]
    fn deep_nesting(depth in 1usize..2000, open in prop::sample::select(&["[", "{\"a\":", "{\"values\":"][..])) {
        check(open.repeat(depth).as_bytes());
        let device = DeviceId::new("d").unwrap();
        let _ = admit(&device, open.repeat(depth).as_bytes(), &AdmissionSettings::default());
    }
}
