//! Packets in and out: a thin skin over the packet types of `mqtt-protocol-core`.
//!
//! Framing is done here, so that an oversized packet is known from its first five bytes and no
//! buffer is ever sized by a number that a stranger sent. Versions 3.1.1 and 5 become one set of
//! plain types; what the codec does not check (reserved bits, packet id 0, trailing bytes) is
//! checked here. [`decode`] turns a panic of the codec into an error of that one connection.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, MaximumQos, Property, ReasonString,
    ReceiveMaximum, RetainHandling, ServerKeepAlive, SessionExpiryInterval,
    SharedSubscriptionAvailable, SubscriptionIdentifierAvailable, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode,
    SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};

/// The version of MQTT that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1 (protocol level 4).
    V3,
    /// 5 (protocol level 5).
    V5,
}

/// What the first bytes of a buffer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// At least this many bytes are missing before more can be said.
    Need(usize),
    /// A whole packet: `header` bytes of fixed header, then `body` bytes.
    Whole {
        /// Length of the fixed header.
        header: usize,
        /// Length of the rest.
        body: usize,
    },
    /// A packet of `total` bytes, more than allowed; nothing of its body needs to be read.
    TooLarge {
        /// Whole size of the packet, bytes.
        total: usize,
    },
    /// A remaining length of more than four bytes.
    Malformed,
}

/// Looks for a packet at the start of `buf`; packets of more than `bytes_max` are too large.
pub fn frame(buf: &[u8], bytes_max: usize) -> Frame {
    let mut body = 0usize;
    for at in 0..4 {
        let Some(&byte) = buf.get(1 + at) else {
            return Frame::Need(2 + at - buf.len());
        };
        body |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let header = 2 + at;
            let total = header + body;
            return if total > bytes_max {
                Frame::TooLarge { total }
            } else if buf.len() < total {
                Frame::Need(total - buf.len())
            } else {
                Frame::Whole { header, body }
            };
        }
    }
    Frame::Malformed
}

/// A packet from a client.
#[derive(Debug)]
pub enum Packet {
    /// The first packet of a connection.
    Connect(Box<Connect>),
    /// A message.
    Publish(Published),
    /// The client has a delivery.
    Puback(u16),
    /// The client wants to hear topics.
    Subscribe {
        /// Packet id.
        id: u16,
        /// The filters, at least one.
        filters: Vec<Filter>,
        /// A subscription identifier was given (not offered by us).
        identifier: bool,
    },
    /// The client no longer wants to hear topics.
    Unsubscribe {
        /// Packet id.
        id: u16,
        /// The filters, at least one.
        filters: Vec<String>,
    },
    /// A sign of life.
    Pingreq,
    /// A deliberate end; with `will` the last will is wanted all the same.
    Disconnect {
        /// Reason code 4.
        will: bool,
    },
}

/// The contents of a CONNECT packet.
#[derive(Debug)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Client id; may be empty.
    pub client_id: String,
    /// Clean session or clean start.
    pub clean: bool,
    /// Keep-alive in seconds; 0 is none.
    pub keep_alive_s: u16,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Last will.
    pub will: Option<Will>,
    /// A session that outlives the connection was asked for.
    pub session_expiry_s: u32,
    /// Unacknowledged QoS 1 deliveries that the client takes.
    pub receive_max: u16,
    /// Largest packet that the client takes, bytes.
    pub packet_bytes_max: u32,
    /// The client wants reason strings.
    pub reason_strings: bool,
    /// An authentication method was asked for (none is offered).
    pub enhanced_auth: bool,
}

/// A last will.
#[derive(Debug, Clone)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
}

/// The contents of a PUBLISH packet.
#[derive(Debug)]
pub struct Published {
    /// Topic name; not empty.
    pub topic: String,
    /// Payload; shares the packet's allocation.
    pub payload: Bytes,
    /// Packet id; none at QoS 0.
    pub id: Option<u16>,
    /// 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// A topic alias was used (not offered by us).
    pub alias: bool,
}

