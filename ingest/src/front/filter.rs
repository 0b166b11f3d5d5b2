//! Topic filters that the front knows: an agent's own topics, and the status of one or all agents.

use event::{AgentId, Topic};

use super::codec::Granted;
use crate::auth::{Action, Auth, Principal};

/// The last level of an agent's topics that go down or are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// `…/ack`
    Ack,
    /// `…/command`
    Command,
    /// `…/status`
    Status,
}

impl Leaf {
    /// The leaf of a topic name of the form `tidewatch/v1/{agent}/…`.
    pub fn of(topic: &str) -> Option<Self> {
        match topic.rsplit_once('/')?.1 {
            "ack" => Some(Self::Ack),
            "command" => Some(Self::Command),
            "status" => Some(Self::Status),
            _ => None,
        }
    }
}

/// A set of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaves(u8);

impl Leaves {
    /// Ack, command and status.
    pub const ALL: Self = Self(7);
    /// No leaf.
    pub const NONE: Self = Self(0);

    /// A single leaf.
    pub const fn one(leaf: Leaf) -> Self {
        Self(1 << leaf as u8)
    }

    /// Whether `leaf` is in it.
    pub fn has(self, leaf: Leaf) -> bool {
        self.0 & Self::one(leaf).0 != 0
    }

    /// Both together.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This one without those of `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Nothing in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a granted filter asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Topics of one agent.
    Agent(AgentId, Leaves),
    /// `tidewatch/v1/+/status`
    AllStatus,
}

impl Wanted {
    /// Whether a delivery of `agent_topic` is wanted by this.
    pub fn matches(&self, topic: &str) -> bool {
        let Some(leaf) = Leaf::of(topic) else {
            return false;
        };
        match self {
            Self::AllStatus => leaf == Leaf::Status,
            Self::Agent(agent, leaves) => {
                leaves.has(leaf)
                    && topic
                        .strip_prefix("tidewatch/v1/")
                        .and_then(|rest| rest.strip_prefix(agent.as_str()))
                        .is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }
}

/// Reads a filter and asks `auth` whether it may be heard.
///
/// **Errors**: the answer for the SUBACK.
pub fn read(auth: &dyn Auth, principal: &Principal, filter: &str) -> Result<Wanted, Granted> {
    if !is_valid(filter) {
        return Err(Granted::Invalid);
    }
    if filter.starts_with("$share/") {
        return Err(Granted::Shared);
    }
    let permit = |topic: Topic| auth.permit(principal, Action::Subscribe, &topic);
    let one = |agent: AgentId, leaf: Leaf| Wanted::Agent(agent, Leaves::one(leaf));
    if filter == "tidewatch/v1/+/status" {
        return if principal.read_status {
            Ok(Wanted::AllStatus)
        } else {
            Err(Granted::NotAuthorized)
        };
    }
    if let Some(agent) = filter
        .strip_prefix("tidewatch/v1/")
        .and_then(|f| f.strip_suffix("/+"))
        && let Ok(agent) = AgentId::new(agent)
    {
        // The wildcard stands for what is allowed of the three, and needs the ack at least: a mere
        // reader of statuses asks for the status.
        if !permit(Topic::Ack(agent.clone())) {
            return Err(Granted::NotAuthorized);
        }
        let mut leaves = Leaves::one(Leaf::Ack);
        if permit(Topic::Command(agent.clone())) {
            leaves = leaves.with(Leaves::one(Leaf::Command));
        }
        if permit(Topic::Status(agent.clone())) {
            leaves = leaves.with(Leaves::one(Leaf::Status));
        }
        return Ok(Wanted::Agent(agent, leaves));
    }
    let wanted = match event::topic::parse(filter) {
        Ok(topic) if !permit(topic.clone()) => return Err(Granted::NotAuthorized),
        Ok(Topic::Ack(agent)) => one(agent, Leaf::Ack),
        Ok(Topic::Command(agent)) => one(agent, Leaf::Command),
        Ok(Topic::Status(agent)) => one(agent, Leaf::Status),
        Ok(Topic::Batch(_) | Topic::Telemetry(_)) | Err(_) => return Err(Granted::NotAuthorized),
    };
    Ok(wanted)
}

/// The rules of MQTT: `+` and `#` stand alone in their level, `#` only at the end.
fn is_valid(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    !filter.is_empty()
        && !filter.contains('\0')
        && levels.iter().enumerate().all(|(i, level)| match *level {
            "#" => i + 1 == levels.len(),
            "+" => true,
            other => !other.contains(['+', '#']),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Open;
    use crate::auth::Scope;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).unwrap()
    }

    #[test]
    fn only_own_topics_and_permitted_statuses_are_heard() {
        let me = |read_status| Principal {
            user: None,
            agents: Scope::One(agent("gw-1")),
            telemetry: false,
            read_status,
        };
        #[track_caller]
        fn check(me: &Principal, filter: &str, expected: Result<Wanted, Granted>) {
            assert_eq!(read(&Open, me, filter), expected, "{filter}");
        }
        let own = |leaf| Ok(Wanted::Agent(agent("gw-1"), Leaves::one(leaf)));
        check(&me(false), "tidewatch/v1/gw-1/ack", own(Leaf::Ack));
        check(&me(false), "tidewatch/v1/gw-1/command", own(Leaf::Command));
        check(&me(false), "tidewatch/v1/gw-1/status", own(Leaf::Status));
        check(
            &me(false),
            "tidewatch/v1/gw-1/+",
            Ok(Wanted::Agent(agent("gw-1"), Leaves::ALL)),
        );
        check(&me(true), "tidewatch/v1/+/status", Ok(Wanted::AllStatus));
        check(
            &me(true),
            "tidewatch/v1/gw-2/status",
            Ok(Wanted::Agent(agent("gw-2"), Leaves::one(Leaf::Status))),
        );
        for filter in [
            "#",
            "+",
            "tidewatch/v1/+/ack",
            "tidewatch/v1/+/+",
            "tidewatch/v1/gw-2/ack",
            "tidewatch/v1/gw-2/+",
            "tidewatch/v1/gw-2/status",
            "tidewatch/v1/+/status",
            "tidewatch/v1/gw-1/#",
            "tidewatch/v1/gw-1/batch",
            "devices/d/telemetry",
            "devices/+/telemetry",
            "$SYS/#",
            "a/b",
        ] {
            check(&me(false), filter, Err(Granted::NotAuthorized));
        }
        for filter in ["", "a/#/b", "a+/b", "a/b#", "a\0"] {
            check(&me(true), filter, Err(Granted::Invalid));
        }
        check(
            &me(true),
            "$share/g/tidewatch/v1/gw-1/ack",
            Err(Granted::Shared),
        );
    }

    #[test]
    fn deliveries_find_the_subscription_they_belong_to() {
        let wanted = Wanted::Agent(agent("gw-1"), Leaves::one(Leaf::Ack));
        assert!(wanted.matches("tidewatch/v1/gw-1/ack"));
        assert!(!wanted.matches("tidewatch/v1/gw-1/status"));
        assert!(!wanted.matches("tidewatch/v1/gw-10/ack"));
        assert!(Wanted::AllStatus.matches("tidewatch/v1/x/status"));
        assert!(!Wanted::AllStatus.matches("tidewatch/v1/x/ack"));
    }
}
