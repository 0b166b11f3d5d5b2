//! Random lives of an honest agent behind a network that loses, repeats and reorders, against a model that
//! knows every event; and snapshots made of noise.

use std::collections::{BTreeMap, BTreeSet};

use event::{EventTime, Gap, GapReason, Lineage, TimeRange};
use proptest::prelude::*;
use proptest::sample::Index;

use super::tests::{header, inc, lineage, saved};
use super::*;

#[derive(Debug, Clone)]
enum Op {
    Make(u8),
    /// Sends a cut of what is held: which one, how many.
    Send(Index, u8),
    Heartbeat,
    /// Delivers something that is under way; it may come once more.
    Deliver(Index, bool),
    Drop(Index),
    Ack(Index),
    LoseAck(Index),
    /// The buffer is full: the oldest is declared lost.
    Overflow,
    Restart,
    Snapshot,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u8..6).prop_map(Op::Make),
        6 => (any::<Index>(), 1u8..8).prop_map(|(at, n)| Op::Send(at, n)),
        2 => Just(Op::Heartbeat),
        6 => (any::<Index>(), any::<bool>()).prop_map(|(at, again)| Op::Deliver(at, again)),
        1 => any::<Index>().prop_map(Op::Drop),
        4 => any::<Index>().prop_map(Op::Ack),
        1 => any::<Index>().prop_map(Op::LoseAck),
        1 => Just(Op::Overflow),
        1 => Just(Op::Restart),
        1 => Just(Op::Snapshot),
    ]
}

type Id = (Incarnation, u64);

struct Ancestor {
    last: u64,
    held: bool,
    told: bool,
}

/// Agent, network, cloud, and what is true.
struct World {
    now: i64,
    incarnation: Incarnation,
    next: u64,
    tx_no: u64,
    spoke: bool,
    /// Un-acked events and their times.
    held: BTreeMap<Id, i64>,
    ancestors: BTreeMap<Incarnation, Ancestor>,
    gaps: BTreeMap<Id, Gap>,
    net: Vec<BatchHeader>,
    acks: Vec<BatchHeader>,
    /// Made, not delivered, not given up.
    awaited: BTreeMap<Id, i64>,
    delivered: BTreeSet<Id>,
    /// Declared lost.
    given_up: BTreeSet<Id>,
    cloud: Agents,
    /// The same without the short way for ordinary batches.
    slow: Agents,
}

impl World {
    fn new() -> Self {
        let mut cloud = Agents::default();
        cloud.number("a", false).unwrap();
        Self {
            now: 1_000_000,
            incarnation: inc(1),
            next: 1,
            tx_no: 0,
            spoke: false,
            held: BTreeMap::new(),
            ancestors: BTreeMap::new(),
            gaps: BTreeMap::new(),
            net: Vec::new(),
            acks: Vec::new(),
            awaited: BTreeMap::new(),
            delivered: BTreeSet::new(),
            given_up: BTreeSet::new(),
            slow: cloud.clone(),
            cloud,
        }
    }

    fn make(&mut self, n: u8) {
        for _ in 0..n {
            self.now += 1;
            let id = (self.incarnation, self.next);
            self.next += 1;
            self.held.insert(id, self.now);
            self.awaited.insert(id, self.now);
        }
    }

    /// A transmission with the events `first..first + count` of one incarnation.
    fn send(&mut self, cut: Option<(Id, u64)>) {
        self.now += 1;
        self.tx_no += 1;
        self.spoke = true;
        let inside = |id: &Id| {
            cut.is_some_and(|((inc, first), n)| id.0 == inc && (first..first + n).contains(&id.1))
        };
        let outside = self.held.iter().filter(|(id, _)| !inside(id));
        let watermark = outside.map(|(_, t)| *t).min().unwrap_or(self.now);
        let mut h = header(self.incarnation, self.tx_no, watermark);
        h.sent_at = EventTime(self.now);
        h.held.events = self.held.len() as u64;
        if let Some(((inc, first), n)) = cut {
            (h.e_inc, h.first_seq, h.count) = (inc, first, n as u32);
        }
        let untold = self.ancestors.iter().filter(|(_, a)| !a.told);
        h.lineage = untold.map(|(i, a)| lineage(*i, a.last, a.held)).collect();
        h.gaps = self.gaps.values().copied().collect();
        self.net.push(h);
    }

    fn send_some(&mut self, at: usize, n: u8) {
        let id = *self.held.keys().nth(at).unwrap();
        let run = (0..u64::from(n)).take_while(|i| self.held.contains_key(&(id.0, id.1 + i)));
        let n = run.count() as u64;
        self.send(Some((id, n)));
    }

