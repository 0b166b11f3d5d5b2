//! Rules over recorded data: `tidewatch rules test` and `POST /api/v1/rules/test`.
//!
//! The data is a file (CSV or JSON lines), the log of a stopped server, or the log of a running one. In a log
//! every event counts once, by its number; times of devices without a clock are as they were sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use dashboard::control::{ControlError, RuleTest, Tested, TestedEpisode};
use event::{Columns, EventTime, Record, RecordRef, Value};
use eventlog::{Log, PartitionId};
use processor::core::backtest::{Backtest, Found, Recorded, Report};
use rules::{Kind, Rule};
use views::model::Time;

/// Bytes of the log read at once.
const READ_BYTES: usize = 4 << 20;
/// Longest line of a file.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Longest file of a rule.
const RULE_BYTES_MAX: u64 = 64 << 10;

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Event times from here on, microseconds.
    pub from: Option<i64>,
    /// Event times before this.
    pub to: Option<i64>,
    /// Only this device.
    pub device: Option<String>,
}

impl Wanted {
    fn has(&self, device: &str, time: i64) -> bool {
        self.from.is_none_or(|from| time >= from)
            && self.to.is_none_or(|to| time < to)
            && self.device.as_ref().is_none_or(|d| d == device)
    }
}

/// Whether recorded values say anything to the rule.
fn check(rule: &Rule) -> Result<(), String> {
    match rule.kind {
        Kind::Window(_) | Kind::Share(_) => Err(format!(
            "rules of the kind {:?} look at groups of devices, not at the values of one",
            rule.kind.name()
        )),
        Kind::Offline(_) => {
            Err("rules of the kind \"offline\" look at messages, not at values".to_owned())
        }
        _ => Ok(()),
    }
}

/// Runs the rule over a log, from its first record on. Attributes of `match` are those that the log has of a
/// device at the end.
///
/// **Errors**: the log cannot be read.
pub fn over_log(log: &Log, rule: Rule, wanted: &Wanted) -> anyhow::Result<Report> {
    let only_on = rule.only_on.clone();
    let mut gatherer = Gatherer {
        test: Backtest::new(rule),
        wanted,
        attributes: BTreeMap::new(),
        columns: Columns::default(),
        names: &only_on.keys().map(|n| format!("@{n}")).collect::<Vec<_>>(),
    };
    'all: for number in 0..log.partitions() {
        let partition = PartitionId(number);
        let (mut at, end) = (log.first(partition), log.end(partition));
        while at < end {
            let blocks = log
                .read(partition, at, READ_BYTES)
                .with_context(|| format!("failed to read partition {number} at {at}"))?;
            if blocks.is_empty() {
                break;
            }
            for block in blocks {
                for (i, record) in block.records.iter().enumerate() {
                    let place = u128::from(number) << 64 | u128::from(block.first.0 + i as u64);
                    if !gatherer.record(record, block.ingest_time, place) {
                        break 'all;
                    }
                }
                at = block.end();
            }
        }
    }
    let Gatherer {
        mut test,
        attributes,
        ..
    } = gatherer;
    test.retain(|device| {
        only_on.iter().all(|(name, text)| {
            let held = attributes.get(&(device.to_owned(), format!("@{name}")));
            held.is_some_and(|h| h.1 == *text)
        })
    });
    Ok(test.run())
}

/// Picks what matters out of records.
struct Gatherer<'a> {
    test: Backtest,
    wanted: &'a Wanted,
    /// Newest values of the attributes that decide, by (device, name with `@`).
    attributes: BTreeMap<(String, String), (i64, String)>,
    columns: Columns,
    names: &'a [String],
}

