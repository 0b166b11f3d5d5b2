//! `tidewatch up`: the roles in one process, started in data order, stopped in data order.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use event::{AgentId, Declaration, Record, Retention};
use eventlog::{Log, PartitionId};
use processor::runtime::{Downlink, Processor};
use tokio_util::sync::CancellationToken;
use views::Views;

use crate::clock::SteadyClock;
use crate::config::Config;
use crate::control::LogControl;

/// A stop that takes longer than this is given up; what is durable stays durable.
const STOP_MAX: Duration = Duration::from_secs(9);
/// Two signals within this time are one: terminals and supervisors send to the whole group and to us.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// Pause between two tries of a start whose log takes no records.
const START_RETRY: Duration = Duration::from_secs(5);

/// Where a running server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Page and API.
    pub http: SocketAddr,
    /// MQTT; none with an external broker.
    pub mqtt: Option<SocketAddr>,
}

/// Cancels `stop` at Ctrl-C or SIGTERM. A second one, half a second later or more, ends the process at
/// once.
///
/// **Errors**: the handlers cannot be installed.
pub fn cancel_on_signal(stop: &CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match first {
                None => {
                    first = Some(Instant::now());
                    stop.cancel();
                }
                Some(at) if at.elapsed() < SAME_SIGNAL => {}
                Some(_) => {
                    let text = "stopped at once; the log has everything that was acknowledged";
                    // A closed stderr must not keep us here.
                    let _ = writeln!(std::io::stderr(), "tidewatch: {text}");
                    std::process::exit(130);
                }
            }
        }
    });
    Ok(())
}

