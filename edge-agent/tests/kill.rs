//! The program killed at random moments, a hundred times: buffered while the server is away, and in the
//! end each line that was there to be read is counted exactly once.
//!
//! `TIDEWATCH_TEST_KILLS` sets how often, `TIDEWATCH_TEST_SEED` repeats a run's choices, and
//! `TIDEWATCH_AGENT` names the program (see `program`).

#![allow(
    clippy::print_stdout,
    reason = "a failure can only be repeated by its seed"
)]

mod cloud;
mod program;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloud::{Cloud, Faults, Manners, Stored};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rustix::process::{Pid, Signal, kill_process};

const KILLS: u32 = 100;
/// Lines that may be written for each life.
const LINES: u64 = 60;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's process, killed when the test ends.
struct Agent(Child);

impl Agent {
    fn start(dir: &Path) -> Self {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log"));
        let child = program::agent()
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// `kill -9`; it must have run until now.
    fn kill(mut self, dir: &Path) {
        if let Some(status) = self.0.try_wait().unwrap() {
            let log = std::fs::read_to_string(dir.join("log")).unwrap();
            panic!("it ended by itself with {status}: {log}");
        }
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, upon which it must end in order.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the agent does not end");
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

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}

/// How often each line was counted.
fn counted(stored: &Stored) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    let events = stored.events.values();
    for sample in events.filter(|s| s.metric.as_str() == "n") {
        let line = sample.value.as_number().expect("n is a number") as u64;
        *counts.entry(line).or_default() += 1;
    }
    counts
}

/// Appends lines in bursts until told to stop, some of them in two pieces; returns how many. Never more
/// than `allowed`: a slow machine, where a life lasts longer, must not have more to do.
fn write_lines(mut file: File, mut rng: StdRng, allowed: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        if next >= allowed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let mut text = String::new();
        for _ in 0..rng.random_range(1..10) {
            text.push_str(&format!("{{\"device\":\"d-{}\",\"n\":{next}}}\n", next % 5));
            next += 1;
        }
        let cut = rng.random_range(0..text.len());
        for piece in [&text[..cut], &text[cut..]] {
            file.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(rng.random_range(0..8)));
        }
    }
    next
}

#[test]
fn killed_a_hundred_times_it_counts_every_accepted_event_once() {
    let kills = number("TIDEWATCH_TEST_KILLS").map_or(KILLS, |n| n as u32);
    let seed = number("TIDEWATCH_TEST_SEED").unwrap_or_else(|| rand::random_range(0..100_000));
    println!("seed {seed} (TIDEWATCH_TEST_SEED), {kills} kills");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = dir.join("app.log");
    let cloud = Cloud::start(Faults::default(), seed);
    let (server, data) = (format!("mqtt://{}", cloud.address), dir.join("data"));
    std::fs::write(
        dir.join("agent.toml"),
        format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"warn\"\n\
             [buffer]\ncommit_interval_ms = 20\n\
             [uplink]\nack_timeout_ms = 200\nack_timeout_max_ms = 1000\nheartbeat_ms = 1000\n\
             batch_events_max = 100\nreconnect_min_ms = 20\nreconnect_max_ms = 200\n\
             [[source]]\nkind = \"tail\"\nname = \"t\"\npath = {path:?}\nfrom = \"begin\"\n\
             interval_ms = 10\n"
        ),
    )
    .unwrap();
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    let (end, allowed) = (AtomicBool::new(false), AtomicU64::new(LINES));
    let lines = std::thread::scope(|scope| {
        let writer_rng = StdRng::seed_from_u64(seed + 1);
        let writer = scope.spawn(|| write_lines(file, writer_rng, &allowed, &end));
        // Ends the writer also when an assertion below fails: the scope waits for it.
        let _end = End(&end);
        let began = Instant::now();
        let agent = Agent::start(dir);
        cloud.wait_for("the first line", |s| !counted(s).is_empty());
        // The moments of the kills follow the machine's speed: from before the buffer is open to well
        // after the first lines are sent.
        // A first start that took very long must not make a test of minutes.
        let start = began.elapsed().min(Duration::from_secs(2));
        agent.kill(dir);
        cloud.set_faults(Faults {
            lose_batch: 10,
            lose_ack: 15,
            repeat_ack: 10,
            cut: 3,
            ..Faults::default()
        });
        for n in 1..kills {
            // Away for eight starts out of ten: what is read is buffered over several lives.
            cloud.set_manners(match n % 10 {
                0 | 5 => Manners::Good,
                1..=3 => Manners::Refuses(ConnectReturnCode::ServiceUnavailable),
                4 => Manners::Deaf,
                _ => Manners::Silent,
            });
            allowed.fetch_add(LINES, Ordering::Relaxed);
            let agent = Agent::start(dir);
            std::thread::sleep(start.mul_f64(rng.random_range(0.0..1.5)));
            agent.kill(dir);
        }
        end.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    cloud.set_manners(Manners::Good);
    let agent = Agent::start(dir);
    let (mut moved, mut before) = (Instant::now(), 0);
    loop {
        let got = counted(&cloud.stored());
        if got.len() as u64 >= lines {
            break;
        }
        if got.len() > before {
            (moved, before) = (Instant::now(), got.len());
        }
        if moved.elapsed() > PATIENCE {
            let missing: Vec<u64> = (0..lines).filter(|n| !got.contains_key(n)).collect();
            let log = std::fs::read_to_string(dir.join("log")).unwrap();
            let (n, first, last) = (missing.len(), missing.first(), missing.last());
            panic!("seed {seed}: of {lines} lines {n} are missing, {first:?} to {last:?}; {log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // What would come twice would come now.
    agent.stop();
    let (connections, heard) = {
        let stored = cloud.stored();
        (stored.connections, stored.headers.len())
    };
    let agent = Agent::start(dir);
    cloud.wait_for("a last word", |s| {
        s.connections > connections && s.headers.len() > heard
    });
    agent.stop();

    let stored = cloud.stored();
    let counts = counted(&stored);
    let twice: Vec<_> = counts.iter().filter(|(_, n)| **n != 1).take(5).collect();
    assert!(twice.is_empty(), "seed {seed}: counted twice: {twice:?}");
    assert_eq!(counts.len() as u64, lines, "seed {seed}");
    assert!(stored.gaps.is_empty(), "seed {seed}: {:?}", stored.gaps);
    assert!(
        stored.unclean.is_empty(),
        "seed {seed}: it can be read again"
    );
    assert!(
        stored.broken_promises.is_empty(),
        "seed {seed}: behind a watermark"
    );
    // Else nothing was proved: events of earlier lives came from the buffer, and repeats were there to be
    // told apart.
    let headers = || stored.headers.iter().filter(|h| h.count > 0);
    let inherited = headers().filter(|h| h.e_inc != h.incarnation).count();
    println!(
        "{lines} lines, {} batches, {inherited} of them of earlier lives, {} events came again",
        headers().count(),
        stored.duplicates
    );
    assert!(kills < 20 || (inherited > 0 && stored.duplicates > 0));
}

/// Sets its flag when it goes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
