//! What the agent remembers of its session at the broker, stored with the readings: so that a message
//! that the broker sends again, because our acknowledgement did not reach it, is not taken twice.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::sources::hash::{fnv1a, fnv1a_on};

/// Messages remembered. More than are ever un-acknowledged ([`super::UNACKED_MAX`]), so that every
/// message that can come again is known; few, because they are written with each commit.
const RECENT_MAX: usize = 2 * super::UNACKED_MAX;

/// The session's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Session {
    /// The subscriptions that the broker has granted.
    pub filters: Vec<String>,
    /// Packet identifier and content of the last messages stored, the newest at the end.
    recent: VecDeque<(u16, u64)>,
}

impl Session {
    /// What was stored; anything else is a new session.
    pub fn read(cursor: Option<&[u8]>) -> Self {
        cursor
            .and_then(|bytes| postcard::from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    pub fn to_cursor(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(self).ok()
    }

    /// The broker does not know us any more: its identifiers begin anew.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether a message that comes again (the broker marks those) was stored already. A broker keeps
    /// the identifier of a message until it is acknowledged.
    pub fn has(&self, id: u16, content: u64) -> bool {
        self.recent.contains(&(id, content))
    }

    /// The message is stored together with this.
    pub fn note(&mut self, id: u16, content: u64) {
        // The identifier is used again: the earlier message was acknowledged.
        self.recent.retain(|(known, _)| *known != id);
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((id, content));
    }
}

/// The content of a message.
pub(super) fn content(topic: &str, payload: &[u8]) -> u64 {
    // A topic holds no NUL.
    fnv1a_on(fnv1a_on(fnv1a(topic.as_bytes()), &[0]), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_identifier_and_content_until_either_changes() {
        let mut session = Session::default();
        session.note(1, 10);
        session.note(2, 20);
        assert!(session.has(1, 10) && session.has(2, 20));
        assert!(!session.has(1, 20) && !session.has(3, 10));
        session.note(1, 11);
        assert!(!session.has(1, 10) && session.has(1, 11));
        let stored = session.to_cursor().unwrap();
        assert_eq!(Session::read(Some(&stored)), session);
        assert_eq!(Session::read(Some(&[255; 3])), Session::default());
        for id in 3..=RECENT_MAX as u16 {
            session.note(id, 0);
        }
        assert!(session.has(2, 20), "as many as are kept");
        session.note(9999, 0);
        assert!(!session.has(2, 20) && session.has(1, 11));
        session.forget();
        assert!(!session.has(1, 11));
        assert_ne!(content("a", b"bc"), content("ab", b"c"));
    }
}
