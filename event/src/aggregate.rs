//! The declaration of an aggregate: which events, which groups, which window, which functions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::MetricName;

/// The pseudo attribute that groups by metric name.
pub const METRIC_ATTRIBUTE: &str = "metric";
/// The metric that stands for all.
pub const ALL_METRICS: &str = "*";
/// Longest name of an aggregate, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most aggregates that can be declared.
pub const AGGREGATES_MAX: usize = 64;
/// Most attributes in `group_by`.
pub const GROUP_BY_MAX: usize = 4;
/// Longest window: a day, in microseconds.
pub const WINDOW_MAX: i64 = 86_400_000_000;

/// What is computed of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// Number of events.
    Count,
    /// Sum of the values.
    Sum,
    /// Sum divided by the number of numeric values.
    Mean,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Exact number of different devices.
    DistinctDevices,
}

impl Function {
    /// All of them, in the order of the API.
    pub const ALL: &[Self] = &[
        Self::Count,
        Self::Sum,
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::DistinctDevices,
    ];
}

/// A declared aggregate. Windows are half-open `[start, end)` and aligned to the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AggregateSpec {
    /// Its name in the API.
    pub name: String,
    /// A metric's name, or `*` for all.
    pub metric: String,
    /// Device attributes (or `metric`) whose values make the groups; empty = the whole fleet.
    pub group_by: Vec<String>,
    /// Length of the tumbling window, microseconds.
    pub window: i64,
    /// What the API shows.
    pub functions: BTreeSet<Function>,
}

/// What is wrong with a declaration: the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SpecError {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl AggregateSpec {
    /// The aggregates of a server where none are declared: `fleet` over everything and `by_metric`,
    /// both with windows of 10 s.
    pub fn defaults() -> Vec<Self> {
        let base = Self {
            name: "fleet".to_owned(),
            metric: ALL_METRICS.to_owned(),
            group_by: Vec::new(),
            window: 10_000_000,
            functions: Function::ALL.iter().copied().collect(),
        };
        let by_metric = Self {
            name: "by_metric".to_owned(),
            group_by: vec![METRIC_ATTRIBUTE.to_owned()],
            ..base.clone()
        };
        vec![base, by_metric]
    }

    /// Checks the declaration.
    ///
    /// **Errors**: the field that is wrong, and how it would be right.
    pub fn check(&self) -> Result<(), SpecError> {
        let err = |field, message: String| Err(SpecError { field, message });
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.name.is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || !self.name.chars().all(name_ok)
        {
            return err(
                "name",
                format!("{:?} must be 1 to 64 of A-Z a-z 0-9 _ - .", self.name),
            );
        }
        if self.metric != ALL_METRICS && MetricName::check(&self.metric).is_err() {
            return err(
                "metric",
                format!("{:?} is neither `*` nor a metric name", self.metric),
            );
        }
        if self.metric.starts_with('@') {
            return err("metric", "an attribute cannot be aggregated".to_owned());
        }
        if self.group_by.len() > GROUP_BY_MAX {
            return err("group_by", format!("at most {GROUP_BY_MAX} attributes"));
        }
        for (i, g) in self.group_by.iter().enumerate() {
            if MetricName::attribute(g).is_err() {
                return err("group_by", format!("{g:?} is not an attribute name"));
            }
            if self.group_by[..i].contains(g) {
                return err("group_by", format!("{g:?} is named twice"));
            }
        }
        if self.window < 1_000_000 || self.window > WINDOW_MAX || self.window % 1_000_000 != 0 {
            return err("window", "must be whole seconds from 1s to 24h".to_owned());
        }
        if self.functions.is_empty() {
            return err(
                "functions",
                "name at least one, such as \"count\"".to_owned(),
            );
        }
        Ok(())
    }

    /// Start of the window that holds the time `t` (microseconds).
    pub fn window_start(&self, t: i64) -> i64 {
        t.div_euclid(self.window) * self.window
    }
}
