//! Rules on groups: windows that come late, twice, in any order; shares; restarts.

use proptest::prelude::*;
use proptest::test_runner::Config;
use rules::Rule;

use super::*;

const WINDOW: i64 = 10 * SECOND;
const GAP: &str = r#"{"name":"gap","kind":"window","aggregate":"by_site","field":"completeness","direction":"below","raise":0.8,"clear":0.9,"for":"20s","severity":"critical"}"#;
const MANY: &str =
    r#"{"name":"many","kind":"share","of":"hot","raise":0.5,"clear":0.25,"at_least":2}"#;

fn site(name: &str) -> GroupTexts {
    [("site".to_owned(), name.to_owned())].into()
}

/// The `number`th window.
fn window(number: i64, revision: u64, value: Option<f64>) -> Judged {
    let start = T0 + number * WINDOW;
    Judged {
        start,
        end: start + WINDOW,
        revision,
        value,
    }
}

fn windows(from: i64, values: &[f64]) -> Vec<Judged> {
    let numbers = (from..).zip(values);
    numbers.map(|(n, v)| window(n, 1, Some(*v))).collect()
}

impl Bench {
    fn of_groups(rules: &[&str]) -> Self {
        let flap = FlapSettings {
            episodes: 0,
            ..FlapSettings::default()
        };
        let mut bench = Self::with(Settings { flap, ..settings() });
        bench.rules = rules.iter().map(|r| (*r).to_owned()).collect();
        bench.declare();
        bench
    }

    fn declare(&mut self) {
        let rules = self.rules.iter().map(|r| Rule::parse(r).unwrap());
        let rules: Vec<Rule> = rules.collect();
        self.alerting.set_group_rules(&rules, self.now);
        self.commit();
    }

    fn judge(&mut self, judged: &[Judged]) {
        self.alerting.judge("gap", &site("s1"), judged, self.now);
        self.commit();
    }

    fn share(&mut self, expected: u64) {
        let groups = [(site("s1"), expected), (site("s2"), expected)];
        self.alerting.share("many", &groups, self.now);
        self.commit();
    }

    /// Alerts of rules on groups as (begin, end) in windows, and whether they count.
    fn episodes(&self) -> Vec<(i64, Option<i64>, bool)> {
        let number = |t: Time| (t.0 - T0) / WINDOW;
        let mut all: Vec<_> = self
            .alerts
            .values()
            .map(|a| (number(a.began), a.resolved.map(number), a.reason.is_none()))
            .collect();
        all.sort_unstable();
        all
    }

    fn restart_groups(&mut self) {
        let open = |alerts: &BTreeMap<String, Alert>| -> Vec<Alert> {
            let all = alerts.values().filter(|a| a.resolved.is_none());
            all.cloned().collect()
        };
        let before = open(&self.alerts);
        self.restart();
        let after = self.alerting.show().alerts.into_iter();
        assert_eq!(open(&after.map(|a| (a.id.clone(), a)).collect()), before);
        self.declare();
    }
}

#[test]
fn a_gap_of_a_site_pages_once_and_clears() {
    let mut bench = Bench::of_groups(&[GAP]);
    bench.judge(&windows(0, &[1.0, 0.25]));
    assert_eq!(bench.news(), [""; 0], "one window is not long enough");
    bench.judge(&windows(0, &[1.0, 0.25, 0.5]));
    let news = bench.news();
    assert_eq!(news.len(), 1, "{news:?}");
    assert!(
        news[0].starts_with(
            "ops raised gap: completeness of by_site, site s1, went below 0.8: 0.5; began "
        ),
        "{news:?}"
    );
    let alert = bench.alerts.values().next().unwrap().clone();
    assert_eq!(alert.began.0, T0 + WINDOW);
    assert_eq!((alert.kind, alert.group["site"].as_str()), ("window", "s1"));
    let evidence: Vec<f64> = alert.evidence.iter().map(|e| e.value).collect();
    assert_eq!(evidence, [1.0, 0.25, 0.5]);
    // Between the limits it goes on; the same again says nothing; neither does a restart.
    bench.judge(&windows(2, &[0.5, 0.85]));
    bench.restart_groups();
    bench.judge(&windows(0, &[1.0, 0.25, 0.5, 0.85]));
    bench
        .alerting
        .judge("gap", &site("s2"), &windows(0, &[1.0, 1.0]), bench.now);
    assert_eq!(bench.news(), [""; 0]);
    bench.judge(&windows(4, &[0.9]));
    assert_eq!(bench.kinds(), ["cleared"]);
    assert_eq!(bench.episodes(), [(1, Some(4), true)]);
    bench.restart_groups();
    bench.judge(&windows(0, &[1.0, 0.25, 0.5, 0.85, 0.9, 1.0]));
    assert_eq!(bench.kinds(), [""; 0]);
    assert_eq!(bench.episodes(), [(1, Some(4), true)]);
}