/// One filter of a SUBSCRIBE packet.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The filter.
    pub filter: String,
    /// Wanted quality of service.
    pub qos: u8,
    /// Version 5: keep the retain flag on what is passed on.
    pub retain_as_published: bool,
    /// Version 5: what to do about retained messages.
    pub retain_handling: u8,
}

/// Why a packet was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes break the format; close the connection.
    #[error("malformed packet")]
    Malformed,
    /// The packet may not be sent now or by a client.
    #[error("packet against the protocol")]
    Protocol,
    /// A protocol level other than 4 and 5.
    #[error("unsupported protocol version")]
    Version,
    /// A client id that is not UTF-8.
    #[error("invalid client id")]
    ClientId,
    /// The codec panicked: a bug of ours or the library's; the connection is closed.
    #[error("codec panicked")]
    Panicked,
}

impl From<MqttError> for CodecError {
    fn from(e: MqttError) -> Self {
        match e {
            MqttError::UnsupportedProtocolVersion => Self::Version,
            MqttError::ClientIdentifierNotValid => Self::ClientId,
            MqttError::ProtocolError => Self::Protocol,
            _ => Self::Malformed,
        }
    }
}

/// Reads one whole packet. `version` is `None` before CONNECT, and then only CONNECT is taken.
///
/// **Errors**: [`CodecError`]; every one of them ends the connection.
pub fn decode(version: Option<Version>, first: u8, body: &[u8]) -> Result<Packet, CodecError> {
    // A panic in the codec must cost one connection, not the server.
    catch_unwind(AssertUnwindSafe(|| decode_inner(version, first, body)))
        .unwrap_or(Err(CodecError::Panicked))
}

fn decode_inner(version: Option<Version>, first: u8, body: &[u8]) -> Result<Packet, CodecError> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let Some(version) = version else {
        return match (kind, flags) {
            (1, 0) => connect(body).map(|c| Packet::Connect(Box::new(c))),
            (1, _) => Err(CodecError::Malformed),
            _ => Err(CodecError::Protocol),
        };
    };
    match (kind, flags) {
        (3, _) => publish(version, flags, body).map(Packet::Publish),
        (4, 0) => {
            let id = match version {
                Version::V3 => exact(body, v3_1_1::Puback::parse)?.packet_id(),
                Version::V5 => exact(body, v5_0::Puback::parse)?.packet_id(),
            };
            Ok(Packet::Puback(nonzero(id)?))
        }
        (8, 2) => subscribe(version, body),
        (10, 2) => unsubscribe(version, body),
        (12, 0) if body.is_empty() => Ok(Packet::Pingreq),
        (14, 0) => match version {
            Version::V3 if body.is_empty() => Ok(Packet::Disconnect { will: false }),
            Version::V3 => Err(CodecError::Malformed),
            Version::V5 => {
                let packet = exact(body, v5_0::Disconnect::parse)?;
                let code = packet.reason_code();
                Ok(Packet::Disconnect {
                    will: code.is_some_and(|c| c != DisconnectReasonCode::NormalDisconnection),
                })
            }
        },
        // PUBREC, PUBREL, PUBCOMP belong to QoS 2, which is not offered; AUTH likewise. A second
        // CONNECT and the server's own packets are against the rules.
        (1 | 2 | 5..=7 | 9 | 11 | 13 | 15, _) => Err(CodecError::Protocol),
        _ => Err(CodecError::Malformed),
    }
}

fn exact<T>(
    body: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>,
) -> Result<T, CodecError> {
    let (packet, used) = parse(body)?;
    if used == body.len() {
        Ok(packet)
    } else {
        Err(CodecError::Malformed)
    }
}

fn nonzero(id: u16) -> Result<u16, CodecError> {
    if id == 0 {
        Err(CodecError::Malformed)
    } else {
        Ok(id)
    }
}

