//! The traffic of the fleet, second by second: the records that come in each, by partition.

use event::Record;
use event::time::SECOND;

use super::args::{LATE_MAX, Plan, START};
use super::fleet::{Batch, Event, Fleet};

/// Records of one simulated second.
#[derive(Default)]
pub struct Second {
    /// By partition; never empty (an idle partition gets a tick).
    pub records: Vec<Vec<Vec<u8>>>,
    /// Events in them, repeats included.
    pub events: u64,
    /// Of these, events in batches that were kept back.
    pub late: u64,
    /// Of these, events that came before.
    pub repeated: u64,
}

pub struct Traffic {
    fleet: Fleet,
    partitions: usize,
    /// Batches that wait, by the second in which they come; used as a ring.
    wheel: Vec<Vec<Batch>>,
    /// Number of the next batch.
    next: u64,
    /// The next second, from the start.
    second: i64,
}

/// Gets every event when it is sent for the first time.
pub trait Sink {
    /// **Errors**: the events could not be written.
    fn take(&mut self, events: &[Event]) -> anyhow::Result<()>;
}

impl Sink for () {
    fn take(&mut self, _: &[Event]) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Traffic {
    /// **Errors**: a name that is none.
    pub fn new(plan: &Plan) -> anyhow::Result<Self> {
        let fleet = Fleet::new(plan)?;
        let mut traffic = Self {
            fleet,
            partitions: usize::from(plan.partitions),
            wheel: vec![Vec::new(); LATE_MAX as usize + 62],
            next: 0,
            second: 0,
        };
        if plan.late_share > 0.0 {
            for agent in 0..plan.agents as u32 {
                let past: Vec<Batch> = traffic.fleet.past_of(agent).collect();
                for b in past {
                    traffic.wait(b, traffic.fleet.due(&b));
                }
            }
        }
        Ok(traffic)
    }

    fn wait(&mut self, batch: Batch, until: i64) {
        let second = until / SECOND - START;
        let len = self.wheel.len() as i64;
        self.wheel[second.rem_euclid(len) as usize].push(batch);
    }

    /// The registration of some agents, by partition, and how many events it is.
    ///
    /// **Errors**: a batch that does not encode; the sink's.
    pub fn register(
        &mut self,
        agents: std::ops::Range<u32>,
        at: i64,
        sink: &mut dyn Sink,
    ) -> anyhow::Result<Second> {
        let mut out = self.empty();
        for agent in agents {
            let (record, events) = self.fleet.register(agent, at)?;
            sink.take(events)?;
            out.events += events.len() as u64;
            out.records[self.fleet.partition(agent)].push(record);
        }
        self.fill(&mut out);
        Ok(out)
    }

    fn empty(&self) -> Second {
        Second {
            records: vec![Vec::new(); self.partitions],
            ..Second::default()
        }
    }

    fn fill(&self, second: &mut Second) {
        for records in &mut second.records {
            if records.is_empty() {
                records.push(Record::Tick.encode());
            }
        }
    }

    /// The next second.
    ///
    /// **Errors**: a batch that does not encode; the sink's.
    pub fn second(&mut self, sink: &mut dyn Sink) -> anyhow::Result<Second> {
        let mut out = self.empty();
        let place = self.second as usize % self.wheel.len();
        let waited = std::mem::take(&mut self.wheel[place]);
        let mut now: Vec<(i64, Batch)> =
            waited.into_iter().map(|b| (self.time_of(&b), b)).collect();
        self.second += 1;
        let end = (START + self.second) * SECOND;
        while self.fleet.time_at(self.next) < end {
            let b = self.fleet.batch_at(self.next);
            self.next += 1;
            match self.fleet.due(&b) {
                due if due < end => now.push((due, b)),
                due => self.wait(b, due),
            }
        }
        // In the order in which the agents sent them: what they promise depends on it.
        now.sort_by_key(|(time, _)| *time);
        for (_, b) in now {
            self.send(b, &mut out, sink)?;
        }
        self.fill(&mut out);
        Ok(out)
    }

    fn time_of(&self, b: &Batch) -> i64 {
        match b.tx_no {
            0 => self.fleet.due(b),
            _ => self.fleet.repeated(b).unwrap_or_default(),
        }
    }

    fn send(&mut self, mut b: Batch, out: &mut Second, sink: &mut dyn Sink) -> anyhow::Result<()> {
        let first_time = b.tx_no == 0;
        let (record, events) = self.fleet.send(&mut b)?;
        let n = events.len() as u64;
        if first_time {
            sink.take(events)?;
        }
        out.records[self.fleet.partition(b.agent)].push(record);
        out.events += n;
        if !first_time {
            out.repeated += n;
        } else if self.fleet.is_late(&b) {
            out.late += n;
        }
        if first_time && let Some(again) = self.fleet.repeated(&b) {
            self.wait(b, again.max((START + self.second) * SECOND));
        }
        Ok(())
    }
}
