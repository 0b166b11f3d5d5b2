//! Rules in the core: the same episodes in any order of arrival, and who is paged.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use event::Sample;
use processor::core::NoticeKind;
use proptest::prelude::*;
use proptest::test_runner::Config;
use rules::{Kind, Rule, Transition};
use support::*;

/// (rule, device, begin, end): none while it is open.
type Found = BTreeSet<(String, String, i64, Option<i64>)>;

/// (time, number, value).
type Numbered = (i64, usize, f64);

const RULES: [&str; 6] = [
    r#"{"name":"hot","metric":"a","raise":5,"clear":3}"#,
    r#"{"name":"long","metric":"a","raise":4,"clear":4,"for":"4s"}"#,
    r#"{"name":"low","metric":"b","direction":"below","raise":2}"#,
    r#"{"name":"jump","metric":"b","kind":"rate","direction":"either","raise":4,"clear":2,"within":"5s"}"#,
    r#"{"name":"frozen","metric":"a","kind":"stuck","for":"3s","tolerance":1}"#,
    r#"{"name":"quiet","metric":"b","kind":"silence","after":"6s"}"#,
];

/// Episodes that fired, from all values of a series in order.
fn recompute(rule: &Rule, device: &str, values: &[(i64, f64)], end: i64) -> Found {
    let mut found = Found::new();
    let mut note = |began: i64, ended: Option<i64>| {
        found.insert((rule.name.clone(), device.to_owned(), began, ended));
    };
    if let Kind::Silence(silence) = rule.kind {
        for pair in values.windows(2) {
            if pair[1].0 - pair[0].0 > silence.after {
                note(pair[0].0, Some(pair[1].0));
            }
        }
        if let Some(last) = values.last()
            && end - last.0 > silence.after
        {
            note(last.0, None);
        }
        return found;
    }
    let mut state = rule.kind.state(None);
    let mut open = None;
    for &(time, value) in values {
        let before = state.episode();
        if rule.kind.step(&mut state, time, Some(value)) == Transition::Resolved {
            note(before.unwrap().began, Some(time));
        }
        open = state.episode().filter(|e| e.firing);
    }
    if let Some(open) = open {
        note(open.began, None);
    }
    found
}

/// What the core gave out, as the views would hold it.
#[derive(Default)]
struct Picture {
    alerts: BTreeMap<String, views::model::Alert>,
    raised: BTreeMap<String, usize>,
    cleared: BTreeMap<String, usize>,
    paged_while_ended: Vec<String>,
}

impl Picture {
    fn take(&mut self, b: &mut Bench) {
        for notice in b.fx.notices.drain(..) {
            let id = notice.alert.id.clone();
            match notice.kind {
                NoticeKind::Raised => {
                    if notice.alert.state != "firing" {
                        self.paged_while_ended.push(id.clone());
                    }
                    *self.raised.entry(id).or_default() += 1;
                }
                NoticeKind::Revised => assert!(self.raised.contains_key(&id)),
                NoticeKind::Cleared => {
                    assert!(self.raised.contains_key(&id), "{notice:?}");
                    *self.cleared.entry(id).or_default() += 1;
                }
            }
        }
        for alert in b.fx.alerts.drain(..) {
            match alert.state {
                "dropped" => {
                    self.alerts.remove(&alert.id);
                }
                _ => {
                    self.alerts.insert(alert.id.clone(), alert);
                }
            }
        }
    }

