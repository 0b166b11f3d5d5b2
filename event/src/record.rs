//! What stands in the event log: everything that can change the processor's state.
//!
//! Bytes: one tag, then the raw batch as it came (tag 1) or postcard (all others).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::operate::OPERATION_BYTES_MAX;
use crate::order::{CommandControl, Order, checked};
use crate::value::TEXT_BYTES_MAX;
use crate::{
    AgentId, AggregateSpec, DecodeError, DeviceId, EventTime, Function, IngestTime, MetricName,
    RefusalReason, SpecError, Status, Value,
};

const TAG_BATCH: u8 = 1;
const TAG_PLAIN: u8 = 2;
const TAG_REFUSED: u8 = 3;
const TAG_STATUS: u8 = 4;
const TAG_TICK: u8 = 5;
const TAG_GAP: u8 = 6;
/// A declaration whose aggregates have no hop. It is still read, no longer written.
const TAG_DECLARE_TUMBLING: u8 = 7;
const TAG_DECLARE: u8 = 8;
const TAG_SET_AGGREGATE: u8 = 9;
const TAG_REMOVE_AGGREGATE: u8 = 10;
const TAG_SET_RULE: u8 = 11;
const TAG_REMOVE_RULE: u8 = 12;
const TAG_SET_DEVICE: u8 = 13;
const TAG_DECOMMISSION: u8 = 14;
const TAG_RELEASE: u8 = 15;
const TAG_RETAIN: u8 = 16;
const TAG_OPERATE: u8 = 17;
const TAG_COMMAND: u8 = 18;
const TAG_COMMAND_CONTROL: u8 = 19;

/// Most attributes that one [`DeviceChange`] names.
pub const ATTRIBUTES_MAX: usize = 64;

/// One value of a plain device (no agent of ours, so no seq).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlainSample {
    /// What was measured (`@name` for an attribute).
    pub metric: MetricName,
    /// When; none = the block's ingest time.
    pub time: Option<EventTime>,
    /// The value.
    pub value: Value,
}

/// One message of a plain device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plain {
    /// The device, which is its own agent.
    pub device: DeviceId,
    /// What it said.
    pub samples: Vec<PlainSample>,
}

/// Input that was refused at the door. It is not data, but people must be able to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Client id or topic, at most 128 characters.
    pub source: String,
    /// The agent, if it is known.
    pub agent: Option<AgentId>,
    /// Why.
    pub reason: RefusalReason,
    /// For people, at most 256 characters.
    pub message: String,
    /// How many messages (or fields of messages) this stands for.
    pub count: u32,
    /// Their size, bytes.
    pub bytes: u64,
}

/// A status message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Whose.
    pub agent: AgentId,
    /// What it says.
    pub status: Status,
}

/// Aggregates and rules as declared by config. Each partition gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Declaration {
    /// All aggregates; one that is no longer named is dropped.
    pub aggregates: Vec<AggregateSpec>,
    /// All rules as JSON texts, because this crate does not know what a rule is.
    pub rules: Vec<String>,
}

/// What an operator says of a device. It goes over what the device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChange {
    /// Which device.
    pub device: DeviceId,
    /// Attributes, named as the metrics that carry them (`@site`), and their texts; none removes
    /// what an operator said before.
    pub attributes: Vec<(MetricName, Option<String>)>,
}

impl DeviceChange {
    /// Checks the change: 1 to [`ATTRIBUTES_MAX`] attributes, none twice, each named with `@`, texts of
    /// at most [`TEXT_BYTES_MAX`] bytes.
    ///
    /// **Errors**: what is wrong and what would be right. Such a record is refused when it is read, too.
    pub fn check(&self) -> Result<(), SpecError> {
        let err = |message: String| {
            Err(SpecError {
                field: "attributes",
                message,
            })
        };
        let count = self.attributes.len();
        if count == 0 || count > ATTRIBUTES_MAX {
            return err(format!("{count} are named; name 1 to {ATTRIBUTES_MAX}"));
        }
        for (i, (name, text)) in self.attributes.iter().enumerate() {
            if name.as_attribute().is_none() {
                return err(format!("{name} is a metric; an attribute is @{name}"));
            }
            if self.attributes[..i].iter().any(|(n, _)| n == name) {
                return err(format!("{name} is named twice"));
            }
            let len = text.as_ref().map_or(0, String::len);
            if len > TEXT_BYTES_MAX {
                return err(format!(
                    "{name} has {len} bytes; at most {TEXT_BYTES_MAX} are taken"
                ));
            }
        }
        Ok(())
    }
}

