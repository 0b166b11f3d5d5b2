//! Batches of our agents: version, size, checksum, header, and whose it is (N1).
//!
//! The columns are not decoded here: admission must be cheap, and the checksum already says that they
//! are what the agent wrote. Columns that do not decode are set aside by the processor and counted.

use event::{AgentId, BatchHeader, Incarnation, RefusalReason, SeqRange};

use super::Refusal;

/// What the answer to an admitted batch needs of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The life that sent it.
    pub incarnation: Incarnation,
    /// The transmission.
    pub tx_no: u64,
    /// The events inside; none for a heartbeat.
    pub range: Option<SeqRange>,
    /// How many events.
    pub count: u32,
}

impl Admitted {
    fn of(header: &BatchHeader) -> Self {
        let range = header.last_seq().map(|last| SeqRange {
            incarnation: header.e_inc,
            first: header.first_seq,
            last,
        });
        Self {
            incarnation: header.incarnation,
            tx_no: header.tx_no,
            range,
            count: header.count,
        }
    }
}

/// Checks a batch that came on the topic of `agent`.
///
/// **Errors**: the refusal, and what could be read of the header (nothing if the version or the
/// checksum is wrong).
pub fn admit(
    agent: &AgentId,
    payload: &[u8],
    bytes_max: usize,
) -> Result<Admitted, (Refusal, Option<Admitted>)> {
    if payload.len() > bytes_max {
        let text = format!(
            "batch of {} bytes is over the limit of {bytes_max}",
            payload.len()
        );
        return Err((Refusal::new(RefusalReason::TooLarge, text), None));
    }
    let (header, _) = event::batch::peek(payload)
        .map_err(|error| (Refusal::new(error.reason(), error.to_string()), None))?;
    let admitted = Admitted::of(&header);
    if header.agent != *agent {
        let text = format!(
            "batch of agent {} came on the topic of agent {agent}",
            header.agent
        );
        return Err((
            Refusal::new(RefusalReason::WrongAgent, text),
            Some(admitted),
        ));
    }
    Ok(admitted)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use event::{
        BatchHeader, ClockState, DeviceId, EventTime, Held, Incarnation, MetricName, Sample, Value,
    };

    pub(crate) fn header(agent: &str, first_seq: u64, count: u32) -> BatchHeader {
        let inc = Incarnation { no: 3, rand: 0xabc };
        BatchHeader {
            agent: AgentId::new(agent).unwrap(),
            incarnation: inc,
            tx_no: 17,
            sent_at: EventTime(1_800_000_000_000_000),
            boottime_us: 5,
            clock: ClockState::default(),
            e_inc: inc,
            first_seq,
            count,
            low_watermark: EventTime(1_800_000_000_000_000),
            quiet_until: None,
            held: Held::default(),
            lineage: Vec::new(),
            unclean: None,
            gaps: Vec::new(),
        }
    }

    pub(crate) fn batch(agent: &str, first_seq: u64, count: u32) -> Vec<u8> {
        let samples: Vec<Sample> = (0..count)
            .map(|i| Sample {
                device: DeviceId::new("d-1").unwrap(),
                metric: MetricName::new("temperature").unwrap(),
                time: EventTime(1_800_000_000_000_000 + i64::from(i)),
                value: Value::Number(f64::from(i)),
            })
            .collect();
        event::batch::encode(&header(agent, first_seq, count), &samples).unwrap()
    }

    #[track_caller]
    fn check(agent: &str, payload: &[u8], expected: Result<(), RefusalReason>) {
        let agent = AgentId::new(agent).unwrap();
        let result = admit(&agent, payload, 1 << 20);
        assert_eq!(result.map(|_| ()).map_err(|(r, _)| r.reason), expected);
    }

    #[test]
    fn bad_batches_are_refused_with_their_reason() {
        let good = batch("gw-1", 5, 10);
        check("gw-1", &good, Ok(()));
        check("gw-1", &batch("gw-1", 0, 0), Ok(()));
        check("gw-2", &good, Err(RefusalReason::WrongAgent));
        check("gw-1", b"", Err(RefusalReason::Empty));
        let mut version = good.clone();
        version[0] = 99;
        check("gw-1", &version, Err(RefusalReason::UnknownVersion));
        for at in 1..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 0x40;
            check("gw-1", &damaged, Err(RefusalReason::Checksum));
        }
        for len in 1..good.len() {
            let agent = AgentId::new("gw-1").unwrap();
            assert!(
                admit(&agent, &good[..len], 1 << 20).is_err(),
                "cut at {len}"
            );
        }
        check(
            "gw-1",
            &vec![1; (1 << 20) + 1],
            Err(RefusalReason::TooLarge),
        );
    }

    #[test]
    fn the_answer_names_exactly_the_range() {
        let agent = AgentId::new("gw-1").unwrap();
        let admitted = admit(&agent, &batch("gw-1", 5, 10), 1 << 20).unwrap();
        let range = admitted.range.unwrap();
        assert_eq!(
            (range.first, range.last, admitted.tx_no, admitted.count),
            (5, 14, 17, 10)
        );
        assert_eq!(
            admit(&agent, &batch("gw-1", 5, 0), 1 << 20).unwrap().range,
            None
        );
    }
}
