//! The rule engine: pure, small, the same code in the processor and on the device.
//!
//! A rule is declared once ([`Rule`]), checked once ([`Rule::parse`]), and then stepped with values in
//! event-time order, and with the time that passes: state in, value in, transition out ([`Kind`]). It
//! knows no I/O, no clock and not where it runs; time is the event time of the values.

pub mod anomaly;
mod declare;
mod duration;
mod episode;
mod extra;
mod fleet;
mod kind;
mod offline;
mod rate;
mod silence;
mod stuck;
mod threshold;

pub use declare::{Rule, RuleError, Severity, ThresholdRule, fields};
pub use duration::{format_duration, parse_duration};
pub use episode::{Episode, Transition};
pub use extra::{ENTRIES_MAX, NOTE_BYTES_MAX, RuleCommand, TEXT_BYTES_MAX};
pub use fleet::{Field, GROUP_BY_MAX, Share, When, Window};
pub use kind::{KINDS, Kind, State};
pub use offline::Offline;
pub use rate::{Course, Rate};
pub use silence::Silence;
pub use stuck::Stuck;
pub use threshold::{Direction, Threshold};
