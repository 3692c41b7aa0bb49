//! The rules that the scheduler keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::{PlanLimits, WorkerId};

/// The rules of an installation.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The workers.
    pub workers: BTreeMap<WorkerId, WorkerLimits>,
    /// The most attempts at once, over all workers. At least 1.
    pub max_running: usize,
    /// The bounds of a plan.
    pub plan: PlanLimits,
    /// The longest wait before the second attempt; it doubles for each further one.
    pub backoff_base: Duration,
    /// The longest wait before any attempt.
    pub backoff_max: Duration,
    /// How long a ready task waits until it counts as one priority higher. After the last step it
    /// goes before all others, oldest first: nothing starves.
    pub aging: Duration,
    /// How long after its own timeout an attempt is stopped from outside. The worker stops it
    /// first, if it still can.
    pub timeout_margin: Duration,
    /// How long an attempt that is asked to stop has before its replica is stopped.
    pub stop_grace: Duration,
    /// How many attempts in a row may be lost with their worker before the task fails.
    pub max_lost: u32,
}

/// The rules of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLimits {
    /// The most attempts at once, each on a replica of its own. At least 1.
    pub replicas: u32,
    /// Whether a replica serves one attempt, and is replaced. Then there are as many again: spares that wait
    /// for an attempt, and those whose attempt is over.
    pub per_task: bool,
    /// How long one attempt may take, unless its task says so itself.
    pub timeout: Duration,
    /// Further attempts after a failure that may pass, unless the task says so itself.
    pub retries: u32,
    /// Whether its agent can go on in the session of an earlier attempt.
    pub resumes: bool,
}

impl WorkerLimits {
    /// Returns the highest number of a replica.
    pub fn highest_number(&self) -> u32 {
        if self.per_task { self.replicas.saturating_mul(2) } else { self.replicas }
    }
}
