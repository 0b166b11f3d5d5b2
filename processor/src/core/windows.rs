//! Panes in memory, and the life of the windows made of them.
//!
//! A *cell* is one pane of one group: its content, and the life of the window that starts with it (a
//! tumbling window is one pane). Life: open → settled → revised; the windows of a group settle in order. Once
//! all windows over a pane have settled and it was quiet for a while, its content is *sealed*: it goes to the
//! [outbox](super::cold) and to its hour and day, and later events of it make deltas there.

use views::{Origin, RowState};
use views::{RowPart, SettledCounts, Tier};

use super::cold::{ColdKey, Settlement, TIERS};
use super::effects::{Changed, Effects};
use super::group::{EMPTY, SEALED};
use super::names::grow;
use super::pane::Pane;
use super::partition::Partition;

const SECOND: i64 = 1_000_000;
pub(crate) const HOUR: i64 = 3600 * SECOND;
pub(crate) const DAY: i64 = 24 * HOUR;
/// A window settles no earlier than this after its end (ingest time).
const SETTLE_AFTER: i64 = views::store::SETTLE_AFTER;
/// A window settles at the latest this long after its end (ingest time).
pub(crate) const DEADLINE: i64 = views::store::SETTLE_DEADLINE;
/// A pane is not sealed before it was quiet for so long, ...
const QUIET: i64 = 10 * SECOND;
/// ... nor, if a window over it is still open, before so long after their end.
const OPEN_SEAL_AFTER: i64 = 60 * SECOND;
/// Panes before this behind the last deadline over them are not held in memory any more.
const FRONTIER_AFTER: i64 = 120 * SECOND;
/// Panes put together for early results per flush; what is left waits for the next. What settles is emitted
/// at once.
const EARLY_PANES_MAX: usize = 1_000;

/// The life of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Life {
    /// Events of the pane whose content is sealed.
    pub(crate) sealed: u64,
    pub(crate) settled: Option<Settlement>,
    /// Second of the newest event.
    pub(crate) touched: i64,
    /// The pane has changed since the last flush.
    pub(crate) changed: bool,
    /// The window is to be emitted.
    pub(crate) emit: bool,
}

/// When a group is to be looked at, ingest time; follows from its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// A window may settle.
    settle: i64,
    /// A pane may be sealed.
    seal: i64,
}

impl Due {
    pub(crate) const NOW: Self = Self {
        settle: i64::MIN,
        seal: i64::MIN,
    };
    const NEVER: Self = Self {
        settle: i64::MAX,
        seal: i64::MAX,
    };
}

/// One pane of one group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub(crate) group: u32,
    /// Number of the pane: start / hop.
    pub(crate) pane: i64,
    pub(crate) life: Life,
    /// None once it is sealed.
    pub(crate) content: Option<Box<Pane>>,
}

/// Where the events of a group and a time go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A cell's content.
    Hot(u32),
    /// Rows of the outbox (pane, hour, day; [`EMPTY`] = none), and the cell whose window still lives.
    Cold([u32; TIERS], u32),
    /// Older than everything that is kept.
    TooOld,
}

impl Partition {
    /// Where events of `group` at `t` go. Cells and rows are made if need be, and marked as changed.
    pub(crate) fn target(&mut self, group: u32, t: i64) -> Target {
        let owner = &self.groups[group as usize];
        let Some(aggregate) = self.aggregate(owner.slot) else {
            return Target::TooOld;
        };
        let pane = t.div_euclid(aggregate.spec.hop);
        if pane < aggregate.frontier {
            return self.cold_target(group, t, EMPTY);
        }
        let cell = match owner.ring.get(pane) {
            SEALED => return self.cold_target(group, t, EMPTY),
            EMPTY => self.new_life(group, pane),
            cell => cell,
        };
        let (second, offset) = (self.now.div_euclid(SECOND), self.offset);
        let state = &mut self.cells[cell as usize];
        state.life.touched = second;
        if !std::mem::replace(&mut state.life.changed, true) {
            self.changed.push(cell);
        }
        // A cell may have no content because no event of its own pane came yet, or because that went cold while
        // the window is still open.
        if state.content.is_none() && state.life.sealed > 0 {
            return self.cold_target(group, t, cell);
        }
        let is_first = state.content.is_none();
        let content = state.content.get_or_insert_with(|| Box::new(Pane::new()));
        content.revision = offset;
        if is_first {
            // The cell may have been there for its window only.
            self.add_lives(group, pane);
            self.wake_at_end(group, pane);
        }
        Target::Hot(cell)
    }

