//! The fold: what each event changes. The only place where a fact becomes state.

use std::collections::HashSet;
use std::sync::Arc;

use protocol::{
    Attempt, Attempts, Event, HoldScope, RunId, RunMode, RunState, Status, Task, TaskError, TaskId,
    TaskKind, TaskResult, TaskSource, Time, Usage,
};

use crate::graph::TaskIx;
use crate::run::{Run, RunIx};
use crate::{
    LiveAttempt, Phase, RunEntry, RunPhase, Scheduler, Session, TaskEntry, TaskState, lifecycle,
};

impl Scheduler {
    /// Records an event. What does not fit is left out: it can only come from a torn journal.
    pub(crate) fn apply(&mut self, at: Time, event: &Event) {
        match event {
            Event::RunOpened { .. } => self.apply_run_opened(at, event),
            Event::TaskAdded { task, source } => self.apply_task_added(at, task, *source),
            Event::PlanRejected { task, reasons } => self.apply_plan_rejected(task, reasons),
            Event::PlanAccepted { run, tasks, given, plan } => {
                if let Some(&run) = self.run_index.get(run) {
                    self.runs[run].accepted = Some(*tasks);
                    self.runs[run].entry.given.clone_from(given);
                    self.runs[run].entry.plan.clone_from(plan);
                    self.touch(run);
                }
            }
            Event::AttemptDispatched { task, attempt, replica, token, session, resume } => {
                let live = LiveAttempt {
                    attempt: *attempt,
                    replica: replica.clone(),
                    token: *token,
                    session: *session,
                    resume: *resume,
                    dispatched: at,
                    phase: Phase::Launching,
                };
                self.apply_dispatched(at, task, live);
            }
            Event::AttemptStarted { task, attempt } => self.apply_started(at, task, *attempt),
            Event::AttemptStopping { task, attempt, error } => {
                self.apply_stopping(at, task, *attempt, error);
            }
            Event::AttemptFailed { .. } => self.apply_failed(at, event),
            Event::TaskEnded { result, because, attempts } => {
                self.apply_task_ended(at, result, because, attempts.as_deref());
            }
            Event::CancelRequested { run, task } => {
                self.apply_cancel(at, *run, task.as_ref(), None)
            }
            Event::TaskReset { task } => self.apply_reset(at, task),
            Event::TasksForgotten { run, tasks } => self.apply_forgotten(*run, tasks),
            Event::RunEnded { run, state } => self.apply_run_ended(at, *run, *state),
            Event::DecisionRaised { decision } => self.apply_decision_raised(at, decision),
            Event::DecisionMade { decision, choice, .. } => {
                self.apply_decision_made(at, *decision, *choice);
            }
        }
    }

    fn apply_run_opened(&mut self, at: Time, event: &Event) {
        let Event::RunOpened {
            run,
            short,
            name,
            mode,
            request,
            priority,
            budget_usd,
            budget_tokens,
            rehearsal,
        } = event
        else {
            return;
        };
        if self.run_index.contains_key(run) || !self.shorts.insert(short.clone()) {
            return;
        }
        let ix = self.runs.len();
        self.run_index.insert(*run, ix);
        let answered = matches!(mode, RunMode::Request | RunMode::Plan);
        if let Some(answer) = answered.then(|| lifecycle::answer_name(short)).flatten() {
            self.graph.expect_answer(answer, ix);
        }
        self.runs.push(Run::new(RunEntry {
            run: *run,
            short: short.clone(),
            name: name.clone(),
            mode: *mode,
            request: request.clone(),
            priority: *priority,
            budget_usd: *budget_usd,
            budget_tokens: *budget_tokens,
            rehearsal: *rehearsal,
            opened: at,
            phase: RunPhase::Planning,
            plan: None,
            given: Vec::new(),
            cancel_requested: false,
        }));
        self.touch(ix);
    }

    fn apply_task_added(&mut self, at: Time, task: &Task, source: TaskSource) {
        let Some(&run) = self.run_index.get(&task.run) else {
            return;
        };
        if self.graph.is_taken(&task.id) {
            return;
        }
        let worker = self.workers.intern(&task.worker);
        let cancel_requested = self.runs[run].entry.cancel_requested;
        let entry = TaskEntry {
            task: Arc::new(task.clone()),
            source,
            added: at,
            state: TaskState::Waiting,
            last_attempt: None,
            counted_failures: 0,
            feedback: Vec::new(),
            last_error: None,
            usage: Usage::default(),
            cost_usd: Some(0.0),
            session: None,
            result: None,
            because: Vec::new(),
            cancel_requested,
        };
        let ix = self.graph.add(entry, run, worker);
        self.workers.get_mut(worker).to_come += 1;
        let changed = self.graph.add_urgency(ix);
        self.rerank(at, changed);
        let is_work = task.kind == TaskKind::Work;
        let run_ = &mut self.runs[run];
        run_.tasks.push(ix);
        run_.reopen(ix, is_work);
        run_.work += usize::from(is_work);
        run_.from_plan += usize::from(source == TaskSource::Plan);
        match task.kind {
            TaskKind::Work => {}
            TaskKind::Plan => run_.plan_task = Some(ix),
            TaskKind::Synthesize => run_.answer_task = Some(ix),
        }
        run_.ended = None;
        if cancel_requested {
            self.todo.cancelled.insert(ix);
        }
        self.place(at, ix);
        self.touch(run);
    }

