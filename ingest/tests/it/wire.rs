//! The front byte by byte: what goes over the wire when a rule is broken, the log fails, or somebody
//! is slow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use event::{Record, RefusalReason};
use eventlog::{Error, Log};
use ingest::{Append, Appending, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::common::{self, PATIENCE, System, agent, settings, start};

/// A connection that speaks in bytes.
pub struct Wire(pub TcpStream);

impl Wire {
    pub async fn open(system: &System) -> Self {
        Self(TcpStream::connect(system.addr).await.unwrap())
    }

    /// Connects and expects a CONNACK that accepts.
    pub async fn connect(system: &System, level: u8, id: &str, user: &str) -> Self {
        let mut wire = Self::open(system).await;
        wire.send(&connect(level, id, user, 60)).await;
        let connack = wire.packet().await.expect("a CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        wire
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next packet; none when the connection is closed.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, async {
            let mut packet = vec![self.0.read_u8().await.ok()?];
            let (mut len, mut shift) = (0usize, 0);
            loop {
                let byte = self.0.read_u8().await.ok()?;
                packet.push(byte);
                len |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = packet.len();
            packet.resize(start + len, 0);
            self.0.read_exact(&mut packet[start..]).await.ok()?;
            Some(packet)
        })
        .await
        .expect("a packet or the end in time")
    }
}

/// A packet of `first` byte and `body`.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn text(s: &str) -> Vec<u8> {
    let mut out = (s.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(s.as_bytes());
    out
}

/// CONNECT of protocol `level`, clean, with a user name unless it is empty.
pub fn connect(level: u8, id: &str, user: &str, keep_alive_s: u16) -> Vec<u8> {
    let mut body = text("MQTT");
    body.push(level);
    body.push(if user.is_empty() { 0x02 } else { 0x82 });
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(&text(id));
    if !user.is_empty() {
        body.extend_from_slice(&text(user));
    }
    packet(0x10, &body)
}

/// PUBLISH with QoS 1 (or 0 if `id` is 0).
pub fn publish(level: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if id > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(if id > 0 { 0x32 } else { 0x30 }, &body)
}

fn subscribe(level: u8, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(&text(filter));
    body.push(qos);
    packet(0x82, &body)
}

const TELEMETRY: &str = "devices/d/telemetry";

#[tokio::test]
async fn connects_that_break_a_rule_are_told_why() {
    let system = start(settings()).await;
    let long = "x".repeat(257);
    let mut mqtt31 = text("MQIsdp");
    mqtt31.extend_from_slice(&[3, 2, 0, 60]);
    mqtt31.extend_from_slice(&text("old"));
    let with_auth_method = {
        let mut body = text("MQTT");
        body.extend_from_slice(&[5, 2, 0, 60, 4, 0x15, 0, 1, b'x']);
        body.extend_from_slice(&text("id"));
        packet(0x10, &body)
    };
    let will = |level: u8, qos: u8, topic: &str| {
        let mut body = text("MQTT");
        body.extend_from_slice(&[level, 0x86 | (qos << 3), 0, 60]);
        if level == 5 {
            body.push(0);
        }
        body.extend_from_slice(&text("id"));
        if level == 5 {
            body.push(0);
        }
        body.extend_from_slice(&text(topic));
        body.extend_from_slice(&text("x"));
        body.extend_from_slice(&text("gw-1"));
        packet(0x10, &body)
    };
    for (bytes, answer) in [
        (connect(4, &long, "", 60), vec![0x20, 2, 0, 2]),
        (connect(5, &long, "", 60), vec![0x20, 3, 0, 0x85, 0]),
        (packet(0x10, &mqtt31), vec![0x20, 2, 0, 1]),
        (connect(6, "new", "", 60), vec![0x20, 3, 0, 0x84, 0]),
        (with_auth_method, vec![0x20, 3, 0, 0x8c, 0]),
        (
            will(5, 2, "tidewatch/v1/gw-1/status"),
            vec![0x20, 3, 0, 0x9b, 0],
        ),
        (
            will(5, 1, "tidewatch/v1/gw-2/status"),
            vec![0x20, 3, 0, 0x87, 0],
        ),
        (will(4, 1, "tidewatch/v1/gw-2/status"), vec![0x20, 2, 0, 5]),
        (packet(0x10, &vec![0; 20_000]), vec![0x20, 2, 0, 3]),
    ] {
        let mut wire = Wire::open(&system).await;
        wire.send(&bytes).await;
        assert_eq!(wire.packet().await, Some(answer), "{:02x?}", &bytes[..16]);
        assert_eq!(wire.packet().await, None);
    }
    // What is no CONNECT gets no answer.
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xc0, 0],
        &[0x10, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        let mut wire = Wire::open(&system).await;
        wire.send(bytes).await;
        assert_eq!(wire.packet().await, None, "{bytes:02x?}");
    }
    let record = system.refusal(RefusalReason::ProtocolError).await;
    assert_eq!(record.source, "127.0.0.1");
    // A will on a topic of the device's own is dropped, not held against it.
    let mut wire = Wire::open(&system).await;
    wire.send(&will(4, 1, "home/lamp/LWT")).await;
    assert_eq!(wire.packet().await, Some(vec![0x20, 2, 0, 0]));
    system.stop().await;
}

#[tokio::test]
async fn packets_that_break_a_rule_end_the_connection_with_a_reason_code() {
    let system = start(settings()).await;
    let qos2 = |level| {
        let mut p = publish(level, TELEMETRY, 1, b"{\"t\":1}");
        p[0] = 0x34;
        p
    };
    let alias = packet(
        0x32,
        &[&text("")[..], &[0, 1, 3, 0x23, 0, 1], b"x"].concat(),
    );
    let sub_id = packet(0x82, &[&[0, 1, 2, 0x0b, 1][..], &text("a"), &[0]].concat());
    for (level, bytes, code) in [
        (5, qos2(5), Some(0x9b)),
        (4, qos2(4), None),
        (5, alias, Some(0x94)),
        (5, sub_id, Some(0xa1)),
        (5, connect(5, "again", "", 60), Some(0x82)),
        (5, vec![0x32, 1, 0], Some(0x81)),
        (4, vec![0x32, 1, 0], None),
        (5, vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01], Some(0x81)),
        (5, vec![0x30, 0xff, 0xff, 0xff, 0x7f], Some(0x95)),
        (5, vec![0xf0, 0], Some(0x82)),
        (5, vec![0x62, 2, 0, 1], Some(0x82)),
    ] {
        let mut wire = Wire::connect(&system, level, "c", "").await;
        wire.send(&bytes).await;
        let last = wire.packet().await;
        match code {
            Some(code) => {
                let last = last.expect("a DISCONNECT");
                assert_eq!(
                    (last[0], last[2]),
                    (0xe0, code),
                    "{bytes:02x?} -> {last:02x?}"
                );
                assert_eq!(wire.packet().await, None);
            }
            None => assert_eq!(last, None, "{bytes:02x?}"),
        }
    }
    system.stop().await;
}

