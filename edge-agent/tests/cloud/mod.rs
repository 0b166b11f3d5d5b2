//! A small MQTT 3.1.1 peer that plays the cloud badly: it loses batches, loses and repeats acks, and
//! cuts connections. What it has stored, it keeps by identity. It listens itself, or sits behind a
//! broker.

#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use event::{
    Ack, AgentId, BatchHeader, Columns, Command, EventTime, Gap, Incarnation, Lineage,
    RefusalReason, RefusedRange, Sample, SeqRange, TimeRange, batch, topic,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectAuth, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe,
    SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS};

/// How badly it behaves: chances out of 100 for each batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lose_batch: u32,
    pub(crate) lose_ack: u32,
    pub(crate) repeat_ack: u32,
    pub(crate) cut: u32,
    pub(crate) refuse: u32,
    /// Takes everything, answers nothing.
    pub(crate) mute: bool,
}

/// What it does instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manners {
    #[default]
    Good,
    /// Accepts connections and says nothing.
    Silent,
    /// Refuses every connection.
    Refuses(ConnectReturnCode),
    /// Welcomes, takes, and sends neither PUBACKs nor acks.
    Deaf,
    /// Closes in the middle of its first packet.
    CutsWelcome,
    /// Closes after each ack.
    CutsAfterAck,
    /// Closes in the middle of an ack.
    CutsAck,
    /// Speaks something else.
    Http,
}

#[derive(Default)]
pub(crate) struct Stored {
    pub(crate) events: BTreeMap<(Incarnation, u64), Sample>,
    pub(crate) duplicates: u64,
    /// Bytes of the batches that were stored, headers and checksums included.
    pub(crate) payload_bytes: u64,
    pub(crate) connections: u64,
    pub(crate) client_ids: Vec<(String, String)>,
    pub(crate) headers: Vec<BatchHeader>,
    pub(crate) statuses: Vec<String>,
    pub(crate) lineage: BTreeMap<Incarnation, Lineage>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) unclean: Vec<TimeRange>,
    /// Events that came behind a watermark, although nobody had them: (watermark, time).
    pub(crate) broken_promises: Vec<(EventTime, EventTime)>,
    promised: Option<EventTime>,
    newest: BTreeMap<Incarnation, u64>,
}

#[derive(Clone)]
pub(crate) struct Cloud {
    pub(crate) address: SocketAddr,
    stored: Arc<Mutex<Stored>>,
    faults: Arc<Mutex<Faults>>,
    /// Commands that wait for an agent that listens.
    commands: Arc<Mutex<Vec<Command>>>,
    manners: Arc<Mutex<Manners>>,
}

