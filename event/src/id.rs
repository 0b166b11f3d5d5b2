//! Names of agents, devices and metrics: checked once, then cheap to pass around.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest agent or device id in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Longest metric or attribute name in bytes (without the `@` of an attribute).
pub const NAME_BYTES_MAX: usize = 64;

/// Why a name was refused. `Display` names the rule and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name has no bytes.
    #[error("{kind} is empty; give it 1 to {max} bytes")]
    Empty {
        /// What was being named.
        kind: &'static str,
        /// Longest allowed, bytes.
        max: usize,
    },
    /// The name is too long.
    #[error("{kind} of {len} bytes is longer than {max} (it starts with {start:?})")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// Its length, bytes.
        len: usize,
        /// Longest allowed, bytes.
        max: usize,
        /// The first characters of it.
        start: String,
    },
    /// The name holds a character that has a meaning in topics or subjects.
    #[error("{kind} {name:?} has the character {found:?} at byte {at}, which is not allowed there")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The name (at most 128 bytes).
        name: String,
        /// The character.
        found: char,
        /// Its byte position.
        at: usize,
    },
}

fn check_length(kind: &'static str, s: &str, max: usize) -> Result<(), IdError> {
    if s.is_empty() {
        return Err(IdError::Empty { kind, max });
    }
    if s.len() > max {
        return Err(IdError::TooLong {
            kind,
            len: s.len(),
            max,
            start: s.chars().take(24).collect(),
        });
    }
    Ok(())
}

/// Ids refuse what MQTT topics, NATS subjects and shells would give a meaning to.
fn check_id(kind: &'static str, s: &str) -> Result<(), IdError> {
    check_length(kind, s, ID_BYTES_MAX)?;
    let bad = |c: char| {
        matches!(c, '.' | '*' | '>' | '+' | '#' | '/') || c.is_whitespace() || c.is_control()
    };
    match s.char_indices().find(|&(_, c)| bad(c)) {
        Some((at, found)) => Err(IdError::Character {
            kind,
            name: s.to_owned(),
            found,
            at,
        }),
        None => Ok(()),
    }
}

fn check_name(kind: &'static str, s: &str) -> Result<(), IdError> {
    check_length(kind, s, NAME_BYTES_MAX)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match s.char_indices().find(|&(_, c)| !good(c)) {
        Some((at, found)) => Err(IdError::Character {
            kind,
            name: s.to_owned(),
            found,
            at,
        }),
        None => Ok(()),
    }
}

fn check_metric(s: &str) -> Result<(), IdError> {
    match s.strip_prefix('@') {
        Some(attribute) => check_name("attribute name", attribute),
        None => check_name("metric name", s),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes the name.
            ///
            /// **Errors**: [`IdError`] names the rule that was broken and the byte.
            pub fn new(s: &str) -> Result<Self, IdError> {
                Self::check(s)?;
                Ok(Self(s.into()))
            }

            /// Checks a name without taking it.
            ///
            /// **Errors**: as [`Self::new`].
            pub fn check(s: &str) -> Result<(), IdError> {
                #[allow(clippy::redundant_closure_call)]
                ($check)(s)
            }

            /// The text of it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                Self::new(&s).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of an agent: the process that owns a durable buffer. 1 to 128 bytes of UTF-8 without
    /// `.`, `*`, `>`, `+`, `#`, `/`, white space and control characters.
    AgentId,
    |s| check_id("agent id", s)
);
name_type!(
    /// The name of a device. Same rules as [`AgentId`].
    DeviceId,
    |s| check_id("device id", s)
);
name_type!(
    /// The name of a metric: 1 to 64 bytes of `[A-Za-z0-9_.-]`.
    ///
    /// A leading `@` marks an **attribute** of the device (`@site`). Attributes travel as events, so
    /// they are buffered, numbered, acked and deduplicated like any value.
    MetricName,
    check_metric
);

impl MetricName {
    /// The metric that carries the attribute `name` (`site` becomes `@site`).
    ///
    /// **Errors**: as [`MetricName::new`].
    pub fn attribute(name: &str) -> Result<Self, IdError> {
        check_name("attribute name", name)?;
        Ok(Self(format!("@{name}").into()))
    }

    /// The attribute's name, if this carries one.
    pub fn as_attribute(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(result: Result<(), IdError>, expected: Option<&str>) {
        assert_eq!(result.err().map(|e| e.to_string()).as_deref(), expected);
    }

    #[test]
    fn ids_refuse_topic_characters_and_name_the_place() {
        check(check_id("device id", "b8:27:eb:bf:9d:51"), None);
        check(check_id("device id", "gerät-1"), None);
        check(
            check_id("device id", ""),
            Some("device id is empty; give it 1 to 128 bytes"),
        );
        check(
            check_id("device id", "a/b"),
            Some("device id \"a/b\" has the character '/' at byte 1, which is not allowed there"),
        );
        for bad in [
            "a.b", "a*", "a>", "a+", "#", "a b", "a\u{7f}", "a\u{85}", "\u{2003}",
        ] {
            assert!(check_id("device id", bad).is_err(), "{bad:?}");
        }
        assert!(check_id("device id", &"x".repeat(128)).is_ok());
        assert!(check_id("device id", &"x".repeat(129)).is_err());
    }

    #[test]
    fn metric_names_allow_a_leading_at_only() {
        check(check_metric("temp.cpu-0_max"), None);
        check(check_metric("@site"), None);
        assert!(check_metric("a@b").is_err());
        assert!(check_metric("@").is_err());
        assert_eq!(
            MetricName::attribute("site").unwrap().as_attribute(),
            Some("site")
        );
    }
}
