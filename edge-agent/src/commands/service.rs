//! Takes commands in, decides, runs them in turn, and reports what becomes of each.
//!
//! One task owns the ledger. What waits (for the disk, for a program, for the time) is a task of its
//! own that comes back with a result, so that a command that is delivered again is always recognised
//! at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use event::command::{METRIC, Report, State};
use event::{AgentId, Command, DeviceId, MetricName};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::allow::Allowed;
use super::ledger::{Ledger, Order, Verdict};
use super::prepare;
use super::report::{Context, report_of, result};
use super::request::{self, Commands, Local, Request};
use super::runner::{self, KILL_AFTER, Outcome, Program, Stop};
use crate::buffer::{CommandChanges, SavedCommands};
use crate::inbox::{Inbox, Position};

/// Programs that run at once.
pub(super) const RUNNING_MAX: usize = 4;
/// Commands that wait for their turn. Many at once are a mistake somewhere.
pub(super) const QUEUE_MAX: usize = 16;
/// Commands that something is being done for: those beyond it are not taken, and not noted either.
const TASKS_MAX: usize = 64;
/// How long a command waits for the cloud's time where the clock was never set.
const TIME_WAIT: Duration = Duration::from_secs(30);
/// A finished command that is delivered again is answered once in this time.
const ANSWER_EVERY: Duration = Duration::from_secs(60);
/// At a stop, the last results have so long to reach the disk. The inbox keeps them beyond it.
const RECORD_WAIT: Duration = Duration::from_secs(2);
/// So many messages that are no commands are logged one by one.
const LOGGED_ONE_BY_ONE: u64 = 10;

/// The running service.
#[derive(Debug)]
pub(crate) struct Service {
    task: JoinHandle<()>,
    stop: Stop,
}

impl Service {
    /// Nothing more is started; what runs may go on for its grace. [`Self::ended`] tells the end.
    pub fn stop(&self) {
        self.stop.soon.cancel();
    }

    /// What runs is ended.
    pub fn stop_now(&self) {
        self.stop.soon.cancel();
        self.stop.now.cancel();
    }

    /// Waits until nothing runs any more and the results are in the inbox.
    pub async fn ended(&mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.task).await
    }
}

/// Starts the service. `saved` is what earlier lives have noted, `life` a number that is new in each
/// life: ids of local commands are made from it.
///
/// **Errors**: a program, directory or user of the allow-list is not there.
pub(crate) fn start(
    list: Vec<Allowed>,
    agent: &AgentId,
    life: u64,
    saved: SavedCommands,
    inbox: Arc<Inbox>,
) -> Result<(Commands, Service), anyhow::Error> {
    let programs: Vec<Program> = prepare(&list)?;
    let metric = MetricName::new(METRIC)?;
    let device = DeviceId::new(agent.as_str())?;
    inbox.register(Position::Live);
    let stop = Stop::default();
    let context = Arc::new(Context {
        inbox,
        metric,
        stop: stop.clone(),
    });
    let ledger = Ledger::load(saved, context.now(), context.mono());
    let (commands, incoming) = request::channel();
    let worker = Worker {
        context,
        list,
        programs,
        device,
        life,
        local: 0,
        ledger,
        queue: VecDeque::new(),
        waiting: BTreeSet::new(),
        running: BTreeMap::new(),
        replies: BTreeMap::new(),
        answered: BTreeMap::new(),
        bad: 0,
        tasks: JoinSet::new(),
    };
    let task = tokio::spawn(worker.run(incoming));
    Ok((commands, Service { task, stop }))
}

/// A command on its way to a program.
struct Job {
    order: Order,
    entry: usize,
    args: Vec<String>,
}

enum Done {
    /// Nothing more is to be done.
    Recorded,
    /// The program has ended, or was not started: none.
    Ran(Order, Option<Outcome>),
    /// It expired while its start was being noted.
    TooLate(Order, String),
    /// The time is known, or will not be.
    Time(Order),
}

