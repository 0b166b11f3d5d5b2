//! Settings of the tier: plain data, with a limit for everything that a stranger can make grow.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where changes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// Nowhere.
    Never,
    /// Where the server listens on loopback.
    #[default]
    Loopback,
    /// Everywhere: whoever reaches the server may change everything.
    Always,
}

impl Writes {
    /// Whether changes are taken by a server that listens on `listen`.
    pub fn allowed(self, listen: SocketAddr) -> bool {
        match self {
            Self::Never => false,
            Self::Loopback => listen.ip().is_loopback(),
            Self::Always => true,
        }
    }
}

/// Settings of the HTTP server. `Default` serves loopback only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen. Default `127.0.0.1:8080`; port 0 takes a free one. There are no users and
    /// passwords yet: on another address everybody who reaches it reads everything.
    pub listen: SocketAddr,
    /// Where changes (rules, aggregates, devices, releases) are taken. Default: on loopback only.
    pub writes: Writes,
    /// Further names under which the server may be called, without port, such as
    /// `tidewatch.example.org` behind a proxy. On loopback only `localhost`, `127.0.0.1` and `[::1]`
    /// are answered besides (a page elsewhere could rebind its own name to this machine otherwise);
    /// on another address naming one here refuses every other name. Default: none.
    pub hosts: Vec<String>,
    /// Viewers of the live stream at a time; one more gets 503. Default 10 000.
    pub viewers_max: usize,
    /// Connections at a time; further ones wait in the listener's queue. Each needs a file
    /// descriptor. Default 12 000.
    pub connections_max: usize,
    /// Queries that run at the same time; further ones wait up to 5 s, then get 503. Default 8.
    pub queries_max: usize,
    /// A request's head must be complete this long after the connection became idle, milliseconds.
    /// Default 30 000.
    pub head_timeout_ms: u64,
    /// A peer that takes no byte for this long is disconnected, milliseconds. Default 30 000.
    pub write_timeout_ms: u64,
    /// How long a stop waits for answers under way, milliseconds. Default 1500.
    pub shutdown_grace_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            writes: Writes::default(),
            hosts: Vec::new(),
            viewers_max: 10_000,
            connections_max: 12_000,
            queries_max: 8,
            head_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            shutdown_grace_ms: 1500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_taken_on_loopback_unless_told_otherwise() {
        let allowed = |writes: Writes| {
            ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "10.0.0.1:80"]
                .map(|a| writes.allowed(a.parse().unwrap()))
        };
        assert_eq!(allowed(Writes::default()), [true, true, false, false]);
        assert_eq!(allowed(Writes::Never), [false; 4]);
        assert_eq!(allowed(Writes::Always), [true; 4]);
    }
}
