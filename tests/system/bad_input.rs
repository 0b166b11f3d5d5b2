//! What strangers and broken devices send: each is refused or set aside with a reason that people can
//! read, and everybody else goes on.

use std::collections::BTreeMap;

use event::{RefusalReason, batch};
use serde_json::{Value, json};

use super::harness::{Server, System, settle, wait_for};
use super::mqtt::Client;
use super::wire::{self, Agent, number};

const Y1970: i64 = 1_000_000;
const Y2090: i64 = 3_786_912_000_000_000;

/// How many of each reason the server knows of, by the API.
#[track_caller]
fn totals(server: &Server) -> BTreeMap<String, u64> {
    let page = server.http("/api/v1/quarantine");
    let totals = page["totals"].as_object().expect("totals");
    let pairs = totals
        .iter()
        .filter_map(|(k, v)| Some((k.clone(), v.as_u64()?)));
    pairs.filter(|(_, n)| *n > 0).collect()
}

/// Waits until a new entry with this reason can be read, and gives it.
#[track_caller]
fn wait_entry(server: &Server, reason: &str, has: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("an entry with reason {reason}"), || {
        let page = server.http("/api/v1/quarantine?limit=1000");
        let items = page["items"].as_array()?.clone();
        items.into_iter().find(|i| i["reason"] == reason && has(i))
    })
}

fn telemetry(device: &str) -> String {
    format!("devices/{device}/telemetry")
}

/// A device that must be counted after each insult.
struct Witness {
    client: Client,
    sent: u64,
}

impl Witness {
    #[track_caller]
    fn new(server: &Server) -> Self {
        let client = Client::connect(server.mqtt(), "witness", "");
        Self { client, sent: 0 }
    }

    #[track_caller]
    fn speak(&mut self, server: &Server) {
        let message = json!({"values": {"witness": self.sent}}).to_string();
        self.client
            .publish(&telemetry("witness"), message.as_bytes())
            .expect("the good device is still served");
        self.sent += 1;
        let sent = self.sent;
        settle("the good device's data", || {
            let page = server.http("/api/v1/windows?aggregate=by_metric&group.metric=witness");
            let counts = page["items"].as_array().expect("items").iter();
            let counted: u64 = counts.filter_map(|row| row["count"].as_u64()).sum();
            match counted == sent {
                true => Ok(()),
                false => Err(format!("{counted} of {sent} events")),
            }
        });
    }
}

/// Sends a batch payload as the agent and expects it refused with the reason, in the ack and in the API.
#[track_caller]
fn check_batch(server: &Server, witness: &mut Witness, payload: &[u8], reason: RefusalReason) {
    let id = format!("bad-{}", reason.as_str().replace('_', "-"));
    let mut agent = Agent::connect(server, &id);
    let ack = agent.publish(payload);
    assert!(ack.ranges.is_empty(), "nothing of it may be acked: {ack:?}");
    assert_eq!(ack.refused.len(), 1, "{ack:?}");
    assert_eq!(ack.refused[0].reason, reason, "{ack:?}");
    assert!(!ack.refused[0].message.is_empty());
    let entry = wait_entry(server, reason.as_str(), |e| e["agent"] == id.as_str());
    assert_eq!(
        (&entry["kind"], &entry["count"]),
        (&json!("refused"), &json!(1))
    );
    assert!(entry["message"].as_str().is_some_and(|m| !m.is_empty()));
    witness.speak(server);
}

fn good_batch(server: &Server, id: &str) -> Vec<u8> {
    let mut agent = Agent::connect(server, id);
    let now = wire::now();
    agent.batch(&[number("d", "t", now, 1.0)], now)
}

