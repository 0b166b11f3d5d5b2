//! What is said of a command, and how it gets to the disk.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::Duration;

use event::command::{Report, State};
use event::{ClockQuality, DeviceId, EventTime, MetricName, Value};

use super::ledger::{Order, expired};
use super::runner::{End, Outcome, Stop};
use crate::buffer::CommandChanges;
use crate::inbox::{Inbox, Reading};

/// What tasks need.
pub(super) struct Context {
    pub inbox: Arc<Inbox>,
    pub metric: MetricName,
    pub stop: Stop,
}

impl Context {
    pub fn mono(&self) -> Duration {
        self.inbox.clock().monotonic()
    }

    /// The present time as far as it counts for expiry: by the agent's clock or by what the cloud said,
    /// whichever is later. A clock that was never set (quality `none`) tells nothing; without a word of
    /// the cloud there is no time then.
    pub fn now(&self) -> Option<EventTime> {
        let clock = self.inbox.clock();
        let cloud = self.inbox.cloud_time();
        match clock.state().quality {
            ClockQuality::None => cloud,
            _ => cloud.max(Some(clock.wall())),
        }
    }

    /// Stores a report, and what is noted with it. Returns whether both are on disk.
    pub async fn record(
        &self,
        device: &DeviceId,
        report: &Report,
        changes: CommandChanges,
    ) -> bool {
        let reading = Reading {
            device: device.clone(),
            metric: self.metric.clone(),
            time: None,
            value: Value::Text(report.to_text().into()),
        };
        match self.inbox.push_command(vec![reading], changes, true).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        }
    }

    /// Why an order must not start any more, if so.
    pub fn too_late(&self, order: &Order) -> Option<String> {
        if order.start_by.is_some_and(|by| self.mono() > by) {
            return Some("it waited too long for its turn".to_owned());
        }
        let (_, expires_at) = order.life?;
        expired(expires_at, self.now())
    }
}

/// A report that says no more than the state.
pub(super) fn report_of(order: &Order, state: State) -> Report {
    Report {
        id: order.id.clone(),
        name: order.name.clone(),
        state,
        exit_code: None,
        duration_ms: None,
        output: None,
        reason: None,
    }
}

/// The report of a program that was run.
pub(super) fn result(order: &Order, outcome: Outcome, timeout: Duration) -> Report {
    let (state, exit_code, reason) = match outcome.end {
        End::Exited(status) => match (status.code(), status.signal()) {
            (Some(0), _) => (State::Succeeded, Some(0), None),
            (Some(code), _) => (State::Failed, Some(code), None),
            (None, Some(signal)) => {
                let reason = format!("it was ended by signal {signal}");
                (State::Failed, None, Some(reason))
            }
            (None, None) => (State::Failed, None, Some(status.to_string())),
        },
        End::TimedOut => {
            let reason = format!(
                "it ran longer than {} ms and was ended",
                timeout.as_millis()
            );
            (State::Failed, None, Some(reason))
        }
        End::Stopped => {
            let reason = "it was ended because the agent was told to stop".to_owned();
            (State::Failed, None, Some(reason))
        }
        End::NotStarted(error) => {
            let reason = format!("it could not be started: {error}");
            (State::Failed, None, Some(reason))
        }
        End::Unknown(error) => {
            let reason = format!("the outcome is unknown: {error}");
            (State::Failed, None, Some(reason))
        }
    };
    Report {
        exit_code,
        duration_ms: u64::try_from(outcome.duration.as_millis()).ok(),
        output: Some(outcome.output).filter(|o| !o.is_empty()),
        reason,
        ..report_of(order, state)
    }
}
