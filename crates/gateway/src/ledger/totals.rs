//! What was used, by whom.

use std::{collections::BTreeMap, sync::Arc};

use protocol::{Attempt, RunId, TaskId, WorkerId};
use serde::{Deserialize, Serialize};

use super::{Day, Worst};
use crate::{Tokens, Usd, tokens::is_zero};

/// What one attempt used of one model on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The run of the task.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Whose attempt it is.
    pub worker: WorkerId,
    /// The day (UTC) on which the requests went out.
    pub day: Day,
    /// The model that was asked for.
    pub model: Arc<str>,
    /// What was used.
    pub sums: Sums,
}

/// What some requests used. In a file, what is zero is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sums {
    /// How many requests went out.
    pub requests: u64,
    /// How many of them came to no end that could be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut_off: u64,
    /// How many of them have no price.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: u64,
    /// Their tokens, as far as they were seen.
    pub tokens: Tokens,
    /// What those with a price cost.
    #[serde(rename = "cost_nanos", with = "nanos", skip_serializing_if = "nanos::is_zero")]
    pub cost: Usd,
    /// What they would have cost without the prompt cache.
    #[serde(rename = "uncached_nanos", with = "nanos", skip_serializing_if = "nanos::is_zero")]
    pub uncached: Usd,
    /// What is held for those that were cut off: the most that they may have cost beyond the above.
    #[serde(rename = "held_nanos", with = "nanos", skip_serializing_if = "nanos::is_zero")]
    pub held: Usd,
    /// The most tokens that they may have used beyond the above.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_tokens: u64,
    /// How many of them sub-agents asked.
    #[serde(skip_serializing_if = "is_zero")]
    pub of_agents: u64,
    /// The tokens of those, of all kinds.
    #[serde(skip_serializing_if = "is_zero")]
    pub of_agents_tokens: u64,
    /// What those of them with a price cost.
    #[serde(rename = "of_agents_nanos", with = "nanos", skip_serializing_if = "nanos::is_zero")]
    pub of_agents_cost: Usd,
    /// How long they waited before they went out, by reason, in milliseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub waits: BTreeMap<String, u64>,
}

/// Amounts in files: whole billionths of a dollar, since these sums must be exact.
pub(super) mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::Usd;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    pub(in super::super) fn is_zero(usd: &Usd) -> bool {
        *usd == Usd::ZERO
    }

    pub(in super::super) fn serialize<S: Serializer>(usd: &Usd, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(usd.nanos())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(of: D) -> Result<Usd, D::Error> {
        u64::deserialize(of).map(Usd::from_nanos)
    }
}

impl Sums {
    /// Adds what other requests used.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.cut_off += other.cut_off;
        self.unpriced += other.unpriced;
        self.tokens += other.tokens;
        self.cost += other.cost;
        self.uncached += other.uncached;
        self.held += other.held;
        self.held_tokens = self.held_tokens.saturating_add(other.held_tokens);
        self.of_agents += other.of_agents;
        self.of_agents_tokens = self.of_agents_tokens.saturating_add(other.of_agents_tokens);
        self.of_agents_cost += other.of_agents_cost;
        for (reason, millis) in &other.waits {
            // Not `entry`: the reason is nearly always there, and would be copied.
            match self.waits.get_mut(reason) {
                Some(sum) => *sum = sum.saturating_add(*millis),
                None => {
                    self.waits.insert(reason.clone(), *millis);
                }
            }
        }
    }
}

/// Which requests are meant: those to which all applies that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this run.
    pub run: Option<RunId>,
    /// Of this task. With its run it is found at once.
    pub task: Option<TaskId>,
    /// Of this attempt.
    pub attempt: Option<Attempt>,
    /// Of this worker.
    pub worker: Option<WorkerId>,
    /// That went out on this day.
    pub day: Option<Day>,
}

impl Filter {
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        fn fits<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        fits(self.run.as_ref(), &entry.run)
            && fits(self.task.as_ref(), &entry.task)
            && fits(self.attempt.as_ref(), &entry.attempt)
            && fits(self.worker.as_ref(), &entry.worker)
            && fits(self.day.as_ref(), &entry.day)
    }
}

/// What many requests used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All of it.
    pub sums: Sums,
    /// Their tokens, by model.
    pub models: BTreeMap<Arc<str>, Tokens>,
    /// How many are out now. They are in nothing else here.
    pub in_flight: u64,
    /// The most that those that are out can take. No dollars if one of them has no price.
    pub out: Worst,
}

impl Totals {
    /// Returns what the requests cost; `None` when one of them has no price. The part that is known
    /// is in [`sums`](Self::sums).
    pub fn cost(&self) -> Option<Usd> {
        (self.sums.unpriced == 0).then_some(self.sums.cost)
    }

    /// Returns the dollars that the prompt cache saved. Less than nothing where more was written into it
    /// than was ever read.
    pub fn saved(&self) -> f64 {
        self.sums.uncached.dollars() - self.sums.cost.dollars()
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.sums.add(&entry.sums);
        *self.models.entry(Arc::clone(&entry.model)).or_default() += entry.sums.tokens;
    }
}
