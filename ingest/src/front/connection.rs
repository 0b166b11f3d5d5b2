//! One connection: a task that reads packets, offers messages, and writes what is due.
//!
//! Everything waits in one `select!` whose branches may all be dropped half-way; nothing that must
//! finish is inside one. Back-pressure is not reading the socket: while as many messages as allowed
//! are under way, while the queue of the log is full, or while the peer does not read what was
//! written to it. PUBACKs go out in the order of the publishes, each after its receipt.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use event::{AgentId, RefusalReason, Topic};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, PubackReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::codec::{self, CodecError, Frame, Granted, Packet, Published, Version, Will};
use super::filter::{self, Leaves, Wanted};
use super::handshake::{self, Session};
use super::table::{Delivery, Link};
use crate::broker::{Answer, BUSY_RETRY_MAX, EarlyRefusal, Offer, Publish, Receipt};
use crate::settings::ms;

/// Free space that a read gets: it grows while reads fill it and shrinks while they do not, so that
/// many idle connections cost little and busy ones few system calls.
const READ_BYTES_MIN: usize = 1 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// A read buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 64 << 10;
/// How much of what a refused peer still sends is read and thrown away, so that it sees the answer.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER: Duration = Duration::from_millis(500);
/// Longest wait for the connection that is being taken over.
const TAKE_OVER_WAIT: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// DISCONNECT without the will.
    Clean,
    /// DISCONNECT that asks for the will.
    WithWill,
    /// The peer went away.
    Lost,
    /// No sign of life for 1.5 keep-alives.
    Silent,
    /// The peer does not read.
    Stalled,
    /// The client id connected again.
    TakenOver,
    /// We stop.
    ShuttingDown,
    /// The log did not take a message.
    LogFailed {
        /// It is full (as against broken).
        full: bool,
        /// What it said.
        message: String,
    },
    /// The peer broke a rule.
    Refused {
        /// For the peer.
        code: DisconnectReasonCode,
        /// For the record.
        reason: RefusalReason,
        /// For people.
        message: String,
        /// Size of what was refused, bytes; 0 if it says nothing.
        bytes: u64,
    },
}

impl End {
    /// Whether the last will is due. A stop or a full disk of ours is not the device's fault.
    fn will_is_due(&self) -> bool {
        !matches!(
            self,
            Self::Clean | Self::ShuttingDown | Self::LogFailed { .. }
        )
    }

    fn reason(&self) -> Option<(DisconnectReasonCode, String)> {
        use DisconnectReasonCode as Code;
        match self {
            Self::Clean | Self::WithWill | Self::Lost => None,
            Self::Silent => Some((
                Code::KeepAliveTimeout,
                "no packet within 1.5 keep-alives".into(),
            )),
            Self::Stalled => Some((Code::ServerBusy, "the client does not read".into())),
            Self::TakenOver => Some((
                Code::SessionTakenOver,
                "the client id connected again".into(),
            )),
            Self::ShuttingDown => Some((Code::ServerShuttingDown, "the server stops".into())),
            Self::LogFailed {
                full: true,
                message,
            } => Some((Code::QuotaExceeded, format!("not stored: {message}"))),
            Self::LogFailed {
                full: false,
                message,
            } => Some((
                Code::ImplementationSpecificError,
                format!("not stored: {message}"),
            )),
            Self::Refused { code, message, .. } => Some((*code, message.clone())),
        }
    }
}

/// A status to pass on once it is stored.
struct News {
    agent: AgentId,
    payload: Bytes,
    retain: bool,
}

/// A message under way to the log.
struct Pending {
    receipt: Receipt,
    /// Packet id to acknowledge.
    id: Option<u16>,
    /// A status to pass on once it is stored.
    status: Option<News>,
}

