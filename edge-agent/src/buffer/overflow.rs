//! Making room when the buffer is over its limit, in the transaction of the append that filled it.
//!
//! In this order ([`Policy::Compact`]; [`Policy::DropOldest`] begins with the second step):
//! 1. The oldest raw chunks become **summaries**: per device, metric and minute three events, at new
//!    numbers of the present incarnation: `<metric>.count_1m`, `.min_1m` and `.max_1m`. Minimum and
//!    maximum carry the time of the event that set them, the count that of the last event of its
//!    minute. The raw numbers are declared as a gap.
//! 2. When nothing is left to be summed up, the oldest chunks are dropped, raw or summary.
//! 3. Faults ([`super::faults`]) go last, the oldest first. Of those that lie among other events in a chunk see
//!    [`super::mixed`].
//!
//! What makes that safe:
//! - Summary and raw have different metrics. Should the cloud have a raw event whose ack was lost, it
//!   does not count twice in any aggregate. Attributes (`@name`) are no measurements: the last value of
//!   each goes into the summary as it is, because a device says them only once a life.
//! - A minute whose events lie in several groups has several summaries; their counts add up.
//! - Numbers and booleans (0 or 1) are summed up. Texts, and metrics whose name would be too long with
//!   the ending (more than 55 bytes), are dropped.
//! - Summaries are not summed up again. A group of chunks that would not shrink to half its size stays as
//!   it is, to be dropped when its time comes.
//! - What the append itself brought is not touched, however small the limit is.
//! - The low watermark follows from the times of the chunks, as always.
//!
//! Cost: an append sums up at most [`EVENTS_MAX`] events, in groups of up to [`GROUP_EVENTS_MAX`] events and
//! [`GROUP_ENTRIES_MAX`] summaries (about 1 MiB of memory); room is made down to seven eighths of the limit, so
//! that not every append does it (where nothing can be summed up, only as much is dropped as must be). If that is not enough, because the limit was lowered, the buffer does not grow
//! any further and shrinks with the next appends.

use std::collections::BTreeMap;

use event::{DeviceId, EventTime, GapReason, MetricName, Sample, SeqRange, Value};
use serde::{Deserialize, Serialize};

use super::chunk::{Chunk, Runs};
use super::growing::{CHUNK_RAW_BYTES_MAX, meta_of, raw_bytes};
use super::index::{ChunkKey, ChunkMeta, Kind};
use super::{Buffer, BufferError, chunk};

/// What is done when the buffer is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Sum up the oldest by the minute; drop the oldest only when nothing is left to be summed up.
    #[default]
    Compact,
    /// Drop the oldest.
    DropOldest,
}

/// The lowest limit that [`Buffer::limit`] sets, bytes, unless the configured one is lower.
pub const LIMIT_MIN: u64 = 1 << 20;

/// Most events summed up by one append.
const EVENTS_MAX: usize = 131_072;
/// A group is full with so many events,
const GROUP_EVENTS_MAX: usize = 65_536;
/// or so many devices, metrics and minutes,
const GROUP_ENTRIES_MAX: usize = 4096;
/// or so many chunks.
const GROUP_CHUNKS_MAX: usize = 256;
/// What reading a chunk costs at least, in events.
const CHUNK_COST: usize = 64;

/// A minute, microseconds.
const MINUTE: i64 = 60_000_000;
const ENDINGS: [&str; 3] = [".count_1m", ".min_1m", ".max_1m"];

/// How room was made so far.
#[derive(Debug, Default)]
pub(super) struct State {
    /// A limit below the configured one.
    limit: Option<u64>,
    /// The last chunk that was read in order to be summed up; it and those before it are not tried again.
    tried: Option<ChunkKey>,
    summed_up: u64,
    /// Bytes of what has no time yet, after the last append.
    pub(super) waiting: u64,
    /// What is on its way: a watermark that leaves its times out may have been heard.
    sending: Vec<SeqRange>,
}

/// Whether summing up made room enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compacted {
    Enough,
    /// The append has done its share.
    Paused,
    /// There is nothing to be summed up.
    Exhausted,
}

impl Buffer {
    /// Events that are gone since opening but whose count, minimum and maximum are held instead. Each is
    /// in a gap.
    pub fn summed_up(&self) -> u64 {
        self.room.summed_up
    }

