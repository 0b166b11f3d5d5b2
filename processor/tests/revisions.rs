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
fn class_number_reused_in_batch() {
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
    for r in b.rows.values() {}
    assert_eq!(b.rows.len(), 3);
}
#[test]
fn hopping_sealed_windows_revised() {
    let mut b = Bench::with(vec![spec("hop", 60, 10, &[])], &[]);
    // device complete up to T0+70 : windows ending <= T0+70 settle
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
    let w = b.row(0, &[], T0).clone();
    // late event of pane T0+50
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
    b.tick(T0 + 97 * S);
    for start in [0, 10, 20, 30, 40, 50] {
        let w = b.row(0, &[], T0 + start * S);
    }
    b.tick(T0 + 200 * S);
    for start in [0, 10, 20, 30, 40, 50] {
        let w = b.row(0, &[], T0 + start * S);
    }
    assert_eq!(b.row(0, &[], T0).count, 3);
}
#[test]
fn coarsened_first_then_leave() {
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
