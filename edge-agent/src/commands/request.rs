//! The way to the service: from the connection, and from rules on the device.

use std::collections::BTreeMap;
use std::time::Duration;

use event::DeviceId;
use event::command::Report;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the service, which only decides: at most 4 MiB from the cloud.
const REQUESTS_MAX: usize = 64;

/// The agent is stopping, or too much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping, or has too many commands at once")]
pub struct Stopped;

/// The way to the service.
#[derive(Debug, Clone)]
pub struct Commands {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
pub(super) enum Request {
    /// The bytes of a command.
    Remote(Vec<u8>),
    Local {
        local: Local,
        reply: Option<oneshot::Sender<Report>>,
    },
}

/// A command that is given on the device itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its id, which runs once for as long as it is remembered; none = a new one.
    pub id: Option<String>,
    /// The device it is for; none = the agent.
    pub device: Option<DeviceId>,
    /// Name on the allow-list.
    pub name: String,
    /// Values for the argument template.
    pub args: BTreeMap<String, String>,
    /// Why, for people.
    pub reason: String,
    /// The monotonic time by which it must have started; none = whenever its turn comes.
    pub start_by: Option<Duration>,
}

/// A way to the service, and its end.
pub(super) fn channel() -> (Commands, mpsc::Receiver<Request>) {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    (Commands { requests }, incoming)
}

impl Commands {
    /// Runs a command that is given on the device itself, as by a rule: with the same allow-list,
    /// budget, limits, records and reports as one from the cloud. `reason` says why, for people.
    ///
    /// Returns the last report; a command that is not allowed, or fails, is not an error here.
    ///
    /// **Errors**: the agent stops, or too much waits. Whether the command ran is in its reports.
    pub async fn run_local(
        &self,
        name: &str,
        args: BTreeMap<String, String>,
        reason: &str,
    ) -> Result<Report, Stopped> {
        let (reply, result) = oneshot::channel();
        let local = Local {
            id: None,
            device: None,
            name: name.to_owned(),
            args,
            reason: reason.to_owned(),
            start_by: None,
        };
        let reply = Some(reply);
        let request = Request::Local { local, reply };
        self.requests.send(request).await.map_err(|_| Stopped)?;
        result.await.map_err(|_| Stopped)
    }

    /// Gives a command as [`Self::run_local`] does, and does not wait for its end. One whose id is known
    /// already is not run again.
    ///
    /// **Errors**: the agent stops. Whether the command ran is in its reports.
    pub async fn give_local(&self, local: Local) -> Result<(), Stopped> {
        let reply = None;
        let request = Request::Local { local, reply };
        self.requests.send(request).await.map_err(|_| Stopped)
    }

    /// A message came on the command topic. Never waits: the cloud sends again what is not answered.
    pub(crate) fn deliver(&self, payload: &[u8]) {
        if payload.len() > event::command::BYTES_MAX {
            tracing::warn!(
                bytes = payload.len(),
                "a command is too long; it is ignored"
            );
        } else if let Err(error) = self.requests.try_send(Request::Remote(payload.to_vec())) {
            tracing::warn!(%error, "a command was not taken; the cloud must send it again");
        }
    }
}
