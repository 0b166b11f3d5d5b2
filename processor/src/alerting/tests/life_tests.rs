//! Pages: what is sent when.

use super::*;

#[test]
fn one_alert_is_one_page_with_begin_and_end() {
    let mut b = Bench::new();
    let a = b.raise_now("hot", "d1", "s1");
    assert_eq!(b.news(), ["ops raised d1 is hot"]);
    b.wait(HOUR);
    assert!(b.news().is_empty(), "nothing changed");
    b.clear(&a);
    let message = b.sent[0].message.clone();
    assert_eq!(
        (
            message.began,
            message.resolved,
            message.firing,
            message.total
        ),
        (a.began.0, Some(b.now), 0, 1)
    );
    assert_eq!(message.labels["site"], "s1");
    assert_eq!(message.labels["alertname"], "hot");
    assert_eq!(message.labels["device"], "d1");
    assert_eq!(b.news(), ["ops cleared d1 is cool again"]);
    // A later one is another page.
    let first = message.dedup_key;
    b.raise_now("hot", "d1", "s1");
    assert_ne!(b.sent[0].message.dedup_key, first);
}

#[test]
fn alerts_of_a_site_are_one_page_that_grows_after_the_wait() {
    let mut b = Bench::new();
    let a = b.raise_now("hot", "d1", "s1");
    b.wait(SECOND);
    for n in 2..=30 {
        b.raise_now("hot", &format!("d{n}"), "s1");
    }
    b.raise_now("hot", "x", "s2");
    b.raise_now("cold", "d1", "s1");
    assert_eq!(b.kinds(), ["raised", "raised", "raised"]);
    b.wait(8 * SECOND);
    assert!(b.news().is_empty());
    b.wait(2 * SECOND);
    let message = b.sent[0].message.clone();
    assert_eq!(
        (message.firing, message.total, message.alerts.len()),
        (30, 30, 20)
    );
    assert_eq!(message.alerts[0].device, "d1");
    assert_eq!(message.alerts[19].device, "d30");
    assert!(
        !message.labels.contains_key("device"),
        "{:?}",
        message.labels
    );
    assert_eq!(message.labels["site"], "s1");
    let news = b.news();
    assert_eq!(news.len(), 1);
    assert!(
        news[0].contains("hot: 30 of 30 alerts firing, site s1"),
        "{news:?}"
    );
    // From then on at most one in five minutes.
    b.clear(&a);
    b.wait(4 * MINUTE);
    b.raise_now("hot", "d31", "s1");
    assert!(b.news().is_empty());
    b.wait(MINUTE);
    let news = b.news();
    assert_eq!(news.len(), 1);
    assert!(news[0].contains("30 of 31 alerts firing"), "{news:?}");
}

#[test]
fn what_comes_in_one_call_is_in_the_first_message() {
    let mut b = Bench::new();
    let all: Vec<Notice> = (0..100)
        .map(|n| raised(&alert("hot", &format!("d{n}"), "s1", b.now), b.now))
        .collect();
    b.notices(3, &all);
    assert_eq!(b.sent.len(), 1);
    assert_eq!(b.sent[0].message.total, 100);
    // Begin and end in one call come in their order.
    let a = alert("hot", "d", "s2", b.now);
    b.kinds();
    b.notices(3, &[raised(&a, b.now), cleared(&a, b.now)]);
    assert_eq!(b.kinds(), ["raised", "cleared"]);
}

