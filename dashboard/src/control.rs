//! The way of a change from a call into the event log. This crate knows neither the log nor what a rule is:
//! the server gives it a [`Control`].

use std::future::Future;
use std::pin::Pin;

use event::{AggregateSpec, CommandControl, DeviceChange, DeviceId, Operation, Order, Release};
use serde::Serialize;
use utoipa::ToSchema;

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

/// Appends changes to the log, and asks the outbox for what is no change of any result.
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
}
