//! Configuration: defaults, then a TOML file, then the environment, then flags. Merged once, checked once,
//! passed by value.

mod alerting;
mod notifiers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alerting::{AlertingConfig, InhibitConfig, MaintenanceConfig, RouteConfig};
use anyhow::{Context, bail, ensure};
use event::aggregate::{AGGREGATES_MAX, ALL_METRICS};
use event::{AggregateSpec, Declaration, Function, Retention};
use notifiers::NotifierConfig;
use notify::Target;
use rules::{Rule, parse_duration};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most rules.
const RULES_MAX: usize = 1000;
/// Microseconds.
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// Longest retention.
const RETENTION_MAX: i64 = 36_500 * DAY;
/// Least page cache of the log, bytes.
const CACHE_BYTES_MIN: usize = 64 << 10;
/// Environment variables that begin like ours and belong to others.
const FOREIGN: [&str; 5] = [
    "TIDEWATCH_AGENT_",
    "TIDEWATCH_SIMULATE_",
    "TIDEWATCH_WEB",
    "TIDEWATCH_NO_WEB",
    "TIDEWATCH_TEST_",
];

/// Everything the server can be told. `deploy/tidewatch.sample.toml` documents each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Data folder.
    pub data: PathBuf,
    /// The event log.
    pub log: LogConfig,
    /// MQTT.
    pub ingest: ingest::Settings,
    /// Results.
    pub processor: ProcessorConfig,
    /// How long results are kept.
    pub retention: RetentionConfig,
    /// Page and API.
    pub dashboard: dashboard::Settings,
    /// What is computed; none = `fleet` and `by_metric`.
    pub aggregates: Vec<AggregateConfig>,
    /// What raises alerts.
    pub rules: Vec<Table>,
    /// What becomes of alerts.
    pub alerting: AlertingConfig,
    /// Who hears of which alerts.
    pub routes: Vec<RouteConfig>,
    /// Which alerts explain others.
    pub inhibit: Vec<InhibitConfig>,
    /// Times of the week at which alerts are expected.
    pub maintenance: Vec<MaintenanceConfig>,
    /// Who is told of alerts.
    pub notifiers: Vec<NotifierConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("tidewatch-data"),
            log: LogConfig::default(),
            ingest: ingest::Settings::default(),
            processor: ProcessorConfig::default(),
            retention: RetentionConfig::default(),
            dashboard: dashboard::Settings::default(),
            aggregates: Vec::new(),
            rules: Vec::new(),
            alerting: AlertingConfig::default(),
            routes: Vec::new(),
            inhibit: Vec::new(),
            maintenance: Vec::new(),
            notifiers: Vec::new(),
        }
    }
}

/// The event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Partitions; fixed when the data folder is made.
    pub partitions: u16,
    /// Page cache of both databases, bytes.
    pub cache_bytes: usize,
    /// How long records stay behind the newest checkpoint.
    pub keep: String,
    /// How many bytes stay behind the newest checkpoint at most.
    pub keep_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            partitions: 8,
            cache_bytes: 32 << 20,
            keep: "24h".to_owned(),
            keep_bytes: 2 << 30,
        }
    }
}

/// The processor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessorConfig {
    /// Time between checkpoints of a partition.
    pub checkpoint_every: String,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            checkpoint_every: "30s".to_owned(),
        }
    }
}

/// How long results are kept, counted back from the newest event time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Windows.
    pub panes: String,
    /// Hours.
    pub hours: String,
    /// Days.
    pub days: String,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let keep = Retention::default();
        // The unit of each tier says more than the largest that is exact.
        Self {
            panes: format!("{}h", keep.panes / HOUR),
            hours: format!("{}d", keep.hours / DAY),
            days: format!("{}d", keep.days / DAY),
        }
    }
}

/// One aggregate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateConfig {
    /// Its name in the API.
    pub name: String,
    /// A metric, or `*`.
    #[serde(default = "all_metrics")]
    pub metric: String,
    /// Device attributes (or `metric`) that make the groups.
    #[serde(default)]
    pub group_by: Vec<String>,
    /// Length of the window.
    #[serde(default = "ten_seconds")]
    pub window: String,
    /// From the start of a window to the start of the next; none = `window` (tumbling).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// Functions; none = [`Function::EXACT`]: the estimates must be asked for.
    #[serde(default)]
    pub functions: BTreeSet<Function>,
}

