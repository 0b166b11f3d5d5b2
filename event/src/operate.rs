//! What operators do about alerts: acknowledge, silence. Each is one JSON text in a log record of partition 0.

use serde::{Deserialize, Serialize};

/// Largest such text, bytes.
pub const OPERATION_BYTES_MAX: usize = 16 * 1024;
/// Most matchers of a silence.
pub const MATCHERS_MAX: usize = 20;
/// Longest name and longest value of a matcher, bytes.
pub const MATCHER_BYTES_MAX: usize = 512;
/// Longest name of a person, bytes.
pub const AUTHOR_BYTES_MAX: usize = 128;
/// Longest comment, bytes.
pub const COMMENT_BYTES_MAX: usize = 1024;
/// Longest silence, microseconds: ten years.
pub const SILENCE_MAX: i64 = 3650 * 86_400_000_000;

/// A condition on one label of an alert. What an alert has no label for counts as an empty text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matcher {
    /// Name of the label.
    pub name: String,
    /// What its text must be.
    pub value: String,
    /// Whether `value` is a regular expression that must match the whole text.
    #[serde(default)]
    pub is_regex: bool,
    /// `false` turns the condition round.
    #[serde(default = "yes")]
    pub is_equal: bool,
}

fn yes() -> bool {
    true
}

impl Matcher {
    /// `name="value"`, `!=`, `=~` or `!~`, as people write it.
    pub fn text(&self) -> String {
        let sign = match (self.is_equal, self.is_regex) {
            (true, false) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (false, true) => "!~",
        };
        format!("{}{sign}{:?}", self.name, self.value)
    }
}

/// Why alerts are silenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SilenceKind {
    /// Somebody does not want to hear of it.
    #[default]
    Silence,
    /// Somebody works on it: commands of rules are not given either.
    Maintenance,
}

impl SilenceKind {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A silence as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceSpec {
    /// Why.
    #[serde(default)]
    pub kind: SilenceKind,
    /// All must hold: 1 to [`MATCHERS_MAX`].
    pub matchers: Vec<Matcher>,
    /// From here, microseconds UTC.
    pub starts: i64,
    /// Up to here, not included.
    pub ends: i64,
    /// Who asks for it.
    pub by: String,
    /// What for; may be empty.
    #[serde(default)]
    pub comment: String,
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Operation {
    /// Somebody looks after the page that the alert is in.
    Ack {
        /// The alert's id.
        alert: String,
        /// Who.
        by: String,
        /// What they say; may be empty.
        #[serde(default)]
        comment: String,
    },
    /// Nobody does any more.
    Unack {
        /// The alert's id.
        alert: String,
        /// Who says so.
        by: String,
    },
    /// No messages about some alerts for some time.
    Silence {
        /// The silence that is changed; none = a new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// How it is to be.
        #[serde(flatten)]
        spec: SilenceSpec,
    },
    /// A silence ends now.
    Expire {
        /// Which.
        id: String,
        /// Who says so.
        by: String,
    },
}

/// A field of an operation that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct OperationError {
    /// The field.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

fn wrong<T>(field: &'static str, message: impl Into<String>) -> Result<T, OperationError> {
    let message = message.into();
    Err(OperationError { field, message })
}

fn person(by: &str) -> Result<(), OperationError> {
    if by.trim().is_empty() || by.len() > AUTHOR_BYTES_MAX || by.contains(char::is_control) {
        let message =
            format!("must be a name of at most {AUTHOR_BYTES_MAX} bytes: who takes care of it");
        return wrong("by", message);
    }
    Ok(())
}

fn remark(comment: &str) -> Result<(), OperationError> {
    if comment.len() > COMMENT_BYTES_MAX {
        let message = format!(
            "has {} bytes; at most {COMMENT_BYTES_MAX} are taken",
            comment.len()
        );
        return wrong("comment", message);
    }
    Ok(())
}

fn id(field: &'static str, id: &str) -> Result<(), OperationError> {
    if id.is_empty() || id.len() > 128 {
        return wrong(field, "must be an id of at most 128 bytes");
    }
    Ok(())
}

impl SilenceSpec {
    /// Checks everything except the patterns of regular expressions, which this crate does not know.
    ///
    /// **Errors**: the field, and how it would be right.
    pub fn check(&self) -> Result<(), OperationError> {
        let count = self.matchers.len();
        if count == 0 || count > MATCHERS_MAX {
            return wrong(
                "matchers",
                format!("there are {count}; give 1 to {MATCHERS_MAX}"),
            );
        }
        for matcher in &self.matchers {
            let sizes = [matcher.name.len(), matcher.value.len()];
            if matcher.name.is_empty() || sizes.iter().any(|n| *n > MATCHER_BYTES_MAX) {
                let message = format!(
                    "each needs a name, and name and value have at most {MATCHER_BYTES_MAX} bytes"
                );
                return wrong("matchers", message);
            }
        }
        if self.ends <= self.starts {
            return wrong("ends_at", "must be after starts_at");
        }
        if self.ends.saturating_sub(self.starts) > SILENCE_MAX {
            return wrong("ends_at", "must be within ten years of starts_at");
        }
        person(&self.by)?;
        remark(&self.comment)
    }
}

impl Operation {
    /// Checks texts and sizes.
    ///
    /// **Errors**: the field, and how it would be right.
    pub fn check(&self) -> Result<(), OperationError> {
        match self {
            Self::Ack { alert, by, comment } => {
                id("alert", alert)?;
                person(by)?;
                remark(comment)
            }
            Self::Unack { alert, by } => id("alert", alert).and_then(|()| person(by)),
            Self::Silence { id: old, spec } => {
                old.as_deref().map_or(Ok(()), |old| id("id", old))?;
                spec.check()
            }
            Self::Expire { id: old, by } => id("id", old).and_then(|()| person(by)),
        }
    }

