//! The program takes messages of a real mosquitto.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use event::Value;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::Agent;
use crate::cloud::{Cloud, Faults, Stored};

/// A mosquitto on a port of its own, ended with the test. What it holds outlives an orderly end.
struct Broker {
    child: Child,
    port: u16,
}

impl Broker {
    fn start(dir: &Path, port: Option<u16>) -> Self {
        let port = port.unwrap_or_else(|| {
            let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            free.local_addr().unwrap().port()
        });
        let config = dir.join("mosquitto.conf");
        // Debian puts it where only root looks for programs; as root it would give up its rights to
        // the folder.
        let path = std::env::var("PATH").unwrap_or_default();
        std::fs::write(
            &config,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
                 persistence_location {}/\nmax_queued_messages 0\n",
                dir.display()
            ),
        )
        .unwrap();
        let child = Command::new("mosquitto")
            .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{MISSING}: mosquitto: {e}"));
        let broker = Self { child, port };
        for _ in 0..3000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return broker;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("mosquitto does not listen on port {port}");
    }

    /// Ends it in order: it saves its sessions.
    fn stop(mut self) -> u16 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.port
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args(arguments);
        command
    }

    fn publish(&self, topic: &str, message: &str, more: &[&str]) {
        let mut arguments = vec!["-t", topic, "-m", message];
        arguments.extend(more);
        let status = self.client(&arguments).status();
        let status = status.unwrap_or_else(|e| panic!("{MISSING}: mosquitto_pub: {e}"));
        assert!(status.success());
    }

    /// Begins to publish all lines, each as a message with QoS 1.
    fn publish_lines(&self, topic: &str, lines: &[String]) -> Child {
        let mut child = self
            .client(&["-t", topic, "-q", "1", "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{MISSING}: mosquitto_pub: {e}"));
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(format!("{}\n", lines.join("\n")).as_bytes())
            .unwrap();
        drop(stdin);
        child
    }

    /// Publishes until the agent has a session at the broker.
    fn wait_for_agent(&self, cloud: &Cloud) {
        for n in 0..600 {
            self.publish(
                "zigbee2mqtt/probe",
                &format!("{{\"probe\":{n}}}"),
                &["-q", "1"],
            );
            std::thread::sleep(Duration::from_millis(50));
            if cloud
                .stored()
                .events
                .values()
                .any(|s| s.metric.as_str() == "probe")
            {
                return;
            }
        }
        panic!("the agent takes nothing");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MISSING: &str =
    "this test needs mosquitto (Debian: apt-get install mosquitto mosquitto-clients)";

fn config(broker: &Broker) -> String {
    format!(
        "[[source]]\nkind = \"mqtt\"\nserver = \"mqtt://127.0.0.1:{}\"\npayload_bytes_max = 10000\n\
         attributes = {{ room = \"lab\" }}\n\
         [[source.topics]]\nfilter = \"zigbee2mqtt/+\"\ndevice_level = 2\non_off = true\n\
         skip = [\"linkquality\", \"update\"]\nrename = {{ temperature = \"temperature_celsius\" }}\n\
         devices = {{ \"0x01\" = \"fridge\" }}\n\
         [[source.topics]]\nfilter = \"tele/+/SENSOR\"\ndevice_level = 2\ntime_key = \"Time\"\n\
         time_format = \"%Y-%m-%dT%H:%M:%S\"\nutc_offset = \"+01:00\"\nskip = [\"TempUnit\"]\n\
         [[source.topics]]\nfilter = \"esp/sensor/+/state\"\nformat = \"value\"\ndevice = \"esp-1\"\n\
         metric_level = 3\n",
        broker.port
    )
}

/// The newest value of each device and metric, as text.
fn values(stored: &Stored) -> BTreeMap<String, String> {
    let show = |value: &Value| match value {
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(t) => format!("{t:?}"),
    };
    let events = stored.events.values();
    events
        .map(|s| (format!("{} {}", s.device, s.metric), show(&s.value)))
        .filter(|(key, _)| !key.starts_with("probe "))
        .collect()
}

#[test]
fn zigbee2mqtt_tasmota_and_single_values_arrive_as_devices_metrics_and_types() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), None);
    let cloud = Cloud::start(Faults::default(), 1);
    // Kept at the broker from before: stale.
    broker.publish("zigbee2mqtt/stale", "{\"temperature\":1}", &["-r"]);
    let agent = Agent::start(dir.path(), &cloud, &config(&broker), Stdio::null());
    broker.wait_for_agent(&cloud);
    broker.publish(
        "zigbee2mqtt/Living room/lamp",
        "{\"too\":\"deep a topic\"}",
        &[],
    );
    broker.publish(
        "zigbee2mqtt/Living room",
        "{\"temperature\":21.3,\"humidity\":45,\"battery\":97,\"linkquality\":120,\
          \"occupancy\":true,\"state\":\"OFF\",\"action\":null,\"update\":{\"state\":\"idle\"}}",
        &[],
    );
    broker.publish("zigbee2mqtt/0x01", "{\"temperature\":4}", &["-r"]);
    broker.publish("zigbee2mqtt/broken", "not json", &[]);
    broker.publish(
        "tele/plug/SENSOR",
        "{\"Time\":\"2024-01-01T00:00:00\",\"ENERGY\":{\"Power\":12,\"Voltage\":230},\
          \"DS18B20\":{\"Temperature\":20.6},\"TempUnit\":\"C\"}",
        &[],
    );
    broker.publish("esp/sensor/door/state", "open", &[]);
    broker.publish("esp/sensor/level/state", "1.25", &["-q", "2"]);
    let expected = [
        ("Living-room @room", "\"lab\""),
        ("Living-room battery", "97"),
        ("Living-room humidity", "45"),
        ("Living-room occupancy", "true"),
        ("Living-room state", "false"),
        ("Living-room temperature_celsius", "21.3"),
        ("esp-1 @room", "\"lab\""),
        ("esp-1 door", "\"open\""),
        ("esp-1 level", "1.25"),
        ("fridge @room", "\"lab\""),
        ("fridge temperature_celsius", "4"),
        ("plug @room", "\"lab\""),
        ("plug DS18B20.Temperature", "20.6"),
        ("plug ENERGY.Power", "12"),
        ("plug ENERGY.Voltage", "230"),
    ];
    let expected: BTreeMap<String, String> =
        expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    cloud.wait_for("the last message", |s| {
        values(s).contains_key("esp-1 level")
    });
    let stored = cloud.stored();
    assert_eq!(values(&stored), expected);
    let plug = stored
        .events
        .values()
        .find(|s| s.metric.as_str() == "ENERGY.Power")
        .unwrap();
    // Midnight of another time zone.
    assert_eq!(plug.time, event::EventTime::from_secs(1_704_063_600));
    drop(stored);
    agent.kill();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("zigbee2mqtt/broken"), "{log}");
}

