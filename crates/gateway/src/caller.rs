//! On whose account a request goes.

use protocol::{Attempt, Priority, ReplicaId, RunId, TaskId, WorkerId};

/// The attempt that a replica works on: each request of the replica is booked on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who calls: known from the socket that the request came in on.
    pub replica: ReplicaId,
    /// Its worker.
    pub worker: WorkerId,
    /// The run of the task.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The priority of the task.
    pub priority: Priority,
}