struct Worker {
    context: Arc<Context>,
    list: Vec<Allowed>,
    programs: Vec<Program>,
    /// The agent as a device.
    device: DeviceId,
    life: u64,
    /// Local commands so far.
    local: u64,
    ledger: Ledger,
    queue: VecDeque<Job>,
    /// Ids that have no row yet: in the queue, or waiting for the time.
    waiting: BTreeSet<String>,
    /// Ids that run, and their names.
    running: BTreeMap<String, String>,
    /// Who waits for the end of a local command.
    replies: BTreeMap<String, oneshot::Sender<Report>>,
    /// When a finished command was last answered.
    answered: BTreeMap<String, Duration>,
    bad: u64,
    tasks: JoinSet<Done>,
}

impl Worker {
    async fn run(mut self, mut incoming: mpsc::Receiver<Request>) {
        let stop = self.context.stop.clone();
        self.fail_unfinished();
        let mut open = true;
        loop {
            tokio::select! {
                () = stop.soon.cancelled() => break,
                // Beyond that who gives commands waits: rules in the channel, the cloud by sending again.
                request = incoming.recv(), if open && self.tasks.len() < TASKS_MAX => match request {
                    Some(request) => self.take(request),
                    None => open = false,
                },
                Some(done) = self.tasks.join_next() => self.take_done(done),
            }
            self.start_next();
        }
        // What has not begun has no row: the cloud sends it again, and the next life decides.
        drop(incoming);
        self.queue.clear();
        self.finish().await;
    }

    /// Waits for what runs, which has its grace and is then ended.
    async fn finish(&mut self) {
        let grace = self.running.values().filter_map(|name| {
            let allowed = self.list.iter().find(|a| a.name == *name);
            allowed.map(|a| a.stop_grace)
        });
        let most = grace.max().unwrap_or_default() + 3 * KILL_AFTER + RECORD_WAIT;
        let now = self.context.stop.now.clone();
        let hurry = async {
            tokio::select! {
                () = tokio::time::sleep(most) => {}
                () = async { now.cancelled().await; tokio::time::sleep(3 * KILL_AFTER).await } => {}
            }
        };
        tokio::pin!(hurry);
        loop {
            let waits_for_disk_only = self.running.is_empty();
            tokio::select! {
                done = self.tasks.join_next() => match done {
                    Some(done) => self.take_done(done),
                    None => return,
                },
                () = &mut hurry => break,
                () = tokio::time::sleep(RECORD_WAIT), if waits_for_disk_only => break,
            }
        }
        if !self.tasks.is_empty() {
            tracing::warn!(
                "results of commands have not reached the disk yet; they go with the last commit"
            );
        }
        // Programs that are left end with their tasks.
        self.tasks.shutdown().await;
    }

    /// Commands that ran when the last life ended without a word.
    fn fail_unfinished(&mut self) {
        for (id, row) in self.ledger.unfinished() {
            tracing::warn!(id, name = row.name, "a command ran when the agent stopped");
            let order = Order {
                id,
                device: DeviceId::new(&row.device).unwrap_or_else(|_| self.device.clone()),
                name: row.name.clone(),
                args: BTreeMap::new(),
                life: row.expires_at.map(|expires_at| (row.at, expires_at)),
                reason: None,
                start_by: None,
            };
            let reason = "the agent stopped while it ran; the outcome is unknown";
            self.conclude(order, State::Failed, reason.to_owned(), row.started);
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Remote(payload) => {
                let command = Command::decode(&payload)
                    .map_err(|e| e.to_string())
                    .and_then(|c| Command::check_id(&c.id).map(|()| c));
                match command {
                    Ok(command) => self.take_command(command),
                    Err(reason) => {
                        self.bad += 1;
                        if self.bad <= LOGGED_ONE_BY_ONE || self.bad.is_multiple_of(1000) {
                            tracing::warn!(
                                reason,
                                bad = self.bad,
                                "a message on the command topic is no command"
                            );
                        }
                    }
                }
            }
            Request::Local { local, reply } => self.take_local(local, reply),
        }
    }

