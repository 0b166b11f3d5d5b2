//! The front against a real client library (rumqttc, 3.1.1 and 5), in this process.

use std::time::Duration;

use crate::common::{PATIENCE, System, agent, batch, settings, start};
use event::{Ack, Record, RefusalReason, Status};
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeReasonCode,
};
use tokio::time::timeout;

/// A rumqttc client whose packets are read one by one.
struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    fn options(system: &System, id: &str, user: Option<&str>) -> MqttOptions {
        let mut options = MqttOptions::new(id, system.addr.ip().to_string(), system.addr.port());
        options.set_max_packet_size(2 << 20, 2 << 20);
        options.set_keep_alive(Duration::from_secs(30));
        if let Some(user) = user {
            options.set_credentials(user, "");
        }
        options
    }

    async fn connect(options: MqttOptions) -> Self {
        let (client, events) = AsyncClient::new(options, 100);
        let mut this = Self { client, events };
        this.until("CONNACK", |p| matches!(p, Packet::ConnAck(_)).then_some(()))
            .await;
        this
    }

    async fn agent(system: &System, name: &str) -> Self {
        let id = format!("{name}-0000000000000007");
        let mut this = Self::connect(Self::options(system, &id, Some(name))).await;
        let topic = event::topic::ack(&agent(name));
        assert_eq!(
            this.subscribe(&topic).await,
            SubscribeReasonCode::Success(QoS::AtLeastOnce)
        );
        this
    }

    async fn next(&mut self) -> Result<Packet, rumqttc::ConnectionError> {
        loop {
            match timeout(PATIENCE, self.events.poll())
                .await
                .expect("a packet in time")?
            {
                Event::Incoming(packet) => return Ok(packet),
                Event::Outgoing(_) => {}
            }
        }
    }

    async fn until<T>(&mut self, what: &str, found: impl Fn(&Packet) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Ok(packet) => {
                    if let Some(t) = found(&packet) {
                        return t;
                    }
                }
                Err(error) => panic!("waiting for {what}: {error}"),
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.client
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .unwrap();
        self.until("SUBACK", |p| match p {
            Packet::SubAck(s) => Some(s.return_codes[0]),
            _ => None,
        })
        .await
    }

    async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload.into())
            .await
            .unwrap();
    }

    async fn puback(&mut self) -> u16 {
        self.until("PUBACK", |p| match p {
            Packet::PubAck(a) => Some(a.pkid),
            _ => None,
        })
        .await
    }

    async fn message(&mut self) -> Publish {
        self.until("PUBLISH", |p| match p {
            Packet::Publish(p) => Some(p.clone()),
            _ => None,
        })
        .await
    }

    async fn ack(&mut self) -> Ack {
        Ack::decode(&self.message().await.payload).unwrap()
    }

    /// Reads until the connection is closed from the other side.
    async fn closed(mut self) {
        while self.next().await.is_ok() {}
    }
}

#[tokio::test]
async fn a_batch_is_acked_with_exactly_its_range_after_it_is_on_disk() {
    let system = start(settings()).await;
    let mut client = Client::agent(&system, "gw-1").await;
    let topic = event::topic::batch(&agent("gw-1"));
    client.publish(&topic, batch("gw-1", 1, 101, 50)).await;
    client.publish(&topic, batch("gw-1", 2, 1, 50)).await;
    client.publish(&topic, batch("gw-1", 3, 151, 0)).await;
    let mut ranges = Vec::new();
    for tx_no in 1..=3 {
        let ack = client.ack().await;
        assert_eq!(ack.tx_no, tx_no);
        assert!(ack.cloud_received_at <= ack.cloud_sent_at);
        ranges.extend(ack.ranges.iter().map(|r| (r.first, r.last)));
    }
    assert_eq!(ranges, [(101, 150), (1, 50)]);
    let stored: Vec<Record> = system.records();
    assert_eq!(
        stored.len(),
        3,
        "all three are readable when they are acked"
    );
    assert!(matches!(&stored[0], Record::Batch(raw) if *raw == batch("gw-1", 1, 101, 50)));
    system.stop().await;
}

