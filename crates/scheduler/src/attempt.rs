//! What comes back from attempts.

use protocol::{
    Attempt, Event, FailureKind, ReplicaId, Status, TaskError, TaskId, TaskResult, mutant,
};

use crate::backoff::{Verdict, judge};
use crate::graph::TaskIx;
use crate::scheduler::Turn;
use crate::settle::ended;
use crate::{Command, LiveAttempt, Phase, Scheduler, Used};

impl Scheduler {
    /// Takes in that an attempt started.
    pub(crate) fn attempt_started(&mut self, turn: &mut Turn<'_>, task: TaskId, attempt: Attempt) {
        let live = self.live_attempt(&task, attempt);
        if live.is_some_and(|(_, live)| live.phase == Phase::Launching) {
            self.record(turn, Event::AttemptStarted { task, attempt });
        }
    }

    /// Takes in a report. It counts only for the attempt that is live, and only with its token.
    pub(crate) fn attempt_reported(&mut self, turn: &mut Turn<'_>, mut report: TaskResult) {
        let attempt = Attempt::new(report.attempt);
        let Some((ix, live)) =
            attempt.and_then(|attempt| self.live_attempt(&report.task_id, attempt))
        else {
            return;
        };
        let task = &self.graph[ix].entry.task;
        let token = report.token.take();
        if mutant!(TokenIgnored, token != Some(live.token), false)
            || report.run != task.run
            || report.worker != task.worker
        {
            return;
        }
        // Nonsense is not a price.
        report.cost_usd = report.cost_usd.filter(|usd| usd.is_finite() && *usd >= 0.0);
        let replica = live.replica.clone();
        let (kind, attempt) = (task.kind, live.attempt);
        if live.phase == Phase::Launching {
            // Word of the start was lost or is late; a report is proof of it.
            self.record(turn, Event::AttemptStarted { task: report.task_id.clone(), attempt });
        }
        self.workers.set_up(&replica, true);
        match self.failure(ix, &report) {
            Some(error) => self.attempt_failed(turn, ix, error, Over::Reported(Box::new(report))),
            None => match self.plan_faults(kind, ix, &report) {
                None => {
                    report.error = None;
                    let (result, because) = (Box::new(report), Vec::new());
                    self.record(turn, Event::TaskEnded { result, because, attempts: None });
                }
                Some(reasons) => {
                    let message = format!("the plan can't be carried out: {}", reasons.join("; "));
                    let task = report.task_id.clone();
                    self.record(turn, Event::PlanRejected { task, reasons });
                    let error = TaskError::new(FailureKind::BadOutput, message);
                    self.attempt_failed(turn, ix, error, Over::Reported(Box::new(report)));
                }
            },
        }
        self.retire(turn, replica);
    }

    /// Takes in that an attempt can't be started.
    pub(crate) fn attempt_unstartable(
        &mut self,
        turn: &mut Turn<'_>,
        task: TaskId,
        attempt: Attempt,
        error: TaskError,
        pause: bool,
    ) {
        let Some((ix, live)) = self.live_attempt(&task, attempt) else {
            return;
        };
        let replica = live.replica.clone();
        match &live.phase {
            Phase::Launching if pause => {
                self.attempt_waits(turn, ix, error, Used::default());
                self.workers.set_up(&replica, false);
                self.retire(turn, replica);
            }
            Phase::Launching => {
                self.attempt_failed(turn, ix, unasked(error), Over::Lost(Used::default()));
                self.workers.set_up(&replica, false);
                self.retire(turn, replica);
            }
            Phase::Stopping { error, started: None, .. } => {
                let error = error.clone();
                self.attempt_failed(turn, ix, error, Over::Lost(Used::default()));
                self.retire(turn, replica);
            }
            // It had been running: only when its replica is gone is it over for sure.
            Phase::Running { .. } => self.stop_attempt(turn, ix, unasked(error)),
            Phase::Stopping { .. } => {}
        }
    }

    /// Takes in that a replica is gone, and with it the attempt that it had.
    pub(crate) fn replica_gone(
        &mut self,
        turn: &mut Turn<'_>,
        replica: &ReplicaId,
        used: Used,
        error: TaskError,
        pause: bool,
    ) {
        let pauses = pause.then(|| error.clone());
        if let Some(ix) = self.workers.task_on(replica) {
            match self.graph[ix].entry.live().map(|live| &live.phase) {
                Some(Phase::Stopping { error, .. }) => {
                    let error = error.clone();
                    self.attempt_failed(turn, ix, error, Over::Lost(used));
                }
                _ if pause => self.attempt_waits(turn, ix, unasked(error), used),
                _ => self.attempt_failed(turn, ix, unasked(error), Over::Lost(used)),
            }
        }
        self.workers.gone(replica, pauses);
    }

    /// Records that a live attempt came to nothing, and has its task and all else of the worker wait
    /// until somebody has done something about it.
    fn attempt_waits(&mut self, turn: &mut Turn<'_>, ix: TaskIx, error: TaskError, used: Used) {
        let entry = &self.graph[ix].entry;
        let Some(live) = entry.live() else {
            return;
        };
        let failed = Event::AttemptFailed {
            task: entry.task.id.clone(),
            attempt: live.attempt,
            error: error.clone(),
            counted: false,
            retry_at: Some(turn.now),
            usage: used.usage,
            cost_usd: used.cost_usd,
            paused: true,
        };
        self.record(turn, failed);
        // Not recorded: a restart finds out anew.
        let worker = self.graph[ix].worker;
        self.workers.get_mut(worker).paused = Some(error);
    }

