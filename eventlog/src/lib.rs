//! The durable partitioned log and the checkpoint store, behind one small interface.
//!
//! Everything that enters Tidewatch is a record in this log; everything that the processor keeps is a
//! [`Checkpoint`] beside it. The crate does not know what a record means: records are opaque bytes.
//!
//! **Form.** Two redb databases in one data folder (bytes drawn in `eventlog/FORMAT.md`): `log.redb` holds
//! the blocks, `state.redb` the checkpoints, snapshots, cold rows and the outbox, so that a large
//! checkpoint never holds up an append. The interface offers only what a replicated log can offer too:
//! append and learn the offset when durable, read from an offset and follow, commit a checkpoint with its
//! rows and outputs atomically and fenced, trim behind checkpoints. Nothing above it knows the form.
//!
//! **Durability.** When an append answers `Ok`, its records survive a kill of the process and a power cut.
//! When [`Log::commit`] answers `Ok`, the same holds for the checkpoint with all its rows and outbox rows.
//! An error from the storage ([`Error::Full`], [`Error::Io`], [`Error::Corrupt`]) during an append or a
//! commit means *unknown*: the write may or may not be there later, whole or not at all. Appending is
//! therefore at-least-once; the protocol above recognises repeats. An owner whose commit failed reads
//! [`Log::latest`] to learn which checkpoint is there.
//!
//! **Faults.** After a failed write or fsync the database in question is dropped and opened again (what it
//! then holds is what the disk holds); appends go on by themselves when the cause is gone, such as a full
//! disk. What is read is verified: block checksums, offset continuity, row and snapshot checksums.
//!
//! **Time.** The crate reads no clock and draws no random number: [`Clock`] is injected, and the ingest time
//! of a block never goes back within its partition, whatever the clock does.
//!
//! **Limits.** See [`Settings`]. redb saves its page allocator with every commit (that is what makes opening after
//! a crash quick): about 128 KiB per GiB of file, measured. So keep the log trimmed; at 10 GiB a commit carries
//! 1.3 MB besides its records. The files keep their largest size; trimmed pages are used again.
//!
//! **Not here.** No compression (records come compressed), no keys or compaction by key, no consumer
//! groups, no encryption.

mod appender;
mod block;
mod checkpoint;
mod error;
mod log;
mod outbox;
mod queue;
mod reader;
mod retention;
mod rows;
mod settings;
mod store;
mod tail;

#[cfg(test)]
mod tests;

pub use crate::block::Block;
pub use crate::checkpoint::{Checkpoint, Stored};
pub use crate::error::Error;
pub use crate::log::{Clock, Log, Offset, PartitionId, PartitionSize, Sizes};
pub use crate::outbox::{OutboxChange, OutboxRow};
pub use crate::queue::{Appended, Pending};
pub use crate::rows::KeyRange;
pub use crate::settings::Settings;
