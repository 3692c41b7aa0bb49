//! What was used of the model, what may be, and what it may take, as it goes over the API.

use std::collections::BTreeMap;

use gateway::pace::{Scope, Source, WaitReason};
use protocol::{Attempt, HoldScope, RunId, ShortRunId, TaskId, TaskKind, Time, Usage, WorkerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Seconds that requests waited before they went out, by what they waited for. Two requests that wait at the same time
/// count twice.
pub type Waits = BTreeMap<String, f64>;

/// What some requests to the model used. In a rehearsal all amounts of dollars are 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Used {
    /// How many requests have ended.
    pub requests: u64,
    /// How many of them broke off, so that nobody knows all that they used.
    pub cut_off: u64,
    /// How many of them have no price.
    pub unpriced: u64,
    /// Their tokens, as far as they were seen.
    pub usage: Usage,
    /// The share of all input that was read from the prompt cache, from 0 to 1; `null` without input.
    pub cache_share: Option<f64>,
    /// US dollars; `null` when a request has no price.
    pub cost_usd: Option<f64>,
    /// US dollars of those that have a price.
    pub known_cost_usd: f64,
    /// US dollars that the prompt cache saved those that have a price. Less than 0 where more was written
    /// into it than was ever read.
    pub saved_usd: f64,
    /// US dollars that are held for those that broke off, or turned out to have no price: the most that they
    /// may have cost beyond that.
    pub held_usd: f64,
    /// The most tokens that those may have used beyond what was seen.
    pub held_tokens: u64,
    /// How many requests are out. They are in nothing else here but `out_usd` and `out_tokens`.
    pub out: u64,
    /// The most US dollars that they can cost; `null` when one of them has no price.
    pub out_usd: Option<f64>,
    /// The most tokens that they can use.
    pub out_tokens: u64,
    /// How many of those that have ended sub-agents asked.
    pub of_agents: u64,
    /// The tokens of those, of all kinds.
    pub of_agents_tokens: u64,
    /// US dollars of those that have a price.
    pub of_agents_known_cost_usd: f64,
    /// How long those that have ended waited.
    pub waits: Waits,
}

/// What a worker used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerUsed {
    /// The worker.
    pub worker: WorkerId,
    /// What it used.
    #[serde(flatten)]
    pub used: Used,
}

/// What was used of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUsed {
    /// The model, as requests name it.
    pub model: String,
    /// What was used of it.
    #[serde(flatten)]
    pub used: Used,
}

/// What a run used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunUsed {
    /// The run.
    pub run: RunId,
    /// Its short form; `null` when its journal is gone.
    pub short: Option<ShortRunId>,
    /// What a person calls it.
    pub name: Option<String>,
    /// What it used.
    #[serde(flatten)]
    pub used: Used,
}

/// What a task used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskUsed {
    /// The task.
    pub task_id: TaskId,
    /// Its worker.
    pub worker: WorkerId,
    /// What it used.
    #[serde(flatten)]
    pub used: Used,
    /// The same by attempt.
    pub attempts: Vec<AttemptUsed>,
}

/// What an attempt used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptUsed {
    /// Which attempt.
    pub attempt: Attempt,
    /// What it used.
    #[serde(flatten)]
    pub used: Used,
}

/// What was used, in sum and by what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageTable {
    /// All of it.
    pub total: Used,
    /// By worker.
    pub workers: Vec<WorkerUsed>,
    /// By model.
    pub models: Vec<ModelUsed>,
    /// By run, in order of opening; empty where one run was asked for.
    pub runs: Vec<RunUsed>,
    /// By task, in order of addition; only where one run was asked for.
    pub tasks: Vec<TaskUsed>,
}

/// A budget, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetView {
    /// What it is for: of a worker or of all, today (UTC).
    pub scope: HoldScope,
    /// The same, as a person calls it: `run k3f9`.
    pub about: String,
    /// What it is in US dollars, if it is.
    pub usd: Option<f64>,
    /// What it is in tokens, if it is.
    pub tokens: Option<u64>,
    /// US dollars that are spent, or held for answers that broke off; `null` when a request has no price.
    pub used_usd: Option<f64>,
    /// Tokens that are used, or held for answers that broke off.
    pub used_tokens: u64,
    /// US dollars that are held for requests that are out.
    pub out_usd: f64,
    /// Tokens that are held for requests that are out.
    pub out_tokens: u64,
    /// The larger share that is used, of dollars or of tokens: 1 is all of it.
    pub share: f64,
}

/// How requests to a model (or a class of models) of an account are paced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PaceView {
    /// The account.
    pub account: String,
    /// The model, or the configured pattern that covers it.
    pub model: String,
    /// The limits of the model and of its account, as they are believed to be.
    pub limits: Vec<LimitView>,
    /// How many requests are in flight.
    pub in_flight: u32,
    /// How many may be, as far as the API's answers tell.
    pub window: u32,
    /// How many wait.
    pub waiting: u64,
    /// What holds the first of them back, or would hold one back that came now.
    pub blocked: Option<BlockedView>,
}

