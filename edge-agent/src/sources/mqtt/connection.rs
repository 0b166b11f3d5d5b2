//! One connection after the other to the broker, and what is to be acknowledged on it.
//!
//! The packets are rumqttc's, the loop is our own: its event loop reads ten messages for each
//! acknowledgement that it sends, so that with a broker that sends far ahead (mosquitto 2.0.11 sends
//! thousands) acknowledgements would pile up without a limit. Here nothing more is read while too many
//! wait for the disk, and acknowledgements go out at once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rumqttc::{
    ConnAck, Connect, ConnectAuth, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck,
    Subscribe, SubscribeFilter, SubscribeReasonCode, Unsubscribe,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::filter::TOPIC_BYTES_MAX;
use super::incoming::{Incoming, Item};
use super::message::{self, Devices};
use super::recent::{self, Session};
use super::{KEEP_ALIVE, Settings, UNACKED_MAX, URGENT};
use crate::inbox::{Closed, Reading, Ticket};
use crate::sources::Feed;
use crate::uplink::secret::Secret;

/// How long connecting, and the answer to the first packet, may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Largest packet that we send: 64 filters of 1 KiB.
const SENT_BYTES_MAX: usize = 128 << 10;

/// Why a connection ended.
pub(super) enum End {
    /// The agent stops.
    Stop,
    /// It broke.
    Failed(String),
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Stop
    }
}

pub(super) struct Client {
    settings: Settings,
    session: Session,
    devices: Devices,
    /// Messages read so far, for the log.
    messages: u64,
    /// Of the newest readings handed on. It outlives a connection: a message that comes again may
    /// still be on its way to the disk.
    newest: Ticket,
}

/// What belongs to one connection.
#[derive(Default)]
struct Open {
    incoming: Incoming,
    outgoing: BytesMut,
    /// Identifiers of messages to be acknowledged when their ticket is on disk, in their order.
    unacked: VecDeque<(Ticket, u16)>,
    connected: bool,
    /// Since when a broker that kept our session sends what it kept, monotonic; none once that is over.
    catching_up: Option<Duration>,
    /// When the newest message came, monotonic.
    last: Duration,
}

/// A broker that is quiet for so long has sent all that it kept.
const QUIET: Duration = Duration::from_secs(1);
/// It has, too, if after this time it no longer waits for our acknowledgements.
const CATCHING_UP: Duration = Duration::from_secs(60);

impl Open {
    /// A message came. Whether it is of now, and not one that the broker had kept.
    fn is_fresh(&mut self, now: Duration, retained: bool) -> bool {
        let quiet = now.saturating_sub(self.last) >= QUIET;
        let idle = |since: Duration| now >= since + CATCHING_UP && self.unacked.len() < URGENT / 2;
        if self.catching_up.is_some_and(|since| quiet || idle(since)) {
            self.catching_up = None;
        }
        self.last = now;
        self.catching_up.is_none() && !retained
    }
}

impl Client {
    pub fn new(settings: Settings, cursor: Option<&[u8]>) -> Self {
        Self {
            settings,
            session: Session::read(cursor),
            devices: Devices::default(),
            messages: 0,
            newest: Ticket::default(),
        }
    }

