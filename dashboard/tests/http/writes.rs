//! Changes: what enters the log, and what does not.

use std::sync::Arc;

use dashboard::control::{Change, ControlError};
use dashboard::{Settings, Writes};
use event::{AggregateSpec, Function, Release};
use serde_json::{Value, json};
use views::{HistoryQuery, HistorySource, RowPart, TooOld};

use crate::fixture::{SECOND, Server, filled, start, start_with};

/// A past that holds one quarantined record, and what was too old.
struct Past;

impl HistorySource for Past {
    fn rows(&self, _: &HistoryQuery) -> Vec<RowPart> {
        Vec::new()
    }

    fn too_old(&self, after: Option<&(i64, String)>, limit: usize) -> Vec<TooOld> {
        let all = ["d-1", "d-3", "d:2"].map(|device| TooOld {
            day: 0,
            device: device.to_owned(),
            events: 4,
        });
        let skip = after.map_or(0, |a| all.iter().position(|t| t.device == a.1).unwrap() + 1);
        all.into_iter().skip(skip).take(limit).collect()
    }

    fn quarantined(&self, id: u64) -> Option<Vec<u8>> {
        (id == 12).then(|| b"record".to_vec())
    }
}

async fn ready() -> Server {
    let server = start().await;
    server.views.add_history_source(1, Arc::new(Past));
    server.views.set_ready();
    server
}

/// Sends a change that must be taken, and returns it.
async fn taken(server: &Server, method: &str, path: &str, body: &str, says: [&str; 3]) -> Change {
    let reply = server.write(method, path, body).await;
    assert_eq!(reply.status, 202, "{method} {path}: {}", reply.text());
    let place = json!([{"partition": 1, "offset": 41}]);
    let expected = json!({"kind": says[0], "name": says[1], "action": says[2], "at": place});
    assert_eq!(reply.json(), expected);
    let mut changes = server.changes.take();
    assert_eq!(changes.len(), 1);
    changes.remove(0)
}

