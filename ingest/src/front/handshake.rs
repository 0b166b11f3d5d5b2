//! From the first byte to an accepted session: CONNECT within its time, checked, authenticated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use event::RefusalReason;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::Shared;
use super::codec::{
    self, Accepted, CodecError, Connect, ConnectRefusal, Frame, Packet, Version, Will,
};
use crate::auth::{Action, Credentials, Principal};
use crate::broker::EarlyRefusal;
use crate::settings::{FrontSettings, ms};

/// Longest reason string sent to a client, characters.
const REASON_CHARS_MAX: usize = 200;
/// How much of a user name and a client id a refusal shows.
const CLAIM_CHARS_MAX: usize = 40;
/// A client that takes smaller packets than this gets no reason strings.
const REASON_PACKET_BYTES_MIN: u32 = 1024;

/// What a connection has agreed on.
#[derive(Debug)]
pub struct Session {
    /// Protocol version.
    pub version: Version,
    /// Client id, as given or assigned.
    pub client_id: Arc<str>,
    /// Who it is.
    pub principal: Principal,
    /// Its last will.
    pub will: Option<Will>,
    /// Longest time without a packet.
    pub silence_max: Duration,
    /// QoS 1 deliveries that the client takes without an acknowledgement.
    pub deliveries_in_flight_max: usize,
    /// Largest packet that the client takes, bytes.
    pub packet_bytes_max: u32,
    reason_strings: bool,
    assigned: bool,
    keep_alive_s: Option<u16>,
    session_refused: bool,
}

impl Session {
    /// Writes the CONNACK.
    pub fn answer(&self, settings: &FrontSettings, out: &mut BytesMut) {
        let accepted = Accepted {
            assigned_id: self.assigned.then_some(&*self.client_id),
            keep_alive_s: self.keep_alive_s,
            receive_max: settings.in_flight_max,
            packet_bytes_max: u32::try_from(settings.packet_bytes_max).unwrap_or(u32::MAX),
            session_refused: self.session_refused,
        };
        codec::connack(out, self.version, accepted);
    }

    /// A reason string for this client, if it wants any.
    pub fn reason_text(&self, text: &str) -> Option<String> {
        let wanted = self.version == Version::V5
            && self.reason_strings
            && self.packet_bytes_max >= REASON_PACKET_BYTES_MIN;
        // A NUL or another control character would make the packet malformed for strict clients.
        wanted.then(|| {
            text.chars()
                .filter(|c| !c.is_control())
                .take(REASON_CHARS_MAX)
                .collect()
        })
    }
}

/// Reads the CONNECT and checks it.
///
/// **Errors**: what to record, if anything; `out` then holds the answer for the client, if any.
pub async fn accept<R: AsyncRead + Unpin>(
    shared: &Shared,
    read: &mut R,
    buf: &mut BytesMut,
    peer: SocketAddr,
    out: &mut BytesMut,
) -> Result<Session, Option<EarlyRefusal>> {
    // The port changes with every try; without it repeated refusals are counted together.
    let source: Arc<str> = peer.ip().to_string().into();
    let refusal = |reason, message: String, bytes| {
        Some(EarlyRefusal {
            source: Arc::clone(&source),
            claim: None,
            agent: None,
            reason,
            message,
            bytes,
        })
    };
    let wait = ms(shared.settings.connect_timeout_ms);
    let bytes_max = shared.settings.connect_bytes_max;
    let (header, body) = match timeout(wait, read_frame(read, buf, bytes_max)).await {
        Err(_) if buf.is_empty() => return Err(None),
        Err(_) => {
            let text = "no complete CONNECT in time".to_owned();
            return Err(refusal(
                RefusalReason::ProtocolError,
                text,
                buf.len() as u64,
            ));
        }
        // A port probe, or a client that changed its mind.
        Ok(Err(())) if buf.is_empty() => return Err(None),
        Ok(Err(())) => {
            let text = "connection closed within the first packet".to_owned();
            return Err(refusal(
                RefusalReason::ProtocolError,
                text,
                buf.len() as u64,
            ));
        }
        Ok(Ok(Frame::Whole { header, body })) => (header, body),
        Ok(Ok(Frame::TooLarge { total })) => {
            // Only a CONNECT deserves an answer; its level, if it is here already, says in which form.
            if buf[0] == 0x10 {
                let v5 = buf.windows(5).take(8).any(|w| w == b"MQTT\x05");
                let version = if v5 { Version::V5 } else { Version::V3 };
                codec::connack_refused(out, version, ConnectRefusal::TooLarge);
            }
            let text = format!("first packet of {total} bytes is over the limit of {bytes_max}");
            return Err(refusal(RefusalReason::TooLarge, text, total as u64));
        }
        Ok(Ok(Frame::Malformed | Frame::Need(_))) => {
            let text = "the first bytes are not MQTT".to_owned();
            return Err(refusal(
                RefusalReason::ProtocolError,
                text,
                buf.len() as u64,
            ));
        }
    };
    let packet = buf.split_to(header + body);
    let connect = match codec::decode(None, packet[0], &packet[header..]) {
        Ok(Packet::Connect(connect)) => *connect,
        Ok(_) => {
            let text = CodecError::Protocol.to_string();
            return Err(refusal(
                RefusalReason::ProtocolError,
                text,
                packet.len() as u64,
            ));
        }
        Err(error) => {
            match error {
                CodecError::Version => {
                    // `…MQTT` and a level beyond 5 is answered in the newest form we speak.
                    let newer = packet.get(header + 6).is_some_and(|&level| level > 5);
                    let old_name = packet.get(header + 2..header + 6) == Some(b"MQIs");
                    let version = if newer && !old_name {
                        Version::V5
                    } else {
                        Version::V3
                    };
                    codec::connack_refused(out, version, ConnectRefusal::Version);
                }
                CodecError::Panicked => shared.meters.codec_panics.increment(1),
                _ => {}
            }
            let text = format!("first packet: {error}");
            return Err(refusal(
                RefusalReason::ProtocolError,
                text,
                packet.len() as u64,
            ));
        }
    };
    let version = connect.version;
    let claim = claim(&connect);
    check(shared, connect).map_err(|(why, reason, message)| {
        codec::connack_refused(out, version, why);
        let message = format!("{message} ({claim})");
        let refusal = refusal(reason, message, packet.len() as u64);
        refusal.map(|refusal| EarlyRefusal {
            claim: Some(claim.into()),
            ..refusal
        })
    })
}

