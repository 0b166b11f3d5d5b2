//! Joins sources, agents and connections to sockets and the clock, and ends a run in order: make no
//! more events, wait until everything is acked, report the end of time, say goodbye, write the truth.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use event::{EventTime, Incarnation, Status};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::clock::{Now, Wall, wall_clock};
use crate::duration::micros;
use crate::fleet::Fleet;
use crate::memory::Memory;
use crate::network::Network;
use crate::report::{NAMED_MAX, Report};
use crate::rng::Rng;
use crate::session::{Heard, Session};
use crate::settings::Settings;
use crate::source::Source;
use crate::truth::{Summary, Table, Tally};

/// How long a run that is told to stop waits for acks at most.
const STOP_DRAIN: Duration = Duration::from_secs(5);
/// Events that are made in one go before the task gives way to others.
const MAKE_MAX: u64 = 50_000;
/// How often a run that was never connected is looked at after its time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// First connections are spread over so long for each agent, at most five seconds in all.
const STAGGER_US: u64 = 500;
const STAGGER_MAX_US: u64 = 5_000_000;
/// An agent's window of a fleet without truth settles after this length.
const WINDOW_US: i64 = 10_000_000;

/// Runs a fleet until its duration is over or `shutdown` is cancelled, and drains it.
///
/// When this returns, every event is acked or counted as outstanding in the report, and the truth
/// file is complete.
///
/// **Errors**: settings that do not fit each other, a scenario that names strangers, a truth file that
/// cannot be written, a server that no agent was ever connected to within the setting's time. A server
/// that goes away later is no error: agents try again until the drain limit.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Report> {
    settings.check()?;
    let started = Instant::now();
    let wall_start = wall_clock();
    let wall = Wall::new(settings.start.unwrap_or(wall_start), settings.time_scale);
    let fleet = Arc::new(Fleet::new(settings, wall)?);
    let s = &fleet.settings;
    let ends = s.duration.map(micros);
    let (stop_tx, stop) = watch::channel(Stop {
        at: ends.unwrap_or(u64::MAX),
        deadline: ends.map_or(u64::MAX, |at| at + micros(s.drain)),
        is_told: false,
    });
    let table = Arc::new(Table::default());
    let progress = Arc::new(Progress::default());
    // Numbers of lives grow from run to run, as they would in an agent that keeps its counter.
    let first_life = u32::try_from(wall_start.0 / 1_000_000).unwrap_or(u32::MAX - (1 << 20));

    let mut memory = s.state.as_deref().map(Memory::read).transpose()?;

    let mut tasks = JoinSet::new();
    for number in 0..s.agents {
        let incarnation = Incarnation {
            no: first_life,
            rand: rand::random(),
        };
        let rng = Rng::new(s.seed, 0xfa17_0000_0000_0000 | u64::from(number));
        let tally = s.truth.is_some().then(|| {
            let devices = fleet.devices_of(number).len();
            Tally::new(
                Arc::clone(&table),
                &s.truth_windows,
                fleet.site_of(number),
                devices,
            )
        });
        let stagger = (u64::from(number) * STAGGER_US).min(STAGGER_MAX_US);
        let mut life = Life {
            source: Source::new(Arc::clone(&fleet), number),
            agent: Agent::new(Arc::clone(&fleet), number, incarnation)?,
            network: Network::new(&s.scenario.faults, rng),
            tally,
            number,
            started,
            stop: stop.clone(),
            progress: Arc::clone(&progress),
            rng: Rng::new(s.seed, 0x11fe_0000_0000_0000 | u64::from(number)),
            away_until: stagger,
            retry: 0,
            next_restart: 0,
            buffer_max: (s.buffer_events / u64::from(s.agents)).max(1000),
            last_sent: 0,
            last_flush: 0,
            is_finished: false,
            outcome: Outcome::default(),
            fleet: Arc::clone(&fleet),
        };
        life.next_restart = life.draw_restart(0);
        if let Some(known) = memory
            .as_ref()
            .and_then(|m| m.agents.get(life.agent.id().as_str()))
        {
            life.agent.recall(known);
        }
        tasks.spawn(life.live());
    }
    drop(stop);
    let s = &fleet.settings;
    tracing::info!(
        agents = s.agents,
        devices = s.devices,
        rate = s.rate,
        seed = s.seed,
        "simulated fleet started"
    );

    let mut report = Report::default();
    let mut every = tokio::time::interval(Duration::from_secs(10));
    every.tick().await;
    let mut look = tokio::time::interval_at(started + s.connect_timeout, LOOK_EVERY);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => {
                    let life = ended.context("an agent's task failed")?;
                    if let Some(memory) = &mut memory {
                        memory.agents.insert(life.agent.id().to_string(), life.agent.remember());
                    }
                    collect(&mut report, &life);
                }
                None => break,
            },
            () = shutdown.cancelled(), if !shutdown_seen(&stop_tx) => {
                let now = real(started);
                let drain = micros(STOP_DRAIN.min(s.drain));
                stop_tx.send_modify(|stop| {
                    stop.at = stop.at.min(now);
                    stop.deadline = stop.deadline.min(now + drain);
                    stop.is_told = true;
                });
            }
            _ = look.tick(), if !progress.ever_connected.load(Relaxed) => {
                // Without a failure the scenario has kept all agents away.
                if let Some(reason) = progress.failure() {
                    tasks.abort_all();
                    bail!(
                        "no agent could connect to {} within {:?}: {reason}; is this the MQTT address of a running server?",
                        s.connect,
                        s.connect_timeout
                    );
                }
            }
            _ = every.tick() => tracing::info!(
                made = progress.made.load(Relaxed),
                held = progress.made.load(Relaxed) - progress.acked.load(Relaxed),
                connected = progress.connected.load(Relaxed),
                "simulated fleet"
            ),
        }
    }
    report.elapsed = started.elapsed();
    report.outstanding_agents.sort();
    report.outstanding_agents.truncate(NAMED_MAX);
    if let (Some(path), Some(memory)) = (&s.state, &memory) {
        memory.write(path)?;
    }
    if let Some(path) = &s.truth {
        let span = table.span();
        let summary = Summary {
            kind: "summary".to_owned(),
            events: report.events,
            measured: report.measured,
            outstanding: report.outstanding,
            devices: s.devices,
            agents: s.agents,
            seed: s.seed,
            duplicates_sent: report.duplicates_sent,
            resends: report.resends,
            acks_lost: report.acks_lost,
            reordered: report.reordered,
            restarts: report.restarts,
            outages: report.outages,
            from: span.map(|(from, _)| from.to_string()),
            to: span.map(|(_, to)| to.to_string()),
        };
        let site = |n| fleet.vocabulary.site(n).to_string();
        report.truth_rows = table.write(path, &summary, site)?;
    }
    Ok(report)
}