    /// The text for the log.
    pub fn to_json(&self) -> String {
        // Fails only for maps whose keys are no texts, which operations do not have.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads and checks a text of the log.
    ///
    /// **Errors**: what is wrong with it, for the server's own log.
    pub fn parse(text: &str) -> Result<Self, String> {
        let operation: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        operation.check().map_err(|e| e.to_string())?;
        Ok(operation)
    }
}

/// The id of the silence that the record at `offset` of partition 0 makes: a UUID of the kind that everybody
/// may define (8), so that programs which expect a UUID take it.
pub fn silence_id(offset: u64) -> String {
    format!(
        "7469646c-{:04x}-8000-8000-{:012x}",
        offset >> 48,
        offset & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SilenceSpec {
        SilenceSpec {
            kind: SilenceKind::Maintenance,
            matchers: vec![Matcher {
                name: "site".to_owned(),
                value: "plant-.*".to_owned(),
                is_regex: true,
                is_equal: false,
            }],
            starts: 1,
            ends: 2,
            by: "ann".to_owned(),
            comment: "new pump".to_owned(),
        }
    }

    #[test]
    fn operations_read_back() {
        let ack = Operation::Ack {
            alert: "a".to_owned(),
            by: "ann".to_owned(),
            comment: String::new(),
        };
        let silence = Operation::Silence {
            id: Some("x".to_owned()),
            spec: spec(),
        };
        let expire = Operation::Expire {
            id: silence_id(7),
            by: "bob".to_owned(),
        };
        for operation in [ack, silence, expire] {
            assert_eq!(Operation::parse(&operation.to_json()), Ok(operation));
        }
        assert_eq!(spec().matchers[0].text(), "site!~\"plant-.*\"");
        // As the format page has it.
        assert_eq!(
            Operation::Unack {
                alert: "f0".to_owned(),
                by: "ann".to_owned()
            }
            .to_json(),
            r#"{"action":"unack","alert":"f0","by":"ann"}"#
        );
    }

    #[test]
    fn ids_of_silences_are_uuids_of_their_place() {
        assert_eq!(silence_id(0), "7469646c-0000-8000-8000-000000000000");
        assert_eq!(
            silence_id(0x1234_0000_0000_00ff),
            "7469646c-1234-8000-8000-0000000000ff"
        );
    }

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut SilenceSpec)) {
        let mut spec = spec();
        change(&mut spec);
        assert_eq!(spec.check().unwrap_err().field, field);
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_field() {
        assert_eq!(spec().check(), Ok(()));
        refused("matchers", |s| s.matchers.clear());
        refused("matchers", |s| s.matchers[0].name.clear());
        refused("matchers", |s| s.matchers[0].value = "x".repeat(513));
        refused("ends_at", |s| s.ends = s.starts);
        refused("ends_at", |s| s.ends = i64::MAX);
        refused("by", |s| s.by = " ".to_owned());
        refused("comment", |s| s.comment = "x".repeat(1025));
        for text in [
            "",
            "{}",
            r#"{"action":"fly"}"#,
            r#"{"action":"unack","alert":"","by":"x"}"#,
        ] {
            assert!(Operation::parse(text).is_err(), "{text}");
        }
    }
}
