//! The hot state as bytes.
//!
//! A snapshot is one version byte, a few numbers, and the tables as flat little-endian columns
//! ([`flat`](super::flat)); what is rare is postcard. Dense numbers stay what they are, because the rows of
//! the state store name devices and groups by them. Dictionaries, groups' members and other things that
//! follow are built again. The order of everything is that of arrays and ordered maps, so equal states give
//! equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::{AggregateSpec, RefusalReason, Retention};
use serde::{Deserialize, Serialize};
use views::model::Totals;
use xxhash_rust::xxh3::xxh3_64;

use super::agents::Agents;
use super::aggregate::Aggregate;
use super::alerts::{Alerts, Saved};
use super::cold::{Settlement, TIERS};
use super::commands::Commands;
use super::declare::Declared;
use super::flat;
use super::flush::Scan;
use super::group::{EMPTY, Group, SEALED};
use super::held::Held;
use super::members::Past;
use super::pane::Pane;
use super::partition::Partition;
use super::registry::Registry;
use super::windows::{Cell, Due, Life};

const VERSION: u8 = 7;

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

type AggregateSaved = Option<(AggregateSpec, i64, [i64; TIERS])>;

#[derive(Serialize, Deserialize)]
struct Rare {
    declared: Declared,
    aggregates: Vec<AggregateSaved>,
    retention: Retention,
    alerts: Saved,
    commands: Commands,
    held: Held,
    reasons: BTreeMap<RefusalReason, u64>,
    scan: Scan,
    gone: BTreeSet<u32>,
    further_devices: BTreeMap<u32, BTreeSet<u32>>,
    past: BTreeMap<u32, Vec<Past>>,
}

const RING_EMPTY: u32 = 0;
const RING_SEALED: u32 = 1;
const RING_LIFE: u32 = 2;
const RING_PANE: u32 = 3;

impl Partition {
    /// The hot state. Meaningful only [at rest](Self::at_rest).
    pub fn snapshot(&self) -> Vec<u8> {
        self.snapshot_into(Vec::new())
    }

    /// The same, in a buffer whose memory is used again.
    pub fn snapshot_into(&self, mut out: Vec<u8>) -> Vec<u8> {
        out.clear();
        // Growing bit by bit would copy it again and again.
        let panes = self.groups.len() * 512 + self.cells.len() * 256;
        out.reserve(self.registry.memory() + self.agents.memory() + panes);
        out.push(VERSION);
        flat::put_u32(&mut out, u32::from(self.number));
        for n in [self.now, self.flushed, self.outage, self.newest] {
            flat::put_i64(&mut out, n);
        }
        let t = &self.totals;
        for n in [
            self.offset,
            self.cold_digest,
            self.incidents,
            t.accepted,
            t.counted,
            t.duplicate,
            t.quarantined,
            t.too_old,
            t.refused,
            t.broken_promises,
        ] {
            flat::put_u64(&mut out, n);
        }
        self.registry.save(&mut out);
        self.agents.save(&mut out);
        flat::put_len(&mut out, self.groups.len());
        for group in &self.groups {
            self.save_group(group, &mut out);
        }
        flat::put_u32s(&mut out, &self.active);
        let waiting = self.emit.iter().map(|cell| &self.cells[*cell as usize]);
        let waiting: Vec<i64> = waiting
            .filter(|c| c.life.emit)
            .flat_map(|c| [i64::from(c.group), c.pane])
            .collect();
        flat::put_i64s(&mut out, &waiting);
        let past = |(i, g): (usize, &Group)| {
            (!g.members.past.is_empty()).then(|| (i as u32, g.members.past.clone()))
        };
        let rare = Rare {
            declared: self.declared.clone(),
            aggregates: self
                .aggregates
                .iter()
                .map(|a| a.as_ref().map(|a| (a.spec.clone(), a.frontier, a.horizons)))
                .collect(),
            retention: self.retention,
            alerts: self.alerts.save(),
            commands: self.commands.clone(),
            held: self.held.clone(),
            reasons: self.reasons.clone(),
            scan: self.scan.clone(),
            gone: self.gone.clone(),
            further_devices: self.further_devices.clone(),
            past: self.groups.iter().enumerate().filter_map(past).collect(),
        };
        // Postcard fails only for values of unknown length, which the state does not have.
        let rare = postcard::to_allocvec(&rare).unwrap_or_default();
        flat::put_bytes(&mut out, &rare);
        out
    }

