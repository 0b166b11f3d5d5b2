//! Silences, maintenance, inhibition, flapping, commands.

use super::*;

#[test]
fn silenced_alerts_page_when_the_silence_ends_with_their_true_begin() {
    let mut b = Bench::new();
    let id = b.silence("site=~\"s[12]\"", HOUR);
    let kept = b.raise_now("hot", "d1", "s1");
    let short = b.raise_now("hot", "d2", "s2");
    b.raise_now("hot", "d3", "s3");
    assert_eq!(b.news(), ["ops raised d3 is hot"]);
    assert_eq!(b.marks[&kept.id].silenced_by, [id.as_str()]);
    assert_eq!(b.marks[&kept.id].page, None);
    b.wait(MINUTE);
    b.clear(&short);
    assert!(b.news().is_empty(), "never raised, never cleared");
    b.restart();
    b.wait(HOUR - MINUTE);
    assert_eq!(b.sent[0].message.began, kept.began.0);
    assert_eq!(b.news(), ["ops raised d1 is hot"]);
    assert!(b.marks[&kept.id].silenced_by.is_empty());
    b.clear(&kept);
    assert_eq!(b.kinds(), ["cleared"]);
}

#[test]
fn a_silence_on_a_page_stops_its_messages_but_not_its_end() {
    let mut b = Bench::new();
    let a = b.raise_now("hot", "d1", "s1");
    b.kinds();
    let id = b.silence("alertname=hot", 10 * HOUR);
    b.wait(9 * HOUR);
    assert!(b.news().is_empty(), "no reminder");
    assert_eq!(b.pages[&1].muted, 1);
    // Expired early: people hear at once that it goes on.
    let expire = Operation::Expire {
        id: id.clone(),
        by: "bob".to_owned(),
    };
    b.operate(&expire).unwrap();
    b.wait(0);
    assert_eq!(b.news(), ["ops updated no longer silenced: d1 is hot"]);
    let listed = b.alerting.show().silences.unwrap();
    assert_eq!((listed[0].state, &listed[0].id), ("expired", &id));
    // A silence can be pending, and be moved.
    let spec = |starts, ends| SilenceSpec {
        kind: SilenceKind::Silence,
        matchers: vec![matcher("site=s1")],
        starts,
        ends,
        by: "ann".to_owned(),
        comment: String::new(),
    };
    let (from, to) = (b.now + HOUR, b.now + 2 * HOUR);
    let new = Operation::Silence {
        id: None,
        spec: spec(from, to),
    };
    let offset = b.operate(&new).unwrap();
    let id = silence_id(offset);
    let state = |b: &Bench| {
        let all = b.alerting.show().silences.unwrap();
        all.iter().find(|s| s.id == id).unwrap().state
    };
    assert_eq!(state(&b), "pending");
    let moved = Operation::Silence {
        id: Some(id.clone()),
        spec: spec(b.now, to),
    };
    b.operate(&moved).unwrap();
    assert_eq!(state(&b), "active");
    assert_eq!(b.marks[&a.id].silenced_by, [id.as_str()]);
    b.clear(&a);
    assert_eq!(b.kinds(), ["cleared"], "what was opened is closed");
}

#[test]
fn maintenance_windows_come_each_week() {
    let window = Window {
        name: "sunday".to_owned(),
        matchers: matchers(&["site=s1"]),
        shown: vec![matcher("site=s1")],
        weekdays: [false, false, false, false, false, false, true],
        from: 2 * HOUR,
        to: 4 * HOUR,
    };
    let mut b = Bench::with(Settings {
        maintenance: vec![window],
        ..settings()
    });
    b.wait(HOUR);
    let before = b.raise_now("hot", "d1", "s1");
    assert_eq!(b.kinds(), ["raised"]);
    b.wait(HOUR);
    let within = b.raise_now("cold", "d1", "s1");
    assert_eq!(b.marks[&within.id].maintenance, ["sunday"]);
    assert_eq!(b.marks[&before.id].maintenance, ["sunday"]);
    let listed = b.alerting.show().silences.unwrap();
    assert_eq!((listed[0].state, listed[0].weekly), ("active", true));
    assert!(b.news().is_empty());
    b.wait(2 * HOUR);
    let mut news = b.news();
    news.sort();
    assert_eq!(
        news,
        [
            "ops raised d1 is hot",
            "ops updated no longer silenced: d1 is hot"
        ]
    );
}

