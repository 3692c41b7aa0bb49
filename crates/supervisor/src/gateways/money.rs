//! Budgets: from the configuration, the task, the run, and what somebody decided since.

use std::collections::BTreeMap;

use gateway::{Budget, Scope, Standing, Usd};
use protocol::{HoldScope, RunId, WorkerId};

use super::Gateways;
use crate::config::Config;
use crate::workers::Worker;

/// What may be spent where nobody said otherwise.
#[derive(Debug)]
pub(super) struct Defaults {
    day: Budget,
    run: Budget,
    /// Of each worker, in a day.
    workers: BTreeMap<WorkerId, Budget>,
}

impl Defaults {
    pub(super) fn of(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> Self {
        let budgets = &config.budgets;
        let of = |worker: &Worker| {
            budget(worker.config.budget_usd_per_day, worker.config.budget_tokens_per_day)
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
        for (worker, day) in &self.defaults.workers {
            self.set(Scope::Worker(worker.clone()), *day);
        }
    }

    /// Sets what a scope may spend. What is not given is as the configuration has it.
    pub fn set_budget(&self, scope: &HoldScope, usd: Option<f64>, tokens: Option<u64>) {
        let default = match scope {
            // The worker's default is in what is given.
            HoldScope::Task(_) => Budget::default(),
            // Nothing bounds the standing run: it never ends.
            HoldScope::Run(RunId::Adhoc) => return,
            HoldScope::Run(_) => self.defaults.run,
            HoldScope::Worker(worker) => {
                self.defaults.workers.get(worker).copied().unwrap_or_default()
            }
            HoldScope::All => self.defaults.day,
        };
        let given = budget(usd, tokens);
        let budget =
            Budget { usd: given.usd.or(default.usd), tokens: given.tokens.or(default.tokens) };
        self.set(scope_of(scope), budget);
    }

    /// Returns how a scope stands: one of all, or of a worker, today.
    pub fn standing(&self, scope: &HoldScope) -> Standing {
        self.gateway.ledger().standing(&scope_of(scope))
    }

    fn set(&self, scope: Scope, budget: Budget) {
        // In a rehearsal nothing is billed, whatever its prices would be.
        let usd = budget.usd.filter(|_| !self.rehearsal);
        self.gateway.ledger().set_budget(scope, Budget { usd, ..budget });
    }
}

fn scope_of(scope: &HoldScope) -> Scope {
    match scope {
        HoldScope::Task(task) => Scope::Task(task.clone()),
        HoldScope::Run(run) => Scope::Run(*run),
        HoldScope::Worker(worker) => Scope::Worker(worker.clone()),
        HoldScope::All => Scope::Day,
    }
}

fn budget(usd: Option<f64>, tokens: Option<u64>) -> Budget {
    // What is no amount was refused when it was read; less than nothing is nothing.
    let usd = usd.map(|usd| Usd::from_dollars(usd.max(0.0)).unwrap_or(Usd::MAX));
    Budget { usd, tokens }
}
