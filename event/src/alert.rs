//! What a device says of its own rules: an episode that began to fire there, or ended.

use serde::{Deserialize, Serialize};

/// The metric whose text values are [`EdgeAlert`]s.
pub const METRIC: &str = "tidewatch.alert";

/// Whether an episode fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It began to.
    Firing,
    /// It has ended.
    Resolved,
}

/// A transition of a rule on the device: the text value of an event with the metric [`METRIC`], on the
/// device concerned.
///
/// The **key** of an alert is (rule, device), whoever found it: a rule of the same name on the server
/// means the same alert, and both are to be shown as one. Several metrics need several names. Within a
/// key an episode is known by `since`; a transition may come twice, and the last one by number counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeAlert {
    /// The rule's name, at most 64 bytes.
    pub rule: String,
    /// What became of the episode.
    pub state: State,
    /// The metric that the rule watches.
    pub metric: String,
    /// The value that decided; none for silence, and where it was not a value that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// `info`, `warning`, `error` or `critical`.
    pub severity: String,
    /// Begin of the episode, microseconds of event time: of the first value beyond the limit, or of the
    /// last one before the silence.
    pub since: i64,
    /// Event time of this transition, microseconds.
    pub at: i64,
    /// The id of the command that was given because of it; its reports are events of the metric
    /// [`crate::command::METRIC`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// For people: why it fires, where the limits of the rule do not say it (an anomaly, at most 300 bytes), and
    /// why it ended, where no value ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl EdgeAlert {
    /// Compact JSON. With names that have been checked and a reason of at most 300 bytes it is shorter than
    /// [`TEXT_BYTES_MAX`](crate::value::TEXT_BYTES_MAX).
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads one; unknown fields are allowed, so that agents may say more later.
    ///
    /// **Errors**: what is wrong, as a text for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| format!("alert of a device: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::TEXT_BYTES_MAX;

    #[test]
    fn the_longest_reads_back_and_fits() {
        let alert = EdgeAlert {
            rule: "r".repeat(64),
            state: State::Resolved,
            metric: "m".repeat(64),
            value: Some(-1.234_567_890_123_456_7e-300),
            severity: "critical".to_owned(),
            since: i64::MIN,
            at: i64::MIN,
            command: Some("rule-0123456789abcdef".to_owned()),
            reason: Some("the rule is no longer in the agent's configuration".to_owned()),
        };
        let text = alert.to_text();
        assert!(text.len() < TEXT_BYTES_MAX / 2, "{text}");
        assert_eq!(EdgeAlert::parse(&text), Ok(alert));
    }

    #[test]
    fn a_short_one_is_compact_and_more_may_be_said_later() {
        let text = r#"{"rule":"hot","state":"firing","metric":"t","value":81.5,"severity":"error","since":5,"at":6}"#;
        let alert = EdgeAlert::parse(text).unwrap();
        assert_eq!(alert.to_text(), text);
        let more = text.replace("\"at\":6", "\"at\":6,\"more\":true");
        assert_eq!(EdgeAlert::parse(&more), Ok(alert));
        for bad in ["", "{}", &text.replace("firing", "smoking")] {
            assert!(EdgeAlert::parse(bad).is_err(), "{bad}");
        }
    }
}
