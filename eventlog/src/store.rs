//! One redb database: opening through a replaceable storage, transactions that never panic, and reopening
//! after a failure.
//!
//! redb refuses everything after a failed write or fsync until the database is closed and opened again,
//! and it may panic on pages that were damaged outside it. Both end here: a failed write drops the
//! database and opens it anew, a panic becomes [`Error::Corrupt`].

use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase,
    WriteTransaction,
};

use crate::Error;

/// Where databases are kept: files, or what a test puts in their place.
pub(crate) trait Storage: Debug + Send + Sync {
    /// Makes the folder and makes its existence durable.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks the folder against other processes for as long as the result lives. `None`: it is locked.
    fn lock_dir(&self, lock: &Path) -> io::Result<Option<DirLock>>;

    /// Whether there is a file at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Creates an empty database at `path`, in place of whatever is there.
    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Opens the database at `path`.
    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Gives a file its name and makes that durable.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Bytes of the file at `path`.
    fn file_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// A held lock; dropping it releases it.
pub(crate) type DirLock = Box<dyn Debug + Send + Sync>;

/// The real storage: files of the operating system.
#[derive(Debug)]
pub(crate) struct Files;

impl Storage for Files {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        match dir.canonicalize()?.parent() {
            // A parent that cannot be read cannot be synced either; the folder itself is there.
            Some(parent) => sync_dir(parent).or_else(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Ok(()),
                _ => Err(error),
            }),
            None => Ok(()),
        }
    }

    fn lock_dir(&self, lock: &Path) -> io::Result<Option<DirLock>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks; redb's own lock has the same limit.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Box::new(file)))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => builder.create(path),
        }
    }

    fn open(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        to.parent().map_or(Ok(()), sync_dir)
    }

    fn file_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }
}

/// Makes the entries of a folder durable: a file whose name is lost is lost.
fn sync_dir(dir: &Path) -> io::Result<()> {
    // Windows has no such call; its file systems journal the entries.
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// Why a transaction did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The storage is fine; what was asked for, or what was found, is not.
    Refused(Error),
    /// redb or the disk below it failed.
    Redb(redb::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Refused(error)
    }
}

macro_rules! fault_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Fault::Redb(error.into())
            }
        }
    )*};
}
fault_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    DatabaseError,
    redb::SetDurabilityError
);

/// An open database that survives its own failures.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    cache_bytes: usize,
    storage: Arc<dyn Storage>,
    /// `None` after a failure, until it could be opened again.
    database: RwLock<Option<Handle>>,
    /// Held for a whole write, and while reopening: so that reopening never meets a live write.
    writer: Mutex<()>,
}

struct Handle(Database);

impl Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

impl Store {
    /// Opens the database at `path`.
    pub(crate) fn open(
        path: PathBuf,
        cache_bytes: usize,
        storage: Arc<dyn Storage>,
    ) -> Result<Store, Error> {
        let store = Store {
            path,
            cache_bytes,
            storage,
            database: RwLock::new(None),
            writer: Mutex::new(()),
        };
        store.reopen(&lock(&store.writer))?;
        Ok(store)
    }

