//! Whole runs over real sockets: a small MQTT peer in front of the cloud of [`crate::model`], which
//! drops connections, dies and comes back. The real server is tested at the top of the workspace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, Packet, PubAck, Publish, SubAck};
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};
use simulator::clock::wall_clock;
use simulator::{Report, Scenario, Settings, truth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::model::Cloud;

#[derive(Default)]
struct Shared {
    cloud: Cloud,
    /// The retained status of each agent.
    statuses: BTreeMap<String, String>,
    clients: Vec<(String, String)>,
    publishes: u64,
    /// Every so many publishes the connection dies before the answer.
    dies_after: Option<u64>,
}

type Peer = Arc<Mutex<Shared>>;

async fn serve(listener: TcpListener, peer: Peer) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let peer = Arc::clone(&peer);
        tokio::spawn(async move {
            // A client that goes away is part of the test.
            let _ = connection(socket, peer).await;
        });
    }
}

async fn connection(mut socket: TcpStream, peer: Peer) -> Result<(), Box<dyn std::error::Error>> {
    let mut input = BytesMut::new();
    let mut will = None;
    loop {
        let mut out = BytesMut::new();
        let mut is_dead = false;
        while let Ok(packet) = Packet::read(&mut input, 2 << 20) {
            let mut p = peer.lock().unwrap();
            match packet {
                Packet::Connect(c) => {
                    p.clients
                        .push((c.client_id, c.login.map(|l| l.username).unwrap_or_default()));
                    will = c.last_will;
                    ConnAck::new(ConnectReturnCode::Success, false).write(&mut out)?;
                }
                Packet::Subscribe(s) => {
                    let code = SubscribeReasonCode::Success(QoS::AtLeastOnce);
                    SubAck::new(s.pkid, vec![code]).write(&mut out)?;
                }
                Packet::Publish(m) => {
                    p.publishes += 1;
                    let publishes = p.publishes;
                    if p.dies_after.is_some_and(|n| publishes.is_multiple_of(n)) {
                        is_dead = true;
                        break;
                    }
                    PubAck::new(m.pkid).write(&mut out)?;
                    if m.topic.ends_with("/status") {
                        assert!(m.retain);
                        p.statuses
                            .insert(m.topic, String::from_utf8(m.payload.to_vec())?);
                        continue;
                    }
                    let (agent, ack) = p.cloud.append(&m.payload);
                    assert_eq!(m.topic, format!("tidewatch/v1/{agent}/batch"));
                    let topic = format!("tidewatch/v1/{agent}/ack");
                    Publish::new(topic, QoS::AtMostOnce, ack.encode()).write(&mut out)?;
                }
                Packet::PingReq => rumqttc::mqttbytes::v4::PingResp.write(&mut out).map(drop)?,
                Packet::Disconnect => {
                    will = None;
                    is_dead = true;
                }
                _ => {}
            }
        }
        if !is_dead {
            socket.write_all(&out).await?;
        }
        if is_dead || socket.read_buf(&mut input).await.unwrap_or(0) == 0 {
            if let Some(will) = will {
                let text = String::from_utf8(will.message.to_vec())?;
                peer.lock().unwrap().statuses.insert(will.topic, text);
            }
            return Ok(());
        }
    }
}

async fn settings(listener: &TcpListener) -> Settings {
    let address = format!("mqtt://{}", listener.local_addr().unwrap());
    let mut s = Settings::new(address.parse().unwrap(), 40, 5, 2000.0);
    s.duration = Some(Duration::from_secs(2));
    s.linger = Duration::from_millis(20);
    s.ack_timeout = Duration::from_millis(200);
    s.reconnect = (Duration::from_millis(10), Duration::from_millis(50));
    s.settle = Duration::ZERO;
    s.drain = Duration::from_secs(60);
    s.scenario.faults.restart_down = Duration::from_millis(20);
    s
}