/// Serves one connection until it ends.
pub async fn serve<S>(shared: Arc<Shared>, stream: S, peer: SocketAddr, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let mut buf = BytesMut::new();
    let mut out = BytesMut::new();
    let session = tokio::select! {
        () = stop.cancelled() => return,
        session = handshake::accept(&shared, &mut read, &mut buf, peer, &mut out) => session,
    };
    let mut session = match session {
        Ok(session) => session,
        Err(refusal) => {
            shared.meters.connections_refused.increment(1);
            if let Some(refusal) = refusal {
                shared.intake.refuse(refusal);
            }
            close(&mut read, &mut write, &mut out, true).await;
            return;
        }
    };
    let will = session.will.take();
    let (link, deliveries, old) = shared.table.enter(
        session.principal.user.clone(),
        Arc::clone(&session.client_id),
    );
    let guard = Guard {
        shared: Arc::clone(&shared),
        link: Arc::clone(&link),
    };
    if let Some(old) = old {
        // Its last will comes before anything of this connection.
        let _ = timeout(TAKE_OVER_WAIT, old.done.cancelled()).await;
    }
    match session.version {
        Version::V3 => shared.meters.sessions_v3.increment(1),
        Version::V5 => shared.meters.sessions_v5.increment(1),
    }
    session.answer(&shared.settings, &mut out);
    let mut connection = Connection {
        shared: Arc::clone(&shared),
        session,
        link,
        buf,
        out,
        pending: VecDeque::new(),
        stalled: None,
        busy_retry: ms(shared.settings.busy_retry_ms),
        backlog: VecDeque::new(),
        unacked: Vec::new(),
        next_id: 0,
        subscriptions: Vec::new(),
        failing: None,
        end: None,
    };
    let end = connection
        .run(&mut read, &mut write, deliveries, &stop)
        .await;
    tracing::debug!(client = %connection.session.client_id, %peer, ?end, "connection ended");
    if let End::Refused {
        reason,
        message,
        bytes,
        ..
    } = &end
    {
        shared.intake.refuse(EarlyRefusal {
            source: Arc::clone(&connection.session.client_id),
            claim: None,
            agent: connection.session.principal.agent().cloned(),
            reason: *reason,
            message: message.clone(),
            bytes: *bytes,
        });
    }
    if let Some((code, text)) = end.reason() {
        let text = connection.session.reason_text(&text);
        let version = connection.session.version;
        codec::disconnect(&mut connection.out, version, code, text.as_deref());
    }
    shared.table.silence(&guard.link);
    // What is under way still becomes durable: its acks find the agent's next connection, and a
    // status is passed on. The will follows it.
    let mut pending = std::mem::take(&mut connection.pending);
    let will = will.filter(|_| end.will_is_due());
    let client_id = Arc::clone(&connection.session.client_id);
    let principal = connection.session.principal.clone();
    if !pending.is_empty() || will.is_some() {
        let shared = Arc::clone(&shared);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            if let Some(will) = will {
                pending.extend(offer_will(&shared, principal, client_id, will).await);
            }
            let grace = ms(shared.shutdown_grace_ms);
            for Pending {
                receipt, status, ..
            } in pending
            {
                match timeout(grace, receipt).await {
                    Ok(Answer::Stored) => pass_on(&shared, status),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            // Only now may the next connection of this client speak: what it says must not be
            // overtaken by this will.
            drop(guard);
        });
    } else {
        drop(guard);
    }
    let linger = matches!(end, End::Refused { .. } | End::LogFailed { .. });
    close(&mut read, &mut write, &mut connection.out, linger).await;
}

/// Takes the connection out of the table, also when its task panics.
struct Guard {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.table.leave(&self.link);
        self.link.done.cancel();
    }
}

/// Writes what is left, says goodbye and lets the peer read it.
async fn close<R, W>(read: &mut R, write: &mut W, out: &mut BytesMut, linger: bool)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let goodbye = async {
        while !out.is_empty() {
            if write.write_buf(out).await? == 0 {
                break;
            }
        }
        write.shutdown().await
    };
    if timeout(Duration::from_secs(1), goodbye).await.is_err() || !linger {
        return;
    }
    // Closing with unread input resets the connection and the peer never sees the reason.
    let _ = timeout(LINGER, async {
        let mut left = LINGER_BYTES_MAX;
        let mut sink = [0u8; 4096];
        while left > 0 {
            match read.read(&mut sink).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => break,
            }
        }
    })
    .await;
}

/// Offers the last will until the log's queue takes it or the grace is over.
async fn offer_will(
    shared: &Shared,
    principal: crate::auth::Principal,
    client_id: Arc<str>,
    will: Will,
) -> Option<Pending> {
    let status = status_of(&will.topic, &will.payload, will.retain);
    let mut publish = Publish {
        principal,
        source: client_id,
        topic: will.topic,
        payload: will.payload,
        retain: will.retain,
    };
    let until = Instant::now() + ms(shared.shutdown_grace_ms);
    loop {
        match shared.intake.offer(publish) {
            Offer::Taken(receipt) => {
                return Some(Pending {
                    receipt,
                    id: None,
                    status,
                });
            }
            Offer::Busy(back) if Instant::now() < until => publish = back,
            Offer::Busy(_) => return None,
        }
        tokio::time::sleep(BUSY_RETRY_MAX).await;
    }
}

