//! Readings without a wall time: taken while the clock of this boot was not set (rule A6).
//!
//! They are stored with the time since boot, in the transaction of the cursors of their sources, and have
//! no numbers. When the boot's offset is known, [`Buffer::place`] numbers them and moves them to the
//! ordinary chunks, some at a time.
//!
//! **A boot that ended without ever knowing the time** lies between the newest time that was on disk before
//! it and the beginning of the next boot that knows its own. It is placed as early as that allows, because a
//! device is mostly switched on again soon; without a lower bound as late as possible. How uncertain that
//! is, is said by an ordinary event [`UNCERTAIN`] of the agent's device (seconds, at the time of the first
//! reading). Boots of which none knew the time follow each other.
//!
//! **Overflow**: what has a time is dropped first, because it is mostly older, but for faults; then the oldest of
//! these, but for faults; then faults that have a time, and at last those that have none. What is the newest
//! chunk of these stays. Their numbers and the times of the gap are not known before the boot is placed; until then the loss is
//! noted in the boot's row, and then declared like any other.

use std::collections::BTreeMap;

use event::{
    Columns, DeviceId, EventTime, Gap, GapReason, Incarnation, MetricName, Sample, SeqRange,
    TimeRange, Value,
};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::chunk::Chunk;
use super::growing::{Growing, meta_of};
use super::index::{ChunkMeta, Kind};
use super::tables::encode;
use super::{Buffer, BufferError, OpenError, chunk};

/// Metric of the event that says how far the times of a stretch may be off.
pub const UNCERTAIN: &str = "tidewatch.uncertain_time";

/// Readings by boot and number of the first, with times since boot.
const UNPLACED: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("unplaced");
/// Count, bytes, earliest and latest time of a chunk.
type IndexRow = (u32, u32, i64, i64);
const UNPLACED_INDEX: TableDefinition<(u64, u64), IndexRow> =
    TableDefinition::new("unplaced_index");
/// Kinds of those that are not raw.
const UNPLACED_KINDS: TableDefinition<(u64, u64), u8> = TableDefinition::new("unplaced_kinds");
const BOOTS: TableDefinition<u64, &[u8]> = TableDefinition::new("boots");

/// One step of placing takes chunks until it has so many events ...
const STEP_EVENTS: u64 = 1000;
/// ... or so many chunks.
const STEP_CHUNKS: usize = 16;
/// An offset that is noted is noted again when it has moved by more, microseconds.
const OFFSET_MOVED_US: i64 = 1_000_000;
/// 2020-01-01T00:00:00Z, microseconds: nothing was before.
const EARLIEST_US: i64 = 1_577_836_800_000_000;
/// Nobody has numbered them.
const NOBODY: Incarnation = Incarnation { no: 0, rand: 0 };
/// Longest id of a boot that is taken, bytes.
const BOOT_ID_MAX: usize = 64;

/// What is known of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    id: String,
    /// The newest time on disk before its first reading; 0 = none.
    after: EventTime,
    /// Its latest reading, microseconds since boot.
    last_us: i64,
    /// The number that its next reading gets.
    next: u64,
    /// Wall time minus time since boot, microseconds, once that is known, or decided on.
    offset_us: Option<i64>,
    /// Readings that were dropped and are not declared yet.
    dropped: Option<Dropped>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Dropped {
    count: u64,
    from_us: i64,
    to_us: i64,
}

/// The last chunk of the present boot while it still grows.
#[derive(Debug)]
struct Tail {
    key: (u64, u64),
    growing: Growing,
}

/// What has no wall time yet, in memory: one small entry per chunk.
#[derive(Debug, Default)]
pub(super) struct Unplaced {
    boots: BTreeMap<u64, Boot>,
    rows: BTreeMap<(u64, u64), ChunkMeta>,
    tail: Option<Tail>,
    events: u64,
    bytes: u64,
}

/// What is known of a chunk, and its bytes.
type Row = (ChunkMeta, Vec<u8>);

/// What has changed since the last commit.
#[derive(Debug, Default)]
pub(super) struct Changes {
    boots: BTreeMap<u64, Option<Boot>>,
    rows: BTreeMap<(u64, u64), Option<Row>>,
}

/// What one step of placing has done.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Placed {
    /// Events that were numbered and got their wall times.
    pub events: u64,
    /// A boot that ended without knowing the time was begun with: seconds by which its times may be off.
    pub uncertain_s: Option<f64>,
}

