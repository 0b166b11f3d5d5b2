//! A virtual agent: rules A1 to A5 of PROTOCOL.md as a pure state machine over a buffer in memory.
//!
//! Events are numbered when they are taken and keep that number for ever. They wait in **segments**:
//! contiguous ranges of one incarnation, each pending, in flight or parked (refused). Only an ack that
//! names a seq deletes it. Ranges are re-cut on purpose now and then, because the protocol allows it
//! and the cloud must not mind. Time is an argument; nothing here reads a clock or a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::{
    Ack, AgentId, BatchHeader, ClockQuality, ClockState, DeviceId, EventTime, Held, Incarnation,
    Lineage, Sample, SeqRange, batch,
};

use crate::clock::Now;
use crate::fleet::Fleet;
use crate::memory::{AgentMemory, LifeMemory, Lost};
use crate::rng::Rng;
use crate::source::Event;

/// Most un-acked ranges in flight (A3).
pub const IN_FLIGHT_MAX: usize = 8;
/// How long a refused range waits before it is tried again, microseconds.
pub const REFUSED_RETRY_US: u64 = 30_000_000;
/// A range that waited so long for its first transmission is backlog: the cloud's brake holds for it.
const BACKLOG_AGE_US: u64 = 10_000_000;
/// Resends double their timeout so often.
const BACKOFF_DOUBLINGS: u32 = 3;

/// What a virtual agent counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events taken.
    pub made: u64,
    /// Events that an ack named.
    pub acked: u64,
    /// Batches with events that were sent, resends included.
    pub batches: u64,
    /// Those of them that were resends.
    pub resends: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Bytes of all of these.
    pub bytes: u64,
    /// Ranges cut in two before a resend.
    pub recuts: u64,
    /// Process restarts.
    pub restarts: u64,
    /// Ranges that the cloud refused.
    pub refused: u64,
    /// Acks that named events which were never sent: a fault of the cloud.
    pub wrong_acks: u64,
}

/// One transmission, ready to publish on the agent's batch topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Transmission {
    /// Its number.
    pub tx_no: u64,
    /// The encoded batch.
    pub bytes: Vec<u8>,
    /// How many events are inside.
    pub events: u32,
}

type Key = (Incarnation, u64);

#[derive(Debug)]
struct Segment {
    events: Vec<Event>,
    made: u64,
    sends: u32,
}

#[derive(Debug)]
struct Ancestor {
    incarnation: Incarnation,
    last_seq: u64,
    held: bool,
    /// The first transmission that tells the present value of `held`.
    told_from: u64,
    /// An ack has answered such a transmission.
    told: bool,
}

/// A virtual agent with its buffer.
#[derive(Debug)]
pub struct Agent {
    fleet: Arc<Fleet>,
    id: AgentId,
    devices: Vec<DeviceId>,
    incarnation: Incarnation,
    next_seq: u64,
    tx_no: u64,
    /// The newest events, not yet cut into a segment.
    tail: Vec<Event>,
    segments: BTreeMap<Key, Segment>,
    pending: BTreeSet<Key>,
    /// When each range in flight is to be sent again.
    flight: BTreeMap<Key, u64>,
    /// When each refused range is to be sent again.
    parked: BTreeMap<Key, u64>,
    /// Segments by their earliest event, for the low watermark.
    by_time: BTreeSet<(EventTime, Key)>,
    lineage: Vec<Ancestor>,
    /// Declared losses of earlier runs; told until an ack answers the first transmission or a later.
    lost: Vec<Lost>,
    lost_told_from: u64,
    /// Everything up to here goes first, and alone: the devices' attributes.
    barrier: Option<Key>,
    budget: Option<f64>,
    tokens: f64,
    tokens_at: u64,
    rng: Rng,
    samples: Vec<Sample>,
    answered: u64,
    refusal: Option<String>,
    /// What happened so far.
    pub counters: Counters,
}

