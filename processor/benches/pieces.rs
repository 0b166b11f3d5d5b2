//! The pieces of the core, with 10,000 devices behind 1,000 agents in one partition.
//!
//! `cargo bench -p processor --bench pieces`. What a large fleet costs: `tidewatch bench engine --help`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use event::{
    AgentId, AggregateSpec, BatchHeader, ClockQuality, ClockState, Declaration, DeviceId,
    EventTime, Held, Incarnation, MetricName, Record, Sample, Value, batch,
};
use processor::core::{Effects, Partition};

const S: i64 = 1_000_000;
const T0: i64 = 1_700_000_000 * S;
const AGENTS: u64 = 1000;
const PER_AGENT: u64 = 10;
const METRICS: [&str; 4] = ["temperature", "humidity", "vibration", "battery"];
/// A batch: one value of each series of an agent.
const EVENTS: u64 = PER_AGENT * METRICS.len() as u64;
/// Between two batches of an agent.
const CYCLE: i64 = 60 * S;

/// The record of an agent's n-th batch, of events at `time`, sent at `sent`.
fn record(agent: u64, n: u64, time: i64, sent: i64) -> Vec<u8> {
    let samples: Vec<Sample> = (0..EVENTS)
        .map(|i| {
            let (device, metric) = (agent * PER_AGENT + i / 4, METRICS[i as usize % 4]);
            let value = (2000 + (i * 7919 + n * 104_729) % 400) as f64 / 100.0;
            Sample {
                device: DeviceId::new(&format!("dev-{device:06}")).expect("an id"),
                metric: MetricName::new(metric).expect("a name"),
                time: EventTime(time + i as i64 * 1000),
                value: Value::Number(value),
            }
        })
        .collect();
    let incarnation = Incarnation { no: 1, rand: agent };
    let header = BatchHeader {
        agent: AgentId::new(&format!("gw-{agent:05}")).expect("an id"),
        incarnation,
        tx_no: n + 1,
        sent_at: EventTime(sent),
        boottime_us: 0,
        clock: ClockState {
            quality: ClockQuality::Ntp,
            error_ms: 5,
        },
        e_inc: incarnation,
        first_seq: n * EVENTS + 1,
        count: EVENTS as u32,
        low_watermark: EventTime(sent),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    };
    Record::Batch(batch::encode(&header, &samples).expect("a batch")).encode()
}

/// A partition that has heard each agent once; and its time.
fn fleet() -> (Partition, i64) {
    let mut p = Partition::new(0);
    let rule = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75}"#.to_owned();
    let declare = Record::Declare(Declaration {
        aggregates: AggregateSpec::defaults(),
        rules: vec![rule],
    });
    let mut records = vec![declare.encode()];
    records.extend((0..AGENTS).map(|a| record(a, 0, T0, T0 + S)));
    p.step(0, T0 + S, &records, &mut Effects::default());
    (p, T0 + S)
}

fn step(p: &mut Partition, now: i64, record: &[u8]) {
    let mut fx = Effects::default();
    p.step(p.offset(), now, &[record], &mut fx);
    black_box(fx);
}

/// Batches in the order in which agents send them, `CYCLE` apart for each; `late` microseconds late.
fn batches(c: &mut Criterion, name: &str, late: i64) {
    let (mut p, start) = fleet();
    let mut n = 0;
    let mut next = || {
        let at = start + n as i64 * CYCLE / AGENTS as i64;
        let made = record(n % AGENTS, n / AGENTS + 1, at - late - S, at);
        n += 1;
        (at, made)
    };
    c.bench_function(name, |b| {
        b.iter_batched(
            &mut next,
            |(at, record)| step(&mut p, at, &record),
            BatchSize::PerIteration,
        );
    });
}

fn pieces(criterion: &mut Criterion) {
    batches(criterion, "batch of 40 events", 0);
    batches(
        criterion,
        "batch of 40 events, 20 minutes late",
        20 * 60 * S,
    );

    let (mut p, now) = fleet();
    let again = record(7, 0, T0, T0 + S);
    criterion.bench_function("batch of 40 events that were counted before", |b| {
        b.iter(|| step(&mut p, now, &again));
    });

    let (mut p, now) = fleet();
    step(&mut p, now + S, &Record::Tick.encode());
    let mut buffer = Vec::new();
    criterion.bench_function("begin a checkpoint of 10,000 devices", |b| {
        b.iter(|| {
            let saving = p
                .begin_checkpoint(std::mem::take(&mut buffer))
                .expect("at rest");
            p.finish_checkpoint(true);
            buffer = saving.snapshot;
        });
    });
    let snapshot = p.snapshot();
    criterion.bench_function("restore 10,000 devices", |b| {
        b.iter(|| Partition::restore(black_box(&snapshot)).expect("a state"));
    });
}

criterion_group!(benches, pieces);
criterion_main!(benches);
