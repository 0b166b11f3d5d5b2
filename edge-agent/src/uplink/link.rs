//! The MQTT connection: carries what the keeper hands over, and brings back acks.
//!
//! A thin shell over rumqttc. Each connection is a new client with a clean session, so that nothing
//! stale is ever sent: what was in flight is sent again from the buffer. PUBACKs are read and mean
//! nothing here.

use std::sync::Arc;
use std::time::Duration;

use event::{AgentId, Incarnation, Status, topic};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Packet, QoS, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::{Jitter, exponential};
use crate::commands::Commands;
use crate::inbox::{Inbox, News};
use crate::keeper::ToLink;

/// Where and how to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Host name or address of the MQTT server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name; the agent's id if not set.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// First wait after a failed connection.
    pub reconnect_min: Duration,
    /// Longest wait between connections.
    pub reconnect_max: Duration,
    /// Keep-alive of the connection, whole seconds.
    pub keep_alive: Duration,
    /// Largest MQTT packet sent or taken, bytes.
    pub packet_bytes_max: usize,
}

/// Who is connecting.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub agent: AgentId,
    /// The present one: each connection tells it to the server.
    pub incarnation: watch::Receiver<Incarnation>,
}

/// Requests that may wait in the client: as many as can wait for the link.
const REQUESTS_MAX: usize = crate::keeper::TO_LINK_MAX + 4;
/// Publishes that may wait for a PUBACK before the client holds back the next.
const MQTT_IN_FLIGHT_MAX: u16 = 64;
/// How long the last words may take.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// Failures in a row are logged at first, then once per this time.
const LOG_EVERY: Duration = Duration::from_secs(300);

/// Keeps a connection until the keeper says goodbye.
pub(crate) async fn run(
    settings: Settings,
    identity: Identity,
    inbox: Arc<Inbox>,
    commands: Commands,
    mut keeper: mpsc::Receiver<ToLink>,
) {
    let mut jitter = Jitter::new(identity.incarnation.borrow().rand);
    let mut failures = 0;
    let mut logged: Option<Instant> = None;
    loop {
        let mut connection = Connection::new(&settings, &identity, &inbox, &commands);
        let end = connection.run(&mut keeper).await;
        let was_connected = connection.connected;
        if connection.answered {
            failures = 0;
        }
        if was_connected {
            inbox.tell(News::Disconnected);
        }
        let why = match end {
            End::Goodbye => return,
            End::Reconnect(why) => why.to_owned(),
            End::Failed(why) => why,
        };
        let wait = jitter.around(exponential(
            settings.reconnect_min,
            settings.reconnect_max,
            failures,
        ));
        failures += 1;
        if was_connected || failures <= 3 || logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            logged = Some(Instant::now());
            let (host, port) = (&settings.host, settings.port);
            tracing::warn!(
                "no connection to {host}:{port}: {why}; {failures}. try in {:.1} s, events are kept",
                wait.as_secs_f64()
            );
        }
        // What the keeper still hands over belongs to the old connection.
        let pause = sleep(wait);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                message = keeper.recv() => match message {
                    Some(ToLink::Goodbye(_)) | None => return,
                    Some(_) => {}
                },
            }
        }
        while let Ok(message) = keeper.try_recv() {
            if matches!(message, ToLink::Goodbye(_)) {
                return;
            }
        }
    }
}

enum End {
    Goodbye,
    Reconnect(&'static str),
    Failed(String),
}

struct Connection<'a> {
    identity: &'a Identity,
    inbox: &'a Inbox,
    commands: &'a Commands,
    client: AsyncClient,
    events: EventLoop,
    connected: bool,
    /// An ack came over this connection.
    answered: bool,
}

