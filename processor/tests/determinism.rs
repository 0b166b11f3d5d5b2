//! The same records give the same state and the same effects: over runs, threads, builds, and restarts from
//! any checkpoint; and the order, repetition and cut of batches does not change a settled window.

mod support;

use std::collections::BTreeMap;

use event::{
    AgentId, AggregateSpec, BatchHeader, ClockQuality, ClockState, Declaration, EventTime,
    Function, Gap, GapReason, Held, Incarnation, Lineage, MetricName, Plain, PlainSample, Record,
    Sample, TimeRange, Value, batch,
};
use processor::core::{Effects, Partition};
use proptest::prelude::*;
use support::{Bench, S, T0, batch_record, sample, temperature};
use views::{HistoryQuery, Tier};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn aggregates() -> Vec<AggregateSpec> {
    let mut all = AggregateSpec::defaults();
    let every = |name: &str, window: i64, hop: i64, by: &str| AggregateSpec {
        name: name.to_owned(),
        window: window * S,
        hop: hop * S,
        group_by: vec![by.to_owned()],
        functions: Function::ALL.iter().copied().collect(),
        ..AggregateSpec::defaults().remove(0)
    };
    all.push(every("by_site", 10, 10, "site"));
    all.push(every("hop", 60, 20, "site"));
    all
}

struct Gateway {
    no: u32,
    rand: u64,
    tx: u64,
    seq: u64,
    /// (incarnation, last seq) of the life before.
    before: Option<(Incarnation, u64)>,
    sent: Vec<Vec<u8>>,
}

impl Gateway {
    fn incarnation(&self) -> Incarnation {
        Incarnation {
            no: self.no,
            rand: self.rand,
        }
    }
}

/// A partition's log with everything that can stand in it: blocks of (ingest time, records).
fn workload(seed: u64, records_min: usize) -> Vec<(i64, Vec<Vec<u8>>)> {
    let mut r = Random(seed);
    let mut fleet: Vec<Gateway> = (0..40)
        .map(|i| Gateway {
            no: 1,
            rand: i * 7 + 1,
            tx: 0,
            seq: 0,
            before: None,
            sent: Vec::new(),
        })
        .collect();
    let rule = r#"{"name":"hot","metric":"temperature","raise":30,"clear":25}"#;
    let declare = Declaration {
        aggregates: aggregates(),
        rules: vec![rule.to_owned()],
    };
    let mut blocks = vec![(T0, vec![Record::Declare(declare).encode()])];
    let (mut now, mut n) = (T0, 1);
    while n < records_min {
        now += (r.below(4) * 700_000) as i64;
        let mut block = Vec::new();
        for _ in 0..1 + r.below(6) {
            let g = r.below(fleet.len() as u64) as usize;
            block.push(one_record(&mut r, &mut fleet[g], g, now));
        }
        n += block.len();
        blocks.push((now, block));
    }
    blocks
}

