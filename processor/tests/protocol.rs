//! The core behind a network and disks that fail, against what really happened: the stories of the exhaustive
//! model (`tests/model`), longer and at random, with real batches, windows and checkpoints.
//!
//! Every event has a second and a window of one second for itself: the row of that window says how often it
//! was counted.

#[path = "protocol/agent.rs"]
mod agent;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent::{Buffer, Event, Machine, Message};
use event::{AggregateSpec, Function, Incarnation};
use proptest::prelude::*;
use proptest::sample::Index;
use support::{Bench, S, T0};
use views::CompletenessIndex;

/// Longer than the core waits for a copy that has fallen silent, minutes.
const SILENT: usize = 12;

#[derive(Debug, Clone)]
enum Op {
    /// The machine at this place accepts so many events.
    Accept(Index, u8),
    /// It sends so many of what it holds, from a place on; none = a heartbeat.
    Send(Index, Index, usize),
    /// A message comes, perhaps once more, perhaps after others that were sent later.
    Deliver(Index),
    /// The ack of a message that came reaches a machine; else it is lost.
    Ack(Index, Index),
    /// A stop at which everything is written; and one at which the newest acks are not.
    Restart(Index),
    Crash(Index),
    /// Some minutes pass.
    Wait(i64),
    /// The core is saved and restored.
    Checkpoint,
    Fork(Fork),
}

#[derive(Debug, Clone)]
enum Fork {
    /// Of the first machine's disk.
    Image,
    /// The first machine starts again from the image, or from an empty disk if there is none.
    Rollback,
    /// Another machine starts from the image.
    Clone,
}

fn op() -> impl Strategy<Value = Op> {
    let any = any::<Index>;
    prop_oneof![
        5 => (any(), 1u8..3).prop_map(|(m, n)| Op::Accept(m, n)),
        6 => (any(), any(), 0usize..4).prop_map(|(m, at, n)| Op::Send(m, at, n)),
        7 => any().prop_map(Op::Deliver),
        5 => (any(), any()).prop_map(|(m, i)| Op::Ack(m, i)),
        1 => any().prop_map(Op::Restart),
        1 => any().prop_map(Op::Crash),
        1 => (1i64..20).prop_map(Op::Wait),
        1 => Just(Op::Checkpoint),
    ]
}

/// Up to two forks of one kind among honest steps. With both kinds a copy may be given up beside its clone, say
/// nothing, and be set back: what it lost leaves no trace either.
fn story() -> impl Strategy<Value = Vec<Op>> {
    let fork = prop_oneof![Just(Fork::Rollback), Just(Fork::Clone)];
    let image = prop::option::weighted(0.8, any::<Index>());
    let forks = prop::collection::vec(any::<Index>(), 0..3);
    let steps = prop::collection::vec(op(), 1..50);
    (steps, image, fork, forks).prop_map(|(mut ops, image, fork, forks)| {
        if let Some(at) = image {
            ops.insert(at.index(ops.len()), Op::Fork(Fork::Image));
        }
        for at in forks {
            ops.insert(at.index(ops.len()), Op::Fork(fork.clone()));
        }
        ops
    })
}

/// A disk became what it was before.
struct SetBack {
    /// The lives that it forgot.
    lives: BTreeSet<Incarnation>,
    /// The life of the image and its last seq.
    own: Option<Incarnation>,
    last: u64,
}

struct World {
    clock: i64,
    machines: Vec<Machine>,
    lives: u64,
    image: Buffer,
    messages: Vec<Message>,
    /// Places of those that came.
    came: Vec<usize>,
    bench: Bench,
    index: Arc<CompletenessIndex>,
    /// Everything that was ever accepted.
    accepted: Vec<Event>,
    /// In records of the log; and in declared gaps of them.
    logged: BTreeSet<Event>,
    declared: BTreeSet<Event>,
    /// Lives that sent a record of the log, and the ends of lives that such a record told.
    heard: BTreeSet<Incarnation>,
    ends: BTreeMap<Incarnation, u64>,
    forked: bool,
    /// On no disk any more since one was set back, and which time that was.
    gone: BTreeMap<Event, usize>,
    set_back: Vec<SetBack>,
    since_image: Vec<Incarnation>,
}

impl World {
    fn new() -> Self {
        let spec = AggregateSpec {
            name: "each".to_owned(),
            metric: "*".to_owned(),
            group_by: Vec::new(),
            window: S,
            hop: S,
            functions: [Function::Count].into_iter().collect(),
        };
        let mut world = Self {
            clock: T0 + S,
            machines: Vec::new(),
            lives: 0,
            image: Buffer::default(),
            messages: Vec::new(),
            came: Vec::new(),
            bench: Bench::with(vec![spec], &[]),
            index: Arc::default(),
            accepted: Vec::new(),
            logged: BTreeSet::new(),
            declared: BTreeSet::new(),
            heard: BTreeSet::new(),
            ends: BTreeMap::new(),
            forked: false,
            gone: BTreeMap::new(),
            set_back: Vec::new(),
            since_image: Vec::new(),
        };
        world.machines.push(Machine::default());
        world.start_again(0, &Buffer::default());
        world
    }

