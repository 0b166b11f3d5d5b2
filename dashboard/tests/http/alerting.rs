//! Acknowledging, silences, pages, and the API of Alertmanager.

use std::collections::BTreeMap;

use dashboard::control::Change;
use event::operate::silence_id;
use event::{Matcher, Operation, SilenceKind};
use serde_json::{Value, json};
use views::model::{Alert, Time};
use views::oncall::{Acknowledged, AlertPage, CommandDecision, Mark, OnCallChange, Silence};

use crate::fixture::{SECOND, Server, T, alert, start};

/// Alerts: `a-2` in a page that somebody took, `a-7` silenced, `a-8` not paged.
pub fn on_call(server: &Server) {
    let views = &server.views;
    let quiet = Alert {
        device: "d-7".to_owned(),
        severity: "info",
        group: BTreeMap::new(),
        ..alert("a-7", "firing", 40)
    };
    views.put_alert(0, quiet);
    let pending = Alert {
        notified: false,
        ..alert("a-8", "pending", 41)
    };
    views.put_alert(1, pending);
    let page = AlertPage {
        key: "k1".to_owned(),
        route: "default".to_owned(),
        rule: "too-hot".to_owned(),
        severity: "critical".to_owned(),
        labels: [("alertname".to_owned(), "too-hot".to_owned())].into(),
        summary: "too hot".to_owned(),
        state: "firing",
        opened: Time(T),
        began: Time(T - SECOND),
        closed: None,
        firing: 1,
        muted: 0,
        total: 1,
        alerts: vec!["a-2".to_owned()],
        acknowledged: Some(Acknowledged {
            by: "ann".to_owned(),
            at: Time(T),
            comment: "on it".to_owned(),
        }),
        escalated: 0,
        notifiers: vec!["ops".to_owned()],
        messages: 1,
    };
    let silence = |id: &str, state, ends, weekly| Silence {
        id: id.to_owned(),
        kind: "silence",
        state,
        matchers: vec![Matcher {
            name: "device".to_owned(),
            value: "d-7".to_owned(),
            is_regex: false,
            is_equal: true,
        }],
        starts_at: Time(T),
        ends_at: Time(ends),
        by: "ann".to_owned(),
        comment: "known".to_owned(),
        updated: Time(T),
        weekly,
    };
    let decision = CommandDecision {
        id: "rule-a-2".to_owned(),
        at: Time(T),
        rule: "too-hot".to_owned(),
        alert: "a-2".to_owned(),
        device: "d-1".to_owned(),
        command: "fan".to_owned(),
        decision: "sent".to_owned(),
        outcome: None,
    };
    let paged = Mark {
        page: Some("k1".to_owned()),
        ..Mark::default()
    };
    let silenced = Mark {
        silenced_by: vec!["s-1".to_owned()],
        ..Mark::default()
    };
    views.put_on_call(OnCallChange {
        marks: vec![
            ("a-2".to_owned(), Some(paged)),
            ("a-7".to_owned(), Some(silenced)),
        ],
        pages: vec![(1, Some(page))],
        silences: Some(vec![
            silence("s-1", "active", T + 1000 * SECOND, false),
            silence("s-0", "expired", T - SECOND, false),
            silence("window:night", "pending", T + 1000 * SECOND, true),
        ]),
        commands: vec![("rule-a-2".to_owned(), Some(decision))],
        alerts: Vec::new(),
    });
}

async fn ready() -> Server {
    let server = start().await;
    on_call(&server);
    server.views.set_ready();
    server
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().or(list.as_array()).unwrap();
    let id = |a: &Value| -> Option<&'static str> {
        let text = a["id"].as_str().or(a["fingerprint"].as_str())?;
        Some(Box::leak(text.to_owned().into_boxed_str()))
    };
    items.iter().filter_map(id).collect()
}

