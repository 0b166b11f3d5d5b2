//! What can go wrong, one variant per remedy.
//!
//! Texts are fragments that fit after "failed to" and name the file, partition and offset and the way out.
//! `Display` shows one level; the cause of [`Error::Full`] and [`Error::Io`] is the error's `source`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Offset, PartitionId};

/// An error of the log or the checkpoint store. Cheap to clone: one failed group answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process (or another `Log` in this one) has the data folder open.
    #[error(
        "open {path}: another process has it open; stop that process or choose another data folder"
    )]
    InUse {
        /// The locked file.
        path: PathBuf,
    },
    /// A setting is outside its bounds.
    #[error("open the event log: setting {name} {problem}")]
    Settings {
        /// Field of [`crate::Settings`].
        name: &'static str,
        /// What is wrong with it and what is allowed.
        problem: String,
    },
    /// The number of partitions is fixed when a data folder is created.
    #[error(
        "open {path}: it has {stored} partitions but the settings ask for {wanted}; set partitions = {stored}, or \
         choose another data folder (the number is fixed at creation)"
    )]
    PartitionsChanged {
        /// The file that says so.
        path: PathBuf,
        /// Partitions of the data folder.
        stored: u16,
        /// Partitions in the settings.
        wanted: u16,
    },
    /// The file was written by another version of Tidewatch.
    #[error(
        "open {path}: its format is version {found}, this program knows version {known}; use a matching release"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Version this build reads and writes.
        known: u64,
    },
    /// The log ends before a checkpoint's offset: part of it was lost, or an older copy was put in place.
    #[error(
        "open the event log: partition {partition} ends at offset {end} but its checkpoint has read up to \
         {checkpoint}; records are missing, so put back log.redb and state.redb from the same backup"
    )]
    LogShorterThanCheckpoint {
        /// The partition.
        partition: PartitionId,
        /// Next record the checkpoint wants to read.
        checkpoint: Offset,
        /// End of the log.
        end: Offset,
    },
    /// The log was trimmed beyond what the checkpoint has read: the state file was lost or is an older copy.
    #[error(
        "open the event log: partition {partition} begins at offset {first} but its checkpoint has read only up \
         to {checkpoint}; state.redb is missing or too old, so put back log.redb and state.redb from the same backup"
    )]
    LogTrimmedPastCheckpoint {
        /// The partition.
        partition: PartitionId,
        /// Next record the checkpoint wants to read; 0 without a checkpoint.
        checkpoint: Offset,
        /// First offset still in the log.
        first: Offset,
    },
    /// The partition does not exist.
    #[error("use partition {partition}: the log has partitions 0 to {}", partitions.saturating_sub(1))]
    NoSuchPartition {
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: u16,
    },
    /// An append without records.
    #[error("append to partition {partition}: the list of records is empty; append at least one")]
    NothingToAppend {
        /// The partition.
        partition: PartitionId,
    },
    /// A single record above `record_bytes_max`.
    #[error(
        "append to partition {partition}: a record of {bytes} bytes is above record_bytes_max = {max}; split it"
    )]
    RecordTooLarge {
        /// The partition.
        partition: PartitionId,
        /// Size of the record.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An append that could never fit into the queue.
    #[error(
        "append {records} records of {bytes} bytes to partition {partition}: the queue holds {records_max} records \
         and {bytes_max} bytes; append less at once"
    )]
    AppendTooLarge {
        /// The partition.
        partition: PartitionId,
        /// Records in the append.
        records: usize,
        /// Bytes in the append.
        bytes: usize,
        /// `queue_records_max`.
        records_max: usize,
        /// `queue_bytes_max`.
        bytes_max: usize,
    },
    /// The append queue has no room now. Nothing was taken; try again when earlier appends have been answered.
    #[error(
        "queue an append: {records} records of {bytes} bytes are waiting; slow down and try again"
    )]
    QueueFull {
        /// Records waiting.
        records: usize,
        /// Bytes waiting.
        bytes: usize,
    },
    /// The log has been closed.
    #[error("use the event log: it has been closed; open it again")]
    Closed,
    /// The disk is full. A write that got this may or may not be there later (see the crate page).
    #[error("write {path}: the disk is full; free some space, writing goes on by itself then")]
    Full {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The storage failed. A write that got this may or may not be there later (see the crate page).
    #[error(
        "{doing} {path}: check the disk and its permissions; it is tried again with the next call"
    )]
    Io {
        /// What was being done: "read", "write", "open".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Bytes in a file are not what was written there.
    #[error(
        "read {}: {what}; the file is damaged, so check the disk and put back log.redb and state.redb from the same backup",
        Place { path, partition: *partition, offset: *offset }
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The partition, where it is known.
        partition: Option<PartitionId>,
        /// First offset of the block, or offset of the checkpoint, where it is known.
        offset: Option<Offset>,
        /// What does not fit.
        what: String,
    },
    /// The records asked for are no longer in the log.
    #[error(
        "read partition {partition} from offset {from}: it was trimmed up to {first}; read from {first} or later"
    )]
    Trimmed {
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        from: Offset,
        /// First offset still in the log.
        first: Offset,
    },
    /// The records asked for are not yet in the log, and nor are their predecessors.
    #[error(
        "read partition {partition} from offset {from}: it ends at {end}; read from {end} or earlier"
    )]
    BeyondEnd {
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        from: Offset,
        /// Next offset of the partition.
        end: Offset,
    },
    /// Trimming would delete records that no checkpoint covers.
    #[error(
        "trim partition {partition} before offset {before}: its newest checkpoint has read only up to {checkpoint}; \
         commit a checkpoint first"
    )]
    TrimBeyondCheckpoint {
        /// The partition.
        partition: PartitionId,
        /// What was asked for.
        before: Offset,
        /// Next record the newest checkpoint wants to read; 0 without a checkpoint.
        checkpoint: Offset,
    },
    /// Somebody else has committed a checkpoint of this partition in the meantime: the caller is a former owner.
    #[error(
        "commit a checkpoint of partition {partition}: expected {}, found {}; another owner has taken over, so stop \
         and load the newest checkpoint",
        At(*expected), At(*found)
    )]
    Fenced {
        /// The partition.
        partition: PartitionId,
        /// Offset of the checkpoint that the caller last saw.
        expected: Option<Offset>,
        /// Offset of the checkpoint that is there.
        found: Option<Offset>,
    },
    /// A checkpoint whose offset lies behind its predecessor or beyond the end of the log.
    #[error(
        "commit a checkpoint of partition {partition} at offset {offset}: it must lie within {least} and {end} \
         (the previous checkpoint and the end of the log)"
    )]
    CheckpointOutOfRange {
        /// The partition.
        partition: PartitionId,
        /// Offset of the checkpoint.
        offset: Offset,
        /// Offset of the previous checkpoint, or the first record.
        least: Offset,
        /// End of the log.
        end: Offset,
    },
}