    /// Connects and takes messages until the connection ends. Also returns whether the broker had let
    /// us in.
    pub async fn connect(&mut self, feed: &mut Feed, stop: &CancellationToken) -> (End, bool) {
        let address = format!("{}:{}", self.settings.host, self.settings.port);
        let connected = tokio::select! {
            () = stop.cancelled() => return (End::Stop, false),
            connected = timeout(CONNECT_MAX, TcpStream::connect(address)) => connected,
        };
        let mut stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return (End::Failed(error.to_string()), false),
            Err(_) => return (End::Failed("no answer".to_owned()), false),
        };
        // Acknowledgements are small, and the broker waits for them.
        let _ = stream.set_nodelay(true);
        let mut open = Open::default();
        open.send(&Packet::Connect(self.hello()));
        let end = match self.serve(&mut open, &mut stream, feed, stop).await {
            Ok(()) => End::Stop,
            Err(end) => end,
        };
        if matches!(end, End::Stop) && open.connected {
            open.send(&Packet::Disconnect);
            let _ = timeout(GOODBYE_MAX, stream.write_all_buf(&mut open.outgoing)).await;
        }
        (end, open.connected)
    }

    fn hello(&self) -> Connect {
        let s = &self.settings;
        let mut connect = Connect::new(&s.client_id);
        connect.clean_session = false;
        connect.keep_alive = KEEP_ALIVE.as_secs() as u16;
        if s.user.is_some() || s.password.is_some() {
            let password = s.password.as_ref().map_or(&[][..], Secret::expose);
            connect.auth = ConnectAuth::UsernamePassword {
                username: s.user.clone().unwrap_or_default(),
                password: password.to_vec().into(),
            };
        }
        connect
    }

    async fn serve(
        &mut self,
        open: &mut Open,
        stream: &mut TcpStream,
        feed: &mut Feed,
        stop: &CancellationToken,
    ) -> Result<(), End> {
        let broken = |e: std::io::Error| End::Failed(e.to_string());
        let mut on_disk = feed.inbox().on_disk();
        let (mut reader, mut writer) = stream.split();
        let mut heard = Instant::now();
        let mut pings = interval(KEEP_ALIVE / 2);
        pings.reset();
        loop {
            while open.unacked.len() < UNACKED_MAX
                && let Some(item) = open.incoming.next().map_err(End::Failed)?
            {
                self.take_item(open, item, feed).await?;
            }
            open.acknowledge(&mut on_disk);
            // Until enough is on disk, the broker is to wait, too.
            let may_read = open.unacked.len() < UNACKED_MAX;
            if may_read {
                open.incoming.bytes.reserve(READ_BYTES);
            }
            let silent_for = match open.connected {
                true => KEEP_ALIVE * 2,
                false => CONNECT_MAX,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                read = reader.read_buf(&mut open.incoming.bytes), if may_read => {
                    if read.map_err(broken)? == 0 {
                        return Err(End::Failed("the broker closed the connection".to_owned()));
                    }
                    heard = Instant::now();
                }
                written = writer.write_buf(&mut open.outgoing), if open.outgoing.has_remaining() => {
                    written.map_err(broken)?;
                }
                changed = on_disk.changed(), if !open.unacked.is_empty() => {
                    changed.map_err(|_| End::Stop)?;
                }
                _ = pings.tick() => open.send(&Packet::PingReq),
                () = tokio::time::sleep_until(heard + silent_for), if may_read => {
                    return Err(End::Failed("the broker is silent".to_owned()));
                }
            }
            if !may_read {
                // What we do not read is no silence.
                heard = Instant::now();
            }
        }
    }

    async fn take_item(&mut self, open: &mut Open, item: Item, feed: &mut Feed) -> Result<(), End> {
        match item {
            Item::Packet(Packet::ConnAck(ack)) => self.connected(open, &ack, feed),
            Item::Packet(Packet::SubAck(ack)) => self.subscribed(&ack, feed).await,
            Item::Packet(Packet::Publish(publish)) => self.take(open, publish, feed).await,
            Item::Packet(_) => Ok(()),
            Item::TooLarge(bytes, topic, id) => {
                self.messages += 1;
                feed.count_row();
                self.refuse_size(&topic, bytes, feed);
                open.unacked.extend(id.map(|id| (self.newest, id)));
                Ok(())
            }
        }
    }

    fn connected(&mut self, open: &mut Open, ack: &ConnAck, feed: &Feed) -> Result<(), End> {
        match ack.code {
            ConnectReturnCode::Success => {}
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                let why = "the broker refuses this user or password";
                return Err(End::Failed(why.to_owned()));
            }
            other => return Err(End::Failed(format!("the broker refuses us: {other:?}"))),
        }
        open.connected = true;
        open.last = feed.inbox().clock().monotonic();
        open.catching_up = ack.session_present.then_some(open.last);
        tracing::info!(
            source = feed.name(),
            session = ack.session_present,
            "connected to the broker"
        );
        if !ack.session_present {
            self.session.forget();
        }
        let wanted = self.filters();
        if self.session.filters == wanted {
            // Asking again would bring all kept messages again.
            return Ok(());
        }
        let mut old = std::mem::take(&mut self.session.filters);
        old.retain(|f| !wanted.contains(f));
        if let Some((first, others)) = old.split_first() {
            let mut unsubscribe = Unsubscribe::new(first);
            unsubscribe.topics.extend_from_slice(others);
            unsubscribe.pkid = 1;
            open.send(&Packet::Unsubscribe(unsubscribe));
        }
        let mut subscribe = Subscribe::new_many(wanted.into_iter().map(|path| SubscribeFilter {
            path,
            qos: QoS::AtLeastOnce,
        }));
        subscribe.pkid = 2;
        open.send(&Packet::Subscribe(subscribe));
        Ok(())
    }

    /// Remembers that the broker has our subscriptions. One that it refuses is asked for again with the
    /// next connection.
    async fn subscribed(&mut self, ack: &SubAck, feed: &mut Feed) -> Result<(), End> {
        let wanted = self.filters();
        let mut all = ack.return_codes.len() == wanted.len();
        for (filter, code) in wanted.iter().zip(&ack.return_codes) {
            if matches!(code, SubscribeReasonCode::Failure) {
                all = false;
                tracing::error!(
                    source = feed.name(),
                    "the broker refuses the subscription to {filter:?}; check this user's permissions"
                );
            }
        }
        if all {
            self.session.filters = wanted;
            let cursor = self.session.to_cursor();
            let stored = feed.push_live(self.messages, Vec::new(), cursor, false);
            self.newest = stored.await?.max(self.newest);
        }
        Ok(())
    }

    async fn take(&mut self, open: &mut Open, p: Publish, feed: &mut Feed) -> Result<(), End> {
        let with_ack = p.qos != QoS::AtMostOnce;
        let now = feed.inbox().clock().monotonic();
        feed.set_fresh(open.is_fresh(now, p.retain));
        let content = recent::content(&p.topic, &p.payload);
        if with_ack && p.dup && self.session.has(p.pkid, content) {
            tracing::debug!(
                topic = ?p.topic,
                "sent again by the broker; it is stored already"
            );
        } else {
            let readings = self.readings(&p, feed);
            if !readings.is_empty() {
                let cursor = with_ack
                    .then(|| {
                        self.session.note(p.pkid, content);
                        self.session.to_cursor()
                    })
                    .flatten();
                let urgent = with_ack && open.unacked.len() + 1 >= URGENT;
                let stored = feed.push_live(self.messages, readings, cursor, urgent);
                self.newest = stored.await?.max(self.newest);
            }
        }
        if with_ack {
            // In their order, as the standard wants it: also what had nothing to store.
            open.unacked.push_back((self.newest, p.pkid));
        }
        Ok(())
    }

    fn readings(&mut self, p: &Publish, feed: &mut Feed) -> Vec<Reading> {
        self.messages += 1;
        // A broker that sends other bytes breaks the standard; no filter of ours matches them.
        let Ok(name) = std::str::from_utf8(&p.topic) else {
            feed.refuse(self.messages, "the topic is no UTF-8");
            return Vec::new();
        };
        let mut topics = self.settings.topics.iter();
        // None means: of a subscription that is being ended.
        let Some(topic) = topics.find(|t| t.filter.matches(name)) else {
            return Vec::new();
        };
        if p.retain && !topic.retained {
            return Vec::new();
        }
        feed.count_row();
        if p.payload.len() > self.settings.payload_bytes_max || p.topic.len() > TOPIC_BYTES_MAX {
            self.refuse_size(name, p.payload.len(), feed);
            return Vec::new();
        }
        let parsed = message::parse(topic, name, &p.payload, &mut self.devices);
        for text in self.devices.told.drain(..) {
            tracing::warn!(source = feed.name(), "{text}");
        }
        let mut refuse = |reason: &str| {
            feed.refuse(self.messages, &format!("{:?}: {reason}", shortened(name)));
        };
        match parsed {
            Err(reason) => {
                refuse(&reason);
                Vec::new()
            }
            Ok(parsed) => {
                parsed.refused.iter().for_each(|reason| refuse(reason));
                parsed.readings
            }
        }
    }

    fn refuse_size(&self, topic: &str, bytes: usize, feed: &mut Feed) {
        let max = self.settings.payload_bytes_max;
        let reason = format!(
            "{:?}: message of {bytes} bytes (payload_bytes_max is {max}), or a topic of more than \
             {TOPIC_BYTES_MAX}; raise it, or choose a narrower filter",
            shortened(topic)
        );
        feed.refuse(self.messages, &reason);
    }

    fn filters(&self) -> Vec<String> {
        let topics = self.settings.topics.iter();
        topics.map(|t| t.filter.as_str().to_owned()).collect()
    }
}

