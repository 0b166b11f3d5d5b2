//! Windows, hours and days put together from memory and from the rows of the state store.

use std::collections::BTreeMap;

use views::model::QuarantineItem;
use views::{HistoryQuery, RowPart, Tier};

use super::cold::{ColdKey, ColdRow, parse_count, parse_too_old, too_old_range};
use super::effects::Changed;
use super::group::{EMPTY, SEALED};
use super::pane::Pane;
use super::partition::Partition;
use super::windows::{DAY, HOUR};

/// A row of the state store: key and value.
pub type StoredRow = (Vec<u8>, Vec<u8>);

fn tier_code(tier: Tier) -> u8 {
    match tier {
        Tier::Window => 0,
        Tier::Hour => 1,
        Tier::Day => 2,
    }
}

/// A pane, if it is one of those of a window.
fn pane_of(first: i64, panes: i64, at: i64) -> Option<i64> {
    (first..first + panes).contains(&at).then_some(at)
}

impl Partition {
    /// Keys of the state store's rows that the window has a part in.
    pub fn window_keys(&self, group: u32, pane: i64) -> Vec<Vec<u8>> {
        let Some(owner) = self.groups.get(group as usize) else {
            return Vec::new();
        };
        let Some(aggregate) = self.aggregate(owner.slot) else {
            return Vec::new();
        };
        let spec = &aggregate.spec;
        (pane..pane + spec.panes())
            .map(|p| {
                ColdKey {
                    tier: 0,
                    slot: owner.slot,
                    start: p * spec.hop,
                    group,
                }
                .bytes()
            })
            .collect()
    }

    /// Slot of the aggregate and start of a window.
    pub fn window_place(&self, window: &Changed) -> Option<(u32, i64)> {
        let slot = self.groups.get(window.group as usize)?.slot;
        Some((slot, window.pane * self.aggregate(slot)?.spec.hop))
    }

    /// The row of a window with what the state store has under [`Self::window_keys`], in that order; `saved` is
    /// the offset of the checkpoint that the store had then. None if there is nothing, or if it is not kept.
    pub fn window_with(
        &self,
        group: u32,
        pane: i64,
        stored: &[Option<Vec<u8>>],
        saved: Option<u64>,
    ) -> Option<RowPart> {
        let owner = self.groups.get(group as usize)?;
        let aggregate = self.aggregate(owner.slot)?;
        let (hop, panes) = (aggregate.spec.hop, aggregate.spec.panes());
        if pane.checked_mul(hop)? < aggregate.horizons[0] {
            return None;
        }
        let mut rows = BTreeMap::new();
        for (p, stored) in (pane..pane + panes).zip(stored) {
            let mut row = match stored {
                Some(bytes) => ColdRow::load(bytes)?,
                None => ColdRow::new(),
            };
            let key = ColdKey {
                tier: 0,
                slot: owner.slot,
                start: p * hop,
                group,
            };
            self.add_unsaved(&key, saved, &mut row);
            rows.insert((p, group), row);
        }
        self.add_hot(
            &[group],
            owner.slot,
            0,
            hop,
            |_, at| pane_of(pane, panes, at),
            &mut rows,
        );
        self.window_of(group, pane, panes, &rows)
    }

    fn add_unsaved(&self, key: &ColdKey, saved: Option<u64>, row: &mut ColdRow) {
        let order = self.registry.order();
        if let Some((offset, flying)) = &self.in_flight
            && saved.is_none_or(|saved| saved < *offset)
            && let Some(more) = flying.get(key)
        {
            row.merge(more, &order);
        }
        if let Some(more) = self.outbox.get(key) {
            row.merge(more, &order);
        }
    }

