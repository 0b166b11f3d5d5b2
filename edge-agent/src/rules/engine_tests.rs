use event::{MetricName, Value};

use super::*;
use crate::commands::Template;
use crate::rules::Run;

const T0: i64 = 1_700_000_000;
const HOT: &str = r#"{"name":"hot","metric":"t","raise":80,"clear":75,"severity":"error"}"#;
const QUIET: &str = r#"{"name":"quiet","kind":"silence","metric":"t","after":"60s"}"#;

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn rule(json: &str, devices: &[&str], runs: bool) -> EdgeRule {
    let template = |text| Template::new(text).unwrap();
    EdgeRule {
        rule: ::rules::Rule::parse(json).unwrap(),
        devices: devices.iter().map(|d| device(d)).collect(),
        stale_after: Duration::from_secs(60),
        run: runs.then(|| Run {
            command: "cool".to_owned(),
            args: [("what".to_owned(), template("{device}/{metric}={value}"))].into(),
            devices: vec![device("known")],
        }),
    }
}

/// An engine with clocks that the test moves; the wall clock in seconds.
struct World {
    engine: Engine,
    mono: f64,
    offset: f64,
}

impl World {
    fn new(rules: Vec<EdgeRule>) -> Self {
        let mut world = Self {
            engine: Engine::new(Vec::new(), EventTime(0), Duration::ZERO),
            mono: 10.0,
            offset: T0 as f64,
        };
        world.engine = Engine::new(rules, world.wall(), world.mono());
        world
    }

    /// The engine of the next life, with what the last one has left on disk.
    fn again(&mut self, rules: Vec<EdgeRule>, rows: &BTreeMap<String, Vec<u8>>) {
        self.engine = Engine::new(rules, self.wall(), self.mono());
        let rows = rows.clone().into_iter().collect();
        self.engine.resume(rows, self.wall(), self.mono());
    }

    fn wall(&self) -> EventTime {
        EventTime(((self.mono + self.offset) * 1e6).round() as i64)
    }

    fn mono(&self) -> Duration {
        Duration::from_secs_f64(self.mono)
    }

    /// A reading of `dev` with the time `at`, seconds after the present.
    fn reading(&mut self, dev: &str, at: f64, value: Value) -> Vec<Act> {
        let reading = Reading {
            device: device(dev),
            metric: MetricName::new("t").unwrap(),
            time: Some(EventTime(self.wall().0 + (at * 1e6) as i64)),
            value,
        };
        self.engine.take(&reading, (self.wall(), true), self.mono());
        self.engine.drain(usize::MAX)
    }

    /// A second later, a reading of that moment.
    fn next(&mut self, dev: &str, value: f64) -> Vec<Act> {
        self.mono += 1.0;
        self.reading(dev, 0.0, Value::Number(value))
    }

    fn pass(&mut self, seconds: f64) -> Vec<Act> {
        self.mono += seconds;
        self.engine.pass(self.wall(), self.mono());
        self.engine.drain(usize::MAX)
    }
}

/// Rule, device and state of what is reported.
fn told(acts: &[Act]) -> Vec<(String, String, alert::State)> {
    let alerts = acts.iter().filter_map(|a| a.alert.as_ref());
    alerts
        .map(|(d, a)| (a.rule.clone(), d.to_string(), a.state))
        .collect()
}

fn commands(acts: &[Act]) -> Vec<Local> {
    acts.iter().filter_map(|a| a.command.clone()).collect()
}

fn write(disk: &mut BTreeMap<String, Vec<u8>>, acts: &[Act]) {
    for (key, row) in acts.iter().filter_map(|a| a.row.clone()) {
        match row {
            Some(row) => drop(disk.insert(key, row)),
            None => drop(disk.remove(&key)),
        }
    }
}

fn fires(rule: &str, device: &str) -> Vec<(String, String, alert::State)> {
    vec![(rule.to_owned(), device.to_owned(), alert::State::Firing)]
}

fn ends(rule: &str, device: &str) -> Vec<(String, String, alert::State)> {
    vec![(rule.to_owned(), device.to_owned(), alert::State::Resolved)]
}

