//! Conditions on many devices at once: on a window of an aggregate, on a share of a group's devices.
//!
//! Nothing of one series steps them. Who has the results of all partitions does, with [`Threshold`].

use serde::{Deserialize, Serialize};

use crate::threshold::Threshold;

/// Most attributes of `group_by`.
pub const GROUP_BY_MAX: usize = 4;

/// What of a window is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Events.
    Count,
    /// Sum of the values.
    Sum,
    /// Mean of the values.
    Mean,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Different devices.
    DistinctDevices,
    /// Different text values.
    DistinctValues,
    /// The value that half of the values do not exceed.
    P50,
    /// The same for 90 %.
    P90,
    /// The same for 95 %.
    P95,
    /// The same for 99 %.
    P99,
    /// Share of the expected devices that are done with the window, 0 to 1.
    Completeness,
    /// Devices that are awaited.
    Outstanding,
    /// Devices that should be in it.
    Expected,
    /// Devices that are done with it and lost something.
    Lossy,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 15] = [
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
        Self::Completeness,
        Self::Outstanding,
        Self::Expected,
        Self::Lossy,
    ];

    /// The name in declarations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::DistinctDevices => "distinct_devices",
            Self::DistinctValues => "distinct_values",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Completeness => "completeness",
            Self::Outstanding => "outstanding",
            Self::Expected => "expected",
            Self::Lossy => "lossy",
        }
    }

    /// Whether it follows from what is known of the devices alone, and not from their values: then every window
    /// has it, and an aggregate need not declare it.
    pub const fn is_of_devices(self) -> bool {
        matches!(
            self,
            Self::Completeness | Self::Outstanding | Self::Expected | Self::Lossy
        )
    }
}

/// From when on a window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Once it has settled: at least 99.5 % complete, or 15 minutes after its end.
    #[default]
    Settled,
    /// From 5 s after its end, with what is there by then; what comes later corrects it.
    Open,
}

impl When {
    /// The name in declarations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Open => "open",
        }
    }
}

/// A number of an aggregate's windows beyond a limit, for each group. The aggregate is named by the rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Which number.
    pub field: Field,
    /// From when on a window counts.
    pub when: When,
    /// `hold` counts from the start of the first window beyond it to the end of the newest.
    pub threshold: Threshold,
}

/// A share of a group's devices on which another rule fires. The rule and the group are named by this one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Above a share from 0 to 1.
    pub threshold: Threshold,
    /// Groups of fewer devices are left alone.
    pub at_least: u32,
}
