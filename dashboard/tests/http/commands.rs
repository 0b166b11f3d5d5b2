//! Commands: what enters the log for them, and what is answered about them.

use dashboard::control::Change;
use event::order::Origin;
use event::{CommandControl, DeviceId, Order, RolloutOrder};
use serde_json::json;

use crate::fixture::{SECOND, Server, start};

async fn ready() -> Server {
    let server = start().await;
    server.views.set_ready();
    server
}

#[track_caller]
fn refused(
    server: &Server,
    method: &str,
    path: &str,
    body: &str,
    status: u16,
) -> impl Future<Output = String> {
    let caller = std::panic::Location::caller();
    let call = Box::pin(server.write(method, path, body));
    async move {
        let reply = call.await;
        assert_eq!(reply.status, status, "{caller}: {}", reply.text());
        assert!(server.changes.take().is_empty(), "{caller}");
        let error = &reply.json()["error"];
        error["field"].as_str().unwrap_or_default().to_owned()
    }
}

const GIVE: &str = "/api/v1/devices/d-4/commands";

#[tokio::test]
async fn a_command_enters_the_partition_of_its_device() {
    let server = ready().await;
    let body = r#"{"name": "fan", "args": {"speed": 3, "on": true, "mode": "eco"}, "ttl": "1h",
        "id": "c-9", "by": "ann", "why": "too hot", "dry_run": false, "force": true}"#;
    let reply = server.write("POST", GIVE, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let args = json!({"mode": "eco", "on": "true", "speed": "3"});
    let expected = json!({
        "id": "c-9", "device": "d-4", "agent": "gw-1", "name": "fan", "args": args, "state": "queued",
        "dry_run": false, "stopped": false, "at": [{"partition": 1, "offset": 41}],
    });
    assert_eq!(reply.json(), expected);
    let changes = server.changes.take();
    let [
        Change::Command {
            partition: 1,
            order,
        },
    ] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    let expected = Order {
        id: "c-9".to_owned(),
        device: DeviceId::new("d-4").unwrap(),
        name: "fan".to_owned(),
        args: [("mode", "eco"), ("on", "true"), ("speed", "3")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        ttl: 3600 * SECOND,
        by: "ann".to_owned(),
        why: "too hot".to_owned(),
        origin: Origin::ByHand,
        alert: None,
        dry_run: false,
        force: true,
    };
    assert_eq!(*order, expected);
}

#[tokio::test]
async fn ids_are_made_where_none_is_given_and_known_ones_give_nothing_new() {
    let server = ready().await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let reply = server.write("POST", GIVE, r#"{"name": "fan"}"#).await;
        assert_eq!(reply.status, 202);
        let changes = server.changes.take();
        let [Change::Command { order, .. }] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!((order.ttl, order.by.as_str()), (300 * SECOND, "api"));
        assert_eq!(reply.json()["id"], order.id.as_str());
        ids.insert(order.id.clone());
    }
    assert_eq!(ids.len(), 20);
    // The fixture has the command `d-1` for the device `d-1`.
    let path = "/api/v1/devices/d-1/commands";
    let again = r#"{"name": "fan", "args": {"speed": "3"}, "id": "d-1"}"#;
    let reply = server.write("POST", path, again).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["at"]),
        (202, &json!([]))
    );
    assert!(server.changes.take().is_empty());
    let other = r#"{"name": "pump", "id": "d-1"}"#;
    assert_eq!(refused(&server, "POST", path, other, 409).await, "id");
}

