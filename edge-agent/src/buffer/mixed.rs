//! Chunks with faults among other events, when the others are to go.
//!
//! As long as there is room all that a commit brings lies in the one chunk that grows, so that a source of
//! faults makes no rows of its own. To leave the faults alone, each run of them becomes a chunk. Where these
//! would take as much room as all of the chunk, nothing would be gained: it stays as it is, and goes as late
//! as faults do.

use std::ops::Range;

use event::{Gap, GapReason, TimeRange};

use super::chunk::Chunk;
use super::growing::meta_of;
use super::index::{ChunkKey, ChunkMeta, Kind};
use super::{Buffer, BufferError, chunk};

/// What a chunk is made of.
pub(super) struct Parts {
    /// Where there are no faults.
    others: Vec<Gap>,
    /// The faults, as chunks of their own.
    faults: Vec<(ChunkKey, ChunkMeta, Vec<u8>)>,
}

impl Parts {
    /// How many events are no faults.
    pub fn others_count(&self) -> usize {
        let count = |gap: &Gap| (gap.to - gap.from + 1) as usize;
        self.others.iter().map(count).sum()
    }

    /// What the faults take alone.
    pub fn fault_bytes(&self) -> u64 {
        self.faults.iter().map(|(_, m, _)| u64::from(m.bytes)).sum()
    }

    /// Whether the faults alone take less than all of the chunk.
    pub fn is_smaller_than(&self, chunk: ChunkMeta) -> bool {
        self.fault_bytes() < u64::from(chunk.bytes)
    }
}

impl Buffer {
    /// What a chunk is made of.
    pub(super) fn parts(
        &self,
        key: ChunkKey,
        meta: ChunkMeta,
        chunk: &Chunk,
    ) -> Result<Parts, BufferError> {
        let first = |run: &Range<u32>| key.first + u64::from(run.start);
        let others = chunk.others().into_iter().map(|run| {
            let times = || chunk.of(&run).iter().map(|s| s.time);
            Gap {
                incarnation: key.inc,
                from: first(&run),
                to: key.first + u64::from(run.end) - 1,
                time: TimeRange {
                    from: times().min().unwrap_or_default(),
                    to: times().max().unwrap_or_default(),
                },
                reason: GapReason::Overflow,
            }
        });
        let fault = |run: &Range<u32>| {
            let (inc, first, part) = (key.inc, first(run), chunk.part(run.clone()));
            let bytes = chunk::encode(&self.agent, inc, first, &part)?;
            let meta = meta_of(&part.samples, bytes.len(), Kind::Fault, meta.stored);
            Ok((ChunkKey { inc, first }, meta, bytes))
        };
        let faults = chunk.faults.iter().map(fault);
        Ok(Parts {
            others: others.collect(),
            faults: faults.collect::<Result<_, BufferError>>()?,
        })
    }

    /// Puts the faults of a chunk in its place and declares the others.
    pub(super) fn leave_faults(&mut self, key: ChunkKey, parts: Parts) {
        self.remove(key);
        for gap in parts.others {
            self.put_gap(gap);
        }
        for (key, meta, bytes) in parts.faults {
            self.put(key, meta, bytes);
        }
    }

    /// All events of a chunk are faults from here on.
    pub(super) fn keep_with_faults(
        &mut self,
        key: ChunkKey,
        meta: ChunkMeta,
        chunk: &Chunk,
    ) -> Result<(), BufferError> {
        let all = chunk.as_faults();
        let bytes = chunk::encode(&self.agent, key.inc, key.first, &all)?;
        self.remove(key);
        let meta = meta_of(&all.samples, bytes.len(), Kind::Fault, meta.stored);
        self.put(key, meta, bytes);
        Ok(())
    }
}
