//! What is limited together: accounts, their models, and workers.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use super::Core;
use crate::pace::{
    allowance::{Allowance, Block, Cost, Pending},
    config::Limits,
    gate::Gate,
    queue::Queue,
    window::Window,
    words::{AccountId, Scope},
};

/// How many models of accounts are kept in mind. The name comes from the request, thus from a
/// container that may say anything: beyond this the one that was idle longest is forgotten.
const MOST_LANES: usize = 256;

/// How much of what was learned about estimates is kept at each answer: about the last twenty count.
const MEMORY: f64 = 0.95;

/// By how much estimates can be wrong. Beyond it somebody plays with us.
const SCALES: std::ops::RangeInclusive<f64> = 0.01..=10.0;

pub(super) type AccountIx = usize;
pub(super) type LaneIx = usize;

#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: AccountId,
    pub(super) allowance: Option<Allowance>,
    pub(super) gate: Gate,
    /// The models that have requests waiting.
    pub(super) waiting: BTreeSet<LaneIx>,
}

/// A model, or a class of them, of one account: what the API limits together.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) account: AccountIx,
    pub(super) class: Arc<str>,
    pub(super) configured: Option<Allowance>,
    pub(super) server: Allowance,
    pub(super) window: Window,
    pub(super) gate: Gate,
    pub(super) queue: Queue,
    /// What holds its queue back.
    pub(super) block: Option<Block>,
    pub(super) in_flight: u32,
    pub(super) pending: Pending,
    /// The last request whose answer's headers were taken over.
    pub(super) heard: u64,
    pub(super) input: Scale,
    pub(super) output: Scale,
    pub(super) used: Instant,
}

/// What estimates are multiplied by: what requests turned out to be, by what was estimated.
#[derive(Debug)]
pub(super) struct Scale {
    actual: f64,
    estimated: f64,
}

impl Scale {
    /// One request's worth of trust in estimates as they are.
    pub(super) fn new() -> Self {
        Self { actual: 1000.0, estimated: 1000.0 }
    }

    pub(super) fn factor(&self) -> f64 {
        (self.actual / self.estimated).clamp(*SCALES.start(), *SCALES.end())
    }

    pub(super) fn learn(&mut self, estimated: f64, actual: f64) {
        if estimated > 0.0 {
            self.actual = self.actual * MEMORY + actual;
            self.estimated = self.estimated * MEMORY + estimated;
        }
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) allowance: Allowance,
    /// The models in whose queues its requests are parked.
    pub(super) parked: BTreeSet<LaneIx>,
}

impl Lane {
    fn new(account: AccountIx, class: &Arc<str>, limits: &Limits, now: Instant) -> Self {
        Self {
            account,
            class: Arc::clone(class),
            configured: (!limits.is_none())
                .then(|| Allowance::configured(Scope::Model, limits, now)),
            server: Allowance::unknown(now),
            window: Window::new(now),
            gate: Gate::default(),
            queue: Queue::default(),
            block: None,
            in_flight: 0,
            pending: Pending::default(),
            heard: 0,
            input: Scale::new(),
            output: Scale::new(),
            used: now,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.queue.is_empty()
    }

    /// Something holds back all in the queue that are not parked; or nothing does.
    pub(super) fn blocked(&mut self, now: Instant, block: Option<Block>) {
        self.queue.blocked(now, block.map(|block| block.reason));
        self.block = block;
    }

    /// Returns what a request will cost, going by what others did.
    pub(super) fn cost(&self, estimate: Cost) -> Cost {
        Cost {
            input: estimate.input * self.input.factor(),
            output: estimate.output * self.output.factor(),
        }
    }
}

pub(super) fn check_gate(gate: &Gate, now: Instant, scope: Scope) -> Result<(), Block> {
    gate.check(now).map_err(|shut| Block {
        reason: shut.reason,
        scope,
        wake: Some(shut.wake),
        until: shut.told,
    })
}

impl Core {
    pub(super) fn account(&mut self, now: Instant, id: &AccountId) -> AccountIx {
        if let Some(ix) = self.account_by_id.get(id) {
            return *ix;
        }
        let limits = &self.config.account;
        self.accounts.push(Account {
            id: id.clone(),
            allowance: (!limits.is_none())
                .then(|| Allowance::configured(Scope::Account, limits, now)),
            gate: Gate::default(),
            waiting: BTreeSet::new(),
        });
        self.account_by_id.insert(id.clone(), self.accounts.len() - 1);
        self.accounts.len() - 1
    }

    pub(super) fn lane(&mut self, now: Instant, account: AccountIx, model: &Arc<str>) -> LaneIx {
        let (class, limits) = self.config.class(model);
        let key = (account, class);
        if let Some(ix) = self.lane_by_class.get(&key) {
            return *ix;
        }
        let lane = Lane::new(account, &key.1, &limits, now);
        let idle = (self.lanes.len() >= MOST_LANES).then(|| {
            // One that a person limited would come back with all that it may do in a minute; there are as many as
            // patterns in the configuration.
            let is_going = |lane: &Lane| lane.is_idle() && lane.configured.is_none();
            let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| is_going(lane));
            lanes.min_by_key(|(_, lane)| lane.used).map(|(ix, _)| ix)
        });
        let ix = match idle.flatten() {
            Some(ix) => {
                let old = std::mem::replace(&mut self.lanes[ix], lane);
                self.lane_by_class.remove(&(old.account, old.class));
                ix
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.lane_by_class.insert(key, ix);
        ix
    }
}