fn status_of(topic: &str, payload: &Bytes, retain: bool) -> Option<News> {
    if !topic.ends_with("/status") {
        return None;
    }
    match event::topic::parse(topic) {
        Ok(Topic::Status(agent)) => Some(News {
            agent,
            payload: payload.clone(),
            retain,
        }),
        _ => None,
    }
}

fn pass_on(shared: &Shared, status: Option<News>) {
    if let Some(news) = status {
        shared
            .table
            .publish_status(&news.agent, &news.payload, news.retain);
    }
}

struct Subscription {
    filter: String,
    wanted: Wanted,
    qos: u8,
    retain_as_published: bool,
}

struct Connection {
    shared: Arc<Shared>,
    session: Session,
    link: Arc<Link>,
    buf: BytesMut,
    out: BytesMut,
    pending: VecDeque<Pending>,
    /// A message that found the log's queue full, with what its answer needs.
    stalled: Option<(Publish, Option<u16>, Option<News>)>,
    busy_retry: Duration,
    /// Kept statuses on their way to a new subscriber.
    backlog: VecDeque<Delivery>,
    /// Packet ids of deliveries that the peer has not acknowledged.
    unacked: Vec<u16>,
    next_id: u16,
    subscriptions: Vec<Subscription>,
    /// The log did not take a message: end with this at that time.
    failing: Option<(Instant, End)>,
    end: Option<End>,
}

