//! The way of a change from a call into the event log. This crate knows neither the log nor what a rule is:
//! the server gives it a [`Control`].

use std::future::Future;
use std::pin::Pin;

use event::{AggregateSpec, CommandControl, DeviceChange, DeviceId, Operation, Order, Release};
use serde::Serialize;
use utoipa::ToSchema;
use views::model::Time;

/// A change that somebody asks for. Each becomes one kind of record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// One aggregate more, or another form of the one with that name. Checked.
    SetAggregate(AggregateSpec),
    /// The aggregate of that name is no more.
    RemoveAggregate(String),
    /// One rule more, or another form of the one with that name: JSON, not yet checked.
    SetRule(serde_json::Value),
    /// The rule of that name is no more.
    RemoveRule(String),
    /// An operator changes a device's attributes. Checked.
    SetDevice {
        /// The partitions that know the device.
        partitions: Vec<u16>,
        /// What changes.
        change: DeviceChange,
    },
    /// The device is no longer expected.
    Decommission {
        /// The partitions that know the device.
        partitions: Vec<u16>,
        /// The device.
        device: DeviceId,
    },
    /// Count what was quarantined.
    Release {
        /// The partition whose quarantine holds it.
        partition: u16,
        /// What.
        release: Release,
    },
    /// What an operator does about alerts, not yet checked. In partition 0.
    Operate(Operation),
    /// A command to a device. Checked.
    Command {
        /// The partition that knows the device.
        partition: u16,
        /// What.
        order: Order,
    },
    /// What steers commands. Checked.
    CommandControl {
        /// The partition that it is for; none: all of them.
        partition: Option<u16>,
        /// What.
        control: CommandControl,
    },
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Place {
    /// The partition.
    pub partition: u16,
    /// The record's offset: the change counts once the partition's `processed_offset` is greater.
    pub offset: u64,
}

/// Why a change did not enter the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It is wrong in itself; nothing was written.
    #[error("{field}: {message}")]
    Invalid {
        /// What is wrong.
        field: String,
        /// Why, and what would be right.
        message: String,
    },
    /// The log does not take it now. Whether it comes to take it later is not known: ask again, the same
    /// change twice is the same as once.
    #[error("{0}")]
    Unavailable(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// As things are it would do harm, or nothing.
    #[error("{0}")]
    Conflict(String),
}

/// The answer that is waited for.
pub type Submitted<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Place>, ControlError>> + Send + 'a>>;

/// The id of what is sent again.
pub type Resent<'a> = Pin<Box<dyn Future<Output = Result<String, ControlError>> + Send + 'a>>;

/// A rule over the log that the server has kept.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleTest {
    /// JSON, not yet checked.
    pub rule: serde_json::Value,
    /// Event times from here on, microseconds.
    pub from: Option<i64>,
    /// Event times before this.
    pub to: Option<i64>,
    /// Only this device.
    pub device: Option<String>,
}

/// An episode that a rule would have found.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TestedEpisode {
    /// The device.
    pub device: String,
    /// The rule's metric.
    pub metric: String,
    /// Event time at which it began.
    pub began: Time,
    /// Event time at which it ended; null: it was open at the end of the data.
    pub ended: Option<Time>,
    /// Whether it lasted long enough to page, had the data come as it was made.
    pub would_have_paged: bool,
    /// The value that was furthest on the bad side.
    pub peak: f64,
}

/// What a rule would have found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct Tested {
    /// By device, then begin; at most 1,000.
    pub episodes: Vec<TestedEpisode>,
    /// How many there are in all.
    pub total: u64,
    /// How many of all would have paged.
    pub would_have_paged: u64,
    /// Devices that have the metric.
    pub devices: u64,
    /// Values that were looked at.
    pub values: u64,
    /// There were more than 2,000,000 values: the rest was not looked at.
    pub cut: bool,
}

/// The answer to a [`RuleTest`] that is waited for.
pub type Testing<'a> = Pin<Box<dyn Future<Output = Result<Tested, ControlError>> + Send + 'a>>;

/// Appends changes to the log, asks the outbox for what is no change of any result, and tries rules.
pub trait Control: Send + Sync {
    /// Appends a change to the partitions that it concerns. Resolves when it is durable in all of them.
    /// All partitions get all changes of aggregates and rules in the same order.
    ///
    /// **Errors**: see [`ControlError`].
    fn submit(&self, change: Change) -> Submitted<'_>;

    /// Sends the notification with this id again. Resolves when that is durable, with the id of its row in the
    /// delivery log.
    ///
    /// **Errors**: see [`ControlError`].
    fn resend(&self, id: String) -> Resent<'_>;

    /// Runs a rule over the log that was kept; nothing changes.
    ///
    /// **Errors**: see [`ControlError`]; unavailable where there is no log.
    fn test_rule(&self, _test: RuleTest) -> Testing<'_> {
        let message = "this server has no log to test a rule over".to_owned();
        Box::pin(std::future::ready(Err(ControlError::Unavailable(message))))
    }
}