#[tokio::test]
async fn pubacks_come_in_order_and_many_publishes_are_under_way() {
    let system = start(settings()).await;
    let mut client = Client::connect(Client::options(&system, "many", None)).await;
    for i in 0..300u32 {
        let topic = format!("devices/d-{}/telemetry", i % 7);
        client
            .client
            .try_publish(topic, QoS::AtLeastOnce, false, format!("{{\"n\":{i}}}"))
            .ok();
        if i % 50 == 49 {
            for _ in 0..50 {
                client.puback().await;
            }
        }
    }
    let plain = system
        .records()
        .iter()
        .filter(|r| matches!(r, Record::Plain(_)))
        .count();
    assert_eq!(plain, 300);
    system.stop().await;
}

#[tokio::test]
async fn refused_batches_are_answered_with_the_reason_and_recorded() {
    let system = start(settings()).await;
    let mut client = Client::agent(&system, "gw-1").await;
    let topic = event::topic::batch(&agent("gw-1"));
    let mut version = batch("gw-1", 1, 1, 5);
    version[0] = 9;
    let mut checksum = batch("gw-1", 1, 1, 5);
    let last = checksum.len() - 1;
    checksum[last] ^= 1;
    for (payload, reason) in [
        (version, RefusalReason::UnknownVersion),
        (checksum, RefusalReason::Checksum),
        (batch("gw-2", 4, 7, 5), RefusalReason::WrongAgent),
        (Vec::new(), RefusalReason::Empty),
    ] {
        client.publish(&topic, payload).await;
        let ack = client.ack().await;
        assert_eq!(ack.refused[0].reason, reason);
        assert!(ack.ranges.is_empty() && !ack.refused[0].message.is_empty());
        let record = system.refusal(reason).await;
        assert_eq!(record.agent, Some(agent("gw-1")));
        assert_eq!(record.count, 1);
    }
    // The front goes on.
    client.publish(&topic, batch("gw-1", 5, 1, 5)).await;
    assert_eq!(client.ack().await.ranges[0].last, 5);
    assert!(
        !system
            .records()
            .iter()
            .any(|r| matches!(r, Record::Batch(b) if b.len() < 9))
    );
    system.stop().await;
}

#[tokio::test]
async fn bad_plain_messages_are_refused_with_their_reason() {
    let system = start(settings()).await;
    let mut client = Client::connect(Client::options(&system, "plain", None)).await;
    let long = format!("devices/{}/telemetry", "x".repeat(300));
    for (topic, payload, reason) in [
        ("devices/a/telemetry", &b""[..], RefusalReason::Empty),
        (
            "devices/b/telemetry",
            b"{\"t\": NaN}",
            RefusalReason::InvalidJson,
        ),
        (
            "devices/c/telemetry",
            b"\xff\xfe",
            RefusalReason::InvalidUtf8,
        ),
        (
            "devices/d/telemetry",
            b"{\"t\": {\"x\": 1}}",
            RefusalReason::UnsupportedType,
        ),
        (long.as_str(), b"{\"t\": 1}", RefusalReason::InvalidId),
        ("some/where", b"x", RefusalReason::UnknownTopic),
    ] {
        client.publish(topic, payload).await;
        client.puback().await;
        let record = system.refusal(reason).await;
        assert!(!record.message.is_empty());
    }
    // 1970 and 2090 go into the log: the processor sets them aside.
    for ts in ["0", "3786912000000"] {
        client
            .publish("devices/d/telemetry", format!("{{\"ts\": {ts}, \"t\": 1}}"))
            .await;
        client.puback().await;
    }
    let plain = system
        .records()
        .iter()
        .filter(|r| matches!(r, Record::Plain(_)))
        .count();
    assert_eq!(plain, 2);
    system.stop().await;
}

#[tokio::test]
async fn ten_megabytes_are_refused_from_the_fixed_header() {
    let system = start(settings()).await;
    let mut options = Client::options(&system, "large", None);
    options.set_max_packet_size(20 << 20, 20 << 20);
    let mut client = Client::connect(options).await;
    client
        .publish("devices/a/telemetry", vec![b'x'; 10_000_000])
        .await;
    client.closed().await;
    let record = system.refusal(RefusalReason::TooLarge).await;
    assert!(record.bytes > 10_000_000, "{record:?}");
    assert_eq!(record.source, "large");
    // Others go on.
    let mut client = Client::connect(Client::options(&system, "small", None)).await;
    client.publish("devices/a/telemetry", "{\"t\":1}").await;
    client.puback().await;
    system.stop().await;
}

