//! What people are to learn, before it has the format of any receiver.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most alerts that one message lists: the first of the page and its newest.
pub const ENTRIES_MAX: usize = 20;

/// What a message says of its page.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The page begins.
    #[default]
    Raised,
    /// The page goes on with more or other alerts.
    Updated,
    /// Somebody has taken it.
    Acknowledged,
    /// Its last alert has ended.
    Cleared,
    /// No page at all: somebody asks whether the receiver hears us.
    Test,
}

impl Kind {
    /// The name in the API and in the delivery log, such as `raised`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
            Self::Test => "test",
        }
    }

    /// Whether the receiver knows of the page once it has this: what else is said of a page goes out only
    /// after one of these was accepted.
    pub const fn opens(self) -> bool {
        matches!(self, Self::Raised | Self::Updated)
    }
}

/// One message about one page. A page is what people get for a group of alerts.
///
/// **Shape.** Times are microseconds UTC. `labels` hold what all alerts of the page have in common; `alertname`
/// (the rule) and `severity` are always among them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// Unique and stable: the idempotency key of this message, the same on every retry.
    pub id: String,
    /// What it says of the page.
    pub kind: Kind,
    /// Of the page, at most 255 bytes: see [`dedup_key`].
    pub dedup_key: String,
    /// The rule.
    pub rule: String,
    /// `info`, `warning`, `error` or `critical`.
    pub severity: String,
    /// One sentence for people.
    pub summary: String,
    /// What the rule says of itself, for people; none = nothing more than the summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The site, or the device if there is none.
    pub source: String,
    /// What all alerts of the page have in common.
    pub labels: BTreeMap<String, String>,
    /// Event time at which the first alert began.
    pub began: i64,
    /// Event time at which the last one ended; none while any is firing.
    pub resolved: Option<i64>,
    /// When this message was decided.
    pub at: i64,
    /// The page's place in our web page.
    pub url: Option<String>,
    /// What to do about it: a link of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// Alerts of the page that are firing.
    pub firing: u32,
    /// Alerts of the page so far, ended ones too.
    pub total: u32,
    /// The first alert and the newest ones, at most [`ENTRIES_MAX`].
    pub alerts: Vec<Entry>,
}

/// One alert of a page.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Stable id of the alert.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// `info`, `warning`, `error` or `critical`.
    pub severity: String,
    /// `firing` or `resolved`.
    pub state: String,
    /// The device.
    pub device: String,
    /// The metric.
    pub metric: String,
    /// Attributes of the device.
    pub group: BTreeMap<String, String>,
    /// Newest evidence, in the metric's unit; none where the rule has no number.
    pub value: Option<f64>,
    /// The rule's limit, in the same unit.
    pub threshold: Option<f64>,
    /// Event time at which it began.
    pub began: i64,
    /// Ingest time at which it was learned.
    pub reported: i64,
    /// Event time at which it ended.
    pub resolved: Option<i64>,
    /// One sentence for people.
    pub summary: String,
}

impl Message {
    /// The message that asks a receiver whether it hears us.
    pub fn test(target: &str, at: i64) -> Self {
        let summary = format!("Test of the notifier {target:?}: nothing is wrong");
        let labels = [("alertname", "TidewatchTest"), ("severity", "info")];
        Self {
            id: format!("test-{target}-{at}"),
            kind: Kind::Test,
            dedup_key: dedup_key("tidewatch test", target),
            rule: "TidewatchTest".to_owned(),
            severity: "info".to_owned(),
            summary,
            source: "tidewatch".to_owned(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            began: at,
            resolved: Some(at),
            at,
            ..Self::default()
        }
    }

    /// Alerts of the page that the message does not list.
    pub fn unlisted(&self) -> u32 {
        let listed = u32::try_from(self.alerts.len()).unwrap_or(u32::MAX);
        self.total.saturating_sub(listed)
    }
}

/// The key of a page: lower-case hex SHA-256 of the key of its group and the id of the alert that opened it,
/// so that a later page of the same group is another one.
pub fn dedup_key(group: &str, opener: &str) -> String {
    hex_sha256(&format!("{group}{opener}"))
}

pub(crate) fn hex_sha256(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 3339 in UTC with as many digits as it needs, as the API writes times.
pub(crate) fn rfc3339(micros: i64) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_page_is_the_hash_of_its_group_and_opener() {
        // The vector of the convention: a group key alone.
        assert_eq!(
            dedup_key("{}:{alertname=\"DeviceSilent\"}", ""),
            "879a6cd46cf1deb7fd8f382461418fceb60ab45eb91d697a830624e32fe06275"
        );
        assert_ne!(dedup_key("g", "a"), dedup_key("g", "b"));
    }

    #[test]
    fn a_message_reads_back_and_so_does_one_without_what_came_later() {
        let message = Message::test("ops", 1_700_000_000_000_000);
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        assert!(!text.contains("runbook"));
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        assert_eq!(rfc3339(1_700_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(1_700_000_000_120_000), "2023-11-14T22:13:20.120Z");
    }
}
