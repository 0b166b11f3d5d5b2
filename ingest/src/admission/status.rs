//! Status messages of agents, which are last wills too.

use event::{AgentId, Record, RefusalReason, Status, StatusRecord};

use super::Refusal;

/// Reads a status that came on the topic of `agent`.
///
/// **Errors**: the refusal.
pub fn admit(agent: &AgentId, payload: &[u8], bytes_max: usize) -> Result<Record, Refusal> {
    if payload.len() > bytes_max {
        let text = format!(
            "status of {} bytes is over the limit of {bytes_max}",
            payload.len()
        );
        return Err(Refusal::new(RefusalReason::TooLarge, text));
    }
    let status =
        Status::parse(payload).map_err(|(reason, message)| Refusal::new(reason, message))?;
    Ok(Record::Status(StatusRecord {
        agent: agent.clone(),
        status,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_or_refused() {
        #[track_caller]
        fn check(payload: &[u8], expected: Option<RefusalReason>) {
            let agent = AgentId::new("gw-1").unwrap();
            assert_eq!(
                admit(&agent, payload, 100).err().map(|r| r.reason),
                expected
            );
        }
        check(br#"{"online": true}"#, None);
        check(b"", Some(RefusalReason::Empty));
        check(b"{", Some(RefusalReason::InvalidJson));
        check(b"\xff", Some(RefusalReason::InvalidUtf8));
        check(&[b' '; 101], Some(RefusalReason::TooLarge));
    }
}
