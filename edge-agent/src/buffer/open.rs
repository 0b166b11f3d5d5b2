//! Opening the buffer: a new incarnation every time, and a way on when the file is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use event::{AgentId, EventTime, Gap, Incarnation};
use redb::{Builder, Database, DatabaseError, ReadableTable, StorageBackend};
use serde::{Deserialize, Serialize};

use super::index::{ChunkKey, ChunkMeta, Index, Kind};
use super::tables::{
    Ancestor, CHUNKS, COMMANDS, CURSORS, GAPS, INDEX, LINEAGE, META, STATE, State, encode,
};
use super::{Buffer, BufferError, OpenError, Settings, reserve, unplaced};

/// Name of the buffer's file in the data directory.
pub const FILE_NAME: &str = "buffer.redb";
const SIDECAR: &str = "incarnation";
/// A file of this name beside the buffer asks for a check of every page at the next start.
const SUSPECT: &str = "check-at-next-start";
/// Damaged files kept for a person to look at; older ones are removed.
const ASIDE_MAX: usize = 2;

const FORMAT: u16 = 4;
const IDENTITY: &str = "identity";

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u16,
    agent: String,
}

/// An open buffer and what happened on the way.
#[derive(Debug)]
pub struct Opened {
    /// The buffer.
    pub buffer: Buffer,
    /// Where a damaged file was moved to.
    pub set_aside: Option<PathBuf>,
    /// The disk is as good as full: there is no room for the reserve. What is held can be sent and
    /// deleted.
    pub disk_full: bool,
}

/// Opens the buffer in `dir` (made if it is not there) and draws a new incarnation: stored counter
/// plus one and the random bits `rand`. Both are on disk when this returns.
///
/// A damaged file is renamed to `buffer.redb.damaged-<time>-<life>` (two are kept), its loss is declared as
/// an unclean stretch of time, and a new file begins. `now` is the agent's present time, 0 if it is not
/// known.
///
/// On a full disk the reserve is given up.
///
/// **Errors**: in use by another process, another agent's, of a newer format, or the disk fails.
pub fn open(
    dir: &Path,
    agent: &AgentId,
    settings: &Settings,
    rand: u64,
    now: EventTime,
) -> Result<Opened, OpenError> {
    match open_once(dir, agent, settings, rand, now) {
        Err(e) if e.is_disk_full() && reserve::release(dir) => {
            open_once(dir, agent, settings, rand, now)
        }
        result => result,
    }
}

fn open_once(
    dir: &Path,
    agent: &AgentId,
    settings: &Settings,
    rand: u64,
    now: EventTime,
) -> Result<Opened, OpenError> {
    fs::create_dir_all(dir).map_err(io_error("create the data directory", dir))?;
    let path = dir.join(FILE_NAME);
    let sidecar = Sidecar::read(&dir.join(SIDECAR));
    let existed = path.exists();
    let suspect = dir.join(SUSPECT).exists();
    let mut set_aside = None;
    let known_no = sidecar.as_ref().map_or(0, |s| s.no);
    let mut result = begin(
        file(&path, settings, suspect),
        agent,
        settings,
        rand,
        known_no,
        now,
    );
    if let Err(OpenError::Damaged(what)) = &result {
        let aside = dir.join(format!(
            "{FILE_NAME}.damaged-{}-{known_no}",
            now.as_micros()
        ));
        fs::rename(&path, &aside).map_err(io_error("set aside the damaged buffer", &path))?;
        tracing::error!(
            error = %what, kept = %aside.display(),
            "the buffer is damaged and was set aside; what it held is declared lost"
        );
        remove_old_asides(dir);
        set_aside = Some(aside);
        result = begin(
            file(&path, settings, false),
            agent,
            settings,
            rand,
            known_no,
            now,
        );
    }
    let mut buffer = result?;
    // With the file, everything held since the last start is gone: nothing older was held then.
    if let Some(lost) = sidecar.filter(|_| set_aside.is_some() || !existed) {
        buffer.state.add_unclean(lost.floor, now);
        // With a clock that is not set, at least what was issued before the last start.
        buffer.note_commands_lost(now.max(lost.floor));
        buffer.flush_state(now.max(buffer.state.committed_at))?;
    }
    // Not known: nothing is older than what is on disk.
    let present = if now <= EventTime(0) {
        buffer.state.committed_at
    } else {
        now
    };
    let untold = [buffer.state.unclean, buffer.state.unclean_behind];
    let untold = untold.into_iter().flatten().map(|u| u.from);
    let untold = untold.chain(buffer.state.behind_from);
    let held = [buffer.held().oldest, buffer.unplaced_floor()];
    let floor = held
        .into_iter()
        .flatten()
        .chain(untold)
        .fold(present, EventTime::min);
    Sidecar {
        no: buffer.incarnation().no,
        floor,
    }
    .write(dir)?;
    let _ = fs::remove_file(dir.join(SUSPECT));
    let disk_full = match reserve::make(dir, true) {
        Ok(()) => false,
        Err(error) => {
            tracing::debug!(%error, "no room for the reserve");
            true
        }
    };
    Ok(Opened {
        buffer,
        set_aside,
        disk_full,
    })
}

