//! Commands to the program as a whole: what is delivered, what runs, and what comes back.

mod cloud;
mod program;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cloud::{Cloud, Faults, Stored};
use event::command::{METRIC, Report, State};
use event::{Command, DeviceId, EventTime, Value};
use rustix::process::{Pid, Signal, kill_process};

/// An agent with one command, `job`, whose program is a script; killed when the test ends.
struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Agent {
    fn start(dir: &Path, cloud: &Cloud, script: &str, more: &str) -> Self {
        Self::start_with_clock(dir, cloud, script, more, "ntp")
    }

    fn start_with_clock(dir: &Path, cloud: &Cloud, script: &str, more: &str, clock: &str) -> Self {
        let program = dir.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (server, data) = (format!("mqtt://{}", cloud.address), dir.join("data"));
        let config = format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"info\"\n\
             clock = {clock:?}\n[uplink]\nack_timeout_ms = 150\nack_timeout_max_ms = 500\n\
             heartbeat_ms = 1000\nreconnect_min_ms = 20\nreconnect_max_ms = 100\n\
             [[command]]\nname = \"job\"\nprogram = {program:?}\nargs = [\"{{arg}}\"]\n\
             max_length = {{ arg = 64 }}\ndir = {dir:?}\nmax_per_hour = 1000\n{more}\n"
        );
        let path = dir.join("agent.toml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"));
        let child = program::agent()
            .arg("--config")
            .arg(path)
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            dir: dir.to_owned(),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it in order; returns how long that took.
    fn stop(mut self) -> Duration {
        let began = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{}", self.log());
                return began.elapsed();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the agent does not end: {}", self.log());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> EventTime {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    EventTime(since.as_micros() as i64)
}

fn command(id: &str, arg: &str) -> Command {
    Command {
        id: id.to_owned(),
        device: DeviceId::new("gw-1").unwrap(),
        name: "job".to_owned(),
        args: BTreeMap::from([("arg".to_owned(), arg.to_owned())]),
        issued_at: now(),
        expires_at: EventTime(now().0 + 600_000_000),
    }
}

/// Every report of a command, in the order of numbers, with its device.
fn reports(stored: &Stored, id: &str) -> Vec<(String, Report)> {
    let of_command = stored
        .events
        .values()
        .filter(|s| s.metric.as_str() == METRIC);
    of_command
        .map(|s| match &s.value {
            Value::Text(text) => (s.device.to_string(), Report::parse(text).unwrap()),
            other => panic!("{other:?}"),
        })
        .filter(|(_, report)| report.id == id)
        .collect()
}

fn states(stored: &Stored, id: &str) -> Vec<State> {
    reports(stored, id).iter().map(|(_, r)| r.state).collect()
}

fn last(cloud: &Cloud, id: &str) -> Report {
    cloud.wait_for(id, |s| {
        states(s, id).last().is_some_and(|state| state.is_final())
    });
    reports(&cloud.stored(), id).pop().unwrap().1
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn delivered_a_hundred_times_over_a_bad_network_it_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = Faults {
        lose_batch: 20,
        lose_ack: 30,
        repeat_ack: 10,
        ..Faults::default()
    };
    let cloud = Cloud::start(bad, 11);
    let script = "echo \"$1\" >> ran; sleep 0.3; echo done";
    let agent = Agent::start(dir.path(), &cloud, script, "");
    // Nobody listens yet: it is delivered when the agent has come.
    let once = command("once", "x;touch-y");
    let good = command("good", "a:b@c");
    cloud.command(&good, 100);
    let report = last(&cloud, "good");
    assert_eq!(
        (report.state, report.exit_code),
        (State::Succeeded, Some(0))
    );
    assert_eq!(report.output.as_deref(), Some("done"));
    assert!(report.duration_ms.unwrap() >= 300);
    cloud.command(&good, 50);
    cloud.command(&once, 1);
    // Shell characters are refused by the character set.
    assert_eq!(last(&cloud, "once").state, State::Refused);
    agent.stop();
    assert_eq!(lines(&dir.path().join("ran")), ["a:b@c"]);
    assert_eq!(
        states(&cloud.stored(), "good"),
        [State::Running, State::Succeeded]
    );
    // Restarted, and delivered again.
    let agent = Agent::start(dir.path(), &cloud, script, "");
    cloud.command(&good, 20);
    cloud.command(&command("after", "after"), 1);
    assert_eq!(last(&cloud, "after").state, State::Succeeded);
    agent.stop();
    assert_eq!(lines(&dir.path().join("ran")), ["a:b@c", "after"]);
    // The repeat was answered with the result that is known.
    let again = reports(&cloud.stored(), "good");
    assert_eq!(again.len(), 3);
    assert_eq!(again[1], again[2]);
    let stored = cloud.stored();
    assert_eq!(stored.broken_promises, []);
    assert!(
        stored.unclean.is_empty() && stored.gaps.is_empty(),
        "a command leaves no doubt about data"
    );
}

