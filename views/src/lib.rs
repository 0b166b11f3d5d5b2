//! Live results in memory: the processor writes them, the dashboard reads them.
//!
//! Each partition writes its own part; readers merge the parts. A part of a window is accepted only
//! with a greater revision than the one held, so that replays after a restart change nothing that is
//! newer. This crate knows no clock, no I/O, no MQTT and no log: "now" is the newest ingest time
//! that the processor has seen. Memory holds the newest windows; older ones are asked for through
//! [`HistorySource`].

pub mod commands;
pub mod completeness;
pub mod matcher;
pub mod model;
pub mod oncall;
pub mod part;
pub mod sketch;
pub mod store;
#[cfg(test)]
mod testing;

pub use commands::{Command, CommandQuery, CommandStop, Rollout};
pub use completeness::{CompletenessIndex, Counts};
pub use part::{
    DeviceQuery, DeviceSource, Group, HistoryQuery, HistorySource, LagReport, Origin,
    OutstandingQuery, Page, RowPart, RowState, SettledCounts, StatusCounts, Tier, TooOld,
};
pub use store::{Changes, QueryError, RowPage, Views, WindowQuery};
