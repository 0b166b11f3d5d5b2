//! The deterministic core: the same records of a partition give the same state and the same effects,
//! bit for bit, over runs, batch sizes and restarts.
//!
//! No clock, no randomness, no I/O, no threads, no iteration over hash maps, no sums of doubles. Time is
//! the block's ingest time; aggregates and rules come through the log. `tests/tidy.rs` of the workspace
//! keeps these bans.

mod agent;
mod alerts;
mod count;
mod effects;
mod flush;
mod group;
mod intervals;
mod lookup;
mod partition;
mod place;
mod registry;
mod snapshot;
mod window;

pub use effects::{Effects, Notice, NoticeKind, Summary};
pub use partition::{Partition, Sizes};
pub use snapshot::RestoreError;
