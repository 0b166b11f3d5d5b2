//! Those who are told of alerts: killed in the middle, asked by hand, sent again, and a real Alertmanager.

use std::time::Duration;

use serde_json::{Value, json};

use super::alerts::{RULE, measure, start};
use super::harness::{
    Process, Server, System, command, is_installed, run, skipped, tidewatch, wait_for,
};
use super::http;
use super::receiver::Receiver;

/// The newest row of the delivery log about a device's alert, by kind.
fn row(server: &Server, kind: &str, device: &str) -> Option<Value> {
    let alerts = server.http("/api/v1/alerts?limit=1000");
    let of_device = alerts["items"]
        .as_array()?
        .iter()
        .find(|a| a["device"] == device)?;
    let log = server.http("/api/v1/notifications?limit=1000");
    let mut rows = log["items"].as_array()?.iter();
    rows.find(|row| row["alert"] == of_device["id"] && row["kind"] == kind)
        .cloned()
}

#[track_caller]
fn wait_state(server: &Server, kind: &str, device: &str, state: &str) -> Value {
    wait_for(&format!("{kind} of {device} to be {state}"), || {
        row(server, kind, device).filter(|row| row["state"] == state)
    })
}

#[test]
fn a_server_killed_while_it_delivers_loses_and_doubles_nothing() {
    let hook = Receiver::start();
    let mut server = start(&hook);
    let devices: Vec<String> = (0..12).map(|n| format!("boiler-{n}")).collect();
    // Some are accepted before the kill, some are under way, some have not been sent.
    hook.hold(Duration::from_millis(400));
    for device in &devices {
        measure(&server, device, 90.0);
    }
    wait_for("posts under way", || {
        (hook.posts().len() >= 3).then_some(())
    });
    server.kill9();
    let before = hook.posts().len();
    server.restart();
    hook.hold(Duration::ZERO);
    for device in &devices {
        measure(&server, device, 60.0);
    }
    for device in &devices {
        hook.wait_accepted("alert.cleared", device);
        wait_state(&server, "cleared", device, "delivered");
    }
    server.stop();
    assert!(before < hook.posts().len());
    for device in &devices {
        let raised = hook.about("alert.raised", device);
        let cleared = hook.about("alert.cleared", device);
        assert!((1..=2).contains(&raised.len()), "{raised:?}");
        // The same post, for receivers that know it by its id.
        assert!(
            raised
                .iter()
                .all(|p| p.id == raised[0].id && p.body == raised[0].body)
        );
        assert_eq!(cleared.len(), 1, "{cleared:?}");
        let order: Vec<String> = hook
            .posts()
            .into_iter()
            .filter(|p| p.device == *device)
            .map(|p| p.kind)
            .collect();
        assert_eq!(order.last().map(String::as_str), Some("alert.cleared"));
    }
}

#[test]
fn a_receiver_can_be_tested_by_hand() {
    let hook = Receiver::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("tidewatch.toml");
    std::fs::write(&file, hook.config()).expect("a file");
    let test = |name: &str| {
        let mut command = tidewatch(&["notify", "test", name, "--config"]);
        run(command.arg(&file))
    };
    let said = test("ops");
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(
        said.out.contains("\"ops\" (webhook, http://127.0.0.1:"),
        "{}",
        said.out
    );
    assert!(said.out.contains("status: 200"), "{}", said.out);
    let posts = hook.posts();
    assert_eq!((posts.len(), posts[0].kind.as_str()), (1, "notifier.test"));
    hook.answer(503);
    let said = test("ops");
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.contains("reason: the receiver answered 503"),
        "{}",
        said.out
    );
    assert_eq!(hook.posts().len(), 2);
    let said = test("ups");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("no notifier \"ups\"; there are \"ops\""),
        "{}",
        said.err
    );
}