    fn apply_plan_rejected(&mut self, task: &TaskId, reasons: &[String]) {
        let Some(ix) = self.graph.find(task) else {
            return;
        };
        let node = &mut self.graph[ix];
        if node.rejected != node.entry.last_attempt {
            node.rejected = node.entry.last_attempt;
            node.rejections += 1;
            node.entry.feedback = reasons.to_vec();
        }
    }

    fn apply_dispatched(&mut self, at: Time, task: &TaskId, live: LiveAttempt) {
        let Some(ix) = self.graph.find(task) else {
            return;
        };
        let entry = &self.graph[ix].entry;
        if entry.status().is_some() || entry.last_attempt.is_some_and(|last| live.attempt <= last) {
            return;
        }
        // Earlier versions could lose the end of another attempt in a crash: this is the proof of it.
        if let Some(other) = self.workers.task_on(&live.replica).filter(|&other| other != ix) {
            self.leave(other);
            self.place(at, other);
        }
        self.leave(ix);
        self.forget_stop(ix);
        let entry = &mut self.graph[ix].entry;
        entry.last_attempt = Some(live.attempt);
        if !(live.resume && entry.session.is_some_and(|session| session.id == live.session)) {
            entry.session =
                Some(Session { id: live.session, used: Usage::default(), cost_usd: 0.0 });
        }
        self.enter(at, ix, TaskState::Live(live));
    }

    fn apply_started(&mut self, at: Time, task: &TaskId, attempt: Attempt) {
        let Some(ix) = self.attempt_named(task, attempt) else {
            return;
        };
        let timeout = self.graph[ix].entry.task.timeout;
        let timeout =
            timeout.unwrap_or_else(|| self.workers.get(self.graph[ix].worker).limits.timeout);
        let deadline = at + timeout + self.config.timeout_margin;
        self.set_phase(ix, |phase| {
            matches!(phase, Phase::Launching).then_some(Phase::Running { deadline, started: at })
        });
    }

    fn apply_stopping(&mut self, at: Time, task: &TaskId, attempt: Attempt, error: &TaskError) {
        let Some(ix) = self.attempt_named(task, attempt) else {
            return;
        };
        let started = self.graph[ix].entry.live().and_then(|live| live.phase.started());
        let kill_at = match self.graph[ix].entry.live().map(|live| &live.phase) {
            // A second reason to stop does not lengthen the grace of the first.
            Some(Phase::Stopping { kill_at, .. }) => *kill_at,
            _ => Some(at + self.config.stop_grace),
        };
        self.set_phase(ix, |_| Some(Phase::Stopping { error: error.clone(), kill_at, started }));
    }

    fn apply_failed(&mut self, at: Time, event: &Event) {
        let Event::AttemptFailed {
            task,
            attempt,
            error,
            counted,
            retry_at,
            usage,
            cost_usd,
            paused,
        } = event
        else {
            return;
        };
        let Some(ix) = self.attempt_named(task, *attempt) else {
            return;
        };
        let dispatched = self.graph[ix].entry.live().map_or(at, |live| live.dispatched);
        self.freshen(ix);
        self.graph[ix].spend(*usage, *cost_usd);
        self.graph[ix].count_failure(*attempt, error, *counted, *paused);
        match retry_at {
            Some(retry_at) => self.graph[ix].not_before = *retry_at,
            None => {
                self.todo.given_up.insert(ix);
            }
        }
        self.place(at, ix);
        if retry_at.is_some() && !paused {
            self.hold_back(at, ix, dispatched, error);
        }
    }

    fn apply_task_ended(
        &mut self,
        at: Time,
        result: &TaskResult,
        because: &[TaskId],
        attempts: Option<&Attempts>,
    ) {
        let Some(ix) = self.graph.find(&result.task_id) else {
            return;
        };
        if self.graph[ix].entry.status().is_some() {
            return;
        }
        let node = &mut self.graph[ix];
        if node.entry.live().is_some_and(|live| live.attempt.get() == result.attempt) {
            node.spend(result.usage, result.cost_usd);
        }
        node.entry.last_attempt = node.entry.last_attempt.max(Attempt::new(result.attempt));
        if let Some(attempts) = attempts {
            node.restore(attempts);
        }
        node.entry.result = Some(Arc::new(result.clone()));
        node.entry.because = because.to_vec();
        // They were for a next attempt.
        node.entry.session = None;
        node.entry.feedback.clear();
        self.forget_stop(ix);
        if self.graph[ix].held {
            self.drop_holds(at, &HoldScope::Task(result.task_id.clone()));
        }
        self.leave(ix);
        self.enter(at, ix, TaskState::Ended(result.status));
        self.todo.given_up.remove(&ix);
        self.freshen(ix);
        let run = self.graph[ix].run;
        let is_work = self.graph[ix].entry.task.kind == TaskKind::Work;
        self.runs[run].close(ix, is_work, result.status);
        self.touch(run);
        let changed = self.graph.count_out(ix);
        self.rerank(at, changed);
        self.tell_dependents(at, ix, None, Some(result.status));
    }