    fn cold_target(&mut self, group: u32, t: i64, cell: u32) -> Target {
        let slot = self.groups[group as usize].slot;
        let Some(aggregate) = self.aggregate(slot) else {
            return Target::TooOld;
        };
        let (hop, tiers, horizons) = (aggregate.spec.hop, aggregate.tiers(), aggregate.horizons);
        let offset = self.offset;
        let mut rows = [EMPTY; TIERS];
        for (tier, length) in [hop, HOUR, DAY].into_iter().enumerate() {
            let start = t.div_euclid(length) * length;
            if !tiers[tier] || start < horizons[tier] {
                continue;
            }
            let key = ColdKey {
                tier: tier as u8,
                slot,
                start,
                group,
            };
            rows[tier] = self.outbox.row(key);
            self.outbox.at(rows[tier]).pane.revision = offset;
            if tier == 0 {
                self.cold_changed.push((group, t.div_euclid(hop)));
            }
        }
        if rows == [EMPTY; TIERS] {
            return Target::TooOld;
        }
        Target::Cold(rows, cell)
    }

    /// Cells for the lives of the other windows over a pane.
    fn add_lives(&mut self, group: u32, pane: i64) {
        let slot = self.groups[group as usize].slot;
        let (panes, frontier) = self
            .aggregate(slot)
            .map_or((1, 0), |a| (a.spec.panes(), a.frontier));
        for start in (pane - panes + 1).max(frontier)..pane {
            if self.groups[group as usize].ring.get(start) == EMPTY {
                self.new_life(group, start);
            }
        }
    }

    fn new_life(&mut self, group: u32, pane: i64) -> u32 {
        let owner = &self.groups[group as usize];
        let mut life = Life {
            touched: self.now.div_euclid(SECOND),
            ..Life::default()
        };
        if let Some(aggregate) = self.aggregate(owner.slot) {
            let start = pane * aggregate.spec.hop;
            let end = start + aggregate.spec.window;
            // One that had settled as empty, or whose deadline has passed, is revised by its first event.
            let counts = owner.members.counts(start, end, &self.agents);
            if self.now >= end + DEADLINE
                || (counts.expected > 0 && counts.is_enough() && self.now >= end + SETTLE_AFTER)
            {
                life.settled = Some(Settlement {
                    done: counts.complete,
                    expected: counts.expected,
                    count: 0,
                    revision: 0,
                });
            }
        }
        let state = Cell {
            group,
            pane,
            life,
            content: None,
        };
        let cell = match self.free_cells.pop() {
            Some(cell) => {
                self.cells[cell as usize] = state;
                cell
            }
            None => {
                grow(&mut self.cells, 1);
                self.cells.push(state);
                self.cells.len() as u32 - 1
            }
        };
        let frontier = self
            .aggregate(self.groups[group as usize].slot)
            .map_or(i64::MIN, |a| a.frontier);
        let owner = &mut self.groups[group as usize];
        owner.ring.set(pane, cell, frontier);
        if life.settled.is_none() {
            owner.ring.first_open = owner.ring.first_open.min(pane);
        }
        if !std::mem::replace(&mut owner.active, true) {
            self.active.push(group);
        }
        self.wake_at_end(group, pane);
        cell
    }

    /// A window may settle, or a pane be sealed, when the windows over it have ended, not before.
    fn wake_at_end(&mut self, group: u32, pane: i64) {
        if let Some(aggregate) = self.aggregate(self.groups[group as usize].slot) {
            let end = pane * aggregate.spec.hop + aggregate.spec.window;
            self.wake(group, end + SETTLE_AFTER);
        }
    }

    /// A window of the group may settle when ingest time comes to `at`.
    fn wake(&mut self, group: u32, at: i64) {
        if self.due.len() <= group as usize {
            self.due.resize(group as usize + 1, Due::NEVER);
        }
        let due = &mut self.due[group as usize];
        due.settle = due.settle.min(at);
        due.seal = due.seal.min(at);
    }