impl Connection {
    async fn run<R, W>(
        &mut self,
        read: &mut R,
        write: &mut W,
        mut deliveries: mpsc::Receiver<Delivery>,
        stop: &CancellationToken,
    ) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let taken_over = self.link.taken_over.clone();
        let silence_max = self.session.silence_max;
        let stall_max = ms(self.shared.settings.write_stall_ms);
        let mut heard = Instant::now();
        let mut wrote = heard;
        let mut stopping: Option<Instant> = None;
        let mut read_bytes = READ_BYTES_MIN;
        let timer = sleep_until(heard + silence_max);
        tokio::pin!(timer);
        loop {
            if stopping.is_none() && self.failing.is_none() {
                self.take_packets();
            }
            if let Some(end) = self.end.take() {
                return end;
            }
            if stopping.is_some() && self.pending.is_empty() {
                while let Ok(delivery) = deliveries.try_recv() {
                    self.deliver(delivery);
                }
                return End::ShuttingDown;
            }
            let may_read = self.may_take() && stopping.is_none() && self.failing.is_none();
            while self.may_deliver()
                && let Some(delivery) = self.backlog.pop_front()
            {
                self.deliver(delivery);
            }
            let may_deliver = self.may_deliver();
            // The timer is only ever moved earlier here; when it fires early it is set anew.
            let mut due = heard + silence_max;
            if !self.out.is_empty() {
                due = due.min(wrote + stall_max);
            }
            if let Some((at, _)) = &self.failing {
                due = due.min(*at);
            }
            if let Some(at) = stopping {
                due = due.min(at);
            }
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            if may_read {
                self.buf.reserve(read_bytes);
            }
            let waiting_to_write = !self.out.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled(), if stopping.is_none() => {
                    stopping = Some(Instant::now() + ms(self.shared.shutdown_grace_ms));
                    // Not queued yet, so not acknowledged: the sender keeps it.
                    self.stalled = None;
                }
                () = taken_over.cancelled() => return End::TakenOver,
                answer = next_answer(&mut self.pending), if !self.pending.is_empty() => {
                    self.answered(answer);
                    while let Some(answer) = ready_answer(&mut self.pending) {
                        self.answered(answer);
                    }
                }
                written = write.write_buf(&mut self.out), if waiting_to_write => {
                    match written {
                        Ok(n) if n > 0 => wrote = Instant::now(),
                        _ => return End::Lost,
                    }
                }
                Some(delivery) = deliveries.recv(), if may_deliver => self.deliver(delivery),
                got = read.read_buf(&mut self.buf), if may_read => {
                    match got {
                        Ok(n) if n > 0 => {
                            heard = Instant::now();
                            if n >= read_bytes {
                                read_bytes = (read_bytes * 2).min(READ_BYTES_MAX);
                            } else if n < read_bytes / 4 {
                                read_bytes = (read_bytes / 2).max(READ_BYTES_MIN);
                            }
                        }
                        _ => return End::Lost,
                    }
                }
                () = tokio::time::sleep(self.busy_retry), if self.stalled.is_some() => {
                    self.offer_again();
                }
                () = &mut timer => {
                    let now = Instant::now();
                    if let Some((at, end)) = &self.failing && now >= *at {
                        return end.clone();
                    }
                    if stopping.is_some_and(|at| now >= at) {
                        tracing::warn!(
                            client = %self.session.client_id,
                            appends = self.pending.len(),
                            "stopped with appends under way; they were not acknowledged"
                        );
                        return End::ShuttingDown;
                    }
                    if waiting_to_write && now >= wrote + stall_max {
                        return End::Stalled;
                    }
                    if !may_read {
                        // We did not listen, so silence says nothing.
                        heard = now;
                    } else if now >= heard + silence_max {
                        return End::Silent;
                    }
                    timer.as_mut().reset(now + silence_max);
                }
            }
            if !waiting_to_write {
                wrote = Instant::now();
            }
        }
    }

    /// Whether one more message may be under way.
    fn may_take(&self) -> bool {
        self.stalled.is_none()
            && self.pending.len() < usize::from(self.shared.settings.in_flight_max)
            && self.out.len() < self.shared.settings.output_bytes_max
    }

    /// Whether one more delivery may be written.
    fn may_deliver(&self) -> bool {
        self.out.len() < self.shared.settings.output_bytes_max
            && self.unacked.len() < self.session.deliveries_in_flight_max
    }

    fn take_packets(&mut self) {
        while self.end.is_none() && self.may_take() {
            let bytes_max = self.shared.settings.packet_bytes_max;
            match codec::frame(&self.buf, bytes_max) {
                Frame::Need(_) => break,
                Frame::Whole { header, body } => {
                    let packet = self.buf.split_to(header + body);
                    let version = self.session.version;
                    match codec::decode(Some(version), packet[0], &packet[header..]) {
                        Ok(packet) => self.packet(packet),
                        Err(error) => self.broken(error),
                    }
                }
                Frame::TooLarge { total } => {
                    self.end = Some(End::Refused {
                        code: DisconnectReasonCode::PacketTooLarge,
                        reason: RefusalReason::TooLarge,
                        message: format!(
                            "packet of {total} bytes is over the limit of {bytes_max}"
                        ),
                        bytes: total as u64,
                    });
                }
                Frame::Malformed => self.broken(CodecError::Malformed),
            }
        }
        if self.buf.is_empty() && self.buf.capacity() > KEEP_BYTES {
            self.buf = BytesMut::new();
        }
    }

    fn broken(&mut self, error: CodecError) {
        let code = match error {
            CodecError::Panicked => {
                self.shared.meters.codec_panics.increment(1);
                DisconnectReasonCode::ImplementationSpecificError
            }
            CodecError::Protocol => DisconnectReasonCode::ProtocolError,
            _ => DisconnectReasonCode::MalformedPacket,
        };
        self.refuse(code, &error.to_string());
    }

    fn refuse(&mut self, code: DisconnectReasonCode, message: &str) {
        let reason = RefusalReason::ProtocolError;
        self.end = Some(End::Refused {
            code,
            reason,
            message: message.to_owned(),
            bytes: 0,
        });
    }

    fn packet(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::Puback(id) => self.unacked.retain(|&u| u != id),
            Packet::Subscribe {
                id,
                filters,
                identifier,
            } => {
                if identifier {
                    return self.refuse(
                        DisconnectReasonCode::SubscriptionIdentifiersNotSupported,
                        "subscription identifiers are not offered",
                    );
                }
                self.subscribe(id, filters);
            }
            Packet::Unsubscribe { id, filters } => self.unsubscribe(id, &filters),
            Packet::Pingreq => codec::pingresp(&mut self.out),
            Packet::Disconnect { will } => {
                self.end = Some(if will { End::WithWill } else { End::Clean });
            }
            Packet::Connect(_) => self.broken(CodecError::Protocol),
        }
    }

    fn publish(&mut self, publish: Published) {
        if publish.qos == 2 {
            return self.refuse(
                DisconnectReasonCode::QosNotSupported,
                "QoS 2 is not offered; publish with QoS 0 or 1",
            );
        }
        if publish.alias {
            return self.refuse(
                DisconnectReasonCode::TopicAliasInvalid,
                "topic aliases are not offered",
            );
        }
        let topic_max = self.shared.settings.topic_bytes_max;
        if publish.topic.len() > topic_max {
            let message = format!(
                "topic of {} bytes is over the limit of {topic_max}",
                publish.topic.len()
            );
            self.shared.intake.refuse(EarlyRefusal {
                source: Arc::clone(&self.session.client_id),
                claim: None,
                agent: self.session.principal.agent().cloned(),
                reason: RefusalReason::TooLarge,
                message: message.clone(),
                bytes: publish.payload.len() as u64,
            });
            let answer = Answer::Refused {
                reason: RefusalReason::UnknownTopic,
                message,
            };
            let receipt: Receipt = Box::pin(std::future::ready(answer));
            self.pending.push_back(Pending {
                receipt,
                id: publish.id,
                status: None,
            });
            return;
        }
        let status = status_of(&publish.topic, &publish.payload, publish.retain);
        let message = Publish {
            principal: self.session.principal.clone(),
            source: Arc::clone(&self.session.client_id),
            topic: publish.topic,
            payload: publish.payload,
            retain: publish.retain,
        };
        self.offer(message, publish.id, status);
    }

    fn offer(&mut self, publish: Publish, id: Option<u16>, status: Option<News>) {
        match self.shared.intake.offer(publish) {
            Offer::Taken(receipt) => {
                self.busy_retry = ms(self.shared.settings.busy_retry_ms);
                self.pending.push_back(Pending {
                    receipt,
                    id,
                    status,
                });
            }
            Offer::Busy(publish) => {
                if self.stalled.is_none() {
                    self.shared.meters.busy.increment(1);
                }
                self.stalled = Some((publish, id, status));
            }
        }
    }

    fn offer_again(&mut self) {
        if let Some((publish, id, status)) = self.stalled.take() {
            self.busy_retry = (self.busy_retry * 2).min(BUSY_RETRY_MAX);
            self.offer(publish, id, status);
        }
    }

    /// Settles the message at the front of the queue.
    fn answered(&mut self, answer: Answer) {
        let Some(Pending { id, status, .. }) = self.pending.pop_front() else {
            return;
        };
        if self.failing.is_some() {
            // Nothing is acknowledged behind a gap: the peer sends everything from there again.
            return;
        }
        match answer {
            Answer::Stored => {
                pass_on(&self.shared, status);
                if let Some(id) = id {
                    codec::puback(&mut self.out, id);
                }
            }
            Answer::Refused { reason, message } => {
                if let Some(id) = id {
                    let text = self.session.reason_text(&message);
                    let code = puback_code(reason);
                    let version = self.session.version;
                    codec::puback_refused(&mut self.out, version, id, code, text.as_deref());
                }
            }
            Answer::Failed { full, message } => {
                let at = Instant::now() + ms(self.shared.settings.log_failure_grace_ms);
                self.failing = Some((at, End::LogFailed { full, message }));
            }
        }
    }

    fn subscribe(&mut self, id: u16, filters: Vec<codec::Filter>) {
        let mut granted = Vec::with_capacity(filters.len());
        for f in filters {
            granted.push(self.subscribe_one(&f).unwrap_or_else(|refused| refused));
        }
        codec::suback(&mut self.out, self.session.version, id, &granted);
    }

    fn subscribe_one(&mut self, f: &codec::Filter) -> Result<Granted, Granted> {
        if f.filter.len() > self.shared.settings.topic_bytes_max {
            return Err(Granted::Invalid);
        }
        let wanted = filter::read(&*self.shared.auth, &self.session.principal, &f.filter)?;
        let qos = f.qos.min(1);
        let subscription = Subscription {
            filter: f.filter.clone(),
            wanted: wanted.clone(),
            qos,
            retain_as_published: f.retain_as_published,
        };
        let have = self.subscriptions.iter().position(|s| s.filter == f.filter);
        match have {
            Some(at) => self.subscriptions[at] = subscription,
            None if self.subscriptions.len() >= self.shared.settings.subscriptions_max => {
                return Err(Granted::Quota);
            }
            None => self.subscriptions.push(subscription),
        }
        let statuses = self.shared.table.subscribe(&self.link, &wanted);
        if f.retain_handling == 0 || (f.retain_handling == 1 && have.is_none()) {
            self.backlog.extend(statuses);
        }
        Ok(Granted::Qos(qos))
    }

    fn unsubscribe(&mut self, id: u16, filters: &[String]) {
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let at = self.subscriptions.iter().position(|s| s.filter == *filter);
            existed.push(at.is_some());
            let Some(at) = at else { continue };
            let gone = self.subscriptions.swap_remove(at).wanted;
            let still = match &gone {
                Wanted::AllStatus => Leaves::NONE,
                Wanted::Agent(agent, _) => {
                    self.subscriptions
                        .iter()
                        .fold(Leaves::NONE, |acc, s| match &s.wanted {
                            Wanted::Agent(a, leaves) if a == agent => acc.with(*leaves),
                            _ => acc,
                        })
                }
            };
            self.shared
                .table
                .unsubscribe(&self.link, &gone, Leaves::ALL.without(still));
        }
        codec::unsuback(&mut self.out, self.session.version, id, &existed);
    }

    /// Writes a delivery, unless the subscription is gone or the packet is more than the peer takes.
    fn deliver(&mut self, delivery: Delivery) {
        let matching = self
            .subscriptions
            .iter()
            .filter(|s| s.wanted.matches(&delivery.topic));
        let Some((qos, as_published)) = matching
            .map(|s| (s.qos, s.retain_as_published))
            .reduce(|a, b| (a.0.max(b.0), a.1 | b.1))
        else {
            return;
        };
        let size = delivery.payload.len() + delivery.topic.len() + 16;
        if size > self.session.packet_bytes_max as usize {
            self.shared.meters.deliveries_dropped.increment(1);
            return;
        }
        let id = (qos == 1).then(|| self.take_id());
        // 3.1.1: live messages never carry the flag; 5: only if the subscriber asked for it.
        let retain = delivery.kept || (delivery.retain && as_published);
        codec::publish_out(
            &mut self.out,
            self.session.version,
            &delivery.topic,
            &delivery.payload,
            id,
            retain,
        );
    }

    fn take_id(&mut self) -> u16 {
        // At most `deliveries_in_flight_max` ids are taken, far fewer than there are.
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            if !self.unacked.contains(&self.next_id) {
                self.unacked.push(self.next_id);
                return self.next_id;
            }
        }
    }
}