#[test]
fn what_comes_late_begins_moves_and_ends_episodes() {
    let mut bench = Bench::of_groups(&[GAP]);
    // Over before it was known: recorded, nobody is told.
    bench.judge(&windows(0, &[1.0, 0.0, 0.0, 1.0]));
    assert_eq!(bench.episodes(), [(1, Some(3), true)]);
    assert_eq!(bench.kinds(), [""; 0]);
    assert!(!bench.alerts.values().next().unwrap().notified);
    // It was longer; and it goes on after all.
    bench.judge(&[window(0, 2, Some(0.1))]);
    assert_eq!(bench.episodes(), [(0, Some(3), true)]);
    bench.judge(&[window(3, 2, Some(0.1))]);
    assert_eq!(bench.episodes(), [(0, None, true)]);
    assert_eq!(bench.kinds(), ["raised"]);
    // It began later than was said.
    bench.judge(&[window(0, 3, Some(1.0))]);
    assert_eq!(bench.episodes(), [(1, None, true)]);
    // An older word does not count, the same word changes nothing.
    bench.judge(&[window(0, 2, Some(0.1)), window(0, 3, Some(1.0))]);
    assert_eq!(bench.episodes(), [(1, None, true)]);
    // It ended in the middle, and the end fires by itself.
    bench.judge(&[window(4, 1, Some(0.0)), window(5, 1, Some(0.0))]);
    bench.judge(&[window(3, 4, Some(1.0))]);
    assert_eq!(bench.episodes(), [(1, Some(3), true), (4, None, true)]);
    assert_eq!(bench.kinds(), ["cleared", "raised"]);
    // What was told never was: it ends and says so.
    bench.judge(&[window(5, 2, Some(1.0))]);
    assert_eq!(bench.kinds(), ["cleared"]);
    let shown = bench.alerts.values().find(|a| a.reason.is_some()).unwrap();
    assert_eq!(shown.began.0, T0 + 4 * WINDOW);
    assert!(
        shown.summary.contains("what came late put it right"),
        "{}",
        shown.summary
    );
    // What was only recorded is no more.
    let mut bench = Bench::of_groups(&[GAP]);
    bench.judge(&windows(0, &[0.0, 0.0, 1.0]));
    assert_eq!(bench.episodes().len(), 1);
    bench.judge(&[window(1, 2, Some(1.0))]);
    assert_eq!(bench.episodes(), []);
}

#[test]
fn a_group_without_devices_and_a_rule_that_goes_end_alerts() {
    let mut bench = Bench::of_groups(&[GAP]);
    bench.judge(&windows(0, &[0.0, 0.0]));
    bench.judge(&[window(2, 1, None)]);
    assert_eq!(bench.kinds(), ["raised", "cleared"]);
    assert_eq!(bench.episodes(), [(0, Some(2), true)]);
    bench.judge(&windows(3, &[0.0, 0.0]));
    bench
        .alerting
        .set_groups("gap", &[site("s1")].into(), bench.now);
    bench.commit();
    assert_eq!(bench.kinds(), ["raised"]);
    bench
        .alerting
        .set_groups("gap", &[site("s2")].into(), bench.now);
    bench.commit();
    assert_eq!(bench.kinds(), ["cleared"]);
    bench.judge(&windows(5, &[0.0, 0.0]));
    assert_eq!(bench.kinds(), ["raised"]);
    bench.restart_groups();
    bench.rules.clear();
    bench.declare();
    assert_eq!(bench.kinds(), ["cleared"]);
    assert!(!bench.rows.keys().any(|k| k.starts_with(b"alerting/w/")));
}

#[test]
fn what_leaves_the_memory_is_final() {
    let mut bench = Bench::of_groups(&[GAP]);
    bench.judge(&windows(0, &[1.0, 0.0, 0.0]));
    assert_eq!(bench.kinds(), ["raised"]);
    let many = vec![0.0; RING];
    bench.judge(&windows(3, &many));
    bench.restart_groups();
    // Too old to change anything.
    bench.judge(&[window(1, 9, Some(1.0))]);
    assert_eq!(bench.episodes(), [(1, None, true)]);
    let later = 3 + RING as i64;
    bench.judge(&windows(later, &[1.0]));
    assert_eq!(bench.episodes(), [(1, Some(later), true)]);
    bench.judge(&windows(later + 1, &vec![1.0; RING]));
    assert_eq!(bench.kinds(), ["cleared"]);
    assert!(!bench.rows.keys().any(|k| k.starts_with(b"alerting/w/")));
}

