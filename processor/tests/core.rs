//! The core against slow recomputation, in any order, over restarts.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use event::{
    AgentId, AggregateSpec, Declaration, DeviceId, EventTime, Function, Incarnation, MetricName,
    Plain, PlainSample, Record, Sample, Status, StatusRecord, Value,
};
use processor::core::{Effects, NoticeKind};
use proptest::prelude::*;
use support::{Bench, S, T0, batch_record, sample, temperature};
use views::RowState;

#[test]
fn events_land_in_their_half_open_windows() {
    let mut b = Bench::new(&[]);
    let samples = [
        temperature("d1", T0, 20.0),
        temperature("d1", T0 + 10 * S - 1, 22.5),
        temperature("d2", T0 + 5 * S, -3.0),
        temperature("d1", T0 + 10 * S, 99.0),
        sample("d2", "door", T0 + S, Value::Bool(true)),
        sample("d2", "state", T0 + S, Value::Text("ok".into())),
    ];
    b.at(
        T0 + 12 * S,
        &[batch_record("gw", 1, 1, &samples, T0 + 12 * S)],
    );
    let r = b.row(1, &["temperature"], T0);
    assert_eq!((r.count, r.min, r.max, r.distinct), (3, -3.0, 22.5, 2));
    assert_eq!(r.sum, ((20.0 + 22.5 - 3.0) * (1u64 << 48) as f64) as i128);
    let r = b.row(0, &[], T0);
    assert_eq!(
        (r.count, r.numeric, r.distinct, r.state),
        (5, 4, 2, RowState::Open)
    );
    assert_eq!(b.row(1, &["temperature"], T0 + 10 * S).count, 1);
    assert_eq!(b.row(1, &["state"], T0).numeric, 0);
}

#[test]
fn a_window_settles_at_the_deadline_and_is_revised_by_late_events() {
    let mut b = Bench::new(&[]);
    b.at(
        T0 + 2 * S,
        &[
            batch_record("gw-1", 1, 1, &[temperature("d1", T0 + S, 1.0)], T0 + 2 * S),
            batch_record("gw-2", 1, 1, &[temperature("d2", T0 + S, 2.0)], T0 + 2 * S),
        ],
    );
    b.at(T0 + 11 * S, &[batch_record("gw-1", 2, 2, &[], T0 + 11 * S)]);
    b.tick(T0 + 20 * S);
    assert_eq!(b.row(0, &[], T0).state, RowState::Open);
    assert_eq!(b.outstanding(T0), ["d2"]);
    // The deadline: settled with its true completeness.
    b.tick(T0 + 10 * S + 15 * 60 * S);
    let r = b.row(0, &[], T0);
    assert_eq!(r.state, RowState::Settled);
    assert_eq!(r.settled.map(|s| (s.done, s.expected)), Some((1, 2)));
    // The tunnel ends.
    let late = T0 + 8 * 3600 * S;
    b.at(
        late,
        &[batch_record(
            "gw-2",
            2,
            2,
            &[temperature("d2", T0 + 3 * S, 5.0)],
            late,
        )],
    );
    let r = b.row(0, &[], T0);
    assert_eq!((r.state, r.count, r.late_events), (RowState::Revised, 3, 1));
    assert_eq!(b.outstanding(T0), [""; 0]);
}

#[test]
fn a_complete_window_settles_five_seconds_after_its_end() {
    let mut b = Bench::new(&[]);
    b.at(
        T0 + 12 * S,
        &[batch_record(
            "gw",
            1,
            1,
            &[temperature("d1", T0 + S, 1.0)],
            T0 + 12 * S,
        )],
    );
    b.tick(T0 + 14 * S);
    assert_eq!(b.row(0, &[], T0).state, RowState::Open);
    b.tick(T0 + 15 * S);
    assert_eq!(b.row(0, &[], T0).state, RowState::Settled);
}

#[test]
fn impossible_times_are_quarantined_and_move_nothing() {
    let mut b = Bench::new(&[]);
    let samples = [
        temperature("d1", 0, 1.0),
        temperature("d1", T0 + S, 1.0),
        temperature("d1", 3_786_912_000 * S, 1.0),
    ];
    b.at(
        T0 + 2 * S,
        &[batch_record("gw", 1, 1, &samples, 3_786_912_000 * S)],
    );
    let totals = b.fx.summary.as_ref().unwrap().totals;
    assert_eq!(
        (totals.accepted, totals.counted, totals.quarantined),
        (3, 1, 2)
    );
    let reasons: Vec<&str> = b.fx.quarantine.iter().map(|i| i.reason).collect();
    assert_eq!(reasons, ["time_too_old", "time_in_future"]);
    let d = b.p.find_device("d1").unwrap();
    assert_eq!(d.progress.0, T0 + 2 * S, "a fast clock advances nothing");
    assert_eq!(d.last_event.0, T0 + S);
}