/// Opens a buffer on any storage: in memory for simulations, failing on purpose for tests. As
/// [`open`], but damage is an error and nothing is kept beside the storage.
///
/// **Errors**: as [`open`], and [`OpenError::Damaged`].
pub fn open_backend(
    backend: impl StorageBackend,
    agent: &AgentId,
    settings: &Settings,
    rand: u64,
    now: EventTime,
) -> Result<Buffer, OpenError> {
    let open = || builder(settings, false).create_with_backend(backend);
    begin(
        caught(open, Path::new("(storage)")),
        agent,
        settings,
        rand,
        0,
        now,
    )
}

/// Asks for a full check of the file in `dir` at the next start, because something in it was found
/// damaged while it was in use.
pub(crate) fn suspect(dir: &Path) {
    if let Err(error) = fs::write(dir.join(SUSPECT), b"") {
        tracing::warn!(%error, "cannot note that the buffer must be checked at the next start");
    }
}

fn builder(settings: &Settings, check: bool) -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(settings.cache_bytes)
        .set_check_integrity_on_open(check);
    builder
}

fn file(path: &Path, settings: &Settings, check: bool) -> Result<Database, OpenError> {
    caught(|| builder(settings, check).create(path), path)
}

/// The library may panic on a file that was damaged behind its back.
fn caught(
    open: impl FnOnce() -> Result<Database, DatabaseError>,
    path: &Path,
) -> Result<Database, OpenError> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(e)) => Err(match e {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse {
                path: path.to_owned(),
            },
            e => match redb::Error::from(e) {
                redb::Error::Corrupted(what) => OpenError::Damaged(what),
                redb::Error::Io(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    OpenError::Damaged(e.to_string())
                }
                redb::Error::Io(source) => OpenError::Io {
                    what: "open the buffer",
                    path: path.to_owned(),
                    source,
                },
                redb::Error::UpgradeRequired(v) => {
                    OpenError::Damaged(format!("it says that it is of file format {v}"))
                }
                e => OpenError::Storage(Box::new(e)),
            },
        }),
        Err(_) => Err(OpenError::Damaged(
            "its pages contradict each other".to_owned(),
        )),
    }
}

fn begin(
    db: Result<Database, OpenError>,
    agent: &AgentId,
    settings: &Settings,
    rand: u64,
    no_at_least: u32,
    now: EventTime,
) -> Result<Buffer, OpenError> {
    let db = db?;
    let load = AssertUnwindSafe(|| load(db, agent, settings, rand, no_at_least, now));
    catch_unwind(load).unwrap_or_else(|_| {
        Err(OpenError::Damaged(
            "its pages contradict each other".to_owned(),
        ))
    })
}

