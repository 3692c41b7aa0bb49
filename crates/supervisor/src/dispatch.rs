//! The dispatcher: one owner of all state, one message at a time.
//!
//! A message becomes an input of the scheduler. The events of all messages that wait are committed
//! together; only then are the answers given and the commands carried out. Everything that takes time
//! is done by others, who send a message when it is done.

mod assign;
mod brief;
mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Attempt, DecisionId, Event, HoldScope, ReplicaId, RunId, TaskId, WorkerId, mutant};
use scheduler::{Budget, Command, Input, Refusal, Scheduler, Step};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub(crate) use brief::Brief;
use write::Unwritten;

use crate::api::types::GcRequest;
use crate::clock::Clock;
use crate::gateways::Gateways;
use crate::gc::{self, Chosen};
use crate::inbox::Message;
use crate::install::Installation;
use crate::journal::snapshot::Draft;
use crate::journal::{CommitError, Journals};
use crate::replica::{Keeper, Order, Surroundings};
use crate::replicas::Replicas;
use crate::watch::Watch;
use crate::workers::Worker;
use crate::{failure, publish, view};

/// The most messages whose events are committed together.
const BATCH: usize = 512;

/// How many files are looked at, after a start, between two batches: some milliseconds' work at most.
const CHECKS: usize = 32;

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
    /// Dispatches that wait until what their tasks are given can be written.
    put_off: Vec<Command>,
    /// What was there at the start, and whose files are yet to be looked at.
    unchecked: VecDeque<Unwritten>,
    notices: BTreeMap<String, String>,
    rehearsal: bool,
    /// Since when nothing new is dispatched, waiting for what runs.
    draining: bool,
    /// Whether the journal can't be written for now.
    blocked: bool,
    /// Whether a journal is being made shorter.
    shortening: bool,
    /// A snapshot to be put in its place once all that waits is safe.
    draft: Option<Draft>,
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
            put_off: Vec::new(),
            unchecked: VecDeque::new(),
            notices: BTreeMap::new(),
            rehearsal: beginning.rehearsal,
            draining: false,
            blocked: false,
            shortening: false,
            draft: None,
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
                () = until(wakeup) => {}
                () = until(retry_at) => {}
                // Nothing else is to be done.
                () = tokio::task::yield_now(), if self.has_more() && !self.blocked => {}
            }
            for message in messages.drain(..) {
                self.take(message);
            }
            if wakeup.is_some_and(|at| at <= Instant::now()) {
                self.input(Input::Tick);
            }
            self.settle()?;
            if !self.blocked
                && let Some(draft) = self.draft.take()
            {
                self.adopt(&draft)?;
            }
            self.check_files();
            self.make_shorter();
            // Messages that keep coming must not put it off for ever.
            if retry_at.is_some_and(|at| at <= Instant::now()) {
                self.write_again();
                for command in std::mem::take(&mut self.put_off) {
                    self.carry_out(command);
                }
                retry_at = None;
            }
            retry_at = match retry_at {
                _ if !self.blocked && self.unwritten.is_empty() && self.put_off.is_empty() => None,
                Some(at) => Some(at),
                None => Some(Instant::now() + RETRY_AFTER),
            };
            if self.draining && !self.blocked && self.scheduler.running() == 0 {
                return Ok(());
            }
        }
    }

    /// Brings the replicas in line with what the journals say. The files are looked at later: there may be a
    /// hundred thousand, and nobody waits for them.
    fn begin(&mut self) {
        let runs: Vec<_> = self.scheduler.runs().map(|run| run.run).collect();
        for &run in &runs {
            for entry in self.scheduler.run_tasks(&run) {
                let task = entry.task.id.clone();
                if let Some(live) = entry.live() {
                    let place = (live.attempt, live.replica.clone(), run);
                    self.live.insert(task.clone(), place);
                }
                let unchecked = Some(match entry.result {
                    Some(_) => Unwritten::Result(task),
                    None => Unwritten::Task(task),
                });
                self.unchecked.extend(mutant!(RestartForgetsToPublish, unchecked, None));
            }
            if self.scheduler.run(&run).is_some_and(view::has_ended) {
                self.unchecked.push_back(Unwritten::Run(run));
            }
        }
        self.clear_leftovers();
        let step = self.scheduler.resume(self.clock.now(), &mut self.random);
        self.record(step);
        if !runs.contains(&RunId::Adhoc) {
            self.input(view::adhoc(self.rehearsal));
        }
    }

    /// Looks at the results that a task is given, where not all files have been looked at since the start: a
    /// power cut may have torn them.
    fn check_inputs(&mut self, task: &TaskId) {
        let Some(entry) = self.scheduler.task(task).filter(|_| !self.unchecked.is_empty()) else {
            return;
        };
        let torn = entry.task.dependencies.iter().filter(|given| {
            let result = self.scheduler.task(given).and_then(|entry| entry.result.as_ref());
            result.is_some_and(|result| !publish::is_published(&self.installation, result))
        });
        for given in torn.cloned().collect::<Vec<_>>() {
            self.write(Unwritten::Result(given));
        }
    }

    /// Returns whether a result that a task is given can't be written for now: what is there in its place may be
    /// torn.
    fn is_given_unwritten(&self, task: &TaskId) -> bool {
        let given = self.scheduler.task(task).map(|entry| &entry.task.dependencies);
        let mut given = given.filter(|_| !self.unwritten.is_empty()).into_iter().flatten();
        given.any(|given| self.unwritten.contains_key(&Unwritten::Result(given.clone())))
    }

    /// Looks at some of the files that were there at the start, and writes what is missing. Only what is safe
    /// may be shown, so it is for right after a commit.
    fn check_files(&mut self) {
        for _ in 0..CHECKS {
            if self.blocked {
                return;
            }
            let Some(what) = self.unchecked.pop_front() else { return };
            let is_there = match &what {
                // That is looked at where it is written.
                Unwritten::Task(_) | Unwritten::Cleared(_) => false,
                Unwritten::Result(task) => {
                    let result = self.scheduler.task(task).and_then(|entry| entry.result.as_ref());
                    result.is_none_or(|result| publish::is_published(&self.installation, result))
                }
                Unwritten::Run(run) => {
                    !self.scheduler.run(run).is_some_and(view::has_ended)
                        || self.is_run_published(*run)
                }
            };
            if !is_there {
                self.write(what);
            }
        }
    }

    /// Has a journal made shorter that has grown large, in a thread of its own: one at a time.
    fn make_shorter(&mut self) {
        // After a start, not before everything else is done.
        if self.shortening || self.blocked || !self.unchecked.is_empty() {
            return;
        }
        let Some(job) = self.journals.take_large() else { return };
        self.shortening = true;
        let inbox = self.surroundings.inbox.clone();
        let work = move || {
            let run = job.run();
            let made = std::panic::catch_unwind(|| job.make()).unwrap_or(Ok(None));
            let made = made.unwrap_or_else(|error| {
                let error = &error as &dyn std::error::Error;
                warn!(%run, error, "The journal stays as long as it is.");
                None
            });
            inbox.send(Message::Shortened(made));
        };
        #[cfg(not(feature = "simulate"))]
        tokio::task::spawn_blocking(work);
        #[cfg(feature = "simulate")]
        tokio::spawn(async move {
            crate::simulation::moment().await;
            work();
        });
    }

    /// Puts a snapshot in its place.
    fn adopt(&mut self, draft: &Draft) -> Result<(), CommitError> {
        self.shortening = false;
        match self.journals.adopt(draft) {
            Ok(()) => {
                info!("A journal is shorter: attempts that are over are in their tasks' sums.")
            }
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                draft.discard();
                warn!(error = &error as &dyn std::error::Error, "The journal stays as it is.");
            }
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        !self.unchecked.is_empty() || !self.work.clears.is_empty()
    }

    /// Clears away the attempts that were over when the last daemon ended, as it would have: their
    /// transcripts are kept.
    fn clear_leftovers(&mut self) {
        let replicas: Vec<_> = self.workers.values().flat_map(Worker::replicas).collect();
        for replica in replicas {
            self.write(Unwritten::Cleared(replica));
        }
    }

    /// Clears away what is left in a replica's slot.
    fn clear_slot(&mut self, replica: &ReplicaId) -> io::Result<()> {
        let (slot, spec) = self.replicas.plan(replica, &self.workers);
        for (task, attempt) in slot.staged()? {
            let live = self.live.get(&task);
            let is_live = live.is_some_and(|live| (live.0, &live.1) == (attempt, replica));
            let entry = self.scheduler.task(&task);
            if let Some(entry) = entry.filter(|e| !is_live && e.task.worker == spec.worker) {
                let run = entry.task.run;
                self.work.clears.push((replica.clone(), run, task, attempt));
            }
        }
        Ok(())
    }

    fn is_run_published(&self, run: RunId) -> bool {
        let now = self.clock.now();
        let summary = view::summary(&self.scheduler, &self.installation, self.gateways(), run, now);
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
                mutant!(PublishedBeforeAccepted, {
                    if let Input::AttemptReported { report } = &*input {
                        let _ = publish::result(&self.installation, report);
                    }
                });
                self.input(*input);
            }
            Message::Ask(ask) => {
                let reply = ask(self);
                self.work.replies.push(reply);
            }
            Message::Look(look) => look(self),
            Message::SlotMade(replica) => self.watch_results(&replica),
            Message::KeeperDied(replica) => {
                error!(%replica, "BUG: the keeper of a replica ended; stopping the replica.");
                self.keepers.remove(&replica);
                self.work.commands.push(Command::StopReplica { replica });
            }
            Message::TaskFileGone { worker, task } => self.task_file_gone(&worker, &task),
            Message::Shortened(draft) => {
                self.shortening = draft.is_some();
                self.draft = draft;
            }
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
            let over = match &event {
                Event::AttemptFailed { task, .. } => Some(task),
                Event::TaskEnded { result, .. } => Some(&result.task_id),
                _ => None,
            };
            if let Some(task) = over
                && let Some((attempt, replica, run)) = self.live.remove(task)
            {
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

    fn push(&mut self, now: protocol::Time, event: Event) {
        let run = match &event {
            Event::RunOpened { run, .. }
            | Event::PlanAccepted { run, .. }
            | Event::CancelRequested { run, .. }
            | Event::TasksForgotten { run, .. }
            | Event::RunEnded { run, .. } => *run,
            Event::TaskAdded { task, .. } => task.run,
            Event::TaskEnded { result, .. } => result.run,
            Event::DecisionRaised { decision } => self.journal_of(&decision.scope),
            Event::DecisionMade { decision, .. } => match self.scheduler.scope(*decision) {
                Some(scope) => self.journal_of(scope),
                None => panic!("BUG: {decision:?} was answered, and never came up"),
            },
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
        if let Event::DecisionMade { decision, .. } = &event {
            self.renew_keys(*decision);
        }
        self.journals.push(run, now, event);
    }

    /// Has the keys read again that a decision may have been about: whoever made it may have put another
    /// one there.
    fn renew_keys(&self, decision: DecisionId) {
        let workers: Vec<_> = match self.scheduler.scope(decision) {
            Some(HoldScope::Worker(worker)) => vec![worker.clone()],
            Some(HoldScope::All) => self.workers.keys().cloned().collect(),
            _ => return,
        };
        let gateways = Arc::clone(&self.surroundings.gateways);
        tokio::spawn(async move { gateways.renew_keys(&workers).await });
    }

    /// Returns the run whose journal holds the decisions about a scope.
    fn journal_of(&self, scope: &HoldScope) -> RunId {
        match scope {
            HoldScope::Run(run) => *run,
            HoldScope::Task(task) => {
                self.scheduler.task(task).map_or(RunId::Adhoc, |entry| entry.task.run)
            }
            HoldScope::Worker(_) | HoldScope::All => RunId::Adhoc,
        }
    }

    /// Makes what has happened safe; then answers, and carries out what follows. While there is no room
    /// on the disk nothing is answered or carried out, and nothing is lost.
    fn settle(&mut self) -> Result<(), CommitError> {
        mutant!(ActsBeforeCommit, {
            for command in std::mem::take(&mut self.work.commands) {
                self.carry_out(command);
            }
        });
        mutant!(AnswersBeforeCommit, {
            std::mem::take(&mut self.work.replies).into_iter().for_each(|reply| reply());
        });
        mutant!(ClearsBeforeCommit, {
            for (replica, run, task, attempt) in std::mem::take(&mut self.work.clears) {
                self.keeper(&replica).order(Order::Clear { run, task, attempt });
            }
        });
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
                mutant!(AnswersWithoutRoom, {
                    std::mem::take(&mut self.work.replies).into_iter().for_each(|reply| reply());
                });
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
            Command::SetBudget { scope } => {
                let Budget { usd, tokens } = self.scheduler.budget(&scope);
                self.surroundings.gateways.set_budget(&scope, usd, tokens);
            }
            Command::WriteTaskFile { task } => self.write(Unwritten::Task(task)),
            Command::Publish { task } => self.write(Unwritten::Result(task)),
            Command::CloseRun { run } => {
                self.write(Unwritten::Run(run));
                self.journals.close(run);
                info!(%run, "The run ended.");
            }
            Command::Dispatch { task, attempt, replica } => {
                self.check_inputs(&task);
                if self.is_given_unwritten(&task) {
                    self.put_off.push(Command::Dispatch { task, attempt, replica });
                    return;
                }
                match self.assignment(&task, attempt) {
                    Some(Ok((assignment, budget))) => {
                        let scope = HoldScope::Task(task);
                        self.surroundings.gateways.set_budget(&scope, budget.usd, budget.tokens);
                        self.keeper(&replica).dispatch(assignment);
                    }
                    Some(Err(error)) => {
                        let pause = false;
                        let input = Input::AttemptUnstartable { task, attempt, error, pause };
                        self.surroundings.inbox.send(Message::Input(Box::new(input)));
                    }
                    None => {}
                }
            }
            Command::Start { replica } => self.keeper(&replica).start_spare(),
            Command::Interrupt { task, attempt, replica, reason } => {
                if let Some(awaited) = self.awaited(&task, attempt) {
                    self.keeper(&replica).order(Order::Interrupt { awaited, reason });
                }
            }
            Command::StopReplica { replica } => self.keeper(&replica).order(Order::Stop),
        }
    }

    fn keeper(&mut self, replica: &ReplicaId) -> &Keeper {
        self.keepers.entry(replica.clone()).or_insert_with(|| {
            let (slot, spec) = self.replicas.plan(replica, &self.workers);
            Keeper::start(self.surroundings.clone(), slot, spec)
        })
    }

    fn watch_results(&mut self, replica: &ReplicaId) {
        let folder = self.replicas.plan(replica, &self.workers).0.results();
        let Some(keeper) = self.keepers.get(replica) else { return };
        let look = keeper.looker();
        // Straight to the keeper: a worker that makes a million files must not fill the loop's inbox.
        self.watch.add(&folder, Arc::new(move |_| look()));
        // From before the watch: whatever was written until now.
        keeper.look();
    }

    fn task_file_gone(&mut self, worker: &WorkerId, task: &TaskId) {
        let Some(entry) = self.scheduler.task(task) else { return };
        // It may have been written again since: a task that is done anew.
        let is_there = protocol::disk::exists(&self.installation.task_file(worker, task));
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

    /// Decides what is old enough to go, and forgets it unless it is a dry run.
    pub fn choose_old(&mut self, request: GcRequest) -> Chosen {
        let chosen = gc::choose(&self.scheduler, &self.installation, request, self.clock.now());
        if !request.dry_run {
            self.scheduler.forget(&chosen.runs);
            for run in &chosen.runs {
                self.journals.forget(*run);
            }
        }
        chosen
    }

    /// Returns the scheduler, to look things up.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Returns how many bytes of a run's journal are safe.
    pub fn committed(&self, run: RunId) -> u64 {
        self.journals.committed().length(run)
    }

    /// Returns the gateways.
    pub fn gateways(&self) -> &Gateways {
        &self.surroundings.gateways
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
        let trouble = self.watch.trouble();
        let paused = self.scheduler.paused().map(|(worker, error)| {
            let hint = error.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
            format!("{worker} is paused: {error}.{hint} `supervisor retry` lets it go on.")
        });
        self.notices.values().cloned().chain(trouble).chain(paused).collect()
    }

    /// Lets what runs come to its end, and then ends.
    pub fn drain(&mut self) {
        self.draining = true;
        self.scheduler.drain();
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