impl Error {
    /// A storage failure of `file` in our words.
    pub(crate) fn of_redb(path: &Path, doing: &'static str, error: redb::Error) -> Error {
        use std::io::ErrorKind;
        let path = path.to_path_buf();
        let corrupt = |what: String| Error::Corrupt {
            path: path.clone(),
            partition: None,
            offset: None,
            what,
        };
        match error {
            redb::Error::Io(source) => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    Error::Full {
                        path,
                        source: Arc::new(source),
                    }
                }
                // redb says so for a file that is not a redb file; the other for one that is too short.
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof => corrupt(source.to_string()),
                _ => Error::Io {
                    doing,
                    path,
                    source: Arc::new(source),
                },
            },
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                Error::InUse { path }
            }
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TypeDefinitionChanged { .. } => corrupt(error.to_string()),
            other => Error::Io {
                doing,
                path,
                source: Arc::new(std::io::Error::other(other.to_string())),
            },
        }
    }

    pub(crate) fn of_io(path: &Path, doing: &'static str, error: std::io::Error) -> Error {
        Error::of_redb(path, doing, redb::Error::Io(error))
    }
}

struct Place<'a> {
    path: &'a Path,
    partition: Option<PartitionId>,
    offset: Option<Offset>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(partition) = self.partition {
            write!(f, ", partition {partition}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        Ok(())
    }
}

struct At(Option<Offset>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, "the one at offset {offset}"),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_place_and_the_way_out() {
        let error = Error::Corrupt {
            path: "data/log.redb".into(),
            partition: Some(PartitionId(3)),
            offset: Some(Offset(17)),
            what: "the checksum of the block does not match".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "read data/log.redb, partition 3, offset 17: the checksum of the block does not match; the file is \
             damaged, so check the disk and put back log.redb and state.redb from the same backup"
        );
        let error = Error::Fenced {
            partition: PartitionId(0),
            expected: None,
            found: Some(Offset(9)),
        };
        assert_eq!(
            error.to_string(),
            "commit a checkpoint of partition 0: expected none, found the one at offset 9; another owner has taken \
             over, so stop and load the newest checkpoint"
        );
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let of = |kind| Error::of_io(Path::new("f"), "write", std::io::Error::from(kind));
        assert!(matches!(
            of(std::io::ErrorKind::StorageFull),
            Error::Full { .. }
        ));
        assert!(matches!(
            of(std::io::ErrorKind::PermissionDenied),
            Error::Io { .. }
        ));
        assert!(matches!(
            of(std::io::ErrorKind::UnexpectedEof),
            Error::Corrupt { .. }
        ));
    }
}
