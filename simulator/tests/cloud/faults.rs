//! Agents, network and cloud in simulated time, from a seed: no sockets, no clocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event::{EventTime, Incarnation, RefusalReason, RefusedRange};
use simulator::agent::{Agent, IN_FLIGHT_MAX};
use simulator::clock::{Now, Wall};
use simulator::fleet::Fleet;
use simulator::network::Network;
use simulator::rng::Rng;
use simulator::source::Source;
use simulator::truth::{Table, Tally};
use simulator::{Scenario, Settings};

use crate::brute_force;
use crate::model::Cloud;

const STEP: u64 = 50_000;
const BASE: i64 = 1_790_000_003_000_000;

struct Sim {
    fleet: Arc<Fleet>,
    cloud: Cloud,
    table: Arc<Table>,
    rng: Rng,
    /// Refuse this share of batches once.
    refuse: f64,
}

struct Line {
    agent: Agent,
    source: Source,
    network: Network,
    tally: Tally,
    number: u32,
    wire: VecDeque<(u64, Bytes)>,
    back: VecDeque<(u64, event::Ack)>,
    offline_until: u64,
}

fn fleet(seed: u64, scenario: Scenario, batch_events: usize) -> Arc<Fleet> {
    let mut s = Settings::new("mqtt://h:1".parse().unwrap(), 24, 4, 400.0);
    s.seed = seed;
    s.scenario = scenario;
    s.duration = Some(Duration::from_secs(30));
    s.batch_events = batch_events;
    s.ack_timeout = Duration::from_millis(700);
    s.truth_windows = vec![Duration::from_secs(10), Duration::from_secs(4)];
    Arc::new(Fleet::new(s, Wall::new(EventTime(BASE), 1.0)).unwrap())
}

impl Sim {
    fn new(fleet: Arc<Fleet>) -> Self {
        let rng = Rng::new(fleet.settings.seed, 77);
        Self {
            fleet,
            cloud: Cloud::default(),
            table: Arc::default(),
            rng,
            refuse: 0.0,
        }
    }

    fn line(&self, number: u32) -> Line {
        let s = &self.fleet.settings;
        let incarnation = Incarnation {
            no: 1,
            rand: 0xabc0 + u64::from(number),
        };
        let devices = self.fleet.devices_of(number).len();
        let site = self.fleet.site_of(number);
        Line {
            agent: Agent::new(Arc::clone(&self.fleet), number, incarnation).unwrap(),
            source: Source::new(Arc::clone(&self.fleet), number),
            network: Network::new(&s.scenario.faults, Rng::new(s.seed, u64::from(number))),
            tally: Tally::new(Arc::clone(&self.table), &s.truth_windows, site, devices),
            number,
            wire: VecDeque::new(),
            back: VecDeque::new(),
            offline_until: 0,
        }
    }

    /// Runs one agent to the end; returns when everything is acked and the end of time is told.
    fn run(&mut self, number: u32) -> Agent {
        let mut line = self.line(number);
        let restart = self.fleet.settings.scenario.faults.restart / 60.0 * STEP as f64 / 1e6;
        let mut real = 0;
        let mut last_tx = None;
        loop {
            real += STEP;
            assert!(real < 3_600_000_000, "the run does not end");
            line.make(real);
            let is_over = line.source.next_due().is_none();
            if !is_over && (self.rng.chance(restart) || self.is_cut(&line, real)) {
                line.disconnect(real + 1_000_000);
                if self.rng.chance(0.7) {
                    line.agent.restart(self.rng.next(), real);
                }
            }
            if real >= line.offline_until {
                line.send(real);
                if is_over && line.agent.held() == 0 {
                    match last_tx {
                        Some(tx_no) if line.agent.is_answered(tx_no) => break,
                        // Again once a second: the answer may be lost.
                        _ if real.is_multiple_of(1_000_000) => last_tx = line.heartbeat(real),
                        _ => {}
                    }
                }
                self.deliver(&mut line, real);
            }
        }
        line.tally.close();
        line.agent
    }

    fn is_cut(&self, line: &Line, real: u64) -> bool {
        self.fleet.cut_off(line.number, real).is_some() && real >= line.offline_until
    }

