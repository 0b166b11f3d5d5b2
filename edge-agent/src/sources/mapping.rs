//! From columns to readings: which column is the device, which the time, what the metrics are called,
//! and what a text means.

use std::collections::{BTreeMap, HashMap};

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, TimeZone as _};
use event::{DeviceId, EventTime, IdError, MetricName, Value};

/// Why a mapping cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A name that no metric can have.
    #[error("rename.{column}: {source}")]
    Rename {
        /// The column.
        column: String,
        /// What is wrong with the name.
        source: IdError,
    },
    /// Two columns that would become one metric.
    #[error("rename: {first:?} and {second:?} both become {metric:?}; give them different names")]
    Twice {
        /// A column.
        first: String,
        /// Another one.
        second: String,
        /// The metric of both.
        metric: String,
    },
    /// A way to write times that nobody knows.
    #[error(
        "time_format {0:?} is neither \"s\", \"ms\", \"us\" nor \"rfc3339\", nor a pattern of strftime \
         such as \"%Y-%m-%d %H:%M:%S\""
    )]
    Pattern(String),
    /// An offset from UTC that cannot be read.
    #[error("utc_offset {0:?} is not like \"+02:00\"")]
    Offset(String),
}

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// Unix seconds, with or without a fraction; below a microsecond is cut.
    Seconds,
    /// Unix milliseconds.
    Millis,
    /// Unix microseconds.
    Micros,
    /// RFC 3339.
    Rfc3339,
    /// A pattern of strftime; without an offset in it, the given one is taken.
    Pattern(String, FixedOffset),
}

impl TimeFormat {
    /// Reads `s`, `ms`, `us`, `rfc3339` or a pattern such as `%Y-%m-%d %H:%M:%S`; `offset` like
    /// `+02:00`.
    ///
    /// **Errors**: an offset or a pattern that cannot be read.
    pub fn new(text: &str, offset: &str) -> Result<Self, MappingError> {
        Ok(match text {
            "s" => Self::Seconds,
            "ms" => Self::Millis,
            "us" => Self::Micros,
            "rfc3339" => Self::Rfc3339,
            pattern => {
                let mut items = StrftimeItems::new(pattern);
                let is_bad = items.clone().any(|item| matches!(item, Item::Error));
                let has_time = items.any(|i| matches!(i, Item::Numeric(..) | Item::Fixed(_)));
                if is_bad || !has_time {
                    return Err(MappingError::Pattern(pattern.to_owned()));
                }
                // The parser of offsets is that of patterns.
                let offset = DateTime::parse_from_str(
                    &format!("2000-01-01 00:00 {offset}"),
                    "%Y-%m-%d %H:%M %:z",
                )
                .map(|t| *t.offset())
                .map_err(|_| MappingError::Offset(offset.to_owned()))?;
                Self::Pattern(pattern.to_owned(), offset)
            }
        })
    }

    /// Reads a time.
    ///
    /// **Errors**: a text for people.
    pub fn parse(&self, text: &str) -> Result<EventTime, String> {
        let text = text.trim();
        match self {
            Self::Seconds => decimal(text, 6).map(EventTime::from_micros),
            Self::Millis => decimal(text, 3).map(EventTime::from_micros),
            Self::Micros => decimal(text, 0).map(EventTime::from_micros),
            Self::Rfc3339 => EventTime::parse_rfc3339(text).map_err(|e| time_error(text, e)),
            Self::Pattern(pattern, offset) => {
                if let Ok(t) = DateTime::parse_from_str(text, pattern) {
                    return Ok(EventTime::from_micros(t.timestamp_micros()));
                }
                let naive = NaiveDateTime::parse_from_str(text, pattern).or_else(|e| {
                    // A date alone is its midnight.
                    NaiveDate::parse_from_str(text, pattern)
                        .ok()
                        .and_then(|d| d.and_hms_opt(0, 0, 0))
                        .ok_or(e)
                });
                let naive = naive.map_err(|e| time_error(text, e))?;
                let t = offset.from_local_datetime(&naive).single();
                t.map(|t| EventTime::from_micros(t.timestamp_micros()))
                    .ok_or_else(|| format!("time {text:?} does not exist"))
            }
        }
    }
}

fn time_error(text: &str, error: chrono::ParseError) -> String {
    format!("time {:?}: {error}", shortened(text))
}