/// Reads what the last life left, and commits the beginning of this one.
fn load(
    db: Database,
    agent: &AgentId,
    settings: &Settings,
    rand: u64,
    no_at_least: u32,
    now: EventTime,
) -> Result<Buffer, OpenError> {
    let mut tx = db.begin_write()?;
    tx.set_quick_repair(true);
    // First of all: the tables of another format are not of these types.
    let known = match tx.open_table(META)?.get(IDENTITY)? {
        Some(row) => {
            check_identity(row.value(), agent)?;
            true
        }
        None => false,
    };
    let index = read_index(&tx)?;
    let gaps = read_gaps(&tx)?;
    let unplaced = unplaced::load(&tx)?;
    let (state, lineage) = {
        let mut meta = tx.open_table(META)?;
        let mut lineage_table = tx.open_table(LINEAGE)?;
        tx.open_table(CHUNKS)?;
        tx.open_table(CURSORS)?;
        tx.open_table(COMMANDS)?;
        if !known && index.events() > 0 {
            return Err(OpenError::Damaged("events without an owner".to_owned()));
        }
        let last: Option<State> = match meta.get(STATE)? {
            Some(row) => Some(decode(row.value(), "state")?),
            None => None,
        };
        let mut lineage = BTreeMap::new();
        for row in lineage_table.iter()? {
            let (key, value) = row?;
            let ((no, rand), (last_seq, _)) = (key.value(), value.value());
            let inc = Incarnation { no, rand };
            let held = index.holds_any(inc);
            lineage.insert(
                inc,
                Ancestor {
                    last_seq,
                    held,
                    told: false,
                },
            );
        }
        // The life that ended becomes an ancestor, unless nobody can ever have heard of it.
        if let Some(last) = last.as_ref().filter(|s| s.spoke || s.last_seq > 0) {
            let inc = last.incarnation;
            let held = index.holds_any(inc);
            lineage.insert(
                inc,
                Ancestor {
                    last_seq: last.last_seq,
                    held,
                    told: false,
                },
            );
            lineage_table.insert((inc.no, inc.rand), (last.last_seq, held))?;
        }
        let no = last
            .as_ref()
            .map_or(0, |s| s.incarnation.no)
            .max(no_at_least);
        let mut state = State {
            incarnation: Incarnation {
                no: no.saturating_add(1),
                rand,
            },
            last_seq: 0,
            committed_at: match &last {
                // The newest time that is known stays known.
                Some(last) if now <= EventTime(0) => last.committed_at,
                _ => now,
            },
            clean: false,
            volatile: false,
            volatile_before: last
                .as_ref()
                .is_some_and(|l| l.volatile || (l.volatile_before && l.last_seq == 0)),
            spoke: false,
            unclean: last.as_ref().and_then(|last| last.unclean),
            unclean_until: last.as_ref().and_then(|last| last.unclean_until),
            unclean_behind: last.as_ref().and_then(|last| last.unclean_behind),
            behind_from: last.as_ref().and_then(|last| last.behind_from),
        };
        // What was taken since the last commit may be lost, if the last life did not end in order and had a
        // source that cannot read again.
        if let Some(last) = last.filter(|l| !l.clean && (l.volatile || l.volatile_before)) {
            state.add_unclean(last.committed_at, now);
        }
        let identity = Identity {
            format: FORMAT,
            agent: agent.as_str().to_owned(),
        };
        meta.insert(IDENTITY, encode(&identity)?.as_slice())?;
        meta.insert(STATE, encode(&state)?.as_slice())?;
        (state, lineage)
    };
    tx.commit()?;
    let mut buffer = Buffer::assemble(
        db,
        agent.clone(),
        settings.clone(),
        state,
        index,
        lineage,
        gaps,
    );
    buffer.room.waiting = unplaced.bytes();
    buffer.unplaced = unplaced;
    Ok(buffer)
}

fn check_identity(row: &[u8], agent: &AgentId) -> Result<(), OpenError> {
    let identity: Identity = decode(row, "identity")?;
    if identity.format > FORMAT {
        return Err(OpenError::NewerFormat {
            found: identity.format,
            known: FORMAT,
        });
    }
    if identity.format < FORMAT {
        return Err(OpenError::Damaged(format!(
            "it has format {}, which this program no longer reads (it reads {FORMAT}); to send what \
             it holds, run the tidewatch-agent that wrote it on a copy",
            identity.format
        )));
    }
    if identity.agent != agent.as_str() {
        let wanted = agent.as_str().to_owned();
        return Err(OpenError::OtherAgent {
            found: identity.agent,
            wanted,
        });
    }
    Ok(())
}