#[tokio::test]
async fn a_silent_connection_ends_after_one_and_a_half_keep_alives() {
    let system = start(settings()).await;
    let mut wire = Wire::open(&system).await;
    wire.send(&connect(5, "c", "", 1)).await;
    assert_eq!(wire.packet().await.unwrap()[0], 0x20);
    let begin = std::time::Instant::now();
    wire.send(&[0xc0, 0]).await;
    assert_eq!(wire.packet().await, Some(vec![0xd0, 0]));
    let last = wire.packet().await.unwrap();
    assert_eq!((last[0], last[2]), (0xe0, 0x8d));
    assert!(begin.elapsed() >= Duration::from_millis(1400));
    system.stop().await;
}

#[tokio::test]
async fn nobody_may_wait_with_the_connect() {
    let mut tight = settings();
    tight.front.connect_timeout_ms = 50;
    let system = start(tight).await;
    let mut slow = Wire::open(&system).await;
    slow.send(&[0x10]).await;
    assert_eq!(slow.packet().await, None);
    let record = system.refusal(RefusalReason::ProtocolError).await;
    assert!(record.message.contains("in time"), "{record:?}");
    system.stop().await;
}

#[tokio::test]
async fn one_connection_more_than_allowed_is_closed_at_once() {
    let mut tight = settings();
    tight.front.connections_max = 2;
    let system = start(tight).await;
    let _one = Wire::connect(&system, 4, "one", "").await;
    let mut two = Wire::connect(&system, 4, "two", "").await;
    let mut three = Wire::open(&system).await;
    assert_eq!(three.packet().await, None);
    two.send(&[0xe0, 0]).await;
    assert_eq!(two.packet().await, None);
    // There is room again as soon as the task is gone.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut wire = Wire::open(&system).await;
        wire.send(&connect(4, "four", "", 60)).await;
        if wire.packet().await.is_some() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
    system.stop().await;
}

