//! Budgets: from the configuration, the task, the run, and what somebody decided since.

use std::collections::BTreeMap;

use gateway::{Budget, Scope, Usd};
use protocol::{HoldScope, WorkerId};
use scheduler::Scheduler;

use super::Gateways;
use crate::config::Config;
use crate::workers::Worker;

/// What may be spent where nobody said otherwise.
#[derive(Debug)]
pub(super) struct Defaults {
    day: Budget,
    run: Budget,
    /// Of each worker: of one task, and in a day.
    workers: BTreeMap<WorkerId, (Budget, Budget)>,
}

impl Defaults {
    pub(super) fn of(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> Self {
        let budgets = &config.budgets;
        let of = |worker: &Worker| {
            let config = &worker.config;
            let task = budget(config.budget_usd, config.budget_tokens);
            (task, budget(config.budget_usd_per_day, config.budget_tokens_per_day))
        };
        Self {
            day: Budget { usd: budgets.usd_per_day, tokens: budgets.tokens_per_day },
            run: Budget { usd: budgets.usd_per_run, tokens: budgets.tokens_per_run },
            workers: workers.values().map(|worker| (worker.id.clone(), of(worker))).collect(),
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &WorkerId> {
        self.workers.keys()
    }
}

impl Gateways {
    /// Sets the budgets of a day as the configuration has them.
    pub(super) fn set_daily_budgets(&self) {
        self.set(Scope::Day, self.defaults.day);
        for (worker, (_, day)) in &self.defaults.workers {
            self.set(Scope::Worker(worker.clone()), *day);
        }
    }

    /// Sets what a scope may spend: by what somebody decided, else by what the task or the run was given,
    /// else by the configuration.
    pub fn set_budget(&self, scheduler: &Scheduler, scope: &HoldScope) {
        let (scope, given, default) = match scope {
            HoldScope::Task(task) => {
                let worker = scheduler.task(task).map(|entry| &entry.task.worker);
                let defaults = worker.and_then(|worker| self.defaults.workers.get(worker));
                let default = defaults.map(|(task, _)| *task).unwrap_or_default();
                (Scope::Task(task.clone()), scheduler.budget(scope), default)
            }
            // Nothing bounds the standing run: it never ends.
            HoldScope::Run(protocol::RunId::Adhoc) => return,
            HoldScope::Run(run) => (Scope::Run(*run), scheduler.budget(scope), self.defaults.run),
            HoldScope::Worker(worker) => {
                let defaults = self.defaults.workers.get(worker);
                let default = defaults.map(|(_, day)| *day).unwrap_or_default();
                (Scope::Worker(worker.clone()), scheduler.budget(scope), default)
            }
            HoldScope::All => (Scope::Day, scheduler.budget(scope), self.defaults.day),
        };
        let given = budget(given.usd, given.tokens);
        let budget =
            Budget { usd: given.usd.or(default.usd), tokens: given.tokens.or(default.tokens) };
        self.set(scope, budget);
    }

    fn set(&self, scope: Scope, budget: Budget) {
        // In a rehearsal nothing is billed, whatever its prices would be.
        let usd = budget.usd.filter(|_| !self.rehearsal);
        self.gateway.ledger().set_budget(scope, Budget { usd, ..budget });
    }
}

fn budget(usd: Option<f64>, tokens: Option<u64>) -> Budget {
    // What is no amount was refused when it was read; less than nothing is nothing.
    let usd = usd.map(|usd| Usd::from_dollars(usd.max(0.0)).unwrap_or(Usd::MAX));
    Budget { usd, tokens }
}