    /// Windows that are complete enough, or past their deadline, settle, in order of their start.
    pub(crate) fn settle(&mut self) {
        for at in 0..self.active.len() {
            let number = self.active[at];
            if self.now < self.due[number as usize].settle {
                continue;
            }
            let group = &self.groups[number as usize];
            let Some((hop, window)) = self
                .aggregate(group.slot)
                .map(|a| (a.spec.hop, a.spec.window))
            else {
                continue;
            };
            let ring = &group.ring;
            let last = ring.base + ring.cells.len() as i64;
            let mut pane = ring.first_open.max(ring.base);
            let mut due = Due::NEVER;
            while pane < last {
                let cell = self.groups[number as usize].ring.get(pane);
                if cell == EMPTY
                    || cell == SEALED
                    || self.cells[cell as usize].life.settled.is_some()
                {
                    pane += 1;
                    continue;
                }
                let (start, end) = (pane * hop, pane * hop + window);
                if self.now < end + SETTLE_AFTER {
                    due.settle = end + SETTLE_AFTER;
                    break;
                }
                let counts = self.groups[number as usize]
                    .members
                    .counts(start, end, &self.agents);
                if !counts.is_enough() && self.now < end + DEADLINE {
                    // It is asked again with every flush.
                    due.settle = self.now;
                    break;
                }
                due.seal = self.now;
                let settlement = Settlement {
                    done: counts.complete,
                    expected: counts.expected,
                    count: self.count_of(number, pane, window / hop),
                    revision: self.offset,
                };
                let life = &mut self.cells[cell as usize].life;
                life.settled = Some(settlement);
                if !std::mem::replace(&mut life.emit, true) {
                    self.emit.push(cell);
                }
                pane += 1;
            }
            self.groups[number as usize].ring.first_open = pane;
            let old = &mut self.due[number as usize];
            old.settle = due.settle;
            old.seal = old.seal.min(due.seal);
        }
    }

    /// Events of the window of `panes` panes from `pane` on, as far as its cells are here.
    fn count_of(&self, group: u32, pane: i64, panes: i64) -> u64 {
        let ring = &self.groups[group as usize].ring;
        (pane..pane + panes)
            .map(|p| match ring.get(p) {
                EMPTY | SEALED => 0,
                cell => {
                    let cell = &self.cells[cell as usize];
                    cell.life.sealed + cell.content.as_ref().map_or(0, |c| c.count)
                }
            })
            .sum()
    }

    /// Emits the windows over changed panes and those that settled.
    pub(crate) fn emit(&mut self, fx: &mut Effects) {
        for cell in std::mem::take(&mut self.changed) {
            let state = &mut self.cells[cell as usize];
            if !std::mem::take(&mut state.life.changed) {
                continue;
            }
            let (group, pane) = (state.group, state.pane);
            self.mark_windows(group, pane);
        }
        let mut merges = 0;
        let mut later = Vec::new();
        for cell in std::mem::take(&mut self.emit) {
            let state = &mut self.cells[cell as usize];
            if !state.life.emit {
                continue;
            }
            let (group, pane) = (state.group, state.pane);
            let panes = self
                .aggregate(self.groups[group as usize].slot)
                .map_or(1, |a| a.spec.panes());
            if self.cells[cell as usize].life.settled.is_none() {
                if merges >= EARLY_PANES_MAX {
                    later.push(cell);
                    continue;
                }
                merges += panes as usize;
            }
            self.cells[cell as usize].life.emit = false;
            match self.window_row(group, pane) {
                Some(row) => fx.rows.push(row),
                None => fx.cold.push(Changed { group, pane }),
            }
        }
        self.emit = later;
        fx.cold.append(&mut self.cold_windows);
        let mut cold = std::mem::take(&mut self.cold_changed);
        cold.sort_unstable();
        cold.dedup();
        for (group, pane) in cold {
            let Some(panes) = self
                .aggregate(self.groups[group as usize].slot)
                .map(|a| a.spec.panes())
            else {
                continue;
            };
            fx.cold
                .extend((pane - panes + 1..=pane).map(|pane| Changed { group, pane }));
        }
    }

    fn mark_windows(&mut self, group: u32, pane: i64) {
        let owner = &self.groups[group as usize];
        let Some(aggregate) = self.aggregate(owner.slot) else {
            return;
        };
        let frontier = aggregate.frontier;
        for start in pane - aggregate.spec.panes() + 1..=pane {
            match self.groups[group as usize].ring.get(start) {
                // It has left memory, but not everything that it is made of.
                SEALED => self.cold_windows.push(Changed { group, pane: start }),
                EMPTY if start < frontier => {
                    self.cold_windows.push(Changed { group, pane: start });
                }
                EMPTY => {}
                cell => {
                    let life = &mut self.cells[cell as usize].life;
                    if !std::mem::replace(&mut life.emit, true) {
                        self.emit.push(cell);
                    }
                }
            }
        }
    }

