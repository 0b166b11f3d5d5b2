//! The truth, computed again from all events at once, the slow way.

use std::collections::{BTreeMap, BTreeSet};

use event::{EventTime, Sample};
use simulator::truth::{Row, Table};

type Key = (u64, String, String, String);

/// Compares a truth table with the events that a cloud counted.
#[track_caller]
pub fn assert_equal(table: &Table, events: &[Sample], windows: &[u64]) {
    let mut rows = BTreeMap::new();
    table
        .rows(
            |site| format!("site-{:02}", site + 1),
            |row| {
                let site = row.group.get("site").cloned().unwrap_or_default();
                let key = (
                    row.window_seconds,
                    row.start.clone(),
                    site,
                    row.metric.clone(),
                );
                assert!(rows.insert(key, row).is_none(), "a row twice");
                Ok(())
            },
        )
        .unwrap();
    let expected = compute(events, windows);
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (key, row) in &rows {
        assert_eq!(row, &expected[key]);
    }
    assert!(rows.len() > 50, "nothing was compared");
}

fn compute(events: &[Sample], windows: &[u64]) -> BTreeMap<Key, Row> {
    let site_of: BTreeMap<&str, String> = events
        .iter()
        .filter(|e| e.metric.as_str() == "@site")
        .map(|e| match &e.value {
            event::Value::Text(t) => (e.device.as_str(), t.to_string()),
            other => panic!("a site that is {other:?}"),
        })
        .collect();
    let mut groups: BTreeMap<Key, Vec<&Sample>> = BTreeMap::new();
    for e in events.iter().filter(|e| e.metric.as_attribute().is_none()) {
        for &seconds in windows {
            let length = seconds as i64 * 1_000_000;
            let start = EventTime(e.time.0 - e.time.0.rem_euclid(length)).to_string();
            for metric in [e.metric.as_str(), "*"] {
                for site in ["", site_of[e.device.as_str()].as_str()] {
                    let key = (seconds, start.clone(), site.to_owned(), metric.to_owned());
                    groups.entry(key).or_default().push(e);
                }
            }
        }
    }
    groups
        .into_iter()
        .map(|(key, list)| (key.clone(), row(key, &list)))
        .collect()
}

fn row((seconds, start, site, metric): Key, list: &[&Sample]) -> Row {
    let numbers: Vec<f64> = list.iter().filter_map(|e| e.value.as_number()).collect();
    let sum: i128 = numbers
        .iter()
        .map(|n| (n * 2f64.powi(48)).round() as i128)
        .sum();
    let sum = sum as f64 / 2f64.powi(48);
    let devices: BTreeSet<&str> = list.iter().map(|e| e.device.as_str()).collect();
    let from = EventTime::parse_rfc3339(&start).unwrap();
    Row {
        kind: "window".to_owned(),
        metric,
        group: (!site.is_empty())
            .then(|| ("site".to_owned(), site))
            .into_iter()
            .collect(),
        window_seconds: seconds,
        end: EventTime(from.0 + seconds as i64 * 1_000_000).to_string(),
        start,
        count: list.len() as u64,
        sum: (!numbers.is_empty()).then_some(sum),
        min: numbers.iter().copied().reduce(f64::min),
        max: numbers.iter().copied().reduce(f64::max),
        mean: (!numbers.is_empty()).then(|| sum / numbers.len() as f64),
        distinct_devices: devices.len() as u64,
    }
}
