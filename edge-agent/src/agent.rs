//! One agent from start to end.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::buffer::{self, Buffer, BufferError};
use crate::clock::Clock;
use crate::config::{Settings, Source, SourceKind};
use crate::core::Core;
use crate::inbox::{Inbox, News};
use crate::keeper::{Keeper, TO_LINK_MAX};
use crate::sources::{Counts, Feed, file, host, stdin};
use crate::uplink::link;

/// The link's last words may take a little longer than they should.
const LINK_END_MAX: Duration = Duration::from_secs(2);

/// What became of the agent's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Whether it stopped because all sources had ended and everything was acked.
    pub done: bool,
}

/// Runs an agent until `shutdown`, or, with `exit_when_done`, until all sources have ended and the
/// cloud has acknowledged everything. When this returns, everything accepted is on disk and the
/// buffer is closed.
///
/// **Errors**: the buffer cannot be opened, or fails while it is in use.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Report> {
    let clock = Clock::new(settings.clock);
    let opened = buffer::open(
        &settings.data_dir,
        &settings.agent,
        &settings.buffer,
        rand::random(),
        clock.wall(),
    )
    .with_context(|| format!("open the buffer in {}", settings.data_dir.display()))?;
    let buffer = opened.buffer;
    let held = buffer.held();
    tracing::info!(
        agent = %settings.agent, incarnation = %buffer.incarnation(),
        backlog = held.events, backlog_bytes = held.bytes,
        server = format!("{}:{}", settings.link.host, settings.link.port),
        "tidewatch-agent {} starts", env!("CARGO_PKG_VERSION")
    );
    let inbox = Inbox::new(settings.inbox.clone(), clock);
    let identity = link::Identity {
        agent: settings.agent.clone(),
        incarnation: buffer.incarnation(),
    };
    let stop_sources = CancellationToken::new();
    // Every source is known before the first word goes out: one that replays the past must hold the
    // low watermark from the beginning.
    let mut sources = start_sources(&settings.sources, &inbox, &buffer, &stop_sources)?;

    let (to_link, from_keeper) = mpsc::channel(TO_LINK_MAX);
    let link_settings = settings.link.clone();
    let link = tokio::spawn(link::run(
        link_settings,
        identity,
        inbox.clone(),
        from_keeper,
    ));
    let core = Core::new(
        settings.agent.clone(),
        buffer,
        settings.session.clone(),
        settings.batch_bytes_max,
        rand::random(),
    );
    let keeper = Keeper {
        core,
        inbox: inbox.clone(),
        link: to_link,
        flush_interval: settings.inbox.commit_interval,
    };
    let mut kept = spawn(keeper)?;

    let mut done = false;
    let mut asked_to_finish = false;
    let result = loop {
        tokio::select! {
            result = &mut kept => break result,
            () = shutdown.cancelled(), if !stop_sources.is_cancelled() => {
                tracing::info!("stopping");
                stop_sources.cancel();
                inbox.tell(News::Stop(settings.stop_grace));
            }
            ended = sources.join_next(), if !sources.is_empty() => {
                if let Some(Err(error)) = ended {
                    tracing::error!(%error, "a source failed");
                }
            }
            // With no source left and nothing else to wait for.
            () = std::future::ready(()), if sources.is_empty() && settings.exit_when_done
                && !asked_to_finish && !stop_sources.is_cancelled() => {
                asked_to_finish = true;
                done = true;
                inbox.tell(News::Finish);
            }
        }
    };
    stop_sources.cancel();
    let result = result.unwrap_or(Err(BufferError::Poisoned));
    if let Err(BufferError::Damaged(_)) = &result {
        buffer::suspect(&settings.data_dir);
    }
    if tokio::time::timeout(LINK_END_MAX, link).await.is_err() {
        tracing::warn!("the connection did not end in time");
    }
    result.context("keep the buffer")?;
    let done = done && !shutdown.is_cancelled();
    Ok(Report { done })
}

/// The keeper's thread; its result comes through the channel.
fn spawn(keeper: Keeper) -> anyhow::Result<oneshot::Receiver<Result<(), BufferError>>> {
    let (tell, kept) = oneshot::channel();
    std::thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(move || {
            let _ = tell.send(keeper.run());
        })
        .context("start the keeper's thread")?;
    Ok(kept)
}

fn start_sources(
    sources: &[Source],
    inbox: &std::sync::Arc<Inbox>,
    buffer: &Buffer,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<Counts>> {
    let mut tasks = JoinSet::new();
    for source in sources {
        let feed = Feed::new(inbox.clone(), source.name.clone(), &source.attributes)
            .with_context(|| format!("start the source {:?}", source.name))?;
        let stop = stop.clone();
        match source.kind.clone() {
            SourceKind::Host(settings) => drop(tasks.spawn(host::run(settings, feed, stop))),
            SourceKind::Stdin(settings) => {
                drop(tasks.spawn(stdin::run(settings, std::io::stdin(), feed, stop)));
            }
            SourceKind::File(settings) => {
                let cursor = buffer
                    .cursor(&source.name)
                    .with_context(|| format!("read the cursor of {:?}", source.name))?;
                drop(tasks.spawn(file::run(settings, cursor, feed, stop)));
            }
        }
    }
    if tasks.is_empty() {
        tracing::warn!("no source is configured: only what the buffer holds is sent");
    }
    Ok(tasks)
}