#[tokio::test]
async fn alerts_show_and_are_found_by_what_people_did() {
    let server = ready().await;
    for (query, expected) in [
        ("acknowledged=true", &["a-2"][..]),
        ("silenced=true", &["a-7"]),
        ("state=firing&silenced=false&acknowledged=true", &["a-2"]),
        ("device=d-7", &["a-7"]),
        ("severity=info", &["a-7"]),
        ("page=k1", &["a-2"]),
        ("rule=none", &[]),
        ("attr.site=plant-9", &[]),
    ] {
        let found = server.json(&format!("/api/v1/alerts?{query}")).await;
        assert_eq!(ids(&found), expected, "{query}");
        assert_eq!(found["total"], expected.len());
    }
    server
        .refused("/api/v1/alerts?silenced=yes", 400, "bad_parameter")
        .await;
    let one = server.json("/api/v1/alerts/a-2").await;
    assert_eq!(one["acknowledged"]["by"], "ann");
    assert_eq!(
        (&one["page"], &one["in_page"]["key"]),
        (&json!("k1"), &json!("k1"))
    );
    assert_eq!(one["commands"][0]["decision"], "sent");
    server.refused("/api/v1/alerts/x", 404, "not_found").await;
    let overview = server.json("/api/v1/overview").await;
    let firing: u64 = overview["alerts"]["firing"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(overview["alerts"]["unacknowledged"], firing - 1);
    let pages = server.json("/api/v1/pages?state=firing").await;
    assert_eq!(
        (&pages["total"], &pages["items"][0]["firing"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        server.json("/api/v1/pages?state=resolved").await["total"],
        0
    );
    let decisions = server.json("/api/v1/automation?alert=a-2").await;
    assert_eq!(ids(&decisions), ["rule-a-2"]);
}

async fn operation(server: &Server, method: &str, path: &str, body: &str) -> (Value, Operation) {
    let reply = server.write(method, path, body).await;
    assert!(reply.status.is_success(), "{path}: {}", reply.text());
    let mut changes = server.changes.take();
    let Some(Change::Operate(operation)) = changes.pop() else {
        panic!("{path}: no operation");
    };
    assert!(changes.is_empty() && operation.check().is_ok());
    let answer = serde_json::from_str(reply.text()).unwrap_or_default();
    (answer, operation)
}

async fn refused(server: &Server, call: (&str, &str, &str), status: u16) -> String {
    let reply = server.write(call.0, call.1, call.2).await;
    assert_eq!(reply.status, status, "{call:?}: {}", reply.text());
    assert!(server.changes.take().is_empty(), "{call:?}");
    reply.json()["error"]["field"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn alerts_are_acknowledged_once_they_were_paged() {
    let server = ready().await;
    let body = r#"{"by": "bob", "comment": "looking"}"#;
    let (answer, what) = operation(&server, "POST", "/api/v1/alerts/a-2/ack", body).await;
    assert_eq!(
        (&answer["action"], &answer["name"]),
        (&json!("acknowledged"), &json!("a-2"))
    );
    let expected = Operation::Ack {
        alert: "a-2".to_owned(),
        by: "bob".to_owned(),
        comment: "looking".to_owned(),
    };
    assert_eq!(what, expected);
    let unack = ("POST", "/api/v1/alerts/a-2/unack", r#"{"by": "bob"}"#);
    let (_, what) = operation(&server, unack.0, unack.1, unack.2).await;
    assert!(matches!(what, Operation::Unack { .. }));
    let ack = |id: &'static str| ("POST", id, r#"{"by": "bob"}"#);
    assert_eq!(
        refused(&server, ack("/api/v1/alerts/x/ack"), 404).await,
        "id"
    );
    assert_eq!(
        refused(&server, ack("/api/v1/alerts/a-8/ack"), 409).await,
        "id"
    );
    let nobody = ("POST", "/api/v1/alerts/a-2/ack", "{}");
    assert_eq!(refused(&server, nobody, 400).await, "by");
    let typo = ("POST", "/api/v1/alerts/a-2/ack", r#"{"who": "bob"}"#);
    assert_eq!(refused(&server, typo, 400).await, "who");
}

#[tokio::test]
async fn silences_are_made_changed_and_ended() {
    let server = ready().await;
    let listed = server.json("/api/v1/silences").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let active = server.json("/api/v1/silences?state=active").await;
    assert_eq!(ids(&active), ["s-1"]);
    assert_eq!(server.json("/api/v1/silences/s-1").await["by"], "ann");

    let body = |more: &str| {
        format!(
            r#"{{"matchers": [{{"name": "site", "value": "plant-.*", "isRegex": true}}],
                "ends_at": "2030-01-01T00:00:00Z", "by": "bob"{more}}}"#
        )
    };
    let call = ("POST", "/api/v1/silences");
    let (answer, what) = operation(&server, call.0, call.1, &body("")).await;
    assert_eq!(answer["name"], silence_id(41), "made from its place");
    let Operation::Silence { id: None, spec } = what else {
        panic!("{what:?}");
    };
    assert!(spec.starts >= T && spec.matchers[0].is_regex && spec.matchers[0].is_equal);
    let more = r#", "id": "s-1", "kind": "maintenance", "starts_at": "2029-01-01T00:00:00Z""#;
    let (answer, what) = operation(&server, call.0, call.1, &body(more)).await;
    assert_eq!(answer["name"], "s-1");
    let Operation::Silence { id: Some(_), spec } = what else {
        panic!("{what:?}");
    };
    assert_eq!(spec.kind, SilenceKind::Maintenance);
    let (_, what) = operation(&server, "DELETE", "/api/v1/silences/s-1", "").await;
    assert!(matches!(what, Operation::Expire { .. }));

    let wrong = |more: &str, status, field: &'static str| {
        let text = body(more);
        let server = &server;
        async move {
            assert_eq!(
                refused(server, (call.0, call.1, &text), status).await,
                field
            );
        }
    };
    wrong(r#", "id": "x""#, 404, "id").await;
    wrong(r#", "id": "s-0""#, 409, "id").await;
    wrong(r#", "id": "window:night""#, 409, "id").await;
    wrong(r#", "kind": "nap""#, 400, "kind").await;
    wrong(r#", "starts_at": "soon""#, 400, "starts_at").await;
    let past = body("").replace("2030", "2020");
    assert_eq!(
        refused(&server, (call.0, call.1, &past), 400).await,
        "ends_at"
    );
    let none = r#"{"ends_at": "2030-01-01T00:00:00Z", "by": "bob"}"#;
    assert_eq!(
        refused(&server, (call.0, call.1, none), 400).await,
        "matchers"
    );
    let gone = ("DELETE", "/api/v1/silences/x", "");
    assert_eq!(refused(&server, gone, 404).await, "id");
}

#[tokio::test]
async fn programs_that_know_alertmanager_list_and_silence() {
    let server = ready().await;
    let status = server.json("/api/v2/status").await;
    assert_eq!(status["cluster"]["status"], "disabled");
    assert!(status["versionInfo"]["goVersion"].is_string() && status["uptime"].is_string());
    let all = server.json("/api/v2/alerts").await;
    assert!(ids(&all).contains(&"a-2") && !ids(&all).contains(&"a-8"));
    for (query, expected) in [
        ("filter=device%3D%22d-7%22", &["a-7"][..]),
        ("filter=device%3Dd-7&filter=severity%3Dcritical", &[]),
        ("filter=device%3D~%22d-7%7Cx%22&silenced=false", &[]),
        ("receiver=ops", &["a-2"]),
    ] {
        let found = server.json(&format!("/api/v2/alerts?{query}")).await;
        assert_eq!(ids(&found), expected, "{query}");
    }
    let quiet = &server.json("/api/v2/alerts?filter=device%3Dd-7").await[0];
    assert_eq!(quiet["status"]["state"], "suppressed");
    assert_eq!(quiet["status"]["silencedBy"], json!(["s-1"]));
    assert_eq!(quiet["labels"]["alertname"], "too-hot");
    assert_eq!(quiet["receivers"], json!([{"name": "none"}]));
    let groups = server.json("/api/v2/alerts/groups").await;
    assert_eq!(groups[0]["receiver"]["name"], "ops");
    assert_eq!(groups[0]["alerts"][0]["fingerprint"], "a-2");
    assert_eq!(
        server.json("/api/v2/receivers").await,
        json!([{"name": "ops"}])
    );
    let silences = server.json("/api/v2/silences").await;
    assert_eq!(ids(&silences), ["s-1", "s-0"], "without weekly windows");
    assert_eq!(
        server.json("/api/v2/silence/s-1").await["status"]["state"],
        "active"
    );

    let body = r#"{"matchers": [{"name": "device", "value": "d-1", "isRegex": false, "isEqual": true}],
        "startsAt": "2029-01-01T00:00:00.000Z", "endsAt": "2030-01-01T00:00:00.000Z",
        "createdBy": "bob", "comment": "c"}"#;
    let (answer, what) = operation(&server, "POST", "/api/v2/silences", body).await;
    assert_eq!(answer, json!({"silenceID": silence_id(41)}));
    assert!(matches!(what, Operation::Silence { id: None, .. }));
    let (_, what) = operation(&server, "DELETE", "/api/v2/silence/s-1", "").await;
    assert!(matches!(what, Operation::Expire { .. }));
    // Errors are texts there.
    let reply = server.write("POST", "/api/v2/silences", "{}").await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.json().as_str().unwrap().contains("matchers"),
        "{}",
        reply.text()
    );
    let reply = server.get("/api/v2/alerts?filter=x").await;
    assert_eq!(reply.status, 400);
    assert_eq!(server.get("/api/v2/silence/x").await.status, 404);
}
