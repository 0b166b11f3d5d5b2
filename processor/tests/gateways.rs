//! Very large gateways.

mod support;

use std::time::{Duration, Instant};

use event::{AggregateSpec, DeviceId, Record, Sample, Value};
use support::{Bench, S, T0, batch_record, sample, temperature};

const DEVICES: usize = 100_000;
const BATCH: usize = 5_000;

/// The devices of a batch, in an order that is not that of their numbers.
fn shuffled(part: usize) -> impl Iterator<Item = usize> {
    let scattered = |i: usize| i * 7_919 % DEVICES;
    (part * BATCH..(part + 1) * BATCH).map(scattered)
}

/// All devices speak behind the gateway; `site` gives each its own group too.
fn speak(b: &mut Bench, gateway: &str, now: &mut i64, site: bool) -> Duration {
    let began = Instant::now();
    for part in 0..DEVICES / BATCH {
        *now += S;
        let mut samples: Vec<Sample> = Vec::new();
        for device in shuffled(part) {
            let id = format!("d{device}");
            if site {
                let text = Value::Text(format!("s{device}").into());
                samples.push(sample(&id, "@site", *now, text));
            }
            samples.push(temperature(&id, *now, 1.0));
        }
        let first = 1 + (part * samples.len()) as u64;
        b.at(
            *now,
            &[batch_record(
                gateway,
                1 + part as u64,
                first,
                &samples,
                *now,
            )],
        );
    }
    began.elapsed()
}

fn expected(b: &Bench) -> u64 {
    let mut fx = processor::core::Effects::default();
    b.p.publish(&mut fx);
    let index = &fx.indexes.iter().find(|i| i.1.is_empty()).unwrap().2;
    index.counts(b.p.now(), b.p.now() + 10 * S).expected
}

fn gateways(group_by: &[&str], site: bool) -> [Duration; 3] {
    let all = AggregateSpec {
        window: 10 * S,
        hop: 10 * S,
        group_by: Vec::new(),
        ..AggregateSpec::defaults().remove(0)
    };
    let by = AggregateSpec {
        name: "by".to_owned(),
        group_by: group_by.iter().map(|g| (*g).to_owned()).collect(),
        ..all.clone()
    };
    let mut b = Bench::with(vec![all, by], &[]);
    let mut now = T0;
    let known = speak(&mut b, "one", &mut now, site);
    assert_eq!(expected(&b), DEVICES as u64);
    let moved = speak(&mut b, "other", &mut now, false);
    assert_eq!(expected(&b), DEVICES as u64);
    b.restart();
    let began = Instant::now();
    let mut gone = Vec::new();
    for part in 0..DEVICES / BATCH / 2 {
        gone.extend(
            shuffled(part)
                .map(|d| Record::Decommission(DeviceId::new(&format!("d{d}")).unwrap()).encode()),
        );
    }
    now += S;
    b.at(now, &gone);
    let decommissioned = began.elapsed();
    b.restart();
    assert_eq!(expected(&b), DEVICES as u64 / 2);
    assert_eq!(b.p.sizes().devices, DEVICES / 2);
    [known, moved, decommissioned]
}

/// In seconds; what is quadratic takes minutes.
fn check(times: [Duration; 3]) {
    eprintln!("known, moved, decommissioned: {times:?}");
    for time in times {
        assert!(time < Duration::from_secs(20), "{times:?}");
    }
}

#[test]
fn a_hundred_thousand_devices_move_to_another_gateway_and_half_of_them_go() {
    check(gateways(&["model"], false));
}

#[test]
fn a_hundred_thousand_devices_with_a_group_each_move_and_half_of_them_go() {
    check(gateways(&["site"], true));
}
