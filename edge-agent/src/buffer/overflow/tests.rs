use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use event::{AgentId, Incarnation};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::super::{Faults, Settings, open_backend};
use super::*;

type Number = (Incarnation, u64);
/// Second and value.
type Point = (i64, f64);

/// A disk that is there again after the buffer was closed.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

const START: i64 = 1_700_000_040;

fn opened(settings: &Settings) -> Buffer {
    let agent = AgentId::new("gw").unwrap();
    let now = EventTime::from_secs(START);
    open_backend(InMemoryBackend::new(), &agent, settings, 1, now).unwrap()
}

fn settings(bytes_max: u64) -> Settings {
    let faults = Faults::default();
    let (device, metric) = (
        DeviceId::new("d").unwrap(),
        MetricName::new("alarm").unwrap(),
    );
    assert!(faults.add(&device, &metric));
    Settings {
        bytes_max,
        faults,
        chunk_events_max: 50,
        ..Settings::default()
    }
}

fn sample(metric: &str, second: i64, value: Value) -> Sample {
    Sample {
        device: DeviceId::new("d").unwrap(),
        metric: MetricName::new(metric).unwrap(),
        time: EventTime::from_secs(START + second),
        value,
    }
}

fn number(second: i64) -> Sample {
    // Something that does not compress to nothing.
    let n = (second * 7919 % 1009) as f64 / 8.0;
    sample("t", second, Value::Number(n))
}

fn append(buffer: &mut Buffer, samples: &[Sample]) -> SeqRange {
    let now = EventTime::from_secs(START);
    buffer.append(samples, &[], true, now).unwrap().unwrap()
}

/// Everything held, and what it is.
fn held(buffer: &mut Buffer) -> BTreeMap<Number, (Kind, Sample)> {
    let chunks: Vec<_> = buffer.index.all().collect();
    let mut found = BTreeMap::new();
    for (key, meta) in chunks {
        let chunk = buffer.chunk(key, meta).unwrap().unwrap();
        let is_fault = |at: u32| chunk.faults.iter().any(|run| run.contains(&at));
        let kinds = (0..).map(|at| match meta.kind {
            Kind::Summary => Kind::Summary,
            _ if is_fault(at) => Kind::Fault,
            _ => Kind::Raw,
        });
        assert!(meta.kind == Kind::Summary || meta.kind == chunk.kind());
        let numbers = (key.first..).map(|n| (key.inc, n));
        found.extend(numbers.zip(kinds.zip(chunk.samples.iter().cloned())));
    }
    found
}

fn lost(buffer: &Buffer) -> BTreeSet<Number> {
    let gaps = buffer.gaps.values();
    gaps.flat_map(|g| (g.from..=g.to).map(|n| (g.incarnation, n)))
        .collect()
}

/// Values of the metric among what is held, in their order.
fn values(buffer: &mut Buffer, metric: &str) -> Vec<Point> {
    let all = held(buffer).into_values().map(|(_, s)| s);
    all.filter(|s| s.metric.as_str() == metric)
        .map(|s| {
            let second = s.time.as_micros() / 1_000_000 - START;
            (second, s.value.as_number().unwrap_or(f64::NAN))
        })
        .collect()
}