#[tokio::test]
async fn subscriptions_are_answered_one_by_one() {
    let system = start(settings()).await;
    for (level, refused, invalid, shared) in [(4, 0x80, 0x80, 0x80), (5, 0x87, 0x8f, 0x9e)] {
        let mut wire = Wire::connect(&system, level, "c", "gw-1").await;
        for (filter, qos, code) in [
            ("tidewatch/v1/gw-1/ack", 2, 1),
            ("tidewatch/v1/gw-1/command", 0, 0),
            ("tidewatch/v1/gw-2/ack", 1, refused),
            ("a/#/b", 1, invalid),
            ("$share/g/tidewatch/v1/gw-1/ack", 1, shared),
        ] {
            wire.send(&subscribe(level, 9, filter, qos)).await;
            let suback = wire.packet().await.unwrap();
            assert_eq!(suback[0], 0x90);
            assert_eq!(*suback.last().unwrap(), code, "{filter} at level {level}");
        }
        // After an unsubscribe nothing comes any more.
        let send = |what: &'static str| {
            let topic = event::topic::command(&agent("gw-1"));
            system
                .downlink
                .send(&agent("gw-1"), &topic, Bytes::from(what))
        };
        send("one").unwrap();
        assert_eq!(wire.packet().await.unwrap()[0], 0x30);
        let mut body = vec![0, 5];
        if level == 5 {
            body.push(0);
        }
        body.extend_from_slice(&text("tidewatch/v1/gw-1/command"));
        wire.send(&packet(0xa2, &body)).await;
        assert_eq!(wire.packet().await.unwrap()[0], 0xb0);
        assert_eq!(send("two"), Err(ingest::DownlinkError::NotConnected));
    }
    system.stop().await;
}

#[tokio::test]
async fn many_subscriptions_reach_the_limit() {
    let system = start(settings()).await;
    let mut wire = Wire::connect(&system, 5, "reader", "").await;
    for i in 0..17u16 {
        wire.send(&subscribe(
            5,
            i + 1,
            &format!("tidewatch/v1/gw-{i}/status"),
            0,
        ))
        .await;
        let code = *wire.packet().await.unwrap().last().unwrap();
        assert_eq!(code, if i < 16 { 0 } else { 0x97 });
    }
    system.stop().await;
}