#[test]
fn bad_batches_are_refused_with_a_reason_and_an_answer() {
    let server = System::new().start();
    let mut witness = Witness::new(&server);
    witness.speak(&server);

    let mut unknown = good_batch(&server, "bad-unknown-version");
    unknown[0] = 99;
    check_batch(
        &server,
        &mut witness,
        &unknown,
        RefusalReason::UnknownVersion,
    );

    let mut damaged = good_batch(&server, "bad-checksum");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    check_batch(&server, &mut witness, &damaged, RefusalReason::Checksum);

    let of_another = good_batch(&server, "somebody-else");
    check_batch(
        &server,
        &mut witness,
        &of_another,
        RefusalReason::WrongAgent,
    );

    check_batch(&server, &mut witness, b"", RefusalReason::Empty);

    // The right checksum over a header that makes no sense.
    let mut nonsense = vec![batch::VERSION, 0xff, 0xff, 0xff];
    nonsense.extend(xxhash_rust::xxh3::xxh3_64(&nonsense).to_le_bytes());
    check_batch(&server, &mut witness, &nonsense, RefusalReason::Malformed);

    let reasons = [
        "checksum",
        "empty",
        "malformed",
        "unknown_version",
        "wrong_agent",
    ];
    let expected: BTreeMap<String, u64> = reasons.iter().map(|r| ((*r).to_owned(), 1)).collect();
    wait_for("all reasons in the totals", || {
        (totals(&server).len() >= expected.len()).then_some(())
    });
    // Refused is never accepted: only the good device is.
    accepted_are(&server, witness.sent);
    assert_eq!(totals(&server), expected);
    let metrics = server.text("/metrics");
    for reason in reasons {
        for family in [
            "tidewatch_ingest_refused_total",
            "tidewatch_quarantined_total",
        ] {
            expect_line(&metrics, &format!("{family}{{reason=\"{reason}\"}} 1"));
        }
    }
    assert_eq!(server.total("refused"), 5);
}

/// Waits until so many events are accepted, and no more. Totals come with the next second of each partition,
/// later than the rows of what they count.
#[track_caller]
fn accepted_are(server: &Server, expected: u64) {
    settle("the accepted events in the totals", || {
        match server.total("accepted") {
            n if n == expected => Ok(()),
            n => Err(format!("{n} of {expected}")),
        }
    });
    assert_eq!(server.total("accepted"), expected);
}

#[track_caller]
fn expect_line(metrics: &str, line: &str) {
    let name = line.split('{').next().unwrap_or(line);
    let family: Vec<&str> = metrics.lines().filter(|l| l.starts_with(name)).collect();
    assert!(family.contains(&line), "{line} is not among {family:#?}");
}

#[test]
fn a_payload_of_ten_megabytes_is_refused_before_it_is_read() {
    let server = System::new().start();
    let mut witness = Witness::new(&server);
    for (number, topic) in ["tidewatch/v1/huge/batch", "devices/huge/telemetry"]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect(server.mqtt(), "huge-1", "huge");
        // The rest of the ten megabytes is never sent, so only the head can be the reason.
        client
            .publish_part(topic, b"{", 10 << 20)
            .expect("the head is sent");
        client.await_close().expect("the connection is closed");
        let entry = wait_entry(&server, "too_large", |e| e["count"].as_u64() > Some(0));
        assert!(
            entry["source"].as_str().is_some_and(|s| !s.is_empty()),
            "{entry}"
        );
        settle("the refusal in /metrics", || {
            let metrics = server.text("/metrics");
            let line = format!(
                "tidewatch_ingest_refused_total{{reason=\"too_large\"}} {}",
                number + 1
            );
            match metrics.lines().any(|l| l == line) {
                true => Ok(()),
                false => Err(format!("no {line}")),
            }
        });
        witness.speak(&server);
    }
    // All of it, in one go: the server may close in the middle.
    let mut client = Client::connect(server.mqtt(), "huge-1", "huge");
    let all = client.publish("devices/huge/telemetry", &vec![b' '; 10 << 20]);
    assert!(all.is_err(), "ten megabytes were taken");
    witness.speak(&server);
}

