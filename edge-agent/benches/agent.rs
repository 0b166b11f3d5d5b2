//! What the agent costs: memory, CPU time and bytes written of the real program, which is fed through its
//! standard input and talks to a cloud in this process.
//!
//! `TIDEWATCH_AGENT=$(deploy/build-agent x86_64-unknown-linux-gnu) cargo test -p edge-agent --bench agent`
//! measures all; names behind `--` choose: size, idle, rates, accept, backlog, rule. Each figure is a line of JSON.
//! (`cargo bench` does the same; this program itself need not be fast.)
//! CPU time is what counts: the wall clock depends on what else the machine does. Temporary files go where
//! TMPDIR says, which must be a disk: the system counts no bytes that are written to memory.

#![allow(clippy::print_stdout, reason = "figures are its output")]
#![allow(missing_docs, reason = "it is a program")]

#[path = "../tests/cloud/mod.rs"]
mod cloud;
#[path = "../tests/program/mod.rs"]
mod program;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloud::{Cloud, Faults, Manners};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const DEVICES: usize = 10;
const METRICS: usize = 10;
/// Events of one round of all series.
const ROUND: u64 = (DEVICES * METRICS) as u64;

struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Agent {
    fn start(cloud: &Cloud, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, data) = (format!("mqtt://{}", cloud.address), dir.path().join("data"));
        let config = format!(
            "agent = \"gw-1\"\nserver = {server:?}\ndata_dir = {data:?}\nlog = \"warn\"\n{config}"
        );
        std::fs::write(dir.path().join("agent.toml"), config).unwrap();
        let child = Self::run(dir.path());
        let agent = Self { child, dir };
        agent.wait_for_answer();
        agent
    }

    fn run(dir: &Path) -> Child {
        program::agent()
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .stdin(Stdio::piped())
            .stderr(std::fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap()
    }

    /// Kills it and starts it again; returns how long it took to answer.
    fn restart(&mut self) -> Duration {
        self.end();
        let began = Instant::now();
        self.child = Self::run(self.dir.path());
        self.wait_for_answer();
        began.elapsed()
    }

    fn wait_for_answer(&self) {
        let began = Instant::now();
        while self.status().is_none() {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "it does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn feed(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn status(&self) -> Option<Value> {
        let out = program::agent()
            .args(["status", "--json", "--config"])
            .arg(self.dir.path().join("agent.toml"))
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).ok()
    }

    fn backlog(&self, what: &str) -> u64 {
        self.status().unwrap()[what].as_u64().unwrap()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// CPU time of all threads so far, seconds.
    fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        // Behind the name in brackets: user and system time are the 12th and 13th, 100 ticks a second.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let ticks = rest.split_whitespace().skip(11).take(2);
        ticks.map(|t| t.parse::<u64>().unwrap()).sum::<u64>() as f64 / 100.0
    }

    /// A line `name: number …` of a file of /proc.
    fn number(&self, file: &str, name: &str) -> u64 {
        let text = self.proc(file);
        let rest = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let number = rest.trim_start_matches(':').split_whitespace().next();
        number.unwrap().parse().unwrap()
    }

    /// Resident memory now and at most, bytes.
    fn memory(&self) -> (u64, u64) {
        let kib = |name| self.number("status", name) * 1024;
        (kib("VmRSS"), kib("VmHWM"))
    }

    fn written(&self) -> u64 {
        self.number("io", "write_bytes")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Readings like those of rooms: a slow wave and noise, one or two decimals.
struct Rooms {
    rng: StdRng,
    tick: u64,
}

impl Rooms {
    fn new() -> Self {
        let rng = StdRng::seed_from_u64(1);
        Self { rng, tick: 0 }
    }

    /// One reading of each of the first `series` series.
    fn round(&mut self, series: usize) -> String {
        let mut text = String::new();
        self.tick += 1;
        for device in 0..series.div_ceil(METRICS) {
            write!(text, "{{\"device\":\"sensor-{device:04}\",\"values\":{{").unwrap();
            for metric in 0..METRICS.min(series - device * METRICS) {
                let wave = 20.0 + metric as f64 * 0.7 + (self.tick as f64 / 50.0).sin();
                let value = wave + self.rng.random_range(-0.2..0.2);
                let comma = if metric == 0 { "" } else { "," };
                let decimals = 1 + metric % 2;
                write!(text, "{comma}\"temperature_{metric}\":{value:.decimals$}").unwrap();
            }
            text.push_str("}}\n");
        }
        text
    }
}

const STDIN: &str = "[[source]]\nkind = \"stdin\"\n";

fn size() -> Value {
    let command = program::agent();
    let path = Path::new(command.get_program());
    json!({ "binary_bytes": std::fs::metadata(path).unwrap().len() })
}

/// What it takes to be there: this machine every 10 s, itself every minute, and heartbeats.
fn idle() -> Value {
    let cloud = Cloud::start(Faults::default(), 1);
    let agent = Agent::start(
        &cloud,
        "[[source]]\nkind = \"host\"\n[[source]]\nkind = \"agent\"\n",
    );
    std::thread::sleep(Duration::from_secs(5));
    let (began, before, written) = (Instant::now(), agent.cpu(), agent.written());
    std::thread::sleep(Duration::from_secs(120));
    let seconds = began.elapsed().as_secs_f64();
    json!({
        "cpu_percent": round((agent.cpu() - before) / seconds * 100.0),
        "memory_bytes_max": agent.memory().1,
        "disk_bytes_per_second": ((agent.written() - written) as f64 / seconds) as u64,
    })
}

/// A steady stream with acknowledgements, defaults everywhere.
fn rate(per_second: u64) -> Value {
    let cloud = Cloud::start(Faults::default(), 1);
    let mut agent = Agent::start(&cloud, STDIN);
    let mut rooms = Rooms::new();
    let (series, pause) = match per_second {
        0..ROUND => (per_second as usize, Duration::from_secs(1)),
        _ => (
            ROUND as usize,
            Duration::from_micros(1_000_000 * ROUND / per_second),
        ),
    };
    let mut stream = |agent: &mut Agent, span: Duration| {
        let (began, mut rounds) = (Instant::now(), 0);
        while began.elapsed() < span {
            agent.feed(&rooms.round(series));
            rounds += 1;
            std::thread::sleep((pause * rounds).saturating_sub(began.elapsed()));
        }
        u64::from(rounds) * series as u64
    };
    stream(&mut agent, Duration::from_secs(10));
    let sent = || {
        let stored = cloud.stored();
        (stored.events.len() as u64, stored.payload_bytes)
    };
    let (began, cpu, written, before) = (Instant::now(), agent.cpu(), agent.written(), sent());
    let events = stream(&mut agent, Duration::from_secs(60));
    let seconds = began.elapsed().as_secs_f64();
    let (cpu, written, after) = (agent.cpu() - cpu, agent.written() - written, sent());
    let payload = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
    let disk = written as f64 / events as f64;
    let memory = agent.memory();
    json!({
        "events_per_second": round(events as f64 / seconds),
        "memory_bytes": memory.0,
        "memory_bytes_max": memory.1,
        "cpu_percent": round(cpu / seconds * 100.0),
        "wire_bytes_per_event": round(payload),
        "disk_bytes_per_event": round(disk),
        "disk_bytes_per_payload_byte": round(disk / payload),
    })
}

/// As much as it takes, with the server away: events that are on disk, for each second of CPU time.
fn accept(name: &str, config: &str, text: &str, socket: Option<&str>) -> Value {
    const EVENTS: u64 = 4_000_000;
    let cloud = Cloud::start(Faults::default(), 1);
    cloud.set_manners(Manners::Refuses(ConnectReturnCode::ServiceUnavailable));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let config = config.replace("SOCKET", &path.display().to_string());
    let mut agent = Agent::start(
        &cloud,
        &format!("[buffer]\nbytes_max = 2000000000\n{config}"),
    );
    let before = agent.cpu();
    let mut stream = socket.map(|_| UnixStream::connect(&path).unwrap());
    for _ in 0..EVENTS / (ROUND * 100) {
        match &mut stream {
            Some(stream) => stream.write_all(text.as_bytes()).unwrap(),
            None => agent.feed(text),
        }
    }
    let began = Instant::now();
    while agent.backlog("backlog_events") < EVENTS {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "not all is stored"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let cpu = agent.cpu() - before;
    json!({
        "source": name,
        "events": EVENTS,
        "cpu_seconds": round(cpu),
        "events_per_cpu_second": (EVENTS as f64 / cpu) as u64,
        "buffer_bytes_per_event": round(agent.backlog("backlog_bytes") as f64 / EVENTS as f64),
        "memory_bytes_max": agent.memory().1,
    })
}

fn accept_all() -> Vec<Value> {
    let mut rooms = Rooms::new();
    let rounds: Vec<String> = (0..100).map(|_| rooms.round(ROUND as usize)).collect();
    let mut lines = String::new();
    for line in rounds.concat().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let device = line["device"].as_str().unwrap();
        let values = line["values"].as_object().unwrap();
        let fields: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
        writeln!(lines, "room,device={device} {}", fields.join(",")).unwrap();
    }
    let socket =
        "[[source]]\nkind = \"socket\"\nlisten = \"unix-stream://SOCKET\"\nformat = \"line\"\n";
    vec![
        accept("stdin, JSON lines", STDIN, &rounds.concat(), None),
        accept("socket, line protocol", socket, &lines, Some("")),
    ]
}

/// A gigabyte that nobody takes, in chunks of so many bytes (a chunk is a commit or a part of one).
fn backlog(chunk: usize) -> Value {
    const TEXT: usize = 900;
    const BYTES: u64 = 1_000_000_000;
    let cloud = Cloud::start(Faults::default(), 1);
    cloud.set_manners(Manners::Refuses(ConnectReturnCode::ServiceUnavailable));
    let commit = chunk / TEXT;
    let mut agent = Agent::start(
        &cloud,
        &format!("[buffer]\nbytes_max = 1200000000\ncommit_events = {commit}\n{STDIN}"),
    );
    let mut rng = StdRng::seed_from_u64(2);
    let letters: Vec<char> = ('0'..='z').filter(char::is_ascii_alphanumeric).collect();
    // More than a chunk holds, so that no chunk can be compressed.
    let mut text = String::new();
    for n in 0..1000 {
        let value: String = (0..TEXT)
            .map(|_| letters[rng.random_range(0..letters.len())])
            .collect();
        writeln!(text, "{{\"device\":\"d-{}\",\"t\":\"{value}\"}}", n % 10).unwrap();
    }
    while agent.backlog("backlog_bytes") < BYTES {
        for _ in 0..20 {
            agent.feed(&text);
        }
    }
    let filling = agent.memory();
    let start = agent.restart();
    let (began, started) = (Instant::now(), agent.memory());
    cloud.set_manners(Manners::Good);
    while began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(500));
    }
    let draining = agent.memory();
    json!({
        "chunk_bytes": chunk,
        "backlog_bytes": BYTES,
        "memory_bytes_filled": filling.0,
        "memory_bytes_filled_max": filling.1,
        "start_seconds_wall": round(start.as_secs_f64()),
        "memory_bytes_after_start_max": started.1,
        "memory_bytes_draining_max": draining.1,
        "drained_events": cloud.stored().events.len(),
    })
}

