//! `kind = "tail"`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use event::DeviceId;
use serde::{Deserialize, Serialize};

use super::{ConfigError, at_least};
use crate::sources::tail::{Format, From, Pattern, Settings};
use crate::sources::{Mapping, TimeFormat};

pub(super) const KEYS: &[&str] = &[
    "kind",
    "path",
    "format",
    "pattern",
    "device",
    "device_key",
    "time_key",
    "time_format",
    "utc_offset",
    "lag_ms",
    "from",
    "interval_ms",
    "metrics",
    "skip",
    "text",
    "rename",
];

/// The format as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TailFormat {
    Json,
    Regex,
}

/// As it is typed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct TailSource {
    pub path: PathBuf,
    pub format: TailFormat,
    pub pattern: Option<String>,
    pub device: Option<String>,
    pub device_key: Option<String>,
    pub time_key: Option<String>,
    pub time_format: String,
    pub utc_offset: String,
    pub lag_ms: u64,
    pub from: From,
    pub interval_ms: u64,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub text: Vec<String>,
    pub rename: BTreeMap<String, String>,
}

impl Default for TailSource {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: TailFormat::Json,
            pattern: None,
            device: None,
            device_key: None,
            time_key: None,
            time_format: "ms".to_owned(),
            utc_offset: "+00:00".to_owned(),
            lag_ms: 2000,
            from: From::End,
            interval_ms: 500,
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

pub(super) fn settings(
    s: &TailSource,
    key: &dyn Fn(&str) -> String,
) -> Result<Settings, ConfigError> {
    if s.path.file_name().is_none() {
        return Err(ConfigError::value(
            key("path"),
            "is missing; name the log to follow",
        ));
    }
    at_least(&key("interval_ms"), s.interval_ms, 10)?;
    let device = s.device.as_deref().map(DeviceId::new).transpose();
    let is_regex = s.format == TailFormat::Regex;
    // A pattern's groups have names from the beginning; a JSON line's keys have defaults of their own.
    let or = |named: &Option<String>, group: &str| {
        named.clone().or_else(|| is_regex.then(|| group.to_owned()))
    };
    let mapping = Mapping {
        device_column: or(&s.device_key, "device"),
        device: device.map_err(|e| ConfigError::value(key("device"), e))?,
        time_column: or(&s.time_key, "time"),
        time_format: TimeFormat::new(&s.time_format, &s.utc_offset)
            .map_err(|e| ConfigError::value(key("time_format"), e))?,
        metrics: s.metrics.clone(),
        skip: s.skip.clone(),
        text: s.text.clone(),
        rename: Mapping::renames(&s.rename).map_err(|e| ConfigError::value(key("rename"), e))?,
    };
    let format = match (is_regex, &s.pattern) {
        (false, None) if s.text.is_empty() => Format::Json,
        (false, None) => {
            let message = "is for format = \"regex\"; JSON says itself what is a text";
            return Err(ConfigError::value(key("text"), message));
        }
        (false, Some(_)) => {
            let message = "is for format = \"regex\"; set that, or leave it out";
            return Err(ConfigError::value(key("pattern"), message));
        }
        (true, None) => {
            let message = "is missing; format = \"regex\" needs one";
            return Err(ConfigError::value(key("pattern"), message));
        }
        (true, Some(text)) => {
            let pattern =
                Pattern::new(text, &mapping).map_err(|e| ConfigError::value(key("pattern"), e))?;
            for (name, group) in [("device_key", &s.device_key), ("time_key", &s.time_key)] {
                if let Some(group) = group.as_deref().filter(|g| !pattern.has_group(g)) {
                    let message = format!("the pattern has no group {group:?}");
                    return Err(ConfigError::value(key(name), message));
                }
            }
            Format::Regex(pattern)
        }
    };
    Ok(Settings {
        path: s.path.clone(),
        format,
        mapping,
        from: s.from,
        interval: Duration::from_millis(s.interval_ms),
        lag: Duration::from_millis(s.lag_ms),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check_error, load_text};

    fn check(lines: &str, expected: &str) {
        let head = "[[source]]\nkind = 'tail'\npath = 'a.log'\n";
        check_error(&format!("{head}{lines}"), &format!("source[0].{expected}"));
    }

    #[test]
    fn it_is_checked() {
        check_error("[[source]]\nkind = 'tail'", "source[0].path: is missing");
        check("pattern = 'x'", "pattern: is for format");
        check("text = ['x']", "text: is for format");
        check("format = 'regex'", "pattern: is missing");
        check("format = 'regex'\npattern = '('", "pattern: ");
        check(
            "format = 'regex'\npattern = '(?<t>x)'",
            "pattern: no group \"device\"",
        );
        check(
            "format = 'regex'\npattern = '(?<t>x)'\ndevice = 'd'\ntime_key = 'at'",
            "time_key: the pattern has no group \"at\"",
        );
        check("interval_ms = 1", "interval_ms: 1 is out of range");
        check("device = 'a b'", "device: ");
        check_error(
            "[[source]]\nkind = 'tail'\npatern = 'x'",
            "did you mean \"source[0].pattern\"",
        );
        let text = "[[source]]\nkind = 'tail'\npath = 'a.log'\nformat = 'regex'\n\
            pattern = '(?<device>\\w+) (?<t>\\d+)'";
        assert_eq!(load_text(text, &[], &[]).unwrap().sources[0].name, "a.log");
    }
}
