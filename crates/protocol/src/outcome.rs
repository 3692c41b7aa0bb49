//! The result: what an attempt reports, and what becomes of a task.

use std::fmt;
use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Attempt, FORMAT_VERSION, RunId, SessionId, TaskError, TaskId, Time, Token, WorkerId};

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Status {
    /// It is done, and what it says of itself was checked.
    Complete,
    /// It could not be done.
    Failed,
    /// Something that it depends on did not complete.
    Skipped,
    /// Somebody cancelled it.
    Cancelled,
}

impl Status {
    /// Returns the status as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Tokens, by how they are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Read by the model, not from the cache.
    pub input_tokens: u64,
    /// Written by the model.
    pub output_tokens: u64,
    /// Read from the prompt cache.
    pub cache_read_input_tokens: u64,
    /// Written to the prompt cache.
    pub cache_creation_input_tokens: u64,
}

impl Usage {
    /// Returns all tokens that the model read.
    pub fn input(&self) -> u64 {
        self.input_tokens
            .saturating_add(self.cache_read_input_tokens)
            .saturating_add(self.cache_creation_input_tokens)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, rhs: Self) {
        let add = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        add(&mut self.input_tokens, rhs.input_tokens);
        add(&mut self.output_tokens, rhs.output_tokens);
        add(&mut self.cache_read_input_tokens, rhs.cache_read_input_tokens);
        add(&mut self.cache_creation_input_tokens, rhs.cache_creation_input_tokens);
    }
}

/// What an attempt reports, and what is published of a task when it has ended.
///
/// A worker's report carries the [`token`](Self::token) of its attempt and names artifacts
/// relative to its own artifact folder; what is published has no token and names them relative to
/// the installation's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Result")]
pub struct TaskResult {
    /// The version of this format; absent means 1.
    #[serde(default = "current")]
    pub version: u32,
    /// The task.
    pub task_id: TaskId,
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// Which attempt it was; 0 when there was none.
    pub attempt: u32,
    /// In a worker's report: the token of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// How it ended.
    pub status: Status,
    /// What was done, in a few sentences.
    #[serde(default)]
    pub summary: String,
    /// What was found, a sentence each.
    #[serde(default)]
    pub findings: Vec<String>,
    /// What to do next, a sentence each.
    #[serde(default)]
    pub recommendations: Vec<String>,
    /// The files that it left.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Seconds from the attempt's start to its end.
    pub execution_time: f64,
    /// Why it did not complete.
    #[serde(default)]
    pub error: Option<TaskError>,
    /// The tokens of this attempt.
    #[serde(default)]
    pub usage: Usage,
    /// What this attempt cost, in US dollars; `null` when a model was used whose price is not known,
    /// and nothing when absent.
    #[serde(default = "crate::event::nothing")]
    pub cost_usd: Option<f64>,
    /// The model that did most of it.
    #[serde(default)]
    pub model: Option<String>,
    /// The Claude session.
    #[serde(default)]
    pub session_id: Option<SessionId>,
    /// Whether the model was the built-in stand-in.
    #[serde(default)]
    pub rehearsal: bool,
    /// When the attempt started.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Time,
    /// The orchestrator's plan, of a task that plans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// The orchestrator's answer in Markdown, of a task that synthesises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

fn current() -> u32 {
    FORMAT_VERSION
}

impl TaskResult {
    /// Returns the result of a task that ended without a report: with no work, time or cost.
    pub fn without_report(
        task_id: TaskId,
        run: RunId,
        worker: WorkerId,
        attempt: Option<Attempt>,
        status: Status,
        error: TaskError,
        at: Time,
    ) -> Self {
        Self {
            version: FORMAT_VERSION,
            task_id,
            run,
            worker,
            attempt: attempt.map_or(0, Attempt::get),
            token: None,
            status,
            summary: error.message.clone(),
            findings: Vec::new(),
            recommendations: Vec::new(),
            artifacts: Vec::new(),
            execution_time: 0.0,
            error: Some(error),
            usage: Usage::default(),
            cost_usd: Some(0.0),
            model: None,
            session_id: None,
            rehearsal: false,
            started_at: at,
            finished_at: at,
            plan: None,
            report: None,
        }
    }
}