    fn deliver(&mut self, line: &mut Line, real: u64) {
        while line.wire.front().is_some_and(|(at, _)| *at <= real) {
            let (_, bytes) = line.wire.pop_front().unwrap();
            if self.rng.chance(self.refuse) {
                let (header, _) = event::batch::peek(&bytes).unwrap();
                let Some(last) = header.last_seq() else {
                    continue;
                };
                let range = event::SeqRange {
                    incarnation: header.e_inc,
                    first: header.first_seq,
                    last,
                };
                let refused = RefusedRange {
                    range,
                    reason: RefusalReason::RateLimited,
                    message: "later".to_owned(),
                };
                let ack = event::Ack {
                    incarnation: Incarnation::default(),
                    refused: vec![refused],
                    ..Default::default()
                };
                line.back.push_back((real, ack));
                continue;
            }
            let (_, ack) = self.cloud.append(&bytes);
            line.back.push_back((real + self.rng.below(200_000), ack));
        }
        // Acks overtake each other.
        for _ in 0..line.back.len() {
            let (at, ack) = line.back.pop_front().unwrap();
            if at > real {
                line.back.push_back((at, ack));
            } else if line.network.passes_ack() {
                let decoded = event::Ack::decode(&ack.encode()).unwrap();
                line.agent.hear(&decoded, real);
            }
        }
    }
}

impl Line {
    fn make(&mut self, real: u64) {
        let (agent, tally) = (&mut self.agent, &mut self.tally);
        self.source.make(real, u64::MAX, |event| {
            tally.add(&event);
            agent.take(event, real);
        });
    }

    fn moment(&self, real: u64) -> (Now, EventTime) {
        let wall = EventTime(BASE + real as i64);
        (
            Now { real, wall },
            self.source.next_time().map_or(wall, |next| next.min(wall)),
        )
    }

    fn send(&mut self, real: u64) {
        let (now, present) = self.moment(real);
        let mut sent = 0;
        while let Some(t) = self
            .agent
            .next_batch(now, present, real.is_multiple_of(500_000))
        {
            sent += 1;
            assert!(sent <= 2 * IN_FLIGHT_MAX);
            let wire = &mut self.wire;
            self.network.send(t.bytes.into(), real, |bytes| {
                wire.push_back((real + 20_000, bytes))
            });
        }
        let wire = &mut self.wire;
        self.network
            .release(real, |bytes| wire.push_back((real + 20_000, bytes)));
    }

    fn heartbeat(&mut self, real: u64) -> Option<u64> {
        let (now, present) = self.moment(real);
        let t = self.agent.heartbeat(now, present)?;
        self.wire.push_back((real, t.bytes.into()));
        Some(t.tx_no)
    }

    /// What is on the wire is lost, some of it after the server has read it.
    fn disconnect(&mut self, until: u64) {
        self.agent.disconnected();
        self.network.disconnected();
        self.wire.truncate(self.wire.len() / 2);
        self.back.clear();
        self.offline_until = until;
    }
}

fn check(seed: u64, scenario: Scenario, batch_events: usize, refuse: f64) -> (Cloud, Vec<Agent>) {
    eprintln!("seed {seed}, batches of {batch_events}");
    let mut sim = Sim::new(fleet(seed, scenario, batch_events));
    sim.refuse = refuse;
    let agents: Vec<Agent> = (0..4).map(|n| sim.run(n)).collect();
    let made: u64 = agents.iter().map(|a| a.counters.made).sum();
    assert_eq!(sim.cloud.events.len() as u64, made, "lost or invented");
    assert_eq!(sim.cloud.broken_promises, 0);
    assert_eq!(sim.cloud.incidents, Vec::<String>::new());
    for a in &agents {
        assert_eq!((a.held(), a.counters.wrong_acks), (0, 0));
        assert_eq!(a.counters.acked, a.counters.made);
        // The final heartbeat told the time after the last event, and earlier lives are closed.
        assert!(sim.cloud.progress(a.id().as_str()) >= Some(EventTime(BASE + 30_000_000)));
        assert_eq!(sim.cloud.live(a.id().as_str()), 1);
    }
    brute_force::assert_equal(&sim.table, &sim.cloud.events, &[10, 4]);
    (sim.cloud, agents)
}

#[test]
fn a_calm_run_sends_everything_once() {
    let (cloud, agents) = check(1, Scenario::calm(), 1000, 0.0);
    assert_eq!(cloud.duplicates, 0);
    assert!(
        agents
            .iter()
            .all(|a| a.counters.resends == 0 && a.counters.restarts == 0)
    );
}

#[test]
fn rough_runs_lose_and_double_nothing() {
    for seed in 1..=8 {
        let mut scenario = Scenario::rough();
        scenario.faults.restart = 20.0;
        scenario.faults.duplicate = 0.2;
        scenario.faults.lost_ack = 0.3;
        scenario.faults.reorder = 0.3;
        let batch_events = [3, 17, 100, 1000][seed as usize % 4];
        let (cloud, agents) = check(seed, scenario, batch_events, 0.0);
        let sum = |f: fn(&Agent) -> u64| agents.iter().map(f).sum::<u64>();
        assert!(cloud.duplicates > 0);
        assert!(sum(|a| a.counters.resends) > 0 && sum(|a| a.counters.restarts) > 0);
        assert!(cloud.inherited > 0, "no event outlived its process");
        assert!(sum(|a| a.counters.recuts) > 0);
    }
}

