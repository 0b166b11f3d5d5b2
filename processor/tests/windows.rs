//! Windows of panes, what has gone cold, tiers, what was too old, changes at run time, quarantine.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use event::{
    AgentId, AggregateSpec, BatchHeader, ClockQuality, ClockState, DeviceChange, DeviceId,
    EventTime, Function, Held, MetricName, Record, Release, Retention, Sample, Value, batch,
};
use processor::core::Partition;
use support::{Bench, INC, S, T0, batch_record, sample, temperature};
use views::{HistoryQuery, RowPart, RowState, Tier};

const HOUR: i64 = 3600 * S;
const DAY: i64 = 24 * HOUR;

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

/// All rows of a tier, from memory and store.
fn history(b: &Bench, aggregate: u32, tier: Tier) -> Vec<RowPart> {
    let query = HistoryQuery {
        aggregate,
        tier,
        from: 0,
        to: i64::MAX,
        group: Vec::new(),
        after: None,
        newest: false,
        limit: 10_000,
    };
    let (from, to) = (0, b.p.history_end());
    let Some((first, last)) = b.p.history_range(&query, from, to) else {
        return Vec::new();
    };
    let stored: Vec<_> = b
        .store
        .range(first..last)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    b.p.history(&query, (from, to), &stored, Some(b.saved))
}

fn one(tx: u64, time: i64, value: f64, mark: i64) -> Vec<u8> {
    batch_record("gw", tx, tx, &[temperature("d1", time, value)], mark)
}

#[test]
fn a_hopping_window_is_the_sum_of_its_panes() {
    let mut b = Bench::with(vec![spec("hop", 60, 10, &[])], &[]);
    let samples: Vec<Sample> = (0..12)
        .map(|i| temperature(&format!("d{}", i % 3), T0 + i * 5 * S, i as f64))
        .collect();
    b.at(
        T0 + 61 * S,
        &[batch_record("gw", 1, 1, &samples, T0 + 61 * S)],
    );
    for (start, count, min, max, distinct) in [
        (-50, 2, 0.0, 1.0, 2),
        (-10, 10, 0.0, 9.0, 3),
        (0, 12, 0.0, 11.0, 3),
        (30, 6, 6.0, 11.0, 3),
        (50, 2, 10.0, 11.0, 2),
    ] {
        let r = b.row(0, &[], T0 + start * S);
        assert_eq!(
            (r.count, r.min, r.max, r.distinct, r.end - r.start),
            (count, min, max, distinct, 60 * S),
            "start {start}"
        );
    }
    assert!(!b.rows.contains_key(&(0, Vec::new(), T0 - 60 * S)));
    let r = b.row(0, &[], T0);
    let at = r.max_at.as_ref().unwrap();
    assert_eq!((at.time, &*at.device), (T0 + 55 * S, "d2"));
    let median = r.quantiles.as_ref().unwrap().quantile(0.5).unwrap();
    assert!((4.5..=6.5).contains(&median), "{median}");
}

#[test]
fn an_earlier_pane_shows_in_all_its_windows_though_a_later_one_came_first() {
    let mut b = Bench::with(vec![spec("hop", 60, 10, &[])], &[]);
    b.at(T0 + 61 * S, &[one(1, T0 + 55 * S, 1.0, T0 + 61 * S)]);
    b.at(T0 + 62 * S, &[one(2, T0 + 25 * S, 2.0, T0 + 62 * S)]);
    for (start, count) in [(-30, 1), (-10, 1), (0, 2), (20, 2), (30, 1), (50, 1)] {
        assert_eq!(b.row(0, &[], T0 + start * S).count, count, "start {start}");
    }
}

