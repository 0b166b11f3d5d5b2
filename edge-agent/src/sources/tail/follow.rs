//! Which file is read: the one at the path, one that was renamed and is not finished, or the copy of
//! one that was cut to nothing.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::From;
use super::lines::{KNOWN_BYTES, LINE_BYTES_MAX, Lines, Place};
use super::rotated::is_generation_of;
use crate::sources::hash::fnv1a;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// A file that is not at the path any more is finished when it has not grown for this time: whoever
/// writes may keep it open for a while after it was renamed.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Finished files that are remembered, so that none is taken for a new one.
const DONE_MAX: usize = 8;
/// Most files looked at in a folder.
const FILES_MAX: usize = 4096;

/// A file that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    device: u64,
    inode: u64,
    len: u64,
    head: u64,
}

/// Behind the last line taken. Stored with the readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    inode: u64,
    offset: u64,
    head: u64,
    tail: u64,
    /// When the file was last written to, as far as it is known: nanoseconds of Unix time.
    modified: i64,
    done: Arc<Vec<Done>>,
}

impl Cursor {
    /// Whether it is the same place, whenever the file was written to.
    pub fn is_at(&self, other: &Self) -> bool {
        let modified = self.modified;
        *self
            == Self {
                modified,
                ..other.clone()
            }
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A line, or why it cannot be taken, where it begins, and the place behind it.
    Line(Result<Vec<u8>, String>, u64, Cursor),
    /// Nothing for now.
    Idle,
}

/// Follows the file at a path over all its generations.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    from: From,
    /// Where to go on, while that has not been looked for with success.
    resume: Option<Cursor>,
    current: Option<Open>,
    done: Arc<Vec<Done>>,
    /// Nothing has been read yet in any life.
    is_first: bool,
    /// What a person should know.
    pub notes: Vec<String>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    modified: i64,
    lines: Lines,
    /// Since when it is not at the path and has not grown.
    away: Option<Instant>,
}

enum Filled {
    More,
    End,
    /// What was read before is not there any more.
    Changed,
}

impl Follower {
    pub fn new(path: &Path, from: From, cursor: Option<Cursor>) -> Self {
        Self {
            path: path.to_owned(),
            from,
            current: None,
            done: cursor.as_ref().map(|c| c.done.clone()).unwrap_or_default(),
            is_first: cursor.is_none(),
            resume: cursor,
            notes: Vec::new(),
        }
    }

    /// The place behind the last line, if a file is open.
    pub fn cursor(&self) -> Option<Cursor> {
        self.current.as_ref().map(|open| open.cursor(&self.done))
    }

    /// The next line of any generation.
    ///
    /// **Errors**: a file cannot be read; try again.
    pub fn next(&mut self, now: Instant) -> io::Result<Step> {
        loop {
            let Some(open) = &mut self.current else {
                if !self.open_first()? {
                    return Ok(Step::Idle);
                }
                continue;
            };
            let begin = open.lines.place().offset;
            if let Some(line) = open.lines.next() {
                return Ok(Step::Line(line, begin, open.cursor(&self.done)));
            }
            match open.fill()? {
                Filled::More => {
                    open.away = open.away.map(|_| now);
                    continue;
                }
                Filled::Changed => {
                    self.cut_to_nothing()?;
                    continue;
                }
                Filled::End => {}
            }
            match fs::metadata(&self.path) {
                Ok(there) if open.is(&there) => {
                    open.away = None;
                    return Ok(Step::Idle);
                }
                // Renamed, and there is no new one yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::Idle),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if now < *open.away.get_or_insert(now) + GRACE && !open.rests() {
                return Ok(Step::Idle);
            }
            let begin = open.lines.place().offset;
            if let Some(line) = open.lines.last() {
                return Ok(Step::Line(line, begin, open.cursor(&self.done)));
            }
            self.go_on()?;
        }
    }

