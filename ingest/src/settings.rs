//! Settings of the tier: plain data with a limit for everything that a stranger can make grow.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Settings of ingest. `Default` serves MQTT on loopback, open to everybody on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `front` (our own MQTT endpoint), `rumqttd` (a broker in this process, trusted network only)
    /// or `mqtt://[user:password@]host[:port]` (a broker elsewhere, by shared subscription).
    pub broker: Broker,
    /// Where the front or rumqttd listens. Default `127.0.0.1:1883`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Client id at an external broker; each ingest process needs its own. Default
    /// `tidewatch-ingest`.
    pub client_id: String,
    /// Who may connect (front only). Default `{ mode = "open" }`.
    pub auth: AuthSettings,
    /// An open front on an address that is not loopback must be said twice. Default false.
    pub open_to_network: bool,
    /// Limits of the front.
    pub front: FrontSettings,
    /// Limits of what is admitted.
    pub admission: AdmissionSettings,
    /// How often a refusal that repeats is written to the log again, milliseconds. Default 10 000.
    pub refusal_interval_ms: u64,
    /// Distinct (source, reason) pairs of refusals kept apart per interval; beyond it they are
    /// counted together under the source `(others)`. Default 1024.
    pub refusal_keys_max: usize,
    /// A partition without an append for this long gets a tick, milliseconds. Default 1000.
    pub tick_ms: u64,
    /// How long a stop waits for appends under way, milliseconds. Default 5000.
    pub shutdown_grace_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker: Broker::Front,
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            client_id: "tidewatch-ingest".to_owned(),
            auth: AuthSettings::Open,
            open_to_network: false,
            front: FrontSettings::default(),
            admission: AdmissionSettings::default(),
            refusal_interval_ms: 10_000,
            refusal_keys_max: 1024,
            tick_ms: 1000,
            shutdown_grace_ms: 5000,
        }
    }
}

/// Limits of the front: the MQTT endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontSettings {
    /// Connections at a time; one more is closed at once. Each needs a file descriptor. Default 10 000.
    pub connections_max: usize,
    /// Largest packet taken, bytes. A larger one is refused from its fixed header and the connection
    /// closed. Default 1 MiB.
    pub packet_bytes_max: usize,
    /// Largest CONNECT packet, bytes (it comes before anybody is known). Default 16 KiB.
    pub connect_bytes_max: usize,
    /// Longest topic name or filter, bytes. Default 512.
    pub topic_bytes_max: usize,
    /// Longest client id, bytes. Default 256.
    pub client_id_bytes_max: usize,
    /// Subscriptions of a connection. Default 16.
    pub subscriptions_max: usize,
    /// Messages of a connection that are admitted but not yet durable; then its socket is not read.
    /// Version 5 clients are told (receive maximum). Default 64.
    pub in_flight_max: u16,
    /// Messages to a connection that wait for its socket; beyond it they are dropped. Default 64.
    pub deliveries_max: usize,
    /// Bytes written for a connection that its peer has not read; beyond it its socket is not read
    /// either. Default 256 KiB.
    pub output_bytes_max: usize,
    /// Agents whose last status is kept for new subscribers. Default 100 000.
    pub retained_max: usize,
    /// Largest status payload that is kept, bytes. Default 4096.
    pub retained_bytes_max: usize,
    /// Time from accept to a complete CONNECT, milliseconds. Default 10 000.
    pub connect_timeout_ms: u64,
    /// Longest keep-alive in seconds; a client that asks for more or for none gets this one, and a
    /// silent connection ends after 1.5 of it. Default 3600.
    pub keep_alive_max_s: u16,
    /// A peer that reads nothing of what is written to it for this long is closed, milliseconds.
    /// Default 30 000.
    pub write_stall_ms: u64,
    /// How long a connection whose message the log did not take is kept before it is closed with a
    /// reason, milliseconds. It slows the resending down. Default 5000.
    pub log_failure_grace_ms: u64,
    /// How often a message is offered again while the queue of the log is full, milliseconds.
    /// Default 5.
    pub busy_retry_ms: u64,
}

