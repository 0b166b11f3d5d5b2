use std::io;
use std::path::Path;
use std::sync::Mutex;

use event::{AgentId, DeviceId, MetricName, Value};
use redb::StorageBackend;

use super::*;
use crate::buffer::{self, Buffer, Cursor, open_backend};
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Position, Reading};
use crate::uplink::session;

/// A disk that is full after some writes, until somebody makes room.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Writes until it is full; none = there is room.
    left: Option<u32>,
    was_full: u32,
}

impl Disk {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn step(&self) -> io::Result<()> {
        self.with(|state| match &mut state.left {
            None => Ok(()),
            Some(0) => {
                state.was_full += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|s| s.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|s| {
            out.copy_from_slice(&s.bytes[offset as usize..][..out.len()]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step()?;
        self.with(|s| s.bytes.resize(len as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step()?;
        self.with(|s| s.bytes[offset as usize..][..data.len()].copy_from_slice(data));
        Ok(())
    }
}

fn open(disk: &Disk, rand: u64, now: EventTime) -> Result<Buffer, OpenError> {
    let agent = AgentId::new("gw").unwrap();
    open_backend(
        disk.clone(),
        &agent,
        &buffer::Settings::default(),
        rand,
        now,
    )
}

fn core(buffer: Buffer) -> Core {
    let agent = AgentId::new("gw").unwrap();
    Core::new(agent, buffer, session::Settings::default(), 1 << 20, 1)
}

/// A keeper of a disk with room, which may not be opened again.
pub(super) fn keeper(inbox: &Arc<Inbox>, link: mpsc::Sender<ToLink>, dir: &Path) -> Keeper {
    Keeper {
        inbox: inbox.clone(),
        health: Health::default(),
        link,
        flush_interval: Duration::ZERO,
        dir: dir.to_owned(),
        reopen: Box::new(|_| panic!("the disk is not full")),
        room: Room::of(dir, 0),
        full_wait: FULL_WAIT,
        full: None,
        told_full: None,
        failed: None,
        clock_offset_us: inbox.clock().guess_us(),
    }
}

fn reading(n: u32) -> Reading {
    Reading {
        device: DeviceId::new("d").unwrap(),
        metric: MetricName::new("m").unwrap(),
        time: None,
        value: Value::Number(f64::from(n)),
    }
}

/// The disk becomes full after `writes`; returns how often it was found so. Every reading must be
/// stored once.
fn run(writes: u32) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let clock = Clock::new(Quality::Ntp);
    let start = clock.wall();
    let first = core(open(&disk, 1, start).unwrap());
    let inbox = Inbox::new(
        inbox::Settings {
            commit_interval: Duration::from_millis(1),
            ..inbox::Settings::default()
        },
        clock,
    );
    let (link, mut to_link) = mpsc::channel(TO_LINK_MAX);
    let (again, mut refusals, mut rand) = (disk.clone(), 1, 1);
    let keeper = Keeper {
        flush_interval: Duration::from_millis(1),
        reopen: Box::new(move |now| {
            rand += 1;
            if refusals == 0 {
                // The room of the reserve.
                again.with(|s| s.left = None);
            }
            refusals -= i32::from(refusals > 0);
            open(&again, rand, now).map(core)
        }),
        full_wait: Duration::from_millis(2),
        ..keeper(&inbox, link, dir.path())
    };
    disk.with(|s| s.left = Some(writes));
    let kept = std::thread::spawn(move || keeper.run(first));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let source = inbox.register(Position::Live);
    let next_wake = Duration::from_millis(1);
    for n in 0..20 {
        let cursor = Some(Cursor {
            source: "f".to_owned(),
            position: vec![n as u8],
        });
        let push = inbox.push(source, vec![reading(n)], cursor, None, true);
        runtime.block_on(push).unwrap();
        std::thread::sleep(next_wake);
    }
    // Whoever waited for room goes on by itself.
    let began = std::time::Instant::now();
    while inbox.has_waiting() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it does not go on"
        );
        std::thread::sleep(next_wake);
    }
    inbox.tell(News::Stop(Duration::ZERO));
    kept.join().unwrap().unwrap();
    let messages = std::iter::from_fn(|| to_link.blocking_recv()).collect::<Vec<_>>();
    assert!(matches!(messages.last(), Some(ToLink::Goodbye(_))));
    let was_full = disk.with(|s| s.was_full);
    assert_eq!(
        was_full > 0,
        messages.len() > 1,
        "a new life, a new connection"
    );

    let mut buffer = open(&disk, 99, start).unwrap();
    let mut found = Vec::new();
    let mut taken = Vec::new();
    while let Some(range) = buffer.next_before(buffer.end(), &taken, 1000) {
        let (range, samples) = buffer.take(range).unwrap().unwrap();
        found.extend(samples.iter().filter_map(|s| s.value.as_number()));
        taken.push(range);
    }
    let expected: Vec<f64> = (0..20).map(f64::from).collect();
    assert_eq!(found, expected, "full after {writes} writes");
    assert_eq!(buffer.cursor("f").unwrap(), Some(vec![19]));
    was_full
}

#[test]
fn a_full_disk_loses_nothing_and_counts_nothing_twice_wherever_it_happens() {
    let full: u32 = (0..40).map(run).sum();
    assert!(full >= 40, "the disk was full {full} times");
}
