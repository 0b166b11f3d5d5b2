//! A rule as people write it, in config and in JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::anomaly::{Anomaly, FalseAlarms, MISSING_MAX, Missing, Options, Variant};
use crate::extra::{self, EXTRA, RuleCommand};
use crate::fleet::{Field, GROUP_BY_MAX, Share, When, Window};
use crate::kind::{KINDS, Kind};
use crate::offline::Offline;
use crate::rate::{Course, Rate};
use crate::silence::Silence;
use crate::stuck::Stuck;
use crate::threshold::{Direction, Threshold};
use crate::{format_duration, parse_duration};

/// Longest name of a rule, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest `for`, and longest stretch of a rate: a day.
const DAY: i64 = 86_400_000_000;
/// Shortest stretch of a rate, and shortest silence: what is shorter is the jitter of a program.
const WITHIN_MIN: i64 = 10_000;
const AFTER_MIN: i64 = 100_000;
const AFTER_MAX: i64 = 30 * DAY;
/// Shortest time for which values stay the same, and for which an agent is offline.
const SECOND: i64 = 1_000_000;

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
    /// The field; `json` if the text is no JSON object at all.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A checked rule.
///
/// In JSON or TOML every rule has `name`, `kind` (`threshold`, the default, `rate`, `silence`, `stuck`,
/// `offline`, `anomaly`, `window` or `share`), `metric` (all but `offline`, `window` and `share`) and `severity`
/// (`info`, `warning`, the default, `error`, `critical`), and
/// - `threshold`: `direction` (`above`, the default, or `below`), `raise`, `clear` (default: `raise`),
///   `for` (default `0s`);
/// - `rate`: `direction` (`rising`, the default, `falling` or `either`), `raise` (the change), `within`
///   (the stretch), `clear` (default: `raise`), `for` (default `0s`);
/// - `silence`: `after`;
/// - `stuck`: `for` (how long values stay the same), `tolerance` (how far apart they may be; default 0);
/// - `offline`: `after`; it watches agents, not a metric;
/// - `anomaly`: `false_alarms` (`1/month`; a number 1 to 1,000 per hour, day, week, month or year),
///   `sensitivity` (1; 0.1 to 10), `hold` (`2h`), `half_life` (`180d`), `warm_up` (`1d`), `missing`
///   (`[-200, -127]`; at most 8 numbers that stand for no value), `detector` (`default` or `large`); see
///   [`crate::anomaly`];
/// - `window`: `aggregate` (its name), `field` (see [`Field`]), `direction`, `raise`, `clear`, `for` as of
///   `threshold`, `when` (`settled`, the default, or `open`); `match` is about the group;
/// - `share`: `of` (name of another rule), `group_by` (attributes, at most 4; `["site"]`), `raise` (a share, 0 to
///   less than 1), `clear` (default: `raise`), `for` (default `0s`), `at_least` (devices; 2); `match` is about the
///   group.
///
/// Beside these, any rule may have
/// - `safety` (`false`): an episode that is learned only after it ended pages all the same;
/// - `labels`: names with texts, for routing;
/// - `match`: attributes with texts; the rule is for devices that have them all;
/// - `runbook` (a link) and `description`, for people;
/// - `command`: what is given to the device when the alert is raised: `name`, `args`, `ttl` (`5m`),
///   `budget_per_hour` (10), `cooldown` (`10m`), `canary` (1), `dry_run` (`false`); see [`RuleCommand`].
///
/// Durations are texts such as `10s`; see [`parse_duration`].
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 _ - .`.
    pub name: String,
    /// The metric it watches, on every device that has it; empty for a rule of the kind `offline`, `window` or
    /// `share`.
    pub metric: String,
    /// Of the kind `window`: the aggregate; else empty.
    pub aggregate: String,
    /// Of the kind `share`: the rule that fires on the devices; else empty.
    pub of: String,
    /// Of the kind `share`: the attributes whose texts make the groups; at most 4, none = the whole fleet.
    pub group_by: Vec<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What it looks for.
    pub kind: Kind,
    /// Whether an episode pages even if it is learned only after it ended.
    pub safety: bool,
    /// For routing: at most 16 names (1 to 64 of `A-Z a-z 0-9 _ - .`) with texts of at most 256 bytes.
    pub labels: BTreeMap<String, String>,
    /// `match`: attributes that a device must have, with these very texts; limits as of `labels`.
    pub only_on: BTreeMap<String, String>,
    /// A link for people, at most 512 bytes.
    pub runbook: Option<String>,
    /// For people, one line of at most 512 bytes.
    pub description: Option<String>,
    /// What the device is told to do.
    pub command: Option<RuleCommand>,
}

/// A rule of the kind `threshold`.
#[derive(Debug, Clone, PartialEq)]
pub struct ThresholdRule {
    /// As of [`Rule`].
    pub name: String,
    /// As of [`Rule`].
    pub metric: String,
    /// As of [`Rule`].
    pub severity: Severity,
    /// Its limits.
    pub threshold: Threshold,
}

/// Fields of every rule, and those of each kind beside them.
const COMMON: &[&str] = &["name", "kind", "metric", "severity"];
const THRESHOLD: &[&str] = &["direction", "raise", "clear", "for"];
const RATE: &[&str] = &["direction", "raise", "clear", "within", "for"];
const SILENCE: &[&str] = &["after"];
const STUCK: &[&str] = &["for", "tolerance"];
const OFFLINE: &[&str] = &["after"];
const ANOMALY: &[&str] = &[
    "detector",
    "false_alarms",
    "sensitivity",
    "hold",
    "half_life",
    "warm_up",
    "missing",
];

const WINDOW: &[&str] = &[
    "aggregate",
    "field",
    "direction",
    "raise",
    "clear",
    "for",
    "when",
];
const SHARE: &[&str] = &["of", "group_by", "raise", "clear", "for", "at_least"];

/// The names of all fields that a rule of some kind may have.
pub fn fields() -> Vec<&'static str> {
    let mut all = [
        COMMON, THRESHOLD, RATE, SILENCE, STUCK, ANOMALY, WINDOW, SHARE, EXTRA,
    ]
    .concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// The fields of a rule as they are read.
pub(crate) struct Fields<'a> {
    pub(crate) rule: &'a str,
    pub(crate) map: &'a Map<String, Value>,
}

impl Fields<'_> {
    pub(crate) fn wrong<T>(&self, field: &str, message: impl Into<String>) -> Result<T, RuleError> {
        Err(RuleError {
            rule: self.rule.chars().take(NAME_BYTES_MAX).collect(),
            field: field.to_owned(),
            message: message.into(),
        })
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>, RuleError> {
        match self.map.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.wrong(field, "must be a text in quotes"),
        }
    }

    /// A number; null counts as left out only where a field may be.
    fn number(&self, field: &str, must: bool) -> Result<Option<f64>, RuleError> {
        match self.map.get(field) {
            None if must => self.wrong(field, "is missing; give a number, such as 60.0"),
            None => Ok(None),
            Some(Value::Null) if !must => Ok(None),
            Some(value) => match value.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(Some(n)),
                None => self.wrong(field, "must be a finite number, such as 60.0"),
            },
        }
    }

    pub(crate) fn duration(
        &self,
        field: &str,
        default: Option<i64>,
        min: i64,
        max: i64,
    ) -> Result<i64, RuleError> {
        let Some(text) = self.text(field)? else {
            return match default {
                Some(default) => Ok(default),
                None => self.wrong(field, "is missing; give a duration, such as \"5m\""),
            };
        };
        match parse_duration(text) {
            Ok(micros) if (min..=max).contains(&micros) => Ok(micros),
            Ok(_) if min == 0 => self.wrong(field, format!("at most {}", format_duration(max))),
            Ok(_) => {
                let (min, max) = (format_duration(min), format_duration(max));
                self.wrong(field, format!("must be {min} to {max}"))
            }
            Err(message) => self.wrong(field, message),
        }
    }

    fn one_of<T: Copy + Default>(&self, field: &str, known: &[(&str, T)]) -> Result<T, RuleError> {
        let Some(value) = self.map.get(field) else {
            return Ok(T::default());
        };
        match known.iter().find(|(name, _)| value.as_str() == Some(*name)) {
            Some((_, value)) => Ok(*value),
            None => {
                let names: Vec<String> = known.iter().map(|k| format!("{:?}", k.0)).collect();
                self.wrong(field, format!("must be {}", or(&names)))
            }
        }
    }

    pub(crate) fn name(&self, field: &str, message: &str) -> Result<String, RuleError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match self.text(field)? {
            None => self.wrong(field, format!("is missing; it {message}")),
            Some(name)
                if !name.is_empty()
                    && name.len() <= NAME_BYTES_MAX
                    && name.chars().all(allowed) =>
            {
                Ok(name.to_owned())
            }
            Some(_) => self.wrong(field, message),
        }
    }

    /// That there are no other fields than those of the kind.
    fn only(&self, kind: &str, known: &[&str]) -> Result<(), RuleError> {
        let unknown = |key: &&String| {
            ![COMMON, known, EXTRA]
                .iter()
                .any(|fields| fields.contains(&key.as_str()))
        };
        match self.map.keys().find(unknown) {
            None => Ok(()),
            Some(key) => {
                let all = [COMMON, known, EXTRA].concat().join(", ");
                let key: String = key.chars().take(NAME_BYTES_MAX).collect();
                self.wrong(
                    &key,
                    format!("a rule of the kind {kind:?} has no such field; it has {all}"),
                )
            }
        }
    }

    /// A name of something else that is declared.
    fn reference(&self, field: &str, what: &str) -> Result<String, RuleError> {
        let message = format!("must be the name of {what}: 1 to 64 of A-Z a-z 0-9 _ - .");
        self.name(field, &message)
    }

    fn window(&self) -> Result<Window, RuleError> {
        let known = Field::ALL.map(|f| f.as_str());
        let field = match self.text("field")? {
            None => {
                return self.wrong("field", format!("is missing; give {}", or(&quoted(&known))));
            }
            Some(text) => Field::ALL.into_iter().find(|f| f.as_str() == text),
        };
        let Some(field) = field else {
            return self.wrong("field", format!("must be {}", or(&quoted(&known))));
        };
        let threshold = Threshold {
            hold: self.duration("for", Some(0), 0, AFTER_MAX)?,
            ..self.limits()?
        };
        let when = self.one_of(
            "when",
            &[When::Settled, When::Open].map(|w| (w.as_str(), w)),
        )?;
        Ok(Window {
            field,
            when,
            threshold,
        })
    }

    fn share(&self) -> Result<Share, RuleError> {
        let threshold = Threshold {
            hold: self.hold()?,
            ..self.limits()?
        };
        for (field, share) in [("raise", threshold.raise), ("clear", threshold.clear)] {
            if !(0.0..1.0).contains(&share) {
                let message =
                    format!("{share} must be a share from 0 to less than 1, as 0.05 for 5 %");
                return self.wrong(field, message);
            }
        }
        Ok(Share {
            threshold,
            at_least: self.count("at_least", 2, 1)?,
        })
    }

    fn group_by(&self) -> Result<Vec<String>, RuleError> {
        let attributes: Option<Vec<String>> = match self.map.get("group_by") {
            None => return Ok(vec!["site".to_owned()]),
            Some(value) => value.as_array().and_then(|list| {
                let name = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
                list.iter().map(name).collect()
            }),
        };
        match attributes.filter(|a| a.len() <= GROUP_BY_MAX) {
            Some(attributes) => Ok(attributes),
            None => {
                let message =
                    format!("must be a list of at most {GROUP_BY_MAX} attributes, as [\"site\"]");
                self.wrong("group_by", message)
            }
        }
    }

    fn hold(&self) -> Result<i64, RuleError> {
        self.duration("for", Some(0), 0, DAY)
    }

    fn threshold(&self) -> Result<Threshold, RuleError> {
        Ok(Threshold {
            hold: self.hold()?,
            ..self.limits()?
        })
    }

    /// A threshold without a `for`.
    fn limits(&self) -> Result<Threshold, RuleError> {
        let direction = self.one_of(
            "direction",
            &[("above", Direction::Above), ("below", Direction::Below)],
        )?;
        let raise = self.number("raise", true)?.unwrap_or_default();
        let clear = self.number("clear", false)?.unwrap_or(raise);
        let (crossed, side) = match direction {
            Direction::Above => (clear > raise, "below"),
            Direction::Below => (clear < raise, "above"),
        };
        if crossed {
            let message = format!("{clear} must be {side} raise ({raise}) or equal to it");
            return self.wrong("clear", message);
        }
        Ok(Threshold {
            direction,
            raise,
            clear,
            hold: 0,
        })
    }

    fn stuck(&self) -> Result<Stuck, RuleError> {
        let tolerance = self.number("tolerance", false)?.unwrap_or_default();
        if tolerance < 0.0 {
            return self.wrong("tolerance", format!("{tolerance} must be 0 or more"));
        }
        Ok(Stuck {
            tolerance,
            hold: self.duration("for", None, SECOND, AFTER_MAX)?,
        })
    }

    fn anomaly(&self) -> Result<Anomaly, RuleError> {
        let default = Options::default();
        let time = |field, default, (min, max)| self.duration(field, Some(default), min, max);
        let false_alarms = match self.text("false_alarms")?.map(FalseAlarms::parse) {
            None => default.false_alarms,
            Some(Some(rate)) => rate,
            Some(None) => {
                let message = "must be a whole number 1 to 1000 per hour, day, week, month or year, such as \
                               \"1/month\"";
                return self.wrong("false_alarms", message);
            }
        };
        let sensitivity = self.number("sensitivity", false)?;
        let sensitivity = sensitivity.unwrap_or(default.sensitivity);
        let (least, most) = Options::SENSITIVITY;
        if !(least..=most).contains(&sensitivity) {
            let message = format!("{sensitivity} must be {least} to {most}; 1 is the default");
            return self.wrong("sensitivity", message);
        }
        let missing = match self.map.get("missing") {
            None => Some(default.missing),
            Some(codes) => codes.as_array().and_then(|codes| {
                let codes: Option<Vec<f64>> = codes.iter().map(Value::as_f64).collect();
                Missing::new(&codes?)
            }),
        };
        let Some(missing) = missing else {
            let message =
                format!("must be a list of at most {MISSING_MAX} numbers, such as [-127]");
            return self.wrong("missing", message);
        };
        Ok(Anomaly::new(Options {
            detector: self.one_of(
                "detector",
                &[("default", Variant::Default), ("large", Variant::Large)],
            )?,
            false_alarms,
            sensitivity,
            hold: time("hold", default.hold, Options::HOLD)?,
            half_life: time("half_life", default.half_life, Options::HALF_LIFE)?,
            warm_up: time("warm_up", default.warm_up, Options::WARM_UP)?,
            missing,
        }))
    }

    fn rate(&self) -> Result<Rate, RuleError> {
        let course = self.one_of(
            "direction",
            &[
                ("rising", Course::Rising),
                ("falling", Course::Falling),
                ("either", Course::Either),
            ],
        )?;
        let raise = self.number("raise", true)?.unwrap_or_default();
        if raise <= 0.0 {
            let message = "must be more than 0: by how much the value changes within `within`; for a \
                           fall set direction = \"falling\"";
            return self.wrong("raise", message);
        }
        let clear = self.number("clear", false)?.unwrap_or(raise);
        if !(0.0..=raise).contains(&clear) {
            let message = format!("{clear} must be 0 to raise ({raise})");
            return self.wrong("clear", message);
        }
        Ok(Rate {
            course,
            raise,
            clear,
            within: self.duration("within", None, WITHIN_MIN, DAY)?,
            hold: self.hold()?,
        })
    }
}

/// The fields of the kind `anomaly` as they are written, in this order for ever.
#[derive(Serialize)]
struct WrittenAnomaly<'a> {
    detector: Variant,
    false_alarms: String,
    sensitivity: f64,
    hold: String,
    half_life: String,
    warm_up: String,
    missing: &'a [f64],
}

impl<'a> WrittenAnomaly<'a> {
    fn of(options: &'a Options) -> Self {
        Self {
            detector: options.detector,
            false_alarms: options.false_alarms.to_string(),
            sensitivity: options.sensitivity,
            hold: format_duration(options.hold),
            half_life: format_duration(options.half_life),
            warm_up: format_duration(options.warm_up),
            missing: options.missing.codes(),
        }
    }
}

fn quoted(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| format!("{n:?}")).collect()
}

/// `a, b or c`.
fn or(names: &[String]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.join(", "),
    }
}

impl Rule {
    /// Reads and checks a rule in JSON.
    ///
    /// **Errors**: [`RuleError`] names the field and the remedy.
    pub fn parse(json: &str) -> Result<Self, RuleError> {
        match serde_json::from_str(json) {
            Ok(value) => Self::from_value(&value),
            Err(error) => Err(RuleError {
                rule: String::new(),
                field: "json".to_owned(),
                message: error.to_string(),
            }),
        }
    }

    /// Reads and checks a rule that is JSON already.
    ///
    /// **Errors**: as [`Self::parse`].
    pub fn from_value(value: &Value) -> Result<Self, RuleError> {
        let none = Map::new();
        let fields = Fields {
            rule: value["name"].as_str().unwrap_or_default(),
            map: value.as_object().unwrap_or(&none),
        };
        if !value.is_object() {
            return fields.wrong("json", "must be an object, as {\"name\": …}");
        }
        const NAME: &str = "must be 1 to 64 of A-Z a-z 0-9 _ - .";
        const METRIC: &str = "must be a metric name: 1 to 64 of A-Z a-z 0-9 _ - .";
        let name = fields.name("name", NAME)?;
        let known = |kind: &str, known| fields.only(kind, known);
        let kind = match fields.text("kind")?.unwrap_or(KINDS[0]) {
            kind @ "threshold" => {
                known(kind, THRESHOLD)?;
                Kind::Threshold(fields.threshold()?)
            }
            kind @ "rate" => {
                known(kind, RATE)?;
                Kind::Rate(fields.rate()?)
            }
            kind @ "silence" => {
                known(kind, SILENCE)?;
                let after = fields.duration("after", None, AFTER_MIN, AFTER_MAX)?;
                Kind::Silence(Silence { after })
            }
            kind @ "stuck" => {
                known(kind, STUCK)?;
                Kind::Stuck(fields.stuck()?)
            }
            kind @ "offline" => {
                known(kind, OFFLINE)?;
                let after = fields.duration("after", None, SECOND, AFTER_MAX)?;
                Kind::Offline(Offline { after })
            }
            kind @ "anomaly" => {
                known(kind, ANOMALY)?;
                Kind::Anomaly(fields.anomaly()?)
            }
            kind @ "window" => {
                known(kind, WINDOW)?;
                Kind::Window(fields.window()?)
            }
            kind @ "share" => {
                known(kind, SHARE)?;
                Kind::Share(fields.share()?)
            }
            other => {
                let kinds = or(&quoted(&KINDS));
                let other: String = other.chars().take(NAME_BYTES_MAX).collect();
                return fields.wrong("kind", format!("{other:?} is not known; write {kinds}"));
            }
        };
        let extra = fields.extra()?;
        if kind.is_of_groups() {
            let message =
                "leave it out: a rule of this kind is about a group, not about one device";
            for field in ["metric", "command", "safety"] {
                if fields.map.contains_key(field) {
                    return fields.wrong(field, message);
                }
            }
        }
        let (mut aggregate, mut of, mut group_by) = Default::default();
        match kind {
            Kind::Window(_) => aggregate = fields.reference("aggregate", "an aggregate")?,
            Kind::Share(_) => {
                of = fields.reference("of", "another rule")?;
                group_by = fields.group_by()?;
                if let Some(key) = extra.only_on.keys().find(|k| !group_by.contains(k)) {
                    let message = "is not in group_by; a rule of the kind \"share\" matches groups";
                    return fields.wrong(&format!("match.{key}"), message);
                }
                if of == name {
                    return fields.wrong("of", "must be another rule");
                }
            }
            _ => {}
        }
        Ok(Self {
            aggregate,
            of,
            group_by,
            safety: extra.safety,
            labels: extra.labels,
            only_on: extra.only_on,
            runbook: extra.runbook,
            description: extra.description,
            command: extra.command,
            metric: match kind {
                Kind::Offline(_) if fields.map.contains_key("metric") => {
                    let message = "leave it out: a rule of the kind \"offline\" watches agents";
                    return fields.wrong("metric", message);
                }
                Kind::Offline(_) | Kind::Window(_) | Kind::Share(_) => String::new(),
                _ => fields.name("metric", METRIC)?,
            },
            severity: fields.one_of(
                "severity",
                &[
                    ("info", Severity::Info),
                    ("warning", Severity::Warning),
                    ("error", Severity::Error),
                    ("critical", Severity::Critical),
                ],
            )?,
            name,
            kind,
        })
    }

    /// The rule in JSON, with every default written out. Equal rules give equal texts.
    pub fn to_json(&self) -> String {
        // The order of fields is kept for ever: texts of rules are part of saved states.
        #[derive(Serialize)]
        struct Written<'a, D: Serialize> {
            name: &'a str,
            kind: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            metric: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            aggregate: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: Option<Field>,
            #[serde(skip_serializing_if = "str::is_empty")]
            of: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            group_by: Option<&'a [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            direction: Option<D>,
            #[serde(skip_serializing_if = "Option::is_none")]
            raise: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            clear: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            within: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<String>,
            #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
            hold: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tolerance: Option<f64>,
            #[serde(flatten, skip_serializing_if = "Option::is_none")]
            anomaly: Option<WrittenAnomaly<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            when: Option<When>,
            #[serde(skip_serializing_if = "Option::is_none")]
            at_least: Option<u32>,
            severity: Severity,
            #[serde(flatten)]
            extra: extra::Written<'a>,
        }
        fn text<D: Serialize>(written: &Written<'_, D>) -> String {
            serde_json::to_string(written).unwrap_or_default()
        }
        fn begin<D: Serialize>(rule: &Rule, direction: Option<D>) -> Written<'_, D> {
            Written {
                name: &rule.name,
                kind: rule.kind.name(),
                metric: &rule.metric,
                aggregate: &rule.aggregate,
                field: None,
                of: &rule.of,
                group_by: None,
                direction,
                raise: None,
                clear: None,
                within: None,
                after: None,
                hold: None,
                tolerance: None,
                anomaly: None,
                when: None,
                at_least: None,
                severity: rule.severity,
                extra: extra::Written::of(rule),
            }
        }
        match &self.kind {
            Kind::Threshold(t) => text(&Written {
                raise: Some(t.raise),
                clear: Some(t.clear),
                hold: Some(format_duration(t.hold)),
                ..begin(self, Some(t.direction))
            }),
            Kind::Rate(r) => text(&Written {
                raise: Some(r.raise),
                clear: Some(r.clear),
                within: Some(format_duration(r.within)),
                hold: Some(format_duration(r.hold)),
                ..begin(self, Some(r.course))
            }),
            Kind::Silence(Silence { after }) | Kind::Offline(Offline { after }) => text(&Written {
                after: Some(format_duration(*after)),
                ..begin::<Direction>(self, None)
            }),
            Kind::Stuck(s) => text(&Written {
                hold: Some(format_duration(s.hold)),
                tolerance: Some(s.tolerance),
                ..begin::<Direction>(self, None)
            }),
            Kind::Anomaly(a) => text(&Written {
                anomaly: Some(WrittenAnomaly::of(a.options())),
                ..begin::<Direction>(self, None)
            }),
            Kind::Window(w) => text(&Written {
                field: Some(w.field),
                raise: Some(w.threshold.raise),
                clear: Some(w.threshold.clear),
                hold: Some(format_duration(w.threshold.hold)),
                when: Some(w.when),
                ..begin(self, Some(w.threshold.direction))
            }),
            Kind::Share(s) => text(&Written {
                group_by: Some(&self.group_by),
                raise: Some(s.threshold.raise),
                clear: Some(s.threshold.clear),
                hold: Some(format_duration(s.threshold.hold)),
                at_least: Some(s.at_least),
                ..begin::<Direction>(self, None)
            }),
        }
    }

    /// The rule, if it is of the kind `threshold`.
    pub fn threshold(&self) -> Option<ThresholdRule> {
        let Kind::Threshold(threshold) = self.kind else {
            return None;
        };
        Some(ThresholdRule {
            name: self.name.clone(),
            metric: self.metric.clone(),
            severity: self.severity,
            threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back() {
        let text = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75,"for":"10s","severity":"critical"}"#;
        let rule = Rule::parse(text).unwrap();
        assert_eq!(rule.threshold().unwrap().threshold.hold, 10_000_000);
        // Saved states hold this text: not a byte of it may change.
        assert_eq!(
            rule.to_json(),
            r#"{"name":"hot","kind":"threshold","metric":"temperature","direction":"above","raise":80.0,"clear":75.0,"for":"10s","severity":"critical"}"#
        );
        for text in [
            text,
            r#"{"name":"r","kind":"rate","metric":"t","raise":5,"within":"1m"}"#,
            r#"{"name":"r","kind":"rate","metric":"t","direction":"either","raise":5,"clear":0,"within":"10ms","for":"1d"}"#,
            r#"{"name":"s","kind":"silence","metric":"t","after":"5m","severity":"info"}"#,
            r#"{"name":"s","kind":"stuck","metric":"t","for":"1h"}"#,
            r#"{"name":"s","kind":"stuck","metric":"t","for":"1h","tolerance":0.25}"#,
            r#"{"name":"o","kind":"offline","after":"5m"}"#,
            r#"{"name":"w","kind":"window","aggregate":"by_site","field":"completeness","direction":"below","raise":0.8,"clear":0.9,"for":"20s","when":"open","match":{"site":"s1"}}"#,
            r#"{"name":"w","kind":"window","aggregate":"fleet","field":"p99","raise":80}"#,
            r#"{"name":"h","kind":"share","of":"hot","raise":0.05}"#,
            r#"{"name":"h","kind":"share","of":"hot","raise":0.05,"clear":0,"group_by":["site","line"],"at_least":10,"for":"1m","match":{"line":"3"}}"#,
            r#"{"name":"a","kind":"anomaly","metric":"t"}"#,
            r#"{"name":"a","kind":"anomaly","metric":"t","detector":"large","false_alarms":"2/week","sensitivity":0.5,"hold":"10s","half_life":"7d","warm_up":"0s","missing":[-127,85,0.1]}"#,
        ] {
            let rule = Rule::parse(text).unwrap();
            assert_eq!(Rule::parse(&rule.to_json()), Ok(rule));
        }
        assert_eq!(
            Rule::parse(r#"{"name":"s","kind":"silence","metric":"t","after":"300s"}"#)
                .unwrap()
                .to_json(),
            r#"{"name":"s","kind":"silence","metric":"t","after":"5m","severity":"warning"}"#
        );
    }

    #[test]
    fn mistakes_name_the_field_and_the_remedy() {
        let check = |rest: &str, field: &str, remedy: &str| {
            let text = format!(r#"{{"name":"a",{rest}}}"#);
            let error = Rule::parse(&text).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.message.contains(remedy), "{error}");
            assert_eq!(error.rule, "a");
        };
        check(r#""metric":"@t","raise":1"#, "metric", "1 to 64");
        check(r#""raise":1"#, "metric", "is missing");
        check(r#""metric":5,"raise":1"#, "metric", "text in quotes");
        check(
            r#""metric":"t","raise":1,"clear":2"#,
            "clear",
            "below raise",
        );
        check(
            r#""metric":"t","raise":1,"clear":0,"direction":"below""#,
            "clear",
            "above raise",
        );
        check(r#""metric":"t","raise":1,"for":"ten""#, "for", "such as");
        check(r#""metric":"t","raise":1,"for":"2d""#, "for", "at most 1d");
        check(r#""metric":"t","raise":1,"for":5"#, "for", "text in quotes");
        check(
            r#""metric":"t","raise":1,"kind":"x""#,
            "kind",
            "\"window\" or \"share\"",
        );
        check(
            r#""metric":"t","raise":1,"rise":2"#,
            "rise",
            "it has name, kind",
        );
        check(
            r#""metric":"t","raise":1,"within":"1m""#,
            "within",
            "\"threshold\" has no such",
        );
        check(r#""metric":"t","raise":null"#, "raise", "finite number");
        check(
            r#""metric":"t","raise":1,"severity":"bad""#,
            "severity",
            "or \"critical\"",
        );
        check(
            r#""metric":"t","raise":1,"direction":"up""#,
            "direction",
            "\"above\" or \"below\"",
        );
        check(r#""metric":"t""#, "raise", "is missing");
        let rate = |rest: &str, field: &str, remedy: &str| {
            check(
                &format!(r#""kind":"rate","metric":"t",{rest}"#),
                field,
                remedy,
            );
        };
        rate(r#""raise":1"#, "within", "is missing");
        rate(r#""raise":-1,"within":"1m""#, "raise", "falling");
        rate(r#""raise":0,"within":"1m""#, "raise", "more than 0");
        rate(
            r#""raise":1,"clear":-1,"within":"1m""#,
            "clear",
            "0 to raise (1)",
        );
        rate(
            r#""raise":1,"clear":1.5,"within":"1m""#,
            "clear",
            "0 to raise",
        );
        rate(r#""raise":1,"within":"1ms""#, "within", "10ms to 1d");
        rate(
            r#""raise":1,"within":"1m","direction":"above""#,
            "direction",
            "\"either\"",
        );
        rate(
            r#""raise":1,"within":"1m","after":"1m""#,
            "after",
            "no such field",
        );
        let silence = |rest: &str, field: &str, remedy: &str| {
            check(
                &format!(r#""kind":"silence","metric":"t"{rest}"#),
                field,
                remedy,
            );
        };
        silence("", "after", "is missing");
        silence(r#","after":"1ms""#, "after", "100ms to 30d");
        silence(
            r#","after":"1m","for":"1s""#,
            "for",
            "it has name, kind, metric, severity, after",
        );
        let stuck = |rest: &str, field: &str, remedy: &str| {
            check(
                &format!(r#""kind":"stuck","metric":"t"{rest}"#),
                field,
                remedy,
            );
        };
        stuck("", "for", "is missing");
        stuck(r#","for":"1ms""#, "for", "1s to 30d");
        stuck(r#","for":"1m","tolerance":-1"#, "tolerance", "0 or more");
        stuck(r#","for":"1m","raise":1"#, "raise", "no such field");
        check(r#""kind":"offline""#, "after", "is missing");
        check(
            r#""kind":"offline","metric":"t","after":"1m""#,
            "metric",
            "leave it out",
        );
        let window = |rest: &str, field: &str, remedy: &str| {
            check(&format!(r#""kind":"window"{rest}"#), field, remedy);
        };
        let whole = r#","aggregate":"a","field":"count","raise":1"#;
        window(r#","aggregate":"a""#, "field", "\"completeness\"");
        window(r#","aggregate":"a","field":"median""#, "field", "\"p50\"");
        window(r#","field":"count","raise":1"#, "aggregate", "is missing");
        window(r#","aggregate":"a","field":"count""#, "raise", "is missing");
        window(&format!(r#"{whole},"when":"soon""#), "when", "\"settled\"");
        window(
            &format!(r#"{whole},"metric":"t""#),
            "metric",
            "leave it out",
        );
        window(
            &format!(r#"{whole},"safety":true"#),
            "safety",
            "leave it out",
        );
        window(&format!(r#"{whole},"of":"b""#), "of", "no such field");
        let share = |rest: &str, field: &str, remedy: &str| {
            check(&format!(r#""kind":"share"{rest}"#), field, remedy);
        };
        share(r#","raise":0.1"#, "of", "is missing");
        share(r#","of":"a","raise":0.1"#, "of", "another rule");
        share(r#","of":"b","raise":5"#, "raise", "0.05 for 5 %");
        share(
            r#","of":"b","raise":0.1,"clear":0.2"#,
            "clear",
            "below raise",
        );
        let by = |rest: &str| format!(r#","of":"b","raise":0.1,{rest}"#);
        share(&by(r#""group_by":"site""#), "group_by", "a list");
        share(
            &by(r#""group_by":["a","b","c","d","e"]"#),
            "group_by",
            "at most 4",
        );
        share(&by(r#""at_least":0"#), "at_least", "whole number");
        share(
            &by(r#""match":{"line":"3"}"#),
            "match.line",
            "not in group_by",
        );
        share(
            &by(r#""command":{"name":"stop"}"#),
            "command",
            "leave it out",
        );
        let anomaly = |rest: &str, field: &str, remedy: &str| {
            let rest = format!(r#""kind":"anomaly","metric":"t",{rest}"#);
            check(&rest, field, remedy);
        };
        for rate in [
            "1",
            "0/day",
            "1/fortnight",
            "1001/day",
            "+1/day",
            "-1/day",
            "/day",
        ] {
            let rest = format!(r#""false_alarms":"{rate}""#);
            anomaly(&rest, "false_alarms", "1/month");
        }
        anomaly(r#""sensitivity":0"#, "sensitivity", "0.1 to 10");
        anomaly(r#""hold":"1s""#, "hold", "10s to 1d");
        anomaly(r#""half_life":"1s""#, "half_life", "1h to 3650d");
        anomaly(r#""warm_up":"31d""#, "warm_up", "at most 30d");
        anomaly(r#""missing":-127"#, "missing", "a list");
        anomaly(r#""missing":["x"]"#, "missing", "numbers");
        anomaly(r#""missing":[1,2,3,4,5,6,7,8,9]"#, "missing", "at most 8");
        anomaly(r#""detector":"huge""#, "detector", "\"large\"");
        anomaly(r#""raise":1"#, "raise", "no such field");
        for (text, field) in [
            (r#"{"name":"","metric":"t","raise":1}"#, "name"),
            (r#"{"metric":"t","raise":1}"#, "name"),
            ("[]", "json"),
            ("{", "json"),
            ("5", "json"),
        ] {
            assert_eq!(Rule::parse(text).unwrap_err().field, field, "{text}");
        }
    }
}