#[test]
fn an_unacknowledged_page_is_said_again_and_escalates() {
    let route = Route {
        name: "r".to_owned(),
        matchers: matchers(&["severity=critical"]),
        to: vec!["ops".to_owned()],
        escalate: vec![
            Step {
                after: 15 * MINUTE,
                to: vec!["boss".to_owned(), "ops".to_owned()],
            },
            Step {
                after: HOUR,
                to: vec!["ceo".to_owned()],
            },
        ],
        goes_on: false,
        pace: Pace::default(),
    };
    let mut b = Bench::with(Settings {
        routes: vec![route],
        ..settings()
    });
    let a = b.raise_now("hot", "d1", "s1");
    assert_eq!(b.kinds(), ["raised"]);
    b.wait(15 * MINUTE);
    assert_eq!(
        b.news(),
        [
            "boss raised not acknowledged for 15 min: d1 is hot",
            "ops updated not acknowledged for 15 min: d1 is hot"
        ]
    );
    b.ack(&a, "ann");
    let news = b.news();
    assert_eq!(
        news,
        [
            "ops acknowledged acknowledged by ann: d1 is hot",
            "boss acknowledged acknowledged by ann: d1 is hot"
        ]
    );
    assert_eq!(b.pages[&1].acknowledged.as_ref().unwrap().by, "ann");
    // Once is enough.
    b.ack(&a, "ann");
    b.wait(10 * HOUR);
    assert!(b.news().is_empty());
    let unack = Operation::Unack {
        alert: a.id.clone(),
        by: "bob".to_owned(),
    };
    b.operate(&unack).unwrap();
    b.wait(0);
    assert_eq!(b.kinds(), ["updated", "updated"]);
    // The clock starts anew.
    b.wait(15 * MINUTE);
    assert_eq!(b.kinds(), ["updated"; 2], "both know of it");
    b.wait(45 * MINUTE);
    assert_eq!(
        b.news(),
        ["ceo raised not acknowledged for 60 min: d1 is hot"]
    );
    b.wait(4 * HOUR);
    assert_eq!(b.kinds(), ["updated"; 3], "a reminder");
    b.clear(&a);
    assert_eq!(b.kinds(), ["cleared"; 3]);
    assert!(b.operate(&unack).is_ok() && b.news().is_empty());
}

#[test]
fn a_worse_alert_ends_an_acknowledgement() {
    let mut b = Bench::new();
    let mild = |device: &str, now| Alert {
        severity: "warning",
        ..alert("hot", device, "s1", now)
    };
    let a = mild("d1", b.now);
    b.raise(&a);
    b.ack(&a, "ann");
    b.kinds();
    b.raise(&mild("d2", b.now));
    b.wait(MINUTE);
    assert_eq!(b.kinds(), ["updated"]);
    assert!(b.pages[&1].acknowledged.is_some());
    b.raise_now("hot", "d3", "s1");
    b.wait(0);
    let news = b.news();
    assert!(
        news[0].contains("updated more severe: critical"),
        "{news:?}"
    );
    assert_eq!(b.pages[&1].acknowledged, None);
    assert_eq!(b.pages[&1].severity, "critical");
}

#[test]
fn routes_are_asked_in_order() {
    let route = |name: &str, text: &str, to: &[&str], goes_on| Route {
        name: name.to_owned(),
        matchers: matchers(&[text]),
        to: to.iter().map(|t| (*t).to_owned()).collect(),
        escalate: Vec::new(),
        goes_on,
        pace: Pace::default(),
    };
    let mut b = Bench::with(Settings {
        routes: vec![
            route("log", "site=~\"s.*\"", &["log"], true),
            route("quiet", "device=d1", &[], false),
            route("s1", "site=s1", &["s1"], false),
            route("never", "site=s1", &["never"], false),
        ],
        ..settings()
    });
    let quiet = b.raise_now("hot", "d1", "s1");
    assert_eq!(b.news(), ["log raised d1 is hot"]);
    b.raise_now("cold", "d2", "s1");
    assert_eq!(b.news(), ["log raised d2 is hot", "s1 raised d2 is hot"]);
    // Matched by none: everybody.
    b.raise_now("hot", "d3", "");
    assert_eq!(b.news(), ["ops raised d3 is hot"]);
    b.clear(&quiet);
    assert_eq!(b.kinds(), ["cleared"]);
}