#[test]
fn plain_devices_count_as_caught_up_with_their_newest_event() {
    let mut b = Bench::new(&[]);
    let plain = |time: Option<i64>| {
        Record::Plain(Plain {
            device: DeviceId::new("plain-1").unwrap(),
            samples: vec![PlainSample {
                metric: MetricName::new("temperature").unwrap(),
                time: time.map(EventTime),
                value: Value::Number(3.0),
            }],
        })
        .encode()
    };
    b.at(T0 + 3 * S, &[plain(Some(T0 + S)), plain(None)]);
    let d = b.p.find_device("plain-1").unwrap();
    assert_eq!((d.agent, d.progress.0), (None, T0 + 3 * S));
    assert_eq!(b.row(0, &[], T0).count, 2);
}

#[test]
fn groups_follow_attributes() {
    let spec = AggregateSpec {
        name: "by_site".to_owned(),
        metric: "temperature".to_owned(),
        group_by: vec!["site".to_owned()],
        window: 10 * S,
        hop: 10 * S,
        functions: Function::EXACT.iter().copied().collect(),
    };
    let mut b = Bench::with(vec![spec], &[]);
    let site = |t: i64, site: &str| sample("d1", "@site", t, Value::Text(site.into()));
    let first = [
        site(T0, "oslo"),
        temperature("d1", T0 + S, 1.0),
        temperature("d2", T0 + S, 1.0),
    ];
    b.at(T0 + 2 * S, &[batch_record("gw", 1, 1, &first, T0 + 2 * S)]);
    let second = [
        site(T0 + 3 * S, "bergen"),
        temperature("d1", T0 + 4 * S, 2.0),
    ];
    b.at(T0 + 4 * S, &[batch_record("gw", 2, 4, &second, T0 + 4 * S)]);
    assert_eq!(b.row(0, &["oslo"], T0).count, 1);
    assert_eq!(b.row(0, &["bergen"], T0).count, 1);
    assert_eq!(b.row(0, &[""], T0).count, 1);
    assert_eq!(b.p.find_device("d1").unwrap().attributes["site"], "bergen");
}

const HOT: &str =
    r#"{"name":"hot","metric":"temperature","raise":80,"clear":75,"severity":"critical"}"#;

fn hot(tx_no: u64, time: i64, value: f64, mark: i64) -> Vec<u8> {
    batch_record("gw", tx_no, tx_no, &[temperature("d1", time, value)], mark)
}

#[test]
fn an_alert_pages_once_and_clears_once_over_restarts() {
    let mut b = Bench::new(&[HOT]);
    b.at(T0 + S, &[hot(1, T0 + S, 85.0, T0 + S)]);
    assert_eq!(b.notices(), [(NoticeKind::Raised, "d1".to_owned())]);
    b.restart();
    b.at(T0 + 2 * S, &[hot(2, T0 + 2 * S, 86.0, T0 + 2 * S)]);
    b.tick(T0 + 90 * S);
    assert_eq!(b.notices(), []);
    b.restart();
    b.at(T0 + 91 * S, &[hot(3, T0 + 3 * S, 60.0, T0 + 91 * S)]);
    assert_eq!(b.notices(), [(NoticeKind::Cleared, "d1".to_owned())]);
    assert_eq!(b.fx.alerts.last().map(|a| a.state), Some("resolved"));
}

#[test]
fn an_episode_that_is_learned_after_it_ended_is_recorded_and_never_paged() {
    let mut b = Bench::new(&[HOT]);
    let now = T0 + 6 * 3600 * S;
    // A backlog: the agent is not caught up while the fault stands.
    b.at(now, &[hot(1, T0 + S, 85.0, T0 + S)]);
    b.at(now + 10 * S, &[hot(2, T0 + 2 * S, 20.0, now + 10 * S)]);
    b.tick(now + 100 * S);
    assert_eq!(b.notices(), []);
    let last = b.fx.alerts.last().unwrap();
    assert_eq!(
        (last.state, last.notified, last.began.0),
        ("resolved", false, T0 + S)
    );
}

