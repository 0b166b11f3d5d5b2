//! What to send when: the protocol's sending side as plain functions over values.
//!
//! No I/O, no clock, no threads: time comes in as an argument (the monotonic time since the process
//! started), the backlog through a small trait, so that a simulation drives the same code as a
//! device. The order of things: ranges whose ack is overdue are sent again, then new ranges, then a
//! heartbeat. Any re-cut is allowed, because an event is identified by its number alone.
//!
//! **Two lanes.** What was held when the connection was made, and what the cloud has refused, is the
//! *backlog*; what is stored from then on is *live*. Of the backlog one range is on its way at a time,
//! as fast as the cloud's budget allows; all other places in flight are for live ranges, which no
//! budget slows down. The lanes take turns, so that new data never waits behind more than one batch
//! of the backlog, and the backlog never stands still. Within a lane the order is that of storing: a
//! short interruption, whose backlog fits in one batch, changes no order at all.

use std::collections::VecDeque;
use std::time::Duration;

use event::{Ack, EventTime, RefusalReason, SeqRange};

use super::backoff::{Jitter, exponential};
use crate::buffer::{Announcement, Buffer, Position};

/// Limits and times of the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Most events of a batch.
    pub batch_events_max: u32,
    /// Most un-acked ranges in flight (the protocol allows 8).
    pub in_flight_max: usize,
    /// How long to wait for an ack before the first resend.
    pub ack_timeout: Duration,
    /// Longest wait between resends of a range.
    pub ack_timeout_max: Duration,
    /// A heartbeat goes out when nothing was sent for this long.
    pub heartbeat: Duration,
    /// First wait before a refused range is tried again.
    pub refused_retry: Duration,
    /// Longest wait before a refused range is tried again.
    pub refused_retry_max: Duration,
    /// Nothing new is sent while so many ranges are refused.
    pub refused_max: usize,
    /// With something unanswered for this long the connection is given up and made anew.
    pub silence_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            batch_events_max: 1000,
            in_flight_max: 8,
            ack_timeout: secs(10),
            ack_timeout_max: secs(120),
            heartbeat: secs(60),
            refused_retry: secs(60),
            refused_retry_max: secs(3600),
            refused_max: 64,
            silence_max: secs(90),
        }
    }
}

/// What the session needs to know of the buffer.
pub trait Backlog {
    /// Whether nothing is held.
    fn is_empty(&self) -> bool;
    /// The next run of held events that were stored before `end`: at most `events_max` consecutive
    /// numbers of one incarnation, none of them in `excluding`.
    fn next_before(
        &self,
        end: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange>;
    /// The same of what was stored from `start` on.
    fn next_since(
        &self,
        start: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange>;
}

impl Backlog for Buffer {
    fn is_empty(&self) -> bool {
        self.held().events == 0
    }

    fn next_before(
        &self,
        end: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        Buffer::next_before(self, end, excluding, events_max)
    }

    fn next_since(
        &self,
        start: Position,
        excluding: &[SeqRange],
        events_max: u64,
    ) -> Option<SeqRange> {
        Buffer::next_since(self, start, excluding, events_max)
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the held events of `range` as transmission `tx_no`; then say with [`Session::sent`] what
    /// really went.
    Batch {
        /// The number of the transmission.
        tx_no: u64,
        /// What to send.
        range: SeqRange,
    },
    /// Send a batch without events; then call [`Session::sent`].
    Heartbeat {
        /// The number of the transmission.
        tx_no: u64,
    },
    /// The peer takes and never answers: make the connection anew.
    Reconnect,
}

/// What an ack means for the buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Delete these.
    pub acked: Vec<SeqRange>,
    /// By how much the cloud's clock is ahead of the agent's, and how long the answer took both ways,
    /// microseconds; none if it does not say.
    pub clock: Option<(i64, i64)>,
    /// The cloud knows this now.
    pub told: Option<Announcement>,
}

#[derive(Debug)]
struct Flight {
    range: SeqRange,
    attempts: u32,
    /// How often it was refused before.
    refused: u32,
    deadline: Duration,
    lane: Lane,
}

/// Which of the two queues a range belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Live,
    Backlog,
}

#[derive(Debug)]
struct Refusal {
    range: SeqRange,
    refused: u32,
    retry_at: Duration,
    /// Sent in pieces of this size, because the whole was too large.
    events_max: u64,
}

#[derive(Debug)]
struct Sent {
    tx_no: u64,
    at: EventTime,
    said: Announcement,
}

/// Transmissions remembered until their answer comes.
const SENT_MAX: usize = 64;

/// The sending side of one incarnation.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    jitter: Jitter,
    connected: bool,
    /// Where the backlog ends and what is live begins.
    mark: Option<Position>,
    /// The lane of the newest range that went out on this connection.
    last_lane: Option<Lane>,
    tx_no: u64,
    flights: Vec<Flight>,
    refusals: Vec<Refusal>,
    sent: VecDeque<Sent>,
    /// When the last transmission went out; none on a new connection.
    last_sent: Option<Duration>,
    /// When the first transmission went out that nothing has been answered since.
    unanswered: Option<Duration>,
    /// Last transmission before the end of the process, once everything was acked.
    finishing: bool,
    farewell: Option<u64>,
    finished: bool,
    clock_offset_us: Option<(i64, i64)>,
    /// Nothing but heartbeats goes out: the clock is not set.
    events_wait: bool,
    budget: Option<Budget>,
}

