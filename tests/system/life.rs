//! Start, stop, restart, and the errors of people.

use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Process, Said, Server, System, run, tidewatch, wait_for};
use super::http::Live;
use super::mqtt::Client;

/// A fleet that never stops by itself.
#[track_caller]
fn load(server: &Server) -> Process {
    let mut command = tidewatch(&[
        "simulate",
        "--devices",
        "40",
        "--agents",
        "8",
        "--rate",
        "2000",
    ]);
    command
        .arg("--connect")
        .arg(format!("mqtt://{}", server.mqtt()))
        .args(["--linger", "100ms", "--reconnect-max", "500ms"]);
    Process::start(
        "tidewatch simulate",
        &mut command,
        &server.dir().join("simulate.log"),
    )
}

fn check_stop(signal: Signal) {
    let mut server = System::new().start();
    let _fleet = load(&server);
    let mut live = Live::open(server.http_address()).expect("the live stream");
    while live
        .next()
        .expect("an event")
        .expect("the stream goes on")
        .0
        != "windows"
    {}
    let counted = wait_for("events", || {
        Some(server.total("counted")).filter(|n| *n > 1000)
    });

    // The fleet goes on sending, the viewer goes on looking.
    server.stop_by(signal);
    while live.next().expect("no event hangs").is_some() {}
    server.restart();
    assert!(server.total("counted") >= counted);
    wait_for("the fleet to come back", || {
        Some(server.total("counted")).filter(|n| *n > counted + 1000)
    });
    server.stop();
}

#[test]
fn ctrl_c_under_load_with_a_viewer_ends_in_order() {
    check_stop(Signal::INT);
}

#[test]
fn sigterm_under_load_with_a_viewer_ends_in_order() {
    check_stop(Signal::TERM);
}

/// Rows of the fleet without what a restart may change.
#[track_caller]
fn rows(server: &Server) -> Vec<Value> {
    let page =
        server.http("/api/v1/windows?aggregate=by_metric&from=2024-01-01T00:00:00Z&limit=1000");
    page["items"].as_array().expect("items").clone()
}

#[test]
fn results_survive_a_stop_and_a_kill() {
    let mut server = System::new().start();
    let mut client = Client::connect(server.mqtt(), "d1", "");
    for i in 0..200 {
        let ts = 1_709_251_200_000_i64 + i * 700;
        let message =
            json!({"ts": ts, "values": {"t": i, "ok": i % 2 == 0}, "attributes": {"site": "p1"}});
        client
            .publish("devices/d1/telemetry", message.to_string().as_bytes())
            .expect("a PUBACK");
    }
    wait_for("all to be counted", || {
        (server.total("counted") == 600).then_some(())
    });
    let before = wait_for("all rows", || {
        let rows = rows(&server);
        let count: u64 = rows.iter().filter_map(|r| r["count"].as_u64()).sum();
        (count == 400).then_some(rows)
    });
    for how in ["kill", "stop", "kill"] {
        match how {
            "stop" => server.stop(),
            _ => server.kill9(),
        }
        server.restart();
        let after = rows(&server);
        assert_eq!(after.len(), before.len());
        for (before, after) in before.iter().zip(&after) {
            for field in [
                "start",
                "end",
                "group",
                "count",
                "sum",
                "mean",
                "min",
                "max",
                "distinct_devices",
            ] {
                assert_eq!(before[field], after[field], "{field} after a {how}");
            }
        }
        assert_eq!(server.total("counted"), 600, "after a {how}");
        let device = server.http("/api/v1/devices/d1");
        assert_eq!(device["attributes"], json!({"site": "p1"}), "after a {how}");
    }
}

/// Runs `tidewatch` with arguments and a path.
#[track_caller]
fn tell(arguments: &[&str], path: &Path) -> Said {
    run(tidewatch(arguments).arg(path))
}

