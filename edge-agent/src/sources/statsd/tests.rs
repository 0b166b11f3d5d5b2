use std::fmt::Write as _;

use event::DeviceId;
use proptest::prelude::*;

use super::*;
use crate::sources::decode::every_metric;

fn aggregator(device: Option<&str>) -> Aggregator {
    Aggregator::new(Settings {
        tags: TagRules {
            device_tag: "device".to_owned(),
            device: device.map(|d| DeviceId::new(d).unwrap()),
            attributes: vec![("site".to_owned(), MetricName::attribute("site").unwrap())],
        },
        mapping: every_metric(),
        interval: Duration::from_secs(10),
    })
}

fn show(readings: &[Reading]) -> Vec<String> {
    let show = |r: &Reading| match &r.value {
        Value::Number(n) => format!("{} {} {n}", r.device, r.metric),
        other => format!("{} {} {other:?}", r.device, r.metric),
    };
    readings.iter().map(show).collect()
}

/// What comes out after these packets, without anything refused.
#[track_caller]
fn gathered(aggregator: &mut Aggregator, packets: &[&str]) -> Vec<String> {
    let mut out = Decoded::default();
    for packet in packets {
        aggregator.take(packet.as_bytes(), &mut out);
    }
    assert_eq!(out.refused, []);
    let mut shown = show(&out.readings);
    shown.extend(show(&aggregator.flush()));
    shown
}

#[test]
fn each_type_is_gathered_in_its_way() {
    let mut a = aggregator(Some("me"));
    let got = gathered(
        &mut a,
        &[
            "hits:1|c\nhits:2|c|@0.1\r\nhits:-0.5|c\n\n",
            "level:7|g\nlevel:+3|g\nlevel:-1.5|g",
            "took:10|ms\ntook:30|ms|@0.5\ntook:20:40|h\nsize:5|d",
            "users:ann|s\nusers:bob|s\nusers:ann|s\nusers:a:b|s",
        ],
    );
    assert_eq!(
        got,
        [
            "me hits 20.5",
            "me level 8.5",
            "me size.count 1",
            "me size.min 5",
            "me size.max 5",
            "me size.mean 5",
            "me took.count 5",
            "me took.min 10",
            "me took.max 40",
            "me took.mean 26",
            "me users.distinct 3",
        ]
    );
    // Nothing was said: nothing is reported. A gauge goes on from where it was.
    assert!(gathered(&mut a, &[]).is_empty());
    let got = gathered(&mut a, &["level:+1|g", "hits:1|c", "level:-2|g\nnew:-4|g"]);
    assert_eq!(got, ["me hits 1", "me level 7.5", "me new -4"]);
}

#[test]
fn tags_name_devices_and_attributes() {
    let got = gathered(
        &mut aggregator(None),
        &[
            "x:1|c|#device:a,site:p1,urgent",
            "x:2|c|#site:p1,device:a|c:some-container",
            "x:5|c|@1|#device:b",
            "weird name/1:5|c|#host:c",
        ],
    );
    assert_eq!(
        got,
        ["a @site Text(\"p1\")", "a x 3", "b x 5", "c weird_name_1 5"]
    );
}

