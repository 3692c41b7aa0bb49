//! The words in which the pace is asked and answers.

use std::{collections::BTreeMap, fmt, sync::Arc};

use protocol::{Priority, Time, WorkerId};
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

/// Whose limits at the API count: one for each credential.
///
/// A name of ours, never the credential itself: it is shown in `status`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// Returns the account of that name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A request that wants to go.
#[derive(Clone, Debug)]
pub struct Want {
    /// On whose limits.
    pub account: AccountId,
    /// Of which worker.
    pub worker: WorkerId,
    /// The model, as the request names it.
    pub model: Arc<str>,
    /// The task's priority.
    pub priority: Priority,
    /// How many input tokens it may have, as far as can be told from the request. An estimate that is
    /// always wrong by the same factor does no harm: the pace learns the factor.
    pub input: u64,
    /// How many output tokens its answer may have. Likewise.
    pub output: u64,
    /// Since when it waits: its place in the queue. A request that goes again keeps it.
    pub since: Instant,
    /// How long it can wait.
    pub give_up: Instant,
    /// What it has waited for before it came here.
    pub waited: Waits,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Requests per minute.
    Requests,
    /// Input tokens per minute.
    InputTokens,
    /// Output tokens per minute.
    OutputTokens,
    /// Tokens of both kinds per minute.
    Tokens,
    /// The number of requests in flight.
    InFlight,
    /// The API said that there were too many (429), and until when.
    RateLimited,
    /// The API was overloaded (529).
    Overloaded,
    /// No connection to the API could be made.
    Unreachable,
    /// Another request that writes the same prefix to the prompt cache. The pace knows no such
    /// wait; whoever does adds it to the others.
    Stagger,
    /// A budget whose rest is held for requests that are under way. The pace knows no such wait either.
    Budget,
}

impl WaitReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Requests,
        Self::InputTokens,
        Self::OutputTokens,
        Self::Tokens,
        Self::InFlight,
        Self::RateLimited,
        Self::Overloaded,
        Self::Unreachable,
        Self::Stagger,
        Self::Budget,
    ];
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Requests => "requests per minute",
            Self::InputTokens => "input tokens per minute",
            Self::OutputTokens => "output tokens per minute",
            Self::Tokens => "tokens per minute",
            Self::InFlight => "requests in flight",
            Self::RateLimited => "rate limited",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Stagger => "prompt cache being written",
            Self::Budget => "budget held by others",
        })
    }
}

/// How long a request has waited, by what it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits([Duration; WaitReason::ALL.len()]);

impl Waits {
    /// Returns how long it waited for this.
    pub fn of(&self, reason: WaitReason) -> Duration {
        self.0[reason as usize]
    }

    /// Counts a wait.
    pub fn add(&mut self, reason: WaitReason, wait: Duration) {
        let sum = &mut self.0[reason as usize];
        *sum = sum.saturating_add(wait);
    }

    /// Counts the waits of others, or of an earlier try of the same request.
    pub fn add_all(&mut self, other: &Self) {
        for (reason, wait) in other.iter() {
            self.add(reason, wait);
        }
    }

    /// Returns all waits together.
    pub fn total(&self) -> Duration {
        self.0.iter().fold(Duration::ZERO, |sum, wait| sum.saturating_add(*wait))
    }

    /// Returns the waits that there were.
    pub fn iter(&self) -> impl Iterator<Item = (WaitReason, Duration)> {
        WaitReason::ALL.into_iter().zip(self.0).filter(|(_, wait)| !wait.is_zero())
    }

    /// Returns them as they stand in files: in milliseconds, without those of less than one.
    pub(crate) fn in_millis(&self) -> BTreeMap<String, u64> {
        let name = |reason: WaitReason| {
            serde_json::to_value(reason).ok().and_then(|name| name.as_str().map(str::to_owned))
        };
        let waits = self.iter().filter_map(|(reason, wait)| {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            Some((name(reason)?, millis)).filter(|_| millis > 0)
        });
        waits.collect()
    }

    /// Returns what came in since `earlier` was read from the same clock.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut waits = *self;
        for (sum, before) in waits.0.iter_mut().zip(earlier.0) {
            *sum = sum.saturating_sub(before);
        }
        waits
    }
}

/// A request that can't go in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Held {
    /// What it would have waited for.
    pub reason: WaitReason,
    /// When it could go at the earliest, where that is known.
    pub until: Option<Time>,
    /// What it has waited for, and how long.
    pub waited: Waits,
    /// What a person is told: whose limit it is, and when it ends.
    pub message: String,
}

/// What to do with an answer.
#[derive(Clone, Debug)]
#[must_use]
pub enum Next {
    /// Hand it to the client.
    Deliver,
    /// Drop it, and ask for another turn with this: the same request in the same place. Nothing was
    /// charged, and the turn is over.
    Again(Box<Want>),
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The account's, over all models.
    Account,
    /// The model's, in one account.
    Model,
    /// The worker's.
    Worker,
}

/// Who says that there is a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The configuration.
    Config,
    /// The API, in the headers of its answers.
    Server,
}

/// A limit and what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitStatus {
    /// Of what.
    pub what: WaitReason,
    /// Whose it is.
    pub scope: Scope,
    /// Who says so.
    pub source: Source,
    /// How much: per minute, or at once for requests in flight.
    pub limit: u64,
    /// What is left of it now. Below zero where more was spent than was expected.
    pub left: i64,
}

/// What holds requests back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Why.
    pub reason: WaitReason,
    /// Whose limit it is.
    pub scope: Scope,
    /// Until when, where that is known.
    pub until: Option<Time>,
}

/// How things stand for one model (or class of models) of an account.
#[derive(Clone, Debug, PartialEq)]
pub struct PaceStatus {
    /// The account.
    pub account: AccountId,
    /// The model, or the configured pattern that covers it.
    pub model: Arc<str>,
    /// Limits of the model and of its account, as believed.
    pub limits: Vec<LimitStatus>,
    /// How many requests are in flight.
    pub in_flight: u32,
    /// How many may be, as far as the API's answers tell.
    pub window: u32,
    /// How many wait.
    pub waiting: usize,
    /// What holds the first of them back; or would hold one back that came now.
    pub blocked: Option<Blocked>,
}
