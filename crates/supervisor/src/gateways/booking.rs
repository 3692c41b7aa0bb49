//! What an attempt used, as the gateway saw it, put into its report.

use std::time::Duration;

use gateway::{Day, Filter, Ledger, Notice, RefusedRequests, Scope, Stop, StopKind, Totals};
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
            if !self.rehearsal {
                compare(report, used);
            }
            report.usage = used.usage;
            report.cost_usd = used.cost_usd;
        }
        let stop = listener.and_then(|listener| listener.stop(&task, attempt));
        let refused = listener.and_then(|listener| listener.refused(&task, attempt));
        match (report.status, stop, &report.error) {
            (Status::Failed, Some(stop), _) => {
                report.error = Some(self.failure(stop, &report.worker));
            }
            // The agent gave up on that; the status alone looks like a key that is not accepted.
            (Status::Failed, None, Some(error)) if refused.is_some() && is_told_before(error) => {
                report.error = refused.map(not_allowed);
            }
            (Status::Failed, None, Some(error)) if is_told_before(error) => {
                let message = format!("what stopped it is asked again: {}", error.message);
                report.error = Some(TaskError::new(FailureKind::WorkerLost, message));
            }
            _ => {}
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
            StopKind::Unreachable => (FailureKind::Unreachable, None, until),
            StopKind::Unbounded => (FailureKind::Invalid, None, None),
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

/// Returns the failure of an attempt that could not do without what its worker's configuration does not allow. To try
/// again would be to be refused again.
fn not_allowed(refused: RefusedRequests) -> TaskError {
    let message = format!("the gateway refused a request: {}", refused.what);
    TaskError::new(FailureKind::Invalid, message).with_hint(sentence(&refused.hint))
}

/// Returns a fragment as a sentence of its own.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// Says whether an attempt ended because the gateway of a daemon that is gone by now told it to. Only that one knew
/// why; the status alone looks like an answer of the API. Asked again, this one will say it, if it is still so.
fn is_told_before(error: &TaskError) -> bool {
    use FailureKind::{Auth, Billing, Overloaded, RateLimited};
    let is_by_status = matches!(error.kind, Auth | Billing | Overloaded | RateLimited);
    is_by_status && error.message.contains("gateway: ")
}

/// Says where what the agent reckons is not what the gateway saw. The agent leaves out answers that broke
/// off, so it may well be less.
fn compare(report: &TaskResult, used: Used) {
    if disagree((&report.usage, report.cost_usd), &used) {
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

/// Returns whether the agent's figures are more than 1 % off. One that was killed has none.
fn disagree((usage, cost): (&Usage, Option<f64>), used: &Used) -> bool {
    let apart = |a: f64, b: f64| (a - b).abs() > 0.01 * a.max(b);
    let all = |usage: &Usage| usage.input().saturating_add(usage.output_tokens) as f64;
    let costs = cost.zip(used.cost_usd).filter(|(agent, _)| *agent > 0.0);
    all(usage) > 0.0
        && (apart(all(usage), all(&used.usage)) || costs.is_some_and(|(a, b)| apart(a, b)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_disagree_from_one_percent_on() {
        let usage = |output_tokens| Usage { output_tokens, ..Usage::default() };
        let used = Used { usage: usage(1000), cost_usd: Some(1.0) };
        let cases = [
            (usage(1000), Some(1.0), false),
            (usage(991), Some(0.991), false),
            (usage(989), Some(1.0), true),
            (usage(1012), Some(1.0), true),
            (usage(1000), Some(0.98), true),
            // What the agent does not know.
            (usage(1000), None, false),
            (usage(1000), Some(0.0), false),
            (usage(0), None, false),
        ];
        for (agent, cost, expected) in cases {
            assert_eq!(disagree((&agent, cost), &used), expected, "{agent:?} {cost:?}");
        }
        assert!(!disagree((&usage(1000), Some(7.0)), &Used { cost_usd: None, ..used }));
    }

    #[test]
    fn what_a_gateway_said_that_is_gone_is_asked_again() {
        let said = "API Error: 402 gateway: the budget of run `r` is $1.00";
        let error = |kind, message: &str| TaskError::new(kind, message);
        assert!(is_told_before(&error(FailureKind::Billing, said)));
        assert!(!is_told_before(&error(FailureKind::Billing, "API Error: 402 pay")));
        assert!(!is_told_before(&error(FailureKind::Invalid, said)));
        let away = "API Error: 529 gateway: cannot reach the model's API at api.example.com";
        assert!(is_told_before(&error(FailureKind::Overloaded, away)));
        // That ended no attempt: the agent gave up by itself, and has a retry less.
        let silent = "API Error: 502 gateway: the model's API at api.example.com gave no answer";
        assert!(!is_told_before(&error(FailureKind::Server, silent)));
    }
}
