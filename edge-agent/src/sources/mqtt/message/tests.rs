use super::*;
use crate::sources::TimeFormat;

fn topic(filter: &str) -> Topic {
    Topic {
        filter: Filter::new(filter).unwrap(),
        format: Format::Json,
        device: DeviceFrom::Level(2),
        devices: BTreeMap::new(),
        metric: MetricFrom::Last,
        on_off: false,
        retained: false,
        mapping: Mapping {
            device_column: None,
            device: None,
            time_column: None,
            time_format: TimeFormat::new("%Y-%m-%dT%H:%M:%S", "+01:00").unwrap(),
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
        },
    }
}

fn read(topic: &Topic, name: &str, payload: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let parsed = parse(topic, name, payload.as_bytes(), &mut Devices::default())?;
    let show = |r: &Reading| {
        let value = match &r.value {
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Text(t) => format!("{t:?}"),
        };
        let time = r.time.map_or("now".to_owned(), |t| t.to_string());
        format!("{} {} {value} {time}", r.device, r.metric)
    };
    Ok((parsed.readings.iter().map(show).collect(), parsed.refused))
}

#[track_caller]
fn check(topic: &Topic, name: &str, payload: &str, expected: &[&str]) {
    let (readings, refused) = read(topic, name, payload).unwrap();
    assert_eq!(readings, expected);
    assert_eq!(refused, [] as [&str; 0]);
}

const TASMOTA: &str = r#"{"Time":"2024-01-01T00:00:00","ENERGY":{"Power":12,"Voltage":230,
    "Total":1.5},"DS18B20":{"Id":"01","Temperature":20.6},"TempUnit":"C"}"#;

#[test]
fn zigbee2mqtt_and_tasmota_are_read() {
    let mut z = topic("zigbee2mqtt/+");
    let payload = r#"{"temperature":21.3,"humidity":45,"battery":97,"occupancy":true,"state":"ON",
        "action":null,"update":{"state":"idle","installed_version":5}}"#;
    let mut expected = vec![
        "Living-room battery 97 now",
        "Living-room humidity 45 now",
        "Living-room occupancy true now",
        "Living-room state \"ON\" now",
        "Living-room temperature 21.3 now",
        "Living-room update.installed_version 5 now",
        "Living-room update.state \"idle\" now",
    ];
    check(&z, "zigbee2mqtt/Living room", payload, &expected);
    z.on_off = true;
    z.mapping.skip = vec!["update".to_owned()];
    expected[3] = "Living-room state true now";
    check(&z, "zigbee2mqtt/Living room", payload, &expected[..5]);

    let mut t = topic("tele/+/SENSOR");
    t.mapping.time_column = Some("Time".to_owned());
    t.mapping.skip = vec!["TempUnit".to_owned(), "DS18B20.Id".to_owned()];
    let rename = BTreeMap::from([("ENERGY.Power".to_owned(), "power_watts".to_owned())]);
    t.mapping.rename = Mapping::renames(&rename).unwrap();
    let time = "2023-12-31T23:00:00Z";
    let expected = [
        format!("plug DS18B20.Temperature 20.6 {time}"),
        format!("plug power_watts 12 {time}"),
        format!("plug ENERGY.Total 1.5 {time}"),
        format!("plug ENERGY.Voltage 230 {time}"),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let (readings, _) = read(&t, "tele/plug/SENSOR", TASMOTA).unwrap();
    let start: Vec<String> = readings
        .iter()
        .map(|r| r.replace(".000000Z", "Z"))
        .collect();
    assert_eq!(start, expected);
    t.mapping.metrics = vec!["ENERGY.Power".to_owned()];
    let (readings, _) = read(&t, "tele/plug/SENSOR", TASMOTA).unwrap();
    assert_eq!(readings.len(), 1, "{readings:?}");
}

