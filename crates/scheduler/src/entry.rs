//! What is known of a task.

use std::sync::Arc;

use protocol::{
    Attempt, ReplicaId, SessionId, Status, Task, TaskError, TaskId, TaskResult, TaskSource, Time,
    Token, Usage,
};

/// What is known of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEntry {
    /// The task.
    pub task: Arc<Task>,
    /// Where it came from.
    pub source: TaskSource,
    /// When it was added.
    pub added: Time,
    /// Where it stands.
    pub state: TaskState,
    /// The last attempt, live or over. Numbers never come twice, not even after a reset.
    pub last_attempt: Option<Attempt>,
    /// The failures that used up a retry, since the task was added or reset.
    pub counted_failures: u32,
    /// Why the last attempt that had an output did not count, a sentence each; for the next one
    /// to do better. Kept until the next such failure.
    pub feedback: Vec<String>,
    /// Why the last attempt failed.
    pub last_error: Option<TaskError>,
    /// The tokens of all attempts that are over.
    pub usage: Usage,
    /// What all attempts that are over have cost, in US dollars; `None` when that of one of them is
    /// not known.
    pub cost_usd: Option<f64>,
    /// The session of the live attempt, or the one that the next attempt can go on with.
    pub session: Option<Session>,
    /// The result, once the task has ended.
    pub result: Option<Arc<TaskResult>>,
    /// When it was skipped: the tasks from the one that it depends on to the one that failed. In
    /// a very long chain tasks in the middle are left out; the first and the last never are.
    pub because: Vec<TaskId>,
    /// Whether somebody asked for its end.
    pub cancel_requested: bool,
}

impl TaskEntry {
    /// Returns the attempt that may be running, if there is one.
    pub fn live(&self) -> Option<&LiveAttempt> {
        match &self.state {
            TaskState::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Returns how the task ended, if it has.
    pub fn status(&self) -> Option<Status> {
        match self.state {
            TaskState::Ended(status) => Some(status),
            _ => None,
        }
    }
}

/// A Claude session and what it has used in the attempts that are over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The tokens.
    pub used: Usage,
    /// US dollars, as far as they are known.
    pub cost_usd: f64,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for others.
    Waiting,
    /// It may go as soon as there is room.
    Ready,
    /// It waits before its next attempt.
    Backoff {
        /// Until when.
        until: Time,
    },
    /// An attempt is out.
    Live(LiveAttempt),
    /// It is over.
    Ended(Status),
}

impl TaskState {
    /// Returns whether an attempt is yet to be dispatched.
    pub(crate) fn is_to_come(&self) -> bool {
        matches!(self, Self::Waiting | Self::Ready | Self::Backoff { .. })
    }
}

/// An attempt that was dispatched and is not confirmed to be over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveAttempt {
    /// Which one.
    pub attempt: Attempt,
    /// Who has it.
    pub replica: ReplicaId,
    /// What its report has to echo.
    pub token: Token,
    /// Its session.
    pub session: SessionId,
    /// Whether the session goes on from an earlier attempt.
    pub resume: bool,
    /// When it was dispatched.
    pub dispatched: Time,
    /// How far it is.
    pub phase: Phase,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The replica is being made ready. No time counts yet: the engine may be away.
    Launching,
    /// It runs.
    Running {
        /// When it will be stopped from outside.
        deadline: Time,
        /// Since when.
        started: Time,
    },
    /// It was asked to stop.
    Stopping {
        /// Why.
        error: TaskError,
        /// When its replica will be stopped; absent when that was asked for.
        kill_at: Option<Time>,
        /// Since when it had been running, if it had.
        started: Option<Time>,
    },
}

impl Phase {
    /// Returns since when the attempt has been running, if it has.
    pub fn started(&self) -> Option<Time> {
        match self {
            Self::Launching => None,
            Self::Running { started, .. } => Some(*started),
            Self::Stopping { started, .. } => *started,
        }
    }

    /// Returns when something has to be done about it.
    pub(crate) fn timer(&self) -> Option<Time> {
        match self {
            Self::Launching => None,
            Self::Running { deadline, .. } => Some(*deadline),
            Self::Stopping { kill_at, .. } => *kill_at,
        }
    }
}