/// A decimal number times `10^digits`, cut to a whole number.
fn decimal(text: &str, digits: u32) -> Result<i64, String> {
    let bad = || format!("time {:?} is not a number", shortened(text));
    let scale = 10i64.pow(digits);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.trim_start_matches('-').is_empty()
        || !all_digits(whole.strip_prefix('-').unwrap_or(whole))
        || !all_digits(fraction)
    {
        // Such as 1.6e9.
        let n: f64 = text.parse().map_err(|_| bad())?;
        let n = (n * scale as f64).floor();
        return if n.abs() < 9e18 {
            Ok(n as i64)
        } else {
            Err(bad())
        };
    }
    let negative = whole.starts_with('-');
    let whole: i64 = whole.parse().map_err(|_| bad())?;
    let mut part = 0i64;
    let mut cut = false;
    for (i, b) in fraction.bytes().enumerate() {
        if (i as u32) < digits {
            part += i64::from(b - b'0') * 10i64.pow(digits - 1 - i as u32);
        } else {
            cut |= b != b'0';
        }
    }
    let whole = whole.checked_mul(scale).ok_or_else(bad)?;
    // Cut towards the past on both sides of 1970.
    if negative {
        whole.checked_sub(part + i64::from(cut))
    } else {
        whole.checked_add(part)
    }
    .ok_or_else(bad)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// What the columns of a file or the keys of an object mean.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Column with the device's id.
    pub device_column: Option<String>,
    /// The device, where no column names it.
    pub device: Option<DeviceId>,
    /// Column with the time.
    pub time_column: Option<String>,
    /// How it is written.
    pub time_format: TimeFormat,
    /// Columns to take; empty = all.
    pub metrics: Vec<String>,
    /// Columns to leave out.
    pub skip: Vec<String>,
    /// Columns that are text even where they look like numbers.
    pub text: Vec<String>,
    /// Names of metrics by column.
    pub rename: BTreeMap<String, MetricName>,
}

impl Mapping {
    /// Checks the new names.
    ///
    /// **Errors**: a name that no metric can have, or the same for two columns.
    pub fn renames(
        rename: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, MetricName>, MappingError> {
        let mut columns: BTreeMap<&str, &str> = BTreeMap::new();
        rename
            .iter()
            .map(|(column, name)| {
                if let Some(first) = columns.insert(name, column) {
                    return Err(MappingError::Twice {
                        first: first.to_owned(),
                        second: column.clone(),
                        metric: name.clone(),
                    });
                }
                let metric = MetricName::new(name).map_err(|source| MappingError::Rename {
                    column: column.clone(),
                    source,
                })?;
                Ok((column.clone(), metric))
            })
            .collect()
    }

    /// The metric of a column; none if the column is no metric or is left out. Characters that no
    /// metric name can have become `_`.
    pub fn metric(&self, column: &str) -> Option<MetricName> {
        let is = |c: &Option<String>| c.as_deref() == Some(column);
        if is(&self.device_column) || is(&self.time_column) || self.skip.iter().any(|s| s == column)
        {
            return None;
        }
        if !self.metrics.is_empty() && !self.metrics.iter().any(|m| m == column) {
            return None;
        }
        if let Some(metric) = self.rename.get(column) {
            return Some(metric.clone());
        }
        let name: String = column
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "_.-".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .take(event::id::NAME_BYTES_MAX)
            .collect();
        MetricName::new(&name).ok()
    }

    /// What a cell's text means: empty = no value, `true` and `false`, a number, else text.
    ///
    /// **Errors**: NaN and infinities, as a text for people.
    pub fn value(&self, column: &str, cell: &str) -> Result<Option<Value>, String> {
        let cell = cell.trim();
        if cell.is_empty() {
            return Ok(None);
        }
        if !self.text.iter().any(|t| t == column) {
            if cell.eq_ignore_ascii_case("true") || cell.eq_ignore_ascii_case("false") {
                return Ok(Some(Value::Bool(cell.len() == 4)));
            }
            if let Ok(n) = cell.parse::<f64>() {
                return if n.is_finite() {
                    Ok(Some(Value::Number(n)))
                } else {
                    Err(format!("{column}: {cell} is not a finite number"))
                };
            }
        }
        Ok(Some(Value::Text(cell.into())))
    }
}

/// Device ids by their text, so that each is checked and kept once.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<String, DeviceId>);

impl Devices {
    pub fn get(&mut self, name: &str) -> Result<DeviceId, String> {
        if let Some(id) = self.0.get(name) {
            return Ok(id.clone());
        }
        let id = DeviceId::new(name).map_err(|e| e.to_string())?;
        if self.0.len() >= super::SEEN_MAX {
            self.0.clear();
        }
        self.0.insert(name.to_owned(), id.clone());
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: &str, text: &str, expected: Option<i64>) {
        let format = TimeFormat::new(format, "-03:00").unwrap();
        assert_eq!(
            format.parse(text).ok(),
            expected.map(EventTime::from_micros),
            "{text}"
        );
    }

