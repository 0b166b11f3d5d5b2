//! What must come out, from elsewhere, beside what the server says.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::harness::{Server, command, run, settle};

/// Differences that a failure shows.
const SHOWN: usize = 12;

/// Start and metric (`*` = all together) of a window.
pub type Key = (String, String);

/// What a window says, in the form in which it is compared: numbers bit for bit, but for the sign of 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub count: u64,
    pub sum: Option<f64>,
    pub mean: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub distinct_devices: u64,
}

impl Cell {
    fn read(row: &Value) -> Self {
        let whole = |name: &str| {
            row[name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {name} in {row}"))
        };
        let number = |name: &str| row[name].as_f64();
        Self {
            count: whole("count"),
            sum: number("sum"),
            mean: number("mean"),
            min: number("min"),
            max: number("max"),
            distinct_devices: whole("distinct_devices"),
        }
    }
}

/// Windows of one length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows(pub BTreeMap<Key, Cell>);

impl Windows {
    /// Only those of all metrics together, or only those of single ones.
    pub fn of_all(&self, together: bool) -> Self {
        let keep = self.0.iter().filter(|(key, _)| (key.1 == "*") == together);
        Self(keep.map(|(k, c)| (k.clone(), c.clone())).collect())
    }

    /// Both; no window may be in both.
    #[track_caller]
    pub fn with(mut self, other: &Self) -> Self {
        for (key, cell) in &other.0 {
            let old = self.0.insert(key.clone(), cell.clone());
            assert!(old.is_none(), "{key:?} is in two truths");
        }
        self
    }

    /// Events in the windows of single metrics.
    pub fn events(&self) -> u64 {
        self.of_all(false).0.values().map(|c| c.count).sum()
    }

    /// What differs, as a text.
    ///
    /// **Errors**: there is a difference.
    pub fn equals(&self, expected: &Self) -> Result<(), String> {
        let mut lines = Vec::new();
        for (key, want) in &expected.0 {
            match self.0.get(key) {
                None => lines.push(format!("{key:?}: missing, expected {want:?}")),
                Some(got) if got != want => {
                    lines.push(format!("{key:?}: {got:?}, expected {want:?}"));
                }
                Some(_) => {}
            }
        }
        let more = self.0.iter().filter(|(k, _)| !expected.0.contains_key(*k));
        lines.extend(more.map(|(key, got)| format!("{key:?}: {got:?}, expected nothing")));
        if lines.is_empty() {
            return Ok(());
        }
        let differences = lines.len();
        lines.truncate(SHOWN);
        Err(format!(
            "{differences} of {} windows differ:\n{}",
            expected.0.len(),
            lines.join("\n")
        ))
    }
}

/// What the script makes of a CSV file, by window length in seconds. It also writes the rows as JSON
/// messages into the folder `messages`, a file per device.
#[track_caller]
pub fn of_csv(
    file: &Path,
    device: &str,
    time: &str,
    lengths: &[u64],
    messages: &Path,
) -> BTreeMap<u64, Windows> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/windows.py");
    let mut python = command("python3");
    python.arg(script).arg(file);
    python.args(["--device", device, "--time", time]);
    for length in lengths {
        python.arg("--window").arg(length.to_string());
    }
    python.arg("--messages").arg(messages);
    let said = run(&mut python);
    assert_eq!(said.code, Some(0), "the oracle failed: {}", said.err);
    rows(&said.out)
}

/// Reads rows of the oracle, or of a truth file of the simulator (those of the whole fleet).
#[track_caller]
pub fn rows(text: &str) -> BTreeMap<u64, Windows> {
    let mut all = BTreeMap::<u64, Windows>::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("a row is JSON");
        if row["kind"] == "summary" || row.get("group").is_some() {
            continue;
        }
        let length = row["window_seconds"].as_u64().expect("a length");
        let word = |name: &str| row[name].as_str().expect("a text").to_owned();
        let windows = all.entry(length).or_default();
        let old = windows
            .0
            .insert((word("start"), word("metric")), Cell::read(&row));
        assert!(old.is_none(), "twice: {line}");
    }
    all
}

/// Every window of an aggregate of the server that has events. It must be grouped by nothing or by
/// `metric`.
#[track_caller]
pub fn of_server(server: &Server, aggregate: &str) -> Windows {
    let mut all = Windows::default();
    let mut after = String::new();
    loop {
        let page = server.http(&format!(
            "/api/v1/windows?aggregate={aggregate}&from=2000-01-01T00:00:00Z\
             &to=2100-01-01T00:00:00Z&limit=1000{after}"
        ));
        for row in page["items"].as_array().expect("items") {
            if row["count"] == 0 {
                continue;
            }
            let start = row["start"].as_str().expect("a start").to_owned();
            let metric = row["group"]["metric"].as_str().unwrap_or("*").to_owned();
            let key = (start, metric);
            assert!(!all.0.contains_key(&key), "{key:?} comes twice");
            all.0.insert(key, Cell::read(row));
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", escape(next)),
            None => return all,
        }
    }
}

/// Escapes a value of a query string.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Waits until the windows of an aggregate are exactly these.
#[track_caller]
pub fn expect(server: &Server, aggregate: &str, expected: &Windows) {
    assert!(!expected.0.is_empty(), "nothing is expected of {aggregate}");
    settle(&format!("aggregate {aggregate}"), || {
        of_server(server, aggregate).equals(expected)
    });
}

/// Waits until so many events are counted, and checks that the ledger adds up, with nothing set aside.
#[track_caller]
pub fn expect_ledger(server: &Server, counted: u64) {
    settle("the ledger", || {
        let t = server.http("/api/v1/overview")["totals"].clone();
        let n = |name: &str| t[name].as_u64().expect("a total");
        let aside = n("duplicate") + n("quarantined") + n("too_old");
        match n("accepted") == n("counted") + aside
            && n("counted") == counted
            && n("quarantined") + n("too_old") == 0
        {
            true => Ok(()),
            false => Err(format!("{counted} events were made: {t}")),
        }
    });
}
