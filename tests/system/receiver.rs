//! A receiver of webhooks that checks every signature and answers as it is told to.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use super::harness::wait_for;
use super::wire;

/// The secret that both sides know.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// How far a timestamp may be off, seconds: what Standard Webhooks recommends.
const TOLERANCE: i64 = 300;

/// One POST as it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    pub id: String,
    /// `alert.raised` or `alert.cleared`.
    pub kind: String,
    pub device: String,
    pub body: Value,
    /// What it was answered with.
    pub status: u16,
}

#[derive(Default)]
struct Inner {
    posts: Vec<Post>,
    /// What is wrong with posts that are not right.
    wrong: Vec<String>,
    next: VecDeque<u16>,
    otherwise: Option<u16>,
    hold: Duration,
}

/// A receiver on a free port. Its thread ends with the test program.
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let inner = Arc::<Mutex<Inner>>::default();
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, inner }
    }

    /// The `[[notifiers]]` table of a server that is to send here.
    pub fn config(&self) -> String {
        let address = self.address;
        format!(
            "[[notifiers]]\nname = \"ops\"\nurl = \"http://{address}/hook\"\nsecret = {SECRET:?}\nallow_private = true\n"
        )
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread has panicked")
    }

    /// Answers the next posts with these.
    pub fn answer_next(&self, statuses: &[u16]) {
        self.inner().next.extend(statuses);
    }

    /// Answers all others with this.
    pub fn answer(&self, status: u16) {
        self.inner().otherwise = Some(status);
    }

    /// Takes so long to answer.
    pub fn hold(&self, time: Duration) {
        self.inner().hold = time;
    }

    /// All posts so far, all of them right.
    #[track_caller]
    pub fn posts(&self) -> Vec<Post> {
        let inner = self.inner();
        assert!(inner.wrong.is_empty(), "{:?}", inner.wrong);
        inner.posts.clone()
    }

    /// The posts of a kind about a device, refused ones too.
    #[track_caller]
    pub fn about(&self, kind: &str, device: &str) -> Vec<Post> {
        let mut posts = self.posts();
        posts.retain(|p| p.kind == kind && p.device == device);
        posts
    }

    /// Those of them that were accepted.
    #[track_caller]
    pub fn accepted(&self, kind: &str, device: &str) -> Vec<Post> {
        let mut posts = self.about(kind, device);
        posts.retain(|p| p.status == 200);
        posts
    }

    /// Waits until one was accepted.
    #[track_caller]
    pub fn wait_accepted(&self, kind: &str, device: &str) -> Post {
        wait_for(&format!("an accepted {kind} of {device}"), || {
            self.accepted(kind, device).pop()
        })
    }
}

fn serve(stream: TcpStream, inner: &Mutex<Inner>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    let mut line = String::new();
    let mut request = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None if line.trim().is_empty() => break,
            None => request = line.clone(),
        }
        line.clear();
    }
    let header = |name: &str| {
        let found = headers.iter().find(|h| h.0 == name);
        found.map(|h| h.1.clone()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        // The sender was killed half-way: this is no post.
        return;
    }
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let problem = if request.starts_with("POST /hook HTTP/1.1") {
        check(&id, &timestamp, &header("webhook-signature"), &body).err()
    } else {
        Some(format!("strange request {request:?}"))
    };
    let (status, hold) = {
        let mut inner = inner.lock().expect("no thread has panicked");
        match problem {
            Some(problem) => {
                inner.wrong.push(problem);
                (400, Duration::ZERO)
            }
            None => {
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let status = inner.next.pop_front().or(inner.otherwise).unwrap_or(200);
                inner.posts.push(Post {
                    id,
                    kind: text(&body["type"]),
                    device: text(&body["data"]["device"]),
                    body,
                    status,
                });
                (status, inner.hold)
            }
        }
    };
    std::thread::sleep(hold);
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = reader.get_mut().write_all(answer.as_bytes());
}

/// What a receiver must check, by the Standard Webhooks specification.
fn check(id: &str, timestamp: &str, signatures: &str, body: &[u8]) -> Result<(), String> {
    if id.is_empty() {
        return Err("no webhook-id".to_owned());
    }
    let seconds: i64 = timestamp
        .parse()
        .map_err(|_| format!("webhook-timestamp {timestamp:?}"))?;
    if (wire::now() / 1_000_000 - seconds).abs() > TOLERANCE {
        return Err(format!("webhook-timestamp {timestamp} is not now"));
    }
    let key = STANDARD
        .decode(SECRET.trim_start_matches("whsec_"))
        .expect("the secret is base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    match signatures.split(' ').any(|s| s == expected) {
        true => Ok(()),
        false => Err(format!(
            "webhook-signature {signatures:?}, not {expected:?}"
        )),
    }
}