/// Waits for the message at the front. Dropping this loses nothing: the receipt stays in the queue.
async fn next_answer(pending: &mut VecDeque<Pending>) -> Answer {
    poll_fn(|cx| match pending.front_mut() {
        Some(p) => p.receipt.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await
}

/// The answer of the message at the front, if it is there already.
fn ready_answer(pending: &mut VecDeque<Pending>) -> Option<Answer> {
    // The waker does nothing, because the queue is polled with the task's own before it waits.
    let mut cx = Context::from_waker(Waker::noop());
    let receipt: Pin<&mut _> = pending.front_mut()?.receipt.as_mut();
    match receipt.poll(&mut cx) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn puback_code(reason: RefusalReason) -> PubackReasonCode {
    match reason {
        RefusalReason::Unauthorized | RefusalReason::WrongAgent => PubackReasonCode::NotAuthorized,
        RefusalReason::UnknownTopic | RefusalReason::InvalidId => {
            PubackReasonCode::TopicNameInvalid
        }
        RefusalReason::RateLimited | RefusalReason::CapacityReached => {
            PubackReasonCode::QuotaExceeded
        }
        _ => PubackReasonCode::PayloadFormatInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wills_are_due_unless_the_end_was_ours_or_clean() {
        let failed = End::LogFailed {
            full: true,
            message: String::new(),
        };
        for end in [End::Clean, End::ShuttingDown, failed] {
            assert!(!end.will_is_due(), "{end:?}");
        }
        for end in [
            End::WithWill,
            End::Lost,
            End::Silent,
            End::Stalled,
            End::TakenOver,
        ] {
            assert!(end.will_is_due(), "{end:?}");
        }
    }
}
