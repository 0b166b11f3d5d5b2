//! The front with the programs that people have: mosquitto_pub, mosquitto_sub, and Paho for Python.
//! A test says so and passes when its program is not installed.

use std::process::{Output, Stdio};
use std::time::Duration;

use event::{Record, RefusalReason, Value};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{PATIENCE, System, settings, start};

async fn has(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|s| s.success());
    if !found {
        eprintln!("skipped: {program} is not here");
    }
    found
}

fn mosquitto(program: &str, system: &System, version: &str) -> Command {
    let mut command = Command::new(program);
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &system.addr.port().to_string(),
        "-V",
        version,
    ]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Output {
    timeout(PATIENCE, command.output())
        .await
        .expect("ends in time")
        .unwrap()
}

#[tokio::test]
async fn mosquitto_publishes_and_subscribes() {
    if !has("sh", &["-c", "command -v mosquitto_pub"]).await {
        return;
    }
    for version in ["mqttv311", "mqttv5"] {
        let system = start(settings()).await;
        // Telemetry with QoS 0 and 1, and many lines over one connection.
        for qos in ["0", "1"] {
            let mut publish = mosquitto("mosquitto_pub", &system, version);
            publish.args([
                "-t",
                "devices/m/telemetry",
                "-q",
                qos,
                "-m",
                "{\"t\": 21.5}",
            ]);
            let output = run(&mut publish).await;
            assert!(output.status.success(), "{version} {qos}: {output:?}");
        }
        let lines: String = (0..500).map(|i| format!("{{\"n\": {i}}}\n")).collect();
        let file = system.dir.path().join("lines");
        std::fs::write(&file, lines).unwrap();
        let mut publish = mosquitto("mosquitto_pub", &system, version);
        publish.args(["-t", "devices/m/telemetry", "-q", "1", "-l"]);
        publish.stdin(std::fs::File::open(&file).unwrap());
        assert!(run(&mut publish).await.status.success());
        let numbers = system
            .until("502 messages", |records| {
                let all: Vec<f64> = records
                    .iter()
                    .filter_map(|r| match r {
                        Record::Plain(p) => match p.samples[0].value {
                            Value::Number(n) => Some(n),
                            _ => None,
                        },
                        _ => None,
                    })
                    .collect();
                (all.len() == 502).then_some(all)
            })
            .await;
        let sum: f64 = numbers.iter().sum();
        assert_eq!(sum, 43.0 + 499.0 * 250.0, "{version}");
        // A retained status reaches a later subscriber.
        let mut publish = mosquitto("mosquitto_pub", &system, version);
        let status = "{\"online\": true, \"incarnation\": \"1-0000000000000001\"}";
        publish.args([
            "-t",
            "tidewatch/v1/gw-1/status",
            "-q",
            "1",
            "-r",
            "-m",
            status,
        ]);
        assert!(run(&mut publish).await.status.success());
        let mut hear = mosquitto("mosquitto_sub", &system, version);
        hear.args([
            "-t",
            "tidewatch/v1/+/status",
            "-q",
            "1",
            "-C",
            "1",
            "-W",
            "15",
        ]);
        let output = run(&mut hear).await;
        assert!(output.status.success(), "{version}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), status);
        // What nobody may hear is refused.
        let mut hear = mosquitto("mosquitto_sub", &system, version);
        hear.args(["-t", "#", "-C", "1", "-W", "15"]);
        let output = run(&mut hear).await;
        // The program prints the refusal and exits with 0.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("denied"), "{version}: {said}");
        // QoS 2 is refused.
        let mut publish = mosquitto("mosquitto_pub", &system, version);
        publish.args(["-t", "devices/m/telemetry", "-q", "2", "-m", "{\"t\": 1}"]);
        // 5: the client reads the maximum QoS, says so and gives up (with 0). 3.1.1: it is
        // disconnected, and tries again for ever.
        let ended = timeout(Duration::from_secs(2), publish.output()).await;
        if version == "mqttv5" {
            let said = ended.expect("gives up").unwrap().stderr;
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("QoS not supported"), "{said}");
        }
        // Ten megabytes are refused.
        let large = system.dir.path().join("large");
        std::fs::write(&large, vec![b'x'; 10_000_000]).unwrap();
        let mut publish = mosquitto("mosquitto_pub", &system, version);
        publish
            .args(["-t", "devices/m/telemetry", "-q", "1", "-f"])
            .arg(&large);
        let _ = timeout(Duration::from_secs(5), publish.output()).await;
        if version == "mqttv311" {
            system.refusal(RefusalReason::TooLarge).await;
        }
        let plain = system
            .records()
            .iter()
            .filter(|r| matches!(r, Record::Plain(_)))
            .count();
        assert_eq!(plain, 502, "{version}");
        system.stop().await;
    }
}

#[tokio::test]
async fn mosquitto_leaves_a_last_will() {
    if !has("sh", &["-c", "command -v mosquitto_sub"]).await {
        return;
    }
    let system = start(settings()).await;
    let mut device = mosquitto("mosquitto_sub", &system, "mqttv311");
    device.args([
        "-u",
        "gw-1",
        "-i",
        "gw-1-1",
        "-t",
        "tidewatch/v1/gw-1/ack",
        "-q",
        "1",
    ]);
    device.args([
        "--will-topic",
        "tidewatch/v1/gw-1/status",
        "--will-qos",
        "1",
        "--will-retain",
    ]);
    device.args(["--will-payload", "{\"online\": false}"]);
    device.stdout(Stdio::null());
    let mut device = device.spawn().unwrap();
    // It is there as soon as something can be sent to it.
    let agent = crate::common::agent("gw-1");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while system
        .downlink
        .send(&agent, &event::topic::ack(&agent), "x".into())
        .is_err()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it did not subscribe"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    device.kill().await.unwrap();
    system
        .until("the will", |records| {
            records.iter().find_map(|r| match r {
                Record::Status(s) if !s.status.online => Some(()),
                _ => None,
            })
        })
        .await;
    system.stop().await;
}

#[tokio::test]
async fn paho_for_python_works() {
    let python = std::env::var("TIDEWATCH_PYTHON").unwrap_or_else(|_| "python3".into());
    if !has(
        &python,
        &[
            "-c",
            "import paho.mqtt.client as c; c.CallbackAPIVersion.VERSION2",
        ],
    )
    .await
    {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/paho_check.py");
    for version in ["3.1.1", "5"] {
        let system = start(settings()).await;
        let batch = system.dir.path().join("batch");
        std::fs::write(&batch, crate::common::batch("gw-1", 1, 1, 100)).unwrap();
        let mut command = Command::new(&python);
        command
            .arg(script)
            .arg(system.addr.port().to_string())
            .arg(version)
            .arg(&batch);
        command.kill_on_drop(true);
        let output = timeout(PATIENCE * 3, command.output())
            .await
            .expect("ends in time")
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let cried = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}{cried}");
        let records = system.records();
        let plain = records
            .iter()
            .filter(|r| matches!(r, Record::Plain(_)))
            .count();
        let batches = records
            .iter()
            .filter(|r| matches!(r, Record::Batch(_)))
            .count();
        assert_eq!((plain, batches), (300, 1), "{version}: {said}");
        system.stop().await;
    }
}
