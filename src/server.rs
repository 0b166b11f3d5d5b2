//! `tidewatch up`: the roles in one process, started in data order, stopped in data order.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use eventlog::Log;
use processor::runtime::Processor;
use tokio_util::sync::CancellationToken;
use views::Views;

use crate::config::Config;

/// A stop that takes longer than this is given up; what is durable stays durable.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Where a running server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Page and API.
    pub http: SocketAddr,
    /// MQTT; none with an external broker.
    pub mqtt: Option<SocketAddr>,
}

/// Cancels `stop` at Ctrl-C or SIGTERM. A second one ends the process at once.
///
/// **Errors**: the handlers cannot be installed.
pub fn cancel_on_signal(stop: &CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                eprintln!(
                    "tidewatch: stopped at once; the log has everything that was acknowledged"
                );
                std::process::exit(130);
            }
            stop.cancel();
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
/// **Errors**: as [`up`].
pub async fn serve(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let clock: eventlog::Clock = Arc::new(wall_clock);
    let declaration = config.declaration()?;
    let settings = config.processor_settings()?;
    dashboard::metrics::install();

    let data = config.data.clone();
    let (log_settings, log_clock) = (config.log_settings(), clock.clone());
    let log = tokio::task::spawn_blocking(move || Log::open(&data, log_settings, log_clock))
        .await
        .context("opening the log was interrupted")?
        .with_context(|| format!("failed to open the data folder {}", config.data.display()))?;
    let views = Views::new(log.partitions(), env!("CARGO_PKG_VERSION"), clock());

    // The dashboard's address before anything is changed: a second server on the same ports must not
    // come as far as the log's lock only.
    let dashboard = dashboard::Dashboard::bind(config.dashboard.clone(), views.clone()).await?;
    let auth = ingest::auth::from_settings(&config.ingest.auth);
    let ingest = ingest::Ingest::bind(config.ingest.clone(), log.clone(), auth, clock.clone())
        .await
        .context("failed to start ingest")?;
    let failed = CancellationToken::new();
    let processor = {
        let (log, views, failed) = (log.clone(), views.clone(), failed.clone());
        tokio::task::spawn_blocking(move || {
            Processor::start(&settings, &log, &views, &declaration, &clock, &failed)
        })
        .await
        .context("starting the processor was interrupted")?
        .context("failed to start the processor")?
    };
    let addresses = Addresses {
        http: dashboard.local_addr(),
        mqtt: ingest.local_addr(),
    };

    let (stop_ingest, stop_dashboard) = (CancellationToken::new(), CancellationToken::new());
    let mut ingest = tokio::spawn(ingest.run(stop_ingest.clone()));
    let dashboard = tokio::spawn(dashboard.run(stop_dashboard.clone()));
    ready(addresses);

    let mut outcome = Ok(());
    tokio::select! {
        () = stop.cancelled() => {}
        () = failed.cancelled() => {}
        ended = &mut ingest => {
            outcome = Err(anyhow::anyhow!("ingest ended by itself: {ended:?}"));
        }
    }
    tracing::info!("stopping");
    // In data order: nothing new comes in, what is in the log is processed and saved, then the page goes.
    let draining = async {
        stop_ingest.cancel();
        if !ingest.is_finished() {
            ingest.await.context("ingest panicked")??;
        }
        let stopping = tokio::task::spawn_blocking(move || processor.stop())
            .await
            .context("stopping the processor was interrupted")?
            .context("the processor failed")?;
        stopping.finished().await;
        stop_dashboard.cancel();
        dashboard.await.context("the dashboard panicked")?;
        tokio::task::spawn_blocking(move || log.close())
            .await
            .context("closing the log")?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(STOP_MAX, draining).await {
        Ok(drained) => outcome.and(drained),
        Err(_) => {
            tracing::error!(
                "the stop took longer than {STOP_MAX:?}; what is left is replayed at the next start"
            );
            // Threads may be stuck in a slow disk: do not wait for them.
            std::process::exit(if outcome.is_ok() { 0 } else { 1 });
        }
    }
}

fn wall_clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