#[test]
fn an_open_episode_pages_after_a_minute_even_if_the_agent_does_not_catch_up() {
    let mut b = Bench::new(&[HOT]);
    let now = T0 + 6 * 3600 * S;
    b.at(now, &[hot(1, T0 + S, 85.0, T0 + S)]);
    b.tick(now + 59 * S);
    assert_eq!(b.notices(), []);
    b.tick(now + 60 * S);
    assert_eq!(b.notices(), [(NoticeKind::Raised, "d1".to_owned())]);
}

#[test]
fn a_new_aggregate_expects_the_devices_that_are_known() {
    let mut b = Bench::new(&[]);
    b.at(
        T0 + 2 * S,
        &[batch_record(
            "gw",
            1,
            1,
            &[temperature("d1", T0 + S, 1.0)],
            T0 + 2 * S,
        )],
    );
    let mut aggregates = AggregateSpec::defaults();
    let minute = AggregateSpec {
        name: "minute".to_owned(),
        window: 60 * S,
        hop: 60 * S,
        ..aggregates[0].clone()
    };
    aggregates.insert(0, minute);
    b.fx = Effects::default();
    b.at(
        T0 + 3 * S,
        &[Record::Declare(Declaration {
            aggregates,
            rules: Vec::new(),
        })
        .encode()],
    );
    let indexes: BTreeSet<u32> = b.fx.indexes.iter().map(|i| i.0).collect();
    assert!(indexes.contains(&2), "{indexes:?}");
    b.rows.clear();
    b.at(
        T0 + 5 * S,
        &[batch_record(
            "gw",
            2,
            2,
            &[temperature("d1", T0 + 4 * S, 1.0)],
            T0 + 5 * S,
        )],
    );
    assert_eq!(
        b.row(0, &[], T0).count,
        2,
        "the old one keeps its slot and its windows"
    );
    let minute = T0.div_euclid(60 * S) * 60 * S;
    assert_eq!(b.row(2, &[], minute).count, 1);
    b.restart();
}

#[test]
fn a_device_with_very_many_metrics_keeps_them_apart() {
    let mut b = Bench::new(&[]);
    let at = |i: usize, t: i64| sample("d1", &format!("m{i}"), T0 + t, Value::Number(i as f64));
    let first: Vec<Sample> = (0..60).map(|i| at(i, 1)).collect();
    b.at(T0 + 2 * S, &[batch_record("gw", 1, 1, &first, T0 + 2 * S)]);
    b.restart();
    let second: Vec<Sample> = (0..60).rev().map(|i| at(i, 2)).collect();
    b.at(
        T0 + 4 * S,
        &[batch_record("gw", 2, 61, &second, T0 + 4 * S)],
    );
    assert_eq!(b.p.sizes().series, 60);
    for i in 0..60 {
        let r = b.row(1, &[&format!("m{i}")], T0);
        assert_eq!((r.count, r.min, r.max), (2, i as f64, i as f64));
    }
}

#[test]
fn a_row_that_settles_and_changes_at_once_does_not_hide_the_next_change() {
    let mut b = Bench::new(&[]);
    let one =
        |tx: u64, t: i64, mark: i64| batch_record("gw", tx, tx, &[temperature("d1", t, 1.0)], mark);
    b.at(T0 + S, &[one(1, T0, T0 + S)]);
    b.tick(T0 + 14 * S);
    b.at(T0 + 16 * S, &[one(2, T0 + 2 * S, T0 + 16 * S)]);
    // `Bench::at` asserts that every revision is greater than the one before.
    b.at(T0 + 17 * S, &[one(3, T0 + 3 * S, T0 + 17 * S)]);
    b.tick(T0 + 18 * S);
    assert_eq!(
        (b.row(0, &[], T0).count, b.row(0, &[], T0).state),
        (3, RowState::Revised)
    );
}

