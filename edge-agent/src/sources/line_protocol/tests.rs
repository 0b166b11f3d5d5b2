use std::collections::BTreeMap;

use event::{DeviceId, MetricName};

use super::*;
use crate::sources::decode::every_metric;

fn settings() -> Settings {
    Settings {
        tags: TagRules {
            device_tag: "device".to_owned(),
            device: Some(DeviceId::new("me").unwrap()),
            attributes: vec![("site".to_owned(), MetricName::attribute("site").unwrap())],
        },
        precision: Precision::Nanos,
        names: MetricNames::MeasurementField,
        mapping: every_metric(),
    }
}

fn read(settings: Settings, lines: &str) -> (Vec<String>, Vec<(u64, String)>) {
    let mut out = Decoded::default();
    LineProtocol::new(settings).read(lines.as_bytes(), &mut out);
    let show = |r: &Reading| {
        let time = r.time.map_or("-".to_owned(), |t| t.as_micros().to_string());
        format!("{} {} {time} {:?}", r.device, r.metric, r.value)
    };
    (out.readings.iter().map(show).collect(), out.refused)
}

#[test]
fn lines_become_readings() {
    let (readings, refused) = read(
        settings(),
        "weather,device=d1,site=p1,ignored=x temp=21.5,n=-3i,u=7u,ok=T,door=\"open\" 1700000000123456789\n\
         temp,host=h1 value=20\n\
         a\\ b%,site=p2 c/d=1 1\n",
    );
    assert_eq!(
        readings,
        [
            "d1 @site 1700000000123456 Text(\"p1\")",
            "d1 weather.temp 1700000000123456 Number(21.5)",
            "d1 weather.n 1700000000123456 Number(-3.0)",
            "d1 weather.u 1700000000123456 Number(7.0)",
            "d1 weather.ok 1700000000123456 Bool(true)",
            "d1 weather.door 1700000000123456 Text(\"open\")",
            "h1 temp - Number(20.0)",
            "me @site 0 Text(\"p2\")",
            "me a_b_.c_d 0 Number(1.0)",
        ]
    );
    assert_eq!(refused, []);
}

#[test]
fn precision_is_the_unit_of_times() {
    for (precision, time, expected) in [
        (Precision::Nanos, "1999", Some(1)),
        (Precision::Nanos, "-1", Some(-1)),
        (Precision::Micros, "17", Some(17)),
        (Precision::Millis, "17", Some(17_000)),
        (Precision::Seconds, "17", Some(17_000_000)),
        (Precision::Seconds, "1700000000000000000", None),
        (Precision::Millis, "-9223372036854775808", None),
    ] {
        let settings = Settings {
            precision,
            ..settings()
        };
        let (readings, refused) = read(settings, &format!("m value=1 {time}"));
        match expected {
            Some(micros) => assert_eq!(readings, [format!("me m {micros} Number(1.0)")]),
            None => assert!(
                refused[0].1.contains("is `precision` right?"),
                "{refused:?}"
            ),
        }
    }
}

#[test]
fn names_may_be_the_fields_alone_and_are_mapped() {
    let mut named = settings();
    named.names = MetricNames::Field;
    let (readings, _) = read(named, "m value=1,t=2");
    assert_eq!(readings, ["me m - Number(1.0)", "me t - Number(2.0)"]);
    let mut mapped = settings();
    mapped.mapping.skip = vec!["m.x".to_owned()];
    mapped.mapping.rename = BTreeMap::from([("m.t".to_owned(), MetricName::new("temp").unwrap())]);
    let (readings, refused) = read(mapped, "m x=1,t=2,y=3");
    assert_eq!(readings, ["me temp - Number(2.0)", "me m.y - Number(3.0)"]);
    assert_eq!(refused, []);
}

#[test]
fn bad_fields_are_refused_one_by_one_and_bad_lines_whole() {
    let mut alone = settings();
    alone.tags.device = None;
    let (readings, refused) = read(
        alone,
        "m,device=d f=1e400,g=2,h=open\n\nm f=1\nm,device=a\\ b f=1\nbad\nm,host=h f=1",
    );
    assert_eq!(readings, ["d m.g - Number(2.0)", "h m.f - Number(1.0)"]);
    let reasons = [
        (1, "f: \"1e400\" is not a finite number"),
        (1, "h: \"open\" is neither"),
        (3, "no device: neither a tag \"device\" nor \"host\""),
        (4, "tag \"device\": device id \"a b\""),
        (5, "no fields"),
    ];
    assert_eq!(refused.len(), reasons.len(), "{refused:?}");
    for ((line, reason), (at, part)) in refused.iter().zip(reasons) {
        assert!(*line == at && reason.contains(part), "{line}: {reason}");
    }
}