impl Unplaced {
    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub fn rows(&self) -> impl Iterator<Item = &ChunkMeta> {
        self.rows.values()
    }

    fn find(&self, id: &str) -> Option<u64> {
        self.boots
            .iter()
            .find(|(_, b)| b.id == id)
            .map(|(no, _)| *no)
    }

    fn holds(&self, no: u64) -> bool {
        self.rows_of(no).next().is_some()
            || self.boots.get(&no).is_some_and(|b| b.dropped.is_some())
    }

    fn rows_of(&self, no: u64) -> impl Iterator<Item = ((u64, u64), ChunkMeta)> {
        let rows = self.rows.range((no, 0)..=(no, u64::MAX));
        rows.map(|(key, meta)| (*key, *meta))
    }

    fn remove(&mut self, key: (u64, u64)) {
        if let Some(meta) = self.rows.remove(&key) {
            self.events -= u64::from(meta.count);
            self.bytes -= u64::from(meta.bytes);
        }
        if self.tail.as_ref().is_some_and(|t| t.key == key) {
            self.tail = None;
        }
    }

    fn insert(&mut self, key: (u64, u64), meta: ChunkMeta) {
        if let Some(old) = self.rows.insert(key, meta) {
            self.events -= u64::from(old.count);
            self.bytes -= u64::from(old.bytes);
        }
        self.events += u64::from(meta.count);
        self.bytes += u64::from(meta.bytes);
    }

    /// No reading without a time is earlier than this. None if there is none.
    fn floor(&self) -> Option<EventTime> {
        let floor_of = |(no, boot): (&u64, &Boot)| {
            let first = self.rows_of(*no).map(|(_, m)| m.min_time.as_micros()).min();
            match boot.offset_us {
                Some(offset) => first.map(|us| EventTime::from_micros(offset.saturating_add(us))),
                None => self.holds(*no).then_some(boot.after),
            }
        };
        self.boots.iter().filter_map(floor_of).min()
    }

    /// Where a boot that ended begins (its offset), and by how much that may be off, microseconds.
    /// `begin` is the beginning of the present boot, `now`.
    fn place_ended(&self, no: u64, now: u64, begin: i64) -> (i64, i64) {
        let known = |(no, boot): (&u64, &Boot)| boot.offset_us.map(|offset| (*no, offset));
        let next = self.boots.range(no + 1..=now).find_map(known);
        let (bound, next) = next.unwrap_or((now, begin));
        let later: i64 = self
            .boots
            .range(no..bound)
            .filter(|(n, b)| **n == no || b.offset_us.is_none() && self.holds(**n))
            .map(|(_, b)| b.last_us)
            .fold(0, i64::saturating_add);
        let latest = next.saturating_sub(later);
        let earliest = self.boots.get(&no).map_or(0, |b| b.after.as_micros());
        if earliest < EARLIEST_US {
            return (latest, latest.saturating_sub(EARLIEST_US).max(0));
        }
        let off = latest.saturating_sub(earliest);
        if off >= 0 {
            (earliest, off)
        } else {
            // The bounds contradict each other: a clock was wrong. The present one is right.
            (latest, off.saturating_neg())
        }
    }
}

