//! Compares what a server computed with the truth of a run: every window, every number, exactly.
//!
//! Each aggregate that the server has is compared if the truth holds the same windows: same length,
//! and grouped by nothing, by `metric`, by `site` or by both. The default aggregates `fleet` and
//! `by_metric` always are. A window that only one side has is a difference, so the server must have
//! seen nothing but the run in that time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use event::EventTime;
use event::aggregate::{ALL_METRICS, METRIC_ATTRIBUTE};
use serde::Deserialize;

use crate::http::Base;
use crate::truth::{self, Row};

/// Rows of one page.
const PAGE: usize = 1000;
/// Most rows that are read of one aggregate.
const ROWS_MAX: usize = 50_000_000;
/// Most differences that are kept and shown.
pub const SHOWN_MAX: usize = 50;

/// What a comparison found. `Display` is a report for people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// For each aggregate that was compared, how many windows were equal.
    pub equal: BTreeMap<String, u64>,
    /// Aggregates of the server that the truth says nothing about.
    pub skipped: Vec<String>,
    /// How many windows differ.
    pub differences: u64,
    /// The first of them, at most [`SHOWN_MAX`].
    pub shown: Vec<String>,
}

impl Comparison {
    /// Whether something was compared and nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences == 0 && self.equal.values().any(|&n| n > 0)
    }

    fn differs(&mut self, text: impl FnOnce() -> String) {
        self.differences += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(text());
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.shown {
            writeln!(f, "{line}")?;
        }
        let hidden = self.differences.saturating_sub(self.shown.len() as u64);
        if hidden > 0 {
            writeln!(f, "… and {hidden} more")?;
        }
        for (aggregate, equal) in &self.equal {
            writeln!(f, "{aggregate}: {equal} windows equal")?;
        }
        for aggregate in &self.skipped {
            writeln!(f, "{aggregate}: not in the truth, skipped")?;
        }
        write!(f, "{} differences", self.differences)
    }
}

/// Compares the server at `url` (`http://host:port`) with a truth file. As long as they differ and
/// `patience` is not over, it waits and asks again: the last events may still be on their way.
///
/// `aggregates`: only these; empty = all that the truth knows.
///
/// **Errors**: the file or the server cannot be read, or an aggregate does not exist.
pub async fn verify(
    file: &Path,
    url: &str,
    aggregates: &[String],
    patience: Duration,
) -> anyhow::Result<Comparison> {
    let (_, rows) = truth::read(file)?;
    ensure!(
        !rows.is_empty(),
        "the truth {} has no windows",
        file.display()
    );
    let base = Base::parse(url)?;
    let give_up = tokio::time::Instant::now() + patience;
    loop {
        let result = compare(&rows, &base, aggregates).await;
        let is_last = tokio::time::Instant::now() >= give_up;
        match result {
            Ok(c) if c.is_equal() || is_last => return Ok(c),
            Err(e) if is_last => return Err(e),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(default)]
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Aggregate {
    name: String,
    metric: String,
    #[serde(default)]
    group_by: Vec<String>,
    window_seconds: u64,
}

/// A row as the server shows it; only what is compared.
#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(default)]
    group: BTreeMap<String, Option<String>>,
    start: String,
    count: u64,
    sum: Option<f64>,
    mean: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    distinct_devices: u64,
}

/// Start and group, where the metric is one of the group's keys.
type Key = (String, BTreeMap<String, String>);

async fn compare(truth: &[Row], base: &Base, aggregates: &[String]) -> anyhow::Result<Comparison> {
    let all: Page<Aggregate> = base.get("/api/v1/aggregates").await?;
    for name in aggregates {
        if !all.items.iter().any(|a| a.name == *name) {
            bail!("the server has no aggregate {name:?}");
        }
    }
    let mut result = Comparison::default();
    for a in all
        .items
        .iter()
        .filter(|a| aggregates.is_empty() || aggregates.contains(&a.name))
    {
        let expected = expected(truth, a);
        if expected.is_empty() {
            result.skipped.push(a.name.clone());
            continue;
        }
        let shown = fetch(base, a, &expected).await?;
        compare_aggregate(&a.name, expected, shown, &mut result)?;
    }
    Ok(result)
}

/// The truth of one aggregate. Empty if the truth has no such windows or groups.
fn expected<'a>(truth: &'a [Row], a: &Aggregate) -> BTreeMap<Key, &'a Row> {
    let by_metric = a.group_by.iter().any(|g| g == METRIC_ATTRIBUTE);
    let attributes: Vec<&String> = a
        .group_by
        .iter()
        .filter(|g| *g != METRIC_ATTRIBUTE)
        .collect();
    truth
        .iter()
        .filter(|row| row.window_seconds == a.window_seconds)
        .filter(|row| row.group.len() == attributes.len())
        .filter(|row| attributes.iter().all(|&g| row.group.contains_key(g)))
        .filter(|row| match (by_metric, a.metric.as_str()) {
            (true, ALL_METRICS) => row.metric != ALL_METRICS,
            (_, metric) => row.metric == metric,
        })
        .map(|row| {
            let mut group = row.group.clone();
            if by_metric {
                group.insert(METRIC_ATTRIBUTE.to_owned(), row.metric.clone());
            }
            ((row.start.clone(), group), row)
        })
        .collect()
}

