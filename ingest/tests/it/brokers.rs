//! The other two forms of the broker interface: rumqttd in process, and a broker elsewhere
//! (mosquitto where it is installed, a rumqttd of the test's own otherwise).

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use event::{Ack, Record, RefusalReason};
use ingest::settings::Broker;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{PATIENCE, System, agent, batch, settings, start};

/// Publishes a good and a bad batch and telemetry, and expects the ack, the refusal and the records.
async fn check(system: &System, host: &str, port: u16) {
    let mut options = MqttOptions::new("gw-1-7", host, port);
    options.set_credentials("gw-1", "");
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 10);
    client
        .subscribe(event::topic::ack(&agent("gw-1")), QoS::AtLeastOnce)
        .await
        .unwrap();
    let mut acks = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let batch_topic = event::topic::batch(&agent("gw-1"));
    let mut broken = batch("gw-1", 3, 101, 5);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    // An agent repeats what is not acked: ingest may not have subscribed yet.
    let mut again = tokio::time::interval(Duration::from_millis(200));
    let mut tx_no = 0;
    let stored = |acks: &[Ack]| {
        acks.iter()
            .any(|a| a.ranges.iter().any(|r| (r.first, r.last) == (1, 50)))
    };
    let refused = |acks: &[Ack]| {
        acks.iter().any(|a| {
            a.refused
                .iter()
                .any(|r| r.reason == RefusalReason::Checksum)
        })
    };
    while !(stored(&acks) && refused(&acks)) {
        tokio::select! {
            _ = again.tick() => {
                tx_no += 1;
                let payload = batch("gw-1", tx_no, 1, 50);
                let _ = client.try_publish(&batch_topic, QoS::AtLeastOnce, false, payload);
                let _ = client.try_publish(&batch_topic, QoS::AtLeastOnce, false, broken.clone());
                let telemetry = "{\"t\": 1}";
                let _ = client.try_publish("devices/d/telemetry", QoS::AtLeastOnce, false, telemetry);
            }
            event = events.poll() => match event {
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    assert_eq!(p.topic, "tidewatch/v1/gw-1/ack");
                    acks.push(Ack::decode(&p.payload).unwrap());
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            },
            () = tokio::time::sleep_until(deadline) => panic!("no ack in time: {acks:?}"),
        }
    }
    system
        .until("a batch and telemetry", |records| {
            let batch = records.iter().any(|r| matches!(r, Record::Batch(_)));
            let plain = records.iter().any(|r| matches!(r, Record::Plain(_)));
            (batch && plain).then_some(())
        })
        .await;
    let record = system.refusal(RefusalReason::Checksum).await;
    assert_eq!(record.agent, Some(agent("gw-1")));
}

#[tokio::test]
async fn rumqttd_in_process_feeds_the_log() {
    let mut with_rumqttd = settings();
    with_rumqttd.broker = Broker::Rumqttd;
    let system = start(with_rumqttd).await;
    check(&system, "127.0.0.1", system.addr.port()).await;
    system.stop().await;
}

#[tokio::test]
async fn an_external_broker_feeds_the_log_also_after_it_was_away() {
    let found = Command::new("sh")
        .args(["-c", "command -v mosquitto"])
        .stdout(Stdio::null())
        .status()
        .await;
    if !found.is_ok_and(|s| s.success()) {
        eprintln!("skipped: mosquitto is not here");
        return;
    }
    let port = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("mosquitto.conf");
    std::fs::write(
        &config,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\n"),
    )
    .unwrap();
    let broker = || {
        Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let listening = || async {
        let connect = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, connect)
            .await
            .expect("mosquitto listens in time");
    };
    let mut external = settings();
    external.broker = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
    // Ingest waits for its broker.
    let system = start(external).await;
    let mut first = broker();
    listening().await;
    check(&system, "127.0.0.1", port).await;
    first.kill().await.unwrap();
    let _second = broker();
    listening().await;
    check(&system, "127.0.0.1", port).await;
    system.stop().await;
}