#[test]
fn late_events_of_sealed_panes_revise_their_windows_through_the_store() {
    let mut b = Bench::with(vec![spec("hop", 60, 10, &[])], &[]);
    let hour = T0 + HOUR;
    b.at(T0 + 2 * S, &[one(1, T0 + S, 1.0, T0 + 2 * S)]);
    b.at(T0 + 100 * S, &[batch_record("gw", 2, 2, &[], T0 + 100 * S)]);
    b.tick(hour);
    assert_eq!(b.p.sizes().windows, 0, "nothing of it is in memory");
    assert_eq!(b.row(0, &[], T0).state, RowState::Settled);
    for (tx, value) in [(3, 5.0), (4, -5.0), (5, 2.0)] {
        b.restart();
        let now = hour + tx as i64 * S;
        b.at(
            now,
            &[batch_record(
                "gw",
                tx,
                tx - 1,
                &[temperature("d2", T0 + 3 * S, value)],
                now,
            )],
        );
    }
    for start in [-50, 0] {
        let r = b.row(0, &[], T0 + start * S);
        assert_eq!(
            (r.state, r.count, r.late_events, r.min, r.max, r.distinct),
            (RowState::Revised, 4, 3, -5.0, 5.0, 2)
        );
        assert_eq!(r.settled.map(|s| (s.done, s.expected)), Some((1, 1)));
        let at = r.min_at.as_ref().unwrap();
        assert_eq!((at.time, &*at.device), (T0 + 3 * S, "d2"));
    }
    b.restart();
    let rows = history(&b, 0, Tier::Window);
    assert_eq!(rows.iter().map(|r| r.count).collect::<Vec<_>>(), [4; 6]);
    for tier in [Tier::Hour, Tier::Day] {
        let rows = history(&b, 0, tier);
        let sums: Vec<(u64, u64)> = rows.iter().map(|r| (r.count, r.distinct)).collect();
        assert_eq!(sums, [(4, 2)], "{tier:?}");
    }
}

#[test]
fn an_open_window_that_went_cold_still_counts_and_settles() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    b.at(
        T0 + 2 * S,
        &[
            batch_record("gw-1", 1, 1, &[temperature("d1", T0 + S, 1.0)], T0 + 2 * S),
            batch_record("gw-2", 1, 1, &[temperature("d2", T0 + S, 2.0)], T0 + 2 * S),
        ],
    );
    b.tick(T0 + 120 * S);
    assert_eq!(b.row(0, &[], T0).state, RowState::Open);
    b.restart();
    let now = T0 + 130 * S;
    b.at(
        now,
        &[batch_record(
            "gw-1",
            2,
            2,
            &[temperature("d1", T0 + 2 * S, 7.0)],
            now,
        )],
    );
    let r = b.row(0, &[], T0);
    assert_eq!(
        (r.state, r.count, r.late_events, r.max),
        (RowState::Open, 3, 0, 7.0)
    );
    b.restart();
    b.tick(T0 + 10 * S + 900 * S);
    let r = b.row(0, &[], T0);
    assert_eq!((r.state, r.count), (RowState::Settled, 3));
    assert_eq!(r.settled.map(|s| (s.done, s.expected)), Some((1, 2)));
    b.tick(T0 + 2000 * S);
    b.restart();
    let now = T0 + 2010 * S;
    b.at(
        now,
        &[batch_record(
            "gw-2",
            2,
            2,
            &[temperature("d2", T0 + 3 * S, 9.0)],
            now,
        )],
    );
    let r = b.row(0, &[], T0);
    assert_eq!((r.state, r.count, r.late_events), (RowState::Revised, 4, 1));
}