fn one_record(r: &mut Random, gateway: &mut Gateway, g: usize, now: i64) -> Vec<u8> {
    match r.below(100) {
        0..5 => return Record::Tick.encode(),
        5..8 => {
            let metric = MetricName::new(["temperature", "state"][r.below(2) as usize]).unwrap();
            return Record::Plain(Plain {
                device: event::DeviceId::new(&format!("plain-{}", r.below(9))).unwrap(),
                samples: vec![PlainSample {
                    metric,
                    time: r.chance(50).then_some(EventTime(now - S)),
                    value: Value::Number(r.below(400) as f64 / 10.0),
                }],
            })
            .encode();
        }
        8 => {
            let name = ["extra", "more"][r.below(2) as usize];
            let spec = AggregateSpec {
                name: name.to_owned(),
                ..aggregates().remove(r.below(4) as usize)
            };
            return match r.below(2) {
                0 => Record::SetAggregate(spec).encode(),
                _ => Record::RemoveAggregate(name.to_owned()).encode(),
            };
        }
        9 => {
            let device = event::DeviceId::new(&format!("{g}-{}", r.below(3))).unwrap();
            return Record::Decommission(device).encode();
        }
        10..16 if !gateway.sent.is_empty() => {
            let at = r.below(gateway.sent.len() as u64) as usize;
            return gateway.sent[at].clone();
        }
        16..18 => {
            gateway.before = Some((gateway.incarnation(), gateway.seq));
            gateway.no += 1;
            gateway.rand = r.next();
            (gateway.tx, gateway.seq) = (0, 0);
        }
        _ => {}
    }
    let count = r.below(30);
    let age = match r.below(20) {
        0 => r.below(3 * 86_400) as i64,
        1 => r.below(3600) as i64,
        _ => r.below(20) as i64,
    };
    let samples: Vec<Sample> = (0..count)
        .map(|_| {
            let device = format!("{g}-{}", r.below(3));
            let t = now - age * S - r.below(3_000_000) as i64;
            let t = if r.chance(1) { 5 } else { t };
            match r.below(12) {
                0 => sample(
                    &device,
                    "@site",
                    t,
                    Value::Text(format!("s{}", r.below(4)).into()),
                ),
                1 => sample(
                    &device,
                    "state",
                    t,
                    Value::Text(format!("v{}", r.below(50)).into()),
                ),
                2 => sample(&device, "door", t, Value::Bool(r.chance(50))),
                3 => sample(&device, "load", t, Value::Number(r.below(100) as f64)),
                _ => temperature(&device, t, r.below(350) as f64 / 10.0),
            }
        })
        .collect();
    gateway.tx += 1;
    let lineage = gateway.before.map(|(incarnation, last_seq)| Lineage {
        incarnation,
        last_seq,
        held: false,
    });
    let gaps = r.chance(2).then(|| Gap {
        incarnation: gateway.incarnation(),
        from: gateway.seq + count + 1,
        to: gateway.seq + count + 2,
        time: TimeRange {
            from: EventTime(now - 5 * S),
            to: EventTime(now),
        },
        reason: GapReason::Overflow,
    });
    let header = BatchHeader {
        agent: AgentId::new(&format!("gw-{g}")).unwrap(),
        incarnation: gateway.incarnation(),
        tx_no: gateway.tx,
        sent_at: EventTime(now),
        boottime_us: 0,
        clock: ClockState {
            quality: ClockQuality::Ntp,
            error_ms: 1,
        },
        e_inc: gateway.incarnation(),
        first_seq: gateway.seq + 1,
        count: count as u32,
        low_watermark: EventTime(now - r.below(5) as i64 * S),
        quiet_until: r.chance(2).then_some(EventTime(now + 60 * S)),
        held: Held::default(),
        lineage: lineage.into_iter().collect(),
        unclean: None,
        gaps: gaps.iter().cloned().collect(),
    };
    gateway.seq += count + if gaps.is_some() { 2 } else { 0 };
    let record = Record::Batch(batch::encode(&header, &samples).unwrap()).encode();
    gateway.sent.push(record.clone());
    record
}

/// What a run gives: state hashes about every 1,000 records (at the next rest), and a hash over all effects.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Trace {
    hashes: Vec<(u64, u64)>,
    effects: u64,
}

fn digest(fx: &Effects) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut h = xxhash_rust::xxh3::Xxh3::new();
    for r in &fx.rows {
        let bits = (r.sum, r.min.to_bits(), r.max.to_bits());
        let counts = (r.count, r.distinct, r.late_events, r.revision);
        (r.aggregate, &r.group, r.start, bits, counts, r.state).hash(&mut h);
    }
    for c in &fx.cold {
        (c.group, c.pane).hash(&mut h);
    }
    for (slot, group, index) in &fx.indexes {
        let c = index.counts(T0, T0 + 600 * S);
        (slot, group, c.expected, c.complete, c.lossy, c.dormant).hash(&mut h);
    }
    for n in &fx.notices {
        n.id.hash(&mut h);
    }
    // What is left is little: two equal runs print the same.
    let text = format!("{:?}{:?}{:?}", fx.alerts, fx.quarantine, fx.summary);
    text.hash(&mut h);
    h.finish()
}