#[test]
fn a_limit_fires_once_runs_its_command_and_ends() {
    let mut w = World::new(vec![rule(HOT, &[], true)]);
    assert_eq!(w.next("known", 80.0), []);
    let acts = w.next("known", 81.5);
    assert_eq!(told(&acts), fires("hot", "known"));
    let (_, alert) = acts[0].alert.clone().unwrap();
    assert_eq!((alert.value, alert.since), (Some(81.5), w.wall().0));
    assert_eq!((alert.at, alert.severity.as_str()), (w.wall().0, "error"));
    let command = acts[0].command.clone().unwrap();
    assert_eq!(command.id, alert.command);
    assert_eq!(command.args["what"], "known/t=81.5");
    assert_eq!(
        (command.device, command.name.as_str()),
        (Some(device("known")), "cool")
    );
    assert!(
        command
            .reason
            .starts_with("rule hot: t of known is 81.5, since 2023-")
    );
    assert_eq!(command.start_by, Some(w.mono() + Duration::from_secs(60)));
    assert_eq!(w.engine.counts().firing, 1);
    assert_eq!(w.next("known", 99.0), []);
    let acts = w.next("known", 75.0);
    assert_eq!(
        (told(&acts), commands(&acts)),
        (ends("hot", "known"), vec![])
    );
    assert_eq!(acts[0].row.clone().unwrap().1, None);
    assert_eq!(w.engine.counts().firing, 0);
    // Another episode is another command.
    let again = w.next("known", 90.0);
    assert_ne!(commands(&again)[0].id, command.id);
    // A device that the command is not for: the agent's.
    assert_eq!(commands(&w.next("other", 90.0))[0].device, None);
}

#[test]
fn values_are_taken_in_the_order_of_their_times() {
    let mut w = World::new(vec![rule(HOT, &[], true)]);
    w.next("a", 70.0);
    assert_eq!(w.reading("a", -0.5, Value::Number(99.0)), [], "overtaken");
    assert_eq!(told(&w.next("a", 90.0)), fires("hot", "a"));
    // The same moment again is not overtaken.
    assert_eq!(
        told(&w.reading("a", 0.0, Value::Number(70.0))),
        ends("hot", "a")
    );
}

#[test]
fn other_devices_metrics_and_texts_are_nothing() {
    let mut w = World::new(vec![rule(HOT, &["a"], false)]);
    assert_eq!(w.next("b", 90.0), []);
    assert_eq!(w.reading("a", 0.0, Value::Text("90".into())), []);
    let mut other = Reading {
        device: device("a"),
        metric: MetricName::new("u").unwrap(),
        time: None,
        value: Value::Number(90.0),
    };
    assert!(!w.engine.take(&other, (w.wall(), true), w.mono()));
    // Without a time of its own it is of now.
    other.metric = MetricName::new("t").unwrap();
    assert!(w.engine.take(&other, (w.wall(), true), w.mono()));
}

#[test]
fn what_is_old_or_ahead_is_not_evaluated() {
    let mut w = World::new(vec![rule(HOT, &[], true), rule(QUIET, &[], true)]);
    for at in [-61.0, -86_400.0, 61.0, 9e8] {
        assert_eq!(w.reading("a", at, Value::Number(99.0)), [], "{at}");
    }
    assert_eq!(w.engine.counts().stale, 8);
    // No series began with them, and no silence.
    assert_eq!((w.engine.due(), w.pass(1e4)), (None, vec![]));
    assert_eq!(
        told(&w.reading("a", -59.0, Value::Number(99.0))),
        fires("hot", "a")
    );
}

#[test]
fn silence_is_counted_by_the_monotonic_clock_and_ends_with_any_value() {
    let mut w = World::new(vec![rule(QUIET, &[], true)]);
    w.next("a", 1.0);
    let heard = w.wall().0;
    assert_eq!(w.pass(59.0), []);
    // The wall clock is set to another year: nobody is silent for that.
    w.offset += 1e8;
    assert_eq!(w.pass(0.9), []);
    assert_eq!(
        w.engine.due(),
        Some(w.mono() + Duration::from_micros(100_001))
    );
    let acts = w.pass(0.2);
    assert_eq!(told(&acts), fires("quiet", "a"));
    let (_, alert) = acts[0].alert.clone().unwrap();
    assert_eq!((alert.since, alert.value), (heard, None));
    assert!(commands(&acts)[0].reason.contains("t of a is silent"));
    assert_eq!(commands(&acts)[0].args["what"], "a/t=none");
    assert_eq!((w.engine.due(), w.pass(1000.0)), (None, vec![]));
    let text = Value::Text("here".into());
    assert_eq!(told(&w.reading("a", -50.0, text)), ends("quiet", "a"));
    assert_eq!(told(&w.pass(61.0)), fires("quiet", "a"));
}

