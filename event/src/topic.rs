//! The MQTT topics of the protocol and of plain devices.

use crate::{AgentId, DeviceId, IdError};

/// What a topic name addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// `tidewatch/v1/{agent}/batch`, up.
    Batch(AgentId),
    /// `tidewatch/v1/{agent}/ack`, down.
    Ack(AgentId),
    /// `tidewatch/v1/{agent}/command`, down.
    Command(AgentId),
    /// `tidewatch/v1/{agent}/status`, up, retained.
    Status(AgentId),
    /// `devices/{device}/telemetry`, up, plain JSON.
    Telemetry(DeviceId),
}

/// Why a topic name addresses nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No topic of ours has this shape.
    #[error(
        "topic {0:?} is not known here; data goes to tidewatch/v1/<agent>/batch or devices/<device>/telemetry"
    )]
    Unknown(String),
    /// The shape fits, the id in it does not.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Reads a topic name.
///
/// **Errors**: an unknown shape, or an id that breaks the rules of [`AgentId`].
pub fn parse(topic: &str) -> Result<Topic, TopicError> {
    let unknown = || TopicError::Unknown(topic.chars().take(160).collect());
    if let Some(rest) = topic.strip_prefix("tidewatch/v1/") {
        let (agent, leaf) = rest.rsplit_once('/').ok_or_else(unknown)?;
        let kind: fn(AgentId) -> Topic = match leaf {
            "batch" => Topic::Batch,
            "ack" => Topic::Ack,
            "command" => Topic::Command,
            "status" => Topic::Status,
            _ => return Err(unknown()),
        };
        return Ok(kind(AgentId::new(agent)?));
    }
    let device = topic
        .strip_prefix("devices/")
        .and_then(|rest| rest.strip_suffix("/telemetry"))
        .ok_or_else(unknown)?;
    Ok(Topic::Telemetry(DeviceId::new(device)?))
}

/// Where an agent publishes its batches.
pub fn batch(agent: &AgentId) -> String {
    format!("tidewatch/v1/{agent}/batch")
}

/// Where an agent hears what is durable.
pub fn ack(agent: &AgentId) -> String {
    format!("tidewatch/v1/{agent}/ack")
}

/// Where an agent hears its commands.
pub fn command(agent: &AgentId) -> String {
    format!("tidewatch/v1/{agent}/command")
}

/// Where an agent's retained status stands.
pub fn status(agent: &AgentId) -> String {
    format!("tidewatch/v1/{agent}/status")
}

/// Where a plain device publishes JSON.
pub fn telemetry(device: &DeviceId) -> String {
    format!("devices/{device}/telemetry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_read_back() {
        let agent = AgentId::new("gw-1").unwrap();
        let device = DeviceId::new("b8:27").unwrap();
        assert_eq!(parse(&batch(&agent)), Ok(Topic::Batch(agent.clone())));
        assert_eq!(parse(&ack(&agent)), Ok(Topic::Ack(agent.clone())));
        assert_eq!(parse(&command(&agent)), Ok(Topic::Command(agent.clone())));
        assert_eq!(parse(&status(&agent)), Ok(Topic::Status(agent)));
        assert_eq!(parse(&telemetry(&device)), Ok(Topic::Telemetry(device)));
    }

    #[test]
    fn strange_topics_are_refused_with_a_reason() {
        for bad in [
            "",
            "x",
            "devices//telemetry",
            "devices/a/b/telemetry",
            "devices/telemetry",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "tidewatch/v1/a/other",
            "tidewatch/v1/a/b/batch",
            "tidewatch/v2/a/batch",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let long = format!("devices/{}/telemetry", "x".repeat(300));
        assert!(matches!(
            parse(&long),
            Err(TopicError::Id(IdError::TooLong { len: 300, .. }))
        ));
    }
}
