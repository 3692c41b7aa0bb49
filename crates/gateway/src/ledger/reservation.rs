//! A request that may go out, and what it used.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, MutexGuard},
};

use super::{Shared, State, Sums, Worst, line::Line};
use crate::{Tokens, Usd};

/// What a request used.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// The tokens, as far as they were seen.
    pub tokens: Tokens,
    /// What they cost; `None` when nobody knows.
    pub cost: Option<Usd>,
    /// What they would have cost without the prompt cache.
    pub uncached: Option<Usd>,
    /// Whether that is all. If not, the rest of its worst stays held.
    pub complete: bool,
    /// How long the request waited before it went out, by reason, in milliseconds.
    pub waits: BTreeMap<String, u64>,
    /// The sub-agent that asked, if one did.
    pub agent: Option<String>,
}

/// The longest name of a sub-agent that is kept, in bytes.
const MAX_AGENT: usize = 64;

impl Spent {
    fn sums(self, worst: Worst) -> (Sums, Option<String>) {
        let most = worst.usd.unwrap_or_default();
        let held = match (self.cost, self.complete) {
            (Some(_), true) => Usd::ZERO,
            (Some(cost), false) => most.minus(cost),
            // It may have been all of it.
            (None, _) => most,
        };
        let rest = worst.tokens.saturating_sub(self.tokens.all());
        let cost = self.cost.unwrap_or_default();
        let of_agent = self.agent.is_some();
        let sums = Sums {
            requests: 1,
            cut_off: u64::from(!self.complete),
            unpriced: u64::from(self.cost.is_none()),
            tokens: self.tokens,
            cost,
            uncached: self.uncached.unwrap_or(cost),
            held,
            held_tokens: if self.complete { 0 } else { rest },
            of_agents: u64::from(of_agent),
            of_agents_tokens: if of_agent { self.tokens.all() } else { 0 },
            of_agents_cost: if of_agent { cost } else { Usd::ZERO },
            waits: self.waits,
        };
        (sums, self.agent.map(|agent| super::head(&agent, MAX_AGENT).to_owned()))
    }
}

/// The leave to send one request: the most that it can take is held.
///
/// Dropped, all of it stays held for good, because nobody knows what was used; unless it was never handed out.
#[must_use = "dropped, it counts as spent: settle or release it"]
pub struct Reservation {
    shared: Arc<Shared>,
    id: u64,
    worst: Worst,
    /// It is written down, so that the request may be out.
    is_written: bool,
    over: bool,
}

impl Reservation {
    pub(super) fn new(shared: Arc<Shared>, id: u64, worst: Worst) -> Self {
        Self { shared, id, worst, is_written: false, over: false }
    }

    /// Notes that it is written down.
    pub(super) fn written(mut self) -> Self {
        self.is_written = true;
        self
    }

    /// Books what the request used, and lets go of the rest, if that was all.
    pub fn settle(mut self, spent: Spent) {
        let (used, agent) = spent.sums(self.worst);
        let more = |most: Usd| used.cost > most;
        if used.tokens.all() > self.worst.tokens || self.worst.usd.is_some_and(more) {
            tracing::warn!(
                id = self.id,
                cost = %used.cost,
                tokens = used.tokens.all(),
                worst = ?self.worst,
                "An answer took more than the most that it could take.",
            );
        }
        self.end(|state, id, now| {
            state.books.settled(id, &used);
            Line::Settled { id, at: now, agent, used }
        });
    }

    /// Books that the request used nothing: it never went out, or was refused.
    pub fn release(mut self) {
        self.end(|state, id, _| {
            state.books.released(id);
            Line::Released { id }
        });
    }

    fn end(&mut self, book: impl FnOnce(&mut State, u64, protocol::Time) -> Line) {
        self.over = true;
        let mut state: MutexGuard<'_, State> = self.shared.lock();
        let now = (self.shared.clock)();
        let line = book(&mut state, self.id, now);
        let ticket = state.lines.push(&line);
        self.shared.after(state, Some(ticket));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.over {
            let may_be_out = self.is_written;
            self.end(|state, id, _| {
                if !may_be_out {
                    state.books.released(id);
                    return Line::Released { id };
                }
                state.books.lost(id);
                Line::Lost { id }
            });
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .field("worst", &self.worst)
            .finish_non_exhaustive()
    }
}
