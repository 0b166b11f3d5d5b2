//! The program as a whole, against a cloud that behaves badly.

mod cloud;
mod mqtt;
mod program;
mod tail;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cloud::{Cloud, Faults, Stored};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

/// An agent that is killed when the test ends.
struct Agent(Child);

impl Agent {
    fn write(dir: &Path, cloud: &Cloud, config: &str) {
        let path = dir.join("agent.toml");
        let server = format!("mqtt://{}", cloud.address);
        let fast = "[buffer]\ncommit_interval_ms = 20\n\
            [uplink]\nack_timeout_ms = 150\nack_timeout_max_ms = 500\nheartbeat_ms = 1000\n\
            refused_retry_ms = 100\nrefused_retry_max_ms = 300\n\
            reconnect_min_ms = 20\nreconnect_max_ms = 100\nsilence_max_ms = 1000\n";
        let data = dir.join("data");
        // Tables come last in TOML: the caller's own begin with the first bracket.
        let (top, tables) = config.split_at(config.find('[').unwrap_or(config.len()));
        let head = format!("agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\n");
        std::fs::write(
            &path,
            format!("{head}log = \"warn\"\n{top}\n{fast}\n{tables}"),
        )
        .unwrap();
    }

    fn command(dir: &Path) -> Command {
        let mut command = program::agent();
        command.arg("--config").arg(dir.join("agent.toml"));
        command
    }

    fn start(dir: &Path, cloud: &Cloud, config: &str, stdin: Stdio) -> Self {
        Self::write(dir, cloud, config);
        let child = Self::command(dir)
            .stdin(stdin)
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < at_most, "the agent does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often each event was counted, by what it says.
fn counted(stored: &Stored) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for s in stored
        .events
        .values()
        .filter(|s| s.metric.as_attribute().is_none())
    {
        let text = format!(
            "{} {} {} {:?}",
            s.time,
            s.device,
            s.metric,
            s.value.as_number()
        );
        *counts.entry(text).or_default() += 1;
    }
    counts
}

const ROWS: usize = 4000;
const START: i64 = 1_600_000_000;

/// Rows of three devices, and what they mean.
fn write_rows(path: &Path) -> BTreeMap<String, u64> {
    let mut text = "ts,id,temp,open\n".to_owned();
    let mut expected = BTreeMap::new();
    for i in 0..ROWS {
        let (t, device) = (START + i as i64, format!("dev-{}", i % 3));
        let (temp, open) = (i as f64 / 10.0, i % 7 == 0);
        writeln!(text, "{t},{device},{temp},{open}").unwrap();
        let time = event::EventTime::from_secs(t);
        for (metric, n) in [("temp", temp), ("open", f64::from(u8::from(open)))] {
            *expected
                .entry(format!("{time} {device} {metric} {:?}", Some(n)))
                .or_default() += 1;
        }
    }
    std::fs::write(path, text).unwrap();
    expected
}

fn replay(path: &Path, speed: f64) -> String {
    format!(
        "exit_when_done = true\n[attributes]\nsite = \"p1\"\n[[source]]\nkind = \"file\"\n\
         name = \"f\"\npath = {path:?}\ndevice_column = \"id\"\ntime_column = \"ts\"\n\
         time_format = \"s\"\nspeed = {speed:?}\n"
    )
}

#[test]
fn kill_9_with_lost_batches_acks_and_connections_counts_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let expected = write_rows(&file);
    let seed: u64 = rand::random_range(0..1000);
    let mut rng = StdRng::seed_from_u64(seed);
    let bad = Faults {
        lose_batch: 15,
        lose_ack: 20,
        repeat_ack: 10,
        cut: 3,
        refuse: 5,
        mute: false,
    };
    let cloud = Cloud::start(bad, seed);
    // The whole file would take two seconds.
    let config = replay(&file, 2000.0);
    for _ in 0..12 {
        let agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
        std::thread::sleep(Duration::from_millis(rng.random_range(20..350)));
        agent.kill();
    }
    cloud.set_faults(Faults {
        lose_ack: 20,
        lose_batch: 10,
        ..Faults::default()
    });
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    assert!(agent.wait(Duration::from_secs(60)).success(), "seed {seed}");
    let stored = cloud.stored();
    let got = counted(&stored);
    assert!(
        got == expected,
        "seed {seed}: {}",
        difference(&got, &expected)
    );
    assert!(
        stored.duplicates > 0,
        "nothing was ever sent twice: the test is too kind"
    );
    assert!(
        stored.gaps.is_empty() && stored.unclean.is_empty(),
        "a replay loses nothing"
    );
    assert_eq!(stored.broken_promises, [], "seed {seed}");
    // The last word: nothing held, the present time.
    let last = stored.headers.last().unwrap();
    assert_eq!((last.count, last.held.events), (0, 0));
    assert!(last.low_watermark.as_micros() > 1_700_000_000_000_000);
    // Every life that held something is told to be empty.
    for (inc, entry) in &stored.lineage {
        let sent = stored.events.range((*inc, 0)..=(*inc, u64::MAX)).count() as u64;
        assert_eq!(
            (entry.last_seq, entry.held),
            (sent, false),
            "seed {seed}: {inc}"
        );
    }
    for (client, user) in &stored.client_ids {
        assert!(
            user == "gw-1" && client.starts_with("gw-1-"),
            "{client} {user}"
        );
    }
}

