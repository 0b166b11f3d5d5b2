//! Limits of a log. Plain data; checked once when the log is opened.

use std::time::Duration;

use crate::Error;

/// How a log is laid out and bounded.
///
/// **Limits.** Memory for appends is at most `queue_bytes_max` waiting plus one group being written
/// (`group_bytes_max`, or one append if that is larger); memory for reading is `cache_bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Partitions, 1 to 4096. Fixed when the data folder is created. Default 16.
    pub partitions: u16,
    /// Payload bytes after which a group is closed and written. 4 KiB to 64 MiB, default 1 MiB.
    pub group_bytes_max: usize,
    /// How long a small group (below 64 KiB) waits for more when the log is busy. Up to 1 s, default 20 ms. An
    /// append to an idle log never waits.
    pub group_linger: Duration,
    /// Records that may wait in the queue. 1 to 16,777,216, default 65,536.
    pub queue_records_max: usize,
    /// Payload bytes that may wait in the queue. At least `record_bytes_max`, at most 1 GiB, default 32 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of one record. 1 to 64 MiB, default 4 MiB.
    pub record_bytes_max: usize,
    /// Page cache of both databases together. At least 64 KiB, default 32 MiB.
    pub cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            partitions: 16,
            group_bytes_max: 1 << 20,
            group_linger: Duration::from_millis(20),
            queue_records_max: 1 << 16,
            queue_bytes_max: 32 << 20,
            record_bytes_max: 4 << 20,
            cache_bytes: 32 << 20,
        }
    }
}

impl Settings {
    /// Most partitions that a log can have: one per slot of the protocol.
    pub const PARTITIONS_MAX: u16 = 4096;

    pub(crate) fn check(&self) -> Result<(), Error> {
        within(
            "partitions",
            self.partitions as usize,
            1,
            Self::PARTITIONS_MAX as usize,
        )?;
        within("group_bytes_max", self.group_bytes_max, 4 << 10, 64 << 20)?;
        within("queue_records_max", self.queue_records_max, 1, 1 << 24)?;
        within("record_bytes_max", self.record_bytes_max, 1, 64 << 20)?;
        within(
            "queue_bytes_max",
            self.queue_bytes_max,
            self.record_bytes_max,
            1 << 30,
        )?;
        within("cache_bytes", self.cache_bytes, 64 << 10, usize::MAX)?;
        if self.group_linger > Duration::from_secs(1) {
            return Err(Error::Settings {
                name: "group_linger",
                problem: format!("is {:?}; at most 1s is allowed", self.group_linger),
            });
        }
        Ok(())
    }
}

fn within(name: &'static str, value: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let problem = if most == usize::MAX {
        format!("is {value}; at least {least} is needed")
    } else {
        format!("is {value}; {least} to {most} is allowed")
    };
    Err(Error::Settings { name, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_and_named() {
        assert!(Settings::default().check().is_ok());
        let check = |settings: Settings, expected: &str| {
            assert_eq!(settings.check().unwrap_err().to_string(), expected);
        };
        check(
            Settings {
                partitions: 0,
                ..Settings::default()
            },
            "open the event log: setting partitions is 0; 1 to 4096 is allowed",
        );
        check(
            Settings {
                queue_bytes_max: 10,
                record_bytes_max: 11,
                ..Settings::default()
            },
            "open the event log: setting queue_bytes_max is 10; 11 to 1073741824 is allowed",
        );
        check(
            Settings {
                group_linger: Duration::from_secs(2),
                ..Settings::default()
            },
            "open the event log: setting group_linger is 2s; at most 1s is allowed",
        );
    }
}
