//! Decides who goes when. Knows the time from its arguments, and no task, timer or lock.
//!
//! After each thing that happened, [`Core::settle`] lets go whoever can go. Its cost is one look at
//! the first of each model that has requests waiting, and a few steps in ordered sets for each request
//! that goes: it does not depend on how many wait, nor on what was before.

mod answers;
mod holding;
mod lane;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;
use protocol::WorkerId;
use tokio::time::Instant;

use self::lane::{Account, AccountIx, Lane, LaneIx, Worker, check_gate};
use super::{
    allowance::{Allowance, Block, Cost, Pending},
    config::PaceConfig,
    queue::{Id, Party, Place, place},
    random::Random,
    words::{AccountId, Scope, WaitReason, Waits, Want},
};

/// No request has more tokens.
const MOST_TOKENS: u64 = 100_000_000;

/// What becomes of a request that asks.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It goes at once.
    Go(Id),
    /// It waits; what becomes of it is in [`Core::take_outcomes`].
    Wait(Id),
    /// It can't go in time.
    Held(HeldUntil),
}

/// What becomes of one that waited.
#[derive(Debug)]
pub(crate) enum Outcome {
    Go(Waits),
    Held(HeldUntil, Waits),
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Deliver,
    /// The request goes again. The API may have told how much input it has, at least.
    Again {
        input: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeldUntil {
    pub(crate) reason: WaitReason,
    pub(crate) scope: Scope,
    pub(crate) until: Option<Instant>,
}

/// How a request ended that had its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// It cost that much.
    Spent(Cost),
    /// Nobody knows: it counts as what it was taken for.
    Unknown,
    /// It was never sent.
    Unsent,
}

#[derive(Debug)]
struct Request {
    lane: LaneIx,
    worker: Party,
    estimate: Cost,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting {
        place: Place,
        give_up: Instant,
        /// The queue's clock when it came.
        before: Waits,
    },
    Sent {
        /// Its number, in the order in which they were sent.
        seq: u64,
        cost: Cost,
        answered: bool,
        /// Whether the answer is one of the model's, so that its usage teaches something.
        good: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Core {
    config: PaceConfig,
    accounts: Vec<Account>,
    account_by_id: HashMap<AccountId, AccountIx, RandomState>,
    lanes: Vec<Lane>,
    lane_by_class: HashMap<(AccountIx, Arc<str>), LaneIx, RandomState>,
    workers: HashMap<WorkerId, Worker, RandomState>,
    requests: HashMap<Id, Request, RandomState>,
    waiting: usize,
    next_id: Id,
    next_seq: u64,
    random: Random,
    outcomes: Vec<(Id, Outcome)>,
    /// How often it was asked whether a request can go: what there is to do.
    #[cfg(test)]
    pub(crate) checks: u64,
}

impl Core {
    pub(crate) fn new(config: PaceConfig, seed: u64, now: Instant) -> Self {
        let workers = config
            .workers
            .iter()
            .filter(|(_, limits)| !limits.is_none())
            .map(|(id, limits)| {
                let allowance = Allowance::configured(Scope::Worker, limits, now);
                (id.clone(), Worker { allowance, parked: BTreeSet::new() })
            })
            .collect();
        Self {
            config,
            accounts: Vec::new(),
            account_by_id: HashMap::default(),
            lanes: Vec::new(),
            lane_by_class: HashMap::default(),
            workers,
            requests: HashMap::default(),
            waiting: 0,
            next_id: 1,
            next_seq: 1,
            random: Random::new(seed),
            outcomes: Vec::new(),
            #[cfg(test)]
            checks: 0,
        }
    }

    /// Returns how many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns what became of requests that waited, once for each.
    pub(crate) fn take_outcomes(&mut self) -> Vec<(Id, Outcome)> {
        std::mem::take(&mut self.outcomes)
    }

    /// A request wants to go.
    pub(crate) fn ask(&mut self, now: Instant, want: &Want) -> Asked {
        let account = self.account(now, &want.account);
        let lane = self.lane(now, account, &want.model);
        let id = self.next_id;
        self.next_id += 1;
        let estimate = Cost {
            input: want.input.min(MOST_TOKENS) as f64,
            output: want.output.min(MOST_TOKENS) as f64,
        };
        let worker = self.workers.contains_key(&want.worker).then(|| want.worker.clone());
        if self.accounts[account].waiting.is_empty() {
            // Nobody is before it.
            if self.check(now, lane, &worker, estimate).is_ok() {
                let phase = self.send(now, lane, &worker, estimate);
                self.requests.insert(id, Request { lane, worker, estimate, phase });
                return Asked::Go(id);
            }
        }
        let place = place(want.since, want.priority, id);
        let queue = &mut self.lanes[lane].queue;
        let before = queue.insert(now, place, &worker, want.give_up);
        self.waiting += 1;
        self.accounts[account].waiting.insert(lane);
        let phase = Phase::Waiting { place, give_up: want.give_up, before };
        self.requests.insert(id, Request { lane, worker: worker.clone(), estimate, phase });
        self.settle(now, account);
        if let Some(at) = self.outcomes.iter().position(|(of, _)| *of == id) {
            return match self.outcomes.remove(at).1 {
                Outcome::Go(_) => Asked::Go(id),
                Outcome::Held(held, _) => Asked::Held(held),
            };
        }
        // Its own lower bound, whoever is before it.
        if let Err(block) = self.check(now, lane, &worker, estimate)
            && let Some(until) = block.until.filter(|until| *until > want.give_up)
        {
            self.unqueue(now, id);
            self.settle(now, account);
            let (reason, scope) = (block.reason, block.scope);
            return Asked::Held(HeldUntil { reason, scope, until: Some(until) });
        }
        Asked::Wait(id)
    }

    /// Whoever waited has gone away; or has had its turn and goes without using it.
    pub(crate) fn leave(&mut self, now: Instant, id: Id) {
        let Some(request) = self.requests.get(&id) else { return };
        let account = self.lanes[request.lane].account;
        if matches!(request.phase, Phase::Waiting { .. }) {
            self.unqueue(now, id);
            self.settle(now, account);
        } else {
            self.end(now, id, End::Unsent);
        }
    }

    /// A request that had its turn has ended.
    pub(crate) fn end(&mut self, now: Instant, id: Id, end: End) {
        let is_asked =
            |request: &Request| matches!(request.phase, Phase::Sent { answered: false, .. });
        // What the API has not seen is none of its requests per minute.
        let is_unused = matches!(end, End::Unsent) && self.requests.get(&id).is_some_and(is_asked);
        match end {
            End::Spent(actual) => {
                if let Some(request) = self.requests.get(&id)
                    && matches!(request.phase, Phase::Sent { good: true, .. })
                    && actual != Cost::default()
                {
                    let lane = &mut self.lanes[request.lane];
                    lane.input.learn(request.estimate.input, actual.input);
                    lane.output.learn(request.estimate.output, actual.output);
                }
                self.charge(now, id, actual);
            }
            End::Unknown => {}
            End::Unsent => self.charge(now, id, Cost::default()),
        }
        let Some(request) = self.requests.remove(&id) else { return };
        let Phase::Sent { seq, cost, answered, .. } = request.phase else { return };
        let lane = &mut self.lanes[request.lane];
        lane.in_flight -= 1;
        lane.pending.output -= cost.output;
        if !answered {
            lane.pending.answered(request.estimate, cost);
        }
        if lane.in_flight == 0 {
            // What rounding left.
            lane.pending = Pending::default();
        }
        lane.used = now;
        lane.gate.forget(seq);
        let account = &mut self.accounts[lane.account];
        account.gate.forget(seq);
        let worker = request.worker.as_ref().and_then(|id| self.workers.get_mut(id));
        let all = [
            Some(&mut lane.server),
            lane.configured.as_mut(),
            account.allowance.as_mut(),
            worker.map(|worker| &mut worker.allowance),
        ];
        for allowance in all.into_iter().flatten() {
            allowance.end(cost);
            if is_unused {
                allowance.give_back(now);
            }
        }
        let account = lane.account;
        if let Some(worker) = request.worker.as_ref().and_then(|id| self.workers.get_mut(id)) {
            for lane in std::mem::take(&mut worker.parked) {
                self.lanes[lane].queue.unpark(now, &request.worker);
                let other = self.lanes[lane].account;
                if other != account {
                    self.settle(now, other);
                }
            }
        }
        self.settle(now, account);
    }

    /// Time has passed: see [`next_wake`](Self::next_wake).
    pub(crate) fn tick(&mut self, now: Instant) {
        for account in 0..self.accounts.len() {
            if !self.accounts[account].waiting.is_empty() {
                self.settle(now, account);
            }
        }
    }

    /// Returns when to call [`tick`](Self::tick) if nothing happens before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let lanes = self.accounts.iter().flat_map(|account| &account.waiting).flat_map(|lane| {
            let lane = &self.lanes[*lane];
            [lane.block.and_then(|block| block.wake), lane.queue.next_wake()]
        });
        lanes.flatten().min()
    }

