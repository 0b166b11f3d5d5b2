//! One page for one target: what was said of it, and what waits to be said.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use notify::Message;
use serde::{Deserialize, Serialize};

/// Target and dedup key.
pub(super) type LaneKey = (String, String);

/// First byte of the keys of lanes.
pub(super) const PREFIX: u8 = 2;

/// What became of the begin of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Opened {
    /// It has not been accepted yet.
    #[default]
    No,
    /// The receiver knows of the page.
    Accepted,
    /// It never will.
    GivenUp,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Busy {
    /// Nothing.
    #[default]
    No,
    /// An attempt for a row.
    Row(u64),
    /// A reminder.
    Repeat,
}

/// What is saved of a lane; its rows are saved by themselves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    opened: Opened,
    /// What the receiver gave us for the page.
    handle: Option<String>,
    /// All of it goes to the fallback too.
    fallen: bool,
    /// Its last message was finished.
    ended: bool,
    /// What a target that repeats is reminded of.
    latest: Option<Arc<Message>>,
    repeat_until: Option<i64>,
}

/// A lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) opened: Opened,
    pub(super) handle: Option<String>,
    pub(super) fallen: bool,
    pub(super) ended: bool,
    pub(super) latest: Option<Arc<Message>>,
    pub(super) repeat_until: Option<i64>,
    pub(super) repeat_due: Option<i64>,
    /// Rows that wait, in their order, and the one under way.
    pub(super) queued: BTreeSet<u64>,
    pub(super) busy: Busy,
    /// Where it stands among its target's lanes.
    pub(super) ready: Option<(i64, u64)>,
    pub(super) repeating: Option<i64>,
}

impl Lane {
    /// Whether nothing is left to say, and nothing to know for later.
    pub(super) fn is_over(&self) -> bool {
        let untold = self.opened == Opened::No && !self.fallen;
        self.queued.is_empty() && self.repeat_due.is_none() && (self.ended || untold)
    }

    pub(super) fn saved(&self) -> Saved {
        Saved {
            opened: self.opened,
            handle: self.handle.clone(),
            fallen: self.fallen,
            ended: self.ended,
            latest: self.latest.clone(),
            repeat_until: self.repeat_until,
        }
    }

    /// Takes what was saved of it. What it repeats is due at once: the receiver may have heard nothing for long.
    pub(super) fn take_saved(&mut self, saved: Saved, now: i64) {
        self.opened = saved.opened;
        self.handle = saved.handle;
        self.fallen = saved.fallen;
        self.ended = saved.ended;
        self.repeat_due = saved.latest.is_some().then_some(now);
        self.latest = saved.latest;
        self.repeat_until = saved.repeat_until;
    }

    pub(super) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        serde_json::to_vec(&self.saved()).context("a page of the outbox cannot be written as JSON")
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> anyhow::Result<(LaneKey, Saved)> {
        let text = std::str::from_utf8(key.get(1..).unwrap_or_default())?;
        let (target, page) = text
            .split_once('\0')
            .context("its key has no target and page")?;
        let saved = serde_json::from_slice(value)?;
        Ok(((target.to_owned(), page.to_owned()), saved))
    }
}

/// The key of a lane.
pub(super) fn key((target, page): &LaneKey) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(format!("{target}\0{page}").as_bytes());
    key
}
