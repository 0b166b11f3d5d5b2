//! Whether a time daemon of this machine says that it keeps the clock right. It is asked over loopback, in
//! ways that need no rights: chronyd by its monitoring protocol, ntpd and its like as any NTP client asks.
//!
//! (The kernel's flag, which all of them set, takes a system call that services are commonly denied, ours
//! too: `ProtectClock=`.)
//!
//! Only the first look waits for an answer, for a moment; each further one takes what has come since the one before.
//!
//! **Source** of the NTP packet: RFC 5905, section 7.3. Of chronyd's protocol, version 6, which has been in use
//! since chrony 1.27 of 2013, only the request "tracking" and its answer are needed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where chronyd answers unless its `cmdport` says otherwise.
const CHRONY_PORT: u16 = 323;
const NTP_PORT: u16 = 123;
/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_secs(4);
/// The first look waits so long at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// A daemon that may be off by more, seconds, does not keep the clock right.
const OFF_MAX: f64 = 1.0;
/// Leap indicator of a clock that is not synchronised.
const UNSYNCHRONISED: u16 = 3;
/// Answers looked at in one look.
const ANSWERS_MAX: usize = 8;

/// The daemons that may run here.
#[derive(Debug)]
pub(super) struct Daemons(Mutex<State>);

#[derive(Debug)]
struct State {
    peers: [Peer; 2],
    every: Duration,
    asked_at: Option<Instant>,
}

