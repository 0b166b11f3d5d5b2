//! `kind = "sysfs"`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use event::{AgentId, DeviceId};
use serde::{Deserialize, Serialize};

use super::{ConfigError, at_least};
use crate::sources::sysfs::{Kind, Settings};
use crate::sources::{Mapping, TimeFormat};

pub(super) const KEYS: &[&str] = &[
    "kind",
    "root",
    "device",
    "interval_ms",
    "kinds",
    "metrics",
    "skip",
    "rename",
];

/// As it is typed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SysfsSource {
    pub root: PathBuf,
    pub device: Option<String>,
    pub interval_ms: u64,
    pub kinds: BTreeSet<Kind>,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub rename: BTreeMap<String, String>,
}

impl Default for SysfsSource {
    fn default() -> Self {
        Self {
            root: "/sys".into(),
            device: None,
            interval_ms: 10_000,
            kinds: [Kind::Thermal, Kind::Hwmon, Kind::Iio].into(),
            metrics: Vec::new(),
            skip: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

pub(super) fn settings(
    s: &SysfsSource,
    key: &dyn Fn(&str) -> String,
    agent: &AgentId,
) -> Result<Settings, ConfigError> {
    at_least(&key("interval_ms"), s.interval_ms, 10)?;
    if s.kinds.is_empty() {
        let message = "is empty; name some of thermal, hwmon, iio";
        return Err(ConfigError::value(key("kinds"), message));
    }
    let device = s.device.as_deref().unwrap_or(agent.as_str());
    Ok(Settings {
        root: s.root.clone(),
        device: DeviceId::new(device).map_err(|e| ConfigError::value(key("device"), e))?,
        interval: Duration::from_millis(s.interval_ms),
        kinds: s.kinds.clone(),
        mapping: Mapping {
            device_column: None,
            device: None,
            time_column: None,
            // No time is read: samples are stamped when they come in.
            time_format: TimeFormat::Millis,
            metrics: s.metrics.clone(),
            skip: s.skip.clone(),
            text: Vec::new(),
            rename: Mapping::renames(&s.rename)
                .map_err(|e| ConfigError::value(key("rename"), e))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check_error, load_text};

    #[test]
    fn it_is_checked() {
        check_error(
            "[[source]]\nkind = 'sysfs'\nkinds = []",
            "source[0].kinds: is empty",
        );
        check_error(
            "[[source]]\nkind = 'sysfs'\nkinds = ['gpu']",
            "unknown variant `gpu`",
        );
        check_error(
            "[[source]]\nkind = 'sysfs'\nrot = '/'",
            "did you mean \"source[0].root\"?",
        );
        check_error(
            "[[source]]\nkind = 'sysfs'\ninterval_ms = 1",
            "source[0].interval_ms: 1 is out",
        );
        check_error("[[source]]\nkind = 'sysf'", "did you mean \"sysfs\"?");
        let settings = load_text("agent = 'gw'\n[[source]]\nkind = 'sysfs'", &[], &[]).unwrap();
        assert_eq!(settings.sources[0].name, "sysfs");
    }
}
