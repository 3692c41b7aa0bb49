//! Brings everything to where the rules put it.

use protocol::{
    Event, FailureKind, OnDependencyFailure, Status, TaskError, TaskId, TaskResult, mutant,
};

use crate::graph::TaskIx;
use crate::scheduler::Turn;
use crate::{Command, Phase, Scheduler, TaskState, work};

/// The most names in a chain of reasons. Without a bound, a chain of n tasks that are skipped
/// would take memory of the order of n².
const LONGEST_BECAUSE: usize = 16;

impl Scheduler {
    /// Brings everything to where the rules put it. Runs after every input, so none of them has to
    /// remember the rules. Running it again right away would change nothing.
    pub(crate) fn settle(&mut self, turn: &mut Turn<'_>) {
        self.raise_questions(turn);
        self.fire_timers(turn);
        self.fire_alarms(turn);
        // What ends one task can end another, or its run, which can add a task.
        loop {
            work::count();
            if let Some(ix) = self.todo.given_up.pop_first() {
                self.give_up(turn, ix);
            } else if let Some(ix) = self.todo.cancelled.pop_first() {
                self.cancel(turn, ix);
            } else if let Some(ix) = self.todo.doomed.pop_first() {
                self.skip(turn, ix);
            } else if let Some(ix) = self.todo.runs.pop_first() {
                self.settle_run(turn, ix);
            } else {
                break;
            }
        }
        self.dispatch(turn);
        self.start_spares(turn);
    }

    /// Does what is due by now.
    fn fire_timers(&mut self, turn: &mut Turn<'_>) {
        while let Some(&(at, ix)) = self.timers.first()
            && at <= turn.now
        {
            work::count();
            match &self.graph[ix].entry.state {
                TaskState::Backoff { .. } => self.place(turn.now, ix),
                TaskState::Live(live) => match &live.phase {
                    Phase::Running { started, .. } => {
                        let seconds = turn.now.since(*started).as_secs();
                        let message = format!("it did not end within its timeout ({seconds} s)");
                        let error = TaskError::new(FailureKind::Timeout, message);
                        mutant!(DeadlineForgotten, self.stop_attempt(turn, ix, error), {
                            self.timers.remove(&(at, ix));
                        });
                    }
                    Phase::Stopping { .. } => self.kill(turn, ix),
                    Phase::Launching => unreachable!("BUG: an attempt that launches has no timer"),
                },
                TaskState::Waiting | TaskState::Ready | TaskState::Ended(_) => {
                    unreachable!("BUG: only tasks that wait for a time have a timer")
                }
            }
        }
    }

    /// Stops the replica of an attempt that did not stop when it was asked to.
    fn kill(&mut self, turn: &mut Turn<'_>, ix: TaskIx) {
        let Some(live) = self.graph[ix].entry.live() else {
            return;
        };
        let replica = live.replica.clone();
        self.workers.set_stopping(&replica);
        turn.command(Command::StopReplica { replica });
        self.set_phase(ix, |phase| match phase {
            Phase::Stopping { error, started, .. } => {
                Some(Phase::Stopping { error: error.clone(), kill_at: None, started: *started })
            }
            Phase::Launching | Phase::Running { .. } => None,
        });
    }

    /// Ends a task whose last attempt failed for good. Only after a restart: live, both are
    /// recorded at once.
    fn give_up(&mut self, turn: &mut Turn<'_>, ix: TaskIx) {
        let entry = &self.graph[ix].entry;
        let Some(error) = entry.last_error.clone() else {
            return;
        };
        let status = match error.kind {
            FailureKind::Cancelled => Status::Cancelled,
            _ => Status::Failed,
        };
        let result = self.without_report(ix, status, error, turn.now);
        self.record(turn, ended(result, Vec::new()));
    }

    /// Ends a task that somebody wants an end to, or asks its attempt to stop.
    fn cancel(&mut self, turn: &mut Turn<'_>, ix: TaskIx) {
        let entry = &self.graph[ix].entry;
        if !entry.cancel_requested {
            return;
        }
        let reason = self.graph[ix].stop_reason.as_deref().unwrap_or("somebody cancelled it");
        let error = TaskError::new(FailureKind::Cancelled, reason);
        match &entry.state {
            TaskState::Ended(_) => {}
            TaskState::Live(live) => match &live.phase {
                Phase::Stopping { error, .. } if error.kind == FailureKind::Cancelled => {}
                _ => self.stop_attempt(turn, ix, error),
            },
            TaskState::Waiting | TaskState::Ready | TaskState::Backoff { .. } => {
                let result = self.without_report(ix, Status::Cancelled, error, turn.now);
                self.record(turn, ended(result, Vec::new()));
            }
        }
    }

    /// Skips a task if one that it depends on ended without completing.
    fn skip(&mut self, turn: &mut Turn<'_>, ix: TaskIx) {
        let node = &self.graph[ix];
        let task = &node.entry.task;
        if !node.is_idle()
            || node.unmet == 0
            || task.on_dependency_failure == OnDependencyFailure::Run
        {
            return;
        }
        let failed = task.dependencies.iter().find_map(|id| {
            let ix = self.graph.find(id)?;
            self.graph[ix].entry.status().filter(|&status| status != Status::Complete)?;
            Some(ix)
        });
        let Some(failed) = failed else {
            return;
        };
        let because = self.chain(failed);
        let error = self.dependency_error(&because);
        let result = self.without_report(ix, Status::Skipped, error, turn.now);
        self.record(turn, ended(result, because));
    }

    /// Returns the tasks from one that did not complete to the one that it goes back to.
    fn chain(&self, ix: TaskIx) -> Vec<TaskId> {
        let entry = &self.graph[ix].entry;
        let own = std::iter::once(entry.task.id.clone());
        let mut chain: Vec<_> = own.chain(entry.because.iter().cloned()).collect();
        if chain.len() > LONGEST_BECAUSE {
            // The one before the root: the nearest ones and the root say most.
            chain.remove(LONGEST_BECAUSE - 1);
        }
        chain
    }

    fn dependency_error(&self, because: &[TaskId]) -> TaskError {
        let ended = |id: &TaskId| {
            let result = self.graph.find(id).and_then(|ix| self.graph[ix].entry.result.clone());
            match result {
                Some(result) => match &result.error {
                    Some(error) if result.status == Status::Failed => {
                        format!("{id:?} failed ({error})")
                    }
                    _ if result.status == Status::Cancelled => format!("{id:?} was cancelled"),
                    _ => format!("{id:?} was {}", result.status),
                },
                None => format!("{id:?} did not complete"),
            }
        };
        let message = match because {
            [] => "something that it depends on did not complete".to_owned(),
            [root] => format!("it depends on a task that did not complete: {}", ended(root)),
            [direct, .., root] => {
                format!("it depends on {direct:?}, which was skipped since {}", ended(root))
            }
        };
        let root = because.last().map_or("it".to_owned(), |id| format!("{id:?}"));
        TaskError::new(FailureKind::Dependency, message)
            .with_hint(format!("Retry {root}: what was skipped because of it is done then, too."))
    }
}

/// Returns that a task has ended.
pub(crate) fn ended(result: TaskResult, because: Vec<TaskId>) -> Event {
    Event::TaskEnded { result: Box::new(result), because, attempts: None }
}