/// When events end, and when waiting for acks ends. Microseconds of real time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stop {
    at: u64,
    deadline: u64,
    is_told: bool,
}

fn shutdown_seen(stop: &watch::Sender<Stop>) -> bool {
    stop.borrow().is_told
}

#[derive(Debug, Default)]
struct Progress {
    made: AtomicU64,
    acked: AtomicU64,
    connected: AtomicU64,
    ever_connected: AtomicBool,
    /// Why the newest attempt failed; kept until a first one succeeds.
    failure: Mutex<Option<String>>,
}

impl Progress {
    fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a failed attempt; says whether it is the first of a run that was never connected.
    fn failed(&self, reason: &str) -> bool {
        if self.ever_connected.load(Relaxed) {
            return false;
        }
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.replace(reason.to_owned()).is_none()
    }
}

/// What one agent's task brings home besides its agent.
#[derive(Debug, Default)]
struct Outcome {
    connections: u64,
    lost_connections: u64,
    outages: u64,
    is_answered: bool,
}

fn collect(report: &mut Report, life: &Life) {
    report.add_agent(&life.agent.counters);
    report.add_network(&life.network.counters);
    report.measured += life.tally.as_ref().map_or(0, Tally::measured);
    report.connections += life.outcome.connections;
    report.lost_connections += life.outcome.lost_connections;
    report.outages += life.outcome.outages;
    report.unanswered_ends += u64::from(!life.outcome.is_answered);
    if life.agent.held() > 0 {
        let refusal = life.agent.refusal().map(str::to_owned);
        report
            .outstanding_agents
            .push((life.agent.id().to_string(), life.agent.held(), refusal));
    }
}