fn connect(body: &[u8]) -> Result<Connect, CodecError> {
    // Name and level first: another protocol version deserves its own answer.
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, flags, ..] => {
            let (will, will_qos, will_retain) =
                (flags & 4 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
            if !matches!(level, 4 | 5) {
                return Err(CodecError::Version);
            }
            if flags & 1 != 0 || will_qos == 3 || (!will && (will_qos != 0 || will_retain)) {
                return Err(CodecError::Malformed);
            }
            if *level == 4 {
                connect_v3(body)
            } else {
                connect_v5(body)
            }
        }
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => Err(CodecError::Version),
        _ => Err(CodecError::Malformed),
    }
}

fn connect_v3(body: &[u8]) -> Result<Connect, CodecError> {
    let c = exact(body, v3_1_1::Connect::parse)?;
    let will = c
        .will_topic()
        .zip(c.will_payload())
        .map(|(topic, payload)| Will {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            qos: c.will_qos() as u8,
            retain: c.will_retain(),
        });
    Ok(Connect {
        version: Version::V3,
        client_id: c.client_id().to_owned(),
        clean: c.clean_session(),
        keep_alive_s: c.keep_alive(),
        user: c.user_name().map(str::to_owned),
        password: c.password().map(<[u8]>::to_vec),
        will,
        session_expiry_s: 0,
        receive_max: u16::MAX,
        packet_bytes_max: u32::MAX,
        reason_strings: false,
        enhanced_auth: false,
    })
}

fn connect_v5(body: &[u8]) -> Result<Connect, CodecError> {
    let c = exact(body, v5_0::Connect::parse)?;
    let will = c
        .will_topic()
        .zip(c.will_payload())
        .map(|(topic, payload)| Will {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            qos: c.will_qos() as u8,
            retain: c.will_retain(),
        });
    let mut connect = Connect {
        version: Version::V5,
        client_id: c.client_id().to_owned(),
        clean: c.clean_start(),
        keep_alive_s: c.keep_alive(),
        user: c.user_name().map(str::to_owned),
        password: c.password().map(<[u8]>::to_vec),
        will,
        session_expiry_s: 0,
        receive_max: u16::MAX,
        packet_bytes_max: u32::MAX,
        reason_strings: true,
        enhanced_auth: false,
    };
    for property in c.props() {
        match property {
            Property::SessionExpiryInterval(p) => connect.session_expiry_s = p.val(),
            Property::ReceiveMaximum(p) => connect.receive_max = p.val(),
            Property::MaximumPacketSize(p) => connect.packet_bytes_max = p.val(),
            Property::RequestProblemInformation(p) => connect.reason_strings = p.val() != 0,
            Property::AuthenticationMethod(_) => connect.enhanced_auth = true,
            _ => {}
        }
    }
    Ok(connect)
}

/// Lets a payload be `Bytes` without a copy.
struct Shared(ArcPayload);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

fn publish(version: Version, flags: u8, body: &[u8]) -> Result<Published, CodecError> {
    let qos = (flags >> 1) & 3;
    if qos == 3 || (qos == 0 && flags & 8 != 0) {
        return Err(CodecError::Malformed);
    }
    let data: Arc<[u8]> = Arc::from(body);
    let (topic, payload, id, alias) = match version {
        Version::V3 => {
            let (p, _) = v3_1_1::Publish::parse(flags, data)?;
            (
                p.topic_name().to_owned(),
                p.payload().clone(),
                p.packet_id(),
                false,
            )
        }
        Version::V5 => {
            let (p, _) = v5_0::Publish::parse(flags, data)?;
            let alias = p
                .props()
                .iter()
                .any(|p| matches!(p, Property::TopicAlias(_)));
            // Only a server may send subscription identifiers.
            if p.props()
                .iter()
                .any(|p| matches!(p, Property::SubscriptionIdentifier(_)))
            {
                return Err(CodecError::Protocol);
            }
            (
                p.topic_name().to_owned(),
                p.payload().clone(),
                p.packet_id(),
                alias,
            )
        }
    };
    if topic.contains(['+', '#', '\0']) || (topic.is_empty() && !alias) {
        return Err(CodecError::Malformed);
    }
    let payload = if payload.is_empty() {
        Bytes::new()
    } else {
        Bytes::from_owner(Shared(payload))
    };
    let id = id.map(nonzero).transpose()?;
    Ok(Published {
        topic,
        payload,
        id,
        qos,
        retain: flags & 1 != 0,
        alias,
    })
}