#[derive(Debug)]
struct Budget {
    events_per_s: u32,
    tokens: f64,
    at: Duration,
}

impl Session {
    /// A session that has sent nothing. `seed` feeds the jitter of its waits.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            jitter: Jitter::new(seed),
            connected: false,
            mark: None,
            last_lane: None,
            tx_no: 0,
            flights: Vec::new(),
            refusals: Vec::new(),
            sent: VecDeque::new(),
            last_sent: None,
            unanswered: None,
            finishing: false,
            farewell: None,
            finished: false,
            clock_offset_us: None,
            events_wait: false,
            budget: None,
        }
    }

    /// The connection stands: everything un-acked may be sent, the announcements first. `end` is where
    /// the next event will be stored: what is before is backlog, what follows is live.
    pub fn connected(&mut self, end: Position) {
        self.disconnected();
        self.connected = true;
        self.mark = Some(end);
    }

    /// What is on its way and not acknowledged.
    pub fn sending(&self) -> Vec<SeqRange> {
        self.flights.iter().map(|f| f.range).collect()
    }

    /// What was stored before `end` is backlog from here on, if there is a connection.
    pub fn backlog_ends(&mut self, end: Position) {
        self.mark = self.mark.map(|_| end);
    }

    /// The connection is gone, and with it all that was in flight: it will be sent again.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.mark = None;
        self.last_lane = None;
        self.flights.clear();
        self.last_sent = None;
        self.unanswered = None;
        self.farewell = None;
    }

    /// Whether a connection stands.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// No more events will come: once all are acked, one last heartbeat goes out, and with its
    /// answer [`Self::is_finished`] is true.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Whether everything was acked after [`Self::finish`], the last heartbeat included.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Un-acked ranges in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Ranges that the cloud refused and that wait for another try.
    pub fn refused(&self) -> usize {
        self.refusals.len()
    }

    /// How far the agent's clock is behind the cloud's, microseconds (negative: ahead), from the
    /// answer with the shortest way so far.
    pub fn clock_offset_us(&self) -> Option<i64> {
        self.clock_offset_us.map(|(offset, _)| offset)
    }

    /// Whether events are to wait, and only heartbeats go out: as long as the clock is not set, because
    /// the cloud corrects what comes from such a clock, and most events have right times. A heartbeat's
    /// answer says what time it is, so it is then repeated sooner.
    pub fn let_events_wait(&mut self, wait: bool) {
        self.events_wait = wait;
    }

    /// The agent's wall clock was set or stepped by `by` microseconds: what was measured by it still counts.
    pub fn clock_moved(&mut self, by: i64) {
        for sent in &mut self.sent {
            sent.at = EventTime(sent.at.as_micros().saturating_add(by));
        }
        if let Some((offset, _)) = &mut self.clock_offset_us {
            *offset = offset.saturating_sub(by);
        }
    }

    /// What to do at `now`. `to_tell` says whether announcements wait in the buffer. Call again
    /// until it returns none.
    pub fn poll(&mut self, now: Duration, backlog: &impl Backlog, to_tell: bool) -> Option<Step> {
        if !self.connected {
            return None;
        }
        if self
            .unanswered
            .is_some_and(|since| now >= since + self.settings.silence_max)
        {
            // Not again before another such silence.
            self.unanswered = Some(now);
            return Some(Step::Reconnect);
        }
        let next = match self.events_wait {
            true => None,
            false => self.overdue(now).or_else(|| self.waiting(now, backlog)),
        };
        if let Some(range) = next {
            self.farewell = None;
            self.finished = false;
            return Some(Step::Batch {
                tx_no: self.next_tx_no(),
                range,
            });
        }
        let drained = self.flights.is_empty() && self.refusals.is_empty() && backlog.is_empty();
        let say_farewell = self.finishing && drained && self.farewell.is_none();
        let quiet_since = self.last_sent;
        let due = match quiet_since {
            // The first words on a connection; batches would have come before.
            None => true,
            Some(at) => now >= at + self.heartbeat_wait(to_tell),
        };
        if !due && !say_farewell {
            return None;
        }
        let tx_no = self.next_tx_no();
        if self.finishing && drained {
            self.farewell.get_or_insert(tx_no);
        }
        Some(Step::Heartbeat { tx_no })
    }

    /// When [`Self::poll`] may have something to do, if nothing else happens; none without a
    /// connection.
    pub fn next_wake(&self, to_tell: bool) -> Option<Duration> {
        if !self.connected {
            return None;
        }
        let heartbeat = self
            .last_sent
            .map_or(Duration::ZERO, |at| at + self.heartbeat_wait(to_tell));
        if self.events_wait {
            let silence = self.unanswered.map(|at| at + self.settings.silence_max);
            return silence.into_iter().chain([heartbeat]).min();
        }
        let flights = self.flights.iter().map(|f| f.deadline);
        // Without room in flight, or in the lane, an ack or a deadline comes first.
        let refusals = self
            .refusals
            .iter()
            .filter(|r| self.has_room(self.lane(r.range, r.refused)))
            .map(|r| r.retry_at);
        let silence = self.unanswered.map(|at| at + self.settings.silence_max);
        let budget = self
            .budget
            .as_ref()
            .filter(|_| self.has_room(Lane::Backlog) && self.may_begin_new())
            .and_then(|b| b.enough_at(self.settings.batch_events_max));
        flights
            .chain(refusals)
            .chain(silence)
            .chain(budget)
            .chain([heartbeat])
            .min()
    }

    /// Transmission `tx_no` went out with the events of `range` (shorter than asked for, or none
    /// for a heartbeat) and said `said`. `at` is the agent's time in it.
    pub fn sent(
        &mut self,
        now: Duration,
        at: EventTime,
        tx_no: u64,
        range: Option<SeqRange>,
        said: Announcement,
    ) {
        if let Some(range) = range {
            let (attempts, refused) = self.take_attempts(range);
            let wait = exponential(
                self.settings.ack_timeout,
                self.settings.ack_timeout_max,
                attempts,
            );
            let deadline = now + self.jitter.around(wait);
            let lane = self.lane(range, refused);
            self.flights.push(Flight {
                range,
                attempts: attempts + 1,
                refused,
                deadline,
                lane,
            });
            self.last_lane = Some(lane);
            if let Some(budget) = self.budget.as_mut().filter(|_| lane == Lane::Backlog) {
                budget.tokens -= (range.last - range.first + 1) as f64;
            }
        }
        self.last_sent = Some(now);
        self.unanswered.get_or_insert(now);
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { tx_no, at, said });
    }

    /// Nothing of `range` is held any more: it was acked or dropped meanwhile.
    pub fn gone(&mut self, range: SeqRange) {
        subtract(&mut self.flights, range, |f| &mut f.range);
        subtract(&mut self.refusals, range, |r| &mut r.range);
    }

    /// An ack came at `now`, which is `at` on the agent's clock.
    pub fn ack(&mut self, now: Duration, at: EventTime, ack: &Ack) -> Answer {
        self.unanswered = None;
        for range in &ack.ranges {
            subtract(&mut self.flights, *range, |f| &mut f.range);
            subtract(&mut self.refusals, *range, |r| &mut r.range);
        }
        for refused in &ack.refused {
            self.refuse(now, refused.range, refused.reason);
        }
        self.take_budget(now, ack.backfill_budget);
        let answered = ack.tx_no != 0 && ack.refused.is_empty();
        if answered && self.farewell.is_some_and(|tx_no| tx_no <= ack.tx_no) {
            self.finished = true;
        }
        let known = self
            .sent
            .iter()
            .position(|s| s.tx_no == ack.tx_no && ack.tx_no != 0);
        let mut clock = None;
        let told = known.and_then(|i| self.sent.remove(i)).map(|sent| {
            clock = self.measure_clock(sent.at, at, ack);
            sent.said
        });
        // What was refused is not durable there, and neither is what it said.
        let told = told.filter(|said| answered && !said.is_empty());
        Answer {
            acked: ack.ranges.clone(),
            clock,
            told,
        }
    }

    fn next_tx_no(&mut self) -> u64 {
        self.tx_no += 1;
        self.tx_no
    }

    fn heartbeat_wait(&self, to_tell: bool) -> Duration {
        // What is new to the cloud does not wait for a whole heartbeat, and a farewell is repeated.
        if to_tell || self.events_wait || self.farewell.is_some() {
            self.settings.ack_timeout.min(self.settings.heartbeat)
        } else {
            self.settings.heartbeat
        }
    }

    /// The lane of a range that was refused so often.
    fn lane(&self, range: SeqRange, refused: u32) -> Lane {
        let live =
            |mark: Position| range.incarnation == mark.incarnation && mark.seq <= range.first;
        if refused == 0 && self.mark.is_none_or(live) {
            Lane::Live
        } else {
            Lane::Backlog
        }
    }

    /// Whether one more range of `lane` may be in flight.
    fn has_room(&self, lane: Lane) -> bool {
        self.flights.len() < self.settings.in_flight_max
            && (lane == Lane::Live || self.flights.iter().all(|f| f.lane == Lane::Live))
    }

    /// Whether the cloud takes enough for ranges to go out that it has not seen.
    fn may_begin_new(&self) -> bool {
        self.refusals.len() < self.settings.refused_max
    }

    /// The range whose ack is most overdue.
    fn overdue(&self, now: Duration) -> Option<SeqRange> {
        self.flights
            .iter()
            .filter(|f| f.deadline <= now)
            .min_by_key(|f| f.deadline)
            .map(|f| f.range)
    }

    /// What waits for a place in flight: first of the lane whose turn it is.
    fn waiting(&mut self, now: Duration, backlog: &impl Backlog) -> Option<SeqRange> {
        let mark = self.mark?;
        let lanes = match self.last_lane {
            Some(Lane::Backlog) => [Lane::Live, Lane::Backlog],
            Some(Lane::Live) | None => [Lane::Backlog, Lane::Live],
        };
        lanes
            .into_iter()
            .find_map(|lane| self.next_of(lane, mark, now, backlog))
    }

    fn next_of(
        &mut self,
        lane: Lane,
        mark: Position,
        now: Duration,
        backlog: &impl Backlog,
    ) -> Option<SeqRange> {
        if !self.has_room(lane) {
            return None;
        }
        let due = |r: &&Refusal| r.retry_at <= now && self.lane(r.range, r.refused) == lane;
        if let Some(refusal) = self.refusals.iter().find(due) {
            let last = refusal.range.first.saturating_add(refusal.events_max - 1);
            return Some(SeqRange {
                last: last.min(refusal.range.last),
                ..refusal.range
            });
        }
        if !self.may_begin_new() {
            return None;
        }
        let mut most = u64::from(self.settings.batch_events_max.max(1));
        if let Some(budget) = self.budget.as_mut().filter(|_| lane == Lane::Backlog) {
            budget.refill(now);
            if budget.tokens < budget.enough(self.settings.batch_events_max) {
                return None;
            }
            most = most.min(budget.tokens as u64);
        }
        let excluding: Vec<SeqRange> = self
            .flights
            .iter()
            .map(|f| f.range)
            .chain(self.refusals.iter().map(|r| r.range))
            .collect();
        match lane {
            Lane::Live => backlog.next_since(mark, &excluding, most),
            Lane::Backlog => backlog.next_before(mark, &excluding, most),
        }
    }

    /// How often events of `range` were tried on this connection, and how often refused; they are
    /// taken out of both lists.
    fn take_attempts(&mut self, range: SeqRange) -> (u32, u32) {
        let flights = || self.flights.iter().filter(|f| overlap(f.range, range));
        let refusals = self.refusals.iter().filter(|r| overlap(r.range, range));
        let attempts = flights().map(|f| f.attempts).max().unwrap_or(0);
        let refused = refusals
            .map(|r| r.refused)
            .chain(flights().map(|f| f.refused))
            .max();
        let refused = refused.unwrap_or(0);
        subtract(&mut self.flights, range, |f| &mut f.range);
        subtract(&mut self.refusals, range, |r| &mut r.range);
        (attempts, refused)
    }

    fn refuse(&mut self, now: Duration, range: SeqRange, reason: RefusalReason) {
        // Only of what is on its way: an old answer names numbers that were acked, or are tried in another cut,
        // and a wrong one any numbers at all.
        let named = self.flights.iter().filter(|f| overlap(f.range, range));
        let named = named.map(|f| (common(f.range, range), f.refused));
        let named: Vec<_> = named.collect();
        for (range, refused) in named {
            subtract(&mut self.flights, range, |f| &mut f.range);
            self.refuse_one(now, range, reason, refused);
        }
    }

    fn refuse_one(&mut self, now: Duration, range: SeqRange, reason: RefusalReason, refused: u32) {
        let (min, max) = (self.settings.refused_retry, self.settings.refused_retry_max);
        let wait = exponential(min, max, refused);
        let count = range.last.saturating_sub(range.first).saturating_add(1);
        // Too large: half of it may pass, at once.
        let halved = reason == RefusalReason::TooLarge && count > 1;
        self.refusals.push(Refusal {
            range,
            refused: refused.saturating_add(u32::from(!halved)),
            retry_at: if halved {
                now
            } else {
                now + self.jitter.around(wait)
            },
            events_max: if halved { count.div_ceil(2) } else { count },
        });
    }

    fn take_budget(&mut self, now: Duration, events_per_s: Option<u32>) {
        match (&mut self.budget, events_per_s) {
            (budget, None) => *budget = None,
            (Some(budget), Some(rate)) => {
                budget.refill(now);
                budget.events_per_s = rate;
            }
            (budget @ None, Some(events_per_s)) => {
                *budget = Some(Budget {
                    events_per_s,
                    tokens: f64::from(events_per_s),
                    at: now,
                });
            }
        }
    }

    /// The four times of NTP: sent here, received there, sent there, received here.
    fn measure_clock(
        &mut self,
        sent: EventTime,
        received: EventTime,
        ack: &Ack,
    ) -> Option<(i64, i64)> {
        let (t0, t3) = (sent.as_micros(), received.as_micros());
        let (t1, t2) = (
            ack.cloud_received_at.as_micros(),
            ack.cloud_sent_at.as_micros(),
        );
        if t1 == 0 || t2 == 0 {
            return None; // The cloud did not say.
        }
        let way = t3.saturating_sub(t0).saturating_sub(t2.saturating_sub(t1));
        let offset = t1.saturating_sub(t0) / 2 + t2.saturating_sub(t3) / 2;
        // A stale good measurement gives way slowly: clocks drift and are stepped.
        let best = self
            .clock_offset_us
            .map_or(i64::MAX, |(_, way)| way.saturating_add(way / 8 + 100));
        if way >= 0 && way <= best {
            self.clock_offset_us = Some((offset, way));
        } else if let Some((_, way)) = &mut self.clock_offset_us {
            *way = way.saturating_add(*way / 8 + 100);
        }
        Some((offset, way))
    }
}