#[test]
fn a_device_that_is_named_is_missed_from_the_start() {
    let mut w = World::new(vec![rule(QUIET, &["a", "b"], false)]);
    w.next("b", 1.0);
    let acts = w.pass(59.5);
    assert_eq!(told(&acts), fires("quiet", "a"));
    assert_eq!(
        acts[0].alert.as_ref().unwrap().1.since,
        (T0 + 10) * 1_000_000
    );
    assert_eq!(told(&w.pass(2.0)), fires("quiet", "b"));
}

#[test]
fn a_restart_goes_on_with_what_fires_and_gives_a_command_only_if_it_may_be_missing() {
    let rules = || vec![rule(HOT, &[], true), rule(QUIET, &["q"], true)];
    let mut disk = BTreeMap::new();
    let mut w = World::new(rules());
    let acts = w.next("a", 90.0);
    let given = commands(&acts);
    write(&mut disk, &acts);
    let acts = w.pass(61.0);
    assert_eq!(told(&acts), fires("quiet", "q"));
    write(&mut disk, &acts);
    assert_eq!(disk.len(), 2);
    // Soon: the id is given again, in case the last life had no time to; the ledger knows whether.
    w.again(rules(), &disk);
    assert_eq!(w.engine.counts().firing, 2);
    let acts = w.next("q", 1.0);
    assert_eq!((told(&acts), commands(&acts)), (ends("quiet", "q"), vec![]));
    let mut soon = World::new(rules());
    soon.mono = 70.0;
    soon.again(rules(), &disk);
    let acts = soon.next("a", 91.0);
    assert_eq!((told(&acts).len(), commands(&acts).len()), (0, 1));
    assert_eq!(commands(&acts)[0].id, given[0].id);
    assert_eq!(commands(&soon.next("a", 92.0)), []);
    // Much later: it goes on, and is not given any more.
    let mut late = World::new(rules());
    late.mono = 10_000.0;
    late.again(rules(), &disk);
    let acts = late.next("a", 91.0);
    assert_eq!((told(&acts).len(), commands(&acts)), (0, vec![]));
    let acts = late.next("a", 70.0);
    assert_eq!(told(&acts), ends("hot", "a"));
    let since = acts[0].alert.as_ref().unwrap().1.since;
    assert_eq!(since, (T0 + 11) * 1_000_000);
    assert!(acts[0].row.as_ref().unwrap().0 == "rule hot a");
}

#[test]
fn what_is_left_of_a_rule_that_is_gone_ends() {
    let mut disk = BTreeMap::new();
    let mut w = World::new(vec![rule(HOT, &[], true)]);
    write(&mut disk, &w.next("a", 90.0));
    disk.insert("rule broken".to_owned(), vec![1]);
    disk.insert("rule hot b".to_owned(), vec![1]);
    let other_metric = HOT.replace("\"t\"", "\"u\"");
    let other_kind = r#"{"name":"hot","kind":"rate","metric":"t","raise":1,"within":"1m"}"#;
    for rules in [
        vec![],
        vec![rule(&other_metric, &[], true)],
        vec![rule(other_kind, &[], true)],
        vec![rule(HOT, &["b"], true)],
    ] {
        w.again(rules, &disk);
        assert_eq!(w.engine.counts().firing, 0);
        let acts = w.engine.drain(usize::MAX);
        assert_eq!(told(&acts), ends("hot", "a"));
        let reason = acts.iter().find_map(|a| a.alert.as_ref()?.1.reason.clone());
        assert_eq!(
            reason.as_deref(),
            Some("the agent has no such rule any more")
        );
        let mut left = disk.clone();
        write(&mut left, &acts);
        assert!(left.is_empty(), "{left:?}");
    }
    // Other limits are the same rule.
    w.again(vec![rule(&HOT.replace("80", "85"), &[], true)], &disk);
    assert_eq!(w.engine.counts().firing, 1);
}

