//! Where readings come from. A source is a small task that reads something and pushes into its
//! [`Feed`]; it never sees the buffer.
//!
//! A source that can read its input again hands a cursor with its readings. The cursor is stored in
//! the same transaction, so that after any crash it resumes behind the last stored reading: each is
//! taken exactly once.

pub mod change;
mod decode;
pub mod exec;
pub mod file;
mod hash;
pub mod host;
mod json;
pub mod line_protocol;
mod lines;
mod mapping;
pub mod mqtt;
pub mod own;
pub mod socket;
pub mod statsd;
pub mod stdin;
pub mod sysfs;
mod tags;
pub mod tail;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use event::{DeviceId, MetricName, Value};

pub use decode::Decoding;
pub(crate) use hash::fnv1a;
pub use mapping::{Mapping, MappingError, TimeFormat};
pub use tags::TagRules;

use crate::buffer::{Cursor, Faults};
use crate::config::{Source, SourceKind};
use crate::inbox::{self, Closed, Inbox, Position, Reading, SourceId, Ticket};
use crate::rules::Rules;

/// Devices whose attributes have been sent are remembered up to this number.
const SEEN_MAX: usize = 65_536;
/// So many bad rows are logged one by one, then each thousandth.
const LOGGED_ONE_BY_ONE: u64 = 10;

/// What a source has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rows, lines or rounds read.
    pub rows: u64,
    /// Readings handed on.
    pub readings: u64,
    /// Rows or values refused, with a reason in the log.
    pub bad: u64,
    /// Readings left out because they say nothing new ([`change`]).
    pub left_out: u64,
}

/// A source that cannot be read, or no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source {name:?} cannot be read: {reason}")]
pub struct Unreadable {
    /// The source's name.
    pub name: String,
    /// What is wrong, and where known the remedy.
    pub reason: String,
}

/// Opens the files to be replayed and looks for the columns that the configuration names.
///
/// **Errors**: the first source that could not be read.
pub fn check(sources: &[Source]) -> Result<(), Unreadable> {
    for source in sources {
        if let SourceKind::File(settings) = &source.kind {
            file::check(settings).map_err(|error| Unreadable {
                name: source.name.clone(),
                reason: error.to_string(),
            })?;
        }
    }
    Ok(())
}

/// A source's way into the agent.
#[derive(Debug)]
pub struct Feed {
    inbox: Arc<Inbox>,
    id: SourceId,
    name: String,
    attributes: Vec<(MetricName, Value)>,
    seen: HashSet<DeviceId>,
    filter: change::Filter,
    /// Where its series are made known as faults, if they are.
    faults: Option<Faults>,
    faults_full: bool,
    rules: Rules,
    /// Whether readings without a time of their own are of now.
    fresh: bool,
    counts: Counts,
}

impl Feed {
    /// Makes a source known as `name`, which must be unique in the agent. Nothing is sent before it
    /// has said where it stands ([`Self::stand_at`] or [`Self::push`]).
    ///
    /// `attributes` are sent for a device when it is first seen in this life of the agent.
    pub fn new(
        inbox: Arc<Inbox>,
        name: String,
        attributes: &BTreeMap<String, String>,
    ) -> Result<Self, event::IdError> {
        let attributes = attributes
            .iter()
            .map(|(name, text)| {
                Ok((
                    MetricName::attribute(name)?,
                    Value::Text(text.as_str().into()),
                ))
            })
            .collect::<Result<_, event::IdError>>()?;
        let id = inbox.register(Position::Starting);
        Ok(Self {
            inbox,
            id,
            name,
            attributes,
            seen: HashSet::new(),
            filter: change::Filter::new(change::Settings::default()),
            faults: None,
            faults_full: false,
            rules: Rules::default(),
            fresh: true,
            counts: Counts::default(),
        })
    }

    /// Leaves out readings that say nothing new.
    pub fn on_change(mut self, settings: change::Settings) -> Self {
        self.filter = change::Filter::new(settings);
        self
    }

