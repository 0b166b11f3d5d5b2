//! Virtual fleets with faults and **ground truth**.
//!
//! A run makes devices behind agents, sends what they measure over real MQTT connections with the
//! real protocol (PROTOCOL.md A1 to A5, with buffers in memory instead of on flash), breaks things on
//! purpose, and knows exactly what every window must hold in the end. Where to start reading:
//! [`source`] makes events, [`agent`] is the protocol as a pure state machine, [`run`] joins both to
//! sockets and clocks, [`truth`] adds up what must come out, [`verify`] compares a server with it.
//!
//! What it knows nothing of: the processor's insides. What it does not do: survive its own death. A
//! virtual agent outlives every server, but its buffer ends with this process.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod device;
pub mod duration;
pub mod fleet;
mod http;
pub mod memory;
pub mod network;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenario;
mod session;
pub mod settings;
pub mod source;
pub mod truth;
pub mod verify;

pub use report::Report;
pub use run::run;
pub use scenario::Scenario;
pub use settings::Settings;