    /// Opens the file to begin with. False while there is none.
    pub(super) fn open_first(&mut self) -> io::Result<bool> {
        if let Some(cursor) = self.resume.clone() {
            if let Some(open) = self.find(&cursor) {
                self.current = Some(open);
            } else {
                if !self.path.exists() {
                    return Ok(false);
                }
                self.notes.push(format!(
                    "the file read last (inode {}) is no longer in the folder of {}: what was written \
                     to it after its byte {} is missed",
                    cursor.inode,
                    self.path.display(),
                    cursor.offset
                ));
                self.current = Some(self.following(cursor.modified, None)?);
            }
            self.resume = None;
            return Ok(true);
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What appears from now on is new.
                self.is_first = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let offset = match (self.is_first, self.from) {
            (true, From::End) => behind_last_line(&file)?,
            _ => 0,
        };
        self.is_first = false;
        self.current = Some(Open::new(file, offset)?);
        Ok(true)
    }

    /// The file of a cursor: by its inode, else (it was copied and cut) by what it holds.
    fn find(&self, cursor: &Cursor) -> Option<Open> {
        let place = Place {
            offset: cursor.offset,
            head: cursor.head,
            tail: cursor.tail,
        };
        let at_path = fs::metadata(&self.path)
            .ok()
            .map(|m| (m, self.path.clone()));
        let files: Vec<_> = at_path.into_iter().chain(self.files()).collect();
        let by_inode = files.iter().filter(|(m, _)| m.ino() == cursor.inode);
        let by_content = files
            .iter()
            .filter(|(m, path)| m.ino() != cursor.inode && place.offset > 0 && *path != self.path);
        by_inode.chain(by_content).find_map(|(_, path)| {
            // Of a file of which nothing was read it cannot be seen whether it was copied and cut
            // since: what has come since is looked for by its time.
            if place.offset == 0 && *path == self.path {
                return self.following(cursor.modified, None).ok();
            }
            Open::resumed(File::open(path).ok()?, place)
        })
    }

    /// The file read now has lost what was read of it. If that was copied before, the copy is finished
    /// first.
    fn cut_to_nothing(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.current else {
            return Ok(());
        };
        let place = open.lines.place();
        let (device, inode) = (open.device, open.inode);
        let path = self.path.display();
        if place.offset > 0 {
            let mut files = self.files().into_iter();
            let copy = files.find_map(|(m, path)| {
                let other = (m.dev(), m.ino()) != (device, inode) && path != self.path;
                other
                    .then(|| Open::resumed(File::open(path).ok()?, place))
                    .flatten()
            });
            if let Some(copy) = copy {
                self.current = Some(copy);
                return Ok(());
            }
            self.notes.push(format!(
                "{path} was cut, and its folder has no copy of it: what was written to it after byte \
                 {} and before the cut, if anything, is missed",
                place.offset
            ));
        }
        if let Some(open) = &mut self.current {
            open.lines = Lines::default();
        }
        Ok(())
    }

    /// The file read now is finished: on to the next one.
    fn go_on(&mut self) -> io::Result<()> {
        let Some(open) = &self.current else {
            return Ok(());
        };
        let finished = open.file.metadata()?;
        let place = open.lines.place();
        let next = self.following(modified(&finished), Some(&finished))?;
        if place.offset > 0 {
            let mut done = self.done.to_vec();
            if done.len() >= DONE_MAX {
                done.remove(0);
            }
            done.push(Done {
                device: finished.dev(),
                inode: finished.ino(),
                len: place.offset,
                head: place.head,
            });
            self.done = Arc::new(done);
        }
        self.current = Some(next);
        Ok(())
    }

    /// The oldest generation that was written to after `after` and was not read, else the file at the
    /// path.
    fn following(&self, after: i64, finished: Option<&Metadata>) -> io::Result<Open> {
        let base = self
            .path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let at_path = fs::metadata(&self.path)?;
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let mut files: Vec<(i64, PathBuf)> = self
            .files()
            .into_iter()
            .filter(|(m, path)| {
                let name = path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .unwrap_or_default();
                is_generation_of(name, base)
                    && modified(m) > after
                    && !same(m, &at_path)
                    && !finished.is_some_and(|f| same(m, f))
            })
            .map(|(m, path)| (modified(&m), path))
            .collect();
        files.sort();
        for (_, path) in files {
            if let Ok(file) = File::open(&path)
                && !self.is_done(&file)
            {
                return Open::new(file, 0);
            }
        }
        Open::new(File::open(&self.path)?, 0)
    }

    fn is_done(&self, file: &File) -> bool {
        let Ok(m) = file.metadata() else {
            return false;
        };
        self.done.iter().any(|done| {
            let n = Lines::known_ranges(done.len);
            (done.device, done.inode) == (m.dev(), m.ino())
                && m.len() >= done.len
                && bytes_at(file, 0, n).is_ok_and(|head| fnv1a(&head) == done.head)
        })
    }

    /// The ordinary files of the folder.
    fn files(&self) -> Vec<(Metadata, PathBuf)> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let entries = fs::read_dir(folder).into_iter().flatten().take(FILES_MAX);
        let files: BTreeSet<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files
            .into_iter()
            .filter_map(|path| Some((fs::symlink_metadata(&path).ok()?, path)))
            .filter(|(m, _)| m.is_file())
            .collect()
    }
}