    /// Adds what is hot. `wanted` gives the place of a pane of a group.
    fn add_hot(
        &self,
        groups: &[u32],
        slot: u32,
        tier: u8,
        length: i64,
        wanted: impl Fn(u32, i64) -> Option<i64>,
        rows: &mut BTreeMap<(i64, u32), ColdRow>,
    ) {
        let Some(hop) = self.aggregate(slot).map(|a| a.spec.hop) else {
            return;
        };
        let order = self.registry.order();
        for &number in groups {
            let group = &self.groups[number as usize];
            if group.slot != slot {
                continue;
            }
            for (at, &cell) in group.ring.cells.iter().enumerate() {
                if cell == EMPTY || cell == SEALED {
                    continue;
                }
                let pane = group.ring.base + at as i64;
                let Some(at) = wanted(number, (pane * hop).div_euclid(length)) else {
                    continue;
                };
                let cell = &self.cells[cell as usize];
                let row = rows.entry((at, number)).or_insert_with(ColdRow::new);
                if let Some(content) = &cell.content {
                    row.pane.merge(content, &order);
                }
                if tier == 0 {
                    row.settled = row.settled.or(cell.life.settled);
                }
            }
        }
    }

    fn window_of(
        &self,
        group: u32,
        pane: i64,
        panes: i64,
        rows: &BTreeMap<(i64, u32), ColdRow>,
    ) -> Option<RowPart> {
        let settled = rows.get(&(pane, group)).and_then(|r| r.settled);
        let order = self.registry.order();
        let mut sum = Pane::new();
        for p in pane..pane + panes {
            if let Some(row) = rows.get(&(p, group)) {
                sum.merge(&row.pane, &order);
            }
        }
        if sum.count == 0 {
            return None;
        }
        self.row_part(group, pane, Tier::Window, &sum, settled)
    }

    /// Keys of the state store (from, to) that a query over `[from, to)` needs; none if there is nothing.
    pub fn history_range(
        &self,
        query: &HistoryQuery,
        from: i64,
        to: i64,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let aggregate = self.aggregate(query.aggregate)?;
        let tier = tier_code(query.tier);
        aggregate.tiers()[usize::from(tier)].then_some(())?;
        let from = from.max(aggregate.horizons[usize::from(tier)]);
        let to = match query.tier {
            Tier::Window => to.saturating_add(aggregate.spec.window - aggregate.spec.hop),
            _ => to,
        };
        (from < to).then(|| {
            (
                ColdKey::prefix(tier, query.aggregate, from),
                ColdKey::prefix(tier, query.aggregate, to),
            )
        })
    }

    /// Start of a stored row.
    pub fn start_of(key: &[u8]) -> Option<i64> {
        ColdKey::parse(key).map(|k| k.start)
    }

    /// The earliest start beyond all that is in memory for an aggregate: where looking may end.
    pub fn history_end(&self) -> i64 {
        self.now.max(self.newest).saturating_add(2 * DAY)
    }