#[test]
fn an_offline_agent_explains_its_silent_devices() {
    let mut b = Bench::new();
    let offline = Alert {
        kind: "offline",
        ..alert("off", "agent-1", "s1", b.now)
    };
    b.raise(&offline);
    let notice = |alert: &Alert, now| raised(alert, now);
    let silent = |device: &str, site: &str, now| Alert {
        kind: "silence",
        ..alert("gone", device, site, now)
    };
    let device = silent("d1", "s1", b.now);
    b.alerting
        .notice(0, &notice(&device, b.now), Some("agent-1"), b.now);
    let other = silent("d2", "s2", b.now);
    b.alerting
        .notice(0, &notice(&other, b.now), Some("agent-2"), b.now);
    b.commit();
    // The alert of an agent is on the agent itself.
    assert_eq!(
        b.news(),
        ["ops raised agent-1 is hot", "ops raised d2 is hot"]
    );
    assert_eq!(
        b.marks[&device.id].inhibited_by.as_deref(),
        Some(&*offline.id)
    );
    b.clear(&offline);
    assert_eq!(b.marks[&device.id].inhibited_by, None);
    let mut news = b.news();
    news.sort();
    assert_eq!(
        news,
        ["ops cleared agent-1 is cool again", "ops raised d1 is hot"]
    );
}

#[test]
fn two_alerts_that_are_source_and_target_do_not_silence_each_other() {
    let inhibit = Inhibit {
        source: matchers(&["severity=critical"]),
        target: matchers(&["metric=temperature"]),
        equal: vec!["site".to_owned()],
    };
    let mut b = Bench::with(Settings {
        inhibit: vec![inhibit],
        ..settings()
    });
    b.raise_now("hot", "d1", "s1");
    b.raise_now("cold", "d2", "s1");
    let mild = Alert {
        severity: "info",
        ..alert("mild", "d3", "s1", b.now)
    };
    b.raise(&mild);
    assert_eq!(b.kinds(), ["raised", "raised"]);
    assert!(b.marks[&mild.id].inhibited_by.is_some());
}

/// Six episodes, a minute each, two minutes apart: the last is the sixth.
fn flap(b: &mut Bench) -> Alert {
    for _ in 0..5 {
        let a = b.raise_now("hot", "d1", "s1");
        b.wait(MINUTE);
        b.clear(&a);
        b.wait(MINUTE);
    }
    assert_eq!(b.kinds(), ["raised", "cleared"].repeat(5));
    b.raise_now("hot", "d1", "s1")
}

#[test]
fn what_flaps_is_said_once_until_it_is_quiet() {
    let mut b = Bench::new();
    let mut a = flap(&mut b);
    let news = b.news();
    assert_eq!(news.len(), 1);
    assert!(
        news[0].starts_with("ops raised flapping: more than 5 times in 60 min"),
        "{news:?}"
    );
    assert!(b.marks[&a.id].flapping);
    for _ in 0..8 {
        b.wait(MINUTE);
        b.clear(&a);
        b.restart();
        b.wait(20 * MINUTE);
        a = b.raise_now("hot", "d1", "s1");
    }
    assert!(b.news().is_empty());
    b.wait(MINUTE);
    b.clear(&a);
    b.wait(30 * MINUTE - 1);
    assert!(b.news().is_empty());
    b.wait(1);
    assert_eq!(b.news(), ["ops cleared d1 is cool again"]);
    // It begins anew.
    b.raise_now("hot", "d1", "s1");
    assert_eq!(b.news(), ["ops raised d1 is hot"]);
}

