//! The MQTT connection: carries what the keeper hands over, and brings back acks.
//!
//! A thin shell over an MQTT client. Each connection is a new client with a clean session, so that nothing
//! stale is ever sent: what was in flight is sent again from the buffer. PUBACKs are read and mean
//! nothing here.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use event::{AgentId, Incarnation, Status, topic};
use rumqttc::mqttbytes::Error as MqttError;
use rumqttc::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill,
    MqttOptions, Packet, PublishOptions, QoS, StateError, SubscribeFilterInput,
    SubscribeReasonCode,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::{Jitter, exponential};
use super::dial::{self, Phase, Progress};
use super::file::FileError;
use super::secret::Password;
use super::tls::{self, TlsError};
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
    /// TLS, if the connection is to be encrypted.
    pub tls: Option<tls::Settings>,
    /// User name; the agent's id if not set.
    pub user: Option<String>,
    /// Password.
    pub password: Password,
    /// Longest time until the server has answered a new connection.
    pub connect_timeout: Duration,
    /// First wait after a failed connection.
    pub reconnect_min: Duration,
    /// Longest wait between connections.
    pub reconnect_max: Duration,
    /// Keep-alive of the connection, whole seconds.
    pub keep_alive: Duration,
    /// Largest MQTT packet sent or taken, bytes.
    pub packet_bytes_max: usize,
}

impl Settings {
    /// Looks whether the files that the connection needs can be used, as it will be done at each
    /// connection.
    ///
    /// **Errors**: the first that cannot.
    pub fn check(&self) -> Result<(), CheckError> {
        if let Some(tls) = &self.tls {
            tls.load()?;
            tls.name(&self.host)?;
        }
        self.password.read()?;
        Ok(())
    }

    /// What should not be done like this, and what to do instead.
    pub fn warnings(&self) -> Option<String> {
        let local = tls::bare(&self.host)
            .parse::<IpAddr>()
            .map_or(self.host == "localhost", |ip| ip.is_loopback());
        let open = self.tls.is_none() && self.password != Password::None && !local;
        open.then(|| {
            format!(
                "the password goes to {} without encryption, and everybody on the way can read it; \
                 use server = \"mqtts://{}:8883\"",
                self.host, self.host
            )
        })
    }
}

