//! A rule as people write it, in config and in JSON.

use serde::{Deserialize, Serialize};

use crate::threshold::{Direction, Threshold};
use crate::{format_duration, parse_duration};

/// Longest name of a rule, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest `for`: a day.
pub const HOLD_MAX: i64 = 86_400_000_000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Look at it in working hours.
    #[default]
    Warning,
    /// Something is broken.
    Error,
    /// Somebody must act now.
    Critical,
}

impl Severity {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// What is wrong with a rule: the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}: {field}: {message}")]
pub struct RuleError {
    /// The rule's name, as far as it is known.
    pub rule: String,
    /// The field.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default = "threshold_kind")]
    kind: String,
    metric: String,
    #[serde(default)]
    direction: Direction,
    raise: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clear: Option<f64>,
    #[serde(rename = "for", default = "no_hold")]
    hold: String,
    #[serde(default)]
    severity: Severity,
}

fn threshold_kind() -> String {
    "threshold".to_owned()
}

fn no_hold() -> String {
    "0s".to_owned()
}

/// A checked rule.
///
/// In JSON or TOML: `name`, `kind` (only `threshold` yet), `metric`, `direction` (`above`, the default,
/// or `below`), `raise`, `clear` (default: `raise`), `for` (default `0s`), `severity` (`info`,
/// `warning`, the default, `error`, `critical`).
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 _ - .`.
    pub name: String,
    /// The metric it watches, on every device that has it.
    pub metric: String,
    /// How bad it is.
    pub severity: Severity,
    /// Its limits.
    pub threshold: Threshold,
}

impl Rule {
    /// Reads and checks a rule in JSON.
    ///
    /// **Errors**: [`RuleError`] names the field and the remedy.
    pub fn parse(json: &str) -> Result<Self, RuleError> {
        let written: Written = serde_json::from_str(json).map_err(|e| RuleError {
            rule: serde_json::from_str::<serde_json::Value>(json)
                .ok()
                .and_then(|v| v["name"].as_str().map(str::to_owned))
                .unwrap_or_default(),
            field: "json",
            message: e.to_string(),
        })?;
        let err = |field, message: String| {
            Err(RuleError {
                rule: written.name.clone(),
                field,
                message,
            })
        };
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let name = &written.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(name_ok) {
            return err("name", "must be 1 to 64 of A-Z a-z 0-9 _ - .".to_owned());
        }
        if written.kind != "threshold" {
            return err(
                "kind",
                format!("{:?} is not known; write \"threshold\"", written.kind),
            );
        }
        if written.metric.is_empty()
            || written.metric.len() > 64
            || !written.metric.chars().all(name_ok)
        {
            return err(
                "metric",
                "must be a metric name: 1 to 64 of A-Z a-z 0-9 _ - .".to_owned(),
            );
        }
        let clear = written.clear.unwrap_or(written.raise);
        if !written.raise.is_finite() || !clear.is_finite() {
            return err("raise", "must be a finite number".to_owned());
        }
        let crossed = match written.direction {
            Direction::Above => clear > written.raise,
            Direction::Below => clear < written.raise,
        };
        if crossed {
            let side = if written.direction == Direction::Above {
                "below"
            } else {
                "above"
            };
            return err(
                "clear",
                format!(
                    "{clear} must be {side} raise ({}) or equal to it",
                    written.raise
                ),
            );
        }
        let hold = match parse_duration(&written.hold) {
            Ok(hold) if hold <= HOLD_MAX => hold,
            Ok(_) => return err("for", "at most 1d".to_owned()),
            Err(message) => return err("for", message),
        };
        Ok(Self {
            name: written.name,
            metric: written.metric,
            severity: written.severity,
            threshold: Threshold {
                direction: written.direction,
                raise: written.raise,
                clear,
                hold,
            },
        })
    }

    /// The rule in JSON, with every default written out. Equal rules give equal texts.
    pub fn to_json(&self) -> String {
        let t = &self.threshold;
        let written = Written {
            name: self.name.clone(),
            kind: threshold_kind(),
            metric: self.metric.clone(),
            direction: t.direction,
            raise: t.raise,
            clear: Some(t.clear),
            hold: format_duration(t.hold),
            severity: self.severity,
        };
        serde_json::to_string(&written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back() {
        let text = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75,"for":"10s","severity":"critical"}"#;
        let rule = Rule::parse(text).unwrap();
        assert_eq!(rule.threshold.hold, 10_000_000);
        assert_eq!(Rule::parse(&rule.to_json()), Ok(rule));
    }

    #[test]
    fn mistakes_name_the_field() {
        let check = |text: &str, field: &str| {
            let error = Rule::parse(text).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        };
        check(r#"{"name":"","metric":"t","raise":1}"#, "name");
        check(r#"{"name":"a","metric":"@t","raise":1}"#, "metric");
        check(r#"{"name":"a","metric":"t","raise":1,"clear":2}"#, "clear");
        check(r#"{"name":"a","metric":"t","raise":1,"for":"ten"}"#, "for");
        check(r#"{"name":"a","metric":"t","raise":1,"kind":"x"}"#, "kind");
        check(r#"{"name":"a","metric":"t","raise":1,"rise":2}"#, "json");
        check(r#"{"name":"a","metric":"t"}"#, "json");
    }
}