    /// The row of a window that is wholly in memory.
    pub(crate) fn window_row(&self, group: u32, pane: i64) -> Option<RowPart> {
        let owner = &self.groups[group as usize];
        let aggregate = self.aggregate(owner.slot)?;
        let panes = aggregate.spec.panes();
        // Events of panes before the frontier go to the outbox, even where a cell is still here.
        if pane < aggregate.frontier {
            return None;
        }
        let life = match owner.ring.get(pane) {
            EMPTY | SEALED => return None,
            cell => self.cells[cell as usize].life,
        };
        if panes == 1 {
            let cell = &self.cells[owner.ring.get(pane) as usize];
            let content = cell.content.as_ref().filter(|_| life.sealed == 0)?;
            return self.row_part(group, pane, Tier::Window, content, life.settled);
        }
        let mut sum = Pane::new();
        for p in pane..pane + panes {
            match owner.ring.get(p) {
                EMPTY => {}
                SEALED => return None,
                cell => {
                    let cell = &self.cells[cell as usize];
                    if cell.life.sealed > 0 {
                        return None;
                    }
                    if let Some(content) = &cell.content {
                        sum.merge(content, &self.registry.order());
                    }
                }
            }
        }
        self.row_part(group, pane, Tier::Window, &sum, life.settled)
    }

    /// What the views are told of a window, an hour or a day; `at` is its start in lengths of its tier.
    pub(crate) fn row_part(
        &self,
        group: u32,
        at: i64,
        tier: Tier,
        pane: &Pane,
        settled: Option<Settlement>,
    ) -> Option<RowPart> {
        let owner = &self.groups[group as usize];
        let spec = &self.aggregate(owner.slot)?.spec;
        let (start, length) = match tier {
            Tier::Window => (at * spec.hop, spec.window),
            Tier::Hour => (at * HOUR, HOUR),
            Tier::Day => (at * DAY, DAY),
        };
        let end = start + length;
        // Over before its first event came.
        let over = self.now >= end + DEADLINE;
        let late_events = match settled {
            Some(s) => pane.count.saturating_sub(s.count),
            None if over && tier == Tier::Window => pane.count,
            None => 0,
        };
        let state = match (settled.is_some() || over, late_events) {
            (false, _) => RowState::Open,
            (true, 0) => RowState::Settled,
            (true, _) => RowState::Revised,
        };
        let origin = |e: &super::pane::Extreme| Origin {
            time: e.time,
            device: self.registry.ids.get(e.device).into(),
        };
        let numeric = pane.numeric > 0;
        let with_extremes = self
            .aggregate(owner.slot)
            .is_some_and(|a| a.wants.has(super::pane::Wants::EXTREMES));
        Some(RowPart {
            aggregate: owner.slot,
            tier,
            group: owner.values.clone(),
            start,
            end,
            revision: pane.revision.max(settled.map_or(0, |s| s.revision)),
            state,
            count: pane.count,
            numeric: pane.numeric,
            sum: pane.sum,
            min: pane.min.value,
            max: pane.max.value,
            min_at: (numeric && with_extremes).then(|| origin(&pane.min)),
            max_at: (numeric && with_extremes).then(|| origin(&pane.max)),
            distinct: pane.devices.len(),
            values: pane.values.as_deref().cloned().map(std::sync::Arc::new),
            quantiles: pane.quantiles.as_deref().cloned().map(std::sync::Arc::new),
            late_events,
            settled: settled.map(|s| SettledCounts {
                done: s.done,
                expected: s.expected,
            }),
        })
    }

    /// Moves what is quiet and over out of the hot state, and frees cells whose window is done.
    pub(crate) fn seal(&mut self) {
        let mut active = std::mem::take(&mut self.active);
        active.retain(|&group| {
            if self.now < self.due[group as usize].seal {
                return true;
            }
            let stays = self.seal_group(group);
            self.groups[group as usize].active = stays;
            stays
        });
        self.active = active;
    }

