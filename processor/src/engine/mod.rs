//! The deterministic core: the same records of a partition give the same state and the same effects,
//! bit for bit, over runs, batch sizes and restarts.
//!
//! No clock, no randomness, no I/O, no threads, no iteration over hash maps, no sums of doubles. Time is
//! the block's ingest time; aggregates and rules come through the log. `tests/tidy.rs` of the workspace
//! keeps these bans.
#![allow(dead_code)]

mod agents;
mod device_set;
mod flat;
mod intervals;
mod names;
mod pane;
