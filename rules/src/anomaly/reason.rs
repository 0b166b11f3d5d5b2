//! Why something is an anomaly, in words.

use std::fmt::{self, Display, Formatter};

use super::{Evidence, Part};

/// A number with at most six digits that count: people read it.
struct Short(f64);

impl Display for Short {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size != 0.0 && !(1e-4..1e9).contains(&size) {
            return write!(f, "{:.3e}", self.0);
        }
        let digits = match size {
            _ if size >= 10_000.0 => 0,
            _ if size >= 100.0 => 1,
            _ if size >= 1.0 => 2,
            _ => 5,
        };
        let text = format!("{:.digits$}", self.0);
        let text = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => &text,
        };
        // No minus before a zero.
        f.write_str(if text == "-0" { "0" } else { text })
    }
}

/// Microseconds since 1970 in RFC 3339, to the second.
struct Utc(i64);

impl Display for Utc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000);
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years that begin in March: the leap day is the last of its year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl Evidence {
    /// One sentence of at most 300 bytes: what came, what was expected, since when (`since`, microseconds),
    /// the score and which part of the detector found it.
    pub fn sentence(&self, since: i64) -> String {
        let (low, high) = self.expected;
        // What is next to nothing beside the others is nothing to people.
        let largest = low.abs().max(high.abs()).max(self.compared.abs());
        let short = |n: f64| Short(if n.abs() < largest * 1e-5 { 0.0 } else { n });
        let (low, high, value) = (short(low), short(high), Short(self.value));
        let (compared, since) = (short(self.compared), Utc(since));
        let score = self.score;
        let side = if self.compared > self.expected.1 {
            "above"
        } else {
            "below"
        };
        match self.part {
            Part::Value => format!(
                "{value} is {side} all that is known of it: expected {low} to {high}, since \
                 {since}, score {score:.2} (part: value)"
            ),
            Part::Trend => format!(
                "{value} comes with a course that is faster than any before: the short mean is {compared} from the long \
                 mean, expected {low} to {high}, since {since}, score {score:.2} (part: trend)"
            ),
            Part::Shape => format!(
                "{value} makes a pattern that is new: the last values cover {low} to {high}, levels \
                 that were not seen so close together, since {since}, score {score:.2} (part: shape)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_readable() {
        for (number, text) in [
            (0.0, "0"),
            (-0.000_001, "-1.000e-6"),
            (21.0, "21"),
            (21.456, "21.46"),
            (-0.5, "-0.5"),
            (1234.56, "1234.6"),
            (123_456.7, "123457"),
            (120_000.0, "120000"),
            (f64::MAX, "1.798e308"),
        ] {
            assert_eq!(Short(number).to_string(), text);
        }
        assert_eq!(Utc(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Utc(951_868_799_999_999).to_string(), "2000-02-29T23:59:59Z");
        assert_eq!(Utc(-1).to_string(), "1969-12-31T23:59:59Z");
        assert_eq!(
            Utc(1_764_385_200_000_000).to_string(),
            "2025-11-29T03:00:00Z"
        );
        // Not a panic.
        let _ = (Utc(i64::MIN).to_string(), Utc(i64::MAX).to_string());
    }

    #[test]
    fn a_sentence_has_value_range_score_and_begin() {
        let evidence = Evidence {
            part: Part::Value,
            value: 93.25,
            compared: 93.25,
            expected: (18.5, 31.0),
            score: 0.931,
        };
        assert_eq!(
            evidence.sentence(0),
            "93.25 is above all that is known of it: expected 18.5 to 31, since \
             1970-01-01T00:00:00Z, score 0.93 (part: value)"
        );
    }
}
