//! The exact results that must come out in the end, added up while events are made.
//!
//! Each agent keeps the one window that its clock is in; when the clock leaves a window, its numbers
//! are merged into the shared table. Devices belong to one agent, so distinct devices just add up.
//! Sums are the processor's: each value in fixed point with 48 fractional bits, added as whole numbers,
//! so that the order never matters. Attributes (`@site`) are in no window; texts count but have no
//! number; booleans are 0 or 1.
//!
//! The file has one JSON object a line: first `{"kind":"summary",…}`, then `{"kind":"window",…}` rows
//! ordered by window length, start, group and metric. A row of the whole fleet has no `group`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use event::EventTime;
use event::aggregate::ALL_METRICS;
use serde::{Deserialize, Serialize};

use crate::device::Metric;
use crate::source::Event;

/// Fractional bits of a sum.
pub const FRACTION_BITS: u32 = 48;

const CELLS: usize = Metric::MEASURED.len() + 1;
/// The cell of all metrics together.
const ALL: usize = CELLS - 1;

/// The first line of a truth file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Always `summary`.
    pub kind: String,
    /// Events made, attributes included.
    pub events: u64,
    /// Those of them that are in windows.
    pub measured: u64,
    /// Events still un-acked at the end.
    pub outstanding: u64,
    /// Devices.
    pub devices: u32,
    /// Agents.
    pub agents: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Batches that the network delivered twice.
    pub duplicates_sent: u64,
    /// Batches sent again by the agents.
    pub resends: u64,
    /// Acks that the network swallowed.
    pub acks_lost: u64,
    /// Batches held back behind later ones.
    pub reordered: u64,
    /// Restarts of agent processes.
    pub restarts: u64,
    /// Connections cut by the scenario.
    pub outages: u64,
    /// Earliest event time.
    pub from: Option<String>,
    /// Latest event time.
    pub to: Option<String>,
}

/// One window of one metric and group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Always `window`.
    pub kind: String,
    /// Metric name, `*` for all.
    pub metric: String,
    /// Device attributes that select it; empty = the whole fleet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group: BTreeMap<String, String>,
    /// Length.
    pub window_seconds: u64,
    /// Start, RFC 3339.
    pub start: String,
    /// End (not inside), RFC 3339.
    pub end: String,
    /// Events.
    pub count: u64,
    /// Sum of their numbers; none = no event has a number.
    pub sum: Option<f64>,
    /// Smallest number.
    pub min: Option<f64>,
    /// Largest number.
    pub max: Option<f64>,
    /// Sum divided by how many have a number.
    pub mean: Option<f64>,
    /// Different devices.
    pub distinct_devices: u64,
}

/// What is known of one metric in one window.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    count: u64,
    numbers: u64,
    sum: i128,
    min: f64,
    max: f64,
    devices: u64,
}

impl Cell {
    const EMPTY: Self = Self {
        count: 0,
        numbers: 0,
        sum: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        devices: 0,
    };

    fn add(&mut self, number: Option<(f64, i128)>, new_device: bool) {
        self.count += 1;
        self.devices += u64::from(new_device);
        if let Some((value, fixed)) = number {
            self.numbers += 1;
            self.sum += fixed;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.numbers += other.numbers;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.devices += other.devices;
    }
}

/// A number in fixed point.
pub fn fixed(value: f64) -> i128 {
    (value * (1u64 << FRACTION_BITS) as f64).round() as i128
}

/// The sum of a window as a double.
pub fn float(sum: i128) -> f64 {
    sum as f64 / (1u64 << FRACTION_BITS) as f64
}

/// Window length and start in microseconds.
type WindowKey = (i64, i64);
/// 0 = the fleet, n + 1 = site n.
type Group = u32;

/// All windows so far. One for a run, shared by its agents. About 600 bytes for each window and group.
#[derive(Debug, Default)]
pub struct Table {
    windows: Mutex<BTreeMap<WindowKey, BTreeMap<Group, [Cell; CELLS]>>>,
    span: Mutex<Option<(EventTime, EventTime)>>,
}

/// One agent's part: the windows that its clock is in.
#[derive(Debug)]
pub struct Tally {
    table: Arc<Table>,
    site: u32,
    open: Vec<Open>,
    span: Option<(EventTime, EventTime)>,
    measured: u64,
}

#[derive(Debug)]
struct Open {
    length: i64,
    start: i64,
    cells: [Cell; CELLS],
    /// For each device the cells in which it has been seen, one bit each.
    seen: Vec<u8>,
}

impl Tally {
    /// The tally of an agent with `devices` devices at site number `site`.
    pub fn new(table: Arc<Table>, windows: &[Duration], site: u32, devices: usize) -> Self {
        let open = windows
            .iter()
            .map(|w| Open {
                length: w.as_micros() as i64,
                start: i64::MIN,
                cells: [Cell::EMPTY; CELLS],
                seen: vec![0; devices],
            })
            .collect();
        Self {
            table,
            site,
            open,
            span: None,
            measured: 0,
        }
    }