#[tokio::test]
async fn a_slow_reader_loses_deliveries_and_blocks_nobody() {
    let mut tight = settings();
    tight.front.output_bytes_max = 4096;
    tight.front.deliveries_max = 8;
    let system = start(tight).await;
    let mut slow = Wire::connect(&system, 4, "slow", "gw-1").await;
    slow.send(&subscribe(4, 1, "tidewatch/v1/gw-1/command", 1))
        .await;
    slow.packet().await.unwrap();
    let mut other = Wire::connect(&system, 4, "other", "gw-2").await;
    other
        .send(&subscribe(4, 1, "tidewatch/v1/gw-2/command", 1))
        .await;
    other.packet().await.unwrap();
    let (one, two) = (agent("gw-1"), agent("gw-2"));
    let payload = Bytes::from(vec![b'x'; 60_000]);
    // Eight are unacknowledged and eight wait: more is refused, at the latest when the socket is full.
    let mut queued = 0;
    while system
        .downlink
        .send(&one, &event::topic::command(&one), payload.clone())
        .is_ok()
    {
        queued += 1;
        assert!(queued < 1000, "nothing was ever refused");
        tokio::task::yield_now().await;
    }
    assert!(queued >= 8);
    system
        .downlink
        .send(&two, &event::topic::command(&two), payload)
        .unwrap();
    assert_eq!(other.packet().await.unwrap()[0], 0x32);
    // The slow one still gets what was queued, and goes on after acknowledging.
    for _ in 0..queued {
        let message = slow.packet().await.unwrap();
        assert_eq!(message[0], 0x32);
        let at = 4 + 2 + "tidewatch/v1/gw-1/command".len();
        slow.send(&[0x40, 2, message[at], message[at + 1]]).await;
    }
    system.stop().await;
}

/// What the log does with the next appends.
enum Mode {
    Pass,
    Busy,
    Full,
    /// Append, but let the answer wait.
    Hold,
}

