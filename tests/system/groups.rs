//! Rules on groups of devices over the real server: a site that is missing is one page, over a kill.

use event::{AgentId, DeviceId, EventTime, MetricName, Sample, Value, topic};

use super::harness::{Server, System, wait_for};
use super::mqtt::Client;
use super::receiver::{Post, Receiver};
use super::wire::{self, Agent};

const CONFIG: &str = r#"
[[aggregates]]
name = "by_site"
group_by = ["site"]
window = "1s"
[[rules]]
name = "site-gap"
kind = "window"
aggregate = "by_site"
field = "completeness"
direction = "below"
raise = 0.8
for = "2s"
when = "open"
severity = "critical"
[processor]
checkpoint_every = "300ms"
"#;

/// An agent with two devices of a site.
struct Station {
    agent: Agent,
    devices: [String; 2],
}

impl Station {
    #[track_caller]
    fn start(server: &Server, id: &str, site: &str) -> Self {
        let mut agent = Agent::connect(server, id);
        let devices = [1, 2].map(|n| format!("{id}-{n}"));
        let now = wire::now();
        let said = devices.each_ref().map(|device| Sample {
            device: DeviceId::new(device).expect("a device id"),
            metric: MetricName::new("@site").expect("a metric name"),
            time: EventTime(now),
            value: Value::Text(site.into()),
        });
        agent.send(&said, now);
        Self { agent, devices }
    }

    /// Its devices measure something, and nothing is held back.
    #[track_caller]
    fn work(&mut self) {
        let now = wire::now();
        let samples = self
            .devices
            .each_ref()
            .map(|device| wire::number(device, "temperature", now, 20.0));
        self.agent.send(&samples, now);
    }

    /// The same life goes on over a new connection.
    #[track_caller]
    fn reconnect(&mut self, server: &Server) {
        let id: &AgentId = &self.agent.id;
        let client_id = format!("{}-again", id.as_str());
        self.agent.client = Client::connect(server.mqtt(), &client_id, id.as_str());
        let topic = topic::ack(id);
        self.agent.client.subscribe(&topic);
    }
}

fn of(hook: &Receiver, kind: &str) -> Vec<Post> {
    let mut posts = hook.posts();
    posts.retain(|p| p.kind == kind);
    // One that was under way at a kill may come twice, but under the same id.
    posts.dedup_by(|a, b| a.id == b.id);
    posts
}

#[test]
fn a_site_whose_devices_are_missing_is_one_page_until_they_are_back() {
    let hook = Receiver::start();
    let mut server = System::new()
        .config(&format!("{CONFIG}{}", hook.config()))
        .start();
    let mut away = Station::start(&server, "north-1", "north");
    let mut stay = [
        ("north-2", "north"),
        ("south-1", "south"),
        ("south-2", "south"),
    ]
    .map(|(id, site)| Station::start(&server, id, site));
    // Everybody is there: windows are judged, and nothing is wrong with them.
    let until = wire::now() + 9_000_000;
    while wire::now() < until {
        away.work();
        stay.iter_mut().for_each(Station::work);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(hook.posts(), [], "nothing is wrong");
    let gone = wire::now();
    let raised = wait_for("the page of the site", || {
        stay.iter_mut().for_each(Station::work);
        of(&hook, "alert.raised").pop()
    });
    let data = &raised.body["data"];
    assert_eq!(data["page"]["labels"]["site"], "north", "{data}");
    assert_eq!(
        (&data["rule"], &data["device"]),
        (&"site-gap".into(), &"".into())
    );
    assert_eq!(
        (&data["value"], &data["threshold"]),
        (&0.5.into(), &0.8.into())
    );
    let summary = data["summary"].as_str().expect("a summary");
    assert!(
        summary.starts_with("site-gap: completeness of by_site, site north, went below 0.8: 0.5;"),
        "{summary}"
    );
    // It began with the window in which they went.
    let began = data["began"].as_str().expect("a time").to_owned();
    let at = |micros: i64| EventTime(micros).to_string()[.."2026-01-01T00:00:00".len()].to_owned();
    assert!(
        at(gone - 1_000_000) <= began && began[..19] <= *at(gone + 1_000_000),
        "{began} at {}",
        at(gone)
    );
    let shown = server.http("/api/v1/alerts?state=firing");
    assert_eq!(shown["items"][0]["id"], data["id"], "{shown}");
    assert_eq!(shown["items"][0]["kind"], "window");

    server.kill9();
    server.restart();
    stay.iter_mut().for_each(|s| s.reconnect(&server));
    let shown = server.http("/api/v1/alerts?state=firing");
    assert_eq!(shown["items"][0]["id"], data["id"], "{shown}");
    let until = wire::now() + 8_000_000;
    while wire::now() < until {
        stay.iter_mut().for_each(Station::work);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(of(&hook, "alert.raised").len(), 1, "{:?}", hook.posts());
    assert_eq!(of(&hook, "alert.cleared"), []);

    away.reconnect(&server);
    let cleared = wait_for("the end of the page", || {
        away.work();
        stay.iter_mut().for_each(Station::work);
        of(&hook, "alert.cleared").pop()
    });
    let page = |post: &Post| post.body["data"]["page"]["key"].clone();
    assert_eq!(page(&cleared), page(&raised));
    server.stop();
    assert_eq!(of(&hook, "alert.raised").len(), 1, "{:?}", hook.posts());
}
