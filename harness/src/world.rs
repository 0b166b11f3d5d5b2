//! The simulation: a queue of happenings in true time, and what each of them does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use crate::cloud::Cloud;
use crate::front::Front;
use crate::matrix::{Fault, Matrix, Step};
use crate::node::Node;
use crate::oracle::{Block, Oracle};
use crate::plain::PlainDevice;
use crate::rng::Rng;
use crate::scenario::{DAY, Declared, HOUR, MINUTE, SECOND, START, Size};

/// A message of an agent on its way to ingest.
#[derive(Debug, Clone)]
pub struct Upload {
    /// From which machine.
    pub node: usize,
    /// Sent on which connection; none: it is in the hands of a broker and outlives the connection.
    pub epoch: Option<u32>,
    /// The batch.
    pub payload: Rc<Vec<u8>>,
}

/// What happens at a time.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A machine's agent commits what its sensors have given.
    Round(usize),
    /// A machine's agent may have something to send.
    Wake(usize),
    /// A machine's process starts (if it is the start of this number).
    Start(usize, u32),
    /// A machine's connection stands (if it is the connection of this number).
    Connect(usize, u32),
    /// A machine commits what acks have changed.
    Flush(usize, u32),
    /// An image of a machine's disk is taken.
    Image(usize),
    /// A machine's clock is set right.
    ClockRight(usize),
    /// A machine's disk has room again.
    Room(usize),
    /// A message reaches ingest.
    Arrive(Upload),
    /// A plain device sends, or sends again.
    Plain(usize),
    /// What is queued for the log is durable.
    Durable,
    /// An ack reaches the machines of an agent.
    Ack(u16, Rc<Vec<u8>>),
    /// Ingest is back.
    IngestUp,
    /// The log takes records again.
    LogRoom,
    /// The processor starts again.
    ProcessorUp,
    /// A checkpoint is due.
    Checkpoint,
    /// A tick is due.
    Tick,
    /// A machine's agent commits out of turn.
    Commit(usize),
    /// A machine's process dies again (if it is the start of this number).
    DieAgain(usize, u32),
    /// The next chapter of a machine that is replaced by a copy.
    Replace(usize),
    /// An operator does something.
    Operator,
    /// The simulation of faults ends.
    Heal,
}

/// A fault that waits for somebody to come to a step.
#[derive(Debug, Clone, Copy)]
struct Trap {
    at: i64,
    fault: Fault,
    step: Step,
}

struct Planned {
    at: i64,
    serial: u64,
    what: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// The processor's side of the simulation.
#[derive(Default)]
pub(crate) struct Processing {
    pub cloud: Cloud,
    pub up: bool,
    /// Blocks that were processed, and what each gave.
    pub done: usize,
    pub hashes: Vec<u64>,
    /// Blocks that the newest checkpoint covers, and the one that is being written.
    pub saved: usize,
    pub begun: usize,
    pub checkpoint_due: bool,
    /// The next checkpoint fails.
    pub fails: bool,
    /// What was set aside and nobody has released yet: its number and event time.
    pub held: Vec<(u64, Option<i64>)>,
}

/// Everything.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    pub(crate) now: i64,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Reverse<Planned>>,
    serial: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) plains: Vec<PlainDevice>,
    /// Agents by id.
    pub(crate) agents: BTreeMap<String, u16>,
    pub(crate) front: Front,
    pub(crate) log: Vec<Block>,
    pub(crate) processing: Processing,
    pub(crate) oracle: Oracle,
    pub(crate) declared: Declared,
    pub(crate) matrix: Matrix,
    traps: Vec<Trap>,
    pub(crate) healing: bool,
    /// Devices that were unplugged and are to be taken out of service.
    pub(crate) unplugged: Vec<String>,
    /// Copies that arrive days later.
    pub(crate) late: Vec<(i64, Upload)>,
    /// Messages in a thousand that the network loses, doubles or holds up without any trap.
    pub(crate) noise: u64,
    tell: bool,
}