fn difference(got: &BTreeMap<String, u64>, expected: &BTreeMap<String, u64>) -> String {
    let missing: Vec<_> = expected
        .keys()
        .filter(|k| !got.contains_key(*k))
        .take(5)
        .collect();
    let wrong: Vec<_> = got
        .iter()
        .filter(|(k, n)| expected.get(*k) != Some(n))
        .take(5)
        .collect();
    format!(
        "{} of {} events; missing {missing:?}, wrong {wrong:?}",
        got.len(),
        expected.len()
    )
}

#[test]
fn the_backlog_survives_while_nobody_listens_and_the_watermark_follows_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let expected = write_rows(&file);
    let cloud = Cloud::start(
        Faults {
            mute: true,
            ..Faults::default()
        },
        1,
    );
    let config = replay(&file, 0.0).replace("exit_when_done = true", "");
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    // It takes, never answers: the agent makes new connections and keeps everything.
    cloud.wait_for("a second connection", |s| s.connections >= 2);
    agent.signal(Signal::TERM);
    assert!(agent.wait(Duration::from_secs(15)).success());
    assert!(cloud.stored().events.is_empty());
    cloud.set_faults(Faults::default());
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    cloud.wait_for("everything", |s| counted(s).len() == expected.len());
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(15)).success());
    let stored = cloud.stored();
    assert!(counted(&stored) == expected);
    // While it drained, the watermark was that of the oldest event still held.
    let first = stored.headers.iter().find(|h| h.count > 0).unwrap();
    let lowest = event::EventTime::from_secs(START);
    assert!(
        first.low_watermark >= lowest
            && first.low_watermark.as_micros() < (START + 4000) * 1_000_000
    );
    assert_eq!(stored.broken_promises, []);
    let online: Vec<bool> = stored
        .statuses
        .iter()
        .map(|s| s.contains("\"online\":true"))
        .collect();
    assert_eq!(
        online.last(),
        Some(&false),
        "the last word is an orderly goodbye"
    );
}

#[test]
fn standard_input_is_taken_and_done_means_acked() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(
        Faults {
            lose_ack: 30,
            ..Faults::default()
        },
        2,
    );
    let config = "exit_when_done = true\n[[source]]\nkind = \"stdin\"\ndevice = \"gw-1\"\n";
    let mut agent = Agent::start(dir.path(), &cloud, config, Stdio::piped());
    let mut stdin = agent.0.stdin.take().unwrap();
    writeln!(
        stdin,
        "{{\"device\":\"d1\",\"ts\":1700000000123,\"values\":{{\"t\":21.5}}}}"
    )
    .unwrap();
    writeln!(stdin, "this is not JSON").unwrap();
    writeln!(stdin, "{{\"ok\":true,\"bad\":null}}").unwrap();
    drop(stdin);
    assert!(agent.wait(Duration::from_secs(30)).success());
    let stored = cloud.stored();
    let metrics: Vec<_> = stored.events.values().map(|s| s.metric.as_str()).collect();
    assert_eq!(metrics, ["t", "ok"]);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        log.contains("not taken") && log.contains("is null"),
        "{log}"
    );
}

#[test]
fn a_closed_standard_error_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 4);
    let config = "exit_when_done = true\n[[source]]\nkind = \"stdin\"\ndevice = \"gw-1\"\n";
    Agent::write(dir.path(), &cloud, config);
    let mut child = Agent::command(dir.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Agent)
        .unwrap();
    drop(child.0.stderr.take());
    let mut stdin = child.0.stdin.take().unwrap();
    writeln!(stdin, "{{\"t\":1}}\nthis is logged\n{{\"t\":2}}").unwrap();
    drop(stdin);
    assert!(child.wait(Duration::from_secs(30)).success());
    assert_eq!(cloud.stored().events.len(), 2);
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_when_the_rest_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let expected = write_rows(&file);
    let cloud = Cloud::start(Faults::default(), 5);
    let mut config = replay(&file, 0.0);
    config.push_str("[[source]]\nkind = \"file\"\npath = \"nowhere.csv\"\ndevice = \"d\"\n");
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    assert_eq!(agent.wait(Duration::from_secs(30)).code(), Some(1));
    assert!(counted(&cloud.stored()) == expected);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let reason = "source \"nowhere.csv\" cannot be read: nowhere.csv: No such file";
    assert!(log.contains("ERROR") && log.contains(reason), "{log}");
}

