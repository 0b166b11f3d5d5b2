//! Follows a log that grows, over rotations and crashes.
//!
//! The cursor says which file was read (by inode), how far, and what lay before that place. It is
//! stored in the same transaction as the lines' samples: each line is taken once, whatever is killed
//! when, as long as its file can still be found in the folder. A file that was renamed is finished
//! before the new one; of one that was copied and cut, the copy is.

mod follow;
mod lines;
mod open;
mod pattern;
mod rotated;

use std::path::PathBuf;
use std::time::Duration;

use event::EventTime;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use pattern::Pattern;

use super::mapping::Devices;
use super::{Counts, Feed, Mapping, json};
use crate::inbox::{Position, Reading};
use follow::{Cursor, Follower, Step};

/// Samples handed on at once.
const GROUP: usize = 1000;
/// Lines without samples read at once.
const GROUP_LINES: usize = 5000;
/// If a pattern matches none of so many lines, it is said.
const UNMATCHED_TOLD: u64 = 100;

/// Where to begin when the file is followed for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// At its beginning.
    Begin,
    /// Behind its last line.
    #[default]
    End,
}

/// What a line is.
#[derive(Debug, Clone)]
pub enum Format {
    /// A JSON object, or an array of objects.
    Json,
    /// Text that is read by a pattern. Lines that do not match are passed over.
    Regex(Pattern),
}

/// What to follow and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// What its lines are.
    pub format: Format,
    /// What their parts mean.
    pub mapping: Mapping,
    /// Where to begin.
    pub from: From,
    /// Time between two looks.
    pub interval: Duration,
    /// How far times in new lines may lie behind the present: the agent promises no more.
    pub lag: Duration,
}

/// A line that was read, good or bad.
struct Row {
    readings: Vec<Reading>,
    time: Option<EventTime>,
    cursor: Cursor,
}

/// Follows from `cursor` (as it was stored last) until the agent stops. Returns what was done.
pub async fn run(
    settings: Settings,
    cursor: Option<Vec<u8>>,
    mut feed: Feed,
    stop: CancellationToken,
) -> Counts {
    let cursor = cursor.and_then(|bytes| postcard::from_bytes::<Cursor>(&bytes).ok());
    let mut tail = Tail {
        follower: Follower::new(&settings.path, settings.from, cursor.clone()),
        stored: cursor,
        devices: Devices::default(),
        lines: 0,
        unmatched: Some(0),
        said: None,
        settings,
    };
    // Written while nobody read it.
    feed.set_fresh(tail.stored.is_none());
    loop {
        if tail.take_all(&mut feed, &stop).await.is_none() {
            return feed.counts();
        }
        feed.set_fresh(true);
        tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            () = tokio::time::sleep(tail.settings.interval) => {}
        }
    }
}

struct Tail {
    settings: Settings,
    follower: Follower,
    /// The cursor handed on last.
    stored: Option<Cursor>,
    devices: Devices,
    lines: u64,
    /// Lines in a row, from the first, that the pattern did not match; none once one did.
    unmatched: Option<u64>,
    /// The error told last.
    said: Option<String>,
}