#[test]
fn killed_while_it_runs_it_is_not_run_again_and_its_outcome_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 12);
    let script = "echo $$ >> ran; exec sleep 1000";
    let agent = Agent::start(dir.path(), &cloud, script, "");
    let order = command("k", "x");
    cloud.command(&order, 3);
    cloud.wait_for("the start", |s| states(s, "k") == [State::Running]);
    let ran = dir.path().join("ran");
    cloud.wait_for("the program", |_| lines(&ran).len() == 1);
    agent.kill();
    for round in 0..3 {
        let agent = Agent::start(dir.path(), &cloud, script, "");
        cloud.command(&order, 10);
        let report = last(&cloud, "k");
        assert_eq!(report.state, State::Failed);
        assert_eq!(
            report.reason.as_deref(),
            Some("the agent stopped while it ran; the outcome is unknown")
        );
        cloud.command(&command(&format!("marker-{round}"), "-x"), 1);
        assert_eq!(
            last(&cloud, &format!("marker-{round}")).state,
            State::Refused
        );
        agent.kill();
    }
    let pids = lines(&ran);
    assert_eq!(pids.len(), 1, "it ran again");
    // The program outlived the killed agent; it is ours to end.
    let pid = Pid::from_raw(pids[0].parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn what_must_not_run_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 13);
    let agent = Agent::start(
        dir.path(),
        &cloud,
        "echo \"$1\" >> ran",
        "devices = [\"pump-1\"]",
    );
    let give = |id: &str, change: &dyn Fn(&mut Command)| {
        let mut command = command(id, "x");
        change(&mut command);
        cloud.command(&command, 2);
        let report = last(&cloud, id);
        (report.state, report.reason.unwrap_or_default())
    };
    let (state, reason) = give("late", &|c| c.expires_at = EventTime(now().0 - 1));
    assert!(
        state == State::Expired && reason.contains("it expired at"),
        "{reason}"
    );
    for (id, change, expected) in [
        (
            "name",
            (|c| c.name = "jobs".to_owned()) as fn(&mut Command),
            "did you mean \"job\"?",
        ),
        (
            "value",
            |c| drop(c.args.insert("arg".to_owned(), "--all".to_owned())),
            "begins with",
        ),
        ("missing", |c| c.args.clear(), "is missing"),
        (
            "more",
            |c| drop(c.args.insert("x".to_owned(), "1".to_owned())),
            "takes no argument \"x\"",
        ),
        (
            "device",
            |c| c.device = DeviceId::new("pump-2").unwrap(),
            "not allowed for the device pump-2",
        ),
        (
            "long",
            |c| c.expires_at = EventTime(now().0 + 40 * 86_400_000_000),
            "30 days",
        ),
    ] {
        let (state, reason) = give(id, &change);
        assert!(
            state == State::Refused && reason.contains(expected),
            "{id}: {reason}"
        );
    }
    let (state, _) = give("pump", &|c| c.device = DeviceId::new("pump-1").unwrap());
    assert_eq!(state, State::Succeeded);
    agent.stop();
    assert_eq!(lines(&dir.path().join("ran")), ["x"]);
    // Each is told once, under a device that is behind this agent.
    let stored = cloud.stored();
    for (id, device) in [("late", "gw-1"), ("device", "gw-1"), ("pump", "pump-1")] {
        let reports = reports(&stored, id);
        assert!(reports.iter().all(|(d, _)| d == device), "{reports:?}");
        assert_eq!(reports.len(), 1 + usize::from(id == "pump"), "{reports:?}");
    }
}

