//! The way to the cloud: what to send when ([`session`], pure) and the MQTT connection that carries
//! it ([`link`], a thin shell).
//!
//! The buffer owns retransmission. MQTT's own delivery only moves bytes: PUBACK deletes nothing, and
//! what a connection had in flight is forgotten with it.

pub mod backoff;
pub mod link;
pub mod session;
#[cfg(test)]
mod session_tests;
