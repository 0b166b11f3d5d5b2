//! What every rule may have beside its condition: whom it concerns, what people are told, and what is to be
//! done. The condition itself knows nothing of it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::declare::{Fields, NAME_BYTES_MAX, RuleError};
use crate::format_duration;

/// Most entries of `labels`, of `match` and of the arguments of a command.
pub const ENTRIES_MAX: usize = 16;
/// Longest text of such an entry, bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// Longest `runbook` and `description`, bytes.
pub const NOTE_BYTES_MAX: usize = 512;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// Time for a command to reach its device, and to wait for the next one to it.
const TTL: i64 = 300 * SECOND;
const COOLDOWN: i64 = 600 * SECOND;
const TIME_MAX: i64 = 30 * DAY;
const BUDGET: u32 = 10;
const CANARY: u32 = 1;
/// Most commands of a rule in an hour, and most canaries.
const COUNT_MAX: u32 = 100_000;

/// Fields of every rule that may be left out.
pub(crate) const EXTRA: &[&str] = &[
    "safety",
    "labels",
    "match",
    "runbook",
    "description",
    "command",
];
const COMMAND: &[&str] = &[
    "name",
    "args",
    "ttl",
    "budget_per_hour",
    "cooldown",
    "canary",
    "dry_run",
];

/// A command that is given to the device when the rule's alert is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCommand {
    /// Name on the device's allow-list: 1 to 64 of `A-Z a-z 0-9 _ - .`.
    pub name: String,
    /// Values for the allow-list's argument template, at most [`ENTRIES_MAX`].
    pub args: BTreeMap<String, String>,
    /// How long it may take to start, microseconds; 1 s to 30 days, 5 minutes by default.
    pub ttl: i64,
    /// How many the rule gives in an hour at most, over all devices; 1 to 100,000, 10 by default.
    pub budget_per_hour: u32,
    /// Shortest time between two to the same device, microseconds; 0 to 30 days, 10 minutes by default.
    pub cooldown: i64,
    /// How many devices get it first, and must succeed before others do; 0 to 100,000, 1 by default.
    pub canary: u32,
    /// Whether it is only recorded that it would have been given.
    pub dry_run: bool,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Extra {
    pub(crate) safety: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) only_on: BTreeMap<String, String>,
    pub(crate) runbook: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) command: Option<RuleCommand>,
}

impl Fields<'_> {
    pub(crate) fn extra(&self) -> Result<Extra, RuleError> {
        let runbook = self.note("runbook")?;
        if let Some(url) = &runbook {
            let is_url = ["http://", "https://"].iter().any(|s| url.starts_with(s));
            if !is_url || url.contains(char::is_whitespace) {
                let message = "must be a link, as \"https://wiki.example.org/pumps\"";
                return self.wrong("runbook", message);
            }
        }
        Ok(Extra {
            safety: self.flag("safety")?,
            labels: self.texts("labels")?,
            only_on: self.texts("match")?,
            runbook,
            description: self.note("description")?,
            command: self.command()?,
        })
    }

    fn flag(&self, field: &str) -> Result<bool, RuleError> {
        match self.map.get(field) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => self.wrong(field, "must be true or false"),
        }
    }

    fn note(&self, field: &str) -> Result<Option<String>, RuleError> {
        match self.text(field)? {
            None => Ok(None),
            Some(text) if text.len() > NOTE_BYTES_MAX || text.contains(char::is_control) => {
                let message = format!(
                    "must be one line of at most {NOTE_BYTES_MAX} bytes, it has {}",
                    text.len()
                );
                self.wrong(field, message)
            }
            Some(text) => Ok(Some(text.to_owned()).filter(|t| !t.is_empty())),
        }
    }

    /// Names with texts.
    fn texts(&self, field: &str) -> Result<BTreeMap<String, String>, RuleError> {
        let map = match self.map.get(field) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map,
            Some(_) => {
                let message = "must be names with texts, as {\"site\": \"plant-1\"}";
                return self.wrong(field, message);
            }
        };
        if map.len() > ENTRIES_MAX {
            let message = format!("{} entries, more than {ENTRIES_MAX}", map.len());
            return self.wrong(field, message);
        }
        let mut texts = BTreeMap::new();
        for (name, text) in map {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let short: String = name.chars().take(NAME_BYTES_MAX).collect();
            let at = format!("{field}.{short}");
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
                let message = "the name must be 1 to 64 of A-Z a-z 0-9 _ - .";
                return self.wrong(&at, message);
            }
            let Some(text) = text.as_str() else {
                return self.wrong(&at, "must be a text in quotes");
            };
            if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
                let message = format!("must be one line of at most {TEXT_BYTES_MAX} bytes");
                return self.wrong(&at, message);
            }
            texts.insert(name.clone(), text.to_owned());
        }
        Ok(texts)
    }

    pub(crate) fn count(&self, field: &str, default: u32, min: u32) -> Result<u32, RuleError> {
        let Some(value) = self.map.get(field) else {
            return Ok(default);
        };
        let count = value.as_u64().and_then(|n| u32::try_from(n).ok());
        match count.filter(|n| (min..=COUNT_MAX).contains(n)) {
            Some(count) => Ok(count),
            None => self.wrong(
                field,
                format!("must be a whole number from {min} to {COUNT_MAX}"),
            ),
        }
    }

    fn command(&self) -> Result<Option<RuleCommand>, RuleError> {
        let map: &Map<String, Value> = match self.map.get("command") {
            None => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => {
                let message = "must be a table, as {\"name\": \"restart\"}";
                return self.wrong("command", message);
            }
        };
        let inner = Fields {
            rule: self.rule,
            map,
        };
        let read = || {
            if let Some(key) = map.keys().find(|k| !COMMAND.contains(&k.as_str())) {
                let key: String = key.chars().take(NAME_BYTES_MAX).collect();
                let message = format!("there is no such field; there are {}", COMMAND.join(", "));
                return inner.wrong(&key, message);
            }
            Ok(RuleCommand {
                name: inner.name("name", "must be 1 to 64 of A-Z a-z 0-9 _ - .")?,
                args: inner.texts("args")?,
                ttl: inner.duration("ttl", Some(TTL), SECOND, TIME_MAX)?,
                budget_per_hour: inner.count("budget_per_hour", BUDGET, 1)?,
                cooldown: inner.duration("cooldown", Some(COOLDOWN), 0, TIME_MAX)?,
                canary: inner.count("canary", CANARY, 0)?,
                dry_run: inner.flag("dry_run")?,
            })
        };
        match read() {
            Ok(command) => Ok(Some(command)),
            Err(error) => Err(RuleError {
                field: format!("command.{}", error.field),
                ..error
            }),
        }
    }
}

