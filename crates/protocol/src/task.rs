//! The task: a unit of work for one worker.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{FORMAT_VERSION, RunId, TaskId, WorkerId};

/// How soon a task runs when several could.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Priority {
    /// After the others.
    Low,
    /// As usual.
    #[default]
    Medium,
    /// Before the others.
    High,
}

/// What becomes of a task when one that it depends on does not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum OnDependencyFailure {
    /// It is skipped, with the chain of reasons.
    #[default]
    Skip,
    /// It runs with what there is.
    Run,
}

/// What a task is for. Only the supervisor makes tasks that are not [`Work`](Self::Work).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TaskKind {
    /// The work itself.
    #[default]
    Work,
    /// Splits a request into a plan.
    Plan,
    /// Answers a request from all the results.
    Synthesize,
}

impl TaskKind {
    /// Returns the kind as it stands in files and prompts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Plan => "plan",
            Self::Synthesize => "synthesize",
        }
    }
}

/// What must hold of an attempt's work before its result counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Glob patterns; each must match at least one artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// A shell command that must end with 0 within 60 seconds. It runs apart from the agent, in a fresh container of
    /// the same image: in a copy of the artifacts (files only: no links, none executable), with the attempt's inputs in
    /// `$SUPERVISOR_INPUTS` and the worker's files in `$SUPERVISOR_WORKSPACE`, both read-only, without a network and
    /// without a model. Its time does not count for the task's `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// A task as it stands in a file. [`TaskFile::into_task`] makes a [`Task`] of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Task", description = "A unit of work for one worker.")]
pub struct TaskFile {
    /// The version of this format; absent means 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub version: u32,
    /// The name of the task, and of its file without `.json`.
    pub task_id: TaskId,
    /// The worker. May be left out in `tasks/<worker>/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// What to do, in plain words.
    pub description: String,
    /// The tasks that must be complete first. They may be dropped later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<TaskId>,
    /// How soon, when several could run.
    #[serde(default)]
    pub priority: Priority,
    /// Seconds that one attempt may take; default from `worker.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout: Option<u32>,
    /// The run that it belongs to; default `adhoc`.
    #[serde(default = "adhoc")]
    pub run: RunId,
    /// Further attempts after a failure that may pass; default from `worker.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 20))]
    pub retries: Option<u32>,
    /// What becomes of it when one that it depends on does not complete.
    #[serde(default)]
    pub on_dependency_failure: OnDependencyFailure,
    /// The most that the task may spend over all its attempts, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_usd: Option<f64>,
    /// The most tokens that the task may use over all its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u64>,
    /// What must hold before a result counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Anything; handed to the worker as it is.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// What the task is for. Leave it out: only the supervisor sets it.
    #[serde(default, skip_serializing_if = "is_work")]
    pub kind: TaskKind,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(version: &u32) -> bool {
    *version == 1
}

fn adhoc() -> RunId {
    RunId::Adhoc
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_work(kind: &TaskKind) -> bool {
    *kind == TaskKind::Work
}

/// A task that was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "TaskFile", into = "TaskFile")]
#[schemars(with = "TaskFile")]
pub struct Task {
    /// The name of the task.
    pub id: TaskId,
    /// Who does it.
    pub worker: WorkerId,
    /// What to do.
    pub description: String,
    /// What must be complete first; without repeats.
    pub dependencies: Vec<TaskId>,
    /// How soon.
    pub priority: Priority,
    /// How long one attempt may take, if it says so itself.
    pub timeout: Option<Duration>,
    /// The run.
    pub run: RunId,
    /// Further attempts, if it says so itself.
    pub retries: Option<u32>,
    /// What becomes of it when a dependency does not complete.
    pub on_dependency_failure: OnDependencyFailure,
    /// US dollars for all its attempts.
    pub budget_usd: Option<f64>,
    /// Tokens for all its attempts.
    pub budget_tokens: Option<u64>,
    /// What must hold before a result counts.
    pub verify: Option<Verify>,
    /// Anything.
    pub context: Map<String, Value>,
    /// What it is for.
    pub kind: TaskKind,
}

/// Why a task file that parses is not a task.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidTask {
    /// It is of a later version than this program.
    #[error("`version` is {found}, and this supervisor reads up to {FORMAT_VERSION}")]
    Version {
        /// The version that it says.
        found: u32,
    },
    /// Neither the file nor the folder names a worker.
    #[error("`worker` is missing")]
    NoWorker,
    /// The file and the folder name different workers.
    #[error("`worker` is {found:?}, but the file lies in the folder of {folder:?}")]
    OtherWorker {
        /// What the file says.
        found: WorkerId,
        /// Where it lies.
        folder: WorkerId,
    },
    /// `description` has no text.
    #[error("`description` is empty")]
    NoDescription,
    /// A number is outside of its range.
    #[error("`{field}` is {found}, and must be {range}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        range: &'static str,
    },
    /// It depends on itself.
    #[error("`dependencies` names the task itself")]
    OwnDependency,
}