#[test]
fn a_series_that_flaps_waits_and_fires_when_the_minute_is_over() {
    let mut w = World::new(vec![rule(HOT, &[], true)]);
    let mut fired = 0;
    for _ in 0..25 {
        fired += told(&w.next("a", 90.0)).len();
        w.next("a", 70.0);
    }
    assert_eq!(fired, 10);
    assert_eq!(
        told(&w.next("b", 90.0)),
        fires("hot", "b"),
        "others do not wait"
    );
    assert_eq!(w.engine.counts().firing, 1);
    w.mono += 10.0;
    assert_eq!(told(&w.next("a", 90.0)), fires("hot", "a"));
}

#[test]
fn there_are_so_many_series_and_idle_ones_make_room() {
    let mut w = World::new(vec![rule(HOT, &[], false)]);
    for n in 0..SERIES_MAX {
        let value = if n == 0 { 90.0 } else { 70.0 };
        w.reading(&format!("d{n}"), 0.0, Value::Number(value));
    }
    assert_eq!(w.next("more", 90.0), []);
    assert_eq!(w.engine.counts().unwatched, 1);
    w.mono += 3600.0;
    assert_eq!(told(&w.next("more", 90.0)), fires("hot", "more"));
    // What fires was not forgotten.
    assert_eq!(told(&w.next("d0", 70.0)), ends("hot", "d0"));
    assert_eq!(w.engine.counts().unwatched, 1);
}

#[test]
fn a_clock_that_is_set_fires_nothing_and_blocks_nothing() {
    let slow = HOT.replace("\"raise\"", "\"for\":\"1h\",\"raise\"");
    let mut w = World::new(vec![rule(&slow, &[], true)]);
    w.offset = 0.0;
    w.next("a", 90.0);
    // From 1970 to now, and back by a day.
    w.offset = T0 as f64;
    assert_eq!(w.next("a", 90.0), []);
    w.offset -= 86_400.0;
    assert_eq!(w.next("a", 90.0), []);
    for _ in 0..119 {
        w.mono += 30.0;
        assert_eq!(w.reading("a", 0.0, Value::Number(90.0)), []);
    }
    w.mono += 30.0;
    assert_eq!(
        told(&w.reading("a", 0.0, Value::Number(90.0))),
        fires("hot", "a")
    );
}

#[test]
fn numbers_are_short_and_exact() {
    for (n, text) in [
        (81.5, "81.5"),
        (-3.0, "-3"),
        (1e300, "1e300"),
        (0.1 + 0.2, "0.30000000000000004"),
    ] {
        assert_eq!(number(n), text);
    }
    assert!(number(-1.234_567_890_123_456_7e-300).len() <= 24);
}

#[test]
fn silences_after_the_clock_was_set_back_are_episodes_of_their_own() {
    let mut w = World::new(vec![rule(QUIET, &[], true)]);
    w.next("a", 1.0);
    w.offset -= 7200.0;
    let first = commands(&w.pass(61.0));
    w.next("a", 1.0);
    let second = commands(&w.pass(61.0));
    assert_ne!(first[0].id, second[0].id);
}

#[test]
fn the_command_of_a_silence_that_did_not_start_is_given_again_in_the_next_life_once() {
    let mut w = World::new(vec![rule(QUIET, &[], true)]);
    let mut disk = BTreeMap::new();
    w.next("a", 1.0);
    let acts = w.pass(61.0);
    write(&mut disk, &acts);
    w.again(vec![rule(QUIET, &[], true)], &disk);
    let again = w.pass(0.1);
    assert_eq!(told(&again), []);
    assert_eq!(commands(&again)[0].id, commands(&acts)[0].id);
    assert_eq!(w.pass(0.1), []);
}

#[test]
fn while_the_agent_has_no_room_nobody_is_silent() {
    let mut w = World::new(vec![rule(QUIET, &[], true)]);
    w.next("a", 1.0);
    w.mono += 61.0;
    w.engine.excuse(w.mono());
    assert_eq!(w.pass(59.0), []);
    assert_eq!(told(&w.pass(2.0)), fires("quiet", "a"));
}

