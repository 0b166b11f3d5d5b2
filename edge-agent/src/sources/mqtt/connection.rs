//! One connection after the other to the broker, and what is to be acknowledged on it.
//!
//! Each connection is a new rumqttc client, so that no acknowledgement of an earlier one is ever sent:
//! the broker sends those messages again, and they are known by then.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions,
    Packet, Publish, QoS, StateError, SubAck, SubscribeFilter, SubscribeReasonCode, mqttbytes,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::message::{self, Devices};
use super::recent::{self, Session};
use super::{KEEP_ALIVE, PACKET_BYTES_MAX, Settings, TOPICS_MAX, UNACKED_MAX, URGENT};
use crate::inbox::{Closed, Ticket};
use crate::sources::Feed;

/// Requests that wait in the client: all acknowledgements, and each subscription changed.
const REQUESTS_MAX: usize = UNACKED_MAX + 2 * TOPICS_MAX + 4;
/// How long the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// Why a connection ended.
pub(super) enum End {
    /// The agent stops.
    Stop,
    /// Connect again at once.
    Again,
    /// It broke.
    Failed(String),
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
    /// The next connection ends the session at the broker, because of a message that cannot be read.
    drop_session: bool,
}

/// What belongs to one connection.
struct Open {
    client: AsyncClient,
    /// Identifiers of messages to be acknowledged when their ticket is on disk, in their order.
    unacked: VecDeque<(Ticket, u16)>,
    connected: bool,
}

impl Client {
    pub fn new(settings: Settings, cursor: Option<&[u8]>) -> Self {
        Self {
            settings,
            session: Session::read(cursor),
            devices: Devices::default(),
            messages: 0,
            newest: Ticket::default(),
            drop_session: false,
        }
    }