fn run(blocks: &[(i64, Vec<Vec<u8>>)]) -> Trace {
    let mut p = Partition::new(0);
    let mut trace = Trace {
        hashes: Vec::new(),
        effects: 0,
    };
    let mut due = 1000;
    for (now, records) in blocks {
        let mut fx = Effects::default();
        p.step(p.offset(), *now, records, &mut fx);
        trace.effects = trace.effects.rotate_left(5) ^ digest(&fx);
        if p.offset() >= due && p.at_rest() {
            trace.hashes.push((p.offset(), p.state_hash()));
            due = p.offset() + 1000;
        }
    }
    trace
}

/// Over two runs and over 1, 2 and 4 threads; and over debug and release builds by the fixed numbers.
#[test]
fn state_hashes_are_equal_over_runs_and_threads_and_builds() {
    let logs: Vec<_> = (0..8).map(|seed| workload(seed, 5_500)).collect();
    let alone: Vec<Trace> = logs.iter().map(|log| run(log)).collect();
    assert!(alone.iter().all(|t| t.hashes.len() >= 5));
    for threads in [1, 2, 4] {
        let results: Vec<Trace> = std::thread::scope(|scope| {
            let handles: Vec<_> = logs
                .chunks(8 / threads)
                .map(|chunk| {
                    scope.spawn(move || chunk.iter().map(|log| run(log)).collect::<Vec<_>>())
                })
                .collect();
            handles
                .into_iter()
                .flat_map(|h| h.join().unwrap())
                .collect()
        });
        assert_eq!(results, alone, "{threads} threads");
    }
    let all: Vec<u64> = alone
        .iter()
        .flat_map(|t| t.hashes.iter().map(|h| h.1))
        .collect();
    let bytes: Vec<u8> = all.iter().flat_map(|h| h.to_le_bytes()).collect();
    assert_eq!(
        xxhash_rust::xxh3::xxh3_64(&bytes),
        GOLDEN,
        "the same in every build; change it only with the format of the state"
    );
}

/// Hash over all state hashes of the test above.
const GOLDEN: u64 = 12_508_221_260_450_800_940;

fn all_rows(b: &Bench) -> Vec<views::RowPart> {
    let mut out = Vec::new();
    for (slot, _) in b.p.declarations().aggregates {
        for tier in [Tier::Window, Tier::Hour, Tier::Day] {
            let query = HistoryQuery {
                aggregate: slot,
                tier,
                from: 0,
                to: i64::MAX,
                group: Vec::new(),
                after: None,
                newest: false,
                limit: usize::MAX,
            };
            let span = (0, b.p.history_end());
            let Some((first, last)) = b.p.history_range(&query, span.0, span.1) else {
                continue;
            };
            let stored: Vec<_> = b
                .store
                .range(first..last)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            out.extend(b.p.history(&query, span, &stored, Some(b.saved)));
        }
    }
    out
}

#[test]
fn a_restart_from_any_checkpoint_gives_the_same_state_and_the_same_windows() {
    let log = workload(77, 3_000);
    let mut whole = Bench::with(Vec::new(), &[]);
    whole.p = Partition::new(0);
    let mut hashes = BTreeMap::new();
    for (now, records) in &log {
        whole.at(*now, records);
        if whole.p.at_rest() {
            hashes.insert(whole.p.offset(), whole.p.state_hash());
        }
    }
    let rows = all_rows(&whole);
    assert!(rows.len() > 500);
    let mut r = Random(5);
    let mut restarts = 0;
    while restarts < 100 {
        let mut b = Bench::with(Vec::new(), &[]);
        b.p = Partition::new(0);
        let mut left = 1 + r.below(20);
        for (now, records) in &log {
            b.at(*now, records);
            left = left.saturating_sub(1);
            if left == 0 && b.p.at_rest() {
                b.restart();
                restarts += 1;
                left = 1 + r.below(40);
            }
            if b.p.at_rest() && r.chance(10) {
                assert_eq!(Some(&b.p.state_hash()), hashes.get(&b.p.offset()));
            }
        }
        assert_eq!(all_rows(&b), rows);
        assert_eq!(b.p.totals(), whole.p.totals());
    }
}

