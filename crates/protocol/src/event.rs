//! The journal: what has happened in a run, one event a line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Attempt, Choice, Decider, Decision, DecisionId, Plan, Priority, ReplicaId, RunId, SessionId,
    ShortRunId, Task, TaskError, TaskId, TaskResult, Time, Token, Usage,
};

/// A line of a journal.
///
/// In the file a line is the record as JSON, a tab, a checksum in eight hexadecimal digits, a tab,
/// and the line's place: `2/3@128` is the second of three lines that were written together, from
/// byte 128 of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Event", description = "A line of a run's journal.")]
pub struct Record {
    /// The version of this format.
    #[serde(rename = "v")]
    pub version: u32,
    /// The number of the event. It rises over all the journals of an installation, so that they
    /// can be put together in order.
    pub seq: u64,
    /// When it happened.
    pub at: Time,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RunMode {
    /// A request is split, worked on and answered.
    Request,
    /// The plan is given.
    Plan,
    /// A request is only split.
    PlanOnly,
    /// The standing run of tasks dropped by hand.
    Adhoc,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RunState {
    /// Every task is complete and the request is answered.
    Complete,
    /// There is an answer, and it has gaps.
    Partial,
    /// There is no answer.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl RunState {
    /// Returns the state as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a task came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TaskSource {
    /// A file in `tasks/<worker>/`.
    Drop,
    /// The API.
    Api,
    /// The run's plan.
    Plan,
    /// The supervisor: planning and synthesis.
    Supervisor,
}

/// Something that happened in a run. Each is a fact: reading a journal again decides nothing anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run began.
    RunOpened {
        /// The run.
        run: RunId,
        /// Its short form.
        short: ShortRunId,
        /// What a person calls it.
        name: Option<String>,
        /// What kind of run it is.
        mode: RunMode,
        /// The request, where there is one.
        request: Option<String>,
        /// The priority of its tasks.
        priority: Priority,
        /// The most that it may spend, in US dollars.
        budget_usd: Option<f64>,
        /// The most tokens that it may use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget_tokens: Option<u64>,
        /// Whether the model is the built-in stand-in.
        rehearsal: bool,
    },
    /// A task was added.
    TaskAdded {
        /// The task.
        task: Task,
        /// Where it came from.
        source: TaskSource,
    },
    /// The orchestrator's plan can't be carried out; it is told why.
    PlanRejected {
        /// The task that planned.
        task: TaskId,
        /// What is wrong with it, a sentence each.
        reasons: Vec<String>,
    },
    /// The run has its plan. Its tasks follow as events of their own in the same write.
    PlanAccepted {
        /// The run.
        run: RunId,
        /// How many tasks it has.
        tasks: usize,
        /// The plan as it was handed in; only in a run that is only split.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
    },
    /// An attempt was handed to a replica.
    AttemptDispatched {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// To whom.
        replica: ReplicaId,
        /// What its result has to echo.
        token: Token,
        /// The Claude session.
        session: SessionId,
        /// Whether the session goes on from an earlier attempt.
        resume: bool,
    },
    /// The replica runs and has the attempt before it.
    AttemptStarted {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// The attempt is being stopped; it is not over yet.
    AttemptStopping {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
    },
    /// The attempt is over without a result that counts, and whatever ran it is gone.
    AttemptFailed {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
        /// Whether it uses up one of the task's retries.
        counted: bool,
        /// When the next attempt may be dispatched; absent when there is none.
        retry_at: Option<Time>,
        /// The tokens of the attempt.
        #[serde(default)]
        usage: Usage,
        /// What it cost, in US dollars; `null` when a model was used whose price is not known,
        /// and nothing when absent.
        #[serde(default = "nothing")]
        cost_usd: Option<f64>,
        /// Whether nothing of its worker can be started: that says nothing of the task.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        paused: bool,
    },
    /// The task ended, with its one result. `status` of the result says how.
    TaskEnded {
        /// The result.
        result: Box<TaskResult>,
        /// When it was skipped: the tasks from the one it depends on to the one that failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        because: Vec<TaskId>,
    },
    /// Somebody asked for an end to a task, or to all tasks of a run.
    CancelRequested {
        /// The run.
        run: RunId,
        /// The task; absent for the whole run.
        task: Option<TaskId>,
    },
    /// A task that had ended is to be done again.
    TaskReset {
        /// The task.
        task: TaskId,
    },
    /// The run ended. A task that is done again opens it again.
    RunEnded {
        /// The run.
        run: RunId,
        /// How.
        state: RunState,
    },
    /// A question came up that waits for a person. It is in the journal of the run that it
    /// concerns, or of the standing run.
    DecisionRaised {
        /// The question.
        decision: Decision,
    },
    /// A question is answered.
    DecisionMade {
        /// Which one.
        decision: DecisionId,
        /// The answer.
        choice: Choice,
        /// Who answered; a person when absent.
        #[serde(default, skip_serializing_if = "Decider::is_person")]
        by: Decider,
    },
}

#[expect(clippy::unnecessary_wraps, reason = "serde's signature")]
pub(crate) fn nothing() -> Option<f64> {
    Some(0.0)
}
