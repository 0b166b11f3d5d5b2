//! Agents for the measurement, many on one connection: MQTT 3.1.1 by hand, because it must be known to the
//! microsecond when a batch leaves.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use event::batch::{BatchHeader, ClockQuality, ClockState, Held};
use event::{AgentId, DeviceId, EventTime, Incarnation, MetricName, Sample, Value, topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Microseconds UTC.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// One value.
///
/// **Errors**: a name that is none.
pub fn sample(device: &str, metric: &str, value: Value) -> anyhow::Result<Sample> {
    let metric = match metric.strip_prefix('@') {
        Some(attribute) => MetricName::attribute(attribute)?,
        None => MetricName::new(metric)?,
    };
    Ok(Sample {
        device: DeviceId::new(device)?,
        metric,
        time: EventTime(now()),
        value,
    })
}

/// An agent that holds nothing back.
pub struct Agent {
    id: AgentId,
    incarnation: Incarnation,
    tx_no: u64,
    next: u64,
}

impl Agent {
    /// A new one.
    ///
    /// **Errors**: a name that is none.
    pub fn new(id: &str, rand: u64) -> anyhow::Result<Self> {
        Ok(Self {
            id: AgentId::new(id)?,
            incarnation: Incarnation { no: 1, rand },
            tx_no: 0,
            next: 1,
        })
    }

    /// Topic and bytes of a batch; the agent is complete up to now with it.
    ///
    /// **Errors**: samples that are no batch.
    pub fn batch(&mut self, samples: &[Sample]) -> anyhow::Result<(String, Vec<u8>)> {
        self.tx_no += 1;
        let first_seq = self.next;
        self.next += samples.len() as u64;
        let sent_at = EventTime(now());
        let header = BatchHeader {
            agent: self.id.clone(),
            incarnation: self.incarnation,
            tx_no: self.tx_no,
            sent_at,
            boottime_us: 0,
            clock: ClockState {
                quality: ClockQuality::Ntp,
                error_ms: 1,
            },
            e_inc: self.incarnation,
            first_seq,
            count: u32::try_from(samples.len())?,
            low_watermark: sent_at,
            quiet_until: None,
            held: Held::default(),
            lineage: Vec::new(),
            unclean: None,
            gaps: Vec::new(),
        };
        Ok((
            topic::batch(&self.id),
            event::batch::encode(&header, samples)?,
        ))
    }
}

/// A connection to the server.
pub struct Link {
    stream: TcpStream,
    packet: u16,
}

impl Link {
    /// Connects.
    ///
    /// **Errors**: the server cannot be reached or refuses.
    pub async fn open(server: std::net::SocketAddr, client: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server)
            .await
            .context("failed to connect to the server's MQTT port")?;
        stream.set_nodelay(true)?;
        let mut link = Self { stream, packet: 0 };
        // MQTT 3.1.1, clean session, keep-alive of ten minutes.
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0x02, 0x58];
        put_text(&mut body, client)?;
        link.send(0x10, &body).await?;
        let (kind, body) = link.read().await?;
        if kind != 0x20 || body.get(1) != Some(&0) {
            bail!("the server refused the connection: {kind:#x} {body:?}");
        }
        Ok(link)
    }

    /// Publishes with QoS 1 and waits for the server's word that it is on disk. Returns when it left.
    ///
    /// **Errors**: the connection broke.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<Instant> {
        self.packet = self.packet.checked_add(1).unwrap_or(1);
        let mut body = Vec::with_capacity(payload.len() + topic.len() + 4);
        put_text(&mut body, topic)?;
        body.extend_from_slice(&self.packet.to_be_bytes());
        body.extend_from_slice(payload);
        let left = Instant::now();
        self.send(0x32, &body).await?;
        loop {
            let (kind, body) = self.read().await?;
            if kind == 0x40 && body == self.packet.to_be_bytes() {
                return Ok(left);
            }
        }
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> anyhow::Result<()> {
        let mut packet = vec![kind];
        let mut length = body.len();
        loop {
            let low = (length % 128) as u8;
            length /= 128;
            packet.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        Ok(self.stream.write_all(&packet).await?)
    }

    async fn read(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((kind, body))
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) -> anyhow::Result<()> {
    body.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    body.extend_from_slice(text.as_bytes());
    Ok(())
}
