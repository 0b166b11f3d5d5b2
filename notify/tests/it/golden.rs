//! The exact requests of every format, as they arrive.

use std::collections::BTreeMap;

use notify::format::Attempt;
use notify::{Client, Entry, Format, Kind, Message, Secret, Target};
use serde_json::{Value, json};

use super::receiver::{Got, Receiver, Reply};

/// 2026-01-02T03:04:05.678Z
const BEGAN: i64 = 1_767_323_045_678_000;
const SECOND: i64 = 1_000_000;
const KEY: &str = "0123456789abcdef0123456789abcdef";

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

fn entry(device: &str, value: f64, resolved: Option<i64>) -> Entry {
    Entry {
        id: format!("a-{device}"),
        rule: "overheating".to_owned(),
        severity: "critical".to_owned(),
        state: if resolved.is_some() {
            "resolved"
        } else {
            "firing"
        }
        .to_owned(),
        device: device.to_owned(),
        metric: "temperature".to_owned(),
        group: texts(&[("site", "plant-1"), ("hall.no", "3")]),
        value: Some(value),
        threshold: Some(80.0),
        began: BEGAN,
        reported: BEGAN + SECOND,
        resolved,
        summary: format!("temperature of {device} is {value}, above 80"),
    }
}

fn message(kind: Kind) -> Message {
    let resolved = (kind == Kind::Cleared).then_some(BEGAN + 60 * SECOND);
    let mut message = Message {
        id: format!("p1:{}", kind.as_str()),
        kind,
        dedup_key: "d1".repeat(32),
        rule: "overheating".to_owned(),
        severity: "critical".to_owned(),
        summary: "overheating at plant-1: boiler".to_owned(),
        source: "plant-1".to_owned(),
        labels: texts(&[
            ("alertname", "overheating"),
            ("severity", "critical"),
            ("metric", "temperature"),
            ("site", "plant-1"),
        ]),
        began: BEGAN,
        resolved,
        at: BEGAN + 2 * SECOND,
        url: Some("https://tw.example/#/alerts/a-boiler".to_owned()),
        runbook: Some("https://wiki.example/hot".to_owned()),
        firing: 1,
        total: 1,
        alerts: vec![entry("boiler", 90.5, resolved)],
        ..Message::default()
    };
    if kind == Kind::Updated {
        message.alerts.push(entry("pump", 81.25, None));
        (message.firing, message.total) = (5, 7);
        message.summary = "overheating at plant-1: 5 devices".to_owned();
    }
    message
}

/// Sends, and gives the requests as they arrived. Each must be accepted.
async fn sent(mut target: Target, message: &Message, handle: Option<&str>) -> Vec<Got> {
    let receiver = Receiver::start();
    let path = target.url.expose().to_owned();
    target.url = Secret::new(receiver.url(&path));
    target.allow_private = true;
    receiver.otherwise(|_| {
        let body = r#"{"ok":true,"channel":"C1","ts":"1.5","status":"success"}"#;
        Reply::With(202, "", body.to_owned())
    });
    let client = Client::new(target).unwrap();
    let at = BEGAN + 3 * SECOND;
    let outcome = client.send(message, &Attempt { at, handle }).await;
    assert_eq!(outcome.error, None);
    let got = receiver.got();
    for got in &got {
        assert_eq!(got.header("content-type"), "application/json");
        assert!(got.header("user-agent").starts_with("tidewatch/"));
    }
    got
}

async fn one(target: Target, message: &Message) -> Got {
    let mut got = sent(target, message, None).await;
    assert_eq!(got.len(), 1);
    got.remove(0)
}

fn target(format: Format, path: &str, secret: &str) -> Target {
    let secret = (!secret.is_empty()).then(|| Secret::new(secret));
    Target::new("ops", format, path, secret)
}

fn entry_json(device: &str, value: f64) -> Value {
    json!({
        "id": format!("a-{device}"), "rule": "overheating", "severity": "critical", "state": "firing",
        "device": device, "metric": "temperature", "group": {"site": "plant-1", "hall.no": "3"},
        "value": value, "threshold": 80.0,
        "began": "2026-01-02T03:04:05.678Z", "reported": "2026-01-02T03:04:06.678Z", "resolved": null,
        "summary": format!("temperature of {device} is {value}, above 80"),
    })
}

