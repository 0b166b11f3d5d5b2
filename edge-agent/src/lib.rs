//! The edge agent: sources → durable buffer → uplink.
//!
//! Reading order: [`sources`] push readings into the [`inbox`], where they are stamped; the keeper's
//! thread stores them in the [`buffer`] and asks the [`uplink`]'s session what to send; the link
//! carries that over MQTT and brings back acks, which alone delete.
//!
//! ```text
//! sources ──readings──► inbox ──groups──► keeper { core { buffer, session } } ──batches──► link ══► cloud
//!                         ▲                                                                 │
//!                         └───────────────────────── acks ─────────────────────────────────┘
//! ```
//!
//! What the agent knows of itself is in [`health`]: its own metrics and `tidewatch-agent status`.
//!
//! [`core`] is the agent without threads, clocks and sockets: a simulation drives it directly.
//! What the cloud does with the events is not known here.

mod agent;
pub mod buffer;
pub mod clock;
pub mod commands;
pub mod config;
pub mod core;
pub mod health;
pub mod inbox;
mod keeper;
mod room;
pub mod rules;
mod service;
pub mod sources;
pub mod status;
pub mod uplink;

pub use agent::{Report, run};
pub use config::Settings;
