//! What sensors are called: short where that is clear, longer where two would be called the same.

use std::collections::{BTreeMap, BTreeSet};

use event::id::NAME_BYTES_MAX;

use super::scan::Sensor;

/// What a name is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// What the driver calls the chip or zone.
    pub chip: String,
    /// Where it is, as `1-0076` (bus and address). The same after every start.
    pub place: String,
    /// Its folder, as `hwmon3`. Differs for sure, but the kernel counts in the order of probing.
    pub folder: String,
    /// What the driver calls the channel.
    pub label: Option<String>,
    /// The channel, as `temp1` or `accel_x`; empty where there is only one.
    pub channel: String,
}

/// Each level tells more.
const LEVELS: usize = 4;

/// Names all sensors. Where some would be called the same, all of these get the place of their chip,
/// then the channel, then their folder. `ambiguous` keeps the names that were so once: a sensor that
/// vanishes does not give another one its name back.
pub(super) fn assign(sensors: &[Sensor], ambiguous: &mut BTreeSet<String>) -> Vec<String> {
    let mut levels = vec![0; sensors.len()];
    loop {
        let names: Vec<String> = sensors
            .iter()
            .zip(&levels)
            .map(|(s, l)| name(s, *l))
            .collect();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for name in &names {
            *counts.entry(name).or_default() += 1;
        }
        for (name, n) in &counts {
            if *n > 1 {
                ambiguous.insert((*name).to_owned());
            }
        }
        let mut changed = false;
        for (name, level) in names.iter().zip(&mut levels) {
            if ambiguous.contains(name) && *level + 1 < LEVELS {
                *level += 1;
                changed = true;
            }
        }
        if !changed {
            return names;
        }
    }
}

fn name(sensor: &Sensor, level: usize) -> String {
    let p = &sensor.parts;
    let chip = match level {
        0 => clean(&p.chip),
        1 | 2 => format!("{}-{}", clean(&p.chip), clean(&p.place)),
        _ => format!("{}-{}", clean(&p.chip), clean(&p.folder)),
    };
    let channel = clean(&p.channel);
    let channel = match &p.label {
        Some(label) if level < 2 => clean(label),
        Some(label) => format!("{}_{channel}", clean(label)),
        None => channel,
    };
    let parts = [chip.as_str(), &channel, sensor.unit.name];
    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    shortened(&parts.join("_"), sensor.unit.name)
}

/// What no metric name can hold becomes `_`, once for several in a row.
fn clean(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
            name.push(c);
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    name.trim_matches('_').to_owned()
}

/// A name that is too long is cut before its unit; a hash of the whole keeps it apart from others.
fn shortened(name: &str, unit: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let hash = crate::sources::fnv1a(name.as_bytes());
    let end = format!("_{:08x}_{unit}", hash as u32);
    // The name is ASCII by now.
    let start = name.get(..NAME_BYTES_MAX.saturating_sub(end.len()));
    format!("{}{end}", start.unwrap_or(""))
        .trim_end_matches('_')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::unit;
    use super::*;

    fn sensor(chip: &str, place: &str, label: Option<&str>, channel: &str) -> Sensor {
        Sensor {
            input: "x".into(),
            fault: None,
            offset: None,
            scale: None,
            unit: unit::CELSIUS,
            parts: Parts {
                chip: chip.to_owned(),
                place: place.to_owned(),
                folder: format!("hwmon-{place}-{channel}"),
                label: label.map(str::to_owned),
                channel: channel.to_owned(),
            },
        }
    }

    #[test]
    fn equal_names_get_the_place_then_the_channel_and_keep_it() {
        let mut ambiguous = BTreeSet::new();
        let a = sensor("lm75", "1-0048", None, "temp1");
        let b = sensor("lm75", "1-0049", None, "temp1");
        let c = sensor("core temp (x)", "c", Some("Core #0"), "temp2");
        let d = sensor("core temp (x)", "c", Some("Core #0"), "temp3");
        assert_eq!(
            assign(std::slice::from_ref(&a), &mut ambiguous),
            ["lm75_temp1_celsius"]
        );
        let all = [a.clone(), b.clone(), c, d];
        let names = assign(&all, &mut ambiguous);
        assert_eq!(
            names,
            [
                "lm75-1-0048_temp1_celsius",
                "lm75-1-0049_temp1_celsius",
                "core_temp_x-c_Core_0_temp2_celsius",
                "core_temp_x-c_Core_0_temp3_celsius"
            ]
        );
        // The order does not matter, and what was ambiguous once stays so.
        assert_eq!(assign(&[b, a.clone()], &mut BTreeSet::new())[1], names[0]);
        assert_eq!(assign(&[a], &mut ambiguous), ["lm75-1-0048_temp1_celsius"]);
    }

    #[test]
    fn the_same_place_twice_still_gives_two_names_and_long_ones_are_cut() {
        let mut one = sensor("x", "p", None, "temp1");
        let mut two = one.clone();
        one.parts.folder = "hwmon1".to_owned();
        two.parts.folder = "hwmon2".to_owned();
        let names = assign(&[one, two], &mut BTreeSet::new());
        assert_eq!(names, ["x-hwmon1_temp1_celsius", "x-hwmon2_temp1_celsius"]);
        let long = "l".repeat(90);
        let other = format!("{long}m");
        let both = [long, other].map(|l| sensor("x", "p", Some(&l), "temp1"));
        let names = assign(&both, &mut BTreeSet::new());
        assert!(names[0] != names[1] && names.iter().all(|n| n.len() == NAME_BYTES_MAX));
        assert!(names[0].starts_with("x_lll") && names[0].ends_with("_celsius"));
    }
}
