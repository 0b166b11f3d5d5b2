//! The processor: a deterministic core, and the runtime that reads the log for it, saves its state and
//! carries out its effects.
//!
//! [`core`] is the state machine of one partition: records in, effects out, nothing else. [`runtime`]
//! gives each partition a thread that follows the log, writes the views, saves checkpoints and hands
//! what people are to learn to the durable [`outbox`], which delivers it. [`alerting`] decides what that is, and
//! [`rollout`] whether a command may go out.

pub mod alerting;
pub mod core;
pub mod outbox;
pub mod rollout;
pub mod runtime;
