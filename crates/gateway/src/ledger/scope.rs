//! What a budget can be for, and how much it is.

use std::fmt;

use protocol::{RunId, TaskId, Time, WorkerId};
use serde::{Deserialize, Serialize};

use crate::Usd;

/// A day, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u64);

const MILLIS: u64 = 24 * 60 * 60 * 1_000;

impl Day {
    /// Returns the day of a point in time.
    pub fn of(time: Time) -> Self {
        Self(time.as_millis() / MILLIS)
    }

    /// Returns when the day begins.
    pub fn begin(self) -> Time {
        Time::from_millis(self.0.saturating_mul(MILLIS))
    }

    pub(super) fn minus(self, days: u64) -> Self {
        Self(self.0.saturating_sub(days))
    }
}

impl fmt::Display for Day {
    /// As `2026-11-20`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.begin().to_string();
        f.write_str(time.split('T').next().unwrap_or(&time))
    }
}

/// What a budget is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All attempts of a task.
    Task(TaskId),
    /// All tasks of a run.
    Run(RunId),
    /// A worker's requests of one day (UTC).
    Worker(WorkerId),
    /// Everybody's requests of one day (UTC).
    Day,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => write!(f, "task `{task}`"),
            Self::Run(run) => write!(f, "run `{run}`"),
            Self::Worker(worker) => write!(f, "worker `{worker}` today"),
            Self::Day => f.write_str("all workers today"),
        }
    }
}

/// How much may be used. What is not given has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Dollars. Requests without a price are refused while there is such a limit; those that went out
    /// before it count as nothing.
    pub usd: Option<Usd>,
    /// Tokens: all that the model reads, from wherever, and all that it writes.
    pub tokens: Option<u64>,
}

/// The most that a request can use, or what is held of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worst {
    /// Dollars; `None` when nobody knows.
    pub usd: Option<Usd>,
    /// Tokens, read and written.
    pub tokens: u64,
}

/// So much of what a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Dollars.
    Usd(Usd),
    /// Tokens.
    Tokens(u64),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usd(usd) => usd.fmt(f),
            Self::Tokens(tokens) => write!(f, "{tokens} tokens"),
        }
    }
}

/// Says that four fifths of a budget are used. Comes once for each budget that is set, for its dollars and
/// for its tokens, and for those of a day once each day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose budget.
    pub scope: Scope,
    /// How much of it is spent, or held for answers that broke off.
    pub used: Amount,
    /// How much it is.
    pub limit: Amount,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the budget of {} for {} are used", self.used, self.limit, self.scope)
    }
}
