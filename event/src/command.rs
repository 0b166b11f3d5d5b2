//! An order to a device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ack::{decode_versioned, encode_versioned};
use crate::{DecodeError, DeviceId, EventTime};

/// Most bytes of an encoded command.
pub const BYTES_MAX: usize = 64 << 10;

/// One command. It runs at most once on its device, however often it is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Stable id; the device remembers it together with the result.
    pub id: String,
    /// The device it is for.
    pub device: DeviceId,
    /// Name on the device's allow-list.
    pub name: String,
    /// Values for the allow-list's argument template.
    pub args: BTreeMap<String, String>,
    /// When it was given, by the cloud's clock.
    pub issued_at: EventTime,
    /// From this time on it must not start.
    pub expires_at: EventTime,
}

impl Command {
    /// The bytes on the wire: version 1, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(self)
    }

    /// Reads a command.
    ///
    /// **Errors**: unknown version, too large, or bytes that do not decode.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_versioned(bytes, BYTES_MAX, "command")
    }
}
