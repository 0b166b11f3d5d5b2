//! Commands from the API to a program on a device and back: once, whatever fails in between.

use std::path::PathBuf;
use std::time::Duration;

use event::command::{METRIC, Report, State};
use event::{Sample, Status, Value as EventValue, topic};
use serde_json::{Value, json};

use super::edge::EdgeAgent;
use super::harness::{Server, System, run, tidewatch, wait_for};
use super::http;
use super::wire::{self, Agent};

/// Checkpoints so often that a restart begins with one.
const CONFIG: &str = "[processor]\ncheckpoint_every = \"300ms\"\n[log]\npartitions = 3\n";

/// Appends its argument to a file, and fails as the argument says.
const SCRIPT: &str = "echo \"$1\" >> ran; case \"$1\" in fail*) echo broken; exit 3;; esac";

fn start() -> Server {
    System::new().config(CONFIG).start()
}

#[track_caller]
fn change(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let reply = http::send(server.http_address(), method, path, body);
    let reply = reply.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    assert_eq!(reply.status, 202, "{method} {path}: {}", reply.text());
    reply.json()
}

/// Gives `job ARG` to a device under the id ARG.
#[track_caller]
fn give(server: &Server, device: &str, arg: &str, ttl: &str) -> Value {
    let body = json!({"name": "job", "args": {"arg": arg}, "id": arg, "ttl": ttl, "by": "test"});
    let path = format!("/api/v1/devices/{device}/commands");
    change(server, "POST", &path, &body)
}

fn find(server: &Server, id: &str) -> Option<Value> {
    let reply = http::get(server.http_address(), &format!("/api/v1/commands/{id}")).ok()?;
    (reply.status == 200).then(|| reply.json())
}

/// Waits until a command is in a state.
#[track_caller]
fn wait_state(server: &Server, id: &str, state: &str) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("{id} to be {state}"), || {
        last = find(server, id)?;
        (last["state"] == state).then(|| last.clone())
    })
}

/// Waits until the server knows a device, and whether its agent is connected.
#[track_caller]
fn wait_device(server: &Server, id: &str, status: &str) {
    wait_for(&format!("{id} to be {status}"), || {
        let path = format!("/api/v1/devices/{id}");
        let reply = http::get(server.http_address(), &path).ok()?;
        (reply.status == 200 && reply.json()["status"] == status).then_some(())
    });
}

