//! One event as the stream sends it.

use std::io::Write;

use bytes::Bytes;
use serde::Serialize;

/// The bytes of an event, shared by everybody to whom it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub id: u64,
    /// `id: …`, `event: …` and `data: …`, up to the empty line.
    whole: Bytes,
    /// Where the `id` line ends.
    body: usize,
}

impl Frame {
    /// Number `id`, of the kind `event`, with `data` as JSON (which has no line breaks).
    ///
    /// **Errors**: data that cannot be written as JSON.
    pub fn new(id: u64, event: &str, data: &impl Serialize) -> serde_json::Result<Self> {
        let mut whole = id_line(id);
        let body = whole.len();
        write!(whole, "event: {event}\ndata: ").map_err(serde_json::Error::io)?;
        serde_json::to_writer(&mut whole, data)?;
        whole.extend_from_slice(b"\n\n");
        Ok(Self {
            id,
            whole: whole.into(),
            body,
        })
    }

    /// All of it.
    pub fn whole(&self) -> Bytes {
        self.whole.clone()
    }

    /// The same event under another number.
    pub fn numbered(&self, id: u64) -> [Bytes; 2] {
        [id_line(id).into(), self.whole.slice(self.body..)]
    }

    /// Whether it says the same, whatever its number.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.whole[self.body..] == other.whole[other.body..]
    }

    /// Its size, bytes.
    pub fn len(&self) -> usize {
        self.whole.len()
    }
}

fn id_line(id: u64) -> Vec<u8> {
    format!("id: {id}\n").into_bytes()
}

/// A request to load everything again.
///
/// With a number if it also moves the viewer's place in the stream.
pub fn reset(id: Option<u64>, reason: &str) -> Bytes {
    let mut text = id.map(id_line).unwrap_or_default();
    let data = serde_json::json!({ "reason": reason });
    text.extend_from_slice(format!("event: reset\ndata: {data}\n\n").as_bytes());
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_event_of_the_standard() {
        let frame = Frame::new(7, "alerts", &"two\nlines").unwrap();
        let text = "event: alerts\ndata: \"two\\nlines\"\n\n";
        assert_eq!(frame.whole(), format!("id: 7\n{text}"));
        assert_eq!(
            frame.numbered(9).concat(),
            format!("id: 9\n{text}").into_bytes()
        );
        assert!(frame.says_the_same(&Frame::new(10, "alerts", &"two\nlines").unwrap()));
        assert!(!frame.says_the_same(&Frame::new(7, "alerts", &"else").unwrap()));
        assert_eq!(
            reset(None, "lagged"),
            "event: reset\ndata: {\"reason\":\"lagged\"}\n\n"
        );
    }
}