#[test]
fn the_oldest_minutes_become_three_events_each_and_the_raw_ones_a_gap() {
    let mut buffer = opened(&settings(2500));
    let mut raw = BTreeMap::new();
    let mut second = 0;
    while buffer.summed_up() == 0 {
        let batch: Vec<Sample> = (second..second + 50).map(number).collect();
        second += 50;
        let range = append(&mut buffer, &batch);
        raw.extend((range.first..).zip(batch));
    }
    assert_eq!(buffer.dropped(), 0);
    assert!(buffer.held().bytes <= 2500 - 2500 / 8);
    // One stretch from the beginning is gone, and exactly that is summed up.
    let gaps: Vec<_> = buffer.gaps.values().copied().collect();
    let [gap] = gaps.as_slice() else {
        panic!("{gaps:?}");
    };
    assert_eq!((gap.from, gap.to), (1, buffer.summed_up()));
    assert_eq!(gap.time.to, raw[&gap.to].time);
    let mut minutes: BTreeMap<i64, Vec<Point>> = BTreeMap::new();
    for n in gap.from..=gap.to {
        let s = &raw[&n];
        let second = s.time.as_micros() / 1_000_000 - START;
        let minute = minutes.entry(second.div_euclid(60)).or_default();
        minute.push((second, s.value.as_number().unwrap()));
    }
    let by =
        |pick: fn(&[Point]) -> Point| -> Vec<Point> { minutes.values().map(|m| pick(m)).collect() };
    let least = |m: &[Point]| *m.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let most = |m: &[Point]| *m.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let count = |m: &[Point]| (m[m.len() - 1].0, m.len() as f64);
    assert_eq!(values(&mut buffer, "t.count_1m"), by(count));
    assert_eq!(values(&mut buffer, "t.min_1m"), by(least));
    assert_eq!(values(&mut buffer, "t.max_1m"), by(most));
    // The rest is there as it was, and the watermark begins with the oldest summary.
    let rest: Vec<Sample> = held(&mut buffer)
        .into_values()
        .filter(|(kind, _)| *kind == Kind::Raw)
        .map(|(_, s)| s)
        .collect();
    let expected: Vec<Sample> = raw.range(gap.to + 1..).map(|(_, s)| s.clone()).collect();
    assert_eq!(rest, expected);
    let first = held(&mut buffer).values().map(|(_, s)| s.time).min();
    assert_eq!(buffer.held().oldest, first);
    assert!(first.unwrap() < raw[&(gap.to + 1)].time);
    // The next events get numbers behind the summaries.
    let next = buffer.next_seq();
    assert_eq!(append(&mut buffer, &[number(second)]).first, next);
}

#[test]
fn booleans_count_texts_and_long_names_are_dropped_and_attributes_stay() {
    let long = "m".repeat(56);
    let fits = "m".repeat(55);
    let mut group = Group::default();
    for second in 0..120 {
        group.add(&[
            sample("door", second, Value::Bool(second % 60 == 7)),
            sample("state", second, Value::Text("open".into())),
            sample(&long, second, Value::Number(1.0)),
            sample(&fits, second, Value::Number(-1.0)),
            sample("@site", second, Value::Text(format!("s{second}").into())),
        ]);
    }
    assert_eq!((group.summed_up, group.lost), (360, 240));
    let all = group.into_samples();
    let of = |name: &str| -> Vec<_> {
        let of = all.iter().filter(|s| s.metric.as_str() == name);
        of.map(|s| (s.time, s.value.clone())).collect()
    };
    let at = |second| EventTime::from_secs(START + second);
    let number = |second, n| (at(second), Value::Number(n));
    assert_eq!(of("door.max_1m"), [number(7, 1.0), number(67, 1.0)]);
    assert_eq!(of("door.min_1m"), [number(0, 0.0), number(60, 0.0)]);
    assert_eq!(of("door.count_1m"), [number(59, 60.0), number(119, 60.0)]);
    assert_eq!(of(&format!("{fits}.count_1m")).len(), 2);
    let site = Value::Text("s119".into());
    assert_eq!(of("@site"), [(at(119), site)]);
    assert_eq!(all.len(), 6 + 6 + 1);
}

#[test]
fn what_would_not_shrink_is_dropped_and_not_summed_up() {
    // One reading a minute: three events would tell of one.
    let mut buffer = opened(&settings(3000));
    for i in 0..100 {
        let batch: Vec<Sample> = (0..50).map(|j| number((i * 50 + j) * 60)).collect();
        append(&mut buffer, &batch);
        assert!(buffer.held().bytes <= 3000);
    }
    // No more was dropped than had to be.
    assert!(buffer.held().bytes > 3000 - 600);
    assert_eq!(buffer.summed_up(), 0);
    assert_eq!(buffer.dropped() + buffer.held().events, 5000);
    assert_eq!(buffer.gaps.len(), 1);
}