fn counted(stored: &Stored) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for s in stored.events.values().filter(|s| s.metric.as_str() == "n") {
        *counts
            .entry(s.value.as_number().unwrap() as u32)
            .or_default() += 1;
    }
    counts
}

#[test]
fn messages_of_qos_1_are_counted_once_while_agent_and_broker_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), None);
    let seed: u64 = rand::random_range(0..1000);
    let mut rng = StdRng::seed_from_u64(seed);
    let faults = Faults {
        lose_batch: 10,
        lose_ack: 15,
        ..Faults::default()
    };
    let cloud = Cloud::start(faults, seed);
    let config = config(&broker);
    let mut agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
    broker.wait_for_agent(&cloud);
    let mut n = 0;
    for round in 0..10 {
        let lines: Vec<String> = (n..n + 1000).map(|n| format!("{{\"n\":{n}}}")).collect();
        n += 1000;
        let mut publishing = broker.publish_lines("zigbee2mqtt/counter", &lines);
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
            agent.kill();
            agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
        }
        assert!(publishing.wait().unwrap().success());
        if round == 5 {
            // Messages wait in the saved session.
            agent.kill();
            let port = broker.stop();
            broker = Broker::start(dir.path(), Some(port));
            agent = Agent::start(dir.path(), &cloud, &config, Stdio::null());
        }
    }
    cloud.wait_for("every message", |s| counted(s).len() == n as usize);
    // The broker goes away and comes back under a running agent.
    let port = broker.stop();
    let broker = Broker::start(dir.path(), Some(port));
    broker.publish(
        "zigbee2mqtt/counter",
        &format!("{{\"n\":{n}}}"),
        &["-q", "1"],
    );
    cloud.wait_for("one more", |s| counted(s).len() == n as usize + 1);
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(15)).success());
    let counts = counted(&cloud.stored());
    let twice: Vec<_> = counts.into_iter().filter(|(_, n)| *n != 1).collect();
    assert_eq!(twice, [], "seed {seed}");
}

#[test]
fn a_message_that_is_too_large_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), None);
    let cloud = Cloud::start(Faults::default(), 3);
    let agent = Agent::start(dir.path(), &cloud, &config(&broker), Stdio::null());
    broker.wait_for_agent(&cloud);
    let message = |bytes: usize| format!("{{\"n\":\"{}\"}}", "x".repeat(bytes));
    broker.publish("zigbee2mqtt/large", &message(20_000), &["-q", "1"]);
    let file = dir.path().join("picture");
    std::fs::write(&file, message(5 << 20)).unwrap();
    let picture = file.display().to_string();
    let publish = ["-t", "zigbee2mqtt/picture", "-q", "1", "-f", &picture];
    assert!(broker.client(&publish).status().unwrap().success());
    // It is read past, and not sent again.
    let mut n = 0;
    while counted(&cloud.stored()).is_empty() {
        n += 1;
        assert!(n < 600, "nothing comes any more");
        broker.publish(
            "zigbee2mqtt/counter",
            &format!("{{\"n\":{n}}}"),
            &["-q", "1"],
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.kill();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        log.contains("zigbee2mqtt/large") && log.contains("payload_bytes_max"),
        "{log}"
    );
    assert!(log.contains("message of 5242916 bytes"), "{log}");
    assert!(!log.contains("no connection"), "{log}");
}
