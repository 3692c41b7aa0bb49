//! Whether and when an attempt that failed is made again.

use std::time::Duration;

use protocol::{FailureKind, TaskError, Time};

use crate::Config;
use crate::graph::Node;

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
        // The worker is paused meanwhile.
        FailureKind::Auth | FailureKind::Billing => {
            return Verdict { error, counted: false, retry_at: Some(now) };
        }
        FailureKind::WorkerLost => (false, lost < config.max_lost),
        FailureKind::Oom => (true, left && node.ooms == 0),
        // A plan goes back once, whatever the retries are.
        FailureKind::BadOutput if plan_rejected => (true, node.rejections < 2),
        FailureKind::BadOutput
        | FailureKind::Unverified
        | FailureKind::Timeout
        | FailureKind::IdleTimeout
        | FailureKind::Network
        | FailureKind::Server
        | FailureKind::RateLimited
        | FailureKind::Overloaded => (true, left),
        FailureKind::Budget
        | FailureKind::Refused
        | FailureKind::Invalid
        | FailureKind::Dependency => (true, false),
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

fn lost_too_often(times: u32, error: TaskError) -> TaskError {
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times in a row") };
    TaskError {
        kind: error.kind,
        message: format!("its replica was lost {times}: {}", error.message),
        hint: error.hint.or_else(|| {
            Some(
                "It may be this task that ends it: see its log and the worker's limits on memory \
                 and processes, then retry it."
                    .to_owned(),
            )
        }),
    }
}
