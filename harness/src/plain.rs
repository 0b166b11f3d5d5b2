//! A device without our agent: plain JSON, sent again until it is taken.

use event::DeviceId;

use crate::rng::Rng;
use crate::scenario::MINUTE;

/// A plain device. It keeps one message at a time, until its PUBACK.
#[derive(Debug)]
pub struct PlainDevice {
    /// Its id.
    pub id: DeviceId,
    /// The message that is not acknowledged yet.
    pub message: Option<String>,
    /// When its newest message was taken.
    taken: i64,
    number: usize,
}

impl PlainDevice {
    /// A device that has sent nothing.
    ///
    /// **Errors**: the id is none.
    pub fn new(id: &str, number: usize) -> Result<Self, String> {
        Ok(Self {
            id: DeviceId::new(id).map_err(|e| e.to_string())?,
            message: None,
            taken: i64::MIN,
            number,
        })
    }

    /// Measures, if its last message was taken.
    pub fn measure(&mut self, now: i64, rng: &mut Rng) -> String {
        let number = self.number;
        self.message
            .get_or_insert_with(|| {
                let value = rng.range(0, 4000) as f64 / 4.0;
                // Odd ones have no clock: the time of their message is that of its arrival.
                let ts = match number % 2 {
                    0 => format!("\"ts\":{},", now / 1000),
                    _ => String::new(),
                };
                format!(
                    "{{{ts}\"values\":{{\"m0\":{value},\"m2\":{}}},\"attributes\":{{\"site\":\"s{}\"}}}}",
                    rng.chance(500),
                    1 + number % 2
                )
            })
            .clone()
    }

    /// Its message is durable.
    pub fn taken(&mut self, now: i64) {
        self.message = None;
        self.taken = now;
    }

    /// When it sends next. Between `end` and `past` it measures nothing new.
    pub fn next(&self, now: i64, (end, past): (i64, i64), rng: &mut Rng) -> i64 {
        match self.message {
            Some(_) => now + rng.range(MINUTE / 3, MINUTE),
            None => {
                let at = now + rng.range(8 * MINUTE, 13 * MINUTE);
                if at > end { at.max(past) } else { at }
            }
        }
    }

    /// Whether a message made after `past` was taken.
    pub fn is_done(&self, past: i64) -> bool {
        self.taken >= past && self.message.is_none()
    }
}
