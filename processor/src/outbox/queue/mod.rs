//! What is to be sent to whom, in which order, and when: the outbox without clock, disk and network.
//!
//! A [`Row`] is one message for one target. Rows of one page for one target are a *lane*: they go out one after
//! the other, in the order in which they came. What is said of a page after its begin waits until the begin was
//! accepted; if that is given up, the rest of the lane is dropped. Of updates that wait only the newest is sent.
//!
//! What fails is tried again, fast for [`FAST`], then slowly for [`GIVE_UP`] in all. After [`FAST`], or at once if
//! the receiver refuses it for good, the lane is handed to the target's fallback, with all that comes later. What
//! came to a target as a fallback is handed no further.
//!
//! Every change is noted until [`Queue::take_dirty`] fetches it to be saved; rows are sent only after they were
//! saved ([`Queue::prepare`], then [`Queue::install`]). After a crash what was sent and not noted is sent again,
//! under the same id and still in order, because notes are saved in the order in which they were made.

mod flow;
mod lane;
mod pace;
mod row;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use eventlog::{OutboxChange, OutboxRow};
use notify::{Kind, Message, Target};

use lane::{Lane, LaneKey, Opened};
use pace::Rate;
pub(crate) use row::{Row, State, key};

/// What is sent a second after it was decided is sent ten minutes later too, but by then somebody else should
/// know: this long it is tried fast, microseconds.
pub(crate) const FAST: i64 = 600 * SECOND;
/// A message that was not accepted for so long is given up: a day.
pub(crate) const GIVE_UP: i64 = 86_400 * SECOND;
/// Finished rows that are kept for the delivery log.
pub(crate) const FINISHED_MAX: usize = 2000;
/// Rows that may wait for one target; beyond it new ones are dropped, and say so.
const QUEUED_MAX: usize = 100_000;
/// Attempts under way at once, per target.
const IN_FLIGHT_MAX: usize = 8;
/// A target that repeats is reminded of an open page so often, and of an ended one for so long.
const REPEAT: i64 = 60 * SECOND;
const REPEAT_ENDED: i64 = 300 * SECOND;
/// Pages in one reminder.
const REPEAT_PAGES_MAX: usize = 100;
/// After a start a target has this long before what is overdue goes to its fallback.
const GRACE: i64 = 60 * SECOND;
const SECOND: i64 = 1_000_000;

/// A message for a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Name of a notifier of the configuration.
    pub target: String,
    /// What it is to be told.
    pub message: Message,
}

/// What is to be carried out.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// Tell a message: end it with [`Queue::finish`].
    Tell {
        seq: u64,
        target: String,
        message: Arc<Message>,
        handle: Option<String>,
    },
    /// Remind a target of pages: end it with [`Queue::finish_repeat`].
    Repeat { target: String, pages: Vec<Page> },
}

/// A page that a target is reminded of.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) key: String,
    pub(crate) message: Arc<Message>,
    pub(crate) handle: Option<String>,
}

/// Why a row cannot be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResendError {
    /// There is no such row (any more).
    #[error("there is no such notification; the newest {FINISHED_MAX} finished ones are kept")]
    NotFound,
    /// It has not been finished yet.
    #[error("it is still waiting and will be sent by itself")]
    Waiting,
    /// Nobody would ever tell the receiver that the page is over.
    #[error("its page is over; sent now it would open another one that nothing closes")]
    Ended,
    /// Its target is no more.
    #[error("the configuration has no notifier of that name any more")]
    NoTarget,
}

/// A target and what is going on with it.
struct Lanes {
    target: Arc<Target>,
    rate: Rate,
    /// Rows that may be sent from their time on: the first ones of lanes that are not busy.
    ready: BTreeSet<(i64, u64)>,
    /// Lanes to be reminded of, by time.
    repeats: BTreeSet<(i64, String)>,
    in_flight: usize,
    queued: usize,
    paused_until: i64,
    /// It answered that it is gone: nothing more is sent until a restart or a resend by hand.
    disabled: bool,
}

/// Changes that are to be saved together.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    rows: BTreeSet<u64>,
    lanes: BTreeSet<LaneKey>,
    /// As they are to be written.
    pub(crate) changes: Vec<OutboxChange>,
    /// The rows among them as they are to be shown.
    pub(crate) shown: Vec<Row>,
}

