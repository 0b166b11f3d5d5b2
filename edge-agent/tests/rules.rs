//! Rules on the device with the program as a whole: readings come in, a program runs without any cloud,
//! and the cloud hears of it later.

mod cloud;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use cloud::{Cloud, Faults, Manners, Stored};
use event::alert::{EdgeAlert, METRIC, State};
use event::{Value, command};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rustix::process::{Pid, Signal, kill_process};

/// An agent that reads JSON lines and has one command: a program, not a script, that makes a new file
/// `{rule}_{device}_{value}.…` each time. Killed when the test ends.
struct Agent {
    child: Child,
    input: ChildStdin,
    dir: PathBuf,
}

impl Agent {
    fn start(dir: &Path, cloud: &Cloud, rules: &str) -> Self {
        let ran = dir.join("ran");
        std::fs::create_dir_all(&ran).unwrap();
        // What it replaces by something unique.
        let unique = "X".repeat(8);
        let template = format!("{}/{{rule}}_{{dev}}_{{value}}.{unique}", ran.display());
        let (server, data) = (format!("mqtt://{}", cloud.address), dir.join("data"));
        let config = format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"info\"\n\
             [uplink]\nack_timeout_ms = 150\nack_timeout_max_ms = 500\nheartbeat_ms = 1000\n\
             reconnect_min_ms = 20\nreconnect_max_ms = 100\n\
             [[source]]\nkind = \"stdin\"\n\
             [[command]]\nname = \"note\"\nprogram = \"/usr/bin/mktemp\"\nargs = [{template:?}]\n\
             max_length = {{ rule = 64, dev = 64, value = 64 }}\nmax_per_hour = 1000\n\
             {rules}\n"
        );
        let path = dir.join("agent.toml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"))
            .arg("--config")
            .arg(path)
            .stdin(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let dir = dir.to_owned();
        Self { child, input, dir }
    }

    /// A reading of `age` ms ago.
    fn reading(&mut self, device: &str, metric: &str, value: f64, age: i64) {
        let ts = now_ms() - age;
        let line = format!("{{\"device\":{device:?},\"ts\":{ts},{metric:?}:{value}}}\n");
        self.input.write_all(line.as_bytes()).unwrap();
    }

    /// What ran, as `{rule}_{device}_{value}`, in the order of the alphabet.
    fn ran(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.join("ran")).unwrap();
        let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names
            .map(|n| n.rsplit_once('.').unwrap().0.to_owned())
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn wait_for(&self, ran: &[&str]) {
        for _ in 0..6000 {
            if self.ran() == ran {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} ran: {}", self.ran(), self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn status(&self) -> String {
        let out = Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"))
            .args(["status", "--config"])
            .arg(self.dir.join("agent.toml"))
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

/// A cloud that lets nobody in yet.
fn closed_cloud(seed: u64) -> Cloud {
    let cloud = Cloud::start(Faults::default(), seed);
    cloud.set_manners(Manners::Refuses(ConnectReturnCode::ServiceUnavailable));
    cloud
}

const RUN: &str =
    "run = \"note\"\nargs = { rule = \"{rule}\", dev = \"{device}\", value = \"{value}\" }\n";

/// A threshold; readings of the test count as fresh however slow it is.
fn hot() -> String {
    format!(
        "[[rule]]\nname = \"hot\"\nmetric = \"temp\"\nraise = 80\nclear = 75\nseverity = \"error\"\n\
         stale_after = \"1d\"\n{RUN}"
    )
}

/// Alerts of a device, in the order of numbers.
fn alerts(stored: &Stored, device: &str) -> Vec<EdgeAlert> {
    let of_device = stored.events.values();
    let of_device =
        of_device.filter(|s| s.metric.as_str() == METRIC && s.device.as_str() == device);
    of_device
        .map(|s| match &s.value {
            Value::Text(text) => EdgeAlert::parse(text).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn states(stored: &Stored, device: &str) -> Vec<State> {
    alerts(stored, device).iter().map(|a| a.state).collect()
}

/// Last states of commands by id.
fn reports(stored: &Stored) -> std::collections::BTreeMap<String, command::Report> {
    let reports = stored.events.values();
    let reports = reports.filter(|s| s.metric.as_str() == command::METRIC);
    let parsed = reports.map(|s| match &s.value {
        Value::Text(text) => command::Report::parse(text).unwrap(),
        other => panic!("{other:?}"),
    });
    parsed.map(|r| (r.id.clone(), r)).collect()
}

#[test]
fn a_limit_runs_a_program_once_an_episode_without_a_cloud_and_old_data_runs_none() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = closed_cloud(21);
    let mut agent = Agent::start(dir.path(), &cloud, &hot());
    agent.reading("a", "temp", 79.0, 0);
    agent.reading("a", "temp", 81.5, 0);
    agent.wait_for(&["hot_a_81.5"]);
    assert!(cloud.stored().events.is_empty());
    agent.reading("a", "temp", 82.0, 0);
    agent.reading("a", "temp", 81.5, 0);
    // Two days old: a replay.
    agent.reading("old", "temp", 99.0, 2 * 86_400_000);
    agent.reading("a", "temp", 75.0, 0);
    agent.reading("a", "temp", 90.0, 0);
    agent.wait_for(&["hot_a_81.5", "hot_a_90"]);
    let status = agent.status();
    assert!(
        status.contains("rules       1 on the device, 1 firing, 1 readings too old or ahead"),
        "{status}"
    );
    agent.stop();
    assert!(cloud.stored().events.is_empty());
    // The cloud comes up: it hears of it all.
    cloud.set_manners(Manners::Good);
    let agent = Agent::start(dir.path(), &cloud, &hot());
    let expected = [State::Firing, State::Resolved, State::Firing];
    cloud.wait_for("the alerts", |s| {
        states(s, "a") == expected && reports(s).values().all(|r| r.state.is_final())
    });
    let stored = cloud.stored();
    let told = alerts(&stored, "a");
    assert_eq!(
        (told[0].rule.as_str(), told[0].metric.as_str()),
        ("hot", "temp")
    );
    assert_eq!((told[0].value, told[1].value), (Some(81.5), Some(75.0)));
    assert_eq!(told[0].severity, "error");
    assert_eq!(told[0].since, told[1].since);
    assert!(told[1].at >= told[0].at && told[2].since >= told[1].at);
    let reports = reports(&stored);
    assert_eq!(reports.len(), 2);
    for alert in [&told[0], &told[2]] {
        let report = &reports[alert.command.as_ref().unwrap()];
        assert_eq!(
            (report.state, report.name.as_str()),
            (command::State::Succeeded, "note")
        );
    }
    assert_eq!(states(&stored, "old"), []);
    assert_eq!(stored.broken_promises, []);
    drop(stored);
    assert_eq!(agent.ran().len(), 2);
}

#[test]
fn killed_while_it_fires_it_goes_on_and_runs_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = closed_cloud(22);
    let mut agent = Agent::start(dir.path(), &cloud, &hot());
    agent.reading("a", "temp", 90.0, 0);
    agent.wait_for(&["hot_a_90"]);
    agent.kill();
    let mut expected = vec!["hot_a_90".to_owned()];
    for n in 0..3 {
        let mut agent = Agent::start(dir.path(), &cloud, &hot());
        agent.reading("a", "temp", 91.0, 0);
        // What comes after it has run: so it was looked at.
        let marker = format!("m{n}");
        agent.reading(&marker, "temp", 85.0, 0);
        expected.push(format!("hot_{marker}_85"));
        agent.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>());
        agent.kill();
    }
    // It ends although the life in which it began is long gone.
    cloud.set_manners(Manners::Good);
    let mut agent = Agent::start(dir.path(), &cloud, &hot());
    agent.reading("a", "temp", 70.0, 0);
    cloud.wait_for("the end", |s| states(s, "a").contains(&State::Resolved));
    agent.stop();
    let stored = cloud.stored();
    let told = alerts(&stored, "a");
    assert_eq!(states(&stored, "a"), [State::Firing, State::Resolved]);
    assert_eq!(told[0].since, told[1].since);
    assert_eq!(reports(&stored).len(), 4);
    drop(stored);
    // Without the rule nobody could end what is left: the next start does.
    let agent = Agent::start(dir.path(), &cloud, "");
    cloud.wait_for("the end of the others", |s| {
        (0..3).all(|n| states(s, &format!("m{n}")) == [State::Firing, State::Resolved])
    });
    agent.stop();
    let stored = cloud.stored();
    let reason = alerts(&stored, "m0")[1].reason.clone().unwrap();
    assert!(reason.contains("no such rule"), "{reason}");
}

#[test]
fn a_rate_and_a_silence_run_a_program_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = closed_cloud(23);
    let rules = format!(
        "[[rule]]\nname = \"climbs\"\nkind = \"rate\"\nmetric = \"level\"\nraise = 5\nwithin = \"10s\"\n\
         stale_after = \"1d\"\n{RUN}\
         [[rule]]\nname = \"quiet\"\nkind = \"silence\"\nmetric = \"beat\"\nafter = \"200ms\"\n\
         devices = [\"s\"]\n{RUN}"
    );
    let mut agent = Agent::start(dir.path(), &cloud, &rules);
    // Silent from the start, heard, and silent again.
    agent.wait_for(&["quiet_s_none"]);
    agent.reading("s", "beat", 1.0, 0);
    agent.wait_for(&["quiet_s_none", "quiet_s_none"]);
    // 6 within 20 s is too slow; within 9 s it is not. Overtaken readings do not count.
    for (value, age) in [
        (1.0, 60_000),
        (7.0, 40_000),
        (-50.0, 50_000),
        (8.0, 30_000),
        (14.0, 21_000),
    ] {
        agent.reading("tank", "level", value, age);
    }
    agent.wait_for(&["climbs_tank_14", "quiet_s_none", "quiet_s_none"]);
    agent.reading("tank", "level", 15.0, 0);
    cloud.set_manners(Manners::Good);
    cloud.wait_for("the alerts", |s| {
        states(s, "tank") == [State::Firing, State::Resolved]
            && states(s, "s") == [State::Firing, State::Resolved, State::Firing]
    });
    let stored = cloud.stored();
    let (tank, s) = (alerts(&stored, "tank"), alerts(&stored, "s"));
    assert_eq!((tank[0].value, tank[1].value), (Some(14.0), Some(15.0)));
    assert!(tank[0].since == tank[0].at && tank[1].since == tank[0].since);
    assert_eq!((s[0].value, s[0].since), (None, s[1].since));
    assert!(s[0].at - s[0].since > 200_000, "{s:?}");
    drop(stored);
    agent.stop();
}

#[test]
fn a_rule_that_names_no_command_is_wrong_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(
        &path,
        "[[rule]]\nname = 'hot'\nmetric = 't'\nraise = 1\nrun = 'cool'",
    )
    .unwrap();
    for check in [&["check"][..], &[]] {
        let out = Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"))
            .arg("--config")
            .arg(&path)
            .args(check)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2));
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(
            text.contains(
                "rule[0].run: rule \"hot\": there is no [[command]] with the name \"cool\"; add it"
            ),
            "{text}"
        );
    }
}