#[test]
fn refused_ranges_are_kept_and_tried_again() {
    let (_, agents) = check(5, Scenario::calm(), 50, 0.2);
    assert!(agents.iter().any(|a| a.counters.refused > 0));
    assert!(
        agents
            .iter()
            .any(|a| a.refusal() == Some("rate_limited: later"))
    );
}

#[test]
fn at_most_eight_ranges_are_in_flight() {
    let fleet = fleet(3, Scenario::calm(), 10);
    let mut line = Sim::new(fleet).line(0);
    line.make(20_000_000);
    let (now, present) = line.moment(20_000_000);
    // The attributes go first and alone.
    let first = line.agent.next_batch(now, present, true).unwrap();
    let second = line.agent.next_batch(now, present, true).unwrap();
    assert!(line.agent.next_batch(now, present, true).is_none());
    let mut cloud = Cloud::default();
    for t in [first, second] {
        line.agent.hear(&cloud.append(&t.bytes).1, 0);
    }
    let mut sent = 0;
    while line.agent.next_batch(now, present, true).is_some() {
        sent += 1;
    }
    assert_eq!(sent, IN_FLIGHT_MAX);
}

#[test]
fn the_low_watermark_waits_for_what_is_in_flight() {
    let fleet = fleet(3, Scenario::calm(), 1000);
    let mut line = Sim::new(fleet).line(0);
    let mut cloud = Cloud::default();
    line.make(2_000_000);
    let (now, present) = line.moment(2_000_000);
    let first = line.agent.next_batch(now, present, true).unwrap();
    let low = |bytes: &[u8]| event::batch::peek(bytes).unwrap().0.low_watermark;
    assert_eq!(
        low(&first.bytes),
        present,
        "its own events do not hold it back"
    );
    line.make(4_000_000);
    let (now, present) = line.moment(4_000_000);
    let beat = line.agent.heartbeat(now, present).unwrap();
    assert_eq!(low(&beat.bytes), EventTime(BASE), "un-acked events do");
    line.agent.hear(&cloud.append(&first.bytes).1, 0);
    assert!(line.agent.low_watermark(present) >= EventTime(BASE + 1_900_000));
}

#[test]
fn an_ack_of_a_part_deletes_that_part_only() {
    let fleet = fleet(3, Scenario::calm(), 1000);
    let mut line = Sim::new(fleet).line(0);
    line.make(2_000_000);
    let (now, present) = line.moment(2_000_000);
    line.agent.next_batch(now, present, true).unwrap();
    let held = line.agent.held();
    let incarnation = line.agent.incarnation();
    let part = |first, last| event::Ack {
        incarnation: Incarnation::default(),
        ranges: vec![event::SeqRange {
            incarnation,
            first,
            last,
        }],
        ..Default::default()
    };
    line.agent.hear(&part(10, 19), 0);
    line.agent.hear(&part(15, 24), 0);
    assert_eq!(line.agent.held(), held - 15);
    let strange = Incarnation { no: 9, rand: 9 };
    let range = event::SeqRange {
        incarnation: strange,
        first: 1,
        last: 1000,
    };
    line.agent.hear(
        &event::Ack {
            incarnation: Incarnation::default(),
            ranges: vec![range],
            ..Default::default()
        },
        0,
    );
    assert_eq!(
        (line.agent.held(), line.agent.counters.wrong_acks),
        (held - 15, 0)
    );
    line.agent.hear(&part(1, 10_000), 0);
    assert_eq!((line.agent.held(), line.agent.counters.wrong_acks), (0, 1));
}

#[test]
fn the_budget_slows_down_a_backlog_only() {
    let fleet = fleet(3, Scenario::calm(), 100);
    let mut line = Sim::new(fleet).line(0);
    line.make(100_000);
    let (now, present) = line.moment(100_000);
    let mut cloud = Cloud::default();
    while let Some(t) = line.agent.next_batch(now, present, true) {
        line.agent.hear(&cloud.append(&t.bytes).1, now.real);
    }
    for second in 1..=30 {
        line.make(second * 1_000_000);
    }
    let late = 60_000_000;
    line.agent.hear(
        &event::Ack {
            incarnation: Incarnation::default(),
            backfill_budget: Some(100),
            ..Default::default()
        },
        late,
    );
    let mut sent = Vec::new();
    for tick in 0..100 {
        let (now, present) = line.moment(late + tick * 100_000);
        while let Some(t) = line.agent.next_batch(now, present, false) {
            sent.push(u64::from(t.events));
            let ack = event::Ack {
                incarnation: Incarnation::default(),
                backfill_budget: Some(100),
                ..cloud.append(&t.bytes).1
            };
            line.agent.hear(&ack, now.real);
        }
    }
    let total: u64 = sent.iter().sum();
    assert!(
        (800..=1300).contains(&total),
        "{total} events in ten seconds"
    );
}
