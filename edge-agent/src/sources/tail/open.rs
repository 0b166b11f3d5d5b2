//! One generation of a log, open at a place.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::lines::{KNOWN_BYTES, LINE_BYTES_MAX, Lines, Place};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// A file that is not at the path any more is finished when it has not grown for this time: whoever
/// writes may keep it open for a while after it was renamed.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// A file that is being read.
#[derive(Debug)]
pub(super) struct Open {
    pub file: File,
    pub device: u64,
    pub inode: u64,
    pub modified: i64,
    pub lines: Lines,
    /// Since when it is not at the path and has not grown.
    pub away: Option<Instant>,
}

/// What a look has brought.
pub(super) enum Filled {
    More,
    End,
    /// What was read before is not there any more.
    Changed,
}

impl Open {
    pub fn new(file: File, offset: u64) -> io::Result<Self> {
        let n = Lines::known_ranges(offset);
        let head = bytes_at(&file, 0, n)?;
        let before = bytes_at(&file, offset - n as u64, n)?;
        Self::with(file, Lines::at(offset, head, before))
    }

    /// The same place in this file, if it holds the same up to there.
    pub fn resumed(file: File, place: Place) -> Option<Self> {
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

    pub fn is(&self, m: &Metadata) -> bool {
        (self.device, self.inode) == (m.dev(), m.ino())
    }

    /// Whether it was neither written to nor renamed for some time, as far as the wall clock can be
    /// trusted: if not, the wait begins when it is found to be away.
    pub fn rests(&self) -> bool {
        let Ok(m) = self.file.metadata() else {
            return false;
        };
        let changed = u64::try_from(m.ctime()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // The present second may have begun just after the change's.
        now.is_ok_and(|now| now.as_secs() > changed.saturating_add(GRACE.as_secs()))
    }

    /// Reads on, together with the bytes before: if these are others than they were, the file was cut,
    /// even if it has grown beyond this place again.
    pub fn fill(&mut self) -> io::Result<Filled> {
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

/// Nanoseconds of Unix time.
pub(super) fn modified(m: &Metadata) -> i64 {
    m.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(m.mtime_nsec())
}

/// At most `n` bytes from `offset` on; fewer only where the file ends.
pub(super) fn bytes_at(file: &File, offset: u64, n: usize) -> io::Result<Vec<u8>> {
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
pub(super) fn behind_last_line(file: &File) -> io::Result<u64> {
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