#[test]
fn the_cut_of_batches_does_not_decide_the_group() {
    let spec = AggregateSpec {
        name: "by_site".to_owned(),
        group_by: vec!["site".to_owned()],
        ..AggregateSpec::defaults().remove(0)
    };
    let events = [
        temperature("d1", T0 + S, 1.0),
        sample("d1", "@site", T0 + S, Value::Text("oslo".into())),
        temperature("d1", T0 + 2 * S, 2.0),
        temperature("d1", T0 + 3 * S, 3.0),
    ];
    let counts = |cuts: &[usize]| {
        let mut b = Bench::with(vec![spec.clone()], &[]);
        let mut from = 0;
        for (i, &to) in cuts.iter().enumerate() {
            let now = T0 + (4 + i as i64) * S;
            b.at(
                now,
                &[batch_record(
                    "gw",
                    i as u64 + 1,
                    from as u64 + 1,
                    &events[from..to],
                    now,
                )],
            );
            from = to;
        }
        (b.row(0, &[""], T0).count, b.row(0, &["oslo"], T0).count)
    };
    for cuts in [&[4][..], &[1, 4], &[2, 4], &[1, 2, 3, 4]] {
        assert_eq!(counts(cuts), (1, 2), "{cuts:?}");
    }
}

#[test]
fn a_flapping_value_makes_one_alert_of_each_episode_and_no_flood() {
    let mut b = Bench::new(&[HOT]);
    let flaps: Vec<Sample> = (0..20_001)
        .map(|i| temperature("d1", T0 + i, if i % 2 == 0 { 85.0 } else { 60.0 }))
        .collect();
    b.at(T0 + S, &[batch_record("gw", 1, 1, &flaps, T0 + S)]);
    assert!(b.fx.alerts.len() <= 1001, "{}", b.fx.alerts.len());
    assert_eq!(b.notices().len(), 1);
    assert_eq!(b.fx.alerts.last().map(|a| a.state), Some("firing"));
}