/// A limit, and what is left of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// Of what.
    #[schemars(with = "String")]
    pub what: WaitReason,
    /// Whose it is: `account`, `model` or `worker`.
    #[schemars(with = "String")]
    pub scope: Scope,
    /// Who says so: `config` or `server`.
    #[schemars(with = "String")]
    pub source: Source,
    /// How much: per minute, or at once for requests in flight.
    pub limit: u64,
    /// What is left of it now. Less than 0 where more was used than was expected.
    pub left: i64,
}

/// The limits of a worker of its own, over all models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLimits {
    /// The worker.
    pub worker: WorkerId,
    /// Its limits.
    pub limits: Vec<LimitView>,
}

/// A request that read less from the prompt cache than an earlier one of its session or worker had put there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CacheBreakView {
    /// The task that sent it.
    pub task_id: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// About how many tokens it did not read.
    pub lost_tokens: u64,
    /// Why: which block differs from which attempt's, or that the bytes are the same.
    pub why: String,
}

/// Requests of an attempt that were refused because of what they contained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedView {
    /// The task that sent them.
    pub task_id: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// How many.
    pub requests: u64,
    /// What the last of them contained, and where.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What holds requests back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedView {
    /// Why.
    #[schemars(with = "String")]
    pub reason: WaitReason,
    /// Whose limit it is: `account`, `model` or `worker`.
    #[schemars(with = "String")]
    pub scope: Scope,
    /// Until when, where that is known.
    pub until: Option<Time>,
}

/// Answer of `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageReport {
    /// Whether the model is the built-in stand-in: nothing is billed.
    pub rehearsal: bool,
    /// The run that was asked for.
    pub run: Option<RunId>,
    /// Its short form.
    pub short: Option<ShortRunId>,
    /// Its name.
    pub name: Option<String>,
    /// The present day (UTC), which budgets of a day are for: `2026-11-20`.
    pub day: String,
    /// What went out on that day; `null` where one run was asked for.
    pub today: Option<UsageTable>,
    /// All that is in the ledger, or all of the run.
    pub all: UsageTable,
    /// The budgets that are in force: of the day, of workers, and of runs and tasks that have not ended; where
    /// one run was asked for, all that concern it.
    pub budgets: Vec<BudgetView>,
    /// The limits, as they are believed to be.
    pub limits: Vec<PaceView>,
    /// The limits of workers that have some of their own.
    pub worker_limits: Vec<WorkerLimits>,
    /// The latest requests since the start, oldest first, that did not read from the prompt cache what they should have.
    pub cache_breaks: Vec<CacheBreakView>,
    /// The latest attempts since the start, oldest first, of which requests were refused because of what they contained.
    #[serde(default)]
    pub refused: Vec<RefusedView>,
}

/// What the present day has taken up to now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Today {
    /// The day (UTC): `2026-11-20`.
    pub day: String,
    /// How many requests have ended.
    pub requests: u64,
    /// US dollars; `null` when a request has no price.
    pub cost_usd: Option<f64>,
    /// US dollars of those that have a price.
    pub known_cost_usd: f64,
    /// Tokens, read and written.
    pub tokens: u64,
    /// The most that may be spent, in US dollars, if there is a budget.
    pub budget_usd: Option<f64>,
    /// The most tokens that may be used, if there is a budget.
    pub budget_tokens: Option<u64>,
}

/// The middle of many figures, and what nine of ten of them do not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The 90th percentile: the smallest of them that at least nine of ten do not pass.
    pub p90: f64,
}

/// What past tasks of a worker took, over all their attempts: the latest 100 that are complete and were no rehearsal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Past {
    /// The worker.
    pub worker: WorkerId,
    /// What the tasks were: `work`, or `plan` or `synthesize` of the orchestrator.
    pub kind: TaskKind,
    /// How many tasks there are to go by.
    pub tasks: u64,
    /// How many of them have no price. The costs are those of the others.
    pub unpriced: u64,
    /// US dollars; `null` when there is nothing to go by.
    pub cost_usd: Option<Spread>,
    /// Tokens, read and written; `null` when there is nothing to go by.
    pub tokens: Option<Spread>,
}

/// What a task may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskEstimate {
    /// Its name in the plan; for splitting and answering the request, their kind.
    pub id: TaskId,
    /// Its worker.
    pub worker: WorkerId,
    /// What it is.
    pub kind: TaskKind,
    /// US dollars; `null` when nobody knows.
    pub cost_usd: Option<Spread>,
    /// Tokens; `null` when nobody knows.
    pub tokens: Option<Spread>,
}

/// What a plan may take, going by what past tasks of the same workers took. Answer of
/// `GET /v1/runs/{run}/estimate`.
///
/// A sum of medians, and of 90th percentiles: that one is cautious, since it is seldom that all go badly at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The tasks: the splitting of the request, those of the plan, and the answer.
    pub tasks: Vec<TaskEstimate>,
    /// US dollars for all of them; `null` when nobody knows for one.
    pub cost_usd: Option<Spread>,
    /// US dollars for those of which it is known.
    pub known_cost_usd: Spread,
    /// Tokens for all of them; `null` when nobody knows for one.
    pub tokens: Option<Spread>,
    /// Tokens for those of which it is known.
    pub known_tokens: Spread,
    /// What it goes by.
    pub past: Vec<Past>,
}
