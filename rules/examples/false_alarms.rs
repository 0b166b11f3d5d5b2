//! How many alarms the anomaly detector gives on series in which nothing happens, against the rate that was
//! asked for: `cargo run --release -p rules --example false_alarms`.
//!
//! Series are made up, eight of each sort and pace, with random numbers from fixed seeds. A month is 30 days.

use std::f64::consts::TAU;
use std::io::Write;

use rules::anomaly::{Anomaly, Detector, Options, Variant, Verdict};

const DAY: i64 = 86_400;
const SERIES: u64 = 8;
const YEARS: i64 = 3;

struct Random(u64);

impl Random {
    /// 0 to 1, neither of them.
    fn even(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.even().ln()).sqrt() * (TAU * self.even()).cos()
    }
}

/// What a source remembers.
struct Source {
    random: Random,
    level: f64,
    state: f64,
    on: bool,
    step: f64,
}

impl Source {
    /// A noise that returns to 0 within about `seconds`, variance 1.
    fn slow_noise(&mut self, seconds: f64) -> f64 {
        let part = 1.0 - (-self.step / seconds).exp();
        let kick = (part * (2.0 - part)).sqrt();
        self.state += -part * self.state + kick * self.random.normal();
        self.state
    }
}

/// A sort of series: its name, and the value at a time in days.
type Sort = (&'static str, fn(&mut Source, f64) -> f64);

const SORTS: [Sort; 10] = [
    ("noise, normal", |s, _| s.random.normal()),
    ("noise, heavy tails (t, 3 degrees)", |s, _| {
        let z = s.random.normal();
        let squares: f64 = (0..3).map(|_| s.random.normal().powi(2)).sum();
        z / (squares / 3.0).sqrt()
    }),
    ("noise that lasts 20 steps", |s, _| {
        s.slow_noise(20.0 * s.step)
    }),
    ("daily wave ±10, noise 1", |s, day| {
        10.0 * (TAU * day).sin() + s.random.normal()
    }),
    ("office hours, weekends, noise", |s, day| {
        let (hour, weekday) = (day.fract() * 24.0, day as i64 % 7 < 5);
        let goal = if weekday && (8.0..18.0).contains(&hour) {
            50.0
        } else {
            10.0
        };
        s.level += 0.2 * (goal - s.level);
        s.level + s.random.normal()
    }),
    ("counts with a daily wave", |s, day| {
        let rate: f64 = 20.0 + 15.0 * (TAU * day).sin();
        (rate + rate.sqrt() * s.random.normal()).round().max(0.0)
    }),
    ("outdoor temperature (year, day, weather)", |s, day| {
        let seasons = 10.0 * (TAU * day / 365.0).sin() + 5.0 * (TAU * day).sin();
        seasons + 3.0 * s.slow_noise(2.0 * DAY as f64) + 0.1 * s.random.normal()
    }),
    ("refrigerator (on and off, 1/16 steps)", |s, _| {
        s.on ^= s.random.even() < s.step / 1200.0;
        let goal = if s.on { 2.0 } else { 8.0 };
        s.level += (s.step / 1800.0).min(0.5) * (goal - s.level);
        ((s.level + 0.1 * s.random.normal()) * 16.0).round() / 16.0
    }),
    ("meter that only rises", |s, day| {
        let rate = 1.0 + 0.5 * (TAU * day).sin() + 0.1 * s.random.normal();
        s.level += rate.max(0.0);
        s.level
    }),
    ("random walk", |s, _| {
        s.level += s.random.normal();
        s.level
    }),
];

/// Alarms of a series per month: the first, the rest of the first year, later years; and all.
fn run(settings: &Anomaly, sort: Sort, step: i64, days: i64, seed: u64) -> ([f64; 3], f64) {
    let mut source = Source {
        random: Random(0x9E37_79B9_7F4A_7C15 ^ (seed * 7919 + step as u64)),
        level: 0.0,
        state: 0.0,
        on: false,
        step: step as f64,
    };
    for _ in 0..20 {
        source.random.even();
    }
    let mut detector = Detector::New(settings.options().detector);
    let mut found = [0.0; 3];
    for i in 0..days * DAY / step {
        let day = (i * step) as f64 / DAY as f64;
        let value = sort.1(&mut source, day);
        if let Verdict::Alarm(_) = detector.step(i * step * 1_000_000, value, settings) {
            found[usize::from(day >= 30.0) + usize::from(day >= 365.0)] += 1.0;
        }
    }
    let months = |from: i64, to: i64| ((days.min(to) - from) as f64 / 30.0).max(1e-9);
    let per_month = [
        found[0] / months(0, 30),
        found[1] / months(30, 365),
        found[2] / months(365, days),
    ];
    (per_month, found.iter().sum())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (detector, warm_up) in [
        (Variant::Default, 1),
        (Variant::Default, 7),
        (Variant::Large, 1),
    ] {
        let settings = Anomaly::new(Options {
            detector,
            warm_up: warm_up * DAY * 1_000_000,
            ..Options::default()
        });
        let rate = settings.options().false_alarms;
        writeln!(
            out,
            "detector {detector:?}, false_alarms {rate}, warm_up {warm_up}d: alarms a month\n"
        )?;
        writeln!(
            out,
            "| series | every | first month | rest of the year | years 2-3 | most in all / bound |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for sort in SORTS {
            for (step, days) in [
                (1, 90),
                (60, YEARS * 365),
                (300, YEARS * 365),
                (3600, YEARS * 365),
            ] {
                if step == 1 && detector == Variant::Large {
                    continue;
                }
                let runs = (0..SERIES).map(|seed| run(&settings, sort, step, days, seed + 1));
                let runs: Vec<_> = runs.collect();
                let mean = |i: usize| runs.iter().map(|r| r.0[i]).sum::<f64>() / SERIES as f64;
                let most = runs.iter().map(|r| r.1).fold(0.0, f64::max);
                let later = if days > 365 {
                    format!("{:.2}", mean(2))
                } else {
                    String::new()
                };
                let bound = days / 30 + 12;
                writeln!(
                    out,
                    "| {} | {step} s | {:.1} | {:.2} | {later} | {most} / {bound} |",
                    sort.0,
                    mean(0),
                    mean(1)
                )?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
