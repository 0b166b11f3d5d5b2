//! The rule engine: pure, small, the same code in the processor and on the device.
//!
//! A rule is declared once ([`Rule`]), checked once ([`Rule::parse`]), and then stepped with values in
//! event-time order: state in, value in, transition out. It knows no I/O, no clock and not where it
//! runs; time is the event time of the values.

mod declare;
mod duration;
mod threshold;

pub use declare::{Rule, RuleError, Severity};
pub use duration::{format_duration, parse_duration};
pub use threshold::{Direction, Episode, Threshold, Transition};
