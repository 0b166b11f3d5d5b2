//! Against trees that look like the kernel's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use crate::sources::TimeFormat;

/// Writes files below `root`; folders are made.
fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
}

/// A link as the kernel makes them: `class/hwmon/hwmon0` to the device's folder.
fn link(root: &Path, from: &str, to: &str) {
    let from = root.join(from);
    fs::create_dir_all(from.parent().unwrap()).unwrap();
    symlink(root.join(to), from).unwrap();
}

fn settings(root: &Path) -> Settings {
    Settings {
        root: root.to_owned(),
        device: DeviceId::new("gw").unwrap(),
        interval: Duration::from_millis(10),
        kinds: [Kind::Thermal, Kind::Hwmon, Kind::Iio].into(),
        mapping: Mapping {
            device_column: None,
            device: None,
            time_column: None,
            time_format: TimeFormat::Millis,
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
        },
    }
}

fn shown(round: &Round) -> Vec<String> {
    let show = |r: &Reading| format!("{} {}", r.metric, r.value.as_number().unwrap());
    round.readings.iter().map(show).collect()
}

fn read(settings: Settings) -> (Vec<String>, Vec<String>) {
    let round = Sensors::new(settings).round(Instant::now());
    (shown(&round), round.told)
}

/// A board with two thermal zones of one type, a chip of each sort, two thermometers of one sort.
fn board(root: &Path) {
    write(
        root,
        &[
            ("class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("class/thermal/thermal_zone0/temp", "48312"),
            ("class/thermal/thermal_zone1/type", "acpitz"),
            ("class/thermal/thermal_zone1/temp", "-5000"),
            ("class/thermal/thermal_zone10/type", "acpitz"),
            ("class/thermal/thermal_zone10/temp", "27800"),
            ("class/thermal/cooling_device0/type", "fan"),
            ("devices/i2c/1-0040/hwmon/hwmon3/name", "ina219"),
            ("devices/i2c/1-0040/hwmon/hwmon3/in0_input", "12"),
            ("devices/i2c/1-0040/hwmon/hwmon3/in1_input", "12008"),
            ("devices/i2c/1-0040/hwmon/hwmon3/in1_label", "V bus (12 V)"),
            ("devices/i2c/1-0040/hwmon/hwmon3/curr1_input", "-250"),
            ("devices/i2c/1-0040/hwmon/hwmon3/power1_input", "3002000"),
            ("devices/i2c/1-0040/hwmon/hwmon3/power1_average", "1"),
            ("devices/i2c/1-0040/hwmon/hwmon3/power2_average", "1500000"),
            ("devices/i2c/1-0040/hwmon/hwmon3/shunt_resistor", "10000"),
            ("devices/i2c/1-0040/hwmon/hwmon3/fan1_input", "1200"),
            ("devices/i2c/1-0040/hwmon/hwmon3/humidity1_input", "45120"),
            ("devices/i2c/1-0040/hwmon/hwmon3/temp1_input", "1"),
            ("devices/i2c/1-0040/hwmon/hwmon3/temp1_fault", "1"),
            ("devices/i2c/1-0048/hwmon/hwmon1/name", "lm75"),
            ("devices/i2c/1-0048/hwmon/hwmon1/temp1_input", "20600"),
            ("devices/i2c/1-0049/hwmon/hwmon2/name", "lm75"),
            ("devices/i2c/1-0049/hwmon/hwmon2/temp1_input", "21625"),
            ("devices/i2c/1-0076/iio:device0/name", "bme280"),
            ("devices/i2c/1-0076/iio:device0/in_temp_input", "20600"),
            ("devices/i2c/1-0076/iio:device0/in_temp_raw", "9"),
            (
                "devices/i2c/1-0076/iio:device0/in_pressure_input",
                "100.714218750",
            ),
            (
                "devices/i2c/1-0076/iio:device0/in_humidityrelative_input",
                "45120",
            ),
            ("devices/i2c/1-0068/iio:device1/name", "mpu6050"),
            ("devices/i2c/1-0068/iio:device1/in_accel_x_raw", "-1024"),
            ("devices/i2c/1-0068/iio:device1/in_accel_y_raw", "2048"),
            ("devices/i2c/1-0068/iio:device1/in_accel_y_label", "up"),
            ("devices/i2c/1-0068/iio:device1/in_accel_scale", "0.000598"),
            ("devices/i2c/1-0068/iio:device1/in_anglvel_z_raw", "100"),
            (
                "devices/i2c/1-0068/iio:device1/in_anglvel_scale",
                "0.001064724",
            ),
            ("devices/i2c/1-0068/iio:device1/in_temp_raw", "-1200"),
            ("devices/i2c/1-0068/iio:device1/in_temp_offset", "12420"),
            ("devices/i2c/1-0068/iio:device1/in_temp_scale", "2.941176"),
            ("devices/i2c/1-0068/iio:device1/in_timestamp_raw", "77"),
            (
                "devices/i2c/1-0068/iio:device1/in_voltage0-voltage1_raw",
                "-16",
            ),
            (
                "devices/i2c/1-0068/iio:device1/in_voltage-voltage_scale",
                "0.125",
            ),
            ("devices/i2c/1-0068/iio:device1/out_voltage0_raw", "1"),
        ],
    );
    for (n, address) in [(3, "1-0040"), (1, "1-0048"), (2, "1-0049")] {
        let folder = format!("devices/i2c/{address}/hwmon/hwmon{n}");
        link(root, &format!("class/hwmon/hwmon{n}"), &folder);
        link(
            root,
            &format!("{folder}/device"),
            &format!("devices/i2c/{address}"),
        );
    }
    for (n, address) in [(0, "1-0076"), (1, "1-0068")] {
        let device = format!("iio:device{n}");
        let folder = format!("devices/i2c/{address}/{device}");
        link(root, &format!("bus/iio/devices/{device}"), &folder);
    }
    write(root, &[("bus/iio/devices/trigger0/name", "x")]);
}

#[test]
fn every_sort_of_sensor_is_read_in_base_units() {
    let dir = tempfile::tempdir().unwrap();
    board(dir.path());
    let (readings, told) = read(settings(dir.path()));
    assert_eq!(
        readings,
        [
            "cpu-thermal_celsius 48.312",
            "acpitz-zone1_celsius -5",
            "acpitz-zone10_celsius 27.8",
            "lm75-1-0048_temp1_celsius 20.6",
            "lm75-1-0049_temp1_celsius 21.625",
            "ina219_curr1_amperes -0.25",
            "ina219_fan1_rpm 1200",
            "ina219_humidity1_percent 45.12",
            "ina219_in0_volts 0.012",
            "ina219_V_bus_12_V_volts 12.008",
            "ina219_power1_watts 3.002",
            "ina219_power2_watts 1.5",
            "bme280_humidityrelative_percent 45.12",
            "bme280_pressure_pascals 100714.219",
            "bme280_temp_celsius 20.6",
            "mpu6050_accel_x_m_per_s2 -0.612352",
            "mpu6050_up_m_per_s2 1.224704",
            "mpu6050_anglvel_z_rad_per_s 0.1064724",
            "mpu6050_temp_celsius 32.9999947",
            "mpu6050_voltage0-voltage1_volts -0.002",
        ]
    );
    assert_eq!(told, [] as [&str; 0]);
}

#[test]
fn names_do_not_depend_on_the_order_of_probing() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (root, numbers) in [(one.path(), [0, 1]), (other.path(), [7, 2])] {
        for (n, (address, t)) in numbers
            .into_iter()
            .zip([("1-0048", "1000"), ("1-0049", "2000")])
        {
            let folder = format!("devices/{address}/hwmon/hwmon{n}");
            write(
                root,
                &[
                    (&format!("{folder}/name"), "lm75"),
                    (&format!("{folder}/temp1_input"), t),
                ],
            );
            link(
                root,
                &format!("{folder}/device"),
                &format!("devices/{address}"),
            );
            link(root, &format!("class/hwmon/hwmon{n}"), &folder);
        }
    }
    let [mut a, mut b] = [one.path(), other.path()].map(|root| read(settings(root)).0);
    a.sort();
    b.sort();
    assert_eq!(a, b);
}

