//! Where a task stands, and the indexes that say so.

use std::sync::Arc;

use protocol::{Attempt, Attempts, FailureKind, Status, TaskError, Time, Usage, mutant};

use crate::graph::{Node, TaskIx};
use crate::queue::Rank;
use crate::{Phase, Scheduler, TaskState, work};

impl Scheduler {
    /// Puts a task that has not ended, and of which no attempt is out any more, to where its
    /// dependencies and its last attempt put it.
    pub(crate) fn place(&mut self, at: Time, ix: TaskIx) {
        let node = &self.graph[ix];
        let state = if mutant!(DependencyForgotten, node.unmet, 0) > 0 {
            self.todo.doomed.insert(ix);
            TaskState::Waiting
        } else if self.todo.given_up.contains(&ix) {
            TaskState::Waiting
        } else if node.not_before > at {
            TaskState::Backoff { until: node.not_before }
        } else {
            TaskState::Ready
        };
        if node.entry.state != state {
            let since = match node.entry.state {
                TaskState::Backoff { until } => until,
                _ => at.max(node.not_before),
            };
            self.leave(ix);
            self.graph[ix].since = since;
            self.enter(at, ix, state);
        }
    }

    /// Takes the task out of the indexes of its state.
    pub(crate) fn leave(&mut self, ix: TaskIx) {
        work::count();
        let Self { graph, workers, timers, promotions, .. } = self;
        let node = &mut graph[ix];
        match &node.entry.state {
            TaskState::Waiting | TaskState::Ended(_) => {}
            TaskState::Ready => {
                if let Some(rank) = node.rank.take() {
                    workers.get_mut(node.worker).ready.remove(node.run, &rank);
                    if let Some(at) = rank.promotion() {
                        promotions.remove(&(at, ix));
                    }
                }
            }
            TaskState::Backoff { until } => {
                timers.remove(&(*until, ix));
            }
            TaskState::Live(live) => {
                if let Some(at) = live.phase.timer() {
                    timers.remove(&(at, ix));
                }
                workers.release(&live.replica);
                self.set_state(ix, TaskState::Waiting);
            }
        }
    }

    /// Changes a task's state, and what is known of how much work is to come for its worker.
    pub(crate) fn set_state(&mut self, ix: TaskIx, state: TaskState) {
        let node = &mut self.graph[ix];
        let to_come = &mut self.workers.get_mut(node.worker).to_come;
        *to_come -= usize::from(node.entry.state.is_to_come());
        *to_come += usize::from(state.is_to_come());
        node.entry.state = state;
    }

    /// Puts the task into a state and its indexes.
    pub(crate) fn enter(&mut self, at: Time, ix: TaskIx, state: TaskState) {
        work::count();
        self.set_state(ix, state);
        match &self.graph[ix].entry.state {
            TaskState::Waiting | TaskState::Ended(_) => {}
            TaskState::Ready => self.enqueue(at, ix),
            TaskState::Backoff { until } => {
                self.timers.insert((*until, ix));
            }
            TaskState::Live(live) => {
                self.workers.take(&live.replica, self.graph[ix].worker, ix);
                if let Some(at) = live.phase.timer() {
                    self.timers.insert((at, ix));
                }
            }
        }
    }

    /// Puts a ready task into its worker's queue, unless it is held itself.
    pub(crate) fn enqueue(&mut self, now: Time, ix: TaskIx) {
        let Self { graph, workers, promotions, config, runs, .. } = self;
        let node = &mut graph[ix];
        if node.held {
            return;
        }
        let rank = Rank::new(ix, &node.urgency, node.since, now, config.aging);
        node.rank = Some(rank);
        workers.get_mut(node.worker).ready.insert(node.run, rank, runs[node.run].held);
        if let Some(at) = rank.promotion() {
            promotions.insert((at, ix));
        }
    }

    /// Moves ready tasks whose urgency or age changed to their new places.
    pub(crate) fn rerank(&mut self, now: Time, changed: Vec<TaskIx>) {
        for ix in changed {
            if self.graph[ix].entry.state == TaskState::Ready {
                self.leave(ix);
                self.enqueue(now, ix);
            }
        }
    }

    /// Changes the phase of a live attempt, with its timer. `None` leaves it as it is.
    pub(crate) fn set_phase(&mut self, ix: TaskIx, change: impl FnOnce(&Phase) -> Option<Phase>) {
        work::count();
        let TaskState::Live(live) = &mut self.graph[ix].entry.state else {
            return;
        };
        let Some(phase) = change(&live.phase) else {
            return;
        };
        if let Some(at) = live.phase.timer() {
            self.timers.remove(&(at, ix));
        }
        if let Some(at) = phase.timer() {
            self.timers.insert((at, ix));
        }
        if matches!(phase, Phase::Running { .. }) {
            self.workers.set_up(&live.replica, true);
        }
        live.phase = phase;
    }