#[test]
fn bad_lines_say_why_and_change_nothing() {
    for (line, reason) in [
        ("x", "\"x\" is not like name:value|type"),
        ("x:1", "is not like name:value|type"),
        (":1|c", "the metric has no name"),
        ("x:|c", "\"\" is not a number"),
        ("x:1:two|ms", "\"two\" is not a number"),
        ("x:nan|g", "not a finite number"),
        ("x:1e999|c", "not a finite number"),
        ("x:1|m", "unknown type \"m\""),
        ("x:1|", "unknown type \"\""),
        ("x:1|c|@0", "sample rate \"0\""),
        ("x:1|c|@2", "sample rate \"2\""),
        ("x:1|c|@nan", "sample rate"),
        ("x:1|c|@1e-320", "sample rate"),
        ("x:1|g|T1700000000", "a time of its own is not taken"),
        (
            "_e{5,4}:title|text",
            "events and service checks are not taken",
        ),
        ("_sc|name|0", "events and service checks"),
        ("x:1|c|#device:a b", "device id \"a b\""),
    ] {
        let mut a = aggregator(Some("me"));
        let mut out = Decoded::default();
        a.take(format!("y:1|c\n{line}\ny:1|c").as_bytes(), &mut out);
        assert_eq!(out.lines, 3);
        let [(2, said)] = &out.refused[..] else {
            panic!("{line}: {:?}", out.refused);
        };
        assert!(said.contains(reason), "{line}: {said}");
        assert_eq!(show(&a.flush()), ["me y 2"], "{line}");
    }
    let mut out = Decoded::default();
    aggregator(None).take(b"x:1|c\n\xff:1|c", &mut out);
    assert!(out.refused[0].1.contains("no device"));
    assert!(out.refused[1].1.contains("not UTF-8"));
}

#[test]
fn one_name_has_one_type() {
    let mut a = aggregator(Some("me"));
    let mut out = Decoded::default();
    a.take(b"x:1|c\nx:2|g\nx:3|c", &mut out);
    assert!(
        out.refused[0].1.contains("x is a counter already"),
        "{:?}",
        out.refused
    );
    assert_eq!(show(&a.flush()), ["me x 4"]);
}

#[test]
fn names_members_and_idle_gauges_are_bounded() {
    let mut a = aggregator(Some("me"));
    let mut packet = String::new();
    for i in 0..METRICS_MAX + 3 {
        writeln!(packet, "m{i}:1|g").unwrap();
    }
    let mut out = Decoded::default();
    a.take(packet.as_bytes(), &mut out);
    assert_eq!(out.refused.len(), 3);
    assert!(out.refused[0].1.contains("send fewer different names"));
    assert_eq!(a.flush().len(), METRICS_MAX);
    // Gauges of which nothing is heard are forgotten; until then they keep their values.
    let mut a = aggregator(Some("me"));
    gathered(&mut a, &["g:1|g"]);
    for _ in 1..IDLE_INTERVALS_MAX {
        assert!(a.flush().is_empty());
    }
    assert_eq!(gathered(&mut a, &["g:+1|g"]), ["me g 2"]);
    for _ in 0..IDLE_INTERVALS_MAX {
        a.flush();
    }
    assert!(a.metrics.is_empty());

    let mut out = Decoded::default();
    for i in 0..MEMBERS_MAX + 2 {
        a.take(format!("s{}:{i}|s", i % 2).as_bytes(), &mut out);
    }
    assert_eq!(out.refused.len(), 2);
    assert_eq!(
        show(&a.flush()),
        ["me s0.distinct 32768", "me s1.distinct 32768"]
    );
    // The next interval has room again.
    assert_eq!(gathered(&mut a, &["s0:1|s"]), ["me s0.distinct 1"]);
}

#[test]
fn long_names_keep_their_suffix() {
    let name = "n".repeat(80);
    let got = gathered(&mut aggregator(Some("me")), &[&format!("{name}:1|ms")]);
    let names: Vec<_> = got.iter().map(|r| r.split(' ').nth(1).unwrap()).collect();
    assert!(
        names[0].ends_with("nn.count") && names[1].ends_with("nn.min"),
        "{names:?}"
    );
    assert!(names.iter().all(|n| n.len() <= NAME_BYTES_MAX));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic_and_readings_can_be_events(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(&b"ab:|@#,.+-0159ecgmsh\n"[..])],
            0..200,
        )
    ) {
        let mut a = aggregator(Some("me"));
        a.take(&bytes, &mut Decoded::default());
        for r in a.flush() {
            prop_assert!(MetricName::new(r.metric.as_str()).is_ok());
        }
    }
}