fn subscribe(version: Version, body: &[u8]) -> Result<Packet, CodecError> {
    let (id, entries, identifier) = match version {
        Version::V3 => {
            let s = exact(body, v3_1_1::Subscribe::parse)?;
            (s.packet_id(), s.entries().clone(), false)
        }
        Version::V5 => {
            let s = exact(body, v5_0::Subscribe::parse)?;
            let identifier = s
                .props()
                .iter()
                .any(|p| matches!(p, Property::SubscriptionIdentifier(_)));
            (s.packet_id(), s.entries().clone(), identifier)
        }
    };
    let filters = entries
        .iter()
        .map(|e| Filter {
            filter: e.topic_filter().to_owned(),
            qos: e.sub_opts().qos() as u8,
            retain_as_published: e.sub_opts().rap(),
            retain_handling: match e.sub_opts().rh() {
                RetainHandling::SendRetained => 0,
                RetainHandling::SendRetainedIfNotExists => 1,
                RetainHandling::DoNotSendRetained => 2,
            },
        })
        .collect();
    Ok(Packet::Subscribe {
        id: nonzero(id)?,
        filters,
        identifier,
    })
}

fn unsubscribe(version: Version, body: &[u8]) -> Result<Packet, CodecError> {
    let (id, entries) = match version {
        Version::V3 => {
            let u = exact(body, v3_1_1::Unsubscribe::parse)?;
            (u.packet_id(), u.entries().clone())
        }
        Version::V5 => {
            let u = exact(body, v5_0::Unsubscribe::parse)?;
            (u.packet_id(), u.entries().clone())
        }
    };
    let filters = entries.iter().map(|e| e.as_str().to_owned()).collect();
    Ok(Packet::Unsubscribe {
        id: nonzero(id)?,
        filters,
    })
}

/// Why a connection is refused, in the words of both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// Unknown protocol level.
    Version,
    /// The client id is not taken.
    ClientId,
    /// Wrong user or password.
    Credentials,
    /// The last will (or the user) is not allowed.
    NotAllowed,
    /// A last will with QoS 2.
    Qos,
    /// No authentication method is offered.
    AuthMethod,
    /// A packet larger than a CONNECT may be.
    TooLarge,
}

/// What an accepted connection is told.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    /// The id that was given to a client without one.
    pub assigned_id: Option<&'a str>,
    /// The keep-alive that replaces the wanted one, seconds.
    pub keep_alive_s: Option<u16>,
    /// Unacknowledged publishes taken at a time.
    pub receive_max: u16,
    /// Largest packet taken, bytes.
    pub packet_bytes_max: u32,
    /// The client asked for a session that outlives the connection: say that there is none.
    pub session_refused: bool,
}

/// Appends a packet to an output buffer; a packet that the codec refuses to build is left out (that
/// would be a bug of ours, and the peer times out rather than reading garbage).
fn put(out: &mut BytesMut, packet: Result<Vec<u8>, MqttError>) {
    match packet {
        Ok(bytes) => out.extend_from_slice(&bytes),
        Err(error) => tracing::error!(%error, "failed to build a packet"),
    }
}

/// CONNACK of a taken connection.
pub fn connack(out: &mut BytesMut, version: Version, accepted: Accepted<'_>) {
    match version {
        Version::V3 => put(
            out,
            v3_1_1::Connack::builder()
                .session_present(false)
                .return_code(ConnectReturnCode::Accepted)
                .build()
                .map(|p| p.to_continuous_buffer()),
        ),
        Version::V5 => put(out, connack_v5(accepted)),
    }
}

