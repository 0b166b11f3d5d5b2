//! Durations as people write them: `500ms`, `10s`, `5m`, `2h`, `7d`.

/// Reads a duration into microseconds.
///
/// **Errors**: a text that says what is allowed.
pub fn parse_duration(s: &str) -> Result<i64, String> {
    let split = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (number, unit) = s.split_at(split);
    let unit: i64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => 0,
    };
    number
        .parse::<i64>()
        .ok()
        .filter(|_| unit > 0)
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| format!("{s:?} is not a duration; write a whole number and us, ms, s, m, h or d, such as \"10s\""))
}

/// Writes microseconds in the largest unit that is exact.
pub fn format_duration(micros: i64) -> String {
    let units = [
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("m", 60_000_000),
        ("s", 1_000_000),
    ];
    for (name, unit) in units.into_iter().chain([("ms", 1_000)]) {
        if micros % unit == 0 && micros != 0 {
            return format!("{}{name}", micros / unit);
        }
    }
    if micros == 0 {
        "0s".to_owned()
    } else {
        format!("{micros}us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back() {
        for s in ["0s", "10s", "500ms", "5m", "2h", "7d", "7us", "90s"] {
            let micros = parse_duration(s).unwrap();
            assert_eq!(parse_duration(&format_duration(micros)), Ok(micros), "{s}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