    fn take_local(&mut self, local: Local, reply: Option<oneshot::Sender<Report>>) {
        let known = |id: &String| {
            self.waiting.contains(id)
                || self.running.contains_key(id)
                || self.ledger.get(id).is_some()
        };
        let id = match local.id {
            Some(id) if known(&id) => {
                tracing::debug!(id, "a command of this device was given again");
                return;
            }
            Some(id) => id,
            None => {
                self.local += 1;
                format!("local-{:016x}-{}", self.life, self.local)
            }
        };
        if let Some(reply) = reply {
            self.replies.insert(id.clone(), reply);
        }
        self.take_order(Order {
            id,
            device: local.device.unwrap_or_else(|| self.device.clone()),
            name: local.name,
            args: local.args,
            life: None,
            reason: Some(local.reason),
            start_by: local.start_by,
        });
    }

    fn take_command(&mut self, command: Command) {
        let id = command.id;
        if self.waiting.contains(&id) || self.running.contains_key(&id) {
            tracing::debug!(id, "a command was delivered again");
            return;
        }
        if self.ledger.get(&id).is_some() {
            self.answer_again(&id);
            return;
        }
        self.take_order(Order {
            id,
            device: command.device,
            name: command.name,
            args: command.args,
            life: Some((command.issued_at, command.expires_at)),
            reason: None,
            start_by: None,
        });
    }

    /// The cloud may not have heard what became of it (a full buffer drops the oldest).
    fn answer_again(&mut self, id: &str) {
        let mono = self.context.mono();
        self.answered.retain(|_, at| mono < *at + ANSWER_EVERY);
        let Some(row) = self.ledger.get(id) else {
            return;
        };
        if self.answered.contains_key(id) || !row.state.is_final() {
            return;
        }
        let report = Report::parse(&row.report).unwrap_or_else(|_| Report {
            id: id.to_owned(),
            name: row.name.clone(),
            state: row.state,
            exit_code: None,
            duration_ms: None,
            output: None,
            reason: None,
        });
        let device = DeviceId::new(&row.device).unwrap_or_else(|_| self.device.clone());
        tracing::debug!(
            id,
            "a command was delivered again; its result is sent again"
        );
        self.answered.insert(id.to_owned(), mono);
        self.record(device, report, CommandChanges::default());
    }

