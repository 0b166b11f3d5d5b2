//! Power cuts: what was written but not synced is lost, torn or kept at random. What was committed
//! must be there, and the buffer must open.
//!
//! A life of the buffer is recorded on a disk that notes every write, change of length and sync. Then
//! the power is cut after *each* of these operations: the disk is put together as it might look, the
//! buffer is opened, and what it holds must be exactly what the last commit before the cut or the one
//! under way left: chunks with their events, gaps, cursor, commands and last number. The next life goes
//! on from one of these disks.
//!
//! Each run tries at least [`CUTS`] cuts; the environment variable `TIDEWATCH_CUTS` asks for another
//! number (bench/README.md has the figures).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event::{AgentId, DeviceId, EventTime, Gap, Incarnation, MetricName, Sample, SeqRange, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;

use super::index::{ChunkKey, ChunkMeta, Kind};
use super::*;

const SECTOR: usize = 512;
/// Cuts of a run, at least.
const CUTS: u64 = 12_000;

/// A disk that notes what is done to it.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// What a reader sees.
    seen: Vec<u8>,
    ops: Vec<Op>,
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Len(usize),
    Sync,
}

impl Disk {
    fn new(image: Vec<u8>) -> Self {
        let inner = Inner {
            seen: image,
            ops: Vec::new(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
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
        inner.seen.resize(len as usize, 0);
        inner.ops.push(Op::Len(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lock().ops.push(Op::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let at = offset as usize;
        let there = inner.seen.get_mut(at..at + data.len());
        there
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        inner.ops.push(Op::Write(at, data.to_vec()));
        Ok(())
    }
}

/// What is certain on the disk after some operations, and those that are not.
struct Power {
    durable: Vec<u8>,
    unsynced: Vec<Op>,
}

impl Power {
    fn take(&mut self, op: &Op) {
        if !matches!(op, Op::Sync) {
            self.unsynced.push(op.clone());
            return;
        }
        for op in self.unsynced.drain(..) {
            match op {
                Op::Len(len) => self.durable.resize(len, 0),
                Op::Write(at, data) => self.durable[at..at + data.len()].copy_from_slice(&data),
                Op::Sync => {}
            }
        }
    }

    /// The disk when the power goes now: each unsynced sector has arrived or not.
    fn cut(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut image = self.durable.clone();
        // Whether a change of length arrived is a matter of the file system: up to some point.
        let lengths_kept = rng.random_range(0..=self.unsynced.len());
        for (i, op) in self.unsynced.iter().enumerate() {
            match op {
                Op::Len(len) if i < lengths_kept => image.resize(*len, 0),
                Op::Len(_) | Op::Sync => {}
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

/// What a commit leaves.
#[derive(Debug, Clone, PartialEq)]
struct Left {
    chunks: Vec<(ChunkKey, ChunkMeta)>,
    gaps: Vec<Gap>,
    cursor: u64,
    commands: BTreeMap<String, Vec<u8>>,
    /// Of the life that left it.
    last_seq: u64,
}

/// What was seen to happen, so that it is known that the cuts fell into it.
#[derive(Debug, Default)]
struct Seen {
    cuts: u64,
    commits: u64,
    summaries: u64,
    faults_dropped: u64,
    overflows: u64,
    expired: u64,
    partial_acks: u64,
    told: u64,
}

/// One buffer over its lives, and all that is known of it.
struct World {
    rng: StdRng,
    seed: u64,
    agent: AgentId,
    settings: Settings,
    monotonic: Duration,
    wall: i64,
    seen: Seen,
    /// Every event that there ever was.
    events: BTreeMap<(Incarnation, u64), Sample>,
    /// What an ack has named, or a gap that was told: need not be there any more.
    done: Vec<SeqRange>,
    lives: Vec<Incarnation>,
    opened: u64,
    cursor: u64,
    commands: BTreeMap<String, Vec<u8>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = Faults::default();
        let (device, metric) = (DeviceId::new("d0"), MetricName::new("alarm"));
        faults.add(&device.unwrap(), &metric.unwrap());
        let settings = Settings {
            bytes_max: [1 << 30, 1200, 3000, 6000][(seed % 4) as usize],
            overflow: [Overflow::Compact, Overflow::DropOldest][usize::from(seed % 8 == 7)],
            age_max: rng.random_bool(0.5).then_some(1800),
            faults,
            chunk_events_max: rng.random_range(10..60),
            chunk_bytes: rng.random_range(150..600),
            cache_bytes: 64 << 10,
        };
        Self {
            rng,
            seed,
            agent: AgentId::new("gw").unwrap(),
            settings,
            monotonic: Duration::ZERO,
            wall: 1_700_000_000_000_000,
            seen: Seen::default(),
            events: BTreeMap::new(),
            done: Vec::new(),
            lives: Vec::new(),
            opened: 0,
            cursor: 0,
            commands: BTreeMap::new(),
        }
    }

    fn now(&self) -> EventTime {
        EventTime(self.wall)
    }

    fn try_open(&mut self, disk: &Disk) -> Result<Buffer, OpenError> {
        self.opened += 1;
        open_backend(
            disk.clone(),
            &self.agent,
            &self.settings,
            self.opened,
            self.now(),
        )
    }

    fn open(&mut self, disk: &Disk) -> Buffer {
        self.try_open(disk).unwrap_or_else(|e| {
            let (seed, opened) = (self.seed, self.opened);
            panic!("seed {seed}, opening {opened}: does not open: {e:?}")
        })
    }

    fn pass(&mut self, seconds: u64) {
        self.monotonic += Duration::from_secs(seconds);
        self.wall += seconds as i64 * 1_000_000;
    }

    fn samples(&mut self) -> Vec<Sample> {
        let steady = self.rng.random_bool(0.7);
        (0..self.rng.random_range(1..30))
            .map(|_| {
                let metric = match self.rng.random_range(0..30) {
                    0 => "alarm",
                    1 => "@site",
                    2 => "text",
                    3 => "tidewatch.command",
                    n => ["t", "u"][usize::from(n % 2 == 0 && !steady)],
                };
                let device = format!("d{}", u32::from(self.rng.random_bool(0.1)));
                Sample {
                    device: DeviceId::new(&device).unwrap(),
                    metric: MetricName::new(metric).unwrap(),
                    time: EventTime(self.wall - self.rng.random_range(0..20_000_000)),
                    value: match metric {
                        "t" | "u" | "alarm" => Value::Number(self.rng.random()),
                        _ => Value::Text(format!("x{}", self.rng.random_range(0..9)).into()),
                    },
                }
            })
            .collect()
    }

    /// What the open buffer holds, which a commit has just put on disk.
    fn left(&mut self, buffer: &mut Buffer) -> Left {
        let chunks: Vec<_> = buffer.index.all().collect();
        for (key, meta) in &chunks {
            if meta.kind == Kind::Summary && !self.events.contains_key(&(key.inc, key.first)) {
                let range = SeqRange {
                    incarnation: key.inc,
                    first: key.first,
                    last: key.last(meta),
                };
                let (_, samples) = buffer.take(range).unwrap().unwrap();
                self.seen.summaries += 1;
                self.events
                    .extend((key.first..).map(|n| (key.inc, n)).zip(samples));
            }
        }
        self.seen.commits += 1;
        Left {
            chunks,
            gaps: buffer.gaps.values().copied().collect(),
            cursor: self.cursor,
            commands: self.commands.clone(),
            last_seq: buffer.next_seq() - 1,
        }
    }

    /// Works for a while. Returns what each commit left, with the operations done by then.
    fn work(&mut self, buffer: &mut Buffer, disk: &Disk, steps: u32) -> Vec<(usize, Left)> {
        let done = || disk.lock().ops.len();
        let first = self.left(buffer);
        let mut commits = vec![(done(), first)];
        let inc = buffer.incarnation();
        for _ in 0..steps {
            let seconds = self.rng.random_range(5..90);
            self.pass(seconds);
            buffer.set_clock(self.monotonic, self.monotonic, Some(self.now()));
            let dropped = buffer.dropped();
            match self.rng.random_range(0..20) {
                0..=11 => {
                    let mut samples = self.samples();
                    self.cursor += 1;
                    let cursor = Cursor {
                        source: "f".to_owned(),
                        position: self.cursor.to_le_bytes().to_vec(),
                    };
                    if self.rng.random_bool(0.2) {
                        let id = format!("c{}", self.rng.random_range(0..5));
                        let row = self.rng.random_bool(0.7).then(|| vec![self.rng.random()]);
                        match &row {
                            Some(row) => drop(self.commands.insert(id.clone(), row.clone())),
                            None => drop(self.commands.remove(&id)),
                        }
                        buffer.note_commands(&CommandChanges {
                            rows: BTreeMap::from([(id, row)]),
                            forgotten_until: None,
                        });
                    }
                    let faults = buffer.index.oldest_of(Kind::Fault);
                    let range = buffer
                        .append(&samples, &[cursor], true, self.now())
                        .unwrap()
                        .unwrap();
                    self.seen.overflows += u64::from(buffer.dropped() > dropped);
                    let dropped = faults.is_some_and(|(k, _)| !buffer.index.has(k));
                    self.seen.faults_dropped += u64::from(dropped);
                    // Faults are numbered first.
                    samples.sort_by_key(|s| {
                        !(s.metric.as_str() == "tidewatch.command"
                            || (s.metric.as_str() == "alarm" && s.device.as_str() == "d0"))
                    });
                    assert_eq!(range.last - range.first + 1, samples.len() as u64);
                    self.events
                        .extend((range.first..).map(|n| (inc, n)).zip(samples));
                    let left = self.left(buffer);
                    commits.push((done(), left));
                }
                12..=14 => {
                    let Some((key, _)) = buffer.index.all().next() else {
                        continue;
                    };
                    let first = key.first + self.rng.random_range(0..60);
                    let last = first + self.rng.random_range(0..90);
                    // Only what there is: what comes later is another event.
                    let end = match buffer.last_seq_of(key.inc) {
                        Some(last) if key.inc != inc => last,
                        _ => buffer.next_seq() - 1,
                    };
                    let range = SeqRange {
                        incarnation: key.inc,
                        first,
                        last: last.min(end),
                    };
                    let before = buffer.index.chunks();
                    let gone = buffer.ack(&[range]).unwrap();
                    let split = gone > 0 && buffer.index.chunks() >= before;
                    self.seen.partial_acks += u64::from(split);
                    self.done.push(range);
                }
                15 => {
                    // The cloud has heard of the gaps; the file follows later.
                    let said = buffer.announcement(usize::MAX);
                    self.seen.told += said.gaps.len() as u64;
                    self.done.extend(said.gaps.iter().map(|g| SeqRange {
                        incarnation: g.incarnation,
                        first: g.from,
                        last: g.to,
                    }));
                    buffer.told(&said);
                }
                16 => {
                    // What is held may be over the limit of its age.
                    self.pass(900);
                    buffer.set_clock(self.monotonic, self.monotonic, Some(self.now()));
                    self.seen.expired += buffer.expire(self.monotonic).unwrap();
                }
                17 => {
                    buffer.note_spoke().unwrap();
                    // Only the first time is a commit.
                    if !buffer.is_dirty() {
                        let left = self.left(buffer);
                        commits.push((done(), left));
                    }
                }
                _ => {
                    buffer.flush(self.now()).unwrap();
                    let left = self.left(buffer);
                    commits.push((done(), left));
                }
            }
        }
        commits
    }

    /// The power is back: it opens and holds what `one` of these left.
    fn check(&mut self, image: Vec<u8>, life: Incarnation, one: &[Left], at: &str) {
        let mut buffer = self.open(&Disk::new(image));
        let cursor = buffer.cursor("f").unwrap();
        let cursor = cursor.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
        let found = Left {
            chunks: buffer.index.all().collect(),
            gaps: buffer.gaps.values().copied().collect(),
            cursor,
            commands: buffer.commands().unwrap().rows.into_iter().collect(),
            last_seq: buffer.last_seq_of(life).unwrap_or(0),
        };
        assert!(
            one.contains(&found),
            "{at}: it is neither what was committed nor what was about to be\n{found:?}\n{one:?}"
        );
        let no = buffer.incarnation().no;
        let earlier = found.chunks.iter().all(|(key, _)| key.inc.no < no)
            && found.gaps.iter().all(|g| g.incarnation.no < no);
        assert!(earlier, "{at}: numbers are given out again");
        let mut taken = Vec::new();
        while let Some(range) = buffer.next_before(buffer.end(), &taken, 1000) {
            let (got, samples) = buffer.take(range).unwrap().unwrap();
            for (n, sample) in (got.first..).zip(&samples) {
                let expected = self.events.get(&(got.incarnation, n));
                assert_eq!(Some(sample), expected, "{at}: {:?} {n}", got.incarnation);
            }
            taken.push(got);
        }
        assert_eq!(found.gaps.len(), buffer.gaps.len(), "{at}: damage");
        // Every number that was given out is held, in a gap, or done; none is both of the first two.
        let gaps = found.gaps.iter().map(|g| SeqRange {
            incarnation: g.incarnation,
            first: g.from,
            last: g.to,
        });
        let told: Vec<SeqRange> = taken.iter().copied().chain(gaps).collect();
        let lives = self.lives.iter().copied().chain([life]);
        for inc in lives {
            let Some(last) = buffer.last_seq_of(inc).or((inc == life).then_some(0)) else {
                continue;
            };
            let of = |list: &[SeqRange]| -> Vec<(u64, u64)> {
                let of = list.iter().filter(|r| r.incarnation == inc);
                of.map(|r| (r.first, r.last)).collect()
            };
            let mut told = of(&told);
            told.sort_unstable();
            let overlap = told.windows(2).any(|w| w[0].1 >= w[1].0);
            assert!(!overlap, "{at}: held and lost: {told:?}");
            told.extend(of(&self.done));
            told.sort_unstable();
            let mut next = 1;
            for (first, end) in told {
                if first > next {
                    break;
                }
                next = next.max(end + 1);
            }
            assert!(next > last, "{at}: {inc:?} {next} of {last} is lost");
        }
    }

    /// Lives one life on the image and cuts the power after every operation. Returns the image that the
    /// next life begins with.
    fn live(&mut self, image: Vec<u8>, before: &mut Left) -> Vec<u8> {
        let disk = Disk::new(image.clone());
        let mut buffer = self.open(&disk);
        let life = buffer.incarnation();
        assert!(!self.lives.contains(&life));
        let steps = self.rng.random_range(2..40);
        let mut commits = self.work(&mut buffer, &disk, steps);
        let killed = self.rng.random_bool(0.3);
        if killed {
            drop(buffer);
        } else {
            let left = self.left(&mut buffer);
            buffer.close(self.now()).unwrap();
            commits.push((disk.lock().ops.len(), left));
        }
        let ops = std::mem::take(&mut disk.lock().ops);
        // Where the next life goes on: after a kill mostly with everything that was written.
        let keeps_all = self.rng.random_bool(0.2);
        let next_at = self.rng.random_range(0..=ops.len());
        let mut next = None;
        let mut power = Power {
            durable: image,
            unsynced: Vec::new(),
        };
        for at in 0..=ops.len() {
            if at > 0 {
                power.take(&ops[at - 1]);
            }
            let mut image = power.cut(&mut self.rng);
            // Before the beginning of this life is on disk, the one before it is the last.
            let committed = commits.iter().rposition(|(done, _)| *done <= at);
            let under_way = commits.get(committed.map_or(0, |i| i + 1));
            let earlier = committed.map_or_else(|| before.clone(), |i| commits[i].1.clone());
            let mut one = vec![earlier];
            one.extend(under_way.map(|(_, left)| left.clone()));
            if committed.is_none() {
                // The last number is another life's there.
                one[0].last_seq = 0;
            }
            if committed.is_none() && self.lives.is_empty() {
                // A file that was never finished is set aside by `open`; there is nothing to lose.
                let opened = self.try_open(&Disk::new(image.clone()));
                if matches!(opened, Err(OpenError::Damaged(_))) {
                    image = Vec::new();
                }
            }
            let (seed, cut) = (self.seed, self.seen.cuts);
            let what = format!("seed {seed}, cut {cut}, operation {at} of {}", ops.len());
            self.check(image.clone(), life, &one, &what);
            self.seen.cuts += 1;
            if at == next_at && !keeps_all {
                next = Some((image, committed, under_way.cloned()));
            }
        }
        self.lives.push(life);
        let Some((image, committed, under_way)) = next else {
            *before = commits.pop().unwrap().1;
            let image = disk.lock().seen.clone();
            return image;
        };
        // What is there decides what is remembered.
        let buffer = self.open(&Disk::new(image.clone()));
        let chunks: Vec<_> = buffer.index.all().collect();
        let gaps: Vec<_> = buffer.gaps.values().copied().collect();
        let last_seq = buffer.last_seq_of(life).unwrap_or(0);
        let cursor = buffer.cursor("f").unwrap();
        let is = |left: &Left| {
            left.chunks == chunks
                && left.gaps == gaps
                && left.last_seq == last_seq
                && left.cursor
                    == cursor
                        .clone()
                        .map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()))
        };
        let earlier = committed.map_or_else(|| before.clone(), |i| commits[i].1.clone());
        *before = match under_way {
            Some((_, left)) if is(&left) => left,
            _ => earlier,
        };
        // Numbers given out in vain are free again only in other lives.
        self.events
            .retain(|(inc, n), _| *inc != life || *n <= last_seq);
        self.cursor = before.cursor;
        self.commands = before.commands.clone();
        image
    }
}

fn run(seed: u64, cuts: u64) -> Seen {
    let mut world = World::new(seed);
    let mut image = Vec::new();
    let mut before = Left {
        chunks: Vec::new(),
        gaps: Vec::new(),
        cursor: 0,
        commands: BTreeMap::new(),
        last_seq: 0,
    };
    while world.seen.cuts < cuts {
        image = world.live(image, &mut before);
    }
    world.seen
}

#[test]
#[allow(clippy::print_stdout)]
fn no_power_cut_loses_what_was_committed() {
    let cuts = match std::env::var("TIDEWATCH_CUTS") {
        Ok(n) => n.parse().unwrap(),
        Err(_) => CUTS,
    };
    let mut all = Seen::default();
    for seed in 0.. {
        if all.cuts >= cuts {
            break;
        }
        let seen = run(seed, cuts.div_ceil(16));
        all.cuts += seen.cuts;
        all.commits += seen.commits;
        all.summaries += seen.summaries;
        all.faults_dropped += seen.faults_dropped;
        all.overflows += seen.overflows;
        all.expired += seen.expired;
        all.partial_acks += seen.partial_acks;
        all.told += seen.told;
    }
    println!("{all:?}");
    assert!(all.summaries > 0 && all.overflows > 0 && all.expired > 0);
    assert!(all.faults_dropped > 0 && all.partial_acks > 0 && all.told > 0);
}