#[test]
fn a_refused_page_reaches_the_fallback_and_can_be_sent_again() {
    let (hook, other) = (Receiver::start(), Receiver::start());
    let both = format!(
        "{}fallback = \"other\"\n{}",
        hook.config(),
        other.config().replace("\"ops\"", "\"other\"")
    );
    let mut server = System::new().config(&format!("{RULE}{both}")).start();
    hook.answer(401);
    measure(&server, "boiler", 90.0);
    // Both are told of everything: the fallback gets it once all the same.
    other.wait_accepted("alert.raised", "boiler");
    let failed = wait_for("the refusal to be in the delivery log", || {
        let log = server.http("/api/v1/notifications?limit=1000");
        let rows = log["items"].as_array()?;
        rows.iter()
            .find(|r| r["target"] == "ops" && r["state"] == "failed")
            .cloned()
    });
    assert_eq!(failed["status"], 401);
    assert_eq!(failed["handed_on"], true);
    assert!(failed["error"].as_str().is_some_and(|e| e.contains("401")));
    let resend = |id: &str| {
        let path = format!("/api/v1/notifications/{id}/resend");
        http::send(server.http_address(), "POST", &path, &json!({})).expect("an answer")
    };
    assert_eq!(resend("ops:nothing").status, 404);
    hook.answer(200);
    let id = failed["id"].as_str().expect("an id");
    let again = resend(id);
    assert_eq!(
        (again.status, again.json()),
        (202, json!({"id": format!("{id}~1")}))
    );
    let post = hook.wait_accepted("alert.raised", "boiler");
    assert_eq!(failed["message"], post.id);
    wait_for("the repetition to be in the delivery log", || {
        let log = server.http("/api/v1/notifications?limit=1000");
        let rows = log["items"].as_array()?;
        let mut again = rows.iter().filter(|r| r["id"] == format!("{id}~1"));
        again.find(|r| r["state"] == "delivered").map(drop)
    });
    // The page is open there now, so its end goes there, too.
    measure(&server, "boiler", 60.0);
    hook.wait_accepted("alert.cleared", "boiler");
    other.wait_accepted("alert.cleared", "boiler");
    // Sent again now, nobody would close it.
    wait_for("the page to be over", || {
        (resend(id).status == 409).then_some(())
    });
    server.stop();
    assert_eq!(other.posts().len(), 2);
    assert_eq!(hook.posts().len(), 3);
}

/// A real Alertmanager on a free port, in the test's folder.
struct Alertmanager {
    _process: Process,
    url: String,
}

impl Alertmanager {
    fn start(dir: &std::path::Path) -> Self {
        let config = dir.join("alertmanager.yml");
        let text = "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n";
        std::fs::write(&config, text).expect("a file");
        let mut command = command("prometheus-alertmanager");
        command
            .arg("--config.file")
            .arg(&config)
            .arg("--storage.path")
            .arg(dir.join("alertmanager"))
            .args([
                "--web.listen-address=127.0.0.1:0",
                "--cluster.listen-address=",
            ])
            .stdout(std::process::Stdio::null());
        let process = Process::start("alertmanager", &mut command, &dir.join("alertmanager.log"));
        let url = wait_for("the Alertmanager to say where it listens", || {
            let log = process.logged();
            let address = log
                .split("address=")
                .find(|piece| piece.starts_with("127.0.0.1:"))?;
            let address = address.split_whitespace().next()?;
            Some(format!("http://{address}"))
        });
        Self {
            _process: process,
            url,
        }
    }

    /// What `amtool alert query` lists; empty also while it cannot be asked.
    fn alerts(&self) -> Vec<Value> {
        let mut amtool = command("amtool");
        amtool.arg(format!("--alertmanager.url={}", self.url));
        let said = run(amtool.args(["alert", "query", "-o", "json"]));
        serde_json::from_str(&said.out).unwrap_or_default()
    }
}

#[test]
fn a_real_alertmanager_takes_our_alerts_and_amtool_lists_them() {
    for program in ["prometheus-alertmanager", "amtool"] {
        if !is_installed(program) {
            let why =
                format!("{program} is missing; install Debian's package prometheus-alertmanager");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            return skipped(&why);
        }
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let alertmanager = Alertmanager::start(dir.path());
    let config = format!(
        "{RULE}[[notifiers]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"{}\"\nallow_private = true\n",
        alertmanager.url
    );
    let mut server = System::new().config(&config).start();
    measure(&server, "boiler", 90.5);
    measure(&server, "pump", 95.0);
    let listed = wait_for("amtool to list both", || {
        let alerts = alertmanager.alerts();
        (alerts.len() == 2).then_some(alerts)
    });
    // The true times of the begin, to the second: the two write fractions differently.
    let times = |alerts: &[Value], field: &str| {
        let time = |alert: &Value| alert[field].as_str().map(|t| t.chars().take(19).collect());
        let mut times: Vec<Option<String>> = alerts.iter().map(time).collect();
        times.sort();
        times
    };
    wait_for("our list to say the same", || {
        let ours = server.http("/api/v1/alerts?state=firing");
        let ours = times(ours["items"].as_array()?, "began");
        (ours == times(&listed, "startsAt")).then_some(())
    });
    for alert in &listed {
        assert_eq!(alert["labels"]["alertname"], "overheating");
        assert_eq!(alert["labels"]["severity"], "critical");
        assert_eq!(alert["status"]["state"], "active");
    }
    measure(&server, "boiler", 60.0);
    wait_for("the end of one", || {
        let alerts = alertmanager.alerts();
        let one = alerts.len() == 1;
        (one && alerts[0]["annotations"]["summary"]
            .as_str()?
            .contains("pump"))
        .then_some(())
    });
    server.stop();
}