    fn deliver(&mut self, h: &BatchHeader) {
        self.now += 1;
        if let Some(last) = h.last_seq() {
            // A copy of what was declared lost is a duplicate once its life is closed (P3).
            let closed = self.closed(h.e_inc);
            let ids = (h.first_seq..=last)
                .map(|seq| (h.e_inc, seq))
                .filter(|id| !closed || !self.given_up.contains(id));
            let new: Vec<Id> = ids.filter(|id| !self.delivered.contains(id)).collect();
            let fresh = self.cloud.take_range(0, h.e_inc, h.first_seq, last);
            let slow = |a: &mut Agent| a.take_range(h.e_inc, h.first_seq, last);
            assert_eq!(self.slow.with(0, slow), fresh);
            let Fresh::Ranges(fresh) = fresh else {
                panic!("an honest agent is not refused");
            };
            let fresh = fresh.iter().flat_map(|&(a, b)| a..=b);
            let fresh: Vec<Id> = fresh.map(|seq| (h.e_inc, seq)).collect();
            assert_eq!(fresh, new, "each event is new exactly once");
            for id in new {
                self.awaited.remove(&id);
                self.delivered.insert(id);
            }
        }
        assert_eq!(self.cloud.take_header(0, h, self.now), None, "it is honest");
        let said = Said {
            header: h,
            ingest: self.now,
            shift: 0,
        };
        self.slow.with(0, |a| a.take_header(&said));
        assert_eq!(self.slow.hot, self.cloud.hot);
        assert_eq!(self.slow.rare, self.cloud.rare);
        assert_eq!(self.slow.ranges, self.cloud.ranges);
        self.check_progress();
        self.acks.push(h.clone());
    }

    fn closed(&self, incarnation: Incarnation) -> bool {
        let rare = self.cloud.rare(0);
        rare.is_some_and(|r| r.tombstones.end(incarnation).is_some())
    }

    fn check_progress(&self) {
        let earliest = self.awaited.values().min().copied().unwrap_or(self.now);
        let progress = self.cloud.hot(0).progress;
        assert!(progress <= earliest, "{progress} beyond {earliest}");
    }

    fn ack(&mut self, h: &BatchHeader) {
        if let Some(last) = h.last_seq() {
            for seq in h.first_seq..=last {
                self.held.remove(&(h.e_inc, seq));
            }
        }
        if h.incarnation == self.incarnation {
            for Lineage {
                incarnation, held, ..
            } in &h.lineage
            {
                let Some(a) = self.ancestors.get_mut(incarnation) else {
                    continue;
                };
                if a.held == *held && *held {
                    a.told = true;
                } else if a.held == *held {
                    self.ancestors.remove(incarnation);
                }
            }
            for gap in &h.gaps {
                self.gaps.remove(&(gap.incarnation, gap.from));
            }
        }
        self.settle_ancestors();
    }

    /// An ancestor whose last event has gone is told again.
    fn settle_ancestors(&mut self) {
        for (inc, a) in &mut self.ancestors {
            let range = (*inc, 0)..=(*inc, u64::MAX);
            if a.held && self.held.range(range).next().is_none() {
                (a.held, a.told) = (false, false);
            }
        }
    }

    fn overflow(&mut self) {
        if let Some((id, t)) = self.held.pop_first() {
            // A copy may be under way: it counts if it comes.
            self.awaited.remove(&id);
            self.given_up.insert(id);
            let time = TimeRange {
                from: EventTime(t),
                to: EventTime(t),
            };
            let gap = Gap {
                incarnation: id.0,
                from: id.1,
                to: id.1,
                time,
                reason: GapReason::Overflow,
            };
            self.gaps.insert(id, gap);
            self.settle_ancestors();
        }
    }

    fn restart(&mut self) {
        self.now += 1;
        let old = self.incarnation;
        if self.spoke || self.next > 1 {
            let range = (old, 0)..=(old, u64::MAX);
            let ancestor = Ancestor {
                last: self.next - 1,
                held: self.held.range(range).next().is_some(),
                told: false,
            };
            self.ancestors.insert(old, ancestor);
        }
        self.ancestors.values_mut().for_each(|a| a.told = false);
        self.incarnation = inc(old.no + 1);
        (self.next, self.tx_no, self.spoke) = (1, 0, false);
    }