async fn fetch(
    base: &Base,
    a: &Aggregate,
    expected: &BTreeMap<Key, &Row>,
) -> anyhow::Result<Vec<Shown>> {
    let starts = expected.values().map(|row| &row.start);
    let from = starts.clone().min().context("no windows")?;
    let to = expected
        .values()
        .map(|row| &row.end)
        .max()
        .context("no windows")?;
    let mut rows = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut path = format!(
            "/api/v1/windows?aggregate={}&from={}&to={}&limit={PAGE}",
            escape(&a.name),
            escape(from),
            escape(to)
        );
        if let Some(after) = &after {
            path.push_str("&after=");
            path.push_str(&escape(after));
        }
        let page: Page<Shown> = base.get(&path).await?;
        rows.extend(page.items);
        ensure!(
            rows.len() <= ROWS_MAX,
            "more than {ROWS_MAX} rows of {:?}",
            a.name
        );
        match page.next {
            Some(next) if Some(&next) != after.as_ref() => after = Some(next),
            Some(_) => bail!("the server repeats the page of {:?}", a.name),
            None => return Ok(rows),
        }
    }
}

fn compare_aggregate(
    name: &str,
    mut expected: BTreeMap<Key, &Row>,
    shown: Vec<Shown>,
    result: &mut Comparison,
) -> anyhow::Result<()> {
    let mut equal = 0;
    for row in shown {
        let start = EventTime::parse_rfc3339(&row.start)
            .with_context(|| format!("the server's start {:?}", row.start))?
            .to_string();
        let group: BTreeMap<String, String> = row
            .group
            .iter()
            .map(|(k, v)| (k.clone(), v.clone().unwrap_or_default()))
            .collect();
        let label = || format!("{name} {start} {}", show_group(&group));
        match expected.remove(&(start.clone(), group.clone())) {
            // A window in which devices were expected and nothing came.
            None if row.count == 0 => {}
            None => result.differs(|| format!("{}: only the server has it: {row:?}", label())),
            Some(truth) => match difference(truth, &row) {
                None => equal += 1,
                Some(text) => result.differs(|| format!("{}: {text}", label())),
            },
        }
    }
    for ((start, group), truth) in expected {
        let group = show_group(&group);
        let count = truth.count;
        result.differs(|| format!("{name} {start} {group}: missing, {count} events expected"));
    }
    *result.equal.entry(name.to_owned()).or_default() += equal;
    Ok(())
}