/// The queue. See the module.
pub(crate) struct Queue {
    targets: BTreeMap<String, Lanes>,
    rows: BTreeMap<u64, Row>,
    /// Public ids → rows.
    ids: BTreeMap<String, u64>,
    lanes: BTreeMap<LaneKey, Lane>,
    /// When a row is to be handed on or given up.
    timers: BTreeSet<(i64, u64)>,
    finished: BTreeSet<u64>,
    dirty_rows: BTreeSet<u64>,
    dirty_lanes: BTreeSet<LaneKey>,
    next_seq: u64,
}

impl Queue {
    /// A queue for these targets with the rows that were saved. Answers also how many rows of an older form it
    /// cannot read and will delete.
    ///
    /// **Errors**: a row that does not decode.
    pub(crate) fn open(
        targets: &[Arc<Target>],
        saved: &[OutboxRow],
        now: i64,
    ) -> anyhow::Result<(Self, Vec<OutboxChange>)> {
        let targets = targets.iter().map(|target| {
            let lanes = Lanes {
                target: target.clone(),
                rate: Rate::new(target.rate_per_minute),
                ready: BTreeSet::new(),
                repeats: BTreeSet::new(),
                in_flight: 0,
                queued: 0,
                paused_until: 0,
                disabled: false,
            };
            (target.name.clone(), lanes)
        });
        let mut queue = Self {
            targets: targets.collect(),
            rows: BTreeMap::new(),
            ids: BTreeMap::new(),
            lanes: BTreeMap::new(),
            timers: BTreeSet::new(),
            finished: BTreeSet::new(),
            dirty_rows: BTreeSet::new(),
            dirty_lanes: BTreeSet::new(),
            next_seq: 1,
        };
        let mut foreign = Vec::new();
        for (key, value) in saved {
            let place = || {
                format!(
                    "outbox row {:?} does not decode",
                    key.escape_ascii().to_string()
                )
            };
            match key.first() {
                Some(&row::PREFIX) => {
                    let row = Row::decode(key, value).with_context(place)?;
                    queue.next_seq = queue.next_seq.max(row.seq + 1);
                    queue.restore(row, now);
                }
                Some(&lane::PREFIX) => {
                    let (key, lane) = Lane::decode(key, value).with_context(place)?;
                    // Its rows may have come before it.
                    queue.lanes.entry(key).or_default().take_saved(lane, now);
                }
                Some(&super::STATE_PREFIX) => {}
                _ => foreign.push((key.clone(), None)),
            }
        }
        for key in queue.lanes.keys().cloned().collect::<Vec<_>>() {
            queue.settle(&key, now);
        }
        Ok((queue, foreign))
    }

    fn restore(&mut self, row: Row, now: i64) {
        self.ids.insert(row.public_id(), row.seq);
        if row.state == State::Queued {
            let lane = self.lanes.entry(row.lane()).or_default();
            lane.queued.insert(row.seq);
            if let Some(target) = self.targets.get_mut(&row.target) {
                target.queued += 1;
            }
            self.timers
                .insert(((row.made + FAST).max(now + GRACE), row.seq));
        } else {
            self.finished.insert(row.seq);
        }
        self.rows.insert(row.seq, row);
    }