impl Gatherer<'_> {
    /// False: there is no room for more.
    fn record(&mut self, bytes: &[u8], ingest: i64, place: u128) -> bool {
        // What does not decode is quarantined by the processor, and counts nowhere.
        match RecordRef::decode(bytes) {
            Ok(RecordRef::Batch(raw)) => self.batch(raw),
            Ok(RecordRef::Other(Record::Plain(plain))) => {
                let mut samples = plain.samples.iter();
                samples.all(|sample| {
                    let time = sample.time.map_or(ingest, EventTime::as_micros);
                    let device = plain.device.as_str();
                    self.value(device, sample.metric.as_str(), time, place, &sample.value)
                })
            }
            _ => true,
        }
    }

    fn batch(&mut self, raw: &[u8]) -> bool {
        let Ok((header, body)) = event::batch::peek(raw) else {
            return true;
        };
        let mut columns = std::mem::take(&mut self.columns);
        let mut fits = true;
        if body.decode_into(&mut columns).is_ok() {
            let life = u128::from(header.e_inc.rand) << 64;
            for i in 0..columns.len() {
                let series = columns.series[columns.series_of[i] as usize];
                let metric = columns.metrics.get(series.metric);
                if metric != self.test.rule().metric && !self.names.iter().any(|n| n == metric) {
                    continue;
                }
                let value = match columns.values[i] {
                    event::Cell::Number(n) => Value::Number(n),
                    event::Cell::Bool(b) => Value::Bool(b),
                    event::Cell::Text(text) => Value::Text(columns.texts.get(text).into()),
                };
                let device = columns.devices.get(series.device);
                let rank = life | u128::from(header.first_seq.saturating_add(i as u64));
                fits &= self.value(device, metric, columns.times[i], rank, &value);
            }
        }
        self.columns = columns;
        fits
    }

    fn value(&mut self, device: &str, metric: &str, time: i64, rank: u128, value: &Value) -> bool {
        if metric.starts_with('@') {
            if let Value::Text(text) = value
                && self.names.iter().any(|n| n == metric)
            {
                let key = (device.to_owned(), metric.to_owned());
                let held = self
                    .attributes
                    .entry(key)
                    .or_insert((i64::MIN, String::new()));
                if time >= held.0 {
                    *held = (time, text.to_string());
                }
            }
            return true;
        }
        if metric != self.test.rule().metric || !self.wanted.has(device, time) {
            return true;
        }
        let value = match value {
            Value::Number(n) => Some(*n),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Text(_) => None,
        };
        self.test.take(device, Recorded { time, rank, value })
    }
}

/// Runs a rule over the log of a running server.
///
/// **Errors**: as a change: the field that is wrong, or that the log cannot be read.
pub fn answer(log: &Log, test: &RuleTest) -> Result<Tested, ControlError> {
    let invalid = |field: &str, message: String| ControlError::Invalid {
        field: field.to_owned(),
        message,
    };
    let rule = Rule::from_value(&test.rule).map_err(|e| invalid(&e.field, e.message))?;
    check(&rule).map_err(|message| invalid("kind", message))?;
    let metric = rule.metric.clone();
    let wanted = Wanted {
        from: test.from,
        to: test.to,
        device: test.device.clone(),
    };
    let report = over_log(log, rule, &wanted).map_err(|error| {
        tracing::error!("failed to test a rule: {error:#}");
        ControlError::Unavailable("the log could not be read; see the server's log".to_owned())
    })?;
    let episode = |found: Found| TestedEpisode {
        device: found.device,
        metric: metric.clone(),
        began: Time(found.began),
        ended: found.ended.map(Time),
        would_have_paged: found.would_have_paged,
        peak: found.peak,
    };
    Ok(Tested {
        total: report.total,
        would_have_paged: report.would_have_paged,
        devices: report.devices,
        values: report.values,
        cut: report.cut,
        episodes: report.episodes.into_iter().map(episode).collect(),
    })
}