impl Daemons {
    /// Those of this machine, at their usual ports.
    pub fn new() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self::at(at(CHRONY_PORT), at(NTP_PORT), ASK_EVERY)
    }

    fn at(chrony: SocketAddr, ntp: SocketAddr, every: Duration) -> Self {
        Self(Mutex::new(State {
            peers: [Peer::new(Talk::Chrony, chrony), Peer::new(Talk::Ntp, ntp)],
            every,
            asked_at: None,
        }))
    }

    /// Whether one of them has said so in its newest answer.
    pub fn say_synchronised(&self) -> bool {
        let mut state = self.lock();
        let Some(asked_at) = state.asked_at else {
            return state.first_look();
        };
        let due = asked_at.elapsed() >= state.every;
        state.look(due)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn look(&mut self, ask: bool) -> bool {
        if ask {
            self.asked_at = Some(Instant::now());
        }
        let looks = self.peers.iter_mut().map(|peer| peer.look(ask));
        // All of them, whatever the first says.
        looks.fold(false, |any, says| any | says)
    }

    /// Where no daemon is, the answer is there at once.
    fn first_look(&mut self) -> bool {
        let began = Instant::now();
        let mut says = self.look(true);
        while !says && self.peers.iter().any(|p| !p.refused) && began.elapsed() < FIRST_WAIT {
            std::thread::sleep(Duration::from_millis(1));
            says = self.look(false);
        }
        says
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Chrony,
    Ntp,
}

/// One daemon.
#[derive(Debug)]
struct Peer {
    talk: Talk,
    at: SocketAddr,
    socket: Option<UdpSocket>,
    /// Of the newest question; its answer repeats it.
    nonce: u64,
    says: bool,
    answered: bool,
    /// Nobody listens there.
    refused: bool,
}

impl Peer {
    fn new(talk: Talk, at: SocketAddr) -> Self {
        Self {
            talk,
            at,
            socket: None,
            nonce: 0,
            says: false,
            answered: false,
            refused: false,
        }
    }

    /// Takes the answers that have come, and asks if it is time to.
    fn look(&mut self, ask: bool) -> bool {
        let mut bytes = [0; 512];
        for _ in 0..ANSWERS_MAX {
            let Some(received) = self.socket.as_ref().map(|s| s.recv(&mut bytes)) else {
                break;
            };
            let n = match received {
                Ok(n) => n,
                Err(error) => {
                    self.refused = error.kind() != std::io::ErrorKind::WouldBlock;
                    break;
                }
            };
            let says = match self.talk {
                Talk::Chrony => chrony_says(&bytes[..n], self.nonce),
                Talk::Ntp => ntp_says(&bytes[..n], self.nonce),
            };
            if let Some(says) = says {
                self.says = says;
                self.answered = true;
            }
        }
        if ask {
            // Who has not answered does not say anything any more.
            self.says &= self.answered;
            self.answered = false;
            self.nonce = rand::random();
            let question = match self.talk {
                Talk::Chrony => chrony_question(self.nonce).to_vec(),
                Talk::Ntp => ntp_question(self.nonce).to_vec(),
            };
            if self.socket.is_none() {
                self.socket = socket(self.at).ok();
                self.refused = self.socket.is_none();
            }
            // Without a daemon this fails, or the next look does.
            let _ = self.socket.as_ref().map(|s| s.send(&question));
        }
        self.says
    }
}

fn socket(at: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(at)?;
    Ok(socket)
}

/// A client's packet: version 4, mode 3. What would be its time is the nonce.
fn ntp_question(nonce: u64) -> [u8; 48] {
    let mut packet = [0; 48];
    packet[0] = 0x23;
    packet[40..].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// Whether the server says that its clock is right; none if this is no answer to the question.
fn ntp_says(packet: &[u8], nonce: u64) -> Option<bool> {
    let first = *packet.first()?;
    let is_answer =
        packet.len() >= 48 && first & 7 == 4 && array(packet, 24)? == nonce.to_be_bytes();
    if !is_answer {
        return None;
    }
    let fixed = |at| Some(f64::from(u32::from_be_bytes(array(packet, at)?)) / 65_536.0);
    let off = fixed(4)? / 2.0 + fixed(8)?;
    let stratum = u16::from(*packet.get(1)?);
    Some(is_right(
        u16::from(first >> 6),
        stratum,
        array(packet, 12)?,
        off,
    ))
}

/// The length of an answer to "tracking"; a question must not be shorter.
const CHRONY_BYTES: usize = 104;

/// The request "tracking" (33) of version 6.
fn chrony_question(nonce: u64) -> [u8; CHRONY_BYTES] {
    let mut packet = [0; CHRONY_BYTES];
    packet[0] = 6;
    packet[1] = 1;
    packet[5] = 33;
    packet[8..12].copy_from_slice(&sequence(nonce));
    packet
}

fn sequence(nonce: u64) -> [u8; 4] {
    ((nonce >> 32) as u32).to_be_bytes()
}

/// The same of chronyd.
fn chrony_says(packet: &[u8], nonce: u64) -> Option<bool> {
    let number = |at| Some(u16::from_be_bytes(array(packet, at)?));
    // Version, answer, to this request, of this form.
    let is_answer = packet.len() >= CHRONY_BYTES
        && packet.starts_with(&[6, 2])
        && (number(4)?, number(6)?) == (33, 5)
        && array(packet, 16)? == sequence(nonce);
    if !is_answer {
        return None;
    }
    let float = |at| Some(chrony_float(u32::from_be_bytes(array(packet, at)?)));
    // What is still to be corrected, and how far the source may be off.
    let off = float(68)?.abs() + float(92)? / 2.0 + float(96)?;
    let is_done = number(8)? == 0;
    Some(is_done && is_right(number(54)?, number(52)?, array(packet, 28)?, off))
}

/// Seven bits of exponent and 25 of coefficient, both signed.
fn chrony_float(bits: u32) -> f64 {
    let exponent = (bits as i32) >> 25;
    let coefficient = ((bits << 7) as i32) >> 7;
    f64::from(coefficient) * 2_f64.powi(exponent - 25)
}

/// `off`: by how much it may be wrong, seconds.
fn is_right(leap: u16, stratum: u16, source: [u8; 4], off: f64) -> bool {
    // A daemon that was told to take its own clock for right has not been told the time by anybody.
    let own_clock =
        source == *b"LOCL" || source.starts_with(&[127, 127]) || source == [127, 0, 0, 1];
    leap < UNSYNCHRONISED && (1..16).contains(&stratum) && !own_clock && off.abs() < OFF_MAX
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An NTP server's answer: leap indicator, stratum, source, root dispersion in seconds.
    fn ntp_answer(question: &[u8], (leap, stratum, source, off): Said) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = (leap as u8) << 6 | 4 << 3 | 4;
        packet[1] = stratum as u8;
        packet[8..12].copy_from_slice(&((off * 65_536.0) as u32).to_be_bytes());
        packet[12..16].copy_from_slice(&source);
        packet[24..32].copy_from_slice(&question[40..48]);
        packet
    }

    /// The same of chronyd, where it is the correction.
    fn chrony_answer(question: &[u8], (leap, stratum, source, off): Said) -> Vec<u8> {
        let mut packet = vec![0; CHRONY_BYTES];
        packet[..2].copy_from_slice(&[6, 2]);
        packet[4..8].copy_from_slice(&[0, 33, 0, 5]);
        packet[16..20].copy_from_slice(&question[8..12]);
        packet[28..32].copy_from_slice(&source);
        packet[52..54].copy_from_slice(&stratum.to_be_bytes());
        packet[54..56].copy_from_slice(&leap.to_be_bytes());
        // Exponent 5: in units of 2⁻²⁰ seconds.
        let coefficient = (off * 1_048_576.0) as i32 as u32 & 0x1ff_ffff;
        packet[68..72].copy_from_slice(&(5 << 25 | coefficient).to_be_bytes());
        packet
    }

    type Said = (u16, u16, [u8; 4], f64);
    const RIGHT: Said = (0, 3, [192, 0, 2, 1], 0.02);

    #[test]
    fn who_is_synchronised_to_another_clock_and_near_it_is_believed() {
        let (nonce, other) = (0x0123_4567_89ab_cdef, 0x7777_7777_1234_5678);
        let cases = [
            (RIGHT, true),
            ((1, 15, *b"GPS\0", 0.9), true),
            ((3, 3, [192, 0, 2, 1], 0.0), false),
            ((0, 0, [0; 4], 0.0), false),
            ((0, 16, [192, 0, 2, 1], 0.0), false),
            ((0, 3, [192, 0, 2, 1], 1.5), false),
            ((0, 1, *b"LOCL", 0.0), false),
            ((0, 10, [127, 127, 1, 1], 0.0), false),
            ((0, 5, [127, 0, 0, 1], 0.0), false),
        ];
        for (said, expected) in cases {
            let answer = ntp_answer(&ntp_question(nonce), said);
            assert_eq!(ntp_says(&answer, nonce), Some(expected), "{said:?}");
            assert_eq!(ntp_says(&answer, other), None);
            let answer = chrony_answer(&chrony_question(nonce), said);
            assert_eq!(chrony_says(&answer, nonce), Some(expected), "{said:?}");
            assert_eq!(chrony_says(&answer, other), None);
        }
        // Behind as well as ahead; and a refusal.
        let behind = chrony_answer(&chrony_question(nonce), (0, 3, [192, 0, 2, 1], -1.5));
        assert_eq!(chrony_says(&behind, nonce), Some(false));
        let mut refused = chrony_answer(&chrony_question(nonce), RIGHT);
        refused[9] = 2;
        assert_eq!(chrony_says(&refused, nonce), Some(false));
        // Anything else is no answer.
        for n in [0, 1, 47, 103] {
            assert_eq!(ntp_says(&vec![0x24; n.min(47)], nonce), None);
            assert_eq!(chrony_says(&vec![6; n], nonce), None);
        }
        assert_eq!(ntp_says(&ntp_question(nonce), nonce), None);
        assert_eq!(chrony_says(&chrony_question(nonce), nonce), None);
    }

    #[test]
    fn numbers_of_chronyd_have_signs_and_exponents() {
        for (bits, value) in [
            (0, 0.0),
            (2 << 25 | 1 << 23, 1.0),
            (2 << 25 | 0x180_0000, -1.0),
            (0x7f << 25 | 1 << 23, 0.125),
            (0x7f << 25 | 0x1ff_ffff, -(2_f64.powi(-26))),
        ] {
            assert!(
                (chrony_float(bits) - value).abs() < f64::EPSILON / 1e6,
                "{bits:x}"
            );
        }
    }

    #[test]
    fn daemons_are_asked_and_heard_without_waiting() {
        let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (chrony, ntp) = (local(), local());
        let at = |socket: &UdpSocket| socket.local_addr().unwrap();
        let daemons = Daemons::at(at(&chrony), at(&ntp), Duration::ZERO);
        let mut question = [0; 200];
        // Nobody answers.
        assert!(!daemons.say_synchronised() && !daemons.say_synchronised());
        for socket in [&chrony, &ntp] {
            let timeout = Some(Duration::from_secs(20));
            socket.set_read_timeout(timeout).unwrap();
            socket.recv(&mut question).unwrap();
        }
        type Answer = fn(&[u8], Said) -> Vec<u8>;
        for (socket, answer) in [(&chrony, chrony_answer as Answer), (&ntp, ntp_answer)] {
            let mut reply = |said| {
                let (n, from) = socket.recv_from(&mut question).unwrap();
                socket.send_to(&answer(&question[..n], said), from).unwrap();
            };
            // The answer to the newest question, which waits there.
            reply(RIGHT);
            assert!(daemons.say_synchronised());
            // Synchronised no longer.
            reply((3, 3, [0; 4], 0.0));
            assert!(!daemons.say_synchronised());
            reply(RIGHT);
            assert!(daemons.say_synchronised());
            // It has ended: the question just asked gets no answer.
            assert!(!daemons.say_synchronised());
            // The others are as many questions behind.
            let other = if std::ptr::eq(socket, &chrony) {
                &ntp
            } else {
                &chrony
            };
            for _ in 0..4 {
                other.recv(&mut question).unwrap();
            }
            socket.recv(&mut question).unwrap();
        }
        // There is no such port any more.
        drop((chrony, ntp));
        assert!(!daemons.say_synchronised() && !daemons.say_synchronised());
    }
}