    /// Everything of this source is a fault: the buffer gives it up last.
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Has rules look at every reading, those that are left out, too.
    pub fn watched_by(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Says whether readings without a time of their own are of now (they are at first). While a source
    /// catches up with what it missed they are not, and no rule looks at them.
    pub fn set_fresh(&mut self, fresh: bool) {
        self.fresh = fresh;
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The agent's shared inbox.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Says what times are still to come.
    pub fn stand_at(&self, position: Position) {
        self.inbox.set_position(self.id, position);
    }

    /// One row was read, good or bad.
    pub fn count_row(&mut self) {
        self.counts.rows += 1;
    }

    /// Counts and logs something that cannot be taken; the rest goes on.
    pub fn refuse(&mut self, line: u64, reason: &str) {
        self.counts.bad += 1;
        let bad = self.counts.bad;
        if bad <= LOGGED_ONE_BY_ONE || bad.is_multiple_of(1000) {
            tracing::warn!(source = self.name, line, reason, bad, "not taken");
        }
    }

    /// Hands readings on, with the source's cursor behind them if it can read again. Waits while
    /// the agent has enough to do. Values that cannot be events are counted and left out.
    ///
    /// **Errors**: the agent stops.
    pub async fn push(
        &mut self,
        line: u64,
        readings: Vec<Reading>,
        cursor: Option<Vec<u8>>,
        position: Option<Position>,
    ) -> Result<(), Closed> {
        self.rules.room().await;
        let taken = self.taken(line, readings);
        let cursor = self.cursor(cursor);
        if taken.is_empty() && cursor.is_none() {
            if let Some(position) = position {
                self.stand_at(position);
            }
            return Ok(());
        }
        self.inbox
            .push(self.id, taken, cursor, position, false)
            .await
    }

    /// Hands readings on as [`Self::push`] does, for a source that wants to know when they are on disk:
    /// [`Inbox::on_disk`] tells of the ticket. `urgent` asks for a commit at once.
    ///
    /// **Errors**: the agent stops.
    pub async fn push_live(
        &mut self,
        line: u64,
        readings: Vec<Reading>,
        cursor: Option<Vec<u8>>,
        urgent: bool,
    ) -> Result<Ticket, Closed> {
        self.rules.room().await;
        let taken = self.taken(line, readings);
        let cursor = self.cursor(cursor);
        if taken.is_empty() && cursor.is_none() {
            return Ok(Ticket::default());
        }
        self.inbox.push_live(self.id, taken, cursor, urgent).await
    }

    fn cursor(&self, position: Option<Vec<u8>>) -> Option<Cursor> {
        position.map(|position| Cursor {
            source: self.name.clone(),
            position,
        })
    }

    /// Makes a series known as a fault, if this is a source of faults. False if there are too many.
    fn note_fault(&self, device: &DeviceId, metric: &MetricName) -> bool {
        let faults = self.faults.as_ref();
        faults.is_none_or(|faults| faults.add(device, metric))
    }

    /// What can be taken, with the attributes of devices seen for the first time.
    fn taken(&mut self, line: u64, readings: Vec<Reading>) -> Vec<Reading> {
        let mut taken = Vec::with_capacity(readings.len() + self.attributes.len());
        for reading in readings {
            if let Err(reason) = inbox::check(&reading.value) {
                self.refuse(line, &format!("{}: {reason}", reading.metric));
                continue;
            }
            if self.fresh || reading.time.is_some() {
                self.rules.take(&reading);
            }
            let now = || self.inbox.clock().wall();
            if !self.filter.passes(&reading, now) {
                self.counts.left_out += 1;
                continue;
            }
            if !self.note_fault(&reading.device, &reading.metric)
                && !std::mem::replace(&mut self.faults_full, true)
            {
                tracing::warn!(
                    source = self.name,
                    "there are more series of priority \"fault\" than can be remembered (65,536): further \
                     ones are kept like any others; give that priority to fewer sources"
                );
            }
            if !self.attributes.is_empty() && !self.seen.contains(&reading.device) {
                if self.seen.len() >= SEEN_MAX {
                    self.seen.clear();
                }
                self.seen.insert(reading.device.clone());
                for (metric, _) in &self.attributes {
                    // Faults are stored before others: its attributes must not come after them.
                    self.note_fault(&reading.device, metric);
                }
                taken.extend(self.attributes.iter().map(|(metric, value)| Reading {
                    device: reading.device.clone(),
                    metric: metric.clone(),
                    time: reading.time,
                    value: value.clone(),
                }));
            }
            taken.push(reading);
        }
        self.counts.readings += taken.len() as u64;
        taken
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // However a source ends, it must not hold the agent's watermark for ever.
        self.stand_at(Position::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Settings, open_backend};
    use crate::clock::{Clock, Quality};
    use event::{AgentId, EventTime};

    #[tokio::test]
    async fn what_a_fault_source_delivers_outlives_the_rest() {
        let settings = Settings {
            bytes_max: 1500,
            overflow: crate::buffer::Overflow::DropOldest,
            chunk_bytes: 200,
            ..Settings::default()
        };
        let inbox = Inbox::new(inbox::Settings::default(), Clock::new(Quality::None));
        let attributes = BTreeMap::from([("site".to_owned(), "plant".to_owned())]);
        let feed = |name: &str| Feed::new(inbox.clone(), name.to_owned(), &attributes).unwrap();
        let mut alarms = feed("alarms").with_faults(settings.faults.clone());
        let mut others = feed("others");
        let reading = |metric: &str, n: u32| Reading {
            device: DeviceId::new("d").unwrap(),
            metric: MetricName::new(metric).unwrap(),
            time: Some(EventTime::from_secs(i64::from(n))),
            value: Value::Number(f64::from(n).sqrt()),
        };
        let agent = AgentId::new("gw").unwrap();
        let backend = redb::backends::InMemoryBackend::new();
        let mut buffer = open_backend(backend, &agent, &settings, 1, EventTime(0)).unwrap();
        for n in 0..300 {
            // Both are of the same device and wait for the same commit.
            let push = others.push(1, vec![reading("t", n); 3], None, None);
            push.await.unwrap();
            if n == 20 {
                let push = alarms.push(1, vec![reading("alarm", n)], None, None);
                push.await.unwrap();
            }
            let pending = inbox.wait(None, true).1.unwrap();
            let now = EventTime::from_secs(i64::from(n));
            buffer.append(&pending.samples, &[], true, now).unwrap();
            inbox.stored(pending);
        }
        assert!(buffer.dropped() > 300);
        let oldest = buffer.next_before(buffer.end(), &[], 2).unwrap();
        let (_, samples) = buffer.take(oldest).unwrap().unwrap();
        let metrics: Vec<&str> = samples.iter().map(|s| s.metric.as_str()).collect();
        assert_eq!(metrics, ["@site", "alarm"]);
        assert_eq!(buffer.held().oldest, Some(EventTime::from_secs(20)));
    }
}
