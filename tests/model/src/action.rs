//! What can happen next, and what it does.

use std::fmt;
use std::rc::Rc;

use crate::agent::Range;
use crate::rules::{Rules, Weakness};
use crate::world::{Budget, Buffer, Machine, World};

/// One step. Machines and messages are named by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An event is accepted, and the clock goes on.
    Accept(usize),
    /// A batch, or a heartbeat.
    Send(usize, Option<Range>),
    /// The message arrives, for the first time or again: it is appended and processed.
    Append(usize),
    /// The message arrives, is acked, and ingest dies before the append (weak rule).
    AckOnly(usize),
    /// The broker has the message in memory and says so (weak rule; else it changes nothing).
    Puback(usize),
    /// The machine gets an ack of the message.
    Ack(usize, usize),
    /// Deletions by acks are committed.
    Commit(usize),
    /// The process dies and starts again.
    Crash(usize),
    /// A copy of the first machine's disk is taken.
    Image,
    /// The first machine's disk is set back to the copy, and the agent starts.
    Rollback,
    /// A second machine starts with the copy.
    Clone,
    /// The agents' clock goes wrong, far ahead, or right again.
    Clock,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Accept(m) => write!(f, "agent {m} accepts an event"),
            Self::Send(m, None) => write!(f, "agent {m} sends a heartbeat"),
            Self::Send(m, Some(r)) => write!(
                f,
                "agent {m} sends events {}..={} of life {}/{}",
                r.first, r.last, r.incarnation.no, r.incarnation.rand
            ),
            Self::Append(i) => write!(f, "message {i} arrives and is appended"),
            Self::AckOnly(i) => write!(f, "message {i} is acked, then ingest dies"),
            Self::Puback(i) => write!(f, "the broker sends the PUBACK of message {i}"),
            Self::Ack(m, i) => write!(f, "agent {m} gets the ack of message {i}"),
            Self::Commit(m) => write!(f, "agent {m} commits its deletions"),
            Self::Crash(m) => write!(f, "agent {m} dies and starts again"),
            Self::Image => write!(f, "an image of the disk is taken"),
            Self::Rollback => write!(f, "the disk is set back to the image, the agent starts"),
            Self::Clone => write!(f, "agent 1 starts on a copy of the image"),
            Self::Clock => write!(f, "the agents' clock is stepped"),
        }
    }
}

impl World {
    /// One agent that has just started for the first time.
    pub fn new(budget: Budget, rules: Rules) -> Self {
        let mut world = Self {
            budget,
            ..Self::default()
        };
        let blank = world.image.clone();
        let first = world.started(&blank, rules);
        world.truth.since_image.push(first.memory.incarnation);
        world.machines.push(first);
        world
    }

    fn started(&mut self, disk: &Buffer, rules: Rules) -> Machine {
        let machine = Machine::start(disk, self.draws, rules);
        self.draws += 1;
        machine
    }

    /// All that can happen within the budget. Steps that would change nothing may be among them.
    pub fn actions(&self, rules: Rules) -> Vec<Action> {
        let mut out = Vec::new();
        let left = &self.budget;
        for (m, machine) in self.machines.iter().enumerate() {
            // A stamp by a wrong clock is another rule's business (P5).
            if left.events > 0 && !self.fast {
                out.push(Action::Accept(m));
            }
            if left.sends > 0 {
                out.push(Action::Send(m, None));
                let ranges = machine.ranges().into_iter();
                out.extend(ranges.map(|r| Action::Send(m, Some(r))));
            }
            if left.crashes > 0 {
                out.push(Action::Crash(m));
            }
            if left.lazy && machine.memory.held != machine.disk.held {
                out.push(Action::Commit(m));
            }
            let acked = self.appended | self.promised;
            let places = 0..self.messages.len();
            out.extend(
                places
                    .filter(|i| acked >> i & 1 == 1)
                    .map(|i| Action::Ack(m, i)),
            );
        }
        for i in 0..self.messages.len() {
            out.push(Action::Append(i));
            if rules.lack(Weakness::AckBeforeAppend) {
                out.push(Action::AckOnly(i));
            }
            if rules.lack(Weakness::PubackDeletes) {
                out.push(Action::Puback(i));
            }
        }
        let faults = [
            (left.images, Action::Image),
            (left.rollbacks, Action::Rollback),
            (left.clones, Action::Clone),
            (left.fast_clocks, Action::Clock),
        ];
        out.extend(faults.into_iter().filter(|f| f.0 > 0).map(|f| f.1));
        if self.fast && left.fast_clocks == 0 {
            out.push(Action::Clock);
        }
        out
    }