    /// Lets go whoever can go, in order; and those that can't go in time.
    fn settle(&mut self, now: Instant, account: AccountIx) {
        self.give_up(now, account);
        let mut heads = BTreeSet::new();
        for &ix in &self.accounts[account].waiting {
            let lane = &mut self.lanes[ix];
            lane.queue.unpark_due(now);
            match lane.queue.head() {
                Some((place, _)) => {
                    heads.insert((place, ix));
                }
                None => lane.blocked(now, None),
            }
        }
        let mut all = None;
        while let Some((place, lane)) = heads.pop_first() {
            let block = match all {
                Some(block) => Err(block),
                None => self.try_go(now, place.1),
            };
            match block {
                Ok(()) => self.lanes[lane].blocked(now, None),
                Err(block) => match block.scope {
                    Scope::Worker => {}
                    Scope::Model => {
                        self.lanes[lane].blocked(now, Some(block));
                        continue;
                    }
                    Scope::Account => {
                        all = Some(block);
                        self.lanes[lane].blocked(now, Some(block));
                        continue;
                    }
                },
            }
            match self.lanes[lane].queue.head() {
                Some((place, _)) => {
                    heads.insert((place, lane));
                }
                None => self.lanes[lane].blocked(now, None),
            }
        }
    }

    /// Lets a waiting request go, or says why it can't; one that its worker's limit holds back is
    /// parked.
    fn try_go(&mut self, now: Instant, id: Id) -> Result<(), Block> {
        let Some(request) = self.requests.get(&id) else {
            panic!("BUG: request {id} is in a queue, and nobody knows it");
        };
        let (lane, worker, estimate) = (request.lane, request.worker.clone(), request.estimate);
        match self.check(now, lane, &worker, estimate) {
            Ok(()) => {
                let waits = self.unqueue(now, id);
                let phase = self.send(now, lane, &worker, estimate);
                self.requests.insert(id, Request { lane, worker, estimate, phase });
                self.outcomes.push((id, Outcome::Go(waits)));
                Ok(())
            }
            Err(block) => {
                if block.scope == Scope::Worker {
                    self.lanes[lane].queue.park(now, &worker, block.reason, block.wake);
                    if let Some(worker) = worker.as_ref().and_then(|id| self.workers.get_mut(id)) {
                        worker.parked.insert(lane);
                    }
                }
                Err(block)
            }
        }
    }

