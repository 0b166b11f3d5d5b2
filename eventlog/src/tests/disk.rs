//! A disk in memory: it can be full, fail, and lose power.
//!
//! Like a real one it keeps written bytes in a cache until they are synced. When power fails, each sector
//! that was written since the last sync has reached the disk or not, as a seeded generator decides; changed
//! file lengths and names likewise. After that nothing works until the disk is mounted again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::store::{DirLock, Storage, lock};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    next_file: u64,
    /// Pages that files may use together.
    pages_max: Option<usize>,
    /// Syncs until power fails, in the middle of the sync that finds 0.
    syncs_left: Option<usize>,
    /// Files whose syncs fail with this kind of error.
    sync_error: Option<(u64, ErrorKind)>,
    seed: u64,
    dead: bool,
    /// Counts mounts: a handle of an earlier one is dead.
    mount: u64,
    open: BTreeSet<u64>,
    locked: bool,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    durable: Vec<u8>,
    cached: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Sector(usize, Vec<u8>),
}

fn named(names: &BTreeMap<PathBuf, u64>, name: &str) -> Option<u64> {
    names
        .iter()
        .find(|(path, _)| path.ends_with(name))
        .map(|(_, id)| *id)
}

impl Disk {
    /// Limits the pages (of 4 KiB) that hold other than zeros. `None`: no limit.
    pub(super) fn set_pages_max(&self, pages: Option<usize>) {
        lock(&self.0).pages_max = pages;
    }

    pub(super) fn pages_used(&self) -> usize {
        lock(&self.0)
            .files
            .values()
            .map(|file| pages(&file.cached))
            .sum()
    }

    /// Cuts power in the middle of the sync after `syncs` more; `seed` decides what survives.
    pub(super) fn cut_power_after(&self, syncs: usize, seed: u64) {
        let mut state = lock(&self.0);
        state.syncs_left = Some(syncs);
        state.seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }

    /// Lets the syncs of the file of this name fail until told otherwise.
    pub(super) fn fail_syncs(&self, failing: Option<(&str, ErrorKind)>) {
        let mut state = lock(&self.0);
        state.sync_error = failing.map(|(name, kind)| (named(&state.names, name).unwrap(), kind));
    }

    pub(super) fn is_dead(&self) -> bool {
        lock(&self.0).dead
    }

    /// Power comes back: the cache holds what the disk holds.
    pub(super) fn mount(&self) {
        let mut state = lock(&self.0);
        state.dead = false;
        state.syncs_left = None;
        state.mount += 1;
        state.open.clear();
        state.locked = false;
        state.names = state.durable_names.clone();
        for file in state.files.values_mut() {
            file.unsynced.clear();
            file.cached.clone_from(&file.durable);
        }
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = lock(&self.0);
        state.files[&named(&state.names, name).unwrap()]
            .cached
            .clone()
    }

    /// Replaces the bytes of a file, as a broken disk or a careless hand would.
    pub(super) fn set_bytes(&self, name: &str, bytes: &[u8]) {
        let mut state = lock(&self.0);
        let file = FileState {
            durable: bytes.to_vec(),
            cached: bytes.to_vec(),
            unsynced: Vec::new(),
        };
        let id = match named(&state.names, name) {
            Some(id) => id,
            None => state.create(&Path::new("data").join(name)),
        };
        state.files.insert(id, file);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = lock(&self.0);
        state.names.retain(|path, _| !path.ends_with(name));
        state.durable_names.retain(|path, _| !path.ends_with(name));
    }

    /// Another disk with the same bytes.
    pub(super) fn copy(&self) -> Disk {
        let state = lock(&self.0);
        Disk(Arc::new(Mutex::new(State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            next_file: state.next_file,
            ..State::default()
        })))
    }

    fn handle(&self, state: &mut State, id: u64) -> std::result::Result<File, DatabaseError> {
        if !state.open.insert(id) {
            return Err(DatabaseError::DatabaseAlreadyOpen);
        }
        Ok(File {
            disk: self.clone(),
            id,
            mount: state.mount,
        })
    }
}

impl State {
    fn create(&mut self, path: &Path) -> u64 {
        self.next_file += 1;
        self.names.insert(path.to_path_buf(), self.next_file);
        self.files.insert(self.next_file, FileState::default());
        self.next_file
    }

