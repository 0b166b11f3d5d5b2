//! From a host name to a connection that MQTT can be spoken on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::tls::{self, TlsError};

/// What MQTT is spoken on.
pub(super) type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How far a connection has come: if it takes too long, this says what it waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

/// The steps of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Resolve,
    Tcp,
    Tls,
    Mqtt,
}

impl Progress {
    fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// Where it is now.
    pub(super) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Resolve,
            1 => Phase::Tcp,
            2 => Phase::Tls,
            _ => Phase::Mqtt,
        }
    }
}

/// Why there is no connection. `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("look up {host}: {source}; check the name, and the DNS of this machine")]
    Resolve { host: String, source: io::Error },
    #[error("connect: {0}")]
    Tcp(io::Error),
    #[error(transparent)]
    Config(#[from] TlsError),
    #[error("{0}")]
    Handshake(String),
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        Self::other(error)
    }
}

/// Connects, with TLS if there are settings for it. The names and files are read anew each time.
pub(super) async fn dial(
    host: &str,
    port: u16,
    tls: Option<&tls::Settings>,
    at_most: Duration,
    progress: &Progress,
) -> Result<Stream, DialError> {
    // What is wrong with our own files needs no network to be found out.
    let tls = match tls {
        Some(tls) => Some((tls, tls.load()?, tls.name(host)?)),
        None => None,
    };
    progress.enter(Phase::Resolve);
    let tcp = connect(host, port, at_most, progress).await?;
    // A batch is written at once; waiting for more only makes it late.
    let _ = tcp.set_nodelay(true);
    let Some((settings, config, name)) = tls else {
        progress.enter(Phase::Mqtt);
        return Ok(Either::Left(tcp));
    };
    progress.enter(Phase::Tls);
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => {
            progress.enter(Phase::Mqtt);
            Ok(Either::Right(stream))
        }
        Err(error) => Err(DialError::Handshake(match find_tls(&error) {
            Some(error) => settings.explain(error, host),
            None if hangs_up(error.kind()) => format!(
                "{host} closes the connection in the TLS handshake; is this the port for TLS (8883)?"
            ),
            None => format!("TLS with {host}: {error}"),
        })),
    }
}

async fn connect(
    host: &str,
    port: u16,
    at_most: Duration,
    progress: &Progress,
) -> Result<TcpStream, DialError> {
    let resolve = |source| DialError::Resolve {
        host: host.to_owned(),
        source,
    };
    let found = lookup_host((tls::bare(host), port))
        .await
        .map_err(resolve)?;
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    progress.enter(Phase::Tcp);
    // An address that swallows everything (a broken IPv6 path) must not take the time of the others.
    let share = at_most / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{address} does not answer"),
            ),
        };
    }
    Err(DialError::Tcp(last))
}

/// What a peer's end of the connection looks like from here.
fn hangs_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

/// The TLS error in a chain of others.
pub(super) fn find_tls<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            // An I/O error skips what it wraps in `source`.
            Some(io) => io
                .get_ref()
                .map(|e| e as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}