    /// Says whether a request may go now.
    ///
    /// First its worker: one that waits for that must not hold up others, whatever else it would
    /// have to wait for. Last the account, which holds up all.
    fn check(
        &mut self,
        now: Instant,
        lane: LaneIx,
        worker: &Party,
        estimate: Cost,
    ) -> Result<(), Block> {
        #[cfg(test)]
        {
            self.checks += 1;
        }
        let lane = &mut self.lanes[lane];
        let cost = lane.cost(estimate);
        // Those on their way may turn out to be all that they look like, too.
        let input = cost.input.max(estimate.input) + lane.pending.risk;
        let most = Cost { input, ..cost };
        if let Some(worker) = worker.as_ref().and_then(|id| self.workers.get_mut(id)) {
            worker.allowance.check(now, cost, most)?;
        }
        check_gate(&lane.gate, now, Scope::Model)?;
        lane.window.check(now, lane.in_flight).map_err(|wake| Block {
            reason: WaitReason::InFlight,
            scope: Scope::Model,
            wake,
            until: None,
        })?;
        if let Some(configured) = &mut lane.configured {
            configured.check(now, cost, most)?;
        }
        lane.server.check(now, cost, most)?;
        let account = &mut self.accounts[lane.account];
        check_gate(&account.gate, now, Scope::Account)?;
        account.allowance.as_mut().map_or(Ok(()), |allowance| allowance.check(now, cost, most))
    }

