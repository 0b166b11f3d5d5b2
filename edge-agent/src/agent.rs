//! One agent from start to end.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use event::EventTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::buffer::{self, Buffer, BufferError, OpenError, Opened};
use crate::clock::Clock;
use crate::commands;
use crate::config::{Priority, Settings, SourceKind};
use crate::core::Core;
use crate::health::Health;
use crate::inbox::{Inbox, News};
use crate::keeper::{FULL_WAIT, Keeper, TO_LINK_MAX};
use crate::room::Room;
use crate::rules::{self, Rules};
use crate::service;
use crate::sources::{Feed, Unreadable, exec, file, host, mqtt, own, socket, stdin, sysfs, tail};
use crate::status::Socket;
use crate::uplink::link;

/// The link's last words may take a little longer than they should.
const LINK_END_MAX: Duration = Duration::from_secs(2);

/// Sources that are told to stop have so long to hand on what they have gathered and to end what they
/// have started. One that waits for room does not make it, and loses nothing by that.
const SOURCES_END_MAX: Duration = Duration::from_secs(2);

/// What rules have found by then has so long to get into the inbox.
const RULES_END_MAX: Duration = Duration::from_secs(1);

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
/// A full disk is waited for.
///
/// **Errors**: the buffer cannot be opened, or fails while it is in use; with `exit_when_done`, once
/// all else is done, a source could not be read, or readings have no time because neither this machine nor
/// the cloud tells it (they stay in the buffer); a part of the agent panicked.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Report> {
    let clock = Clock::new(settings.clock);
    let Some(opened) = open_when_there_is_room(&settings, &clock, &shutdown).await? else {
        return Ok(Report { done: false });
    };
    let (buffer, disk_full) = (opened.buffer, opened.disk_full);
    let offset_us = buffer.offset_of(clock.boot_id());
    clock.know_disk(buffer.committed_at(), offset_us);
    let held = buffer.held();
    tracing::info!(
        agent = %settings.agent, incarnation = %buffer.incarnation(),
        backlog = held.events, backlog_bytes = held.bytes,
        server = format!("{}:{}", settings.link.host, settings.link.port),
        "tidewatch-agent {} starts", env!("CARGO_PKG_VERSION")
    );
    let inbox = Inbox::new(settings.inbox.clone(), clock);
    let (incarnation, told) = watch::channel(buffer.incarnation());
    let identity = link::Identity {
        agent: settings.agent.clone(),
        incarnation: told,
    };
    let stop_sources = CancellationToken::new();
    // Ends with the keeper: a stop may take its time, too.
    let stop_keeper = CancellationToken::new();
    // Every source is known before the first word goes out: one that replays the past must hold the
    // low watermark from the beginning.
    let health = Health::default();
    let saved = buffer
        .commands()
        .context("read what is known of commands")?;
    let (saved, episodes) = rules::split(saved);
    let rules = Rules::new(settings.rules.clone(), episodes, inbox.clone());
    let mut sources = start_sources(&settings, &inbox, &health, &buffer, &rules, &stop_sources)?;
    serve_status(&settings, &inbox, &health, &stop_sources);
    tokio::spawn(service::watch(
        inbox.clone(),
        health.clone(),
        stop_keeper.clone(),
    ));

    let (commands, mut service) = commands::start(
        settings.commands.clone(),
        &settings.agent,
        buffer.incarnation().rand,
        saved,
        inbox.clone(),
    )?;
    // Ends with this function.
    let _rules = rules::Service::start(&rules, commands.clone(), health.clone())?;

    let (to_link, from_keeper) = mpsc::channel(TO_LINK_MAX);
    let link_settings = settings.link.clone();
    let mut link = tokio::spawn(link::run(
        link_settings,
        identity,
        inbox.clone(),
        commands,
        from_keeper,
    ));
    let held = held.bytes;
    let core = core(&settings, buffer);
    let again = settings.clone();
    let mut keeper = Keeper {
        inbox: inbox.clone(),
        health,
        link: to_link,
        flush_interval: settings.inbox.commit_interval,
        dir: settings.data_dir.clone(),
        reopen: Box::new(move |now| {
            let opened = open(&again, now)?;
            incarnation.send_replace(opened.buffer.incarnation());
            Ok(self::core(&again, opened.buffer))
        }),
        room: Room::of(&settings.data_dir, settings.disk_free_min),
        full_wait: FULL_WAIT,
        full: None,
        told_full: None,
        failed: None,
        clock_offset_us: inbox.clock().guess_us(),
    };
    if disk_full {
        keeper.pause(held);
    }
    let mut kept = spawn(keeper, core)?;
    service::ready();

    let mut done = false;
    let mut failed: Vec<anyhow::Error> = Vec::new();
    let mut link_ended = false;
    let mut asked_to_finish = false;
    // What the keeper is told once no source and no command runs any more, so that their last readings and
    // results are stored.
    let mut last_word: Option<News> = None;
    let mut commands_ended = false;
    let mut sources_end_by: Option<Instant> = None;
    let result = loop {
        let sources_ended = sources.is_empty();
        tokio::select! {
            result = &mut kept => break result,
            () = shutdown.cancelled(), if !stop_sources.is_cancelled() => {
                tracing::info!("stopping");
                service::stopping();
                stop_sources.cancel();
                service.stop();
                sources_end_by = Some(Instant::now() + SOURCES_END_MAX);
                last_word = Some(News::Stop(settings.stop_grace));
            }
            ended = service.ended(), if !commands_ended => {
                commands_ended = true;
                if let Err(error) = ended {
                    failed.insert(0, panicked("the commands", &error));
                    stop_sources.cancel();
                    inbox.tell(News::Stop(settings.stop_grace));
                }
            }
            // From then on nothing is taken.
            () = end_of_sources(sources_ended, sources_end_by), if commands_ended && last_word.is_some() => {
                if let Some(news) = last_word.take() {
                    rules.drained(RULES_END_MAX).await;
                    inbox.tell(news);
                }
            }
            ended = sources.join_next(), if !sources.is_empty() => {
                match ended {
                    None | Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        tracing::error!("{error}");
                        failed.push(error.into());
                    }
                    Some(Err(error)) => {
                        failed.insert(0, panicked("a source", &error));
                        stop_sources.cancel();
                        inbox.tell(News::Stop(settings.stop_grace));
                    }
                }
            }
            // It ends with the keeper's goodbye, which comes right before the keeper's result.
            ended = &mut link, if !link_ended => {
                link_ended = true;
                if let Err(error) = ended {
                    failed.insert(0, panicked("the connection", &error));
                    stop_sources.cancel();
                    inbox.tell(News::Stop(Duration::ZERO));
                }
            }
            // With no source left and nothing else to wait for.
            () = std::future::ready(()), if sources.is_empty() && settings.exit_when_done
                && !asked_to_finish && !stop_sources.is_cancelled() => {
                asked_to_finish = true;
                done = true;
                rules.drained(RULES_END_MAX).await;
                service.stop();
                sources_end_by = Some(Instant::now());
                last_word = Some(News::Finish);
            }
        }
    };
    stop_sources.cancel();
    service.stop_now();
    if !commands_ended && service.ended().await.is_err() {
        tracing::error!("the commands did not end in order");
    }
    stop_keeper.cancel();
    // It tells its result, unless it panics.
    let result = result.map_err(|_| anyhow!("the keeper's thread panicked"))?;
    if let Err(BufferError::Damaged(_)) = &result {
        buffer::suspect(&settings.data_dir);
    }
    if !link_ended && tokio::time::timeout(LINK_END_MAX, link).await.is_err() {
        tracing::warn!("the connection did not end in time");
    }
    let unplaced = result.context("keep the buffer")?;
    let done = done && !shutdown.is_cancelled();
    let panicked = failed.first().is_some_and(|e| !e.is::<Unreadable>());
    match failed.into_iter().next() {
        Some(error) if done || panicked => Err(error),
        None if done && unplaced > 0 => Err(anyhow!(
            "{unplaced} readings could not be sent: this machine's clock is not set, and the server tells no \
             time. They stay in {} and are sent by a later start that knows the time; if the clock is right, \
             say who keeps it so, as clock = \"ntp\" or \"rtc\"",
            settings.data_dir.display()
        )),
        _ => Ok(Report { done }),
    }
}

