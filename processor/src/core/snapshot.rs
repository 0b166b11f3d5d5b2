//! The state as bytes: a snapshot of what is hot, and a row per window.
//!
//! A snapshot is one version byte and postcard. Dense numbers stay what they are, because bitmaps in
//! the rows name devices by them. Dictionaries are rebuilt from the arrays. The order of everything is
//! that of the arrays and of ordered maps, so equal states give equal bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use event::{Declaration, RefusalReason};
use rules::Rule;
use serde::{Deserialize, Serialize};
use views::RowState;
use views::model::Totals;
use xxhash_rust::xxh3::Xxh3;

use super::agent::Agent;
use super::alerts::{Active, Alerts, EndedAlert, Place};
use super::group::Group;
use super::partition::{Aggregate, Partition};
use super::registry::{Device, SeriesState};
use super::window::Window;

const VERSION: u8 = 2;

/// Why a stored state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of this program.
    #[error(
        "the snapshot has version {found}, this program reads {VERSION}; start the version that wrote it"
    )]
    Version {
        /// What it says.
        found: u8,
    },
    /// Bytes that do not decode.
    #[error(
        "the {what} does not decode; restore the data folder from a backup, or delete it to begin anew"
    )]
    Damaged {
        /// Snapshot or row.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
struct GroupSaved {
    aggregate: Option<u32>,
    values: Vec<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    number: u16,
    now: i64,
    flushed: i64,
    offset: u64,
    outage: i64,
    declaration: Cow<'a, Declaration>,
    forgotten: Vec<i64>,
    agents: Cow<'a, [Agent]>,
    devices: Cow<'a, [Device]>,
    metrics: Cow<'a, [Arc<str>]>,
    series: Cow<'a, [SeriesState]>,
    groups: Vec<GroupSaved>,
    active: Vec<(Place, Active)>,
    history: Cow<'a, VecDeque<EndedAlert>>,
    totals: [u64; 7],
    reasons: Cow<'a, BTreeMap<RefusalReason, u64>>,
    incidents: u64,
}

/// Key of a window's row: group, then start in an order-keeping form.
pub(crate) fn row_key(group: u32, start: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&((start as u64) ^ (1 << 63)).to_be_bytes());
    key
}

fn parse_row_key(key: &[u8]) -> Option<(u32, i64)> {
    let (group, start) = key.split_at_checked(4)?;
    let start = u64::from_be_bytes(start.try_into().ok()?) ^ (1 << 63);
    Some((u32::from_be_bytes(group.try_into().ok()?), start as i64))
}

impl Partition {
    /// The state without its windows.
    pub fn snapshot(&self) -> Vec<u8> {
        let t = &self.totals;
        let saved = Saved {
            number: self.number,
            now: self.now,
            flushed: self.flushed,
            offset: self.offset,
            outage: self.outage,
            declaration: Cow::Borrowed(&self.declaration),
            forgotten: self.aggregates.iter().map(|a| a.forgotten).collect(),
            agents: Cow::Borrowed(&self.agents),
            devices: Cow::Borrowed(&self.devices),
            metrics: Cow::Borrowed(&self.metrics),
            series: Cow::Borrowed(&self.series),
            groups: self
                .groups
                .iter()
                .map(|g| GroupSaved {
                    aggregate: g.aggregate,
                    values: g.values.to_vec(),
                })
                .collect(),
            active: self
                .alerts
                .active
                .iter()
                .map(|(p, a)| (*p, a.clone()))
                .collect(),
            history: Cow::Borrowed(&self.alerts.history),
            totals: [
                t.accepted,
                t.counted,
                t.duplicate,
                t.quarantined,
                t.too_old,
                t.refused,
                t.broken_promises,
            ],
            reasons: Cow::Borrowed(&self.reasons),
            incidents: self.incidents,
        };
        // Postcard fails only for values of unknown length, which the state does not have.
        postcard::to_extend(&saved, vec![VERSION]).unwrap_or_default()
    }

    /// Windows that changed since the last call, as rows to put (`Some`) or to delete (`None`).
    pub fn take_rows(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = std::mem::take(&mut self.deleted)
            .into_iter()
            .map(|key| (key, None))
            .collect();
        for cell in std::mem::take(&mut self.unsaved) {
            let window = &mut self.windows[cell as usize];
            if std::mem::take(&mut window.unsaved) {
                rows.push((row_key(window.group, window.start), Some(window.save())));
            }
        }
        rows
    }