impl Agent {
    /// Agent number `number` of the fleet in its first incarnation.
    ///
    /// **Errors**: ids that break the rules (the settings were not checked).
    pub fn new(fleet: Arc<Fleet>, number: u32, incarnation: Incarnation) -> anyhow::Result<Self> {
        let devices = fleet
            .devices_of(number)
            .map(|d| fleet.device_id(d))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            id: fleet.agent_id(number)?,
            rng: Rng::new(
                fleet.settings.seed,
                0xa6e0_0000_0000_0000 | u64::from(number),
            ),
            fleet,
            devices,
            incarnation,
            next_seq: 1,
            tx_no: 0,
            tail: Vec::new(),
            segments: BTreeMap::new(),
            pending: BTreeSet::new(),
            flight: BTreeMap::new(),
            parked: BTreeMap::new(),
            by_time: BTreeSet::new(),
            lineage: Vec::new(),
            lost: Vec::new(),
            lost_told_from: 1,
            barrier: None,
            budget: None,
            tokens: 0.0,
            tokens_at: 0,
            samples: Vec::new(),
            answered: 0,
            refusal: None,
            counters: Counters::default(),
        })
    }

    /// Goes on where an earlier run ended: this life follows those it remembers. To be called before
    /// anything else.
    pub fn recall(&mut self, memory: &AgentMemory) {
        self.tx_no = memory.tx_no;
        let told_from = self.tx_no + 1;
        self.lineage = memory
            .lives
            .iter()
            .map(|l| Ancestor {
                incarnation: l.incarnation,
                last_seq: l.last_seq,
                held: false,
                told_from,
                told: false,
            })
            .collect();
        self.lost = memory.lost.clone();
        self.lost_told_from = told_from;
        let newest = memory
            .lives
            .iter()
            .map(|l| l.incarnation.no)
            .max()
            .unwrap_or(0);
        self.incarnation.no = self.incarnation.no.max(newest.saturating_add(1));
    }

    /// What a later run needs to go on as the same agent.
    pub fn remember(&self) -> AgentMemory {
        let earlier = self.lineage.iter();
        let mut lives: Vec<LifeMemory> = earlier
            .map(|a| LifeMemory {
                incarnation: a.incarnation,
                last_seq: a.last_seq,
            })
            .collect();
        lives.push(LifeMemory {
            incarnation: self.incarnation,
            last_seq: self.next_seq - 1,
        });
        let mut lost = self.lost.clone();
        let tail = (self.tail_key(), self.tail.as_slice());
        let held = self
            .segments
            .iter()
            .map(|(&key, s)| (key, s.events.as_slice()));
        for ((incarnation, from), events) in held.chain([tail]).filter(|(_, e)| !e.is_empty()) {
            let to = from + events.len() as u64 - 1;
            let times = || events.iter().map(|e| e.time);
            let time_from = times().min().unwrap_or_default();
            let time_to = times().max().unwrap_or_default();
            match lost.last_mut() {
                Some(last) if last.incarnation == incarnation && last.to + 1 == from => {
                    last.to = to;
                    last.time_from = last.time_from.min(time_from);
                    last.time_to = last.time_to.max(time_to);
                }
                _ => lost.push(Lost {
                    incarnation,
                    from,
                    to,
                    time_from,
                    time_to,
                }),
            }
        }
        AgentMemory {
            tx_no: self.tx_no,
            lives,
            lost,
        }
    }

    /// Its name.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// Its present incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Events held un-acked.
    pub fn held(&self) -> u64 {
        self.counters.made - self.counters.acked
    }

    /// Whether an ack has answered the transmission `tx_no` or a later one.
    pub fn is_answered(&self, tx_no: u64) -> bool {
        self.answered >= tx_no
    }

    /// Why the cloud last refused something.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Takes an event: from here on it has its identity and is held until an ack names it.
    pub fn take(&mut self, event: Event, now: u64) {
        if event.metric.is_attribute() {
            self.barrier = Some((self.incarnation, self.next_seq));
        }
        self.tail.push(event);
        self.next_seq += 1;
        self.counters.made += 1;
        if self.tail.len() >= self.fleet.settings.batch_events {
            self.cut_tail(now);
        }
    }

    /// How many of the newest events are not in a full batch yet.
    pub fn tail_len(&self) -> usize {
        self.tail.len()
    }

    /// The earliest time at which a range in flight or a refused one is to be sent again.
    pub fn next_resend(&self) -> Option<u64> {
        self.flight
            .values()
            .chain(self.parked.values())
            .copied()
            .min()
    }

    /// The next batch to send, if one may go now. `present`: no event that is taken later will be
    /// earlier than this. `flush`: a batch that is not full may go too.
    pub fn next_batch(
        &mut self,
        now: Now,
        present: EventTime,
        flush: bool,
    ) -> Option<Transmission> {
        let due = |map: &BTreeMap<Key, u64>| {
            map.iter()
                .find(|&(_, &due)| due <= now.real)
                .map(|(&key, _)| key)
        };
        let key = if let Some(key) = due(&self.flight).or_else(|| due(&self.parked)) {
            self.flight.remove(&key);
            self.parked.remove(&key);
            if self.rng.chance(0.25) {
                self.cut_in_two(key);
            }
            key
        } else if self.flight.len() >= IN_FLIGHT_MAX {
            return None;
        } else {
            self.first_pending(now.real, flush)?
        };
        self.send(key, now, present)
    }

    /// An empty batch: tells the low watermark, the backlog and the lineage.
    pub fn heartbeat(&mut self, now: Now, present: EventTime) -> Option<Transmission> {
        let header = self.header(now, present, None);
        let bytes = batch::encode(&header, &[]).ok()?;
        self.counters.heartbeats += 1;
        Some(self.sent(bytes, 0))
    }

    /// What the cloud answered. Exactly the named ranges are deleted (A2).
    pub fn hear(&mut self, ack: &Ack, now: u64) {
        // A transmission of another life of this process may be answered late: numbers go on over
        // restarts, so such an answer is never taken for one of this life.
        if ack.tx_no <= self.tx_no {
            self.answered = self.answered.max(ack.tx_no);
            for a in &mut self.lineage {
                a.told |= ack.tx_no >= a.told_from;
            }
            if ack.tx_no >= self.lost_told_from && !self.lost.is_empty() {
                self.lost.drain(..self.lost.len().min(batch::LINEAGE_MAX));
                self.lost_told_from = self.tx_no + 1;
            }
        }
        for range in &ack.ranges {
            self.delete(*range);
        }
        for refused in &ack.refused {
            self.park(refused.range, now);
            self.counters.refused += 1;
            self.refusal = Some(format!("{}: {}", refused.reason, refused.message));
        }
        self.budget = ack.backfill_budget.map(f64::from);
        let segments = &self.segments;
        for a in &mut self.lineage {
            let first = (a.incarnation, 0);
            let last = (a.incarnation, u64::MAX);
            if a.held && segments.range(first..=last).next().is_none() {
                a.held = false;
                a.told = false;
                a.told_from = self.tx_no + 1;
            }
        }
        self.lineage.retain(|a| a.held || !a.told);
        if let Some(barrier) = self.barrier
            && self
                .segments
                .first_key_value()
                .is_none_or(|(&key, _)| key > barrier)
            && self.tail_key() > barrier
        {
            self.barrier = None;
        }
    }

    /// The connection is gone: what was in flight may be lost and is sent again on the next one.
    pub fn disconnected(&mut self) {
        for (key, _) in std::mem::take(&mut self.flight) {
            self.pending.insert(key);
        }
    }

    /// The process dies and comes back with its buffer: a new incarnation that goes on sending what
    /// the old one numbered.
    pub fn restart(&mut self, rand: u64, now: u64) {
        self.cut_tail(now);
        self.disconnected();
        for (key, _) in std::mem::take(&mut self.parked) {
            self.pending.insert(key);
        }
        let old = self.incarnation;
        let held = self
            .segments
            .range((old, 0)..=(old, u64::MAX))
            .next()
            .is_some();
        let told_from = self.tx_no + 1;
        let last_seq = self.next_seq - 1;
        self.lineage.push(Ancestor {
            incarnation: old,
            last_seq,
            held,
            told_from,
            told: false,
        });
        for a in &mut self.lineage {
            a.told = false;
            a.told_from = told_from;
        }
        self.lost_told_from = told_from;
        self.incarnation = Incarnation {
            no: old.no + 1,
            rand,
        };
        self.next_seq = 1;
        self.counters.restarts += 1;
        // A new process knows nothing of how the old one had cut its ranges.
        let keys: Vec<Key> = self.pending.iter().copied().take(64).collect();
        for key in keys {
            if self.rng.chance(0.5) {
                self.cut_in_two(key);
            }
        }
    }

    /// The earliest event time among the events held un-acked that are not in the segment `sending`;
    /// if there is none, `present` (A5: all incarnations count).
    pub fn low_watermark(&self, present: EventTime) -> EventTime {
        self.watermark_without(None, present)
    }

    fn watermark_without(&self, sending: Option<Key>, present: EventTime) -> EventTime {
        let held = self
            .by_time
            .iter()
            .find(|(_, key)| Some(*key) != sending)
            .map(|&(time, _)| time);
        let tail = self.tail.iter().map(|e| e.time).min();
        held.into_iter().chain(tail).fold(present, EventTime::min)
    }

    fn tail_key(&self) -> Key {
        (self.incarnation, self.next_seq - self.tail.len() as u64)
    }

    fn cut_tail(&mut self, now: u64) -> Option<Key> {
        if self.tail.is_empty() {
            return None;
        }
        let key = self.tail_key();
        let events = std::mem::take(&mut self.tail);
        self.insert(
            key,
            Segment {
                events,
                made: now,
                sends: 0,
            },
        );
        self.pending.insert(key);
        Some(key)
    }

    fn first_pending(&mut self, now: u64, flush: bool) -> Option<Key> {
        let blocked = |key: Key| match self.barrier {
            Some(barrier) => {
                key > barrier
                    && self
                        .segments
                        .first_key_value()
                        .is_some_and(|(&k, _)| k <= barrier)
            }
            None => false,
        };
        if let Some(&key) = self.pending.first() {
            if blocked(key) || self.is_braked(now) {
                return None;
            }
            self.pay(key, now);
            self.pending.remove(&key);
            return Some(key);
        }
        if !flush || self.tail.is_empty() || blocked(self.tail_key()) {
            return None;
        }
        let key = self.cut_tail(now)?;
        self.pending.remove(&key);
        Some(key)
    }

    /// Whether the cloud's budget for backlog forbids the next pending range for now.
    fn is_braked(&self, now: u64) -> bool {
        let Some(budget) = self.budget else {
            return false;
        };
        let is_backlog = self
            .pending
            .first()
            .and_then(|key| self.segments.get(key))
            .is_some_and(|s| now.saturating_sub(s.made) > BACKLOG_AGE_US);
        let gained = budget * now.saturating_sub(self.tokens_at) as f64 / 1e6;
        is_backlog && (self.tokens + gained).min(budget) < 0.0
    }

    fn pay(&mut self, key: Key, now: u64) {
        let Some(budget) = self.budget else { return };
        let gained = budget * now.saturating_sub(self.tokens_at) as f64 / 1e6;
        self.tokens = (self.tokens + gained).min(budget);
        self.tokens_at = now;
        if let Some(s) = self.segments.get(&key)
            && now.saturating_sub(s.made) > BACKLOG_AGE_US
        {
            self.tokens -= s.events.len() as f64;
        }
    }

    fn send(&mut self, key: Key, now: Now, present: EventTime) -> Option<Transmission> {
        let header = self.header(now, present, Some(key));
        let segment = self.segments.get_mut(&key)?;
        segment.sends += 1;
        let sends = segment.sends;
        let mut samples = std::mem::take(&mut self.samples);
        samples.clear();
        let vocabulary = &self.fleet.vocabulary;
        samples.extend(segment.events.iter().map(|e| Sample {
            device: self.devices[e.device as usize].clone(),
            metric: vocabulary.name(e.metric).clone(),
            time: e.time,
            value: vocabulary.value(e.metric, e.value),
        }));
        let encoded = batch::encode(&header, &samples);
        let events = samples.len() as u32;
        self.samples = samples;
        let timeout = self.timeout(sends);
        let Ok(bytes) = encoded else {
            // Over a size limit: smaller ranges fit. Our values are always finite and short.
            if !self.cut_in_two(key) {
                self.parked.insert(key, now.real + REFUSED_RETRY_US);
                return None;
            }
            return self.send(key, now, present);
        };
        self.flight.insert(key, now.real + timeout);
        self.counters.batches += 1;
        self.counters.resends += u64::from(sends > 1);
        Some(self.sent(bytes, events))
    }

    fn timeout(&mut self, sends: u32) -> u64 {
        let base = crate::duration::micros(self.fleet.settings.ack_timeout);
        let full = base << (sends - 1).min(BACKOFF_DOUBLINGS);
        full - full / 4 + self.rng.below(full / 2 + 1)
    }

    fn sent(&mut self, bytes: Vec<u8>, events: u32) -> Transmission {
        self.counters.bytes += bytes.len() as u64;
        Transmission {
            tx_no: self.tx_no,
            bytes,
            events,
        }
    }

    fn header(&mut self, now: Now, present: EventTime, key: Option<Key>) -> BatchHeader {
        self.tx_no += 1;
        let (e_inc, first_seq) = key.unwrap_or((self.incarnation, self.next_seq));
        let count = key
            .and_then(|k| self.segments.get(&k))
            .map_or(0, |s| s.events.len() as u32);
        let oldest = self.watermark_without(None, EventTime(i64::MAX));
        let lineage = self
            .lineage
            .iter()
            .filter(|a| !a.told)
            .take(batch::LINEAGE_MAX)
            .map(|a| Lineage {
                incarnation: a.incarnation,
                last_seq: a.last_seq,
                held: a.held,
            })
            .collect();
        BatchHeader {
            agent: self.id.clone(),
            incarnation: self.incarnation,
            tx_no: self.tx_no,
            sent_at: now.wall,
            boottime_us: now.real,
            clock: ClockState {
                quality: ClockQuality::Ntp,
                error_ms: 1,
            },
            e_inc,
            first_seq,
            count,
            low_watermark: self.watermark_without(key, present),
            quiet_until: None,
            held: Held {
                events: self.held(),
                bytes: self.held() * size_of::<Event>() as u64,
                oldest: (self.held() > 0).then_some(oldest),
            },
            lineage,
            unclean: None,
            gaps: self
                .lost
                .iter()
                .take(batch::LINEAGE_MAX)
                .map(Lost::gap)
                .collect(),
        }
    }

    fn insert(&mut self, key: Key, segment: Segment) {
        let oldest = oldest(&segment);
        self.by_time.insert((oldest, key));
        self.segments.insert(key, segment);
    }

    fn remove(&mut self, key: Key) -> Option<Segment> {
        let segment = self.segments.remove(&key)?;
        self.by_time.remove(&(oldest(&segment), key));
        self.pending.remove(&key);
        self.flight.remove(&key);
        self.parked.remove(&key);
        Some(segment)
    }

    /// Cuts a segment somewhere; the second part becomes pending. False if it has one event only.
    fn cut_in_two(&mut self, key: Key) -> bool {
        let Some(len) = self
            .segments
            .get(&key)
            .map(|s| s.events.len())
            .filter(|&n| n > 1)
        else {
            return false;
        };
        let was_pending = self.pending.contains(&key);
        let Some(mut segment) = self.remove(key) else {
            return false;
        };
        let at = 1 + self.rng.below(len as u64 - 1);
        let events = segment.events.split_off(at as usize);
        let second = (key.0, key.1 + at);
        self.insert(
            second,
            Segment {
                events,
                made: segment.made,
                sends: segment.sends,
            },
        );
        self.pending.insert(second);
        self.insert(key, segment);
        if was_pending {
            self.pending.insert(key);
        }
        self.counters.recuts += 1;
        true
    }

    /// The segments that overlap a range.
    fn overlapping(&self, range: SeqRange) -> Vec<Key> {
        self.segments
            .range((range.incarnation, 0)..=(range.incarnation, range.last))
            .rev()
            .take_while(|((_, first), s)| first + s.events.len() as u64 > range.first)
            .map(|(&key, _)| key)
            .collect()
    }

    fn delete(&mut self, range: SeqRange) {
        let (inc, first_unsent) = self.tail_key();
        if range.incarnation == inc && range.last >= first_unsent {
            self.counters.wrong_acks += 1;
        }
        for key in self.overlapping(range) {
            let state = (
                self.flight.get(&key).copied(),
                self.parked.get(&key).copied(),
            );
            let Some(segment) = self.remove(key) else {
                continue;
            };
            let len = segment.events.len() as u64;
            // Offsets of the named part within the segment.
            let from = range.first.saturating_sub(key.1).min(len);
            let to = (range.last - key.1 + 1).min(len);
            if segment.sends == 0 {
                self.counters.wrong_acks += 1;
            }
            self.counters.acked += to - from;
            for (start, end) in [(0, from), (to, len)] {
                if start == end {
                    continue;
                }
                let rest = (key.0, key.1 + start);
                let events = segment.events[start as usize..end as usize].to_vec();
                self.insert(
                    rest,
                    Segment {
                        events,
                        made: segment.made,
                        sends: segment.sends,
                    },
                );
                match state {
                    (Some(due), _) => {
                        self.flight.insert(rest, due);
                    }
                    (None, Some(due)) => {
                        self.parked.insert(rest, due);
                    }
                    (None, None) => {
                        self.pending.insert(rest);
                    }
                }
            }
        }
    }

    fn park(&mut self, range: SeqRange, now: u64) {
        for key in self.overlapping(range) {
            self.flight.remove(&key);
            self.pending.remove(&key);
            self.parked.insert(key, now + REFUSED_RETRY_US);
        }
    }
}

fn oldest(segment: &Segment) -> EventTime {
    segment
        .events
        .iter()
        .map(|e| e.time)
        .min()
        .unwrap_or(EventTime(i64::MAX))
}