#[tokio::test]
async fn statuses_are_kept_passed_on_and_the_last_will_is_published() {
    let system = start(settings()).await;
    let topic = event::topic::status(&agent("gw-1"));
    let status = |online| Status {
        online,
        incarnation: "1-0000000000000007".into(),
        version: "1".into(),
        backlog: 0,
    };
    let mut options = Client::options(&system, "gw-1-7", Some("gw-1"));
    let will = rumqttc::LastWill::new(&topic, status(false).to_json(), QoS::AtLeastOnce, true);
    options.set_last_will(will);
    let mut device = Client::connect(options).await;
    let online = status(true).to_json();
    device
        .client
        .publish(&topic, QoS::AtLeastOnce, true, online.clone())
        .await
        .unwrap();
    device.puback().await;
    // A later subscriber hears what is kept.
    let mut reader = Client::connect(Client::options(&system, "reader", None)).await;
    reader.subscribe("tidewatch/v1/+/status").await;
    let kept = reader.message().await;
    assert_eq!(
        (kept.topic.as_str(), &kept.payload[..], kept.retain),
        (&*topic, online.as_bytes(), true)
    );
    // The device goes away without a DISCONNECT.
    drop(device);
    let will = reader.message().await;
    assert_eq!(Status::parse(&will.payload).map(|s| s.online), Ok(false));
    system
        .until("offline status", |records| {
            records.iter().find_map(|r| match r {
                Record::Status(s) if !s.status.online => Some(()),
                _ => None,
            })
        })
        .await;
    system.stop().await;
}

#[tokio::test]
async fn an_empty_retained_status_clears_what_is_kept() {
    let system = start(settings()).await;
    let topic = event::topic::status(&agent("gw-1"));
    let mut device = Client::connect(Client::options(&system, "gw-1-7", Some("gw-1"))).await;
    for payload in ["{\"online\":true}", ""] {
        let sent = device
            .client
            .publish(&topic, QoS::AtLeastOnce, true, payload);
        sent.await.unwrap();
        device.puback().await;
    }
    // Whoever subscribes now hears nothing kept: the first that comes is the next status.
    let mut reader = Client::connect(Client::options(&system, "reader", None)).await;
    reader.subscribe("tidewatch/v1/+/status").await;
    let next = "{\"online\":true,\"backlog\":3}";
    let sent = device.client.publish(&topic, QoS::AtLeastOnce, false, next);
    sent.await.unwrap();
    device.puback().await;
    let heard = reader.message().await;
    assert_eq!((&heard.payload[..], heard.retain), (next.as_bytes(), false));
    // Nothing was refused, and nothing recorded for the clearing.
    assert!(system.refusals().is_empty());
    let statuses = system.records().into_iter();
    assert_eq!(
        statuses.filter(|r| matches!(r, Record::Status(_))).count(),
        2
    );
    // Without the flag an empty status is an error, as before.
    let sent = device.client.publish(&topic, QoS::AtLeastOnce, false, "");
    sent.await.unwrap();
    device.puback().await;
    system.refusal(RefusalReason::Empty).await;
    system.stop().await;
}

#[tokio::test]
async fn a_clean_disconnect_publishes_no_will() {
    let system = start(settings()).await;
    let topic = event::topic::status(&agent("gw-1"));
    let mut options = Client::options(&system, "gw-1-7", Some("gw-1"));
    options.set_last_will(rumqttc::LastWill::new(
        &topic,
        "{\"online\":false}",
        QoS::AtLeastOnce,
        true,
    ));
    let client = Client::connect(options).await;
    client.client.disconnect().await.unwrap();
    client.closed().await;
    let mut other = Client::connect(Client::options(&system, "other", None)).await;
    other.publish("devices/a/telemetry", "{\"t\":1}").await;
    other.puback().await;
    assert!(
        !system
            .records()
            .iter()
            .any(|r| matches!(r, Record::Status(_)))
    );
    system.stop().await;
}

#[tokio::test]
async fn the_same_client_id_takes_over_and_its_will_comes_first() {
    let system = start(settings()).await;
    let topic = event::topic::status(&agent("gw-1"));
    let mut options = Client::options(&system, "gw-1-7", Some("gw-1"));
    options.set_last_will(rumqttc::LastWill::new(
        &topic,
        "{\"online\":false}",
        QoS::AtLeastOnce,
        true,
    ));
    let first = Client::connect(options.clone()).await;
    let mut second = Client::connect(options).await;
    second
        .client
        .publish(&topic, QoS::AtLeastOnce, true, "{\"online\":true}")
        .await
        .unwrap();
    second.puback().await;
    let order: Vec<bool> = system
        .records()
        .iter()
        .filter_map(|r| match r {
            Record::Status(s) => Some(s.status.online),
            _ => None,
        })
        .collect();
    assert_eq!(order, [false, true]);
    first.closed().await;
    // Another user with the same client id is another session.
    let other = Client::options(&system, "gw-1-7", Some("gw-2"));
    let _other = Client::connect(other).await;
    second
        .publish("tidewatch/v1/gw-1/batch", batch("gw-1", 1, 1, 1))
        .await;
    second.puback().await;
    system.stop().await;
}

