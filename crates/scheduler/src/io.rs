//! What goes into the scheduler and what comes out.

use protocol::{
    Attempt, Choice, DecisionId, Event, HoldScope, Plan, Priority, ReplicaId, RunId, RunMode,
    ShortRunId, Task, TaskError, TaskId, TaskResult, TaskSource, Usage, WorkerId,
};

/// Something that happened outside, or that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed: see [`Scheduler::next_wakeup`](crate::Scheduler::next_wakeup).
    Tick,
    /// Somebody submits a request or a plan.
    OpenRun {
        /// The run.
        run: RunId,
        /// Its short form, which no other run here has.
        short: ShortRunId,
        /// What a person calls it.
        name: Option<String>,
        /// What kind of run it is. [`RunMode::Plan`] needs `plan`; the others have none.
        mode: RunMode,
        /// The request, where there is one.
        request: Option<String>,
        /// The plan, where it is given.
        plan: Option<Plan>,
        /// The priority of its tasks.
        priority: Priority,
        /// US dollars for the whole run.
        budget_usd: Option<f64>,
        /// Tokens for the whole run.
        budget_tokens: Option<u64>,
        /// Whether the model is the built-in stand-in.
        rehearsal: bool,
    },
    /// Somebody adds a task to a run that is open.
    AddTask {
        /// The task.
        task: Task,
        /// Where it came from.
        source: TaskSource,
    },
    /// Somebody wants an end to it.
    Cancel(Target),
    /// Somebody wants what did not complete to be done again. Workers that are paused go on, and
    /// so does what waits for a credential or for credit.
    Retry(Target),
    /// Tasks of the standing run are cleared away: see
    /// [`Scheduler::dispensable_tasks`](crate::Scheduler::dispensable_tasks). One that can't go any more stays.
    Forget(Vec<TaskId>),
    /// Somebody answers a question.
    Decide {
        /// Which one.
        decision: DecisionId,
        /// The answer.
        choice: Choice,
    },
    /// The replica runs and has the attempt before it.
    AttemptStarted {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// The attempt handed in a report; whatever ran it has ended. Artifacts are in safety.
    AttemptReported {
        /// The report: it names task and attempt, and echoes the token.
        report: TaskResult,
    },
    /// The attempt can't be started, and making the same call again would not help.
    AttemptUnstartable {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
        /// Whether no attempt of this worker could be started: then the task waits, and so does all else
        /// of the worker, until somebody retries anything.
        pause: bool,
    },
    /// The replica runs, and has no attempt.
    ReplicaStarted {
        /// The replica.
        replica: ReplicaId,
    },
    /// The replica does not run, for sure; all that it had handed in was reported before.
    ReplicaGone {
        /// The replica.
        replica: ReplicaId,
        /// What an attempt that it had used.
        used: Used,
        /// Why it ended: what becomes of an attempt that it had.
        error: TaskError,
        /// Whether every replica of this worker would end so before it takes an attempt: as in
        /// [`AttemptUnstartable`](Self::AttemptUnstartable).
        pause: bool,
    },
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// Tokens.
    pub usage: Usage,
    /// US dollars; `None` when a model has no known price.
    pub cost_usd: Option<f64>,
}

impl Default for Used {
    fn default() -> Self {
        Self { usage: Usage::default(), cost_usd: Some(0.0) }
    }
}

/// What a request to cancel or to retry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All tasks of a run.
    Run(RunId),
    /// One task.
    Task(TaskId),
}

/// Why a request is refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// There is another task of that name.
    Exists(TaskId),
    /// A task of that name was cleared away: its name is not used again, and nothing can depend on it.
    Gone(TaskId),
    /// The worker does not exist.
    UnknownWorker {
        /// The name.
        worker: WorkerId,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// The run does not exist.
    UnknownRun(RunId),
    /// The run has ended.
    RunEnded(RunId),
    /// The task does not exist.
    UnknownTask(TaskId),
    /// With this task, tasks would wait for each other. The last is the first again.
    Cycle(Vec<TaskId>),
    /// The plan can't be carried out.
    Plan(Vec<protocol::PlanFault>),
    /// There is nothing to cancel: it has ended.
    AlreadyEnded,
    /// There is nothing to retry: it has not ended, or it is complete.
    NothingToRetry,
    /// There never was such a question.
    UnknownDecision(DecisionId),
    /// The question is answered, or what it was about is over.
    AlreadyDecided(DecisionId),
}

/// What a step leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What happened, to be written before any command is carried out.
    pub events: Vec<Event>,
    /// What to do, in order. Each may be carried out again after a crash.
    pub commands: Vec<Command>,
}

/// Something to do outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bring what a scope may spend in line with [`Scheduler::budget`](crate::Scheduler::budget).
    SetBudget {
        /// The scope.
        scope: HoldScope,
    },
    /// Show the task as a file.
    WriteTaskFile {
        /// The task.
        task: TaskId,
    },
    /// Put the attempt before the replica and make sure that the replica runs. Answered by
    /// [`Input::AttemptStarted`] or [`Input::AttemptUnstartable`]. Nothing is to be done when the
    /// attempt is no longer the one on the replica
    /// ([`Scheduler::attempt_on`](crate::Scheduler::attempt_on)) by the time that its turn comes.
    Dispatch {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// To whom.
        replica: ReplicaId,
    },
    /// Start the replica: it will be needed. Answered by [`Input::ReplicaStarted`] or [`Input::ReplicaGone`].
    Start {
        /// The replica.
        replica: ReplicaId,
    },
    /// Ask the worker to stop the attempt.
    Interrupt {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Who has it.
        replica: ReplicaId,
        /// Why.
        reason: String,
    },
    /// Stop the replica and make sure that it is gone. Answered by [`Input::ReplicaGone`].
    StopReplica {
        /// The replica.
        replica: ReplicaId,
    },
    /// Publish the result of a task that has ended, and remove its file.
    Publish {
        /// The task.
        task: TaskId,
    },
    /// Write the run's answer and figures.
    CloseRun {
        /// The run.
        run: RunId,
    },
}