/// Count after all what was quarantined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The number under which the quarantine holds it. What is not held (any more) is not counted, so
    /// a release that comes twice counts once.
    pub id: u64,
    /// Added to its event times, microseconds.
    pub shift: i64,
    /// The quarantined record's bytes as the quarantine stored them; never a release.
    pub record: Vec<u8>,
}

/// How long results are kept, microseconds, counted back from the newest event time: whole panes, then
/// hours, then days. An event older than a tier revises the coarser ones; one older than all goes to the
/// ledger of what was too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Panes, and the windows made of them.
    pub panes: i64,
    /// Hours.
    pub hours: i64,
    /// Days.
    pub days: i64,
}

impl Default for Retention {
    /// 48 hours, 30 days, 400 days.
    fn default() -> Self {
        const DAY: i64 = 86_400_000_000;
        Self {
            panes: 2 * DAY,
            hours: 30 * DAY,
            days: 400 * DAY,
        }
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A batch, byte for byte as it came.
    Batch(Vec<u8>),
    /// A plain device's message.
    Plain(Plain),
    /// Something refused at the door.
    Refused(Refused),
    /// An agent's status.
    Status(StatusRecord),
    /// Time goes on in an idle partition.
    Tick,
    /// Nothing could enter the log in this stretch of ingest time; silence timers do not count it.
    AvailabilityGap {
        /// The last ingest time before it.
        from: IngestTime,
        /// The first ingest time after it.
        to: IngestTime,
    },
    /// Aggregates and rules of the configuration.
    Declare(Declaration),
    /// One aggregate more, or another form of the one with that name.
    SetAggregate(AggregateSpec),
    /// The aggregate of that name is no more.
    RemoveAggregate(String),
    /// One rule more, or another form of the one with that name, as JSON.
    SetRule(String),
    /// The rule of that name is no more.
    RemoveRule(String),
    /// An operator changes a device's attributes.
    SetDevice(DeviceChange),
    /// The device is no longer expected.
    Decommission(DeviceId),
    /// Something leaves the quarantine.
    Release(Release),
    /// How long results are kept from now on.
    Retain(Retention),
    /// What an operator does about alerts, as JSON ([`crate::Operation`]); in partition 0 only. At most
    /// [`OPERATION_BYTES_MAX`] bytes.
    Operate(String),
    /// A command to a device; in a partition that knows the device.
    Command(Order),
    /// What steers commands.
    CommandControl(CommandControl),
}

/// A record as it is read: a batch stays where it is.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordRef<'a> {
    /// A raw batch, for [`crate::batch::peek`].
    Batch(&'a [u8]),
    /// Any other record.
    Other(Record),
}

impl Record {
    /// The bytes in the log.
    pub fn encode(&self) -> Vec<u8> {
        fn body<T: Serialize>(tag: u8, value: &T) -> Vec<u8> {
            // Fails only for values of unknown length, which records do not have.
            postcard::to_extend(value, vec![tag]).unwrap_or_default()
        }
        match self {
            Self::Batch(raw) => Self::encode_batch(raw),
            Self::Plain(r) => body(TAG_PLAIN, r),
            Self::Refused(r) => body(TAG_REFUSED, r),
            Self::Status(r) => body(TAG_STATUS, r),
            Self::Tick => vec![TAG_TICK],
            Self::AvailabilityGap { from, to } => body(TAG_GAP, &(from, to)),
            Self::Declare(r) => body(TAG_DECLARE, r),
            Self::SetAggregate(r) => body(TAG_SET_AGGREGATE, r),
            Self::RemoveAggregate(name) => body(TAG_REMOVE_AGGREGATE, name),
            Self::SetRule(json) => body(TAG_SET_RULE, json),
            Self::RemoveRule(name) => body(TAG_REMOVE_RULE, name),
            Self::SetDevice(r) => body(TAG_SET_DEVICE, r),
            Self::Decommission(device) => body(TAG_DECOMMISSION, device),
            Self::Release(r) => body(TAG_RELEASE, r),
            Self::Retain(r) => body(TAG_RETAIN, r),
            Self::Operate(json) => body(TAG_OPERATE, json),
            Self::Command(r) => body(TAG_COMMAND, r),
            Self::CommandControl(r) => body(TAG_COMMAND_CONTROL, r),
        }
    }

    /// The bytes of a batch record, without reading the batch.
    pub fn encode_batch(raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(raw.len() + 1);
        out.push(TAG_BATCH);
        out.extend_from_slice(raw);
        out
    }
}

impl<'a> RecordRef<'a> {
    /// The raw batch, if the record is one; other records are not looked at.
    pub fn as_batch(bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes
            .split_first()
            .filter(|r| *r.0 == TAG_BATCH)
            .map(|r| r.1)
    }