    /// Adds an event. Times must not go backward.
    pub fn add(&mut self, event: &Event) {
        let t = event.time;
        self.span = Some(self.span.map_or((t, t), |(from, _)| (from, t)));
        if event.metric.is_attribute() {
            return;
        }
        self.measured += 1;
        let number = match event.metric {
            Metric::State => None,
            _ => Some((event.value, fixed(event.value))),
        };
        for open in &mut self.open {
            if open.start == i64::MIN || t.0 >= open.start + open.length {
                self.table.merge(open, self.site);
                open.start = t.0.div_euclid(open.length) * open.length;
            }
            debug_assert!(t.0 >= open.start);
            let seen = &mut open.seen[event.device as usize];
            for cell in [event.metric as usize, ALL] {
                let bit = 1u8 << cell;
                open.cells[cell].add(number, *seen & bit == 0);
                *seen |= bit;
            }
        }
    }

    /// Events that are in windows.
    pub fn measured(&self) -> u64 {
        self.measured
    }

    /// Hands everything over. After this the table has all of this agent's events.
    pub fn close(&mut self) {
        for open in &mut self.open {
            self.table.merge(open, self.site);
        }
        if let Some((from, to)) = self.span.take() {
            let mut span = self
                .table
                .span
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *span = Some(span.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
        }
    }
}

impl Table {
    fn merge(&self, open: &mut Open, site: u32) {
        if open.start == i64::MIN || open.cells[ALL].count == 0 {
            return;
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = windows.entry((open.length, open.start)).or_default();
        for group in [0, site + 1] {
            let cells = groups.entry(group).or_insert([Cell::EMPTY; CELLS]);
            for (to, from) in cells.iter_mut().zip(&open.cells) {
                to.merge(from);
            }
        }
        open.cells = [Cell::EMPTY; CELLS];
        open.seen.fill(0);
        open.start = i64::MIN;
    }

    /// Earliest and latest event time.
    pub fn span(&self) -> Option<(EventTime, EventTime)> {
        *self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `take` with every row, in order. `site_name` gives a site's name.
    ///
    /// **Errors**: what `take` returns.
    pub fn rows(
        &self,
        site_name: impl Fn(u32) -> String,
        mut take: impl FnMut(Row) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for (&(length, start), groups) in windows.iter() {
            for (&group, cells) in groups {
                let site = group
                    .checked_sub(1)
                    .map(|s| ("site".to_owned(), site_name(s)));
                for (i, cell) in cells.iter().enumerate().filter(|(_, c)| c.count > 0) {
                    let has = cell.numbers > 0;
                    let sum = float(cell.sum);
                    take(Row {
                        kind: "window".to_owned(),
                        metric: Metric::MEASURED
                            .get(i)
                            .map_or(ALL_METRICS, |m| m.name())
                            .to_owned(),
                        group: site.clone().into_iter().collect(),
                        window_seconds: length as u64 / 1_000_000,
                        start: EventTime(start).to_string(),
                        end: EventTime(start + length).to_string(),
                        count: cell.count,
                        sum: has.then_some(sum),
                        min: has.then_some(cell.min),
                        max: has.then_some(cell.max),
                        mean: has.then(|| sum / cell.numbers as f64),
                        distinct_devices: cell.devices,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Writes the truth file. When this returns, the file is complete under its name; a reader never
    /// sees half of it.
    ///
    /// **Errors**: the file cannot be written.
    pub fn write(
        &self,
        path: &Path,
        summary: &Summary,
        site_name: impl Fn(u32) -> String,
    ) -> anyhow::Result<u64> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = Path::new(&part);
        let failed = || format!("writing the truth to {}", path.display());
        let file = std::fs::File::create(part).with_context(failed)?;
        let mut out = BufWriter::new(file);
        let mut rows = 0;
        write_line(&mut out, summary).with_context(failed)?;
        self.rows(site_name, |row| {
            rows += 1;
            write_line(&mut out, &row)
        })
        .with_context(failed)?;
        out.into_inner()
            .map_err(|e| e.into_error())
            .with_context(failed)?;
        std::fs::rename(part, path).with_context(failed)?;
        Ok(rows)
    }
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Reads a truth file.
///
/// **Errors**: the file cannot be read, or a line is not what it should be (with its number).
pub fn read(path: &Path) -> anyhow::Result<(Summary, Vec<Row>)> {
    use std::io::BufRead;
    let file = std::fs::File::open(path)
        .with_context(|| format!("opening the truth {}", path.display()))?;
    let mut lines = std::io::BufReader::new(file).lines().enumerate();
    let bad = |i: usize| format!("line {} of the truth {}", i + 1, path.display());
    let (_, first) = lines
        .next()
        .with_context(|| format!("{} is empty", path.display()))?;
    let summary = serde_json::from_str(&first?).with_context(|| bad(0))?;
    let mut rows = Vec::new();
    for (i, line) in lines {
        rows.push(serde_json::from_str(&line?).with_context(|| bad(i))?);
    }
    Ok((summary, rows))
}