impl Budget {
    fn refill(&mut self, now: Duration) {
        let rate = f64::from(self.events_per_s);
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate);
        self.at = now;
    }

    /// How much is saved up before a batch goes out: a quarter of a second's worth, at most a whole
    /// batch. One event at a time would cost more than it brings.
    fn enough(&self, batch_events_max: u32) -> f64 {
        f64::from((self.events_per_s / 4).clamp(1, batch_events_max.max(1)))
    }

    /// When there is enough, if there is not yet; none too if there never will be.
    fn enough_at(&self, batch_events_max: u32) -> Option<Duration> {
        let missing = self.enough(batch_events_max) - self.tokens;
        // The millisecond keeps rounding from waking us a moment too early, again and again.
        (missing > 0.0 && self.events_per_s > 0).then(|| {
            let wait = Duration::from_secs_f64(missing / f64::from(self.events_per_s));
            self.at + wait + Duration::from_millis(1)
        })
    }
}

fn overlap(a: SeqRange, b: SeqRange) -> bool {
    a.incarnation == b.incarnation && a.first <= b.last && b.first <= a.last
}

/// What two that overlap have in common.
fn common(a: SeqRange, b: SeqRange) -> SeqRange {
    SeqRange {
        incarnation: a.incarnation,
        first: a.first.max(b.first),
        last: a.last.min(b.last),
    }
}

/// `range` without `gone`, if one piece of it remains; a hole in the middle leaves the larger end to
/// be found again by the backlog, so the head is kept.
fn cut(range: SeqRange, gone: SeqRange) -> Option<SeqRange> {
    if !overlap(range, gone) {
        return Some(range);
    }
    if range.first < gone.first {
        return Some(SeqRange {
            last: gone.first - 1,
            ..range
        });
    }
    (gone.last < range.last).then(|| SeqRange {
        first: gone.last + 1,
        ..range
    })
}

fn subtract<T>(list: &mut Vec<T>, gone: SeqRange, range: impl Fn(&mut T) -> &mut SeqRange) {
    list.retain_mut(|item| match cut(*range(item), gone) {
        Some(rest) => {
            *range(item) = rest;
            true
        }
        None => false,
    });
}
