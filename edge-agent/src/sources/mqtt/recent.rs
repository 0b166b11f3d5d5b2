//! What the agent remembers of its session at the broker, stored with the readings: so that a message
//! that the broker sends again, because our acknowledgement did not reach it, is not taken twice.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::sources::hash::{fnv1a, fnv1a_on};

/// Messages remembered: those that wait for the disk ([`super::UNACKED_MAX`]), and those whose
/// acknowledgement the broker has not read yet when it loses us. Their number has no limit, but a broker
/// that is 1,000 behind is not well. Few, because they are written with each commit: 4 KiB.
const RECENT_MAX: usize = 1024;

/// The session's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Session {
    /// The subscriptions that the broker has granted.
    pub filters: Vec<String>,
    /// Packet identifier and content of the last messages stored, the newest at the end.
    #[serde(with = "packed")]
    recent: VecDeque<(u16, u16)>,
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
    pub fn has(&self, id: u16, content: u16) -> bool {
        self.recent.contains(&(id, content))
    }

    /// The message is stored together with this.
    pub fn note(&mut self, id: u16, content: u16) {
        // The identifier is used again: the earlier message was acknowledged.
        self.recent.retain(|(known, _)| *known != id);
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((id, content));
    }
}

/// The content of a message. Sixteen bits are enough: the identifier must be the same, too, and the
/// broker must say that it sends the message again.
pub(super) fn content(topic: &[u8], payload: &[u8]) -> u16 {
    // A topic holds no NUL.
    let hash = fnv1a_on(fnv1a_on(fnv1a(topic), &[0]), payload);
    (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16
}

/// Four bytes for each, all in one byte string.
mod packed {
    use std::collections::VecDeque;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        recent: &VecDeque<(u16, u16)>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = recent.iter().flat_map(|(id, content)| {
            let ([a, b], [c, d]) = (id.to_le_bytes(), content.to_le_bytes());
            [a, b, c, d]
        });
        s.serialize_bytes(&bytes.collect::<Vec<u8>>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<VecDeque<(u16, u16)>, D::Error> {
        let bytes = Vec::<u8>::deserialize(d)?;
        let (entries, _) = bytes.as_chunks::<4>();
        let entry =
            |[a, b, c, d]: &[u8; 4]| (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
        Ok(entries.iter().map(entry).collect())
    }
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
        assert!(stored.len() < 20);
        for id in 3..=RECENT_MAX as u16 {
            session.note(id, 0);
        }
        assert!(session.has(2, 20), "as many as are kept");
        session.note(9999, 0);
        assert!(!session.has(2, 20) && session.has(1, 11));
        session.forget();
        assert!(!session.has(1, 11));
        assert_ne!(content(b"a", b"bc"), content(b"ab", b"c"));
    }
}