impl Open {
    fn new(file: File, offset: u64) -> io::Result<Self> {
        let n = Lines::known_ranges(offset);
        let head = bytes_at(&file, 0, n)?;
        let before = bytes_at(&file, offset - n as u64, n)?;
        Self::with(file, Lines::at(offset, head, before))
    }

    /// The same place in this file, if it holds the same up to there.
    fn resumed(file: File, place: Place) -> Option<Self> {
        if file.metadata().ok()?.len() < place.offset {
            return None;
        }
        let n = Lines::known_ranges(place.offset);
        let head = bytes_at(&file, 0, n).ok()?;
        let before = bytes_at(&file, place.offset - n as u64, n).ok()?;
        let lines = Lines::at(place.offset, head, before);
        (lines.place() == place)
            .then(|| Self::with(file, lines).ok())
            .flatten()
    }

    fn with(file: File, lines: Lines) -> io::Result<Self> {
        let m = file.metadata()?;
        if !m.is_file() {
            return Err(io::Error::other("not an ordinary file"));
        }
        Ok(Self {
            device: m.dev(),
            inode: m.ino(),
            modified: modified(&m),
            file,
            lines,
            away: None,
        })
    }

    fn is(&self, m: &Metadata) -> bool {
        (self.device, self.inode) == (m.dev(), m.ino())
    }

    /// Whether it was neither written to nor renamed for some time, as far as the wall clock can be
    /// trusted: if not, the wait begins when it is found to be away.
    fn rests(&self) -> bool {
        let Ok(m) = self.file.metadata() else {
            return false;
        };
        let changed = u64::try_from(m.ctime()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // The present second may have begun just after the change's.
        now.is_ok_and(|now| now.as_secs() > changed.saturating_add(GRACE.as_secs()))
    }

    fn cursor(&self, done: &Arc<Vec<Done>>) -> Cursor {
        let place = self.lines.place();
        Cursor {
            inode: self.inode,
            offset: place.offset,
            head: place.head,
            tail: place.tail,
            modified: self.modified,
            done: done.clone(),
        }
    }

    /// Reads on, together with the bytes before: if these are others than they were, the file was cut,
    /// even if it has grown beyond this place again.
    fn fill(&mut self) -> io::Result<Filled> {
        let known = self.lines.known();
        let at = self.lines.end().saturating_sub(known.len() as u64);
        let bytes = bytes_at(&self.file, at, known.len() + CHUNK)?;
        let Some(more) = bytes.strip_prefix(known.as_slice()) else {
            return Ok(Filled::Changed);
        };
        if more.is_empty() {
            return Ok(Filled::End);
        }
        self.modified = modified(&self.file.metadata()?);
        self.lines.add(more);
        Ok(Filled::More)
    }
}

fn modified(m: &Metadata) -> i64 {
    m.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(m.mtime_nsec())
}

/// At most `n` bytes from `offset` on; fewer only where the file ends.
fn bytes_at(file: &File, offset: u64, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// Where the last line begins that has no end yet.
fn behind_last_line(file: &File) -> io::Result<u64> {
    let end = file.metadata()?.len();
    let mut at = end;
    while at > 0 && end - at < LINE_BYTES_MAX as u64 {
        let n = Lines::known_ranges(at).min(KNOWN_BYTES);
        let bytes = bytes_at(file, at - n as u64, n)?;
        if let Some(last) = bytes.iter().rposition(|b| *b == b'\n') {
            return Ok(at - n as u64 + last as u64 + 1);
        }
        at -= n as u64;
    }
    Ok(if at == 0 { 0 } else { end })
}