    /// False if nothing is left in memory.
    fn seal_group(&mut self, number: u32) -> bool {
        let slot = self.groups[number as usize].slot;
        let Some((hop, window, frontier)) = self
            .aggregate(slot)
            .map(|a| (a.spec.hop, a.spec.window, a.frontier))
        else {
            return false;
        };
        let ring = &self.groups[number as usize].ring;
        let (base, len) = (ring.base, ring.cells.len());
        let from = usize::try_from(ring.first_cell - base).unwrap_or(0);
        let quiet = (self.now - QUIET).div_euclid(SECOND);
        let mut live = false;
        // When something of the group may be due next.
        let mut next = i64::MAX;
        let mut first_cell = base + len as i64;
        for at in from..len {
            let pane = base + at as i64;
            let cell = self.groups[number as usize].ring.cells[at];
            if cell == EMPTY || cell == SEALED {
                continue;
            }
            let life = self.cells[cell as usize].life;
            // Pending emissions need the content.
            let waits = life.changed || life.emit || life.touched > quiet;
            let last_end = pane * hop + window;
            let settled = life.settled.is_some();
            let due = if settled {
                last_end + SETTLE_AFTER
            } else {
                last_end + OPEN_SEAL_AFTER
            };
            if waits || self.now < due {
                live = true;
                first_cell = first_cell.min(pane);
                // What has no content waits for its window to settle.
                if settled || self.cells[cell as usize].content.is_some() {
                    let quiet = life.touched * SECOND + QUIET;
                    next = next.min(due.max(quiet).max(self.now));
                }
                continue;
            }
            self.seal_content(cell, slot, hop);
            if !settled {
                live = true;
                first_cell = first_cell.min(pane);
                continue;
            }
            // The window is done: its life goes where its content went.
            let life = self.cells[cell as usize].life;
            if life.sealed > 0 || settled {
                let key = ColdKey {
                    tier: 0,
                    slot,
                    start: pane * hop,
                    group: number,
                };
                let row = self.outbox.row(key);
                let row = self.outbox.at(row);
                row.settled = row.settled.or(life.settled);
            }
            let state = &mut self.cells[cell as usize];
            state.life = Life::default();
            self.groups[number as usize].ring.cells[at] = SEALED;
            self.free_cells.push(cell);
        }
        self.due[number as usize].seal = next;
        let ring = &mut self.groups[number as usize].ring;
        ring.first_cell = first_cell;
        ring.drop_before(frontier);
        live
    }

    /// Sends a cell's content to its pane, hour and day in the outbox.
    fn seal_content(&mut self, cell: u32, slot: u32, hop: i64) {
        let state = &mut self.cells[cell as usize];
        let Some(content) = state.content.take().filter(|c| c.count > 0) else {
            return;
        };
        state.life.sealed += content.count;
        let (group, start) = (state.group, state.pane * hop);
        let Some((tiers, horizons)) = self.aggregate(slot).map(|a| (a.tiers(), a.horizons)) else {
            return;
        };
        let seed = content.digest() ^ (u64::from(group) << 32) ^ start as u64;
        self.cold_digest = self.cold_digest.wrapping_add(mix(seed));
        let order = self.registry.order();
        // The pane itself last: there it is moved, not copied.
        for (tier, length) in [DAY, HOUR, hop].into_iter().enumerate() {
            let tier = TIERS - 1 - tier;
            let start = start.div_euclid(length) * length;
            if !tiers[tier] || start < horizons[tier] {
                continue;
            }
            let key = ColdKey {
                tier: tier as u8,
                slot,
                start,
                group,
            };
            let row = self.outbox.row(key);
            let pane = &mut self.outbox.at(row).pane;
            if tier == 0 && pane.count == 0 {
                *pane = *content;
                break;
            }
            pane.merge(&content, &order);
        }
    }

    /// The oldest pane of an aggregate that may be in memory.
    pub(crate) fn frontier(&self, hop: i64, window: i64) -> i64 {
        (self.now - DEADLINE - FRONTIER_AFTER - window).div_euclid(hop)
    }

    /// Frees all cells of a group.
    pub(crate) fn drop_cells(&mut self, group: u32) {
        let ring = std::mem::take(&mut self.groups[group as usize].ring);
        for cell in ring.cells {
            if cell != EMPTY && cell != SEALED {
                let state = &mut self.cells[cell as usize];
                state.life = Life::default();
                state.content = None;
                self.free_cells.push(cell);
            }
        }
    }
}

/// Spreads the bits of a number (the finaliser of SplitMix64: Steele, Lea, Flood 2014).
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