#[test]
fn failures_timeouts_and_long_output_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 14);
    let script = "case $1 in fail) echo sorry >&2; exit 3;; hang) trap '' TERM; while :; do sleep 0.1; done;; \
                  much) i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done;; esac";
    let agent = Agent::start(dir.path(), &cloud, script, "timeout_ms = 1500");
    for arg in ["fail", "hang", "much"] {
        cloud.command(&command(arg, arg), 1);
    }
    let fail = last(&cloud, "fail");
    assert_eq!((fail.state, fail.exit_code), (State::Failed, Some(3)));
    assert_eq!(fail.output.as_deref(), Some("sorry"));
    let hang = last(&cloud, "hang");
    assert_eq!((hang.state, hang.exit_code), (State::Failed, None));
    assert!(hang.reason.unwrap().contains("ran longer than 1500 ms"));
    assert!(hang.duration_ms.unwrap() >= 3500);
    let much = last(&cloud, "much");
    let output = much.output.clone().unwrap();
    assert!(
        output.starts_with('\u{2026}') && output.ends_with("\nline 4999"),
        "{output}"
    );
    assert!(much.to_text().len() > 900 && much.to_text().len() <= 1024);
    // The log has more of it.
    let log = agent.log();
    assert!(
        log.contains("line 4700") && !log.contains("line 4000\\n"),
        "{log}"
    );
    agent.stop();
}

#[test]
fn a_stop_waits_for_a_program_then_ends_it_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 15);
    let script = "echo $$ >> ran; sleep $1; echo slept";
    let agent = Agent::start(dir.path(), &cloud, script, "stop_grace_ms = 3000");
    cloud.command(&command("short", "1"), 1);
    let ran = dir.path().join("ran");
    cloud.wait_for("the program", |_| lines(&ran).len() == 1);
    agent.stop();
    let report = last(&cloud, "short");
    assert_eq!(report.state, State::Succeeded, "{report:?}");
    let agent = Agent::start(dir.path(), &cloud, script, "stop_grace_ms = 500");
    cloud.command(&command("long", "1000"), 1);
    cloud.wait_for("the program", |_| lines(&ran).len() == 2);
    let took = agent.stop();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    let report = last(&cloud, "long");
    assert_eq!(report.state, State::Failed);
    assert!(
        report
            .reason
            .unwrap()
            .contains("the agent was told to stop")
    );
    for pid in lines(&ran) {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is left behind"
        );
    }
}

#[test]
fn an_agent_that_was_away_gets_it_late_and_reports_what_nobody_heard() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 16);
    let script = "echo \"$1\" >> ran";
    // Given while the agent is away, and it has no clock: the cloud tells the time.
    let mut stale = command("stale", "stale");
    stale.expires_at = EventTime(now().0 + 1_000_000);
    cloud.command(&command("late", "late"), 1);
    cloud.command(&stale, 1);
    std::thread::sleep(Duration::from_millis(1100));
    let agent = Agent::start_with_clock(dir.path(), &cloud, script, "", "none");
    assert_eq!(last(&cloud, "late").state, State::Succeeded);
    assert_eq!(last(&cloud, "stale").state, State::Expired);
    // From here on nothing is acknowledged: what happens is kept, over a kill, too.
    cloud.set_faults(Faults {
        mute: true,
        ..Faults::default()
    });
    cloud.command(&command("unheard", "unheard"), 1);
    let ran = dir.path().join("ran");
    cloud.wait_for("the program", |_| lines(&ran).len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    agent.kill();
    assert!(states(&cloud.stored(), "unheard").is_empty());
    cloud.set_faults(Faults::default());
    let agent = Agent::start(dir.path(), &cloud, script, "");
    assert_eq!(last(&cloud, "unheard").state, State::Succeeded);
    agent.stop();
    assert_eq!(lines(&ran), ["late", "unheard"]);
    assert_eq!(
        states(&cloud.stored(), "unheard"),
        [State::Running, State::Succeeded]
    );
}

#[test]
fn a_program_that_is_not_there_is_wrong_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(
        &path,
        "[[command]]\nname = 'x'\nprogram = '/nowhere/at/all'",
    )
    .unwrap();
    for check in [&["check"][..], &[]] {
        let out = program::agent()
            .arg("--config")
            .arg(&path)
            .args(check)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2));
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(
            text.contains("command \"x\": program /nowhere/at/all"),
            "{text}"
        );
    }
}
