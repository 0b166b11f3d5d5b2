//! The declaration of an aggregate: which events, which groups, which window, which functions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::MetricName;
use crate::time::SECOND;

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
/// Most panes in a window: an emission reads them all.
pub const PANES_MAX: i64 = 360;

// New functions go to the end: the position is the code in the log.
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
    /// Number of different text values, estimated.
    DistinctValues,
    /// The value that half of the values do not exceed, estimated.
    P50,
    /// The same for 90 %.
    P90,
    /// The same for 95 %.
    P95,
    /// The same for 99 %.
    P99,
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
        Self::DistinctValues,
        Self::P50,
        Self::P90,
        Self::P95,
        Self::P99,
    ];

    /// What an aggregate has that names none: the exact ones. Estimates cost memory in every pane,
    /// so they must be asked for.
    pub const EXACT: &[Self] = &[
        Self::Count,
        Self::Sum,
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::DistinctDevices,
    ];
}

/// A declared aggregate. Windows are half-open `[start, end)`, as long as `window`, and begin at every
/// multiple of `hop` since the epoch.
///
/// **Check** what comes from outside with [`Self::check`] before anything else is asked of it: a spec
/// that decodes may still have a hop of 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AggregateSpec {
    /// Its name in the API.
    pub name: String,
    /// A metric's name, or `*` for all.
    pub metric: String,
    /// Device attributes (or `metric`) whose values make the groups; empty = the whole fleet.
    pub group_by: Vec<String>,
    /// Length of a window, microseconds.
    pub window: i64,
    /// From the start of a window to the start of the next, microseconds: the length of a pane. Equal
    /// to `window`, windows are tumbling.
    pub hop: i64,
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
    /// both with tumbling windows of 10 s and the functions of [`Function::EXACT`].
    pub fn defaults() -> Vec<Self> {
        let base = Self {
            name: "fleet".to_owned(),
            metric: ALL_METRICS.to_owned(),
            group_by: Vec::new(),
            window: 10_000_000,
            hop: 10_000_000,
            functions: Function::EXACT.iter().copied().collect(),
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
        self.check_hop()?;
        if self.functions.is_empty() {
            return err(
                "functions",
                "name at least one, such as \"count\"".to_owned(),
            );
        }
        Ok(())
    }

    fn check_hop(&self) -> Result<(), SpecError> {
        let (window, hop) = (self.window / SECOND, self.hop / SECOND);
        let err = |message| {
            Err(SpecError {
                field: "hop",
                message,
            })
        };
        if self.hop < SECOND || self.hop % SECOND != 0 {
            return err(format!(
                "must be whole seconds from 1s to the window of {window}s"
            ));
        }
        // The nearest ones that would be right, for the remedy.
        let fits = |h: &i64| window % h == 0 && window / h <= PANES_MAX;
        if self.hop > self.window || window % hop != 0 {
            let below = (1..=hop.min(window)).rev().find(fits);
            let above = (hop..=window).find(fits);
            let near: Vec<String> = [below, above]
                .into_iter()
                .flatten()
                .map(|h| format!("{h}s"))
                .collect();
            return err(format!(
                "the window of {window}s is not a whole multiple of {hop}s; use {}",
                near.join(" or ")
            ));
        }
        if self.panes() > PANES_MAX {
            let least = (hop..=window).find(fits).unwrap_or(window);
            return err(format!(
                "a window of {window}s would have {} hops of {hop}s, more than {PANES_MAX}; use {least}s or more",
                self.panes()
            ));
        }
        Ok(())
    }

    /// How many panes make a window; 1 = tumbling. Of a checked declaration 1 to [`PANES_MAX`].
    pub fn panes(&self) -> i64 {
        self.window / self.hop
    }

    /// Start of the pane that holds the time `t` (microseconds); it is also the start of the last
    /// window that holds `t`.
    ///
    /// Times within one hop of `i64::MIN` give `i64::MIN`.
    pub fn pane_start(&self, t: i64) -> i64 {
        t.saturating_sub(t.rem_euclid(self.hop))
    }

    /// Start of the tumbling window that holds the time `t` (microseconds).
    pub fn window_start(&self, t: i64) -> i64 {
        t.div_euclid(self.window) * self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(window: i64, hop: i64) -> AggregateSpec {
        AggregateSpec {
            window: window * SECOND,
            hop: hop * SECOND,
            ..AggregateSpec::defaults().remove(0)
        }
    }

    #[track_caller]
    fn refused(spec: &AggregateSpec, expected: &str) {
        assert_eq!(spec.check().unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_declared_by_default_is_right_exact_and_tumbling() {
        for spec in AggregateSpec::defaults() {
            assert_eq!(spec.check(), Ok(()));
            assert_eq!(spec.panes(), 1);
            assert!(spec.functions.iter().eq(Function::EXACT));
        }
        assert_eq!(Function::ALL[..Function::EXACT.len()], *Function::EXACT);
    }

    #[test]
    fn windows_are_whole_panes_and_not_too_many() {
        for (window, hop) in [
            (1, 1),
            (60, 10),
            (3600, 10),
            (86_400, 240),
            (86_400, 86_400),
        ] {
            assert_eq!(spec(window, hop).check(), Ok(()));
        }
        assert_eq!(spec(60, 10).panes(), 6);
        refused(
            &spec(60, 0),
            "hop: must be whole seconds from 1s to the window of 60s",
        );
        refused(
            &AggregateSpec {
                hop: 1_500_000,
                ..spec(3, 3)
            },
            "hop: must be whole seconds from 1s to the window of 3s",
        );
        refused(
            &spec(60, 25),
            "hop: the window of 60s is not a whole multiple of 25s; use 20s or 30s",
        );
        refused(
            &spec(60, 90),
            "hop: the window of 60s is not a whole multiple of 90s; use 60s",
        );
        refused(
            &spec(86_400, 10),
            "hop: a window of 86400s would have 8640 hops of 10s, more than 360; use 240s or more",
        );
        // Whatever comes out of the log.
        for hop in [i64::MIN, -1, i64::MAX] {
            let wild = AggregateSpec {
                hop,
                ..spec(60, 60)
            };
            assert!(wild.check().is_err());
        }
    }

    #[test]
    fn panes_are_aligned_to_the_epoch_on_both_sides_of_it() {
        let spec = spec(60, 10);
        let starts = [-1, 0, 9_999_999, 10_000_000].map(|t| spec.pane_start(t));
        assert_eq!(starts, [-10_000_000, 0, 0, 10_000_000]);
        assert_eq!(spec.pane_start(i64::MIN), i64::MIN);
    }

    #[test]
    fn names_of_functions_are_those_of_the_api() {
        let names = serde_json::to_string(Function::ALL).unwrap();
        assert_eq!(
            names,
            r#"["count","sum","mean","min","max","distinct_devices","distinct_values","p50","p90","p95","p99"]"#
        );
    }
}