impl World {
    /// A world of a seed. With `tell` it prints its story.
    ///
    /// **Errors**: names that are none.
    pub fn new(seed: u64, size: Size, tell: bool) -> Result<Self, String> {
        let mut rng = Rng::new(seed, 0);
        let mut world = Self {
            seed,
            size,
            now: START,
            noise: rng.pick(&[0, 5, 20, 80]),
            rng,
            queue: BinaryHeap::new(),
            serial: 0,
            nodes: Vec::new(),
            plains: Vec::new(),
            agents: BTreeMap::new(),
            front: Front::default(),
            log: Vec::new(),
            processing: Processing {
                up: true,
                ..Processing::default()
            },
            oracle: Oracle::default(),
            declared: Declared::default(),
            matrix: Matrix::default(),
            traps: Vec::new(),
            healing: false,
            unplugged: Vec::new(),
            late: Vec::new(),
            tell,
        };
        world.set_up()?;
        Ok(world)
    }

    fn set_up(&mut self) -> Result<(), String> {
        for k in 0..self.size.agents {
            let agent = self.oracle.add_agent();
            let id = format!("agent-{k:02}");
            let mut node = Node::new(agent, &id, START, Rng::new(self.seed, 100 + k as u64))?;
            if k == 1 && self.rng.chance(600) {
                let hours = self.rng.range(-5, 5) * HOUR;
                let offset = self.rng.pick(&[hours, hours, DAY - START, 3000 * DAY]);
                node.lose_clock(offset);
                self.oracle.correct(agent);
            }
            for device in node.devices() {
                self.oracle.add_device(device, agent);
            }
            self.agents.insert(id, agent);
            self.nodes.push(node);
            let at = START + self.rng.range(0, 20 * SECOND);
            self.plan(at, Happening::Start(k, 0));
            self.plan(at + 3 * MINUTE, Happening::Round(k));
            let at = self.rng.range(START, self.size.end());
            self.plan(at, Happening::Image(k));
        }
        for k in 0..4 {
            let agent = self.oracle.add_agent();
            let id = format!("plain-{k}");
            self.oracle.add_device(&id, agent);
            self.agents.insert(id.clone(), agent);
            self.plains.push(PlainDevice::new(&id, k)?);
            let at = START + self.rng.range(0, 10 * MINUTE);
            self.plan(at, Happening::Plain(k));
        }
        self.declare();
        self.plan(START + MINUTE, Happening::Tick);
        self.plan(START + 5 * MINUTE, Happening::Checkpoint);
        let at = START + self.rng.range(10 * MINUTE, 90 * MINUTE);
        self.plan(at, Happening::Operator);
        self.plan(self.size.end(), Happening::Heal);
        // Faults: some seeds are calm, some are not.
        // In some most of them make long histories of lives.
        let storm = self.rng.chance(250);
        if storm {
            let at = START + self.rng.range(HOUR, 4 * HOUR);
            self.plan(at, Happening::Replace(0));
        }
        for _ in 0..self.rng.range(2, if storm { 40 } else { 24 }) {
            loop {
                let among = match storm && self.rng.chance(600) {
                    true => Fault::OF_LIVES,
                    false => Fault::ALL,
                };
                let (fault, step) = (self.rng.pick(among), self.rng.pick(Step::ALL));
                if crate::matrix::impossible(fault, step).is_none() {
                    let at = self
                        .rng
                        .range(START + MINUTE, self.size.end() - 20 * MINUTE);
                    self.traps.push(Trap { at, fault, step });
                    break;
                }
            }
        }
        self.traps.sort_by_key(|t| t.at);
        Ok(())
    }

    pub(crate) fn plan(&mut self, at: i64, what: Happening) {
        self.serial += 1;
        let serial = self.serial;
        let at = at.max(self.now);
        self.queue.push(Reverse(Planned { at, serial, what }));
    }

