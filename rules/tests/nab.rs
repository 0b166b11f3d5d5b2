//! The detectors on the Numenta Anomaly Benchmark, if its data are there: in `data/nab` of the shared folder, which
//! is beside the repository or where `TIDEWATCH_SHARED` says.
//!
//! Scored by the benchmark's published rules, written out here; where a Python (`TIDEWATCH_PYTHON`, `python3`) has
//! numpy, the scorer beside the data must come to the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rules::anomaly::{Anomaly, Detector, Options, Variant};

/// What is published in bench/README.md, less one false row or so.
const MARKS: [(Variant, [f64; 3]); 2] = [
    (Variant::Default, [71.5, 65.0, 75.5]),
    (Variant::Large, [72.0, 66.0, 76.0]),
];
/// (name, worth of a window found, of a false row, of a window missed)
const PROFILES: [(&str, f64, f64, f64); 3] = [
    ("standard", 1.0, 0.11, 1.0),
    ("reward_low_FP_rate", 1.0, 0.22, 1.0),
    ("reward_low_FN_rate", 1.0, 0.11, 2.0),
];

struct Series {
    name: String,
    /// As they are written, and in microseconds.
    times: Vec<(String, i64)>,
    values: Vec<f64>,
    /// First and last row of each window.
    windows: Vec<(usize, usize)>,
}

fn shared() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("TIDEWATCH_SHARED").map_or(beside, PathBuf::from)
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// `2014-04-01 00:00:00`.
fn micros(text: &str) -> i64 {
    let parts: Vec<i64> = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap())
        .collect();
    let seconds = parts[3] * 3600 + parts[4] * 60 + parts[5];
    (days(parts[0], parts[1], parts[2]) * 86_400 + seconds) * 1_000_000
}

fn load() -> Option<Vec<Series>> {
    let folder = shared().join("data/nab");
    let windows = fs::read_to_string(folder.join("combined_windows.json")).ok()?;
    let windows: BTreeMap<String, Vec<[String; 2]>> = serde_json::from_str(&windows).unwrap();
    let series = windows.into_iter().map(|(name, windows)| {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        let rows = text
            .lines()
            .skip(1)
            .map(|line| line.split_once(',').unwrap());
        let (times, values): (Vec<_>, Vec<f64>) = rows
            .map(|(time, value)| {
                (
                    (time.to_owned(), micros(time)),
                    value.parse::<f64>().unwrap(),
                )
            })
            .unzip();
        let row = |time: &str| {
            let time = time.split('.').next().unwrap();
            times.iter().position(|t| t.0 == time).unwrap()
        };
        Series {
            windows: windows.iter().map(|[a, b]| (row(a), row(b))).collect(),
            name,
            times,
            values,
        }
    });
    Some(series.collect())
}

fn sigmoid(y: f64) -> f64 {
    if y > 3.0 {
        -1.0
    } else {
        2.0 / (1.0 + (5.0 * y).exp()) - 1.0
    }
}

/// Raw score of a series, and rows outside of windows that are alarms, and rows that count.
fn raw(
    series: &Series,
    scores: &[f64],
    (_, found, false_row, missed): (&str, f64, f64, f64),
) -> (f64, u32, u32) {
    let learning = (scores.len() * 15 / 100).min(750);
    let mut best = vec![None; series.windows.len()];
    let (mut sum, mut false_rows, mut rows) = (0.0, 0, 0);
    for (i, score) in scores.iter().enumerate().skip(learning) {
        rows += 1;
        if *score < 0.5 {
            continue;
        }
        let within = series.windows.iter().position(|w| (w.0..=w.1).contains(&i));
        let worth = |end: usize, width: f64| sigmoid((i as f64 - end as f64) / width);
        if let Some(k) = within {
            let (begin, end) = series.windows[k];
            let width = (end - begin + 1) as f64;
            let credit = worth(end + 1, width) / sigmoid(-1.0) * found;
            best[k] = Some(best[k].map_or(credit, |b: f64| b.max(credit)));
        } else {
            false_rows += 1;
            let last = series.windows.iter().rfind(|w| w.1 < i);
            sum += false_row * last.map_or(-1.0, |w| worth(w.1, (w.1 - w.0) as f64));
        }
    }
    let windows: f64 = best.iter().map(|b| b.unwrap_or(-missed)).sum();
    (sum + windows, false_rows, rows)
}

#[test]
fn the_published_marks_are_reached() {
    let Some(all) = load() else {
        eprintln!(
            "skipped: no {}/data/nab; TIDEWATCH_SHARED says where the shared data is",
            shared().display()
        );
        return;
    };
    for (variant, marks) in MARKS {
        let settings = Anomaly::new(Options {
            detector: variant,
            ..Options::default()
        });
        let scores: Vec<Vec<f64>> = all
            .iter()
            .map(|series| {
                let mut detector = Detector::New(variant);
                let rows = series.times.iter().zip(&series.values);
                rows.map(|(time, value)| {
                    f64::from(detector.step(time.1, *value, &settings).score())
                })
                .collect()
            })
            .collect();
        let windows: f64 = all.iter().map(|s| s.windows.len() as f64).sum();
        let mut reached = Vec::new();
        let (mut false_rows, mut rows) = (0, 0);
        for profile in PROFILES {
            let results = all
                .iter()
                .zip(&scores)
                .map(|(s, scores)| raw(s, scores, profile));
            let results: Vec<_> = results.collect();
            let sum: f64 = results.iter().map(|r| r.0).sum();
            reached.push(100.0 * (sum + profile.3 * windows) / ((profile.1 + profile.3) * windows));
            false_rows = results.iter().map(|r| r.1).sum::<u32>();
            rows = results.iter().map(|r| r.2).sum::<u32>();
        }
        let rate = 1000.0 * f64::from(false_rows) / f64::from(rows);
        eprintln!("{variant:?}: {reached:.2?}, {false_rows} false rows, {rate:.2} in 1,000");
        for (reached, mark) in reached.iter().zip(marks) {
            assert!(
                *reached >= mark,
                "{variant:?}: {reached:.2} instead of {mark}"
            );
        }
        assert!(rate <= 0.5, "{variant:?}: {rate}");
        compare(variant, &all, &scores, &reached);
    }
}

/// With the scorer beside the data.
fn compare(variant: Variant, all: &[Series], scores: &[Vec<f64>], reached: &[f64]) {
    let scorer = shared().join("tools/nab_score.py");
    let python = std::env::var("TIDEWATCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    if !scorer.is_file() || !numpy.is_ok_and(|o| o.status.success()) {
        eprintln!(
            "not compared with nab_score.py: it needs {python} with numpy (TIDEWATCH_PYTHON names another)"
        );
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nab-{variant:?}"));
    for (series, scores) in all.iter().zip(scores) {
        let path = folder.join(&series.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let rows = series.times.iter().zip(scores);
        let rows: String = rows
            .map(|(time, score)| format!("{},{score:.4}\n", time.0))
            .collect();
        fs::write(path, format!("timestamp,anomaly_score\n{rows}")).unwrap();
    }
    let output = Command::new(&python)
        .arg(scorer)
        .arg("--windows")
        .arg(shared().join("data/nab/combined_windows.json"))
        .arg("--results")
        .arg(&folder)
        .args(["--threshold", "0.5", "--json"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (profile, ours) in PROFILES.iter().zip(reached) {
        let theirs = theirs[profile.0]["score"].as_f64().unwrap();
        assert!(
            (theirs - ours).abs() < 0.01,
            "{}: {theirs} is not {ours}",
            profile.0
        );
    }
    fs::remove_dir_all(folder).unwrap();
}