impl Open {
    /// Acknowledges what is on disk.
    fn acknowledge(&mut self, on_disk: &mut watch::Receiver<Ticket>) {
        let newest = *on_disk.borrow_and_update();
        while let Some((ticket, id)) = self.unacked.front().copied()
            && ticket <= newest
        {
            self.unacked.pop_front();
            self.send(&Packet::PubAck(PubAck::new(id)));
        }
    }

    fn send(&mut self, packet: &Packet) {
        if let Err(error) = packet.write(&mut self.outgoing, SENT_BYTES_MAX) {
            // Nothing that we send is so large: client id, user and password come from a file.
            tracing::error!(%error, "a packet to the broker cannot be written");
        }
    }
}

fn shortened(topic: &str) -> String {
    topic.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_had_kept_is_not_of_now() {
        let ms = Duration::from_millis;
        let catching_up = || Open {
            catching_up: Some(ms(0)),
            ..Open::default()
        };
        let mut open = catching_up();
        assert!(!open.is_fresh(ms(10), false) && !open.is_fresh(ms(900), false));
        assert!(open.is_fresh(ms(1900), false), "it was quiet for a second");
        assert!(open.is_fresh(ms(1901), false));
        assert!(!open.is_fresh(ms(1902), true), "retained");
        // Never quiet: once it does not wait for us any more, but not before.
        for waiting in [0, URGENT] {
            let mut open = catching_up();
            let unacked = (0..waiting as u16).map(|id| (Ticket::default(), id));
            open.unacked.extend(unacked);
            let fresh = (0..2000).find(|i| open.is_fresh(ms(i * 100), false));
            assert_eq!(fresh, (waiting == 0).then_some(600));
        }
    }
}
