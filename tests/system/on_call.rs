//! Pages, acknowledgements and silences over the real server, and what a kill changes of them: nothing.

use serde_json::{Value, json};

use super::harness::{Server, System, command, is_installed, run, skipped, wait_for};
use super::http;
use super::mqtt::Client;
use super::receiver::{Post, Receiver};
use super::wire;

const CONFIG: &str = "[[rules]]\nname = \"overheating\"\nmetric = \"temperature\"\nraise = 80.0\n\
    severity = \"critical\"\n[processor]\ncheckpoint_every = \"300ms\"\n[alerting]\n\
    group_wait = \"1s\"\ngroup_interval = \"2s\"\npublic_url = \"https://tw.example.org\"\n";

fn start(hook: &Receiver, more: &str) -> Server {
    System::new()
        .config(&format!("{CONFIG}{more}{}", hook.config()))
        .start()
}

/// A plain device of a site measures something now. When this returns it is on the server's disk.
#[track_caller]
fn measure(server: &Server, device: &str, site: &str, temperature: f64) {
    let message = json!({
        "ts": wire::now() / 1000,
        "values": {"temperature": temperature},
        "attributes": {"site": site},
    });
    let mut client = Client::connect(server.mqtt(), device, "");
    client
        .publish(
            &format!("devices/{device}/telemetry"),
            message.to_string().as_bytes(),
        )
        .expect("a PUBACK");
}

/// A device of a site, known with its site, that then becomes too hot.
#[track_caller]
fn overheat(server: &Server, device: &str, site: &str) -> Value {
    measure(server, device, site, 20.0);
    measure(server, device, site, 90.0);
    wait_for(&format!("the alert of {device}"), || {
        let path = format!("/api/v1/alerts?state=firing&device={device}");
        let found = server.http(&path)["items"].get(0).cloned()?;
        (found["notified"] == true).then_some(found)
    })
}

#[track_caller]
fn change(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let reply = http::send(server.http_address(), method, path, body);
    let reply = reply.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    assert!(reply.status < 300, "{method} {path}: {}", reply.text());
    reply.json()
}

/// Waits for a post of that kind whose page has that many alerts in all.
#[track_caller]
fn wait_page(hook: &Receiver, kind: &str, total: u64) -> Post {
    wait_for(&format!("{kind} of {total}"), || {
        let mut posts = hook.posts();
        posts.retain(|p| p.kind == kind && p.body["data"]["page"]["total"] == total);
        posts.pop()
    })
}

#[test]
fn a_site_is_one_page_from_its_first_alert_to_its_last() {
    let hook = Receiver::start();
    let mut server = start(&hook, "");
    let first = overheat(&server, "d1", "s1");
    let raised = hook.wait_accepted("alert.raised", "d1");
    assert_eq!(raised.body["data"]["id"], first["id"]);
    for device in ["d2", "d3"] {
        overheat(&server, device, "s1");
    }
    let updated = wait_page(&hook, "alert.updated", 3);
    let key = updated.body["data"]["page"]["key"].clone();
    assert_eq!(raised.body["data"]["page"]["key"], key);
    assert_eq!(updated.body["data"]["page"]["firing"], 3);
    let page = server.http("/api/v1/pages?state=firing");
    assert_eq!(
        (&page["total"], &page["items"][0]["key"]),
        (&json!(1), &key)
    );

    let id = first["id"].as_str().expect("an id");
    let ack = json!({"by": "ann", "comment": "on my way"});
    change(&server, "POST", &format!("/api/v1/alerts/{id}/ack"), &ack);
    let acknowledged = wait_page(&hook, "alert.acknowledged", 3);
    let said = acknowledged.body["data"]["summary"].to_string() + &acknowledged.body.to_string();
    assert!(said.contains("ann"), "{said}");
    let shown = server.http(&format!("/api/v1/alerts/{id}"));
    assert_eq!(shown["acknowledged"]["by"], "ann");
    assert!(
        shown["notifications"]
            .as_array()
            .is_some_and(|n| n.len() >= 3)
    );

    server.kill9();
    server.restart();
    let shown = server.http("/api/v1/alerts?acknowledged=true");
    assert_eq!(shown["total"], 3, "it counts for the page: {shown}");
    for device in ["d1", "d2", "d3"] {
        measure(&server, device, "s1", 20.0);
    }
    let cleared = wait_page(&hook, "alert.cleared", 3);
    assert_eq!(cleared.body["data"]["page"]["key"], key);
    server.kill9();
    server.restart();
    // Another site is another page, and what comes after it was not made twice.
    overheat(&server, "e1", "s2");
    hook.wait_accepted("alert.raised", "e1");
    server.stop();
    let posts = hook.posts();
    let of = |kind: &str| {
        let mut ids: Vec<&str> = posts
            .iter()
            .filter(|p| p.kind == kind && p.body["data"]["page"]["key"] == key)
            .map(|p| p.id.as_str())
            .collect();
        // One that was under way at a kill may come twice, but under the same id.
        ids.dedup();
        ids.len()
    };
    assert_eq!(
        (
            of("alert.raised"),
            of("alert.acknowledged"),
            of("alert.cleared")
        ),
        (1, 1, 1),
        "{posts:?}"
    );
}