fn all_metrics() -> String {
    ALL_METRICS.to_owned()
}

fn ten_seconds() -> String {
    "10s".to_owned()
}

/// Reads file and environment over the defaults.
///
/// **Errors**: a file that cannot be read, an unknown key (with the nearest valid one), a wrong value.
pub fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    merge(file, std::env::vars())
}

fn merge(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<Config> {
    let mut known = Table::try_from(Config::default()).context("failed to list the known keys")?;
    // Lists of tables show their keys only when they are filled.
    known.insert(
        "aggregates".to_owned(),
        example(&["name", "metric", "group_by", "window", "hop", "functions"]),
    );
    known.insert("rules".to_owned(), example(&rules::fields()));
    known.insert("notifiers".to_owned(), example(&notifiers::KEYS));
    for (name, keys) in alerting::known() {
        known.insert(name.to_owned(), keys);
    }
    let mut table = Table::new();
    if let Some(path) = file {
        let shown = path.display();
        let size = std::fs::metadata(path)
            .with_context(|| format!("failed to read the configuration file {shown}; give an existing one with --config, or none for the defaults (deploy/tidewatch.sample.toml has every key)"))?
            .len();
        ensure!(
            size <= FILE_BYTES_MAX,
            "{shown} has {size} bytes, more than {FILE_BYTES_MAX}"
        );
        let text =
            std::fs::read_to_string(path).with_context(|| format!("failed to read {shown}"))?;
        table = text
            .parse()
            .map_err(|error| not_toml(&error, &text, &shown))?;
        notifiers::refuse_former_table(&table).with_context(|| format!("in {shown}"))?;
        check_keys(&table, &known, "").with_context(|| format!("in {shown}"))?;
    }
    from_environment(&mut table, &known, environment)?;
    let checked = || {
        let config: Config = Value::Table(table).try_into()?;
        config.check_log()?;
        config.ingest.check()?;
        config.declaration()?;
        config.targets()?;
        config.processor_settings()?;
        config.retention()?;
        anyhow::Ok(config)
    };
    checked().with_context(|| match file {
        Some(path) => format!("in {} (with what the environment sets)", path.display()),
        None => "in the configuration".to_owned(),
    })
}

/// Without the line itself, which the parser's own text quotes: it may be the one that holds a secret.
fn not_toml(error: &toml::de::Error, text: &str, shown: &impl std::fmt::Display) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    let what = error.message();
    anyhow::anyhow!("{shown} is not valid TOML: line {line}: {what}")
}

fn example(keys: &[&str]) -> Value {
    let table = keys
        .iter()
        .map(|k| ((*k).to_owned(), Value::Boolean(true)))
        .collect();
    Value::Array(vec![Value::Table(table)])
}