fn check(report: &Report, peer: &Peer, file: &std::path::Path) {
    let p = peer.lock().unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(p.cloud.events.len() as u64, report.events);
    assert_eq!(p.cloud.broken_promises, 0);
    assert_eq!(p.cloud.incidents, Vec::<String>::new());
    let (summary, rows) = truth::read(file).unwrap();
    assert_eq!((summary.events, summary.outstanding), (report.events, 0));
    assert_eq!(rows.len() as u64, report.truth_rows);
    let measured = p
        .cloud
        .events
        .iter()
        .filter(|e| e.metric.as_attribute().is_none())
        .count() as u64;
    let of_fleet = rows
        .iter()
        .filter(|r| r.metric == "*" && r.group.is_empty());
    assert_eq!(of_fleet.map(|r| r.count).sum::<u64>(), measured);
    assert_eq!(summary.measured, measured);
    assert_eq!(p.statuses.len(), 5);
    for status in p.statuses.values() {
        assert!(status.contains("\"online\":false"), "{status}");
    }
    for (client, user) in &p.clients {
        assert!(client.starts_with(&format!("{user}-")) && client.len() == user.len() + 17);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calm_run_ends_complete_and_writes_the_truth() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut s = settings(&listener).await;
    s.truth = Some(dir.path().join("truth.jsonl"));
    let peer = Peer::default();
    let server = tokio::spawn(serve(listener, Arc::clone(&peer)));
    let report = simulator::run(s.clone(), CancellationToken::new())
        .await
        .unwrap();
    check(&report, &peer, s.truth.as_deref().unwrap());
    // 2000 a second for two seconds, and two attributes a device.
    assert!((4070..=4090).contains(&report.events), "{report}");
    assert_eq!((report.unanswered_ends, report.connections), (0, 5));
    let now = wall_clock();
    let p = peer.lock().unwrap();
    assert!(
        (1..=5).all(|n| p.cloud.progress(&format!("gw-{n:04}")).unwrap().0 > now.0 - 60_000_000)
    );
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dying_server_and_rough_agents_lose_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut s = settings(&listener).await;
    s.scenario = Scenario::rough();
    s.scenario.faults.restart = 60.0;
    s.scenario.faults.restart_down = Duration::from_millis(20);
    s.scenario.outage[0].from = Duration::from_millis(500);
    s.scenario.outage[0].to = Duration::from_millis(900);
    s.truth = Some(dir.path().join("truth.jsonl"));
    let peer = Peer::default();
    peer.lock().unwrap().dies_after = Some(37);
    let server = tokio::spawn(serve(listener, Arc::clone(&peer)));
    let report = simulator::run(s.clone(), CancellationToken::new())
        .await
        .unwrap();
    check(&report, &peer, s.truth.as_deref().unwrap());
    assert!(
        report.lost_connections > 0 && report.outages > 0 && report.restarts > 0,
        "{report}"
    );
    assert!(peer.lock().unwrap().cloud.duplicates > 0);
    server.abort();
}

#[tokio::test]
async fn without_a_server_everything_is_reported_outstanding() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut s = settings(&listener).await;
    drop(listener);
    s.duration = Some(Duration::from_millis(200));
    s.drain = Duration::from_millis(300);
    let report = simulator::run(s, CancellationToken::new()).await.unwrap();
    assert!(!report.is_complete());
    assert_eq!((report.acked, report.outstanding), (0, report.events));
    assert_eq!(report.outstanding_agents.len(), 5);
    assert_eq!(report.unanswered_ends, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_end_stops_when_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut s = settings(&listener).await;
    s.duration = None;
    let peer = Peer::default();
    let server = tokio::spawn(serve(listener, Arc::clone(&peer)));
    let stop = CancellationToken::new();
    let run = tokio::spawn(simulator::run(s, stop.clone()));
    while peer.lock().unwrap().cloud.events.len() < 500 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let report = run.await.unwrap().unwrap();
    assert!(report.is_complete() && report.events >= 500, "{report}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_time_runs_through_the_past() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut s = settings(&listener).await;
    let start = event::EventTime(wall_clock().0 - 9 * 3600 * 1_000_000);
    s.start = Some(start);
    s.time_scale = 14_400.0;
    s.scenario =
        Scenario::parse("[[outage]]\nagents = [\"gw-0002\"]\nfrom = \"100ms\"\nto = \"1900ms\"")
            .unwrap();
    s.truth = Some(dir.path().join("truth.jsonl"));
    let peer = Peer::default();
    let server = tokio::spawn(serve(listener, Arc::clone(&peer)));
    let report = simulator::run(s.clone(), CancellationToken::new())
        .await
        .unwrap();
    check(&report, &peer, s.truth.as_deref().unwrap());
    assert!(report.outages > 0, "{report}");
    let (summary, _) = truth::read(s.truth.as_deref().unwrap()).unwrap();
    let last = event::EventTime::parse_rfc3339(&summary.to.unwrap()).unwrap();
    let hours = (last.0 - start.0) as f64 / 3.6e9;
    assert!((7.9..=8.0).contains(&hours), "{hours} hours");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_goes_on_as_the_same_agents() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut s = settings(&listener).await;
    s.duration = Some(Duration::from_millis(300));
    s.state = Some(dir.path().join("state.json"));
    s.truth = Some(dir.path().join("truth.jsonl"));
    let peer = Peer::default();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, Arc::clone(&peer)));
    let first = simulator::run(s.clone(), CancellationToken::new())
        .await
        .unwrap();
    check(&first, &peer, s.truth.as_deref().unwrap());
    // A run whose events all get lost with it: nobody listens.
    let mut alone = s.clone();
    alone.connect = "mqtt://127.0.0.1:1".parse().unwrap();
    alone.drain = Duration::ZERO;
    let lost = simulator::run(alone, CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(lost.acked, 0);
    assert_eq!(s.connect.port, address.port());
    let third = simulator::run(s.clone(), CancellationToken::new())
        .await
        .unwrap();
    assert!(third.is_complete());
    let p = peer.lock().unwrap();
    assert_eq!(p.cloud.events.len() as u64, first.events + third.events);
    assert_eq!(p.cloud.incidents, Vec::<String>::new());
    assert!(
        p.cloud.lost >= lost.outstanding,
        "{} {}",
        p.cloud.lost,
        lost.outstanding
    );
    assert!((1..=5).all(|n| p.cloud.live(&format!("gw-{n:04}")) == 1));
    server.abort();
}

#[tokio::test]
async fn a_server_that_was_never_there_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut s = settings(&listener).await;
    s.duration = None;
    s.connect_timeout = Duration::from_millis(300);
    let address = s.connect.to_string();
    // Refused from now on.
    drop(listener);
    let ended = simulator::run(s, CancellationToken::new());
    let error = tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&address) && error.to_lowercase().contains("refused"),
        "{error}"
    );
}