    /// Tells those that depend on a task that its end has come, or is undone.
    pub(crate) fn tell_dependents(
        &mut self,
        at: Time,
        ix: TaskIx,
        before: Option<Status>,
        after: Option<Status>,
    ) {
        for i in 0..self.graph[ix].dependents.len() {
            work::count();
            let dependent = self.graph[ix].dependents[i];
            let node = &mut self.graph[dependent];
            let (was_met, is_met) = (node.is_met_by(before), node.is_met_by(after));
            match (was_met, is_met) {
                (false, true) => node.unmet -= 1,
                (true, false) => node.unmet += 1,
                (true, true) | (false, false) => {}
            }
            if after.is_some() && !is_met {
                self.todo.doomed.insert(dependent);
            }
            // Nothing moves unless the last dependency is met, or one is no longer.
            let moves = (node.unmet == 0) == (node.entry.state == TaskState::Waiting);
            if node.is_idle() && moves {
                self.place(at, dependent);
            }
        }
    }
}

impl Node {
    /// Adds what an attempt used to the sums.
    pub(crate) fn spend(&mut self, usage: Usage, cost_usd: Option<f64>) {
        self.entry.usage += usage;
        let sum = self.entry.cost_usd.zip(cost_usd).map(|(sum, cost)| sum + cost);
        self.entry.cost_usd = sum;
        if let Some(session) = &mut self.entry.session {
            session.used += usage;
            session.cost_usd += cost_usd.unwrap_or_default();
        }
    }

    /// Returns what is known of the attempts, to take the place of their events.
    pub(crate) fn attempts(&self) -> Attempts {
        let entry = &self.entry;
        Attempts {
            last: entry.last_attempt,
            usage: entry.usage,
            cost_usd: entry.cost_usd,
            failures: entry.counted_failures,
            last_error: entry.last_error.clone(),
            cancel_requested: entry.cancel_requested,
        }
    }

    /// Takes over what is known of attempts whose events are not there any more.
    pub(crate) fn restore(&mut self, attempts: &Attempts) {
        let entry = &mut self.entry;
        entry.last_attempt = entry.last_attempt.max(attempts.last);
        entry.usage = attempts.usage;
        entry.cost_usd = attempts.cost_usd;
        entry.counted_failures = attempts.failures;
        entry.last_error.clone_from(&attempts.last_error);
        entry.cancel_requested = attempts.cancel_requested;
    }

    /// Notes how the live attempt failed, for the next one. That nothing of its worker could be
    /// started (`paused`) says nothing of the task.
    pub(crate) fn count_failure(
        &mut self,
        attempt: Attempt,
        error: &TaskError,
        counted: bool,
        paused: bool,
    ) {
        self.entry.counted_failures += u32::from(counted);
        if !paused {
            self.lost = if error.kind == FailureKind::WorkerLost { self.lost + 1 } else { 0 };
            self.limited = if error.kind.passes() { self.limited + 1 } else { 0 };
        }
        self.ooms += u32::from(error.kind == FailureKind::Oom);
        self.disks += u32::from(error.kind == FailureKind::Disk);
        let told = self.rejected == Some(attempt);
        let is_the_agents = matches!(
            error.kind,
            FailureKind::BadOutput | FailureKind::Unverified | FailureKind::Disk
        );
        if is_the_agents && !told {
            self.entry.feedback = vec![error.message.clone()];
        }
        let began =
            self.entry.live().is_some_and(|live| live.resume || live.phase.started().is_some());
        if !began || matches!(error.kind, FailureKind::Oom | FailureKind::Cancelled) {
            self.entry.session = None;
        }
        self.entry.last_error = Some(error.clone());
    }

    /// Forgets how the task ended and failed, but not what it used up.
    pub(crate) fn forget(&mut self) {
        let entry = &mut self.entry;
        entry.counted_failures = 0;
        entry.feedback.clear();
        entry.last_error = None;
        entry.session = None;
        entry.result = None::<Arc<_>>;
        entry.because.clear();
        entry.cancel_requested = false;
        self.not_before = Time::ZERO;
        self.limited = 0;
        self.lost = 0;
        self.ooms = 0;
        self.disks = 0;
        self.rejections = 0;
        self.rejected = None;
    }
}
