//! What an attempt used, as the gateway saw it, put into its report.

use std::time::Duration;

use gateway::{Day, Filter, Ledger, Notice, Scope, Stop, StopKind, Totals};
use protocol::{
    Attempt, FailureKind, HoldScope, RunId, Status, TaskError, TaskId, TaskResult, Time, Usage,
    WorkerId,
};
use scheduler::Used;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Gateways, WayOut, wall_clock};

/// How long to wait for the end of what an attempt had under way when it ended: its connections are being
/// closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often the ledger is made safe on disk.
const SAFE_EVERY: Duration = Duration::from_secs(5);

impl Gateways {
    /// Puts into a report what the gateway knows better than the agent: what was used, and why there was
    /// nothing more.
    pub async fn complete(&self, report: &mut TaskResult, listener: Option<&WayOut>) {
        let Some(attempt) = Attempt::new(report.attempt) else { return };
        let (run, task) = (report.run, report.task_id.clone());
        if let Some(used) = self.used(run, &task, attempt).await {
            compare(report, used);
            report.usage = used.usage;
            report.cost_usd = used.cost_usd;
        }
        let stop = listener.and_then(|listener| listener.stop(&task, attempt));
        if let (Status::Failed, Some(stop)) = (report.status, stop) {
            report.error = Some(self.failure(stop, &report.worker));
        }
    }

    /// Returns what an attempt that is over used; `None` when it asked the model for nothing.
    pub async fn used(&self, run: RunId, task: &TaskId, attempt: Attempt) -> Option<Used> {
        let totals = self.totals(run, task, attempt).await;
        let cost =
            if self.rehearsal { Some(0.0) } else { totals.cost().map(|cost| cost.dollars()) };
        let used = Used { usage: totals.sums.tokens.into(), cost_usd: cost };
        (totals.sums.requests > 0).then_some(used)
    }

    async fn totals(&self, run: RunId, task: &TaskId, attempt: Attempt) -> Totals {
        let (run, task) = (Some(run), Some(task.clone()));
        let filter = Filter { run, task, attempt: Some(attempt), ..Filter::default() };
        let until = Instant::now() + LAST_WORDS;
        loop {
            let totals = self.gateway.ledger().totals(&filter);
            if totals.in_flight == 0 || Instant::now() >= until {
                return totals;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn failure(&self, stop: Stop, worker: &WorkerId) -> TaskError {
        let Stop { kind, message, hint, until } = stop;
        let (kind, scope, retry_at) = match kind {
            StopKind::RateLimited => (FailureKind::RateLimited, None, until),
            StopKind::Overloaded => (FailureKind::Overloaded, None, until),
            StopKind::Auth => (FailureKind::Auth, Some(self.payer(worker)), None),
            StopKind::Billing => (FailureKind::Billing, Some(self.payer(worker)), None),
            StopKind::Budget(scope) => {
                let (scope, retry_at) = match scope {
                    Scope::Task(task) => (HoldScope::Task(task), None),
                    Scope::Run(run) => (HoldScope::Run(run), None),
                    Scope::Worker(worker) => (HoldScope::Worker(worker), Some(tomorrow())),
                    Scope::Day => (HoldScope::All, Some(tomorrow())),
                };
                (FailureKind::Budget, Some(scope), retry_at)
            }
        };
        TaskError { hint, scope, retry_at, ..TaskError::new(kind, message) }
    }

    /// Returns whom it concerns that the key of a worker is refused.
    fn payer(&self, worker: &WorkerId) -> HoldScope {
        let account = self.keys.account(worker);
        let mut workers = self.defaults.workers();
        match workers.all(|other| self.keys.account(other) == account) {
            true if self.defaults.workers().count() > 1 => HoldScope::All,
            _ => HoldScope::Worker(worker.clone()),
        }
    }
}

/// Says where what the agent reckons is not what the gateway saw. The agent leaves out answers that broke
/// off, so it may well be less.
fn compare(report: &TaskResult, used: Used) {
    let apart = |a: f64, b: f64| (a - b).abs() > 0.01 * a.max(b);
    let all = |usage: &Usage| usage.input().saturating_add(usage.output_tokens) as f64;
    let costs = report.cost_usd.zip(used.cost_usd).filter(|(agent, _)| *agent > 0.0);
    if apart(all(&report.usage), all(&used.usage)) || costs.is_some_and(|(a, b)| apart(a, b)) {
        warn!(
            task = %report.task_id,
            attempt = report.attempt,
            agent_usage = ?report.usage,
            agent_cost = report.cost_usd,
            usage = ?used.usage,
            cost = used.cost_usd,
            "The agent's own figures are others; the gateway's count."
        );
    }
}

/// Returns when the day's budgets begin anew.
fn tomorrow() -> Time {
    Day::of(wall_clock()).begin() + Duration::from_secs(24 * 60 * 60)
}

/// Says in the log when most of a budget is used.
pub(super) async fn warn_of(mut notices: mpsc::UnboundedReceiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        warn!(%notice, "A budget is nearly used up.");
    }
}

/// Makes what was spent safe on disk, every few seconds.
pub(super) async fn keep_safe(ledger: Ledger) {
    loop {
        sleep(SAFE_EVERY).await;
        let ledger = ledger.clone();
        let synced = tokio::task::spawn_blocking(move || ledger.sync()).await;
        if let Ok(Err(error)) = synced {
            warn!(error = &error as &dyn std::error::Error, "The ledger is not safe on disk.");
        }
    }
}