fn read_index(tx: &redb::WriteTransaction) -> Result<Index, OpenError> {
    let mut index = Index::default();
    let table = tx.open_table(INDEX)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let (no, rand, first) = key.value();
        let (count, bytes, min, max, stored, kind) = value.value();
        let Some(kind) = Kind::from_code(kind) else {
            return Err(OpenError::Damaged(format!(
                "a chunk of the unknown kind {kind}"
            )));
        };
        if count == 0 || first == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(OpenError::Damaged(
                "a chunk with impossible numbers".to_owned(),
            ));
        }
        let key = ChunkKey {
            inc: Incarnation { no, rand },
            first,
        };
        let (min_time, max_time) = (EventTime(min), EventTime(max));
        index.insert(
            key,
            ChunkMeta {
                count,
                bytes,
                min_time,
                max_time,
                stored,
                kind,
            },
        );
    }
    Ok(index)
}

fn read_gaps(tx: &redb::WriteTransaction) -> Result<BTreeMap<ChunkKey, Gap>, OpenError> {
    let mut gaps = BTreeMap::new();
    let table = tx.open_table(GAPS)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let (no, rand, first) = key.value();
        let key = ChunkKey {
            inc: Incarnation { no, rand },
            first,
        };
        gaps.insert(key, decode(value.value(), "gap")?);
    }
    Ok(gaps)
}

fn decode<T: for<'de> Deserialize<'de>>(row: &[u8], what: &str) -> Result<T, OpenError> {
    postcard::from_bytes(row).map_err(|e| OpenError::Damaged(format!("its row {what:?}: {e}")))
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn remove_old_asides(dir: &Path) {
    let prefix = format!("{FILE_NAME}.damaged-");
    let mut asides: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(&prefix))
        })
        .collect();
    // Not by name: the clock may not have been set.
    asides.sort_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok());
    for old in asides.iter().rev().skip(ASIDE_MAX) {
        let _ = fs::remove_file(old);
    }
}

/// What must outlive the buffer's file: the highest incarnation number given out, and a time before
/// which nothing was held at the last start.
#[derive(Debug, PartialEq, Eq)]
struct Sidecar {
    no: u32,
    floor: EventTime,
}

impl Sidecar {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(" = "))
                .map(str::trim)
        };
        Some(Self {
            no: field("no")?.parse().ok()?,
            floor: EventTime(field("floor_us")?.parse().ok()?),
        })
    }

    fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(SIDECAR);
        let fresh = dir.join(format!("{SIDECAR}.new"));
        let write = || {
            let mut file = fs::File::create(&fresh)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            fs::File::open(dir)?.sync_all()
        };
        let written = write().or_else(|error| {
            let _ = fs::remove_file(&fresh);
            // A full disk has no room for a second file, but the old one has its block.
            if path.exists() {
                self.overwrite(&path)
            } else {
                Err(error)
            }
        });
        written.map_err(io_error("write", &path))
    }

    fn overwrite(&self, path: &Path) -> io::Result<()> {
        let text = self.text();
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }

    fn text(&self) -> String {
        let floor = self.floor.as_micros();
        format!("no = {}\nfloor_us = {floor}\n", self.no)
    }
}

impl Buffer {
    fn flush_state(&mut self, now: EventTime) -> Result<(), BufferError> {
        self.touch_state();
        self.flush(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event::{DeviceId, MetricName, Sample, TimeRange, Value};

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).unwrap()
    }

    fn sample(t: i64) -> Sample {
        Sample {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new("m").unwrap(),
            time: EventTime::from_secs(t),
            value: Value::Number(1.5),
        }
    }

    fn opened(dir: &Path, rand: u64, now: i64) -> Opened {
        open(
            dir,
            &agent("gw"),
            &Settings::default(),
            rand,
            EventTime::from_secs(now),
        )
        .unwrap()
    }

    #[test]
    fn every_start_is_a_new_incarnation_and_the_last_one_becomes_lineage() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = opened(dir.path(), 7, 100).buffer;
        assert_eq!(first.incarnation(), Incarnation { no: 1, rand: 7 });
        first
            .append(&[sample(99)], &[], true, EventTime::from_secs(101))
            .unwrap();
        drop(first);

        let second = opened(dir.path(), 8, 200).buffer;
        assert_eq!(second.incarnation(), Incarnation { no: 2, rand: 8 });
        let told = second.announcement(10);
        assert_eq!(told.lineage.len(), 1);
        assert_eq!((told.lineage[0].last_seq, told.lineage[0].held), (1, true));
        // Not closed in order, and the source cannot read again: 101..200 is in doubt.
        let (from, to) = (EventTime::from_secs(101), EventTime::from_secs(200));
        assert_eq!(told.unclean, Some(TimeRange { from, to }));
        second.close(EventTime::from_secs(210)).unwrap();