impl Tail {
    /// Takes what there is. None if the agent stops.
    async fn take_all(&mut self, feed: &mut Feed, stop: &CancellationToken) -> Option<()> {
        let mut next = self.next_row(feed);
        let mut group = Vec::new();
        let mut lines = 0;
        while let Some(row) = next {
            group.extend(row.readings);
            lines += 1;
            next = self.next_row(feed);
            if next.is_some() && group.len() < GROUP && lines < GROUP_LINES {
                continue;
            }
            // While there is more, it is known what time comes next: lines written long ago hold the
            // agent's promise.
            let position = match next.as_ref().map(|n| n.time) {
                Some(Some(time)) => Position::At(time),
                Some(None) | None => self.live(),
            };
            let cursor = postcard::to_stdvec(&row.cursor).ok();
            self.stored = Some(row.cursor);
            let group = std::mem::take(&mut group);
            let pushed = feed.push(self.lines, group, cursor, Some(position));
            pushed.await.ok()?;
            lines = 0;
            // Files are read without waiting: let the others have their turn.
            tokio::task::yield_now().await;
            if stop.is_cancelled() {
                return None;
            }
        }
        feed.stand_at(self.live());
        // Where to begin, and the change to a new file, are kept without a line, too.
        if let Some(cursor) = self.follower.cursor()
            && !self.stored.as_ref().is_some_and(|c| c.is_at(&cursor))
        {
            let bytes = postcard::to_stdvec(&cursor).ok();
            self.stored = Some(cursor);
            let pushed = feed.push(self.lines, Vec::new(), bytes, None);
            pushed.await.ok()?;
        }
        Some(())
    }

    fn live(&self) -> Position {
        if self.settings.lag.is_zero() {
            Position::Live
        } else {
            Position::Behind(self.settings.lag)
        }
    }

    /// The next line; none if there is none for now.
    fn next_row(&mut self, feed: &mut Feed) -> Option<Row> {
        let step = self.follower.next(Instant::now());
        for note in self.follower.notes.drain(..) {
            tracing::warn!(source = feed.name(), "{note}");
        }
        let (line, begin, cursor) = match step {
            Ok(Step::Line(line, begin, cursor)) => (line, begin, cursor),
            Ok(Step::Idle) => {
                let missing = self.follower.cursor().is_none();
                self.say(
                    feed,
                    missing.then(|| "there is no such file yet".to_owned()),
                );
                return None;
            }
            Err(error) => {
                self.say(feed, Some(error.to_string()));
                return None;
            }
        };
        self.lines += 1;
        let mut row = Row {
            readings: Vec::new(),
            time: None,
            cursor,
        };
        let parsed = match line {
            Ok(line) if line.iter().all(u8::is_ascii_whitespace) => return Some(row),
            Ok(line) => self.parse(&line, feed),
            Err(reason) => Err(reason),
        };
        match parsed {
            Ok(None) => {}
            Ok(Some(parsed)) => {
                feed.count_row();
                for reason in &parsed.refused {
                    feed.refuse(self.lines, &format!("byte {begin}: {reason}"));
                }
                row.time = parsed.readings.iter().filter_map(|r| r.time).min();
                row.readings = parsed.readings;
            }
            Err(reason) => {
                feed.count_row();
                feed.refuse(self.lines, &format!("byte {begin}: {reason}"));
            }
        }
        Some(row)
    }

    fn parse(&mut self, line: &[u8], feed: &Feed) -> Result<Option<json::Parsed>, String> {
        let (mapping, devices) = (&self.settings.mapping, &mut self.devices);
        let pattern = match &self.settings.format {
            Format::Json => return json::parse(line, mapping, devices).map(Some),
            Format::Regex(pattern) => pattern,
        };
        let parsed = pattern.parse(line, mapping, devices)?;
        match (&parsed, &mut self.unmatched) {
            (Some(_), unmatched) => *unmatched = None,
            (None, Some(n)) => {
                *n += 1;
                if *n == UNMATCHED_TOLD {
                    let start: String = String::from_utf8_lossy(line).chars().take(100).collect();
                    tracing::warn!(
                        source = feed.name(),
                        "the pattern has matched none of the first {UNMATCHED_TOLD} lines, such as \
                         {start:?}; is it right?"
                    );
                }
            }
            (None, None) => {}
        }
        Ok(parsed)
    }

    /// Tells what is wrong with the file when that changes.
    fn say(&mut self, feed: &Feed, reason: Option<String>) {
        if reason != self.said {
            if let Some(reason) = &reason {
                let path = self.settings.path.display();
                tracing::warn!(source = feed.name(), "{path}: {reason}; looking again");
            }
            self.said = reason;
        }
    }
}

#[cfg(test)]
mod tests;