    fn save_group(&self, group: &Group, out: &mut Vec<u8>) {
        flat::put_u32(out, group.slot);
        flat::put_len(out, group.values.len());
        for value in group.values.iter() {
            flat::put_bytes(out, value.as_bytes());
        }
        // What lies before the frontier is dropped when somebody looks; whether somebody did is not state.
        let ring = &group.ring;
        let frontier = self.aggregate(group.slot).map_or(ring.base, |a| a.frontier);
        let over = |(i, cell): &(usize, &u32)| {
            ring.base + (*i as i64) < frontier && matches!(**cell, EMPTY | SEALED)
        };
        let dropped = ring.cells.iter().enumerate().take_while(over).count();
        let empty = dropped == ring.cells.len();
        flat::put_i64(out, if empty { 0 } else { ring.base + dropped as i64 });
        flat::put_len(out, ring.cells.len() - dropped);
        for &cell in ring.cells.iter().skip(dropped) {
            match cell {
                EMPTY => flat::put_u32(out, RING_EMPTY),
                SEALED => flat::put_u32(out, RING_SEALED),
                cell => {
                    let cell = &self.cells[cell as usize];
                    let kind = if cell.content.is_some() {
                        RING_PANE
                    } else {
                        RING_LIFE
                    };
                    flat::put_u32(out, kind);
                    flat::put_i64(out, cell.life.touched);
                    flat::put_u64(out, cell.life.sealed);
                    flat::put_u32(out, u32::from(cell.life.settled.is_some()));
                    if let Some(s) = cell.life.settled {
                        for n in [s.done, s.expected, s.count, s.revision] {
                            flat::put_u64(out, n);
                        }
                    }
                    if let Some(content) = &cell.content {
                        content.save(out);
                    }
                }
            }
        }
    }

    /// The state from a snapshot.
    ///
    /// **Errors**: another version, or bytes that do not decode or contradict each other; both say what to do.
    pub fn restore(snapshot: &[u8]) -> Result<Self, RestoreError> {
        let rest = match snapshot.split_first() {
            Some((&VERSION, rest)) => rest,
            Some((&found, _)) => return Err(RestoreError::Version { found }),
            None => {
                return Err(RestoreError::Damaged {
                    what: "empty snapshot".to_owned(),
                });
            }
        };
        Self::load(rest).ok_or_else(|| RestoreError::Damaged {
            what: "snapshot".to_owned(),
        })
    }

    fn load(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let mut p = Self::new(u16::try_from(flat::take_u32(bytes)?).ok()?);
        for place in [&mut p.now, &mut p.flushed, &mut p.outage, &mut p.newest] {
            *place = flat::take_i64(bytes)?;
        }
        let mut numbers = [0; 10];
        for n in &mut numbers {
            *n = flat::take_u64(bytes)?;
        }
        let [
            offset,
            cold_digest,
            incidents,
            accepted,
            counted,
            duplicate,
            quarantined,
            too_old,
            refused,
            broken_promises,
        ] = numbers;
        (p.offset, p.cold_digest, p.incidents) = (offset, cold_digest, incidents);
        p.totals = Totals {
            accepted,
            counted,
            duplicate,
            quarantined,
            too_old,
            refused,
            broken_promises,
        };
        p.registry = Registry::load(bytes)?;
        p.agents = Agents::load(bytes)?;
        p.is_moved = vec![false; p.agents.len()];
        let groups = usize::try_from(flat::take_u64(bytes)?).ok()?;
        // Each takes 28 bytes at least: checked before anything is reserved.
        if groups > bytes.len() / 28 {
            return None;
        }
        for number in 0..groups {
            p.load_group(number as u32, bytes)?;
        }
        p.active = flat::take_u32s(bytes)?;
        p.due = vec![Due::NOW; p.groups.len()];
        for &group in &p.active {
            let group = p.groups.get_mut(group as usize)?;
            let twice = std::mem::replace(&mut group.active, true);
            (!twice).then_some(())?;
        }
        let waiting = flat::take_i64s(bytes)?;
        let (waiting, odd) = waiting.as_chunks::<2>();
        odd.is_empty().then_some(())?;
        for &[group, pane] in waiting {
            let group = p.groups.get(usize::try_from(group).ok()?)?;
            let cell = group.ring.get(pane);
            let life = &mut p.cells.get_mut(cell as usize)?.life;
            let twice = std::mem::replace(&mut life.emit, true);
            (!twice).then_some(())?;
            p.emit.push(cell);
        }
        let rare: Rare = postcard::from_bytes(flat::take_bytes(bytes)?).ok()?;
        p.take_rare(rare)?;
        bytes.is_empty().then_some(())?;
        p.is_sound().then_some(())?;
        // Groups that classes had are found again: none is made.
        let known = p.groups.len();
        for class in 0..p.registry.classes.len() {
            if std::mem::take(&mut p.registry.classes[class].placed) {
                p.place_class(class as u32);
            }
        }
        p.rebuild_members();
        (p.groups.len() == known).then_some(())?;
        for group in &mut p.groups {
            if let Some(a) = p
                .aggregates
                .get(group.slot as usize)
                .and_then(Option::as_ref)
            {
                group.members.publish(a.spec.window, &p.agents);
            }
        }
        Some(p)
    }