    /// Creates the database at `path` with the tables and rows that `found` writes. It gets its name when it is
    /// complete and durable: redb does not open a file whose creation was cut off, so none may be left behind.
    pub(crate) fn create(
        path: &Path,
        storage: &Arc<dyn Storage>,
        found: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        let new = path.with_extension("new");
        let store = Store {
            path: new.clone(),
            cache_bytes: 1 << 20,
            storage: storage.clone(),
            database: RwLock::new(None),
            writer: Mutex::new(()),
        };
        let created =
            store.guarded(|| Ok(storage.create(&new, Builder::new().set_cache_size(1 << 20))?));
        let created = created.map_err(|fault| store.error("create", fault))?;
        *store
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Handle(created));
        store.write(found)?;
        store.close()?;
        storage
            .rename(&new, path)
            .map_err(|error| Error::of_io(path, "create", error))
    }

    fn close(self) -> Result<(), Error> {
        let database = self
            .database
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match database.map(|Handle(database)| database.close()) {
            Some(Err(error)) => Err(Error::of_redb(&self.path, "close", error.into())),
            _ => Ok(()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        self.storage
            .file_bytes(&self.path)
            .map_err(|error| Error::of_io(&self.path, "measure", error))
    }

    /// Runs `f` on a snapshot. `f` may run twice: a read that met a database being reopened starts over.
    pub(crate) fn read<T>(
        &self,
        mut f: impl FnMut(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let mut again = true;
        loop {
            let result = self.guarded(|| {
                let txn = {
                    let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
                    let Some(Handle(database)) = &*database else {
                        return Err(Fault::Redb(redb::Error::DatabaseClosed));
                    };
                    database.begin_read()?
                };
                f(&txn)
            });
            match result {
                Ok(value) => return Ok(value),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Redb(redb::Error::DatabaseClosed | redb::Error::PreviousIo))
                    if again =>
                {
                    again = false;
                    self.reopen_unless_sound()?;
                }
                Err(Fault::Redb(error)) => return Err(Error::of_redb(&self.path, "read", error)),
            }
        }
    }

    /// Runs `f` and commits. When this returns `Ok`, the changes are durable. When `f` refuses, nothing has
    /// changed. On any other error the changes may be there or not, whole or not at all, and the database has
    /// been dropped and, if that was possible, opened again.
    pub(crate) fn write<T>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let writer = lock(&self.writer);
        let txn = match self.begin_write() {
            Ok(txn) => txn,
            Err(_) => {
                // A read that failed has stopped the database, or it could not be reopened before.
                self.reopen(&writer)?;
                self.begin_write()
                    .map_err(|fault| self.error("write", fault))?
            }
        };
        let result = self.guarded(move || {
            let value = f(&txn)?;
            txn.commit()?;
            Ok(value)
        });
        match result {
            Ok(value) => Ok(value),
            Err(Fault::Refused(error)) => Err(error),
            Err(fault @ Fault::Redb(_)) => {
                let error = self.error("write", fault);
                // Its own error comes again with the next call, if it lasts.
                if let Err(error) = self.reopen(&writer) {
                    tracing::debug!(file = %self.path.display(), %error, "reopening after a failed write did not succeed yet");
                }
                Err(error)
            }
        }
    }

    fn begin_write(&self) -> Result<WriteTransaction, Fault> {
        self.guarded(|| {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let Some(Handle(database)) = &*database else {
                return Err(Fault::Redb(redb::Error::DatabaseClosed));
            };
            let mut txn = database.begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            txn.set_quick_repair(true);
            Ok(txn)
        })
    }

    fn reopen_unless_sound(&self) -> Result<(), Error> {
        let writer = lock(&self.writer);
        // Dropping the transaction aborts it: this only asks whether the database still works.
        match self.begin_write() {
            Ok(_) => Ok(()),
            Err(_) => self.reopen(&writer),
        }
    }

    fn reopen(&self, _writer: &MutexGuard<'_, ()>) -> Result<(), Error> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Handle(old)) = database.take() {
            // Its failure is known already; what matters is that its file lock is gone.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(old)));
        }
        let opened = self.guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(self.cache_bytes);
            Ok(self.storage.open(&self.path, &builder)?)
        });
        *database = Some(Handle(opened.map_err(|fault| self.error("open", fault))?));
        Ok(())
    }

    fn error(&self, doing: &'static str, fault: Fault) -> Error {
        match fault {
            Fault::Refused(error) => error,
            Fault::Redb(error) => Error::of_redb(&self.path, doing, error),
        }
    }

    /// Runs `f`; a panic in redb (it trusts its pages) becomes an error.
    fn guarded<T>(&self, f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown cause");
            Err(Fault::Redb(redb::Error::Corrupted(format!(
                "the database stopped: {text}"
            ))))
        })
    }
}

/// Locks, and takes no notice of a panic of another holder: the values behind our locks are replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