    fn snapshot(&mut self) {
        let bytes = saved(&self.cloud);
        let mut rest = bytes.as_slice();
        let back = Agents::load(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!((&back.hot, &back.rare), (&self.cloud.hot, &self.cloud.rare));
        assert_eq!(back.seq_ranges(), self.cloud.seq_ranges());
        assert_eq!(saved(&back), bytes);
        self.cloud = back;
    }

    fn step(&mut self, op: &Op) {
        let pick = |at: &Index, len: usize| (len > 0).then(|| at.index(len));
        match op {
            Op::Make(n) => self.make(*n),
            Op::Send(at, n) => match pick(at, self.held.len()) {
                Some(i) => self.send_some(i, *n),
                None => self.send(None),
            },
            Op::Heartbeat => self.send(None),
            Op::Deliver(at, again) => {
                if let Some(i) = pick(at, self.net.len()) {
                    let h = if *again {
                        self.net[i].clone()
                    } else {
                        self.net.remove(i)
                    };
                    self.deliver(&h);
                }
            }
            Op::Drop(at) => {
                if let Some(i) = pick(at, self.net.len()) {
                    self.net.remove(i);
                }
            }
            Op::Ack(at) => {
                if let Some(i) = pick(at, self.acks.len()) {
                    let h = self.acks.remove(i);
                    self.ack(&h);
                }
            }
            Op::LoseAck(at) => {
                if let Some(i) = pick(at, self.acks.len()) {
                    self.acks.remove(i);
                }
            }
            Op::Overflow => self.overflow(),
            Op::Restart => self.restart(),
            Op::Snapshot => self.snapshot(),
        }
    }

    /// The network is perfect until nothing is held and nothing is to be told; then come late copies.
    fn heal(&mut self) {
        let late = std::mem::take(&mut self.net);
        loop {
            if self.held.is_empty() {
                self.send(None);
            } else {
                self.send_some(0, 7);
            }
            let h = self.net.remove(0);
            self.deliver(&h);
            self.ack(&h);
            if self.held.is_empty() && self.ancestors.is_empty() && self.gaps.is_empty() {
                break;
            }
        }
        self.send(None);
        let newest = self.net.remove(0);
        self.deliver(&newest);
        for h in &late {
            self.deliver(h);
        }
        self.snapshot();
        assert!(self.awaited.is_empty());
        let hot = self.cloud.hot(0);
        assert_eq!(hot.progress, newest.low_watermark.as_micros());
        // Earlier lives are closed; what is not ordinary of the present one are declared losses.
        let more = self.cloud.rare(0).and_then(|r| r.more.as_ref());
        match more.map_or(&[][..], |m| &m.lives) {
            [] => assert_eq!(hot.life(), Some(self.incarnation)),
            [one] => {
                assert_eq!(one.incarnation, self.incarnation);
                assert!(one.lost.len() > 0);
            }
            more => panic!("{more:?}"),
        }
        assert!(!hot.irregular());
        for inc in self.delivered.iter().map(|id| id.0) {
            assert!(self.closed(inc) || inc == self.incarnation);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_honest_agent_counts_once_and_is_never_said_to_be_further_than_it_is(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.heal();
    }
}

/// A table with all kinds of records.
fn mixed() -> Agents {
    let mut agents = Agents::default();
    for n in 0..6 {
        agents.number(&format!("agent-{n}"), n == 5).unwrap();
    }
    agents.take_range(0, inc(1), 1, 10);
    agents.take_range(1, inc(1), 1, 10);
    agents.take_range(1, inc(1), 20, 30);
    let mut h = header(inc(2), 1, 500);
    h.lineage = vec![lineage(inc(1), 40, false)];
    h.held.events = 9;
    h.quiet_until = Some(EventTime(7));
    for n in 0..4 {
        agents.take_header(n, &h, 1000);
    }
    h.incarnation.rand = 5;
    agents.take_header(2, &h, 1000);
    h.incarnation.no = 3;
    h.lineage = vec![lineage(inc(1), 10, false), lineage(inc(2), 0, false)];
    agents.take_header(0, &h, 1000);
    agents
}

/// Whatever was read can be used.
fn exercise(agents: &mut Agents, ingest: i64) {
    for n in 0..agents.len().min(16) as u32 {
        for no in 0..4 {
            let _ = agents.take_range(n, inc(no), 5, 25);
            let mut h = header(inc(no), 7, ingest / 2);
            h.lineage = vec![lineage(inc(1), 12, false)];
            let _ = agents.take_header(n, &h, ingest);
            let _ = agents.offset(n);
            agents.is_present(n, inc(no));
        }
        let _ = (agents.name(n), agents.losses(n), agents.held(n));
    }
    saved(agents);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise_is_no_table(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Some(mut agents) = Agents::load(&mut bytes.as_slice()) {
            exercise(&mut agents, 1000);
        }
    }

    #[test]
    fn a_damaged_table_is_refused_or_can_be_used(
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<Index>()),
        ingest in any::<i64>(),
    ) {
        let mut bytes = saved(&mixed());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(mut agents) = Agents::load(&mut bytes.as_slice()) {
            exercise(&mut agents, ingest);
        }
    }
}