#[test]
fn single_values_take_their_name_from_the_topic() {
    let mut t = topic("esp/+/sensor/+/state");
    t.format = Format::Value;
    t.metric = MetricFrom::Level(4);
    check(
        &t,
        "esp/a.b/sensor/temp/state",
        " 21.5 ",
        &["a-b temp 21.5 now"],
    );
    check(&t, "esp/a/sensor/x y/state", "true", &["a x_y true now"]);
    check(
        &t,
        "esp/a/sensor/door/state",
        "open",
        &["a door \"open\" now"],
    );
    check(&t, "esp/a/sensor/door/state", "", &[]);
    t.on_off = true;
    check(
        &t,
        "esp/a/sensor/relay/state",
        "off",
        &["a relay false now"],
    );
    t.metric = MetricFrom::Fixed("level".to_owned());
    t.device = DeviceFrom::Fixed(DeviceId::new("tank").unwrap());
    check(&t, "esp/a/sensor/x/state", "1e2", &["tank level 100 now"]);
    t.metric = MetricFrom::Last;
    check(&t, "esp/a/sensor/x/state", "1", &["tank state 1 now"]);
    assert!(read(&t, "esp/a/sensor/x/state", "NaN").is_err());
    assert!(parse(&t, "esp/a", b"\xff", &mut Devices::default()).is_err());
}

#[test]
fn devices_come_from_keys_and_names() {
    let mut t = topic("ble/+");
    t.device = DeviceFrom::Key("sensor.mac".to_owned());
    check(
        &t,
        "ble/x",
        r#"{"sensor":{"mac":"A4:C1"},"t":1}"#,
        &["A4:C1 t 1 now"],
    );
    assert!(
        read(&t, "ble/x", r#"{"t":1}"#)
            .unwrap_err()
            .contains("no \"sensor.mac\"")
    );
    t.devices = BTreeMap::from([("A4:C1".to_owned(), DeviceId::new("fridge").unwrap())]);
    check(
        &t,
        "ble/x",
        r#"{"sensor":{"mac":"A4:C1"},"t":1}"#,
        &["fridge t 1 now"],
    );
    t.device = DeviceFrom::Level(3);
    assert!(read(&t, "ble/x", "{}").unwrap_err().contains("no level 3"));
}

#[test]
fn lists_are_numbered_and_what_is_too_much_is_refused() {
    let t = topic("t/+");
    check(
        &t,
        "t/d",
        r#"{"E":{"P":[12,{"a":1}]},"b":[]}"#,
        &["d E.P.0 12 now", "d E.P.1.a 1 now"],
    );
    let (readings, refused) = read(
        &t,
        "t/d",
        r#"{"a":{"b":{"c":{"d":{"e":{"f":1}}}}},"l":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7],
            "x y":1,"x_y":2,"n":3}"#,
    )
    .unwrap();
    assert_eq!(readings, ["d n 3 now", "d x_y 1 now"]);
    assert_eq!(refused.len(), 3, "{refused:?}");
    for (payload, reason) in [
        ("21.5", "format = \"value\""),
        ("[1]", "no object"),
        ("{\"a\":1", "EOF"),
        ("{\"a\":1e400}", "number out of range"),
    ] {
        let error = read(&t, "t/d", payload).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let many: Vec<String> = (0..1025).map(|i| format!("\"m{i}\":1")).collect();
    assert!(read(&t, "t/d", &format!("{{{}}}", many.join(","))).is_err());
    let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    assert!(read(&t, "t/d", &deep).is_err());
}

#[test]
fn names_become_ids_and_clashes_are_told() {
    for (name, id) in [
        ("kitchen", "kitchen"),
        (" Living room ", "Living-room"),
        ("0x00158d0001", "0x00158d0001"),
        ("a.b*c>d+e#f/g\th", "a-b-c-d-e-f-g-h"),
        ("Küche", "Küche"),
    ] {
        assert_eq!(device_id(name).unwrap().as_str(), id);
    }
    assert!(device_id("  ").is_err());
    let long = ["ü".repeat(80), format!("{}x", "ü".repeat(79))];
    let ids = long.each_ref().map(|n| device_id(n).unwrap());
    assert!(ids[0] != ids[1] && ids[0].as_str().len() <= event::id::ID_BYTES_MAX);
    let (t, mut devices) = (topic("t/+"), Devices::default());
    for name in ["a b", "a-b", "a b"] {
        devices.get(&t, name).unwrap();
    }
    assert_eq!(devices.told.len(), 1);
    assert!(devices.told[0].contains("\"a b\" and \"a-b\" both become the device \"a-b\""));
    for i in 0..DEVICES_MAX {
        let _ = devices.get(&t, &format!("d{i}"));
    }
    assert!(devices.get(&t, "more").unwrap_err().contains("too wide"));
    assert!(devices.get(&t, "d1").is_ok());
}
