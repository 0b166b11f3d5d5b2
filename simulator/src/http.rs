//! A small HTTP/1.1 client: one GET over plain TCP, enough to read a server's JSON.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer, bytes.
pub(crate) const ANSWER_BYTES_MAX: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// The base address of a server: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    authority: String,
}

impl Base {
    /// Reads `http://host[:port]`.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url
            .strip_prefix("http://")
            .with_context(|| format!("{url:?} must begin with http:// (plain HTTP only)"))?;
        let authority = rest.trim_end_matches('/');
        ensure!(
            !authority.is_empty() && !authority.contains(['/', '@', ' ', '\r', '\n']),
            "{url:?} must be http://HOST:PORT without a path"
        );
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        Ok(Self { authority })
    }

    /// GETs a path and reads the JSON.
    ///
    /// **Errors**: no connection, an answer other than 200 (with its text), no JSON of that shape.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let failed = || format!("GET http://{}{path}", self.authority);
        let bytes = tokio::time::timeout(TIMEOUT, self.exchange(path))
            .await
            .with_context(failed)?
            .with_context(failed)?;
        let (status, body) = split(&bytes).with_context(failed)?;
        if status != 200 {
            let text: String = String::from_utf8_lossy(&body).chars().take(500).collect();
            return Err(anyhow::anyhow!("status {status}: {text}")).with_context(failed);
        }
        serde_json::from_slice(&body).with_context(failed)
    }

    async fn exchange(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(&self.authority).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\nconnection: close\r\n\r\n",
            self.authority
        );
        socket.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        socket
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut bytes)
            .await?;
        Ok(bytes)
    }
}

/// Status and body of a complete answer.
fn split(bytes: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the answer has no head")?;
    let head = std::str::from_utf8(&bytes[..end]).context("the head is not text")?;
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    let header = |name: &str| {
        head.split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Ok((status, unchunk(body)?));
    }
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().context("content-length is no number")?;
        ensure!(
            body.len() >= length,
            "the answer ends after {} of {length} bytes",
            body.len()
        );
        return Ok((status, body[..length].to_vec()));
    }
    Ok((status, body.to_vec()))
}

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .context("a chunk has no size")?;
        let size = std::str::from_utf8(&rest[..end])?
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let size = usize::from_str_radix(size, 16).context("a chunk's size is no number")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(out);
        }
        match rest
            .get(..size)
            .zip(size.checked_add(2).and_then(|n| rest.get(n..)))
        {
            Some((chunk, next)) => {
                out.extend_from_slice(chunk);
                rest = next;
            }
            None => bail!("the answer ends inside a chunk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split() {
        let (status, body) = split(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!((status, body.as_slice()), (200, b"{}".as_slice()));
        let chunked = b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        let (status, body) = split(chunked).unwrap();
        assert_eq!((status, body.as_slice()), (404, b"abcde".as_slice()));
    }

    #[test]
    fn broken_answers_are_errors() {
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nshort",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        ] {
            assert!(split(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_addresses_are_read() {
        assert_eq!(
            Base::parse("http://localhost/").unwrap().authority,
            "localhost:80"
        );
        assert_eq!(
            Base::parse("http://127.0.0.1:8080").unwrap().authority,
            "127.0.0.1:8080"
        );
        for bad in ["https://x", "http://", "http://h/p", "127.0.0.1"] {
            assert!(Base::parse(bad).is_err(), "{bad}");
        }
    }
}
