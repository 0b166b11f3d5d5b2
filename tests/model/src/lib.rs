//! A bounded exhaustive model of the edge-to-cloud protocol (rules A1 to A5, N2, P1 to P4 and P6 in
//! ARCHITECTURE.md): every state that a few events, transmissions and faults can lead to is visited, and
//! in each one it is checked that nothing was lost in silence, counted twice or called complete too
//! early, and that the system, once healed, comes to rest.
//!
//! # What is modelled
//! - **Agent**: buffer on disk and in memory (deletions by acks may be committed late), incarnations, seqs,
//!   `tx_no`, lineage told until acked, gaps, overflow of the oldest, low watermark; any held run of one
//!   life may be sent at any time, in any cut, again and again.
//! - **Network and broker**: a message stays where it is for ever and may arrive at any time, any number of
//!   times or never; so may its acks. That is loss, repeats, reordering and a broker that dies, in one, and
//!   there is no bound but the number of transmissions.
//! - **Ingest**: stateless; append, then ack. Its death between the two is an ack that never arrives.
//! - **Log and processor**: a record is processed when it is appended. Interval sets, tombstones, ends told
//!   by successors, watermarks, progress, declared losses, incidents.
//! - **Faults**: crash of the agent, its disk set back to an image (or wiped), a second machine with a copy
//!   of the disk under the same id, an agent's clock far ahead.
//!
//! # What must hold
//! [`Broken`] names the properties S1 to S5. From *every* state a fixed healing schedule is run: all send,
//! all arrives; then late copies of all messages arrive. At rest every accepted event is counted, or set
//! aside as ambiguous, or in a declared gap; or it was physically lost with a disk, an incident was
//! raised, and its time is declared lost. Excused is only what nobody could know: a physical loss of which
//! no trace reached the log; and, until it is heard, what a life does that was given up, forked beyond its
//! told end, or never spoke. Stamps of a wrong clock are excused from S3, but not from "nothing is complete
//! before it has ended": a message of a fast clock that is delayed may promise too much up to the ingest
//! time, which the processor shows as `broken_promises`.
//!
//! # What is not
//! Several agents (they share nothing), partitions, the bytes, real times and back-off, the limit of ranges
//! in flight (any number may be), refusals, quarantine by event time (P5), unclean stops, damaged files,
//! drop policies other than oldest first, limits (64 tombstones, 64 lives), checkpoints of the processor
//! (it is a function of the log). Fleets, real code and long runs are the simulation harness's.
//!
//! # One assumption
//! P4 has to tell a late message of a dead life from a clone that lives: it compares *when they were sent*
//! (`sent_at`). The model takes that order as right, which it is if copies of one device agree on the
//! order of their transmissions across the rollback or the clone.
//!
//! # How
//! [`explore`] is a breadth-first search over exact states; the first failure comes with a shortest way to
//! it. [`spaces`] has the bounds. Each [`Weakness`] replaces one rule by a weaker one that somebody might
//! find good enough; `tests/weak_rules.rs` shows what each one breaks.

pub mod action;
pub mod agent;
pub mod cloud;
pub mod property;
pub mod rules;
pub mod search;
pub mod spaces;
pub mod world;

pub use property::Broken;
pub use rules::{Rules, Weakness};
pub use search::{explore, explore_for};
pub use world::Budget;
