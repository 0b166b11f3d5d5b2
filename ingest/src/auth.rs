//! Who may connect, and what each may publish and hear.
//!
//! Two forms: **open** (the default on loopback: everybody may do everything, a user name that is an
//! agent id binds the connection to that agent) and **users** from the config. The broker forms ask
//! through [`Auth`], so that a third form (tokens, certificates) needs no change elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use event::{AgentId, Topic};
use sha2::{Digest, Sha256};

use crate::settings::{AuthSettings, UserSettings};

/// What a client shows when it connects.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// MQTT user name.
    pub user: Option<&'a str>,
    /// MQTT password.
    pub password: Option<&'a [u8]>,
    /// MQTT client id.
    pub client_id: &'a str,
}

/// The agents that a principal speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One agent: its user name.
    One(AgentId),
    /// Any: the agent is the one that the topic names.
    Any,
    /// None: plain devices and readers.
    None,
}

/// Who a connection is, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user name, if one was given.
    pub user: Option<Arc<str>>,
    /// For which agents it may publish batches and status, and hear acks and commands.
    pub agents: Scope,
    /// May publish on `devices/{any}/telemetry`.
    pub telemetry: bool,
    /// May hear the status of every agent.
    pub read_status: bool,
}

impl Principal {
    /// The principal of a broker that does not tell who publishes: the topic's agent is taken for
    /// the publisher. Only for a broker on a trusted network.
    pub fn trusted() -> Self {
        Self {
            user: None,
            agents: Scope::Any,
            telemetry: true,
            read_status: true,
        }
    }

    /// The agent that this connection is, if it is exactly one.
    pub fn agent(&self) -> Option<&AgentId> {
        match &self.agents {
            Scope::One(agent) => Some(agent),
            Scope::Any | Scope::None => None,
        }
    }
}

/// What somebody wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send to it.
    Publish,
    /// Listen to it.
    Subscribe,
}

/// Why a client may not connect. The client learns only that it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown user or wrong password")]
pub struct AuthError;

/// Decides who may connect and do what.
pub trait Auth: Send + Sync + 'static {
    /// Checks the credentials.
    ///
    /// **Errors**: [`AuthError`], the same for an unknown user and a wrong password.
    fn authenticate(&self, credentials: Credentials<'_>) -> Result<Principal, AuthError>;

    /// Whether `principal` may do `action` on `topic`. The default follows the principal's fields.
    fn permit(&self, principal: &Principal, action: Action, topic: &Topic) -> bool {
        let own = |agent: &AgentId| match &principal.agents {
            Scope::One(own) => own == agent,
            Scope::Any => true,
            Scope::None => false,
        };
        match (action, topic) {
            (Action::Publish, Topic::Batch(agent) | Topic::Status(agent)) => own(agent),
            (Action::Publish, Topic::Telemetry(_)) => principal.telemetry,
            (Action::Subscribe, Topic::Ack(agent) | Topic::Command(agent)) => own(agent),
            (Action::Subscribe, Topic::Status(agent)) => principal.read_status || own(agent),
            // Acks and commands come only from here; batches and telemetry go only to the log.
            (Action::Publish, Topic::Ack(_) | Topic::Command(_))
            | (Action::Subscribe, Topic::Batch(_) | Topic::Telemetry(_)) => false,
        }
    }
}

/// The form that the settings ask for.
pub fn from_settings(settings: &AuthSettings) -> Arc<dyn Auth> {
    match settings {
        AuthSettings::Open => Arc::new(Open),
        AuthSettings::Users { users } => Arc::new(Users::new(users)),
    }
}

/// Everybody may connect and publish. For loopback and trusted networks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Auth for Open {
    fn authenticate(&self, credentials: Credentials<'_>) -> Result<Principal, AuthError> {
        // A user name that is no agent id says nothing about agents.
        let agents = match credentials.user.map(AgentId::new) {
            Some(Ok(agent)) => Scope::One(agent),
            Some(Err(_)) | None => Scope::Any,
        };
        Ok(Principal {
            user: credentials.user.map(Arc::from),
            agents,
            telemetry: true,
            read_status: true,
        })
    }
}

/// Users from the config. The user name of an agent is its agent id.
pub struct Users {
    users: BTreeMap<String, Known>,
}

struct Known {
    password_sha256: [u8; 32],
    principal: Principal,
}