impl InvalidTask {
    /// Returns what the writer of the file can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Version { .. } => "Use a supervisor of that version.".to_owned(),
            Self::NoWorker => "Name one of the workers.".to_owned(),
            Self::OtherWorker { found, .. } => {
                format!("Move the file to `tasks/{found}/`, or leave `worker` out.")
            }
            Self::NoDescription => "Say what to do, in plain words.".to_owned(),
            Self::OutOfRange { field, .. } => {
                format!("Choose another value for `{field}`, or leave it out.")
            }
            Self::OwnDependency => "Take it out of the list.".to_owned(),
        }
    }
}

impl TaskFile {
    /// Returns the task, for the worker in whose folder the file lies (if it lies in one).
    ///
    /// # Errors
    ///
    /// See [`InvalidTask`].
    pub fn into_task(self, folder: Option<&WorkerId>) -> Result<Task, InvalidTask> {
        if self.version != FORMAT_VERSION {
            return Err(InvalidTask::Version { found: self.version });
        }
        let worker = match (self.worker, folder) {
            (Some(found), Some(folder)) if found != *folder => {
                return Err(InvalidTask::OtherWorker { found, folder: folder.clone() });
            }
            (Some(worker), _) => worker,
            (None, Some(folder)) => folder.clone(),
            (None, None) => return Err(InvalidTask::NoWorker),
        };
        if self.description.trim().is_empty() {
            return Err(InvalidTask::NoDescription);
        }
        check_limits(self.timeout, self.retries, self.budget_usd, self.budget_tokens)?;
        if self.dependencies.contains(&self.task_id) {
            return Err(InvalidTask::OwnDependency);
        }
        let mut dependencies = self.dependencies;
        let mut seen = std::collections::HashSet::new();
        dependencies.retain(|id| seen.insert(id.clone()));
        Ok(Task {
            id: self.task_id,
            worker,
            description: self.description,
            dependencies,
            priority: self.priority,
            timeout: self.timeout.map(|s| Duration::from_secs(s.into())),
            run: self.run,
            retries: self.retries,
            on_dependency_failure: self.on_dependency_failure,
            budget_usd: self.budget_usd,
            budget_tokens: self.budget_tokens,
            verify: self.verify,
            context: self.context,
            kind: self.kind,
        })
    }
}

/// Checks the numbers that a task, a plan's task and `worker.toml` share.
pub(crate) fn check_limits(
    timeout: Option<u32>,
    retries: Option<u32>,
    budget_usd: Option<f64>,
    budget_tokens: Option<u64>,
) -> Result<(), InvalidTask> {
    let bad = |field, found: &dyn std::fmt::Display, range| {
        Err(InvalidTask::OutOfRange { field, found: found.to_string(), range })
    };
    match timeout {
        // A week: longer than any attempt, short enough that no sum with it overflows.
        Some(seconds) if !(1..=604_800).contains(&seconds) => {
            return bad("timeout", &seconds, "from 1 to 604800 (seconds)");
        }
        _ => {}
    }
    match retries {
        Some(retries) if retries > 20 => return bad("retries", &retries, "from 0 to 20"),
        _ => {}
    }
    match budget_usd {
        Some(usd) if !(usd.is_finite() && usd > 0.0) => {
            return bad("budget_usd", &usd, "more than 0 (US dollars)");
        }
        _ => {}
    }
    match budget_tokens {
        Some(0) => bad("budget_tokens", &0, "at least 1"),
        _ => Ok(()),
    }
}

impl TryFrom<TaskFile> for Task {
    type Error = InvalidTask;

    fn try_from(file: TaskFile) -> Result<Self, InvalidTask> {
        file.into_task(None)
    }
}

impl From<Task> for TaskFile {
    fn from(task: Task) -> Self {
        Self {
            version: FORMAT_VERSION,
            task_id: task.id,
            worker: Some(task.worker),
            description: task.description,
            dependencies: task.dependencies,
            priority: task.priority,
            timeout: task.timeout.map(|d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX)),
            run: task.run,
            retries: task.retries,
            on_dependency_failure: task.on_dependency_failure,
            budget_usd: task.budget_usd,
            budget_tokens: task.budget_tokens,
            verify: task.verify,
            context: task.context,
            kind: task.kind,
        }
    }
}