#[tokio::test]
async fn an_agent_hears_its_own_topics_only() {
    let system = start(settings()).await;
    let mut client = Client::agent(&system, "gw-1").await;
    let own = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    assert_eq!(client.subscribe("tidewatch/v1/gw-1/+").await, own);
    for filter in [
        "#",
        "tidewatch/v1/+/ack",
        "tidewatch/v1/gw-2/ack",
        "devices/+/telemetry",
    ] {
        assert_eq!(
            client.subscribe(filter).await,
            SubscribeReasonCode::Failure,
            "{filter}"
        );
    }
    let (one, two) = (agent("gw-1"), agent("gw-2"));
    let to = |a: &event::AgentId| event::topic::command(a);
    assert_eq!(
        system.downlink.send(&two, &to(&two), "x".into()),
        Err(ingest::DownlinkError::NotConnected)
    );
    system
        .downlink
        .send(&one, &to(&one), "command".into())
        .unwrap();
    let message = client.message().await;
    assert_eq!(
        (&*message.topic, &message.payload[..]),
        ("tidewatch/v1/gw-1/command", &b"command"[..])
    );
    // Publishing for another agent is refused.
    client
        .publish("tidewatch/v1/gw-2/batch", batch("gw-2", 1, 1, 1))
        .await;
    client.puback().await;
    let record = system.refusal(RefusalReason::Unauthorized).await;
    assert_eq!(record.agent, Some(one));
    system.stop().await;
}

#[tokio::test]
async fn users_connect_with_their_password_only() {
    use ingest::settings::{AuthSettings, Secret, UserSettings};
    let mut with_users = settings();
    let user = UserSettings {
        name: "gw-1".into(),
        password: Some(Secret::new("one")),
        ..UserSettings::default()
    };
    with_users.auth = AuthSettings::Users { users: vec![user] };
    let system = start(with_users).await;
    for (user, password) in [("gw-1", "two"), ("gw-2", "one")] {
        let mut options = Client::options(&system, "c", None);
        options.set_credentials(user, password);
        let (_client, mut events) = AsyncClient::new(options, 1);
        let error = timeout(PATIENCE, events.poll()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("BadUserNamePassword"), "{error}");
    }
    let record = system.refusal(RefusalReason::Unauthorized).await;
    assert!(record.message.contains("gw-"), "{record:?}");
    let mut options = Client::options(&system, "c", None);
    options.set_credentials("gw-1", "one");
    let mut client = Client::connect(options).await;
    client
        .publish("tidewatch/v1/gw-1/batch", batch("gw-1", 1, 1, 1))
        .await;
    client.puback().await;
    system.stop().await;
}

#[tokio::test]
async fn a_stop_acknowledges_what_is_under_way_and_a_restart_notes_the_gap() {
    let system = start(settings()).await;
    let mut client = Client::connect(Client::options(&system, "c", None)).await;
    client.publish("devices/a/telemetry", "{\"t\":1}").await;
    client.puback().await;
    let dir = system.stop().await;
    client.closed().await;
    let log = crate::common::open_log(&dir);
    let append = std::sync::Arc::new(log.clone());
    let system = crate::common::start_on(settings(), dir, log, append).await;
    let gaps = system
        .records()
        .iter()
        .filter(|r| matches!(r, Record::AvailabilityGap { from, to } if from <= to))
        .count();
    assert!(gaps >= 1);
    system.stop().await;
}