#[test]
fn old_events_revise_the_coarser_tiers_and_the_oldest_go_to_the_ledger() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    let keep = Retention {
        panes: 2 * DAY,
        hours: 10 * DAY,
        days: 100 * DAY,
    };
    b.at(T0, &[Record::Retain(keep).encode()]);
    b.at(T0 + 2 * S, &[one(1, T0 + S, 1.0, T0 + 2 * S)]);
    for (tx, age) in [
        (2, DAY),
        (3, 5 * DAY),
        (4, 50 * DAY),
        (5, 300 * DAY),
        (6, 300 * DAY),
    ] {
        b.restart();
        let now = T0 + 2 * S + tx as i64 * S;
        b.at(now, &[one(tx, T0 - age, tx as f64, now)]);
    }
    let t = b.p.totals();
    assert_eq!((t.accepted, t.counted, t.too_old), (6, 4, 2));
    b.restart();
    let counts = |tier| -> u64 { history(&b, 0, tier).iter().map(|r| r.count).sum() };
    assert_eq!(
        (counts(Tier::Window), counts(Tier::Hour), counts(Tier::Day)),
        (2, 3, 4)
    );
    let stored: Vec<_> = b
        .store
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let old = b.p.too_old(None, 10, &stored, Some(b.saved));
    let day = (T0 - 300 * DAY).div_euclid(DAY) * DAY;
    assert_eq!(old, [(day, "d1".to_owned(), 2)]);
    // Time goes on: panes give way, hours and days stay.
    let later = T0 + 3 * DAY;
    b.at(later, &[one(7, later, 9.0, later)]);
    b.tick(later + HOUR);
    b.restart();
    let counts = |tier| -> u64 { history(&b, 0, tier).iter().map(|r| r.count).sum() };
    assert_eq!(
        (counts(Tier::Window), counts(Tier::Hour), counts(Tier::Day)),
        (1, 4, 5)
    );
    assert!(b.store.keys().filter(|k| k[0] == 0).count() <= 1);
}

#[test]
fn the_ledger_of_what_was_too_old_is_read_page_by_page() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    let keep = Retention {
        panes: 2 * DAY,
        hours: 2 * DAY,
        days: 10 * DAY,
    };
    b.at(T0, &[Record::Retain(keep).encode()]);
    b.at(T0 + S, &[one(1, T0 + S, 1.0, T0 + S)]);
    let mut expected = BTreeMap::new();
    let (mut seq, mut now) = (2, T0 + 2 * S);
    for round in 0..4 {
        // Numbers are given in another order than that of the ids.
        for i in [7, 3, 9, 1, 8, 2, 0, 5] {
            let device = format!("d{}", (i * 5 + round) % 11);
            let t = T0 - (100 - i64::from(i % 3)) * DAY;
            now += S;
            let samples = [temperature(&device, t, 1.0)];
            b.at(now, &[batch_record("gw", seq, seq, &samples, now)]);
            seq += 1;
            let day = t.div_euclid(DAY) * DAY;
            *expected.entry((day, device)).or_insert(0) += 1;
        }
        // Some of it is stored, some under way, some neither.
        match round {
            0 | 1 => b.restart(),
            2 => drop(b.p.begin_checkpoint(Vec::new()).unwrap()),
            _ => {}
        }
    }
    let expected: Vec<(i64, String, u64)> = expected
        .into_iter()
        .map(|((day, device), n)| (day, device, n))
        .collect();
    for limit in [1, 2, 3, 5, 100] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (from, to) = b.p.too_old_range(after.as_ref());
            let rows = b.store.range(from..to).take(limit);
            let stored: Vec<_> = rows.map(|(k, v)| (k.clone(), v.clone())).collect();
            let page = b.p.too_old(after.as_ref(), limit, &stored, Some(b.saved));
            assert!(page.len() <= limit);
            let Some((day, device, _)) = page.last() else {
                break;
            };
            after = Some((*day, device.clone()));
            all.extend(page);
        }
        assert_eq!(all, expected, "{limit} at once");
    }
}

#[test]
fn an_old_recording_is_counted_as_if_it_were_new() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    // Four years ago, newest last.
    let old = T0 - 1400 * DAY;
    for i in 0..20 {
        let now = T0 + i * S;
        b.at(now, &[one(i as u64 + 1, old + i * HOUR, i as f64, now)]);
    }
    assert_eq!(b.p.totals().counted, 20);
    b.restart();
    let rows = history(&b, 0, Tier::Window);
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|r| r.state == RowState::Revised));
}