#[test]
fn devices_without_a_site_are_pages_of_their_own_until_it_is_a_storm() {
    let mut b = Bench::new();
    for n in 0..100 {
        b.raise_now("hot", &format!("d{n}"), "");
    }
    assert_eq!(b.kinds().len(), 21, "20 devices and the storm");
    b.wait(10 * SECOND);
    let news = b.news();
    assert_eq!(news.len(), 1);
    assert!(
        news[0].contains("80 of 80 alerts firing, many places"),
        "{news:?}"
    );
    // When it has passed, one device is a page again.
    b.wait(MINUTE);
    b.raise_now("hot", "later", "");
    assert_eq!(b.news(), ["ops raised later is hot"]);
}

#[test]
fn a_storm_is_two_messages_a_site_at_microseconds_an_alert() {
    let mut b = Bench::new();
    b.settings.notifiers = vec!["ops".to_owned()];
    let notices: Vec<Notice> = (0..100_000)
        .map(|n| {
            let site = format!("site-{}", n % 50);
            raised(&alert("hot", &format!("device-{n}"), &site, b.now), b.now)
        })
        .collect();
    let began = std::time::Instant::now();
    for (n, block) in notices.chunks(1000).enumerate() {
        b.now += SECOND / 100;
        for notice in block {
            b.alerting.notice((n % 8) as u16, notice, None, b.now);
        }
        b.commit();
    }
    let took = began.elapsed();
    eprintln!(
        "{:.2} us a notice, {} bytes a row",
        took.as_secs_f64() * 1e6 / 100_000.0,
        b.rows.values().map(Vec::len).sum::<usize>() / b.rows.len()
    );
    b.wait(4 * MINUTE);
    let mut by_site: BTreeMap<String, u32> = BTreeMap::new();
    for o in &b.sent {
        *by_site.entry(o.message.labels["site"].clone()).or_default() += 1;
    }
    assert_eq!(by_site.len(), 50);
    assert!(by_site.values().all(|n| *n == 2), "{by_site:?}");
    let told = b.sent.iter().rev().take(50).map(|o| o.message.firing);
    assert_eq!(told.sum::<u32>(), 100_000, "none is lost");
    assert_eq!(b.marks.len(), 100_000);
    assert!(b.marks.values().all(|m| m.page.is_some()));
}

#[test]
fn the_true_begin_is_told_also_when_it_is_learned_later() {
    let mut b = Bench::new();
    let mut old = alert("hot", "d1", "s1", b.now - 6 * HOUR);
    old.reported = Time(b.now);
    b.raise(&old);
    let message = &b.sent[0].message;
    assert_eq!(
        (message.began, message.alerts[0].reported),
        (old.began.0, b.now)
    );
    b.kinds();
    let revised = |n: u32, began: i64, at| Notice {
        id: format!("{}:revised:{n}", old.id),
        kind: NoticeKind::Revised,
        at,
        alert: Alert {
            began: Time(began),
            ..old.clone()
        },
    };
    b.wait(HOUR);
    b.notices(0, &[revised(1, old.began.0 - HOUR, b.now)]);
    b.wait(MINUTE);
    assert_eq!(b.sent[0].message.began, old.began.0 - HOUR);
    assert_eq!(b.kinds(), ["updated"]);
    // Again, and one before it: nothing.
    b.notices(0, &[revised(1, old.began.0, b.now)]);
    b.wait(HOUR);
    assert!(b.news().is_empty());
}

#[test]
fn alerts_of_a_decommissioned_device_are_over() {
    let mut b = Bench::new();
    let a = b.raise_now("hot", "d1", "s1");
    b.raise_now("hot", "d2", "s1");
    b.wait(MINUTE);
    b.kinds();
    for _ in 0..2 {
        b.alerting.decommissioned(1, "d2", b.now, b.now);
        b.alerting.decommissioned(0, "d1", b.now, b.now);
        b.commit();
    }
    assert_eq!(b.pages[&1].firing, 1);
    b.clear(&a);
    b.alerting.decommissioned(0, "d2", b.now, b.now);
    b.commit();
    assert_eq!(b.kinds(), ["cleared"]);
}
