//! Which sensors there are below a sysfs root, and how each is read. Only files: what the kernel's
//! documents (ABI/stable/sysfs-class-hwmon, ABI/testing/sysfs-bus-iio, sysfs-class-thermal) promise.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::names::Parts;
use super::unit::{self, Unit};
use super::{Kind, SENSORS_MAX};

/// An attribute of sysfs is at most a page.
const ATTRIBUTE_BYTES_MAX: u64 = 4096;
/// Most entries looked at in one folder: far more than any chip has.
const ENTRIES_MAX: usize = 4096;

/// One number that can be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sensor {
    /// The file with the number.
    pub input: PathBuf,
    /// A file that holds 1 while the number means nothing.
    pub fault: Option<PathBuf>,
    /// Files with what is added to the number, and what the sum is multiplied by. They are read each
    /// time, because drivers that change their range by themselves change them.
    pub offset: Option<PathBuf>,
    pub scale: Option<PathBuf>,
    pub unit: Unit,
    pub parts: Parts,
}

impl Sensor {
    /// Reads the value in its base unit. None while the driver reports a fault.
    ///
    /// **Errors**: a text for people, with the file.
    pub(super) fn read(&self) -> Result<Option<f64>, String> {
        if let Some(fault) = &self.fault
            && text(fault).is_ok_and(|t| t == "1")
        {
            return Ok(None);
        }
        let raw = number(&self.input)?;
        let offset = self.offset.as_deref().map_or(Ok(0.0), number)?;
        let scale = self.scale.as_deref().map_or(Ok(1.0), number)?;
        let value = (raw + offset) * scale * self.unit.times / self.unit.divided_by;
        if !value.is_finite() {
            return Err(format!("{}: {value} is no number", self.input.display()));
        }
        Ok(Some(unit::rounded(value)))
    }
}

/// What a scan has found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub sensors: Vec<Sensor>,
    /// There are more sensors than are taken.
    pub too_many: bool,
}

/// Looks for sensors. What cannot be listed has none. The order is that of kinds, numbers of devices,
/// and channels, so that it does not depend on the file system.
pub(super) fn scan(root: &Path, kinds: &BTreeSet<Kind>) -> Found {
    let mut sensors = Vec::new();
    for kind in kinds {
        match kind {
            Kind::Thermal => folders(&root.join("class/thermal"), "thermal_zone")
                .iter()
                .for_each(|(dir, n)| thermal(dir, n, &mut sensors)),
            Kind::Hwmon => folders(&root.join("class/hwmon"), "hwmon")
                .iter()
                .for_each(|(dir, n)| hwmon(dir, n, &mut sensors)),
            Kind::Iio => folders(&root.join("bus/iio/devices"), "iio:device")
                .iter()
                .for_each(|(dir, n)| iio(dir, n, &mut sensors)),
        }
    }
    let too_many = sensors.len() > SENSORS_MAX;
    sensors.truncate(SENSORS_MAX);
    Found { sensors, too_many }
}

fn thermal(dir: &Path, number: &str, sensors: &mut Vec<Sensor>) {
    let (Ok(chip), true) = (text(&dir.join("type")), dir.join("temp").exists()) else {
        return;
    };
    sensors.push(Sensor {
        input: dir.join("temp"),
        fault: None,
        offset: None,
        scale: None,
        unit: unit::CELSIUS,
        parts: Parts {
            chip,
            place: format!("zone{number}"),
            folder: format!("zone{number}"),
            label: None,
            channel: String::new(),
        },
    });
}

fn hwmon(dir: &Path, number: &str, sensors: &mut Vec<Sensor>) {
    let folder = format!("hwmon{number}");
    let chip = text(&dir.join("name")).unwrap_or_else(|_| folder.clone());
    let place = last_name(&dir.join("device")).unwrap_or_else(|| folder.clone());
    let entries = entries(dir);
    for name in &entries {
        let (channel, average) = match (name.strip_suffix("_input"), name.strip_suffix("_average"))
        {
            (Some(channel), _) => (channel, false),
            (None, Some(channel)) => (channel, true),
            (None, None) => continue,
        };
        let kind = channel.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(unit) = unit::hwmon(kind).filter(|_| kind.len() < channel.len()) else {
            continue;
        };
        // Some chips only know the average of a power.
        if average && (kind != "power" || entries.contains(&format!("{channel}_input"))) {
            continue;
        }
        let beside = |end: &str| dir.join(format!("{channel}_{end}"));
        sensors.push(Sensor {
            input: dir.join(name),
            fault: Some(beside("fault")).filter(|p| p.exists()),
            offset: None,
            scale: None,
            unit,
            parts: Parts {
                chip: chip.clone(),
                place: place.clone(),
                folder: folder.clone(),
                label: text(&beside("label")).ok().filter(|l| !l.is_empty()),
                channel: channel.to_owned(),
            },
        });
    }
}