    #[test]
    fn times_are_read_exactly() {
        check("s", "1594598424.5023336", Some(1_594_598_424_502_333));
        check("s", "1594598429.9999999", Some(1_594_598_429_999_999));
        check("s", "1594598424", Some(1_594_598_424_000_000));
        check("s", "-0.5", Some(-500_000));
        check("s", "-1.0000001", Some(-1_000_001));
        check("s", "1.5e3", Some(1_500_000_000));
        check("ms", "1700000000123", Some(1_700_000_000_123_000));
        check("ms", "1.5", Some(1_500));
        check("us", "17", Some(17));
        check(
            "rfc3339",
            "2026-01-02T03:04:05.5+01:00",
            Some(1_767_319_445_500_000),
        );
        check(
            "%Y-%m-%d %H:%M:%S",
            "2014-09-13 07:24:32",
            Some(1_410_603_872_000_000),
        );
        check("%Y-%m-%d", "2014-09-13", Some(1_410_577_200_000_000));
        check(
            "%Y-%m-%d %H:%M %z",
            "2014-09-13 07:24 +0000",
            Some(1_410_593_040_000_000),
        );
        for bad in ["", "x", "-", "nan", "inf", "1e300", "99999999999999999999"] {
            check("s", bad, None);
        }
        check("rfc3339", "yesterday", None);
        assert!(TimeFormat::new("%Y", "3 o'clock").is_err());
        for bad in ["%Y-%m-%Q", "%", "iso", ""] {
            assert!(TimeFormat::new(bad, "+00:00").is_err(), "{bad}");
        }
    }

    fn mapping() -> Mapping {
        Mapping {
            device_column: Some("id".to_owned()),
            device: None,
            time_column: Some("ts".to_owned()),
            time_format: TimeFormat::Seconds,
            metrics: Vec::new(),
            skip: vec!["note".to_owned()],
            text: vec!["version".to_owned()],
            rename: Mapping::renames(&BTreeMap::from([("temp".to_owned(), "t_c".to_owned())]))
                .unwrap(),
        }
    }

    #[test]
    fn columns_become_metrics() {
        let m = mapping();
        let name = |c: &str| m.metric(c).map(|m| m.to_string());
        assert_eq!(name("id"), None);
        assert_eq!(name("ts"), None);
        assert_eq!(name("note"), None);
        assert_eq!(name("temp").as_deref(), Some("t_c"));
        assert_eq!(
            name("Volume Flow RateRMS").as_deref(),
            Some("Volume_Flow_RateRMS")
        );
        assert_eq!(name(""), None);
        let only = Mapping {
            metrics: vec!["temp".to_owned()],
            ..mapping()
        };
        assert_eq!(only.metric("co"), None);
        assert!(only.metric("temp").is_some());
        let bad = BTreeMap::from([("a".to_owned(), "b c".to_owned())]);
        assert!(Mapping::renames(&bad).is_err());
        let twice = [("a", "t"), ("b", "t")].map(|(c, m)| (c.to_owned(), m.to_owned()));
        let error = Mapping::renames(&BTreeMap::from(twice)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"a\" and \"b\" both become \"t\"")
        );
    }

    #[test]
    fn cells_become_values() {
        let m = mapping();
        assert_eq!(m.value("a", " 21.5 "), Ok(Some(Value::Number(21.5))));
        assert_eq!(m.value("a", "TRUE"), Ok(Some(Value::Bool(true))));
        assert_eq!(m.value("a", "false"), Ok(Some(Value::Bool(false))));
        assert_eq!(m.value("a", "open"), Ok(Some(Value::Text("open".into()))));
        assert_eq!(
            m.value("version", "1.10"),
            Ok(Some(Value::Text("1.10".into())))
        );
        assert_eq!(m.value("a", ""), Ok(None));
        assert!(m.value("a", "NaN").is_err() && m.value("a", "1e999").is_err());
    }
}
