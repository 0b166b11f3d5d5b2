//! The tables of the file, and how a commit writes what has changed.

use std::collections::BTreeMap;

use event::{EventTime, Gap, Incarnation, TimeRange};
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};

use super::commands::{self, CommandChanges};
use super::index::{ChunkKey, ChunkMeta};
use super::unplaced;
use super::{BufferError, Cursor};

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const CHUNKS: TableDefinition<(u32, u64, u64), &[u8]> = TableDefinition::new("chunks");
/// Count, bytes, earliest and latest time, when stored and kind of a chunk.
type IndexRow = (u32, u32, i64, i64, u32, u8);
pub(super) const INDEX: TableDefinition<(u32, u64, u64), IndexRow> = TableDefinition::new("index");
pub(super) const LINEAGE: TableDefinition<(u32, u64), (u64, bool)> =
    TableDefinition::new("lineage");
pub(super) const GAPS: TableDefinition<(u32, u64, u64), &[u8]> = TableDefinition::new("gaps");
pub(super) const CURSORS: TableDefinition<&str, &[u8]> = TableDefinition::new("cursors");
pub(super) const COMMANDS: TableDefinition<&str, &[u8]> = TableDefinition::new("commands");

pub(super) const STATE: &str = "state";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub incarnation: Incarnation,
    /// Last seq given out in it.
    pub last_seq: u64,
    /// Samples before this agent's time are committed, or can be read again: the time of the last commit, or
    /// of the earliest sample that waited in memory then.
    pub committed_at: EventTime,
    /// Closed in order.
    pub clean: bool,
    /// A source without a cursor has delivered in this incarnation: an unclean stop may lose what it
    /// had not committed.
    pub volatile: bool,
    /// One had in the incarnation before: what it gives may wait in memory before anything of this one is stored.
    pub volatile_before: bool,
    /// The cloud may have heard of this incarnation.
    pub spoke: bool,
    pub unclean: Option<TimeRange>,
    /// The clock was set back to before this: the stretch above ends only when the clock has come here again.
    pub unclean_until: Option<EventTime>,
    /// Another stretch, under a clock that is far behind that time: which of the two clocks was wrong is not
    /// known, so both are told.
    pub unclean_behind: Option<TimeRange>,
    /// Where one more begins that belongs to that one, and ends when the clock is set at all.
    pub behind_from: Option<EventTime>,
}

impl State {
    /// Samples between `from` and `now` (0 = not known) may be lost. If the clock says that `now` is earlier, their times are
    /// not known: they are after `from`, or between the setting back and `now`.
    pub(super) fn add_unclean(&mut self, from: EventTime, now: EventTime) {
        let behind = |until: EventTime| until.as_micros().saturating_sub(now.as_micros());
        if let Some(until) = self.unclean_until.filter(|until| behind(*until) >= DAY) {
            if from.as_micros() > until.as_micros().saturating_sub(DAY) {
                // Under the far clock: more of that stretch.
                self.unclean = Some(joined(self.unclean, TimeRange { from, to: from }));
            } else if now >= FIRST_TIME {
                self.unclean_behind = Some(joined(self.unclean_behind, stretch(from, now)));
            } else if from >= FIRST_TIME {
                // The clock is not set yet. (Of times before 2020 nothing is counted.)
                self.behind_from = Some(self.behind_from.map_or(from, |f| f.min(from)));
            }
            return;
        }
        self.unclean = Some(joined(self.unclean, stretch(from, now)));
        if from > now || now <= EventTime(0) {
            self.unclean_until = self.unclean_until.max(Some(from.max(EventTime(1))));
        }
        self.know_time(now);
    }

    /// Ends a stretch whose end was not known, if the clock is right again; whether it did.
    pub(super) fn know_time(&mut self, now: EventTime) -> bool {
        let behind = now >= FIRST_TIME && self.behind_from.is_some();
        if let Some(from) = self.behind_from.take_if(|_| behind) {
            self.unclean_behind = Some(joined(self.unclean_behind, stretch(from, now)));
        }
        self.end_far_stretch(now) || behind
    }

    fn end_far_stretch(&mut self, now: EventTime) -> bool {
        if self.unclean_until.is_none_or(|until| until > now) {
            return false;
        }
        self.unclean_until = None;
        if let Some(unclean) = &mut self.unclean {
            unclean.to = unclean.to.max(now);
        }
        true
    }
}