    fn take_order(&mut self, order: Order) {
        let (now, mono) = (self.context.now(), self.context.mono());
        let agent = self.device.as_str();
        let verdict = self.ledger.decide(&order, &self.list, agent, now, mono);
        match verdict {
            Verdict::Start(entry, args) => {
                if self.queue.len() >= QUEUE_MAX || self.ledger.is_full() {
                    self.refuse(
                        order,
                        "too many commands wait or are remembered; give it again later",
                    );
                    return;
                }
                self.ledger.use_budget(&order.name, mono);
                self.waiting.insert(order.id.clone());
                self.queue.push_back(Job { order, entry, args });
            }
            Verdict::Refused(reason) => self.refuse(order, &reason),
            Verdict::Expired(reason) => self.conclude(order, State::Expired, reason, false),
            Verdict::NeedsTime => {
                self.waiting.insert(order.id.clone());
                let inbox = self.context.inbox.clone();
                let stop = self.context.stop.soon.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        _ = timeout(TIME_WAIT, inbox.cloud_time_known()) => {}
                        () = stop.cancelled() => {}
                    }
                    Done::Time(order)
                });
            }
        }
    }

    fn refuse(&mut self, mut order: Order, reason: &str) {
        // An event of a device that is not behind this agent would make it so in the cloud.
        let ours = |device: &DeviceId| self.list.iter().any(|a| a.devices.contains(device));
        if !ours(&order.device) {
            order.device = self.device.clone();
        }
        self.conclude(order, State::Refused, reason.to_owned(), false);
    }

    /// Starts what may start now: one per name, in order.
    fn start_next(&mut self) {
        while self.running.len() < RUNNING_MAX {
            let free = |job: &Job| self.running.values().all(|name| *name != job.order.name);
            let Some(job) = self
                .queue
                .iter()
                .position(free)
                .and_then(|at| self.queue.remove(at))
            else {
                return;
            };
            self.waiting.remove(&job.order.id);
            self.start(job);
        }
    }

    fn start(&mut self, job: Job) {
        let Job { order, entry, args } = job;
        let entry = self.list.get(entry).zip(self.programs.get(entry));
        let Some((allowed, program)) = entry.map(|(a, p)| (a.clone(), p.clone())) else {
            return;
        };
        if let Some(late) = self.context.too_late(&order) {
            self.conclude(order, State::Expired, late, false);
            return;
        }
        if allowed.dry_run {
            let path = allowed.program.display();
            let reason = format!("dry run, nothing was started: {path} {args:?}");
            self.conclude(order, State::Succeeded, reason, true);
            return;
        }
        tracing::info!(id = order.id, name = order.name, ?args, "a command starts");
        let mut report = report_of(&order, State::Running);
        report.reason.clone_from(&order.reason);
        let changes = self.note(&order, &report, true);
        self.running.insert(order.id.clone(), order.name.clone());
        let context = self.context.clone();
        self.tasks.spawn(async move {
            // On disk first: whatever happens from here on, it does not run again.
            if !context.record(&order.device, &report, changes).await
                || context.stop.soon.is_cancelled()
            {
                return Done::Ran(order, None);
            }
            if let Some(late) = context.too_late(&order) {
                return Done::TooLate(order, late);
            }
            let outcome = runner::run(&program, &args, &context.stop).await;
            Done::Ran(order, Some(outcome))
        });
    }

    fn take_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Recorded) => {}
            Ok(Done::Time(order)) => {
                self.waiting.remove(&order.id);
                if self.context.now().is_some() {
                    self.take_order(order);
                } else if !self.context.stop.soon.is_cancelled() {
                    self.refuse(
                        order,
                        "this device's clock was never set and the cloud has not said the time: it \
                         cannot be told whether the command has expired",
                    );
                }
            }
            Ok(Done::TooLate(order, late)) => {
                self.running.remove(&order.id);
                self.conclude(order, State::Expired, late, false);
            }
            Ok(Done::Ran(order, None)) => {
                self.running.remove(&order.id);
                let reason = "the agent was told to stop before it started";
                self.conclude(order, State::Failed, reason.to_owned(), false);
            }
            Ok(Done::Ran(order, Some(outcome))) => {
                self.running.remove(&order.id);
                let timeout = self.list.iter().find(|a| a.name == order.name);
                let timeout = timeout.map(|a| a.timeout).unwrap_or_default();
                let report = result(&order, outcome, timeout);
                self.report(order, report, true);
            }
            // A task of ours panicked: its command stays `running` until the next start tells.
            Err(error) => tracing::error!(%error, "a command's task failed"),
        }
    }

    /// The last word about an order, without a program's result.
    fn conclude(&mut self, order: Order, state: State, reason: String, started: bool) {
        let mut report = report_of(&order, state);
        report.reason = Some(match &order.reason {
            Some(why) => format!("{reason} (given because: {why})"),
            None => reason,
        });
        self.report(order, report, started);
    }

    fn report(&mut self, order: Order, report: Report, started: bool) {
        tracing::info!(
            id = report.id, name = report.name, state = ?report.state, exit_code = report.exit_code,
            reason = report.reason, output = report.output, "a command is done with"
        );
        let changes = if self.ledger.is_full() && self.ledger.get(&order.id).is_none() {
            // Nothing is noted: this id was not started, and cannot be as long as there is no room.
            CommandChanges::default()
        } else {
            self.note(&order, &report, started)
        };
        let mono = self.context.mono();
        self.answered.retain(|_, at| mono < *at + ANSWER_EVERY);
        self.answered.insert(order.id.clone(), mono);
        if let Some(reply) = self.replies.remove(&order.id) {
            let _ = reply.send(report.clone());
        }
        self.record(order.device, report, changes);
    }

    fn note(&mut self, order: &Order, report: &Report, started: bool) -> CommandChanges {
        let now = self.context.now();
        let at = now.unwrap_or_else(|| self.context.inbox.clock().wall());
        self.ledger.note(order, report, started, now, at)
    }

    fn record(&mut self, device: DeviceId, report: Report, changes: CommandChanges) {
        let context = self.context.clone();
        self.tasks.spawn(async move {
            context.record(&device, &report, changes).await;
            Done::Recorded
        });
    }
}
