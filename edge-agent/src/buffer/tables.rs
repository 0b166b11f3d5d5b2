//! The tables of the file, and how a commit writes what has changed.

use std::collections::BTreeMap;

use event::{EventTime, Gap, Incarnation, TimeRange};
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};

use super::index::{ChunkKey, ChunkMeta};
use super::{BufferError, Cursor};

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const CHUNKS: TableDefinition<(u32, u64, u64), &[u8]> = TableDefinition::new("chunks");
/// Count, bytes, earliest and latest time of a chunk.
type IndexRow = (u32, u32, i64, i64);
pub(super) const INDEX: TableDefinition<(u32, u64, u64), IndexRow> = TableDefinition::new("index");
pub(super) const LINEAGE: TableDefinition<(u32, u64), (u64, bool)> =
    TableDefinition::new("lineage");
pub(super) const GAPS: TableDefinition<(u32, u64, u64), &[u8]> = TableDefinition::new("gaps");
pub(super) const CURSORS: TableDefinition<&str, &[u8]> = TableDefinition::new("cursors");

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
    /// The cloud may have heard of this incarnation.
    pub spoke: bool,
    pub unclean: Option<TimeRange>,
}

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
    pub state: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        !self.state && self.rows.is_empty() && self.gaps.is_empty() && self.lineage_gone.is_empty()
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
                        index.insert(k, (m.count, m.bytes, m.min_time.0, m.max_time.0))?;
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
        Ok(tx.commit()?)
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BufferError> {
    postcard::to_stdvec(value).map_err(|e| BufferError::Damaged(e.to_string()))
}
