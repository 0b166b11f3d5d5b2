//! Power cuts: what was written but not synced is lost, torn or kept at random. What was committed
//! must be there, and the buffer must open.

use std::io;
use std::sync::{Arc, Mutex};

use event::{AgentId, DeviceId, EventTime, Incarnation, MetricName, Sample, SeqRange, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;

use super::*;

const SECTOR: usize = 512;

/// A disk with a cache that power does not outlive.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// What is certain.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// Unsynced operations, in order.
    unsynced: Vec<Op>,
    /// Operations until the power goes.
    left: u64,
    /// Operations done, to choose the next cut by.
    done: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Disk {
    fn new(image: Vec<u8>, left: u64) -> Self {
        let (durable, seen) = (image.clone(), image);
        Self(Arc::new(Mutex::new(Inner {
            durable,
            seen,
            unsynced: Vec::new(),
            left,
            done: 0,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The image after the power went: each unsynced sector has arrived or not.
    fn after_cut(&self, rng: &mut StdRng) -> Vec<u8> {
        let inner = self.lock();
        let mut image = inner.durable.clone();
        // Whether a change of length arrived is a matter of the file system: up to some point.
        let lengths_kept = rng.random_range(0..=inner.unsynced.len());
        for (i, op) in inner.unsynced.iter().enumerate() {
            match op {
                Op::Len(len) if i < lengths_kept => image.resize(*len, 0),
                Op::Len(_) => {}
                Op::Write(at, data) => {
                    for (k, sector) in data.chunks(SECTOR).enumerate() {
                        let start = at + k * SECTOR;
                        if rng.random_bool(0.5) && start + sector.len() <= image.len() {
                            // A torn sector keeps only its beginning.
                            let n = if rng.random_bool(0.1) {
                                rng.random_range(0..=sector.len())
                            } else {
                                sector.len()
                            };
                            image[start..start + n].copy_from_slice(&sector[..n]);
                        }
                    }
                }
            }
        }
        image
    }
}

impl Inner {
    fn step(&mut self) -> io::Result<()> {
        self.done += 1;
        if self.left == 0 {
            return Err(io::Error::other("the power is gone"));
        }
        self.left -= 1;
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        let at = offset as usize;
        let data = inner
            .seen
            .get(at..at + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.seen.resize(len as usize, 0);
        inner.unsynced.push(Op::Len(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.durable = inner.seen.clone();
        inner.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        let at = offset as usize;
        if at + data.len() > inner.seen.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.seen[at..at + data.len()].copy_from_slice(data);
        inner.unsynced.push(Op::Write(at, data.to_vec()));
        Ok(())
    }
}

fn samples(rng: &mut StdRng) -> Vec<Sample> {
    (0..rng.random_range(1..30))
        .map(|_| Sample {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("t").unwrap(),
            time: EventTime::from_secs(1_700_000_000 + rng.random_range(0..1000)),
            value: Value::Number(rng.random()),
        })
        .collect()
}

/// One life after the other on one disk, each ended by a power cut. Returns how many cuts fell into
/// a commit.
fn run(seed: u64, lives: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let agent = AgentId::new("gw").unwrap();
    let settings = Settings {
        bytes_max: 1 << 30,
        chunk_events_max: 25,
        chunk_bytes: 400,
        cache_bytes: 64 << 10,
    };
    let now = EventTime::from_secs(1_700_000_000);
    let mut image = Vec::new();
    // Everything accepted and not acked: it must be there. Acked and not committed: it may be.
    let mut held: Vec<((Incarnation, u64), Sample)> = Vec::new();
    let mut cursor = 0u64;
    let mut cuts = 0;
    for life in 0..lives {
        let disk = Disk::new(image, rng.random_range(5..160));
        let opened = open_backend(disk.clone(), &agent, &settings, life + 1, now);
        let mut in_doubt: Vec<(Vec<Sample>, Incarnation, u64)> = Vec::new();
        let mut cursor_in_doubt = None;
        let mut acked: Vec<(Incarnation, u64)> = Vec::new();
        if let Ok(mut buffer) = opened {
            loop {
                let inc = buffer.incarnation();
                if rng.random_bool(0.7) {
                    let new = samples(&mut rng);
                    let first = buffer.next_seq();
                    let position = (cursor + 1).to_le_bytes().to_vec();
                    let next = Cursor {
                        source: "f".to_owned(),
                        position,
                    };
                    match buffer.append(&new, &[next], true, now) {
                        Ok(Some(range)) => {
                            assert_eq!(range.first, first);
                            cursor += 1;
                            held.extend((first..).map(|n| (inc, n)).zip(new));
                        }
                        Ok(None) => unreachable!("there were samples"),
                        Err(_) => {
                            in_doubt.push((new, inc, first));
                            cursor_in_doubt = Some(cursor + 1);
                            break;
                        }
                    }
                } else {
                    let Some(((inc, n), _)) = held.get(rng.random_range(0..held.len().max(1)))
                    else {
                        continue;
                    };
                    let range = SeqRange {
                        incarnation: *inc,
                        first: *n,
                        last: n + rng.random_range(0..20),
                    };
                    if buffer.ack(&[range]).is_err() {
                        break;
                    }
                    let gone = |k: &(Incarnation, u64)| {
                        k.0 == range.incarnation && range.first <= k.1 && k.1 <= range.last
                    };
                    acked.extend(held.iter().map(|(k, _)| *k).filter(gone));
                    if rng.random_bool(0.3) && buffer.flush(now).is_err() {
                        break;
                    }
                }
            }
            cuts += 1;
        }
        image = disk.after_cut(&mut rng);

        // The power is back: it opens, and what was accepted is there.
        let disk = Disk::new(image.clone(), u64::MAX);
        let mut buffer = open_backend(disk.clone(), &agent, &settings, life + 1000, now)
            .unwrap_or_else(|e| panic!("seed {seed}, life {life}: does not open: {e:?}"));
        assert!(
            buffer.announcement(99).gaps.is_empty(),
            "seed {seed}, life {life}: a gap"
        );
        let mut found: Vec<((Incarnation, u64), Sample)> = Vec::new();
        let mut taken = Vec::new();
        while let Some(range) = buffer.next_before(buffer.end(), &taken, 1000) {
            let (got, samples) = buffer.take(range).unwrap().unwrap();
            found.extend((got.first..).map(|n| (got.incarnation, n)).zip(samples));
            taken.push(got);
        }
        found.sort_by_key(|(k, _)| *k);
        held.sort_by_key(|(k, _)| *k);
        for entry in &held {
            let there = found.binary_search_by_key(&entry.0, |(k, _)| *k);
            match there {
                Ok(at) => assert_eq!(found[at].1, entry.1, "seed {seed}, life {life}"),
                Err(_) => assert!(
                    acked.contains(&entry.0),
                    "seed {seed}, life {life}: {:?} is lost",
                    entry.0
                ),
            }
        }
        // What was in doubt is there as a whole, with its cursor, or not at all.
        for (new, inc, first) in &in_doubt {
            let there = found
                .iter()
                .filter(|((i, n), _)| i == inc && n >= first)
                .count();
            assert!(
                there == 0 || there == new.len(),
                "seed {seed}, life {life}: half a group"
            );
            let stored = buffer
                .cursor("f")
                .unwrap()
                .map(|b| u64::from_le_bytes(b.try_into().unwrap()));
            let expected = if there == 0 {
                cursor
            } else {
                cursor_in_doubt.unwrap()
            };
            assert_eq!(stored.unwrap_or(0), expected, "seed {seed}, life {life}");
            cursor = expected;
        }
        held = found;
        // Keep it from growing without end.
        let all: Vec<SeqRange> = if held.len() > 1500 { taken } else { Vec::new() };
        buffer.ack(&all).unwrap();
        if !all.is_empty() {
            held.clear();
        }
        buffer.close(now).unwrap();
        image = disk.lock().durable.clone();
    }
    cuts
}

#[test]
fn no_power_cut_loses_what_was_committed() {
    let cuts: u64 = (0..12).map(|seed| run(seed, 25)).sum();
    assert!(cuts > 200, "{cuts} cuts fell into the buffer's work");
}
