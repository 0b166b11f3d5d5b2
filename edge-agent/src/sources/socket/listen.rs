//! Where a socket listens: the option as it is typed, and the socket itself.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// UDP datagrams on `host:port`; port 0 = any free one.
    Udp(String),
    /// Lines over TCP on `host:port`; port 0 = any free one.
    Tcp(String),
    /// Datagrams to a Unix socket.
    Unix(PathBuf),
    /// Lines over a Unix socket.
    UnixStream(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known =
            "udp://host:port, tcp://host:port, unix://path (datagrams) or unix-stream://path";
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{text:?} must look like {known}"))?;
        let address = || match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(rest.to_owned())
            }
            _ => Err(format!("{rest:?} is not like 127.0.0.1:8094")),
        };
        let path = || match rest {
            "" => Err("the path is missing".to_owned()),
            path => Ok(PathBuf::from(path)),
        };
        match scheme {
            "udp" => address().map(Self::Udp),
            "tcp" => address().map(Self::Tcp),
            "unix" => path().map(Self::Unix),
            "unix-stream" => path().map(Self::UnixStream),
            other => Err(format!("unknown scheme {other:?}; use {known}")),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::UnixStream(path) => write!(f, "unix-stream://{}", path.display()),
        }
    }
}

/// A socket that is bound.
#[derive(Debug)]
pub(super) enum Bound {
    Udp(UdpSocket),
    Tcp(TcpListener),
    Unix(UnixDatagram, SocketFile),
    UnixStream(UnixListener, SocketFile),
}

impl Bound {
    /// Binds. The file of a Unix socket at which nobody listens any more is replaced.
    ///
    /// **Errors**: the address is taken or cannot be had.
    pub async fn new(listen: &Listen) -> io::Result<Self> {
        Ok(match listen {
            Listen::Udp(address) => Self::Udp(UdpSocket::bind(address).await?),
            Listen::Tcp(address) => Self::Tcp(TcpListener::bind(address).await?),
            Listen::Unix(path) => {
                remove_stale(path)?;
                let socket = UnixDatagram::bind(path)?;
                Self::Unix(socket, SocketFile::of(path)?)
            }
            Listen::UnixStream(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                Self::UnixStream(listener, SocketFile::of(path)?)
            }
        })
    }

    /// Where it listens really, as the option is typed.
    pub fn address(&self) -> io::Result<Listen> {
        Ok(match self {
            Self::Udp(socket) => Listen::Udp(socket.local_addr()?.to_string()),
            Self::Tcp(listener) => Listen::Tcp(listener.local_addr()?.to_string()),
            Self::Unix(_, file) => Listen::Unix(file.path.clone()),
            Self::UnixStream(_, file) => Listen::UnixStream(file.path.clone()),
        })
    }
}

/// The file of our socket, removed at the end.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that another program has put there since is not ours.
    identity: (u64, u64),
}

impl SocketFile {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|now| now == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("remove the socket {}: {error}", self.path.display());
        }
    }
}

/// Only a socket that nobody listens at is removed.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    let error = |kind, text: &str| Err(io::Error::new(kind, format!("{}: {text}", path.display())));
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return error(e.kind(), &e.to_string()),
    };
    if !metadata.file_type().is_socket() {
        let text = "exists and is no socket; remove it or listen elsewhere";
        return error(io::ErrorKind::AlreadyExists, text);
    }
    // A socket of the other type answers, too, with another error. Sending nothing disturbs nobody.
    let datagram = std::os::unix::net::UnixDatagram::unbound()?;
    match datagram.connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => {
            let text = "another program listens there; stop it or listen elsewhere";
            error(io::ErrorKind::AddrInUse, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_is_a_scheme_and_an_address() {
        for text in [
            "udp://127.0.0.1:8094",
            "udp://[::1]:0",
            "tcp://localhost:8094",
            "unix:///run/a.sock",
            "unix-stream://a.sock",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for (text, reason) in [
            ("127.0.0.1:8094", "must look like udp://host:port"),
            ("http://a:1", "unknown scheme \"http\""),
            ("udp://8094", "is not like 127.0.0.1:8094"),
            ("udp://a:65536", "is not like"),
            ("tcp://:1", "is not like"),
            ("unix://", "the path is missing"),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        for listen in [Listen::Unix, Listen::UnixStream] {
            let path = dir.path().join("s");
            let listen = listen(path.clone());
            // Left behind by a program that died: of either type.
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let bound = Bound::new(&listen).await.unwrap();
            let error = Bound::new(&listen).await.unwrap_err().to_string();
            assert!(error.contains("another program listens"), "{error}");
            drop(bound);
            assert!(!path.exists());
            drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
            let bound = Bound::new(&listen).await.unwrap();
            // Someone has put another file there.
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "precious").unwrap();
            drop(bound);
            assert!(path.exists());
            let error = Bound::new(&listen).await.unwrap_err().to_string();
            assert!(error.contains("is no socket"), "{error}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
