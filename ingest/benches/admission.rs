//! Admission with durable append, and the same behind the front: events per second of wall time and
//! of CPU time. `taskset -c 0 cargo bench -p ingest` measures one core.
//!
//! Data: gateways with 10 devices and 8 metrics each (80 series), batches of 1,000 events, values
//! that walk in steps of 0.1 as temperatures do, one reading of every series per second.
//! Environment: `BATCHES` (default 20,000), `TIDEWATCH_BENCH_DIR` (where the log is written).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use event::{
    AgentId, BatchHeader, ClockState, DeviceId, EventTime, Held, Incarnation, MetricName, Sample,
    Value,
};
use eventlog::{Clock, Log};
use ingest::auth::{Open, Principal};
use ingest::broker::{Answer, Offer, Publish};
use ingest::{Ingest, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const EVENTS: u32 = 1000;
const AGENTS: usize = 64;
const IN_FLIGHT: usize = 4096;
const CONNECTIONS: usize = 16;

fn main() {
    let batches = std::env::var("BATCHES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    let made: Vec<(AgentId, Bytes)> = (0..AGENTS).map(batch).collect();
    let bytes: usize = made.iter().map(|(_, b)| b.len()).sum();
    let per_event = bytes as f64 / (AGENTS as f64 * f64::from(EVENTS));
    say(&format!(
        "batches of {EVENTS} events, {per_event:.2} bytes per event on the wire"
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let (_dir, log, ingest) = bind().await;
        report("admission only", batches, || async {
            for i in 0..batches {
                let (agent, payload) = &made[i % AGENTS];
                ingest::admission::batch::admit(agent, payload, 1 << 20).expect("admitted");
            }
        })
        .await;
        report("admission and durable append", batches, || {
            gate(&ingest, &made, batches)
        })
        .await;
        check(&log, batches);
        log.close();
        let (_dir, log, ingest) = bind().await;
        let addr = ingest.local_addr().expect("the front has an address");
        let stop = CancellationToken::new();
        let running = tokio::spawn(ingest.run(stop.clone()));
        report(
            "front, admission and durable append (with the clients' cost)",
            batches,
            || front(addr, &made, batches),
        )
        .await;
        check(&log, batches);
        stop.cancel();
        running.await.expect("no panic").expect("stops");
        log.close();
    });
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}

async fn report<F: Future<Output = ()>>(what: &str, batches: usize, run: impl FnOnce() -> F) {
    let (begin, cpu) = (Instant::now(), cpu_time());
    run().await;
    let wall = begin.elapsed().as_secs_f64();
    let cpu = (cpu_time() - cpu).as_secs_f64();
    let events = batches as f64 * f64::from(EVENTS);
    say(&format!(
        "{what}: {:.2} M events/s ({:.0} batches/s), {:.2} M events per CPU-second, {:.1} us of CPU per batch",
        events / wall / 1e6,
        batches as f64 / wall,
        events / cpu / 1e6,
        cpu * 1e6 / batches as f64,
    ));
}

/// CPU time of this process, all threads, in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_ascii_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

async fn bind() -> (tempfile::TempDir, Log, Ingest) {
    let dir = match std::env::var_os("TIDEWATCH_BENCH_DIR") {
        Some(base) => tempfile::tempdir_in(base),
        None => tempfile::tempdir(),
    }
    .expect("a temporary folder can be made");
    let clock: Clock = Arc::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default().as_micros() as i64
    });
    let log = Log::open(dir.path(), eventlog::Settings::default(), clock.clone()).expect("opens");
    let settings = Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Settings::default()
    };
    let ingest = Ingest::bind(settings, log.clone(), Arc::new(Open), clock)
        .await
        .expect("binds");
    (dir, log, ingest)
}

fn batch(number: usize) -> (AgentId, Bytes) {
    let agent = AgentId::new(&format!("gw-{number}")).expect("an id");
    let inc = Incarnation {
        no: 1,
        rand: number as u64,
    };
    let start = 1_800_000_000_000_000;
    let devices: Vec<DeviceId> = (0..10)
        .map(|d| DeviceId::new(&format!("gw-{number}-sensor-{d}")).expect("an id"))
        .collect();
    let metrics: Vec<MetricName> = (0..8)
        .map(|m| MetricName::new(&format!("temperature_{m}")).expect("a name"))
        .collect();
    let mut state = number as u64 + 1;
    let mut values = [215i64; 80];
    let samples: Vec<Sample> = (0..EVENTS as usize)
        .map(|i| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let series = i % 80;
            values[series] += (state >> 33) as i64 % 3 - 1;
            Sample {
                device: devices[series / 8].clone(),
                metric: metrics[series % 8].clone(),
                time: EventTime(start + (i / 80) as i64 * 1_000_000),
                value: Value::Number(values[series] as f64 / 10.0),
            }
        })
        .collect();
    let header = BatchHeader {
        agent: agent.clone(),
        incarnation: inc,
        tx_no: 1,
        sent_at: EventTime(start),
        boottime_us: 1,
        clock: ClockState::default(),
        e_inc: inc,
        first_seq: 1,
        count: EVENTS,
        low_watermark: EventTime(start),
        quiet_until: None,
        held: Held::default(),
        lineage: Vec::new(),
        unclean: None,
        gaps: Vec::new(),
    };
    (
        agent,
        event::batch::encode(&header, &samples)
            .expect("encodes")
            .into(),
    )
}