    /// Reads a record.
    ///
    /// **Errors**: an unknown tag (a newer version wrote the log) or bytes that do not decode.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&tag, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        fn body<'a, T: Deserialize<'a>>(
            rest: &'a [u8],
            what: &'static str,
        ) -> Result<T, DecodeError> {
            postcard::from_bytes(rest).map_err(|_| DecodeError::Invalid { what, at: 1 })
        }
        Ok(Self::Other(match tag {
            TAG_BATCH => return Ok(Self::Batch(rest)),
            TAG_PLAIN => Record::Plain(body(rest, "plain record")?),
            TAG_REFUSED => Record::Refused(body(rest, "refused record")?),
            TAG_STATUS => Record::Status(body(rest, "status record")?),
            TAG_TICK => Record::Tick,
            TAG_GAP => {
                let (from, to) = body(rest, "gap record")?;
                Record::AvailabilityGap { from, to }
            }
            TAG_DECLARE_TUMBLING => {
                let old: TumblingDeclaration = body(rest, "declaration record")?;
                Record::Declare(old.into())
            }
            TAG_DECLARE => Record::Declare(body(rest, "declaration record")?),
            TAG_SET_AGGREGATE => Record::SetAggregate(body(rest, "aggregate record")?),
            TAG_REMOVE_AGGREGATE => {
                Record::RemoveAggregate(body(rest, "record that removes an aggregate")?)
            }
            TAG_SET_RULE => Record::SetRule(body(rest, "rule record")?),
            TAG_REMOVE_RULE => Record::RemoveRule(body(rest, "record that removes a rule")?),
            TAG_SET_DEVICE => {
                let change: DeviceChange = body(rest, "device record")?;
                let what = "list of attributes";
                change
                    .check()
                    .map_err(|_| DecodeError::Invalid { what, at: 1 })?;
                Record::SetDevice(change)
            }
            TAG_DECOMMISSION => Record::Decommission(body(rest, "decommission record")?),
            TAG_RELEASE => {
                let release: Release = body(rest, "release record")?;
                // Reading one inside the other would have no end that is known beforehand.
                if release.record.first() == Some(&TAG_RELEASE) {
                    let what = "release in a release";
                    return Err(DecodeError::Invalid { what, at: 1 });
                }
                Record::Release(release)
            }
            TAG_RETAIN => {
                let keep: Retention = body(rest, "retention record")?;
                if [keep.panes, keep.hours, keep.days].iter().any(|t| *t <= 0) {
                    let what = "retention that is not positive";
                    return Err(DecodeError::Invalid { what, at: 1 });
                }
                Record::Retain(keep)
            }
            TAG_OPERATE => {
                let json: &str = body(rest, "operator record")?;
                if json.len() > OPERATION_BYTES_MAX {
                    let what = "operation of more than 16 KiB";
                    return Err(DecodeError::Invalid { what, at: 1 });
                }
                Record::Operate(json.to_owned())
            }
            TAG_COMMAND => {
                let what = "command record";
                Record::Command(checked(body(rest, what)?, Order::check, what)?)
            }
            TAG_COMMAND_CONTROL => {
                let what = "record that steers commands";
                let control = checked(body(rest, what)?, CommandControl::check, what)?;
                Record::CommandControl(control)
            }
            found => return Err(DecodeError::UnknownVersion { found }),
        }))
    }
}

/// [`Declaration`] as it was before aggregates had a hop.
#[derive(Deserialize)]
struct TumblingDeclaration {
    aggregates: Vec<TumblingSpec>,
    rules: Vec<String>,
}

#[derive(Deserialize)]
struct TumblingSpec {
    name: String,
    metric: String,
    group_by: Vec<String>,
    window: i64,
    functions: BTreeSet<Function>,
}

