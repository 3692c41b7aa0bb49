//! What can go wrong with an attempt, in the words of the failure table.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HoldScope, Time};

/// The kind of a failure: it decides whether the attempt is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum FailureKind {
    /// The model's API said 429 for longer than the client waits.
    RateLimited,
    /// The model's API said 529 for longer than the client waits.
    Overloaded,
    /// No connection to the model's API could be made for longer than the client waits.
    Unreachable,
    /// The connection to the model's API broke.
    Network,
    /// The model's API failed (5xx).
    Server,
    /// What ran the attempt is gone: the container died, or the engine restarted.
    WorkerLost,
    /// The container, or a process in it, hit its memory limit.
    Oom,
    /// The attempt wrote more to disk than it may.
    Disk,
    /// The attempt took longer than its timeout.
    Timeout,
    /// The attempt was silent for longer than its idle timeout.
    IdleTimeout,
    /// The agent ended without the output that was asked for.
    BadOutput,
    /// The output is there, but a check of it fails.
    Unverified,
    /// The model's API does not know the key, or forbids it.
    Auth,
    /// The account has no credit.
    Billing,
    /// A budget is used up.
    Budget,
    /// The model refuses.
    Refused,
    /// The task can't be done as it stands.
    Invalid,
    /// Something lay in the place of the attempt's report that does not carry the worker's proof.
    Tampered,
    /// Somebody cancelled it.
    Cancelled,
    /// What it depends on failed.
    Dependency,
}

/// What to do about an attempt that was [`Tampered`](FailureKind::Tampered) with.
pub const TAMPERED_HINT: &str = "Look at the attempt's transcript before you trust its worker again; \
                                 `supervisor retry` makes a new attempt.";

impl FailureKind {
    /// Returns whether it is nobody's fault here and passes by itself, so that the task only waits.
    pub fn passes(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::Unreachable)
    }

    /// Returns the kind as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Network => "network",
            Self::Server => "server",
            Self::WorkerLost => "worker_lost",
            Self::Oom => "oom",
            Self::Disk => "disk",
            Self::Timeout => "timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::BadOutput => "bad_output",
            Self::Unverified => "unverified",
            Self::Auth => "auth",
            Self::Billing => "billing",
            Self::Budget => "budget",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Tampered => "tampered",
            Self::Cancelled => "cancelled",
            Self::Dependency => "dependency",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why an attempt, or a task, did not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskError {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What happened, to what, and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// When what failed is known to be possible again: a limit is lifted, a day's budget begins
    /// anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// Whose limit, budget or credential it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<HoldScope>,
}

impl TaskError {
    /// Returns an error without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, retry_at: None, scope: None }
    }

    /// Returns the same error with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}
