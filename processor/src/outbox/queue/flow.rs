//! What a change of a lane leads to: what is dropped, what goes to the fallback, what is over.

use notify::Kind;

use super::lane::{Busy, LaneKey, Opened};
use super::{Queue, REPEAT, REPEAT_ENDED, Row, State};

impl Queue {
    /// Applies the rules of a lane after any change of it, and says when it is to be looked at.
    pub(super) fn settle(&mut self, key: &LaneKey, now: i64) {
        let Some(lane) = self.lanes.get(key) else {
            return;
        };
        let target = self.targets.get(&key.0);
        let disabled = target.is_some_and(|t| t.disabled);
        let fallback = target.and_then(|t| t.target.fallback.clone());
        let hands = (lane.fallen || disabled) && fallback.is_some();
        let mut copies = Vec::new();
        let mut dropped = Vec::new();
        let mut known = lane.opened == Opened::Accepted;
        let mut update = None;
        for seq in &lane.queued {
            let Some(row) = self.rows.get(seq) else {
                continue;
            };
            let kind = row.message.kind;
            if row.resend > 0 {
                continue;
            }
            if hands && !row.handed && !row.by_fallback {
                copies.push(*seq);
            }
            if lane.busy == Busy::Row(*seq) {
                known |= kind.opens();
                continue;
            }
            if lane.opened == Opened::GivenUp {
                dropped.push((*seq, "the begin of its page was given up".to_owned()));
            } else if !known && !kind.opens() {
                dropped.push((*seq, "the begin of its page was never sent here".to_owned()));
            } else if kind == Kind::Updated
                && known
                && let Some(old) = update.replace(*seq)
            {
                dropped.push((old, format!("superseded by {}", row.message.id)));
            }
            known |= kind.opens();
        }
        for seq in copies {
            self.hand(seq, fallback.as_deref().unwrap_or_default(), now);
        }
        for (seq, error) in dropped {
            self.end(seq, State::Dropped, Some(error), now);
        }
        self.refresh(key);
    }

    /// Copies a row to a fallback, once.
    fn hand(&mut self, seq: u64, fallback: &str, now: i64) {
        let Some(row) = self.rows.get_mut(&seq) else {
            return;
        };
        row.handed = true;
        self.dirty_rows.insert(seq);
        let Some(target) = self.targets.get(fallback) else {
            return;
        };
        let mut copy = Row::new(self.next_seq, fallback.to_owned(), row.message.clone(), now);
        copy.by_fallback = true;
        let known = self.ids.contains_key(&copy.public_id());
        if known || !target.target.takes(copy.message.kind) {
            return;
        }
        self.next_seq += 1;
        self.dirty_rows.insert(copy.seq);
        self.add(copy, now);
    }

    /// Marks a lane as handed to the fallback, if a row may do that.
    pub(super) fn fall(&mut self, seq: u64, now: i64) {
        let Some(row) = self.rows.get(&seq) else {
            return;
        };
        if !row.message.kind.opens() || row.resend > 0 || row.by_fallback {
            return;
        }
        let key = row.lane();
        let target = self.targets.get(&key.0);
        if target.is_none_or(|t| t.target.fallback.is_none()) {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(&key)
            && !lane.fallen
        {
            lane.fallen = true;
            self.dirty_lanes.insert(key.clone());
        }
        self.settle(&key, now);
    }

    /// A row leaves the queue for good.
    pub(super) fn end(&mut self, seq: u64, state: State, error: Option<String>, now: i64) {
        let Some(row) = self.rows.get_mut(&seq).filter(|r| r.state == State::Queued) else {
            return;
        };
        row.state = state;
        if error.is_some() {
            row.error = error;
        }
        let (key, kind) = (row.lane(), row.message.kind);
        let (message, again) = (row.message.clone(), row.resend > 0);
        self.dirty_rows.insert(seq);
        self.finished.insert(seq);
        let mut repeats = false;
        if let Some(target) = self.targets.get_mut(&key.0) {
            target.queued = target.queued.saturating_sub(1);
            repeats = target.target.repeats();
        }
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.queued.remove(&seq);
        let before = lane.saved();
        if state == State::Delivered && kind.opens() {
            lane.opened = Opened::Accepted;
        }
        if state == State::Delivered && repeats && !again {
            if kind == Kind::Cleared {
                lane.repeat_until = Some(now + REPEAT_ENDED);
            }
            if kind.opens() || kind == Kind::Cleared {
                lane.latest = Some(message);
                lane.repeat_due = Some(now + REPEAT);
            }
        }
        if kind == Kind::Cleared && !again {
            lane.ended = true;
            if state != State::Delivered {
                lane.repeat_due = None;
            }
        }
        if lane.saved() != before {
            self.dirty_lanes.insert(key);
        }
    }

    /// Puts a lane where it is looked for, or forgets it.
    pub(super) fn refresh(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let mut target = self.targets.get_mut(&key.0);
        if let Some(target) = &mut target {
            if let Some(place) = lane.ready.take() {
                target.ready.remove(&place);
            }
            if let Some(at) = lane.repeating.take() {
                target.repeats.remove(&(at, key.1.clone()));
            }
        }
        if lane.busy != Busy::No {
            return;
        }
        if let Some(seq) = lane.queued.first() {
            let due = self.rows.get(seq).map_or(0, |row| row.due);
            lane.ready = Some((due, *seq));
            if let Some(target) = target {
                target.ready.insert((due, *seq));
            }
        } else if lane.is_over() {
            self.lanes.remove(key);
            self.dirty_lanes.insert(key.clone());
        } else if let (Some(at), Some(target)) = (lane.repeat_due, target) {
            lane.repeating = Some(at);
            target.repeats.insert((at, key.1.clone()));
        }
    }

    /// A row is given up.
    pub(super) fn fail(&mut self, seq: u64, error: String, now: i64) {
        self.fall(seq, now);
        let Some(row) = self.rows.get(&seq) else {
            return;
        };
        let (key, opens, again) = (row.lane(), row.message.kind.opens(), row.resend > 0);
        self.end(seq, State::Failed, Some(error), now);
        if let Some(lane) = self.lanes.get_mut(&key)
            && opens
            && !again
            && lane.opened == Opened::No
        {
            lane.opened = Opened::GivenUp;
            self.dirty_lanes.insert(key.clone());
        }
        self.settle(&key, now);
    }
}
