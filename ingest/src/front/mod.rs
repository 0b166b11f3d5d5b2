//! The front: our own MQTT 3.1.1 and 5 endpoint, where PUBACK means "on disk".
//!
//! It terminates MQTT and nothing more: it has no topics of its own to route between clients. Devices
//! publish into the log; agents hear their acks and commands; permitted readers hear statuses.
//!
//! What it offers: QoS 0 and 1 both ways, last will, keep-alive, take-over by client id, retained
//! statuses, reason codes and strings in version 5. What it does not: QoS 2 (refused with 0x9B, and
//! in 3.1.1 by closing), sessions that outlive a connection (it says "no session present"), topic
//! aliases, shared subscriptions, subscription identifiers, enhanced authentication, retained
//! messages on other topics than a status (the flag is ignored).
//!
//! One task per connection ([`connection`]); a panic in the codec or a connection ends that
//! connection. Every queue and size has its limit in [`FrontSettings`].

mod codec;
mod connection;
mod filter;
mod handshake;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::broker::Intake;
use crate::meters::Meters;
use crate::settings::FrontSettings;
use table::Table;

/// What all connections share.
struct Shared {
    settings: FrontSettings,
    shutdown_grace_ms: u64,
    auth: Arc<dyn Auth>,
    intake: Arc<dyn Intake>,
    table: Arc<Table>,
    meters: Arc<Meters>,
    tasks: TaskTracker,
}

/// The way down to the connections of a front, made before the front because acks need it.
pub(crate) fn table(settings: &FrontSettings, meters: Arc<Meters>) -> Arc<Table> {
    Arc::new(Table::new(settings, meters))
}

/// A front that listens.
pub(crate) struct Front {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Front {
    pub(crate) fn new(
        listener: TcpListener,
        settings: FrontSettings,
        shutdown_grace_ms: u64,
        auth: Arc<dyn Auth>,
        intake: Arc<dyn Intake>,
        table: Arc<Table>,
        meters: Arc<Meters>,
    ) -> Self {
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared {
            settings,
            shutdown_grace_ms,
            auth,
            intake,
            table,
            meters,
            tasks,
        });
        Self { listener, shared }
    }

    /// Serves until `stop`; then every connection stops reading, waits for its appends, gets its
    /// PUBACKs and acks and is told to go. Returns when all are gone or the grace is over.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { listener, shared } = self;
        let room = Arc::new(Semaphore::new(shared.settings.connections_max));
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors: wait for some to come back.
                        tracing::warn!(%error, "failed to accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                shared.meters.connections_refused.increment(1);
                continue;
            };
            // Small packets must not wait for each other; failure only costs latency.
            let _ = stream.set_nodelay(true);
            spawn(&shared, stream, peer, stop.clone(), permit);
        }
        drop(listener);
        shared.tasks.close();
        let grace = Duration::from_millis(shared.shutdown_grace_ms) + Duration::from_secs(2);
        if tokio::time::timeout(grace, shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = shared.tasks.len(),
                "stopped with connections still busy"
            );
        }
    }
}

fn spawn<P: Send + 'static>(
    shared: &Arc<Shared>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
    permit: P,
) {
    /// Counts a connection down, also when its task panics.
    struct Open<P>(Arc<Meters>, #[allow(dead_code)] P);
    impl<P> Drop for Open<P> {
        fn drop(&mut self) {
            self.0.connections.decrement(1.0);
        }
    }
    shared.meters.connections.increment(1.0);
    let open = Open(Arc::clone(&shared.meters), permit);
    let connection = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let _open = open;
        connection::serve(connection, stream, peer, stop).await;
    });
}