/// Runs the server until a signal; prints `ready http=… mqtt=…` when it can be reached.
///
/// **Errors**: a role that cannot start, or that ended by itself.
pub async fn up(config: Config) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    cancel_on_signal(&stop)?;
    serve(config, stop, |addresses| {
        let mqtt = addresses
            .mqtt
            .map_or_else(|| "none".to_owned(), |a| a.to_string());
        // One line, for scripts; a closed stdout is no reason to stop.
        let _ = writeln!(
            std::io::stdout(),
            "ready http={} mqtt={mqtt}",
            addresses.http
        );
        let _ = std::io::stdout().flush();
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts all roles, calls `ready`, waits for `stop`, drains.
///
/// A log that takes no records (a full disk) does not end the start: the page is served, `/readyz`
/// says no, and the start goes on when there is room.
///
/// **Errors**: as [`up`].
pub async fn serve(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let steady = SteadyClock::new();
    let clock: eventlog::Clock = {
        let steady = steady.clone();
        Arc::new(move || steady.now())
    };
    let declaration = config.declaration()?;
    let mut settings = config.processor_settings()?;
    let retention = config.retention()?;
    dashboard::metrics::install();

    let data = config.data.clone();
    let (log_settings, log_clock) = (config.log_settings(), clock.clone());
    let log = tokio::task::spawn_blocking(move || Log::open(&data, log_settings, log_clock))
        .await
        .context("opening the log was interrupted")?
        .with_context(|| format!("failed to open the data folder {}", config.data.display()))?;
    let newest = (0..log.partitions()).filter_map(|p| log.last_ingest_time(PartitionId(p)));
    if let Some(newest) = newest.max() {
        steady.go_on_from(newest)?;
    }

    // The addresses before anything is changed: a second server on the same ports must not come as far
    // as the log's lock only.
    let page = Page::open(&config.dashboard, &log, &clock).await?;
    let auth = ingest::auth::from_settings(&config.ingest.auth);
    let ingest = ingest::Ingest::prepare(config.ingest.clone(), log.clone(), auth, clock.clone())
        .await
        .context("failed to start ingest")?;
    let addresses = Addresses {
        http: page.address,
        mqtt: ingest.local_addr(),
    };
    tracing::info!(http = %addresses.http, "the page is served");

    // Our absence is the first record of this life in every partition, before what the processor
    // declares and before anything that is sent.
    let Some(ingest) = ingest
        .begin(START_RETRY, &stop)
        .await
        .context("failed to start ingest")?
    else {
        return close(page, log).await;
    };
    loop {
        let (to, what) = (log.clone(), declaration.clone());
        let declared = tokio::task::spawn_blocking(move || declare(&to, &what, retention))
            .await
            .context("declaring aggregates and rules was interrupted")?;
        match declared {
            Ok(()) => break,
            Err(error @ (eventlog::Error::Full { .. } | eventlog::Error::Io { .. })) => {
                tracing::error!(
                    "failed to declare aggregates and rules in the log: {error}; trying again in {START_RETRY:?}"
                );
            }
            Err(error) => return Err(error).context("failed to declare aggregates and rules"),
        }
        tokio::select! {
            () = stop.cancelled() => return close(page, log).await,
            () = tokio::time::sleep(START_RETRY) => {}
        }
    }
    let rules = declaration.rules.iter();
    let rules = rules.filter_map(|r| serde_json::from_str(r).ok());
    page.views
        .expect(declaration.aggregates.clone(), rules.collect());
    let failed = CancellationToken::new();
    settings.downlink = Some(downlink(ingest.downlink()));
    let processor = {
        let (log, views, failed) = (log.clone(), page.views.clone(), failed.clone());
        tokio::task::spawn_blocking(move || {
            Processor::start(&settings, &log, &views, &clock, &failed)
        })
        .await
        .context("starting the processor was interrupted")?
        .context("failed to start the processor")?
    };
    page.control.set_outbox(processor.outbox().clone());
    let stop_ingest = CancellationToken::new();
    let mut ingest = tokio::spawn(ingest.run(stop_ingest.clone()));
    ready(addresses);

    let mut outcome = Ok(());
    tokio::select! {
        () = stop.cancelled() => {}
        () = failed.cancelled() => {
            outcome = Err(anyhow::anyhow!("a thread of the processor ended by itself"));
        }
        ended = &mut ingest => {
            outcome = Err(anyhow::anyhow!("ingest ended by itself: {ended:?}"));
        }
    }
    match &outcome {
        Ok(()) => tracing::info!("stopping"),
        Err(error) => tracing::error!("stopping: {error}"),
    }
    let ingest_ended = outcome.is_err() && ingest.is_finished();
    // In data order: nothing new comes in, what is in the log is processed and saved, then the page goes.
    let draining = async {
        stop_ingest.cancel();
        if !ingest_ended {
            ingest.await.context("ingest panicked")??;
        }
        let stopping = tokio::task::spawn_blocking(move || processor.stop())
            .await
            .context("stopping the processor was interrupted")?
            .context("the processor failed")?;
        stopping.finished().await;
        close(page, log).await
    };
    match tokio::time::timeout(STOP_MAX, draining).await {
        Ok(drained) => conclude(outcome, drained),
        Err(_) => {
            tracing::error!(
                "the stop took longer than {STOP_MAX:?}; what is left is replayed at the next start"
            );
            let code = i32::from(outcome.is_err());
            if let Err(error) = outcome {
                let _ = writeln!(std::io::stderr(), "tidewatch: {error:#}");
            }
            // Threads may be stuck in a slow disk: do not wait for them.
            std::process::exit(code);
        }
    }
}

/// Commands go to their agents as acks do. Of one that is not handed over nothing is left here: the processor
/// gives it again.
fn downlink(to: ingest::Downlink) -> Downlink {
    Downlink::new(move |send| {
        let Ok(agent) = AgentId::new(&send.agent) else {
            return false;
        };
        let payload = send.command.encode().into();
        to.send(&agent, &event::topic::command(&agent), payload)
            .is_ok()
    })
}

/// Puts into every partition what the configuration says of results. Blocks the thread.
fn declare(log: &Log, what: &Declaration, retention: Retention) -> Result<(), eventlog::Error> {
    let record = Bytes::from(Record::Retain(retention).encode());
    for number in 0..log.partitions() {
        log.append_blocking(PartitionId(number), vec![record.clone()])?;
    }
    processor::runtime::declare(log, what)
}

/// The views and the server that shows them.
struct Page {
    views: Arc<Views>,
    control: Arc<LogControl>,
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Page {
    async fn open(
        settings: &dashboard::Settings,
        log: &Log,
        clock: &eventlog::Clock,
    ) -> anyhow::Result<Self> {
        let views = Views::new(log.partitions(), env!("CARGO_PKG_VERSION"), clock());
        let control = Arc::new(LogControl::new(log.clone(), views.clone()));
        let dashboard = dashboard::Dashboard::bind(settings.clone(), views.clone())
            .await?
            .with_control(control.clone());
        let (address, stop) = (dashboard.local_addr(), CancellationToken::new());
        let task = tokio::spawn(dashboard.run(stop.clone()));
        Ok(Self {
            views,
            control,
            address,
            stop,
            task,
        })
    }

    async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.context("the dashboard panicked")
    }
}

async fn close(page: Page, log: Log) -> anyhow::Result<()> {
    page.close().await?;
    tokio::task::spawn_blocking(move || log.close())
        .await
        .context("closing the log")
}

/// What a run comes to: the reason that was found while draining explains why it ended.
fn conclude(outcome: anyhow::Result<()>, drained: anyhow::Result<()>) -> anyhow::Result<()> {
    match (outcome, drained) {
        (Ok(()), drained) => drained,
        (Err(why), Ok(())) => Err(why),
        (Err(why), Err(reason)) => Err(reason.context(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_run_that_ended_by_itself_is_an_error_with_its_reason() {
        assert!(conclude(Ok(()), Ok(())).is_ok());
        let text = |outcome, drained| format!("{:#}", conclude(outcome, drained).unwrap_err());
        assert_eq!(text(Err(anyhow!("ended")), Ok(())), "ended");
        assert_eq!(
            text(Err(anyhow!("ended")), Err(anyhow!("disk"))),
            "ended: disk"
        );
        assert_eq!(text(Ok(()), Err(anyhow!("disk"))), "disk");
    }
}