fn connack_v5(a: Accepted<'_>) -> Result<Vec<u8>, MqttError> {
    let mut props = vec![
        Property::ReceiveMaximum(ReceiveMaximum::new(a.receive_max.max(1))?),
        Property::MaximumQos(MaximumQos::new(1)?),
        Property::MaximumPacketSize(MaximumPacketSize::new(a.packet_bytes_max.max(1))?),
        Property::SubscriptionIdentifierAvailable(SubscriptionIdentifierAvailable::new(0)?),
        Property::SharedSubscriptionAvailable(SharedSubscriptionAvailable::new(0)?),
    ];
    if a.session_refused {
        props.push(Property::SessionExpiryInterval(SessionExpiryInterval::new(
            0,
        )?));
    }
    if let Some(id) = a.assigned_id {
        props.push(Property::AssignedClientIdentifier(
            AssignedClientIdentifier::new(id)?,
        ));
    }
    if let Some(s) = a.keep_alive_s {
        props.push(Property::ServerKeepAlive(ServerKeepAlive::new(s)?));
    }
    let packet = v5_0::Connack::builder()
        .session_present(false)
        .reason_code(ConnectReasonCode::Success)
        .props(props)
        .build()?;
    Ok(packet.to_continuous_buffer())
}

/// CONNACK of a refused connection. `version` is what the client spoke, as far as it is known.
pub fn connack_refused(out: &mut BytesMut, version: Version, why: ConnectRefusal) {
    use ConnectReasonCode as V5;
    use ConnectReturnCode as V3;
    let (v3, v5) = match why {
        ConnectRefusal::Version => (
            V3::UnacceptableProtocolVersion,
            V5::UnsupportedProtocolVersion,
        ),
        ConnectRefusal::ClientId => (V3::IdentifierRejected, V5::ClientIdentifierNotValid),
        ConnectRefusal::Credentials => (V3::BadUserNameOrPassword, V5::BadUserNameOrPassword),
        ConnectRefusal::NotAllowed => (V3::NotAuthorized, V5::NotAuthorized),
        ConnectRefusal::Qos => (V3::NotAuthorized, V5::QosNotSupported),
        ConnectRefusal::AuthMethod => (V3::NotAuthorized, V5::BadAuthenticationMethod),
        ConnectRefusal::TooLarge => (V3::ServerUnavailable, V5::PacketTooLarge),
    };
    match version {
        Version::V3 => put(
            out,
            v3_1_1::Connack::builder()
                .session_present(false)
                .return_code(v3)
                .build()
                .map(|p| p.to_continuous_buffer()),
        ),
        Version::V5 => put(
            out,
            v5_0::Connack::builder()
                .session_present(false)
                .reason_code(v5)
                .build()
                .map(|p| p.to_continuous_buffer()),
        ),
    }
}

/// PUBACK of a message that is on disk: the same four bytes in both versions.
pub fn puback(out: &mut BytesMut, id: u16) {
    out.put_slice(&[0x40, 2]);
    out.put_u16(id);
}

/// PUBACK of a refused message. Version 3.1.1 has no reason codes: there the message is acknowledged,
/// so that a device does not repeat for ever what will never be taken.
pub fn puback_refused(
    out: &mut BytesMut,
    version: Version,
    id: u16,
    code: PubackReasonCode,
    reason: Option<&str>,
) {
    if version == Version::V3 {
        return puback(out, id);
    }
    let mut builder = v5_0::Puback::builder().packet_id(id).reason_code(code);
    if let Some(reason) = reason.and_then(|r| ReasonString::new(r).ok()) {
        builder = builder.props(vec![Property::ReasonString(reason)]);
    }
    put(out, builder.build().map(|p| p.to_continuous_buffer()));
}

/// What a filter was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// With this quality of service, 0 or 1.
    Qos(u8),
    /// Not allowed.
    NotAuthorized,
    /// Not a filter.
    Invalid,
    /// Too many.
    Quota,
    /// Shared subscriptions are not offered.
    Shared,
}

