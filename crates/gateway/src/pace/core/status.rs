//! How things stand.

use std::sync::Arc;

use protocol::WorkerId;
use tokio::time::Instant;

use super::{
    Core,
    lane::{Worker, check_gate},
};
use crate::pace::{
    allowance::Block,
    words::{AccountId, LimitStatus, Scope},
};

/// [`PaceStatus`](super::PaceStatus) before it knows what the wall's clock shows.
#[derive(Debug)]
pub(crate) struct LaneStatus {
    pub(crate) account: AccountId,
    pub(crate) model: Arc<str>,
    pub(crate) limits: Vec<LimitStatus>,
    pub(crate) in_flight: u32,
    pub(crate) window: u32,
    pub(crate) waiting: usize,
    pub(crate) block: Option<Block>,
}

impl Core {
    /// Returns whether nothing is left of any request.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.requests.is_empty()
            && self.waiting == 0
            && self.accounts.iter().all(|account| account.waiting.is_empty())
            && self.lanes.iter().all(|lane| lane.is_idle() && lane.pending.requests == 0)
    }

    /// Returns the limits of the workers that have some.
    pub(crate) fn worker_limits(&mut self, now: Instant) -> Vec<(WorkerId, Vec<LimitStatus>)> {
        let status =
            |(id, worker): (&WorkerId, &mut Worker)| (id.clone(), worker.allowance.status(now));
        self.workers.iter_mut().map(status).collect()
    }

    /// Returns how things stand, for each model of each account that was used.
    pub(crate) fn status(&mut self, now: Instant) -> Vec<LaneStatus> {
        let mut all = Vec::new();
        for lane in &mut self.lanes {
            let account = &mut self.accounts[lane.account];
            let allowances =
                [account.allowance.as_mut(), lane.configured.as_mut(), Some(&mut lane.server)];
            let limits = allowances.into_iter().flatten().flat_map(|it| it.status(now)).collect();
            let shut = check_gate(&account.gate, now, Scope::Account)
                .and_then(|()| check_gate(&lane.gate, now, Scope::Model));
            all.push(LaneStatus {
                account: account.id.clone(),
                model: Arc::clone(&lane.class),
                limits,
                in_flight: lane.in_flight,
                window: lane.window.size(),
                waiting: lane.queue.len(),
                block: lane.block.or(shut.err()),
            });
        }
        all
    }
}