/// That all sources have ended, or had the time to; never, if they are not asked to.
async fn end_of_sources(ended: bool, by: Option<Instant>) {
    match by {
        Some(_) if ended => {}
        Some(by) => tokio::time::sleep_until(by).await,
        None => std::future::pending().await,
    }
}

fn panicked(what: &str, error: &JoinError) -> anyhow::Error {
    anyhow!("{what} failed: {error}")
}

/// On a full disk where not even the reserve's room suffices to begin a life, this waits. None if
/// the agent is to stop.
async fn open_when_there_is_room(
    settings: &Settings,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Opened>> {
    let dir = settings.data_dir.display();
    let mut said = false;
    loop {
        let error = match open(settings, clock.known()) {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => error,
        };
        let full = error.is_disk_full();
        let error = anyhow::Error::from(error).context(format!("open the buffer in {dir}"));
        if !full {
            return Err(error);
        }
        if !said {
            tracing::error!(
                "{error:#}; waiting until there is room: free space on the disk of {dir}"
            );
            said = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(FULL_WAIT) => {}
        }
    }
}

fn open(settings: &Settings, now: EventTime) -> Result<Opened, OpenError> {
    let Settings {
        data_dir, agent, ..
    } = settings;
    buffer::open(data_dir, agent, &settings.buffer, rand::random(), now)
}

fn core(settings: &Settings, buffer: Buffer) -> Core {
    Core::new(
        settings.agent.clone(),
        buffer,
        settings.session.clone(),
        settings.batch_bytes_max,
        rand::random(),
    )
}

/// The keeper's thread; its result comes through the channel.
fn spawn(
    keeper: Keeper,
    core: Core,
) -> anyhow::Result<oneshot::Receiver<Result<u64, BufferError>>> {
    let (tell, kept) = oneshot::channel();
    std::thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(move || {
            let _ = tell.send(keeper.run(core));
        })
        .context("start the keeper's thread")?;
    Ok(kept)
}

/// Without the socket the agent does its work all the same.
fn serve_status(
    settings: &Settings,
    inbox: &std::sync::Arc<Inbox>,
    health: &Health,
    stop: &CancellationToken,
) {
    let socket = match Socket::open(&settings.data_dir) {
        Ok(socket) => socket,
        Err(error) => {
            let dir = settings.data_dir.display();
            tracing::warn!(%error, "no status socket in {dir}: `status` will not answer");
            return;
        }
    };
    let own = settings.sources.iter().find_map(|s| match &s.kind {
        SourceKind::Own(own) => own.card_endurance,
        _ => None,
    });
    let (inbox, health, stop) = (inbox.clone(), health.clone(), stop.clone());
    tokio::spawn(async move { socket.serve(health, &inbox, own, stop).await });
}

fn start_sources(
    settings: &Settings,
    inbox: &std::sync::Arc<Inbox>,
    health: &Health,
    buffer: &Buffer,
    rules: &Rules,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<Result<(), Unreadable>>> {
    let mut tasks = JoinSet::new();
    for source in &settings.sources {
        let mut feed = Feed::new(inbox.clone(), source.name.clone(), &source.attributes)
            .with_context(|| format!("start the source {:?}", source.name))?
            .on_change(source.on_change)
            .watched_by(rules.clone());
        if source.priority == Priority::Fault {
            feed = feed.with_faults(settings.buffer.faults.clone());
        }
        let stop = stop.clone();
        match source.kind.clone() {
            SourceKind::Host(settings) => drop(tasks.spawn(async move {
                host::run(settings, feed, stop).await;
                Ok(())
            })),
            SourceKind::Own(settings) => {
                let health = health.clone();
                drop(tasks.spawn(async move {
                    own::run(settings, health, feed, stop).await;
                    Ok(())
                }));
            }
            SourceKind::Stdin(settings) => {
                drop(tasks.spawn(async move {
                    stdin::run(settings, std::io::stdin(), feed, stop).await;
                    Ok(())
                }));
            }
            SourceKind::Socket(settings) => drop(tasks.spawn(async move {
                socket::run(settings, feed, stop).await;
                Ok(())
            })),
            SourceKind::Exec(settings) => drop(tasks.spawn(async move {
                exec::run(settings, feed, stop).await;
                Ok(())
            })),
            SourceKind::Sysfs(settings) => drop(tasks.spawn(async move {
                sysfs::run(settings, feed, stop).await;
                Ok(())
            })),
            SourceKind::Tail(settings) => {
                let cursor = buffer
                    .cursor(&source.name)
                    .with_context(|| format!("read the cursor of {:?}", source.name))?;
                drop(tasks.spawn(async move {
                    tail::run(settings, cursor, feed, stop).await;
                    Ok(())
                }));
            }
            SourceKind::Mqtt(settings) => {
                let cursor = buffer
                    .cursor(&source.name)
                    .with_context(|| format!("read the cursor of {:?}", source.name))?;
                drop(tasks.spawn(async move {
                    mqtt::run(settings, cursor, feed, stop).await;
                    Ok(())
                }));
            }
            SourceKind::File(settings) => {
                let cursor = buffer
                    .cursor(&source.name)
                    .with_context(|| format!("read the cursor of {:?}", source.name))?;
                drop(
                    tasks.spawn(
                        async move { file::run(settings, cursor, feed, stop).await.map(drop) },
                    ),
                );
            }
        }
    }
    if tasks.is_empty() {
        tracing::warn!("no source is configured: only what the buffer holds is sent");
    }
    Ok(tasks)
}
