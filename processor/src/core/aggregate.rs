//! A declared aggregate as the core holds it, and how long its results are kept.

use event::{AggregateSpec, Retention};

use super::cold::TIERS;
use super::pane::Wants;
use super::windows::{DAY, HOUR};

/// One declared aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) spec: AggregateSpec,
    pub(crate) wants: Wants,
    /// Number of the oldest pane that may be in memory.
    pub(crate) frontier: i64,
    /// Panes, hours and days that start before these are not kept; microseconds.
    pub(crate) horizons: [i64; TIERS],
}

impl Aggregate {
    pub(crate) fn new(spec: AggregateSpec) -> Self {
        Self {
            wants: Wants::of(&spec),
            spec,
            frontier: i64::MIN,
            horizons: [i64::MIN; TIERS],
        }
    }

    /// Which tiers there are: an hour or a day must be whole panes, and more than one.
    pub(crate) fn tiers(&self) -> [bool; TIERS] {
        let hop = self.spec.hop;
        let fits = |length: i64| length > hop && length % hop == 0;
        [true, fits(HOUR), fits(DAY)]
    }

    /// Whether the attributes of a device decide its group.
    pub(crate) fn by_attribute(&self) -> bool {
        let metric = event::aggregate::METRIC_ATTRIBUTE;
        self.spec.group_by.iter().any(|g| g != metric)
    }

    /// Advances what is kept, counted back from the newest event time. Horizons only grow, by whole hours and
    /// days, so that a coarser row is kept or dropped as a whole.
    pub(crate) fn advance(&mut self, newest: i64, keep: &Retention) {
        let [_, hours, days] = self.tiers();
        // Without a coarser tier the panes must last.
        let panes_keep = match (hours, days) {
            (true, _) => keep.panes,
            (false, true) => keep.panes.max(keep.hours),
            (false, false) => keep.days.max(keep.panes),
        };
        // A window must be kept as a whole.
        let panes_keep = panes_keep.max(self.spec.window.saturating_add(DAY));
        let hours_keep = if days { keep.hours } else { keep.days };
        let at = |keep: i64, unit: i64| newest.saturating_sub(keep).div_euclid(unit) * unit;
        let new = [
            at(panes_keep, HOUR),
            at(hours_keep.max(panes_keep), DAY),
            at(keep.days.max(hours_keep).max(panes_keep), DAY),
        ];
        for (old, new) in self.horizons.iter_mut().zip(new) {
            *old = (*old).max(new);
        }
    }
}
