//! The keeper of one replica: puts attempts before it, keeps it running, takes in what it hands in.
//!
//! There is one keeper for each replica that has had an attempt. It carries out [`Order`]s one after
//! the other and tells the dispatcher what happened. The folder of results is the truth: a watch
//! event, a timer and the replica's end all lead to the same look at it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Assignment, Attempt, FailureKind, ReplicaId, RunId, TaskError, TaskId, TaskResult};
use scheduler::Input;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::clock::Clock;
use crate::failure;
use crate::gateways::Gateways;
use crate::inbox::{Inbox, Message};
use crate::runtime::{Exit, ReplicaSpec, Runtime, RuntimeError};
use crate::slot::Slot;

/// Something for a keeper to do.
#[derive(Debug)]
pub enum Order {
    /// Put the attempt before the replica and make sure that it runs.
    Dispatch {
        /// The attempt.
        assignment: Box<Assignment>,
        /// How many ends of the replica the dispatcher knew of. Where it did not know of the last one,
        /// that end will be the attempt's too, and nothing is to be done.
        ends: u64,
    },
    /// Ask the worker to stop the attempt.
    Interrupt {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// Clear away an attempt that is over.
    Clear {
        /// Its run.
        run: RunId,
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// Stop the replica.
    Stop,
}

/// The dispatcher's end of a keeper. The keeper ends when it is dropped; the replica goes on.
#[derive(Clone, Debug)]
pub struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
    hint: Arc<Notify>,
    /// How many ends of the replica the dispatcher knows of.
    ends: u64,
}

/// What all keepers share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// What runs the workers.
    pub runtime: Arc<dyn Runtime>,
    /// The gateways.
    pub gateways: Arc<Gateways>,
    /// Where to tell what happened.
    pub inbox: Inbox,
    /// The time.
    pub clock: Clock,
    /// How long a replica has to stop.
    pub stop_grace: Duration,
}

impl Keeper {
    /// Starts the keeper of a replica.
    pub fn start(surroundings: Surroundings, slot: Slot, spec: ReplicaSpec) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let hint = Arc::new(Notify::new());
        let end = EndGuard { inbox: surroundings.inbox.clone(), replica: spec.replica.clone() };
        let span = info_span!("replica", replica = %spec.replica);
        let work = Work {
            surroundings,
            slot: Arc::new(slot),
            spec,
            hint: Arc::clone(&hint),
            listener: None,
            made: false,
            troubled: false,
            attempt: None,
            end: None,
            ends: 0,
        };
        tokio::spawn(
            async move {
                work.run(inbox).await;
                end.disarm();
            }
            .instrument(span),
        );
        Self { orders, hint, ends: 0 }
    }

    /// Puts an attempt before the replica.
    pub fn dispatch(&self, assignment: Assignment) {
        self.order(Order::Dispatch { assignment: Box::new(assignment), ends: self.ends });
    }

    /// Notes that the dispatcher knows of a further end of the replica.
    pub fn count_end(&mut self) {
        self.ends += 1;
    }

    /// Gives an order. It is kept until the keeper gets to it.
    pub fn order(&self, order: Order) {
        // A keeper that is gone has told the dispatcher, which starts another.
        let _ = self.orders.send(order);
    }

    /// Says that there may be something to take in.
    pub fn look(&self) {
        self.hint.notify_one();
    }
}

/// Tells the dispatcher when a keeper ends by a panic: without it, an attempt would wait for ever.
#[derive(Debug)]
struct EndGuard {
    inbox: Inbox,
    replica: ReplicaId,
}

impl EndGuard {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.inbox.send(Message::KeeperDied(self.replica.clone()));
    }
}

type End = Pin<Box<dyn Future<Output = Exit> + Send>>;

struct Work {
    surroundings: Surroundings,
    slot: Arc<Slot>,
    spec: ReplicaSpec,
    hint: Arc<Notify>,
    listener: Option<gateway::Listener>,
    /// Whether the slot's folders were made.
    made: bool,
    /// Whether it was said that a result can't be taken in.
    troubled: bool,
    /// The attempt whose result is waited for.
    attempt: Option<Arc<Assignment>>,
    /// The end of the replica, while it runs.
    end: Option<End>,
    /// How many ends of the replica were told.
    ends: u64,
}

/// How often the folder is looked at while an attempt is out, whatever the watcher says.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long to wait before a call that failed for a while is made again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a wait for a replica's end has to go on until the engine counts as back: one that is away
/// says so sooner.
const BACK_AFTER: Duration = Duration::from_secs(5);

