//! The only contact with the processor: its core, its state store, and its effects in terms of the
//! simulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use processor::core::{Declarations, Effects, NoticeKind, Partition, Saving, StoredRow};
use views::model::Totals;
use views::{CompletenessIndex, HistoryQuery, RowPart, RowState, Tier};
use xxhash_rust::xxh3::Xxh3;

use crate::scenario::PLANS;

/// A window's row (or that of an hour or a day) as the processor gave it out.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// 0 = window, 1 = hour, 2 = day.
    pub tier: u8,
    /// Position in [`PLANS`].
    pub plan: usize,
    /// Number of the group.
    pub group: u32,
    /// Start of the window.
    pub start: i64,
    /// Greater at every emission.
    pub revision: u64,
    /// Events.
    pub count: u64,
    /// Numeric ones.
    pub numeric: u64,
    /// Units of 2^-48.
    pub sum: i128,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Event time and device of the smallest and the largest.
    pub origins: [Option<(i64, Arc<str>)>; 2],
    /// Devices.
    pub distinct: u64,
    /// After it settled.
    pub late: u64,
    /// Life.
    pub state: RowState,
    /// Done and expected when it settled.
    pub settled: Option<(u64, u64)>,
}

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It began.
    Raised,
    /// It began at another time.
    Revised,
    /// It ended.
    Cleared,
}

/// An alert that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// Rule's name.
    pub rule: String,
    /// On which device.
    pub device: String,
    /// Event time of its begin.
    pub began: i64,
    /// Event time of its end.
    pub ended: i64,
    /// It paged, and then it turned out that it was none.
    pub never: bool,
}

/// A page, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The alert.
    pub id: String,
    /// What is said of it.
    pub told: Told,
    /// Rule's name.
    pub rule: String,
    /// On which device.
    pub device: String,
    /// Event time of its begin.
    pub began: i64,
}

/// What is known of the completeness of a group's windows.
#[derive(Debug, Clone, Default)]
pub struct Group(Arc<CompletenessIndex>);

impl Group {
    /// Expected, complete, lossy, outstanding devices of the window.
    pub fn counts(&self, start: i64, end: i64) -> [u64; 4] {
        let c = self.0.counts(start, end);
        [c.expected, c.complete, c.lossy, c.outstanding]
    }
}

/// What one step gave.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Rows.
    pub rows: Vec<Row>,
    /// Groups whose completeness changed: (position in [`PLANS`], group).
    pub groups: Vec<(usize, u32, Group)>,
    /// Pages and their ends.
    pub pages: Vec<Page>,
    /// Alerts that are over.
    pub ended: Vec<Ended>,
    /// Agents with an identity incident.
    pub incidents: Vec<String>,
    /// What was set aside and can be released: its number, and its earliest event's time if that is known.
    pub held: Vec<(u64, Option<i64>)>,
    /// The ledger; only at a flush.
    pub totals: Option<Totals>,
}

impl Outcome {
    /// Equal outcomes, equal numbers.
    pub fn hash(&self) -> u64 {
        let mut h = Xxh3::new();
        for r in &self.rows {
            for n in [
                u64::from(r.tier),
                r.plan as u64,
                u64::from(r.group),
                r.start as u64,
                r.revision,
                r.count,
                r.numeric,
                r.sum as u64,
                (r.sum >> 64) as u64,
                r.min.to_bits(),
                r.max.to_bits(),
                r.distinct,
                r.late,
                r.state as u64,
                r.settled.map_or(u64::MAX, |s| s.0 << 32 | s.1),
            ] {
                h.update(&n.to_le_bytes());
            }
            for (time, device) in r.origins.iter().flatten() {
                h.update(&time.to_le_bytes());
                h.update(device.as_bytes());
            }
        }
        for page in &self.pages {
            h.update(page.id.as_bytes());
            h.update(&[page.told as u8]);
            h.update(&page.began.to_le_bytes());
        }
        for ended in &self.ended {
            h.update(ended.id.as_bytes());
            h.update(&ended.ended.to_le_bytes());
        }
        for agent in &self.incidents {
            h.update(agent.as_bytes());
        }
        for (id, _) in &self.held {
            h.update(&id.to_le_bytes());
        }
        if let Some(t) = self.totals {
            for n in [t.accepted, t.counted, t.duplicate, t.quarantined, t.too_old] {
                h.update(&n.to_le_bytes());
            }
            h.update(&t.broken_promises.to_le_bytes());
        }
        h.digest()
    }
}

/// An open alert at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Open {
    /// Rule's name.
    pub rule: String,
    /// Device.
    pub device: String,
    /// Event time of its begin.
    pub began: i64,
    /// Firing, not pending.
    pub firing: bool,
    /// It has paged.
    pub notified: bool,
}