    /// All rows of the query's tier and groups that start in `[from, to)`, ascending by (start, values), from
    /// `stored` (everything that the store has in [`Self::history_range`], as of checkpoint `saved`) and
    /// memory.
    pub fn history(
        &self,
        query: &HistoryQuery,
        (from, to): (i64, i64),
        stored: &[StoredRow],
        saved: Option<u64>,
    ) -> Vec<RowPart> {
        let Some(aggregate) = self.aggregate(query.aggregate) else {
            return Vec::new();
        };
        let tier = tier_code(query.tier);
        let (hop, panes) = (aggregate.spec.hop, aggregate.spec.panes());
        let (length, panes) = match query.tier {
            Tier::Window => (hop, panes),
            Tier::Hour => (HOUR, 1),
            Tier::Day => (DAY, 1),
        };
        let horizon = aggregate.horizons[usize::from(tier)].max(from);
        let last = to.saturating_add((panes - 1) * length);
        let known = |group: u32| {
            self.groups
                .get(group as usize)
                .is_some_and(|g| g.slot == query.aggregate && query.fits(&g.values))
        };
        let mut rows: BTreeMap<(i64, u32), ColdRow> = BTreeMap::new();
        let order = self.registry.order();
        for (key, value) in stored {
            if let Some(key) = ColdKey::parse(key)
                && known(key.group)
                && let Some(row) = ColdRow::load(value)
            {
                rows.insert((key.start.div_euclid(length), key.group), row);
            }
        }
        let flying = self
            .in_flight
            .as_ref()
            .filter(|f| saved.is_none_or(|saved| saved < f.0));
        let unsaved = flying.iter().flat_map(|f| &f.1.rows);
        for (key, row) in unsaved.chain(&self.outbox.rows) {
            let fits = key.tier == tier && key.slot == query.aggregate;
            if fits && (horizon..last).contains(&key.start) && known(key.group) {
                rows.entry((key.start.div_euclid(length), key.group))
                    .or_insert_with(ColdRow::new)
                    .merge(row, &order);
            }
        }
        let wanted = |group, at: i64| {
            let start = at * length;
            ((horizon..last).contains(&start) && known(group)).then_some(at)
        };
        self.add_hot(
            &self.active,
            query.aggregate,
            tier,
            length,
            wanted,
            &mut rows,
        );
        let mut starts: Vec<(i64, u32)> = rows
            .keys()
            .flat_map(|&(at, group)| (at - panes + 1..=at).map(move |at| (at, group)))
            .filter(|(at, _)| (horizon..to).contains(&(at * length)))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut out: Vec<RowPart> = starts
            .into_iter()
            .filter_map(|(at, group)| match query.tier {
                Tier::Window => self.window_of(group, at, panes, &rows),
                tier => {
                    let row = rows.get(&(at, group)).filter(|r| r.pane.count > 0)?;
                    self.row_part(group, at, tier, &row.pane, None)
                }
            })
            .filter(|row| {
                let after = query.after.as_ref();
                after.is_none_or(|(start, group)| (row.start, &row.group) > (*start, group))
            })
            .collect();
        out.sort_by(|a, b| (a.start, &a.group).cmp(&(b.start, &b.group)));
        out
    }

    /// Keys of the state store (from, to) that hold the ledger of what was too old behind the entry `after` (day,
    /// device), or all of it. Of a page with `limit` entries the first `limit` rows are enough.
    pub fn too_old_range(&self, after: Option<&(i64, String)>) -> (Vec<u8>, Vec<u8>) {
        too_old_range(after)
    }

    /// (day, device, events) of what was too old behind `after`, ascending by day and id, at most `limit`;
    /// `stored` are the first `limit` rows of [`Self::too_old_range`], or all if there are fewer.
    pub fn too_old(
        &self,
        after: Option<&(i64, String)>,
        limit: usize,
        stored: &[StoredRow],
        saved: Option<u64>,
    ) -> Vec<(i64, String, u64)> {
        let mut all: BTreeMap<(i64, String), u64> = stored
            .iter()
            .filter_map(|(key, value)| Some((parse_too_old(key)?, parse_count(value)?)))
            .collect();
        let flying = self
            .in_flight
            .as_ref()
            .filter(|f| saved.is_none_or(|saved| saved < f.0));
        let begin = after.map_or(i64::MIN, |a| a.0);
        for unsaved in flying.map(|f| &*f.1).into_iter().chain([&self.outbox]) {
            let (mut day, mut taken) = (begin, 0);
            for (&(of, device), n) in unsaved.too_old.range((begin, 0)..) {
                // Within a day they are not in the order of their ids.
                if of != day && taken >= limit {
                    break;
                }
                day = of;
                let entry = (day, self.registry.ids.get(device).to_owned());
                if after.is_none_or(|after| entry > *after) {
                    *all.entry(entry).or_default() += n;
                    taken += 1;
                }
            }
        }
        all.into_iter()
            .take(limit)
            .map(|((day, device), n)| (day, device, n))
            .collect()
    }

    /// The key under which the state store has a quarantined record.
    pub fn held_key(id: u64) -> Vec<u8> {
        super::cold::held_key(id)
    }

    /// Entries whose records can no longer be released lose their id.
    pub fn check_held(&self, items: &mut [QuarantineItem]) {
        let prefix = format!("{}-", self.number);
        for item in items {
            let id = item.id.as_deref().and_then(|id| id.strip_prefix(&prefix));
            if id
                .and_then(|id| id.parse().ok())
                .is_some_and(|id| !self.is_held(id))
            {
                item.id = None;
            }
        }
    }
}