impl Work {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut next_look = Instant::now();
        loop {
            let waits = self.attempt.is_some();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                () = self.hint.notified(), if waits => self.look().await,
                () = sleep_until(next_look), if waits => self.look().await,
                exit = at_end(&mut self.end) => self.ended(exit).await,
            }
            next_look = Instant::now() + LOOK_EVERY;
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Dispatch { ends, .. } if ends < self.ends => {}
            Order::Dispatch { assignment, .. } => self.dispatch(Arc::new(*assignment)).await,
            Order::Interrupt { task, attempt, reason } => {
                let slot = Arc::clone(&self.slot);
                self.keep_trying(move || slot.interrupt(&task, attempt, &reason)).await;
            }
            Order::Clear { run, task, attempt } => {
                self.forget(&task, attempt);
                let slot = Arc::clone(&self.slot);
                self.keep_trying(move || slot.clear(run, &task, attempt)).await;
            }
            Order::Stop => self.stop().await,
        }
    }

    async fn dispatch(&mut self, assignment: Arc<Assignment>) {
        let (task, attempt) = (assignment.task.id.clone(), assignment.attempt);
        let (slot, order) = (Arc::clone(&self.slot), Arc::clone(&assignment));
        let config_dir = self.spec.config_dir.clone();
        if self.made && !self.slot.is_there() {
            // Somebody removed the folders: those that the replica has are of no use any more.
            warn!("The folders of a replica are gone: starting it anew.");
            self.made = false;
            self.remove().await;
        }
        let make = !std::mem::replace(&mut self.made, true);
        let was_there = self
            .keep_trying(move || {
                if make || !slot.is_there() {
                    slot.make(&config_dir)?;
                }
                // What has the name of an attempt that no worker has seen is not of that attempt.
                let (task, attempt) = (&order.task.id, order.attempt);
                slot.clear_strangers(slot.has(task, attempt).then_some((task, attempt)))?;
                slot.stage(&order)
            })
            .await;
        if make {
            self.surroundings.inbox.send(Message::SlotMade(self.spec.replica.clone()));
        }
        self.attempt = Some(assignment);
        // After a restart the result may be there already; then nothing needs to run.
        self.look().await;
        if self.attempt.is_none() {
            return;
        }
        match self.launch(was_there).await {
            Ok(()) => {
                debug!(%task, %attempt, "The attempt is before the replica.");
                self.tell(Input::AttemptStarted { task, attempt });
            }
            Err(error) => {
                warn!(%task, %attempt, error = &error as &dyn std::error::Error, "Can't start.");
                self.attempt = None;
                let error = unstartable(&error);
                self.tell(Input::AttemptUnstartable { task, attempt, error });
            }
        }
    }

    /// Makes sure that the replica, and its gateway, run. A replica that may have the attempt already
    /// is taken as it is.
    async fn launch(&mut self, may_have_it: bool) -> Result<(), RuntimeError> {
        if self.listener.is_none() {
            self.listener = Some(self.surroundings.gateways.listen(&self.spec).await?);
        }
        if self.end.is_some() {
            return Ok(());
        }
        if let (Some(only), Some(attempt)) = (&mut self.spec.only_attempt, &self.attempt) {
            *only = attempt.task.id.slot_name(attempt.attempt);
        }
        let spec = self.spec.clone();
        let runtime = Arc::clone(&self.surroundings.runtime);
        self.persist(|| runtime.ensure(&spec, may_have_it)).await?;
        let (runtime, inbox) =
            (Arc::clone(&self.surroundings.runtime), self.surroundings.inbox.clone());
        let replica = self.spec.replica.clone();
        self.end = Some(Box::pin(async move {
            let mut away = Away::new(inbox, &replica);
            loop {
                let mut wait = runtime.wait(&replica);
                let answer = match timeout(BACK_AFTER, &mut wait).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        away.is_over();
                        wait.await
                    }
                };
                match answer {
                    Ok(exit) => return exit,
                    // A lost connection is not an end: the replica may well be running.
                    Err(error) => away.tell(&error),
                }
                sleep(RETRY_AFTER).await;
            }
        }));
        Ok(())
    }

    /// Takes in the result of the attempt, if it is there.
    async fn look(&mut self) {
        let Some(assignment) = self.attempt.clone() else { return };
        let (slot, order) = (Arc::clone(&self.slot), Arc::clone(&assignment));
        let now = self.surroundings.clock.now();
        match blocking(move || slot.take_in(&order, now)).await {
            Ok(report) => {
                if std::mem::take(&mut self.troubled) {
                    self.surroundings.inbox.notice(&self.spec.replica, None);
                }
                if let Some(report) = report {
                    self.attempt = None;
                    self.report(report);
                }
            }
            Err(error) => {
                // The next look tries again.
                let text = format!("can't take in a result of {}: {error}", self.spec.replica);
                warn!(%error, "Can't take in a result.");
                self.surroundings.inbox.notice(&self.spec.replica, Some(text));
                self.troubled = true;
            }
        }
    }

    async fn ended(&mut self, exit: Exit) {
        info!(%exit, "The replica ended.");
        self.gone(lost(&exit)).await;
    }

    async fn stop(&mut self) {
        let message = format!("{} was stopped", self.spec.replica);
        self.gone(TaskError::new(FailureKind::WorkerLost, message)).await;
    }

    /// Makes sure that the replica is gone, takes in what it had handed in, and says so.
    async fn gone(&mut self, error: TaskError) {
        self.remove().await;
        self.look().await;
        while self.troubled && self.slot.is_there() {
            // A full disk is waited for: what was handed in is not thrown away for it.
            sleep(RETRY_AFTER).await;
            self.look().await;
        }
        if std::mem::take(&mut self.troubled) {
            self.surroundings.inbox.notice(&self.spec.replica, None);
        }
        self.attempt = None;
        self.ends += 1;
        self.tell(Input::ReplicaGone { replica: self.spec.replica.clone(), error });
    }

    /// Stops the replica and makes sure that it is gone, however long that takes: as long as nobody
    /// knows, no other attempt may begin.
    async fn remove(&mut self) {
        let Surroundings { runtime, inbox, stop_grace, .. } = &self.surroundings;
        let replica = &self.spec.replica;
        let mut away = Away::new(inbox.clone(), replica);
        while let Err(error) = runtime.stop(replica, *stop_grace).await {
            away.tell(&error);
            sleep(RETRY_AFTER).await;
        }
        self.end = None;
    }

    /// Makes a call again until its answer is final.
    async fn persist<F>(&mut self, call: impl Fn() -> F) -> Result<(), RuntimeError>
    where
        F: Future<Output = Result<(), RuntimeError>>,
    {
        let mut away = Away::new(self.surroundings.inbox.clone(), &self.spec.replica);
        loop {
            match call().await {
                Err(error) if error.is_transient() => away.tell(&error),
                answer => return answer,
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Does something with files until it succeeds: a full disk is waited for.
    async fn keep_trying<T, F>(&mut self, work: F) -> T
    where
        T: Send + 'static,
        F: Fn() -> std::io::Result<T> + Clone + Send + 'static,
    {
        let mut said = false;
        loop {
            match blocking(work.clone()).await {
                Ok(done) => {
                    if said {
                        self.surroundings.inbox.notice(&self.spec.replica, None);
                    }
                    return done;
                }
                Err(error) => {
                    warn!(%error, "Can't write the slot; trying again.");
                    let text = format!("can't write the slot of {}: {error}", self.spec.replica);
                    self.surroundings.inbox.notice(&self.spec.replica, Some(text));
                    said = true;
                }
            }
            sleep(RETRY_AFTER).await;
        }
    }

    fn forget(&mut self, task: &TaskId, attempt: Attempt) {
        if self.attempt.as_ref().is_some_and(|a| (&a.task.id, a.attempt) == (task, attempt)) {
            self.attempt = None;
        }
    }

    fn report(&self, report: TaskResult) {
        debug!(task = %report.task_id, attempt = report.attempt, status = %report.status, "Report.");
        self.tell(Input::AttemptReported { report });
    }

    fn tell(&self, input: Input) {
        self.surroundings.inbox.send(Message::Input(Box::new(input)));
    }
}

/// Says once that something is not to be had, and once that it is again.
struct Away {
    inbox: Inbox,
    replica: ReplicaId,
    said: bool,
}

impl Away {
    fn new(inbox: Inbox, replica: &ReplicaId) -> Self {
        Self { inbox, replica: replica.clone(), said: false }
    }

    fn tell(&mut self, error: &RuntimeError) {
        if !self.said {
            warn!(error = error as &dyn std::error::Error, "Trying again.");
            let text = format!("{} waits: {error}", self.replica);
            self.inbox.notice(&self.replica, Some(text));
            self.said = true;
        }
    }

    fn is_over(&mut self) {
        if std::mem::take(&mut self.said) {
            self.inbox.notice(&self.replica, None);
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.is_over();
    }
}

async fn at_end(end: &mut Option<End>) -> Exit {
    match end {
        Some(end) => end.await,
        None => std::future::pending().await,
    }
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(std::io::Error::other(error)),
    }
}

fn lost(exit: &Exit) -> TaskError {
    if exit.oom {
        TaskError::new(FailureKind::Oom, format!("the container ran out of memory: {exit}"))
            .with_hint("Give the worker more with `resources.memory_mib` in its `worker.toml`.")
    } else {
        TaskError::new(FailureKind::WorkerLost, format!("the worker was lost: {exit}"))
    }
}

fn unstartable(error: &RuntimeError) -> TaskError {
    let mut message = vec![error.to_string()];
    message.extend(failure::causes(error));
    let message = message.join(": ");
    let failure = TaskError::new(FailureKind::WorkerLost, message);
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests;