/// What the state store holds.
#[derive(Debug, Clone, Default)]
struct Store {
    snapshot: Option<Vec<u8>>,
    /// Offset of the snapshot.
    saved: Option<u64>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Store {
    fn get(&self, keys: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        keys.iter().map(|key| self.rows.get(key).cloned()).collect()
    }

    fn range(&self, (from, to): (Vec<u8>, Vec<u8>)) -> Vec<StoredRow> {
        let rows = self.rows.range(from..to);
        rows.map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// The processor of one partition with its state store.
pub struct Cloud {
    partition: Partition,
    store: Store,
    /// A checkpoint that is being written.
    saving: Option<Saving>,
    /// Position in [`PLANS`] of the aggregate in a slot.
    plans: BTreeMap<u32, usize>,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            partition: Partition::new(0),
            store: Store::default(),
            saving: None,
            plans: BTreeMap::new(),
        }
    }
}

fn plan_of(declared: &Declarations) -> BTreeMap<u32, usize> {
    let plan = |name: &str| PLANS.iter().position(|p| p.name == name);
    let slots = declared.aggregates.iter();
    slots
        .filter_map(|(slot, spec)| Some((*slot, plan(&spec.name)?)))
        .collect()
}

impl Cloud {
    /// Processes a block.
    pub fn step(&mut self, offset: u64, ingest: i64, records: &[Vec<u8>]) -> Outcome {
        let mut fx = Effects::default();
        self.partition.step(offset, ingest, records, &mut fx);
        self.outcome(fx)
    }

    fn outcome(&mut self, fx: Effects) -> Outcome {
        if let Some(declared) = &fx.declared {
            self.plans = plan_of(declared);
        }
        let mut rows: Vec<Row> = fx.rows.iter().filter_map(|r| self.row(r)).collect();
        for changed in &fx.cold {
            let keys = self.partition.window_keys(changed.group, changed.pane);
            let stored = self.store.get(&keys);
            let row =
                self.partition
                    .window_with(changed.group, changed.pane, &stored, self.store.saved);
            rows.extend(row.and_then(|r| self.row(&r)));
        }
        let groups = fx.indexes.iter().filter_map(|(slot, values, index)| {
            let plan = *self.plans.get(slot)?;
            let group = PLANS[plan].group_of(values)?;
            Some((plan, group, Group(Arc::clone(index))))
        });
        let ended = fx.alerts.into_iter().filter_map(|a| {
            let never = a.reason.is_some_and(|r| r.contains("it was none"));
            Some(Ended {
                ended: a.resolved?.0,
                id: a.id,
                rule: a.rule,
                device: a.device,
                began: a.began.0,
                never,
            })
        });
        let pages = fx.notices.into_iter().map(|n| Page {
            id: n.alert.id,
            told: match n.kind {
                NoticeKind::Raised => Told::Raised,
                NoticeKind::Revised => Told::Revised,
                NoticeKind::Cleared => Told::Cleared,
            },
            rule: n.alert.rule,
            device: n.alert.device,
            began: n.alert.began.0,
        });
        Outcome {
            groups: groups.collect(),
            rows,
            pages: pages.collect(),
            ended: ended.collect(),
            incidents: fx.incidents.into_iter().filter_map(|i| i.agent).collect(),
            held: fx
                .quarantine
                .iter()
                .filter_map(|item| {
                    let id = item.id.as_ref()?.rsplit('-').next()?.parse().ok()?;
                    Some((id, item.event_time.map(|t| t.0)))
                })
                .collect(),
            totals: fx.summary.map(|s| s.totals),
        }
    }

    fn row(&self, r: &RowPart) -> Option<Row> {
        let plan = *self.plans.get(&r.aggregate)?;
        let origin = |o: &Option<views::Origin>| o.as_ref().map(|o| (o.time, o.device.clone()));
        Some(Row {
            tier: match r.tier {
                Tier::Window => 0,
                Tier::Hour => 1,
                Tier::Day => 2,
            },
            plan,
            group: PLANS[plan].group_of(&r.group)?,
            start: r.start,
            revision: r.revision,
            count: r.count,
            numeric: r.numeric,
            sum: r.sum,
            min: r.min,
            max: r.max,
            origins: [origin(&r.min_at), origin(&r.max_at)],
            distinct: r.distinct,
            late: r.late_events,
            state: r.state,
            settled: r.settled.map(|s| (s.done, s.expected)),
        })
    }

