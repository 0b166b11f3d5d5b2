//! The bytes of one chunk: a run of events with consecutive numbers, in the format of a batch.
//!
//! Why the batch format: it is columnar and compressed (about two bytes for a sensor's event), it
//! has a checksum, so that silent corruption on an SD card is found when the chunk is read, and it
//! is tested already. What a batch says about its sending (clock, watermark, backlog) is left empty.

use std::iter;
use std::ops::Range;

use event::{
    AgentId, BatchHeader, ClockQuality, ClockState, Columns, DecodeError, DeviceId, EncodeError,
    EventTime, Gap, GapReason, Held, Incarnation, MetricName, Sample, TimeRange, Value, batch,
};

use super::index::Kind;

/// Where there are faults in a chunk: places counted from 0, in order and apart from each other.
pub(super) type Runs = Vec<Range<u32>>;

/// The events of a chunk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Chunk {
    pub samples: Vec<Sample>,
    /// Which of them are faults.
    pub faults: Runs,
}

impl Chunk {
    /// What they are, taken as they came in.
    pub fn kind(&self) -> Kind {
        match self.faults.as_slice() {
            [] => Kind::Raw,
            [all] if all.len() == self.samples.len() => Kind::Fault,
            _ => Kind::Mixed,
        }
    }

    /// The places between the faults.
    pub fn others(&self) -> Runs {
        let ends = self.faults.iter().map(|run| run.end);
        let begins = self.faults.iter().map(|run| run.start);
        let ends = iter::once(0).chain(ends);
        let begins = begins.chain(iter::once(self.samples.len() as u32));
        let between = ends.zip(begins).map(|(from, to)| from..to);
        between.filter(|run| !run.is_empty()).collect()
    }

    /// The events of one run.
    pub fn of(&self, run: &Range<u32>) -> &[Sample] {
        let (from, to) = (run.start as usize, run.end as usize);
        self.samples.get(from..to).unwrap_or_default()
    }

    /// The same events, all of them faults.
    pub fn as_faults(&self) -> Self {
        Self {
            samples: self.samples.clone(),
            faults: iter::once(0..self.samples.len() as u32).collect(),
        }
    }

    /// A part of it.
    pub fn part(&self, part: Range<u32>) -> Self {
        let cut = |run: &Range<u32>| {
            let from = run.start.max(part.start);
            let to = run.end.min(part.end);
            (from < to).then(|| from - part.start..to - part.start)
        };
        Self {
            samples: self.of(&part).to_vec(),
            faults: self.faults.iter().filter_map(cut).collect(),
        }
    }
}

/// Encodes the events `first..` of `incarnation`. Of a mixed chunk the header says where the faults are, as
/// gaps counted from 1: it has a checksum, and a run takes about nine bytes.
pub(super) fn encode(
    agent: &AgentId,
    incarnation: Incarnation,
    first: u64,
    chunk: &Chunk,
) -> Result<Vec<u8>, EncodeError> {
    let samples = chunk.samples.as_slice();
    let faults = match chunk.kind() {
        Kind::Mixed => chunk.faults.as_slice(),
        Kind::Raw | Kind::Fault | Kind::Summary => &[],
    };
    let header = BatchHeader {
        agent: agent.clone(),
        incarnation,
        tx_no: 0,
        sent_at: EventTime::from_micros(0),
        boottime_us: 0,
        clock: ClockState {
            quality: ClockQuality::None,
            error_ms: 0,
        },
        e_inc: incarnation,
        first_seq: first,
        count: u32::try_from(samples.len()).unwrap_or(u32::MAX),
        low_watermark: EventTime::from_micros(0),
        quiet_until: None,
        held: Held {
            events: 0,
            bytes: 0,
            oldest: None,
        },
        lineage: Vec::new(),
        unclean: None,
        gaps: faults.iter().map(gap_of).collect(),
    };
    batch::encode(&header, samples)
}

fn gap_of(run: &Range<u32>) -> Gap {
    let nowhen = EventTime(0);
    Gap {
        incarnation: Incarnation { no: 0, rand: 0 },
        from: u64::from(run.start) + 1,
        to: u64::from(run.end),
        time: TimeRange {
            from: nowhen,
            to: nowhen,
        },
        reason: GapReason::Overflow,
    }
}