/// Reads what the last life left.
pub(super) fn load(tx: &WriteTransaction) -> Result<Unplaced, OpenError> {
    let mut unplaced = Unplaced::default();
    for row in tx.open_table(BOOTS)?.iter()? {
        let (no, boot) = row?;
        let boot: Boot = postcard::from_bytes(boot.value())
            .map_err(|e| OpenError::Damaged(format!("its row of a boot: {e}")))?;
        unplaced.boots.insert(no.value(), boot);
    }
    tx.open_table(UNPLACED)?;
    let kinds = tx.open_table(UNPLACED_KINDS)?;
    for row in tx.open_table(UNPLACED_INDEX)?.iter()? {
        let (key, value) = row?;
        let (key, (count, bytes, min, max)) = (key.value(), value.value());
        if count == 0 || !unplaced.boots.contains_key(&key.0) {
            let what = "a chunk of no boot, or without readings";
            return Err(OpenError::Damaged(what.to_owned()));
        }
        let code = kinds
            .get(key)?
            .map_or(Kind::Raw.code(), |code| code.value());
        let Some(kind) = Kind::from_code(code).filter(|k| *k != Kind::Summary) else {
            let what = format!("a chunk without times of the impossible kind {code}");
            return Err(OpenError::Damaged(what));
        };
        let meta = ChunkMeta {
            count,
            bytes,
            min_time: EventTime(min),
            max_time: EventTime(max),
            stored: 0,
            kind,
        };
        unplaced.insert(key, meta);
    }
    Ok(unplaced)
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.boots.is_empty() && self.rows.is_empty()
    }

    /// Writes them as a part of a commit.
    pub fn write(&self, tx: &WriteTransaction) -> Result<(), BufferError> {
        if !self.boots.is_empty() {
            let mut boots = tx.open_table(BOOTS)?;
            for (no, boot) in &self.boots {
                match boot {
                    Some(boot) => drop(boots.insert(no, encode(boot)?.as_slice())?),
                    None => drop(boots.remove(no)?),
                }
            }
        }
        if !self.rows.is_empty() {
            let mut chunks = tx.open_table(UNPLACED)?;
            let mut index = tx.open_table(UNPLACED_INDEX)?;
            let mut kinds = tx.open_table(UNPLACED_KINDS)?;
            for (key, row) in &self.rows {
                match row {
                    Some((m, bytes)) => {
                        chunks.insert(key, bytes.as_slice())?;
                        index.insert(key, (m.count, m.bytes, m.min_time.0, m.max_time.0))?;
                        match m.kind {
                            Kind::Raw => drop(kinds.remove(key)?),
                            kind => drop(kinds.insert(key, kind.code())?),
                        }
                    }
                    None => {
                        chunks.remove(key)?;
                        index.remove(key)?;
                        kinds.remove(key)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Buffer {
    /// Stores readings that have no wall time yet with the next [`Self::append`], in its transaction. Their
    /// times are microseconds since the boot `boot_id` (at most 64 bytes of it count). `volatile` as there.
    ///
    /// **Errors**: open the buffer again.
    pub fn hold(
        &mut self,
        boot_id: &str,
        samples: &[Sample],
        volatile: bool,
    ) -> Result<(), BufferError> {
        self.check()?;
        if samples.is_empty() {
            return Ok(());
        }
        let no = self.boot(boot_id);
        let result = self.stage_unplaced(no, samples);
        self.poison_on_error(result)?;
        self.state.volatile |= volatile;
        Ok(())
    }

    /// The number that the next reading of this boot gets that has no wall time.
    pub(crate) fn next_unplaced(&self, boot_id: &str) -> u64 {
        let boot = self.unplaced.find(boot_id);
        boot.and_then(|no| self.unplaced.boots.get(&no))
            .map_or(1, |b| b.next)
    }

    /// How many readings have no wall time yet.
    pub fn unplaced(&self) -> u64 {
        self.unplaced.events()
    }

    /// No reading without a wall time will get one before this. None if there is none.
    pub fn unplaced_floor(&self) -> Option<EventTime> {
        self.unplaced.floor()
    }

    /// Whether [`Self::place`] has something to do.
    pub fn has_to_place(&self) -> bool {
        self.unplaced
            .boots
            .keys()
            .any(|no| self.unplaced.holds(*no))
    }

    /// What this boot's offset is, if it was noted: wall time minus time since boot, microseconds.
    pub fn offset_of(&self, boot_id: &str) -> Option<i64> {
        let no = self.unplaced.find(boot_id)?;
        self.unplaced.boots.get(&no)?.offset_us
    }

    /// Notes the present boot's offset with the next commit, so that a later process of it knows it. Boots
    /// that have nothing left are forgotten.
    pub fn note_offset(&mut self, boot_id: &str, offset_us: i64) {
        let no = self.boot(boot_id);
        let Some(boot) = self.unplaced.boots.get_mut(&no) else {
            return;
        };
        let near = |old: i64| old.saturating_sub(offset_us).abs() <= OFFSET_MOVED_US;
        let placing = self.unplaced.rows.range((no, 0)..=(no, u64::MAX)).next();
        // While its readings are placed they keep the offset by which the watermark was told.
        if boot
            .offset_us
            .is_some_and(|old| near(old) || placing.is_some())
        {
            return;
        }
        boot.offset_us = Some(offset_us);
        let boot = boot.clone();
        self.changes_mut().unplaced.boots.insert(no, Some(boot));
    }

    /// Numbers some of the readings without a wall time and moves them to the ordinary ones, in one
    /// transaction, the oldest boot first. The present boot's offset must have been noted
    /// ([`Self::note_offset`]); `until` as in [`Self::append`]. None if there is nothing to do.
    ///
    /// **Errors**: open the buffer again; nothing is lost.
    pub fn place(
        &mut self,
        boot_id: &str,
        until: EventTime,
    ) -> Result<Option<Placed>, BufferError> {
        self.check()?;
        let Some(now) = self.unplaced.find(boot_id) else {
            return Ok(None);
        };
        let offset = self.unplaced.boots.get(&now).and_then(|b| b.offset_us);
        // One of a later number (the id of a boot came again) waits for the next boot.
        let no = self
            .unplaced
            .boots
            .range(..=now)
            .map(|(no, _)| *no)
            .find(|no| self.unplaced.holds(*no));
        let (Some(offset), Some(no)) = (offset, no) else {
            return Ok(None);
        };
        let before = self.index.bytes();
        let result = self.place_step(no, now, offset).and_then(|placed| {
            // None of it is new: what is placed is older than what still waits, and goes before it.
            let accepted = SeqRange {
                incarnation: self.incarnation(),
                first: self.next_seq(),
                last: self.state.last_seq,
            };
            self.make_room(accepted, before)?;
            self.state.committed_at = until;
            self.commit(&[])?;
            Ok(placed)
        });
        self.poison_on_error(result).map(Some)
    }

    /// Drops the oldest readings without a time while the buffer holds more than `limit` bytes, but not the last
    /// chunk; `faults`: those instead of the others.
    pub(super) fn drop_unplaced_over(
        &mut self,
        limit: u64,
        faults: bool,
    ) -> Result<(), BufferError> {
        let is_over = |buffer: &Self| buffer.index.bytes() + buffer.unplaced.bytes() > limit;
        if !is_over(self) {
            return Ok(());
        }
        let last = self.unplaced.rows.last_key_value().map(|(key, _)| *key);
        let goes = |(key, meta): &(&(u64, u64), &ChunkMeta)| {
            Some(**key) != last && faults == (meta.kind == Kind::Fault)
        };
        let rows = self.unplaced.rows.iter().filter(goes);
        let rows: Vec<_> = rows.map(|(key, meta)| (*key, *meta)).collect();
        for (key, meta) in rows {
            if !is_over(self) {
                break;
            }
            let chunk = match meta.kind {
                Kind::Mixed => self.read_unplaced(key, meta)?,
                Kind::Raw | Kind::Fault | Kind::Summary => None,
            };
            self.remove_unplaced(key);
            let Some(chunk) = chunk else {
                let (from_us, to_us) = (meta.min_time.0, meta.max_time.0);
                self.note_dropped(key.0, u64::from(meta.count), from_us, to_us);
                continue;
            };
            let waiting = self.unplaced.bytes();
            for run in &chunk.faults {
                let key = (key.0, key.1 + u64::from(run.start));
                self.put_unplaced(key, &chunk.part(run.clone()))?;
            }
            // As module `mixed` says: nothing would be gained.
            if self.unplaced.bytes() - waiting >= u64::from(meta.bytes) {
                for run in &chunk.faults {
                    self.remove_unplaced((key.0, key.1 + u64::from(run.start)));
                }
                self.put_unplaced(key, &chunk.as_faults())?;
                continue;
            }
            for run in chunk.others() {
                let times = || chunk.of(&run).iter().map(|s| s.time.0);
                let (from_us, to_us) = (times().min(), times().max());
                let (from_us, to_us) = (from_us.unwrap_or(0), to_us.unwrap_or(0));
                self.note_dropped(key.0, run.len() as u64, from_us, to_us);
            }
        }
        Ok(())
    }

    /// The number of a boot, which is made known.
    fn boot(&mut self, id: &str) -> u64 {
        let id: String = id.chars().take(BOOT_ID_MAX).collect();
        if let Some(no) = self.unplaced.find(&id) {
            return no;
        }
        let gone = |no: &u64| !self.unplaced.holds(*no);
        let gone: Vec<u64> = self.unplaced.boots.keys().copied().filter(gone).collect();
        for no in gone {
            self.unplaced.boots.remove(&no);
            self.changes_mut().unplaced.boots.insert(no, None);
        }
        // Rows of a removed boot are gone, so its number may come again.
        let no = self
            .unplaced
            .boots
            .keys()
            .next_back()
            .map_or(1, |no| no + 1);
        let boot = Boot {
            id,
            after: self.state.committed_at,
            last_us: 0,
            next: 1,
            offset_us: None,
            dropped: None,
        };
        self.unplaced.boots.insert(no, boot.clone());
        self.changes_mut().unplaced.boots.insert(no, Some(boot));
        no
    }

    fn stage_unplaced(&mut self, no: u64, samples: &[Sample]) -> Result<(), BufferError> {
        match self.settings.faults.split(samples) {
            None => self.stage_unplaced_as(no, false, samples.iter())?,
            Some((faults, others)) => {
                self.stage_unplaced_as(no, true, faults.into_iter())?;
                self.stage_unplaced_as(no, false, others.into_iter())?;
            }
        }
        self.put_unplaced_tail()?;
        self.put_boot(no);
        Ok(())
    }

    fn stage_unplaced_as<'a>(
        &mut self,
        no: u64,
        faults: bool,
        samples: impl Iterator<Item = &'a Sample>,
    ) -> Result<(), BufferError> {
        for sample in samples {
            let Some(boot) = self.unplaced.boots.get_mut(&no) else {
                return Ok(());
            };
            let n = boot.next;
            boot.next += 1;
            boot.last_us = boot.last_us.max(sample.time.as_micros());
            let full = self
                .unplaced
                .tail
                .as_ref()
                .is_some_and(|t| t.key.0 != no || t.growing.is_full(&self.settings, faults));
            if full {
                self.put_unplaced_tail()?;
                self.unplaced.tail = None;
            }
            let tail = self.unplaced.tail.get_or_insert_with(|| Tail {
                key: (no, n),
                growing: Growing::default(),
            });
            tail.growing.push(sample, faults);
        }
        Ok(())
    }

    fn put_unplaced_tail(&mut self) -> Result<(), BufferError> {
        let Some(tail) = &mut self.unplaced.tail else {
            return Ok(());
        };
        let key = tail.key;
        let (meta, bytes) = tail.growing.encode(&self.agent, NOBODY, key.1, 0)?;
        self.put_unplaced_row(key, meta, bytes);
        Ok(())
    }

    fn put_unplaced(&mut self, key: (u64, u64), chunk: &Chunk) -> Result<(), BufferError> {
        let bytes = chunk::encode(&self.agent, NOBODY, key.1, chunk)?;
        let meta = meta_of(&chunk.samples, bytes.len(), chunk.kind(), 0);
        self.put_unplaced_row(key, meta, bytes);
        Ok(())
    }

    fn put_unplaced_row(&mut self, key: (u64, u64), meta: ChunkMeta, bytes: Vec<u8>) {
        self.unplaced.insert(key, meta);
        let rows = &mut self.changes_mut().unplaced.rows;
        rows.insert(key, Some((meta, bytes)));
    }

    fn put_boot(&mut self, no: u64) {
        let boot = self.unplaced.boots.get(&no).cloned();
        self.changes_mut().unplaced.boots.insert(no, boot);
    }

    fn remove_unplaced(&mut self, key: (u64, u64)) {
        self.unplaced.remove(key);
        self.changes_mut().unplaced.rows.insert(key, None);
    }

    fn note_dropped(&mut self, no: u64, count: u64, from_us: i64, to_us: i64) {
        self.dropped += count;
        if let Some(boot) = self.unplaced.boots.get_mut(&no) {
            let old = boot.dropped.unwrap_or(Dropped {
                count: 0,
                from_us,
                to_us,
            });
            boot.dropped = Some(Dropped {
                count: old.count + count,
                from_us: old.from_us.min(from_us),
                to_us: old.to_us.max(to_us),
            });
        }
        self.put_boot(no);
    }

    /// Stages a step. `offset` is the present boot's.
    fn place_step(&mut self, no: u64, now: u64, offset: i64) -> Result<Placed, BufferError> {
        let mut placed = Placed::default();
        let Some(boot) = self.unplaced.boots.get(&no).cloned() else {
            return Ok(placed);
        };
        let base = match boot.offset_us {
            Some(base) => base,
            None => {
                let (base, off) = self.unplaced.place_ended(no, now, offset);
                let seconds = off as f64 / 1e6;
                placed.uncertain_s = Some(seconds);
                let first = self.unplaced.rows_of(no).map(|(_, m)| m.min_time.0).min();
                let first = boot
                    .dropped
                    .map(|d| d.from_us)
                    .into_iter()
                    .chain(first)
                    .min();
                let time = EventTime(base.saturating_add(first.unwrap_or(0)));
                self.stage_uncertain(time, seconds)?;
                if let Some(boot) = self.unplaced.boots.get_mut(&no) {
                    boot.offset_us = Some(base);
                }
                // A boot that follows was not before the earliest end of this one.
                let next = self.unplaced.boots.range_mut(no + 1..now).next();
                if let Some((&next, boot_after)) = next
                    && base == boot.after.as_micros()
                {
                    let end = EventTime(base.saturating_add(boot.last_us));
                    boot_after.after = boot_after.after.max(end);
                    self.put_boot(next);
                }
                base
            }
        };
        let at = |us: i64| EventTime(base.saturating_add(us));
        if let Some(dropped) = boot.dropped {
            self.declare_unplaced(dropped, at, GapReason::Overflow)?;
            if let Some(boot) = self.unplaced.boots.get_mut(&no) {
                boot.dropped = None;
            }
        }
        let rows: Vec<_> = self.unplaced.rows_of(no).take(STEP_CHUNKS).collect();
        for (key, meta) in rows {
            if placed.events >= STEP_EVENTS {
                break;
            }
            match self.read_unplaced(key, meta)? {
                Some(mut chunk) => {
                    for sample in &mut chunk.samples {
                        sample.time = at(sample.time.as_micros());
                    }
                    match meta.kind {
                        Kind::Raw => self.stage(&chunk.samples)?,
                        Kind::Fault | Kind::Mixed | Kind::Summary => self.stage_chunk(&chunk)?,
                    }
                    placed.events += chunk.samples.len() as u64;
                }
                None => {
                    tracing::error!(
                        boot = key.0,
                        first = key.1,
                        events = meta.count,
                        "a chunk of readings without a time is damaged; they are declared lost"
                    );
                    let lost = Dropped {
                        count: u64::from(meta.count),
                        from_us: meta.min_time.0,
                        to_us: meta.max_time.0,
                    };
                    self.declare_unplaced(lost, at, GapReason::Corruption)?;
                    self.dropped += lost.count;
                }
            }
            self.remove_unplaced(key);
        }
        if no != now && !self.unplaced.holds(no) {
            self.unplaced.boots.remove(&no);
        }
        self.put_boot(no);
        Ok(placed)
    }

    fn stage_uncertain(&mut self, time: EventTime, seconds: f64) -> Result<(), BufferError> {
        let (Ok(device), Ok(metric)) = (
            DeviceId::new(self.agent.as_str()),
            MetricName::new(UNCERTAIN),
        ) else {
            return Ok(()); // An agent whose id no device can have: its log says it.
        };
        let value = Value::Number(seconds);
        self.stage(&[Sample {
            device,
            metric,
            time,
            value,
        }])
    }

    /// Gives numbers to readings that are lost, and declares them.
    fn declare_unplaced(
        &mut self,
        lost: Dropped,
        at: impl Fn(i64) -> EventTime,
        reason: GapReason,
    ) -> Result<(), BufferError> {
        let range = self.skip_numbers(lost.count)?;
        self.put_gap(Gap {
            incarnation: range.incarnation,
            from: range.first,
            to: range.last,
            time: TimeRange {
                from: at(lost.from_us),
                to: at(lost.to_us),
            },
            reason,
        });
        Ok(())
    }

    fn read_unplaced(
        &mut self,
        key: (u64, u64),
        meta: ChunkMeta,
    ) -> Result<Option<Chunk>, BufferError> {
        if let Some(tail) = self.unplaced.tail.as_ref().filter(|t| t.key == key) {
            return Ok(Some(tail.growing.chunk.clone()));
        }
        let (kind, mut columns) = (meta.kind, Columns::default());
        let chunk = match self.changes_mut().unplaced.rows.get(&key) {
            Some(Some((_, bytes))) => chunk::decode(bytes, kind, &mut columns).ok(),
            Some(None) => None,
            None => {
                let table = self.db.begin_read()?.open_table(UNPLACED)?;
                let row = table.get_owned(key)?;
                row.and_then(|v| chunk::decode(v.value(), kind, &mut columns).ok())
            }
        };
        Ok(chunk.filter(|c| c.samples.len() == meta.count as usize))
    }
}
