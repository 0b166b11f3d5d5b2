//! HTTP: the API, the live stream, metrics and the operators' page.
//!
//! Everything shown is read from [`views::Views`]; this crate knows neither MQTT nor the log. It is
//! the only one that looks at the wall clock, and only to pace and number what it sends.
//!
//! There are no users yet, so the server listens on loopback by default, and answers only under local
//! names there. What changes something is handed to a [`Control`], and refused on other addresses unless
//! the settings say otherwise.

mod api;
pub mod control;
mod exposition;
mod live;
pub mod metrics;
mod page;
mod server;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use views::Views;

use crate::api::Shared;
pub use crate::control::Control;
use crate::live::Hub;
use crate::server::guard;
pub use crate::settings::{Settings, Writes};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The address is taken, not one of this machine, or not allowed.
    #[error("listen for HTTP on {address}; choose another address (port 0 takes a free port)")]
    Listen {
        /// What the settings say.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The HTTP server: bound, and served once it runs.
pub struct Dashboard {
    settings: Settings,
    listener: TcpListener,
    local_addr: SocketAddr,
    views: Arc<Views>,
    control: Option<Arc<dyn Control>>,
}

impl Dashboard {
    /// Binds the address; connections wait in the listener's queue until [`Dashboard::run`]. Only one
    /// dashboard may run on the same views: it takes their changes.
    ///
    /// **Errors**: the address cannot be bound.
    pub async fn bind(settings: Settings, views: Arc<Views>) -> Result<Self, DashboardError> {
        metrics::install();
        let address = settings.listen;
        let failed = |source| DashboardError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        if !local_addr.ip().is_loopback() {
            let may = match settings.writes.allowed(local_addr) {
                true => "read and change",
                false => "read",
            };
            tracing::warn!(%local_addr, "everybody who reaches this address can {may} everything");
        }
        Ok(Self {
            settings,
            listener,
            local_addr,
            views,
            control: None,
        })
    }

    /// Takes changes, where the settings allow it, and hands them on. Without it all calls are reads.
    pub fn with_control(mut self, control: Arc<dyn Control>) -> Self {
        self.control = Some(control);
        self
    }

    /// The address it listens on, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled, then ends the live streams, gives the answers under way a
    /// grace and returns, all within two seconds.
    pub async fn run(self, stop: CancellationToken) {
        // Also when this future is dropped, the tasks beside it end.
        let stop = stop.child_token();
        let _ended = stop.clone().drop_guard();
        let hub = Arc::new(Hub::new(first_id(), self.settings.viewers_max));
        let writes = self.settings.writes.allowed(self.local_addr);
        let shared = Shared::new(
            self.views.clone(),
            hub.clone(),
            self.settings.queries_max,
            self.control.filter(|_| writes),
            stop.clone(),
        );
        let hosts = guard::Hosts::new(self.local_addr, &self.settings.hosts);
        tokio::spawn(live::run(self.views, hub, stop.clone()));
        tokio::spawn(metrics::upkeep(stop.clone()));
        server::serve(self.listener, router(shared, hosts), &self.settings, stop).await;
    }
}

fn router(shared: Shared, hosts: guard::Hosts) -> Router {
    let (calls, _) = api::router();
    calls
        .fallback(page::fallback)
        // The last one is the outermost.
        .layer(DefaultBodyLimit::max(guard::BODY_BYTES_MAX as usize))
        .layer(from_fn_with_state(hosts, guard::check))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn(guard::finish))
        .with_state(shared)
}

/// Where the numbers of live frames begin: greater than any of a former life, unless that one sent
/// more than a thousand a second. Below 2^53, so that a script can read it.
fn first_id() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |d| d.as_millis() as u64)
}
