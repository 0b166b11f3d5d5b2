//! The bytes of one chunk: a run of events with consecutive numbers, in the format of a batch.
//!
//! Why the batch format: it is columnar and compressed (about two bytes for a sensor's event), it
//! has a checksum, so that silent corruption on an SD card is found when the chunk is read, and it
//! is tested already. What a batch says about its sending (clock, watermark, backlog) is left empty.

use event::{
    AgentId, BatchHeader, ClockQuality, ClockState, Columns, DecodeError, DeviceId, EncodeError,
    EventTime, Held, Incarnation, MetricName, Sample, Value, batch,
};

/// Encodes the events `first..` of `incarnation`.
pub(super) fn encode(
    agent: &AgentId,
    incarnation: Incarnation,
    first: u64,
    samples: &[Sample],
) -> Result<Vec<u8>, EncodeError> {
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
        gaps: Vec::new(),
    };
    batch::encode(&header, samples)
}

/// Decodes a chunk. Names are shared between the events that carry them.
pub(super) fn decode(bytes: &[u8], columns: &mut Columns) -> Result<Vec<Sample>, DecodeError> {
    let (_, body) = batch::peek(bytes)?;
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
    Ok(samples)
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
        let bytes = encode(&agent, inc, 7, &samples).unwrap();
        let mut columns = Columns::default();
        assert_eq!(decode(&bytes, &mut columns).unwrap(), samples);
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad, &mut columns).is_err(), "byte {at}");
        }
    }
}