/// SUBACK.
pub fn suback(out: &mut BytesMut, version: Version, id: u16, granted: &[Granted]) {
    match version {
        Version::V3 => {
            let codes = granted
                .iter()
                .map(|g| match g {
                    Granted::Qos(0) => SubackReturnCode::SuccessMaximumQos0,
                    Granted::Qos(_) => SubackReturnCode::SuccessMaximumQos1,
                    _ => SubackReturnCode::Failure,
                })
                .collect();
            let packet = v3_1_1::Suback::builder()
                .packet_id(id)
                .return_codes(codes)
                .build();
            put(out, packet.map(|p| p.to_continuous_buffer()));
        }
        Version::V5 => {
            let codes = granted
                .iter()
                .map(|g| match g {
                    Granted::Qos(0) => SubackReasonCode::GrantedQos0,
                    Granted::Qos(_) => SubackReasonCode::GrantedQos1,
                    Granted::NotAuthorized => SubackReasonCode::NotAuthorized,
                    Granted::Invalid => SubackReasonCode::TopicFilterInvalid,
                    Granted::Quota => SubackReasonCode::QuotaExceeded,
                    Granted::Shared => SubackReasonCode::SharedSubscriptionsNotSupported,
                })
                .collect();
            let packet = v5_0::Suback::builder()
                .packet_id(id)
                .reason_codes(codes)
                .build();
            put(out, packet.map(|p| p.to_continuous_buffer()));
        }
    }
}

/// UNSUBACK; `existed` says for each filter whether there was such a subscription.
pub fn unsuback(out: &mut BytesMut, version: Version, id: u16, existed: &[bool]) {
    match version {
        Version::V3 => {
            let packet = v3_1_1::Unsuback::builder().packet_id(id).build();
            put(out, packet.map(|p| p.to_continuous_buffer()));
        }
        Version::V5 => {
            let codes = existed
                .iter()
                .map(|&e| {
                    if e {
                        UnsubackReasonCode::Success
                    } else {
                        UnsubackReasonCode::NoSubscriptionExisted
                    }
                })
                .collect();
            let packet = v5_0::Unsuback::builder()
                .packet_id(id)
                .reason_codes(codes)
                .build();
            put(out, packet.map(|p| p.to_continuous_buffer()));
        }
    }
}

