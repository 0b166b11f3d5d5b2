//! The rule engine: pure, small, the same code in the processor and on the device.
//!
//! A rule is declared once ([`Rule`]), checked once ([`Rule::parse`]), and then stepped with values in
//! event-time order, and with the time that passes: state in, value in, transition out ([`Kind`]). It
//! knows no I/O, no clock and not where it runs; time is the event time of the values.

pub mod anomaly;
mod declare;
mod duration;
mod episode;
mod kind;
mod rate;
mod silence;
mod threshold;

pub use declare::{Rule, RuleError, Severity, ThresholdRule};
pub use duration::{format_duration, parse_duration};
pub use episode::{Episode, Transition};
pub use kind::{KINDS, Kind, State};
pub use rate::{Course, Rate};
pub use silence::Silence;
pub use threshold::{Direction, Threshold};