/// Arguments of `tidewatch rules test`.
#[derive(clap::Args)]
pub struct Args {
    /// The rule: a file in JSON, or in TOML as a table of [[rules]]
    #[arg(value_name = "FILE")]
    rule: std::path::PathBuf,
    /// Recorded values: CSV with the header device,metric,timestamp,value, or JSON lines with these keys; `-` is
    /// stdin
    #[arg(long, value_name = "FILE", required_unless_present = "data")]
    input: Option<std::path::PathBuf>,
    /// The data folder of a stopped server: the log that it kept
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    data: Option<std::path::PathBuf>,
    /// Only this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

/// Lists the episodes as lines of CSV.
///
/// **Errors**: a file that cannot be read or is wrong, with the line.
pub fn run(args: &Args) -> anyhow::Result<String> {
    use std::fmt::Write;

    let rule = read_rule(&args.rule)?;
    check(&rule).map_err(|m| anyhow::anyhow!("rule {:?}: kind: {m}", rule.name))?;
    let wanted = Wanted {
        device: args.device.clone(),
        ..Wanted::default()
    };
    let metric = rule.metric.clone();
    let report = match (&args.data, &args.input) {
        (Some(data), _) => {
            let log = crate::inspect::open(data)?;
            over_log(&log, rule, &wanted)?
        }
        (None, Some(input)) if input.as_os_str() == "-" => {
            over_lines(std::io::stdin().lock(), rule, &wanted).context("in stdin")?
        }
        (None, Some(input)) => {
            let shown = input.display();
            let file =
                std::fs::File::open(input).with_context(|| format!("failed to open {shown}"))?;
            over_lines(BufReader::new(file), rule, &wanted)
                .with_context(|| format!("in {shown}"))?
        }
        (None, None) => bail!("give --input FILE or --data DIR"),
    };
    let mut out = "device,metric,began,ended,would_have_paged,peak\n".to_owned();
    for e in &report.episodes {
        let ended = e.ended.map(|t| Time(t).to_string()).unwrap_or_default();
        let (began, paged) = (Time(e.began), e.would_have_paged);
        writeln!(
            out,
            "{},{metric},{began},{ended},{paged},{}",
            e.device, e.peak
        )?;
    }
    writeln!(
        out,
        "# {} episodes, {} would have paged; {} values of {} devices{}",
        report.total,
        report.would_have_paged,
        report.values,
        report.devices,
        if report.cut {
            ", more were not looked at"
        } else {
            ""
        }
    )?;
    Ok(out)
}

fn read_rule(path: &Path) -> anyhow::Result<Rule> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .with_context(|| format!("failed to read {shown}"))?
        .len();
    ensure!(
        size <= RULE_BYTES_MAX,
        "{shown} has {size} bytes, more than {RULE_BYTES_MAX}"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {shown}"))?;
    let parsed = match text.trim_start().starts_with('{') {
        true => Rule::parse(&text),
        false => {
            let table: toml::Table = text
                .parse()
                .with_context(|| format!("{shown} is neither JSON nor TOML"))?;
            let rules = table.get("rules").and_then(toml::Value::as_array);
            let rule = match rules {
                Some(rules) => {
                    ensure!(
                        rules.len() == 1,
                        "{shown} has {} rules; give one",
                        rules.len()
                    );
                    rules[0].clone()
                }
                None => toml::Value::Table(table),
            };
            Rule::from_value(&serde_json::to_value(rule)?)
        }
    };
    parsed.with_context(|| format!("in {shown}"))
}

/// Runs a rule over lines.
fn over_lines(mut input: impl BufRead, rule: Rule, wanted: &Wanted) -> anyhow::Result<Report> {
    let mut test = Backtest::new(rule);
    let (mut line, mut number, mut csv) = (String::new(), 0u64, None);
    loop {
        line.clear();
        let read = input.by_ref_take(LINE_BYTES_MAX).read_line(&mut line)?;
        if read == 0 {
            break;
        }
        number += 1;
        ensure!(
            read as u64 <= LINE_BYTES_MAX,
            "line {number} is longer than {LINE_BYTES_MAX} bytes"
        );
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let is_csv = *csv.get_or_insert(!text.starts_with('{'));
        if is_csv && number == 1 {
            ensure!(
                text.eq_ignore_ascii_case("device,metric,timestamp,value"),
                "line 1: the header must be device,metric,timestamp,value"
            );
            continue;
        }
        let row = if is_csv {
            csv_row(text)
        } else {
            json_row(text)
        };
        let row = row.map_err(|e| anyhow::anyhow!("line {number}: {e}"))?;
        if row.metric != test.rule().metric || !wanted.has(&row.device, row.time) {
            continue;
        }
        let recorded = Recorded {
            time: row.time,
            rank: u128::from(number),
            value: row.value,
        };
        if !test.take(&row.device, recorded) {
            break;
        }
    }
    Ok(test.run())
}

trait Limited: BufRead + Sized {
    /// At most one byte more than `max`, so that a longer line shows.
    fn by_ref_take(&mut self, max: u64) -> std::io::Take<&mut Self> {
        std::io::Read::take(self, max + 1)
    }
}

impl<T: BufRead> Limited for T {}

struct Row {
    device: String,
    metric: String,
    time: i64,
    value: Option<f64>,
}

fn csv_row(line: &str) -> Result<Row, String> {
    let cells: Vec<&str> = line
        .split(',')
        .map(|c| c.trim().trim_matches('"'))
        .collect();
    let [device, metric, time, value] = cells[..] else {
        return Err(format!(
            "{} cells, there must be 4: device,metric,timestamp,value",
            cells.len()
        ));
    };
    Ok(Row {
        device: device.to_owned(),
        metric: metric.to_owned(),
        time: timestamp(time)?,
        value: match value {
            "true" => Some(1.0),
            "false" => Some(0.0),
            value => value.parse().ok().filter(|v: &f64| v.is_finite()),
        },
    })
}

fn json_row(line: &str) -> Result<Row, String> {
    let row: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let text = |key: &str| {
        let text = row[key].as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{key}: must be a text in quotes"))
    };
    let time = match &row["timestamp"] {
        serde_json::Value::String(text) => timestamp(text)?,
        serde_json::Value::Number(n) => timestamp(&n.to_string())?,
        _ => return Err("timestamp: must be RFC 3339, or a number of milliseconds".to_owned()),
    };
    Ok(Row {
        device: text("device")?,
        metric: text("metric")?,
        time,
        value: match &row["value"] {
            serde_json::Value::Bool(b) => Some(f64::from(u8::from(*b))),
            value => value.as_f64(),
        },
    })
}

/// RFC 3339, or whole milliseconds.
fn timestamp(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        let micros = ms.checked_mul(1000);
        return micros.ok_or_else(|| format!("timestamp: {text} is too far away"));
    }
    EventTime::parse_rfc3339(text)
        .map(EventTime::as_micros)
        .map_err(|_| {
            format!("timestamp: {text:?} is neither RFC 3339 nor a number of milliseconds")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: &str = r#"{"name":"hot","metric":"t","raise":80,"clear":75}"#;

    fn over(text: &str) -> anyhow::Result<Report> {
        over_lines(text.as_bytes(), Rule::parse(HOT)?, &Wanted::default())
    }

    #[test]
    fn rules_that_no_value_steps_are_refused() {
        for rule in [
            r#"{"name":"x","kind":"offline","after":"1m"}"#,
            r#"{"name":"x","kind":"window","aggregate":"fleet","field":"count","raise":1}"#,
            r#"{"name":"x","kind":"share","of":"hot","raise":0.5}"#,
        ] {
            let rule = Rule::parse(rule).unwrap();
            let why = check(&rule).unwrap_err();
            assert!(why.contains(rule.kind.name()), "{why}");
        }
    }

    #[test]
    fn csv_and_json_lines_say_the_same() {
        let csv = "device,metric,timestamp,value\n\
                   d1,t,1700000000000,85\n\
                   d1,other,1700000001000,99\n\
                   d1,t,2023-11-14T22:13:30Z,20\n";
        let json = r#"{"device":"d1","metric":"t","timestamp":1700000000000,"value":85}
            {"device":"d1","metric":"t","timestamp":"2023-11-14T22:13:30Z","value":20}"#;
        let report = over(csv).unwrap();
        assert_eq!(report, over(json).unwrap());
        assert_eq!(report.values, 2);
        let [episode] = report.episodes.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(episode.began, 1_700_000_000_000_000);
        assert_eq!(episode.ended, Some(1_700_000_010_000_000));
        assert!(episode.would_have_paged && episode.peak == 85.0);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("device,value\n", "line 1: the header"),
            ("device,metric,timestamp,value\nd,t,5\n", "line 2: 3 cells"),
            (
                "device,metric,timestamp,value\nd,t,soon,5\n",
                "line 2: timestamp",
            ),
            ("{\"device\":5}\n", "line 1: "),
            ("{\n", "line 1: "),
        ] {
            let error = over(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let long = format!("device,metric,timestamp,value\n{}\n", "x".repeat(70_000));
        assert!(over(&long).unwrap_err().to_string().contains("line 2"));
    }

    #[tokio::test]
    async fn a_log_is_read_with_every_event_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings = eventlog::Settings {
            partitions: 2,
            ..eventlog::Settings::default()
        };
        let clock = || std::sync::Arc::new(|| 1_700_000_100_000_000);
        let log = Log::open(dir.path(), settings, clock()).unwrap();
        let plain = |device: &str, metric: &str, second: i64, value: Value| {
            let sample = event::PlainSample {
                metric: event::MetricName::new(metric).unwrap(),
                time: Some(EventTime((1_700_000_000 + second) * 1_000_000)),
                value,
            };
            let plain = event::Plain {
                device: event::DeviceId::new(device).unwrap(),
                samples: vec![sample],
            };
            bytes::Bytes::from(Record::Plain(plain).encode())
        };
        let records = vec![
            plain("d1", "t", 0, Value::Number(85.0)),
            plain("d1", "@site", 0, Value::Text("s1".into())),
            plain("d2", "t", 0, Value::Number(85.0)),
        ];
        log.append(PartitionId(1), records).await.unwrap();
        let ask = |rule: serde_json::Value| RuleTest {
            rule,
            from: None,
            to: None,
            device: None,
        };
        let rule: serde_json::Value = serde_json::from_str(HOT).unwrap();
        let answered = answer(&log, &ask(rule.clone())).unwrap();
        assert_eq!((answered.total, answered.devices), (2, 2));
        let mut only = rule.clone();
        only["match"] = serde_json::json!({"site": "s1"});
        let answered = answer(&log, &ask(only)).unwrap();
        assert_eq!(answered.episodes[0].device, "d1");
        assert_eq!(answered.total, 1);
        let late = RuleTest {
            from: Some(1_700_000_001_000_000),
            ..ask(rule.clone())
        };
        assert_eq!(answer(&log, &late).unwrap().values, 0);
        let mut wrong = rule;
        wrong["raise"] = "x".into();
        let error = answer(&log, &ask(wrong)).unwrap_err();
        assert!(matches!(error, ControlError::Invalid { field, .. } if field == "raise"));
        log.close();
    }
}