#[tokio::test]
async fn webhook() {
    let hook = || {
        target(
            Format::Webhook,
            "/hook?x=1",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        )
    };
    let got = one(hook(), &message(Kind::Raised)).await;
    assert_eq!(got.line, "POST /hook?x=1");
    assert_eq!(got.header("webhook-id"), "p1:raised");
    assert_eq!(got.header("webhook-timestamp"), "1767323048");
    assert!(got.header("webhook-signature").starts_with("v1,"));
    let mut data = entry_json("boiler", 90.5);
    data["notified"] = json!(true);
    data["summary"] = json!("overheating at plant-1: boiler");
    data["url"] = json!("https://tw.example/#/alerts/a-boiler");
    data["runbook"] = json!("https://wiki.example/hot");
    data["alerts"] = json!([entry_json("boiler", 90.5)]);
    data["page"] = json!({
        "key": "d1".repeat(32), "firing": 1, "total": 1,
        "labels": {"alertname": "overheating", "severity": "critical", "metric": "temperature", "site": "plant-1"},
    });
    let expected =
        json!({"type": "alert.raised", "timestamp": "2026-01-02T03:04:05.678Z", "data": data});
    assert_eq!(got.body, expected);

    let got = one(hook(), &message(Kind::Updated)).await;
    assert_eq!(got.body["type"], "alert.updated");
    assert_eq!(got.body["timestamp"], "2026-01-02T03:04:07.678Z");
    assert_eq!(got.body["data"]["device"], "boiler");
    assert_eq!(
        (
            &got.body["data"]["page"]["firing"],
            &got.body["data"]["page"]["total"]
        ),
        (&json!(5), &json!(7))
    );
    assert_eq!(got.body["data"]["alerts"][1], entry_json("pump", 81.25));
    let got = one(hook(), &message(Kind::Acknowledged)).await;
    assert_eq!(got.body["type"], "alert.acknowledged");
    let got = one(hook(), &message(Kind::Cleared)).await;
    assert_eq!(got.body["type"], "alert.cleared");
    assert_eq!(got.body["timestamp"], "2026-01-02T03:05:05.678Z");
    assert_eq!(got.body["data"]["resolved"], "2026-01-02T03:05:05.678Z");
    let got = one(hook(), &Message::test("ops", BEGAN)).await;
    assert_eq!(got.body["type"], "notifier.test");
}

#[tokio::test]
async fn pagerduty() {
    let pd = || target(Format::Pagerduty, "/v2/enqueue", KEY);
    let got = one(pd(), &message(Kind::Updated)).await;
    assert_eq!(got.line, "POST /v2/enqueue");
    assert_eq!(got.header("authorization"), "");
    let alert = |device: &str, value: f64| {
        json!({
            "device": device, "state": "firing", "metric": "temperature", "value": value, "threshold": 80.0,
            "began": "2026-01-02T03:04:05.678Z", "reported": "2026-01-02T03:04:06.678Z",
            "summary": format!("temperature of {device} is {value}, above 80"),
        })
    };
    let expected = json!({
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": "d1".repeat(32),
        "payload": {
            "summary": "overheating at plant-1: 5 devices",
            "source": "plant-1",
            "severity": "critical",
            "timestamp": "2026-01-02T03:04:05.678+0000",
            "component": "temperature",
            "group": "plant-1",
            "class": "overheating",
            "custom_details": {
                "firing": 5, "total": 7,
                "labels": {"alertname": "overheating", "severity": "critical", "metric": "temperature", "site": "plant-1"},
                "alerts": [alert("boiler", 90.5), alert("pump", 81.25)],
            },
        },
        "client": "Tidewatch",
        "client_url": "https://tw.example/#/alerts/a-boiler",
        "links": [
            {"href": "https://tw.example/#/alerts/a-boiler", "text": "Alert in Tidewatch"},
            {"href": "https://wiki.example/hot", "text": "Runbook"},
        ],
    });
    assert_eq!(got.body, expected);
    for (kind, action) in [
        (Kind::Acknowledged, "acknowledge"),
        (Kind::Cleared, "resolve"),
    ] {
        let got = one(pd(), &message(kind)).await;
        let expected =
            json!({"routing_key": KEY, "event_action": action, "dedup_key": "d1".repeat(32)});
        assert_eq!(got.body, expected);
    }
}

