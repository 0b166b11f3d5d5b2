//! The durable buffer: what an agent has accepted and the cloud has not yet acknowledged.
//!
//! Why it exists: between a sensor and a result lie power cuts, dead brokers and days without a
//! network. An event is *accepted* when [`Buffer::append`] returns: it is on disk, numbered, and
//! leaves only when an ack names its number ([`Buffer::ack`]), or as a declared gap when the buffer
//! is full (`overflow`: summed up by the minute first, faults last) or it was held too long (`age`).
//!
//! Constraints: SD cards (few and grouped commits), little memory (no event is kept in memory but
//! those of the unfinished last chunk), and a file that may be torn, cut short or rolled back.
//!
//! # Format (redb file `buffer.redb`, every commit with quick repair)
//! ```text
//! meta     "identity" -> postcard { format: u16, agent: str }
//!          "state"    -> postcard { incarnation, last_seq, committed_at, clean, volatile, volatile_before, spoke, unclean?, unclean_until?, unclean_behind?, behind_from? }
//!          "commands" -> postcard { forgotten_until?, lost_at? }   of commands without a row
//! chunks   (inc_no, inc_rand, first_seq) -> events first_seq.. as one batch (event/FORMAT.md)
//! index    (inc_no, inc_rand, first_seq) -> (count, bytes, min_time, max_time, stored, kind)
//! lineage  (inc_no, inc_rand)            -> (last_seq, held)        earlier incarnations
//! gaps     (inc_no, inc_rand, from)      -> postcard event::Gap     declared losses, until acked
//! cursors  name                          -> bytes                   how far a source has read
//! commands id                            -> postcard commands::ledger::Row   what became of a command
//! boots    boot                          -> postcard unplaced::Boot  boots with the next, and this one's offset
//! unplaced (boot, n)                     -> readings n.. as a chunk, times in microseconds since boot
//! unplaced_index (boot, n)               -> (count, bytes, earliest, latest)
//! unplaced_kinds (boot, n)               -> kind, of those that are not raw
//! ```
//! A chunk holds raw events and faults (its header then says which are faults), or summaries. It holds at most [`Settings::chunk_events_max`] events. The last chunk grows with each
//! commit until it is full, so that an agent with one sample a second does not end up with one row
//! a commit. Beside the file lies `incarnation`, a text file with the highest incarnation number
//! given out, so that the number grows even when the file is lost; and `reserve`, 1 MiB that is given
//! up when the disk is full, so that the buffer can still be opened and deleted from.

mod age;
mod chunk;
mod commands;
#[cfg(test)]
mod crash_tests;
mod error;
mod faults;
mod growing;
mod index;
mod mixed;
#[cfg(test)]
mod model_tests;
mod open;
mod overflow;
pub(crate) mod reserve;
mod store;
mod tables;
mod unplaced;
#[cfg(test)]
mod unplaced_tests;

pub use commands::{CommandChanges, Marks, SavedCommands};
pub use error::{BufferError, OpenError};
pub use faults::Faults;
pub use index::Position;
pub(crate) use open::suspect;
pub use open::{FILE_NAME, Opened, open, open_backend};
pub use overflow::Policy as Overflow;
pub use store::{Announcement, Buffer, Cursor, Settings};
pub use unplaced::{Placed, UNCERTAIN};
