//! The deterministic core: the same records of a partition give the same state and the same effects,
//! bit for bit, over runs, batch sizes and restarts.
//!
//! No clock, no randomness, no I/O, no threads, no iteration over hash maps, no sums of doubles. Time is
//! the block's ingest time; aggregates and rules come through the log. `tests/tidy.rs` of the workspace
//! keeps these bans.

mod agents;
mod aggregate;
mod alerts;
pub mod backtest;
mod cold;
mod commands;
mod count;
mod declare;
mod device_set;
mod effects;
mod evaluate;
mod flat;
mod flush;
mod group;
mod held;
mod history;
mod intervals;
mod lookup;
mod members;
mod names;
mod pane;
mod partition;
mod place;
mod registry;
mod snapshot;
mod sound;
mod texts;
mod warm;
mod windows;

pub use cold::Saving;
pub use effects::{
    Changed, CommandOutcome, Declarations, Effects, Notice, NoticeKind, Operated, SendCommand,
    Summary,
};
pub use history::StoredRow;
pub use partition::{Partition, Sizes};
pub use snapshot::RestoreError;