/// Decodes a chunk of that kind. Names are shared between the events that carry them.
pub(super) fn decode(
    bytes: &[u8],
    kind: Kind,
    columns: &mut Columns,
) -> Result<Chunk, DecodeError> {
    let (header, body) = batch::peek(bytes)?;
    body.decode_into(columns)?;
    let invalid = |what| DecodeError::Invalid { what, at: 0 };
    let devices: Vec<DeviceId> = columns
        .devices
        .iter()
        .map(DeviceId::new)
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("device id"))?;
    let metrics: Vec<MetricName> = columns
        .metrics
        .iter()
        .map(MetricName::new)
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("metric name"))?;
    let mut samples = Vec::with_capacity(columns.len());
    for i in 0..columns.len() {
        let series = columns.series[columns.series_of[i] as usize];
        samples.push(Sample {
            device: devices[series.device as usize].clone(),
            metric: metrics[series.metric as usize].clone(),
            time: EventTime::from_micros(columns.times[i]),
            value: match columns.values[i] {
                event::Cell::Number(n) => Value::Number(n),
                event::Cell::Bool(b) => Value::Bool(b),
                event::Cell::Text(t) => Value::Text(columns.texts.get(t).into()),
            },
        });
    }
    let faults = match kind {
        Kind::Raw | Kind::Summary => Runs::new(),
        Kind::Fault => iter::once(0..header.count).collect(),
        Kind::Mixed => runs_of(&header).ok_or_else(|| invalid("places of faults"))?,
    };
    Ok(Chunk { samples, faults })
}

fn runs_of(header: &BatchHeader) -> Option<Runs> {
    let mut end = 0;
    let run = |gap: &Gap| {
        let (from, to) = (u32::try_from(gap.from).ok()?, u32::try_from(gap.to).ok()?);
        let run = from.checked_sub(1)?..to;
        let fits = run.start >= end && run.start < run.end && run.end <= header.count;
        end = run.end;
        fits.then_some(run)
    };
    header.gaps.iter().map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back_and_a_flipped_bit_is_an_error() {
        let agent = AgentId::new("gw-1").unwrap();
        let inc = Incarnation { no: 3, rand: 9 };
        let samples: Vec<Sample> = (0..50)
            .map(|i| Sample {
                device: DeviceId::new(if i % 2 == 0 { "a" } else { "b" }).unwrap(),
                metric: MetricName::new("t").unwrap(),
                time: EventTime::from_micros(1_700_000_000_000_000 + i * 1_000),
                value: match i % 3 {
                    0 => Value::Number(f64::from(i as i32) / 10.0),
                    1 => Value::Bool(i % 2 == 0),
                    _ => Value::Text(format!("s{}", i % 4).as_str().into()),
                },
            })
            .collect();
        let mut columns = Columns::default();
        for (faults, kind) in [
            (vec![], Kind::Raw),
            (iter::once(0..50).collect(), Kind::Fault),
            (vec![0..1, 20..25, 49..50], Kind::Mixed),
            (iter::once(3..4).collect(), Kind::Mixed),
        ] {
            let samples = samples.clone();
            let chunk = Chunk { samples, faults };
            assert_eq!(chunk.kind(), kind);
            let bytes = encode(&agent, inc, 7, &chunk).unwrap();
            assert_eq!(decode(&bytes, kind, &mut columns).unwrap(), chunk);
        }
        let faults = vec![0..1, 20..25];
        let chunk = Chunk { samples, faults };
        let bytes = encode(&agent, inc, 7, &chunk).unwrap();
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(
                decode(&bad, Kind::Mixed, &mut columns).is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn runs_are_cut_with_their_chunk() {
        let sample = |n| Sample {
            device: DeviceId::new("a").unwrap(),
            metric: MetricName::new("t").unwrap(),
            time: EventTime(n),
            value: Value::Bool(true),
        };
        let chunk = Chunk {
            samples: (0..10).map(sample).collect(),
            faults: vec![0..2, 5..6, 8..10],
        };
        assert_eq!(chunk.others(), [2..5, 6..8]);
        assert_eq!(chunk.of(&(6..8)), [sample(6), sample(7)]);
        let part = chunk.part(1..6);
        assert_eq!(
            (part.samples.len(), part.samples[0].time),
            (5, EventTime(1))
        );
        assert_eq!(part.faults, [0..1, 4..5]);
        assert_eq!(chunk.part(2..5).kind(), Kind::Raw);
        assert_eq!(chunk.part(8..10).kind(), Kind::Fault);
        assert_eq!(chunk.part(0..10), chunk);
    }
}
