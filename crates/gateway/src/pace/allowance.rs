//! All the limits that one party sets for requests of one kind.

use tokio::time::Instant;

use super::{
    bucket::{Debt, Requests},
    config::Limits,
    told::{Count, Told},
    words::{LimitStatus, Scope, Source, WaitReason},
};

/// The tokens of one request: reserved, or spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) input: f64,
    pub(crate) output: f64,
}

/// What the buckets of debt hold.
const KINDS: [WaitReason; 3] =
    [WaitReason::InputTokens, WaitReason::OutputTokens, WaitReason::Tokens];

impl Cost {
    /// Returns how many tokens of that one of [`KINDS`] it has.
    fn of(&self, kind: usize) -> f64 {
        [self.input, self.output, self.input + self.output][kind]
    }
}

/// Why a request can't go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) reason: WaitReason,
    pub(crate) scope: Scope,
    /// When to look again. `None`: when something happens.
    pub(crate) wake: Option<Instant>,
    /// Before when it surely can't go.
    pub(crate) until: Option<Instant>,
}

/// What may not have been counted in what the server says: requests on their way there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pending {
    /// Requests whose answers have not begun, and their input.
    pub(crate) requests: u32,
    pub(crate) input: f64,
    /// What their input may be more than was taken for it.
    pub(crate) risk: f64,
    /// The output of all whose answers have not ended.
    pub(crate) output: f64,
}

impl Pending {
    pub(crate) fn sent(&mut self, estimate: Cost, cost: Cost) {
        self.requests += 1;
        self.input += cost.input;
        self.risk += (estimate.input - cost.input).max(0.0);
        self.output += cost.output;
    }

    pub(crate) fn answered(&mut self, estimate: Cost, cost: Cost) {
        self.requests -= 1;
        self.input -= cost.input;
        self.risk -= (estimate.input - cost.input).max(0.0);
    }
}

/// The share of a bucket of the server's that is left in it.
///
/// The server counts what a request is; we know only about what it is, and when it asks. A bucket that
/// is kept at a twentieth gives as much per minute as one that is kept empty, without the refusals.
/// When it refuses all the same, more is left, by as much as was missing.
const SPARE: f64 = 0.05;

/// The most that has to be there, as long as less is expected to be needed.
///
/// What comes back to a bucket that is full is lost. So it is never kept full.
const MOST_KEPT: f64 = 0.75;

/// How long until half of what is left beyond [`SPARE`] is forgotten.
const SPARE_HALF_LIFE: f64 = 600.0;

/// The part of a request's estimate that is kept free beside it, in a bucket of the server's: a cold
/// prompt cache makes a request that much larger than its like.
const SLACK: f64 = 0.5;

/// By how much less than the API says may remain: it rounds tokens to thousands.
const ROUNDING: f64 = 500.0;

#[derive(Debug)]
pub(crate) struct Allowance {
    scope: Scope,
    source: Source,
    requests: Bound<Requests>,
    input: Option<Debt>,
    output: Option<Debt>,
    tokens: Option<Debt>,
    /// What is left in each, beyond [`SPARE`], because it was missing once; and as of when.
    spare: [f64; 3],
    spared: Instant,
    in_flight: u32,
    /// What is taken for those in flight. The most that can come back.
    taken: Cost,
    max_in_flight: Option<u32>,
}

/// A limit on requests, of which there is one that governor does not know: none at all.
#[derive(Debug)]
enum Bound<T> {
    No,
    Zero,
    Some(T),
}

impl Allowance {
    /// Returns what a person allows.
    pub(crate) fn configured(scope: Scope, limits: &Limits, now: Instant) -> Self {
        let debt = |limit: Option<u64>| limit.map(|limit| Debt::new(limit, now));
        Self {
            scope,
            source: Source::Config,
            requests: limits.requests_per_minute.map_or(Bound::No, |limit| {
                Requests::new(limit, limit, now).map_or(Bound::Zero, Bound::Some)
            }),
            input: debt(limits.input_tokens_per_minute),
            output: debt(limits.output_tokens_per_minute),
            tokens: None,
            spare: [0.0; 3],
            spared: now,
            in_flight: 0,
            taken: Cost::default(),
            max_in_flight: limits.max_in_flight,
        }
    }