impl Users {
    /// Takes the users of the settings. A user without a usable password can never connect.
    pub fn new(users: &[UserSettings]) -> Self {
        let users = users
            .iter()
            .filter_map(|user| {
                let password_sha256 = user.password_sha256()?;
                let agents = match (user.agent, AgentId::new(&user.name)) {
                    (true, Ok(agent)) => Scope::One(agent),
                    _ => Scope::None,
                };
                let principal = Principal {
                    user: Some(user.name.as_str().into()),
                    agents,
                    telemetry: user.telemetry,
                    read_status: user.read_status,
                };
                Some((
                    user.name.clone(),
                    Known {
                        password_sha256,
                        principal,
                    },
                ))
            })
            .collect();
        Self { users }
    }
}

impl Auth for Users {
    fn authenticate(&self, credentials: Credentials<'_>) -> Result<Principal, AuthError> {
        let given: [u8; 32] = Sha256::digest(credentials.password.unwrap_or_default()).into();
        let known = credentials.user.and_then(|name| self.users.get(name));
        // Digests are compared whole, so that the time tells nothing about where they differ.
        let expected = known.map_or([0u8; 32], |k| k.password_sha256);
        let differ = given
            .iter()
            .zip(expected)
            .fold(0u8, |acc, (a, b)| acc | (a ^ b));
        match known {
            Some(known) if differ == 0 => Ok(known.principal.clone()),
            _ => Err(AuthError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    fn user(name: &str, password: &str) -> UserSettings {
        UserSettings {
            name: name.into(),
            password: Some(Secret::new(password)),
            ..UserSettings::default()
        }
    }

    fn credentials<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
        Credentials {
            user: Some(user),
            password: Some(password.as_bytes()),
            client_id: "c",
        }
    }

    #[test]
    fn users_connect_with_their_password_only() {
        let hashed = UserSettings {
            name: "gw-2".into(),
            // sha256 of "two"
            password_sha256: Some(
                "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3".into(),
            ),
            ..UserSettings::default()
        };
        let broken = UserSettings {
            name: "none".into(),
            ..UserSettings::default()
        };
        let auth = Users::new(&[user("gw-1", "one"), hashed, broken]);
        assert!(auth.authenticate(credentials("gw-1", "one")).is_ok());
        assert!(auth.authenticate(credentials("gw-2", "two")).is_ok());
        for (name, password) in [
            ("gw-1", "two"),
            ("gw-1", ""),
            ("gw-3", "one"),
            ("none", ""),
            ("", ""),
        ] {
            assert_eq!(
                auth.authenticate(credentials(name, password)),
                Err(AuthError),
                "{name}"
            );
        }
        let nobody = Credentials {
            user: None,
            password: None,
            client_id: "c",
        };
        assert_eq!(auth.authenticate(nobody), Err(AuthError));
    }

    #[test]
    fn an_agent_has_its_own_topics_only() {
        let auth = Users::new(&[user("gw-1", "one")]);
        let me = auth.authenticate(credentials("gw-1", "one")).unwrap();
        #[track_caller]
        fn check(auth: &Users, me: &Principal, topic: &str, publish: bool, subscribe: bool) {
            let topic = event::topic::parse(topic).unwrap();
            assert_eq!(
                auth.permit(me, Action::Publish, &topic),
                publish,
                "publish {topic:?}"
            );
            assert_eq!(
                auth.permit(me, Action::Subscribe, &topic),
                subscribe,
                "hear {topic:?}"
            );
        }
        check(&auth, &me, "tidewatch/v1/gw-1/batch", true, false);
        check(&auth, &me, "tidewatch/v1/gw-1/status", true, true);
        check(&auth, &me, "tidewatch/v1/gw-1/ack", false, true);
        check(&auth, &me, "tidewatch/v1/gw-1/command", false, true);
        check(&auth, &me, "tidewatch/v1/gw-2/batch", false, false);
        check(&auth, &me, "tidewatch/v1/gw-2/status", false, false);
        check(&auth, &me, "tidewatch/v1/gw-2/ack", false, false);
        check(&auth, &me, "devices/d/telemetry", false, false);
    }

    #[test]
    fn open_binds_a_connection_to_the_agent_it_names() {
        let named = Open.authenticate(credentials("gw-1", "")).unwrap();
        let other = event::topic::parse("tidewatch/v1/gw-2/batch").unwrap();
        assert!(!Open.permit(&named, Action::Publish, &other));
        let nameless = Credentials {
            user: None,
            password: None,
            client_id: "c",
        };
        let nameless = Open.authenticate(nameless).unwrap();
        assert!(Open.permit(&nameless, Action::Publish, &other));
    }
}
