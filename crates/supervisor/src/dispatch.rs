//! The dispatcher: one owner of all state, one message at a time.
//!
//! A message becomes an input of the scheduler. The events of all messages that wait are committed
//! together; only then are the answers given and the commands carried out. Everything that takes time
//! is done by others, who send a message when it is done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::{AgentSpec, Assignment, FailureKind, SessionPlan, Status, TaskError};
use protocol::{
    Attempt, Event, Input as TaskInput, ReplicaId, RunId, Task, TaskId, TaskKind, WorkerId,
};
use scheduler::{Command, Input, Refusal, RunEntry, Scheduler, Step};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::inbox::Message;
use crate::install::Installation;
use crate::journal::{CommitError, Journals};
use crate::replica::{Keeper, Order, Surroundings};
use crate::replicas::Replicas;
use crate::watch::Watch;
use crate::workers::{self, Worker};
use crate::{failure, publish, view};

/// The most messages whose events are committed together.
const BATCH: usize = 512;

/// How long to wait before something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The owner of all state.
#[derive(Debug)]
pub struct Dispatcher {
    installation: Installation,
    scheduler: Scheduler,
    journals: Journals,
    workers: BTreeMap<WorkerId, Worker>,
    clock: Clock,
    watch: Watch,
    replicas: Replicas,
    surroundings: Surroundings,
    keepers: HashMap<ReplicaId, Keeper>,
    /// Where each live attempt is.
    live: HashMap<TaskId, (Attempt, ReplicaId, RunId)>,
    /// What could not be written yet, by what it is.
    unwritten: BTreeMap<Unwritten, ()>,
    notices: BTreeMap<String, String>,
    rehearsal: bool,
    /// Since when nothing new is dispatched, waiting for what runs.
    draining: bool,
    /// Whether the journal can't be written for now.
    blocked: bool,
    /// What runs with a budget have spent, in US dollars.
    spent: HashMap<RunId, f64>,
    random: fn() -> u64,
    work: Work,
}

/// What one batch of messages leads to.
#[derive(Default)]
struct Work {
    commands: Vec<Command>,
    clears: Vec<(ReplicaId, RunId, TaskId, Attempt)>,
    replies: Vec<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Work({} commands)", self.commands.len())
    }
}

/// Something that a full disk kept from being written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unwritten {
    Task(TaskId),
    Result(TaskId),
    Run(RunId),
}

/// What a dispatcher begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The installation.
    pub installation: Installation,
    /// The scheduler, with all journals replayed.
    pub scheduler: Scheduler,
    /// The journals.
    pub journals: Journals,
    /// The workers.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// What replicas are started with.
    pub replicas: Replicas,
    /// What all keepers share.
    pub surroundings: Surroundings,
    /// The watch on folders.
    pub watch: Watch,
    /// Whether the model is the built-in stand-in.
    pub rehearsal: bool,
    /// A source of random numbers.
    pub random: fn() -> u64,
}