/// Sends a change that must be refused, and returns the field.
#[track_caller]
fn refused(
    server: &Server,
    method: &str,
    path: &str,
    body: &str,
    status: u16,
) -> impl Future<Output = String> {
    let (caller, call) = (
        std::panic::Location::caller(),
        server.write(method, path, body),
    );
    let call = Box::pin(call);
    async move {
        let reply = call.await;
        assert_eq!(reply.status, status, "{caller}: {}", reply.text());
        assert!(server.changes.take().is_empty(), "{caller}");
        let error = &reply.json()["error"];
        error["field"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn aggregates_are_set_and_removed() {
    let server = ready().await;
    let path = "/api/v1/aggregates/hot";
    let body = r#"{"metric": "temperature", "group_by": ["site"], "window": "1m", "hop": "10s",
        "functions": ["p99", "count"]}"#;
    let spec = AggregateSpec {
        name: "hot".to_owned(),
        metric: "temperature".to_owned(),
        group_by: vec!["site".to_owned()],
        window: 60 * SECOND,
        hop: 10 * SECOND,
        functions: [Function::Count, Function::P99].into(),
    };
    let says = ["aggregate", "hot", "set"];
    let change = taken(&server, "PUT", path, body, says).await;
    assert_eq!(change, Change::SetAggregate(spec));
    let change = taken(&server, "PUT", path, "{}", says).await;
    let plain = AggregateSpec {
        name: "hot".to_owned(),
        ..AggregateSpec::defaults().remove(0)
    };
    assert_eq!(change, Change::SetAggregate(plain));

    for (body, field) in [
        (r#"{"name": "cold"}"#, "name"),
        (r#"{"window": "ten"}"#, "window"),
        (r#"{"window": 10}"#, "window"),
        (r#"{"window": "1m", "hop": "25s"}"#, "hop"),
        (r#"{"functions": ["p42"]}"#, "functions"),
        (r#"{"functions": "count"}"#, "functions"),
        (r#"{"group_by": ["a b"]}"#, "group_by"),
        (r#"{"groupby": ["a"]}"#, "groupby"),
        ("[]", "body"),
        ("{", "body"),
    ] {
        assert_eq!(refused(&server, "PUT", path, body, 400).await, field);
    }
    let bad_name = "/api/v1/aggregates/a%20b";
    assert_eq!(refused(&server, "PUT", bad_name, "{}", 400).await, "name");

    let says = ["aggregate", "fleet", "removed"];
    let change = taken(&server, "DELETE", "/api/v1/aggregates/fleet", "", says).await;
    assert_eq!(change, Change::RemoveAggregate("fleet".to_owned()));
    assert_eq!(refused(&server, "DELETE", path, "", 404).await, "name");
}

#[tokio::test]
async fn rules_are_set_and_removed() {
    let server = ready().await;
    let path = "/api/v1/rules/too-cold";
    let body = r#"{"metric": "t", "raise": 3}"#;
    let change = taken(&server, "PUT", path, body, ["rule", "too-cold", "set"]).await;
    let rule = json!({"name": "too-cold", "metric": "t", "raise": 3});
    assert_eq!(change, Change::SetRule(rule));
    let other = r#"{"name": "x", "metric": "t", "raise": 3}"#;
    assert_eq!(refused(&server, "PUT", path, other, 400).await, "name");

    // What a rule is, the other side knows.
    *server.changes.refuse.lock().unwrap() = Some(ControlError::Invalid {
        field: "clear".to_owned(),
        message: "must be below".to_owned(),
    });
    assert_eq!(refused(&server, "PUT", path, body, 400).await, "clear");
    *server.changes.refuse.lock().unwrap() = Some(ControlError::Unavailable("full".to_owned()));
    refused(&server, "PUT", path, body, 503).await;
    *server.changes.refuse.lock().unwrap() = None;

    let says = ["rule", "too-hot", "removed"];
    let change = taken(&server, "DELETE", "/api/v1/rules/too-hot", "", says).await;
    assert_eq!(change, Change::RemoveRule("too-hot".to_owned()));
    assert_eq!(refused(&server, "DELETE", path, "", 404).await, "name");
}

#[tokio::test]
async fn devices_are_changed_where_they_are_known() {
    let server = ready().await;
    let path = "/api/v1/devices/d-4";
    let body = r#"{"attributes": {"site": "x", "old": null}}"#;
    let change = taken(&server, "PUT", path, body, ["device", "d-4", "set"]).await;
    let Change::SetDevice { partitions, change } = change else {
        panic!("{change:?}");
    };
    assert_eq!(partitions, [1]);
    let named: Vec<_> = change
        .attributes
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_deref()))
        .collect();
    assert_eq!(named, [("@old", None), ("@site", Some("x"))]);

    for body in [
        "{}",
        r#"{"attributes": {}}"#,
        r#"{"attributes": {"a b": "x"}}"#,
        r#"{"attributes": {"a": 1}}"#,
        r#"{"attributes": ["a"]}"#,
    ] {
        let field = refused(&server, "PUT", path, body, 400).await;
        assert_eq!(field, "attributes", "{body}");
    }
    let says = ["device", "d-1", "decommissioned"];
    let change = taken(&server, "DELETE", "/api/v1/devices/d-1", "", says).await;
    assert!(matches!(change, Change::Decommission { partitions, .. } if partitions == [0]));
    for (method, body) in [("DELETE", ""), ("PUT", body)] {
        let field = refused(&server, method, "/api/v1/devices/d-9", body, 404).await;
        assert_eq!(field, "id");
    }
}

#[tokio::test]
async fn what_was_quarantined_is_released() {
    let server = ready().await;
    let path = "/api/v1/quarantine/1-12/release";
    let says = ["quarantine", "1-12", "released"];
    for (body, shift) in [("", 0), (r#"{"shift_seconds": -3600}"#, -3600 * SECOND)] {
        let change = taken(&server, "POST", path, body, says).await;
        let release = Release {
            id: 12,
            shift,
            record: b"record".to_vec(),
        };
        let partition = 1;
        assert_eq!(change, Change::Release { partition, release });
    }
    for body in [r#"{"shift_seconds": 1.5}"#, r#"{"shift_seconds": 9e15}"#] {
        let field = refused(&server, "POST", path, body, 400).await;
        assert_eq!(field, "shift_seconds");
    }
    for id in ["1-13", "0-12", "9-12", "12", "x-y"] {
        let path = format!("/api/v1/quarantine/{id}/release");
        assert_eq!(refused(&server, "POST", &path, "{}", 404).await, "id");
    }
}

#[tokio::test]
async fn notifications_are_sent_again() {
    let server = ready().await;
    let path = "/api/v1/notifications/ops:a-2:raised/resend";
    let reply = server.write("POST", path, "").await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()),
        (202, json!({"id": "ops:a-2:raised~1"}))
    );
    assert_eq!(
        refused(&server, "POST", path, r#"{"to": "x"}"#, 400).await,
        "to"
    );
    for (error, status) in [
        (ControlError::NotFound("none".to_owned()), 404),
        (ControlError::Conflict("over".to_owned()), 409),
        (ControlError::Unavailable("full".to_owned()), 503),
    ] {
        *server.changes.refuse.lock().unwrap() = Some(error);
        let reply = server.write("POST", path, "").await;
        assert_eq!(reply.status, status);
    }
}

#[tokio::test]
async fn pages_of_other_sites_cannot_change_anything() {
    let server = ready().await;
    let json = ("content-type", "application/json");
    let own = format!("http://{}", server.addr);
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Headers, u16, &str); 6] = [
        (&[], 415, "not_json"),
        (&[("content-type", "text/plain")], 415, "not_json"),
        (
            &[json, ("origin", "http://evil.example")],
            403,
            "wrong_origin",
        ),
        (&[json, ("origin", "null")], 403, "wrong_origin"),
        (
            &[json, ("sec-fetch-site", "cross-site")],
            403,
            "wrong_origin",
        ),
        (&[json, ("origin", &own)], 404, "not_found"),
    ];
    for (headers, status, code) in cases {
        let reply = server
            .send("POST", "/api/v1/quarantine/9-9/release", headers)
            .await;
        assert_eq!(reply.status, status, "{headers:?}");
        assert_eq!(reply.json()["error"]["code"], code);
    }
    let foreign = [("origin", "http://evil.example")];
    let reply = server
        .send("DELETE", "/api/v1/rules/too-hot", &foreign)
        .await;
    assert_eq!(reply.status, 403);
    let query = server
        .write("DELETE", "/api/v1/rules/too-hot?force=1", "")
        .await;
    assert_eq!(query.status, 400);
    assert!(server.changes.take().is_empty());
}

#[tokio::test]
async fn changes_need_a_server_that_is_ready_and_takes_them() {
    let server = start().await;
    let path = "/api/v1/rules/too-hot";
    let reply = server.write("DELETE", path, "").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["code"], "not_ready");
    let settings = Settings {
        writes: Writes::Never,
        ..Settings::default()
    };
    let server = start_with(settings, filled()).await;
    server.views.set_ready();
    let reply = server.write("DELETE", path, "").await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["error"]["code"], "read_only");
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(70_000));
    let server = ready().await;
    let reply = server.write("PUT", path, &large).await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn the_ledger_says_where_every_event_went() {
    let server = ready().await;
    let ledger = server.json("/api/v1/ledger").await;
    assert_eq!(
        ledger,
        json!({"accepted": 1006, "counted": 1000, "duplicate": 3, "quarantined": 2, "too_old": 1,
            "adds_up": true, "refused": 4, "broken_promises": 0})
    );
    let mut devices = Vec::new();
    let mut path = "/api/v1/ledger/too_old?limit=1".to_owned();
    loop {
        let page = server.json(&path).await;
        devices.push(page["items"][0]["device"].as_str().unwrap().to_owned());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/v1/ledger/too_old?limit=1&after={next}");
    }
    assert_eq!(devices, ["d-1", "d-3", "d:2"]);
    let error = server
        .refused("/api/v1/ledger/too_old?after=x", 400, "bad_parameter")
        .await;
    assert_eq!(error["field"], "after");
}

#[tokio::test]
async fn coarser_rows_are_asked_for_by_resolution() {
    let server = ready().await;
    for (resolution, rows) in [("window", 3), ("hour", 0), ("day", 0)] {
        let path = format!("/api/v1/windows?aggregate=fleet&resolution={resolution}");
        let page = server.json(&path).await;
        assert_eq!(page["items"].as_array().unwrap().len(), rows);
        assert_eq!(page["next"], Value::Null);
    }
    let path = "/api/v1/windows?aggregate=fleet&resolution=week";
    let error = server.refused(path, 400, "bad_parameter").await;
    assert_eq!(error["field"], "resolution");
}
