//! An alert reaches its receiver once, whatever happens to the server in between.

use serde_json::{Value, json};

use super::harness::{Server, System, wait_for};
use super::mqtt::Client;
use super::receiver::{Post, Receiver};
use super::wire;

pub(super) const RULE: &str = "[[rules]]\nname = \"overheating\"\nmetric = \"temperature\"\nraise = 80.0\n\
    clear = 70.0\nseverity = \"critical\"\n";

pub(super) fn start(hook: &Receiver) -> Server {
    System::new()
        .config(&format!("{RULE}{}", hook.config()))
        .start()
}

/// A plain device measures something now. When this returns it is on the server's disk.
#[track_caller]
pub(super) fn measure(server: &Server, device: &str, temperature: f64) {
    let message = json!({"ts": wire::now() / 1000, "values": {"temperature": temperature}});
    let mut client = Client::connect(server.mqtt(), device, "");
    client
        .publish(
            &format!("devices/{device}/telemetry"),
            message.to_string().as_bytes(),
        )
        .expect("a PUBACK");
}

/// The row of the delivery log.
fn delivery(server: &Server, id: &str) -> Option<Value> {
    let log = server.http("/api/v1/notifications?limit=1000");
    let rows = log["items"].as_array()?;
    rows.iter().find(|row| row["message"] == id).cloned()
}

#[track_caller]
fn wait_delivered(server: &Server, post: &Post) -> Value {
    wait_for("the delivery to be in the delivery log", || {
        delivery(server, &post.id).filter(|row| row["state"] == "delivered")
    })
}

#[track_caller]
fn alert_of(server: &Server, device: &str) -> Value {
    let alerts = server.http("/api/v1/alerts?limit=1000");
    let mut of = alerts["items"].as_array().expect("items").iter();
    of.find(|a| a["device"] == device)
        .unwrap_or_else(|| panic!("no alert of {device}: {alerts}"))
        .clone()
}

/// Raises an alert of another device and waits until that is in the delivery log: what came of the deliveries
/// before it is on disk then.
#[track_caller]
fn pass_by(server: &Server, hook: &Receiver, device: &str) {
    measure(server, device, 99.0);
    let post = hook.wait_accepted("alert.raised", device);
    wait_delivered(server, &post);
}

#[test]
fn an_alert_is_raised_once_and_cleared_once_over_retries_kills_and_restarts() {
    let hook = Receiver::start();
    let mut server = start(&hook);
    hook.answer_next(&[500, 503]);
    measure(&server, "boiler", 20.0);
    measure(&server, "boiler", 90.5);
    let raised = hook.wait_accepted("alert.raised", "boiler");
    let row = wait_delivered(&server, &raised);
    assert_eq!(
        (&row["attempts"], &row["kind"]),
        (&json!(3), &json!("raised"))
    );
    let alert = alert_of(&server, "boiler");
    assert_eq!(
        (&alert["state"], &alert["notified"], &alert["value"]),
        (&json!("firing"), &json!(true), &json!(90.5))
    );
    assert_eq!(raised.body["data"]["id"], alert["id"]);
    assert_eq!(raised.body["data"]["severity"], "critical");

    // Killed before any checkpoint: the replay raises the alert again and must find it known.
    pass_by(&server, &hook, "passer-1");
    server.kill9();
    server.restart();
    measure(&server, "boiler", 95.0);
    pass_by(&server, &hook, "passer-2");
    server.stop();
    server.restart();
    assert_eq!(alert_of(&server, "boiler")["state"], "firing");

    measure(&server, "boiler", 60.0);
    let cleared = hook.wait_accepted("alert.cleared", "boiler");
    wait_delivered(&server, &cleared);
    pass_by(&server, &hook, "passer-3");
    server.kill9();
    server.restart();
    server.stop();
    server.restart();
    pass_by(&server, &hook, "passer-4");
    // Waits for what is under way.
    server.stop();

    let all = hook.about("alert.raised", "boiler");
    let answers: Vec<u16> = all.iter().map(|p| p.status).collect();
    assert_eq!(answers, [500, 503, 200], "{all:?}");
    assert!(
        all.iter()
            .all(|p| p.id == raised.id && p.body == raised.body)
    );
    assert_eq!(hook.about("alert.cleared", "boiler"), [cleared]);
    for passer in ["passer-1", "passer-2", "passer-3", "passer-4"] {
        // One that was under way at a kill may come twice, but under the same id.
        let posts = hook.about("alert.raised", passer);
        assert!(posts.iter().all(|p| p.id == posts[0].id), "{posts:?}");
        assert_eq!(hook.about("alert.cleared", passer), []);
    }
    assert_eq!(hook.about("alert.raised", "passer-4").len(), 1);
}

#[test]
fn the_end_of_an_alert_waits_until_its_begin_was_accepted() {
    let hook = Receiver::start();
    hook.answer(500);
    let mut server = start(&hook);
    measure(&server, "boiler", 90.0);
    measure(&server, "boiler", 60.0);
    wait_for("a first try", || hook.posts().pop());
    server.kill9();
    server.restart();
    let tries = hook.posts().len();
    wait_for("another try after the kill", || {
        (hook.posts().len() > tries).then_some(())
    });
    assert_eq!(hook.about("alert.cleared", "boiler"), []);
    hook.answer(200);
    let cleared = hook.wait_accepted("alert.cleared", "boiler");
    wait_delivered(&server, &cleared);
    server.stop();

    let posts = hook.posts();
    let first = &posts[0];
    let (accepted, refused): (Vec<_>, Vec<_>) = posts.iter().partition(|p| p.status == 200);
    assert!(refused.iter().all(|p| p.id == first.id), "{refused:?}");
    let order: Vec<_> = accepted.iter().map(|p| (&*p.kind, &*p.id)).collect();
    assert_eq!(
        order,
        [
            ("alert.raised", &*first.id),
            ("alert.cleared", &*cleared.id)
        ]
    );
    assert_ne!(first.id, cleared.id);
    assert_eq!(first.body["data"]["id"], cleared.body["data"]["id"]);
}

#[test]
fn an_episode_learned_after_its_end_is_recorded_and_not_paged() {
    let hook = Receiver::start();
    let mut server = start(&hook);
    // Both ends in one message of the past.
    let at = |ago: i64, value: f64| json!({"ts": wire::now() / 1000 - ago, "values": {"temperature": value}});
    let message = json!([at(50_000, 20.0), at(40_000, 90.0), at(30_000, 60.0)]);
    let mut client = Client::connect(server.mqtt(), "late", "");
    client
        .publish("devices/late/telemetry", message.to_string().as_bytes())
        .expect("a PUBACK");
    wait_for("the alert to be recorded", || {
        let alerts = server.http("/api/v1/alerts?state=resolved");
        (alerts["items"].as_array()?.len() == 1).then_some(())
    });
    pass_by(&server, &hook, "passer");
    server.stop();
    let posts = hook.posts();
    assert_eq!(posts.len(), 1, "{posts:?}");
}