fn real(started: Instant) -> u64 {
    micros(started.elapsed())
}

/// Why a connection ended.
enum End {
    /// Everything is acked and the end of time is told.
    Finished,
    /// The drain limit is over.
    Deadline,
    /// The scenario cut it.
    Outage,
    /// The process restarts.
    Restart,
    /// The server or the network did it.
    Lost(String),
}

/// One virtual agent with its devices, its network and its task.
struct Life {
    fleet: Arc<Fleet>,
    number: u32,
    source: Source,
    agent: Agent,
    network: Network,
    tally: Option<Tally>,
    started: Instant,
    stop: watch::Receiver<Stop>,
    progress: Arc<Progress>,
    rng: Rng,
    /// No connection before this (backoff, restart).
    away_until: u64,
    /// Failed connections in a row.
    retry: u32,
    next_restart: u64,
    buffer_max: u64,
    last_sent: u64,
    last_flush: u64,
    /// Everything is acked: from here on the wall clock is the real one.
    is_finished: bool,
    outcome: Outcome,
}

impl Life {
    async fn live(mut self) -> Self {
        loop {
            let stop = self.stop();
            let now = real(self.started);
            self.make(now, stop);
            if now >= stop.deadline {
                break;
            }
            if let Some(until) = self
                .cut_off(now, stop)
                .max(Some(self.away_until))
                .filter(|&t| t > now)
            {
                // Wakes now and then to make events, which wait in the buffer.
                self.sleep_until(until.min(now + 1_000_000).min(stop.deadline))
                    .await;
                continue;
            }
            let end = self.connection().await;
            self.agent.disconnected();
            self.network.disconnected();
            let now = real(self.started);
            match end {
                End::Finished => {
                    self.outcome.is_answered = true;
                    break;
                }
                End::Deadline => break,
                End::Outage => self.outcome.outages += 1,
                End::Restart => {
                    self.agent.restart(rand::random(), now);
                    self.next_restart = self.draw_restart(now);
                    let down = self.fleet.settings.scenario.faults.restart_down;
                    self.away_until = now + micros(down);
                }
                End::Lost(reason) => {
                    self.outcome.lost_connections += 1;
                    self.back_off(now, &reason);
                }
            }
        }
        if let Some(tally) = &mut self.tally {
            tally.close();
        }
        self
    }

    /// Connects, and sends and hears until something ends it.
    async fn connection(&mut self) -> End {
        let settings = &self.fleet.settings;
        let mut session = Session::open(
            &settings.connect,
            self.agent.id(),
            self.agent.incarnation(),
            settings.password.as_deref(),
            &self.status(false),
        );
        let mut is_ready = false;
        let mut last_heartbeat = None;
        let end = loop {
            let stop = self.stop();
            let now = real(self.started);
            self.make(now, stop);
            if now >= stop.deadline {
                break End::Deadline;
            }
            if self.cut_off(now, stop).is_some_and(|until| until > now) {
                break End::Outage;
            }
            if now >= self.next_restart && now < stop.at {
                break End::Restart;
            }
            if is_ready {
                self.transmit(&session, now);
                if self.is_drained()
                    && let Some(end) = self.finish(&session, stop, &mut last_heartbeat)
                {
                    break end;
                }
            }
            let wake = self.wake(now, stop, is_ready);
            let deadline = self.started + Duration::from_micros(wake);
            tokio::select! {
                heard = session.hear() => match heard {
                    Ok(Heard::Ready) if is_ready => {}
                    Ok(Heard::Ready) => {
                        is_ready = true;
                        self.retry = 0;
                        self.outcome.connections += 1;
                        self.progress.connected.fetch_add(1, Relaxed);
                        self.progress.ever_connected.store(true, Relaxed);
                        session.send_status(&self.status(true));
                    }
                    Ok(Heard::Ack(ack)) => {
                        if self.network.passes_ack() {
                            let before = self.agent.held();
                            self.agent.hear(&ack, real(self.started));
                            let acked = before - self.agent.held();
                            self.progress.acked.fetch_add(acked, Relaxed);
                        }
                    }
                    Err(reason) => break End::Lost(reason),
                },
                () = tokio::time::sleep_until(deadline) => {}
                _ = self.stop.changed(), if !stop.is_told => {}
            }
        };
        if is_ready {
            self.progress.connected.fetch_sub(1, Relaxed);
        }
        if matches!(end, End::Finished | End::Deadline) && is_ready {
            session.close(&self.status(false)).await;
        }
        end
    }

