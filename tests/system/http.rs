//! A small HTTP/1.1 client: one call for each connection, and a stream of events.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn ask(address: SocketAddr, path: &str, close: bool) -> io::Result<BufReader<TcpStream>> {
    let mut stream = connect(address)?;
    let connection = if close { "close" } else { "keep-alive" };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: {connection}\r\n\r\n"
    )?;
    Ok(BufReader::new(stream))
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Status and headers (names in lower case).
fn head(reader: &mut impl io::BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad("no status line"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            None => return Ok((status, headers)),
        }
    }
}

/// GETs a path.
///
/// **Errors**: no connection, or an answer that is not complete.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Reply> {
    reply(ask(address, path, true)?)
}

/// Sends JSON.
///
/// **Errors**: as [`get`].
pub fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> io::Result<Reply> {
    let mut stream = connect(address)?;
    let body = body.to_string();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    reply(BufReader::new(stream))
}

fn reply(mut reader: BufReader<TcpStream>) -> io::Result<Reply> {
    let (status, headers) = head(&mut reader)?;
    let header = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        while let Some(chunk) = chunk(&mut reader)? {
            body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = header("content-length") {
        let length = length.parse().map_err(|_| bad("content-length"))?;
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    let content_type = header("content-type").unwrap_or_default().to_owned();
    Ok(Reply {
        status,
        content_type,
        body,
    })
}

fn chunk(reader: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let size = usize::from_str_radix(line.trim(), 16).map_err(|_| bad("size of a chunk"))?;
    let mut data = vec![0; size + 2];
    reader.read_exact(&mut data)?;
    data.truncate(size);
    Ok((size > 0).then_some(data))
}

/// A live stream of server-sent events.
pub struct Live {
    reader: BufReader<TcpStream>,
    text: String,
}

impl Live {
    /// **Errors**: no connection, or another answer than 200.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let mut reader = ask(address, "/api/v1/live", false)?;
        let (status, headers) = head(&mut reader)?;
        let is_stream = headers
            .iter()
            .any(|h| h.0 == "content-type" && h.1.starts_with("text/event-stream"));
        if status != 200 || !is_stream {
            return Err(bad("not a stream of events"));
        }
        Ok(Self {
            reader,
            text: String::new(),
        })
    }

    /// The next event: its name and its JSON. None when the server ended the stream.
    ///
    /// **Errors**: nothing came for long, or a broken stream.
    pub fn next(&mut self) -> io::Result<Option<(String, Value)>> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    let data = serde_json::from_str(data).map_err(|_| bad("data of an event"))?;
                    return Ok(Some((name.to_owned(), data)));
                }
            }
            match chunk(&mut self.reader) {
                Ok(Some(data)) => self.text.push_str(&String::from_utf8_lossy(&data)),
                Ok(None) => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}
