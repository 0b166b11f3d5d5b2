//! From bytes to packets. The codec is rumqttc's; here is what it does not do: read past a message that
//! is too large, instead of ending a connection on which the broker would send it again for ever.

use bytes::{Buf as _, BytesMut};
use rumqttc::Packet;

/// Largest packet taken whole, bytes: the largest payload that can be configured, with any topic.
const PACKET_BYTES_MAX: usize = (1 << 20) + (66 << 10);
/// Types of packets that a broker sends to one who only subscribes: CONNACK, PUBLISH, SUBACK, UNSUBACK,
/// PINGRESP.
const TYPES: [u8; 5] = [2, PUBLISH, 9, 11, 13];
const PUBLISH: u8 = 3;

/// What was read.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    Packet(Packet),
    /// A message that is read past: its size, its topic, and its identifier if it is to be
    /// acknowledged.
    TooLarge(usize, String, Option<u16>),
}

/// Bytes of a connection that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub bytes: BytesMut,
    /// Bytes still to come that are read past.
    skip: usize,
}

impl Incoming {
    /// The next packet; none until more bytes are there.
    ///
    /// **Errors**: this is no MQTT; a text for people. The connection cannot go on.
    pub fn next(&mut self) -> Result<Option<Item>, String> {
        let passed = self.skip.min(self.bytes.len());
        self.bytes.advance(passed);
        self.skip -= passed;
        let Some((first, header, remaining)) = header(&self.bytes)? else {
            return Ok(None);
        };
        let (kind, total) = (first >> 4, header + remaining);
        if !TYPES.contains(&kind) {
            return Err(format!("the broker sends a packet of type {kind}"));
        }
        if total > PACKET_BYTES_MAX {
            if kind != PUBLISH {
                return Err(format!("the broker sends a packet of {total} bytes"));
            }
            let Some((topic, id)) = start(&self.bytes, first, header) else {
                return Ok(None);
            };
            self.skip = total;
            return Ok(Some(Item::TooLarge(total, topic, id)));
        }
        if self.bytes.len() < total {
            self.bytes.reserve(total - self.bytes.len());
            return Ok(None);
        }
        let packet = Packet::read(&mut self.bytes, PACKET_BYTES_MAX);
        packet
            .map(|p| Some(Item::Packet(p)))
            .map_err(|e| format!("the broker sends what is no MQTT: {e}"))
    }
}

/// The first byte, the length of the fixed header and that of the rest.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, String> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut remaining = 0;
    for (i, byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((*first, i + 2, remaining)));
        }
    }
    match rest.len() {
        0..4 => Ok(None),
        _ => Err("the broker sends a length that is no MQTT".to_owned()),
    }
}

/// Topic and identifier of a message; none until they are there.
fn start(bytes: &[u8], first: u8, header: usize) -> Option<(String, Option<u16>)> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let len = usize::from(u16_at(header)?);
    let topic = bytes.get(header + 2..header + 2 + len)?;
    let topic = String::from_utf8_lossy(topic).into_owned();
    let has_id = first & 0b0110 != 0;
    let id = match has_id {
        true => Some(u16_at(header + 2 + len)?),
        false => None,
    };
    Some((topic, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::{Publish, QoS};

    fn message(topic: &str, qos: QoS, bytes: usize) -> Packet {
        let mut publish = Publish::new(topic, qos, vec![b'x'; bytes]);
        publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 7 };
        Packet::Publish(publish)
    }

    #[test]
    fn packets_come_however_the_bytes_do_and_large_ones_are_read_past() {
        let packets = [
            message("a/b", QoS::AtLeastOnce, 10),
            message("large/1", QoS::AtLeastOnce, 3 << 20),
            Packet::PingResp,
            message("large/0", QoS::AtMostOnce, 3 << 20),
            message("fits", QoS::AtLeastOnce, 1 << 20),
            message("a/b", QoS::AtMostOnce, 0),
        ];
        let mut bytes = BytesMut::new();
        for packet in &packets {
            packet.write(&mut bytes, usize::MAX).unwrap();
        }
        for step in [997, 65_536, bytes.len()] {
            let mut incoming = Incoming::default();
            let mut got = Vec::new();
            for part in bytes.chunks(step) {
                incoming.bytes.extend_from_slice(part);
                while let Some(item) = incoming.next().unwrap() {
                    got.push(item);
                }
                assert!(incoming.bytes.len() <= PACKET_BYTES_MAX + step);
            }
            let large = |n: usize, topic: &str, id| Item::TooLarge(n, topic.to_owned(), id);
            let mut expected: Vec<Item> = packets.iter().cloned().map(Item::Packet).collect();
            expected[1] = large((3 << 20) + 5 + 2 + 7 + 2, "large/1", Some(7));
            expected[3] = large((3 << 20) + 5 + 2 + 7, "large/0", None);
            assert!(got == expected, "{step}: {} packets", got.len());
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for bad in [
            &[0x30, 255, 255, 255, 255][..],
            &[0xa2, 0],
            &[0x20, 255, 255, 255, 1],
            &[0x90, 0],
        ] {
            let mut incoming = Incoming::default();
            incoming.bytes.extend_from_slice(bad);
            assert!(incoming.next().is_err(), "{bad:?}");
        }
        let mut incoming = Incoming::default();
        incoming.bytes.extend_from_slice(&[0x30, 255]);
        assert_eq!(incoming.next(), Ok(None));
    }
}
