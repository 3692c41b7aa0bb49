//! What goes over the API, in both directions.

use protocol::{
    Attempt, Choice, Decision, Plan, Priority, RunId, RunState, ShortRunId, Status, TaskError,
    TaskFile, TaskId, TaskResult, Time, Usage, WorkerId,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::usage::{Today, Waits};

/// How the daemon is. Answer of `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The version of the daemon.
    pub version: String,
    /// What tells its build from others of the same version.
    #[serde(default)]
    pub build: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_at: Time,
    /// The folder that it serves.
    pub folder: String,
    /// What runs the workers: `docker` or `process`.
    pub runtime: String,
    /// Whether the model is the built-in stand-in.
    pub rehearsal: bool,
    /// Where the model's API is; never with a credential.
    pub upstream: String,
    /// What a person should know: what is watched by polling, which worker is paused, why the engine
    /// is waited for.
    pub notices: Vec<String>,
}

/// A request to split or a plan to carry out. Body of `POST /v1/runs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitRun {
    /// The request. Needed unless there is a plan.
    pub request: Option<String>,
    /// The plan, if it is already made.
    pub plan: Option<Plan>,
    /// Whether to stop when the request is split.
    pub plan_only: bool,
    /// What a person calls the run.
    pub name: Option<String>,
    /// The priority of its tasks.
    pub priority: Priority,
    /// The most that the run may spend, in US dollars.
    pub budget_usd: Option<f64>,
    /// The most tokens that the run may use.
    pub budget_tokens: Option<u64>,
}

/// Answer of `POST /v1/runs`. The run survives whatever happens from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunOpened {
    /// The run.
    pub run: RunId,
    /// Its short form.
    pub short: ShortRunId,
}

/// One task without a plan. Body of `POST /v1/tasks`: the format of a task, where `task_id` may be
/// left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NewTask(
    /// The task as JSON.
    pub serde_json::Value,
);

/// Answer of `POST /v1/tasks`. The task survives whatever happens from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskAdded {
    /// The task.
    pub task_id: TaskId,
    /// Whether a task of the same name and content was there before.
    pub existed: bool,
    /// How many bytes of its run's journal come before anything about it: `offset` of
    /// `GET /v1/runs/{id}/events`. 0 when the task was there before.
    #[serde(default)]
    pub offset: u64,
}

/// The status of a task that may not have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TaskStatus {
    /// It waits for other tasks, or for the time of its next attempt.
    Waiting,
    /// It waits for room.
    Ready,
    /// An attempt is under way.
    Running,
    /// It is done.
    Complete,
    /// It could not be done.
    Failed,
    /// What it depends on did not complete.
    Skipped,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<Status> for TaskStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Complete => Self::Complete,
            Status::Failed => Self::Failed,
            Status::Skipped => Self::Skipped,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

impl TaskStatus {
    /// Returns the status as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the task has ended.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Waiting | Self::Ready | Self::Running)
    }
}

/// A task, as it stands. Also the answer of `GET /v1/tasks/{task}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    /// The task.
    pub task_id: TaskId,
    /// Its run.
    pub run: RunId,
    /// Its worker.
    pub worker: WorkerId,
    /// Its status.
    pub status: TaskStatus,
    /// The last attempt that was dispatched.
    pub attempt: Option<Attempt>,
    /// The tasks that it waits for.
    pub waiting_for: Vec<TaskId>,
    /// Why it waits, failed, was skipped or was cancelled; where it runs.
    pub reason: Option<String>,
    /// When the attempt started, or the task ended.
    pub since: Option<Time>,
    /// The first line of what it is to do.
    pub title: String,
    /// All that it has cost up to now, in US dollars; `null` when that is not known.
    pub cost_usd: Option<f64>,
    /// Its result, when it has ended; only in the answer for one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TaskResult>,
}

/// The state of a run that may not have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RunStatus {
    /// The orchestrator splits the request.
    Planning,
    /// Tasks are worked on.
    Executing,
    /// The orchestrator answers the request.
    Synthesising,
    /// Every task is complete and the request is answered.
    Complete,
    /// There is an answer, and it has gaps.
    Partial,
    /// There is no answer.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<RunState> for RunStatus {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Complete => Self::Complete,
            RunState::Partial => Self::Partial,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
        }
    }
}

impl RunStatus {
    /// Returns the state as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Executing => "executing",
            Self::Synthesising => "synthesising",
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the run has ended.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Planning | Self::Executing | Self::Synthesising)
    }
}

/// A run, as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// The run.
    pub run: RunId,
    /// Its short form.
    pub short: ShortRunId,
    /// What a person calls it.
    pub name: Option<String>,
    /// Its state.
    pub state: RunStatus,
    /// When it was opened.
    pub opened_at: Time,
    /// Its tasks, in the order in which they were added.
    pub tasks: Vec<TaskView>,
}

/// A worker, as it stands. `GET /v1/workers` answers with a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// The worker.
    pub worker: WorkerId,
    /// What it is for.
    pub description: String,
    /// The model.
    pub model: Option<String>,
    /// Its sub-agents.
    pub subagents: Vec<String>,
    /// How many replicas may run at once.
    pub replicas: u32,
    /// What its replicas do now: `marie-1: k3f9.review, attempt 2`.
    pub running: Vec<String>,
    /// Why it is paused.
    pub paused: Option<TaskError>,
    /// Where its credential is: `gateway` or `home`.
    pub auth: String,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReport {
    /// How the daemon is.
    pub daemon: Health,
    /// The runs: the one that was asked for, or all that are open and the last that ended.
    pub runs: Vec<RunView>,
    /// The workers.
    pub workers: Vec<WorkerView>,
    /// The questions that wait for a person: of the run that was asked for, or all.
    #[serde(default)]
    pub decisions: Vec<DecisionView>,
    /// What the present day has taken.
    #[serde(default)]
    pub today: Today,
}

