//! Which file is read: the one at the path, one that was renamed and is not finished, or the copy of
//! one that was cut to nothing.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::From;
use super::lines::{Lines, Place};
use super::open::{Filled, GRACE, Open, behind_last_line, bytes_at, modified};
use super::rotated::is_generation_of;
use crate::sources::hash::fnv1a;

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
        self.current.as_ref().map(|open| cursor(open, &self.done))
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
                return Ok(Step::Line(line, begin, cursor(open, &self.done)));
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
                return Ok(Step::Line(line, begin, cursor(open, &self.done)));
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
        // Opened before the folder is listed: whatever is rotated in between is seen.
        let file_at_path = File::open(&self.path)?;
        let at_path = file_at_path.metadata()?;
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
        Open::new(file_at_path, 0)
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

fn cursor(open: &Open, done: &Arc<Vec<Done>>) -> Cursor {
    let place = open.lines.place();
    Cursor {
        inode: open.inode,
        offset: place.offset,
        head: place.head,
        tail: place.tail,
        modified: open.modified,
        done: done.clone(),
    }
}