    /// A line of the story.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if self.tell {
            use std::io::Write as _;
            let at = (self.now - START) as f64 / 1e6;
            let _ = writeln!(std::io::stdout().lock(), "{at:>14.3}  {}", line());
        }
    }

    /// The fault that waits at a step, if any.
    pub(crate) fn trap(&mut self, step: Step) -> Option<Fault> {
        if self.healing || self.traps.first().is_none_or(|t| t.at > self.now) {
            return None;
        }
        let armed = self.traps.iter().take_while(|t| t.at <= self.now);
        let at = armed.map(|t| t.step).position(|s| s == step)?;
        let fault = self.traps.remove(at).fault;
        self.matrix.hit(fault, step);
        self.say(|| format!("FAULT {} at {}", fault.as_str(), step.as_str()));
        Some(fault)
    }

    /// Springs the trap at a step that concerns a machine.
    pub(crate) fn pass(&mut self, step: Step, node: usize) -> Result<(), String> {
        match self.trap(step) {
            Some(fault) => self.strike(fault, node),
            None => Ok(()),
        }
    }

    /// Runs to the end, and checks everything.
    ///
    /// **Errors**: what is wrong.
    pub fn run(&mut self) -> Result<(), String> {
        let limit = self.size.end() + 8 * HOUR;
        // Long enough after the last event for heartbeats to pass the end of its windows.
        let earliest = self.past();
        let mut look_at = earliest;
        while let Some(Reverse(planned)) = self.queue.pop() {
            self.now = self.now.max(planned.at);
            self.happen(planned.what)?;
            if self.now >= look_at {
                look_at = self.now + MINUTE;
                if self.is_quiet() {
                    break;
                }
            }
            if self.now > limit {
                return Err(format!("does not come to rest: {}", self.restless()));
            }
        }
        self.deliver_late()?;
        self.finish()
    }

    /// What all must have come to at the end: behind the last window of a clock that was an hour fast.
    pub(crate) fn past(&self) -> i64 {
        self.size.end() + 2 * HOUR
    }

    fn is_quiet(&self) -> bool {
        let past = self.past();
        self.front.is_empty()
            && self.processing.done == self.log.len()
            && self.plains.iter().all(|p| p.is_done(past))
            && self
                .nodes
                .iter()
                .all(|n| n.scrapped || n.is_drained() && self.watermark(n) >= past)
    }

    /// How far a machine's present life is complete, as the log says.
    fn watermark(&self, node: &Node) -> i64 {
        self.oracle.watermark(node.agent, node.lives.last())
    }

    fn restless(&self) -> String {
        let past = self.past();
        let node = self
            .nodes
            .iter()
            .find(|n| !n.scrapped && (!n.is_drained() || self.watermark(n) < past));
        match node {
            Some(n) => format!(
                "{} (up: {}) holds {:?}, tells {:?}, watermark {}",
                n.id,
                n.core.is_some(),
                n.core.as_ref().map(|c| c.buffer().held()),
                n.core.as_ref().map(|c| c.buffer().announcement(9)),
                self.watermark(n) - START,
            ),
            None => "the log or the processor".to_owned(),
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Round(n) => self.round(n),
            Happening::Wake(n) => {
                if self.nodes[n].wake_at <= self.now {
                    self.nodes[n].wake_at = i64::MAX;
                    self.pump(n)?;
                }
                Ok(())
            }
            Happening::Start(n, starts) => self.start(n, starts),
            Happening::Connect(n, epoch) => self.connect(n, epoch),
            Happening::Flush(n, starts) => self.flush(n, starts),
            Happening::Image(n) => {
                let image = self.nodes[n].disk.certain();
                self.nodes[n].images.push(image);
                if !self.healing {
                    let at = self.now + self.rng.range(HOUR / 2, 3 * HOUR);
                    self.plan(at, Happening::Image(n));
                }
                Ok(())
            }
            Happening::ClockRight(n) => {
                self.set_clock(n, 0);
                Ok(())
            }
            Happening::Room(n) => {
                self.nodes[n].disk.set_full(false);
                Ok(())
            }
            Happening::Arrive(upload) => self.arrive(&upload),
            Happening::Plain(n) => self.plain(n),
            Happening::Durable => self.durable(),
            Happening::Ack(agent, payload) => self.ack(agent, &payload),
            Happening::IngestUp => {
                self.ingest_up();
                Ok(())
            }
            Happening::LogRoom => {
                self.front.log_full = false;
                Ok(())
            }
            Happening::ProcessorUp => self.processor_up(),
            Happening::Checkpoint => {
                self.processing.checkpoint_due = true;
                let at = self.now + self.rng.range(4 * MINUTE, 25 * MINUTE);
                self.plan(at, Happening::Checkpoint);
                Ok(())
            }
            Happening::Tick => self.tick(),
            Happening::Commit(n) => self.commit_now(n),
            Happening::DieAgain(n, starts) => self.die_again(n, starts),
            Happening::Replace(chapter) => self.replace(chapter),
            Happening::Operator => self.operator(),
            Happening::Heal => self.heal(),
        }
    }

    /// All faults end: everything is up, connected, right and roomy.
    fn heal(&mut self) -> Result<(), String> {
        self.say(|| "HEAL".to_owned());
        self.healing = true;
        self.noise = 0;
        self.front.log_full = false;
        if !self.front.up {
            self.ingest_up();
        }
        if !self.processing.up {
            self.processor_up()?;
        }
        for n in 0..self.nodes.len() {
            self.nodes[n].disk.set_full(false);
            if !self.nodes[n].clockless {
                self.set_clock(n, 0);
            }
            let node = &mut self.nodes[n];
            if let Some(core) = &node.core {
                if !core.session().is_connected() {
                    node.epoch += 1;
                    let epoch = node.epoch;
                    self.plan(self.now + SECOND, Happening::Connect(n, epoch));
                }
            } else {
                let starts = self.nodes[n].starts;
                self.plan(self.now, Happening::Start(n, starts));
            }
        }
        Ok(())
    }

    /// Copies that were held back for days arrive, when all else has long been quiet.
    fn deliver_late(&mut self) -> Result<(), String> {
        let mut late = std::mem::take(&mut self.late);
        late.sort_by_key(|l| l.0);
        for (at, upload) in late {
            self.now = self.now.max(at);
            self.say(|| format!("a copy held back since {}", self.nodes[upload.node].id));
            self.admit(&upload)?;
            self.durable()?;
        }
        // The agents are still there, and go on saying so.
        for n in 0..self.nodes.len() {
            self.pump(n)?;
        }
        let until = self.now + 80 * MINUTE;
        while let Some(Reverse(planned)) = self.queue.pop() {
            if planned.at > until {
                break;
            }
            self.now = self.now.max(planned.at);
            self.happen(planned.what)?;
        }
        self.durable()?;
        // By then every deadline is over.
        self.now += DAY;
        self.tick()?;
        self.durable()
    }

    fn finish(&mut self) -> Result<(), String> {
        let (all, open, too_old) = self.processing.cloud.all();
        let past = self.past();
        let cloud = &self.processing.cloud;
        self.oracle
            .check_end(&all, &open, &too_old, past, |device| cloud.progress(device))?;
        if let Some(p) = self.plains.iter().find(|p| !p.is_done(past)) {
            return Err(format!("a plain device's message was not taken: {p:?}"));
        }
        // One seed in eight: the whole log again from nothing.
        if self.seed.is_multiple_of(8) {
            let hash = self.processing.cloud.state_hash();
            self.processing.cloud = Cloud::default();
            self.replay(0)?;
            let again = self.processing.cloud.state_hash();
            if hash != again {
                return Err(format!("the whole log again gives {again:x}, not {hash:x}"));
            }
        }
        Ok(())
    }
}