        // A life that nobody heard of leaves no lineage, an orderly stop adds no doubt.
        let third = opened(dir.path(), 9, 300).buffer;
        assert_eq!(third.incarnation().no, 3);
        assert_eq!(third.announcement(10), told);
    }

    #[test]
    fn an_unclean_stop_covers_what_waited_in_memory_at_the_last_commit() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = opened(dir.path(), 7, 100).buffer;
        let range = first
            .append(&[sample(99)], &[], true, EventTime::from_secs(110))
            .unwrap()
            .unwrap();
        // An ack is committed at 150, while a sample of 140 waits; the first words come after both.
        first.ack(&[range]).unwrap();
        first.flush(EventTime::from_secs(140)).unwrap();
        first.note_spoke().unwrap();
        drop(first);
        let (from, to) = (EventTime::from_secs(140), EventTime::from_secs(200));
        let said = opened(dir.path(), 8, 200).buffer.announcement(10);
        assert_eq!(said.unclean, Some(TimeRange { from, to }));
    }

    #[test]
    fn a_clock_set_back_takes_nothing_from_a_stretch_that_was_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let stored = |rand, now| {
            let mut buffer = opened(dir.path(), rand, now).buffer;
            let until = EventTime::from_secs(now + 10);
            buffer.append(&[sample(now)], &[], true, until).unwrap();
        };
        stored(7, 1000);
        // Starts at 2000, and again with the clock set back.
        stored(8, 2000);
        stored(9, 100);
        // It is not known when what is lost was taken, until the clock is right again.
        let mut buffer = opened(dir.path(), 10, 60).buffer;
        buffer.know_time(EventTime::from_secs(2009));
        assert_eq!(buffer.announcement(10).unclean, None);
        buffer.know_time(EventTime::from_secs(2500));
        let (from, to) = (EventTime::from_secs(60 - 3600), EventTime::from_secs(2500));
        let said = buffer.announcement(10);
        assert_eq!(said.unclean, Some(TimeRange { from, to }));
    }

    #[test]
    fn two_losses_of_clocks_years_apart_are_both_told() {
        const JUNE: i64 = 1_750_000_000;
        const AHEAD: i64 = JUNE + 10 * 365 * 86_400;
        let dir = tempfile::tempdir().unwrap();
        let stored = |rand, now| {
            let mut buffer = opened(dir.path(), rand, now).buffer;
            let until = EventTime::from_secs(now + 10);
            buffer.append(&[sample(now)], &[], true, until).unwrap();
        };
        // A clock ten years ahead, then the right one: the agent cannot know which is which.
        stored(7, AHEAD);
        stored(8, JUNE);
        let mut buffer = opened(dir.path(), 9, JUNE + 100).buffer;
        let said = buffer.announcement(10);
        let secs = |from, to| {
            let (from, to) = (EventTime::from_secs(from), EventTime::from_secs(to));
            Some(TimeRange { from, to })
        };
        assert_eq!(said.unclean, secs(JUNE + 10, JUNE + 100));
        buffer.told(&said);
        assert_eq!(buffer.announcement(10).unclean, None);
        buffer.know_time(EventTime::from_secs(AHEAD + 100));
        assert_eq!(
            buffer.announcement(10).unclean,
            secs(AHEAD + 10, AHEAD + 100)
        );
    }

    #[test]
    fn a_loss_before_a_start_without_a_clock_is_told_once_there_is_one() {
        const JUNE: i64 = 1_750_000_000;
        let dir = tempfile::tempdir().unwrap();
        let mut first = opened(dir.path(), 7, JUNE).buffer;
        let committed = EventTime::from_secs(JUNE + 10);
        first.append(&[sample(JUNE)], &[], true, committed).unwrap();
        drop(first);
        // The power was cut; the machine has no clock of its own, and stops once more before it has learnt the time.
        drop(opened(dir.path(), 8, 0));
        let mut third = opened(dir.path(), 9, 5).buffer;
        assert_eq!(third.announcement(10).unclean, None);
        third.know_time(EventTime::from_secs(JUNE + 100));
        let (from, to) = (committed, EventTime::from_secs(JUNE + 100));
        assert_eq!(third.announcement(10).unclean, Some(TimeRange { from, to }));
    }

    #[test]
    fn a_stop_of_sources_that_read_again_is_never_unclean() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = opened(dir.path(), 7, 100).buffer;
        first
            .append(&[sample(99)], &[], false, EventTime::from_secs(101))
            .unwrap();
        drop(first);
        assert_eq!(
            opened(dir.path(), 8, 200).buffer.announcement(10).unclean,
            None
        );
    }

    #[test]
    fn a_second_process_and_another_agent_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let first = opened(dir.path(), 1, 1).buffer;
        let now = EventTime::from_secs(1);
        let again = open(dir.path(), &agent("gw"), &Settings::default(), 2, now).unwrap_err();
        assert!(
            again.to_string().contains("in use by another process"),
            "{again}"
        );
        drop(first);
        let other = open(dir.path(), &agent("other"), &Settings::default(), 2, now).unwrap_err();
        assert!(
            other.to_string().contains("belongs to agent \"gw\""),
            "{other}"
        );
    }

    #[test]
    fn a_damaged_file_is_set_aside_declared_and_the_number_goes_on() {
        for damage in ["garbage", "truncated", "missing"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE_NAME);
            let mut first = opened(dir.path(), 1, 100).buffer;
            first
                .append(&[sample(100)], &[], true, EventTime::from_secs(150))
                .unwrap();
            first.close(EventTime::from_secs(160)).unwrap();
            let bytes = fs::read(&path).unwrap();
            match damage {
                "garbage" => fs::write(&path, vec![0x5a; bytes.len()]).unwrap(),
                "truncated" => fs::write(&path, &bytes[..bytes.len() / 3]).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            let second = opened(dir.path(), 2, 200);
            assert_eq!(second.set_aside.is_some(), damage != "missing", "{damage}");
            assert_eq!(second.buffer.incarnation().no, 2, "{damage}");
            let said = second.buffer.announcement(10);
            let (from, to) = (EventTime::from_secs(100), EventTime::from_secs(200));
            assert_eq!(said.unclean, Some(TimeRange { from, to }), "{damage}");
            drop(second);
            // Said until the cloud has it, also over a restart.
            assert_eq!(
                opened(dir.path(), 3, 300).buffer.announcement(10).unclean,
                said.unclean
            );
        }
    }

    #[test]
    fn a_file_of_an_older_format_is_set_aside_and_declared() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::create(dir.path().join(FILE_NAME)).unwrap();
        let tx = db.begin_write().unwrap();
        let old = Identity {
            format: FORMAT - 1,
            agent: "gw".to_owned(),
        };
        let row = encode(&old).unwrap();
        let mut meta = tx.open_table(META).unwrap();
        meta.insert(IDENTITY, row.as_slice()).unwrap();
        drop(meta);
        // As format 2 had it.
        type OldRow = (u32, u32, i64, i64);
        let index: redb::TableDefinition<(u32, u64, u64), OldRow> =
            redb::TableDefinition::new("index");
        drop(tx.open_table(index).unwrap());
        tx.commit().unwrap();
        let error = check_identity(&row, &agent("gw")).unwrap_err();
        let said = format!("it has format {}", FORMAT - 1);
        assert!(error.to_string().contains(&said), "{error}");
        drop(db);
        let floor = EventTime::from_secs(50);
        Sidecar { no: 4, floor }.write(dir.path()).unwrap();
        let second = opened(dir.path(), 2, 200);
        assert!(second.set_aside.is_some());
        assert_eq!(second.buffer.incarnation().no, 5);
        let said = second.buffer.announcement(10).unclean.unwrap();
        assert_eq!(said.from, floor);
    }

    #[test]
    fn only_the_newest_damaged_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..5 {
            drop(opened(dir.path(), round, 100 + round as i64));
            fs::write(dir.path().join(FILE_NAME), b"not a buffer at all").unwrap();
        }
        drop(opened(dir.path(), 9, 200));
        let kept = fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains("damaged")
            })
            .count();
        assert_eq!(kept, ASIDE_MAX);
    }
}
