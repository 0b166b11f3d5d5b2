use std::collections::BTreeSet;

use event::AggregateSpec;
use proptest::prelude::*;

use super::*;

const ALL: Wants = Wants(31);

#[derive(Debug, Clone)]
enum Cell {
    Number(f64),
    Bool(bool),
    Text(String),
}

type Event = (Cell, i64, u32);

/// Ids whose order is not that of their numbers.
fn before(a: u32, b: u32) -> bool {
    assert!(a < 1000 && b < 1000, "asked of a device that is none");
    format!("device-{a}") < format!("device-{b}")
}

/// Few different values and times, so that ties are the rule.
fn events(max: usize) -> impl Strategy<Value = Vec<Event>> {
    let few = prop::sample::select(vec![0.0, -0.0, 1.0, -2.5, 1e9, -1e300, f64::MAX, 5e-324]);
    let cell = prop_oneof![
        few.prop_map(Cell::Number),
        (-1e6..1e6f64).prop_map(Cell::Number),
        any::<bool>().prop_map(Cell::Bool),
        (0u32..100).prop_map(|n| Cell::Text(format!("state {n}"))),
    ];
    let devices = prop_oneof![0u32..5, 0u32..100];
    prop::collection::vec((cell, -3i64..3, devices), 0..max)
}

fn pane(wants: Wants, events: &[Event]) -> Pane {
    let mut pane = Pane::new();
    for (cell, time, device) in events {
        match cell {
            Cell::Number(n) => pane.add_number(wants, *n, *time, *device, &before),
            Cell::Bool(b) => pane.add_bool(wants, *b, *time, *device, &before),
            Cell::Text(t) => pane.add_text(wants, t),
        }
        pane.devices.insert(*device);
        pane.revision = pane.revision.max(*time as u64 & 7);
    }
    pane
}