    fn started(&mut self, disk: &Buffer) -> Machine {
        self.lives += 1;
        Machine::start(disk, self.lives)
    }

    fn start_again(&mut self, m: usize, disk: &Buffer) {
        self.machines[m] = self.started(disk);
        if m == 0 {
            self.since_image.extend(self.machines[0].memory.incarnation);
        }
    }

    fn step(&mut self, op: &Op) {
        let machine = |at: &Index| at.index(self.machines.len());
        match op {
            Op::Accept(m, n) => {
                let m = machine(m);
                for _ in 0..*n {
                    let event = self.machines[m].accept(self.clock);
                    self.accepted.push(event);
                    self.clock += S;
                }
            }
            Op::Send(m, at, n) => {
                let m = machine(m);
                let at = at.index(self.machines[m].memory.held.len() + 1);
                let message = self.machines[m].send(at, *n, self.clock);
                self.messages.push(message);
            }
            Op::Deliver(i) if !self.messages.is_empty() => {
                // Mostly what was sent lately.
                let n = self.messages.len();
                let back = i.index(n) * i.index(n) / n;
                self.deliver(n - 1 - back);
            }
            Op::Ack(m, i) if !self.came.is_empty() => {
                let i = self.came[i.index(self.came.len())];
                let m = machine(m);
                self.machines[m].acked(&self.messages[i]);
            }
            Op::Deliver(_) | Op::Ack(..) => {}
            Op::Restart(m) => {
                let m = machine(m);
                self.machines[m].commit();
                let disk = self.machines[m].disk.clone();
                self.start_again(m, &disk);
            }
            Op::Crash(m) => {
                let m = machine(m);
                let disk = self.machines[m].disk.clone();
                self.start_again(m, &disk);
            }
            Op::Wait(minutes) => self.clock += minutes * 60 * S,
            Op::Checkpoint => {
                self.clock += S;
                self.bench.tick(self.clock);
                self.bench.restart();
            }
            Op::Fork(Fork::Image) => {
                self.image = self.machines[0].disk.clone();
                self.since_image.clear();
            }
            Op::Fork(Fork::Rollback) => self.roll_back(),
            Op::Fork(Fork::Clone) => {
                self.forked = true;
                let disk = self.image.clone();
                let machine = self.started(&disk);
                self.machines.push(machine);
            }
        }
    }

    fn roll_back(&mut self) {
        self.forked = true;
        let forgotten = std::mem::take(&mut self.since_image);
        self.set_back.push(SetBack {
            lives: forgotten.into_iter().collect(),
            own: self.image.incarnation,
            last: self.image.last,
        });
        let disk = self.image.clone();
        self.start_again(0, &disk);
        let buffers = self.machines.iter().flat_map(|m| [&m.disk, &m.memory]);
        let mut kept: BTreeSet<Event> = buffers
            .flat_map(|b| b.held.iter().chain(&b.gaps).copied())
            .collect();
        kept.extend(self.logged.iter().chain(&self.declared));
        for event in self.accepted.iter().filter(|e| !kept.contains(e)) {
            self.gone.entry(*event).or_insert(self.set_back.len() - 1);
        }
    }

    /// A message comes and its record is processed.
    fn deliver(&mut self, i: usize) {
        // Rows are told once a second.
        self.clock += S;
        let message = &self.messages[i];
        self.bench
            .at(self.clock, std::slice::from_ref(&message.bytes));
        self.logged.extend(&message.events);
        self.declared.extend(&message.gaps);
        self.heard.insert(message.header.incarnation);
        for entry in &message.header.lineage {
            self.ends.insert(entry.incarnation, entry.last_seq);
        }
        self.came.push(i);
        self.check();
    }

    fn rows(&self, time: i64) -> u64 {
        let row = self.bench.rows.get(&(0, Vec::new(), time));
        row.map_or(0, |r| r.count)
    }

    /// None while the core does not know the device, that is before any event of it counts.
    fn progress(&self) -> Option<i64> {
        self.bench.p.find_device("d").map(|d| d.progress.0)
    }

    fn incidents(&self) -> usize {
        self.bench.fx.incidents.len()
    }

    /// Whether the window of an event is said to have it, and whether it is said to have lost something.
    fn said(&self, event: &Event) -> (bool, bool) {
        let counts = self.index.counts(event.time, event.time + S);
        (counts.complete > 0, counts.lossy > 0)
    }