    /// Takes what a request needs that may go.
    fn send(&mut self, now: Instant, lane: LaneIx, worker: &Party, estimate: Cost) -> Phase {
        let seq = self.next_seq;
        self.next_seq += 1;
        let lane = &mut self.lanes[lane];
        let cost = lane.cost(estimate);
        lane.in_flight += 1;
        lane.used = now;
        lane.pending.sent(estimate, cost);
        lane.gate.pass(now, seq);
        lane.server.take(now, cost);
        let account = &mut self.accounts[lane.account];
        account.gate.pass(now, seq);
        let worker = worker.as_ref().and_then(|id| self.workers.get_mut(id));
        let others = [
            lane.configured.as_mut(),
            account.allowance.as_mut(),
            worker.map(|worker| &mut worker.allowance),
        ];
        for allowance in others.into_iter().flatten() {
            allowance.take(now, cost);
        }
        Phase::Sent { seq, cost, answered: false, good: false }
    }

    /// Puts what a request really cost in the place of what was taken for it.
    fn charge(&mut self, now: Instant, id: Id, actual: Cost) {
        let Some(Request { lane, worker, estimate, phase: Phase::Sent { cost, answered, .. } }) =
            self.requests.get_mut(&id)
        else {
            return;
        };
        let taken = std::mem::replace(cost, actual);
        let lane = &mut self.lanes[*lane];
        lane.pending.output += actual.output - taken.output;
        if !std::mem::replace(answered, true) {
            lane.pending.answered(*estimate, taken);
        }
        lane.server.settle(now, taken, actual);
        let worker = worker.as_ref().and_then(|id| self.workers.get_mut(id));
        let others = [
            lane.configured.as_mut(),
            self.accounts[lane.account].allowance.as_mut(),
            worker.map(|worker| &mut worker.allowance),
        ];
        for allowance in others.into_iter().flatten() {
            allowance.settle(now, taken, actual);
        }
    }

    /// Takes a request out of its queue, and returns its waits.
    fn unqueue(&mut self, now: Instant, id: Id) -> Waits {
        let Some(Request {
            lane, worker, phase: Phase::Waiting { place, give_up, before }, ..
        }) = self.requests.remove(&id)
        else {
            panic!("BUG: request {id} does not wait");
        };
        self.waiting -= 1;
        let queue = &mut self.lanes[lane].queue;
        let waits = queue.remove(now, place, &worker, give_up, &before);
        if queue.is_empty() {
            self.lanes[lane].block = None;
            let account = self.lanes[lane].account;
            self.accounts[account].waiting.remove(&lane);
        }
        waits
    }
}