/// Every key of `table` must be one of `known`, at its place.
fn check_keys(table: &Table, known: &Table, path: &str) -> anyhow::Result<()> {
    for (key, value) in table {
        let full = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let Some(known_value) = known.get(key) else {
            // Optional keys without a default, and forms of `ingest.auth`, are known to serde only.
            if path.starts_with("ingest") {
                continue;
            }
            match nearest(key, known.keys().map(String::as_str)) {
                Some(near) => bail!("unknown key {full:?}; the nearest valid one is {near:?}"),
                None => bail!("unknown key {full:?}"),
            }
        };
        match (value, known_value) {
            (Value::Table(t), Value::Table(k)) => check_keys(t, k, &full)?,
            (Value::Array(items), Value::Array(k)) => {
                if let Some(Value::Table(k)) = k.first() {
                    for item in items {
                        if let Value::Table(t) = item {
                            check_keys(t, k, &full)?;
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::normalized_damerau_levenshtein(key, k), k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// `TIDEWATCH_INGEST_LISTEN` sets `ingest.listen`. Lists of tables cannot be set this way.
fn from_environment(
    table: &mut Table,
    known: &Table,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    leaves(known, &mut Vec::new(), &mut names);
    // The two that the flags name.
    names.push((
        "TIDEWATCH_LISTEN".to_owned(),
        path(&["dashboard", "listen"]),
    ));
    names.push(("TIDEWATCH_MQTT".to_owned(), path(&["ingest", "listen"])));
    for (name, text) in environment {
        if !name.starts_with("TIDEWATCH_") || FOREIGN.iter().any(|f| name.starts_with(f)) {
            continue;
        }
        let Some((_, path)) = names.iter().find(|n| n.0 == name) else {
            let near = nearest(&name, names.iter().map(|n| n.0.as_str())).unwrap_or_default();
            bail!("unknown environment variable {name}; the nearest valid one is {near}");
        };
        // As TOML if it is (numbers, booleans, lists), else as a text.
        let value = format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"));
        let value = value.unwrap_or(Value::String(text));
        let Some((last, parents)) = path.split_last() else {
            continue;
        };
        let mut at = &mut *table;
        for parent in parents {
            let entry = at
                .entry(parent.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            at = entry
                .as_table_mut()
                .with_context(|| format!("{parent} must be a table"))?;
        }
        at.insert(last.clone(), value);
    }
    Ok(())
}

fn path(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|k| (*k).to_owned()).collect()
}

fn leaves(table: &Table, at: &mut Vec<String>, out: &mut Vec<(String, Vec<String>)>) {
    for (key, value) in table {
        at.push(key.clone());
        match value {
            Value::Table(inner) => leaves(inner, at, out),
            Value::Array(items) if items.first().is_some_and(Value::is_table) => {}
            _ => out.push((
                format!("TIDEWATCH_{}", at.join("_").to_uppercase()),
                at.clone(),
            )),
        }
        at.pop();
    }
}

/// Reads one rule.
fn parse_rule(rule: &Table) -> anyhow::Result<Rule> {
    let name = rule.get("name").and_then(Value::as_str).unwrap_or_default();
    for (field, value) in rule {
        // JSON has no such numbers: it would pass for one that is left out.
        ensure!(
            value.as_float().is_none_or(f64::is_finite),
            "rule {name:?}: {field}: must be a finite number, such as 60.0, it is {value}"
        );
    }
    let rule = serde_json::to_value(rule).with_context(|| format!("rule {name:?}"))?;
    Ok(Rule::from_value(&rule)?)
}

impl Config {
    /// Checks what opening the log would refuse.
    fn check_log(&self) -> anyhow::Result<()> {
        let most = eventlog::Settings::PARTITIONS_MAX;
        ensure!(
            (1..=most).contains(&self.log.partitions),
            "log.partitions is {}; 1 to {most} is allowed",
            self.log.partitions
        );
        ensure!(
            self.log.cache_bytes >= CACHE_BYTES_MIN,
            "log.cache_bytes is {}; at least {CACHE_BYTES_MIN} is needed",
            self.log.cache_bytes
        );
        Ok(())
    }

    /// Aggregates and rules, checked.
    ///
    /// **Errors**: which one is wrong, in which field, and how it would be right.
    pub fn declaration(&self) -> anyhow::Result<Declaration> {
        ensure!(
            self.aggregates.len() <= AGGREGATES_MAX,
            "aggregates: at most {AGGREGATES_MAX}"
        );
        ensure!(self.rules.len() <= RULES_MAX, "rules: at most {RULES_MAX}");
        let mut aggregates = Vec::new();
        for a in &self.aggregates {
            let place = || format!("aggregate {:?}", a.name);
            let duration = |field: &'static str, text: &str| {
                parse_duration(text)
                    .map_err(anyhow::Error::msg)
                    .context(field)
                    .with_context(place)
            };
            let window = duration("window", &a.window)?;
            let hop = match &a.hop {
                Some(text) => duration("hop", text)?,
                None => window,
            };
            let functions = match a.functions.is_empty() {
                true => Function::EXACT.iter().copied().collect(),
                false => a.functions.clone(),
            };
            let spec = AggregateSpec {
                name: a.name.clone(),
                metric: a.metric.clone(),
                group_by: a.group_by.clone(),
                window,
                hop,
                functions,
            };
            spec.check().with_context(place)?;
            ensure!(
                !aggregates
                    .iter()
                    .any(|b: &AggregateSpec| b.name == spec.name),
                "aggregate {:?} is declared twice",
                a.name
            );
            aggregates.push(spec);
        }
        if aggregates.is_empty() {
            aggregates = AggregateSpec::defaults();
        }
        let mut rules: Vec<Rule> = Vec::new();
        for rule in &self.rules {
            let rule = parse_rule(rule)?;
            ensure!(
                !rules.iter().any(|r| r.name == rule.name),
                "rule {:?} is declared twice",
                rule.name
            );
            rules.push(rule);
        }
        for rule in &rules {
            processor::alerting::check_rule(rule, &rules, &aggregates)?;
        }
        Ok(Declaration {
            aggregates,
            rules: rules.iter().map(Rule::to_json).collect(),
        })
    }

    /// Notifiers with their secrets.
    ///
    /// **Errors**: which one is wrong, in which key, and how it would be right; never its secret.
    pub fn targets(&self) -> anyhow::Result<Vec<Target>> {
        notifiers::targets(&self.notifiers)
    }

    /// Settings of the processor.
    ///
    /// **Errors**: a duration that is none.
    pub fn processor_settings(&self) -> anyhow::Result<processor::runtime::Settings> {
        let duration = |key: &str, text: &str, least: i64| {
            let micros = parse_duration(text)
                .map_err(anyhow::Error::msg)
                .context(key.to_owned())?;
            ensure!(micros >= least, "{key}: {text:?} is too short");
            Ok(Duration::from_micros(micros as u64))
        };
        Ok(processor::runtime::Settings {
            checkpoint_every: duration(
                "processor.checkpoint_every",
                &self.processor.checkpoint_every,
                100_000,
            )?,
            log_keep: duration("log.keep", &self.log.keep, 0)?,
            log_keep_bytes: self.log.keep_bytes,
            alerting: self.alerting_settings()?,
            targets: self.targets()?,
            ..processor::runtime::Settings::default()
        })
    }

    /// What becomes of alerts.
    ///
    /// **Errors**: which table is wrong, in which field, and how it would be right.
    pub fn alerting_settings(&self) -> anyhow::Result<processor::alerting::Settings> {
        let notifiers = self.targets()?.into_iter().map(|t| t.name);
        alerting::settings(
            &self.alerting,
            &self.routes,
            &self.inhibit,
            &self.maintenance,
            &notifiers.collect::<Vec<_>>(),
        )
    }

    /// How long results are kept.
    ///
    /// **Errors**: a duration that is none, a tier kept for less than the finer one, windows kept for less
    /// than an hour or than the longest of them.
    pub fn retention(&self) -> anyhow::Result<Retention> {
        let (mut finer, mut least) = ("an hour".to_owned(), HOUR);
        for a in self.declaration()?.aggregates {
            if a.window > least {
                (finer, least) = (format!("the window of aggregate {:?}", a.name), a.window);
            }
        }
        let mut tier = |key: &str, text: &str| {
            let micros = parse_duration(text)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("retention.{key}"))?;
            ensure!(
                micros >= least,
                "retention.{key}: {text:?} is too short; at least as long as {finer}"
            );
            ensure!(
                micros <= RETENTION_MAX,
                "retention.{key}: {text:?} is too long; at most 36500d"
            );
            (finer, least) = (format!("retention.{key}"), micros);
            anyhow::Ok(micros)
        };
        Ok(Retention {
            panes: tier("panes", &self.retention.panes)?,
            hours: tier("hours", &self.retention.hours)?,
            days: tier("days", &self.retention.days)?,
        })
    }

    /// Settings of the event log.
    pub fn log_settings(&self) -> eventlog::Settings {
        eventlog::Settings {
            partitions: self.log.partitions,
            cache_bytes: self.log.cache_bytes,
            ..eventlog::Settings::default()
        }
    }

    /// The configuration as TOML, secrets hidden.
    ///
    /// **Errors**: none in practice.
    pub fn show(&self) -> anyhow::Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn check(text: &str, env: &[(&str, &str)]) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        merge(Some(file.path()), env)
    }

    #[track_caller]
    pub(super) fn refused(text: &str, env: &[(&str, &str)], expected: &str) {
        let error = format!("{:#}", check(text, env).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn file_and_environment_go_over_the_defaults() {
        let c = check(
            "data = \"/d\"\n[ingest]\nlisten = \"127.0.0.1:1\"\n[log]\npartitions = 2\n",
            &[
                ("TIDEWATCH_INGEST_LISTEN", "127.0.0.1:2"),
                ("TIDEWATCH_LOG_KEEP_BYTES", "5"),
            ],
        )
        .unwrap();
        assert_eq!(c.data, PathBuf::from("/d"));
        assert_eq!(c.ingest.listen.port(), 2);
        assert_eq!((c.log.partitions, c.log.keep_bytes), (2, 5));
        assert_eq!(
            c.declaration().unwrap().aggregates,
            AggregateSpec::defaults()
        );
    }

    #[test]
    fn an_aggregate_is_tumbling_and_exact_unless_it_says_otherwise() {
        let aggregate = |rest: &str| {
            let text = format!("[[aggregates]]\nname = \"a\"\nwindow = \"1m\"\n{rest}");
            let spec = check(&text, &[]).unwrap().declaration().unwrap();
            spec.aggregates[0].clone()
        };
        let plain = aggregate("");
        assert_eq!((plain.window, plain.hop), (60_000_000, 60_000_000));
        assert!(plain.functions.iter().eq(Function::EXACT));
        let hopping = aggregate("hop = \"10s\"\nfunctions = [\"p99\", \"distinct_values\"]");
        assert_eq!(hopping.panes(), 6);
        assert_eq!(
            hopping.functions,
            [Function::DistinctValues, Function::P99].into()
        );
    }

    #[test]
    fn each_tier_is_kept_at_least_as_long_as_the_finer_one() {
        let keep = |text: &str| check(text, &[]).unwrap().retention().unwrap();
        assert_eq!(keep(""), Retention::default());
        let week = keep("[retention]\npanes = \"7d\"\nhours = \"7d\"");
        assert_eq!((week.panes, week.hours), (7 * DAY, 7 * DAY));
        for (text, words) in [
            (
                "panes = \"59m\"",
                "retention.panes: \"59m\" is too short; at least as long as an hour",
            ),
            (
                "hours = \"1d\"",
                "retention.hours: \"1d\" is too short; at least as long as retention.panes",
            ),
            ("days = \"29d\"", "retention.days: \"29d\" is too short"),
            ("days = \"40000d\"", "at most 36500d"),
            ("days = \"ever\"", "retention.days"),
        ] {
            refused(&format!("[retention]\n{text}"), &[], words);
        }
        refused(
            "[retention]\npanes = \"2h\"\n[[aggregates]]\nname = \"long\"\nwindow = \"24h\"",
            &[],
            "at least as long as the window of aggregate \"long\"",
        );
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_valid_one() {
        refused(
            "dta = \"x\"",
            &[],
            "unknown key \"dta\"; the nearest valid one is \"data\"",
        );
        refused(
            "[log]\npartition = 2",
            &[],
            "unknown key \"log.partition\"; the nearest valid one is \"partitions\"",
        );
        refused(
            "[[notifiers]]\nname = \"a\"\nrate_per_min = 1",
            &[],
            "unknown key \"notifiers.rate_per_min\"; the nearest valid one is \"rate_per_minute\"",
        );
        refused("[ingest]\nlissten = \"x\"", &[], "lissten");
        refused("", &[("TIDEWATCH_DTA", "x")], "TIDEWATCH_DATA");
    }

    #[test]
    fn wrong_values_name_their_place() {
        refused(
            "[[aggregates]]\nname = \"a\"\nwindow = \"ten\"",
            &[],
            "aggregate \"a\": window: ",
        );
        refused(
            "[[aggregates]]\nname = \"a\"\nwindow = \"1m\"\nhop = \"soon\"",
            &[],
            "aggregate \"a\": hop: ",
        );
        refused(
            "[[aggregates]]\nname = \"a\"\nwindow = \"1m\"\nhop = \"25s\"",
            &[],
            "aggregate \"a\": hop: the window of 60s is not a whole multiple of 25s; use 20s or 30s",
        );
        refused(
            "[[rules]]\nname = \"r\"\nmetric = \"t\"\nraise = 1.0\nclear = 2.0",
            &[],
            "clear",
        );
        refused(
            "[processor]\ncheckpoint_every = \"soon\"",
            &[],
            "processor.checkpoint_every",
        );
    }

    #[test]
    fn wrong_rules_name_rule_and_field_and_speak_no_json() {
        let rule = |rest: &str| format!("[[rules]]\nname = \"hot\"\nmetric = \"t\"\n{rest}");
        for (rest, expected) in [
            (
                "raise = \"60\"",
                "rule \"hot\": raise: must be a finite number",
            ),
            (
                "raise = nan",
                "rule \"hot\": raise: must be a finite number",
            ),
            ("clear = 1.0", "rule \"hot\": raise: is missing"),
            (
                "raise = 1\nseverity = \"bad\"",
                "rule \"hot\": severity: must be \"info\"",
            ),
            (
                "raise = 1\ndirection = 3",
                "rule \"hot\": direction: must be \"above\"",
            ),
            ("raise = 1\nfor = 5", "rule \"hot\": for: must be a text"),
            ("raise = 1\nfor = \"soon\"", "rule \"hot\": for: "),
        ] {
            let error = format!("{:#}", check(&rule(rest), &[]).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(!error.to_lowercase().contains("json"), "{error}");
            assert!(error.starts_with("in /"), "no file is named: {error}");
        }
        assert!(check(&rule("raise = 60"), &[]).is_ok());
        for rest in [
            "kind = \"silence\"\nafter = \"5m\"",
            "kind = \"rate\"\nraise = 5\nwithin = \"1m\"",
            "kind = \"stuck\"\nfor = \"1h\"",
        ] {
            assert!(check(&rule(rest), &[]).is_ok(), "{rest}");
        }
        let offline = "[[rules]]\nname = \"away\"\nkind = \"offline\"\nafter = \"5m\"";
        assert!(check(offline, &[]).is_ok());
        for (rest, expected) in [
            (
                "kind = \"magic\"",
                "rule \"hot\": kind: \"magic\" is not known",
            ),
            ("kind = \"silence\"", "rule \"hot\": after: is missing"),
            (
                "raise = 1\nlabels = { team = 5 }",
                "rule \"hot\": labels.team: must be a text",
            ),
            (
                "raise = 1\nsevrity = \"info\"",
                "the nearest valid one is \"severity\"",
            ),
        ] {
            let error = format!("{:#}", check(&rule(rest), &[]).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_the_log_would_refuse_is_refused() {
        refused(
            "[log]\npartitions = 0",
            &[],
            "log.partitions is 0; 1 to 4096",
        );
        refused("[log]\npartitions = 4097", &[], "log.partitions is 4097");
        refused(
            "[log]\ncache_bytes = 65535",
            &[],
            "log.cache_bytes is 65535",
        );
        // The limits said here are those of the log.
        let dir = tempfile::tempdir().unwrap();
        let config = check("[log]\npartitions = 1\ncache_bytes = 65536", &[]).unwrap();
        let clock = || std::sync::Arc::new(|| 0);
        eventlog::Log::open(dir.path(), config.log_settings(), clock()).unwrap();
        let less = eventlog::Settings {
            cache_bytes: CACHE_BYTES_MIN - 1,
            ..config.log_settings()
        };
        assert!(eventlog::Log::open(dir.path(), less, clock()).is_err());
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let error = merge(Some(Path::new("/no/such.toml")), std::iter::empty()).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("/no/such.toml") && error.contains("--config"),
            "{error}"
        );
    }

    #[test]
    fn rules_on_groups_name_what_is_declared() {
        let hot = "[[rules]]\nname = \"hot\"\nmetric = \"t\"\nraise = 1\n[[rules]]\nname = \"x\"\nraise = 0.5\n";
        let rule = |rest: &str| check(&format!("{hot}{rest}"), &[]).map(|_| ());
        rule("kind = \"window\"\naggregate = \"fleet\"\nfield = \"mean\"").unwrap();
        rule("kind = \"share\"\nof = \"hot\"\ngroup_by = []").unwrap();
        for (rest, remedy) in [
            (
                "kind = \"window\"\naggregate = \"flet\"\nfield = \"mean\"",
                "there are fleet",
            ),
            (
                "kind = \"window\"\naggregate = \"fleet\"\nfield = \"mean\"\nfor = \"1h\"",
                "longer ones",
            ),
            (
                "kind = \"share\"\nof = \"cold\"\ngroup_by = []",
                "no rule \"cold\"",
            ),
            ("kind = \"share\"\nof = \"hot\"", "grouped by [site]"),
        ] {
            let error = format!("{:#}", rule(rest).unwrap_err());
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn the_sample_file_is_right_and_says_the_defaults() {
        let sample = include_str!("../deploy/tidewatch.sample.toml");
        let c = check(sample, &[]).unwrap();
        assert_eq!(c.show().unwrap(), Config::default().show().unwrap());
        // Every key is in it, set or as a comment.
        let mut names = Vec::new();
        leaves(
            &Table::try_from(Config::default()).unwrap(),
            &mut Vec::new(),
            &mut names,
        );
        for (_, path) in names {
            let key = path.last().unwrap();
            assert!(
                sample.contains(&format!("{key} = ")),
                "{key} is missing in the sample"
            );
        }
    }
}
