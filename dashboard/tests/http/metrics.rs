//! `/metrics` as Prometheus reads it.

use std::collections::BTreeMap;

use views::Views;

use crate::fixture::{filled, start, start_with};

/// Sample → value, after checking the text.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if let ["#", "HELP", name, help] = words[..] {
            assert!(!help.is_empty() && !helped.contains(&name), "{line}");
            helped.push(name);
        } else if let ["#", "TYPE", name, kind] = words[..] {
            assert!(types.insert(name, kind).is_none(), "{name} is there twice");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| {
                name.strip_suffix(s)
                    .filter(|n| types.get(n) == Some(&"histogram"))
            });
            let family = family.unwrap_or(name);
            assert!(types.contains_key(family), "{line} has no type");
            assert!(helped.contains(&family), "{line} has no help");
            let old = samples.insert(sample.to_owned(), value.parse().unwrap());
            assert!(old.is_none(), "{sample} is there twice");
        }
    }
    samples
}

#[tokio::test]
async fn the_views_are_shown() {
    let server = start().await;
    let reply = server.get("/metrics").await;
    assert_eq!(
        reply.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let samples = parse(reply.text());
    for (sample, value) in [
        ("tidewatch_build_info{version=\"1.2.3\"}", 1.0),
        ("tidewatch_ready", 0.0),
        ("tidewatch_accepted_events_total", 1006.0),
        ("tidewatch_events_total{result=\"counted\"}", 1000.0),
        ("tidewatch_events_total{result=\"duplicate\"}", 3.0),
        ("tidewatch_events_total{result=\"quarantined\"}", 2.0),
        ("tidewatch_events_total{result=\"too_old\"}", 1.0),
        ("tidewatch_refused_total", 4.0),
        ("tidewatch_devices{status=\"buffering\"}", 1.0),
        ("tidewatch_watermark_lag_seconds", 33.0),
        (
            "tidewatch_alerts{state=\"firing\",severity=\"critical\"}",
            2.0,
        ),
        ("tidewatch_alerts{state=\"pending\",severity=\"info\"}", 0.0),
        ("tidewatch_partition_lag_records{partition=\"1\"}", 7.0),
        ("tidewatch_checkpoint_age_seconds{partition=\"0\"}", 12.5),
        (
            "tidewatch_quarantined_total{reason=\"time_in_future\"}",
            13.0,
        ),
        ("tidewatch_log_bytes", 4096.0),
        ("tidewatch_incidents_total", 1.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
    // The window from :00 to :10 ended 31 s ago; one of its three devices is awaited.
    let ratio = samples["tidewatch_window_completeness_ratio"];
    assert!((ratio - 2.0 / 3.0).abs() < 1e-9, "{ratio}");
    assert!(!samples.contains_key("tidewatch_checkpoint_age_seconds{partition=\"1\"}"));
    assert!(!reply.text().contains("d-1"), "no device is a label");
}

#[tokio::test]
async fn what_is_not_known_is_absent() {
    let server = start_with(Default::default(), Views::new(1, "1", 0)).await;
    let samples = parse(server.get("/metrics").await.text());
    for absent in [
        "tidewatch_watermark_lag_seconds",
        "tidewatch_window_completeness_ratio",
    ] {
        assert!(!samples.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn what_other_crates_count_is_shown_and_requests_are_counted_by_route() {
    assert!(dashboard::metrics::install(), "a second install is fine");
    let server = start_with(Default::default(), filled()).await;
    metrics::describe_counter!("tidewatch_test_things_total", "Things");
    metrics::counter!("tidewatch_test_things_total", "kind" => "a").increment(3);
    // Named like a family of the views: theirs is the true one.
    metrics::counter!("tidewatch_refused_total").increment(99);
    server.get("/api/v1/devices/d-1").await;
    server.get("/api/v1/devices/nobody").await;
    server.get("/no/such/page").await;
    let text = server.get("/metrics").await;
    let samples = parse(text.text());
    assert_eq!(samples["tidewatch_test_things_total{kind=\"a\"}"], 3.0);
    assert_eq!(samples["tidewatch_refused_total"], 4.0);
    for (route, status) in [
        ("/api/v1/devices/{id}", 200),
        ("/api/v1/devices/{id}", 404),
        ("page", 404),
    ] {
        let sample =
            format!("tidewatch_http_requests_total{{route=\"{route}\",status=\"{status}\"}}");
        assert!(samples.get(&sample).is_some_and(|n| *n >= 1.0), "{sample}");
    }
    let bucket =
        "tidewatch_http_request_seconds_bucket{route=\"/api/v1/devices/{id}\",le=\"+Inf\"}";
    assert!(samples[bucket] >= 2.0);
}