#[test]
fn two_episodes_that_begin_at_the_same_time_have_two_names() {
    let mut b = Bench::new(&[HOT]);
    b.at(T0 + S, &[hot(1, T0 + S, 85.0, T0 + S)]);
    b.at(T0 + 2 * S, &[hot(2, T0 + S, 60.0, T0 + 2 * S)]);
    b.restart();
    b.at(T0 + 3 * S, &[hot(3, T0 + S, 85.0, T0 + 3 * S)]);
    let ids: BTreeSet<String> = b.fx.notices.iter().map(|n| n.id.clone()).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn a_device_with_too_many_metrics_is_told_so_and_the_rest_goes_on() {
    let mut b = Bench::new(&[]);
    let samples: Vec<Sample> = (0..1100)
        .map(|i| sample("d1", &format!("m{i}"), T0 + S, Value::Number(1.0)))
        .collect();
    b.at(
        T0 + 2 * S,
        &[batch_record("gw", 1, 1, &samples, T0 + 2 * S)],
    );
    let totals = b.fx.summary.as_ref().unwrap().totals;
    assert_eq!(
        (totals.accepted, totals.counted, totals.quarantined),
        (1100, 1024, 76)
    );
    assert_eq!(b.fx.quarantine[0].reason, "capacity_reached");
}

#[test]
fn a_late_last_will_does_not_hide_a_living_agent() {
    let status = |no: u32, online: bool| {
        let incarnation = Incarnation { no, rand: 77 }.to_string();
        let status = Status {
            online,
            incarnation,
            version: String::new(),
            backlog: 0,
        };
        Record::Status(StatusRecord {
            agent: AgentId::new("gw").unwrap(),
            status,
        })
        .encode()
    };
    let mut b = Bench::new(&[]);
    b.at(
        T0 + S,
        &[
            status(1, true),
            batch_record("gw", 1, 1, &[temperature("d1", T0, 1.0)], T0 + S),
        ],
    );
    assert_eq!(b.p.find_device("d1").unwrap().status, "online");
    b.at(T0 + 2 * S, &[status(0, false)]);
    assert_eq!(b.p.find_device("d1").unwrap().status, "online");
    b.at(T0 + 3 * S, &[status(1, false)]);
    assert_eq!(b.p.find_device("d1").unwrap().status, "buffering");
    b.at(
        T0 + 4 * S,
        &[batch_record(
            "gw",
            2,
            2,
            &[temperature("d1", T0 + 4 * S, 1.0)],
            T0 + 4 * S,
        )],
    );
    assert_eq!(b.p.find_device("d1").unwrap().status, "online");
}

/// Events of each agent, and what arrives when: (agent, first seq, last seq).
type Deliveries = (Vec<Vec<Sample>>, Vec<(usize, u64, u64)>);

/// Batches of two agents in any order, with repeats and other cuts.
fn deliveries() -> impl Strategy<Value = Deliveries> {
    let sample = (0..3usize, 0..4usize, 0..400i64, -500i64..500).prop_map(|(d, m, t, v)| {
        let metric = ["temperature", "humidity", "load", "power"][m];
        sample(
            &format!("d{d}"),
            metric,
            T0 + t * S / 7,
            Value::Number(v as f64 / 10.0),
        )
    });
    let agents = prop::collection::vec(prop::collection::vec(sample, 1..40), 2);
    agents.prop_flat_map(|mut agents| {
        // Devices of different agents are different devices.
        for (a, samples) in agents.iter_mut().enumerate() {
            for s in samples {
                s.device = DeviceId::new(&format!("{a}-{}", s.device)).unwrap();
            }
        }
        let lengths: Vec<u64> = agents.iter().map(|a| a.len() as u64).collect();
        let extra = prop::collection::vec((0..2usize, 1..40u64, 1..12u64), 0..30);
        let plan = extra.prop_map(move |extra| {
            let mut plan: Vec<(usize, u64, u64)> = extra
                .into_iter()
                .map(|(a, first, n)| {
                    let first = (first - 1) % lengths[a] + 1;
                    (a, first, (first + n - 1).min(lengths[a]))
                })
                .collect();
            // And everything at least once, in small pieces.
            for (a, &len) in lengths.iter().enumerate() {
                plan.extend(
                    (1..=len)
                        .step_by(5)
                        .map(|first| (a, first, (first + 4).min(len))),
                );
            }
            plan
        });
        (Just(agents), plan.prop_shuffle())
    })
}

fn run((agents, plan): &Deliveries, restarts: bool) -> Bench {
    let mut b = Bench::new(&[]);
    for (i, &(a, first, last)) in plan.iter().enumerate() {
        let samples = &agents[a][first as usize - 1..last as usize];
        let now = T0 + 60 * S + i as i64 * S;
        b.at(
            now,
            &[batch_record(
                ["a1", "a2"][a],
                i as u64 + 1,
                first,
                samples,
                T0,
            )],
        );
        if restarts && i % 3 == 2 {
            b.restart();
        }
    }
    b.tick(T0 + 2000 * S);
    b
}

/// (count, min, max, sum, distinct devices) by (metric, start).
type Expected = BTreeMap<(String, i64), (u64, f64, f64, i128, u64)>;

fn brute_force(agents: &[Vec<Sample>]) -> Expected {
    let mut groups: BTreeMap<(String, i64), Vec<&Sample>> = BTreeMap::new();
    for s in agents.iter().flatten() {
        let start = s.time.0.div_euclid(10 * S) * 10 * S;
        groups
            .entry((s.metric.to_string(), start))
            .or_default()
            .push(s);
    }
    let unit = (1u64 << 48) as f64;
    let summary = |events: Vec<&Sample>| {
        let values: Vec<f64> = events.iter().filter_map(|s| s.value.as_number()).collect();
        let devices: BTreeSet<&str> = events.iter().map(|s| s.device.as_str()).collect();
        (
            values.len() as u64,
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            values.iter().map(|v| (v * unit).round() as i128).sum(),
            devices.len() as u64,
        )
    };
    groups
        .into_iter()
        .map(|(key, events)| (key, summary(events)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_repeats_and_cuts_give_the_exact_windows(deliveries in deliveries()) {
        let b = run(&deliveries, false);
        let got: Expected = b
            .rows
            .iter()
            .filter(|(k, _)| k.0 == 1)
            .map(|(k, r)| ((k.1[0].clone(), k.2), (r.count, r.min, r.max, r.sum, r.distinct)))
            .collect();
        prop_assert_eq!(got, brute_force(&deliveries.0));
        let t = b.fx.summary.as_ref().unwrap().totals;
        prop_assert_eq!(t.accepted, t.counted + t.duplicate + t.quarantined + t.too_old);
        prop_assert_eq!(t.counted, deliveries.0.iter().map(|a| a.len() as u64).sum::<u64>());
    }

    #[test]
    fn restarts_change_nothing(deliveries in deliveries()) {
        let (a, b) = (run(&deliveries, false), run(&deliveries, true));
        prop_assert_eq!(a.p.state_hash(), b.p.state_hash());
        prop_assert_eq!(a.rows, b.rows);
    }
}