#[test]
fn kinds_metrics_skip_and_rename_choose() {
    let dir = tempfile::tempdir().unwrap();
    board(dir.path());
    let mut s = settings(dir.path());
    s.kinds = [Kind::Thermal].into();
    s.mapping.skip = vec!["acpitz-zone1_celsius".to_owned()];
    let rename = [("acpitz-zone10_celsius", "board_celsius")];
    let rename = rename.map(|(a, b)| (a.to_owned(), b.to_owned()));
    s.mapping.rename = Mapping::renames(&BTreeMap::from(rename)).unwrap();
    assert_eq!(
        read(s.clone()).0,
        ["cpu-thermal_celsius 48.312", "board_celsius 27.8"]
    );
    s.mapping.metrics = vec!["cpu-thermal_celsius".to_owned()];
    assert_eq!(read(s.clone()).0, ["cpu-thermal_celsius 48.312"]);
    // A new name that another sensor has already.
    s.mapping.metrics.clear();
    let rename = [("acpitz-zone10_celsius", "cpu-thermal_celsius")];
    let rename = rename.map(|(a, b)| (a.to_owned(), b.to_owned()));
    s.mapping.rename = Mapping::renames(&BTreeMap::from(rename)).unwrap();
    let (readings, told) = read(s);
    assert_eq!(readings, ["cpu-thermal_celsius 48.312"]);
    assert!(
        told[0].contains("which is taken; rename or skip it"),
        "{told:?}"
    );
}