    /// The present limit, bytes: the configured one, or a lower one set by [`Self::limit`].
    pub fn bytes_max(&self) -> u64 {
        let configured = self.settings.bytes_max;
        self.room.limit.map_or(configured, |n| n.min(configured))
    }

    /// Lowers the limit to `bytes`, but not below [`LIMIT_MIN`]; none = the configured one counts again.
    /// It takes effect with the next append.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.room.limit = bytes.map(|n| n.max(LIMIT_MIN));
    }

    /// Takes what is on its way to the cloud: it is not summed up.
    pub(crate) fn sending(&mut self, ranges: Vec<SeqRange>) {
        self.room.sending = ranges;
    }

    /// Makes room if the buffer is over its limit. `accepted` is what this append has brought, `before`
    /// the size before it.
    pub(super) fn make_room(&mut self, accepted: SeqRange, before: u64) -> Result<(), BufferError> {
        // What has a time makes room first, down to nothing; see `unplaced`.
        let before = before + self.room.waiting;
        let waiting = self.unplaced.bytes();
        let limit = self.bytes_max().saturating_sub(waiting);
        let mut most = self.bytes_max();
        if self.index.bytes() > limit {
            let before_here = before.saturating_sub(waiting);
            if self.make_room_down_to(limit, accepted, before_here)? == Compacted::Paused {
                // Summing up goes on with the next append: no reason to drop what waits.
                most = most.max(before);
            }
        }
        self.drop_unplaced_over(most, false)?;
        // Faults go last.
        self.drop_down_to(most.saturating_sub(self.unplaced.bytes()), accepted, true)?;
        self.drop_unplaced_over(most, true)?;
        self.room.waiting = self.unplaced.bytes();
        Ok(())
    }

    fn make_room_down_to(
        &mut self,
        limit: u64,
        accepted: SeqRange,
        before: u64,
    ) -> Result<Compacted, BufferError> {
        let mut done = Compacted::Enough;
        let goal = match self.settings.overflow {
            Policy::DropOldest => limit,
            Policy::Compact => {
                let slack = limit - limit / 8;
                done = self.compact_down_to(slack, limit, accepted)?;
                match done {
                    Compacted::Enough => return Ok(done),
                    Compacted::Paused => limit.max(before),
                    // Dropped summaries leave room for raw events to gather in, so that there are many to a
                    // summary. Nothing else is dropped before it must be.
                    Compacted::Exhausted if self.index.summary_bytes() >= limit / 8 => slack,
                    Compacted::Exhausted => limit,
                }
            }
        };
        let waits = self.unplaced.events() > 0;
        self.drop_down_to(goal, accepted, !waits)?;
        Ok(done)
    }

    fn drop_down_to(
        &mut self,
        goal: u64,
        accepted: SeqRange,
        faults: bool,
    ) -> Result<(), BufferError> {
        while self.index.bytes() > goal {
            let [raw, summary, fault] = [Kind::Raw, Kind::Summary, Kind::Fault].map(|kind| {
                let oldest = self.index.oldest_of(kind);
                oldest.filter(|(key, meta)| !is_of(*key, meta, accepted))
            });
            // A summary has a new number but is as old as what it tells of.
            let by_age = |(key, meta): &(ChunkKey, ChunkMeta)| (meta.stored, meta.min_time, *key);
            let oldest = raw.into_iter().chain(summary).min_by_key(by_age);
            let Some((key, meta)) = oldest.or(fault.filter(|_| faults)) else {
                return Ok(());
            };
            if meta.kind != Kind::Mixed {
                self.declare_lost(key, meta, GapReason::Overflow);
                continue;
            }
            // A damaged one is declared there.
            let Some(chunk) = self.chunk(key, meta)? else {
                continue;
            };
            let parts = self.parts(key, meta, &chunk)?;
            if parts.is_smaller_than(meta) {
                self.dropped += parts.others_count() as u64;
                self.leave_faults(key, parts);
            } else {
                self.keep_with_faults(key, meta, &chunk)?;
            }
        }
        Ok(())
    }

    fn compact_down_to(
        &mut self,
        goal: u64,
        limit: u64,
        accepted: SeqRange,
    ) -> Result<Compacted, BufferError> {
        let mut left = EVENTS_MAX;
        while self.index.bytes() > goal {
            if left == 0 {
                return Ok(Compacted::Paused);
            }
            let chunks = self.next_to_sum_up(accepted);
            let bytes: u64 = chunks.iter().map(|(_, m)| u64::from(m.bytes)).sum();
            // Few raw events beside many summaries: they are worth more when more have come, so summaries
            // make room.
            let few = chunks.len() < GROUP_CHUNKS_MAX && bytes < limit / 16;
            if chunks.is_empty() || (few && self.index.summary_bytes() >= limit / 8) {
                return Ok(Compacted::Exhausted);
            }
            left = left.saturating_sub(self.sum_up(chunks)?);
        }
        Ok(Compacted::Enough)
    }

    /// The oldest raw chunks that were not tried yet.
    fn next_to_sum_up(&mut self, accepted: SeqRange) -> Vec<(ChunkKey, ChunkMeta)> {
        let Some((oldest, _)) = self.index.oldest_of(Kind::Raw) else {
            return Vec::new();
        };
        let tried = self.room.tried;
        self.index
            .raw_since(tried.map_or(oldest, |t| t.max(oldest)))
            .skip_while(|(key, _)| Some(*key) <= tried)
            .take_while(|(key, meta)| !is_of(*key, meta, accepted))
            // A summary of it would bring the times back. It is dropped when its turn comes.
            .filter(|(key, meta)| !self.room.sending.iter().any(|r| is_of(*key, meta, *r)))
            .take(GROUP_CHUNKS_MAX)
            .collect()
    }

    /// Puts a summary in the place of the first of `chunks` (as many as one group takes), if that is much
    /// smaller. Returns what it cost, in events.
    fn sum_up(&mut self, chunks: Vec<(ChunkKey, ChunkMeta)>) -> Result<usize, BufferError> {
        let mut group = Group::default();
        let (mut read, mut cost, mut stored) = (Vec::new(), 0, 0);
        // Of what is to be replaced, without the faults, which stay.
        let mut bytes_before: u64 = 0;
        for (key, meta) in chunks {
            self.room.tried = Some(key);
            cost += (meta.count as usize).max(CHUNK_COST);
            // A damaged one is declared there.
            let Some(chunk) = self.chunk(key, meta)? else {
                continue;
            };
            let parts = self.parts(key, meta, &chunk)?;
            if !parts.is_smaller_than(meta) {
                continue;
            }
            for run in chunk.others() {
                group.add(chunk.of(&run));
            }
            bytes_before += u64::from(meta.bytes) - parts.fault_bytes();
            stored = stored.max(meta.stored);
            group.entries += chunk.samples.len() - parts.others_count();
            read.push((key, parts));
            if cost >= GROUP_EVENTS_MAX || group.entries >= GROUP_ENTRIES_MAX {
                break;
            }
        }
        let inc = self.state.incarnation;
        let Group {
            summed_up, lost, ..
        } = group;
        let summary = group.into_samples();
        let mut rows = Vec::new();
        let (mut first, mut bytes_after) = (self.next_seq(), 0);
        let mut rest = summary.as_slice();
        while !rest.is_empty() {
            // As large as an ordinary chunk may be.
            let mut raw = 0;
            let most = self.settings.chunk_events_max.max(1) as usize;
            let fits = |sample: &&Sample| {
                let fits = raw < CHUNK_RAW_BYTES_MAX;
                raw += raw_bytes(sample);
                fits
            };
            let n = rest.iter().take(most).take_while(fits).count();
            let (part, more) = rest.split_at(n);
            rest = more;
            let of_part = Chunk {
                samples: part.to_vec(),
                faults: Runs::new(),
            };
            let bytes = chunk::encode(&self.agent, inc, first, &of_part)?;
            bytes_after += bytes.len() as u64;
            if bytes_after > bytes_before / 2 {
                return Ok(cost);
            }
            let meta = meta_of(part, bytes.len(), Kind::Summary, stored);
            rows.push((ChunkKey { inc, first }, meta, bytes));
            first += part.len() as u64;
        }
        self.dropped += lost;
        for (key, parts) in read {
            self.leave_faults(key, parts);
        }
        self.room.summed_up += summed_up;
        if let Some((key, meta, _)) = rows.last() {
            self.end_tail();
            self.state.last_seq = key.last(meta);
        }
        for (key, meta, bytes) in rows {
            self.put(key, meta, bytes);
        }
        Ok(cost)
    }
}

