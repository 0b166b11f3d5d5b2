//! A disk in memory, with a cache that power does not outlive.
//!
//! What is written is seen at once; it is certain only after a sync. A power cut keeps each sector that
//! was written since the last sync, loses it, or keeps only its beginning. The death of the process alone
//! loses nothing that was written. A full disk takes no new pages; pages once written can be written again.
//!
//! Pages are shared between images, so that an image costs little.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::rng::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;

/// What lies on a disk; cheap to copy. A page never written holds zeros.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pages: Vec<Option<Page>>,
    len: u64,
}

impl Image {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut done) = (offset as usize, 0);
        while done < out.len() {
            let (page, from) = (at / PAGE, at % PAGE);
            let n = (PAGE - from).min(out.len() - done);
            let out = &mut out[done..done + n];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(page) => out.copy_from_slice(&page[from..from + n]),
                None => out.fill(0),
            }
            (at, done) = (at + n, done + n);
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        let pages = (len as usize).div_ceil(PAGE);
        self.pages.resize(pages, None);
        if len < self.len
            && !(len as usize).is_multiple_of(PAGE)
            && let Some(Some(last)) = self.pages.last_mut()
        {
            Arc::make_mut(last)[len as usize % PAGE..].fill(0);
        }
        self.len = len;
    }

    /// Flips a bit `offset` bytes behind each place where `pattern` stands, so that whatever carries the
    /// pattern is damaged. Returns how many places.
    pub fn damage(&mut self, pattern: &[u8], offset: usize) -> usize {
        let mut places = 0;
        for page in self.pages.iter_mut().flatten() {
            let found: Vec<usize> = page
                .windows(pattern.len())
                .enumerate()
                .filter(|(at, w)| *w == pattern && at + offset < PAGE)
                .map(|(at, _)| at + offset)
                .collect();
            for at in found {
                Arc::make_mut(page)[at] ^= 0x10;
                places += 1;
            }
        }
        places
    }
}

/// What happens when the operations that were allowed are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// Nothing: there is no limit.
    None,
    /// The machine or the process stops: every further operation fails.
    Blown {
        /// Writes and syncs until then.
        left: u32,
    },
}

#[derive(Debug)]
struct Inner {
    /// What a reader sees.
    seen: Image,
    /// What is certain where it differs: pages written since the last sync, as they were before.
    before: BTreeMap<usize, Option<Page>>,
    /// Length at the last sync.
    len_before: u64,
    fuse: Fuse,
    /// Takes no new pages.
    full: bool,
    /// New pages taken all the same: the reserve that was given up.
    reserve: u32,
}

