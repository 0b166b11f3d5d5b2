//! The disk's free space: the agent does not fill the disk of the machine that it runs on.
//!
//! While less than the minimum is free, the buffer does not grow beyond what it holds at that moment;
//! what comes in has to find room there by the overflow policy. The file keeps its largest size, so
//! what is freed inside it serves again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// Tells how many bytes are available on the file system.
pub(crate) type Look = Box<dyn FnMut() -> io::Result<u64> + Send>;

/// Watches the free space.
pub(crate) struct Room {
    /// Bytes that are to stay free; 0 = nothing is watched.
    min: u64,
    look: Look,
    dir: PathBuf,
    /// Time between two looks.
    every: Duration,
    next: Duration,
    limit: Option<u64>,
    failed: bool,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Found {
    /// Bytes available; none if that is not known.
    pub free: Option<u64>,
    /// Bytes that the buffer may hold, because too little is free.
    pub limit: Option<u64>,
}

impl Room {
    /// Watches the file system of `dir`.
    pub fn of(dir: &Path, min: u64) -> Self {
        let path = dir.to_owned();
        let look = move || {
            let stat = rustix::fs::statvfs(&path)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        };
        Self::new(dir, min, EVERY, Box::new(look))
    }

    /// The same with another way to look, `every` so often.
    pub fn new(dir: &Path, min: u64, every: Duration, look: Look) -> Self {
        Self {
            min,
            look,
            dir: dir.to_owned(),
            every,
            next: Duration::ZERO,
            limit: None,
            failed: false,
        }
    }

    /// Looks, if it is time to. `held` is what the buffer holds, bytes. A shortage ends when an eighth
    /// more than the minimum is free, so that it does not come and go.
    pub fn check(&mut self, now: Duration, held: u64) -> Option<Found> {
        if self.min == 0 || now < self.next {
            return None;
        }
        self.next = now + self.every;
        let dir = self.dir.display();
        let free = match (self.look)() {
            Ok(free) => free,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(
                        %error,
                        "cannot tell how much is free on the disk of {dir}: buffer.disk_free_min is not \
                         kept"
                    );
                }
                // What was found before is as good a guess as any.
                let limit = self.limit;
                return Some(Found { free: None, limit });
            }
        };
        self.failed = false;
        let min = self.min;
        if self.limit.is_none() && free < min {
            self.limit = Some(held);
            tracing::warn!(
                "only {free} bytes are free on the disk of {dir}, less than buffer.disk_free_min ({min}): \
                 the buffer does not grow any further and makes room for new events inside it. Free space \
                 there, or lower buffer.disk_free_min"
            );
        } else if self.limit.is_some() && free >= min.saturating_add(min / 8) {
            self.limit = None;
            tracing::info!("{free} bytes are free on the disk of {dir} again: the buffer may grow");
        }
        Some(Found {
            free: Some(free),
            limit: self.limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const BROKEN: u64 = u64::MAX;

    #[test]
    fn a_shortage_freezes_the_limit_until_there_is_clearly_more() {
        let free = Arc::new(AtomicU64::new(0));
        let looked = free.clone();
        let look = move || match looked.load(Ordering::Relaxed) {
            BROKEN => Err(io::ErrorKind::PermissionDenied.into()),
            n => Ok(n),
        };
        let mut room = Room::new(Path::new("d"), 800, EVERY, Box::new(look));
        let mut second = 0;
        let mut check = |is_free: u64, held| {
            free.store(is_free, Ordering::Relaxed);
            second += 5;
            let now = Duration::from_secs(second);
            let found = room.check(now, held).unwrap();
            assert_eq!(room.check(now + Duration::from_secs(4), held), None);
            (found.free, found.limit)
        };
        assert_eq!(check(800, 10), (Some(800), None));
        assert_eq!(check(799, 20), (Some(799), Some(20)));
        // What is held then does not matter.
        assert_eq!(check(899, 5), (Some(899), Some(20)));
        assert_eq!(check(BROKEN, 30), (None, Some(20)));
        assert_eq!(check(900, 5), (Some(900), None));
        assert_eq!(check(BROKEN, 30), (None, None));
        assert_eq!(check(0, 7), (Some(0), Some(7)));
    }

    #[test]
    fn the_system_knows_what_is_free_and_zero_watches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = Room::of(dir.path(), 1).check(Duration::ZERO, 0).unwrap();
        assert!(found.free.unwrap() > 0 && found.limit.is_none());
        let found = Room::of(dir.path(), u64::MAX).check(Duration::ZERO, 9);
        assert_eq!(found.unwrap().limit, Some(9));
        assert_eq!(Room::of(dir.path(), 0).check(Duration::ZERO, 9), None);
    }
}