/// What may be lost of between `from` and `now`.
fn stretch(from: EventTime, now: EventTime) -> TimeRange {
    let back = from.as_micros().saturating_sub(now.as_micros());
    let first = match back {
        ..=0 => from,
        // Nothing is read far back: a clock that was never set gives times that nobody takes for real.
        DAY.. => from,
        _ => EventTime(now.as_micros().saturating_sub(BEFORE_RESTART)),
    };
    TimeRange {
        from: first,
        to: from.max(now),
    }
}

fn joined(old: Option<TimeRange>, new: TimeRange) -> TimeRange {
    old.map_or(new, |old| TimeRange {
        from: old.from.min(new.from),
        to: old.to.max(new.to),
    })
}

/// Microseconds.
const DAY: i64 = 86_400_000_000;
/// 2020: earlier event times are refused by the cloud.
const FIRST_TIME: EventTime = EventTime::from_secs(1_577_836_800);
/// A clock that was set back by less than a day was so within this before the restart, microseconds: samples do
/// not wait longer in memory.
const BEFORE_RESTART: i64 = 3_600_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Ancestor {
    pub last_seq: u64,
    pub held: bool,
    /// The cloud has acknowledged this row as it stands. Not stored: told again after a restart.
    pub told: bool,
}

/// What a chunk's row is to become.
#[derive(Debug)]
pub(super) enum Row {
    Put(ChunkMeta, Vec<u8>),
    Remove,
}

/// What has changed since the last commit.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub rows: BTreeMap<ChunkKey, Row>,
    pub gaps: BTreeMap<ChunkKey, Option<Gap>>,
    pub lineage_gone: Vec<Incarnation>,
    pub commands: CommandChanges,
    pub commands_lost_at: Option<EventTime>,
    pub unplaced: unplaced::Changes,
    pub state: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        !self.state
            && self.rows.is_empty()
            && self.gaps.is_empty()
            && self.lineage_gone.is_empty()
            && self.commands.is_empty()
            && self.commands_lost_at.is_none()
            && self.unplaced.is_empty()
    }

    /// Writes all changes, the state, the lives that hold nothing any more (with their last seq) and
    /// the cursors in one durable transaction.
    pub fn write(
        &self,
        db: &Database,
        state: &State,
        ended: &[(Incarnation, u64)],
        cursors: &[Cursor],
    ) -> Result<(), BufferError> {
        let mut tx = db.begin_write()?;
        // Opening after a power cut must not read a gigabyte.
        tx.set_quick_repair(true);
        tx.open_table(META)?
            .insert(STATE, encode(state)?.as_slice())?;
        if !self.rows.is_empty() {
            let mut chunks = tx.open_table(CHUNKS)?;
            let mut index = tx.open_table(INDEX)?;
            for (key, row) in &self.rows {
                let k = (key.inc.no, key.inc.rand, key.first);
                match row {
                    Row::Put(m, bytes) => {
                        chunks.insert(k, bytes.as_slice())?;
                        let (min, max, kind) = (m.min_time.0, m.max_time.0, m.kind.code());
                        index.insert(k, (m.count, m.bytes, min, max, m.stored, kind))?;
                    }
                    Row::Remove => {
                        chunks.remove(k)?;
                        index.remove(k)?;
                    }
                }
            }
        }
        if !self.gaps.is_empty() {
            let mut gaps = tx.open_table(GAPS)?;
            for (key, gap) in &self.gaps {
                let k = (key.inc.no, key.inc.rand, key.first);
                match gap {
                    Some(gap) => drop(gaps.insert(k, encode(gap)?.as_slice())?),
                    None => drop(gaps.remove(k)?),
                }
            }
        }
        if !ended.is_empty() || !self.lineage_gone.is_empty() {
            let mut lineage = tx.open_table(LINEAGE)?;
            for (inc, last_seq) in ended {
                lineage.insert((inc.no, inc.rand), (*last_seq, false))?;
            }
            for inc in &self.lineage_gone {
                lineage.remove((inc.no, inc.rand))?;
            }
        }
        if !cursors.is_empty() {
            let mut table = tx.open_table(CURSORS)?;
            for cursor in cursors {
                table.insert(cursor.source.as_str(), cursor.position.as_slice())?;
            }
        }
        commands::write(&tx, &self.commands, self.commands_lost_at)?;
        self.unplaced.write(&tx)?;
        Ok(tx.commit()?)
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BufferError> {
    postcard::to_stdvec(value).map_err(|e| BufferError::Damaged(e.to_string()))
}
