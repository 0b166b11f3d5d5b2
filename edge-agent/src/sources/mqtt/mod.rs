//! A client of a broker nearby: Zigbee2MQTT, Tasmota, ESPHome and whatever else talks to it.
//!
//! Messages are taken with QoS 1 in a session that the broker keeps. One is acknowledged only when its
//! readings are on disk, and what was stored is remembered in the same transaction
//! ([`recent::Session`]): whatever is killed when, a message published with QoS 1 is taken once, as
//! long as the broker keeps the session. What was published with QoS 0 (the default of most bridges)
//! can be lost on its way, as such messages can.

mod connection;
mod filter;
mod incoming;
mod message;
mod recent;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use filter::Filter;
pub use message::{DeviceFrom, Format, MetricFrom, Topic};

use super::{Counts, Feed};
use crate::inbox::Position;
use crate::uplink::backoff::{Jitter, exponential};
use crate::uplink::secret::Secret;
use connection::{Client, End};

/// Most filters of one source.
pub const TOPICS_MAX: usize = 64;
/// Messages that wait for their commit; then no more are read. Brokers should send 10 to 32 ahead.
const UNACKED_MAX: usize = 64;
/// With so many waiting a commit is asked for: mosquitto sends 20 ahead and would wait for us.
const URGENT: usize = 10;
/// First and longest wait between connections.
const RECONNECT_MIN: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// A connection that lasts so long was a good one.
const SETTLED: Duration = Duration::from_secs(10);
/// Failures in a row are logged at first, then once per this time.
const LOG_EVERY: Duration = Duration::from_secs(300);
/// How often the broker hears from us at least.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where to connect, and what to take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name there.
    pub user: Option<String>,
    /// Password there.
    pub password: Option<Secret>,
    /// The session's name at the broker: the same at every start, and nobody else's.
    pub client_id: String,
    /// Longest payload taken, bytes.
    pub payload_bytes_max: usize,
    /// How far times in messages may lie behind the present: the agent promises no more.
    pub lag: Duration,
    /// What messages mean. Their filters do not overlap.
    pub topics: Vec<Topic>,
}

/// Takes messages until the agent stops. Returns what was done. `cursor` is what was stored last.
pub async fn run(
    settings: Settings,
    cursor: Option<Vec<u8>>,
    mut feed: Feed,
    stop: CancellationToken,
) -> Counts {
    feed.stand_at(if settings.lag.is_zero() {
        Position::Live
    } else {
        Position::Behind(settings.lag)
    });
    let (host, port) = (settings.host.clone(), settings.port);
    let mut jitter = Jitter::new(super::fnv1a(settings.client_id.as_bytes()));
    let mut client = Client::new(settings, cursor.as_deref());
    let mut failures = 0;
    let mut logged: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let (end, was_connected) = client.connect(&mut feed, &stop).await;
        let why = match end {
            End::Stop => return feed.counts(),
            End::Failed(why) => why,
        };
        // One that is thrown out at once (two agents with one client id) waits longer each time.
        if was_connected && began.elapsed() >= SETTLED {
            failures = 0;
        }
        let wait = jitter.around(exponential(RECONNECT_MIN, RECONNECT_MAX, failures));
        failures += 1;
        if failures <= 3 || logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            logged = Some(Instant::now());
            tracing::warn!(
                source = feed.name(),
                "no connection to the broker {host}:{port}: {why}; {failures}. try in {:.1} s",
                wait.as_secs_f64()
            );
        }
        tokio::select! {
            () = stop.cancelled() => return feed.counts(),
            () = sleep(wait) => {}
        }
    }
}
