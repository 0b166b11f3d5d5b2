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
    /// When its newest message was taken, and when it measures next.
    taken: i64,
    due: i64,
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
            due: i64::MIN,
            number,
        })
    }

    /// What it sends now: its message that is not taken yet, or a new one if it is time for one. Between `end`
    /// and `past` it measures nothing.
    pub fn message(&mut self, now: i64, (end, past): (i64, i64), rng: &mut Rng) -> Option<String> {
        if self.message.is_none() {
            if now < self.due {
                return None;
            }
            self.due = now + rng.range(8 * MINUTE, 13 * MINUTE);
            if self.due > end {
                self.due = self.due.max(past);
            }
            let value = rng.range(0, 4000) as f64 / 4.0;
            // Odd ones have no clock: the time of their message is that of its arrival.
            let ts = match self.number % 2 {
                0 => format!("\"ts\":{},", now / 1000),
                _ => String::new(),
            };
            self.message = Some(format!(
                "{{{ts}\"values\":{{\"m0\":{value},\"m2\":{}}},\"attributes\":{{\"site\":\"s{}\"}}}}",
                rng.chance(500),
                1 + self.number % 2
            ));
        }
        self.message.clone()
    }

    /// Its message is durable.
    pub fn taken(&mut self, now: i64) {
        self.message = None;
        self.taken = now;
    }

    /// When it looks again whether it has something to send.
    pub fn next(&self, now: i64, rng: &mut Rng) -> i64 {
        match self.message {
            Some(_) => now + rng.range(MINUTE / 3, MINUTE),
            None => self.due.max(now),
        }
    }

    /// Whether a message was taken after `past`.
    pub fn is_done(&self, past: i64) -> bool {
        self.taken >= past
    }
}