fn ran(agent: &EdgeAgent) -> Vec<String> {
    let path: PathBuf = agent.dir().join("ran");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// An agent that the server knows.
#[track_caller]
fn agent(server: &Server, id: &str) -> EdgeAgent {
    let mut agent = EdgeAgent::with_job(server, id, SCRIPT);
    agent.start();
    wait_device(server, id, "online");
    agent
}

#[test]
fn a_command_runs_and_its_result_is_seen_everywhere() {
    let server = start();
    let agent = agent(&server, "gw-1");
    let mut live = http::Live::open(server.http_address()).expect("a live stream");
    let given = give(&server, "gw-1", "good", "1m");
    assert_eq!(
        (&given["state"], &given["agent"]),
        (&json!("queued"), &json!("gw-1"))
    );
    let done = wait_state(&server, "good", "succeeded");
    assert_eq!(done["exit_code"], 0, "{done}");
    assert_eq!(
        (&done["certain"], &done["by"]),
        (&json!(true), &json!("test"))
    );
    assert!(done["sent"].is_string() && done["ended"].is_string() && done["duration_ms"].is_u64());
    let device = server.http("/api/v1/devices/gw-1");
    assert_eq!(device["commands"][0]["id"], "good", "{device}");
    // The last value of the metric is what the device said.
    let value = &device["values"].as_array().expect("values");
    assert!(value.iter().any(|v| v["metric"] == METRIC), "{device}");
    let seen = std::iter::from_fn(|| live.next().expect("an event")).find(|(name, data)| {
        let items = data["items"].as_array().into_iter().flatten();
        name == "commands" && items.into_iter().any(|c| c["state"] == "succeeded")
    });
    assert!(seen.is_some());

    give(&server, "gw-1", "fail-1", "1m");
    let failed = wait_state(&server, "fail-1", "failed");
    assert_eq!(
        (&failed["exit_code"], &failed["certain"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(failed["output"], "broken");
    assert_eq!(ran(&agent), ["good", "fail-1"]);

    // What is not on the allow-list, or has an argument that is not allowed.
    let path = "/api/v1/devices/gw-1/commands";
    change(
        &server,
        "POST",
        path,
        &json!({"name": "format", "id": "odd-1"}),
    );
    let args = json!({"arg": "$(reboot)"});
    change(
        &server,
        "POST",
        path,
        &json!({"name": "job", "args": args, "id": "odd-2"}),
    );
    for id in ["odd-1", "odd-2"] {
        let refused = wait_state(&server, id, "refused");
        assert_eq!(refused["certain"], true);
        assert!(!refused["reason"].as_str().expect("a reason").is_empty());
    }
    change(
        &server,
        "POST",
        path,
        &json!({"name": "job", "args": {"arg": "dry"}, "id": "dry", "dry_run": true}),
    );
    wait_state(&server, "dry", "dry_run");
    assert_eq!(ran(&agent).len(), 2);
    let page = server.http("/api/v1/commands?device=gw-1");
    assert_eq!(page["total"], 5, "{page}");
}

#[test]
fn an_offline_device_gets_it_when_it_is_back_over_a_killed_server_and_once() {
    let mut server = start();
    let mut agent = agent(&server, "gw-1");
    agent.kill9();
    wait_device(&server, "gw-1", "buffering");
    // A hundred times the same order is one.
    for _ in 0..100 {
        give(&server, "gw-1", "late", "10m");
    }
    give(&server, "gw-1", "too-late", "1s");
    assert_eq!(wait_state(&server, "late", "queued")["sends"], 0);
    let expired = wait_state(&server, "too-late", "expired");
    assert_eq!(
        (&expired["certain"], &expired["sends"]),
        (&json!(true), &json!(0))
    );
    // The server dies between the record and the delivery.
    give(&server, "gw-1", "later", "10m");
    server.kill9();
    agent.start();
    server.restart();
    wait_state(&server, "late", "succeeded");
    wait_state(&server, "later", "succeeded");
    assert_eq!(ran(&agent), ["late", "later"]);

    // A replay repeats nothing, and the agent would not either.
    for round in 0..3 {
        server.kill9();
        server.restart();
        let id = format!("after-{round}");
        give(&server, "gw-1", &id, "10m");
        wait_state(&server, &id, "succeeded");
    }
    agent.kill9();
    agent.start();
    give(&server, "gw-1", "last", "10m");
    wait_state(&server, "last", "succeeded");
    let expected = ["late", "later", "after-0", "after-1", "after-2", "last"];
    assert_eq!(ran(&agent), expected);
    assert_eq!(wait_state(&server, "late", "succeeded")["exit_code"], 0);
    server.stop();
}

fn text(device: &str, metric: &str, text: String) -> Sample {
    Sample {
        value: EventValue::Text(text.into()),
        ..wire::number(device, metric, wire::now(), 0.0)
    }
}

#[test]
fn it_is_delivered_again_until_the_device_answers_and_counted_once() {
    let mut server = start();
    let mut agent = Agent::connect(&server, "gw-1");
    agent.send(&[wire::number("d", "t", wire::now(), 1.0)], wire::now());
    agent.client.subscribe(&topic::command(&agent.id));
    wait_device(&server, "d", "online");
    give(&server, "d", "c", "10m");
    let (to, first) = agent.client.receive().expect("the command");
    assert_eq!(to, topic::command(&agent.id));
    let command = event::Command::decode(&first).expect("a command");
    assert_eq!((command.id.as_str(), command.name.as_str()), ("c", "job"));
    assert_eq!(command.args["arg"], "c");
    // It says that it has connected, again and again, and answers nothing.
    let status = Status {
        online: true,
        incarnation: agent.incarnation().to_string(),
        version: String::new(),
        backlog: 0,
    };
    let path = topic::status(&agent.id);
    let say = |agent: &mut Agent| {
        let said = agent.client.publish(&path, status.to_json().as_bytes());
        said.expect("a PUBACK");
    };
    for _ in 0..100 {
        // More often than ten times a second it gets nothing again.
        std::thread::sleep(Duration::from_millis(110));
        say(&mut agent);
        let (_, again) = agent.client.receive().expect("the command again");
        assert_eq!(again, first, "the same to the byte");
    }
    assert!(find(&server, "c").expect("the command")["sends"].as_u64() > Some(100));
    let report = Report {
        id: "c".to_owned(),
        name: "job".to_owned(),
        state: State::Succeeded,
        exit_code: Some(0),
        duration_ms: Some(7),
        output: None,
        reason: None,
    };
    let said = text("d", METRIC, report.to_text());
    agent.send(&[said.clone(), said], wire::now());
    let done = wait_state(&server, "c", "succeeded");
    assert_eq!(done["duration_ms"], 7);
    let page = server.http("/api/v1/commands");
    assert_eq!(page["total"], 1, "{page}");

    // What has ended is not sent after a replay; the next thing that comes is the next command.
    server.kill9();
    server.restart();
    let mut agent = Agent::connect(&server, "gw-1");
    agent.client.subscribe(&topic::command(&agent.id));
    say(&mut agent);
    give(&server, "d", "next", "10m");
    let (_, next) = agent.client.receive().expect("a command");
    let next = event::Command::decode(&next).expect("a command");
    assert_eq!(next.id, "next");
}

#[test]
fn a_canary_stops_a_rollout_until_somebody_goes_on() {
    let mut server = start();
    let agents: Vec<EdgeAgent> = ["gw-1", "gw-2", "gw-3"].map(|id| agent(&server, id)).into();
    let path = "/api/v1/commands/rollouts";
    let rollout = |id: &str, arg: &str| json!({"name": "job", "args": {"arg": arg}, "devices": ["gw-1", "gw-2", "gw-3"], "id": id});
    let state = |server: &Server, id: &str, state: &str| {
        wait_for(&format!("rollout {id} to be {state}"), || {
            let shown = server.http(&format!("{path}/{id}"));
            (shown["state"] == state).then_some(shown)
        })
    };
    let known = |server: &Server, id: &str| {
        wait_for("the rollout", || {
            let path = format!("{path}/{id}");
            let reply = http::get(server.http_address(), &path).ok()?;
            (reply.status == 200).then_some(())
        });
    };
    change(&server, "POST", path, &rollout("good", "fine"));
    known(&server, "good");
    let done = state(&server, "good", "done");
    assert_eq!(
        (&done["succeeded"], &done["failed"]),
        (&json!(3), &json!(0))
    );
    assert!(agents.iter().all(|a| ran(a) == ["fine"]));

    change(&server, "POST", path, &rollout("bad", "fail"));
    known(&server, "bad");
    let stopped = state(&server, "bad", "stopped");
    assert_eq!(
        (&stopped["waiting"], &stopped["failed"]),
        (&json!(2), &json!(1))
    );
    assert!(
        stopped["reason"]
            .as_str()
            .expect("a reason")
            .contains("gw-1")
    );
    server.kill9();
    server.restart();
    let stopped = state(&server, "bad", "stopped");
    assert_eq!(stopped["waiting"], 2);
    assert_eq!(ran(&agents[0]), ["fine", "fail"]);
    assert!(agents[1..].iter().all(|a| ran(a) == ["fine"]));
    change(
        &server,
        "POST",
        &format!("{path}/bad/resume"),
        &json!({"by": "test"}),
    );
    wait_state(&server, "bad:2", "failed");
    state(&server, "bad", "stopped");
    assert_eq!(ran(&agents[1]), ["fine", "fail"]);
    assert_eq!(ran(&agents[2]), ["fine"]);
    let page = server.http("/api/v1/commands?rollout=bad");
    assert_eq!(page["total"], 2, "{page}");
}

#[test]
fn the_stop_switch_and_the_command_line() {
    let server = start();
    let agent = agent(&server, "gw-1");
    let url = format!("http://{}", server.http_address());
    let cli = |arguments: &[&str]| {
        let mut all = vec!["command"];
        all.extend(arguments);
        all.extend(["--server", &url]);
        run(&mut tidewatch(&all))
    };
    let said = cli(&["send", "gw-1", "job", "arg=hello", "--id", "a", "--wait"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(
        said.out.starts_with("a succeeded: job on gw-1"),
        "{}",
        said.out
    );
    let said = cli(&["send", "gw-1", "job", "arg=fail", "--id", "b", "--wait"]);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("exit code: 3"), "{}", said.out);

    let said = cli(&["stop", "on", "--why", "storm"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    wait_for("the switch", || {
        cli(&["stop"]).out.contains("storm").then_some(())
    });
    let said = cli(&["send", "gw-1", "job", "arg=held", "--id", "c"]);
    assert!(said.out.contains("stop switch is on"), "{}", said.out);
    let said = cli(&[
        "send",
        "gw-1",
        "job",
        "arg=forced",
        "--id",
        "d",
        "--force",
        "--wait",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.out);
    assert_eq!(find(&server, "c").expect("the command")["state"], "queued");
    let said = cli(&["cancel", "c"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    wait_state(&server, "c", "cancelled");
    assert_eq!(cli(&["stop", "off"]).code, Some(0));
    wait_for("the switch", || {
        (cli(&["stop"]).out == "off\n").then_some(())
    });
    assert_eq!(ran(&agent), ["hello", "fail", "forced"]);

    let said = cli(&["list", "--state", "cancelled"]);
    assert!(said.out.starts_with("c cancelled"), "{}", said.out);
    let said = cli(&["show", "d", "--json"]);
    let shown: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (&shown["state"], &shown["forced"]),
        (&json!("succeeded"), &json!(true))
    );
    for (arguments, why) in [
        (&["show", "none"][..], "not known"),
        (&["send", "none", "job"], "not known"),
        (&["cancel", "d"], "succeeded"),
        (&["send", "gw-1", "job", "--ttl", "1y"], "ttl"),
        (&["rollout", "begin", "job"], "--device"),
    ] {
        let said = cli(arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {}", said.out);
        assert!(said.err.contains(why), "{arguments:?}: {}", said.err);
    }
    let nobody = ["command", "list", "--server", "http://127.0.0.1:1"];
    let said = run(&mut tidewatch(&nobody));
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("does the server run there"),
        "{}",
        said.err
    );
}