/// The real log behind a switch.
struct Switched {
    log: Log,
    mode: Mutex<Mode>,
    held: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Switched {
    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    async fn held(&self) -> oneshot::Sender<()> {
        loop {
            if let Some(sender) = self.held.lock().unwrap().pop_front() {
                return sender;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Append for Switched {
    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn last_ingest_time(&self, partition: u16) -> Option<i64> {
        Append::last_ingest_time(&self.log, partition)
    }

    fn try_append(&self, partition: u16, records: Vec<Bytes>) -> Result<Appending, Error> {
        let append = |records| Append::try_append(&self.log, partition, records);
        match *self.mode.lock().unwrap() {
            Mode::Pass => append(records),
            Mode::Busy => Err(Error::QueueFull {
                records: 1,
                bytes: 1,
            }),
            Mode::Full => Ok(Box::pin(std::future::ready(Err(Error::Full {
                path: "log.redb".into(),
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            })))),
            Mode::Hold => {
                let pending = append(records)?;
                let (sender, receiver) = oneshot::channel();
                self.held.lock().unwrap().push_back(sender);
                Ok(Box::pin(async move {
                    let _ = receiver.await;
                    pending.await
                }))
            }
        }
    }
}

async fn switched(mut settings: Settings) -> (System, Arc<Switched>) {
    // Ticks would take part in the switching.
    settings.tick_ms = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let log = common::open_log(&dir);
    let switched = Arc::new(Switched {
        log: log.clone(),
        mode: Mutex::new(Mode::Pass),
        held: Mutex::default(),
    });
    let append: Arc<dyn Append> = switched.clone();
    (common::start_on(settings, dir, log, append).await, switched)
}

#[tokio::test]
async fn puback_comes_only_after_the_append_and_in_order() {
    let (system, log) = switched(settings()).await;
    let mut wire = Wire::connect(&system, 4, "c", "").await;
    log.set(Mode::Hold);
    wire.send(&publish(4, TELEMETRY, 1, b"{\"t\":1}")).await;
    wire.send(&publish(4, TELEMETRY, 2, b"{\"t\":2}")).await;
    wire.send(&[0xc0, 0]).await;
    // The ping overtakes: both publishes are under way and not acknowledged.
    assert_eq!(wire.packet().await, Some(vec![0xd0, 0]));
    let (first, second) = (log.held().await, log.held().await);
    second.send(()).unwrap();
    wire.send(&[0xc0, 0]).await;
    assert_eq!(wire.packet().await, Some(vec![0xd0, 0]));
    first.send(()).unwrap();
    assert_eq!(wire.packet().await, Some(vec![0x40, 2, 0, 1]));
    assert_eq!(wire.packet().await, Some(vec![0x40, 2, 0, 2]));
    log.set(Mode::Pass);
    system.stop().await;
}

#[tokio::test]
async fn a_full_disk_means_no_puback_no_ack_and_a_closed_connection() {
    let (system, log) = switched(settings()).await;
    let mut wire = Wire::connect(&system, 5, "c", "gw-1").await;
    wire.send(&subscribe(5, 1, "tidewatch/v1/gw-1/ack", 1))
        .await;
    wire.packet().await.unwrap();
    log.set(Mode::Full);
    let topic = event::topic::batch(&agent("gw-1"));
    wire.send(&publish(5, &topic, 1, &common::batch("gw-1", 1, 1, 3)))
        .await;
    wire.send(&publish(5, &topic, 2, &common::batch("gw-1", 2, 4, 3)))
        .await;
    let last = wire.packet().await.unwrap();
    assert_eq!((last[0], last[2]), (0xe0, 0x97), "{last:02x?}");
    assert!(String::from_utf8_lossy(&last).contains("disk is full"));
    assert_eq!(wire.packet().await, None);
    // With space again everything goes on.
    log.set(Mode::Pass);
    let mut wire = Wire::connect(&system, 5, "c", "gw-1").await;
    wire.send(&publish(5, &topic, 1, &common::batch("gw-1", 1, 1, 3)))
        .await;
    assert_eq!(wire.packet().await, Some(vec![0x40, 2, 0, 1]));
    system.stop().await;
}

#[tokio::test]
async fn a_busy_log_stops_the_reading_and_loses_nothing() {
    let mut tight = settings();
    tight.front.in_flight_max = 4;
    let (system, log) = switched(tight).await;
    let mut wire = Wire::connect(&system, 4, "c", "").await;
    log.set(Mode::Busy);
    for id in 1..=20 {
        wire.send(&publish(4, TELEMETRY, id, b"{\"t\":1}")).await;
    }
    // Not read, so not answered either.
    wire.send(&[0xc0, 0]).await;
    assert!(
        timeout(Duration::from_millis(100), wire.packet())
            .await
            .is_err()
    );
    log.set(Mode::Pass);
    let mut acknowledged = Vec::new();
    for _ in 0..21 {
        // The answer to the ping may overtake what is under way.
        match wire.packet().await.unwrap()[..] {
            [0x40, 2, 0, id] => acknowledged.push(id),
            ref other => assert_eq!(other, [0xd0, 0]),
        }
    }
    assert_eq!(acknowledged, Vec::from_iter(1..=20));
    let stored = system
        .records()
        .iter()
        .filter(|r| matches!(r, Record::Plain(_)))
        .count();
    assert_eq!(stored, 20);
    system.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_appends_and_acknowledges_them() {
    let (system, log) = switched(settings()).await;
    let mut wire = Wire::connect(&system, 5, "c", "gw-1").await;
    wire.send(&subscribe(5, 1, "tidewatch/v1/gw-1/ack", 0))
        .await;
    wire.packet().await.unwrap();
    log.set(Mode::Hold);
    let topic = event::topic::batch(&agent("gw-1"));
    wire.send(&publish(5, &topic, 7, &common::batch("gw-1", 1, 1, 3)))
        .await;
    let held = log.held().await;
    system.stop_token().cancel();
    // It has stopped reading and waits.
    wire.send(&publish(5, &topic, 8, &common::batch("gw-1", 2, 4, 3)))
        .await;
    assert!(
        timeout(Duration::from_millis(50), wire.packet())
            .await
            .is_err()
    );
    log.set(Mode::Pass);
    held.send(()).unwrap();
    assert_eq!(wire.packet().await, Some(vec![0x40, 2, 0, 7]));
    assert_eq!(wire.packet().await.unwrap()[0], 0x30, "the ack");
    let last = wire.packet().await.unwrap();
    assert_eq!((last[0], last[2]), (0xe0, 0x8b));
    system.stop().await;
}

#[tokio::test]
async fn acks_find_the_next_connection_of_the_agent() {
    let (system, log) = switched(settings()).await;
    log.set(Mode::Hold);
    let topic = event::topic::batch(&agent("gw-1"));
    let mut first = Wire::connect(&system, 4, "gw-1-1", "gw-1").await;
    first
        .send(&publish(4, &topic, 1, &common::batch("gw-1", 1, 1, 3)))
        .await;
    let held = log.held().await;
    drop(first);
    let mut second = Wire::connect(&system, 4, "gw-1-2", "gw-1").await;
    second
        .send(&subscribe(4, 1, "tidewatch/v1/gw-1/ack", 0))
        .await;
    second.packet().await.unwrap();
    log.set(Mode::Pass);
    held.send(()).unwrap();
    assert_eq!(second.packet().await.unwrap()[0], 0x30);
    system.stop().await;
}

#[tokio::test]
async fn a_start_on_a_full_disk_waits_and_notes_the_outage_before_anything_else() {
    let system = start(settings()).await;
    let mut wire = Wire::connect(&system, 4, "d", "").await;
    wire.send(&publish(4, TELEMETRY, 1, b"{\"t\":1}")).await;
    assert_eq!(wire.packet().await.map(|p| p[0]), Some(0x40));
    let dir = system.stop().await;
    let log = common::open_log(&dir);
    let switched = Arc::new(Switched {
        log: log.clone(),
        mode: Mutex::new(Mode::Full),
        held: Mutex::default(),
    });
    let prepare = || async {
        let append: Arc<dyn Append> = switched.clone();
        let auth = ingest::auth::from_settings(&settings().auth);
        ingest::Ingest::prepare_on(settings(), append, auth, common::clock())
            .await
            .unwrap()
    };
    let pause = Duration::from_millis(5);
    // A stop ends the waiting.
    let stop = tokio_util::sync::CancellationToken::new();
    let waiting = tokio::spawn({
        let (prepared, stop) = (prepare().await, stop.clone());
        async move { prepared.begin(pause, &stop).await }
    });
    stop.cancel();
    let ended = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(ended.unwrap().is_none());
    // Room ends it too.
    let (stop, prepared) = (tokio_util::sync::CancellationToken::new(), prepare().await);
    let addr = prepared.local_addr().unwrap();
    let before = common::records(&log).len();
    let waiting = tokio::spawn({
        let stop = stop.clone();
        async move { prepared.begin(pause, &stop).await }
    });
    // A client that is there already is not served yet.
    let mut early = Wire(TcpStream::connect(addr).await.unwrap());
    early.send(&connect(4, "early", "", 60)).await;
    early.send(&publish(4, TELEMETRY, 1, b"{\"t\":2}")).await;
    assert_eq!(common::records(&log).len(), before);
    assert!(!waiting.is_finished());
    switched.set(Mode::Pass);
    let ingest = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    let ingest = ingest.unwrap().expect("it goes on");
    let task = tokio::spawn(ingest.run(stop.clone()));
    assert_eq!(early.packet().await, Some(vec![0x20, 2, 0, 0]));
    assert_eq!(early.packet().await.map(|p| p[0]), Some(0x40));
    let records = common::records(&log);
    let gap = |r: &Record| matches!(r, Record::AvailabilityGap { .. });
    let plain = |r: &Record| matches!(r, Record::Plain(_));
    let places = |what: &dyn Fn(&Record) -> bool| {
        let found = records.iter().enumerate().filter(|(_, r)| what(r));
        found.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (gaps, plains) = (places(&gap), places(&plain));
    assert_eq!(plains.len(), 2, "{records:#?}");
    // The device's partition: data, gap, data.
    assert!(
        gaps.iter().any(|&g| plains[0] < g && g < plains[1]),
        "{records:#?}"
    );
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}