    fn load_group(&mut self, number: u32, bytes: &mut &[u8]) -> Option<()> {
        let slot = flat::take_u32(bytes)?;
        let values = usize::try_from(flat::take_u64(bytes)?).ok()?;
        if values > event::aggregate::GROUP_BY_MAX {
            return None;
        }
        let values: Option<Vec<Arc<str>>> = (0..values)
            .map(|_| {
                let text = std::str::from_utf8(flat::take_bytes(bytes)?).ok()?;
                Some(Arc::from(text))
            })
            .collect();
        // The true pane length comes with the aggregates, when the members are built.
        let mut group = Group::new(slot, values?.into(), 1);
        group.ring.base = flat::take_i64(bytes)?;
        // Not before the first one: all are looked at once.
        group.ring.first_open = group.ring.base;
        group.ring.first_cell = group.ring.base;
        let len = usize::try_from(flat::take_u64(bytes)?).ok()?;
        if len > bytes.len() / 4 {
            return None;
        }
        for at in 0..len {
            let cell = match flat::take_u32(bytes)? {
                RING_EMPTY => EMPTY,
                RING_SEALED => SEALED,
                kind @ (RING_LIFE | RING_PANE) => {
                    let mut life = Life {
                        touched: flat::take_i64(bytes)?,
                        sealed: flat::take_u64(bytes)?,
                        ..Life::default()
                    };
                    if flat::take_u32(bytes)? == 1 {
                        life.settled = Some(Settlement {
                            done: flat::take_u64(bytes)?,
                            expected: flat::take_u64(bytes)?,
                            count: flat::take_u64(bytes)?,
                            revision: flat::take_u64(bytes)?,
                        });
                    }
                    let content = if kind == RING_PANE {
                        Some(Box::new(Pane::load(bytes)?))
                    } else {
                        None
                    };
                    self.cells.push(Cell {
                        group: number,
                        pane: group.ring.base.checked_add(at as i64)?,
                        life,
                        content,
                    });
                    self.cells.len() as u32 - 1
                }
                _ => return None,
            };
            group.ring.cells.push_back(cell);
        }
        self.groups.push(group);
        Some(())
    }

    fn take_rare(&mut self, rare: Rare) -> Option<()> {
        for saved in rare.aggregates {
            self.aggregates.push(match saved {
                Some((spec, frontier, horizons)) => {
                    spec.check().ok()?;
                    Some(Aggregate {
                        frontier,
                        horizons,
                        ..Aggregate::new(spec)
                    })
                }
                None => None,
            });
        }
        for (number, group) in self.groups.iter().enumerate() {
            if self.aggregates.get(group.slot as usize)?.is_some() {
                let key = (group.slot, group.values.clone());
                let twice = self.group_index.insert(key, number as u32).is_some();
                (!twice).then_some(())?;
            }
        }
        for (group, past) in rare.past {
            self.groups.get_mut(group as usize)?.members.past = past;
        }
        self.alerts = Alerts::restore(rare.declared.parsed_rules(), rare.alerts)?;
        self.commands = rare.commands;
        let (devices, agents) = (self.registry.len() as u32, self.agents.len() as u32);
        let sound = self.commands.rebuild(devices, agents, self.offset);
        sound.then_some(())?;
        self.declared = rare.declared;
        self.retention = rare.retention;
        self.held = rare.held;
        self.reasons = rare.reasons;
        self.scan = rare.scan;
        self.gone = rare.gone;
        self.further_devices = rare.further_devices;
        Some(())
    }

    /// A hash of the whole state: equal states, equal hashes, over runs, restarts and whenever checkpoints
    /// were made. Meaningful only [at rest](Self::at_rest).
    pub fn state_hash(&self) -> u64 {
        xxh3_64(&self.snapshot())
    }
}
