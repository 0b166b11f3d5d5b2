//! `tidewatch detect` and `tidewatch bench detect` as programs: files, pipes, exit codes.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::harness::{run, tidewatch};

/// Two days of a value each five minutes, and one that is far off near the end.
fn series() -> String {
    let mut text = "timestamp,value\n".to_owned();
    for i in 0..600 {
        let value = if i == 580 { 99 } else { i % 4 };
        let seconds = i * 300;
        let (day, hour) = (1 + seconds / 86_400, seconds / 3600 % 24);
        let minute = seconds / 60 % 60;
        text.push_str(&format!(
            "2024-05-{day:02} {hour:02}:{minute:02}:00,{value}\n"
        ));
    }
    text
}

#[test]
fn files_and_pipes_give_the_same_scores() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    let (input, output) = (path("in.csv"), path("out.csv"));
    fs::write(&input, series()).expect("written");
    let said = run(&mut tidewatch(&[
        "detect", "--input", &input, "--output", &output,
    ]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("600 rows, 1 anomalies"), "{}", said.err);
    let scored = fs::read_to_string(&output).expect("scored");
    let rows: Vec<&str> = scored.lines().collect();
    assert_eq!(
        (rows.len(), rows[0]),
        (601, "timestamp,value,anomaly_score")
    );
    for (row, given) in rows.iter().zip(series().lines()).skip(1) {
        let (texts, score) = row.rsplit_once(',').expect("three columns");
        assert_eq!(texts, given);
        let score: f64 = score.parse().expect("a number");
        assert_eq!(score >= 0.5, given.ends_with(",99"), "{row}");
    }

    let mut child = tidewatch(&["detect", "--detector", "default", "--explain"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(series().as_bytes()).expect("taken");
    drop(stdin);
    let piped = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), scored);
    let said = String::from_utf8_lossy(&piped.stderr);
    assert!(
        said.contains("line 582: 99 is above all that is known"),
        "{said}"
    );
    assert!(
        said.contains("expected 0 to 3, since 2024-05-03T00:20:00Z"),
        "{said}"
    );
}

#[test]
fn mistakes_say_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    let (input, output) = (path("in.csv"), path("out.csv"));
    let check = |arguments: &[&str], code: i32, message: &str| {
        let arguments = [
            &["detect", "--input", &input, "--output", &output],
            arguments,
        ]
        .concat();
        let said = run(&mut tidewatch(&arguments));
        assert_eq!(said.code, Some(code), "{}", said.err);
        assert!(said.err.contains(message), "{}", said.err);
    };
    check(&[], 1, "failed to open");
    fs::write(&input, "timestamp,value\n1,1\nsoon,2\n").expect("written");
    check(&[], 1, "line 3: \"soon\" is no time");
    check(&["--false-alarms", "often"], 2, "--false-alarms: must be");
    check(&["--hold", "1s"], 2, "--hold: must be 10s to 1d");
    check(&["--detector", "huge"], 2, "--detector: must be");
    check(&["--missing", "a"], 2, "--missing: must be numbers");
    let said = run(&mut tidewatch(&[
        "detect", "--input", &input, "--output", &input,
    ]));
    assert!(
        said.code == Some(1) && said.err.contains("is input and output"),
        "{}",
        said.err
    );
    assert!(fs::read_to_string(&input).expect("still there").len() > 10);
}

#[test]
fn the_bench_reports_time_and_bytes() {
    for (flags, least, most) in [(vec![], 1, 128), (vec!["--large"], 129, 4096)] {
        let small = [
            "bench",
            "detect",
            "--series=500",
            "--values=20",
            "--warmup=30",
            "--json",
        ];
        let said = run(&mut tidewatch(&[&small[..], &flags].concat()));
        assert_eq!(said.code, Some(0), "{}", said.err);
        let report = said.out.lines().last().expect("a line");
        let report: Value = serde_json::from_str(report).expect("JSON");
        let bytes = report["state_bytes"].as_u64().expect("a number");
        assert!((least..=most).contains(&bytes), "{report}");
        assert!(report["ns_per_value"].as_f64().expect("a number") > 0.0);
    }
}
