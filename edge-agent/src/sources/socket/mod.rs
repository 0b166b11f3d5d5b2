//! A socket for programs that push: datagrams (UDP, Unix) or lines (TCP, Unix).
//!
//! Small tasks read the sockets and hand lines to one that understands them, so that a slow agent
//! slows streams down. Datagrams that come meanwhile wait in the system's buffer, and beyond it are
//! lost without a trace: that is their nature.

pub(crate) mod listen;

use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::listen::Bound;
pub use self::listen::Listen;
use super::decode::{Decoder, Decoding};
use super::lines::read_line;
use super::{Counts, Feed};
use crate::inbox::Closed;

/// Longest datagram, bytes: the most that UDP can carry. Unix sockets could carry more.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Longest line of a stream, bytes: with the connections below it bounds the memory.
const LINE_BYTES_MAX: usize = 65_536;
/// Most connections at once. More are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Lines or datagrams that wait to be understood.
const WAITING_MAX: usize = 64;
/// A socket that cannot be bound (its address may not be up yet) is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);
/// After a failure to accept (such as too many open files) it waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A silent connection is asked whether its other end still lives after this time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Where to listen and what comes there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where.
    pub listen: Listen,
    /// The format.
    pub decoding: Decoding,
    /// How far times in the lines may lie behind the present: the agent promises no more.
    pub lag: Duration,
}

/// From where something came, for the log.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Ip(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "from {address}: "),
            Self::Unix => Ok(()),
        }
    }
}

/// A line, a datagram, or what was wrong with one.
struct Message {
    peer: Peer,
    /// Of the connection; the first of a datagram.
    line: u64,
    content: Result<Vec<u8>, String>,
}

/// Listens until the agent stops; what was gathered by then is handed on. Returns what was done.
pub async fn run(settings: Settings, mut feed: Feed, stop: CancellationToken) -> Counts {
    // A socket that cannot be bound yet must not hold the others back.
    feed.stand_at(settings.decoding.position(settings.lag));
    let Some(bound) = bind(&settings.listen, &feed, &stop).await else {
        return feed.counts();
    };
    let interval = settings.decoding.interval();
    let mut decoder = Decoder::new(settings.decoding);
    let (sender, mut messages) = mpsc::channel(WAITING_MAX);
    let mut readers = JoinSet::new();
    readers.spawn(read(bound, sender));
    // Only a format that gathers has something to flush.
    let period = interval.unwrap_or(Duration::from_secs(3600));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flushes = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick(), if interval.is_some() => {
                flushes += 1;
                if feed.push(flushes, decoder.flush(), None, None).await.is_err() {
                    return feed.counts();
                }
            }
            message = messages.recv() => match message {
                Some(message) => if take(&mut decoder, &mut feed, message).await.is_err() {
                    return feed.counts();
                }
                // It reads until it is told to stop: it has panicked, and so do we.
                None => match readers.join_next().await {
                    Some(Err(error)) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic())
                    }
                    _ => break,
                }
            }
        }
    }
    // The socket is closed; what had been read from it counts.
    readers.shutdown().await;
    while let Ok(message) = messages.try_recv() {
        if take(&mut decoder, &mut feed, message).await.is_err() {
            return feed.counts();
        }
    }
    let _ = feed.push(flushes + 1, decoder.flush(), None, None).await;
    feed.counts()
}