#[tokio::test]
async fn counters_show_what_happened_and_never_a_device() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    // The handles are made when ingest is bound, on this thread.
    let system = {
        let _guard = metrics::set_default_local_recorder(&recorder);
        start(settings()).await
    };
    let mut client = Client::agent(&system, "gw-1").await;
    client
        .publish("tidewatch/v1/gw-1/batch", batch("gw-1", 1, 1, 50))
        .await;
    client.ack().await;
    for payload in ["{\"t\":1}", "{\"t\":NaN}"] {
        client
            .publish("devices/secret-device/telemetry", payload)
            .await;
        client.puback().await;
    }
    let text = shown.render();
    for line in [
        "tidewatch_ingest_messages_total{kind=\"batch\",result=\"stored\"} 1",
        "tidewatch_ingest_messages_total{kind=\"plain\",result=\"stored\"} 1",
        "tidewatch_ingest_messages_total{kind=\"any\",result=\"refused\"} 1",
        "tidewatch_ingest_refused_total{reason=\"invalid_json\"} 1",
        "tidewatch_ingest_refused_total{reason=\"checksum\"} 0",
        "tidewatch_ingest_events_total 51",
        "tidewatch_ingest_acks_total 1",
        "tidewatch_ingest_connections 1",
        "tidewatch_ingest_sessions_total{version=\"3.1.1\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("secret-device") && !text.contains("gw-1"));
    system.stop().await;
}

#[tokio::test]
async fn idle_partitions_get_ticks() {
    let mut quick = settings();
    quick.tick_ms = 20;
    let system = start(quick).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let ends =
        || (0..crate::common::PARTITIONS).map(|p| system.log.end(eventlog::PartitionId(p)).0);
    while ends().min().unwrap_or(0) < 3 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    system.stop().await;
}

mod v5 {
    use super::*;
    use rumqttc::v5;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};

    struct Client {
        client: v5::AsyncClient,
        events: v5::EventLoop,
    }

    impl Client {
        fn options(system: &System, id: &str) -> v5::MqttOptions {
            v5::MqttOptions::new(id, system.addr.ip().to_string(), system.addr.port())
        }

        async fn next(&mut self) -> Result<Packet, v5::ConnectionError> {
            loop {
                match timeout(PATIENCE, self.events.poll())
                    .await
                    .expect("a packet in time")?
                {
                    v5::Event::Incoming(packet) => return Ok(packet),
                    v5::Event::Outgoing(_) => {}
                }
            }
        }

        async fn until<T>(&mut self, found: impl Fn(&Packet) -> Option<T>) -> T {
            loop {
                if let Some(t) = found(&self.next().await.unwrap()) {
                    return t;
                }
            }
        }
    }

    #[tokio::test]
    async fn limits_are_announced_and_refusals_have_reason_codes() {
        let system = start(settings()).await;
        let mut options = Client::options(&system, "five");
        options.set_keep_alive(Duration::from_secs(7200));
        let (client, events) = v5::AsyncClient::new(options, 10);
        let mut this = Client { client, events };
        let connack = this
            .until(|p| match p {
                Packet::ConnAck(c) => Some(c.clone()),
                _ => None,
            })
            .await;
        let properties = connack.properties.unwrap();
        assert_eq!(properties.max_qos, Some(1));
        assert_eq!(properties.receive_max, Some(64));
        assert_eq!(properties.max_packet_size, Some(1 << 20));
        assert_eq!(properties.server_keep_alive, Some(3600));
        for (topic, payload, reason) in [
            ("devices/a/telemetry", "{\"t\":1}", PubAckReason::Success),
            (
                "devices/a/telemetry",
                "{\"t\":",
                PubAckReason::PayloadFormatInvalid,
            ),
            ("nowhere", "x", PubAckReason::TopicNameInvalid),
            ("tidewatch/v1/gw-1/ack", "x", PubAckReason::NotAuthorized),
        ] {
            this.client
                .publish(topic, QoS::AtLeastOnce, false, payload)
                .await
                .unwrap();
            let ack = this
                .until(|p| match p {
                    Packet::PubAck(a) => Some(a.clone()),
                    _ => None,
                })
                .await;
            assert_eq!(ack.reason, reason, "{topic}");
            let text = ack.properties.and_then(|p| p.reason_string);
            assert_eq!(
                text.is_some(),
                reason != PubAckReason::Success,
                "{topic}: {text:?}"
            );
        }
        system.stop().await;
        loop {
            match this.next().await {
                Ok(Packet::Disconnect(d)) => {
                    assert_eq!(
                        d.reason_code as u8,
                        v5::mqttbytes::v5::DisconnectReasonCode::ServerShuttingDown as u8
                    );
                    break;
                }
                Ok(_) => {}
                Err(v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect {
                    reason_code,
                    ..
                })) => {
                    assert_eq!(format!("{reason_code:?}"), "ServerShuttingDown");
                    break;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
