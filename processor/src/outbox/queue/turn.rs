//! Whose turn it is, and what came of it.

use notify::format::{Handle, Outcome, Verdict};

use super::lane::{Busy, LaneKey};
use super::{
    FAST, GIVE_UP, IN_FLIGHT_MAX, Job, Lanes, Page, Queue, REPEAT, REPEAT_PAGES_MAX, SECOND, State,
    pace,
};

impl Queue {
    /// What is to be sent now, and when to look again at the latest.
    pub(crate) fn take(&mut self, now: i64) -> (Vec<Job>, i64) {
        self.fire_timers(now);
        let mut wake = now + 60 * SECOND;
        if let Some((at, _)) = self.timers.first() {
            wake = wake.min(*at);
        }
        let mut jobs = Vec::new();
        for (name, target) in &mut self.targets {
            if target.disabled {
                continue;
            }
            if target.paused_until > now {
                wake = wake.min(target.paused_until);
                continue;
            }
            while target.in_flight < IN_FLIGHT_MAX
                && let Some((due, seq)) = target.ready.first().copied()
            {
                let at = due.max(target.rate.free_at(now));
                if at > now {
                    wake = wake.min(at);
                    break;
                }
                target.ready.pop_first();
                let Some(row) = self.rows.get(&seq) else {
                    continue;
                };
                let Some(lane) = self.lanes.get_mut(&row.lane()) else {
                    continue;
                };
                lane.ready = None;
                lane.busy = Busy::Row(seq);
                target.in_flight += 1;
                target.rate.note(now);
                jobs.push(Job::Tell {
                    seq,
                    target: name.clone(),
                    message: row.message.clone(),
                    handle: lane.handle.clone(),
                });
            }
            if let Some((at, _)) = target.repeats.first()
                && target.in_flight < IN_FLIGHT_MAX
            {
                let at = (*at).max(target.rate.free_at(now));
                if at > now {
                    wake = wake.min(at);
                    continue;
                }
                let mut pages = Vec::new();
                while pages.len() < REPEAT_PAGES_MAX
                    && let Some((at, key)) = target.repeats.first().cloned()
                    && at <= now
                {
                    target.repeats.pop_first();
                    let Some(lane) = self.lanes.get_mut(&(name.clone(), key.clone())) else {
                        continue;
                    };
                    lane.repeating = None;
                    let Some(message) = lane.latest.clone() else {
                        continue;
                    };
                    lane.busy = Busy::Repeat;
                    pages.push(Page {
                        key,
                        message,
                        handle: lane.handle.clone(),
                    });
                }
                if pages.is_empty() {
                    continue;
                }
                target.in_flight += 1;
                target.rate.note(now);
                jobs.push(Job::Repeat {
                    target: name.clone(),
                    pages,
                });
            }
        }
        (jobs, wake)
    }

    fn fire_timers(&mut self, now: i64) {
        while let Some((at, seq)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            let Some(row) = self.rows.get(&seq).filter(|r| r.state == State::Queued) else {
                continue;
            };
            let (key, made) = (row.lane(), row.made);
            let lane = self.lanes.get(&key);
            if lane.is_some_and(|l| l.busy == Busy::Row(seq)) {
                // Its outcome comes first.
                self.timers.insert((now + SECOND, seq));
            } else if now - made >= GIVE_UP {
                let why = match self.targets.contains_key(&key.0) {
                    true => row
                        .error
                        .clone()
                        .unwrap_or_else(|| "it was never its turn".to_owned()),
                    false => "the configuration has no notifier of that name".to_owned(),
                };
                self.fail(seq, format!("given up after a day: {why}"), now);
            } else {
                self.timers.insert((made + GIVE_UP, seq));
                self.fall(seq, now);
            }
        }
    }

    /// Takes what came of an attempt.
    pub(crate) fn finish(&mut self, seq: u64, outcome: &Outcome, now: i64) {
        let Some(row) = self.rows.get_mut(&seq) else {
            return;
        };
        row.attempts = row.attempts.saturating_add(1);
        let age = now - *row.first_tried.get_or_insert(now);
        row.last_attempt = Some(now);
        row.status = outcome.status;
        row.error = outcome.error.clone();
        if outcome.verdict == Verdict::Retry {
            row.due = now + pace::backoff(row.attempts, age >= FAST, outcome.retry_after, now);
        }
        let key = row.lane();
        self.dirty_rows.insert(seq);
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.busy = Busy::No;
            let handle = match &outcome.handle {
                Handle::Keep => lane.handle.clone(),
                Handle::Set(handle) => Some(handle.clone()),
                Handle::Forget => None,
            };
            if handle != lane.handle {
                lane.handle = handle;
                self.dirty_lanes.insert(key.clone());
            }
        }
        if let Some(target) = self.targets.get_mut(&key.0) {
            target.in_flight = target.in_flight.saturating_sub(1);
            target.disabled |= outcome.verdict == Verdict::Gone;
            target.pause(outcome, now);
        }
        match outcome.verdict {
            Verdict::Delivered => {
                self.end(seq, State::Delivered, None, now);
                self.settle(&key, now);
            }
            Verdict::Retry => self.settle(&key, now),
            Verdict::Refused | Verdict::Gone => {
                let error = outcome.error.clone().unwrap_or_default();
                self.fail(seq, error, now);
            }
        }
        if outcome.verdict == Verdict::Gone {
            // Whatever else waits for it goes to its fallback now.
            for lane in self.lanes_of(&key.0) {
                self.settle(&lane, now);
            }
        }
    }

    fn lanes_of(&self, target: &str) -> Vec<LaneKey> {
        let from = (target.to_owned(), String::new());
        let all = self.lanes.range(from..).map(|(key, _)| key);
        all.take_while(|key| key.0 == target).cloned().collect()
    }

    /// Takes what came of a reminder.
    pub(crate) fn finish_repeat(
        &mut self,
        name: &str,
        pages: &[Page],
        outcome: &Outcome,
        now: i64,
    ) {
        if let Some(target) = self.targets.get_mut(name) {
            target.in_flight = target.in_flight.saturating_sub(1);
            target.pause(outcome, now);
        }
        for page in pages {
            let key = (name.to_owned(), page.key.clone());
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.busy = Busy::No;
                lane.repeat_due = Some(now + REPEAT);
                if lane.repeat_until.is_some_and(|until| now >= until) {
                    lane.repeat_due = None;
                }
            }
            self.refresh(&key);
        }
    }
}

impl Lanes {
    /// A receiver that asks for a pause asks it of us, not of a message.
    fn pause(&mut self, outcome: &Outcome, now: i64) {
        if outcome.verdict != Verdict::Retry {
            return;
        }
        let asked = match (outcome.retry_after, outcome.status) {
            (Some(pause), _) => pause,
            (None, Some(429)) => SECOND,
            _ => return,
        };
        self.paused_until = self.paused_until.max(now + asked);
    }
}