    /// Returns what the server allows before it has said anything: all.
    pub(crate) fn unknown(now: Instant) -> Self {
        Self { source: Source::Server, ..Self::configured(Scope::Model, &Limits::default(), now) }
    }

    fn debts(&mut self) -> impl Iterator<Item = (usize, &mut Debt)> {
        let all = [&mut self.input, &mut self.output, &mut self.tokens];
        all.into_iter().enumerate().filter_map(|(kind, debt)| Some((kind, debt.as_mut()?)))
    }

    /// Says whether a request may go now that is expected to cost `cost`, and `most` at the most; and
    /// if not, which limit holds it longest.
    ///
    /// The server refuses what is not there. So the most has to be, although only what is expected
    /// is taken: since most of a prompt is read from the cache as a rule, but not always.
    pub(crate) fn check(&mut self, now: Instant, cost: Cost, most: Cost) -> Result<(), Block> {
        let (scope, server) = (self.scope, self.source == Source::Server);
        let taken = self.taken;
        let block = |reason, wake, until| Block { reason, scope, wake, until };
        if self.max_in_flight.is_some_and(|max| self.in_flight >= max) {
            return Err(block(WaitReason::InFlight, None, None));
        }
        let never = Some(now + super::bucket::LONGEST);
        let mut longest: Option<Block> = None;
        let mut note = |reason, wake: Option<Instant>, until: Option<Instant>| {
            let wake = wake.or(never);
            if wake > Some(now) && longest.is_none_or(|longest| longest.wake < wake) {
                longest = Some(block(reason, wake, until.or(never)));
            }
        };
        match &self.requests {
            Bound::No => {}
            Bound::Zero => note(WaitReason::Requests, None, None),
            Bound::Some(bucket) => {
                let at = Some(bucket.ready_at(now));
                note(WaitReason::Requests, at, at);
            }
        }
        let faded = now.saturating_duration_since(self.spared).as_secs_f64() / SPARE_HALF_LIFE;
        let spares = self.spare.map(|spare| spare * (-faded).exp2());
        for (kind, debt) in self.debts() {
            let need = cost.of(kind);
            let kept = if server {
                let capacity = debt.per_minute() as f64;
                let most = most.of(kind).max(need * (1.0 + SLACK)).max(need + spares[kind]);
                (most + SPARE * capacity).min(MOST_KEPT * capacity).max(need)
            } else {
                need
            };
            let back = taken.of(kind);
            note(KINDS[kind], debt.ready_at(now, kept), debt.ready_at(now, need - back));
        }
        longest.map_or(Ok(()), Err)
    }

    /// Takes what a request is expected to cost. The caller has checked.
    pub(crate) fn take(&mut self, now: Instant, cost: Cost) {
        self.in_flight += 1;
        if let Bound::Some(requests) = &self.requests {
            requests.take(now);
        }
        self.settle(now, Cost::default(), cost);
    }

    /// Gives back the request that was taken: it never went out.
    pub(crate) fn give_back(&self, now: Instant) {
        if let Bound::Some(requests) = &self.requests {
            requests.set_level(now, requests.level(now) + 1.0);
        }
    }

    /// Puts what is known now in the place of what was taken.
    pub(crate) fn settle(&mut self, now: Instant, taken: Cost, known: Cost) {
        self.taken.input += known.input - taken.input;
        self.taken.output += known.output - taken.output;
        for (kind, debt) in self.debts() {
            debt.take(now, known.of(kind) - taken.of(kind));
        }
    }

    /// A request is no longer in flight, and what was taken for it is spent.
    pub(crate) fn end(&mut self, spent: Cost) {
        self.in_flight -= 1;
        self.taken.input -= spent.input;
        self.taken.output -= spent.output;
        if self.in_flight == 0 {
            // What rounding left.
            self.taken = Cost::default();
        }
    }

