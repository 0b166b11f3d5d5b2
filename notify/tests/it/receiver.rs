//! A receiver on a free port that keeps what it is sent and answers by a script.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status, further headers, body.
    With(u16, &'static str, String),
    /// Not at all, until the sender closes.
    Hang,
    /// A status and a length, then the end before the body is there.
    CloseMidBody,
    /// The connection ends without a word.
    Close,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::With(status, "", String::new())
    }
}

/// One request that came whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Got {
    /// Method and path.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Value,
    /// Which connection it came over, from 0.
    pub connection: usize,
    /// Whether the sender was told that it is accepted.
    pub accepted: bool,
}

impl Got {
    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|h| h.0 == name);
        found.map_or("", |h| h.1.as_str())
    }
}

/// Makes the answer to what no script says.
type Otherwise = Box<dyn FnMut(&Got) -> Reply + Send>;

#[derive(Default)]
struct Inner {
    got: Vec<Got>,
    next: VecDeque<Reply>,
    otherwise: Option<Otherwise>,
}

/// The receiver. Its threads end with the test program.
#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    /// Answers 200 without a body until it is told otherwise.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let receiver = Self {
            address,
            inner: Arc::default(),
        };
        let shared = receiver.clone();
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream, connection));
            }
        });
        receiver
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the next requests so.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.inner().next.extend(replies);
    }

    /// Answers all others so.
    #[allow(
        dead_code,
        reason = "not every test program that shares this file needs it"
    )]
    pub fn otherwise(&self, reply: impl FnMut(&Got) -> Reply + Send + 'static) {
        self.inner().otherwise = Some(Box::new(reply));
    }

    /// All requests so far.
    pub fn got(&self) -> Vec<Got> {
        self.inner().got.clone()
    }

    fn serve(&self, stream: TcpStream, connection: usize) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        let mut reader = BufReader::new(stream);
        while let Some(got) = read(&mut reader, connection) {
            let reply = {
                let mut inner = self.inner();
                let mut got = got;
                let reply = match inner.next.pop_front() {
                    Some(reply) => reply,
                    None => match &mut inner.otherwise {
                        Some(otherwise) => otherwise(&got),
                        None => Reply::status(200),
                    },
                };
                got.accepted = matches!(&reply, Reply::With(200..=299, _, body) if !body.contains("\"ok\":false"));
                inner.got.push(got);
                reply
            };
            let stream = reader.get_mut();
            let sent = match reply {
                Reply::With(status, headers, body) => {
                    let length = body.len();
                    let head =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n");
                    stream.write_all((head + &body).as_bytes())
                }
                Reply::Hang => {
                    let mut rest = Vec::new();
                    let _ = reader.read_to_end(&mut rest);
                    return;
                }
                Reply::CloseMidBody => {
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{\"ok\":");
                    return;
                }
                Reply::Close => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Got> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let request = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|h| h.0 == "content-length");
    let length = length.and_then(|h| h.1.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    // A sender that was killed half-way has sent nothing.
    reader.read_exact(&mut body).ok()?;
    Some(Got {
        line: request,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        connection,
        accepted: false,
    })
}
