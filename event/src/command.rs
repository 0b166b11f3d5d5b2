//! An order to a device, and what the device says became of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ack::{decode_versioned, encode_versioned};
use crate::value::TEXT_BYTES_MAX;
use crate::{DecodeError, DeviceId, EventTime};

/// Most bytes of an encoded command.
pub const BYTES_MAX: usize = 64 << 10;
/// Longest id of a command, bytes.
pub const ID_BYTES_MAX: usize = 256;
/// The metric whose text values are [`Report`]s.
pub const METRIC: &str = "tidewatch.command";

/// One command. It runs at most once on its device, however often it is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Stable id; the device remembers it together with the result.
    pub id: String,
    /// The device it is for.
    pub device: DeviceId,
    /// Name on the device's allow-list.
    pub name: String,
    /// Values for the allow-list's argument template.
    pub args: BTreeMap<String, String>,
    /// When it was given, by the cloud's clock.
    pub issued_at: EventTime,
    /// From this time on it must not start.
    pub expires_at: EventTime,
}

impl Command {
    /// The bytes on the wire: version 1, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(self)
    }

    /// Reads a command.
    ///
    /// **Errors**: unknown version, too large, or bytes that do not decode.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_versioned(bytes, BYTES_MAX, "command")
    }

    /// Checks the id: 1 to [`ID_BYTES_MAX`] bytes without white space and control characters, so that it
    /// fits into a report.
    ///
    /// **Errors**: what is wrong, as a text for people.
    pub fn check_id(id: &str) -> Result<(), String> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(format!(
                "a command id of {} bytes; give it 1 to {ID_BYTES_MAX}",
                id.len()
            ));
        }
        match id
            .char_indices()
            .find(|(_, c)| c.is_whitespace() || c.is_control())
        {
            Some((at, c)) => Err(format!("the command id has {c:?} at byte {at}")),
            None => Ok(()),
        }
    }
}

/// How far a command has come on its device. `queued` and `sent` are the cloud's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its program is about to start, or runs.
    Running,
    /// The program ended with code 0.
    Succeeded,
    /// It ended otherwise, could not be started, or its outcome is unknown.
    Failed,
    /// Its time had passed; it was never started.
    Expired,
    /// The device does not allow it; it was never started.
    Refused,
}

impl State {
    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        self != Self::Running
    }
}

/// What a device says of a command: the text value of an event with the metric [`METRIC`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The command's id.
    pub id: String,
    /// The command's name.
    pub name: String,
    /// How far it has come.
    pub state: State,
    /// The program's exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How long it ran, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The end of what the program wrote, as much as fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Why it came to this, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Most bytes of a name and of a reason in the JSON text. Beside the longest id, all numbers and the
/// keys they leave room for some output.
const NAME_JSON_MAX: usize = 80;
const REASON_JSON_MAX: usize = 240;
/// Stands where something was cut off.
const CUT: &str = "\u{2026}";

impl Report {
    /// Compact JSON of at most [`TEXT_BYTES_MAX`] bytes: of a name or reason that is too long the begin
    /// is kept, of the output the end. The id must have passed [`Command::check_id`].
    pub fn to_text(&self) -> String {
        let mut report = Self {
            name: begin_of(&self.name, NAME_JSON_MAX),
            reason: self.reason.as_deref().map(|r| begin_of(r, REASON_JSON_MAX)),
            output: None,
            ..self.clone()
        };
        if let Some(output) = self.output.as_deref().filter(|o| !o.is_empty()) {
            report.output = Some(String::new());
            let room = TEXT_BYTES_MAX.saturating_sub(report.to_json().len());
            report.output = Some(end_of(output, room));
        }
        report.to_json()
    }

    /// Reads a report; unknown fields are allowed, so that agents may say more later.
    ///
    /// **Errors**: what is wrong, as a text for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| format!("report of a command: {e}"))
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Bytes of a character inside a JSON text.
fn json_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

fn begin_of(text: &str, max: usize) -> String {
    if text.chars().map(json_len).sum::<usize>() <= max {
        return text.to_owned();
    }
    let mut left = max.saturating_sub(CUT.len());
    let fits = |c: &char| {
        let len = json_len(*c);
        let fits = len <= left;
        left = left.saturating_sub(len);
        fits
    };
    let mut begin: String = text.chars().take_while(fits).collect();
    begin.push_str(CUT);
    begin
}

fn end_of(text: &str, max: usize) -> String {
    if text.chars().map(json_len).sum::<usize>() <= max {
        return text.to_owned();
    }
    let mut left = max.saturating_sub(CUT.len());
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        if json_len(c) > left {
            break;
        }
        left -= json_len(c);
        start = at;
    }
    format!("{CUT}{}", text.get(start..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_always_fits_into_a_text_value() {
        let nasty = "\u{1}\"\\\n\u{fffd}ü\u{7f}\u{1f600}x".repeat(2000);
        for id in ["1".to_owned(), "\"".repeat(ID_BYTES_MAX)] {
            for n in [0, 1, 50, 79, 80, 81, 240, 700, 900, 1024, 5000] {
                let text: String = nasty.chars().take(n).collect();
                let report = Report {
                    id: id.clone(),
                    name: text.clone(),
                    state: State::Succeeded,
                    exit_code: Some(i32::MIN),
                    duration_ms: Some(u64::MAX),
                    output: Some(text.clone()),
                    reason: Some(text.clone()),
                };
                let json = report.to_text();
                assert!(json.len() <= TEXT_BYTES_MAX, "{n}: {} bytes", json.len());
                let read = Report::parse(&json).unwrap();
                assert_eq!(read.id, id);
                let output = read.output.unwrap_or_default();
                assert!(text.ends_with(output.trim_start_matches(CUT)), "{n}");
                assert!(text.starts_with(read.reason.unwrap().trim_end_matches(CUT)));
                assert!(n < 5000 || json.len() > TEXT_BYTES_MAX - 8, "room is used");
            }
        }
    }

    #[test]
    fn a_short_report_says_what_there_is_to_say() {
        let report = Report {
            id: "c-1".to_owned(),
            name: "restart".to_owned(),
            state: State::Failed,
            exit_code: Some(3),
            duration_ms: None,
            output: Some(String::new()),
            reason: None,
        };
        assert_eq!(
            report.to_text(),
            r#"{"id":"c-1","name":"restart","state":"failed","exit_code":3}"#
        );
        assert!(Command::check_id("alert:pump-1:gerät").is_ok());
        for bad in ["", "a b", "a\n", &"x".repeat(257)] {
            assert!(Command::check_id(bad).is_err(), "{bad:?}");
        }
    }
}
