//! The service manager (systemd): the agent says that it is ready, that it stops, and, as long as its keeper
//! works, that it lives. Started in any other way it says nothing.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::inbox::{Inbox, News};

fn tell(state: NotifyState<'_>) {
    // A manager that does not listen is its own affair; its watchdog would say so.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// The agent works.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// The agent ends.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, if the manager has one, until `stop`. Not this task is to be watched but the keeper's
/// thread: the watchdog is fed only when that has answered since the last time.
pub(crate) async fn watch(inbox: Arc<Inbox>, health: Health, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let work = feed(
        limit / 3,
        || inbox.tell(News::Alive),
        || health.take_alive(),
        || tell(NotifyState::Watchdog),
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn feed(
    every: Duration,
    ask: impl Fn(),
    has_answered: impl Fn() -> bool,
    mut feed: impl FnMut(),
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The start counts as an answer.
    feed();
    loop {
        ticks.tick().await;
        if has_answered() {
            feed();
        }
        ask();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_keeper_that_hangs_does_not_feed_the_watchdog() {
        let (fed, asked, hangs) = (Cell::new(0), Cell::new(false), Cell::new(false));
        let work = feed(
            Duration::from_secs(10),
            || asked.set(true),
            || asked.replace(false) && !hangs.get(),
            || fed.set(fed.get() + 1),
        );
        tokio::pin!(work);
        let mut pass = async |seconds| {
            let time = tokio::time::sleep(Duration::from_secs(seconds));
            tokio::select! { () = &mut work => {}, () = time => {} }
        };
        pass(35).await;
        assert_eq!(fed.get(), 4, "at the start, then at 10, 20 and 30 s");
        hangs.set(true);
        pass(100).await;
        assert_eq!(fed.get(), 4);
        hangs.set(false);
        pass(10).await;
        assert_eq!(fed.get(), 5);
    }
}