/// How they are written: only what is set, so that rules without them have the text they always had.
#[derive(Serialize)]
pub(crate) struct Written<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    safety: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(rename = "match", skip_serializing_if = "BTreeMap::is_empty")]
    only_on: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runbook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<WrittenCommand<'a>>,
}

#[derive(Serialize)]
struct WrittenCommand<'a> {
    name: &'a str,
    args: &'a BTreeMap<String, String>,
    ttl: String,
    budget_per_hour: u32,
    cooldown: String,
    canary: u32,
    dry_run: bool,
}

impl<'a> Written<'a> {
    pub(crate) fn of(rule: &'a crate::Rule) -> Self {
        Self {
            safety: rule.safety,
            labels: &rule.labels,
            only_on: &rule.only_on,
            runbook: rule.runbook.as_deref(),
            description: rule.description.as_deref(),
            command: rule.command.as_ref().map(|c| WrittenCommand {
                name: &c.name,
                args: &c.args,
                ttl: format_duration(c.ttl),
                budget_per_hour: c.budget_per_hour,
                cooldown: format_duration(c.cooldown),
                canary: c.canary,
                dry_run: c.dry_run,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Rule, RuleError};

    fn parse(rest: &str) -> Result<Rule, RuleError> {
        Rule::parse(&format!(
            r#"{{"name":"hot","metric":"t","raise":80{rest}}}"#
        ))
    }

    #[test]
    fn what_is_set_reads_back_and_the_rest_leaves_no_trace() {
        let plain = parse("").unwrap();
        assert!(plain.to_json().ends_with(r#""severity":"warning"}"#));
        let rest = r#","safety":true,"labels":{"team":"oven"},"match":{"site":"plant-1"},"runbook":"https://wiki/x","description":"It burns","command":{"name":"stop","args":{"why":"hot"}}"#;
        let rule = parse(rest).unwrap();
        assert!(rule.safety && rule.labels["team"] == "oven" && rule.only_on["site"] == "plant-1");
        let command = rule.command.clone().unwrap();
        assert_eq!((command.ttl, command.cooldown), (300_000_000, 600_000_000));
        assert_eq!((command.budget_per_hour, command.canary), (10, 1));
        assert!(rule.to_json().ends_with(
            r#""severity":"warning","safety":true,"labels":{"team":"oven"},"match":{"site":"plant-1"},"runbook":"https://wiki/x","description":"It burns","command":{"name":"stop","args":{"why":"hot"},"ttl":"5m","budget_per_hour":10,"cooldown":"10m","canary":1,"dry_run":false}}"#
        ));
        assert_eq!(Rule::parse(&rule.to_json()), Ok(rule));
        assert_eq!(
            parse(r#","safety":false,"labels":{},"runbook":"""#),
            Ok(plain)
        );
    }

    #[test]
    fn mistakes_name_the_field() {
        let long = "x".repeat(513);
        let many: Vec<String> = (0..17).map(|n| format!("\"l{n}\":\"\"")).collect();
        for (rest, field) in [
            (r#""safety":1"#, "safety"),
            (r#""labels":[]"#, "labels"),
            (r#""labels":{"a b":"x"}"#, "labels.a b"),
            (r#""labels":{"a":1}"#, "labels.a"),
            (&format!(r#""labels":{{{}}}"#, many.join(",")), "labels"),
            (&format!(r#""match":{{"site":"{long}"}}"#), "match.site"),
            (r#""runbook":"wiki""#, "runbook"),
            (r#""runbook":"https://a b""#, "runbook"),
            (&format!(r#""description":"{long}""#), "description"),
            (r#""description":"a\nb""#, "description"),
            (r#""command":"stop""#, "command"),
            (r#""command":{}"#, "command.name"),
            (r#""command":{"name":"a b"}"#, "command.name"),
            (r#""command":{"name":"a","arg":{}}"#, "command.arg"),
            (r#""command":{"name":"a","args":{"x":1}}"#, "command.args.x"),
            (r#""command":{"name":"a","ttl":"0s"}"#, "command.ttl"),
            (
                r#""command":{"name":"a","cooldown":"31d"}"#,
                "command.cooldown",
            ),
            (
                r#""command":{"name":"a","budget_per_hour":0}"#,
                "command.budget_per_hour",
            ),
            (r#""command":{"name":"a","canary":-1}"#, "command.canary"),
            (
                r#""command":{"name":"a","dry_run":"no"}"#,
                "command.dry_run",
            ),
        ] {
            let error = parse(&format!(",{rest}")).unwrap_err();
            assert_eq!(
                (error.field.as_str(), error.rule.as_str()),
                (field, "hot"),
                "{rest}"
            );
        }
    }
}