#[test]
fn a_killed_agent_with_live_sources_declares_the_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 3);
    let config = "[[source]]\nkind = \"host\"\ninterval_ms = 20\n";
    let agent = Agent::start(dir.path(), &cloud, config, Stdio::null());
    cloud.wait_for("samples", |s| s.events.len() > 20);
    agent.kill();
    let agent = Agent::start(dir.path(), &cloud, config, Stdio::null());
    cloud.wait_for("the declaration", |s| {
        !s.unclean.is_empty() && !s.lineage.is_empty()
    });
    agent.kill();
    let stored = cloud.stored();
    assert_eq!(stored.broken_promises, []);
    assert!(
        stored
            .events
            .values()
            .any(|s| s.metric.as_str() == "cpu_percent")
    );
}

#[test]
fn wrong_configuration_is_exit_code_2_and_check_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let out = program::agent()
            .arg("check")
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, text) = run("sorce = 1");
    assert_eq!(code, Some(2));
    assert!(text.contains("did you mean \"source\"?"), "{text}");
    let (code, text) = run("agent = 'a'");
    assert_eq!(code, Some(0), "{text}");
    // A check looks into the files to replay.
    let rows = dir.path().join("rows.csv");
    std::fs::write(&rows, "ts,id,temp\n1,a,2\n").unwrap();
    let source = |more: &str| format!("[[source]]\nkind = 'file'\npath = {rows:?}\n{more}");
    let (code, text) = run(&source("device_column = 'id'"));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&source("device_column = 'id'\nmetrics = ['tmp']"));
    assert_eq!(code, Some(2));
    assert!(text.contains("did you mean \"temp\"?"), "{text}");
    let (code, text) = run(&source("device_column = 'id'\ndelimiter = ';'"));
    assert!(code == Some(2) && text.contains("cannot be read"), "{text}");
    let (code, text) = run("[[source]]\nkind = 'file'\npath = 'nowhere'\ndevice = 'd'");
    assert!(code == Some(2) && text.contains("No such file"), "{text}");
}

#[test]
fn the_agent_reports_itself_and_answers_how_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 1);
    let config = "[[source]]\nkind = \"agent\"\ninterval_ms = 50\n";
    let status = |json: bool| {
        let mut command = Agent::command(dir.path());
        command.arg("status");
        if json {
            command.arg("--json");
        }
        let out = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    Agent::write(dir.path(), &cloud, config);
    let (code, _, text) = status(false);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("no agent answers on the data directory"),
        "{text}"
    );

    let agent = Agent::start(dir.path(), &cloud, config, Stdio::null());
    let reported = |name: &str| {
        let stored = cloud.stored();
        stored.events.values().any(|s| s.metric.as_str() == name)
    };
    let began = Instant::now();
    while !reported("agent_backlog_events") {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "nothing is reported"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for name in [
        "agent_backlog_events",
        "agent_memory_bytes",
        "agent_reconnects",
    ] {
        assert!(reported(name), "{name}");
    }
    let (code, text, error) = status(true);
    assert_eq!(code, Some(0), "{error}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json["connected_seconds"].is_u64(), "{text}");
    assert_eq!(json["dropped_events"], 0);
    let (_, text, _) = status(false);
    assert!(text.contains("uplink      connected for"), "{text}");
    // Killed, it leaves its socket behind, and nobody answers; the next one takes its place.
    agent.kill();
    assert_eq!(status(true).0, Some(1));
    let agent = Agent::start(dir.path(), &cloud, config, Stdio::null());
    let began = Instant::now();
    while status(true).0 != Some(0) {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it does not answer"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.kill();
}

#[test]
fn a_service_manager_is_told_ready_alive_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 1);
    Agent::write(dir.path(), &cloud, "");
    let path = dir.path().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let next = || {
        let mut bytes = [0; 256];
        let n = manager.recv(&mut bytes).expect("the agent says nothing");
        String::from_utf8(bytes[..n].to_vec())
            .unwrap()
            .trim()
            .to_owned()
    };
    let child = Agent::command(dir.path())
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut agent = Agent(child);
    let first: Vec<String> = (0..5).map(|_| next()).collect();
    let ready = first.iter().filter(|s| *s == "READY=1").count();
    let alive = first.iter().filter(|s| *s == "WATCHDOG=1").count();
    assert_eq!((ready, alive), (1, 4), "{first:?}");
    agent.signal(Signal::TERM);
    while next() != "STOPPING=1" {}
    assert!(agent.wait(Duration::from_secs(30)).success());
}