/// Whether a chunk has any number of `range`.
fn is_of(key: ChunkKey, meta: &ChunkMeta, range: SeqRange) -> bool {
    key.inc == range.incarnation && key.first <= range.last && range.first <= key.last(meta)
}

/// What is known of one minute of one series.
#[derive(Debug, Clone, Copy)]
struct Minute {
    count: u64,
    last: EventTime,
    min: (f64, EventTime),
    max: (f64, EventTime),
}

impl Minute {
    fn add(&mut self, value: f64, time: EventTime) {
        self.count += 1;
        self.last = self.last.max(time);
        if value < self.min.0 {
            self.min = (value, time);
        }
        if value > self.max.0 {
            self.max = (value, time);
        }
    }
}

/// Events that are summed up together.
#[derive(Debug, Default)]
struct Group {
    series: BTreeMap<DeviceId, BTreeMap<MetricName, Series>>,
    entries: usize,
    /// Events that a summary tells of, or that are in it as they are.
    summed_up: u64,
    /// Events that it does not.
    lost: u64,
}

#[derive(Debug)]
enum Series {
    Minutes {
        /// Of count, minimum and maximum.
        names: [MetricName; 3],
        minutes: BTreeMap<i64, Minute>,
    },
    /// The last value of an attribute.
    Attribute(Sample),
    /// Nothing can be said of it.
    Dropped,
}