#[test]
fn what_is_silenced_pages_when_the_silence_ends() {
    let hook = Receiver::start();
    let mut server = start(&hook, "");
    let silence = json!({
        "matchers": [{"name": "site", "value": "s[0-9]", "isRegex": true}],
        "ends_at": "2099-01-01T00:00:00Z",
        "by": "ann",
    });
    // Ten years at most.
    let reply = http::send(server.http_address(), "POST", "/api/v1/silences", &silence);
    assert_eq!(reply.expect("an answer").status, 400);
    let soon = wire::now() / 1_000_000 + 3600;
    let ends = event::EventTime(soon * 1_000_000).to_string();
    let silence = json!({"matchers": silence["matchers"], "ends_at": ends, "by": "ann"});
    let made = change(&server, "POST", "/api/v1/silences", &silence);
    let id = made["name"].as_str().expect("an id").to_owned();
    wait_for("the silence to be active", || {
        let found = server.http("/api/v1/silences?state=active");
        (found["items"][0]["id"] == id.as_str()).then_some(())
    });
    let alert = overheat(&server, "d1", "s1");
    let shown = wait_for("the alert to be silenced", || {
        let found = server.http("/api/v1/alerts?silenced=true");
        found["items"].get(0).cloned()
    });
    assert_eq!(shown["silenced_by"], json!([id]));
    assert_eq!(shown["page"], Value::Null);
    let suppressed = server.http("/api/v2/alerts");
    assert_eq!(suppressed[0]["status"]["state"], "suppressed");
    server.kill9();
    server.restart();
    overheat(&server, "x", "elsewhere");
    hook.wait_accepted("alert.raised", "x");
    assert_eq!(hook.about("alert.raised", "d1"), [], "nobody is told");
    change(
        &server,
        "DELETE",
        &format!("/api/v1/silences/{id}"),
        &json!({"by": "bob"}),
    );
    let raised = hook.wait_accepted("alert.raised", "d1");
    assert_eq!(
        raised.body["data"]["began"], alert["began"],
        "the true begin"
    );
    server.stop();
}

#[test]
fn what_nobody_acknowledges_reaches_others() {
    let (hook, boss) = (Receiver::start(), Receiver::start());
    let boss_table = boss.config().replace("\"ops\"", "\"boss\"");
    let route = "[[routes]]\nto = [\"ops\"]\nescalate = [{ after = \"1s\", to = [\"boss\"] }]\n";
    let mut server = start(&hook, &format!("{boss_table}{route}"));
    overheat(&server, "d1", "s1");
    hook.wait_accepted("alert.raised", "d1");
    let told = boss.wait_accepted("alert.raised", "d1");
    assert!(
        told.body.to_string().contains("not acknowledged"),
        "{:?}",
        told.body
    );
    measure(&server, "d1", "s1", 20.0);
    boss.wait_accepted("alert.cleared", "d1");
    hook.wait_accepted("alert.cleared", "d1");
    server.stop();
}

#[test]
fn amtool_lists_and_silences_our_alerts() {
    if !is_installed("amtool") {
        let why = "amtool is not installed (Debian package prometheus-alertmanager)";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return skipped(why);
    }
    let hook = Receiver::start();
    let mut server = start(&hook, "");
    let alert = overheat(&server, "d1", "s1");
    let url = format!("--alertmanager.url=http://{}", server.http_address());
    let amtool = |arguments: &[&str]| {
        let said = run(command("amtool").arg(&url).args(arguments));
        assert_eq!(
            said.code,
            Some(0),
            "{arguments:?}: {}{}",
            said.out,
            said.err
        );
        said.out
    };
    let listed = amtool(&["-o", "json", "alert", "query", "alertname=overheating"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["fingerprint"], alert["id"]);
    assert_eq!(listed[0]["labels"]["site"], "s1");
    let id = amtool(&[
        "silence",
        "add",
        "--author=ann",
        "--comment=known",
        "--duration=1h",
        "device=d1",
    ]);
    let id = id.trim();
    wait_for("the alert to be silenced", || {
        let found = server.http("/api/v1/alerts?silenced=true");
        (found["items"][0]["silenced_by"] == json!([id])).then_some(())
    });
    assert!(amtool(&["silence", "query"]).contains(id));
    amtool(&["silence", "expire", id]);
    wait_for("the silence to be over", || {
        let found = server.http(&format!("/api/v1/silences/{id}"));
        (found["state"] == "expired").then_some(())
    });
    server.stop();
}