    /// Makes what is due, as far as the buffer has room.
    fn make(&mut self, now: u64, stop: Stop) {
        self.source.end_at(stop.at);
        let room = self
            .buffer_max
            .saturating_sub(self.agent.held())
            .min(MAKE_MAX);
        let (agent, tally) = (&mut self.agent, &mut self.tally);
        let made = self.source.make(now, room, |event| {
            if let Some(tally) = tally {
                tally.add(&event);
            }
            agent.take(event, now);
        });
        self.progress.made.fetch_add(made, Relaxed);
    }

    fn transmit(&mut self, session: &Session, now: u64) {
        let settings = &self.fleet.settings;
        let is_last = self.source.next_due().is_none();
        let flush = is_last || now >= self.last_flush + micros(settings.linger);
        if flush {
            self.last_flush = now;
        }
        let heartbeat = micros(settings.heartbeat);
        let (moment, present) = (self.moment(now), self.present(now));
        while let Some(t) = self.agent.next_batch(moment, present, flush) {
            self.last_sent = now;
            self.network
                .send(Bytes::from(t.bytes), now, |bytes| session.send_batch(bytes));
        }
        if now >= self.last_sent + heartbeat {
            self.send_heartbeat(session, now);
        }
        self.network.release(now, |bytes| session.send_batch(bytes));
    }

    fn send_heartbeat(&mut self, session: &Session, now: u64) -> Option<u64> {
        self.last_sent = now;
        let t = self.agent.heartbeat(self.moment(now), self.present(now))?;
        self.network
            .send(Bytes::from(t.bytes), now, |bytes| session.send_batch(bytes));
        Some(t.tx_no)
    }

    fn is_drained(&self) -> bool {
        self.source.next_due().is_none() && self.agent.held() == 0
    }

    /// All is acked: waits for the last window to end, then tells it and waits for the answer.
    fn finish(
        &mut self,
        session: &Session,
        stop: Stop,
        heartbeat: &mut Option<(u64, u64)>,
    ) -> Option<End> {
        self.is_finished = true;
        let now = real(self.started);
        if !stop.is_told && now < self.settled_at(stop) {
            return None;
        }
        match *heartbeat {
            Some((tx_no, _)) if self.agent.is_answered(tx_no) => return Some(End::Finished),
            Some((_, sent)) if now < sent + micros(self.fleet.settings.ack_timeout) => {}
            _ => {
                let tx_no = self.send_heartbeat(session, now)?;
                // Nothing later pushes it through a network that holds it back.
                self.network
                    .release(u64::MAX, |bytes| session.send_batch(bytes));
                *heartbeat = Some((tx_no, now));
            }
        }
        None
    }

