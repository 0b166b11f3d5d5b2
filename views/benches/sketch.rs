//! `cargo bench -p views --bench sketch`: one value into a sketch, and one sketch into another.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use views::sketch::{Quantiles, Values};

/// A sensor's readings: 15.00 to 29.99, seen as if at random.
fn readings(from: u64) -> Vec<f64> {
    let random = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    let readings = (from..from + 1024).map(|i| 15.0 + (random(i) % 1500) as f64 / 100.0);
    readings.collect()
}

fn quantiles(c: &mut Criterion) {
    let mut sketch = Quantiles::default();
    let few = readings(0);
    let mut turn = few.iter().cycle();
    c.bench_function("quantiles/add", |b| {
        b.iter(|| turn.next().map(|r| sketch.add(black_box(*r))));
    });
    let pane = |from: u64| {
        let mut sketch = Quantiles::default();
        readings(from).iter().for_each(|r| sketch.add(*r));
        sketch
    };
    let (a, b) = (pane(0), pane(1024));
    c.bench_function("quantiles/merge", |bench| {
        bench.iter_batched(|| a.clone(), |mut a| a.merge(&b), BatchSize::SmallInput);
    });
}

fn values(c: &mut Criterion) {
    for distinct in [5, 50_000] {
        let texts: Vec<String> = (0..distinct).map(|i| format!("state-{i}")).collect();
        let mut sketch = Values::default();
        let mut turn = texts.iter().cycle();
        c.bench_function(&format!("values/add/{distinct}"), |b| {
            b.iter(|| turn.next().map(|t| sketch.add(black_box(t))));
        });
        let other = sketch.clone();
        c.bench_function(&format!("values/merge/{distinct}"), |bench| {
            let a = &sketch;
            bench.iter_batched(|| a.clone(), |mut a| a.merge(&other), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, quantiles, values);
criterion_main!(benches);