#[tokio::test]
async fn alertmanager_webhook() {
    let am = || target(Format::AlertmanagerWebhook, "/am", "");
    let labels = |device: &str| {
        json!({
            "alertname": "overheating", "severity": "critical", "metric": "temperature", "site": "plant-1",
            "hall_no": "3", "device": device,
        })
    };
    let alert = |device: &str, value: f64, fingerprint: &str| {
        json!({
            "status": "firing",
            "labels": labels(device),
            "annotations": {
                "summary": format!("temperature of {device} is {value}, above 80"),
                "runbook_url": "https://wiki.example/hot",
            },
            "startsAt": "2026-01-02T03:04:05.678Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "https://tw.example/#/alerts/a-boiler",
            "fingerprint": fingerprint,
        })
    };
    let got = one(am(), &message(Kind::Updated)).await;
    assert_eq!(got.line, "POST /am");
    let mut common = labels("");
    common.as_object_mut().unwrap().remove("device");
    let expected = json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"overheating\", site=\"plant-1\"}",
        "truncatedAlerts": 5,
        "status": "firing",
        "receiver": "ops",
        "notification_reason": "new alerts added",
        "groupLabels": {"alertname": "overheating", "site": "plant-1"},
        "commonLabels": common,
        "commonAnnotations": {"runbook_url": "https://wiki.example/hot"},
        "routeLabels": {},
        "externalURL": "https://tw.example",
        "alerts": [
            alert("boiler", 90.5, "BOILER"),
            alert("pump", 81.25, "PUMP"),
        ],
    });
    // The hash itself is compared with that of the real program beside it.
    let mut body = got.body.clone();
    for (i, name) in ["BOILER", "PUMP"].iter().enumerate() {
        let fingerprint = body["alerts"][i]["fingerprint"].as_str().unwrap();
        assert!(fingerprint.len() == 16 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()));
        body["alerts"][i]["fingerprint"] = json!(name);
    }
    assert_eq!(body, expected);

    let got = one(am(), &message(Kind::Cleared)).await;
    assert_eq!(got.body["status"], "resolved");
    assert_eq!(got.body["notification_reason"], "all alerts resolved");
    assert_eq!(got.body["alerts"][0]["status"], "resolved");
    assert_eq!(got.body["alerts"][0]["endsAt"], "2026-01-02T03:05:05.678Z");
    let got = one(
        target(Format::AlertmanagerWebhook, "/am", "token"),
        &message(Kind::Raised),
    )
    .await;
    assert_eq!(got.header("authorization"), "Bearer token");
    assert_eq!(got.body["notification_reason"], "first notification");
    let got = one(am(), &Message::test("ops", BEGAN)).await;
    assert_eq!(
        got.body["alerts"][0]["labels"]["alertname"],
        "TidewatchTest"
    );
}

#[tokio::test]
async fn alertmanager() {
    let am = || target(Format::Alertmanager, "/prefix/", "");
    let got = one(am(), &message(Kind::Raised)).await;
    assert_eq!(got.line, "POST /prefix/api/v2/alerts");
    let labels = json!({"alertname": "overheating", "severity": "critical", "metric": "temperature", "site": "plant-1"});
    let mut expected = json!([{
        "labels": labels,
        "annotations": {
            "summary": "overheating at plant-1: boiler", "runbook_url": "https://wiki.example/hot",
            "firing": "1", "total": "1",
        },
        "startsAt": "2026-01-02T03:04:05.678Z",
        "generatorURL": "https://tw.example/#/alerts/a-boiler",
    }]);
    assert_eq!(got.body, expected);
    // Later messages are about the same alert, whatever the page's alerts have in common by then.
    let mut cleared = message(Kind::Cleared);
    cleared.labels.remove("metric");
    cleared.firing = 0;
    let got = sent(am(), &cleared, Some(&labels.to_string()))
        .await
        .remove(0);
    expected[0]["endsAt"] = json!("2026-01-02T03:05:05.678Z");
    expected[0]["annotations"]["firing"] = json!("0");
    assert_eq!(got.body, expected);
}

