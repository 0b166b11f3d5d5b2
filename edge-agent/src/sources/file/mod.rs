//! Replay of a file of rows, with its own times or as if it happened now.
//!
//! The cursor (byte, line and row behind the last stored row) is stored in the same transaction as
//! the rows' samples: after any crash the replay resumes exactly behind them. A file that changed at
//! its beginning is replayed anew.

mod csv;
mod jsonl;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use event::EventTime;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

// Of the file's first line: enough to notice another file under the same name.
use super::hash::fnv1a as fingerprint;
use super::{Counts, Feed, Mapping, Unreadable};
use crate::inbox::{Position, Reading};

/// Samples handed on at once.
const GROUP: usize = 1000;
/// A file that cannot be read is tried again after this time, unless the agent is to end with it.
const RETRY: Duration = Duration::from_secs(10);
/// Pacing slower than this is not worth a sleep.
const PACE_MIN: Duration = Duration::from_millis(1);

/// The form of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Separated values.
    Csv,
    /// One JSON object (or array of objects) a line.
    Jsonl,
}

/// Which times the events carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timestamps {
    /// Those of the file.
    #[default]
    Own,
    /// The file's, moved so that the first row replayed happens now.
    Shifted,
}

/// What to replay and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// Its form.
    pub format: Format,
    /// Separator of a CSV file.
    pub delimiter: u8,
    /// Whether the first row of a CSV file holds names.
    pub header: bool,
    /// Names of the columns; empty = from the header.
    pub columns: Vec<String>,
    /// What the columns mean.
    pub mapping: Mapping,
    /// Which times the events carry.
    pub timestamps: Timestamps,
    /// How much faster than its own times the file is replayed; 0 = as fast as possible.
    pub speed: f64,
    /// Try again later when the file cannot be opened, instead of failing.
    pub keep_trying: bool,
}

/// Where the next row begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// Of the file's first bytes.
    fingerprint: u64,
    byte: u64,
    line: u64,
    row: u64,
}

/// One row. Rows without readings move the cursor, too.
struct Row {
    line: u64,
    time: Option<EventTime>,
    readings: Result<Vec<Reading>, String>,
    /// Single fields that were not taken.
    refused: Vec<String>,
    next: Cursor,
}

/// Something that reads rows one after the other.
trait Rows: Send + Sync {
    fn next(&mut self) -> io::Result<Option<Row>>;
}

