//! What all replicas share: one place that knows limits, money and the prompt cache.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    ask::Ask,
    desk::{Case, RefusedRequests},
    ledger::{Ledger, Worst},
    outage::Outage,
    pace::{Pace, PaceConfig},
    policy::Forbidden,
    prefix::Prefixes,
    prices::{Most, Prices, Terms},
    stagger::Stagger,
};

/// What decides about each request to the model, for all replicas of a daemon.
#[derive(Debug)]
pub(crate) struct Governor {
    pub(crate) prices: Prices,
    pub(crate) ledger: Ledger,
    pub(crate) pace: Pace,
    pub(crate) stagger: Stagger,
    pub(crate) prefixes: Prefixes,
    pub(crate) outage: Outage,
    /// The models of which it was said that they have no price.
    unpriced: Mutex<BTreeSet<String>>,
    /// The latest attempts that were refused something, oldest first.
    refused: Mutex<VecDeque<Arc<Case>>>,
}

/// How many attempts are remembered that were refused something.
const MAX_REFUSED: usize = 64;

/// The most models of which it is said that they have no price: a name comes from the answer.
const MAX_UNPRICED: usize = 64;

impl Governor {
    pub(crate) fn new(prices: Prices, ledger: Ledger, pace: PaceConfig) -> Self {
        let (pace, stagger) = (Pace::new(pace), Stagger::new());
        let (prefixes, unpriced) = (Prefixes::new(), Mutex::default());
        let outage = Outage::default();
        let refused = Mutex::default();
        Self { prices, ledger, pace, stagger, prefixes, outage, unpriced, refused }
    }

    /// Returns the most that a request can take.
    pub(crate) fn worst(&self, ask: &Ask) -> Worst {
        let most = Most {
            input: ask.input_bound,
            output: ask.max_tokens,
            hour: ask.long_lived,
            // An account can be set to answer in the US only, for a tenth more, without a word of ours.
            terms: Terms { fast: ask.fast, us_only: true, web_searches: 0 },
        };
        let tokens = ask.input_bound.saturating_add(ask.max_tokens);
        // What a tool of the API's reads has no bound, and goes out only where there is no budget.
        let usd = self.prices.worst(&ask.model, &most).filter(|_| !ask.server_tools);
        Worst { usd, tokens }
    }

    /// Notes that a request of an attempt was refused because of what it contained.
    pub(crate) fn refuse(&self, case: &Arc<Case>, why: Forbidden) {
        if case.refuse(why) == 1 {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.len() == MAX_REFUSED {
                refused.pop_front();
            }
            refused.push_back(Arc::clone(case));
        }
    }

    /// Returns what the latest attempts were refused, oldest first.
    pub(crate) fn refused(&self) -> Vec<RefusedRequests> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().map(|case| case.refused()).collect()
    }

    /// Says once of a model that its tokens are counted and its cost is not known.
    pub(crate) fn warn_of_no_price(&self, model: &str) {
        let mut said = self.unpriced.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MAX_UNPRICED && said.insert(model.to_owned()) {
            tracing::warn!(model, "No price is known for this model: add it to [prices].");
        }
    }
}
