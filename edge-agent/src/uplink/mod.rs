//! The way to the cloud: what to send when ([`session`], pure) and the MQTT connection that carries
//! it ([`link`], a thin shell; [`tls`] says whom it trusts, [`secret`] keeps its password).
//!
//! The buffer owns retransmission. MQTT's own delivery only moves bytes: PUBACK deletes nothing, and
//! what a connection had in flight is forgotten with it.

pub use file::FileError;

pub mod backoff;
mod dial;
mod file;
pub mod link;
pub mod secret;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod tls;
