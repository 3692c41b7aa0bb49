//! The keeper of one replica: puts attempts before it, keeps it running, takes in what it hands in.
//!
//! There is one keeper for each replica that has had an attempt. It carries out [`Order`]s one after
//! the other and tells the dispatcher what happened. The folder of results is the truth: a watch
//! event, a timer and the replica's end all lead to the same look at it.

mod check;
mod end;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use protocol::{
    Assignment, Attempt, ContainerMode, FailureKind, ReplicaId, RunId, Status, TaskError, TaskId,
    TaskResult, Wall, mutant,
};
use scheduler::Input;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, debug, info_span, warn};

use crate::clock::Clock;
use crate::failure;
use crate::gateways::{Gateways, WayOut};
use crate::inbox::{Inbox, Message};
use crate::runtime::{Exit, ReplicaSpec, Runtime, RuntimeError};
use crate::slot::{Awaited, Slot};
use crate::walls;

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
    /// Start the replica, and the slot that it will have the next attempt in.
    Start {
        /// How many ends of the replica the dispatcher knew of.
        ends: u64,
    },
    /// Ask the worker to stop the attempt. One that an earlier daemon has put before it is waited for
    /// from then on, too.
    Interrupt {
        /// The attempt.
        awaited: Awaited,
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
            full: false,
            attempt: None,
            reported: None,
            is_cleared: true,
            is_gone: false,
            tampered: None,
            spent: false,
            holes: Vec::new(),
            cancel: None,
            interrupted: None,
            stopping: false,
            clears: Vec::new(),
            orders: inbox,
            waiting: VecDeque::new(),
            ensured: false,
            end: None,
            ends: 0,
        };
        tokio::spawn(
            async move {
                work.run().await;
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

    /// Starts the replica: an attempt will come.
    pub fn start_spare(&self) {
        self.order(Order::Start { ends: self.ends });
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

    /// Returns what says so. However often it is called meanwhile, one look follows.
    pub fn looker(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let hint = Arc::clone(&self.hint);
        move || hint.notify_one()
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
    listener: Option<WayOut>,
    /// Whether the slot's folders were made.
    made: bool,
    /// Whether it was said that a result can't be taken in.
    troubled: bool,
    /// Whether it was said that the slot can't be written.
    full: bool,
    /// The attempt whose result is waited for.
    attempt: Option<Arc<Awaited>>,
    /// The attempt whose result was reported last. It is not taken in again: what was taken in belongs to
    /// the dispatcher by then.
    reported: Option<(TaskId, Attempt)>,
    /// Whether that one was cleared away: until then the dispatcher takes its artifacts from the slot.
    is_cleared: bool,
    /// Whether the replica is known to be gone, and its slot is as it left that.
    is_gone: bool,
    /// The end of an attempt whose report somebody forged. It is told once the replica is gone: the forger runs in it.
    tampered: Option<TaskResult>,
    /// Whether the worker takes no further attempt: the next one needs another container.
    spent: bool,
    /// What was said of walls that its container lacks.
    holes: Vec<Wall>,
    /// Why that attempt is to stop, while nobody could tell its worker.
    cancel: Option<String>,
    /// Why that attempt is to stop, whoever knows by now: nothing is checked any more then.
    interrupted: Option<String>,
    /// Whether the replica is being stopped by an order, which no check holds up.
    stopping: bool,
    /// What is yet to be cleared away.
    clears: Vec<(RunId, TaskId, Attempt)>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// The orders that came while something else had to be waited for.
    waiting: VecDeque<Order>,
    /// Whether the replica runs as the spec says.
    ensured: bool,
    /// The end of the replica, while it runs, or may run.
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
    async fn run(mut self) {
        let mut next_look = Instant::now();
        loop {
            if self.tampered.is_some() {
                if !self.stop_forger().await {
                    return;
                }
                continue;
            }
            if let Some(order) = self.waiting.pop_front() {
                self.carry_out(order).await;
                continue;
            }
            let looks = self.attempt.is_some() || !self.clears.is_empty();
            tokio::select! {
                // Each of the first two comes to an end: what follows is not put off for ever.
                biased;
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                exit = at_end(&mut self.end) => self.ended(exit).await,
                () = self.hint.notified(), if looks => self.look().await,
                () = sleep_until(next_look), if mutant!(RescanForgotten, looks, false) => {
                    self.look().await;
                }
            }
            next_look = Instant::now() + LOOK_EVERY;
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Dispatch { ends, .. } | Order::Start { ends } if ends < self.ends => {}
            Order::Start { .. } => self.start_spare().await,
            Order::Dispatch { assignment, .. } => self.dispatch(Arc::new(*assignment)).await,
            Order::Interrupt { awaited, reason } => self.interrupt(awaited, reason).await,
            Order::Clear { run, task, attempt } => {
                if self.attempt.as_ref().is_some_and(|a| a.is(&task, attempt)) {
                    self.attempt = None;
                }
                self.clears.push((run, task, attempt));
                self.clear_away().await;
                self.sweep().await;
            }
            Order::Stop => self.stop().await,
        }
    }

    /// Starts the replica before there is an attempt for it. Where that fails, an attempt will say why.
    async fn start_spare(&mut self) {
        if !self.clear_away().await {
            let message = format!("{} has no room for another attempt", self.spec.replica);
            return self.gone(TaskError::new(FailureKind::WorkerLost, message), false).await;
        }
        match self.launch(false).await {
            Ok(()) => self.tell(Input::ReplicaStarted { replica: self.spec.replica.clone() }),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Can't start a spare.");
                self.gone(end::unstartable(&error), error.needs_somebody()).await;
            }
        }
    }

    /// Puts an attempt before the replica, which runs by then: as long as it may have to be waited for,
    /// nobody has seen the attempt, and it can be called off at once.
    async fn dispatch(&mut self, assignment: Arc<Assignment>) {
        let awaited = Awaited::of(&assignment);
        let (task, attempt) = (awaited.task.clone(), awaited.attempt);
        if self.made && !self.is_there() {
            // Somebody removed the folders: those that the replica has are of no use any more.
            warn!("The folders of a replica are gone: starting it anew.");
            self.made = false;
            self.listener = None;
            if !self.remove().await {
                return;
            }
        }
        if self.spent && !self.remove().await {
            return;
        }
        (self.attempt, self.cancel) = (Some(Arc::new(awaited)), None);
        self.interrupted = None;
        let was_there = loop {
            if let Some(was_there) = self.prepare(&assignment).await {
                break was_there;
            }
            if !self.again().await {
                return;
            }
        };
        // After a restart the result may be there already; then nothing needs to run.
        self.look().await;
        if self.attempt.is_none() {
            return;
        }
        let mut away = self.away("waits");
        loop {
            match self.launch(was_there).await {
                Ok(()) => break,
                Err(error) if error.is_transient() => away.tell(&error),
                Err(error) => {
                    warn!(%task, %attempt, error = &error as &dyn std::error::Error, "Can't start.");
                    // One from before a restart may be at work: it is over when that is gone, and not before.
                    if was_there && !self.remove().await {
                        return;
                    }
                    if was_there {
                        self.look().await;
                    }
                    if self.attempt.take().is_none() {
                        return;
                    }
                    let (error, pause) = (end::unstartable(&error), error.needs_somebody());
                    self.tell(Input::AttemptUnstartable { task, attempt, error, pause });
                    return;
                }
            }
            if !self.again().await {
                return;
            }
        }
        drop(away);
        if !was_there && !self.stage(&assignment).await {
            return;
        }
        debug!(%task, %attempt, "The attempt is before the replica.");
        self.tell(Input::AttemptStarted { task, attempt });
    }

    /// Puts the attempt into the slot. Returns false when there is no use in it any more.
    async fn stage(&mut self, assignment: &Arc<Assignment>) -> bool {
        loop {
            let (slot, order) = (Arc::clone(&self.slot), Arc::clone(assignment));
            if self.write(move || slot.stage(&order)).await.is_some() {
                return true;
            }
            if !self.again().await {
                return false;
            }
        }
    }

    /// Returns whether all is there that the replica was given.
    fn is_there(&self) -> bool {
        self.slot.is_there() && self.listener.as_ref().is_none_or(WayOut::is_there)
    }

    /// Makes the slot ready for an attempt, and returns whether that is there already, from before a
    /// restart. `None` when that fails.
    async fn prepare(&mut self, assignment: &Arc<Assignment>) -> Option<bool> {
        if !self.clear_away().await {
            return None;
        }
        let (slot, order, make) = (Arc::clone(&self.slot), Arc::clone(assignment), !self.made);
        let login = self.spec.login.clone();
        let was_there = self.write(move || {
            if make || !slot.is_there() {
                slot.make(login.as_deref())?;
            }
            // What has the name of an attempt that no worker has seen is not of that attempt.
            let was_there = slot.has_whole(&order)?;
            mutant!(
                StrangersKept,
                slot.clear_strangers((&order.task.id, order.attempt), was_there)?,
                ()
            );
            Ok(was_there)
        });
        let was_there = was_there.await?;
        if make {
            self.made = true;
            self.surroundings.inbox.send(Message::SlotMade(self.spec.replica.clone()));
        }
        Some(was_there)
    }

    /// Makes sure that the replica, and its gateway, run. A replica that may have the attempt already
    /// is taken as it is.
    async fn launch(&mut self, may_have_it: bool) -> Result<(), RuntimeError> {
        if self.listener.is_none() {
            let door = self.surroundings.runtime.door().await?;
            self.listener = Some(self.surroundings.gateways.listen(&self.spec, door).await?);
        }
        self.assign_gateway();
        if self.ensured {
            return Ok(());
        }
        if self.spec.container == ContainerMode::PerTask && !may_have_it {
            self.renew().await?;
        }
        self.is_gone = false;
        self.surroundings.runtime.ensure(&self.spec, may_have_it).await?;
        self.ensured = true;
        self.end = Some(self.wait_for_end());
        Ok(())
    }

    /// Makes sure that nothing of an earlier attempt is there when the replica starts: neither what ran it,
    /// nor what it wrote.
    async fn renew(&mut self) -> Result<(), RuntimeError> {
        let replica = &self.spec.replica;
        self.surroundings.runtime.stop(replica, self.surroundings.stop_grace).await?;
        let (slot, login) = (Arc::clone(&self.slot), self.spec.login.clone());
        let scratch = self.spec.scratch.clone();
        let renewed = blocking(move || {
            slot.remove(&scratch)?;
            slot.make(login.as_deref())
        });
        renewed.await.map_err(|error| RuntimeError::Refused {
            action: "make the folders of",
            name: replica.to_string(),
            source: error.into(),
        })?;
        self.made = true;
        self.surroundings.inbox.send(Message::SlotMade(replica.clone()));
        Ok(())
    }

    /// Removes what a replica that is gone has left in its slot: nobody may need the replica again for a long time, and
    /// until then its leftovers would take room. A failure costs room only: [`Self::renew`] tries again.
    async fn sweep(&mut self) {
        let is_over = self.attempt.is_none() && self.is_cleared && self.clears.is_empty();
        if self.spec.container != ContainerMode::PerTask || !self.is_gone || !is_over {
            return;
        }
        (self.is_gone, self.made) = (false, false);
        let (slot, scratch) = (Arc::clone(&self.slot), self.spec.scratch.clone());
        if let Err(error) = blocking(move || slot.remove(&scratch)).await {
            warn!(%error, "Can't remove what a replica left.");
        }
    }

    /// Tells the gateway on whose account the replica asks the model.
    fn assign_gateway(&self) {
        if let Some(listener) = &self.listener {
            let caller = self.attempt.as_ref().map(|attempt| attempt.caller(&self.spec.replica));
            listener.assign(caller);
        }
    }

    fn wait_for_end(&self) -> End {
        let runtime = Arc::clone(&self.surroundings.runtime);
        let (replica, mut away) = (self.spec.replica.clone(), self.away("waits"));
        Box::pin(async move {
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
        })
    }

    /// Asks the worker to stop an attempt.
    async fn interrupt(&mut self, awaited: Awaited, reason: String) {
        let is_awaited = |a: &Arc<Awaited>| a.is(&awaited.task, awaited.attempt);
        match &self.attempt {
            Some(attempt) if !is_awaited(attempt) => return,
            Some(_) => {}
            None if mutant!(
                TakenInTwice,
                self.reported.as_ref().is_some_and(|(t, a)| awaited.is(t, *a)),
                false
            ) =>
            {
                return;
            }
            None if self.slot.has(&awaited) => {
                // An earlier daemon put it there: it may come to its end in any way.
                self.attempt = Some(Arc::new(awaited));
                self.surroundings.inbox.send(Message::SlotMade(self.spec.replica.clone()));
                if self.end.is_none() {
                    self.end = Some(self.wait_for_end());
                }
            }
            None => return self.call_off(awaited.task, awaited.attempt, &reason),
        }
        self.interrupted = Some(reason.clone());
        self.cancel = Some(reason);
        self.look().await;
    }

    /// Says that an attempt is over that no worker has seen, nor will see.
    fn call_off(&self, task: TaskId, attempt: Attempt, reason: &str) {
        let error = TaskError::new(FailureKind::WorkerLost, format!("never begun: {reason}"));
        self.tell(Input::AttemptUnstartable { task, attempt, error, pause: false });
    }

    /// Waits before something is tried again for the attempt. Returns whether there is still use in it;
    /// one that is not before the replica yet is called off at once.
    async fn again(&mut self) -> bool {
        if !self.pause().await {
            return false;
        }
        if self.waiting.iter().any(|order| matches!(order, Order::Stop)) {
            return false;
        }
        let Some(attempt) = self.attempt.clone() else { return false };
        let is_there = self.slot.has(&attempt);
        if let Some(reason) = self.take_interrupt(&attempt) {
            if !is_there {
                self.attempt = None;
                self.call_off(attempt.task.clone(), attempt.attempt, &reason);
                return false;
            }
            self.cancel = Some(reason);
        }
        if is_there {
            self.look().await;
        }
        self.attempt.is_some()
    }

    /// Waits a moment, or until an order comes. Returns false when no more will come.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            biased;
            order = self.orders.recv() => match order {
                Some(order) => self.waiting.push_back(order),
                None => return false,
            },
            () = sleep(RETRY_AFTER) => {}
        }
        true
    }

    /// Returns why the attempt is to stop, if that was ordered meanwhile.
    fn take_interrupt(&mut self, attempt: &Awaited) -> Option<String> {
        let at = self.waiting.iter().position(|order| {
            matches!(order, Order::Interrupt { awaited, .. } if awaited.is(&attempt.task, attempt.attempt))
        })?;
        match self.waiting.remove(at)? {
            Order::Interrupt { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Clears away what is over. Returns whether nothing is left of it.
    async fn clear_away(&mut self) -> bool {
        while let Some((run, task, attempt)) = self.clears.first().cloned() {
            let slot = Arc::clone(&self.slot);
            let of = task.clone();
            if self.write(move || slot.clear(run, &of, attempt)).await.is_none() {
                return false;
            }
            self.clears.remove(0);
            self.is_cleared |= self.reported == Some((task, attempt));
        }
        true
    }

    /// Does what is due for the attempt.
    async fn look(&mut self) {
        self.clear_away().await;
        if let (Some(reason), Some(attempt)) = (self.cancel.clone(), self.attempt.clone()) {
            let slot = Arc::clone(&self.slot);
            let told = self.write(move || slot.interrupt(&attempt.task, attempt.attempt, &reason));
            if told.await.is_some() {
                self.cancel = None;
            }
        }
        self.take_in().await;
    }

    /// Shows what the worker has found out about its container.
    fn show_holes(&mut self, holes: Vec<Wall>) {
        if holes != self.holes {
            let who = format!("the container of {}", self.spec.replica);
            let about = format!("walls of {}", self.spec.replica);
            self.surroundings.inbox.notice(&about, walls::notice(&who, &holes));
            self.holes = holes;
        }
    }

    /// Takes in the result of the attempt, if it is there.
    async fn take_in(&mut self) {
        let Some(awaited) = self.attempt.clone() else { return };
        let (slot, now) = (Arc::clone(&self.slot), self.surroundings.clock.now());
        let (of, results) = (Arc::clone(&awaited), self.spec.results.clone());
        let look = move || Ok((walls::of_slot(&results), slot.take_in(&of, now)?));
        let found = blocking(look).await.map(|(holes, report)| {
            // As before, where it has said nothing.
            if let Ok(Some(holes)) = holes {
                self.show_holes(holes);
            }
            report
        });
        match found {
            Ok(report) => {
                if std::mem::take(&mut self.troubled) {
                    self.surroundings.inbox.notice(&self.spec.replica, None);
                }
                let report = match report {
                    Some(report) => self.verify(&awaited, report).await,
                    None => None,
                };
                if let Some(mut report) = report {
                    let gateways = Arc::clone(&self.surroundings.gateways);
                    gateways.complete(&mut report, self.listener.as_ref()).await;
                    self.spent = report.error.as_ref().is_some_and(|e| e.kind == FailureKind::Disk);
                    self.reported = self.attempt.take().map(|a| (a.task.clone(), a.attempt));
                    self.is_cleared = false;
                    self.assign_gateway();
                    if report.error.as_ref().is_some_and(|e| e.kind == FailureKind::Tampered) {
                        warn!(task = %report.task_id, attempt = report.attempt, "A report was forged.");
                        self.tampered = Some(report);
                    } else {
                        self.report(report);
                    }
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

    /// Has the task's own check say what it has to of a report that says that the work is complete. Orders that come
    /// meanwhile are kept for later, but for those that end the attempt or the replica: they end the check.
    ///
    /// Returns `None` when there is nobody to be told, now or any more: what was handed in is in the slot then, and is
    /// checked anew where somebody asks again, also after a crash.
    async fn verify(&mut self, awaited: &Awaited, report: TaskResult) -> Option<TaskResult> {
        let command = awaited.verify.as_ref().and_then(|verify| verify.command.clone());
        let Some(command) = command.filter(|_| report.status == Status::Complete) else {
            return Some(report);
        };
        let spec = self.slot.check(&self.spec, awaited);
        let runtime = Arc::clone(&self.surroundings.runtime);
        let (mut away, mut lost) = (self.away("can't check what was handed in"), 0);
        loop {
            let ended = {
                let mut work = runtime.verify(&spec);
                loop {
                    if self.ends_check(awaited) {
                        break None;
                    }
                    tokio::select! {
                        biased;
                        order = self.orders.recv() => self.waiting.push_back(order?),
                        ended = &mut work => break Some(ended),
                    }
                }
            };
            match ended {
                None => {
                    // Where that fails it ends by itself within a minute, and goes with its replica at the latest.
                    if let Err(error) = runtime.end_check(&self.spec.replica).await {
                        warn!(error = &error as &dyn std::error::Error, "A check can't be ended.");
                    }
                    let reason = self.take_interrupt(awaited).or_else(|| self.interrupted.take());
                    return reason.map(|reason| check::called_off(report, reason));
                }
                Some(Ok(exit)) => {
                    debug!(%exit, "Check ended.");
                    lost += 1;
                    match check::judge(&report, &command, &exit) {
                        Some(report) => return Some(report),
                        None if lost == check::TRIES => return Some(check::lost(report, &exit)),
                        None => {}
                    }
                }
                Some(Err(error)) if error.is_transient() => {
                    away.tell(&error);
                    if !self.pause().await {
                        return None;
                    }
                }
                Some(Err(error)) => return Some(check::unmade(report, &error)),
            }
        }
    }

    /// Returns whether there is no use in a check any more.
    fn ends_check(&self, awaited: &Awaited) -> bool {
        let ends = |order: &Order| match order {
            Order::Stop => true,
            Order::Interrupt { awaited: of, .. } => of.is(&awaited.task, awaited.attempt),
            Order::Dispatch { .. } | Order::Start { .. } | Order::Clear { .. } => false,
        };
        self.stopping || self.interrupted.is_some() || self.waiting.iter().any(ends)
    }

    /// Stops the replica in which a report was forged, and then says that it was: whatever comes to lie in the place of
    /// the report meanwhile, the attempt was tampered with. After a crash in between, what lies there then decides.
    /// Returns false when there is nobody any more to be told.
    async fn stop_forger(&mut self) -> bool {
        if !self.remove().await {
            return false;
        }
        if let Some(report) = self.tampered.take() {
            self.report(report);
        }
        true
    }

    async fn ended(&mut self, exit: Exit) {
        if self.spent && self.attempt.is_none() {
            // It was to end, and no attempt ends with it.
            if self.remove().await {
                self.sweep().await;
            }
            return;
        }
        let (error, pause) = end::judge(&self.spec.replica, &exit);
        self.gone(error, pause).await;
    }

    async fn stop(&mut self) {
        let message = format!("{} was stopped", self.spec.replica);
        self.stopping = true;
        self.gone(TaskError::new(FailureKind::WorkerLost, message), false).await;
        self.stopping = false;
    }

    /// Makes sure that the replica is gone, takes in what it had handed in, and says so.
    async fn gone(&mut self, error: TaskError, pause: bool) {
        if !mutant!(StopForgotten, self.remove().await, true) {
            return;
        }
        self.cancel = None;
        self.look().await;
        while self.troubled && self.slot.is_there() {
            // A full disk is waited for: what was handed in is not thrown away for it.
            sleep(RETRY_AFTER).await;
            self.look().await;
        }
        if std::mem::take(&mut self.troubled) {
            self.surroundings.inbox.notice(&self.spec.replica, None);
        }
        while let Some(lost) = self.attempt.clone() {
            // The task's next attempt goes on with the session.
            let slot = Arc::clone(&self.slot);
            if !self.slot.is_there() || self.write(move || slot.keep_session(&lost)).await.is_some()
            {
                break;
            }
            sleep(RETRY_AFTER).await;
        }
        if let Some(report) = self.tampered.take() {
            self.report(report);
        }
        let used = match self.attempt.take() {
            Some(lost) => self.surroundings.gateways.used(lost.run, &lost.task, lost.attempt).await,
            None => None,
        };
        self.assign_gateway();
        self.sweep().await;
        self.ends += 1;
        let (replica, used) = (self.spec.replica.clone(), used.unwrap_or_default());
        self.tell(Input::ReplicaGone { replica, used, error, pause });
    }

    /// Stops the replica and makes sure that it is gone, however long that takes: as long as nobody
    /// knows, no other attempt may begin. Returns false when there is nobody any more to be told.
    async fn remove(&mut self) -> bool {
        let mut away = self.away("can't be stopped, and gets no other work before it is");
        let grace = self.surroundings.stop_grace;
        while let Err(error) = self.surroundings.runtime.stop(&self.spec.replica, grace).await {
            mutant!(OldContainerNotConfirmed, break);
            away.tell(&error);
            if !self.pause().await {
                return false;
            }
            if let Some(attempt) = self.attempt.clone() {
                self.cancel = self.take_interrupt(&attempt).or(self.cancel.take());
            }
            // It may come to its end by itself.
            self.look().await;
        }
        (self.ensured, self.end, self.spent) = (false, None, false);
        self.is_gone = true;
        true
    }

    /// Does something with files, and says whether that can't be done for now: a full disk is waited
    /// for.
    async fn write<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Option<T> {
        match blocking(work).await {
            Ok(done) => {
                if std::mem::take(&mut self.full) {
                    self.surroundings.inbox.notice(&self.spec.replica, None);
                }
                Some(done)
            }
            Err(error) => {
                warn!(%error, "Can't write the slot; trying again.");
                let text = format!("can't write the slot of {}: {error}", self.spec.replica);
                self.surroundings.inbox.notice(&self.spec.replica, Some(text));
                self.full = true;
                None
            }
        }
    }

    fn away(&self, what: &'static str) -> Away {
        let (inbox, replica) = (self.surroundings.inbox.clone(), self.spec.replica.clone());
        Away { inbox, replica, what, said: None }
    }

    fn report(&self, report: TaskResult) {
        debug!(task = %report.task_id, attempt = report.attempt, status = %report.status, "Report.");
        self.tell(Input::AttemptReported { report });
    }

    fn tell(&self, input: Input) {
        self.surroundings.inbox.send(Message::Input(Box::new(input)));
    }
}

/// Says once what the runtime can't do for now, and once that it can again.
struct Away {
    inbox: Inbox,
    replica: ReplicaId,
    /// What that means for the replica.
    what: &'static str,
    said: Option<String>,
}

impl Away {
    fn tell(&mut self, error: &RuntimeError) {
        let mut text = vec![format!("{} {}", self.replica, self.what), error.to_string()];
        text.extend(failure::causes(error));
        let hint = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
        let text = format!("{}{hint}", text.join(": "));
        if self.said.as_ref() != Some(&text) {
            warn!(error = error as &dyn std::error::Error, "Trying again.");
            self.inbox.notice(&self.replica, Some(text.clone()));
            self.said = Some(text);
        }
    }

    fn is_over(&mut self) {
        if self.said.take().is_some() {
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

/// Runs file operations, after a moment in which others may come first.
#[cfg(feature = "simulate")]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    crate::simulation::moment().await;
    work()
}

/// Runs file operations where they may block.
#[cfg(not(feature = "simulate"))]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(std::io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests;
