//! The files that the supervisor, its workers and people exchange.
//!
//! Each format is one type: [`Task`], [`Plan`], [`TaskResult`], [`Record`] (a line of the journal)
//! and [`WorkerConfig`]. What people or containers write goes through [`strict`], which refuses
//! what it does not understand and says where; what others read appears through [`atomic_file`];
//! what a container wrote is opened through [`untrusted`]. There is no async code here. [`disk`] is the
//! machine's files, or in a simulation others.

mod assignment;
pub mod atomic_file;
pub mod checked;
mod decision;
pub mod disk;
mod egress_record;
mod event;
mod failure;
mod host_rule;
mod ids;
mod model_rule;
#[cfg(feature = "simulate")]
pub mod mutants;
mod outcome;
mod plan;
mod proof;
pub mod schema;
pub mod session;
pub mod strict;
mod task;
mod time;
pub mod untrusted;
mod wall;
mod worker_config;

pub use assignment::{
    AgentSpec, Assignment, CANCEL_FILE, CHECK_FAILED_CODE, CHECK_IMPOSSIBLE_CODE, CHECK_SAYS,
    CONFIG_DIR, DOOR_FILE, Door, Driver, Input, OutputContract, SELF_TEST_HOST, SESSION_FILE,
    SessionPlan, UNFIT, UNFIT_CODE, UNREACHABLE, UNREACHABLE_CODE,
};
pub use decision::{
    Choice, Decider, Decision, DecisionId, DecisionKind, HoldScope, InvalidDecisionId,
};
pub use egress_record::{EgressKind, EgressRecord, EgressTry, EgressVerdict};
pub use event::{
    Attempts, Commit, CommitPart, Event, Record, RunMode, RunState, Snapshot, TaskSource,
};
pub use failure::{FailureKind, TAMPERED_HINT, TaskError};
pub use host_rule::{HostName, HostRule, InvalidHost};
pub use ids::{
    Attempt, InvalidId, ReplicaId, RunId, SessionId, ShortRunId, TaskId, Token, WorkerId,
};
pub use model_rule::{InvalidModelRule, ModelRule};
pub use outcome::{Status, TaskResult, Usage};
pub use plan::{Plan, PlanFault, PlanLimits, PlanTask};
pub use proof::{ENVELOPE_BYTES, ReportKey, ReportOf, ReportSecret};
pub use task::{InvalidTask, OnDependencyFailure, Priority, Task, TaskFile, TaskKind, Verify};
pub use time::Time;
pub use wall::{SELF_TEST_FILE, SelfTest, Wall};
pub use worker_config::{
    Auth, ContainerMode, InvalidWorkerConfig, Limits, Resources, ServerTool, WorkerConfig,
    WorkspaceMode,
};

/// `mutant!(Name, normal, broken)` is `normal`, and `mutant!(Name, more)` is nothing: faults are planted in
/// simulations only.
#[cfg(not(feature = "simulate"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident, $more:expr $(,)?) => {};
    ($name:ident, $normal:expr, $broken:expr $(,)?) => {
        $normal
    };
}

/// The version of the formats that this build writes. It reads this one and refuses newer ones.
pub const FORMAT_VERSION: u32 = 1;

/// The newest version of a journal's line that this build reads. It writes [`FORMAT_VERSION`]; only the
/// first line of a snapshot is of this one, which earlier builds do not know.
pub const RECORD_VERSION: u32 = 2;

/// The worker that plans and synthesises.
pub const ORCHESTRATOR: &str = "orchestrator";