#[test]
fn a_sensor_that_fails_is_told_once_and_new_ones_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let zone = |n: u32| format!("class/thermal/thermal_zone{n}");
    for n in 0..3 {
        let (kind, temp) = (format!("{}/type", zone(n)), format!("{}/temp", zone(n)));
        write(dir.path(), &[(&kind, &format!("z{n}")), (&temp, "1000")]);
    }
    // A folder fails to be read (EISDIR), as a driver does with EIO.
    fs::remove_file(dir.path().join(zone(0)).join("temp")).unwrap();
    fs::create_dir(dir.path().join(zone(0)).join("temp")).unwrap();
    write(dir.path(), &[(&format!("{}/temp", zone(1)), "no number")]);
    let mut sensors = Sensors::new(settings(dir.path()));
    let start = Instant::now();
    let first = sensors.round(start);
    assert_eq!(shown(&first), ["z2_celsius 1"]);
    assert_eq!(first.told.len(), 2, "{:?}", first.told);
    assert!(
        first.told[0].contains("z0_celsius cannot be read") && first.told[0].contains("/temp:")
    );
    assert!(first.told[1].contains("\"no number\" is no number"));
    // It vanishes; another one comes, and one works again.
    fs::remove_dir_all(dir.path().join(zone(2))).unwrap();
    write(dir.path(), &[("class/thermal/thermal_zone9/type", "z9")]);
    write(dir.path(), &[("class/thermal/thermal_zone9/temp", "9000")]);
    write(dir.path(), &[(&format!("{}/temp", zone(1)), "1500")]);
    let second = sensors.round(start + Duration::from_secs(1));
    assert_eq!(shown(&second), ["z1_celsius 1.5"]);
    assert_eq!(second.told.len(), 1, "{:?}", second.told);
    assert!(second.told[0].contains("z2_celsius cannot be read"));
    assert_eq!(
        sensors.round(start + Duration::from_secs(2)).told,
        [] as [&str; 0]
    );
    let third = sensors.round(start + RESCAN);
    assert_eq!(shown(&third), ["z1_celsius 1.5", "z9_celsius 9"]);
    assert_eq!(third.told, [] as [&str; 0]);
}

#[test]
fn no_sensors_are_told_once_with_the_place() {
    let (readings, told) = read(settings(Path::new("/nowhere")));
    assert_eq!(readings, [] as [&str; 0]);
    assert!(told.len() == 1 && told[0].contains("/nowhere"), "{told:?}");
}

#[tokio::test]
async fn rounds_go_on_until_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    board(dir.path());
    let inbox: Arc<Inbox> = Inbox::new(inbox::Settings::default(), Clock::new(Quality::Ntp));
    let feed = Feed::new(inbox.clone(), "sysfs".to_owned(), &BTreeMap::new()).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(settings(dir.path()), feed, stop.clone()));
    let mut samples = 0;
    while samples < 60 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (_, pending) = inbox.wait(Some(Duration::ZERO), true);
        if let Some(pending) = pending {
            samples += pending.samples.len();
            inbox.stored(pending);
        }
    }
    stop.cancel();
    let counts = running.await.unwrap();
    assert!(counts.rows >= 3 && counts.readings >= 60, "{counts:?}");
    assert_eq!(counts.bad, 0);
}