    /// Begins a checkpoint; false if it cannot now.
    pub fn begin_checkpoint(&mut self) -> bool {
        if self.saving.is_none() {
            self.saving = self.partition.begin_checkpoint(Vec::new());
            return self.saving.is_some();
        }
        false
    }

    /// The checkpoint is in the store.
    ///
    /// **Errors**: a row of the store does not decode.
    fn commit(&mut self, saving: &Saving) -> Result<(), String> {
        let stored = self.store.get(&saving.keys());
        let rows = saving
            .rows(&stored, |a, b| self.partition.is_before(a, b))
            .map_err(|e| format!("merge rows: {e}"))?;
        for (key, value) in rows {
            match value {
                Some(value) => self.store.rows.insert(key, value),
                None => self.store.rows.remove(&key),
            };
        }
        for (from, to) in saving.forget() {
            let gone: Vec<Vec<u8>> = self
                .store
                .rows
                .range(from..to)
                .map(|r| r.0.clone())
                .collect();
            for key in gone {
                self.store.rows.remove(&key);
            }
        }
        self.store.snapshot = Some(saving.snapshot.clone());
        self.store.saved = Some(saving.offset);
        Ok(())
    }

    /// Ends the checkpoint that was begun: saved, or not.
    ///
    /// **Errors**: a row of the store does not decode.
    pub fn end_checkpoint(&mut self, works: bool) -> Result<(), String> {
        if let Some(saving) = self.saving.take() {
            if works {
                self.commit(&saving)?;
            }
            self.partition.finish_checkpoint(works);
        }
        Ok(())
    }

    /// The processor has died: the state of its newest checkpoint. One under way is there or not.
    ///
    /// **Errors**: the state does not restore.
    pub fn restore(&mut self, is_there: bool) -> Result<(), String> {
        if let Some(saving) = self.saving.take()
            && is_there
        {
            self.commit(&saving)?;
        }
        self.partition = match &self.store.snapshot {
            None => Partition::new(0),
            Some(snapshot) => Partition::restore(snapshot).map_err(|e| format!("restore: {e}"))?,
        };
        self.plans = plan_of(&self.partition.declarations());
        Ok(())
    }

    /// Whether a checkpoint is being written.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Whether the state may be saved, and its hash means something.
    pub fn at_rest(&self) -> bool {
        self.partition.at_rest()
    }

    /// A hash of the state.
    pub fn state_hash(&self) -> u64 {
        self.partition.state_hash()
    }

    /// Progress of the agent of a device; none if the device is not known.
    pub fn progress(&self, device: &str) -> Option<i64> {
        self.partition.find_device(device).map(|d| d.progress.0)
    }

    /// The bytes of what was set aside, as an operator's release brings them.
    pub fn held_record(&self, id: u64) -> Option<Vec<u8>> {
        let unsaved = self.partition.held_record(id);
        unsaved.or_else(|| self.store.rows.get(&Partition::held_key(id)).cloned())
    }

    /// Everything there is, from memory and store: rows of all tiers, completeness, open alerts, and
    /// (day, device, events) of what was too old.
    pub fn all(&mut self) -> (Outcome, Vec<Open>, Vec<(i64, String, u64)>) {
        let mut fx = Effects::default();
        self.partition.publish(&mut fx);
        let open = fx
            .alerts
            .iter()
            .filter(|a| a.resolved.is_none())
            .map(|a| Open {
                rule: a.rule.clone(),
                device: a.device.clone(),
                began: a.began.0,
                firing: a.state == "firing",
                notified: a.notified,
            });
        let mut open: Vec<Open> = open.collect();
        open.sort();
        fx.rows.clear();
        fx.cold.clear();
        let mut outcome = self.outcome(fx);
        let slots: Vec<u32> = self.plans.keys().copied().collect();
        for (aggregate, tier) in slots
            .iter()
            .flat_map(|slot| [Tier::Window, Tier::Hour, Tier::Day].map(|t| (*slot, t)))
        {
            let (from, to) = (i64::MIN, self.partition.history_end());
            let query = HistoryQuery {
                aggregate,
                tier,
                from,
                to,
                group: Vec::new(),
                after: None,
                newest: false,
                limit: usize::MAX,
            };
            if let Some(range) = self.partition.history_range(&query, from, to) {
                let stored = self.store.range(range);
                let rows = self
                    .partition
                    .history(&query, (from, to), &stored, self.store.saved);
                outcome.rows.extend(rows.iter().filter_map(|r| self.row(r)));
            }
        }
        let stored = self.store.range(self.partition.too_old_range(None));
        let too_old = self
            .partition
            .too_old(None, usize::MAX, &stored, self.store.saved);
        (outcome, open, too_old)
    }
}
