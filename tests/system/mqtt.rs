//! A bare MQTT 3.1.1 client that can also say what no proper client would say.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a string or payload with its length before it.
fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a field of at most 65535 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn packet(first: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = length;
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// A publish of QoS 1 whose packet is `missing` bytes longer than what is sent of it.
fn publish(topic: &[u8], id: u16, payload: &[u8], missing: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    field(&mut body, topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x32, body.len() + missing, &body)
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    id: u16,
    /// Publishes that came in while something else was awaited.
    inbox: Vec<(String, Vec<u8>)>,
}

impl Client {
    /// Connects with a clean session; the user name is the agent's id, empty = none.
    #[track_caller]
    pub fn connect(address: SocketAddr, client_id: &str, user: &str) -> Self {
        Self::try_connect(address, client_id, user)
            .unwrap_or_else(|e| panic!("{client_id} cannot connect: {e}"))
    }

    /// **Errors**: nobody listens, or the connection is refused.
    pub fn try_connect(address: SocketAddr, client_id: &str, user: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut client = Self {
            stream,
            id: 0,
            inbox: Vec::new(),
        };
        let mut body = Vec::new();
        field(&mut body, b"MQTT");
        let flags = if user.is_empty() { 0x02 } else { 0x82 };
        body.extend_from_slice(&[4, flags, 0, 60]);
        field(&mut body, client_id.as_bytes());
        if !user.is_empty() {
            field(&mut body, user.as_bytes());
        }
        client.stream.write_all(&packet(0x10, body.len(), &body))?;
        match client.read()? {
            (0x20, ack) if ack == [0, 0] => Ok(client),
            (kind, body) => Err(io::Error::other(format!("answer {kind:#x} {body:?}"))),
        }
    }

    /// Hears a topic.
    #[track_caller]
    pub fn subscribe(&mut self, topic: &str) {
        let id = self.next_id();
        let mut body = id.to_be_bytes().to_vec();
        field(&mut body, topic.as_bytes());
        body.push(1);
        self.stream
            .write_all(&packet(0x82, body.len(), &body))
            .expect("the subscription is sent");
        let answer = self
            .await_packet(0x90)
            .expect("an answer to the subscription");
        assert_eq!(answer, [(id >> 8) as u8, id as u8, 1], "granted with QoS 1");
    }

    /// Publishes with QoS 1 and waits for the PUBACK.
    ///
    /// **Errors**: the server closed the connection instead.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let id = self.next_id();
        self.stream
            .write_all(&publish(topic.as_bytes(), id, payload, 0))?;
        let answer = self.await_packet(0x40)?;
        match answer == id.to_be_bytes() {
            true => Ok(()),
            false => Err(io::Error::other(format!("PUBACK of another: {answer:?}"))),
        }
    }

    /// The next message on a subscribed topic.
    ///
    /// **Errors**: the connection ended, or nothing came for long.
    pub fn receive(&mut self) -> io::Result<(String, Vec<u8>)> {
        while self.inbox.is_empty() {
            self.await_packet(0x30)?;
        }
        Ok(self.inbox.remove(0))
    }

    /// Sends a publish that says it holds `payload.len() + missing` bytes, without the missing ones.
    ///
    /// **Errors**: the server closed the connection.
    pub fn publish_part(&mut self, topic: &str, payload: &[u8], missing: usize) -> io::Result<()> {
        let id = self.next_id();
        let bytes = publish(topic.as_bytes(), id, payload, missing);
        self.stream.write_all(&bytes)
    }

    /// Waits until the server closes the connection; what it says before is dropped.
    ///
    /// **Errors**: it stays open.
    pub fn await_close(&mut self) -> io::Result<()> {
        loop {
            match self.read() {
                Ok(_) => {}
                Err(e) if is_silence(&e) => return Err(e),
                Err(_) => return Ok(()),
            }
        }
    }

    fn next_id(&mut self) -> u16 {
        self.id = self.id % u16::MAX + 1;
        self.id
    }

    /// Reads up to the next packet of a kind; publishes go to the inbox and are acknowledged.
    fn await_packet(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        loop {
            let (first, body) = self.read()?;
            if first & 0xf0 == 0x30 {
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8_lossy(&body[2..2 + length]).into_owned();
                let mut rest = &body[2 + length..];
                if first & 0x06 != 0 {
                    self.stream.write_all(&packet(0x40, 2, &rest[..2]))?;
                    rest = &rest[2..];
                }
                self.inbox.push((topic, rest.to_vec()));
            }
            if first & 0xf0 == kind {
                return Ok(body);
            }
        }
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        let first = byte[0];
        let (mut length, mut shift) = (0usize, 0);
        loop {
            self.stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((first, body))
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
