//! The agent's rules (A1 to A5): accept, send, take an ack, start.

use std::rc::Rc;

use crate::rules::{Rules, Weakness};
use crate::world::{Ancestor, Buffer, Event, Incarnation, Machine, Message};

/// How far a wrong clock is ahead.
pub const AHEAD: u8 = 100;

/// What an agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Whose events.
    pub incarnation: Incarnation,
    /// First seq.
    pub first: u8,
    /// Last seq.
    pub last: u8,
}

impl Range {
    fn holds(self, e: &Event) -> bool {
        e.incarnation == self.incarnation && (self.first..=self.last).contains(&e.seq)
    }
}

impl Machine {
    /// A process starts on `disk`: a new life, committed before anything else.
    pub fn start(disk: &Buffer, rand: u8, rules: Rules) -> Self {
        let mut memory = disk.clone();
        if !rules.lack(Weakness::IncarnationKept) || memory.incarnation.no == 0 {
            memory.tx_no = 0;
            // A life that the cloud cannot have heard of leaves no lineage.
            if memory.spoke || memory.last > 0 {
                memory.lineage.push(Ancestor {
                    incarnation: memory.incarnation,
                    last: memory.last,
                    held: false,
                    told: false,
                });
            }
            let no = memory.incarnation.no + 1;
            memory.incarnation = Incarnation { no, rand };
            memory.last = 0;
            memory.spoke = false;
        }
        let held = memory.held.clone();
        for ancestor in &mut memory.lineage {
            ancestor.held = held.iter().any(|e| e.incarnation == ancestor.incarnation);
            ancestor.told = false;
        }
        let mut machine = Self {
            disk: Rc::default(),
            memory: Rc::new(memory),
            sent: 0,
        };
        machine.commit();
        machine
    }

    /// Writes the memory to the disk; lives whose last event goes with it are told of again.
    pub fn commit(&mut self) {
        let memory = Rc::make_mut(&mut self.memory);
        for ancestor in &mut memory.lineage {
            let holds = memory
                .held
                .iter()
                .any(|e| e.incarnation == ancestor.incarnation);
            if ancestor.held && !holds {
                ancestor.held = false;
                ancestor.told = false;
            }
        }
        let mut disk = memory.clone();
        for ancestor in &mut disk.lineage {
            ancestor.told = false;
        }
        disk.tx_no = 0;
        self.disk = Rc::new(disk);
    }

    /// A1, A4: stores and numbers an event; what is over the capacity is dropped and declared in the
    /// same transaction.
    pub fn accept(&mut self, time: u8, capacity: u8, rules: Rules) -> Event {
        let memory = Rc::make_mut(&mut self.memory);
        memory.last += 1;
        let event = Event {
            incarnation: memory.incarnation,
            seq: memory.last,
            time,
        };
        memory.held.push(event);
        let dropped = if memory.held.len() > usize::from(capacity) {
            Some(memory.held.remove(0))
        } else {
            None
        };
        match dropped {
            Some(gap) if rules.lack(Weakness::GapAfterDrop) => {
                self.commit_keeping_tx(rules);
                Rc::make_mut(&mut self.memory).gaps.push(gap);
            }
            Some(gap) => {
                Rc::make_mut(&mut self.memory).gaps.push(gap);
                self.commit_keeping_tx(rules);
            }
            None => self.commit_keeping_tx(rules),
        }
        event
    }

    /// As [`Self::commit`]; with incarnations that are kept, their `tx_no` is kept too.
    pub fn commit_keeping_tx(&mut self, rules: Rules) {
        self.commit();
        if rules.lack(Weakness::IncarnationKept) {
            Rc::make_mut(&mut self.disk).tx_no = self.memory.tx_no;
        }
    }