#[tokio::test]
async fn a_wrong_command_is_refused_by_field() {
    let server = ready().await;
    for (body, field) in [
        ("{}", "name"),
        (r#"{"name": "rm -rf"}"#, "name"),
        (r#"{"name": 1}"#, "name"),
        (r#"{"name": "fan", "ttl": "0s"}"#, "ttl"),
        (r#"{"name": "fan", "ttl": "31d"}"#, "ttl"),
        (r#"{"name": "fan", "ttl": 5}"#, "ttl"),
        (r#"{"name": "fan", "args": ["a"]}"#, "args"),
        (r#"{"name": "fan", "args": {"a": null}}"#, "args"),
        (r#"{"name": "fan", "id": "a b"}"#, "id"),
        (r#"{"name": "fan", "id": ""}"#, "id"),
        (r#"{"name": "fan", "id": "stop"}"#, "id"),
        (r#"{"name": "fan", "dry_run": "yes"}"#, "dry_run"),
        (r#"{"name": "fan", "argument": {}}"#, "argument"),
    ] {
        let found = refused(&server, "POST", GIVE, body, 400).await;
        assert_eq!(found, field, "{body}");
    }
    let long = format!(
        r#"{{"name": "fan", "args": {{"a": "{}"}}}}"#,
        "x".repeat(1025)
    );
    assert_eq!(refused(&server, "POST", GIVE, &long, 400).await, "args");
    let long = format!(r#"{{"name": "fan", "why": "{}"}}"#, "x".repeat(513));
    assert_eq!(refused(&server, "POST", GIVE, &long, 400).await, "why");
    let unknown = "/api/v1/devices/d-9/commands";
    let fan = r#"{"name": "fan"}"#;
    assert_eq!(refused(&server, "POST", unknown, fan, 404).await, "device");
    let plain = "/api/v1/devices/D-2/commands";
    assert_eq!(refused(&server, "POST", plain, fan, 400).await, "device");
}

#[tokio::test]
async fn commands_are_listed_and_shown_with_their_device() {
    let server = ready().await;
    let all = server.json("/api/v1/commands").await;
    assert_eq!(all["total"], 2);
    assert_eq!(all["items"][0]["id"], "d-4");
    let one = server.json("/api/v1/commands/d-1").await;
    assert_eq!(one["state"], "queued");
    assert_eq!(one["issued"], "2026-11-22T06:37:00Z");
    let first = server.json("/api/v1/commands?limit=1").await;
    let next = first["next"].as_str().unwrap();
    let second = server
        .json(&format!("/api/v1/commands?limit=1&after={next}"))
        .await;
    assert_eq!(second["items"][0]["id"], "d-1");
    assert_eq!(second["next"], serde_json::Value::Null);
    let of = server.json("/api/v1/commands?device=d-4&state=sent").await;
    assert_eq!(of["total"], 1);
    server
        .refused("/api/v1/commands?state=odd", 400, "bad_parameter")
        .await;
    server
        .refused("/api/v1/commands?after=odd", 400, "bad_parameter")
        .await;
    server
        .refused("/api/v1/commands/none", 404, "not_found")
        .await;
    let device = server.json("/api/v1/devices/d-4").await;
    assert_eq!(device["id"], "d-4");
    assert_eq!(device["commands"][0]["name"], "fan");
}

#[tokio::test]
async fn what_was_not_sent_can_be_taken_back() {
    let server = ready().await;
    let body = r#"{"by": "ann"}"#;
    let reply = server
        .write("POST", "/api/v1/commands/d-1/cancel", body)
        .await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let expected = Change::CommandControl {
        partition: Some(0),
        control: CommandControl::Cancel {
            id: "d-1".to_owned(),
            by: "ann".to_owned(),
        },
    };
    assert_eq!(server.changes.take(), [expected]);
    let sent = "/api/v1/commands/d-4/cancel";
    assert_eq!(refused(&server, "POST", sent, "", 409).await, "id");
    let none = "/api/v1/commands/none/cancel";
    assert_eq!(refused(&server, "POST", none, "", 404).await, "id");
}

#[tokio::test]
async fn the_stop_switch_is_for_all_partitions() {
    let server = ready().await;
    let path = "/api/v1/commands/stop";
    assert_eq!(server.json(path).await["on"], false);
    let body = r#"{"on": true, "why": "wrong firmware"}"#;
    let reply = server.write("PUT", path, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let expected = Change::CommandControl {
        partition: None,
        control: CommandControl::Stop {
            on: true,
            by: "api".to_owned(),
            why: "wrong firmware".to_owned(),
        },
    };
    assert_eq!(server.changes.take(), [expected]);
    for body in ["{}", r#"{"on": "yes"}"#] {
        assert_eq!(refused(&server, "PUT", path, body, 400).await, "on");
    }
}

const ROLLOUTS: &str = "/api/v1/commands/rollouts";

#[tokio::test]
async fn a_rollout_names_its_devices_or_matches_them() {
    let server = ready().await;
    let body = r#"{"name": "fan", "devices": ["d-4", "d-1"], "id": "r-1"}"#;
    let reply = server.write("POST", ROLLOUTS, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let place = json!([{"partition": 1, "offset": 41}]);
    assert_eq!(
        reply.json(),
        json!({"id": "r-1", "devices": 2, "at": place})
    );
    let target = |partition: u16, id: &str| (partition, DeviceId::new(id).unwrap());
    let expected = RolloutOrder {
        id: "r-1".to_owned(),
        name: "fan".to_owned(),
        args: Default::default(),
        ttl: 300 * SECOND,
        by: "api".to_owned(),
        why: String::new(),
        targets: vec![target(1, "d-4"), target(0, "d-1")],
        canary: 1,
        at_once: 50,
        failures_max: 0,
        dry_run: false,
    };
    let change = |order| Change::CommandControl {
        partition: Some(0),
        control: CommandControl::Rollout(order),
    };
    assert_eq!(server.changes.take(), [change(expected.clone())]);

    let body = r#"{"name": "fan", "match": {"site": "plant-1"}, "id": "r-1", "canary": 2,
        "at_once": 0, "max_failures": 3, "dry_run": true}"#;
    let reply = server.write("POST", ROLLOUTS, body).await;
    // The plain device D-2 is left out.
    assert_eq!(reply.json()["devices"], 4, "{}", reply.text());
    let targets = vec![
        target(0, "d-1"),
        target(0, "d-3"),
        target(1, "d-4"),
        target(0, "ä-5"),
    ];
    let expected = RolloutOrder {
        targets,
        canary: 2,
        at_once: 0,
        failures_max: 3,
        dry_run: true,
        ..expected
    };
    assert_eq!(server.changes.take(), [change(expected)]);
}

#[tokio::test]
async fn a_wrong_rollout_is_refused_by_field() {
    let server = ready().await;
    for (body, status, field) in [
        (r#"{"devices": ["d-1"]}"#, 400, "name"),
        (r#"{"name": "fan"}"#, 400, "devices"),
        (r#"{"name": "fan", "devices": []}"#, 400, "devices"),
        (r#"{"name": "fan", "devices": "d-1"}"#, 400, "devices"),
        (
            r#"{"name": "fan", "devices": ["d-1", "d-1"]}"#,
            400,
            "devices",
        ),
        (r#"{"name": "fan", "devices": ["d-9"]}"#, 404, "devices"),
        (r#"{"name": "fan", "devices": ["D-2"]}"#, 400, "devices"),
        (
            r#"{"name": "fan", "devices": ["d-1"], "match": {"a": "b"}}"#,
            400,
            "devices",
        ),
        (r#"{"name": "fan", "match": {}}"#, 400, "match"),
        (
            r#"{"name": "fan", "match": {"site": "nowhere"}}"#,
            400,
            "match",
        ),
        (
            r#"{"name": "fan", "devices": ["d-1"], "canary": -1}"#,
            400,
            "canary",
        ),
        (
            r#"{"name": "fan", "devices": ["d-1"], "at_once": 1.5}"#,
            400,
            "at_once",
        ),
        (
            r#"{"name": "fan", "devices": ["d-1"], "max_failures": 10001}"#,
            400,
            "max_failures",
        ),
        (
            r#"{"name": "pump", "devices": ["d-1"], "id": "d-1"}"#,
            409,
            "id",
        ),
    ] {
        let found = refused(&server, "POST", ROLLOUTS, body, status).await;
        assert_eq!(found, field, "{body}");
    }
}

#[tokio::test]
async fn the_commands_of_a_rule_are_steered_by_its_name() {
    let server = ready().await;
    let rules = vec![
        json!({"name": "cools", "command": {"name": "fan"}}),
        json!({"name": "hot"}),
    ];
    server.views.declare(0, Vec::new(), rules);
    let path = |rule: &str, action: &str| format!("/api/v1/rules/{rule}/commands/{action}");
    for (action, go_on) in [("stop", false), ("resume", true)] {
        let body = r#"{"by": "ann", "why": "mended"}"#;
        let reply = server.write("POST", &path("cools", action), body).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(
            (&reply.json()["kind"], &reply.json()["name"]),
            (&json!("rule"), &json!("cools"))
        );
        let expected = Change::CommandControl {
            partition: Some(0),
            control: CommandControl::Steer {
                rollout: None,
                rule: Some("cools".to_owned()),
                go_on,
                by: "ann".to_owned(),
                why: "mended".to_owned(),
            },
        };
        assert_eq!(server.changes.take(), [expected]);
    }
    let none = path("hot", "resume");
    assert_eq!(refused(&server, "POST", &none, "", 400).await, "name");
    let none = path("none", "stop");
    assert_eq!(refused(&server, "POST", &none, "", 404).await, "name");
}

#[tokio::test]
async fn rollouts_are_shown_and_steered() {
    let server = ready().await;
    // The fixture has a stopped rollout `d-1`.
    assert_eq!(server.json(ROLLOUTS).await["items"][0]["id"], "d-1");
    let one = server.json(&format!("{ROLLOUTS}/d-1")).await;
    assert_eq!(
        (&one["state"], &one["waiting"]),
        (&json!("stopped"), &json!(3))
    );
    let path = |id: &str, action: &str| format!("{ROLLOUTS}/{id}/{action}");
    let reply = server.write("POST", &path("d-1", "resume"), "{}").await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let changes = server.changes.take();
    let expected = Change::CommandControl {
        partition: Some(0),
        control: CommandControl::Steer {
            rollout: Some("d-1".to_owned()),
            rule: None,
            go_on: true,
            by: "api".to_owned(),
            why: String::new(),
        },
    };
    assert_eq!(changes, [expected]);
    assert_eq!(
        refused(&server, "POST", &path("d-1", "stop"), "", 409).await,
        "id"
    );
    assert_eq!(
        refused(&server, "POST", &path("x", "stop"), "", 404).await,
        "id"
    );
}
