//! An agent with its disk, by the rules A1 to A5: as small as a model, but its transmissions are real bytes.

use std::collections::BTreeSet;

use event::{
    AgentId, BatchHeader, ClockQuality, ClockState, EventTime, Gap, GapReason, Held, Incarnation,
    Lineage, Record, Sample, TimeRange, batch,
};

use crate::support::temperature;

/// An accepted event. Its time is another one than that of any other event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    pub incarnation: Incarnation,
    pub seq: u64,
    pub time: i64,
}

#[derive(Debug, Clone)]
struct Ancestor {
    incarnation: Incarnation,
    last: u64,
    held: bool,
    /// Whether the cloud has it as it stands. Not on the disk.
    told: bool,
}

/// What is on a disk, and what a process has in memory.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    pub incarnation: Option<Incarnation>,
    /// The last seq of it.
    pub last: u64,
    /// Whether the cloud may have heard of it.
    spoke: bool,
    tx_no: u64,
    /// Un-acked, oldest first.
    pub held: Vec<Event>,
    lineage: Vec<Ancestor>,
    pub gaps: Vec<Event>,
}

/// A transmission, for ever: being repeated or overtaken is being delivered at any time.
#[derive(Debug, Clone)]
pub struct Message {
    pub header: BatchHeader,
    pub events: Vec<Event>,
    pub gaps: Vec<Event>,
    pub bytes: Vec<u8>,
}

/// A machine with an agent that runs.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    pub disk: Buffer,
    pub memory: Buffer,
}

/// What a buffer holds; beyond it the oldest is dropped and declared lost.
const CAPACITY: usize = 6;

impl Machine {
    /// A process starts on `disk`: a new life, committed before anything else.
    pub fn start(disk: &Buffer, rand: u64) -> Self {
        let mut memory = disk.clone();
        memory.tx_no = 0;
        // A life that the cloud cannot have heard of leaves no lineage.
        if let Some(incarnation) = memory.incarnation
            && (memory.spoke || memory.last > 0)
        {
            memory.lineage.push(Ancestor {
                incarnation,
                last: memory.last,
                held: false,
                told: false,
            });
        }
        let no = memory.incarnation.map_or(0, |i| i.no) + 1;
        memory.incarnation = Some(Incarnation { no, rand });
        (memory.last, memory.spoke) = (0, false);
        for a in &mut memory.lineage {
            a.held = memory.held.iter().any(|e| e.incarnation == a.incarnation);
            a.told = false;
        }
        let mut machine = Self {
            disk: Buffer::default(),
            memory,
        };
        machine.commit();
        machine
    }

    fn own(&self) -> Incarnation {
        self.memory.incarnation.unwrap()
    }

    /// Writes the memory to the disk; lives whose last event goes with it are told of again.
    pub fn commit(&mut self) {
        let memory = &mut self.memory;
        for a in &mut memory.lineage {
            let holds = memory.held.iter().any(|e| e.incarnation == a.incarnation);
            if a.held && !holds {
                (a.held, a.told) = (false, false);
            }
        }
        self.disk = memory.clone();
    }

    /// A1, A4: stores and numbers an event; what is over the capacity is declared in the same transaction.
    pub fn accept(&mut self, time: i64) -> Event {
        let incarnation = self.own();
        let memory = &mut self.memory;
        memory.last += 1;
        let event = Event {
            incarnation,
            seq: memory.last,
            time,
        };
        memory.held.push(event);
        if memory.held.len() > CAPACITY {
            memory.gaps.push(memory.held.remove(0));
        }
        self.commit();
        event
    }

    /// Sends up to `n` held events from the place `at` on, or a heartbeat if that is none.
    pub fn send(&mut self, at: usize, n: usize, clock: i64) -> Message {
        self.memory.tx_no += 1;
        if !self.memory.spoke {
            // On disk before the cloud can hear of it.
            self.memory.spoke = true;
            self.commit();
        }
        let memory = &self.memory;
        let run = memory.held.get(at..).unwrap_or_default();
        let follows = |i: usize| {
            let (a, b) = (run[0], run[i]);
            a.incarnation == b.incarnation && a.seq + i as u64 == b.seq
        };
        let n = (0..run.len().min(n)).take_while(|i| follows(*i)).count();
        let events = run[..n].to_vec();
        let rest = memory.held.iter().filter(|e| !events.contains(e));
        let watermark = rest.map(|e| e.time).min().unwrap_or(clock);
        let own = self.own();
        let lineage = memory.lineage.iter().filter(|a| !a.told);
        let header = BatchHeader {
            agent: AgentId::new("gw").unwrap(),
            incarnation: own,
            tx_no: memory.tx_no,
            sent_at: EventTime(clock),
            boottime_us: 0,
            clock: ClockState {
                quality: ClockQuality::Ntp,
                error_ms: 5,
            },
            e_inc: events.first().map_or(own, |e| e.incarnation),
            first_seq: events.first().map_or(1, |e| e.seq),
            count: events.len() as u32,
            low_watermark: EventTime(watermark),
            quiet_until: None,
            held: Held {
                events: memory.held.len() as u64,
                bytes: 30 * memory.held.len() as u64,
                oldest: memory.held.iter().map(|e| EventTime(e.time)).min(),
            },
            lineage: lineage
                .map(|a| Lineage {
                    incarnation: a.incarnation,
                    last_seq: a.last,
                    held: a.held,
                })
                .collect(),
            unclean: None,
            gaps: memory.gaps.iter().map(gap).collect(),
        };
        let samples: Vec<Sample> = events
            .iter()
            .map(|e| temperature("d", e.time, e.seq as f64))
            .collect();
        Message {
            bytes: Record::Batch(batch::encode(&header, &samples).unwrap()).encode(),
            gaps: memory.gaps.clone(),
            header,
            events,
        }
    }

    /// A2: an ack of `message`, which goes to all that have the agent's id. It is on disk with the next commit.
    pub fn acked(&mut self, message: &Message) {
        let own = self.own();
        let memory = &mut self.memory;
        let same = |a: &Event, b: &Event| (a.incarnation, a.seq) == (b.incarnation, b.seq);
        memory
            .held
            .retain(|e| !message.events.iter().any(|m| same(e, m)));
        if message.header.incarnation != own {
            return;
        }
        for entry in &message.header.lineage {
            let known = |a: &Ancestor| a.incarnation == entry.incarnation && a.held == entry.held;
            if entry.held {
                let mut all = memory.lineage.iter_mut();
                all.by_ref()
                    .filter(|a| known(a))
                    .for_each(|a| a.told = true);
            } else {
                memory.lineage.retain(|a| !known(a));
            }
        }
        let told: BTreeSet<Event> = message.gaps.iter().copied().collect();
        memory.gaps.retain(|g| !told.contains(g));
    }

    /// Whether the cloud has all that it has.
    pub fn at_rest(&self) -> bool {
        let memory = &self.memory;
        memory.held.is_empty() && memory.gaps.is_empty() && memory.lineage.is_empty()
    }
}

fn gap(e: &Event) -> Gap {
    Gap {
        incarnation: e.incarnation,
        from: e.seq,
        to: e.seq,
        time: TimeRange {
            from: EventTime(e.time),
            to: EventTime(e.time),
        },
        reason: GapReason::Overflow,
    }
}