    fn alive(&self) -> Result<()> {
        if self.dead {
            Err(Error::other("power is off"))
        } else {
            Ok(())
        }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// Counts a sync; at the last one power fails. `Ok`: the sync may go on.
    fn sync(&mut self) -> Result<()> {
        match &mut self.syncs_left {
            Some(0) => {
                self.lose_power();
                self.alive()
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn lose_power(&mut self) {
        self.dead = true;
        if self.random().is_multiple_of(2) {
            self.durable_names = self.names.clone();
        }
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut() {
            // Some cuts lose everything unsynced, some keep everything, most keep a part.
            let kept_of_8 = self.random() % 9;
            for change in std::mem::take(&mut file.unsynced) {
                if self.random() % 8 < kept_of_8 {
                    apply(&mut file.durable, &change);
                }
            }
        }
        self.files = files;
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Sector(at, content) => {
            // A sector beyond a length that was lost is lost with it.
            if let Some(place) = bytes.get_mut(*at..*at + content.len()) {
                place.copy_from_slice(content);
            }
        }
    }
}

fn pages(bytes: &[u8]) -> usize {
    bytes
        .chunks(PAGE)
        .filter(|page| page.iter().any(|byte| *byte != 0))
        .count()
}

#[derive(Debug)]
struct Lock(Disk, u64);

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        if state.mount == self.1 {
            state.locked = false;
        }
    }
}

impl Storage for Disk {
    fn create_dir(&self, _dir: &Path) -> Result<()> {
        lock(&self.0).alive()
    }

    fn lock_dir(&self, _lock: &Path) -> Result<Option<DirLock>> {
        let mut state = lock(&self.0);
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(self.clone(), state.mount))))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(lock(&self.0).names.contains_key(path))
    }

    fn create(
        &self,
        path: &Path,
        builder: &Builder,
    ) -> std::result::Result<Database, DatabaseError> {
        let file = {
            let mut state = lock(&self.0);
            state.alive()?;
            let id = state.create(path);
            self.handle(&mut state, id)?
        };
        builder.create_with_backend(file)
    }

    fn open(&self, path: &Path, builder: &Builder) -> std::result::Result<Database, DatabaseError> {
        let file = {
            let mut state = lock(&self.0);
            state.alive()?;
            let id = *state
                .names
                .get(path)
                .ok_or(Error::from(ErrorKind::NotFound))?;
            // As redb's own opening of a file refuses an empty one.
            if state.files[&id].cached.is_empty() {
                return Err(Error::from(ErrorKind::InvalidData).into());
            }
            self.handle(&mut state, id)?
        };
        builder.create_with_backend(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = lock(&self.0);
        state.alive()?;
        let id = state
            .names
            .remove(from)
            .ok_or(Error::from(ErrorKind::NotFound))?;
        state.names.insert(to.to_path_buf(), id);
        state.sync()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn file_bytes(&self, path: &Path) -> Result<u64> {
        let state = lock(&self.0);
        let id = state
            .names
            .get(path)
            .ok_or(Error::from(ErrorKind::NotFound))?;
        Ok(state.files[id].cached.len() as u64)
    }
}

#[derive(Debug)]
struct File {
    disk: Disk,
    id: u64,
    mount: u64,
}

impl File {
    fn with<T>(&self, f: impl FnOnce(&mut FileState) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.disk.0);
        state.alive()?;
        if state.mount != self.mount {
            return Err(Error::other("the disk was mounted again"));
        }
        f(state
            .files
            .get_mut(&self.id)
            .ok_or(Error::from(ErrorKind::NotFound))?)
    }
}

impl StorageBackend for File {
    fn len(&self) -> Result<u64> {
        self.with(|file| Ok(file.cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.with(|file| {
            let at = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
            let end = at.checked_add(out.len()).ok_or(ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(file.cached.get(at..end).ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.with(|file| {
            // A damaged header may ask for any length; no disk is that large.
            if length > 1 << 30 {
                return Err(ErrorKind::FileTooLarge.into());
            }
            let change = Change::Length(length as usize);
            apply(&mut file.cached, &change);
            file.unsynced.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<()> {
        self.with(|_| Ok(()))?;
        let mut state = lock(&self.disk.0);
        if let Some((id, kind)) = state.sync_error
            && id == self.id
        {
            return Err(kind.into());
        }
        state.sync()?;
        if let Some(file) = state.files.get_mut(&self.id) {
            for change in std::mem::take(&mut file.unsynced) {
                apply(&mut file.durable, &change);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let room = {
            let state = lock(&self.disk.0);
            let used = || {
                state
                    .files
                    .values()
                    .map(|file| pages(&file.cached))
                    .sum::<usize>()
            };
            state
                .pages_max
                .map(|pages_max| pages_max.saturating_sub(used()))
        };
        self.with(|file| {
            let at = offset as usize;
            if at + data.len() > file.cached.len() {
                return Err(ErrorKind::InvalidInput.into());
            }
            if let Some(room) = room {
                // Real file systems give space by the page, and take none for a page that has some.
                let taken = data.chunks(PAGE).enumerate().filter(|(index, page)| {
                    let start = (at / PAGE + index) * PAGE;
                    let there = &file.cached[start..(start + PAGE).min(file.cached.len())];
                    there.iter().all(|byte| *byte == 0) && page.iter().any(|byte| *byte != 0)
                });
                if taken.count() > room {
                    return Err(ErrorKind::StorageFull.into());
                }
            }
            let mut start = at;
            for sector in data.chunks(SECTOR) {
                let change = Change::Sector(start, sector.to_vec());
                apply(&mut file.cached, &change);
                file.unsynced.push(change);
                start += sector.len();
            }
            Ok(())
        })
    }

    fn close(&self) -> Result<()> {
        let mut state = lock(&self.disk.0);
        if state.mount == self.mount {
            state.open.remove(&self.id);
        }
        Ok(())
    }
}
