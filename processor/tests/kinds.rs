//! Each kind of rule with late, repeated, out-of-order and missing values, and who is paged for what.

mod support;

use event::{
    AgentId, DeviceId, EventTime, Incarnation, MetricName, Plain, PlainSample, Record, Sample,
    Status, StatusRecord, Value,
};
use processor::core::{Notice, NoticeKind};
use support::*;
use views::model::Alert;

const HOT: &str =
    r#"{"name":"hot","metric":"temperature","raise":80,"clear":75,"severity":"critical"}"#;

/// Sends from one agent: every batch takes the next numbers.
struct Agent {
    b: Bench,
    now: i64,
    tx: u64,
    seq: u64,
    alerts: Vec<Alert>,
    notices: Vec<Notice>,
}

impl Agent {
    fn new(rules: &[&str]) -> Self {
        Self {
            b: Bench::new(rules),
            now: T0,
            tx: 0,
            seq: 1,
            alerts: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// (second, value) of the device d1, with everything before `mark` (second) sent, at `now` (second).
    fn send(&mut self, values: &[(i64, f64)], mark: i64, now: i64) -> Vec<u8> {
        let samples: Vec<Sample> = values
            .iter()
            .map(|v| temperature("d1", T0 + v.0 * S, v.1))
            .collect();
        self.samples(&samples, mark, now)
    }

    fn samples(&mut self, samples: &[Sample], mark: i64, now: i64) -> Vec<u8> {
        self.tx += 1;
        let record = batch_record("gw", self.tx, self.seq, samples, T0 + mark * S);
        self.seq += samples.len() as u64;
        self.at(now, &record);
        record
    }

    fn at(&mut self, now: i64, record: &[u8]) {
        self.now = T0 + now * S;
        self.b.at(self.now, &[record.to_vec()]);
        for alert in self.b.fx.alerts.drain(..) {
            self.alerts.retain(|a| a.id != alert.id);
            if alert.state != "dropped" {
                self.alerts.push(alert);
            }
        }
        self.notices.append(&mut self.b.fx.notices);
    }

    fn tick(&mut self, now: i64) {
        self.at(now, &Record::Tick.encode());
    }

    /// (state, begin, end) of all alerts in seconds, by begin.
    fn episodes(&self) -> Vec<(&str, i64, Option<i64>)> {
        let second = |t: i64| (t - T0) / S;
        let alerts = self.alerts.iter();
        let mut all: Vec<_> = alerts
            .map(|a| (a.state, second(a.began.0), a.resolved.map(|t| second(t.0))))
            .collect();
        all.sort_by_key(|e| (e.1, e.2));
        all
    }

    fn told(&self) -> Vec<(NoticeKind, i64)> {
        let notices = self.notices.iter();
        notices
            .map(|n| (n.kind, (n.alert.began.0 - T0) / S))
            .collect()
    }
}

use NoticeKind::{Cleared, Raised, Revised};

#[test]
fn a_begin_that_turns_out_to_be_earlier_is_told_once_under_the_same_name() {
    let mut a = Agent::new(&[HOT]);
    a.send(&[(1, 20.0)], 2, 5);
    // 9 waits: something from second 3 on is still held.
    a.send(&[(9, 85.0)], 3, 10);
    assert_eq!(a.told(), [(Raised, 9)]);
    let late = a.send(&[(4, 90.0)], 10, 11);
    assert_eq!(a.told(), [(Raised, 9), (Revised, 4)]);
    a.at(12, &late);
    a.send(&[(12, 60.0)], 13, 13);
    assert_eq!(a.told(), [(Raised, 9), (Revised, 4), (Cleared, 4)]);
    let ids: Vec<&str> = a.notices.iter().map(|n| n.alert.id.as_str()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert!(a.notices[1].id.ends_with(":revised:1"));
    assert_eq!(a.episodes(), [("resolved", 4, Some(12))]);
    assert_eq!(
        a.alerts[0].reported.0,
        T0 + 10 * S,
        "learned when it was first seen"
    );
}

#[test]
fn a_page_that_late_values_split_stays_with_what_is_open() {
    let mut a = Agent::new(&[HOT]);
    a.send(&[(2, 85.0), (9, 85.0)], 2, 10);
    assert_eq!(a.told(), [(Raised, 2)]);
    a.send(&[(5, 20.0)], 10, 11);
    assert_eq!(a.told(), [(Raised, 2), (Revised, 9)]);
    assert_eq!(
        a.episodes(),
        [("resolved", 2, Some(5)), ("firing", 9, None)]
    );
    let open = a.alerts.iter().find(|e| e.state == "firing").unwrap();
    assert_eq!(open.id, a.notices[0].alert.id);
    assert!(a.alerts.iter().any(|e| !e.notified), "one was never paged");
}

#[test]
fn a_page_for_what_never_was_is_taken_back_with_the_reason() {
    let rule = r#"{"name":"long","metric":"temperature","raise":80,"for":"10s"}"#;
    let mut a = Agent::new(&[rule]);
    a.send(&[(0, 85.0), (10, 85.0)], 0, 11);
    assert_eq!(a.told(), [(Raised, 0)]);
    // In between it was cool: neither part lasted for ten seconds.
    a.send(&[(5, 20.0)], 11, 12);
    a.send(&[(12, 20.0)], 13, 13);
    let kinds: Vec<NoticeKind> = a.notices.iter().map(|n| n.kind).collect();
    assert_eq!(kinds.first(), Some(&Raised));
    assert_eq!(kinds.iter().filter(|k| **k == Cleared).count(), 1);
    let last = a.notices.last().unwrap();
    assert!(last.alert.reason.as_deref().unwrap().contains("late"));
    assert_eq!(last.alert.state, "resolved");
}

#[test]
fn a_backlog_pages_once_for_what_is_still_open_with_its_true_begin() {
    let mut a = Agent::new(&[HOT]);
    let six_hours = 6 * 3600;
    // Live values first: it has been hot for a while.
    a.send(&[(six_hours, 85.0)], 1, six_hours + 1);
    let mut at = six_hours + 1;
    for hundred in 0..10 {
        let mut values = Vec::new();
        for i in 0..100 {
            let t = 10 + (hundred * 100 + i) * 20;
            values.extend([(t, 85.0), (t + 10, 60.0)]);
        }
        at += 1;
        let mark = values.last().unwrap().0 + 1;
        a.send(&values, mark, at);
    }
    a.send(&[(20_100, 90.0)], at + 1, at + 1);
    a.tick(at + 90);
    assert_eq!(a.told(), [(Raised, 20_100)]);
    assert_eq!(a.episodes().len(), 1001.min(a.episodes().len()));
    let ended = a.alerts.iter().filter(|e| e.state == "resolved");
    assert_eq!(ended.clone().count(), 1000);
    assert!(ended.clone().all(|e| !e.notified));
    assert!(
        a.notices[0]
            .alert
            .summary
            .contains("began 2023-11-15T03:48:20")
    );
}

#[test]
fn what_ended_before_it_was_learned_pages_if_the_rule_is_for_safety() {
    let rule = HOT.replace("\"severity\"", "\"safety\":true,\"severity\"");
    let mut a = Agent::new(&[&rule]);
    a.send(&[(1, 85.0), (2, 20.0)], 3, 3600);
    assert_eq!(a.told(), [(Raised, 1), (Cleared, 1)]);
    let mut a = Agent::new(&[HOT]);
    a.send(&[(1, 85.0), (2, 20.0)], 3, 3600);
    assert_eq!(a.told(), []);
    assert_eq!(a.episodes(), [("resolved", 1, Some(2))]);
}

#[test]
fn evidence_is_the_last_value_before_and_the_first_of_the_episode() {
    let mut a = Agent::new(&[HOT]);
    let values: Vec<(i64, f64)> = (0..40).map(|i| (i, 60.0 + i as f64)).collect();
    a.send(&values, 41, 41);
    let alert = &a.alerts[0];
    let evidence: Vec<(i64, f64)> = alert
        .evidence
        .iter()
        .map(|e| ((e.time.0 - T0) / S, e.value))
        .collect();
    let expected: Vec<(i64, f64)> = (20..36).map(|i| (i, 60.0 + i as f64)).collect();
    assert_eq!(evidence, expected);
    assert_eq!(
        (alert.kind, alert.value, alert.threshold),
        ("threshold", 99.0, 80.0)
    );
}

#[test]
fn a_rate_is_found_over_a_hole_that_fills_later() {
    let rule = r#"{"name":"jump","metric":"temperature","kind":"rate","raise":10,"within":"16s"}"#;
    let mut a = Agent::new(&[rule]);
    // 0 to 9 within 12 s is no jump; with what came late it is.
    a.send(&[(0, 0.0), (12, 9.0)], 1, 13);
    assert_eq!(a.episodes(), []);
    a.send(&[(6, -5.0)], 13, 14);
    assert_eq!(a.episodes(), [("firing", 12, None)]);
    a.send(&[(40, 9.0)], 41, 41);
    assert_eq!(a.episodes(), [("resolved", 12, Some(40))]);
    assert_eq!(a.told(), [(Raised, 12), (Cleared, 12)]);
}

#[test]
fn a_stuck_value_is_found_and_a_late_change_takes_it_back() {
    let rule = r#"{"name":"frozen","metric":"temperature","kind":"stuck","for":"10s"}"#;
    let mut a = Agent::new(&[rule]);
    a.send(&[(0, 7.0), (5, 7.0), (10, 7.0)], 11, 3600);
    assert_eq!(a.episodes(), [("firing", 0, None)]);
    a.send(&[(20, 7.0), (40, 7.5)], 41, 3601);
    assert_eq!(a.episodes(), [("resolved", 0, Some(40))]);
    // Provisional, and then it was none.
    a.send(&[(50, 7.5), (52, 7.5)], 41, 3602);
    assert_eq!(a.episodes().len(), 2);
    a.send(&[(45, 9.0)], 53, 3603);
    assert_eq!(a.episodes(), [("resolved", 0, Some(40))]);
}

fn plain(device: &str, values: &[(i64, f64)]) -> Vec<u8> {
    Record::Plain(Plain {
        device: DeviceId::new(device).unwrap(),
        samples: values
            .iter()
            .map(|v| PlainSample {
                metric: MetricName::new("temperature").unwrap(),
                time: Some(EventTime(T0 + v.0 * S)),
                value: Value::Number(v.1),
            })
            .collect(),
    })
    .encode()
}

#[test]
fn what_a_plain_device_tells_too_late_is_recorded_and_pages_nobody() {
    let mut a = Agent::new(&[HOT]);
    a.at(10, &plain("p", &[(10, 20.0)]));
    a.at(11, &plain("p", &[(3, 85.0), (4, 86.0), (5, 20.0)]));
    assert_eq!(a.told(), []);
    assert_eq!(a.episodes(), [("resolved", 3, Some(5))]);
    // Told again, and a value in the middle of it: known already.
    a.at(12, &plain("p", &[(3, 85.0), (4, 86.0), (5, 20.0)]));
    assert_eq!(a.episodes().len(), 1);
    // In one message order does not matter.
    a.at(20, &plain("p", &[(19, 85.0), (15, 60.0), (17, 85.0)]));
    assert_eq!(a.episodes()[1..], [("firing", 17, None)]);
    assert_eq!(a.told(), [(Raised, 17)]);
}

const QUIET: &str = r#"{"name":"quiet","metric":"temperature","kind":"silence","after":"60s"}"#;

#[test]
fn a_sensor_is_silent_only_if_its_agent_has_told_everything() {
    let mut a = Agent::new(&[QUIET]);
    a.send(&[(0, 1.0), (10, 1.0)], 11, 11);
    // The agent is away: it may have values.
    a.tick(300);
    assert_eq!(a.episodes(), []);
    // It is back and has none.
    a.send(&[], 301, 301);
    a.tick(310);
    assert_eq!(a.episodes(), [("firing", 10, None)]);
    assert_eq!(a.told(), [(Raised, 10)]);
    a.b.restart();
    a.tick(400);
    a.send(&[(401, 2.0)], 402, 402);
    assert_eq!(a.told(), [(Raised, 10), (Cleared, 10)]);
    assert_eq!(a.episodes(), [("resolved", 10, Some(401))]);
    assert_eq!(a.alerts[0].kind, "silence");
}

#[test]
fn a_pause_in_a_backlog_is_an_episode_in_any_order() {
    let mut a = Agent::new(&[QUIET]);
    a.send(&[(500, 1.0)], 0, 1000);
    a.send(&[(0, 1.0), (30, 1.0)], 31, 1001);
    a.send(&[(40, 1.0), (480, 1.0)], 501, 1002);
    assert_eq!(a.told(), []);
    assert_eq!(a.episodes(), [("resolved", 40, Some(480))]);
}

#[test]
fn a_plain_device_is_silent_if_it_is_not_heard_from_while_we_were_there() {
    let mut a = Agent::new(&[QUIET]);
    a.at(0, &plain("p", &[(0, 1.0)]));
    let gap = Record::AvailabilityGap {
        from: event::IngestTime(T0 + 5 * S),
        to: event::IngestTime(T0 + 200 * S),
    };
    a.at(200, &gap.encode());
    a.tick(210);
    assert_eq!(a.episodes(), [], "we were away");
    for now in 250..270 {
        a.tick(now);
    }
    assert_eq!(a.episodes(), [("firing", 0, None)]);
    a.at(280, &plain("p", &[(280, 1.0)]));
    assert_eq!(a.told(), [(Raised, 0), (Cleared, 0)]);
    let device = DeviceId::new("p").unwrap();
    a.at(281, &Record::Decommission(device).encode());
    for now in [400, 500, 600] {
        a.tick(now);
    }
    assert_eq!(a.told().len(), 2, "it is out of service");
}

#[test]
fn an_agent_that_is_not_heard_from_is_offline_until_it_speaks() {
    let rule = r#"{"name":"away","kind":"offline","after":"5m","match":{"site":"s1"}}"#;
    let mut a = Agent::new(&[rule, QUIET]);
    let site = sample("d1", "@site", T0, Value::Text("s1".into()));
    a.samples(&[site, temperature("d1", T0, 1.0)], 1, 1);
    let other = batch_record("gw2", 1, 1, &[temperature("x", T0, 1.0)], T0 + S);
    a.at(1, &other);
    let will = |online: bool| {
        Record::Status(StatusRecord {
            agent: AgentId::new("gw").unwrap(),
            status: Status {
                online,
                incarnation: Incarnation { no: 1, rand: 77 }.to_string(),
                version: String::new(),
                backlog: 0,
            },
        })
        .encode()
    };
    a.at(2, &will(false));
    for now in [300, 301, 302] {
        a.tick(now);
    }
    assert_eq!(a.episodes(), []);
    for now in 303..306 {
        a.tick(now);
    }
    assert_eq!(a.told(), [(Raised, 2)]);
    let alert = &a.alerts[0];
    assert_eq!((alert.device.as_str(), alert.metric.as_str()), ("gw", ""));
    assert_eq!(alert.group["site"], "s1");
    assert!(alert.summary.starts_with("agent gw was not heard from"));
    a.b.restart();
    a.at(310, &will(false));
    assert_eq!(a.told().len(), 1, "a last will is no word of the agent");
    a.send(&[], 311, 311);
    assert_eq!(a.told(), [(Raised, 2), (Cleared, 2)]);
    assert_eq!(a.episodes()[0], ("resolved", 2, Some(311)));
}

#[test]
fn a_rule_is_for_devices_with_its_attributes() {
    let rule = HOT.replace("\"severity\"", "\"match\":{\"site\":\"s1\"},\"severity\"");
    let mut a = Agent::new(&[&rule]);
    let site = sample("d1", "@site", T0, Value::Text("s1".into()));
    let hot = |device: &str| temperature(device, T0 + S, 99.0);
    a.samples(&[site, hot("d1"), hot("d2")], 2, 2);
    let devices: Vec<&str> = a.alerts.iter().map(|e| e.device.as_str()).collect();
    assert_eq!(devices, ["d1"]);
}

#[test]
fn a_rule_that_changes_only_its_severity_keeps_the_episode() {
    let mut a = Agent::new(&[HOT]);
    a.send(&[(1, 85.0)], 2, 2);
    let milder = HOT.replace("critical", "info");
    a.at(3, &Record::SetRule(milder).encode());
    a.send(&[(4, 86.0)], 5, 5);
    assert_eq!(a.told(), [(Raised, 1)]);
    assert_eq!(a.alerts[0].severity, "info");
    let other = HOT.replace("\"clear\":75", "\"clear\":70");
    a.at(6, &Record::SetRule(other).encode());
    assert_eq!(a.told(), [(Raised, 1), (Cleared, 1)]);
    assert!(
        a.notices[1]
            .alert
            .reason
            .as_deref()
            .unwrap()
            .contains("rule")
    );
    a.send(&[(7, 86.0)], 8, 8);
    assert_eq!(a.told().len(), 3, "the new rule begins anew");
}

#[test]
fn a_watermark_that_stands_still_holds_back_a_bounded_number_of_values() {
    let mut a = Agent::new(&[HOT]);
    for chunk in 0..30 {
        let values: Vec<(i64, f64)> = (0..100)
            .map(|i| (100 + chunk * 100 + i, if i < 50 { 85.0 } else { 20.0 }))
            .collect();
        a.send(&values, 1, 4000 + chunk);
    }
    a.tick(4100);
    let ended = a.episodes().iter().filter(|e| e.0 == "resolved").count();
    // Values of ten episodes wait; the others count as final.
    assert!((18..=20).contains(&ended), "{ended}");
    a.b.restart();
    a.send(&[], 4101, 4101);
    assert_eq!(a.episodes().len(), 30);
    assert_eq!(a.told(), []);
}

#[test]
fn what_agents_find_is_shown_and_paged_like_the_servers_own() {
    let said = |state: &str, since: i64, at: i64| {
        let text = format!(
            r#"{{"rule":"local","state":"{state}","metric":"temperature","value":91,"severity":"error","since":{},"at":{}}}"#,
            T0 + since * S,
            T0 + at * S
        );
        sample(
            "d1",
            "tidewatch.alert",
            T0 + at * S,
            Value::Text(text.as_str().into()),
        )
    };
    let mut a = Agent::new(&[HOT]);
    a.samples(&[said("firing", 2, 3)], 4, 4);
    assert_eq!(a.told(), [(Raised, 2)]);
    let alert = a.notices[0].alert.clone();
    assert_eq!(
        (alert.kind, alert.severity, alert.value),
        ("edge", "error", 91.0)
    );
    assert_eq!(alert.rule, "local");
    a.b.restart();
    a.samples(&[said("resolved", 2, 9)], 10, 10);
    assert_eq!(a.told(), [(Raised, 2), (Cleared, 2)]);
    // A backlog, in the wrong order: recorded, never paged.
    a.samples(&[said("resolved", 20, 25)], 11, 4000);
    a.samples(&[said("firing", 20, 21)], 26, 4001);
    assert_eq!(a.told().len(), 2);
    assert_eq!(
        a.episodes(),
        [("resolved", 2, Some(9)), ("resolved", 20, Some(25))]
    );
    // Where the server has the rule, it decides.
    let server = HOT.replace("hot", "local");
    a.samples(&[said("firing", 30, 31)], 4001, 4002);
    assert_eq!(a.episodes().len(), 3);
    a.at(4003, &Record::SetRule(server).encode());
    let open = a.episodes().iter().filter(|e| e.0 == "firing").count();
    assert_eq!(open, 0);
    a.samples(&[said("firing", 4004, 4004)], 4005, 4005);
    assert_eq!(a.episodes().len(), 3);
    // Nonsense is a text like any other.
    let odd = sample(
        "d1",
        "tidewatch.alert",
        T0 + 4006 * S,
        Value::Text("{".into()),
    );
    a.samples(&[odd], 4007, 4007);
    assert_eq!(a.episodes().len(), 3);
}