    pub(crate) fn apply_cancel(
        &mut self,
        at: Time,
        run: RunId,
        task: Option<&TaskId>,
        reason: Option<Arc<str>>,
    ) {
        let mut tasks = Vec::new();
        if let Some(task) = task {
            tasks.extend(self.graph.find(task));
        } else if let Some(&run) = self.run_index.get(&run) {
            self.drop_holds(at, &HoldScope::Run(self.runs[run].entry.run));
            tasks.extend(self.runs[run].open.iter().copied());
            // The standing run goes on; only what it has now is cancelled.
            self.runs[run].entry.cancel_requested = self.runs[run].entry.mode != RunMode::Adhoc;
            self.touch(run);
        }
        for ix in tasks {
            crate::work::count();
            if self.graph[ix].entry.status().is_none() {
                self.graph[ix].entry.cancel_requested = true;
                self.graph[ix].stop_reason.clone_from(&reason);
                self.todo.cancelled.insert(ix);
            }
        }
    }

    fn apply_reset(&mut self, at: Time, task: &TaskId) {
        let Some(ix) = self.graph.find(task) else {
            return;
        };
        let Some(status) = self.graph[ix].entry.status() else {
            return;
        };
        let kind = self.graph[ix].entry.task.kind;
        // Only an answer may be written again.
        if status == Status::Complete && kind != TaskKind::Synthesize {
            return;
        }
        self.graph[ix].forget();
        self.set_state(ix, TaskState::Waiting);
        let run = self.graph[ix].run;
        let run_ = &mut self.runs[run];
        run_.reopen(ix, kind == TaskKind::Work);
        run_.ended = None;
        run_.entry.cancel_requested = false;
        if kind == TaskKind::Work
            && let Some(answer) = run_.answer_task
        {
            run_.answer_is_stale = self.graph[answer].entry.live().is_some();
        }
        self.touch(run);
        let changed = self.graph.count_in(ix);
        self.rerank(at, changed);
        self.tell_dependents(at, ix, Some(status), None);
        self.place(at, ix);
    }

    fn apply_run_ended(&mut self, at: Time, run: RunId, state: RunState) {
        self.drop_holds(at, &HoldScope::Run(run));
        if let Some(&run) = self.run_index.get(&run) {
            self.runs[run].ended = Some((state, at));
            self.touch(run);
        }
    }

    fn apply_forgotten(&mut self, run: RunId, tasks: &[TaskId]) {
        let Some(&run) = self.run_index.get(&run) else {
            return;
        };
        let mut going = HashSet::new();
        for task in tasks {
            match self.graph.find(task) {
                // In a snapshot, its name is all that is left of it.
                None => self.graph.clear_away(task),
                Some(ix) => {
                    let node = &self.graph[ix];
                    if node.run == run && node.entry.status().is_some() {
                        going.insert(ix);
                    }
                }
            }
        }
        let run_ = &mut self.runs[run];
        run_.tasks.retain(|ix| !going.contains(ix));
        for ix in going {
            crate::work::count();
            let entry = &self.graph[ix].entry;
            let task = Arc::clone(&entry.task);
            let is_work = task.kind == TaskKind::Work;
            self.runs[run].forget(ix, is_work, entry.status() == Some(Status::Complete));
            self.holds.forget(&HoldScope::Task(task.id.clone()));
            self.graph.forget(ix);
            self.graph.clear_away(&task.id);
        }
        self.touch(run);
    }

    /// Notes that an attempt is over: if it was at the run's answer, the next one is up to date.
    fn freshen(&mut self, ix: TaskIx) {
        let run = &mut self.runs[self.graph[ix].run];
        if run.answer_task == Some(ix) {
            run.answer_is_stale = false;
        }
    }

    /// Notes that something changed in the run.
    fn touch(&mut self, run: RunIx) {
        self.runs[run].rephase();
        self.todo.runs.insert(run);
    }

    /// Returns the task if that attempt of it is live. Its number is used up in any case.
    fn attempt_named(&mut self, task: &TaskId, attempt: Attempt) -> Option<TaskIx> {
        let ix = self.graph.find(task)?;
        let entry = &mut self.graph[ix].entry;
        entry.last_attempt = entry.last_attempt.max(Some(attempt));
        entry.live().is_some_and(|live| live.attempt == attempt).then_some(ix)
    }
}
