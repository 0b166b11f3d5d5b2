//! Sequences that a review found: each was once shown wrong or counted in the wrong place.

mod support;

use event::*;
use support::*;
fn spec(name: &str, window: i64, hop: i64, by: &[&str]) -> AggregateSpec {
    AggregateSpec {
        name: name.to_owned(),
        metric: "temperature".to_owned(),
        group_by: by.iter().map(|b| (*b).to_owned()).collect(),
        window: window * S,
        hop: hop * S,
        functions: Function::ALL.iter().copied().collect(),
    }
}
#[test]
fn two_attribute_changes_in_one_batch_count_in_three_groups() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &["site"])], &[]);
    let site = |t: i64, v: &str| sample("d1", "@site", T0 + t, Value::Text(v.into()));
    let s = [
        site(1, "A"),
        temperature("d1", T0 + 2, 1.0),
        site(3, "B"),
        temperature("d1", T0 + 4, 2.0),
        site(5, "C"),
        temperature("d1", T0 + 6, 3.0),
    ];
    b.at(T0 + 2 * S, &[batch_record("gw", 1, 1, &s, T0 + 2 * S)]);
    for site in ["A", "B", "C"] {
        assert_eq!(b.row(0, &[site], T0).count, 1, "{site}");
    }
}
#[test]
fn a_hot_pane_revises_hopping_windows_that_are_sealed() {
    let mut b = Bench::with(vec![spec("hop", 60, 10, &[])], &[]);
    // Complete to the present: windows settle and are sealed, the newest pane stays hot.
    b.at(
        T0 + 52 * S,
        &[batch_record(
            "gw",
            1,
            1,
            &[
                temperature("d1", T0 + 51 * S, 1.0),
                temperature("d1", T0 + S, 1.0),
            ],
            T0 + 52 * S,
        )],
    );
    for i in 53..95 {
        b.at(
            T0 + i * S,
            &[batch_record("gw", i as u64, 3, &[], T0 + i * S)],
        );
    }
    assert_eq!(b.row(0, &[], T0).count, 2);
    // A late event of pane T0+50
    b.at(
        T0 + 95 * S,
        &[batch_record(
            "gw",
            95,
            3,
            &[temperature("d1", T0 + 52 * S, 9.0)],
            T0 + 95 * S,
        )],
    );
    for now in [97, 200] {
        b.tick(T0 + now * S);
        for (start, count) in [(0, 3), (10, 2), (20, 2), (30, 2), (40, 2), (50, 2)] {
            assert_eq!(
                b.row(0, &[], T0 + start * S).count,
                count,
                "{start} at {now}"
            );
        }
    }
}
#[test]
fn a_device_leaves_though_its_first_pane_was_joined_to_an_hour() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    for i in 0..100i64 {
        let t = T0 + i * 10 * S + S;
        b.at(
            t + S,
            &[batch_record(
                "gw",
                i as u64 + 1,
                i as u64 + 1,
                &[temperature(&format!("d{i}"), t, 1.0)],
                t + S,
            )],
        );
    }
    for h in 0..60i64 {
        let t = T0 + 2000 * S + h * 3600 * S;
        b.at(
            t,
            &[batch_record(
                "gw",
                200 + h as u64,
                101 + h as u64,
                &[temperature("d0", t, 1.0)],
                t,
            )],
        );
    }
    let t = T0 + 2000 * S + 60 * 3600 * S;
    b.at(
        t,
        &[Record::Decommission(DeviceId::new("d5").unwrap()).encode()],
    );
    b.at(
        t + S,
        &[batch_record(
            "gw2",
            1,
            1,
            &[temperature("d7", t, 1.0)],
            t + S,
        )],
    );
}