/// First argument of this program when it is the program that a rule runs.
const RAN: &str = "ran";

/// As the program that a rule runs: says when it began, and of which device it was told.
fn ran(mut args: impl Iterator<Item = String>) {
    let now = monotonic_us();
    let (path, device) = (args.next().unwrap(), args.next().unwrap());
    let socket = UnixDatagram::unbound().unwrap();
    let text = format!("{now} {device}");
    socket.send_to(text.as_bytes(), path).unwrap();
}

/// The same clock for all processes.
fn monotonic_us() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// How long it takes from a reading that is written to the agent's socket to the first line of the program
/// that a rule runs because of it. In that time the agent stores that the program starts.
fn rule() -> Value {
    const RUNS: usize = 500;
    let cloud = Cloud::start(Faults::default(), 1);
    let dir = tempfile::tempdir().unwrap();
    let (readings, told) = (dir.path().join("readings"), dir.path().join("told"));
    let program = std::env::current_exe().unwrap();
    let agent = Agent::start(
        &cloud,
        &format!(
            "[[source]]\nkind = \"socket\"\nlisten = \"unix-stream://{}\"\nformat = \"line\"\n\
             [[command]]\nname = \"note\"\nprogram = {program:?}\nargs = [{RAN:?}, {told:?}, \"{{dev}}\"]\n\
             max_length = {{ dev = 64 }}\nmax_per_hour = 1000\n\
             [[rule]]\nname = \"hot\"\nmetric = \"room.t\"\nraise = 80\nclear = 75\nrun = \"note\"\n\
             args = {{ dev = \"{{device}}\" }}\n",
            readings.display(),
        ),
    );
    let ear = UnixDatagram::bind(&told).unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 100];
    let mut heard = |device: &str| -> i64 {
        let n = ear.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..n]).unwrap();
        let (began, of) = text.split_once(' ').unwrap();
        assert_eq!(of, device);
        began.parse().unwrap()
    };
    let mut stream = UnixStream::connect(&readings).unwrap();
    let (mut by_rule, mut alone) = (Vec::new(), Vec::new());
    for n in 0..RUNS {
        // A rule may fire ten times a minute on a device.
        let device = format!("sensor-{n:04}");
        let written = monotonic_us();
        writeln!(stream, "room,device={device} t=81.5").unwrap();
        by_rule.push(heard(&device) - written);
        // What of it is the start of this program.
        let started = monotonic_us();
        let mut child = Command::new(&program)
            .args([RAN.as_ref(), told.as_os_str(), device.as_ref()])
            .spawn()
            .unwrap();
        alone.push(heard(&device) - started);
        child.wait().unwrap();
        // Readings come now and then; a storm is held back on purpose.
        std::thread::sleep(Duration::from_millis(150));
    }
    by_rule.sort_unstable();
    alone.sort_unstable();
    let ms = |times: &[i64], percent: usize| {
        let at = (times.len() * percent).div_ceil(100).max(1) - 1;
        round(times[at] as f64 / 1000.0)
    };
    drop(agent);
    json!({
        "runs": RUNS,
        "reading_to_program_ms_p50": ms(&by_rule, 50),
        "reading_to_program_ms_p99": ms(&by_rule, 99),
        "program_alone_ms_p50": ms(&alone, 50),
        "program_alone_ms_p99": ms(&alone, 99),
    })
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(RAN) {
        return ran(args);
    }
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|c| c == name);
    let print = |name: &str, figures: Value| println!("{}", json!({ name: figures }));
    if is_chosen("size") {
        print("size", size());
    }
    if is_chosen("idle") {
        print("idle", idle());
    }
    if is_chosen("rates") {
        for per_second in [10, 100, 1000] {
            print("rate", rate(per_second));
        }
    }
    if is_chosen("accept") {
        for figures in accept_all() {
            print("accept", figures);
        }
    }
    if is_chosen("rule") {
        print("rule", rule());
    }
    if is_chosen("backlog") {
        for chunk in [18_000, 200_000] {
            print("backlog", backlog(chunk));
        }
    }
}
