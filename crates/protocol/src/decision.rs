//! Decisions: questions that wait for a person, and what a failure is about.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{FailureKind, RunId, TaskId, Time, WorkerId};

/// What a failure is about, and so what has to wait when it is one that only a person can mend.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum HoldScope {
    /// One task.
    Task(TaskId),
    /// All tasks of a run.
    Run(RunId),
    /// All tasks of a worker.
    Worker(WorkerId),
    /// Everything: the day's budget, a key that all share.
    All,
}

/// What kind of question a decision is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DecisionKind {
    /// A budget is used up.
    Budget,
    /// A credential is refused.
    Auth,
    /// The account has no credit.
    Billing,
}

impl DecisionKind {
    /// Returns the kind of question that a failure raises, if it raises one.
    pub fn of(failure: FailureKind) -> Option<Self> {
        match failure {
            FailureKind::Budget => Some(Self::Budget),
            FailureKind::Auth => Some(Self::Auth),
            FailureKind::Billing => Some(Self::Billing),
            _ => None,
        }
    }

    /// Returns the kind of failure that raises such a question.
    pub fn failure(self) -> FailureKind {
        match self {
            Self::Budget => FailureKind::Budget,
            Self::Auth => FailureKind::Auth,
            Self::Billing => FailureKind::Billing,
        }
    }

    /// Returns the kind as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Auth => "auth",
            Self::Billing => "billing",
        }
    }
}

impl fmt::Display for DecisionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a decision: `d1`, `d2` and so on. Unique in its installation and never used again,
/// so that an answer that comes late never answers another question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DecisionId(u32);

impl DecisionId {
    /// The first decision of an installation.
    pub const FIRST: Self = Self(1);

    /// Returns the id after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Why a text is not the name of a decision.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a decision is `d` and a number from 1, as in `d3`")]
pub struct InvalidDecisionId;

impl FromStr for DecisionId {
    type Err = InvalidDecisionId;

    fn from_str(s: &str) -> Result<Self, InvalidDecisionId> {
        let number = s.strip_prefix('d').and_then(|digits| digits.parse().ok());
        // One spelling only: no `d01`, no `d+1`.
        let id = number.filter(|&number: &u32| number > 0).map(Self);
        id.filter(|id| id.to_string() == s).ok_or(InvalidDecisionId)
    }
}

impl TryFrom<String> for DecisionId {
    type Error = InvalidDecisionId;

    fn try_from(s: String) -> Result<Self, InvalidDecisionId> {
        s.parse()
    }
}

impl From<DecisionId> for String {
    fn from(id: DecisionId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("d{}", self.0))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl JsonSchema for DecisionId {
    fn schema_name() -> Cow<'static, str> {
        "DecisionId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^d[1-9][0-9]*$" })
    }
}

/// A question that waits for a person. Until it is answered nothing in its scope is dispatched. The
/// answers are those of [`Choice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Its name.
    pub id: DecisionId,
    /// What kind of question it is.
    pub kind: DecisionKind,
    /// What waits for it.
    pub scope: HoldScope,
    /// The question, in a sentence or two.
    pub question: String,
    /// When it came up.
    pub raised_at: Time,
    /// When everything goes on without an answer: the day's budget begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// The answer to a [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(inline)]
pub enum Choice {
    /// What waits goes on, each task in the session in which it was stopped.
    GoOn {
        /// The most that the scope may spend from now on, in US dollars, what it has spent
        /// included; absent leaves it as it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget_usd: Option<f64>,
        /// The most tokens that the scope may use from now on, what it has used included; absent
        /// leaves it as it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget_tokens: Option<u64>,
    },
    /// A task fails, a run is cancelled; of a worker or of everything, those tasks fail that were
    /// stopped, and the others go on.
    Stop,
}

/// Who answered a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Decider {
    /// Somebody.
    #[default]
    Person,
    /// Somebody, by having something done again.
    Retry,
    /// A start of the supervisor: it reads keys and configuration anew.
    Restart,
    /// Time: what was used up began anew.
    Time,
}

impl Decider {
    pub(crate) fn is_person(&self) -> bool {
        *self == Self::Person
    }
}