impl From<TumblingDeclaration> for Declaration {
    fn from(old: TumblingDeclaration) -> Self {
        let aggregates = old.aggregates.into_iter().map(|a| AggregateSpec {
            name: a.name,
            metric: a.metric,
            group_by: a.group_by,
            window: a.window,
            hop: a.window,
            functions: a.functions,
        });
        Self {
            aggregates: aggregates.collect(),
            rules: old.rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let byte = |t: &str| u8::from_str_radix(t, 16).unwrap();
        text.split_whitespace().map(byte).collect()
    }

    /// The bytes are those of the format page, and they read back.
    #[track_caller]
    fn written(record: Record, expected: &str) {
        let bytes = record.encode();
        assert_eq!(bytes, hex(expected), "{bytes:02x?}");
        assert_eq!(RecordRef::decode(&bytes), Ok(RecordRef::Other(record)));
    }

    fn spec() -> AggregateSpec {
        AggregateSpec {
            name: "f".to_owned(),
            metric: "*".to_owned(),
            group_by: Vec::new(),
            window: 60_000_000,
            hop: 10_000_000,
            functions: [Function::Count, Function::P99].into(),
        }
    }

    #[test]
    fn bytes_are_those_of_the_format_page() {
        let device = DeviceId::new("d1").unwrap();
        let declaration = Declaration {
            aggregates: vec![spec()],
            rules: Vec::new(),
        };
        written(
            Record::Declare(declaration),
            "08 01 01 66 01 2a 00 80 9c 9c 39 80 da c4 09 02 00 0a 00",
        );
        written(
            Record::SetAggregate(spec()),
            "09 01 66 01 2a 00 80 9c 9c 39 80 da c4 09 02 00 0a",
        );
        written(Record::RemoveAggregate("f".to_owned()), "0a 01 66");
        written(Record::SetRule("{}".to_owned()), "0b 02 7b 7d");
        written(Record::RemoveRule("hot".to_owned()), "0c 03 68 6f 74");
        let change = DeviceChange {
            device: device.clone(),
            attributes: vec![
                (MetricName::attribute("site").unwrap(), Some("a".to_owned())),
                (MetricName::attribute("row").unwrap(), None),
            ],
        };
        written(
            Record::SetDevice(change),
            "0d 02 64 31 02 05 40 73 69 74 65 01 01 61 04 40 72 6f 77 00",
        );
        written(Record::Decommission(device), "0e 02 64 31");
        let release = Release {
            id: 7,
            shift: -1_000_000,
            record: vec![TAG_TICK],
        };
        written(Record::Release(release), "0f 07 ff 88 7a 01 05");
        let keep = Retention {
            panes: 1_000_000,
            hours: 2_000_000,
            days: 3_000_000,
        };
        written(Record::Retain(keep), "10 80 89 7a 80 92 f4 01 80 9b ee 02");
        written(Record::Operate("{}".to_owned()), "11 02 7b 7d");
    }

    #[test]
    fn a_declaration_without_hops_is_tumbling() {
        let bytes = hex("07 01 01 66 01 2a 00 80 da c4 09 02 00 04 00");
        let expected = AggregateSpec {
            window: 10_000_000,
            functions: [Function::Count, Function::Max].into(),
            ..spec()
        };
        let Ok(RecordRef::Other(Record::Declare(read))) = RecordRef::decode(&bytes) else {
            panic!("it does not decode");
        };
        assert_eq!(read.aggregates, [expected]);
        assert_eq!(read.aggregates[0].panes(), 1);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let invalid = |record: Record| {
            let read = RecordRef::decode(&record.encode()).map(|_| ());
            assert!(matches!(read, Err(DecodeError::Invalid { .. })), "{read:?}");
        };
        invalid(Record::Release(Release {
            id: 1,
            shift: 0,
            record: vec![TAG_RELEASE, 1, 0, 0],
        }));
        invalid(Record::Operate(" ".repeat(OPERATION_BYTES_MAX + 1)));
        invalid(Record::Retain(Retention {
            hours: 0,
            ..Retention::default()
        }));
        invalid(Record::Plain(Plain {
            device: DeviceId::new("d").unwrap(),
            samples: vec![PlainSample {
                metric: MetricName::new("t").unwrap(),
                time: None,
                value: Value::Number(f64::NAN),
            }],
        }));
        let text = |text: &str| Some(text.to_owned());
        let name = |name: &str| MetricName::new(name).unwrap();
        for (attributes, expected) in [
            (vec![], "attributes: 0 are named; name 1 to 64"),
            (
                vec![(name("site"), None)],
                "attributes: site is a metric; an attribute is @site",
            ),
            (
                vec![(name("@a"), None), (name("@a"), text("x"))],
                "attributes: @a is named twice",
            ),
            (
                vec![(name("@a"), text(&"x".repeat(1025)))],
                "attributes: @a has 1025 bytes; at most 1024 are taken",
            ),
        ] {
            let change = DeviceChange {
                device: DeviceId::new("d").unwrap(),
                attributes,
            };
            assert_eq!(change.check().unwrap_err().to_string(), expected);
            invalid(Record::SetDevice(change));
        }
    }
}
