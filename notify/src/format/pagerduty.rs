//! PagerDuty Events v2.
//!
//! A page is one alert there, under our dedup key. A trigger after its resolve would open another one, and an
//! acknowledge or resolve before its trigger is dropped silently, so order is everything: the queue keeps it.

use chrono::DateTime;
use serde_json::{Value, json};

use super::text::{cut, severity};
use super::{Method, Request};
use crate::message::{hex_sha256, rfc3339};
use crate::{Kind, Message, Target};

/// Most characters of a summary.
const SUMMARY_MAX: usize = 1024;
/// Most bytes of an event (512 KB), by which Alertmanager goes too.
const EVENT_BYTES_MAX: usize = 512_000;
/// Most characters of a dedup key.
const KEY_MAX: usize = 255;

pub(super) fn render(target: &Target, message: &Message) -> Request {
    let action = match message.kind {
        Kind::Raised | Kind::Updated | Kind::Test => "trigger",
        Kind::Acknowledged => "acknowledge",
        Kind::Cleared => "resolve",
    };
    let routing_key = target.secret.as_ref().map_or("", |s| s.expose());
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": key(&message.dedup_key),
    });
    if action == "trigger" {
        event["payload"] = payload(message, details(message));
        event["client"] = json!("Tidewatch");
        let mut links = Vec::new();
        if let Some(url) = &message.url {
            event["client_url"] = json!(url);
            links.push(json!({"href": url, "text": "Alert in Tidewatch"}));
        }
        if let Some(runbook) = &message.runbook {
            links.push(json!({"href": runbook, "text": "Runbook"}));
        }
        if !links.is_empty() {
            event["links"] = links.into();
        }
    }
    let mut body = event.to_string();
    if body.len() > EVENT_BYTES_MAX {
        let bytes = body.len();
        let error = format!(
            "details left out: the event would have {bytes} bytes, more than {EVENT_BYTES_MAX}"
        );
        event["payload"] = payload(message, json!({"error": error}));
        body = event.to_string();
    }
    Request {
        method: Method::Post,
        url: target.url.expose().to_owned(),
        headers: Vec::new(),
        body,
    }
}

fn key(key: &str) -> String {
    match key.chars().count() > KEY_MAX {
        true => hex_sha256(key),
        false => key.to_owned(),
    }
}

fn payload(message: &Message, details: Value) -> Value {
    let label = |name: &str| message.labels.get(name).map(|text| cut(text, SUMMARY_MAX));
    let source = match message.source.as_str() {
        "" => "tidewatch",
        source => source,
    };
    let mut payload = json!({
        "summary": cut(&message.summary, SUMMARY_MAX),
        "source": cut(source, SUMMARY_MAX),
        "severity": severity(message),
        "timestamp": timestamp(message.began),
        "class": cut(&message.rule, SUMMARY_MAX),
        "custom_details": details,
    });
    if let Some(metric) = label("metric") {
        payload["component"] = json!(metric);
    }
    if let Some(site) = label("site") {
        payload["group"] = json!(site);
    }
    payload
}

fn details(message: &Message) -> Value {
    let alerts = message.alerts.iter().map(|alert| {
        json!({
            "device": alert.device,
            "state": alert.state,
            "metric": alert.metric,
            "value": alert.value,
            "threshold": alert.threshold,
            "began": rfc3339(alert.began),
            "reported": rfc3339(alert.reported),
            "summary": alert.summary,
        })
    });
    let mut details = json!({
        "firing": message.firing,
        "total": message.total,
        "labels": message.labels,
        "alerts": alerts.collect::<Vec<_>>(),
    });
    if let Some(description) = &message.description {
        details["description"] = json!(description);
    }
    details
}

/// As in the documentation of Events v2: `2026-01-02T03:04:05.678+0000`.
fn timestamp(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Format, Secret};

    fn event(message: &Message) -> Value {
        let secret = Secret::new("0123456789abcdef0123456789abcdef");
        let target = Target::new("pd", Format::Pagerduty, "", Some(secret));
        serde_json::from_str(&render(&target, message).body).unwrap()
    }

    #[test]
    fn the_time_is_written_as_documented() {
        // 2026-01-02T03:04:05.678901Z
        assert_eq!(
            timestamp(1_767_323_045_678_901),
            "2026-01-02T03:04:05.678+0000"
        );
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let long = "ä".repeat(2000);
        let mut message = Message {
            summary: long,
            dedup_key: "k".repeat(300),
            alerts: vec![Entry::default()],
            ..Message::default()
        };
        let sent = event(&message);
        let summary = sent["payload"]["summary"].as_str().unwrap();
        assert_eq!(summary.chars().count(), 1024);
        assert_eq!(sent["dedup_key"].as_str().unwrap().len(), 64);
        assert_eq!(sent["payload"]["source"], "tidewatch");
        // An unknown severity is none that PagerDuty takes.
        assert_eq!(sent["payload"]["severity"], "error");

        message.alerts = vec![
            Entry {
                summary: "x".repeat(60_000),
                ..Entry::default()
            };
            20
        ];
        let sent = event(&message);
        let error = sent["payload"]["custom_details"]["error"].as_str().unwrap();
        assert!(error.starts_with("details left out"), "{error}");
        assert!(sent.to_string().len() < EVENT_BYTES_MAX);
    }
}