impl Series {
    /// What a series that begins with this sample is.
    fn of(sample: &Sample) -> Self {
        if sample.metric.as_str().starts_with('@') {
            return Self::Attribute(sample.clone());
        }
        let name = |ending| MetricName::new(&format!("{}{ending}", sample.metric.as_str()));
        match ENDINGS.map(name) {
            [Ok(count), Ok(min), Ok(max)] => Self::Minutes {
                names: [count, min, max],
                minutes: BTreeMap::new(),
            },
            _ => Self::Dropped,
        }
    }
}

impl Group {
    fn add(&mut self, samples: &[Sample]) {
        for sample in samples {
            let told = self.add_one(sample);
            self.summed_up += u64::from(told);
            self.lost += u64::from(!told);
        }
    }

    /// Returns whether the summary tells of it.
    fn add_one(&mut self, sample: &Sample) -> bool {
        // Keys are cloned only when they are new.
        if !self.series.contains_key(&sample.device) {
            self.series.insert(sample.device.clone(), BTreeMap::new());
        }
        let Some(metrics) = self.series.get_mut(&sample.device) else {
            return false;
        };
        if !metrics.contains_key(&sample.metric) {
            metrics.insert(sample.metric.clone(), Series::of(sample));
            self.entries += 1;
        }
        match metrics.get_mut(&sample.metric) {
            None | Some(Series::Dropped) => false,
            Some(Series::Attribute(last)) => {
                if sample.time >= last.time {
                    *last = sample.clone();
                }
                true
            }
            Some(Series::Minutes { minutes, .. }) => {
                let Some(value) = sample.value.as_number() else {
                    return false;
                };
                let time = sample.time;
                let minute = minutes.entry(time.as_micros().div_euclid(MINUTE));
                minute
                    .and_modify(|m| m.add(value, time))
                    .or_insert_with(|| {
                        self.entries += 1;
                        Minute {
                            count: 1,
                            last: time,
                            min: (value, time),
                            max: (value, time),
                        }
                    });
                true
            }
        }
    }

    /// The events that tell of it, by device, metric and minute.
    fn into_samples(self) -> Vec<Sample> {
        let mut out = Vec::new();
        for (device, metrics) in self.series {
            for series in metrics.into_values() {
                let (names, minutes) = match series {
                    Series::Dropped => continue,
                    Series::Attribute(last) => {
                        out.push(last);
                        continue;
                    }
                    Series::Minutes { names, minutes } => (names, minutes),
                };
                for minute in minutes.into_values() {
                    let values = [(minute.count as f64, minute.last), minute.min, minute.max];
                    out.extend(names.iter().zip(values).map(|(name, (n, time))| Sample {
                        device: device.clone(),
                        metric: name.clone(),
                        time,
                        value: Value::Number(n),
                    }));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