    /// Takes over what the server says of its limits. `pending` is `None` when that is no longer the
    /// newest: then less is believed, but not more.
    pub(crate) fn hear(&mut self, now: Instant, told: &Told, pending: Option<Pending>) {
        if let Some(Count { limit, remaining }) = told.requests {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(1_000_000_000);
            // The bucket is that much smaller than the server's.
            let spare = (SPARE * f64::from(limit)).floor();
            let burst = (f64::from(limit) - spare) as u32;
            let had = match &self.requests {
                Bound::Some(bucket) => bucket.level(now),
                Bound::No | Bound::Zero => f64::INFINITY,
            };
            let known = match &self.requests {
                Bound::Some(bucket) => bucket.per_minute() == limit,
                Bound::No | Bound::Zero => false,
            };
            if !known {
                self.requests = Requests::new(limit, burst, now).map_or(Bound::No, Bound::Some);
            }
            if let Bound::Some(bucket) = &self.requests {
                let most = remaining as f64 - spare;
                let least = pending.map_or(f64::NEG_INFINITY, |it| most - f64::from(it.requests));
                bucket.set_level(now, had.max(least).min(most));
            }
        }
        let adopt = |debt: &mut Option<Debt>, count: Option<Count>, of: fn(Pending) -> f64| {
            if let Some(Count { limit, remaining }) = count {
                let debt = debt.get_or_insert_with(|| Debt::new(limit, now));
                debt.adopt(now, limit, remaining as f64, pending.map_or(f64::INFINITY, of));
            }
        };
        adopt(&mut self.input, told.input, |pending| pending.input);
        adopt(&mut self.output, told.output, |pending| pending.output);
        adopt(&mut self.tokens, told.tokens, |pending| pending.input + pending.output);
    }

    /// A request was refused, because so much was missing.
    pub(crate) fn missed(&mut self, now: Instant, reason: WaitReason, missing: f64) {
        let faded = now.saturating_duration_since(self.spared).as_secs_f64() / SPARE_HALF_LIFE;
        self.spare = self.spare.map(|spare| spare * (-faded).exp2());
        self.spared = now;
        let spare = &mut self.spare;
        let most = [&self.input, &self.output, &self.tokens]
            .map(|debt| debt.map_or(0.0, |debt| MOST_KEPT * debt.per_minute() as f64));
        if let Some(kind) = KINDS.iter().position(|kind| *kind == reason) {
            spare[kind] = (spare[kind] + missing).min(most[kind]);
        }
    }

    pub(crate) fn status(&mut self, now: Instant) -> Vec<LimitStatus> {
        let (scope, source) = (self.scope, self.source);
        let status = |what, limit, left| LimitStatus { what, scope, source, limit, left };
        let mut all = Vec::new();
        match &self.requests {
            Bound::No => {}
            Bound::Zero => all.push(status(WaitReason::Requests, 0, 0)),
            Bound::Some(bucket) => {
                let limit = u64::from(bucket.per_minute());
                all.push(status(WaitReason::Requests, limit, bucket.level(now).floor() as i64));
            }
        }
        for (kind, debt) in self.debts() {
            all.push(status(KINDS[kind], debt.per_minute(), debt.level(now).floor() as i64));
        }
        if let Some(max) = self.max_in_flight {
            let left = i64::from(max) - i64::from(self.in_flight);
            all.push(status(WaitReason::InFlight, u64::from(max), left));
        }
        all
    }
}

impl Told {
    /// Returns which limit per minute refused a request of that cost, if one did: what remains of it
    /// is less than was asked for. And how much was asked for, as far as that is ever there.
    pub(crate) fn exhausted(&self, cost: Cost) -> Option<(WaitReason, Count, f64)> {
        let below = |count: Option<Count>, need: f64, rounding: f64| {
            let count = count.filter(|count| count.remaining < count.limit)?;
            let need = need.min(count.limit as f64);
            ((count.remaining as f64) - rounding < need).then_some((count, need))
        };
        let named =
            |reason, found: Option<(Count, f64)>| found.map(|(count, need)| (reason, count, need));
        named(WaitReason::Requests, below(self.requests, 1.0, 0.0))
            .or(named(WaitReason::InputTokens, below(self.input, cost.input, ROUNDING)))
            .or(named(WaitReason::OutputTokens, below(self.output, cost.output, ROUNDING)))
            .or(named(WaitReason::Tokens, below(self.tokens, cost.input + cost.output, ROUNDING)))
    }
}
