use std::collections::BTreeMap;

use event::alert::{EdgeAlert, State};
use event::{AgentId, DeviceId};
use tokio::time::timeout;

use super::*;
use crate::clock::{Clock, Quality};
use crate::sources::Feed;
use crate::{commands, inbox};

/// What does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

fn hot() -> EdgeRule {
    let json = r#"{"name":"hot","metric":"t","raise":80}"#;
    EdgeRule {
        rule: ::rules::Rule::parse(json).unwrap(),
        devices: Vec::new(),
        stale_after: Duration::from_secs(60),
        run: None,
    }
}

fn reading(device: &str, value: f64) -> Reading {
    Reading {
        device: DeviceId::new(device).unwrap(),
        metric: MetricName::new("t").unwrap(),
        time: None,
        value: Value::Number(value),
    }
}

/// Rules with room for few events, and nobody who stores them yet.
struct Device {
    inbox: Arc<Inbox>,
    rules: Rules,
    _service: Service,
    stored: Vec<(String, State)>,
    rows: BTreeMap<String, Option<Vec<u8>>>,
}

impl Device {
    fn start(rules: Vec<EdgeRule>, episodes: Vec<(String, Vec<u8>)>) -> Self {
        Self::start_with(rules, episodes, Vec::new())
    }

    fn start_with(
        rules: Vec<EdgeRule>,
        episodes: Vec<(String, Vec<u8>)>,
        allowed: Vec<commands::Allowed>,
    ) -> Self {
        let settings = inbox::Settings {
            events_max: 8,
            ..inbox::Settings::default()
        };
        let inbox = Inbox::new(settings, Clock::new(Quality::Ntp));
        let rules = Rules::new(rules, episodes, inbox.clone());
        let agent = AgentId::new("gw").unwrap();
        let saved = SavedCommands::default();
        let (commands, _) = commands::start(allowed, &agent, 7, saved, inbox.clone()).unwrap();
        let service = Service::start(&rules, commands, Health::default()).unwrap();
        Self {
            inbox,
            rules,
            _service: service,
            stored: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Stores until all is done.
    async fn store(&mut self, events: usize) {
        let began = std::time::Instant::now();
        while self.stored.len() < events {
            assert!(
                began.elapsed() < PATIENCE,
                "{} of {events} came",
                self.stored.len()
            );
            let now = self.inbox.clock().monotonic();
            // Only what is urgent: nothing waits for the next commit.
            if let (_, Some(pending)) = self.inbox.wait(Some(now), false) {
                assert!(pending.urgent && !pending.volatile);
                for sample in &pending.samples {
                    if sample.metric.as_str() != METRIC {
                        continue;
                    }
                    let Value::Text(text) = &sample.value else {
                        panic!("{sample:?}");
                    };
                    let alert = EdgeAlert::parse(text).unwrap();
                    self.stored.push((sample.device.to_string(), alert.state));
                }
                self.rows.extend(pending.commands.rows.clone());
                self.inbox.stored(pending);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_storm_makes_sources_wait_and_loses_nothing() {
    let mut device = Device::start(vec![hot()], Vec::new());
    let mut expected = Vec::new();
    for n in 0..ACTS_MAX {
        let name = format!("d{n}");
        device.rules.take(&reading(&name, 90.0));
        device.rules.take(&reading(&name, 70.0));
        expected.push((name.clone(), State::Firing));
        expected.push((name, State::Resolved));
    }
    let patience = Duration::from_millis(100);
    assert!(timeout(patience, device.rules.room()).await.is_err());
    device.store(expected.len()).await;
    device.rules.room().await;
    device.rules.drained(Duration::from_secs(60)).await;
    assert_eq!(device.stored, expected);
    // What ended has left nothing on disk.
    assert_eq!(device.rows.len(), ACTS_MAX);
    assert!(device.rows.values().all(Option::is_none));
}

#[tokio::test]
async fn an_alert_and_the_start_of_its_command_are_one_transaction() {
    let run = |command: &str| crate::rules::Run {
        command: command.to_owned(),
        args: BTreeMap::new(),
        devices: Vec::new(),
    };
    let rule = EdgeRule {
        run: Some(run("true")),
        ..hot()
    };
    let allowed = commands::tests::allowed("true", "/bin/true", &[]);
    let device = Device::start_with(vec![rule], Vec::new(), vec![allowed]);
    device.rules.take(&reading("a", 90.0));
    let began = std::time::Instant::now();
    let pending = loop {
        assert!(began.elapsed() < PATIENCE, "nothing came");
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = device.inbox.clock().monotonic();
        if let (_, Some(pending)) = device.inbox.wait(Some(now), false) {
            break pending;
        }
    };
    let metrics = pending.samples.iter().map(|s| s.metric.as_str());
    assert_eq!(
        metrics.collect::<Vec<_>>(),
        [METRIC, event::command::METRIC]
    );
    let keys: Vec<&str> = pending.commands.rows.keys().map(String::as_str).collect();
    assert_eq!((keys.len(), keys[0]), (2, "rule hot a"));
    assert!(keys[1].starts_with("rule-"));
    device.inbox.stored(pending);
    // One that cannot run does not hold the alert back.
    let rule = EdgeRule {
        run: Some(run("none")),
        ..hot()
    };
    let mut device = Device::start_with(vec![rule], Vec::new(), Vec::new());
    device.rules.take(&reading("a", 90.0));
    device.store(1).await;
    assert_eq!(device.stored, [("a".to_owned(), State::Firing)]);
}

#[tokio::test]
async fn rows_of_episodes_are_told_from_those_of_commands_and_gone_on_with() {
    let mut device = Device::start(vec![hot()], Vec::new());
    device.rules.take(&reading("a", 90.0));
    device.store(1).await;
    let rows = std::mem::take(&mut device.rows).into_iter();
    let mut rows: Vec<(String, Vec<u8>)> = rows.map(|(k, v)| (k, v.unwrap())).collect();
    rows.push(("rule-0123".to_owned(), vec![1]));
    let marks = crate::buffer::Marks::default();
    let (saved, episodes) = split(SavedCommands { rows, marks });
    assert_eq!(saved.rows, [("rule-0123".to_owned(), vec![1])]);
    let mut device = Device::start(vec![hot()], episodes.clone());
    device.rules.take(&reading("a", 91.0));
    device.rules.take(&reading("a", 70.0));
    device.store(1).await;
    assert_eq!(device.stored, [("a".to_owned(), State::Resolved)]);
    // Without any rule they are ended all the same, and nobody else is disturbed.
    let mut device = Device::start(Vec::new(), episodes);
    device.store(1).await;
    assert_eq!(device.stored, [("a".to_owned(), State::Resolved)]);
    let none = Rules::new(Vec::new(), Vec::new(), device.inbox.clone());
    none.take(&reading("a", 90.0));
    none.room().await;
    assert!(none.0.is_none());
}

#[tokio::test]
async fn when_the_agent_stops_nobody_waits_for_rules() {
    let device = Device::start(vec![hot()], Vec::new());
    for n in 0..2 * ACTS_MAX {
        device.rules.take(&reading(&format!("d{n}"), 90.0));
    }
    let patience = Duration::from_millis(100);
    assert!(timeout(patience, device.rules.room()).await.is_err());
    device.inbox.close();
    timeout(PATIENCE, device.rules.room()).await.unwrap();
    device.rules.take(&reading("more", 90.0));
    timeout(PATIENCE, device.rules.room()).await.unwrap();
}

#[tokio::test]
async fn while_a_source_catches_up_only_readings_with_a_time_count() {
    let device = Device::start(vec![hot()], Vec::new());
    let mut feed = Feed::new(device.inbox.clone(), "s".to_owned(), &BTreeMap::new())
        .unwrap()
        .watched_by(device.rules.clone());
    let firing = || {
        let shared = device.rules.0.as_ref().unwrap();
        shared.engine().counts().firing
    };
    let with_time = Reading {
        time: Some(device.inbox.clock().wall()),
        ..reading("b", 99.0)
    };
    for (fresh, reading, expected) in [
        (false, reading("a", 99.0), 0),
        (false, with_time, 1),
        (true, reading("a", 99.0), 2),
    ] {
        feed.set_fresh(fresh);
        let push = feed.push_live(1, vec![reading], None, false);
        push.await.unwrap();
        assert_eq!(firing(), expected);
    }
}
