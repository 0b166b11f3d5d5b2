//! The program on a machine whose clock nobody sets, against a cloud that tells the time.

mod cloud;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cloud::{Cloud, Faults, Manners};
use event::{ClockQuality, EventTime};

/// An agent that is killed when the test ends.
struct Agent(Child);

impl Agent {
    fn start(dir: &Path, cloud: &Cloud, more: &str) -> Self {
        let config = dir.join("agent.toml");
        let (server, data) = (format!("mqtt://{}", cloud.address), dir.join("data"));
        std::fs::write(
            &config,
            format!(
                "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"warn\"\n\
                 clock = \"none\"\n{more}\n[buffer]\ncommit_interval_ms = 20\n\
                 [uplink]\nack_timeout_ms = 150\nheartbeat_ms = 1000\nreconnect_min_ms = 20\n\
                 reconnect_max_ms = 100\n[[source]]\nkind = \"stdin\"\ndevice = \"d\"\n"
            ),
        )
        .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::piped())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn();
        Self(child.unwrap())
    }

    fn read(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What `status` says, once it says `what`.
    fn wait_for_status(&self, dir: &Path, what: &str) -> String {
        let began = Instant::now();
        loop {
            let output = Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"))
                .arg("--config")
                .arg(dir.join("agent.toml"))
                .arg("status")
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            if text.contains(what) {
                return text;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now() -> i64 {
    UNIX_EPOCH.elapsed().unwrap().as_micros() as i64
}

#[test]
fn readings_of_a_clock_that_nobody_sets_get_the_times_of_the_cloud_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Faults::default(), 1);
    cloud.set_manners(Manners::Silent);
    let mut agent = Agent::start(dir.path(), &cloud, "");
    let mut taken = Vec::new();
    for n in 0..3 {
        let before = now();
        agent.read(&format!("{{\"m\":{n}}}"));
        let text = agent.wait_for_status(dir.path(), &format!("{} readings", n + 1));
        assert!(text.contains("NOT SET"), "{text}");
        taken.push((before, now()));
    }
    // One with a time of its own is stored as usual.
    agent.read("{\"ts\":1700000000000,\"values\":{\"own\":1}}");
    agent.wait_for_status(dir.path(), "backlog     4 events");
    // What `status` shows is committed.
    drop(agent);

    cloud.set_manners(Manners::Good);
    let mut agent = Agent::start(dir.path(), &cloud, "exit_when_done = true");
    let before = now();
    agent.read("{\"m\":3}");
    drop(agent.0.stdin.take());
    let began = Instant::now();
    let status = loop {
        if let Some(status) = agent.0.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    taken.push((before, now()));

    let stored = cloud.stored();
    // What the cloud's answer may be off by is half its way, which is 10 s at most.
    let off = 5_100_000;
    for (n, (from, to)) in taken.into_iter().enumerate() {
        let of =
            |s: &&event::Sample| s.metric.as_str() == "m" && s.value.as_number() == Some(n as f64);
        let found: Vec<_> = stored.events.values().filter(of).collect();
        assert_eq!(found.len(), 1, "reading {n}");
        let time = found[0].time.0;
        assert!(
            from - off <= time && time <= to + off,
            "{n}: {time} {from} {to}"
        );
    }
    assert_eq!(
        stored.events.len(),
        5,
        "and nothing says that it is uncertain"
    );
    let own = stored.events.values().find(|s| s.metric.as_str() == "own");
    assert_eq!(own.unwrap().time, EventTime::from_secs(1_700_000_000));
    assert_eq!(stored.broken_promises, []);
    // It said nothing of the time before it knew it, and nothing but heartbeats.
    let first = &stored.headers[0];
    assert_eq!((first.count, first.low_watermark), (0, EventTime(0)));
    assert!(first.held.events >= 4);
    let none = |h: &event::BatchHeader| h.clock.quality == ClockQuality::None;
    assert!(stored.headers.iter().all(none));
    let minute = 60_000_000;
    let late = |h: &&event::BatchHeader| h.count > 0 && h.sent_at.0 < before - minute;
    assert_eq!(stored.headers.iter().find(late), None);
}
