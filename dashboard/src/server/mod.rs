//! Sockets: accept, serve, stop. What a stranger can hold on to has a limit in number and in time.

mod connection;
pub mod guard;

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Settings;
use connection::Impatient;

/// Most header fields of a request.
const HEADERS_MAX: usize = 100;
/// Largest head of a request, and the buffer of a connection, bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Pause after an error of `accept`, such as no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled and the answers under way are given or the grace is over.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &Settings,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(settings.head_timeout_ms))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let patience = Duration::from_millis(settings.write_timeout_ms);
    let seats = Arc::new(Semaphore::new(settings.connections_max.max(1)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &seats) => accepted,
        };
        let (stream, seat) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (http, router, stop) = (http.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _seat = seat;
            connection(&http, stream, router, patience, &stop).await;
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let grace = Duration::from_millis(settings.shutdown_grace_ms);
    if tokio::time::timeout(grace, drained).await.is_err() {
        let open = connections.len();
        tracing::warn!(
            open,
            "connections were cut: their answers took longer than the grace"
        );
        connections.shutdown().await;
    }
}

type Seat = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is a seat for it.
async fn accept(
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, Seat)> {
    let seat = seats.clone().acquire_owned().await;
    let seat = seat.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, seat))
}

async fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    router: Router,
    patience: Duration,
    stop: &CancellationToken,
) {
    // Frames of the live stream are small and should not wait for more.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Impatient::new(stream, patience));
    let mut connection =
        std::pin::pin!(http.serve_connection(io, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