impl Default for FrontSettings {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            packet_bytes_max: 1 << 20,
            connect_bytes_max: 16 << 10,
            topic_bytes_max: 512,
            client_id_bytes_max: 256,
            subscriptions_max: 16,
            in_flight_max: 64,
            deliveries_max: 64,
            output_bytes_max: 256 << 10,
            retained_max: 100_000,
            retained_bytes_max: 4096,
            connect_timeout_ms: 10_000,
            keep_alive_max_s: 3600,
            write_stall_ms: 30_000,
            log_failure_grace_ms: 5000,
            busy_retry_ms: 5,
        }
    }
}

/// Limits of what is admitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionSettings {
    /// Largest batch, bytes. Default 1 MiB, which is also the most the codec takes.
    pub batch_bytes_max: usize,
    /// Largest message of a plain device, bytes. Default 256 KiB.
    pub plain_bytes_max: usize,
    /// Fields in all objects of a plain message together. Default 1024.
    pub plain_fields_max: usize,
    /// Objects in the array of a plain message. Default 1000.
    pub plain_objects_max: usize,
    /// Largest status message, bytes. Default 4096.
    pub status_bytes_max: usize,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self {
            batch_bytes_max: event::batch::BYTES_MAX,
            plain_bytes_max: 256 << 10,
            plain_fields_max: 1024,
            plain_objects_max: 1000,
            status_bytes_max: 4096,
        }
    }
}

/// Which form of broker stands at the door.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Broker {
    /// Our own MQTT endpoint.
    #[default]
    Front,
    /// rumqttd in this process: general publish and subscribe, trusted network only (it knows no
    /// permissions and does not tell who publishes).
    Rumqttd,
    /// A broker elsewhere.
    External(ExternalBroker),
}

/// Address and login of an external broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalBroker {
    /// Host name or address.
    pub host: String,
    /// Port; 1883 unless given.
    pub port: u16,
    /// User name and password.
    pub login: Option<(String, Secret)>,
}

/// A text that is not one of the forms of [`Broker`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "broker {given:?} is not known: give \"front\", \"rumqttd\" or \"mqtt://[user:password@]host[:port]\""
)]
pub struct BrokerError {
    given: String,
}

impl FromStr for Broker {
    type Err = BrokerError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // A URL may hold a password, which an error must not repeat.
        let error = || BrokerError {
            given: match s.rsplit_once('@') {
                Some((_, host)) => format!("mqtt://…@{host}"),
                None => s.to_owned(),
            },
        };
        match s {
            "front" => return Ok(Self::Front),
            "rumqttd" => return Ok(Self::Rumqttd),
            _ => {}
        }
        let rest = s
            .strip_prefix("mqtt://")
            .ok_or_else(error)?
            .trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((user.to_owned(), Secret::new(password))), address)
            }
            None => (None, rest),
        };
        // `[::1]:1883`, `host:1883` or `host`.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| error())?),
            _ => (address, 1883),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(error());
        }
        Ok(Self::External(ExternalBroker {
            host: host.to_owned(),
            port,
            login,
        }))
    }
}

impl TryFrom<String> for Broker {
    type Error = BrokerError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Broker> for String {
    /// The text form; a password shows as `…`.
    fn from(broker: Broker) -> Self {
        broker.to_string()
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Front => f.write_str("front"),
            Self::Rumqttd => f.write_str("rumqttd"),
            Self::External(b) => {
                f.write_str("mqtt://")?;
                if let Some((user, _)) = &b.login {
                    write!(f, "{user}:…@")?;
                }
                if b.host.contains(':') {
                    write!(f, "[{}]:{}", b.host, b.port)
                } else {
                    write!(f, "{}:{}", b.host, b.port)
                }
            }
        }
    }
}

/// Who may connect to the front: `{ mode = "open" }`, or `{ mode = "users", users = […] }`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "mode")]
pub enum AuthSettings {
    /// Everybody. The default, for loopback.
    #[default]
    Open,
    /// The users listed here.
    Users {
        /// The users.
        users: Vec<UserSettings>,
    },
}

/// One user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserSettings {
    /// User name; for an agent its agent id.
    pub name: String,
    /// The password itself, or
    pub password: Option<Secret>,
    /// its SHA-256 in hex (of a long random password; it is not a slow hash).
    pub password_sha256: Option<String>,
    /// May publish batches and status of the agent with this name and hear its acks and commands.
    /// Default true.
    pub agent: bool,
    /// May publish on `devices/{any}/telemetry`. Default false.
    pub telemetry: bool,
    /// May hear the status of all agents. Default false.
    pub read_status: bool,
}