fn saved(pane: &Pane) -> Vec<u8> {
    let mut out = Vec::new();
    pane.save(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_and_any_split_give_the_same_pane(
        (events, shuffled) in events(200).prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        wants in (0u8..32).prop_map(Wants),
    ) {
        let whole = pane(wants, &events);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(events.len() + 1)).collect();
        cuts.extend([0, events.len()]);
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|c| pane(wants, &shuffled[c[0]..c[1]])).collect();
        let (mut forth, mut back) = (Pane::new(), Pane::new());
        parts.iter().for_each(|p| forth.merge(p, &before));
        parts.iter().rev().for_each(|p| back.merge(p, &before));
        for other in [pane(wants, &shuffled), forth, back] {
            prop_assert_eq!(&other, &whole);
            prop_assert_eq!(saved(&other), saved(&whole));
            prop_assert_eq!(other.digest(), whole.digest());
        }
        let bytes = [saved(&whole).as_slice(), b"end"].concat();
        let mut left = bytes.as_slice();
        let read = Pane::load(&mut left).unwrap();
        prop_assert_eq!(left, b"end");
        prop_assert_eq!(saved(&read), saved(&whole));
        prop_assert_eq!(read, whole);
    }

    #[test]
    fn equals_a_plain_computation(events in events(200)) {
        let pane = pane(ALL, &events);
        let mut numbers: Vec<(f64, i64, String, u32)> = Vec::new();
        let mut texts = BTreeSet::new();
        for (cell, time, device) in &events {
            let n = match cell {
                Cell::Number(n) => *n,
                Cell::Bool(b) => f64::from(u8::from(*b)),
                Cell::Text(t) => {
                    texts.insert(t);
                    continue;
                }
            };
            numbers.push((n, *time, format!("device-{device}"), *device));
        }
        prop_assert_eq!(pane.count, events.len() as u64);
        prop_assert_eq!(pane.numeric, numbers.len() as u64);
        let devices: BTreeSet<u32> = events.iter().map(|e| e.2).collect();
        prop_assert!(pane.devices.iter().eq(devices));
        let sum = numbers.iter().fold(0i128, |a, n| a.wrapping_add((n.0 * UNITS).round() as i128));
        prop_assert_eq!(pane.sum, sum);

        let tie = |a: &(f64, i64, String, u32), b: &(f64, i64, String, u32)| (a.1, &a.2).cmp(&(b.1, &b.2));
        let min = numbers.iter().min_by(|a, b| a.0.total_cmp(&b.0).then(tie(a, b)));
        let max = numbers.iter().min_by(|a, b| b.0.total_cmp(&a.0).then(tie(a, b)));
        for (got, want) in [(pane.min, min), (pane.max, max)] {
            prop_assert_eq!(got.is_set(), want.is_some());
            if let Some(want) = want {
                let got = (got.value.to_bits(), got.time, got.device);
                prop_assert_eq!(got, (want.0.to_bits(), want.1, want.3));
            }
        }

        let estimate = pane.values.as_ref().map_or(0, |v| v.estimate()) as f64;
        let want = texts.len() as f64;
        prop_assert!((estimate - want).abs() <= 5.0 * Values::RELATIVE_ERROR * want);
        prop_assert_eq!(texts.len() > 64 || estimate == want, true);
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
        for q in [0.5, 0.9, 0.95, 0.99] {
            let got = pane.quantiles.as_ref().and_then(|s| s.quantile(q));
            prop_assert_eq!(got.is_some(), !numbers.is_empty());
            if let Some(got) = got {
                let want = numbers[(q * (numbers.len() - 1) as f64).floor() as usize].0;
                prop_assert!(
                    want.abs() < f64::MIN_POSITIVE && got == 0.0
                        || (got / want - 1.0).abs() <= Quantiles::RELATIVE_ERROR * (1.0 + 1e-12),
                    "{} for {}", got, want
                );
            }
        }
    }

    #[test]
    fn arbitrary_bytes_give_none_or_a_sound_pane(
        events in events(120),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
        flags in 0u8..8,
    ) {
        let whole = pane(ALL, &events);
        let mut bytes = saved(&whole);
        prop_assert!(Pane::load(&mut &bytes[..cut.index(bytes.len())]).is_none());
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [bytes, garbage.clone(), [vec![VERSION, flags], garbage].concat()] {
            if let Some(mut read) = Pane::load(&mut bytes.as_slice()) {
                let again = saved(&read);
                prop_assert_eq!(&Pane::load(&mut again.as_slice()).unwrap(), &read);
                read.merge(&whole, &|a, b| a < b);
                read.digest();
                read.bytes();
            }
        }
    }

    #[test]
    fn both_ways_of_rounding_agree(v in any::<f64>(), near in -1e5..1e5f64, half in -1_000_000i64..1_000_000) {
        let half = half as f64 / 2.0 / UNITS;
        for v in [v, near, half, 0.49999999999999994 / UNITS, 16384.0 - 1e-9] {
            prop_assert_eq!(fixed(v), (v * UNITS).round() as i128, "{}", v);
        }
    }
}

#[test]
fn functions_want_what_they_show() {
    let wants = |functions: &[Function]| {
        let mut spec = AggregateSpec::defaults().remove(0);
        spec.functions = functions.iter().copied().collect();
        Wants::of(&spec)
    };
    assert_eq!(wants(&[Function::Count]), Wants(0));
    assert_eq!(wants(&[Function::Mean]), Wants::SUM);
    assert_eq!(wants(Function::ALL), ALL);
    let some = wants(&[Function::Max, Function::P99]);
    assert!(some.has(Wants::EXTREMES) && some.has(Wants::QUANTILES));
    assert!(!some.has(Wants::SUM) && !some.has(Wants::DEVICES) && !some.has(Wants::VALUES));
}

#[test]
fn what_is_not_wanted_is_not_there() {
    let events = [
        (Cell::Number(1.5), 1, 2),
        (Cell::Text("a".to_owned()), 2, 3),
    ];
    let p = pane(Wants(0), &events);
    assert_eq!((p.count, p.numeric, p.sum), (2, 1, 0));
    assert!(!p.min.is_set() && p.values.is_none() && p.quantiles.is_none());
    assert_eq!(p.bytes(), size_of::<Pane>());
    assert!(saved(&p).len() <= 10, "{}", saved(&p).len());
}
