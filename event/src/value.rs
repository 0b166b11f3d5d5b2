//! What a sensor reports: one value of one metric of one device at one time.

use std::sync::Arc;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use crate::{DeviceId, EventTime, MetricName};

/// Longest text value in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A measured value.
///
/// **Range**: numbers are finite IEEE doubles (NaN and infinities are refused at every door; whole
/// numbers beyond 2^53 lose their last digits). Texts have at most [`TEXT_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A finite number.
    Number(#[serde(deserialize_with = "finite")] f64),
    /// Yes or no. In aggregates it counts as 1 or 0.
    Bool(bool),
    /// A text, such as a state's name. In aggregates it counts, but has no minimum, maximum or mean.
    Text(#[serde(deserialize_with = "short")] Arc<str>),
}

fn finite<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    let n = f64::deserialize(d)?;
    match n.is_finite() {
        true => Ok(n),
        false => Err(D::Error::custom("a number that is not finite")),
    }
}

fn short<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<str>, D::Error> {
    let text = String::deserialize(d)?;
    match text.len() <= TEXT_BYTES_MAX {
        true => Ok(text.into()),
        false => Err(D::Error::custom("a text of more than 1024 bytes")),
    }
}

impl Value {
    /// The value as a number: booleans are 0 or 1, texts none.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            Self::Text(_) => None,
        }
    }
}

/// One event in its owned form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The device it is about.
    pub device: DeviceId,
    /// What was measured.
    pub metric: MetricName,
    /// When, by the device's clock.
    pub time: EventTime,
    /// The value.
    pub value: Value,
}