/// The disk of one machine. Copies are handles to the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    /// A disk that holds `image`, all of it certain.
    pub fn new(image: Image) -> Self {
        let len_before = image.len;
        Self(Arc::new(Mutex::new(Inner {
            seen: image,
            before: BTreeMap::new(),
            len_before,
            fuse: Fuse::None,
            full: false,
            reserve: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a reader sees: what is there after the process alone has died.
    pub fn seen(&self) -> Image {
        self.lock().seen.clone()
    }

    /// What is certain: what an image of the disk that somebody takes now holds.
    pub fn certain(&self) -> Image {
        self.lock().image(|_, _, old| old.clone())
    }

    /// What is there after the power went: each sector written since the last sync has arrived or not, and
    /// some only in part.
    pub fn after_power_cut(&self, rng: &mut Rng) -> Image {
        self.lock().image(|new, page, old| {
            let mut out = old.as_ref().map_or([0; PAGE], |p| **p);
            let new = new.pages.get(page).and_then(Option::as_ref);
            for (sector, out) in out.chunks_mut(SECTOR).enumerate() {
                let n = match rng.below(20) {
                    0 => rng.below(SECTOR as u64) as usize,
                    1..=10 => SECTOR,
                    _ => 0,
                };
                match new {
                    Some(new) => out[..n].copy_from_slice(&new[sector * SECTOR..][..n]),
                    None => out[..n].fill(0),
                }
            }
            Some(Arc::new(out))
        })
    }

    /// From now on at most so many writes and syncs.
    pub fn set_fuse(&self, fuse: Fuse) {
        self.lock().fuse = fuse;
    }

    /// Whether the fuse has blown.
    pub fn is_dead(&self) -> bool {
        self.lock().fuse == Fuse::Blown { left: 0 }
    }

    /// Whether the disk takes no new pages.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        self.lock().full
    }

    /// New pages that a full disk still takes.
    pub fn set_reserve(&self, pages: u32) {
        self.lock().reserve = pages;
    }
}

impl Inner {
    /// The image in which `page` decides what became of each page that is not certain.
    fn image(&self, mut page: impl FnMut(&Image, usize, &Option<Page>) -> Option<Page>) -> Image {
        let mut image = self.seen.clone();
        image.set_len(self.len_before);
        for (&at, old) in &self.before {
            if at < image.pages.len() {
                image.pages[at] = page(&self.seen, at, old);
            }
        }
        image
    }

    fn step(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Fuse::None => Ok(()),
            Fuse::Blown { left: 0 } => Err(io::Error::other("the machine has stopped")),
            Fuse::Blown { left } => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step()?;
        if offset + data.len() as u64 > self.seen.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut done) = (offset as usize, 0);
        while done < data.len() {
            let (page, from) = (at / PAGE, at % PAGE);
            let n = (PAGE - from).min(data.len() - done);
            let slot = &mut self.seen.pages[page];
            if slot.is_none() && self.full {
                if self.reserve == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.reserve -= 1;
            }
            self.before.entry(page).or_insert_with(|| slot.clone());
            let bytes = slot.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(bytes)[from..from + n].copy_from_slice(&data[done..done + n]);
            (at, done) = (at + n, done + n);
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().seen.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.lock().seen.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        // What is cut off must come back if the cut is not certain.
        let kept = (len as usize).div_ceil(PAGE);
        for at in kept..inner.seen.pages.len() {
            let old = inner.seen.pages[at].clone();
            inner.before.entry(at).or_insert(old);
        }
        inner.seen.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.before.clear();
        inner.len_before = inner.seen.len;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.lock().write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(image: &Image, offset: u64, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        image.read(offset, &mut out).unwrap();
        out
    }

    #[test]
    fn only_a_sync_makes_certain() {
        let disk = Disk::new(Image::default());
        disk.set_len(10_000).unwrap();
        disk.sync_data().unwrap();
        disk.write(4090, &[7; 20]).unwrap();
        assert_eq!(bytes(&disk.seen(), 4089, 22)[1..21], [7; 20]);
        assert_eq!(bytes(&disk.certain(), 4089, 22), [0; 22]);
        disk.sync_data().unwrap();
        assert_eq!(bytes(&disk.certain(), 4090, 20), [7; 20]);
        disk.write(0, &[9; 4096]).unwrap();
        let mut rng = Rng::new(1, 1);
        let kept: Vec<usize> = (0..50)
            .map(|_| bytes(&disk.after_power_cut(&mut rng), 0, 4096))
            .map(|b| b.iter().filter(|b| **b == 9).count())
            .collect();
        assert!(kept.iter().any(|n| n % SECTOR != 0), "torn: {kept:?}");
        assert!(kept.iter().any(|n| *n != kept[0]));
    }

    #[test]
    fn a_full_disk_takes_what_it_has_room_for() {
        let disk = Disk::new(Image::default());
        disk.set_len(20_000).unwrap();
        disk.write(0, b"x").unwrap();
        disk.set_full(true);
        disk.write(5, b"y").unwrap();
        let error = disk.write(5000, b"z").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.set_reserve(1);
        disk.write(5000, b"z").unwrap();
        assert!(disk.write(9000, b"z").is_err());
    }

    #[test]
    fn a_blown_fuse_fails_everything() {
        let disk = Disk::new(Image::default());
        disk.set_len(5000).unwrap();
        disk.set_fuse(Fuse::Blown { left: 1 });
        disk.write(0, b"x").unwrap();
        assert!(disk.sync_data().is_err() && disk.is_dead());
        assert_eq!(bytes(&disk.seen(), 0, 1), b"x");
    }
}