/// A file that the connection needs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password's.
    #[error(transparent)]
    Password(#[from] FileError),
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
/// Failures in a row are logged at first and when the reason changes, then once per this time.
const LOG_EVERY: Duration = Duration::from_secs(300);
/// How long the largest batch may take to be written, seconds: at 20 kbit/s it takes 100.
const WRITE_MAX_S: u64 = 120;

/// Keeps a connection until the keeper says goodbye.
pub(crate) async fn run(
    settings: Settings,
    identity: Identity,
    inbox: Arc<Inbox>,
    commands: Commands,
    mut keeper: mpsc::Receiver<ToLink>,
) {
    let mut jitter = Jitter::new(identity.incarnation.borrow().rand);
    let mut failures: u32 = 0;
    let mut logged: Option<(Instant, String)> = None;
    if let Some(warning) = settings.warnings() {
        tracing::warn!("{warning}");
    }
    loop {
        let (end, connected) =
            connect_once(&settings, &identity, &inbox, &commands, &mut keeper).await;
        if connected.is_some() {
            inbox.tell(News::Disconnected);
        }
        // A server that answers and hangs up at once is not one that works: the waits go on growing.
        let worked = |c: &Connected| c.answered && c.since.elapsed() >= settings.reconnect_min;
        if connected.as_ref().is_some_and(worked) {
            failures = 0;
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
        failures = failures.saturating_add(1);
        let quiet = logged
            .as_ref()
            .is_some_and(|(at, last)| *last == why && at.elapsed() < LOG_EVERY);
        if failures <= 3 || !quiet {
            let (host, port) = (&settings.host, settings.port);
            tracing::warn!(
                "no connection to {host}:{port}: {why}; {failures}. try in {:.1} s, events are kept",
                wait.as_secs_f64()
            );
            logged = Some((Instant::now(), why));
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

/// Makes one connection and keeps it to its end. Returns how it ended, and what it was if it stood.
async fn connect_once(
    settings: &Settings,
    identity: &Identity,
    inbox: &Inbox,
    commands: &Commands,
    keeper: &mut mpsc::Receiver<ToLink>,
) -> (End, Option<Connected>) {
    match Connection::new(settings, identity, inbox, commands) {
        Ok(mut connection) => {
            let end = connection.run(keeper).await;
            (end, connection.connected)
        }
        Err(error) => (End::Failed(error.to_string()), None),
    }
}

enum End {
    Goodbye,
    Reconnect(&'static str),
    Failed(String),
}

/// A connection that the server has accepted.
struct Connected {
    since: Instant,
    /// An ack came over it.
    answered: bool,
}

struct Connection<'a> {
    settings: &'a Settings,
    identity: &'a Identity,
    inbox: &'a Inbox,
    commands: &'a Commands,
    client: AsyncClient,
    events: EventLoop,
    progress: Progress,
    /// By when the server must have accepted it.
    deadline: Instant,
    connected: Option<Connected>,
}

impl<'a> Connection<'a> {
    fn new(
        settings: &'a Settings,
        identity: &'a Identity,
        inbox: &'a Inbox,
        commands: &'a Commands,
    ) -> Result<Self, FileError> {
        let agent = &identity.agent;
        let incarnation = *identity.incarnation.borrow();
        let client_id = format!("{agent}-{:016x}", incarnation.rand);
        let will = Status {
            online: false,
            incarnation: incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backlog: 0,
        };
        let keep_alive = settings.keep_alive.as_secs().clamp(1, u16::MAX.into()) as u16;
        let progress = Progress::default();
        let broker = Broker::tcp(settings.host.as_str(), settings.port);
        let mut options = MqttOptions::new(client_id, broker);
        options
            .set_clean_session(true)
            .set_keep_alive(keep_alive)
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
                settings.password.read()?.expose().to_vec(),
            )
            .set_socket_connector(connector(settings, &progress));
        let (client, mut events) = AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
        // It bounds writing as well; how long a connection may take is watched here.
        events
            .network_options
            .set_connection_timeout(WRITE_MAX_S + settings.connect_timeout.as_secs());
        Ok(Self {
            settings,
            identity,
            inbox,
            commands,
            client,
            events,
            progress,
            deadline: Instant::now() + settings.connect_timeout,
            connected: None,
        })
    }

    async fn run(&mut self, keeper: &mut mpsc::Receiver<ToLink>) -> End {
        loop {
            // A poll is finished before the next begins (it may be in the middle of a write), while
            // messages go into the client's queue beside it.
            let connecting = self.connected.is_none();
            let event = {
                let poll = self.events.poll();
                tokio::pin!(poll);
                loop {
                    tokio::select! {
                        event = &mut poll => break Some(event),
                        () = sleep_until(self.deadline), if connecting => {
                            return End::Failed(too_slow(self.settings, &self.progress));
                        }
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
                Some(Err(error)) => return End::Failed(self.describe(&error)),
                None => {
                    if self.connected.is_some() {
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
                self.connected = Some(Connected {
                    since: Instant::now(),
                    answered: false,
                });
                let agent = &self.identity.agent;
                let filters = [topic::ack(agent), topic::command(agent)]
                    .map(|path| SubscribeFilterInput::new(path, QoS::AtLeastOnce));
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
                if publish.topic == topic::ack(&self.identity.agent).as_bytes() {
                    if let Some(connected) = &mut self.connected {
                        connected.answered = true;
                    }
                    self.inbox.tell(News::Ack(publish.payload.to_vec()));
                } else if publish.topic == topic::command(&self.identity.agent).as_bytes() {
                    self.commands.deliver(&publish.payload);
                } else {
                    tracing::debug!(topic = ?publish.topic, "message ignored");
                }
            }
            Event::Incoming(Packet::Disconnect) => {
                return Some(End::Failed("the server closed the connection".to_owned()));
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        None
    }

    fn describe(&self, error: &ConnectionError) -> String {
        let settings = self.settings;
        // With TLS 1.3 the server looks at our certificate when for us the handshake is over.
        if let (Some(tls), Some(error)) = (&settings.tls, dial::find_tls(error)) {
            return tls.explain(error, &settings.host);
        }
        let agent = self.identity.agent.as_str();
        let user = settings.user.as_deref().unwrap_or(agent);
        match error {
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    let password = match &settings.password {
                        Password::None => "no password is set",
                        Password::Text(_) => "see password",
                        Password::File(_) => "see password_file",
                    };
                    format!("the server refuses user {user:?} or its password ({password})")
                }
                ConnectReturnCode::ServiceUnavailable => "the server is not available".to_owned(),
                ConnectReturnCode::BadClientId => "the server refuses the client id".to_owned(),
                ConnectReturnCode::RefusedProtocolVersion => {
                    "the server does not speak MQTT 3.1.1".to_owned()
                }
                ConnectReturnCode::Success => "the server's answer makes no sense".to_owned(),
            },
            ConnectionError::Io(error) => error.to_string(),
            ConnectionError::MqttState(StateError::ConnectionAborted)
                if self.connected.is_none() =>
            {
                let hint = match &settings.tls {
                    None => "a port for TLS wants mqtts://",
                    Some(_) => "it may want a client certificate (tls.cert, tls.key)",
                };
                format!("the server closes the connection without a word; {hint}")
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                "the server closed the connection".to_owned()
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => {
                "the server does not answer any more".to_owned()
            }
            ConnectionError::MqttState(StateError::Deserialization(error)) => match error {
                // What the framing says when the end comes too early.
                MqttError::Io(e) if e.kind() == io::ErrorKind::Other => {
                    let hint = match self.connected {
                        Some(_) => "",
                        None => "; is it an MQTT server?",
                    };
                    format!("the server closes the connection in the middle of a packet{hint}")
                }
                MqttError::Io(e) => format!("the connection is cut: {e}"),
                other => format!("what the server sends is no MQTT: {other}"),
            },
            ConnectionError::NotConnAck(_) => {
                "the server answers with what is no answer to CONNECT".to_owned()
            }
            ConnectionError::FlushTimeout => format!(
                "the server takes nothing for {WRITE_MAX_S} s; \
                 on a very slow link lower uplink.batch_bytes_max"
            ),
            other => other.to_string(),
        }
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

/// Makes the connections of the client, so that TLS, names and time limits are ours.
fn connector(
    settings: &Settings,
    progress: &Progress,
) -> impl Fn(
    String,
    rumqttc::NetworkOptions,
) -> Pin<Box<dyn Future<Output = io::Result<dial::Stream>> + Send>>
+ Send
+ Sync
+ 'static {
    let (settings, progress) = (settings.clone(), progress.clone());
    move |_, _| {
        let (settings, progress) = (settings.clone(), progress.clone());
        Box::pin(async move {
            let (host, port, tls) = (&settings.host, settings.port, settings.tls.as_ref());
            let at_most = settings.connect_timeout;
            Ok(dial::dial(host, port, tls, at_most, &progress).await?)
        })
    }
}

/// What a connection waited for in vain.
fn too_slow(settings: &Settings, progress: &Progress) -> String {
    let what = match progress.phase() {
        Phase::Resolve => "DNS does not answer",
        Phase::Tcp => "the host does not answer",
        Phase::Tls => "the server accepts the connection and does not answer the TLS handshake",
        Phase::Mqtt => "the server accepts the connection and does not answer MQTT",
    };
    let secs = settings.connect_timeout.as_secs_f64();
    format!("{what} for {secs:.1} s; is it the right host and port?")
}

enum Handed {
    On,
    Reconnect(&'static str),
    Goodbye,
}

fn hand_over(client: &AsyncClient, agent: &AgentId, message: Option<ToLink>) -> Handed {
    let publish = |topic, retain, payload: Vec<u8>| {
        // A full queue means a stuck connection: the protocol sends again what is lost here.
        let options = PublishOptions::at_least_once().retain(retain);
        if let Err(error) = client.try_publish(topic, payload, options) {
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