#[test]
fn in_the_long_run_old_summaries_make_room_for_new_ones() {
    let mut buffer = opened(&settings(20_000));
    for i in 0..2000 {
        let batch: Vec<Sample> = (0..50).map(|j| number(i * 50 + j)).collect();
        append(&mut buffer, &batch);
        assert!(buffer.held().bytes <= 20_000);
    }
    let all = held(&mut buffer);
    let raw = all.values().filter(|(k, _)| *k == Kind::Raw).count() as i64;
    let counts = values(&mut buffer, "t.count_1m");
    let summed_up: f64 = counts.iter().map(|(_, n)| n).sum();
    // Many times the time that the raw events alone would reach back, without a hole.
    assert!(summed_up > 5.0 * raw as f64, "{summed_up} beside {raw}");
    let (first, _) = counts[0];
    let through: f64 = 100_000.0 - first as f64 - raw as f64;
    assert!((through - summed_up).abs() <= 60.0, "{through} {summed_up}");
    // All of them were summed up once, and only old summaries were dropped: three events a minute.
    let gone = 3.0 * (100_000.0 - raw as f64 - summed_up) / 60.0;
    let dropped = buffer.dropped() as f64;
    assert!(
        (gone * 0.9..gone * 2.5).contains(&dropped),
        "{dropped} {gone}"
    );
    assert!(
        all.values()
            .all(|(_, s)| !s.metric.as_str().contains("_1m."))
    );
}

#[test]
fn a_lower_limit_takes_effect_in_steps_and_an_end() {
    let mut settings = settings(64 << 20);
    settings.chunk_events_max = 1000;
    let mut buffer = opened(&settings);
    let text = |second| {
        sample(
            "x",
            second,
            Value::Text(format!("{second}").repeat(100).into()),
        )
    };
    let mut second = 0;
    while buffer.held().bytes < 2 << 20 {
        let batch: Vec<Sample> = (second..second + 900)
            .flat_map(|s| [number(s), sample("u", s, Value::Number((s as f64).sqrt()))])
            .collect();
        second += 900;
        append(&mut buffer, &batch);
    }
    assert_eq!((buffer.summed_up(), buffer.dropped()), (0, 0));
    // Not below the least.
    buffer.limit(Some(10));
    assert_eq!(buffer.bytes_max(), LIMIT_MIN);
    let mut rounds = 0;
    while buffer.held().bytes > LIMIT_MIN {
        let before = (buffer.held().bytes, buffer.summed_up());
        append(&mut buffer, &[number(second)]);
        second += 1;
        rounds += 1;
        assert!(buffer.held().bytes < before.0);
        let done = buffer.summed_up() - before.1;
        let most = EVENTS_MAX + GROUP_EVENTS_MAX;
        assert!(done > 0 && done <= most as u64, "{done}");
    }
    assert!(rounds > 1 && buffer.dropped() == 0, "{rounds}");
    // As large as before: now it may grow again.
    buffer.limit(None);
    assert_eq!(buffer.bytes_max(), 64 << 20);
    let held = buffer.held().bytes;
    append(&mut buffer, &[text(second)]);
    assert!(buffer.held().bytes > held && buffer.dropped() == 0);
}

#[test]
fn the_parts_of_a_summary_are_as_large_as_a_chunk_may_be() {
    // Attributes stay as they are, so a summary of long ones is large.
    let mut rng = StdRng::seed_from_u64(7);
    let settings = Settings {
        chunk_events_max: 65_536,
        ..settings(1_000_000)
    };
    let mut buffer = opened(&settings);
    let mut second = 0;
    while buffer.summed_up() == 0 {
        let said: Vec<Sample> = (0..300)
            .map(|i| {
                let text: String = (0..1000)
                    .map(|_| char::from(rng.random_range(b'0'..=b'z')))
                    .collect();
                sample(&format!("@a{i}"), second, Value::Text(text.as_str().into()))
            })
            .collect();
        second += 1;
        append(&mut buffer, &said);
    }
    let chunks: Vec<_> = buffer.index.all().collect();
    let mut parts = 0;
    for (key, meta) in chunks.into_iter().filter(|(_, m)| m.kind == Kind::Summary) {
        let chunk = buffer.chunk(key, meta).unwrap().unwrap();
        let raw: usize = chunk.samples.iter().map(raw_bytes).sum();
        // The last one may reach beyond it.
        assert!(raw < CHUNK_RAW_BYTES_MAX + 1100, "{raw}");
        parts += 1;
    }
    assert!(parts >= 3, "{parts} parts of 300 kB");
}

