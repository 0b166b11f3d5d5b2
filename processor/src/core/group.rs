//! A group of an aggregate: its members, and where its recent panes are.

use std::collections::VecDeque;

use views::Group as GroupValues;

use super::members::Members;

/// Most groups of a partition over all aggregates. Series beyond it belong to no group of the aggregate;
/// their events are counted, and the quarantine says that they are missing there.
pub(crate) const GROUPS_MAX: usize = 100_000;
/// A pane of which nothing is known in memory: no event came.
pub(crate) const EMPTY: u32 = u32::MAX;
/// A pane whose content has left the hot state.
pub(crate) const SEALED: u32 = u32::MAX - 1;

/// The recent panes of a group by their number (start / hop).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Number of the first one.
    pub(crate) base: i64,
    /// Number of a cell, [`EMPTY`] or [`SEALED`].
    pub(crate) cells: VecDeque<u32>,
    /// No window that starts before this pane is open.
    pub(crate) first_open: i64,
    /// No pane before this one has a cell.
    pub(crate) first_cell: i64,
}

impl Ring {
    /// What is at a pane that is not before the frontier.
    #[inline]
    pub(crate) fn get(&self, pane: i64) -> u32 {
        let at = pane
            .checked_sub(self.base)
            .and_then(|at| usize::try_from(at).ok());
        let at = at.unwrap_or(usize::MAX);
        self.cells.get(at).copied().unwrap_or(EMPTY)
    }

    /// Drops what is before the frontier, up to the first cell.
    pub(crate) fn drop_before(&mut self, frontier: i64) {
        while self.base < frontier
            && let Some(&(EMPTY | SEALED)) = self.cells.front()
        {
            self.cells.pop_front();
            self.base += 1;
        }
    }

    /// Sets what is at a pane that is not before the frontier.
    pub(crate) fn set(&mut self, pane: i64, cell: u32, frontier: i64) {
        self.drop_before(frontier);
        if self.cells.is_empty() {
            self.base = pane;
            self.first_open = pane;
            self.first_cell = pane;
        }
        if cell != EMPTY && cell != SEALED {
            self.first_cell = self.first_cell.min(pane);
        }
        while self.base > pane {
            self.cells.push_front(EMPTY);
            self.base -= 1;
        }
        let at = (pane - self.base) as usize;
        while self.cells.len() <= at {
            self.cells.push_back(EMPTY);
        }
        self.cells[at] = cell;
    }
}

/// One group of one aggregate.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Slot of the aggregate.
    pub(crate) slot: u32,
    pub(crate) values: GroupValues,
    pub(crate) members: Members,
    pub(crate) ring: Ring,
    /// Whether it is in the list of those with panes in memory.
    pub(crate) active: bool,
    /// Whether it waits to be published.
    pub(crate) queued: bool,
}

impl Group {
    pub(crate) fn new(slot: u32, values: GroupValues, hop: i64) -> Self {
        Self {
            slot,
            values,
            members: Members::new(hop),
            ring: Ring::default(),
            active: false,
            queued: false,
        }
    }
}