    /// Does `action`.
    pub fn apply(&mut self, action: Action, rules: Rules) {
        match action {
            Action::Accept(m) => {
                let (time, capacity) = (self.clock, self.budget.capacity);
                let event = self.machines[m].accept(time, capacity, rules);
                Rc::make_mut(&mut self.truth.accepted).push(event);
                self.clock += 1;
                self.budget.events -= 1;
            }
            Action::Send(m, range) => {
                let message = self.machines[m].send(range, self.clock, self.fast, rules);
                self.messages.push(Rc::new(message));
                self.budget.sends = self.budget.sends.saturating_sub(1);
            }
            Action::Append(i) => self.append(i, rules),
            Action::AckOnly(i) => self.promised |= 1 << i,
            Action::Puback(i) => {
                let message = &self.messages[i];
                for machine in &mut self.machines {
                    if machine.memory.incarnation == message.incarnation {
                        machine.delete(message, rules);
                        machine.commit_keeping_tx(rules);
                    }
                }
            }
            Action::Ack(m, i) => self.ack(m, i, rules),
            Action::Commit(m) => self.machines[m].commit_keeping_tx(rules),
            Action::Crash(m) => {
                let disk = self.machines[m].disk.clone();
                self.machines[m] = self.started(&disk, rules);
                if m == 0 {
                    let life = self.machines[0].memory.incarnation;
                    self.truth.since_image.push(life);
                }
                self.budget.crashes -= 1;
            }
            Action::Image => {
                self.image = self.machines[0].disk.clone();
                self.truth.since_image.clear();
                self.budget.images -= 1;
            }
            Action::Rollback => self.rollback(rules),
            Action::Clone => {
                let disk = self.image.clone();
                let machine = self.started(&disk, rules);
                self.machines.push(machine);
                self.truth.forked = true;
                self.budget.clones -= 1;
            }
            Action::Clock => {
                self.fast = !self.fast;
                self.truth.wrong_clock = true;
                if self.fast {
                    self.budget.fast_clocks -= 1;
                }
            }
        }
    }

    /// A message comes, and its record is processed.
    pub(crate) fn append(&mut self, i: usize, rules: Rules) {
        self.appended |= 1 << i;
        let order = i as u8 + 1;
        self.cloud.take(&self.messages[i], order, self.clock, rules);
    }

    /// An ack of message `i` comes to machine `m`; acks go to all that have the agent's id.
    pub(crate) fn ack(&mut self, m: usize, i: usize, rules: Rules) {
        let message = &self.messages[i];
        let machine = &mut self.machines[m];
        let own = machine.memory.incarnation;
        let answered = if rules.lack(Weakness::AckWithoutIncarnation) {
            self.messages
                .iter()
                .find(|o| o.incarnation == own && o.tx_no == message.tx_no)
                .map(Rc::as_ref)
        } else {
            Some(message.as_ref()).filter(|o| o.incarnation == own)
        };
        machine.acked(message, answered, rules);
        if !self.budget.lazy {
            machine.commit_keeping_tx(rules);
        }
    }

    fn rollback(&mut self, rules: Rules) {
        let disk = self.image.clone();
        self.machines[0] = self.started(&disk, rules);
        let kept = self.kept();
        for event in self.truth.accepted.iter() {
            self.truth.gone |= event.bit() & !kept;
        }
        self.truth.forked = true;
        self.truth.lost_lives.append(&mut self.truth.since_image);
        self.truth
            .since_image
            .push(self.machines[0].memory.incarnation);
        self.budget.rollbacks -= 1;
    }
}
