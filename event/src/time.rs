//! Event time and ingest time: microseconds UTC that must not be mixed.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;

macro_rules! time_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub i64);

        impl $name {
            /// From microseconds since 1970-01-01T00:00:00Z.
            pub const fn from_micros(micros: i64) -> Self {
                Self(micros)
            }

            /// From milliseconds since the epoch; saturates at the ends of the range.
            pub const fn from_millis(millis: i64) -> Self {
                Self(millis.saturating_mul(1000))
            }

            /// From seconds since the epoch; saturates at the ends of the range.
            pub const fn from_secs(secs: i64) -> Self {
                Self(secs.saturating_mul(SECOND))
            }

            /// Microseconds since the epoch.
            pub const fn as_micros(self) -> i64 {
                self.0
            }

            /// Whole milliseconds since the epoch, rounded down.
            pub const fn as_millis(self) -> i64 {
                self.0.div_euclid(1000)
            }

            /// Parses RFC 3339 (`2026-01-02T03:04:05.678Z`, any offset; below a microsecond is cut).
            ///
            /// **Errors**: the parser's own text.
            pub fn parse_rfc3339(s: &str) -> Result<Self, chrono::ParseError> {
                DateTime::parse_from_rfc3339(s).map(|t| Self(t.timestamp_micros()))
            }
        }

        /// RFC 3339 in UTC with as many fraction digits as needed (0, 3 or 6). A time outside the
        /// years that RFC 3339 can write is shown as `<n>us`.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match DateTime::<Utc>::from_timestamp_micros(self.0) {
                    Some(t) if (0..=9999).contains(&chrono::Datelike::year(&t)) => {
                        f.write_str(&t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
                    }
                    _ => write!(f, "{}us", self.0),
                }
            }
        }
    };
}

time_type!(
    /// When something happened, by the device's clock: microseconds UTC since the epoch.
    EventTime
);
time_type!(
    /// When a block entered the log, by the partition's appender: microseconds UTC since the epoch,
    /// never decreasing within a partition.
    IngestTime
);

/// A stretch of event time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// Earliest time in it.
    pub from: EventTime,
    /// Latest time in it.
    pub to: EventTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_rfc3339_and_reads_back() {
        let t = EventTime::parse_rfc3339("2026-11-22T08:37:10.25+02:00").unwrap();
        assert_eq!(t.to_string(), "2026-11-22T06:37:10.250Z");
        assert_eq!(EventTime::parse_rfc3339(&t.to_string()), Ok(t));
        assert_eq!(EventTime::from_secs(0).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn times_out_of_range_still_print() {
        assert_eq!(EventTime(i64::MAX).to_string(), format!("{}us", i64::MAX));
        assert_eq!(EventTime::from_millis(i64::MAX).0, i64::MAX);
    }
}