#[tokio::test]
async fn slack_webhook() {
    let got = one(
        target(Format::Slack, "/services/T/B/x", ""),
        &message(Kind::Updated),
    )
    .await;
    assert_eq!(got.line, "POST /services/T/B/x");
    let field = |title: &str, value: &str| json!({"title": title, "value": value, "short": true});
    let expected = json!({
        "text": "[FIRING:5] overheating",
        "attachments": [{
            "color": "danger",
            "title": "overheating at plant-1: 5 devices",
            "title_link": "https://tw.example/#/alerts/a-boiler",
            "text": "• boiler: temperature of boiler is 90.5, above 80\n\
                     • pump: temperature of pump is 81.25, above 80\n\
                     and 5 more\n<https://wiki.example/hot|Runbook>",
            "fallback": "[FIRING:5] overheating at plant-1: 5 devices",
            "callback_id": "d1".repeat(32),
            "fields": [
                field("Severity", "critical"), field("Site", "plant-1"),
                field("Metric", "temperature"), field("Firing", "5 of 7"),
            ],
            "footer": "Tidewatch",
            "ts": 1_767_323_045,
            "mrkdwn_in": ["text"],
        }],
    });
    assert_eq!(got.body, expected);
    let got = one(
        target(Format::Slack, "/services/T/B/x", ""),
        &message(Kind::Cleared),
    )
    .await;
    assert_eq!(got.body["text"], "[RESOLVED] overheating");
    assert_eq!(got.body["attachments"][0]["color"], "good");
}

#[tokio::test]
async fn slack_bot() {
    let bot = || {
        let mut bot = target(Format::Slack, "/api/", "xoxb-1");
        bot.channel = Some("#ops".to_owned());
        bot
    };
    let got = one(bot(), &message(Kind::Raised)).await;
    assert_eq!(got.line, "POST /api/chat.postMessage");
    assert_eq!(got.header("authorization"), "Bearer xoxb-1");
    assert_eq!(got.body["channel"], "#ops");
    assert_eq!(
        got.body["metadata"]["event_payload"],
        json!({"id": "p1:raised", "dedup_key": "d1".repeat(32)})
    );
    let got = sent(bot(), &message(Kind::Cleared), Some("C1 1.5"))
        .await
        .remove(0);
    assert_eq!(got.line, "POST /api/chat.update");
    assert_eq!(
        (&got.body["channel"], &got.body["ts"]),
        (&json!("C1"), &json!("1.5"))
    );
}

#[tokio::test]
async fn opsgenie() {
    let og = || target(Format::Opsgenie, "/base/", "key-1");
    let got = one(og(), &message(Kind::Raised)).await;
    assert_eq!(got.line, "POST /base/v2/alerts");
    assert_eq!(got.header("authorization"), "GenieKey key-1");
    let links = "Runbook: https://wiki.example/hot\nAlert: https://tw.example/#/alerts/a-boiler";
    let expected = json!({
        "alias": "d1".repeat(32),
        "message": "overheating at plant-1: boiler",
        "description": format!("[FIRING:1] overheating at plant-1: boiler\n{links}"),
        "details": {
            "alertname": "overheating", "severity": "critical", "metric": "temperature", "site": "plant-1",
            "firing": "1", "total": "1",
            "url": "https://tw.example/#/alerts/a-boiler", "runbook": "https://wiki.example/hot",
        },
        "source": "Tidewatch",
        "entity": "plant-1",
        "tags": ["overheating", "critical"],
        "priority": "P1",
    });
    assert_eq!(got.body, expected);

    let alias = format!("/base/v2/alerts/{}", "d1".repeat(32));
    let got = sent(og(), &message(Kind::Updated), None).await;
    let lines: Vec<&str> = got.iter().map(|g| g.line.as_str()).collect();
    let expected = [
        format!("PUT {alias}/message?identifierType=alias"),
        format!("PUT {alias}/description?identifierType=alias"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        got[0].body,
        json!({"message": "overheating at plant-1: 5 devices"})
    );
    assert!(
        got[1].body["description"]
            .as_str()
            .unwrap()
            .contains("• pump: ")
    );
    for (kind, action) in [
        (Kind::Acknowledged, "acknowledge"),
        (Kind::Cleared, "close"),
    ] {
        let got = one(og(), &message(kind)).await;
        assert_eq!(
            got.line,
            format!("POST {alias}/{action}?identifierType=alias")
        );
        assert_eq!(
            got.body,
            json!({"source": "Tidewatch", "note": "overheating at plant-1: boiler"})
        );
    }
}