/// Replays from `cursor` (as it was stored last) to the end, or until the agent stops. Returns what
/// was done.
///
/// **Errors**: the file cannot be opened (unless [`Settings::keep_trying`]) or read on, a column is
/// missing, or no row of it could be taken.
pub async fn run(
    settings: Settings,
    cursor: Option<Vec<u8>>,
    mut feed: Feed,
    stop: CancellationToken,
) -> Result<Counts, Unreadable> {
    let cursor = cursor.and_then(|bytes| postcard::from_bytes::<Cursor>(&bytes).ok());
    let name = feed.name().to_owned();
    let unreadable = |error: io::Error| Unreadable {
        name: name.clone(),
        reason: error.to_string(),
    };
    let mut said = None;
    let rows = loop {
        let error = match open(&settings, cursor) {
            Ok(rows) => break rows,
            Err(error) => unreadable(error),
        };
        if !settings.keep_trying {
            return Err(error);
        }
        if said.as_ref() != Some(&error) {
            tracing::error!("{error}; trying again every {} s", RETRY.as_secs());
            said = Some(error);
        }
        // It must not hold the others back for ever: what it brings later may be late.
        feed.stand_at(Position::Live);
        tokio::select! {
            () = stop.cancelled() => return Ok(feed.counts()),
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    if let Some(c) = cursor {
        tracing::info!(source = name, row = c.row, "resuming the replay");
    }
    let replay = Replay {
        settings,
        rows,
        start: None,
        pending: None,
        resumed: cursor.is_some(),
        passed: None,
    };
    replay.run(&mut feed, &stop).await.map_err(unreadable)?;
    let counts = feed.counts();
    tracing::info!(
        source = name,
        rows = counts.rows,
        readings = counts.readings,
        bad = counts.bad,
        "the replay has ended"
    );
    Ok(counts)
}

/// Opens the file and looks for the columns that are named.
///
/// **Errors**: as a replay of it would fail.
pub(super) fn check(settings: &Settings) -> io::Result<()> {
    open(settings, None).map(drop)
}

fn open(settings: &Settings, cursor: Option<Cursor>) -> io::Result<Box<dyn Rows>> {
    let rows: io::Result<Box<dyn Rows>> = match settings.format {
        Format::Csv => csv::open(settings, cursor).map(|r| Box::new(r) as Box<dyn Rows>),
        Format::Jsonl => jsonl::open(settings, cursor).map(|r| Box::new(r) as Box<dyn Rows>),
    };
    let path = settings.path.display();
    rows.map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

struct Replay {
    settings: Settings,
    rows: Box<dyn Rows>,
    /// When the first row was replayed: its own time, the wall time, and the moment.
    start: Option<(EventTime, EventTime, Instant)>,
    /// The row that was read to know what comes next.
    pending: Option<Row>,
    /// It did not begin at the file's beginning.
    resumed: bool,
    /// Behind the last row that was read, good or bad.
    passed: Option<Cursor>,
}

impl Replay {
    async fn run(mut self, feed: &mut Feed, stop: &CancellationToken) -> io::Result<()> {
        let mut group: Vec<Reading> = Vec::new();
        self.pending = self.next_good(feed)?;
        let Counts { rows, bad, .. } = feed.counts();
        if self.pending.is_none() && !self.resumed && rows > 0 && bad >= rows {
            let hint = "the log says why; are format, delimiter and time_format right?";
            return Err(io::Error::other(format!(
                "none of its {rows} rows can be taken; {hint}"
            )));
        }
        self.stand(feed);
        if self.pending.is_none() {
            // Rows that cannot be taken are not read again at the next start.
            if let Some(cursor) = self.passed.and_then(|c| postcard::to_stdvec(&c).ok()) {
                let _ = feed
                    .push(0, Vec::new(), Some(cursor), Some(Position::Ended))
                    .await;
            }
        }
        while let Some(row) = self.pending.take() {
            self.pace(&row, stop).await;
            if stop.is_cancelled() {
                return Ok(());
            }
            let shift = self.shift(&row);
            let line = row.line;
            let cursor = row.next;
            for mut reading in row.readings.unwrap_or_default() {
                reading.time = reading.time.map(|t| self.shifted(t, shift));
                group.push(reading);
            }
            self.pending = self.next_good(feed)?;
            let more_due = self
                .pending
                .as_ref()
                .is_some_and(|next| self.wait(next).is_none());
            if group.len() < GROUP && more_due {
                continue;
            }
            let position = match &self.pending {
                None => Position::Ended,
                Some(next) => self.position(next),
            };
            let cursor = match (&self.pending, self.passed) {
                (None, Some(end)) => end,
                _ => cursor,
            };
            let cursor = postcard::to_stdvec(&cursor).ok();
            let group = std::mem::take(&mut group);
            if feed
                .push(line, group, cursor, Some(position))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next row that has readings; bad ones are counted and passed over.
    fn next_good(&mut self, feed: &mut Feed) -> io::Result<Option<Row>> {
        while let Some(row) = self.rows.next()? {
            feed.count_row();
            self.passed = Some(row.next);
            for reason in &row.refused {
                feed.refuse(row.line, reason);
            }
            match &row.readings {
                Ok(readings) if readings.is_empty() => {}
                Ok(_) => return Ok(Some(row)),
                Err(reason) => feed.refuse(row.line, reason),
            }
        }
        Ok(None)
    }

    fn stand(&mut self, feed: &Feed) {
        if let Some(row) = &self.pending {
            if let Some(time) = row.time {
                self.start = Some((time, feed.inbox().clock().wall(), Instant::now()));
            }
            feed.stand_at(self.position(row));
        }
    }

    /// What is promised while `next` is the next row.
    fn position(&self, next: &Row) -> Position {
        match next.time {
            Some(time) => Position::At(self.shifted(time, self.shift(next))),
            None => Position::Live,
        }
    }

    /// How far times are moved: with a speed, the distance between rows shrinks as their replay does.
    fn shift(&self, row: &Row) -> i64 {
        let (Timestamps::Shifted, Some(time), Some((first, wall, _))) =
            (self.settings.timestamps, row.time, self.start)
        else {
            return 0;
        };
        let passed = time.as_micros().saturating_sub(first.as_micros()) as f64;
        let speed = if self.settings.speed > 0.0 {
            self.settings.speed
        } else {
            1.0
        };
        let moved = wall.as_micros().saturating_add((passed / speed) as i64);
        moved.saturating_sub(time.as_micros())
    }

    fn shifted(&self, time: EventTime, shift: i64) -> EventTime {
        EventTime::from_micros(time.as_micros().saturating_add(shift))
    }

    /// The moment at which `row` is to be replayed, if that is still to come.
    fn wait(&self, row: &Row) -> Option<Instant> {
        let (time, (first, _, began)) = (row.time?, self.start?);
        if self.settings.speed <= 0.0 {
            return None;
        }
        let passed = u64::try_from(time.as_micros().saturating_sub(first.as_micros())).ok()?;
        let due = began + Duration::from_micros((passed as f64 / self.settings.speed) as u64);
        (due > Instant::now() + PACE_MIN).then_some(due)
    }

    async fn pace(&self, row: &Row, stop: &CancellationToken) {
        if let Some(due) = self.wait(row) {
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