impl Dispatcher {
    /// Returns a dispatcher.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { installation, scheduler, journals, workers, .. } = beginning;
        Self {
            installation,
            scheduler,
            journals,
            workers,
            clock: beginning.surroundings.clock,
            watch: beginning.watch,
            replicas: beginning.replicas,
            surroundings: beginning.surroundings,
            keepers: HashMap::new(),
            live: HashMap::new(),
            unwritten: BTreeMap::new(),
            notices: BTreeMap::new(),
            rehearsal: beginning.rehearsal,
            draining: false,
            blocked: false,
            spent: HashMap::new(),
            random: beginning.random,
            work: Work::default(),
        }
    }

    /// Works until `stop`, or until the journal can't be trusted any more.
    ///
    /// # Errors
    ///
    /// [`CommitError`] when it is not known what the journal holds: the daemon must end and read it
    /// again.
    pub async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Message>,
        stop: CancellationToken,
    ) -> Result<(), CommitError> {
        self.begin();
        self.settle()?;
        let mut messages = Vec::with_capacity(BATCH);
        let mut retry_at = None;
        loop {
            let wakeup = self.scheduler.next_wakeup().map(|time| self.clock.instant(time));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = inbox.recv_many(&mut messages, BATCH) => {}
                () = until(wakeup) => self.input(Input::Tick),
                () = until(retry_at) => {}
            }
            for message in messages.drain(..) {
                self.take(message);
            }
            self.settle()?;
            // Messages that keep coming must not put it off for ever.
            if retry_at.is_some_and(|at| at <= Instant::now()) {
                self.write_again();
                retry_at = None;
            }
            retry_at = match retry_at {
                _ if !self.blocked && self.unwritten.is_empty() => None,
                Some(at) => Some(at),
                None => Some(Instant::now() + RETRY_AFTER),
            };
            if self.draining && self.scheduler.running() == 0 {
                return Ok(());
            }
        }
    }

    /// Brings the files and the replicas in line with what the journals say.
    fn begin(&mut self) {
        let runs: Vec<_> = self.scheduler.runs().map(|run| run.run).collect();
        for &run in &runs {
            let mut commands = Vec::new();
            for entry in self.scheduler.run_tasks(&run) {
                let task = entry.task.id.clone();
                match &entry.result {
                    Some(result) if !publish::is_published(&self.installation, result) => {
                        commands.push(Command::Publish { task });
                    }
                    Some(_) => {}
                    None => commands.push(Command::WriteTaskFile { task }),
                }
                if let Some(live) = entry.live() {
                    let place = (live.attempt, live.replica.clone(), run);
                    self.live.insert(entry.task.id.clone(), place);
                }
            }
            self.work.commands.extend(commands);
            let cost = self.scheduler.run_tasks(&run).map(|entry| entry.cost_usd).sum();
            self.spent.insert(run, cost);
            let ended = self.scheduler.run(&run).is_some_and(view::has_ended);
            if ended && !self.is_run_published(run) {
                self.work.commands.push(Command::CloseRun { run });
            }
        }
        let step = self.scheduler.resume(self.clock.now(), &mut self.random);
        self.record(step);
        if !runs.contains(&RunId::Adhoc) {
            self.input(view::adhoc(self.rehearsal));
        }
    }

    fn is_run_published(&self, run: RunId) -> bool {
        let now = self.clock.now();
        let summary = view::summary(&self.scheduler, &self.installation, run, now);
        let answer = view::answer(&self.scheduler, run);
        summary.is_none_or(|s| publish::is_run_published(&self.installation, &s, answer.as_deref()))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => {
                if let Input::ReplicaGone { replica, .. } = &*input
                    && let Some(keeper) = self.keepers.get_mut(replica)
                {
                    keeper.count_end();
                }
                self.input(*input);
            }
            Message::Ask(ask) => {
                let reply = ask(self);
                self.work.replies.push(reply);
            }
            Message::Look(look) => look(self),
            Message::SlotMade(replica) => self.watch_results(&replica),
            Message::ResultsChanged(replica) => {
                if let Some(keeper) = self.keepers.get(&replica) {
                    keeper.look();
                }
            }
            Message::KeeperDied(replica) => {
                error!(%replica, "BUG: the keeper of a replica ended; stopping the replica.");
                self.keepers.remove(&replica);
                self.work.commands.push(Command::StopReplica { replica });
            }
            Message::TaskFileGone { worker, task } => self.task_file_gone(&worker, &task),
            Message::Notice { about, text: Some(text) } => {
                self.notices.insert(about, text);
            }
            Message::Notice { about, text: None } => {
                self.notices.remove(&about);
            }
        }
    }

    /// Gives the scheduler an input that can't be refused.
    fn input(&mut self, input: Input) {
        if let Err(refusal) = self.request(input) {
            warn!(?refusal, "Ignored.");
        }
    }

    /// Gives the scheduler an input. What it leads to is done when the batch is safe.
    ///
    /// # Errors
    ///
    /// The scheduler's refusal; nothing has changed then.
    pub fn request(&mut self, input: Input) -> Result<(), Refusal> {
        let step = self.scheduler.step(self.clock.now(), &mut self.random, input)?;
        self.record(step);
        Ok(())
    }

    fn record(&mut self, step: Step) {
        let now = self.clock.now();
        for event in step.events {
            let (Event::AttemptFailed { task, .. }
            | Event::TaskEnded { result: protocol::TaskResult { task_id: task, .. }, .. }) = &event
            else {
                self.push(now, event);
                continue;
            };
            if let Some((attempt, replica, run)) = self.live.remove(task) {
                self.work.clears.push((replica, run, task.clone(), attempt));
            }
            self.push(now, event);
        }
        for command in step.commands {
            if let Command::Dispatch { task, attempt, replica } = &command
                && let Some(entry) = self.scheduler.task(task)
            {
                let place = (*attempt, replica.clone(), entry.task.run);
                self.live.insert(task.clone(), place);
            }
            self.work.commands.push(command);
        }
    }

    /// Adds up what runs with a budget spend. A failed attempt is counted as such, not again with its
    /// task.
    fn count_cost(&mut self, run: RunId, event: &Event) {
        let cost = match event {
            Event::AttemptFailed { cost_usd, .. } => *cost_usd,
            Event::TaskEnded { result, .. } if result.status == Status::Complete => result.cost_usd,
            _ => return,
        };
        if self.scheduler.run(&run).is_some_and(|run| run.budget_usd.is_some()) {
            *self.spent.entry(run).or_default() += cost;
        }
    }

    /// Returns what an attempt may spend: its own budget, or what is left of the run's.
    ///
    /// # Errors
    ///
    /// A failure of kind `budget` when nothing is left.
    fn budget(&self, run: &RunEntry, own: Option<f64>) -> Result<Option<f64>, TaskError> {
        let Some(budget) = run.budget_usd else { return Ok(own) };
        let left = budget - self.spent.get(&run.run).copied().unwrap_or_default();
        if left > 0.0 {
            return Ok(Some(own.map_or(left, |own| own.min(left))));
        }
        let message = format!("the run's budget of ${budget:.2} is used up");
        Err(TaskError::new(FailureKind::Budget, message)
            .with_hint("Submit what is left as a new run, with a budget of its own."))
    }

    fn push(&mut self, now: protocol::Time, event: Event) {
        let run = match &event {
            Event::RunOpened { run, .. }
            | Event::PlanAccepted { run, .. }
            | Event::CancelRequested { run, .. }
            | Event::RunEnded { run, .. } => *run,
            Event::TaskAdded { task, .. } => task.run,
            Event::TaskEnded { result, .. } => result.run,
            Event::PlanRejected { task, .. }
            | Event::AttemptDispatched { task, .. }
            | Event::AttemptStarted { task, .. }
            | Event::AttemptStopping { task, .. }
            | Event::AttemptFailed { task, .. }
            | Event::TaskReset { task } => match self.scheduler.task(task) {
                Some(entry) => entry.task.run,
                None => panic!("BUG: an event about {task:?}, which does not exist"),
            },
        };
        debug!(%run, event = %Brief(&event), "Event.");
        self.count_cost(run, &event);
        self.journals.push(run, now, event);
    }

    /// Makes what has happened safe; then answers, and carries out what follows. While there is no room
    /// on the disk nothing is answered or carried out, and nothing is lost.
    fn settle(&mut self) -> Result<(), CommitError> {
        match self.journals.commit() {
            Ok(()) if self.blocked => {
                self.blocked = false;
                self.notices.remove("journal");
            }
            Ok(()) => {}
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                let causes = failure::causes(&error).join(": ");
                warn!(error = &error as &dyn std::error::Error, "Waiting for the journal.");
                self.notices
                    .insert("journal".to_owned(), format!("everything waits: {error}: {causes}"));
                self.blocked = true;
                return Ok(());
            }
        }
        let work = std::mem::take(&mut self.work);
        for (replica, run, task, attempt) in work.clears {
            self.keeper(&replica).order(Order::Clear { run, task, attempt });
        }
        for command in work.commands {
            self.carry_out(command);
        }
        for reply in work.replies {
            reply();
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) {
        debug!(?command, "Command.");
        match command {
            Command::WriteTaskFile { task } => self.write(Unwritten::Task(task)),
            Command::Publish { task } => self.write(Unwritten::Result(task)),
            Command::CloseRun { run } => {
                self.write(Unwritten::Run(run));
                self.journals.close(run);
                info!(%run, "The run ended.");
            }
            Command::Dispatch { task, attempt, replica } => match self.assignment(&task, attempt) {
                Some(Ok(assignment)) => {
                    self.keeper(&replica).dispatch(assignment);
                }
                Some(Err(error)) => {
                    let input = Input::AttemptUnstartable { task, attempt, error };
                    self.surroundings.inbox.send(Message::Input(Box::new(input)));
                }
                None => {}
            },
            Command::Interrupt { task, attempt, replica, reason } => {
                self.keeper(&replica).order(Order::Interrupt { task, attempt, reason });
            }
            Command::StopReplica { replica } => self.keeper(&replica).order(Order::Stop),
        }
    }

    /// Writes something, now or as soon as it can be written.
    fn write(&mut self, what: Unwritten) {
        let written = match &what {
            Unwritten::Task(task) => match self.scheduler.task(task) {
                Some(entry) if entry.result.is_none() => {
                    publish::task(&self.installation, &entry.task)
                }
                _ => Ok(()),
            },
            Unwritten::Result(task) => {
                match self.scheduler.task(task).and_then(|e| e.result.as_ref()) {
                    Some(result) => publish::result(&self.installation, result),
                    None => Ok(()),
                }
            }
            Unwritten::Run(run) => {
                match view::summary(&self.scheduler, &self.installation, *run, self.clock.now()) {
                    Some(summary) => {
                        let answer = view::answer(&self.scheduler, *run);
                        publish::run(&self.installation, &summary, answer.as_deref())
                    }
                    None => Ok(()),
                }
            }
        };
        match written {
            Ok(()) => {
                self.unwritten.remove(&what);
                if self.unwritten.is_empty() {
                    self.notices.remove("files");
                }
            }
            Err(error) => {
                warn!(?what, %error, "Can't write; trying again.");
                self.notices.insert("files".to_owned(), format!("can't write files: {error}"));
                self.unwritten.insert(what, ());
            }
        }
    }

    fn write_again(&mut self) {
        let unwritten: Vec<_> = self.unwritten.keys().cloned().collect();
        for what in unwritten {
            self.write(what);
        }
    }

    /// Returns what a worker has to know for an attempt; `None` when the attempt is over by now.
    fn assignment(&self, task: &TaskId, attempt: Attempt) -> Option<Result<Assignment, TaskError>> {
        let entry = self.scheduler.task(task)?;
        let live = entry.live().filter(|live| live.attempt == attempt)?;
        let run = self.scheduler.run(&entry.task.run)?;
        let worker = match workers::load(&self.installation, &entry.task.worker) {
            Ok(worker) => worker,
            Err(failure) => {
                let mut message = vec![failure.to_string()];
                message.extend(failure.causes());
                let error = TaskError::new(FailureKind::Invalid, message.join(": "));
                return Some(Err(error.with_hint("Mend it and retry the task.")));
            }
        };
        let config = &worker.config;
        let is_work = entry.task.kind == TaskKind::Work;
        let request = run.request.clone().filter(|_| is_work);
        let inputs = entry.task.dependencies.iter().filter_map(|id| {
            let dependency = self.scheduler.task(id)?;
            let status = dependency.status()?;
            let worker = dependency.task.worker.clone();
            Some(TaskInput { task: id.clone(), worker, status })
        });
        let budget_usd = match self.budget(run, entry.task.budget_usd.or(config.budget_usd)) {
            Ok(budget) => budget,
            Err(error) => return Some(Err(error)),
        };
        let session = entry.session.filter(|session| session.id == live.session);
        Some(Ok(Assignment {
            task: Task::clone(&entry.task),
            attempt,
            token: live.token,
            session: SessionPlan {
                id: live.session,
                resume: live.resume,
                used: session.map(|session| session.used).unwrap_or_default(),
                cost_usd: session.map(|session| session.cost_usd).unwrap_or_default(),
            },
            timeout: entry.task.timeout.unwrap_or(Duration::from_secs(config.timeout.into())),
            idle_timeout: Duration::from_secs(config.idle_timeout.into()),
            budget_usd,
            agent: self.agent(&worker, entry.task.kind),
            request,
            workers: (entry.task.kind == TaskKind::Plan).then(|| self.catalogue()),
            inputs: inputs.collect(),
            feedback: entry.feedback.clone(),
            rehearsal: self.rehearsal,
        }))
    }

    /// Planning and synthesis need no tools: that keeps their requests small.
    fn agent(&self, worker: &Worker, kind: TaskKind) -> AgentSpec {
        let mut agent = worker.agent();
        if kind != TaskKind::Work {
            agent.tools.clear();
            agent.subagents = None;
            agent.mcp = None;
        }
        agent
    }

    fn catalogue(&self) -> serde_json::Value {
        let others = self.workers.values().filter(|w| w.id.as_str() != protocol::ORCHESTRATOR);
        others.map(Worker::catalogue_entry).collect()
    }

    fn keeper(&mut self, replica: &ReplicaId) -> &Keeper {
        self.keepers.entry(replica.clone()).or_insert_with(|| {
            let (slot, spec) = self.replicas.plan(replica, &self.workers);
            Keeper::start(self.surroundings.clone(), slot, spec)
        })
    }

    fn watch_results(&mut self, replica: &ReplicaId) {
        let folder = self.replicas.plan(replica, &self.workers).0.results();
        let (inbox, about) = (self.surroundings.inbox.clone(), replica.clone());
        self.watch
            .add(&folder, Arc::new(move |_| inbox.send(Message::ResultsChanged(about.clone()))));
        // From before the watch: whatever was written until now.
        if let Some(keeper) = self.keepers.get(replica) {
            keeper.look();
        }
    }

    fn task_file_gone(&mut self, worker: &WorkerId, task: &TaskId) {
        let Some(entry) = self.scheduler.task(task) else { return };
        // It may have been written again since: a task that is done anew.
        let is_there = self.installation.task_file(worker, task).exists();
        if entry.task.worker != *worker || entry.status().is_some() || is_there {
            return;
        }
        if entry.live().is_some() {
            warn!(%task, "The file of a task that runs was removed; the task goes on.");
            return;
        }
        info!(%task, "The file of a task that waits was removed: cancelling the task.");
        self.input(Input::Cancel(scheduler::Target::Task(task.clone())));
    }

    /// Returns the scheduler, to look things up.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Returns how many bytes of a run's journal are safe.
    pub fn committed(&self, run: RunId) -> u64 {
        self.journals.committed().length(run)
    }

    /// Returns the workers.
    pub fn workers(&self) -> &BTreeMap<WorkerId, Worker> {
        &self.workers
    }

    /// Returns the installation.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Returns the time.
    pub fn now(&self) -> protocol::Time {
        self.clock.now()
    }

    /// Returns whether the model is the built-in stand-in.
    pub fn rehearsal(&self) -> bool {
        self.rehearsal
    }

    /// Returns a random number.
    pub fn random(&self) -> u64 {
        (self.random)()
    }

    /// Watches another folder.
    pub fn watch(&mut self, folder: &std::path::Path, look: crate::watch::Look) {
        self.watch.add(folder, look);
    }

    /// Returns what a person should know.
    pub fn notices(&self) -> Vec<String> {
        let trouble = self.watch.trouble().map(str::to_owned);
        let paused = self.scheduler.paused().map(|(worker, error)| {
            format!("{worker} is paused: {error}. `supervisor retry` lets it go on.")
        });
        self.notices.values().cloned().chain(trouble).chain(paused).collect()
    }

    /// Lets what runs come to its end, and then ends.
    pub fn drain(&mut self) {
        self.draining = true;
        self.scheduler.hold();
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// An event without what people and agents wrote, and without its token: what a log may hold.
struct Brief<'a>(&'a Event);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Event::RunOpened { short, mode, .. } => write!(f, "run_opened {short} {mode:?}"),
            Event::TaskAdded { task, source } => write!(f, "task_added {} {source:?}", task.id),
            Event::PlanRejected { task, reasons } => {
                write!(f, "plan_rejected {task}, {} reasons", reasons.len())
            }
            Event::PlanAccepted { tasks, .. } => write!(f, "plan_accepted, {tasks} tasks"),
            Event::AttemptDispatched { task, attempt, replica, resume, .. } => {
                write!(f, "attempt_dispatched {task} {attempt} {replica} resume={resume}")
            }
            Event::AttemptStarted { task, attempt } => {
                write!(f, "attempt_started {task} {attempt}")
            }
            Event::AttemptStopping { task, attempt, error } => {
                write!(f, "attempt_stopping {task} {attempt} {}", error.kind)
            }
            Event::AttemptFailed { task, attempt, error, counted, retry_at, .. } => {
                write!(f, "attempt_failed {task} {attempt} {} counted={counted}", error.kind)?;
                match retry_at {
                    Some(time) => write!(f, " again at {time}"),
                    None => Ok(()),
                }
            }
            Event::TaskEnded { result, .. } => {
                write!(f, "task_ended {} {}", result.task_id, result.status)
            }
            Event::CancelRequested { task: Some(task), .. } => write!(f, "cancel_requested {task}"),
            Event::CancelRequested { task: None, .. } => write!(f, "cancel_requested"),
            Event::TaskReset { task } => write!(f, "task_reset {task}"),
            Event::RunEnded { state, .. } => write!(f, "run_ended {}", state.as_str()),
        }
    }
}

#[cfg(test)]
mod tests;