    /// All that can be sent: every run of consecutive held seqs of one life (any re-cut), each once.
    pub fn ranges(&self) -> Vec<Range> {
        let held = &self.memory.held;
        let mut out = Vec::new();
        for (i, a) in held.iter().enumerate() {
            for (n, b) in held[i..].iter().enumerate() {
                if b.incarnation != a.incarnation || usize::from(b.seq) != usize::from(a.seq) + n {
                    break;
                }
                out.push(Range {
                    incarnation: a.incarnation,
                    first: a.seq,
                    last: b.seq,
                });
            }
        }
        out
    }

    /// Sends the held events of `range`, or a heartbeat.
    pub fn send(&mut self, range: Option<Range>, clock: u8, fast: bool, rules: Rules) -> Message {
        if !self.memory.spoke {
            Rc::make_mut(&mut self.memory).spoke = true;
            // On disk before the cloud can hear of it.
            if !rules.lack(Weakness::FirstWordNotNoted) {
                self.commit_keeping_tx(rules);
            }
        }
        Rc::make_mut(&mut self.memory).tx_no += 1;
        if rules.lack(Weakness::IncarnationKept) {
            Rc::make_mut(&mut self.disk).tx_no = self.memory.tx_no;
        }
        let inside = |e: &Event| range.is_some_and(|r| r.holds(e));
        let memory = &self.memory;
        let sent = self.sent;
        let own = memory.incarnation;
        let earliest = memory
            .held
            .iter()
            .filter(|e| !inside(e))
            .filter(|e| !rules.lack(Weakness::WatermarkOverUnsent) || sent & e.bit() == 0)
            .filter(|e| !rules.lack(Weakness::WatermarkOfOwnLifeOnly) || e.incarnation == own)
            .map(|e| e.time)
            .min();
        let now = if fast { clock + AHEAD } else { clock };
        let events: Vec<Event> = memory.held.iter().copied().filter(|e| inside(e)).collect();
        if rules.lack(Weakness::WatermarkOverUnsent) {
            self.sent |= events.iter().fold(0, |s, e| s | e.bit());
        }
        let message = Message {
            incarnation: own,
            tx_no: memory.tx_no,
            sent_at: clock,
            events,
            watermark: earliest.map_or(now, |e| e.min(now)),
            lineage: memory
                .lineage
                .iter()
                .filter(|a| !a.told)
                .map(|a| (a.incarnation, a.last, a.held))
                .collect(),
            gaps: memory.gaps.clone(),
        };
        if rules.lack(Weakness::LineageToldOnce) {
            self.told(&message.lineage);
        }
        message
    }

    /// The cloud knows these entries. One that says "nothing held" need not be told any more.
    fn told(&mut self, lineage: &[(Incarnation, u8, bool)]) {
        if lineage.is_empty() {
            return;
        }
        let memory = Rc::make_mut(&mut self.memory);
        for (incarnation, _, held) in lineage {
            let known = |a: &Ancestor| a.incarnation == *incarnation && a.held == *held;
            if *held {
                for a in memory.lineage.iter_mut().filter(|a| known(a)) {
                    a.told = true;
                }
            } else {
                memory.lineage.retain(|a| !known(a));
            }
        }
    }

    /// A2: an ack of `message`. `own` is the transmission of this life that bears the number of the
    /// ack: what it said is known now.
    pub fn acked(&mut self, message: &Message, own: Option<&Message>, rules: Rules) {
        self.delete(message, rules);
        if let Some(own) = own {
            self.told(&own.lineage);
            if !own.gaps.is_empty() {
                let memory = Rc::make_mut(&mut self.memory);
                memory.gaps.retain(|g| !own.gaps.contains(g));
            }
        }
    }

    /// Forgets the events of `message`.
    pub fn delete(&mut self, message: &Message, rules: Rules) {
        let Some(last) = message.events.last() else {
            return;
        };
        Rc::make_mut(&mut self.memory).held.retain(|e| {
            let named = message
                .events
                .iter()
                .any(|m| (m.incarnation, m.seq) == (e.incarnation, e.seq));
            let below = rules.lack(Weakness::CumulativeAck)
                && last.incarnation == e.incarnation
                && e.seq <= last.seq;
            !named && !below
        });
    }
}
