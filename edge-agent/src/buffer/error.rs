//! What can go wrong with the buffer, by remedy.

use std::path::PathBuf;

/// Why the buffer could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Remedy: stop the other process, or give this agent its own data directory.
    #[error("the buffer {path} is in use by another process; stop it, or set another data_dir")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Remedy: set `agent` back, let it drain, or use a new data directory.
    #[error(
        "the buffer belongs to agent {found:?}, this agent is {wanted:?}; its events are numbered \
         under that name: run as {found:?} until they are sent, or set another data_dir"
    )]
    OtherAgent {
        /// Whose events it holds.
        found: String,
        /// Who wants to open it.
        wanted: String,
    },
    /// Remedy: run the newer program.
    #[error(
        "the buffer has format {found}, this program knows {known}; use a newer tidewatch-agent"
    )]
    NewerFormat {
        /// Format in the file.
        found: u16,
        /// Newest format known here.
        known: u16,
    },
    /// Remedy: check the disk and the rights of the directory.
    #[error("{what} {path}")]
    Io {
        /// What was being done, as "create".
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file cannot be read as a buffer. [`super::open`] sets such a file aside by itself; this
    /// comes out only where there is no file to set aside.
    #[error("the buffer is damaged: {0}")]
    Damaged(String),
    /// Remedy: check the disk.
    #[error("read or write the buffer")]
    Storage(#[source] Box<redb::Error>),
}

/// Why an operation on an open buffer failed. After any of these the buffer takes nothing more:
/// close it and open it again.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// The disk failed or is full. Nothing of the failed operation is to be relied on.
    #[error("write the buffer")]
    Storage(#[from] Box<redb::Error>),
    /// The file is damaged. Reopen with the full check, which sets it aside.
    #[error("the buffer is damaged: {0}")]
    Damaged(String),
    /// An event that no chunk can hold (its text is too long or its number is not finite): sources
    /// check both, so this is a mistake of the program.
    #[error("encode events")]
    Encode(#[from] event::EncodeError),
    /// An earlier operation failed.
    #[error("the buffer failed earlier and must be opened again")]
    Poisoned,
}

impl OpenError {
    /// Whether it failed because there is no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Storage(error) => matches!(error.as_ref(), redb::Error::Io(e) if is_full(e)),
            _ => false,
        }
    }
}

impl BufferError {
    /// Whether it failed because there is no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Storage(error)
            if matches!(error.as_ref(), redb::Error::Io(e) if is_full(e)))
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for BufferError {
            fn from(e: $error) -> Self {
                match redb::Error::from(e) {
                    redb::Error::Corrupted(what) => Self::Damaged(what),
                    other => Self::Storage(Box::new(other)),
                }
            }
        }

        impl From<$error> for OpenError {
            fn from(e: $error) -> Self {
                BufferError::from(e).into()
            }
        })*
    };
}

from_redb!(
    redb::StorageError,
    redb::TransactionError,
    redb::TableError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl From<BufferError> for OpenError {
    fn from(e: BufferError) -> Self {
        match e {
            BufferError::Damaged(what) => Self::Damaged(what),
            BufferError::Storage(e) => Self::Storage(e),
            e @ (BufferError::Encode(_) | BufferError::Poisoned) => Self::Damaged(e.to_string()),
        }
    }
}