#[test]
fn what_flapped_and_stays_is_an_alert_like_others() {
    let mut b = Bench::new();
    let a = flap(&mut b);
    b.kinds();
    b.restart();
    b.wait(10 * MINUTE);
    assert_eq!(
        b.news(),
        ["ops updated no longer flapping: it stays: d1 is hot"]
    );
    assert!(!b.marks[&a.id].flapping);
    b.clear(&a);
    assert_eq!(b.kinds(), ["cleared"]);
}

#[test]
fn what_flaps_while_it_is_silenced_pages_after_it() {
    let mut b = Bench::new();
    let id = b.silence("site=s1", 24 * HOUR);
    for _ in 0..8 {
        let a = b.raise_now("hot", "d1", "s1");
        b.wait(MINUTE);
        b.clear(&a);
        b.wait(MINUTE);
    }
    let a = b.raise_now("hot", "d1", "s1");
    let expire = Operation::Expire {
        id,
        by: "ann".to_owned(),
    };
    b.operate(&expire).unwrap();
    assert_eq!(b.kinds(), ["raised"]);
    // Muted and not muted, while it flaps.
    let id = b.silence("site=s1", 5 * MINUTE);
    assert_eq!(b.pages[&1].muted, 1, "{id}");
    b.clear(&a);
    b.wait(10 * MINUTE);
    b.raise_now("hot", "d1", "s1");
    assert_eq!(b.pages[&1].muted, 0);
    b.kinds();
    let a = b.raise_now("cold", "d1", "s1");
    b.clear(&a);
    b.wait(10 * MINUTE);
    assert_eq!((b.pages[&1].firing, b.pages[&1].muted), (1, 0));
}

const COOL: &str = r#"{"name":"hot","metric":"temperature","raise":80,"command":{"name":"fan","args":{"on":"1"},"canary":1,"budget_per_hour":3,"cooldown":"10m"}}"#;

/// What is appended to the log.
fn ordered(b: &mut Bench) -> Vec<(u16, String)> {
    let orders = b.alerting.orders();
    for (_, order) in &orders {
        assert!(order.check().is_ok());
        b.alerting.ordered(&order.id);
    }
    b.commit();
    b.orders.extend(orders.iter().cloned());
    orders
        .into_iter()
        .map(|(p, o)| (p, o.device.as_str().to_owned()))
        .collect()
}

fn decisions(b: &Bench) -> Vec<(String, String, Option<String>)> {
    let all = b.alerting.show().commands.into_iter();
    let mut all: Vec<_> = all
        .map(|(_, d)| d.unwrap())
        .map(|d| (d.device, d.decision, d.outcome))
        .collect();
    all.sort();
    all
}

fn outcome(b: &mut Bench, alert: &Alert, state: event::command::State) {
    let outcome = CommandOutcome {
        id: format!("rule-{}", alert.id),
        origin: event::order::Origin::Rule(alert.rule.clone()),
        state: Some(state),
    };
    // Said twice is said once.
    b.alerting.outcome(&outcome, b.now);
    b.alerting.outcome(&outcome, b.now);
    b.commit();
}

#[test]
fn an_outcome_may_come_before_the_word_that_the_order_is_in_the_log() {
    use event::command::State;
    let mut b = Bench::new();
    b.rule(COOL);
    let first = alert("hot", "d1", "s1", b.now);
    b.notices(5, &[raised(&first, b.now)]);
    b.raise_now("hot", "d2", "s1");
    let orders = b.alerting.orders();
    assert_eq!(orders.len(), 1);
    outcome(&mut b, &first, State::Succeeded);
    b.alerting.ordered(&orders[0].1.id);
    b.commit();
    b.restart();
    assert_eq!(
        ordered(&mut b),
        [(0, "d2".to_owned())],
        "the canary is over"
    );
}

