//! The last chunk while it still grows: a commit adds to it and writes it anew, so that an agent with one
//! event a second does not end up with one row a commit.

use event::{AgentId, EncodeError, Incarnation, Sample, Value};

use super::Settings;
use super::chunk::{self, Chunk};
use super::index::{ChunkMeta, Kind};

/// Raw bytes of samples beyond which a chunk is full: far below the limit of a batch.
pub(super) const CHUNK_RAW_BYTES_MAX: usize = 96 << 10;
/// Most runs of faults in a chunk.
const RUNS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Growing {
    pub chunk: Chunk,
    raw_bytes: usize,
    encoded_bytes: usize,
}

impl Growing {
    /// Whether it takes nothing more, a fault or another one.
    pub fn is_full(&self, settings: &Settings, is_fault: bool) -> bool {
        let runs = &self.chunk.faults;
        let goes_on = runs.last().map(|run| run.end as usize) == Some(self.chunk.samples.len());
        self.chunk.samples.len() >= settings.chunk_events_max.max(1) as usize
            || (is_fault && !goes_on && runs.len() >= RUNS_MAX)
            || self.raw_bytes >= CHUNK_RAW_BYTES_MAX
            || self.encoded_bytes >= settings.chunk_bytes
    }

    pub fn push(&mut self, sample: &Sample, is_fault: bool) {
        let at = self.chunk.samples.len() as u32;
        if is_fault {
            match self.chunk.faults.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => self.chunk.faults.push(at..at + 1),
            }
        }
        self.raw_bytes += raw_bytes(sample);
        self.chunk.samples.push(sample.clone());
    }

    /// Its bytes, and what is known of it; `first` is the number of its first event, `stored` the present time.
    pub fn encode(
        &mut self,
        agent: &AgentId,
        incarnation: Incarnation,
        first: u64,
        stored: u32,
    ) -> Result<(ChunkMeta, Vec<u8>), EncodeError> {
        let bytes = chunk::encode(agent, incarnation, first, &self.chunk)?;
        self.encoded_bytes = bytes.len();
        let kind = self.chunk.kind();
        let meta = meta_of(&self.chunk.samples, bytes.len(), kind, stored);
        Ok((meta, bytes))
    }
}

/// About what a sample takes before it is encoded.
pub(super) fn raw_bytes(sample: &Sample) -> usize {
    24 + match &sample.value {
        Value::Text(text) => text.len(),
        Value::Number(_) | Value::Bool(_) => 8,
    }
}

/// What is known of a chunk of `samples`.
pub(super) fn meta_of(samples: &[Sample], bytes: usize, kind: Kind, stored: u32) -> ChunkMeta {
    let times = || samples.iter().map(|s| s.time);
    ChunkMeta {
        count: samples.len() as u32,
        bytes: bytes as u32,
        min_time: times().min().unwrap_or_default(),
        max_time: times().max().unwrap_or_default(),
        stored,
        kind,
    }
}