fn iio(dir: &Path, number: &str, sensors: &mut Vec<Sensor>) {
    let folder = format!("iio{number}");
    let chip = text(&dir.join("name")).unwrap_or_else(|_| folder.clone());
    // The folder is a link to …/<device>/iio:deviceN.
    let place = fs::canonicalize(dir)
        .ok()
        .and_then(|real| last_name(real.parent()?))
        .unwrap_or_else(|| folder.clone());
    let entries = entries(dir);
    for name in &entries {
        let Some(rest) = name.strip_prefix("in_") else {
            continue;
        };
        let (channel, raw) = match (rest.strip_suffix("_input"), rest.strip_suffix("_raw")) {
            (Some(channel), _) => (channel, false),
            (None, Some(channel)) => (channel, true),
            (None, None) => continue,
        };
        // What the driver has computed itself is better.
        if raw && entries.contains(&format!("in_{channel}_input")) {
            continue;
        }
        let Some(unit) = unit::iio(unit::iio_type(channel)) else {
            continue;
        };
        let shared = |what: &str| {
            raw.then(|| {
                shared_names(channel, what)
                    .into_iter()
                    .find(|n| entries.contains(n))
            })
            .flatten()
            .map(|n| dir.join(n))
        };
        sensors.push(Sensor {
            input: dir.join(name),
            fault: None,
            offset: shared("offset"),
            scale: shared("scale"),
            unit,
            parts: Parts {
                chip: chip.clone(),
                place: place.clone(),
                folder: folder.clone(),
                label: text(&dir.join(format!("in_{channel}_label")))
                    .ok()
                    .filter(|l| !l.is_empty()),
                channel: channel.to_owned(),
            },
        });
    }
}

/// Where a channel's scale or offset may be, the most special first: its own, then those shared by
/// modifier (`accel_x` → `accel`), by number (`voltage3` → `voltage`, `voltage0-voltage1` →
/// `voltage-voltage`), by all inputs, by the device.
fn shared_names(channel: &str, what: &str) -> Vec<String> {
    let mut names = vec![format!("in_{channel}_{what}")];
    let mut rest = channel;
    while let Some((shorter, _)) = rest.rsplit_once('_') {
        rest = shorter;
        names.push(format!("in_{rest}_{what}"));
    }
    let without_numbers: String = rest.chars().filter(|c| !c.is_ascii_digit()).collect();
    if without_numbers != rest {
        names.push(format!("in_{without_numbers}_{what}"));
    }
    let kind = unit::iio_type(channel);
    if kind != without_numbers {
        names.push(format!("in_{kind}_{what}"));
    }
    names.push(format!("in_{what}"));
    names.push(what.to_owned());
    names
}

/// Folders `<prefix><number>` with their number, in the order of the numbers.
fn folders(dir: &Path, prefix: &str) -> Vec<(PathBuf, String)> {
    let mut found: Vec<(u64, PathBuf, String)> = entries(dir)
        .iter()
        .filter_map(|name| {
            let number = name.strip_prefix(prefix)?;
            let n = number.parse().ok()?;
            Some((n, dir.join(name), number.to_owned()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path, n)| (path, n)).collect()
}

fn entries(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .take(ENTRIES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// The last part of where a link leads.
fn last_name(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    real.file_name()?.to_str().map(str::to_owned)
}

fn text(path: &Path) -> Result<String, String> {
    let error = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(error)?
        .take(ATTRIBUTE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(error)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn number(path: &Path) -> Result<f64, String> {
    let text = text(path)?;
    let start: String = text.chars().take(40).collect();
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(n),
        _ => Err(format!("{}: {start:?} is no number", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_files_are_looked_for_from_the_most_special() {
        assert_eq!(
            shared_names("accel_x", "scale"),
            ["in_accel_x_scale", "in_accel_scale", "in_scale", "scale"]
        );
        assert_eq!(
            shared_names("voltage0-voltage1", "offset"),
            [
                "in_voltage0-voltage1_offset",
                "in_voltage-voltage_offset",
                "in_voltage_offset",
                "in_offset",
                "offset"
            ]
        );
        assert_eq!(
            shared_names("voltage3_mean", "scale"),
            [
                "in_voltage3_mean_scale",
                "in_voltage3_scale",
                "in_voltage_scale",
                "in_scale",
                "scale"
            ]
        );
    }
}