#[test]
fn before_the_clock_is_set_what_is_ahead_of_it_may_be_of_now() {
    for (is_set, taken) in [(true, 0), (false, 1)] {
        let mut w = World::new(vec![rule(HOT, &[], true)]);
        let mut take = |at: i64| {
            let reading = Reading {
                device: device("known"),
                metric: MetricName::new("t").unwrap(),
                time: Some(EventTime(w.wall().0 + at * 1_000_000)),
                value: Value::Number(99.0),
            };
            w.engine.take(&reading, (w.wall(), is_set), w.mono());
            w.engine.drain(usize::MAX).len()
        };
        assert_eq!(take(-3600), 0, "the past is the past");
        assert_eq!(take(3600), taken);
    }
}

#[test]
fn episodes_that_begin_in_the_same_second_are_told_apart_and_run_their_commands() {
    let rules = || vec![rule(HOT, &[], true)];
    // A device that says the time to the second, and more often than that.
    let story = |w: &mut World, disk: &mut BTreeMap<String, Vec<u8>>| {
        let values = [90.0, 70.0, 91.0, 70.0, 92.0];
        let acts = values.map(|value| w.reading("known", 0.0, Value::Number(value)));
        let acts = acts.concat();
        write(disk, &acts);
        acts
    };
    let of = |acts: &[Act]| -> Vec<(i64, Option<String>)> {
        let alerts = acts.iter().filter_map(|a| a.alert.as_ref());
        let firing = alerts.filter(|(_, a)| a.state == alert::State::Firing);
        firing.map(|(_, a)| (a.since, a.command.clone())).collect()
    };
    let (mut w, mut disk) = (World::new(rules()), BTreeMap::new());
    let first = story(&mut w, &mut disk);
    let begins = of(&first);
    let t = w.wall().0;
    assert_eq!(
        begins.iter().map(|b| b.0).collect::<Vec<_>>(),
        [t, t + 1, t + 2]
    );
    let ids: std::collections::BTreeSet<_> = begins.iter().map(|b| b.1.clone()).collect();
    assert_eq!((ids.len(), commands(&first).len()), (3, 3));
    for (_, alert) in first.iter().filter_map(|a| a.alert.as_ref()) {
        assert!(alert.at >= alert.since, "{alert:?}");
    }
    // Nothing of it was noted, and all is read again: the ledger knows them.
    let mut again = World::new(rules());
    assert_eq!(of(&story(&mut again, &mut BTreeMap::new())), begins);
    // The last was: the next life goes on with it, and the next of that second is another.
    w.again(rules(), &disk);
    let now = |w: &mut World, value| w.reading("known", 0.0, Value::Number(value));
    assert_eq!(told(&now(&mut w, 70.0)), ends("hot", "known"));
    assert_eq!(of(&now(&mut w, 95.0))[0].0, t + 3);
    // Another second is itself.
    w.mono += 1.0;
    now(&mut w, 70.0);
    assert_eq!(of(&now(&mut w, 95.0))[0].0, w.wall().0);
}

#[test]
fn an_anomaly_is_told_with_its_reason_and_what_was_learned_outlives_a_step_of_the_clock() {
    let odd = r#"{"name":"odd","kind":"anomaly","metric":"t","warm_up":"0s","hold":"10s"}"#;
    let mut w = World::new(vec![rule(odd, &[], false)]);
    for i in 0..300 {
        assert_eq!(w.next("a", f64::from(i % 3)), []);
    }
    let acts = w.next("a", 40.0);
    assert_eq!(told(&acts), fires("odd", "a"));
    let reason = acts[0].alert.as_ref().and_then(|(_, a)| a.reason.clone());
    let reason = reason.unwrap();
    assert!(
        reason.starts_with(
            "40 is above all that is known of it: expected 0 to 2, since 2023-11-14T22:"
        ),
        "{reason}"
    );
    // It ends after twelve quiet values; the way back may still be one that is new.
    let quiet: Vec<_> = (0..20)
        .map(|i| told(&w.next("a", f64::from(i % 3))))
        .collect();
    let end = quiet.iter().position(|t| *t == ends("odd", "a"));
    assert!(end.is_some_and(|i| (12..16).contains(&i)), "{end:?}");
    w.offset -= 3600.0;
    let again: Vec<_> = (0..200)
        .flat_map(|i| w.next("a", f64::from(i % 3)))
        .collect();
    assert_eq!(again, []);
    assert_eq!(told(&w.next("a", -4000.0)), fires("odd", "a"));
}