    /// When the window of the last event is over for sure, as far as the settings let us wait.
    fn settled_at(&self, stop: Stop) -> u64 {
        let settings = &self.fleet.settings;
        let longest = settings
            .truth_windows
            .iter()
            .map(|w| w.as_micros() as i64)
            .max();
        let window = longest.unwrap_or(WINDOW_US);
        let last = self.fleet.wall.at(stop.at).0;
        let end = last
            .div_euclid(window)
            .saturating_add(1)
            .saturating_mul(window);
        let ahead = end.saturating_sub(wall_clock().0).max(0) as u64;
        let now = real(self.started);
        (now + ahead).min(stop.at.saturating_add(micros(settings.settle)))
    }

    /// When to look again at the latest.
    fn wake(&self, now: u64, stop: Stop, is_ready: bool) -> u64 {
        let settings = &self.fleet.settings;
        let linger = micros(settings.linger);
        let mut wake = stop.deadline;
        if now < stop.at {
            wake = wake.min(stop.at).min(self.next_restart);
            wake = wake.min(self.fleet.next_outage(now).unwrap_or(u64::MAX));
        }
        if !is_ready {
            // Events go on while the connection is being made.
            return wake.min(now + linger).max(now + 1000);
        }
        wake = wake.min(self.last_sent + micros(settings.heartbeat));
        wake = wake.min(self.agent.next_resend().unwrap_or(u64::MAX));
        wake = wake.min(self.network.next_release().unwrap_or(u64::MAX));
        if self.source.next_due().is_some() || self.agent.held() > 0 {
            wake = wake.min(self.last_flush + linger);
            let room = settings.batch_events.saturating_sub(self.agent.tail_len());
            wake = wake.min(self.source.due_after(room));
        } else {
            wake = wake.min(now + 100_000);
        }
        wake.max(now + 1000)
    }

    fn moment(&self, now: u64) -> Now {
        let wall = if self.is_finished {
            wall_clock()
        } else {
            self.fleet.wall.at(now)
        };
        Now { real: now, wall }
    }

    /// No event to come is earlier than this: the clock, or the next event if it is late in coming.
    fn present(&self, now: u64) -> EventTime {
        let wall = self.moment(now).wall;
        self.source.next_time().map_or(wall, |next| next.min(wall))
    }

    fn stop(&self) -> Stop {
        *self.stop.borrow()
    }

    /// Until when the scenario cuts this agent off. No outage begins after the events end.
    fn cut_off(&self, now: u64, stop: Stop) -> Option<u64> {
        self.fleet
            .cut_off(self.number, now.min(stop.at.saturating_sub(1)))
    }

    fn draw_restart(&mut self, now: u64) -> u64 {
        let per_minute = self.fleet.settings.scenario.faults.restart;
        if per_minute <= 0.0 {
            return u64::MAX;
        }
        // Times between restarts of a constant rate are exponentially distributed.
        let minutes = -(1.0 - self.rng.unit()).ln() / per_minute;
        now.saturating_add((minutes * 60e6) as u64)
    }

    fn back_off(&mut self, now: u64, reason: &str) {
        let (first, longest) = self.fleet.settings.reconnect;
        let wait = (micros(first) << self.retry.min(16)).min(micros(longest));
        let wait = wait / 2 + self.rng.below(wait / 2 + 1);
        self.away_until = now + wait;
        if self.progress.failed(reason) {
            let server = &self.fleet.settings.connect;
            tracing::warn!(%server, reason, "failed to connect; trying again");
        }
        // The first failure in a row is worth a line; a thousand agents retrying are not.
        if self.retry == 0 {
            tracing::debug!(agent = %self.agent.id(), reason, "connection lost");
        }
        self.retry += 1;
    }

    fn status(&self, online: bool) -> Status {
        Status {
            online,
            incarnation: self.agent.incarnation().to_string(),
            version: concat!("simulator-", env!("CARGO_PKG_VERSION")).to_owned(),
            backlog: self.agent.held(),
        }
    }

    /// Sleeps, but not through a stop.
    async fn sleep_until(&mut self, until: u64) {
        let until = self.started + Duration::from_micros(until);
        let is_told = self.stop.borrow().is_told;
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            _ = self.stop.changed(), if !is_told => {}
        }
    }
}