/// None if the agent is to stop.
async fn bind(listen: &Listen, feed: &Feed, stop: &CancellationToken) -> Option<Bound> {
    let mut said = None;
    loop {
        match Bound::new(listen).await {
            Ok(bound) => {
                let address = bound.address().unwrap_or_else(|_| listen.clone());
                tracing::info!(source = feed.name(), %address, "listening");
                return Some(bound);
            }
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::error!(
                        source = feed.name(),
                        "cannot listen at {listen}: {error}; trying again every {} s",
                        RETRY.as_secs()
                    );
                    said = Some(error);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn take(decoder: &mut Decoder, feed: &mut Feed, message: Message) -> Result<(), Closed> {
    let Message {
        peer,
        line,
        content,
    } = message;
    let bytes = match content {
        Ok(bytes) => bytes,
        Err(reason) => {
            feed.count_row();
            feed.refuse(line, &format!("{peer}{reason}"));
            return Ok(());
        }
    };
    let decoded = decoder.read(&bytes);
    for _ in 0..decoded.lines {
        feed.count_row();
    }
    for (n, reason) in decoded.refused {
        feed.refuse(line + n - 1, &format!("{peer}{reason}"));
    }
    feed.push(line, decoded.readings, None, None).await
}

async fn read(bound: Bound, sender: mpsc::Sender<Message>) {
    match bound {
        Bound::Udp(socket) => datagrams(UdpOrUnix::Udp(socket), &sender).await,
        Bound::Unix(socket, _file) => datagrams(UdpOrUnix::Unix(socket), &sender).await,
        Bound::Tcp(listener) => connections(TcpOrUnix::Tcp(listener), &sender).await,
        Bound::UnixStream(listener, _file) => {
            connections(TcpOrUnix::Unix(listener), &sender).await;
        }
    }
}

enum UdpOrUnix {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

async fn datagrams(socket: UdpOrUnix, sender: &mpsc::Sender<Message>) {
    // One byte more shows that a datagram was cut.
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
    loop {
        let received = match &socket {
            UdpOrUnix::Udp(socket) => {
                let received = socket.recv_from(&mut buffer).await;
                received.map(|(n, address)| (n, Peer::Ip(address)))
            }
            UdpOrUnix::Unix(socket) => socket.recv(&mut buffer).await.map(|n| (n, Peer::Unix)),
        };
        let (peer, content) = match received {
            Ok((n, peer)) if n > DATAGRAM_BYTES_MAX => {
                let reason = format!("datagram of more than {DATAGRAM_BYTES_MAX} bytes");
                (peer, Err(reason))
            }
            Ok((n, peer)) => (peer, Ok(buffer.get(..n).unwrap_or_default().to_vec())),
            Err(error) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                (Peer::Unix, Err(format!("receive: {error}")))
            }
        };
        let message = Message {
            peer,
            line: 1,
            content,
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

type Stream = Box<dyn AsyncRead + Send + Unpin>;

enum TcpOrUnix {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn connections(listener: TcpOrUnix, sender: &mpsc::Sender<Message>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while open.try_join_next().is_some() {}
        let message = match accepted {
            Ok((stream, peer)) if open.len() < CONNECTIONS_MAX => {
                open.spawn(read_lines(stream, peer, sender.clone()));
                continue;
            }
            Ok((_, peer)) => too_many(peer),
            Err(error) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Message {
                    peer: Peer::Unix,
                    line: 0,
                    content: Err(format!("accept a connection: {error}")),
                }
            }
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

impl TcpOrUnix {
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                keep_alive(&stream);
                Ok((Box::new(stream), Peer::Ip(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Unix))
            }
        }
    }
}

fn too_many(peer: Peer) -> Message {
    Message {
        peer,
        line: 0,
        content: Err(format!(
            "connection refused: {CONNECTIONS_MAX} are open already"
        )),
    }
}

/// A client that vanished must not hold its place for ever.
fn keep_alive(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE));
    if let Err(error) = set {
        tracing::debug!(%error, "keep-alive of a connection");
    }
}

async fn read_lines(stream: Stream, peer: Peer, sender: mpsc::Sender<Message>) {
    let mut stream = BufReader::new(stream);
    let mut line = 0;
    loop {
        line += 1;
        let content = match read_line(&mut stream, LINE_BYTES_MAX).await {
            Ok(None) => return,
            Ok(Some(content)) => content,
            // A client that broke off: what it had sent whole is taken.
            Err(error) => {
                tracing::debug!("{peer}{error}");
                return;
            }
        };
        let message = Message {
            peer,
            line,
            content,
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
