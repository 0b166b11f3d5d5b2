//! Ten thousand sessions of garbage, and then a real one.
//!
//! Kinds: random bytes; a valid session with bytes changed; a valid session cut off; a valid CONNECT
//! and then random packets. The seed of a failing run is in its panic message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{PATIENCE, settings, start};
use crate::wire::{Wire, connect, packet, publish};

const SESSIONS: usize = 10_000;
const WORKERS: usize = 32;

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A whole session that a real client could have sent.
fn valid(random: &mut Random) -> Vec<u8> {
    let level = if random.below(2) == 0 { 4 } else { 5 };
    let mut out = connect(level, &format!("f{}", random.below(50)), "gw-1", 60);
    let topics = [
        "devices/d/telemetry",
        "tidewatch/v1/gw-1/batch",
        "tidewatch/v1/gw-1/status",
        "x",
    ];
    for id in 1..=random.below(4) as u16 {
        let topic = topics[random.below(topics.len())];
        out.extend(publish(level, topic, id, b"{\"t\":1}"));
    }
    let mut body = vec![0, 9];
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(b"\0\x15tidewatch/v1/gw-1/ack\x01");
    out.extend(packet(0x82, &body));
    out.extend(packet(0xc0, &[]));
    out
}

fn session(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    match seed % 5 {
        0 => random.bytes(300),
        1 => {
            let mut bytes = valid(&mut random);
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            bytes
        }
        2 => {
            let mut bytes = valid(&mut random);
            bytes.truncate(random.below(bytes.len()));
            bytes
        }
        3 => {
            let level = if random.below(2) == 0 { 4 } else { 5 };
            let mut bytes = connect(level, "f", "", 60);
            for _ in 0..=random.below(6) {
                let first = random.next() as u8;
                bytes.extend(packet(first, &random.bytes(60)));
            }
            bytes
        }
        _ => {
            // A CONNECT with a body of chance behind a good start.
            let mut body = b"\0\x04MQTT".to_vec();
            body.push(4 + random.below(2) as u8);
            body.extend(random.bytes(80));
            let mut bytes = packet(0x10, &body);
            bytes.extend(random.bytes(100));
            bytes
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_leaves_the_front_serving() {
    let system = start(settings()).await;
    let addr = system.addr;
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SESSIONS {
                        return;
                    }
                    let mut stream = TcpStream::connect(addr).await.unwrap();
                    // The front may close before it has everything.
                    let _ = stream.write_all(&session(seed as u64)).await;
                    let _ = stream.shutdown().await;
                    let mut answer = Vec::new();
                    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
                    assert!(end.is_ok(), "session with seed {seed} was not ended");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let mut wire = Wire::connect(&system, 5, "real", "").await;
    wire.send(&publish(5, "devices/real/telemetry", 77, b"{\"t\":1}"))
        .await;
    assert_eq!(wire.packet().await, Some(vec![0x40, 2, 0, 77]));
    // Everything that was opened was closed: nothing waits for the grace.
    let begin = std::time::Instant::now();
    system.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
}
