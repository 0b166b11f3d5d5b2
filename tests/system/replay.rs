//! Real input in, exact windows out: a file through the agent, and the same file through plain MQTT.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::edge::EdgeAgent;
use super::harness::{PATIENCE, Process, Server, System, command, is_installed, seed, skipped};
use super::oracle;

const CONFIG: &str = r#"
[[aggregates]]
name = "fleet"
[[aggregates]]
name = "by_metric"
group_by = ["metric"]
[[aggregates]]
name = "by_metric_1m"
group_by = ["metric"]
window = "1m"
"#;

/// A file and what its columns mean.
struct Data {
    file: PathBuf,
    device: &'static str,
    time: &'static str,
}

/// Twelve hours of three real devices, if they are on this machine.
fn real() -> Option<Data> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("TIDEWATCH_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| root.join("../shared"));
    let file = shared.join("data/iot-telemetry/telemetry_first_12h.csv");
    if !file.is_file() {
        skipped(&format!(
            "no {}; TIDEWATCH_SHARED says where the shared data is",
            file.display()
        ));
        return None;
    }
    Some(Data {
        file,
        device: "device_id",
        time: "ts",
    })
}

/// A file with everything that real files have: rows out of order, values of all types in the same
/// column, holes, negative numbers, numbers with every digit that a double has, and very unequal devices.
fn made(dir: &Path) -> Data {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut text = "ts,id,level,flow,valve,note\n".to_owned();
    let mut at = 1_709_251_200.0; // 2024-03-01
    for row in 0..6000 {
        at += rng.random_range(0.0..1.0);
        // Up to a minute late, with more digits than a microsecond.
        let ts = at - rng.random_range(0.0f64..1.0).powi(4) * 60.0;
        let device = (rng.random_range(0.0f64..1.0).powi(2) * 7.0) as u32;
        let level: f64 = rng.random_range(-1.0..1.0) * 10f64.powi(rng.random_range(-9..9));
        let level = match row % 5 {
            0 => String::new(),
            _ => level.to_string(),
        };
        let flow = f64::from(rng.random_range(-99_999i32..99_999)) / 100.0;
        let valve = ["true", "false", "TRUE", "0.5", "stuck", ""][rng.random_range(0..6)];
        let note = ["ok", "\"a, b\"", "", "Grüße"][rng.random_range(0..4)];
        writeln!(text, "{ts:.7},pump-{device},{level},{flow},{valve},{note}").unwrap();
    }
    let file = dir.join("made.csv");
    std::fs::write(&file, text).unwrap();
    Data {
        file,
        device: "id",
        time: "ts",
    }
}

/// How the data comes in.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The agent reads the file itself.
    Agent,
    /// The agent reads the messages that plain devices would send, a file for each device.
    AgentJson,
    /// `mosquitto_pub` sends those messages, a process for each device.
    Mosquitto,
}

/// Sends the data in, and compares every row of every aggregate, and the ledger.
#[track_caller]
fn check(server: &Server, data: &Data, way: Way) {
    if way == Way::Mosquitto && !is_installed("mosquitto_pub") {
        skipped("mosquitto_pub is not installed (Debian: mosquitto-clients)");
        return;
    }
    let messages = server.dir().join("messages");
    std::fs::create_dir(&messages).unwrap();
    let truth = oracle::of_csv(&data.file, data.device, data.time, &[10, 60], &messages);
    match way {
        Way::Mosquitto => publish(server, &messages),
        Way::Agent => {
            let (file, device, time) = (&data.file, data.device, data.time);
            let source = format!(
                "path = {file:?}\ndevice_column = {device:?}\ntime_column = {time:?}\ntime_format = \"s\"\n"
            );
            replay(server, &[source]);
        }
        Way::AgentJson => {
            let source = |(device, file): (String, PathBuf)| {
                format!("path = {file:?}\nformat = \"jsonl\"\ndevice = {device:?}\n")
            };
            let sources: Vec<String> = files_of(&messages).into_iter().map(source).collect();
            replay(server, &sources);
        }
    }
    oracle::expect(server, "fleet", &truth[&10].of_all(true));
    oracle::expect(server, "by_metric", &truth[&10].of_all(false));
    oracle::expect(server, "by_metric_1m", &truth[&60].of_all(false));
    oracle::expect_ledger(server, truth[&10].events());
}

/// An agent with file sources, to their ends.
#[track_caller]
fn replay(server: &Server, sources: &[String]) {
    let source = |text: &String| format!("[[source]]\nkind = \"file\"\nspeed = 0.0\n{text}");
    let tables: String = sources.iter().map(source).collect();
    let mut agent = EdgeAgent::new(server, "replay-1", &tables);
    agent.start();
    agent.wait_done();
}

/// The files of messages by device.
#[track_caller]
fn files_of(messages: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(messages).unwrap();
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.path())
    });
    let files: Vec<_> = files.collect();
    assert!(!files.is_empty(), "there are no messages");
    files
}

/// A `mosquitto_pub` for each device, all at once, a message for each line.
#[track_caller]
fn publish(server: &Server, messages: &Path) {
    let log = server.dir().join("mosquitto.log");
    let port = server.mqtt().port().to_string();
    let mut running = Vec::new();
    for (device, file) in files_of(messages) {
        let topic = format!("devices/{device}/telemetry");
        let mut publisher = command("mosquitto_pub");
        publisher
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-q",
                "1",
                "-l",
                "-t",
                &topic,
            ])
            .stdin(File::open(file).unwrap())
            .stdout(Stdio::null());
        running.push(Process::start(&topic, &mut publisher, &log));
    }
    for mut publisher in running {
        let status = publisher.wait(PATIENCE);
        assert!(status.success(), "{status}: {}", publisher.logged());
    }
}

#[test]
fn a_real_file_through_the_agent_gives_the_windows_of_the_oracle() {
    let Some(data) = real() else { return };
    let mut server = System::new().config(CONFIG).start();
    check(&server, &data, Way::Agent);
    server.stop();
}

#[test]
fn a_real_file_through_mosquitto_gives_the_windows_of_the_oracle() {
    let Some(data) = real() else { return };
    let mut server = System::new().config(CONFIG).start();
    check(&server, &data, Way::Mosquitto);
    server.stop();
}

#[test]
fn a_difficult_file_through_the_agent_gives_the_windows_of_the_oracle() {
    let server = System::new().config(CONFIG).start();
    check(&server, &made(server.dir()), Way::Agent);
}

#[test]
fn difficult_json_lines_through_the_agent_give_the_windows_of_the_oracle() {
    let server = System::new().config(CONFIG).start();
    check(&server, &made(server.dir()), Way::AgentJson);
}

#[test]
fn difficult_messages_through_mosquitto_give_the_windows_of_the_oracle() {
    let server = System::new().config(CONFIG).start();
    check(&server, &made(server.dir()), Way::Mosquitto);
}