/// Offers batches to the gate, many under way, and waits until all are on disk.
async fn gate(ingest: &Ingest, made: &[(AgentId, Bytes)], batches: usize) {
    let intake = ingest.intake();
    let topics: Vec<String> = made
        .iter()
        .map(|(agent, _)| event::topic::batch(agent))
        .collect();
    let source: Arc<str> = "bench".into();
    let mut under_way = VecDeque::with_capacity(IN_FLIGHT);
    for i in 0..batches {
        let mut publish = Publish {
            principal: Principal::trusted(),
            source: source.clone(),
            topic: topics[i % AGENTS].clone(),
            payload: made[i % AGENTS].1.clone(),
            retain: false,
        };
        loop {
            if under_way.len() >= IN_FLIGHT
                && let Some(receipt) = under_way.pop_front()
            {
                stored(receipt).await;
            }
            match intake.offer(publish) {
                Offer::Taken(receipt) => {
                    under_way.push_back(receipt);
                    break;
                }
                Offer::Busy(back) => {
                    publish = back;
                    if let Some(receipt) = under_way.pop_front() {
                        stored(receipt).await;
                    }
                }
            }
        }
    }
    for receipt in under_way {
        stored(receipt).await;
    }
}

/// What was answered must be there.
fn check(log: &Log, batches: usize) {
    let ends = (0..log.partitions()).map(|p| log.end(eventlog::PartitionId(p)).0);
    let (ends, sizes) = (ends.sum::<u64>(), log.sizes().expect("sizes"));
    assert!(ends >= batches as u64, "{ends} records of {batches}");
    let stored: u64 = sizes.partitions.iter().map(|p| p.stored_bytes).sum();
    let blocks: u64 = sizes.partitions.iter().map(|p| p.blocks).sum();
    say(&format!(
        "  {ends} records in {blocks} blocks, {:.1} MB",
        stored as f64 / 1e6
    ));
}

async fn stored(receipt: ingest::broker::Receipt) {
    assert_eq!(receipt.await, Answer::Stored);
}

/// Publishes batches over connections and waits for every PUBACK.
async fn front(addr: SocketAddr, made: &[(AgentId, Bytes)], batches: usize) {
    let mut clients = Vec::new();
    for (number, (agent, payload)) in made.iter().take(CONNECTIONS).cloned().enumerate() {
        let share = batches / CONNECTIONS + usize::from(number < batches % CONNECTIONS);
        clients.push(tokio::spawn(client(addr, agent, payload, share)));
    }
    for client in clients {
        client.await.expect("no panic");
    }
}

async fn client(addr: SocketAddr, agent: AgentId, payload: Bytes, count: usize) {
    let stream = TcpStream::connect(addr).await.expect("connects");
    let (mut read, mut write) = stream.into_split();
    let mut connect = b"\x10\x00\x00\x04MQTT\x04\x82\x00\x3c".to_vec();
    for text in [agent.as_str(), agent.as_str()] {
        connect.extend_from_slice(&(text.len() as u16).to_be_bytes());
        connect.extend_from_slice(text.as_bytes());
    }
    connect[1] = (connect.len() - 2) as u8;
    write.write_all(&connect).await.expect("writes");
    let mut connack = [0u8; 4];
    read.read_exact(&mut connack).await.expect("reads");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let topic = event::topic::batch(&agent);
    let sender = tokio::spawn(async move {
        let body = 2 + topic.len() + 2 + payload.len();
        let mut packet = vec![0x32, (body & 0x7f) as u8 | 0x80, (body >> 7) as u8];
        packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        packet.extend_from_slice(topic.as_bytes());
        let id_at = packet.len();
        packet.extend_from_slice(&[0, 0]);
        packet.extend_from_slice(&payload);
        for i in 0..count {
            let id = (i % 65_535) as u16 + 1;
            packet[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
            write.write_all(&packet).await.expect("writes");
        }
        write
    });
    let mut left = count * 4;
    let mut sink = vec![0u8; 4096];
    while left > 0 {
        let n = read.read(&mut sink).await.expect("reads");
        assert!(n > 0, "closed early");
        left -= n;
    }
    sender.await.expect("no panic");
}