    /// A physical loss that left no trace at the cloud: no life that the disk forgot was ever heard, and of the
    /// image's own life nothing that came after the image. No protocol can see it.
    fn traceless(&self, event: &Event) -> bool {
        let Some(which) = self.gone.get(event) else {
            return false;
        };
        let SetBack { lives, own, last } = &self.set_back[*which];
        let came = self.logged.union(&self.declared);
        let later = came.filter(|e| Some(e.incarnation) == *own && e.seq > *last);
        lives.is_disjoint(&self.heard) && (Some(event.incarnation) != *own || later.count() == 0)
    }

    /// What the cloud cannot know yet: that a second life of the same disk exists, or goes on beyond its told
    /// end, or lives on although it was given up.
    fn beyond_knowledge(&self, event: &Event) -> bool {
        let inc = event.incarnation;
        let ended = self.ends.get(&inc).is_some_and(|last| event.seq > *last);
        self.forked && (self.incidents() > 0 || !self.heard.contains(&inc) || ended)
    }

    fn check(&mut self) {
        if let Some((_, _, index)) = self.bench.fx.indexes.last() {
            self.index = index.clone();
        }
        self.bench.fx.indexes.clear();
        assert!(
            self.progress() <= Some(self.clock),
            "complete in the future"
        );
        for event in &self.accepted {
            let n = self.rows(event.time);
            assert!(n <= 1, "{event:?} was counted {n} times");
            assert!(
                n == 0 || self.logged.contains(event),
                "{event:?} never came"
            );
            let (complete, lossy) = self.said(event);
            if n == 0 && !self.beyond_knowledge(event) {
                assert!(
                    !complete || self.traceless(event),
                    "complete without {event:?}"
                );
            }
            if !self.forked {
                assert!(
                    !lossy || self.declared.contains(event),
                    "{event:?} is not lost"
                );
                let set_aside = n == 0 && self.logged.contains(event);
                assert!(
                    !set_aside || self.declared.contains(event),
                    "{event:?} came"
                );
            }
        }
        if let Some(summary) = &self.bench.fx.summary {
            let t = summary.totals;
            let sum = t.counted + t.duplicate + t.quarantined + t.too_old;
            assert_eq!(t.accepted, sum, "the ledger");
            let counted = self.accepted.iter().map(|e| self.rows(e.time)).sum::<u64>();
            assert_eq!(t.counted, counted, "the ledger and the windows");
        }
        assert!(self.forked || self.incidents() == 0, "a false alarm");
    }

    /// From here on nothing is lost and every machine sends what it holds, once a minute, until those that do
    /// not exist any more have been silent for long.
    fn heal(&mut self) {
        let mut began = self.clock;
        for round in 0.. {
            assert!(round < 3 * SILENT, "not at rest: {:?}", self.machines);
            self.clock += 60 * S;
            began = self.clock;
            for m in 0..self.machines.len() {
                loop {
                    let any = !self.machines[m].memory.held.is_empty();
                    let message = self.machines[m].send(0, 100, self.clock);
                    self.messages.push(message);
                    let sent = self.messages.len() - 1;
                    self.deliver(sent);
                    for machine in &mut self.machines {
                        machine.acked(&self.messages[sent]);
                        machine.commit();
                    }
                    if !any {
                        break;
                    }
                }
            }
            if round >= SILENT && self.machines.iter().all(Machine::at_rest) {
                break;
            }
        }
        self.check_rest(began);
    }

    /// At rest, after a last round of words that began at the time `began`.
    fn check_rest(&self, began: i64) {
        let progress = self.progress().unwrap_or(began);
        assert!(progress >= began, "progress is stuck at {progress}");
        for event in &self.accepted {
            let counted = self.rows(event.time) == 1;
            let (complete, lossy) = self.said(event);
            if counted || self.traceless(event) {
                continue;
            }
            // It is not counted as complete if it is lossy, and never without a reason that people are told.
            assert!(!complete, "{event:?} is lost and its window complete");
            let told = self.incidents() > 0 || self.declared.contains(event);
            assert!(told, "{event:?} is lost and nobody knows");
            let expected = self.index.counts(event.time, event.time + S).expected > 0;
            assert!(lossy || !expected, "{event:?} is waited for, for ever");
        }
    }
}

fn tell(ops: &[Op]) {
    let mut world = World::new();
    for op in ops {
        world.step(op);
    }
    world.heal();
    // Late copies of everything, then the network is at peace again.
    for i in 0..world.messages.len() {
        world.deliver(i);
    }
    world.heal();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_called_complete_is_and_nothing_counts_twice(ops in story()) {
        tell(&ops);
    }
}
