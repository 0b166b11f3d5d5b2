//! Events per CPU-second through the core: decode of the blocks included, one thread.
//!
//! `cargo bench -p processor --bench core -- [--devices N] [--per-agent N] [--events N] [--batch N]`
//!
//! The fleet: `devices` devices behind agents of `per-agent` each, 4 metrics a device. Every agent sends
//! batches of `batch` events, its series in turn, once a second each; agents take turns in random order.
//! Aggregates: `fleet` and `by_metric`, 10 s, all functions, and a threshold rule on one metric. The
//! first round, in which every device is new, is reported apart. Batches are made outside the measured time.

// It is a program that prints figures.
#![allow(clippy::print_stdout)]

use std::fs;

use event::{
    AgentId, AggregateSpec, BatchHeader, ClockState, Declaration, DeviceId, EventTime, Held,
    Incarnation, MetricName, Record, Sample, Value, batch,
};
use processor::core::{Effects, Partition};

const S: i64 = 1_000_000;
const T0: i64 = 1_700_000_000 * S;
const METRICS: [&str; 4] = ["temperature", "humidity", "vibration", "battery"];

/// CPU time of this thread, nanoseconds.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn arg(name: &str, default: u64) -> u64 {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == name);
    at.and_then(|i| args.get(i + 1)?.parse().ok())
        .unwrap_or(default)
}

fn make(agent: u64, per_agent: u64, round: u64, size: usize, random: &mut Random) -> Vec<u8> {
    let start = T0 + round as i64 * 60 * S;
    let series = per_agent as usize * METRICS.len();
    let samples: Vec<Sample> = (0..size)
        .map(|i| {
            let (tick, s) = (i / series, i % series);
            let device = agent * per_agent + (s / METRICS.len()) as u64;
            let noise = (random.next() % 40) as f64 / 100.0;
            Sample {
                device: DeviceId::new(&format!("dev-{device:08}")).unwrap(),
                metric: MetricName::new(METRICS[s % METRICS.len()]).unwrap(),
                time: EventTime(start + tick as i64 * S),
                value: Value::Number(((20.0 + noise) * 100.0).round() / 100.0),
            }
        })
        .collect();
    let incarnation = Incarnation { no: 1, rand: agent };
    let header = BatchHeader {
        agent: AgentId::new(&format!("gw-{agent:07}")).unwrap(),
        incarnation,
        tx_no: round + 1,
        sent_at: EventTime(start + 60 * S),
        boottime_us: 0,
        clock: ClockState::default(),
        e_inc: incarnation,
        first_seq: round * size as u64 + 1,
        count: size as u32,
        low_watermark: EventTime(start + 60 * S),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    };
    Record::Batch(batch::encode(&header, &samples).unwrap()).encode()
}

fn rss_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}

fn main() {
    let devices = arg("--devices", 1_000_000);
    let per_agent = arg("--per-agent", 10);
    let size = arg("--batch", 1000) as usize;
    let agents = devices / per_agent;
    let events = arg("--events", 20_000_000);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut p = Partition::new(0);
    let mut fx = Effects::default();
    let rule = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75}"#.to_owned();
    let declare = Declaration {
        aggregates: AggregateSpec::defaults(),
        rules: vec![rule],
    };
    p.step(0, T0, &[Record::Declare(declare).encode()], &mut fx);
    let before = rss_bytes();

    // Round 0: everybody is new; one event per series is enough.
    let first = per_agent as usize * METRICS.len();
    let mut now = T0 + 60 * S;
    let mut spent = 0;
    for chunk in (0..agents).collect::<Vec<_>>().chunks(1000) {
        let records: Vec<Vec<u8>> = chunk
            .iter()
            .map(|&a| make(a, per_agent, 0, first, &mut random))
            .collect();
        now += 10_000;
        let began = cpu_ns();
        p.step(p.offset(), now, &records, &mut fx);
        spent += cpu_ns() - began;
        fx = Effects::default();
    }
    let n = agents * first as u64;
    println!(
        "register   {devices} devices: {:.2} M events/CPU-s",
        n as f64 * 1e3 / spent as f64
    );
    println!(
        "state      {:.0} bytes RSS a device",
        (rss_bytes() - before) as f64 / devices as f64
    );

    // Measured: each agent at most once a round, in random order.
    let (mut done, mut spent, mut round) = (0u64, 0u64, 1u64);
    while done < events {
        let mut order: Vec<u64> = (0..agents).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
        now = T0 + (round as i64 + 1) * 60 * S;
        // Seqs begin behind those of round 0, which has its own batch size.
        for chunk in order.chunks(200) {
            let records: Vec<Vec<u8>> = chunk
                .iter()
                .map(|&a| make(a, per_agent, round, size, &mut random))
                .collect();
            now += 20_000;
            let began = cpu_ns();
            p.step(p.offset(), now, &records, &mut fx);
            spent += cpu_ns() - began;
            fx = Effects::default();
            done += chunk.len() as u64 * size as u64;
            if done >= events {
                break;
            }
        }
        round += 1;
    }
    println!(
        "core       {devices} devices, batches of {size}: {:.2} M events/CPU-s, {:.1} ns an event",
        done as f64 * 1e3 / spent as f64,
        spent as f64 / done as f64
    );
    let began = cpu_ns();
    let snapshot = p.snapshot();
    println!(
        "snapshot   {:.0} MB, {:.0} bytes a device, {:.0} ms",
        snapshot.len() as f64 / 1e6,
        snapshot.len() as f64 / devices as f64,
        (cpu_ns() - began) as f64 / 1e6
    );
}