    /// All rows as they are.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Makes rows of messages, in order; known ids, kinds that a target has no words for, and targets that there
    /// are not are left out. Nothing has changed yet: save them, then [`Queue::install`] them.
    pub(crate) fn prepare(&mut self, outgoing: Vec<Outgoing>, now: i64) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::with_capacity(outgoing.len());
        let mut new = BTreeSet::new();
        for Outgoing { target, message } in outgoing {
            let takes = self.targets.get(&target);
            if !takes.is_some_and(|t| t.target.takes(message.kind)) {
                continue;
            }
            let row = Row::new(self.next_seq, target, Arc::new(message), now);
            let id = row.public_id();
            if self.ids.contains_key(&id) || !new.insert(id) {
                continue;
            }
            self.next_seq += 1;
            rows.push(row);
        }
        rows
    }

    /// Takes rows that are saved.
    pub(crate) fn install(&mut self, rows: Vec<Row>, now: i64) {
        // All ids before any row: what one of them hands to a fallback may be among the others.
        for row in &rows {
            self.ids.entry(row.public_id()).or_insert(row.seq);
        }
        for row in rows {
            if self.ids.get(&row.public_id()) == Some(&row.seq) {
                self.add(row, now);
            } else {
                // A fallback has come to it while it was being saved: there it goes again.
                self.dirty_rows.insert(row.seq);
            }
        }
    }

    fn add(&mut self, row: Row, now: i64) {
        let (key, seq) = (row.lane(), row.seq);
        let full = match self.targets.get_mut(&row.target) {
            Some(target) => {
                target.queued += 1;
                target.queued > QUEUED_MAX
            }
            None => false,
        };
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.queued.insert(seq);
        if row.message.kind == Kind::Raised && row.resend == 0 && lane.opened == Opened::GivenUp {
            // It begins once more: it may succeed now.
            lane.opened = Opened::No;
            self.dirty_lanes.insert(key.clone());
        }
        self.ids.insert(row.public_id(), seq);
        self.timers.insert((now + FAST, seq));
        self.rows.insert(seq, row);
        if full {
            let error = format!("{QUEUED_MAX} messages wait for this notifier already");
            self.end(seq, State::Dropped, Some(error), now);
        }
        self.settle(&key, now);
    }

    /// Makes a row that sends a finished one again, under the same idempotency key. Save it, then install it.
    ///
    /// **Errors**: see [`ResendError`].
    pub(crate) fn resend(&mut self, id: &str, now: i64) -> Result<Row, ResendError> {
        let seq = self.ids.get(id).ok_or(ResendError::NotFound)?;
        let row = self.rows.get(seq).ok_or(ResendError::NotFound)?;
        if row.state == State::Queued {
            return Err(ResendError::Waiting);
        }
        let target = self
            .targets
            .get_mut(&row.target)
            .ok_or(ResendError::NoTarget)?;
        let lane = self.lanes.get(&row.lane());
        if row.message.kind.opens() && lane.is_none_or(|l| l.ended) {
            return Err(ResendError::Ended);
        }
        let mut again = Row::new(self.next_seq, row.target.clone(), row.message.clone(), now);
        while again.resend == 0 || self.ids.contains_key(&again.public_id()) {
            again.resend += 1;
        }
        self.next_seq += 1;
        // Who asks for it has a reason to think that the receiver is there again.
        target.disabled = false;
        Ok(again)
    }

    /// Forgets the oldest finished rows beyond [`FINISHED_MAX`], but none that a replay could make again: those
    /// are younger than `saved`.
    pub(crate) fn forget_old(&mut self, saved: i64) {
        while self.finished.len() > FINISHED_MAX
            && let Some(seq) = self.finished.first().copied()
        {
            let old = self.rows.get(&seq).is_none_or(|row| row.message.at < saved);
            if !old {
                break;
            }
            self.finished.pop_first();
            if let Some(row) = self.rows.remove(&seq) {
                self.ids.remove(&row.public_id());
            }
            self.dirty_rows.insert(seq);
        }
    }

    /// Whether anything is to be saved.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty_rows.is_empty() || !self.dirty_lanes.is_empty()
    }

    /// Rows that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.rows.len() - self.finished.len()
    }

    /// All that has changed since the last call, to be saved in one transaction.
    ///
    /// **Errors**: a row that cannot be written as JSON.
    pub(crate) fn take_dirty(&mut self) -> anyhow::Result<Dirty> {
        let mut dirty = Dirty::default();
        for seq in &self.dirty_rows {
            let value = match self.rows.get(seq) {
                Some(row) => {
                    dirty.shown.push(row.clone());
                    Some(row.encode()?)
                }
                None => None,
            };
            dirty.changes.push((key(*seq), value));
        }
        for key in &self.dirty_lanes {
            let value = self.lanes.get(key).map(Lane::encode).transpose()?;
            dirty.changes.push((lane::key(key), value));
        }
        dirty.rows = std::mem::take(&mut self.dirty_rows);
        dirty.lanes = std::mem::take(&mut self.dirty_lanes);
        Ok(dirty)
    }

    /// What could not be saved is to be saved later.
    pub(crate) fn put_back(&mut self, dirty: Dirty) {
        self.dirty_rows.extend(dirty.rows);
        self.dirty_lanes.extend(dirty.lanes);
    }
}
