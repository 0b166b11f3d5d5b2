//! The vocabulary of Tidewatch: ids, times, values, batches, acks, log records and their bytes.
//!
//! Every other crate speaks in these nouns. This one knows no I/O, no clock, no randomness and no
//! async, so that the same bytes mean the same thing on a device, in the log and in a test. The
//! formats are drawn in `event/FORMAT.md`.
//!
//! Decoders take bytes from strangers: they return an error that names what is wrong and where,
//! never panic, and never allocate more than [`batch::DECODED_BYTES_MAX`].

pub mod ack;
pub mod aggregate;
pub mod alert;
pub mod batch;
mod bytes;
pub mod columns;
pub mod command;
pub mod id;
pub mod incarnation;
pub mod operate;
pub mod order;
pub mod reason;
pub mod record;
pub mod slot;
pub mod status;
pub mod time;
pub mod topic;
pub mod value;

pub use ack::{Ack, RefusedRange, SeqRange};
pub use aggregate::{AggregateSpec, Function, SpecError};
pub use batch::{
    BatchHeader, Body, ClockQuality, ClockState, DecodeError, EncodeError, Gap, GapReason, Held,
    Lineage,
};
pub use columns::{Cell, Columns, Series};
pub use command::Command;
pub use id::{AgentId, DeviceId, IdError, MetricName};
pub use incarnation::Incarnation;
pub use operate::{Matcher, Operation, SilenceKind, SilenceSpec};
pub use order::{CommandControl, Order, RolloutOrder};
pub use reason::RefusalReason;
pub use record::{
    Declaration, DeviceChange, Plain, PlainSample, Record, RecordRef, Refused, Release, Retention,
    StatusRecord,
};
pub use status::Status;
pub use time::{EventTime, IngestTime, TimeRange};
pub use topic::Topic;
pub use value::{Sample, Value};
