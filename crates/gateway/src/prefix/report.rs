//! What is told of a broken prefix.

use std::{fmt, sync::Arc, time::Duration};

use protocol::{Attempt, RunId, TaskId};

use crate::ask::Place;

/// Less was read from the prompt cache than an earlier request had put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefixBreak {
    /// The task of the earlier request.
    pub(crate) task: TaskId,
    /// Its attempt.
    pub(crate) attempt: Attempt,
    /// Why it was of no use.
    pub(crate) cause: Cause,
    /// About how many tokens were not read.
    pub(crate) lost: u64,
}

/// A request that read less from the prompt cache than an earlier one of its session or worker had put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheBreak {
    /// The run of the task.
    pub run: RunId,
    /// The task that sent it.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// About how many tokens it did not read.
    pub lost: u64,
    /// What broke the prefix: which block differs from which attempt's, or that the bytes are the same.
    pub why: String,
}

/// Why a cached prefix was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A block has other bytes: the first that does.
    Differs {
        /// Which one.
        place: Place,
    },
    /// A block is there that was not.
    New {
        /// Which one.
        place: Place,
    },
    /// A block is not there that was.
    Missing {
        /// Which one.
        place: Place,
    },
    /// The same bytes went to another model, and each has its own cache.
    OtherModel {
        /// The one they went to before.
        had: Arc<str>,
    },
    /// The same bytes, but too late.
    Expired {
        /// How long after the start of the earlier request.
        after: Duration,
    },
    /// The same bytes, in time. A cache is no promise.
    Lost {
        /// How long after the start of the earlier request.
        after: Duration,
    },
}

impl fmt::Display for PrefixBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, attempt, cause, .. } = self;
        let other = format_args!("{task} attempt {attempt}");
        match cause {
            Cause::Differs { place } => write!(f, "{place} differs from {other}"),
            Cause::New { place } => write!(f, "{place} was not in {other}"),
            Cause::Missing { place } => write!(f, "{place} of {other} is missing"),
            Cause::OtherModel { had } => write!(f, "different model: {other} had {had}"),
            Cause::Expired { after } => {
                write!(
                    f,
                    "same bytes as {other}; the cache had expired, {} s later",
                    after.as_secs()
                )
            }
            Cause::Lost { after } => {
                let seconds = after.as_secs();
                write!(f, "same bytes as {other}, {seconds} s later, yet not read from the cache")
            }
        }
    }
}