    fn found(&self) -> Found {
        let real = |a: &&views::model::Alert| {
            let never = a
                .reason
                .as_deref()
                .is_some_and(|r| r.contains("it was none"));
            a.state != "pending" && !never
        };
        let alerts = self.alerts.values().filter(real);
        alerts
            .map(|a| {
                let end = a.resolved.map(|t| t.0);
                (a.rule.clone(), a.device.clone(), a.began.0, end)
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
struct Story {
    /// (device, metric, second, value), in the order in which they were numbered.
    events: Vec<(u8, u8, u8, u8)>,
    /// Lengths of the batches.
    cuts: Vec<u8>,
    /// Keys that order the arrival of batches.
    order: Vec<u16>,
    /// Which batches come again, and when the core restarts.
    again: Vec<u8>,
    restarts: Vec<u8>,
    /// Ingest time of the first batch after the last event, seconds.
    lag: u16,
    /// How much earlier than it could the watermark is, seconds.
    caution: Vec<u8>,
}

fn stories() -> impl Strategy<Value = Story> {
    (
        prop::collection::vec((0u8..2, 0u8..2, 0u8..40, 0u8..8), 1..80),
        prop::collection::vec(1u8..12, 1..40),
        prop::collection::vec(any::<u16>(), 80),
        prop::collection::vec(any::<u8>(), 0..6),
        prop::collection::vec(0u8..40, 0..4),
        prop_oneof![Just(0u16), Just(20), Just(2000)],
        prop::collection::vec(0u8..10, 1..10),
    )
        .prop_map(
            |(events, cuts, order, again, restarts, lag, caution)| Story {
                events,
                cuts,
                order,
                again,
                restarts,
                lag,
                caution,
            },
        )
}

fn sample_of(&(device, metric, second, value): &(u8, u8, u8, u8)) -> Sample {
    let metric = ["a", "b"][usize::from(metric)];
    let time = T0 + i64::from(second) * S;
    let value = event::Value::Number(f64::from(value));
    sample(&format!("d{device}"), metric, time, value)
}

fn run(story: &Story) -> (Bench, Picture, i64) {
    let mut batches: Vec<(u64, Vec<Sample>)> = Vec::new();
    let (mut rest, mut next, mut cuts) = (&story.events[..], 1u64, story.cuts.iter().cycle());
    while !rest.is_empty() {
        let len = usize::from(*cuts.next().unwrap()).min(rest.len());
        batches.push((next, rest[..len].iter().map(sample_of).collect()));
        next += len as u64;
        rest = &rest[len..];
    }
    let mut arrival: Vec<usize> = (0..batches.len()).collect();
    arrival.sort_by_key(|i| story.order[*i]);
    let mut now = T0 + (45 + i64::from(story.lag)) * S;
    let mut b = Bench::new(&RULES);
    let mut picture = Picture::default();
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for (at, &i) in arrival.iter().enumerate() {
        let held = arrival[at + 1..].iter().flat_map(|j| &batches[*j].1);
        let caution = i64::from(story.caution[at % story.caution.len()]) * S;
        let mark = held.map(|s| s.time.0 - caution).min().unwrap_or(now);
        let (first, samples) = &batches[i];
        sent.push(batch_record(
            "gw",
            at as u64 + 1,
            *first,
            samples,
            mark.min(now),
        ));
        b.at(now, &sent[at..]);
        if let Some(again) = story.again.get(at) {
            b.at(now, &[sent[usize::from(*again) % sent.len()].clone()]);
        }
        now += 700_000;
        if story.restarts.contains(&(at as u8)) {
            now += S;
            b.tick(now);
            b.restart();
        }
        picture.take(&mut b);
    }
    // All that waits for its time comes to it.
    for _ in 0..3 {
        now += 61 * S;
        b.at(
            now,
            &[batch_record("gw", 1000 + now as u64, next, &[], now)],
        );
        picture.take(&mut b);
    }
    (b, picture, now)
}

fn expected(story: &Story, end: i64) -> Found {
    let mut series: BTreeMap<(u8, u8), Vec<Numbered>> = BTreeMap::new();
    for (seq, event) in story.events.iter().enumerate() {
        let values = series.entry((event.0, event.1)).or_default();
        values.push((T0 + i64::from(event.2) * S, seq, f64::from(event.3)));
    }
    let mut found = Found::new();
    for ((device, metric), mut values) in series {
        values.sort_by_key(|v| (v.0, v.1));
        let values: Vec<(i64, f64)> = values.iter().map(|v| (v.0, v.2)).collect();
        for text in RULES {
            let rule = Rule::parse(text).unwrap();
            if rule.metric == ["a", "b"][usize::from(metric)] {
                found.extend(recompute(&rule, &format!("d{device}"), &values, end));
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(Config { cases: 600, ..Config::default() })]

    #[test]
    fn any_order_of_arrival_ends_in_the_same_episodes(story in stories()) {
        let (b, picture, end) = run(&story);
        prop_assert_eq!(b.p.totals().broken_promises, 0);
        let (found, expected) = (picture.found(), expected(&story, end));
        prop_assert_eq!(&found, &expected);
        for (id, times) in &picture.raised {
            prop_assert_eq!(*times, 1, "{} paged twice", id);
            let is_open = picture.alerts.get(id).is_some_and(|a| a.resolved.is_none());
            let cleared = picture.cleared.get(id).copied().unwrap_or(0);
            prop_assert_eq!(cleared, usize::from(!is_open), "{}", id);
        }
        prop_assert!(picture.paged_while_ended.is_empty());
        // What is open has paged.
        for alert in picture.alerts.values().filter(|a| a.state == "firing") {
            prop_assert!(alert.notified, "{:?}", alert);
        }
        // Nothing is left over.
        let mut fresh = processor::core::Effects::default();
        b.p.publish(&mut fresh);
        let open = fresh.alerts.iter().filter(|a| a.state == "firing").count();
        prop_assert_eq!(open, expected.iter().filter(|e| e.3.is_none()).count());
    }
}
