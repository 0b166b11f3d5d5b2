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

#[track_caller]
fn check_through_agent(server: &Server, data: &Data) {
    let tables = format!(
        "[[source]]\nkind = \"file\"\npath = {:?}\nspeed = 0.0\ntime_format = \"s\"\n\
         device_column = {:?}\ntime_column = {:?}\n",
        data.file, data.device, data.time
    );
    let mut agent = EdgeAgent::new(server, "replay-1", &tables);
    agent.start();
    agent.wait_done();
    expect_all(server, data, None);
}

/// Every row of every aggregate, and the ledger.
#[track_caller]
fn expect_all(server: &Server, data: &Data, messages: Option<&Path>) {
    let truth = oracle::of_csv(&data.file, data.device, data.time, &[10, 60], messages);
    if let Some(messages) = messages {
        publish(server, messages);
    }
    oracle::expect(server, "fleet", &truth[&10].of_all(true));
    oracle::expect(server, "by_metric", &truth[&10].of_all(false));
    oracle::expect(server, "by_metric_1m", &truth[&60].of_all(false));
    oracle::expect_ledger(server, truth[&10].events());
}

/// A `mosquitto_pub` for each device, all at once, a message for each line.
#[track_caller]
fn publish(server: &Server, messages: &Path) {
    let log = server.dir().join("mosquitto.log");
    let port = server.mqtt().port().to_string();
    let mut running = Vec::new();
    for entry in std::fs::read_dir(messages).unwrap() {
        let entry = entry.unwrap();
        let topic = format!("devices/{}/telemetry", entry.file_name().to_string_lossy());
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
            .stdin(File::open(entry.path()).unwrap())
            .stdout(Stdio::null());
        running.push(Process::start(&topic, &mut publisher, &log));
    }
    assert!(!running.is_empty(), "nothing to publish");
    for mut publisher in running {
        let status = publisher.wait(PATIENCE);
        assert!(status.success(), "{status}: {}", publisher.logged());
    }
}

#[track_caller]
fn check_through_mosquitto(server: &Server, data: &Data) {
    if !is_installed("mosquitto_pub") {
        skipped("mosquitto_pub is not installed (Debian: mosquitto-clients)");
        return;
    }
    let messages = server.dir().join("messages");
    std::fs::create_dir(&messages).unwrap();
    expect_all(server, data, Some(&messages));
}

#[test]
fn a_real_file_through_the_agent_gives_the_windows_of_the_oracle() {
    let Some(data) = real() else { return };
    let mut server = System::new().config(CONFIG).start();
    check_through_agent(&server, &data);
    server.stop();
}

#[test]
fn a_difficult_file_through_the_agent_gives_the_windows_of_the_oracle() {
    let server = System::new().config(CONFIG).start();
    let data = made(server.dir());
    check_through_agent(&server, &data);
}

#[test]
fn a_real_file_through_mosquitto_gives_the_windows_of_the_oracle() {
    let Some(data) = real() else { return };
    let server = System::new().config(CONFIG).start();
    check_through_mosquitto(&server, &data);
}

#[test]
fn a_difficult_file_through_mosquitto_gives_the_windows_of_the_oracle() {
    let server = System::new().config(CONFIG).start();
    let data = made(server.dir());
    check_through_mosquitto(&server, &data);
}