/// Who a client says it is, for people.
fn claim(connect: &Connect) -> String {
    let short = |text: &str| text.chars().take(CLAIM_CHARS_MAX).collect::<String>();
    let client = short(&connect.client_id);
    match connect.user.as_deref() {
        Some(user) => format!("user {:?}, client id {client:?}", short(user)),
        None => format!("no user, client id {client:?}"),
    }
}

async fn read_frame<R: AsyncRead + Unpin>(
    read: &mut R,
    buf: &mut BytesMut,
    bytes_max: usize,
) -> Result<Frame, ()> {
    loop {
        match codec::frame(buf, bytes_max) {
            Frame::Need(_) => {}
            frame => return Ok(frame),
        }
        // Not MQTT: nothing but a CONNECT may come first, so do not wait for its promised length.
        if buf.first().is_some_and(|&b| b != 0x10) {
            return Ok(Frame::Malformed);
        }
        buf.reserve(1024);
        match read.read_buf(buf).await {
            Ok(n) if n > 0 => {}
            _ => return Err(()),
        }
    }
}

type Refusal = (ConnectRefusal, RefusalReason, String);

fn check(shared: &Shared, connect: Connect) -> Result<Session, Refusal> {
    let settings = &shared.settings;
    let broken = |why, text: &str| (why, RefusalReason::ProtocolError, text.to_owned());
    if connect.enhanced_auth {
        return Err(broken(
            ConnectRefusal::AuthMethod,
            "authentication methods are not offered",
        ));
    }
    let id = &connect.client_id;
    if id.len() > settings.client_id_bytes_max {
        let max = settings.client_id_bytes_max;
        let text = format!("client id of {} bytes is over the limit of {max}", id.len());
        return Err((ConnectRefusal::ClientId, RefusalReason::InvalidId, text));
    }
    if id.chars().any(char::is_control) {
        let text = "client id has a control character".to_owned();
        return Err((ConnectRefusal::ClientId, RefusalReason::InvalidId, text));
    }
    if id.is_empty() && connect.version == Version::V3 && !connect.clean {
        return Err(broken(
            ConnectRefusal::ClientId,
            "no client id and no clean session",
        ));
    }
    let credentials = Credentials {
        user: connect.user.as_deref(),
        password: connect.password.as_deref(),
        client_id: id,
    };
    let principal = shared.auth.authenticate(credentials).map_err(|error| {
        (
            ConnectRefusal::Credentials,
            RefusalReason::Unauthorized,
            error.to_string(),
        )
    })?;
    let will = check_will(shared, &principal, connect.version, connect.will)?;
    let assigned = id.is_empty();
    let client_id: Arc<str> = if assigned {
        shared.table.assign_id().into()
    } else {
        connect.client_id.into()
    };
    let max = settings.keep_alive_max_s;
    let keep_alive = match connect.keep_alive_s {
        0 => max,
        wanted => wanted.min(max),
    };
    // Version 3.1.1 cannot be told; there the longest silence is simply the setting's.
    let replaced = connect.keep_alive_s != keep_alive && connect.version == Version::V5;
    Ok(Session {
        version: connect.version,
        client_id,
        principal,
        will,
        silence_max: Duration::from_millis(u64::from(keep_alive) * 1500),
        deliveries_in_flight_max: usize::from(connect.receive_max).min(settings.deliveries_max),
        packet_bytes_max: connect.packet_bytes_max,
        reason_strings: connect.reason_strings,
        assigned,
        keep_alive_s: replaced.then_some(keep_alive),
        session_refused: connect.session_expiry_s > 0,
    })
}

/// A will is checked when it is left, because later there is nobody to tell.
fn check_will(
    shared: &Shared,
    principal: &Principal,
    version: Version,
    will: Option<Will>,
) -> Result<Option<Will>, Refusal> {
    let Some(will) = will else { return Ok(None) };
    if will.qos == 2 && version == Version::V5 {
        let text = "last will with QoS 2, which is not offered".to_owned();
        return Err((ConnectRefusal::Qos, RefusalReason::ProtocolError, text));
    }
    match event::topic::parse(&will.topic) {
        Ok(topic) if shared.auth.permit(principal, Action::Publish, &topic) => Ok(Some(will)),
        Ok(_) => {
            let topic: String = will.topic.chars().take(160).collect();
            let text = format!("last will on {topic:?}, where this user may not publish");
            Err((
                ConnectRefusal::NotAllowed,
                RefusalReason::Unauthorized,
                text,
            ))
        }
        // Many devices leave a will on a topic of their own. It would be refused when it comes, so
        // it is dropped now, and the device may send its data.
        Err(_) => Ok(None),
    }
}
