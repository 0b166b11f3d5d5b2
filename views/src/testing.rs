//! What the tests of this crate share.

use crate::part::{RowPart, RowState, Tier};

/// A part of a window of 10 s: one event with the value 0.
pub(crate) fn part(aggregate: u32, group: &[&str], start: i64, revision: u64) -> RowPart {
    RowPart {
        tier: Tier::Window,
        aggregate,
        group: group.iter().map(|v| (*v).into()).collect(),
        start,
        end: start + 10_000_000,
        revision,
        state: RowState::Open,
        count: 1,
        numeric: 1,
        sum: 0,
        min: 0.0,
        max: 0.0,
        min_at: None,
        max_at: None,
        distinct: 1,
        values: None,
        quantiles: None,
        late_events: 0,
        settled: None,
    }
}