#[track_caller]
fn expect_failure(said: &Said, words: &[&str]) {
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    for word in words {
        assert!(said.err.contains(word), "no {word:?} in {:?}", said.err);
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn a_second_server_on_the_same_folder_is_told_so() {
    let mut server = System::new().start();
    let free = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--mqtt",
        "127.0.0.1:0",
        "--data",
    ];
    let said = tell(&free, &server.data());
    let folder = server.data().display().to_string();
    expect_failure(&said, &[&folder, "another process"]);
    let said = tell(&["log", "inspect", "--data"], &server.data());
    expect_failure(&said, &["another process"]);
    // The first one is not harmed.
    server.wait_ready();
    server.stop();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    for ports in [
        ["--listen", &address, "--mqtt", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--mqtt", &address],
    ] {
        let mut command = tidewatch(&["up", "--data"]);
        let said = run(command.arg(dir.path().join("data")).args(ports));
        expect_failure(&said, &[&address, "in use"]);
        assert_eq!(said.out, "", "it is not ready");
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest_valid_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("tidewatch.toml");
    std::fs::write(&file, "[processor]\ncheckpoint_evry = \"1s\"\n").expect("a file");
    let words = ["processor.checkpoint_evry", "\"checkpoint_every\""];
    for verb in [
        &["up", "--config"][..],
        &["config", "check", "--config"],
        &["config", "show", "--config"],
    ] {
        expect_failure(&tell(verb, &file), &words);
    }
    let mut command = tidewatch(&["config", "check"]);
    let said = run(command.env("TIDEWATCH_LOG_PARTITION", "3"));
    expect_failure(
        &said,
        &["TIDEWATCH_LOG_PARTITION", "TIDEWATCH_LOG_PARTITIONS"],
    );
    expect_failure(
        &tell(&["config", "check", "--config"], &dir.path().join("none")),
        &["none"],
    );
}

#[test]
fn the_configuration_can_be_checked_and_shown_without_its_secrets() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("tidewatch.toml");
    let secret = super::receiver::SECRET;
    let text = format!(
        "data = \"/somewhere\"\n[[notifiers]]\nname = \"ops\"\nurl = \"https://h.example/t0ken\"\nsecret = {secret:?}\n"
    );
    std::fs::write(&file, text).expect("a file");
    let said = tell(&["config", "check", "--config"], &file);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let mut command = tidewatch(&["config", "show", "--config"]);
    let said = run(command.arg(&file).env("TIDEWATCH_LOG_PARTITIONS", "3"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    for line in [
        "data = \"/somewhere\"",
        "partitions = 3",
        "checkpoint_every = \"30s\"",
        "name = \"ops\"",
    ] {
        assert!(
            said.out.lines().any(|l| l == line),
            "no {line:?} in {}",
            said.out
        );
    }
    assert!(
        ![secret, "t0ken"]
            .iter()
            .any(|s| said.out.contains(s) || said.err.contains(s)),
        "{}",
        said.out
    );
    // What is shown is itself a configuration, but for the secret.
    let shown = said.out.replace("[[notifiers]]", "[[ignored]]");
    assert!(shown.parse::<toml::Table>().is_ok(), "{shown}");
}

#[test]
fn a_log_can_be_inspected_when_its_server_is_gone() {
    let mut server = System::new().start();
    let mut client = Client::connect(server.mqtt(), "d1", "");
    client
        .publish("devices/d1/telemetry", b"{\"t\":1,\"u\":2}")
        .expect("a PUBACK");
    server.kill9();
    let said = tell(
        &["log", "inspect", "--records", "1000", "--data"],
        &server.data(),
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let partitions = said
        .out
        .lines()
        .filter(|l| l.starts_with("partition "))
        .count();
    assert_eq!(partitions, 8, "{}", said.out);
    for words in [
        "plain d1: 2 values",
        "declaration of 2 aggregates and 0 rules",
    ] {
        assert!(said.out.contains(words), "no {words:?} in {}", said.out);
    }
    // Looking changed nothing.
    server.restart();
    wait_for("the event", || (server.total("counted") == 2).then_some(()));
    let nothing = tell(&["log", "inspect", "--data"], server.dir());
    expect_failure(&nothing, &["log.redb"]);
}