impl Default for UserSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            password: None,
            password_sha256: None,
            agent: true,
            telemetry: false,
            read_status: false,
        }
    }
}

impl UserSettings {
    /// The digest to compare with; `None` if there is no usable password.
    pub(crate) fn password_sha256(&self) -> Option<[u8; 32]> {
        match (&self.password, &self.password_sha256) {
            (Some(password), None) if !password.expose().is_empty() => {
                Some(Sha256::digest(password.expose().as_bytes()).into())
            }
            (None, Some(hex)) => {
                let mut digest = [0u8; 32];
                if hex.len() != 64 || !hex.is_ascii() {
                    return None;
                }
                for (i, byte) in digest.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
                }
                Some(digest)
            }
            _ => None,
        }
    }
}

/// A text that is never shown: `Debug` and serialisation write `…`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("…")
    }
}

/// A setting that cannot work. `Display` names the key and a way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A limit of zero would stop everything.
    #[error("setting ingest.{key} is {given}; give at least {min}")]
    TooSmall {
        /// The key.
        key: &'static str,
        /// What was given.
        given: u64,
        /// The least that works.
        min: u64,
    },
    /// A limit beyond what the parts behind it can take.
    #[error("setting ingest.{key} is {given}; give at most {max}")]
    TooLarge {
        /// The key.
        key: &'static str,
        /// What was given.
        given: u64,
        /// The most that works.
        max: u64,
    },
    /// Open on an address that others can reach.
    #[error(
        "setting ingest.listen is {listen}, which other machines can reach, and ingest.auth is open; list users, or say open_to_network = true"
    )]
    OpenToNetwork {
        /// The address.
        listen: SocketAddr,
    },
    /// A user that could never connect.
    #[error(
        "setting ingest.auth.users: user {name:?} needs a name and either password or password_sha256 (64 hex digits)"
    )]
    User {
        /// The user's name.
        name: String,
    },
    /// A user who is an agent must be named like one.
    #[error("setting ingest.auth.users: {source}; rename the user or say agent = false")]
    UserName {
        /// The rule that is broken.
        #[from]
        source: event::IdError,
    },
    /// A client id that the client library would not take.
    #[error("setting ingest.client_id is {given:?}; give a name that does not start with a space")]
    ClientId {
        /// What was given.
        given: String,
    },
    /// rumqttd knows no permissions.
    #[error(
        "setting ingest.broker is rumqttd, which knows no permissions, and ingest.auth lists users; use broker = \"front\""
    )]
    UsersWithRumqttd,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// **Errors**: [`SettingsError`] for the first setting that cannot work.
    pub fn check(&self) -> Result<(), SettingsError> {
        let front = &self.front;
        for (key, given, min) in [
            ("front.connections_max", front.connections_max as u64, 1),
            (
                "front.packet_bytes_max",
                front.packet_bytes_max as u64,
                1024,
            ),
            (
                "front.connect_bytes_max",
                front.connect_bytes_max as u64,
                256,
            ),
            ("front.topic_bytes_max", front.topic_bytes_max as u64, 160),
            (
                "front.client_id_bytes_max",
                front.client_id_bytes_max as u64,
                23,
            ),
            ("front.in_flight_max", u64::from(front.in_flight_max), 1),
            ("front.deliveries_max", front.deliveries_max as u64, 1),
            (
                "front.output_bytes_max",
                front.output_bytes_max as u64,
                1024,
            ),
            ("front.connect_timeout_ms", front.connect_timeout_ms, 1),
            (
                "front.keep_alive_max_s",
                u64::from(front.keep_alive_max_s),
                1,
            ),
            ("front.write_stall_ms", front.write_stall_ms, 1),
            ("front.busy_retry_ms", front.busy_retry_ms, 1),
            (
                "admission.plain_fields_max",
                self.admission.plain_fields_max as u64,
                1,
            ),
            (
                "admission.plain_objects_max",
                self.admission.plain_objects_max as u64,
                1,
            ),
            ("refusal_interval_ms", self.refusal_interval_ms, 1),
            ("refusal_keys_max", self.refusal_keys_max as u64, 1),
            ("tick_ms", self.tick_ms, 1),
        ] {
            if given < min {
                return Err(SettingsError::TooSmall { key, given, min });
            }
        }
        for (key, given, max) in [
            // The longest packet that MQTT can write.
            (
                "front.packet_bytes_max",
                front.packet_bytes_max as u64,
                268_435_455,
            ),
            (
                "admission.batch_bytes_max",
                self.admission.batch_bytes_max as u64,
                event::batch::BYTES_MAX as u64,
            ),
        ] {
            if given > max {
                return Err(SettingsError::TooLarge { key, given, max });
            }
        }
        if self.client_id.is_empty() || self.client_id.starts_with(' ') {
            return Err(SettingsError::ClientId {
                given: self.client_id.clone(),
            });
        }
        match (&self.broker, &self.auth) {
            (Broker::Rumqttd, AuthSettings::Users { .. }) => {
                return Err(SettingsError::UsersWithRumqttd);
            }
            (Broker::Front | Broker::Rumqttd, AuthSettings::Open)
                if !self.listen.ip().is_loopback() && !self.open_to_network =>
            {
                return Err(SettingsError::OpenToNetwork {
                    listen: self.listen,
                });
            }
            (_, AuthSettings::Users { users }) => {
                for user in users {
                    if user.name.is_empty() || user.password_sha256().is_none() {
                        return Err(SettingsError::User {
                            name: user.name.clone(),
                        });
                    }
                    if user.agent {
                        event::AgentId::new(&user.name)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Milliseconds of a setting as a duration.
pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_read_and_hide_their_password() {
        #[track_caller]
        fn check(text: &str, shown: &str) {
            assert_eq!(
                text.parse::<Broker>().map(|b| b.to_string()),
                Ok(shown.to_owned())
            );
        }
        check("front", "front");
        check("rumqttd", "rumqttd");
        check("mqtt://10.0.0.1", "mqtt://10.0.0.1:1883");
        check("mqtt://u:p@h:1884", "mqtt://u:…@h:1884");
        check("mqtt://[::1]:1884/", "mqtt://[::1]:1884");
        let error = "http://u:secret@h"
            .parse::<Broker>()
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("secret") && error.contains("rumqttd"),
            "{error}"
        );
        assert!("mqtt://".parse::<Broker>().is_err());
        assert!("mqtt://h:x".parse::<Broker>().is_err());
    }

    #[test]
    fn settings_are_read_and_unknown_keys_named() {
        let read = |json| serde_json::from_str::<Settings>(json);
        let settings = read(
            r#"{"broker": "mqtt://h", "front": {"in_flight_max": 8},
                "auth": {"mode": "users", "users": [{"name": "gw-1", "password": "x"}]}}"#,
        )
        .unwrap();
        assert_eq!(settings.front.in_flight_max, 8);
        assert!(matches!(&settings.auth, AuthSettings::Users { users } if users[0].agent));
        for (json, key) in [
            (r#"{"brocker": 1}"#, "brocker"),
            (r#"{"front": {"limit": 1}}"#, "limit"),
            (
                r#"{"auth": {"mode": "users", "users": [{"nam": "x"}]}}"#,
                "nam",
            ),
        ] {
            assert!(read(json).unwrap_err().to_string().contains(key), "{key}");
        }
        let shown = serde_json::to_string(&settings).unwrap();
        assert!(!shown.contains("\"x\""), "{shown}");
    }

    #[test]
    fn open_to_the_network_must_be_said_twice() {
        let mut settings = Settings::default();
        assert_eq!(settings.check(), Ok(()));
        settings.listen = SocketAddr::from(([0, 0, 0, 0], 1883));
        assert!(matches!(
            settings.check(),
            Err(SettingsError::OpenToNetwork { .. })
        ));
        settings.open_to_network = true;
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn a_user_without_a_password_is_an_error() {
        let mut settings = Settings::default();
        let user = UserSettings {
            name: "gw-1".into(),
            ..UserSettings::default()
        };
        settings.auth = AuthSettings::Users {
            users: vec![user.clone()],
        };
        assert!(matches!(settings.check(), Err(SettingsError::User { .. })));
        let user = UserSettings {
            password: Some(Secret::new("x")),
            ..user
        };
        settings.auth = AuthSettings::Users { users: vec![user] };
        assert_eq!(settings.check(), Ok(()));
        assert!(!format!("{settings:?}").contains("\"x\""));
    }
}