impl<'a> Connection<'a> {
    fn new(
        settings: &Settings,
        identity: &'a Identity,
        inbox: &'a Inbox,
        commands: &'a Commands,
    ) -> Self {
        let agent = &identity.agent;
        let incarnation = *identity.incarnation.borrow();
        let client_id = format!("{agent}-{:016x}", incarnation.rand);
        let mut options = MqttOptions::new(client_id, &settings.host, settings.port);
        let will = Status {
            online: false,
            incarnation: incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backlog: 0,
        };
        options
            .set_clean_session(true)
            .set_keep_alive(settings.keep_alive.max(Duration::from_secs(1)))
            .set_max_packet_size(settings.packet_bytes_max, settings.packet_bytes_max)
            .set_inflight(MQTT_IN_FLIGHT_MAX)
            .set_last_will(LastWill::new(
                topic::status(agent),
                will.to_json(),
                QoS::AtLeastOnce,
                true,
            ))
            .set_credentials(
                settings.user.as_deref().unwrap_or(agent.as_str()),
                settings.password.as_deref().unwrap_or_default(),
            );
        let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
        Self {
            identity,
            inbox,
            commands,
            client,
            events,
            connected: false,
            answered: false,
        }
    }

    async fn run(&mut self, keeper: &mut mpsc::Receiver<ToLink>) -> End {
        loop {
            // A poll is finished before the next begins (it may be in the middle of a write), while
            // messages go into the client's queue beside it.
            let event = {
                let poll = self.events.poll();
                tokio::pin!(poll);
                loop {
                    tokio::select! {
                        event = &mut poll => break Some(event),
                        message = keeper.recv() => {
                            match hand_over(&self.client, &self.identity.agent, message) {
                                Handed::On => {}
                                Handed::Reconnect(why) => return End::Reconnect(why),
                                Handed::Goodbye => break None,
                            }
                        }
                    }
                }
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(end) = self.take_event(event) {
                        return end;
                    }
                }
                Some(Err(error)) => return End::Failed(describe(&error)),
                None => {
                    if self.connected {
                        let _ = timeout(GOODBYE_MAX, self.last_words()).await;
                    }
                    return End::Goodbye;
                }
            }
        }
    }

    fn take_event(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.connected = true;
                let agent = &self.identity.agent;
                let filters =
                    [topic::ack(agent), topic::command(agent)].map(|path| SubscribeFilter {
                        path,
                        qos: QoS::AtLeastOnce,
                    });
                if let Err(error) = self.client.try_subscribe_many(filters) {
                    return Some(End::Failed(error.to_string()));
                }
                tracing::info!("connected");
                self.inbox.tell(News::Connected);
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                let refused = ack
                    .return_codes
                    .iter()
                    .any(|c| matches!(c, SubscribeReasonCode::Failure));
                if refused {
                    tracing::error!(
                        "the server refuses the subscription to this agent's acks; \
                         check its permissions: nothing can be deleted from the buffer"
                    );
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                if publish.topic == topic::ack(&self.identity.agent) {
                    self.answered = true;
                    self.inbox.tell(News::Ack(publish.payload.to_vec()));
                } else if publish.topic == topic::command(&self.identity.agent) {
                    self.commands.deliver(&publish.payload);
                } else {
                    tracing::debug!(topic = publish.topic, "message ignored");
                }
            }
            Event::Incoming(Packet::Disconnect) => {
                return Some(End::Failed("the server closed the connection".to_owned()));
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        None
    }

    /// Sends what is queued, the last status and the disconnect included.
    async fn last_words(&mut self) {
        loop {
            match self.events.poll().await {
                Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

enum Handed {
    On,
    Reconnect(&'static str),
    Goodbye,
}

fn hand_over(client: &AsyncClient, agent: &AgentId, message: Option<ToLink>) -> Handed {
    let publish = |topic, retain, payload: Vec<u8>| {
        // A full queue means a stuck connection: the protocol sends again what is lost here.
        if let Err(error) = client.try_publish(topic, QoS::AtLeastOnce, retain, payload) {
            tracing::debug!(%error, "not queued");
        }
    };
    match message {
        Some(ToLink::Batch(payload)) => publish(topic::batch(agent), false, payload),
        Some(ToLink::Status(json)) => publish(topic::status(agent), true, json.into_bytes()),
        Some(ToLink::Reconnect(why)) => return Handed::Reconnect(why),
        Some(ToLink::Goodbye(json)) => {
            publish(topic::status(agent), true, json.into_bytes());
            let _ = client.try_disconnect();
            return Handed::Goodbye;
        }
        None => return Handed::Goodbye,
    }
    Handed::On
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "the server refuses this user or password (agent id = user name)".to_owned(),
        other => other.to_string(),
    }
}