#[test]
fn what_was_quarantined_can_be_released_once_with_its_times_put_right() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    let wrong = 1_000 * S;
    let samples = [
        temperature("d1", wrong, 1.0),
        temperature("d1", T0 + S, 2.0),
        temperature("d1", wrong + S, 3.0),
    ];
    b.at(
        T0 + 2 * S,
        &[batch_record("gw", 1, 1, &samples, T0 + 2 * S)],
    );
    assert_eq!((b.p.totals().counted, b.p.totals().quarantined), (1, 2));
    let id = b.fx.quarantine[0].id.clone().unwrap();
    assert_eq!(id, "0-0");
    b.restart();
    let record = b.store[&Partition::held_key(0)].clone();
    let release = |shift, record: Vec<u8>| {
        Record::Release(Release {
            id: 0,
            shift,
            record,
        })
        .encode()
    };
    let mut other = record.clone();
    other.push(0);
    b.at(T0 + 3 * S, &[release(0, other)]);
    assert_eq!(b.p.totals().quarantined, 2, "other bytes are nothing");
    b.at(T0 + 4 * S, &[release(T0 - wrong, record.clone())]);
    let t = b.p.totals();
    assert_eq!((t.accepted, t.counted, t.quarantined), (3, 3, 0));
    assert_eq!(b.row(0, &[], T0).count, 3);
    b.at(T0 + 5 * S, &[release(T0 - wrong, record)]);
    assert_eq!(b.p.totals().counted, 3, "once");
    b.restart();
    assert!(!b.store.contains_key(&Partition::held_key(0)));
}

fn expected(b: &Bench, start: i64) -> (u64, u64) {
    let mut fx = processor::core::Effects::default();
    b.p.publish(&mut fx);
    let index = &fx.indexes.iter().find(|i| i.1.is_empty()).unwrap().2;
    let c = index.counts(start, start + 10 * S);
    (c.expected, c.complete + c.lossy)
}

#[test]
fn a_decommissioned_device_is_expected_only_before() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    let two = [
        temperature("d1", T0 + S, 1.0),
        temperature("d2", T0 + S, 1.0),
    ];
    b.at(T0 + 2 * S, &[batch_record("gw", 1, 1, &two, T0 + 2 * S)]);
    b.at(T0 + 40 * S, &[batch_record("gw", 2, 3, &[], T0 + 40 * S)]);
    assert_eq!(expected(&b, T0), (2, 2));
    let gone = Record::Decommission(DeviceId::new("d2").unwrap()).encode();
    b.at(T0 + 41 * S, &[gone]);
    b.restart();
    b.at(T0 + 80 * S, &[batch_record("gw", 3, 3, &[], T0 + 80 * S)]);
    assert_eq!(expected(&b, T0), (2, 2));
    assert_eq!(expected(&b, T0 + 40 * S), (2, 2));
    assert_eq!(expected(&b, T0 + 50 * S), (1, 1));
    assert!(b.p.find_device("d2").is_none());
    // It speaks again: it is back.
    b.at(
        T0 + 90 * S,
        &[batch_record(
            "gw",
            4,
            3,
            &[temperature("d2", T0 + 85 * S, 1.0)],
            T0 + 90 * S,
        )],
    );
    assert!(b.p.find_device("d2").is_some());
    b.restart();
}

#[test]
fn a_device_that_moves_to_another_site_leaves_its_past_there() {
    let mut b = Bench::with(vec![spec("by_site", 10, 10, &["site"])], &[]);
    let site = |t: i64, site: &str| sample("d1", "@site", t, Value::Text(site.into()));
    let first = [site(T0, "oslo"), temperature("d1", T0 + S, 1.0)];
    b.at(T0 + 2 * S, &[batch_record("gw", 1, 1, &first, T0 + 2 * S)]);
    let second = [
        site(T0 + 35 * S, "bergen"),
        temperature("d1", T0 + 36 * S, 2.0),
    ];
    b.at(
        T0 + 40 * S,
        &[batch_record("gw", 2, 3, &second, T0 + 40 * S)],
    );
    b.tick(T0 + 41 * S);
    let counts = |b: &Bench, group: &str, start: i64| {
        let mut fx = processor::core::Effects::default();
        b.p.publish(&mut fx);
        let index = fx.indexes.iter().find(|i| *i.1[0] == *group).unwrap();
        index.2.counts(start, start + 10 * S).expected
    };
    for restarted in [false, true] {
        if restarted {
            b.restart();
        }
        let oslo: Vec<u64> = (0..5)
            .map(|i| counts(&b, "oslo", T0 + i * 10 * S))
            .collect();
        let bergen: Vec<u64> = (0..5)
            .map(|i| counts(&b, "bergen", T0 + i * 10 * S))
            .collect();
        assert_eq!((oslo, bergen), (vec![1, 1, 1, 1, 0], vec![0, 0, 0, 1, 1]));
    }
}

