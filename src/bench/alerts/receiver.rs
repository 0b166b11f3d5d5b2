//! A receiver of pages: takes every `POST`, notes when it came and what it says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Longest body that is read, bytes.
const BODY_MAX: usize = 1 << 20;

/// One message as it came.
pub struct Page {
    /// When its last byte was read.
    pub at: Instant,
    /// The body.
    pub body: Value,
}

/// What has come so far.
#[derive(Clone, Default)]
pub struct Pages(Arc<Mutex<Vec<Page>>>);

impl Pages {
    /// Looks at what has come.
    pub fn look<T>(&self, look: impl FnOnce(&[Page]) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens on a free port of the loopback interface until the process ends.
///
/// **Errors**: no port is free.
pub async fn start() -> anyhow::Result<(std::net::SocketAddr, Pages)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("failed to listen for pages")?;
    let address = listener.local_addr()?;
    let pages = Pages::default();
    let all = pages.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                // A sender that goes away in the middle is its own report.
                let _ = serve(stream, &all).await;
            });
        }
    });
    Ok((address, pages))
}

async fn serve(stream: TcpStream, all: &Pages) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>()?.min(BODY_MAX);
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let page = Page {
            at: Instant::now(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        all.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(page);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await?;
    }
}