    /// Asks for an end to a live attempt, or changes the reason for it.
    pub(crate) fn stop_attempt(&mut self, turn: &mut Turn<'_>, ix: TaskIx, error: TaskError) {
        let entry = &self.graph[ix].entry;
        let Some(live) = entry.live() else {
            return;
        };
        let (task, attempt, replica) = (entry.task.id.clone(), live.attempt, live.replica.clone());
        let asked = matches!(live.phase, Phase::Stopping { .. });
        let reason = error.message.clone();
        self.record(turn, Event::AttemptStopping { task: task.clone(), attempt, error });
        if !asked {
            turn.command(Command::Interrupt { task, attempt, replica, reason });
        }
    }

    /// Records the end of a live attempt that does not count, and of its task if there is no
    /// further one.
    fn attempt_failed(&mut self, turn: &mut Turn<'_>, ix: TaskIx, error: TaskError, over: Over) {
        let node = &self.graph[ix];
        let entry = &node.entry;
        let Some(live) = entry.live() else {
            return;
        };
        let retries = entry.task.retries.unwrap_or(self.workers.get(node.worker).limits.retries);
        let Verdict { error, counted, retry_at } =
            match judge(&self.config, node, retries, turn.now, turn.rng, error) {
                // It has to be made again in any case, and not for a fault of its own.
                Verdict { error, .. } if self.is_stale(ix) => {
                    Verdict { error, counted: false, retry_at: Some(turn.now) }
                }
                verdict => verdict,
            };
        let retry_at = retry_at.filter(|_| !entry.cancel_requested);
        let Used { usage, cost_usd } = match &over {
            Over::Reported(report) => Used { usage: report.usage, cost_usd: report.cost_usd },
            Over::Lost(used) => *used,
        };
        let failed = Event::AttemptFailed {
            task: entry.task.id.clone(),
            attempt: live.attempt,
            error: error.clone(),
            counted,
            retry_at,
            usage,
            cost_usd,
            paused: false,
        };
        let status = if entry.cancel_requested { Status::Cancelled } else { Status::Failed };
        let mut result = match over {
            Over::Reported(report) => *report,
            Over::Lost(_) => {
                let started_at = live.phase.started().unwrap_or(turn.now);
                TaskResult {
                    execution_time: turn.now.since(started_at).as_secs_f64(),
                    session_id: Some(live.session),
                    started_at,
                    usage,
                    cost_usd,
                    ..self.without_report(ix, status, error.clone(), turn.now)
                }
            }
        };
        result.status = status;
        if result.summary.is_empty() {
            result.summary.clone_from(&error.message);
        }
        result.error = Some(error);
        self.record(turn, failed);
        if retry_at.is_none() {
            self.record(turn, ended(result, Vec::new()));
        }
    }

    /// Keeps the replica of an attempt that is over out of use until it is gone, if it has to go.
    fn retire(&mut self, turn: &mut Turn<'_>, replica: ReplicaId) {
        if self.workers.retire(&replica) {
            turn.command(Command::StopReplica { replica });
        }
    }

    /// Returns why a report does not count as complete, if it does not.
    fn failure(&self, ix: TaskIx, report: &TaskResult) -> Option<TaskError> {
        let stopping = match self.graph[ix].entry.live().map(|live| &live.phase) {
            Some(Phase::Stopping { error, .. }) => Some(error),
            _ => None,
        };
        match (report.status, stopping) {
            (_, Some(error)) if error.kind == FailureKind::Cancelled => Some(error.clone()),
            (Status::Complete, _) if self.is_stale(ix) => Some(TaskError::new(
                FailureKind::Unverified,
                "work that it reports on was done again while it was written",
            )),
            // It came to its end after all, just before it was stopped.
            (Status::Complete, _) => None,
            (Status::Failed, stopping) => {
                let own = report.error.clone().map(unasked);
                // That it was stopped, we know better than the worker.
                let own =
                    own.filter(|own| stopping.is_none() || own.kind != FailureKind::WorkerLost);
                Some(own.or_else(|| stopping.cloned()).unwrap_or_else(|| {
                    TaskError::new(FailureKind::BadOutput, "it failed without saying why")
                }))
            }
            (Status::Cancelled | Status::Skipped, Some(error)) => Some(error.clone()),
            (Status::Cancelled, None) => Some(TaskError::new(
                FailureKind::WorkerLost,
                "its worker stopped it, and nobody had asked for that",
            )),
            (Status::Skipped, None) => Some(TaskError::new(
                FailureKind::BadOutput,
                "its report says `skipped`, which is not for a worker to say",
            )),
        }
    }

    /// Returns whether the task answers a run of which work was done again meanwhile.
    fn is_stale(&self, ix: TaskIx) -> bool {
        let run = &self.runs[self.graph[ix].run];
        run.answer_is_stale && run.answer_task == Some(ix)
    }

    /// Returns the task and the attempt of that number, if it is live.
    fn live_attempt(&self, task: &TaskId, attempt: Attempt) -> Option<(TaskIx, &LiveAttempt)> {
        let ix = self.graph.find(task)?;
        let live = self.graph[ix].entry.live()?;
        mutant!(OldAttemptCounts, live.attempt == attempt, true).then_some((ix, live))
    }
}

/// How an attempt that does not count came to its end.
enum Over {
    /// With a report.
    Reported(Box<TaskResult>),
    /// With none; this is what it used.
    Lost(Used),
}

/// Corrects a worker's word on why it failed where only we can know.
fn unasked(error: TaskError) -> TaskError {
    let kind = match error.kind {
        FailureKind::Cancelled => FailureKind::WorkerLost,
        FailureKind::Dependency => FailureKind::BadOutput,
        kind => kind,
    };
    TaskError { kind, ..error }
}