#[test]
fn summing_up_that_goes_on_is_no_reason_to_drop_what_has_no_time() {
    let mut settings = settings(64 << 20);
    settings.chunk_events_max = 1000;
    let mut buffer = opened(&settings);
    let number = |second: i64| sample("u", second, Value::Number((second as f64).sqrt()));
    let mut second = 0;
    while buffer.held().bytes < 3 << 20 {
        let batch: Vec<Sample> = (second..second + 1800).map(number).collect();
        second += 1800;
        append(&mut buffer, &batch);
    }
    let waiting: Vec<Sample> = (0..5000).map(number).collect();
    buffer.hold("a", &waiting, true).unwrap();
    let now = EventTime::from_secs(START);
    buffer.append(&[], &[], true, now).unwrap();
    buffer.limit(Some(LIMIT_MIN));
    // More than one append can sum up.
    let mut rounds = 0;
    while buffer.held().bytes > LIMIT_MIN {
        append(&mut buffer, &[number(second)]);
        second += 1;
        rounds += 1;
        assert!(rounds < 20, "it does not shrink");
        assert_eq!((buffer.unplaced(), buffer.dropped()), (5000, 0));
    }
    assert!(rounds > 1, "it was too little");
}

/// Four hundred readings with an alarm after each `every`, and a next life that does not know which are
/// faults, with room for little. New readings come until nothing more of the old ones can go.
fn after_a_shortage(overflow: Policy, every: usize) -> Buffer {
    let disk = Disk::default();
    let agent = AgentId::new("gw").unwrap();
    let now = EventTime::from_secs(START);
    let mut settings = settings(1 << 20);
    settings.chunk_events_max = 1000;
    let mut buffer = open_backend(disk.clone(), &agent, &settings, 1, now).unwrap();
    // Eight bytes each, however they are compressed.
    let root = |second: i64| sample("t", second, Value::Number((second as f64).sqrt()));
    let all: Vec<i64> = (0..400).collect();
    for seconds in all.chunks(every) {
        let mut group: Vec<Sample> = seconds.iter().map(|s| root(*s)).collect();
        group.push(sample(
            "alarm",
            seconds[0],
            Value::Number(seconds[0] as f64),
        ));
        append(&mut buffer, &group);
    }
    // A commit does not begin a chunk of each kind.
    assert!(buffer.index.chunks() <= 2, "{}", buffer.index.chunks());
    buffer.close(now).unwrap();
    settings.faults = Faults::default();
    settings.overflow = overflow;
    settings.bytes_max = 12_000;
    let mut buffer = open_backend(disk, &agent, &settings, 2, now).unwrap();
    for second in (400..6000).step_by(20) {
        let group: Vec<Sample> = (second..second + 20).map(root).collect();
        append(&mut buffer, &group);
        assert!(buffer.held().bytes <= 12_000);
    }
    buffer
}

#[test]
fn faults_among_others_share_their_chunks_and_stay_when_those_go() {
    for overflow in [Policy::Compact, Policy::DropOldest] {
        for every in [100, 4] {
            let mut buffer = after_a_shortage(overflow, every);
            let alarms = (0..400).step_by(every).map(|n| (n, n as f64));
            let alarms: Vec<Point> = alarms.collect();
            assert_eq!(values(&mut buffer, "alarm"), alarms, "{overflow:?}");
            let lost = lost(&buffer);
            assert!(held(&mut buffer).keys().all(|n| !lost.contains(n)));
            let gone = lost.iter().filter(|n| n.0.no == 1).count();
            // Alone, a hundred alarms would take more room than they do with all the readings between them.
            let expected = if every == 100 { 400 } else { 0 };
            assert_eq!(gone, expected, "{overflow:?}, {every}");
            assert_eq!(buffer.summed_up() > 0, overflow == Policy::Compact);
        }
    }
}