#[test]
fn a_share_of_a_site_pages_with_the_begin_that_made_it_so() {
    let mut bench = Bench::of_groups(&[MANY]);
    let mut hot = Vec::new();
    for (number, device) in ["d1", "d2", "d3"].into_iter().enumerate() {
        bench.now = T0 + number as i64 * MINUTE;
        hot.push(bench.raise_now("hot", device, "s1"));
        bench.share(4);
        assert_eq!(bench.alerts.len(), usize::from(number == 2), "3 of 4");
    }
    // The same device twice is one device.
    bench.raise_now("hot", "d3", "s1");
    bench.now += MINUTE;
    bench.share(4);
    let alert = bench.alerts.values().next().unwrap().clone();
    assert_eq!((alert.began.0, alert.value), (T0 + 2 * MINUTE, 0.75));
    assert!(
        alert
            .summary
            .starts_with("many: hot on 3 of 4 devices, site s1: a share that went above 0.5: 0.75"),
        "{}",
        alert.summary
    );
    let pages = |b: &Bench| b.pages.values().filter(|p| p.rule == "many").count();
    assert_eq!(pages(&bench), 1);
    bench.restart_groups();
    bench.share(4);
    assert_eq!(pages(&bench), 1);
    bench.clear(&hot[0].clone());
    bench.share(4);
    assert_eq!(bench.alerting.groups.watched.len(), 1, "2 of 4: between");
    bench.clear(&hot[1].clone());
    bench.share(4);
    let alert = bench.alerts.values().next().unwrap();
    assert_eq!(
        (alert.state, alert.resolved),
        ("resolved", Some(Time(bench.now)))
    );
    assert_eq!(bench.alerting.groups.watched.len(), 0);
    // Of one device alone nothing is said, and 2 of 2 are.
    bench.share(1);
    assert_eq!(bench.alerts.len(), 1);
    bench.raise_now("hot", "d5", "s2");
    bench.raise_now("hot", "d6", "s2");
    bench.share(2);
    assert_eq!(bench.alerts.len(), 2);
}

/// Episodes of `GAP` in the values of windows that follow each other.
fn recompute(values: &[Option<f64>]) -> Vec<(i64, Option<i64>, bool)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < values.len() {
        if values[at].is_none_or(|v| v >= 0.8) {
            at += 1;
            continue;
        }
        let began = at;
        let beyond = values[at..]
            .iter()
            .take_while(|v| v.is_some_and(|v| v < 0.8));
        let beyond = beyond.count();
        if beyond < 2 {
            at += beyond;
            continue;
        }
        let end = values[at..].iter().position(|v| v.is_none_or(|v| v >= 0.9));
        at = end.map_or(values.len(), |n| at + n);
        found.push((began as i64, end.map(|_| at as i64), true));
    }
    found
}

proptest! {
    #![proptest_config(Config { cases: 300, failure_persistence: None, ..Config::default() })]

    /// Each window has some revisions; they come in any order, in pieces, some twice, over restarts.
    #[test]
    fn any_order_of_revisions_ends_in_the_same_episodes(
        revisions in prop::collection::vec(
            prop::collection::vec(prop::sample::select(vec![
                Some(0.0), Some(0.5), Some(0.85), Some(0.9), Some(1.0), None,
            ]), 1..4),
            1..24,
        ),
        order in prop::collection::vec(any::<prop::sample::Index>(), 100),
        cuts in prop::collection::vec(1_usize..6, 100),
        restarts in prop::collection::vec(0_usize..40, 0..3),
    ) {
        let mut waiting: Vec<Judged> = Vec::new();
        for (number, values) in (0..).zip(&revisions) {
            for (revision, value) in (1..).zip(values) {
                waiting.push(window(number, revision, *value));
            }
        }
        let mut bench = Bench::of_groups(&[GAP]);
        let mut sent = Vec::new();
        let mut newest: BTreeMap<i64, Judged> = BTreeMap::new();
        let (mut order, mut cuts) = (order.iter().cycle(), cuts.iter().cycle());
        let mut turn = 0;
        let mut restarted = false;
        while !waiting.is_empty() {
            let mut some = Vec::new();
            for _ in 0..*cuts.next().unwrap() {
                if waiting.is_empty() {
                    break;
                }
                let at = order.next().unwrap().index(waiting.len());
                let next = waiting.swap_remove(at);
                let known = newest.get(&next.start).map_or(0, |w| w.revision);
                // After a restart the views only tell what is new.
                if !restarted || next.revision > known {
                    some.push(next);
                }
                if next.revision > known {
                    newest.insert(next.start, next);
                }
            }
            bench.now += SECOND;
            bench.judge(&some);
            bench.judge(&some);
            sent.extend(bench.kinds());
            turn += 1;
            if restarts.contains(&turn) {
                restarted = true;
                bench.restart_groups();
                // What is in no row is told again.
                let all: Vec<Judged> = newest.values().copied().collect();
                bench.judge(&all);
                let again = bench.kinds();
                prop_assert!(again.is_empty(), "{again:?}");
            }
        }
        let values: Vec<Option<f64>> = revisions.iter().map(|r| *r.last().unwrap()).collect();
        let expected = recompute(&values);
        let found: Vec<_> = bench.episodes().into_iter().filter(|e| e.2).collect();
        prop_assert_eq!(&found, &expected);
        let count = |kind: &str| sent.iter().filter(|k| **k == kind).count();
        let open = expected.iter().filter(|e| e.1.is_none()).count();
        prop_assert_eq!(count("raised"), count("cleared") + open, "{:?}", sent);
    }
}
