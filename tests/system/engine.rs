//! `tidewatch bench engine`: its windows are those of DuckDB, and it says what it does.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::harness::{Said, command, run, say, skipped, tidewatch};

/// A Python that has DuckDB, if there is one.
fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.venv/bin/python");
    let named = std::env::var_os("TIDEWATCH_PYTHON").map(PathBuf::from);
    named
        .into_iter()
        .chain([own, PathBuf::from("python3")])
        .find(|python| {
            let import = command(python).args(["-c", "import duckdb"]).output();
            import.is_ok_and(|o| o.status.success())
        })
}

#[track_caller]
fn bench(arguments: &[&str]) -> Said {
    run(tidewatch(&["bench", "engine"]).args(arguments))
}

/// A million events with late, repeated and hopping ones, through checkpoints and a recovery.
#[track_caller]
fn compare(hop: &[&str]) {
    let Some(python) = python() else {
        return skipped("no Python with duckdb (PyPI: duckdb; tests/run installs it)");
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("a path");
    let fleet = [
        "--devices=20000",
        "--sites=40",
        "--events=1000000",
        "--late-share=0.03",
        "--repeat-share=0.02",
        "--json",
        "--check",
        path,
    ];
    let said = bench(&[&fleet, hop].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let report = said.out.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(report).expect("the last line is JSON");
    let n = |name: &str| {
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {report}"))
    };
    assert!(n("duplicate") > 0 && n("late_events") > 0, "{report}");
    assert_eq!((n("quarantined"), n("broken_promises")), (0, 0), "{report}");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/duckdb_check.py");
    let said = run(command(python).arg(script).arg(path).args(hop));
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let counted = format!("events={} ", n("counted") - 20_000);
    assert!(said.out.contains(&counted), "{counted}: {}", said.out);
    say(said.out.lines().last().unwrap_or_default());
}

#[test]
fn duckdb_computes_the_same_tumbling_windows() {
    compare(&[]);
}

#[test]
fn duckdb_computes_the_same_hopping_windows() {
    compare(&["--hop"]);
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    for (arguments, expected) in [
        (
            &["--late-share=2"][..],
            "'--late-share <X>': must be a number from 0 to 1",
        ),
        (
            &["--devices=15"],
            "--devices 15 must be a multiple of --per-agent 10",
        ),
        (
            &["--per-agent=10000"],
            "batches would have 50000 events, more than 26214",
        ),
        (&["--interval=3600", "--batch-rounds=25"], "more than a day"),
    ] {
        let said = bench(arguments);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
    }
}