/// Random appends, acks and restarts against what must be true of them.
fn run(seed: u64) -> [u64; 4] {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::default();
    let agent = AgentId::new("gw").unwrap();
    let compacts = seed % 4 != 3;
    let settings = Settings {
        overflow: if compacts {
            Policy::Compact
        } else {
            Policy::DropOldest
        },
        chunk_events_max: rng.random_range(5..60),
        chunk_bytes: rng.random_range(100..600),
        ..settings(rng.random_range(1000..8000))
    };
    let mut second = 0;
    let open = |rand, second| {
        let now = EventTime::from_secs(START + second);
        open_backend(disk.clone(), &agent, &settings, rand, now).unwrap()
    };
    let mut buffer = open(0, 0);
    // Every number that was ever given out, and those that acks have taken.
    let mut given: BTreeMap<Number, (Kind, Sample)> = BTreeMap::new();
    let mut acked: BTreeSet<Number> = BTreeSet::new();
    let [
        mut minutes,
        mut faults_lost,
        mut faults_stayed,
        mut summaries_lost,
    ] = [0; 4];
    for step in 1..160 {
        let before = held(&mut buffer);
        match rng.random_range(0..20) {
            0..=13 => {
                let count = rng.random_range(1..40);
                let batch: Vec<Sample> = (0..count)
                    .map(|_| {
                        second += rng.random_range(0..4);
                        let value = f64::from(rng.random_range(0..1000)) / 8.0;
                        match rng.random_range(0..40) {
                            0 => sample("alarm", second, Value::Number(value)),
                            1 => sample("state", second, Value::Text("on".into())),
                            2..6 => sample("door", second, Value::Bool(value < 60.0)),
                            _ => sample("t", second, Value::Number(value)),
                        }
                    })
                    .collect();
                let (dropped, summed_up) = (buffer.dropped(), buffer.summed_up());
                let range = append(&mut buffer, &batch);
                let is_fault = |s: &&Sample| s.metric.as_str() == "alarm";
                let (faults, others): (Vec<_>, Vec<_>) = batch.iter().partition(is_fault);
                let kinds = faults
                    .into_iter()
                    .map(|s| (Kind::Fault, s.clone()))
                    .chain(others.into_iter().map(|s| (Kind::Raw, s.clone())));
                let inc = buffer.incarnation();
                let numbers = (range.first..=range.last).map(|n| (inc, n));
                given.extend(numbers.clone().zip(kinds));
                let after = held(&mut buffer);
                let lost = lost(&buffer);
                // What it brought is there.
                assert!(
                    numbers.clone().all(|n| after.contains_key(&n)),
                    "seed {seed}"
                );
                let accepted = |n: &Number| n.0 == inc && (range.first..=range.last).contains(&n.1);
                let new: BTreeMap<_, _> = after.range((inc, range.last + 1)..).collect();
                assert!(new.values().all(|(kind, _)| *kind == Kind::Summary));
                given.extend(new.iter().map(|(n, s)| (**n, (*s).clone())));
                // A number that was given to a summary which had to go at once.
                let last = buffer.next_seq() - 1;
                let gone_at_once = (range.last + 1..=last)
                    .filter(|n| !after.contains_key(&(inc, *n)))
                    .inspect(|n| assert!(lost.contains(&(inc, *n)), "seed {seed}"))
                    .count() as u64;
                // What was held and is not any more is in a gap, and told of in summaries or dropped.
                let gone: Vec<_> = before
                    .iter()
                    .filter(|(n, _)| !after.contains_key(n))
                    .collect();
                assert!(gone.iter().all(|(n, _)| lost.contains(n)), "seed {seed}");
                let told: f64 = new
                    .values()
                    .filter(|(_, s)| s.metric.as_str().ends_with(".count_1m"))
                    .filter_map(|(_, s)| s.value.as_number())
                    .sum();
                let summed_up = buffer.summed_up() - summed_up;
                let dropped = buffer.dropped() - dropped;
                assert_eq!(
                    gone.len() as u64 + gone_at_once,
                    dropped + summed_up,
                    "seed {seed}"
                );
                if gone_at_once == 0 {
                    assert_eq!(told, summed_up as f64, "seed {seed}");
                }
                for (_, s) in new.values() {
                    let Some(metric) = s.metric.as_str().strip_suffix(".count_1m") else {
                        continue;
                    };
                    // Of that minute: those that are gone now. Exact, if none was just dropped.
                    let minute = s.time.as_micros().div_euclid(MINUTE);
                    let of: Vec<&Sample> = gone
                        .iter()
                        .map(|(_, (_, s))| s)
                        .filter(|r| {
                            r.metric.as_str() == metric
                                && r.time.as_micros().div_euclid(MINUTE) == minute
                        })
                        .collect();
                    let count = s.value.as_number().unwrap();
                    assert!(count <= of.len() as f64, "seed {seed}");
                    if count < of.len() as f64 || gone_at_once > 0 {
                        continue;
                    }
                    minutes += 1;
                    assert_eq!(Some(s.time), of.iter().map(|r| r.time).max());
                    for (ending, sign) in [(".min_1m", 1.0), (".max_1m", -1.0)] {
                        let told = new.values().map(|(_, s)| s).find(|t| {
                            t.metric.as_str() == format!("{metric}{ending}")
                                && t.time.as_micros().div_euclid(MINUTE) == minute
                        });
                        let told = told.unwrap();
                        let value = |r: &Sample| sign * r.value.as_number().unwrap();
                        let least = of.iter().min_by(|a, b| value(a).total_cmp(&value(b)));
                        let least = least.unwrap();
                        assert_eq!(
                            (told.time, value(told)),
                            (least.time, value(least)),
                            "seed {seed}"
                        );
                    }
                }
                // Faults go only when nothing else is left that may.
                let faults = gone.iter().filter(|(_, (k, _))| *k == Kind::Fault).count();
                faults_lost += faults as u64;
                if faults > 0 {
                    let others = after
                        .iter()
                        .filter(|(n, (k, _))| *k != Kind::Fault && !accepted(n));
                    // A chunk that was begun before and has grown stays as a whole.
                    let others = others.filter(|(n, _)| {
                        let (key, meta) = buffer
                            .index
                            .all()
                            .find(|(k, m)| k.inc == n.0 && k.first <= n.1 && n.1 <= k.last(m))
                            .unwrap();
                        !is_of(key, &meta, range)
                    });
                    assert_eq!(others.count(), 0, "seed {seed}, step {step}");
                } else if dropped > 0 {
                    faults_stayed +=
                        after.values().filter(|(k, _)| *k == Kind::Fault).count() as u64;
                }
                let is_summary = |n: &Number| given[n].0 == Kind::Summary;
                summaries_lost += gone.iter().filter(|(n, _)| is_summary(n)).count() as u64;
                // Over the limit only with what has just come.
                let bytes = buffer.held().bytes;
                assert!(
                    bytes <= settings.bytes_max
                        || buffer.index.all().all(|(k, m)| is_of(k, &m, range)),
                    "seed {seed}, step {step}: {bytes}"
                );
            }
            14..=17 => {
                let Some((inc, first)) = given.keys().nth(rng.random_range(0..given.len().max(1)))
                else {
                    continue;
                };
                let range = SeqRange {
                    incarnation: *inc,
                    first: *first,
                    last: first + rng.random_range(0..50),
                };
                let gone = buffer.ack(&[range]).unwrap();
                let named = before.keys().filter(|n| n.0 == *inc);
                let named = named.filter(|n| (range.first..=range.last).contains(&n.1));
                let known = acked.len();
                acked.extend(named);
                assert_eq!(gone as usize, acked.len() - known, "seed {seed}");
            }
            _ => {
                buffer.close(EventTime::from_secs(START + second)).unwrap();
                buffer = open(step, second);
            }
        }
        // Every number is in exactly one place.
        let (there, lost) = (held(&mut buffer), lost(&buffer));
        for (n, event) in &given {
            let places = [
                there.get(n) == Some(event),
                acked.contains(n),
                lost.contains(n),
            ];
            let count = places.iter().filter(|p| **p).count();
            assert_eq!(count, 1, "seed {seed}, step {step}: {n:?} {places:?}");
        }
        assert!(there.keys().all(|n| given.contains_key(n)), "seed {seed}");
        let oldest = there.values().map(|(_, s)| s.time).min();
        assert_eq!(buffer.held().oldest, oldest, "seed {seed}");
        let stays = before
            .keys()
            .all(|n| there.contains_key(n) || acked.contains(n) || lost.contains(n));
        assert!(stays, "seed {seed}, step {step}");
    }
    let summaries = given.values().filter(|(k, _)| *k == Kind::Summary).count();
    assert!(compacts || summaries == 0, "seed {seed}");
    [minutes, faults_lost, faults_stayed, summaries_lost]
}

#[test]
fn every_number_is_in_one_place_and_what_was_summed_up_is_told_right() {
    let mut seen = [0; 4];
    for seed in 0..8 {
        let one = run(seed);
        seen.iter_mut().zip(one).for_each(|(all, n)| *all += n);
    }
    // Minutes checked, faults lost, faults that stayed, summaries lost.
    assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
}