#[test]
fn a_rule_commands_its_device_after_a_canary_within_its_budget() {
    use event::command::State;
    let mut b = Bench::new();
    b.rule(COOL);
    let first = alert("hot", "d1", "s1", b.now);
    b.notices(5, &[raised(&first, b.now)]);
    b.raise_now("hot", "d2", "s1");
    assert_eq!(ordered(&mut b), [(5, "d1".to_owned())]);
    assert!(ordered(&mut b).is_empty(), "appended once");
    b.restart();
    assert!(ordered(&mut b).is_empty());
    let shown = |d: &str, what: &str, outcome: Option<&str>| {
        (d.to_owned(), what.to_owned(), outcome.map(str::to_owned))
    };
    assert_eq!(
        decisions(&b),
        [
            shown("d1", "sent", None),
            shown("d2", "waiting_for_canary", None)
        ]
    );
    outcome(&mut b, &first, State::Succeeded);
    assert_eq!(ordered(&mut b), [(0, "d2".to_owned())]);
    for device in ["d3", "d4"] {
        b.raise_now("hot", device, "s1");
    }
    b.clear(&first);
    b.wait(SECOND);
    b.raise_now("hot", "d1", "s1");
    assert_eq!(ordered(&mut b), [(0, "d3".to_owned())]);
    assert_eq!(
        decisions(&b),
        [
            shown("d1", "cooling_down", None),
            shown("d1", "sent", Some("succeeded")),
            shown("d2", "sent", None),
            shown("d3", "sent", None),
            shown("d4", "over_budget", None),
        ]
    );
}

#[test]
fn a_failed_canary_stops_the_rule_until_somebody_says_go_on() {
    use event::command::State;
    let mut b = Bench::new();
    b.rule(COOL);
    let first = b.raise_now("hot", "d1", "s1");
    b.raise_now("hot", "d2", "s1");
    ordered(&mut b);
    outcome(&mut b, &first, State::Failed);
    b.raise_now("hot", "d3", "s1");
    b.restart();
    assert!(ordered(&mut b).is_empty());
    let go_on = CommandControl::Steer {
        rollout: None,
        rule: Some("hot".to_owned()),
        go_on: true,
        by: "ann".to_owned(),
        why: "fixed".to_owned(),
    };
    b.alerting.steer(7, &go_on, b.now);
    b.commit();
    assert_eq!(ordered(&mut b), [(0, "d2".to_owned())]);
    // The record again, in a replay, does nothing; nor does the stop switch of before.
    let stop = CommandControl::Stop {
        on: true,
        by: "ann".to_owned(),
        why: String::new(),
    };
    b.alerting.steer(7, &stop, b.now);
    b.alerting.steer(8, &stop, b.now);
    b.commit();
    b.restart();
    b.wait(HOUR);
    b.raise_now("hot", "d9", "s1");
    assert!(ordered(&mut b).is_empty());
    let last = decisions(&b).pop().unwrap();
    assert_eq!((&*last.0, &*last.1), ("d9", "stopped"));
}

#[test]
fn nothing_is_commanded_during_maintenance_and_in_a_dry_run_it_is_only_said() {
    let mut b = Bench::new();
    b.rule(&COOL.replace("\"canary\":1", "\"dry_run\":true"));
    let spec = SilenceSpec {
        kind: SilenceKind::Maintenance,
        matchers: vec![matcher("site=s1")],
        starts: b.now,
        ends: b.now + HOUR,
        by: "ann".to_owned(),
        comment: String::new(),
    };
    b.operate(&Operation::Silence { id: None, spec }).unwrap();
    b.raise_now("hot", "d1", "s1");
    assert!(ordered(&mut b).is_empty());
    b.raise_now("hot", "d2", "s2");
    assert_eq!(ordered(&mut b).len(), 1);
    assert!(b.orders[0].1.dry_run);
    let said: Vec<String> = decisions(&b).into_iter().map(|d| d.1).collect();
    assert_eq!(said, ["maintenance", "dry_run"]);
}