#[test]
fn an_operator_s_attribute_goes_over_the_device_s_own() {
    let mut b = Bench::with(vec![spec("by_site", 10, 10, &["site"])], &[]);
    let site = |t: i64, site: &str| sample("d1", "@site", t, Value::Text(site.into()));
    let set = |text: Option<&str>| {
        Record::SetDevice(DeviceChange {
            device: DeviceId::new("d1").unwrap(),
            attributes: vec![(MetricName::new("@site").unwrap(), text.map(str::to_owned))],
        })
        .encode()
    };
    let first = [site(T0, "oslo"), temperature("d1", T0 + S, 1.0)];
    b.at(
        T0 + 2 * S,
        &[
            batch_record("gw", 1, 1, &first, T0 + 2 * S),
            set(Some("bergen")),
        ],
    );
    b.at(
        T0 + 5 * S,
        &[batch_record(
            "gw",
            2,
            3,
            &[site(T0 + 4 * S, "oslo")],
            T0 + 5 * S,
        )],
    );
    assert_eq!(b.p.find_device("d1").unwrap().attributes["site"], "bergen");
    b.restart();
    b.at(T0 + 6 * S, &[set(None)]);
    b.at(
        T0 + 7 * S,
        &[batch_record(
            "gw",
            3,
            4,
            &[site(T0 + 6 * S, "oslo")],
            T0 + 7 * S,
        )],
    );
    assert_eq!(b.p.find_device("d1").unwrap().attributes["site"], "oslo");
    b.restart();
}

#[test]
fn aggregates_and_rules_change_at_run_time_and_the_configuration_does_not_undo_it() {
    let mut b = Bench::with(vec![spec("a", 10, 10, &[])], &[]);
    let names = |b: &Bench| -> Vec<(u32, String)> {
        let d = b.p.declarations();
        d.aggregates
            .into_iter()
            .map(|(slot, a)| (slot, a.name))
            .collect()
    };
    b.at(T0 + 2 * S, &[one(1, T0 + S, 1.0, T0 + 2 * S)]);
    let rule = r#"{"name":"hot","metric":"temperature","raise":80,"clear":75}"#;
    b.at(
        T0 + 3 * S,
        &[
            Record::SetAggregate(spec("b", 60, 20, &[])).encode(),
            Record::RemoveAggregate("a".to_owned()).encode(),
            Record::SetRule(rule.to_owned()).encode(),
        ],
    );
    assert_eq!(names(&b), [(1, "b".to_owned())]);
    b.restart();
    // The next start declares the configuration again.
    let config = event::Declaration {
        aggregates: vec![spec("a", 10, 10, &[])],
        rules: Vec::new(),
    };
    b.at(
        T0 + 4 * S,
        &[
            Record::Declare(config).encode(),
            one(2, T0 + 4 * S, 85.0, T0 + 4 * S),
        ],
    );
    assert_eq!(names(&b), [(1, "b".to_owned())]);
    assert_eq!(b.p.declarations().rules.len(), 1);
    assert_eq!(b.notices().len(), 1);
    // A rule that a newer program wrote is told of and changes nothing.
    let newer = r#"{"name":"hot","kind":"newer","metric":"temperature","raise":5}"#;
    b.at(T0 + 5 * S, &[Record::SetRule(newer.to_owned()).encode()]);
    let refused = &b.fx.refused_rules;
    assert_eq!((refused.len(), refused[0].field.as_str()), (1, "kind"));
    assert_eq!(b.p.declarations().rules, [rule]);
    assert_eq!(b.row(1, &[], T0).count, 1);
    // Removed and set again it is another one, with nothing of before.
    b.at(
        T0 + 6 * S,
        &[
            Record::RemoveAggregate("b".to_owned()).encode(),
            Record::SetAggregate(spec("b", 60, 20, &[])).encode(),
            Record::RemoveRule("hot".to_owned()).encode(),
        ],
    );
    assert_eq!(names(&b), [(2, "b".to_owned())]);
    assert!(b.p.declarations().rules.is_empty());
    b.tick(T0 + HOUR);
    b.restart();
    assert!(
        b.store.keys().all(|k| k[0] != 0 || k[4] == 2),
        "rows of what is gone are gone"
    );
}