/// Batches of two gateways: which events, and in what cuts, order and repetitions they come.
#[derive(Debug, Clone)]
struct Delivery {
    agents: Vec<Vec<Sample>>,
    plan: Vec<(usize, u64, u64)>,
    pauses: Vec<u8>,
    saves: u64,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let value = (0..2usize, 0..3usize, 0..200i64, -50i64..50);
    let agents = prop::collection::vec(prop::collection::vec(value, 1..14), 2);
    let more = prop::collection::vec((0..2usize, 1..14u64, 1..6u64), 0..8);
    let shuffle = prop::collection::vec(any::<u32>(), 40);
    let pauses = prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 3, 80, 250]), 40);
    (agents, more, shuffle, pauses, any::<u64>()).prop_map(
        |(agents, more, shuffle, pauses, saves)| {
            let agents: Vec<Vec<Sample>> = agents
                .into_iter()
                .enumerate()
                .map(|(a, events)| {
                    let make = |(d, m, t, v): (usize, usize, i64, i64)| {
                        let metric = ["temperature", "load", "power"][m];
                        let t = T0 + t * S / 3;
                        sample(
                            &format!("{a}-{d}"),
                            metric,
                            t,
                            Value::Number(v as f64 / 4.0),
                        )
                    };
                    events.into_iter().map(make).collect()
                })
                .collect();
            let last = |a: usize| agents[a].len() as u64;
            let mut plan: Vec<(usize, u64, u64)> = more
                .into_iter()
                .map(|(a, first, n)| {
                    let first = 1 + (first - 1) % last(a);
                    (a, first, (first + n - 1).min(last(a)))
                })
                .collect();
            // And everything once for certain, in pieces of five.
            for a in 0..2 {
                let mut first = 1;
                while first <= last(a) {
                    plan.push((a, first, (first + 4).min(last(a))));
                    first += 5;
                }
            }
            let mut order: Vec<usize> = (0..plan.len()).collect();
            order.sort_by_key(|i| shuffle[*i % shuffle.len()].wrapping_mul(*i as u32 + 1));
            Delivery {
                plan: order.into_iter().map(|i| plan[i]).collect(),
                agents,
                pauses,
                saves,
            }
        },
    )
}

/// (aggregate, tier, group, start) → what does not depend on the way.
type Settled = BTreeMap<(u32, u8, Vec<String>, i64), (u64, u64, i128, String, u64, String)>;

fn settled(b: &Bench) -> Settled {
    all_rows(b)
        .into_iter()
        .map(|r| {
            let group = r.group.iter().map(|v| v.to_string()).collect();
            let sketches = format!(
                "{:?}{:?}",
                r.values.map(|v| v.to_bytes()),
                r.quantiles.map(|q| q.to_bytes())
            );
            let extremes = format!("{} {:?} {} {:?}", r.min, r.min_at, r.max, r.max_at);
            assert!(r.tier != Tier::Window || r.state != views::RowState::Open);
            (
                (r.aggregate, r.tier as u8, group, r.start),
                (r.count, r.numeric, r.sum, extremes, r.distinct, sketches),
            )
        })
        .collect()
}

fn deliver(d: &Delivery, plan: &[(usize, u64, u64)], pauses: &[u8], saves: u64) -> Settled {
    let mut b = Bench::with(aggregates(), &[]);
    let mut now = T0 + 80 * S;
    for (tx, &(a, first, last)) in plan.iter().enumerate() {
        now += i64::from(pauses[tx % pauses.len()]) * S;
        let samples = &d.agents[a][first as usize - 1..last as usize];
        let name = format!("gw-{a}");
        b.at(
            now,
            &[batch_record(
                &name,
                tx as u64 + 1,
                first,
                samples,
                T0 + 70 * S,
            )],
        );
        if saves >> (tx % 64) & 1 == 1 && b.p.at_rest() {
            b.restart();
        }
    }
    b.tick(now + 3600 * S);
    settled(&b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn order_repetition_and_cut_of_batches_change_no_settled_window(d in delivery()) {
        // In order, whole, without a repetition or a checkpoint.
        let whole: Vec<(usize, u64, u64)> =
            d.agents.iter().enumerate().map(|(a, e)| (a, 1, e.len() as u64)).collect();
        prop_assert_eq!(
            deliver(&d, &d.plan, &d.pauses, d.saves),
            deliver(&d, &whole, &[1], 0)
        );
    }
}