    /// Takes back rows of [`Self::take_rows`] that could not be saved: they come again with the next call.
    pub fn put_back(&mut self, rows: &[(Vec<u8>, Option<Vec<u8>>)]) {
        for (key, value) in rows {
            let cell = parse_row_key(key).and_then(|key| self.window_index.get(&key));
            match (value, cell) {
                (Some(_), Some(&cell)) => {
                    if !std::mem::replace(&mut self.windows[cell as usize].unsaved, true) {
                        self.unsaved.push(cell);
                    }
                }
                _ => self.deleted.push(key.clone()),
            }
        }
    }

    /// The state from a snapshot and all its rows.
    ///
    /// **Errors**: another version, or bytes that do not decode; both say what to do.
    pub fn restore(
        snapshot: &[u8],
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, RestoreError> {
        let damaged = |what: &str| RestoreError::Damaged {
            what: what.to_owned(),
        };
        let saved: Saved<'_> = match snapshot.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|e| damaged(&format!("snapshot ({e})")))?
            }
            Some((&found, _)) => return Err(RestoreError::Version { found }),
            None => return Err(damaged("empty snapshot")),
        };
        let mut p = Self::new(saved.number);
        p.now = saved.now;
        p.flushed = saved.flushed;
        p.offset = saved.offset;
        p.outage = saved.outage;
        p.aggregates = saved
            .declaration
            .aggregates
            .iter()
            .zip(&saved.forgotten)
            .map(|(spec, &forgotten)| Aggregate {
                spec: spec.clone(),
                forgotten,
                windows: 0,
            })
            .collect();
        let rules = saved
            .declaration
            .rules
            .iter()
            .filter_map(|text| Rule::parse(text).ok())
            .collect();
        p.declaration = saved.declaration.into_owned();
        p.alerts = Alerts::restore(
            rules,
            saved.active.into_iter().collect(),
            saved.history.into_owned(),
        );
        for (i, agent) in saved.agents.iter().enumerate() {
            let index = if agent.plain {
                &mut p.plain_index
            } else {
                &mut p.agent_index
            };
            index.insert(agent.name.clone(), i as u32);
        }
        p.agents = saved.agents.into_owned();
        for (i, metric) in saved.metrics.iter().enumerate() {
            p.metric_index.insert(metric.clone(), i as u32);
        }
        p.metrics = saved.metrics.into_owned();
        p.series = saved.series.into_owned();
        for (i, g) in saved.groups.into_iter().enumerate() {
            let mut group = Group::new(0, g.values.into());
            group.aggregate = g.aggregate;
            if let Some(a) = g.aggregate {
                p.group_index.insert((a, group.values.clone()), i as u32);
            }
            p.groups.push(group);
        }
        for (i, device) in saved.devices.iter().enumerate() {
            p.device_index.insert(device.id.clone(), i as u32);
            for &(group, since) in &device.groups {
                let group = p.groups.get_mut(group as usize);
                group
                    .ok_or_else(|| damaged("group of a device"))?
                    .join(device.agent, since);
            }
        }
        p.devices = saved.devices.into_owned();
        p.index_all_wide();
        for group in &mut p.groups {
            group.build_index(&p.agents);
        }
        let [
            accepted,
            counted,
            duplicate,
            quarantined,
            too_old,
            refused,
            broken_promises,
        ] = saved.totals;
        p.totals = Totals {
            accepted,
            counted,
            duplicate,
            quarantined,
            too_old,
            refused,
            broken_promises,
        };
        p.reasons = saved.reasons.into_owned();
        p.incidents = saved.incidents;
        for (key, bytes) in rows {
            let bad = || damaged(&format!("window row {key:02x?}"));
            let (number, start) = parse_row_key(&key).ok_or_else(bad)?;
            let window = Window::load(number, start, &bytes).ok_or_else(bad)?;
            let group = p.groups.get(number as usize).ok_or_else(bad)?;
            let Some(a) = group.aggregate else { continue };
            let aggregate = p.aggregates.get_mut(a as usize).ok_or_else(bad)?;
            aggregate.windows += 1;
            let cell = p.windows.len() as u32;
            p.window_index.insert((number, start), cell);
            p.by_start.insert((a, start, number), cell);
            if window.state == RowState::Open {
                p.open
                    .insert((start + aggregate.spec.window, number, start));
            }
            p.windows.push(window);
        }
        Ok(p)
    }

    /// A hash of the whole state: equal states, equal hashes, over runs and restarts.
    pub fn state_hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.snapshot());
        for (key, &cell) in &self.by_start {
            let window = &self.windows[cell as usize];
            hash.update(&row_key(key.2, key.1));
            hash.update(&window.save());
        }
        hash.digest()
    }
}