/// A question that waits for a person, with what there is to know. `GET /v1/decisions` answers with a
/// list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecisionView {
    /// The question.
    #[serde(flatten)]
    pub decision: Decision,
    /// What is held, as a person calls it: `run k3f9`.
    pub about: String,
    /// What the scope may spend at present, in US dollars, where it is known.
    pub budget_usd: Option<f64>,
    /// How many tokens the scope may use at present, where it is known.
    pub budget_tokens: Option<u64>,
    /// What the scope has spent, in US dollars, where it is known.
    pub spent_usd: Option<f64>,
    /// How many tokens the scope has used, where it is known.
    pub spent_tokens: Option<u64>,
    /// The tasks that were stopped.
    pub stopped: Vec<TaskId>,
    /// What else can be done about it.
    pub hint: Option<String>,
    /// What to type: to go on, and to stop.
    pub commands: Vec<String>,
}

/// The answer to a question. Body of `POST /v1/decisions/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionAnswer {
    /// The answer.
    pub choice: Choice,
}

/// A task of a [`RunSummary`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskSummary {
    /// The task.
    pub task_id: TaskId,
    /// Its worker.
    pub worker: WorkerId,
    /// Its status.
    pub status: TaskStatus,
    /// How many attempts were dispatched.
    pub attempts: u32,
    /// Seconds that its last attempt took.
    pub execution_time: f64,
    /// The tokens of all its attempts.
    pub usage: Usage,
    /// What all its attempts cost, in US dollars; `null` when that is not known.
    pub cost_usd: Option<f64>,
    /// Why it did not complete.
    pub error: Option<TaskError>,
}

/// A run's figures: `results/<run>.json`, the last line of `submit --json`, and the answer of
/// `GET /v1/runs/{run}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Its state.
    pub state: RunStatus,
    /// The file with the answer, relative to the installation's folder.
    pub answer: Option<String>,
    /// The file with these figures, relative to the installation's folder.
    pub summary: Option<String>,
    /// Its tasks, planning and synthesis among them.
    pub tasks: Vec<TaskSummary>,
    /// US dollars; `null` when what a task cost is not known.
    pub cost_usd: Option<f64>,
    /// Tokens.
    pub usage: Usage,
    /// The share of its input that was read from the prompt cache, from 0 to 1; `null` without input.
    #[serde(default)]
    pub cache_share: Option<f64>,
    /// US dollars that the prompt cache saved; `null` when the ledger knows no request of it.
    #[serde(default)]
    pub saved_usd: Option<f64>,
    /// How long its requests waited before they went out.
    #[serde(default)]
    pub waits: Waits,
    /// Seconds from its opening to its end, or to now.
    pub elapsed: f64,
    /// Whether the model was the built-in stand-in.
    pub rehearsal: bool,
}

/// What to cancel or to do again. Body of `POST /v1/cancel` and `POST /v1/retry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetName {
    /// A run, by its id or its short form, or a task.
    pub id: String,
}

/// A transcript. `GET /v1/logs/{id}` answers with a list of them, for a run, a task or a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transcript {
    /// The task.
    pub task_id: TaskId,
    /// The worker.
    pub worker: WorkerId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The file, absolute. It may not be there yet.
    pub path: String,
    /// Whether the attempt is under way. When it has ended, the file moves.
    pub live: bool,
}

/// How to end. Body of `POST /v1/shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Whether to let what runs come to its end first.
    pub drain: bool,
    /// Whether to stop the workers too; what was interrupted is resumed at the next start.
    pub stop_workers: bool,
}

/// What is to be cleared away. Body of `POST /v1/gc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// How old something has to be, in seconds since it ended.
    pub keep_seconds: u64,
    /// Whether only to say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether published results and answers go too. Only with them go tasks of the standing run.
    #[serde(default)]
    pub results: bool,
}

/// What was cleared away, or would be. Answer of `POST /v1/gc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GcReport {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// What ended before that is old.
    pub before: Time,
    /// What went, or would go.
    pub removed: Vec<GcItem>,
    /// Its bytes on disk.
    pub bytes: u64,
    /// The runs that are old enough and stay.
    pub kept: Vec<GcKept>,
    /// What could not be looked at or removed, and why.
    pub failed: Vec<String>,
}

/// Something that is cleared away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GcItem {
    /// What it is.
    pub kind: GcKind,
    /// Its path in the installation, or its name at the container engine.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What can be cleared away.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum GcKind {
    /// A run that ended: its journal, and what is left of its attempts.
    Run,
    /// What is left of an attempt of a run that stays: its transcript.
    Attempt,
    /// An agent's session that nothing will go on with.
    Session,
    /// A published result or answer.
    Result,
    /// A file that was never finished.
    Temporary,
    /// A container that has ended.
    Container,
    /// An image of workers that nothing uses.
    Image,
}

/// A run that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GcKept {
    /// The run.
    pub run: RunId,
    /// Why.
    pub why: String,
}

/// The kind of an [`ApiError`]; it decides the HTTP status and the exit code of the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ErrorKind {
    /// What was sent can't be accepted: 422, exit code 3.
    BadInput,
    /// There is no such thing: 404, exit code 3.
    NotFound,
    /// It is there already, or in a state that does not allow it: 409, exit code 3.
    Conflict,
    /// The daemon can't do it now: 503, exit code 4.
    Unavailable,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// What failed, and which one.
    pub message: String,
    /// Why, from the outermost cause to the innermost.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Only so that the schema of a task is part of the document.
#[expect(dead_code, reason = "the API takes it as JSON, to say exactly what is wrong with it")]
pub(crate) type TaskBody = TaskFile;
