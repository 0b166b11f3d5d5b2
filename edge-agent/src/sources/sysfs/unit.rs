//! Units: what a channel's number means, and how its base unit is called in a metric's name.

/// A unit: number × `times` ÷ `divided_by` is in what `name` says. Both, because a division by 1000
/// gives the nearest number, a multiplication by 0.001 does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    /// End of the metric's name; empty where the number has no unit.
    pub name: &'static str,
    pub times: f64,
    pub divided_by: f64,
}

const fn unit(name: &'static str, times: f64, divided_by: f64) -> Unit {
    Unit {
        name,
        times,
        divided_by,
    }
}

/// Thousandths of a degree.
pub(super) const CELSIUS: Unit = unit("celsius", 1.0, 1e3);

/// The unit of a kind of hwmon channel; none of one that is not taken.
pub(super) fn hwmon(kind: &str) -> Option<Unit> {
    Some(match kind {
        "temp" => CELSIUS,
        "in" => unit("volts", 1.0, 1e3),
        "curr" => unit("amperes", 1.0, 1e3),
        "power" => unit("watts", 1.0, 1e6),
        "fan" => unit("rpm", 1.0, 1.0),
        "humidity" => unit("percent", 1.0, 1e3),
        _ => return None,
    })
}

/// The type of an IIO channel: `voltage` of `voltage0-voltage1`, `accel` of `accel_x`.
pub(super) fn iio_type(channel: &str) -> &str {
    let end = channel.find(|c: char| !c.is_ascii_alphabetic());
    channel.get(..end.unwrap_or(channel.len())).unwrap_or("")
}

/// The unit of a type of IIO channel after offset and scale, as the kernel's ABI says. Types that have
/// none, or that the table does not know, are taken as they are. None of what is no measurement.
pub(super) fn iio(kind: &str) -> Option<Unit> {
    Some(match kind {
        "" | "timestamp" => return None,
        "temp" => CELSIUS,
        "voltage" | "altvoltage" => unit("volts", 1.0, 1e3),
        "current" | "altcurrent" => unit("amperes", 1.0, 1e3),
        "power" => unit("watts", 1.0, 1e3),
        "energy" => unit("joules", 1.0, 1.0),
        "resistance" => unit("ohms", 1.0, 1.0),
        "capacitance" => unit("farads", 1.0, 1e9),
        "humidityrelative" => unit("percent", 1.0, 1e3),
        "pressure" => unit("pascals", 1e3, 1.0),
        "illuminance" => unit("lux", 1.0, 1.0),
        "accel" | "gravity" => unit("m_per_s2", 1.0, 1.0),
        "anglvel" => unit("rad_per_s", 1.0, 1.0),
        "angl" | "deltaangl" | "phase" => unit("radians", 1.0, 1.0),
        "incli" => unit("degrees", 1.0, 1.0),
        "magn" => unit("gauss", 1.0, 1.0),
        "velocity" | "deltavelocity" => unit("m_per_s", 1.0, 1.0),
        "distance" => unit("meters", 1.0, 1.0),
        "concentration" | "activity" => unit("percent", 1.0, 1.0),
        "massconcentration" => unit("ug_per_m3", 1.0, 1.0),
        "electricalconductivity" => unit("s_per_m", 1.0, 1.0),
        _ => unit("", 1.0, 1.0),
    })
}

/// Nine digits are more than any sensor has, and leave no dust of binary fractions (`20.6`, not
/// `20.600000000000001`), which would cost bytes on the wire.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_units_are_those_of_the_abi() {
        for (channel, kind) in [
            ("temp", "temp"),
            ("accel_x", "accel"),
            ("voltage0-voltage1", "voltage"),
            ("voltage3_vcc", "voltage"),
            ("humidityrelative", "humidityrelative"),
            ("0", ""),
        ] {
            assert_eq!(iio_type(channel), kind);
        }
        assert_eq!(iio("timestamp"), None);
        assert_eq!(iio("proximity").map(|u| u.name), Some(""));
        assert_eq!(hwmon("intrusion"), None);
    }

    #[test]
    fn values_have_no_dust() {
        assert_eq!(rounded(0.1 + 0.2), 0.3);
        assert_eq!(rounded(101_325.123), 101_325.123);
        assert_eq!(rounded(0.0), 0.0);
        assert_eq!(rounded(-1.0 / 3.0), -0.333_333_333);
    }
}