/// What differs, as `field truth → server`.
fn difference(truth: &Row, row: &Shown) -> Option<String> {
    let mut parts = Vec::new();
    let whole = [
        ("count", truth.count, row.count),
        (
            "distinct_devices",
            truth.distinct_devices,
            row.distinct_devices,
        ),
    ];
    for (field, expected, found) in whole {
        if expected != found {
            parts.push(format!("{field} {expected} → {found}"));
        }
    }
    // No numbers: the server may show the sum as 0 or as nothing.
    let sum = if truth.sum.is_none() && row.sum == Some(0.0) {
        None
    } else {
        row.sum
    };
    let numbers = [
        ("sum", truth.sum, sum),
        ("mean", truth.mean, row.mean),
        ("min", truth.min, row.min),
        ("max", truth.max, row.max),
    ];
    for (field, expected, found) in numbers {
        // Equal as numbers: -0 and 0 are.
        if expected != found {
            parts.push(format!("{field} {} → {}", show(expected), show(found)));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn show(value: Option<f64>) -> String {
    value.map_or_else(|| "none".to_owned(), |v| v.to_string())
}

fn show_group(group: &BTreeMap<String, String>) -> String {
    let parts: Vec<String> = group.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if parts.is_empty() {
        "all".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Escapes a value of a query string.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(b as char)
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn row(metric: &str, site: Option<&str>, start: &str, count: u64, sum: Option<f64>) -> Row {
        let start = EventTime::parse_rfc3339(start).unwrap();
        Row {
            kind: "window".to_owned(),
            metric: metric.to_owned(),
            group: site
                .map(|s| ("site".to_owned(), s.to_owned()))
                .into_iter()
                .collect(),
            window_seconds: 10,
            start: start.to_string(),
            end: EventTime(start.0 + 10_000_000).to_string(),
            count,
            sum,
            min: sum,
            max: sum,
            mean: sum,
            distinct_devices: 1,
        }
    }

    fn answer(row: &Row, with_metric: bool) -> serde_json::Value {
        let group = match with_metric {
            true => serde_json::json!({ "metric": row.metric }),
            false => serde_json::json!({}),
        };
        serde_json::json!({
            "aggregate": "x", "group": group, "start": row.start, "end": row.end, "state": "settled",
            "revision": 1, "count": row.count, "sum": row.sum, "mean": row.mean, "min": row.min,
            "max": row.max, "distinct_devices": row.distinct_devices, "expected": 1
        })
    }

    /// Serves two aggregates, one row a page.
    async fn server(fleet: Vec<Row>, by_metric: Vec<Row>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let n = socket.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..n]).into_owned();
                let path = line.split(' ').nth(1).unwrap_or_default();
                let body = if path == "/api/v1/aggregates" {
                    serde_json::json!({"items": [
                        {"name": "fleet", "metric": "*", "group_by": [], "window_seconds": 10},
                        {"name": "by_metric", "metric": "*", "group_by": ["metric"], "window_seconds": 10},
                        {"name": "hourly", "metric": "*", "group_by": [], "window_seconds": 3600},
                    ]})
                } else {
                    let is_metric = path.contains("aggregate=by_metric");
                    let rows = if is_metric { &by_metric } else { &fleet };
                    let after = path
                        .split("after=")
                        .nth(1)
                        .map_or(0, |n| n.parse().unwrap());
                    let items: Vec<_> = rows
                        .iter()
                        .skip(after)
                        .take(1)
                        .map(|r| answer(r, is_metric))
                        .collect();
                    let next = (after + 1 < rows.len()).then(|| (after + 1).to_string());
                    serde_json::json!({ "items": items, "next": next })
                };
                let body = body.to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                socket.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        url
    }

    const A: &str = "2026-11-22T06:37:10Z";
    const B: &str = "2026-11-22T06:37:20Z";

    fn rows() -> (Vec<Row>, Vec<Row>) {
        (
            vec![row("*", None, A, 3, Some(0.1)), row("*", None, B, 1, None)],
            vec![
                row("temperature", None, A, 3, Some(0.1)),
                row("state", None, B, 1, None),
            ],
        )
    }

    async fn check(truth: Vec<Row>, server_rows: (Vec<Row>, Vec<Row>)) -> Comparison {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut text = serde_json::json!({
            "kind": "summary", "events": 4, "measured": 4, "outstanding": 0, "devices": 1, "agents": 1,
            "seed": 1, "duplicates_sent": 0, "resends": 0, "acks_lost": 0, "reordered": 0,
            "restarts": 0, "outages": 0, "from": A, "to": B
        })
        .to_string();
        for r in truth {
            text.push('\n');
            text.push_str(&serde_json::to_string(&r).unwrap());
        }
        std::fs::write(file.path(), text).unwrap();
        let url = server(server_rows.0, server_rows.1).await;
        verify(file.path(), &url, &[], Duration::ZERO)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn equal_results_are_equal_over_pages() {
        let (fleet, by_metric) = rows();
        let site = row("temperature", Some("site-01"), A, 3, Some(0.1));
        let truth = [fleet.clone(), by_metric.clone(), vec![site]].concat();
        let c = check(truth, (fleet, by_metric)).await;
        assert!(c.is_equal(), "{c}");
        assert_eq!((c.equal["fleet"], c.equal["by_metric"]), (2, 2));
        assert_eq!(c.skipped, ["hourly"]);
    }

    #[tokio::test]
    async fn every_kind_of_difference_is_named() {
        let (mut fleet, mut by_metric) = rows();
        let truth = [fleet.clone(), by_metric.clone()].concat();
        fleet[0].count = 4;
        fleet[0].mean = Some(0.1 + f64::EPSILON);
        by_metric.remove(0);
        by_metric.push(row("vibration", None, B, 9, None));
        let c = check(truth, (fleet, by_metric)).await;
        assert!(!c.is_equal());
        assert_eq!(c.differences, 3, "{c}");
        let text = c.to_string();
        for word in [
            "count 3 → 4, mean 0.1 → 0.1000",
            "missing, 3 events",
            "only the server has it",
        ] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(
            escape("2026-01-01T00:00:00Z&a=+"),
            "2026-01-01T00%3A00%3A00Z%26a%3D%2B"
        );
    }
}
