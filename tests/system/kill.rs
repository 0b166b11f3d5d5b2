//! `kill -9` of servers and agents at random times, under load, with lost acks and duplicates: in the
//! end every event is counted exactly once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::edge::EdgeAgent;
use super::harness::{PATIENCE, Process, Server, System, run, say, seed, tidewatch};
use super::oracle::{self, Windows};

/// Checkpoints so often that a server recovers from them, and not only from its log.
const CONFIG: &str = r#"
[log]
partitions = 4
[processor]
checkpoint_every = "300ms"
# A live fleet and recordings of years ago are counted side by side.
[retention]
panes = "7300d"
hours = "7300d"
days = "7300d"
[[aggregates]]
name = "fleet"
[[aggregates]]
name = "by_metric"
group_by = ["metric"]
"#;

/// Everything that a network and a fleet do wrong, all the time.
const SCENARIO: &str = r#"
[faults]
duplicate = 0.1
lost_ack = 0.1
reorder = 0.1
restart = 4.0
restart_down = "300ms"
[[outage]]
agents = 2
from = "2s"
to = "4s"
every = "5s"
"#;

const ROUNDS: u64 = 12;
/// Load lasts at least this long for each round.
const ROUND: Duration = Duration::from_millis(1300);
const AGENTS: usize = 2;
const ROWS: u32 = 4000;

fn rounds() -> u64 {
    match std::env::var("TIDEWATCH_TEST_KILLS") {
        Ok(text) => text.parse().expect("TIDEWATCH_TEST_KILLS is a number"),
        Err(_) => ROUNDS,
    }
}

