//! Whether and when an attempt that failed is made again.

use std::time::Duration;

use protocol::{DecisionKind, FailureKind, TaskError, Time};

use crate::graph::Node;
use crate::hold::scope_of;
use crate::{Config, TaskEntry};

impl Config {
    /// Returns how long a task waits after its `failures`-th failure, counted from 1.
    ///
    /// Exponential backoff with full jitter (Marc Brooker, "Exponential Backoff And Jitter", 2015):
    /// uniform between zero and a bound that starts at [`backoff_base`](Self::backoff_base) and
    /// doubles up to [`backoff_max`](Self::backoff_max), so that tasks that failed together do not
    /// come back together. `random` is uniform over all 64 bits; the result is in whole
    /// milliseconds, both ends included.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let config = scheduler::Config {
    /// #     workers: Default::default(),
    /// #     max_running: 1,
    /// #     plan: protocol::PlanLimits { tasks: 1, depth: 1 },
    /// #     backoff_base: Duration::from_secs(10),
    /// #     backoff_max: Duration::from_secs(15),
    /// #     aging: Duration::from_secs(1),
    /// #     timeout_margin: Duration::ZERO,
    /// #     stop_grace: Duration::ZERO,
    /// #     max_lost: 1,
    /// # };
    /// assert_eq!(config.backoff_base, Duration::from_secs(10));
    /// assert_eq!(config.backoff_max, Duration::from_secs(15));
    /// assert_eq!(config.backoff(1, 0), Duration::ZERO);
    /// assert_eq!(config.backoff(1, u64::MAX), Duration::from_secs(10));
    /// assert_eq!(config.backoff(1, u64::MAX / 2), Duration::from_secs(5));
    /// assert_eq!(config.backoff(2, u64::MAX), Duration::from_secs(15));
    /// assert_eq!(config.backoff(1_000, u64::MAX), Duration::from_secs(15));
    /// ```
    pub fn backoff(&self, failures: u32, random: u64) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.backoff_base.saturating_mul(doubled).min(self.backoff_max).as_millis();
        let values = u128::from(u64::try_from(bound).unwrap_or(u64::MAX)) + 1;
        // The high half of the product: uniform without a division.
        let wait = (u128::from(random) * values) >> 64;
        Duration::from_millis(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// The latest that a limit is believed to be lifted: the longest there is, a subscription's week, and a
/// day. What says otherwise is wrong, and the task would wait for ever.
const FARTHEST: Duration = Duration::from_secs(8 * 24 * 3600);

/// The soonest that a hold ends by itself, so that a clock that is behind leads to no storm.
const SOONEST: Duration = Duration::from_secs(1);

/// What becomes of a task after an attempt that failed.
pub(crate) struct Verdict {
    /// Why the attempt, and perhaps the task, failed.
    pub(crate) error: TaskError,
    /// Whether a retry is used up.
    pub(crate) counted: bool,
    /// When the next attempt may start, if there is one.
    pub(crate) retry_at: Option<Time>,
}

/// Decides what becomes of a task whose live attempt failed. `retries` are its further attempts.
pub(crate) fn judge(
    config: &Config,
    node: &Node,
    retries: u32,
    now: Time,
    rng: &mut dyn FnMut() -> u64,
    error: TaskError,
) -> Verdict {
    let entry = &node.entry;
    let left = entry.counted_failures < retries;
    let lost = node.lost.saturating_add(1);
    let plan_rejected =
        node.rejected.is_some() && node.rejected == entry.live().map(|live| live.attempt);
    let (counted, again) = match error.kind {
        FailureKind::Cancelled => (false, false),
        FailureKind::WorkerLost => (false, lost < config.max_lost),
        FailureKind::Oom => (true, left && node.ooms == 0),
        FailureKind::Disk => (true, left && node.disks == 0),
        // A plan goes back once, whatever the retries are.
        FailureKind::BadOutput if plan_rejected => (true, node.rejections < 2),
        FailureKind::BadOutput
        | FailureKind::Unverified
        | FailureKind::Timeout
        | FailureKind::IdleTimeout
        | FailureKind::Network
        | FailureKind::Server => (true, left),
        FailureKind::Refused
        | FailureKind::Invalid
        | FailureKind::Tampered
        | FailureKind::Dependency => (true, false),
        FailureKind::RateLimited | FailureKind::Overloaded | FailureKind::Unreachable => {
            return until_lifted(now, config.backoff(node.limited.saturating_add(1), rng()), error);
        }
        FailureKind::Budget => return until_decided(entry, DecisionKind::Budget, now, error),
        FailureKind::Auth => return until_decided(entry, DecisionKind::Auth, now, error),
        FailureKind::Billing => return until_decided(entry, DecisionKind::Billing, now, error),
    };
    if again {
        let failures = match error.kind {
            FailureKind::WorkerLost => entry.counted_failures.saturating_add(lost),
            _ => entry.counted_failures.saturating_add(1),
        };
        let retry_at = Some(now + config.backoff(failures, rng()));
        return Verdict { error, counted, retry_at };
    }
    let error =
        if error.kind == FailureKind::WorkerLost { lost_too_often(lost, error) } else { error };
    Verdict { error, counted, retry_at: None }
}

/// A limit of the model's API, or its absence, is not the task's fault, however often it is met: the next
/// attempt waits until it is lifted, and at least the backoff.
fn until_lifted(now: Time, backoff: Duration, error: TaskError) -> Verdict {
    let lifted = error.retry_at.map(|at| at.clamp(now, now + FARTHEST));
    let retry_at = lifted.unwrap_or(now).max(now + backoff);
    let error = TaskError { retry_at: lifted, ..error };
    Verdict { error, counted: false, retry_at: Some(retry_at) }
}

/// What only a person can mend is held until then: see `hold`.
fn until_decided(entry: &TaskEntry, kind: DecisionKind, now: Time, error: TaskError) -> Verdict {
    let scope = Some(scope_of(entry, kind, &error));
    let ends = error.retry_at.map(|at| at.clamp(now + SOONEST, now + FARTHEST));
    let error = TaskError { scope, retry_at: ends, ..error };
    Verdict { error, counted: false, retry_at: Some(now) }
}

fn lost_too_often(times: u32, error: TaskError) -> TaskError {
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times in a row") };
    TaskError {
        kind: error.kind,
        message: format!("its replica was lost {times}: {}", error.message),
        retry_at: error.retry_at,
        scope: error.scope,
        hint: error.hint.or_else(|| {
            Some(
                "It may be this task that ends it: see its log and the worker's limits on memory \
                 and processes, then retry it."
                    .to_owned(),
            )
        }),
    }
}