/// PINGRESP.
pub fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// PUBLISH to a client. `id` is given for QoS 1.
///
/// Written by hand: it is the same few bytes in both versions and saves two copies of the payload.
pub fn publish_out(
    out: &mut BytesMut,
    version: Version,
    topic: &str,
    payload: &[u8],
    id: Option<u16>,
    retain: bool,
) {
    let body = 2
        + topic.len()
        + if id.is_some() { 2 } else { 0 }
        + usize::from(version == Version::V5)
        + payload.len();
    out.reserve(body + 5);
    out.put_u8(0x30 | if id.is_some() { 2 } else { 0 } | u8::from(retain));
    let mut rest = body;
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        out.put_u8(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.put_u16(topic.len() as u16);
    out.put_slice(topic.as_bytes());
    if let Some(id) = id {
        out.put_u16(id);
    }
    if version == Version::V5 {
        out.put_u8(0);
    }
    out.put_slice(payload);
}

/// DISCONNECT with a reason; version 3.1.1 has none from the server, so nothing is written.
pub fn disconnect(
    out: &mut BytesMut,
    version: Version,
    code: DisconnectReasonCode,
    reason: Option<&str>,
) {
    if version == Version::V3 {
        return;
    }
    let mut builder = v5_0::Disconnect::builder().reason_code(code);
    if let Some(reason) = reason.and_then(|r| ReasonString::new(r).ok()) {
        builder = builder.props(vec![Property::ReasonString(reason)]);
    }
    put(out, builder.build().map(|p| p.to_continuous_buffer()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_without_reading_the_body() {
        #[track_caller]
        fn check(buf: &[u8], expected: Frame) {
            assert_eq!(frame(buf, 1000), expected);
        }
        check(&[], Frame::Need(2));
        check(&[0x30], Frame::Need(1));
        check(&[0xc0, 0], Frame::Whole { header: 2, body: 0 });
        check(&[0x30, 3, 0], Frame::Need(2));
        check(&[0x30, 0x80], Frame::Need(1));
        check(&[0x30, 0x80, 0x80, 0x80], Frame::Need(1));
        check(&[0x30, 0xe6, 0x07], Frame::TooLarge { total: 1001 });
        check(
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
            Frame::TooLarge { total: 268_435_460 },
        );
        check(&[0x30, 0xff, 0xff, 0xff, 0xff], Frame::Malformed);
    }

    #[test]
    fn outgoing_publishes_read_back_in_both_versions() {
        for version in [Version::V3, Version::V5] {
            for (id, len) in [(None, 0usize), (Some(7), 5), (Some(65535), 20_000)] {
                let payload = vec![0xab; len];
                let mut out = BytesMut::new();
                publish_out(&mut out, version, "a/b", &payload, id, true);
                let Frame::Whole { header, body } = frame(&out, 1 << 20) else {
                    panic!()
                };
                assert_eq!(header + body, out.len());
                let Ok(Packet::Publish(p)) = decode(Some(version), out[0], &out[header..]) else {
                    panic!("{version:?} {id:?}")
                };
                assert_eq!((p.topic.as_str(), p.id, p.retain), ("a/b", id, true));
                assert_eq!(p.payload, payload);
            }
        }
    }

    #[test]
    fn what_the_codec_lets_through_is_checked_here() {
        #[track_caller]
        fn bad(first: u8, body: &[u8], expected: CodecError) {
            assert_eq!(decode(Some(Version::V3), first, body).err(), Some(expected));
        }
        bad(0x32, b"\0\x01a\0\0x", CodecError::Malformed); // packet id 0
        bad(0x36, b"\0\x01a\0\x01x", CodecError::Malformed); // QoS 3
        bad(0x38, b"\0\x01ax", CodecError::Malformed); // DUP with QoS 0
        bad(0x30, b"\0\x01+x", CodecError::Malformed); // wildcard
        bad(0x30, b"\0\x02\xff\xfe", CodecError::Malformed); // not UTF-8
        bad(0x80, b"\0\x01\0\x01a\0", CodecError::Malformed); // reserved flags
        bad(0x82, b"\0\x01\0\x01a\x03", CodecError::Malformed); // subscribe QoS 3
        bad(0xe0, b"\0", CodecError::Malformed); // DISCONNECT with a body in 3.1.1
        bad(0x10, b"", CodecError::Protocol); // second CONNECT
        bad(0x20, b"\0\0", CodecError::Protocol); // the server's packet
        assert_eq!(decode(None, 0xc0, b"").err(), Some(CodecError::Protocol));
        let old = b"\0\x06MQIsdp\x03\x02\0\x3c\0\x01a";
        assert_eq!(decode(None, 0x10, old).err(), Some(CodecError::Version));
    }

    /// The codec's own panics are caught, but there should be none: this looks for them.
    #[test]
    fn bytes_of_chance_never_panic() {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let firsts = [0x10, 0x30, 0x32, 0x3d, 0x40, 0x82, 0xa2, 0xc0, 0xe0];
        for round in 0..60_000 {
            let mut first = firsts[round % firsts.len()];
            if round % 13 == 0 {
                first = next();
            }
            // Small numbers make lengths that fit, so the parsers get further.
            let small = round % 2 == 0;
            let len = usize::from(next()) % 48;
            let mut body: Vec<u8> = (0..len)
                .map(|_| if small { next() % 8 } else { next() })
                .collect();
            if first == 0x10 && round % 3 != 0 {
                let level = 4 + (round % 2) as u8;
                body.splice(0..0, [0, 4, b'M', b'Q', b'T', b'T', level]);
            }
            for version in [None, Some(Version::V3), Some(Version::V5)] {
                let result = decode(version, first, &body);
                assert!(
                    !matches!(result, Err(CodecError::Panicked)),
                    "{version:?} {first:02x} {body:02x?}"
                );
            }
        }
    }
}