impl Cloud {
    pub(crate) fn start(faults: Faults, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cloud = Self {
            address: listener.local_addr().unwrap(),
            stored: Arc::default(),
            faults: Arc::new(Mutex::new(faults)),
            commands: Arc::default(),
            manners: Arc::default(),
        };
        let accepting = cloud.clone();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let (cloud, stream) = (accepting.clone(), stream.unwrap());
                let rng = StdRng::seed_from_u64(seed * 1000 + n as u64);
                std::thread::spawn(move || cloud.serve(stream, rng));
            }
        });
        cloud
    }

    /// A cloud behind a broker that lets it in without more.
    pub(crate) fn behind(broker: SocketAddr) -> Self {
        let cloud = Self {
            address: broker,
            stored: Arc::default(),
            faults: Arc::default(),
            commands: Arc::default(),
            manners: Arc::default(),
        };
        let listening = cloud.clone();
        std::thread::spawn(move || {
            loop {
                if let Ok(mut stream) = TcpStream::connect(broker) {
                    let mut connect = Connect::new("cloud");
                    connect.keep_alive = 0;
                    let mut subscribe = Subscribe::new("tidewatch/v1/+/batch", QoS::AtLeastOnce);
                    subscribe.pkid = 1;
                    if send(&mut stream, &Packet::Connect(connect))
                        && send(&mut stream, &Packet::Subscribe(subscribe))
                    {
                        listening.serve(stream, StdRng::seed_from_u64(0));
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        cloud
    }

    pub(crate) fn set_manners(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    fn manners(&self) -> Manners {
        *self.manners.lock().unwrap()
    }

    pub(crate) fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Delivers a command so many times: now if an agent listens, else when one does.
    // Each test program uses a part of this.
    #[allow(dead_code)]
    pub(crate) fn command(&self, command: &Command, times: usize) {
        let mut commands = self.commands.lock().unwrap();
        commands.extend(std::iter::repeat_n(command.clone(), times));
    }

    /// Sends what waits.
    fn send_commands(&self, agent: &AgentId, stream: &mut TcpStream) -> bool {
        let waiting = std::mem::take(&mut *self.commands.lock().unwrap());
        waiting.into_iter().all(|command| {
            let bytes = command.encode();
            let mut message = Publish::new(topic::command(agent), QoS::AtLeastOnce, bytes);
            message.pkid = 1;
            send(stream, &Packet::Publish(message))
        })
    }

    /// Waits until `condition` holds; gives up after a minute.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&Stored) -> bool) {
        for _ in 0..6000 {
            if condition(&self.stored()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} has not happened");
    }

    fn serve(&self, mut stream: TcpStream, mut rng: StdRng) {
        let mut bytes = bytes::BytesMut::new();
        let mut buffer = [0; 65_536];
        let mut listening: Option<AgentId> = None;
        stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        loop {
            if let Some(agent) = &listening
                && !self.send_commands(agent, &mut stream)
            {
                return;
            }
            match Packet::read(&mut bytes, 2 << 20) {
                Ok(packet) => {
                    if let Packet::Subscribe(subscribe) = &packet {
                        listening =
                            subscribe
                                .filters
                                .iter()
                                .find_map(|f| match topic::parse(&f.path) {
                                    Ok(topic::Topic::Command(agent)) => Some(agent),
                                    _ => None,
                                });
                    }
                    if !self.take(packet, &mut stream, &mut rng) {
                        return;
                    }
                }
                Err(Error::InsufficientBytes(_)) => match stream.read(&mut buffer) {
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Ok(0) | Err(_) => return,
                    Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                },
                Err(error) => panic!("the agent sends what is no MQTT: {error}"),
            }
        }
    }

    fn take(&self, packet: Packet, stream: &mut TcpStream, rng: &mut StdRng) -> bool {
        match (self.manners(), &packet) {
            (Manners::Silent, _) | (Manners::Deaf, Packet::Publish(_) | Packet::PingReq) => {
                return true;
            }
            (Manners::Refuses(code), Packet::Connect(_)) => {
                send(stream, &Packet::ConnAck(ConnAck::new(code, false)));
                return false;
            }
            (Manners::CutsWelcome, Packet::Connect(_)) => {
                let _ = stream.write_all(&[0x20, 0x02, 0x00]);
                return false;
            }
            (Manners::Http, Packet::Connect(_)) => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                return false;
            }
            _ => {}
        }
        match packet {
            Packet::Connect(connect) => {
                let mut stored = self.stored();
                stored.connections += 1;
                let user = match connect.auth {
                    ConnectAuth::Username { username }
                    | ConnectAuth::UsernamePassword { username, .. } => username,
                    ConnectAuth::None => String::new(),
                };
                stored.client_ids.push((connect.client_id, user));
                assert!(connect.clean_session && connect.last_will.is_some_and(|w| w.retain));
                drop(stored);
                send(
                    stream,
                    &Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false)),
                )
            }
            Packet::Subscribe(subscribe) => {
                let granted = subscribe
                    .filters
                    .iter()
                    .map(|f| SubscribeReasonCode::Success(f.qos));
                let granted = granted.collect();
                send(
                    stream,
                    &Packet::SubAck(SubAck::new(subscribe.pkid, granted)),
                )
            }
            Packet::PingReq => send(stream, &Packet::PingResp),
            Packet::Publish(publish) if publish.topic.ends_with(b"/batch") => {
                self.take_batch(&publish, stream, rng)
            }
            Packet::Publish(publish) => {
                let status = String::from_utf8(publish.payload.to_vec()).unwrap();
                self.stored().statuses.push(status);
                send(stream, &Packet::PubAck(PubAck::new(publish.pkid)))
            }
            Packet::Disconnect => false,
            _ => true,
        }
    }

    fn take_batch(&self, publish: &Publish, stream: &mut TcpStream, rng: &mut StdRng) -> bool {
        let faults = *self.faults.lock().unwrap();
        let mut happens = |chance: u32| rng.random_range(0..100) < chance;
        // PUBACK comes whatever happens: it means nothing.
        if !send(stream, &Packet::PubAck(PubAck::new(publish.pkid))) || happens(faults.cut) {
            return false;
        }
        if faults.mute || happens(faults.lose_batch) {
            return true;
        }
        let (header, body) = batch::peek(&publish.payload).unwrap();
        let mut columns = Columns::default();
        body.decode_into(&mut columns).unwrap();
        let range = SeqRange {
            incarnation: header.e_inc,
            first: header.first_seq,
            last: header.first_seq + u64::from(header.count).max(1) - 1,
        };
        let mut ack = Ack {
            incarnation: header.incarnation,
            tx_no: header.tx_no,
            cloud_received_at: now(),
            cloud_sent_at: now(),
            ..Ack::default()
        };
        let agent = header.agent.clone();
        if header.count > 0 && happens(faults.refuse) {
            let message = "not now".to_owned();
            ack.refused.push(RefusedRange {
                range,
                reason: RefusalReason::RateLimited,
                message,
            });
        } else {
            if header.count > 0 {
                ack.ranges.push(range);
            }
            self.store(header, &columns);
            self.stored().payload_bytes += publish.payload.len() as u64;
        }
        if happens(faults.lose_ack) {
            return true;
        }
        let message = |pkid| {
            let mut message = Publish::new(topic::ack(&agent), QoS::AtMostOnce, ack.encode());
            message.pkid = pkid;
            Packet::Publish(message)
        };
        if self.manners() == Manners::CutsAck {
            let mut bytes = bytes::BytesMut::new();
            message(0).write(&mut bytes, 1 << 20).unwrap();
            let _ = stream.write_all(&bytes[..bytes.len() - 5]);
            return false;
        }
        send(stream, &message(0))
            && (!happens(faults.repeat_ack) || send(stream, &message(0)))
            && self.manners() != Manners::CutsAfterAck
    }

    fn store(&self, header: BatchHeader, columns: &Columns) {
        let mut stored = self.stored();
        for i in 0..columns.len() {
            let key = (header.e_inc, header.first_seq + i as u64);
            let sample = columns.sample(i).unwrap();
            let time = sample.time;
            match stored.events.insert(key, sample.clone()) {
                None => {
                    if let Some(promised) = stored.promised.filter(|p| time < *p) {
                        stored.broken_promises.push((promised, time));
                    }
                }
                Some(before) => {
                    assert_eq!(before, sample, "{key:?} is another event than before");
                    stored.duplicates += 1;
                }
            }
        }
        let newest = stored.newest.entry(header.incarnation).or_default();
        if header.tx_no > *newest {
            *newest = header.tx_no;
            let promised = stored
                .promised
                .map_or(header.low_watermark, |p| p.max(header.low_watermark));
            stored.promised = Some(promised);
        }
        for entry in &header.lineage {
            stored.lineage.insert(entry.incarnation, *entry);
        }
        stored.gaps.extend(&header.gaps);
        stored.unclean.extend(header.unclean);
        stored.headers.push(header);
    }
}

fn send(stream: &mut TcpStream, packet: &Packet) -> bool {
    let mut bytes = bytes::BytesMut::new();
    packet.write(&mut bytes, 1 << 20).unwrap();
    stream.write_all(&bytes).is_ok()
}

fn now() -> EventTime {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    EventTime(since.as_micros() as i64)
}