    /// Connects and takes messages until the connection ends. Also returns whether the broker had let
    /// us in.
    pub async fn connect(&mut self, feed: &mut Feed, stop: &CancellationToken) -> (End, bool) {
        let s = &self.settings;
        let mut options = MqttOptions::new(&s.client_id, &s.host, s.port);
        options
            .set_clean_session(self.drop_session)
            .set_manual_acks(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if s.user.is_some() || s.password.is_some() {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            options.set_credentials(text(&s.user), text(&s.password));
        }
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        let mut open = Open {
            client,
            unacked: VecDeque::new(),
            connected: false,
        };
        let end = self.serve(&mut open, &mut events, feed, stop).await;
        if matches!(end, End::Stop) && open.connected {
            let _ = timeout(GOODBYE_MAX, goodbye(&open.client, &mut events)).await;
        }
        (end, open.connected)
    }

    async fn serve(
        &mut self,
        open: &mut Open,
        events: &mut EventLoop,
        feed: &mut Feed,
        stop: &CancellationToken,
    ) -> End {
        let mut on_disk = feed.inbox().on_disk();
        loop {
            // Enough waits: the broker is to wait, too.
            while open.unacked.len() >= UNACKED_MAX {
                tokio::select! {
                    () = stop.cancelled() => return End::Stop,
                    changed = on_disk.changed() => if changed.is_err() { return End::Stop },
                }
                open.acknowledge(&mut on_disk);
            }
            let event = {
                // A poll is finished before the next begins, while acknowledgements go into the
                // client's queue beside it.
                let poll = events.poll();
                tokio::pin!(poll);
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return End::Stop,
                        event = &mut poll => break event,
                        changed = on_disk.changed(), if !open.unacked.is_empty() => {
                            if changed.is_err() {
                                return End::Stop;
                            }
                            open.acknowledge(&mut on_disk);
                        }
                    }
                }
            };
            let taken = match event {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    if self.drop_session {
                        // The session is gone with this connection.
                        self.drop_session = false;
                        self.session.forget();
                        let _ = timeout(GOODBYE_MAX, goodbye(&open.client, events)).await;
                        return End::Again;
                    }
                    self.connected(open, &ack, feed)
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => self.subscribed(&ack, feed).await,
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    self.take(open, publish, feed).await
                }
                Ok(Event::Incoming(Packet::Disconnect)) => {
                    return End::Failed("the broker closed the connection".to_owned());
                }
                Ok(_) => Ok(()),
                Err(error) => return self.failed(&error),
            };
            match taken {
                Ok(()) => open.acknowledge(&mut on_disk),
                Err(end) => return end,
            }
        }
    }

    fn connected(&mut self, open: &mut Open, ack: &ConnAck, feed: &Feed) -> Result<(), End> {
        open.connected = true;
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
        let failed = |error: rumqttc::ClientError| End::Failed(error.to_string());
        for old in self.session.filters.drain(..) {
            if !wanted.contains(&old) {
                open.client.try_unsubscribe(old).map_err(failed)?;
            }
        }
        let filters = wanted.into_iter().map(|path| SubscribeFilter {
            path,
            qos: QoS::AtLeastOnce,
        });
        open.client.try_subscribe_many(filters).map_err(failed)
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
            stored.await.map_err(|Closed| End::Stop)?;
        }
        Ok(())
    }

    async fn take(&mut self, open: &mut Open, p: Publish, feed: &mut Feed) -> Result<(), End> {
        let with_ack = p.qos != QoS::AtMostOnce;
        let content = recent::content(&p.topic, &p.payload);
        if with_ack && p.dup && self.session.has(p.pkid, content) {
            tracing::debug!(
                topic = p.topic,
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
                self.newest = stored.await.map_err(|Closed| End::Stop)?.max(self.newest);
            }
        }
        if with_ack {
            // In their order, as the standard wants it: also what had nothing to store.
            open.unacked.push_back((self.newest, p.pkid));
        }
        Ok(())
    }

    fn readings(&mut self, p: &Publish, feed: &mut Feed) -> Vec<crate::inbox::Reading> {
        self.messages += 1;
        let topic = self
            .settings
            .topics
            .iter()
            .find(|t| t.filter.matches(&p.topic));
        // Of a subscription that is being ended.
        let Some(topic) = topic else {
            return Vec::new();
        };
        if p.retain && !topic.retained {
            return Vec::new();
        }
        feed.count_row();
        let start: String = p.topic.chars().take(100).collect();
        let max = self.settings.payload_bytes_max;
        if p.payload.len() > max || p.topic.len() > super::filter::TOPIC_BYTES_MAX {
            let n = p.payload.len();
            feed.refuse(
                self.messages,
                &format!("{start:?}: payload of {n} bytes (payload_bytes_max is {max}), or topic too long"),
            );
            return Vec::new();
        }
        let parsed = message::parse(topic, &p.topic, &p.payload, &mut self.devices);
        for text in self.devices.told.drain(..) {
            tracing::warn!(source = feed.name(), "{text}");
        }
        match parsed {
            Err(reason) => {
                feed.refuse(self.messages, &format!("{start:?}: {reason}"));
                Vec::new()
            }
            Ok(parsed) => {
                for reason in &parsed.refused {
                    feed.refuse(self.messages, &format!("{start:?}: {reason}"));
                }
                parsed.readings
            }
        }
    }

    fn failed(&mut self, error: &ConnectionError) -> End {
        End::Failed(match error {
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
            ) => "the broker refuses this user or password".to_owned(),
            ConnectionError::MqttState(StateError::Deserialization(
                mqttbytes::Error::PayloadSizeLimitExceeded(n),
            )) => {
                // In a kept session it would be sent again for ever.
                self.drop_session = true;
                format!(
                    "a message of {n} bytes is more than {PACKET_BYTES_MAX}; the session is begun anew \
                     and what waited in it is lost; choose a narrower filter, or set \
                     message_size_limit at the broker"
                )
            }
            other => other.to_string(),
        })
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
        while let Some((ticket, id)) = self.unacked.front()
            && *ticket <= newest
        {
            let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
            publish.pkid = *id;
            // The queue has room for all: a failure means that the connection has ended.
            if self.client.try_ack(&publish).is_err() {
                return;
            }
            self.unacked.pop_front();
        }
    }
}

/// Ends the connection in order.
async fn goodbye(client: &AsyncClient, events: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    while let Ok(event) = events.poll().await {
        if matches!(event, Event::Outgoing(rumqttc::Outgoing::Disconnect)) {
            return;
        }
    }
}