fn header(clock: ClockQuality, sent: i64, tx: u64, seq: u64, count: u32, mark: i64) -> BatchHeader {
    BatchHeader {
        agent: AgentId::new("gw").unwrap(),
        incarnation: INC,
        tx_no: tx,
        sent_at: EventTime(sent),
        boottime_us: 0,
        clock: ClockState {
            quality: clock,
            error_ms: 0,
        },
        e_inc: INC,
        first_seq: seq,
        count,
        low_watermark: EventTime(mark),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    }
}

fn with(header: &BatchHeader, samples: &[Sample]) -> Vec<u8> {
    Record::Batch(batch::encode(header, samples).unwrap()).encode()
}

#[test]
fn a_clock_that_was_never_set_is_corrected_and_a_set_one_is_not() {
    for (quality, start) in [(ClockQuality::None, T0), (ClockQuality::Ntp, T0 - 600 * S)] {
        let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
        // Ten minutes behind.
        let sent = T0 + 2 * S - 600 * S;
        let h = header(quality, sent, 1, 1, 1, sent);
        b.at(T0 + 2 * S, &[with(&h, &[temperature("d1", sent - S, 1.0)])]);
        assert_eq!(
            b.rows.keys().map(|k| k.2).collect::<Vec<_>>(),
            [start],
            "{quality:?}"
        );
    }
}

#[test]
fn a_sleeping_device_that_promised_quiet_is_not_awaited() {
    let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
    let other = [temperature("d2", T0 + S, 1.0)];
    let h = header(ClockQuality::Ntp, T0 + 2 * S, 1, 1, 1, T0 + 2 * S);
    let sleeper = BatchHeader {
        quiet_until: Some(EventTime(T0 + HOUR)),
        ..h
    };
    b.at(
        T0 + 2 * S,
        &[
            with(&sleeper, &[temperature("d1", T0 + S, 1.0)]),
            batch_record("gw-2", 1, 1, &other, T0 + 2 * S),
        ],
    );
    b.at(
        T0 + 60 * S,
        &[batch_record(
            "gw-2",
            2,
            2,
            &[temperature("d2", T0 + 21 * S, 1.0)],
            T0 + 60 * S,
        )],
    );
    assert_eq!(b.outstanding(T0 + 20 * S), [""; 0]);
    b.tick(T0 + 62 * S);
    assert_eq!(b.row(0, &[], T0 + 20 * S).state, RowState::Settled);
    // It wakes early: the promise is taken back.
    let awake = header(ClockQuality::Ntp, T0 + 70 * S, 2, 2, 0, T0 + 65 * S);
    b.at(T0 + 70 * S, &[with(&awake, &[])]);
    assert_eq!(b.outstanding(T0 + 60 * S), ["d1", "d2"]);
}

#[test]
fn equal_extremes_have_the_same_origin_in_any_order() {
    let mut origins = BTreeSet::new();
    for order in [["b", "a", "c"], ["c", "b", "a"], ["a", "c", "b"]] {
        let mut b = Bench::with(vec![spec("w", 10, 10, &[])], &[]);
        for (i, device) in order.iter().enumerate() {
            let now = T0 + (2 + i as i64) * S;
            b.at(
                now,
                &[batch_record(
                    device,
                    1,
                    1,
                    &[temperature(device, T0 + S, 5.0)],
                    now,
                )],
            );
        }
        let at = b.row(0, &[], T0).max_at.clone().unwrap();
        origins.insert((at.time, at.device.to_string()));
    }
    assert_eq!(origins, [(T0 + S, "a".to_owned())].into());
}