/// Sends a plain message, and expects an entry with this reason that says enough to find the sender.
#[track_caller]
fn check_plain(server: &Server, witness: &mut Witness, device: &str, payload: &[u8], reason: &str) {
    let before = totals(server).get(reason).copied().unwrap_or(0);
    let mut client = Client::connect(server.mqtt(), "plain", "");
    client
        .publish(&telemetry(device), payload)
        .expect("a PUBACK: to send it again would not help");
    settle(&format!("the total of {reason}"), || {
        match totals(server).get(reason) {
            Some(n) if *n == before + 1 => Ok(()),
            other => Err(format!("{other:?} after {before}")),
        }
    });
    let shown: String = device.chars().take(20).collect();
    let entry = wait_entry(server, reason, |e| {
        e["source"].as_str().is_some_and(|s| s.contains(&shown))
    });
    assert_eq!(entry["kind"], "refused");
    assert!(
        entry["message"].as_str().is_some_and(|m| !m.is_empty()),
        "{entry}"
    );
    witness.speak(server);
}

#[test]
fn bad_plain_messages_are_refused_with_a_reason() {
    // Every refusal is written at once, so that the totals can be counted one by one.
    let server = System::new()
        .config("[ingest]\nrefusal_interval_ms = 100\n")
        .start();
    let mut witness = Witness::new(&server);
    let w = &mut witness;
    check_plain(&server, w, "p-empty", b"", "empty");
    check_plain(
        &server,
        w,
        "p-utf8",
        b"{\"values\":{\"t\":\"\xff\xfe\"}}",
        "invalid_utf8",
    );
    check_plain(
        &server,
        w,
        "p-nan",
        b"{\"values\":{\"t\":NaN}}",
        "invalid_json",
    );
    check_plain(&server, w, "p-inf", b"{\"t\":-Infinity}", "invalid_json");
    check_plain(&server, w, "p-cut", b"{\"values\":{\"t\":1", "invalid_json");
    check_plain(&server, w, &"x".repeat(300), b"{\"t\":1}", "invalid_id");
    check_plain(&server, w, "p.dots", b"{\"t\":1}", "invalid_id");
    check_plain(
        &server,
        w,
        "p-nested",
        b"{\"values\":{\"t\":{\"deep\":1}}}",
        "unsupported_type",
    );
    // Nothing of these is data.
    accepted_are(&server, witness.sent);

    // What is right in a message is taken, the rest is told.
    let mut client = Client::connect(server.mqtt(), "plain", "");
    let message =
        br#"{"values":{"good":7.5,"deep":{"a":1},"list":[1],"nothing":null,"flag":true}}"#;
    client
        .publish(&telemetry("p-partly"), message)
        .expect("a PUBACK");
    settle("the refused fields", || {
        match totals(&server).get("unsupported_type") {
            Some(4) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let device = wait_for("the device", || {
        let page = server.http("/api/v1/devices?q=p-partly");
        page["items"].as_array()?.first().cloned()
    });
    let values: BTreeMap<_, _> = device["values"]
        .as_array()
        .expect("values")
        .iter()
        .map(|v| (v["metric"].as_str().unwrap_or_default(), &v["value"]))
        .collect();
    assert_eq!(
        values,
        BTreeMap::from([("flag", &json!(true)), ("good", &json!(7.5))])
    );

    let metrics = server.text("/metrics");
    for (reason, n) in totals(&server) {
        expect_line(
            &metrics,
            &format!("tidewatch_ingest_refused_total{{reason=\"{reason}\"}} {n}"),
        );
        expect_line(
            &metrics,
            &format!("tidewatch_quarantined_total{{reason=\"{reason}\"}} {n}"),
        );
    }
    assert!(
        !metrics.contains("p-partly") && !metrics.contains("witness\""),
        "no device is a label"
    );
}

#[test]
fn an_agent_id_of_300_bytes_is_refused() {
    let server = System::new().start();
    let mut witness = Witness::new(&server);
    let mut client = Client::connect(server.mqtt(), "long-1", "");
    let topic = format!("tidewatch/v1/{}/batch", "g".repeat(300));
    // Either a PUBACK or a closed connection is an answer.
    let _ = client.publish(&topic, &good_batch(&server, "long"));
    wait_entry(&server, "invalid_id", |_| true);
    witness.speak(&server);
}

#[test]
fn impossible_times_are_acked_set_aside_and_move_nothing() {
    let server = System::new().start();
    let mut witness = Witness::new(&server);
    witness.speak(&server);

    // From an agent: the events between are counted.
    let now = wire::now();
    let mut agent = Agent::connect(&server, "clockless");
    let samples = [
        number("old", "t", Y1970, 1.0),
        number("fine", "t", now, 2.0),
        number("new", "t", Y2090, 3.0),
        number("new", "t", Y2090 + 1, 3.0),
    ];
    agent.send(&samples, now);
    // From plain devices.
    let mut client = Client::connect(server.mqtt(), "plain", "");
    for (device, ts) in [("plain-old", Y1970), ("plain-new", Y2090)] {
        let message = json!({"ts": ts / 1000, "values": {"t": 1.0}}).to_string();
        client
            .publish(&telemetry(device), message.as_bytes())
            .expect("a PUBACK");
    }
    settle("the events set aside", || {
        let expected = BTreeMap::from([
            ("time_in_future".to_owned(), 3),
            ("time_too_old".to_owned(), 2),
        ]);
        let totals = totals(&server);
        match totals == expected {
            true => Ok(()),
            false => Err(format!("{totals:?}")),
        }
    });
    let old = wait_entry(&server, "time_too_old", |e| e["device"] == "old");
    assert_eq!(
        (
            &old["kind"],
            &old["agent"],
            &old["metric"],
            &old["event_time"]
        ),
        (
            &json!("quarantined"),
            &json!("clockless"),
            &json!("t"),
            &json!("1970-01-01T00:00:01Z")
        )
    );
    let new = wait_entry(&server, "time_in_future", |e| e["device"] == "new");
    assert_eq!(
        (&new["count"], &new["event_time"]),
        (&json!(2), &json!("2090-01-01T00:00:00Z"))
    );
    wait_entry(&server, "time_too_old", |e| e["device"] == "plain-old");
    wait_entry(&server, "time_in_future", |e| e["device"] == "plain-new");

    accepted_are(&server, 6 + witness.sent);
    let totals = server.http("/api/v1/overview")["totals"].clone();
    assert_eq!(totals["quarantined"], 5, "{totals}");
    assert_eq!(totals["counted"], 1 + witness.sent, "{totals}");
    assert_eq!(totals["refused"], 0, "{totals}");
    let metrics = server.text("/metrics");
    expect_line(
        &metrics,
        "tidewatch_quarantined_total{reason=\"time_in_future\"} 3",
    );
    expect_line(
        &metrics,
        "tidewatch_quarantined_total{reason=\"time_too_old\"} 2",
    );
    expect_line(&metrics, "tidewatch_events_total{result=\"quarantined\"} 5");
    // No window lies there.
    for range in [
        "from=1970-01-01T00:00:00Z&to=2019-01-01T00:00:00Z",
        "from=2089-01-01T00:00:00Z",
    ] {
        let page = server.http(&format!("/api/v1/windows?aggregate=fleet&{range}"));
        assert_eq!(page["items"], json!([]), "{range}");
    }
    let overview = server.http("/api/v1/overview");
    let parse = |t: &Value| event::EventTime::parse_rfc3339(t.as_str().unwrap_or_default());
    let now = parse(&overview["now"]).expect("a time");
    assert!(now.as_micros() < Y2090, "{overview}");
    witness.speak(&server);
}
