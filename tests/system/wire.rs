//! An agent by hand: what it says is put together here, byte for byte by the vocabulary crate.

use std::time::{SystemTime, UNIX_EPOCH};

use event::{
    Ack, AgentId, BatchHeader, ClockQuality, ClockState, DeviceId, EventTime, Held, Incarnation,
    MetricName, Sample, Value, batch, topic,
};

use super::harness::Server;
use super::mqtt::Client;

/// The wall clock, microseconds.
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    since.as_micros() as i64
}

/// One number of a device.
pub fn number(device: &str, metric: &str, time: i64, value: f64) -> Sample {
    Sample {
        device: DeviceId::new(device).expect("a device id"),
        metric: MetricName::new(metric).expect("a metric name"),
        time: EventTime(time),
        value: Value::Number(value),
    }
}

/// An agent with one life and one connection.
pub struct Agent {
    pub id: AgentId,
    pub client: Client,
    incarnation: Incarnation,
    tx_no: u64,
    seq: u64,
}

impl Agent {
    /// Connects and hears its acks.
    #[track_caller]
    pub fn connect(server: &Server, id: &str) -> Self {
        let incarnation = Incarnation {
            no: 1,
            rand: rand::random(),
        };
        let client_id = format!("{id}-{:016x}", incarnation.rand);
        let mut client = Client::connect(server.mqtt(), &client_id, id);
        let id = AgentId::new(id).expect("an agent id");
        client.subscribe(&topic::ack(&id));
        Self {
            id,
            client,
            incarnation,
            tx_no: 0,
            seq: 0,
        }
    }

    /// Its life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The bytes of a batch that this agent would send next.
    pub fn batch(&mut self, samples: &[Sample], low_watermark: i64) -> Vec<u8> {
        self.tx_no += 1;
        let header = BatchHeader {
            agent: self.id.clone(),
            incarnation: self.incarnation,
            tx_no: self.tx_no,
            sent_at: EventTime(now()),
            boottime_us: 1,
            clock: ClockState {
                quality: ClockQuality::Ntp,
                error_ms: 1,
            },
            e_inc: self.incarnation,
            first_seq: self.seq + 1,
            count: samples.len() as u32,
            low_watermark: EventTime(low_watermark),
            quiet_until: None,
            held: Held::default(),
            lineage: Vec::new(),
            unclean: None,
            gaps: Vec::new(),
        };
        self.seq += samples.len() as u64;
        batch::encode(&header, samples).expect("a batch")
    }

    /// Publishes on its own batch topic and gives the answer.
    #[track_caller]
    pub fn publish(&mut self, payload: &[u8]) -> Ack {
        let topic = topic::batch(&self.id);
        self.client.publish(&topic, payload).expect("a PUBACK");
        let (_, answer) = self.client.receive().expect("an ack");
        Ack::decode(&answer).expect("an ack that decodes")
    }

    /// Sends samples, which must be acked, and says how far it is complete.
    #[track_caller]
    pub fn send(&mut self, samples: &[Sample], low_watermark: i64) {
        let first = self.seq + 1;
        let payload = self.batch(samples, low_watermark);
        let ack = self.publish(&payload);
        assert!(ack.refused.is_empty(), "{ack:?}");
        assert_eq!(ack.tx_no, self.tx_no);
        let ranges: Vec<_> = ack.ranges.iter().map(|r| (r.first, r.last)).collect();
        match samples.is_empty() {
            true => assert!(ranges.is_empty(), "{ack:?}"),
            false => assert_eq!(ranges, [(first, self.seq)]),
        }
    }
}