/// A file for one agent: one row a second, three readings in each.
fn write_rows(path: &Path, agent: usize, rng: &mut StdRng) {
    // The two files lie in different years, so that their windows can be told apart.
    let start = 1_640_995_200 + agent as u64 * 31_536_000;
    let mut text = "ts,id,flow,pressure,is_open\n".to_owned();
    for row in 0..ROWS {
        let ts = start as f64 + f64::from(row) + rng.random_range(0.0..0.9);
        let device = rng.random_range(0..5);
        let (flow, pressure): (f64, f64) = (
            rng.random_range(-50.0..50.0),
            rng.random_range(900.0..1100.0),
        );
        let is_open = rng.random_bool(0.3);
        writeln!(
            text,
            "{ts:.3},file-{agent}-{device},{flow},{pressure:.2},{is_open}"
        )
        .unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn source(file: &Path, speed: f64) -> String {
    format!(
        "[[source]]\nkind = \"file\"\nname = \"file\"\npath = {file:?}\nspeed = {speed:?}\n\
         device_column = \"id\"\ntime_column = \"ts\"\ntime_format = \"s\"\n"
    )
}

/// Sets a flag when it goes, so that no thread outlives a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Lets an agent live and die until told to end; it is dead then.
fn torment(agent: &mut EdgeAgent, seed: u64, is_over: &AtomicBool, deaths: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !is_over.load(Ordering::Acquire) {
        agent.start();
        std::thread::sleep(Duration::from_millis(rng.random_range(50..1500)));
        if agent.kill9() {
            return;
        }
        deaths.fetch_add(1, Ordering::Relaxed);
    }
}

fn simulate(server: &Server, seed: u64, duration: Duration, truth: &Path) -> Process {
    let scenario = server.dir().join("scenario.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let mut command = tidewatch(&[
        "simulate",
        "--devices",
        "60",
        "--agents",
        "6",
        "--rate",
        "600",
    ]);
    command
        .arg("--connect")
        .arg(format!("mqtt://{}", server.mqtt()))
        .args(["--seed", &seed.to_string()])
        .args(["--duration", &format!("{}ms", duration.as_millis())])
        .args(["--device-prefix", "sim-", "--agent-prefix", "sim-gw-"])
        .args([
            "--linger",
            "150ms",
            "--ack-timeout",
            "700ms",
            "--heartbeat",
            "2s",
        ])
        .args(["--reconnect-max", "500ms", "--batch-events", "100"])
        .args(["--drain", "300s", "--settle", "1s"])
        .arg("--scenario")
        .arg(&scenario)
        .arg("--truth")
        .arg(truth);
    let log = server.dir().join("simulate.log");
    Process::start("tidewatch simulate", &mut command, &log)
}

/// Both aggregates and the ledger are exactly this.
#[track_caller]
fn expect(server: &Server, truth: &Windows, made: u64) {
    oracle::expect(server, "by_metric", &truth.of_all(false));
    oracle::expect(server, "fleet", &truth.of_all(true));
    oracle::expect_ledger(server, made);
}

#[test]
fn nothing_is_lost_and_nothing_counted_twice_over_kills_of_server_and_agents() {
    let (seed, rounds) = (seed(), rounds());
    let mut rng = StdRng::seed_from_u64(seed);
    let load = ROUND * u32::try_from(rounds).unwrap();
    let mut server = System::new().config(CONFIG).start();

    let mut files = Vec::new();
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let file = server.dir().join(format!("rows-{number}.csv"));
        write_rows(&file, number, &mut rng);
        // Slow enough that it lasts as long as the kills.
        let speed = f64::from(ROWS) / load.as_secs_f64();
        let agent = EdgeAgent::new(&server, &format!("edge-{number}"), &source(&file, speed));
        files.push(file);
        agents.push(agent);
    }
    let truth = server.dir().join("truth.jsonl");
    let mut fleet = simulate(&server, seed, load, &truth);

    let (is_over, deaths) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut kills = 0;
    std::thread::scope(|scope| {
        let ends = Ends(&is_over);
        for (number, agent) in agents.iter_mut().enumerate() {
            let (seed, is_over, deaths) = (seed + 1 + number as u64, &is_over, &deaths);
            scope.spawn(move || torment(agent, seed, is_over, deaths));
        }
        let began = Instant::now();
        while kills < rounds || began.elapsed() < load {
            // Often while it serves, sometimes while it still recovers or has not even bound its ports.
            let up = match rng.random_range(0..6) {
                0 => rng.random_range(0..100),
                _ => rng.random_range(100..1500),
            };
            std::thread::sleep(Duration::from_millis(up));
            server.kill9();
            kills += 1;
            if rng.random_range(0..5) == 0 {
                let after = Duration::from_millis(rng.random_range(0..300));
                server.start_and_kill9(after);
                kills += 1;
            }
            server.restart_unready();
        }
        drop(ends);
    });
    let deaths = deaths.into_inner();

    // Peace: everybody brings home what is left.
    server.wait_ready();
    for (agent, file) in agents.iter_mut().zip(&files) {
        agent.configure(&server, &source(file, 0.0));
        agent.start();
    }
    agents.iter_mut().for_each(EdgeAgent::wait_done);
    let status = fleet.wait(PATIENCE + Duration::from_secs(300));
    assert!(status.success(), "the fleet ended with {status}");

    let (expected, made) = expected(&truth, &files);
    expect(&server, &expected, made);
    let overview = server.http("/api/v1/overview");
    let duplicates = server.total("duplicate");
    say(&format!(
        "seed {seed}: {kills} kills of the server and {deaths} of agents, {made} events made, {duplicates} duplicates"
    ));
    assert!(duplicates > 0 && deaths > 0, "the test is too kind");
    assert_eq!(overview["incidents"], 0, "{overview}");
    assert_eq!(overview["totals"]["broken_promises"], 0, "{overview}");

    let url = format!("http://{}", server.http_address());
    let said = run(tidewatch(&["verify", "--url", &url, "--truth"]).arg(&truth));
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    // The same from the newest checkpoints and what is behind them, and from checkpoints alone.
    server.kill9();
    server.restart();
    expect(&server, &expected, made);
    server.stop();
    server.restart();
    expect(&server, &expected, made);
    server.stop();
}

/// The windows of all parts, and how many events were made in all, attributes included.
#[track_caller]
fn expected(truth: &Path, files: &[PathBuf]) -> (Windows, u64) {
    let text = std::fs::read_to_string(truth).unwrap();
    let summary: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(summary["outstanding"], 0, "{summary}");
    let mut made = summary["events"].as_u64().unwrap();
    let mut windows = oracle::rows(&text)[&10].clone();
    let messages = tempfile::tempdir().unwrap();
    for file in files {
        let part = &oracle::of_csv(file, "id", "ts", &[10], messages.path())[&10];
        assert_eq!(part.events(), 3 * u64::from(ROWS));
        made += part.events();
        windows = windows.with(part);
    }
    (windows, made)
}
