//! Data that comes late: results say what is missing while it is, and are revised when it comes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use event::slot;
use serde_json::Value;

use super::harness::{PATIENCE, Process, Server, System, run, settle, tidewatch, wait_for};
use super::wire::{self, Agent, number};

const SECOND: i64 = 1_000_000;
/// DESIGN §3: a window settles this long after its end, however incomplete.
const DEADLINE: i64 = 15 * 60 * SECOND;

fn rfc3339(micros: i64) -> String {
    event::EventTime(micros).to_string()
}

/// The row of a window that starts at `start`; none if there is none yet.
#[track_caller]
fn row(server: &Server, aggregate: &str, start: i64) -> Option<Value> {
    let (from, to) = (rfc3339(start), rfc3339(start + 1));
    let page = server.http(&format!(
        "/api/v1/windows?aggregate={aggregate}&from={from}&to={to}"
    ));
    let items = page["items"].as_array().expect("items");
    assert!(items.len() <= 1, "{page}");
    items.first().cloned()
}

/// Devices that a window waits for, and their agents.
#[track_caller]
fn outstanding(server: &Server, aggregate: &str, start: i64) -> BTreeSet<(String, String)> {
    let start = rfc3339(start);
    let page = server.http(&format!(
        "/api/v1/windows/outstanding?aggregate={aggregate}&start={start}&limit=1000"
    ));
    let items = page["items"].as_array().expect("items");
    assert_eq!(page["total"], items.len(), "{page}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .map(|i| (text(&i["device"]), text(&i["agent"])))
        .collect()
}

#[test]
fn a_window_opens_settles_incomplete_and_is_revised_to_complete() {
    check_life_of_a_window(1);
}

#[test]
fn a_window_settles_as_a_whole_though_its_agents_are_in_different_partitions() {
    check_life_of_a_window(2);
}

fn check_life_of_a_window(partitions: u16) {
    let config = format!(
        "[log]\npartitions = {partitions}\n[[aggregates]]\nname = \"fleet\"\nwindow = \"1s\"\n"
    );
    let server = System::new().config(&config).start();
    // The window must be seen open, so it ended nearly a quarter of an hour ago. If this machine is
    // too slow for so little time, take more of it.
    for (attempt, ahead) in [3, 6, 12, 24, 48].into_iter().enumerate() {
        if life_of_a_window(&server, partitions, attempt, ahead * SECOND) {
            return;
        }
    }
    panic!("the window was never seen open");
}

/// An agent's id that belongs to a partition.
fn id_in(partition: u16, partitions: u16, what: &str) -> String {
    (0..)
        .map(|n| format!("{what}-{n}"))
        .find(|id| slot::partition(slot::of(id), partitions) == partition)
        .expect("some id is there")
}

fn life_of_a_window(server: &Server, partitions: u16, attempt: usize, ahead: i64) -> bool {
    let start = (wire::now() + ahead - DEADLINE).div_euclid(SECOND) * SECOND - SECOND;
    let name = |what: &str| format!("{what}-{attempt}");
    let (near, far) = (name("near"), name("far"));
    let mut here = Agent::connect(server, &id_in(0, partitions, &name("gw-here")));
    let mut away = Agent::connect(server, &id_in(partitions - 1, partitions, &name("gw-away")));
    // Both are known before the window; then one goes silent.
    let before = start - 5 * SECOND;
    away.send(&[number(&far, "t", before, 1.0)], before + 1);
    here.send(&[number(&near, "t", before, 1.0)], before + 1);
    let events = [
        number(&near, "t", start, 4.0),
        number(&near, "t", start + 1, -2.0),
        number(&near, "t", start + SECOND - 1, 3.5),
    ];
    here.send(&events, wire::now());
    let is_counted = |row: &Value| row["count"] == 3 && row["complete"] != 0;
    let open = wait_for("the window to appear", || {
        row(server, "fleet", start).filter(is_counted)
    });
    if open["state"] != "open" {
        return false;
    }
    assert_eq!(open["distinct_devices"], 1, "{open}");
    // Agents of an earlier attempt are expected as well.
    let missing = outstanding(server, "fleet", start);
    let expected = open["expected"].as_u64().expect("a number");
    assert!(
        missing.contains(&(far.clone(), away.id.to_string())),
        "{missing:?}"
    );
    assert!(!missing.iter().any(|m| m.0 == near), "{missing:?}");
    assert_eq!(open["outstanding"], missing.len(), "{open}");
    let share = open["completeness"].as_f64().expect("a share");
    assert!(share < 1.0, "{open}");
    assert_eq!(open["settled_completeness"], Value::Null, "{open}");

    let settled = wait_for("the window to settle", || {
        row(server, "fleet", start).filter(|r| r["state"] != "open")
    });
    assert_eq!(settled["state"], "settled", "{settled}");
    assert_eq!(settled["settled_completeness"], share, "{settled}");
    assert_eq!(
        (&settled["count"], &settled["late_events"]),
        (&open["count"], &Value::from(0))
    );

    let events = [
        number(&far, "t", start + 10, 10.0),
        number(&far, "t", start + 20, -10.0),
    ];
    away.send(&events, wire::now());
    let revised = wait_for("the window to be revised", || {
        row(server, "fleet", start).filter(|r| r["state"] == "revised" && r["outstanding"] == 0)
    });
    let numbers = |r: &Value, names: &[&str]| -> Vec<f64> {
        names
            .iter()
            .map(|n| r[n].as_f64().unwrap_or(f64::NAN))
            .collect()
    };
    assert_eq!(
        numbers(
            &revised,
            &[
                "count",
                "late_events",
                "sum",
                "min",
                "max",
                "mean",
                "distinct_devices"
            ]
        ),
        [5.0, 2.0, 5.5, -10.0, 10.0, 1.1, 2.0],
        "{revised}"
    );
    assert_eq!(
        numbers(
            &revised,
            &[
                "expected",
                "complete",
                "completeness",
                "settled_completeness"
            ]
        ),
        [expected as f64, expected as f64, 1.0, share],
        "{revised}"
    );
    let revisions = [&open, &settled, &revised].map(|r| r["revision"].as_u64());
    assert!(revisions[1] < revisions[2], "{revisions:?}");
    // A partition that has nothing in the window settles it without a word.
    let is_said = partitions == 1;
    assert!(revisions[0] < revisions[1] || !is_said, "{revisions:?}");
    assert_eq!(outstanding(server, "fleet", start), BTreeSet::new());
    true
}

/// Simulated seconds in a real one.
const SCALE: f64 = 2400.0;
/// Real seconds: the agent is away from the first to the second, the run ends at the third.
const OUTAGE: (u64, u64, u64) = (5, 17, 20);
const WINDOW: i64 = 600 * SECOND;

#[test]
fn eight_simulated_hours_offline_are_named_while_they_last_and_revised_after() {
    let mut server = System::new()
        .config("[[aggregates]]\nname = \"fleet\"\nwindow = \"10m\"\n")
        .start();
    let (from, to, end) = OUTAGE;
    let scenario = server.dir().join("scenario.toml");
    let text = format!("[[outage]]\nagents = [\"gw-0002\"]\nfrom = \"{from}s\"\nto = \"{to}s\"\n");
    std::fs::write(&scenario, text).expect("a scenario");
    // Ends an hour ago in simulated time.
    let length = (end as f64 * SCALE) as i64 * SECOND;
    let begin = (wire::now() - length - 3600 * SECOND).div_euclid(WINDOW) * WINDOW;
    let truth = server.dir().join("truth.jsonl");
    let mut simulate = tidewatch(&[
        "simulate",
        "--devices",
        "20",
        "--agents",
        "4",
        "--rate",
        "400",
    ]);
    simulate
        .arg("--connect")
        .arg(format!("mqtt://{}", server.mqtt()))
        .args(["--duration", &format!("{end}s"), "--start", &rfc3339(begin)])
        .args(["--time-scale", &SCALE.to_string(), "--linger", "200ms"])
        .args([
            "--heartbeat",
            "500ms",
            "--truth-window",
            "10m",
            "--settle",
            "1s",
        ])
        .arg("--scenario")
        .arg(&scenario)
        .arg("--truth")
        .arg(&truth);
    let log = server.dir().join("simulate.log");
    let mut fleet = Process::start("tidewatch simulate", &mut simulate, &log);
    let began = Instant::now();

    // A window in the middle of the outage: begun, ended and told of by the others while it lasts.
    let simulated = |seconds: f64| (seconds * SCALE) as i64 * SECOND;
    let middle = (from + to) as f64 / 2.0;
    let start = (begin + simulated(middle)).div_euclid(WINDOW) * WINDOW;
    let away = wait_for("the window to wait for the agent that is away only", || {
        assert!(
            fleet.ended().is_none_or(|s| s.success()),
            "the fleet failed"
        );
        let missing = outstanding(&server, "fleet", start);
        let row = row(&server, "fleet", start)?;
        let agents: BTreeSet<_> = missing.iter().map(|m| m.1.as_str()).collect();
        let is_right = agents == BTreeSet::from(["gw-0002"])
            && row["outstanding"] == missing.len()
            && row["complete"] == 20 - missing.len();
        // Still away when this was asked: what is outstanding can only be its.
        assert!(
            began.elapsed() < Duration::from_secs(to + 60),
            "never while it was away: {row}, {missing:?}"
        );
        is_right.then_some((row, missing))
    });
    let (before, missing) = away;
    let devices = server.http("/api/v1/devices?limit=1000");
    let of_agent: BTreeSet<_> = devices["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter(|d| d["agent"] == "gw-0002")
        .map(|d| d["id"].as_str().expect("an id").to_owned())
        .collect();
    let named: BTreeSet<_> = missing.into_iter().map(|m| m.0).collect();
    assert_eq!(named, of_agent, "exactly the devices behind the agent");
    assert!(!named.is_empty() && named.len() < 20);
    assert!(
        before["completeness"].as_f64().expect("a share") < 1.0,
        "{before}"
    );

    let status = fleet.wait(PATIENCE);
    assert!(status.success(), "{}", fleet.logged());
    let after = wait_for("the window to be complete", || {
        row(&server, "fleet", start).filter(|r| r["completeness"] == 1.0)
    });
    assert_eq!(
        (&after["state"], &after["expected"]),
        (&"revised".into(), &20.into())
    );
    let grew = |name: &str| {
        let (a, b) = (before[name].as_u64(), after[name].as_u64());
        assert!(a < b, "{name}: {before} {after}");
    };
    ["count", "late_events", "revision", "distinct_devices"]
        .iter()
        .for_each(|name| grew(name));
    // Every window of the outage, not only this one.
    let (first, last) = (
        begin + simulated(from as f64) + WINDOW,
        begin + simulated(to as f64) - WINDOW,
    );
    let path = format!(
        "/api/v1/windows?aggregate=fleet&from={}&to={}&limit=1000",
        rfc3339(first),
        rfc3339(last)
    );
    settle("the windows of the outage", || {
        let page = server.http(&path);
        let rows = page["items"].as_array().expect("items");
        if rows.len() < 45 {
            return Err(format!("{} windows of eight hours", rows.len()));
        }
        let is_done = |r: &Value| {
            r["state"] == "revised"
                && r["completeness"] == 1.0
                && r["late_events"].as_u64() > Some(0)
        };
        match rows.iter().find(|r| !is_done(r)) {
            Some(row) => Err(row.to_string()),
            None => Ok(()),
        }
    });
    let url = format!("http://{}", server.http_address());
    let mut verify = tidewatch(&["verify", "--url", &url, "--truth"]);
    let said = run(verify.arg(&truth));
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    server.stop();
}
