//! Names turned into dense numbers, once per block dictionary; state lives in arrays behind them.

use std::sync::Arc;

use event::Value;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Most devices, agents, series and metrics of a partition. What comes beyond is quarantined.
pub(crate) const DEVICES_MAX: usize = 4_000_000;
pub(crate) const AGENTS_MAX: usize = 4_000_000;
pub(crate) const SERIES_MAX: usize = 32_000_000;
pub(crate) const METRICS_MAX: usize = 65_536;
/// Most series (metrics and attributes) of a device; events of further ones are quarantined.
pub(crate) const DEVICE_SERIES_MAX: usize = 1024;
/// Most attributes of a device; more are ignored with an incident-free refusal.
pub(crate) const ATTRIBUTES_MAX: usize = 32;

/// One device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) id: Arc<str>,
    pub(crate) agent: u32,
    /// Earliest and latest event time.
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// (name without `@`, event time, value), ascending by name.
    pub(crate) attributes: Vec<(Arc<str>, i64, Arc<str>)>,
    /// The groups it belongs to, ascending, and the time from which on (whole seconds, microseconds).
    pub(crate) groups: SmallVec<[(u32, i64); 2]>,
    /// Its series.
    pub(crate) series: SmallVec<[u32; 4]>,
}

impl Device {
    /// The value of an attribute, empty if it has none.
    pub(crate) fn attribute(&self, name: &str) -> Arc<str> {
        match self.attributes.iter().find(|a| *a.0 == *name) {
            Some(a) => a.2.clone(),
            None => Arc::from(""),
        }
    }
}

/// One metric of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeriesState {
    pub(crate) device: u32,
    pub(crate) metric: u32,
    /// The groups its events go to.
    pub(crate) groups: SmallVec<[u32; 2]>,
    /// Event time of the newest value; `i64::MIN` before the first.
    pub(crate) last: i64,
    pub(crate) value: Value,
}

/// A dictionary that never forgets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    numbers: FxHashMap<Arc<str>, u32>,
}

impl Index {
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn insert(&mut self, name: Arc<str>, number: u32) {
        self.numbers.insert(name, number);
    }
}
