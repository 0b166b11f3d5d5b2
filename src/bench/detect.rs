//! What a value costs the anomaly detector, over many series in order.

use std::fmt;
use std::hint::black_box;

use rules::anomaly::{Anomaly, Detector, Options, Small, Variant};
use serde::Serialize;

use super::measure::measured;

/// Microseconds between two values of a series.
const STEP: i64 = 60_000_000;
/// Different numbers that noise is taken from.
const NOISE: usize = 4096;

#[derive(clap::Args)]
pub struct Args {
    /// Series; each gets its next value before the first gets its one after the next [default: 1000000, large: 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    series: Option<u64>,
    /// Values of each series that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    values: u64,
    /// Values of each series before that; measured, too, and told apart
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    warmup: u64,
    /// The large detector
    #[arg(long)]
    large: bool,
    /// Also print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    detector: Variant,
    series: u64,
    values: u64,
    /// Of a series, in memory.
    state_bytes: usize,
    /// CPU time of a value, of the measured ones.
    ns_per_value: f64,
    /// And of those before, when everything is new.
    ns_per_value_young: f64,
    /// All alarms, so that nothing is left out by the compiler.
    alarms: u64,
}

/// Measures.
pub fn run(args: &Args) -> Report {
    let variant = if args.large {
        Variant::Large
    } else {
        Variant::Default
    };
    let settings = Anomaly::new(Options {
        detector: variant,
        ..Options::default()
    });
    let rounds = (args.warmup, args.values);
    let series = args
        .series
        .unwrap_or(if args.large { 20_000 } else { 1_000_000 });
    let (state_bytes, young, old, alarms) = if args.large {
        let new = |_| Detector::New(variant);
        let step = |d: &mut Detector, time, value| d.step(time, value, &settings).score();
        let (young, old, alarms) = measure(series, rounds, new, step);
        (Detector::bytes(variant), young, old, alarms)
    } else {
        let new = |i| Small::begin(-STEP, i as f64, &settings);
        let step = |d: &mut Option<Small>, time, value| match d {
            Some(small) => small.step(time, value, &settings).score(),
            None => 0.0,
        };
        let (young, old, alarms) = measure(series, rounds, new, step);
        (size_of::<Small>(), young, old, alarms)
    };
    Report {
        detector: variant,
        series,
        values: args.values,
        state_bytes,
        ns_per_value: old,
        ns_per_value_young: young,
        alarms,
    }
}

/// CPU nanoseconds of a value in the warm-up and after it, and how many alarms there were.
fn measure<D>(
    series: u64,
    (warmup, values): (u64, u64),
    new: impl Fn(u64) -> D,
    step: impl Fn(&mut D, i64, f64) -> f32,
) -> (f64, f64, u64) {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut even = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Three of them are bell-shaped enough.
    let noise: Vec<f64> = (0..NOISE).map(|_| even() + even() + even()).collect();
    let mut all: Vec<D> = (0..series).map(new).collect();
    let mut alarms = 0;
    let mut rounds = |from: u64, n: u64| {
        let ((), time) = measured(|| {
            for round in from..from + n {
                let slow = 3.0 * (round as f64 / 50.0).sin();
                for (i, detector) in all.iter_mut().enumerate() {
                    let at = i.wrapping_mul(7).wrapping_add(round as usize * 131) % NOISE;
                    let score = step(detector, round as i64 * STEP, i as f64 + slow + noise[at]);
                    alarms += u64::from(black_box(score) >= 0.5);
                }
            }
        });
        time.as_nanos() as f64 / (series * n) as f64
    };
    let young = rounds(0, warmup);
    let old = rounds(warmup, values);
    (young, old, alarms)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.detector {
            Variant::Default => "default",
            Variant::Large => "large",
        };
        writeln!(f, "detector          {name:>12}")?;
        writeln!(f, "series            {:>12}", self.series)?;
        writeln!(f, "values of each    {:>12}", self.values)?;
        writeln!(
            f,
            "state             {:>12} bytes a series",
            self.state_bytes
        )?;
        writeln!(
            f,
            "CPU time          {:>12.1} ns a value",
            self.ns_per_value
        )?;
        writeln!(
            f,
            "  in the warm-up  {:>12.1} ns a value",
            self.ns_per_value_young
        )?;
        writeln!(f, "alarms            {:>12}", self.alarms)
    }
}
