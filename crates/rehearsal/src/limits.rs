//! Rate limits, as the API has them: for each model, token buckets that fill continuously.
//!
//! What is read from the prompt cache counts for nothing. What is written counts when it is: an answer
//! longer than what is left puts its bucket into debt.

use std::collections::HashMap;
use std::num::NonZeroU32;

use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

/// How many models have buckets at most. A name more, and all start afresh.
const MAX_MODELS: usize = 1_000;

/// What a scenario allows each model.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    requests_per_minute: Option<NonZeroU32>,
    input_tokens_per_minute: Option<NonZeroU32>,
    output_tokens_per_minute: Option<NonZeroU32>,
    #[serde(default)]
    burst: Burst,
}

/// How many seconds' worth a full bucket holds.
#[derive(Clone, Copy, Debug)]
struct Burst(f64);

impl Default for Burst {
    fn default() -> Self {
        Self(60.0)
    }
}

impl<'de> Deserialize<'de> for Burst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if (0.001..=86_400.0).contains(&seconds) {
            return Ok(Self(seconds));
        }
        let problem = format!("{seconds} is not a time to fill a bucket in: use seconds above 0");
        Err(serde::de::Error::custom(problem))
    }
}

/// The names of the three kinds of buckets, in the API's headers.
const KINDS: [&str; 3] = ["requests", "input-tokens", "output-tokens"];

/// How full the buckets are. Time comes from the caller.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    limits: Limits,
    models: HashMap<String, [Option<Bucket>; 3]>,
}

/// A request that is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// Which one.
    pub(crate) kind: &'static str,
    /// Its number for a minute.
    pub(crate) limit: u32,
    /// When there would be room, in whole seconds, at least 1.
    pub(crate) retry_after: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    limit: NonZeroU32,
    capacity: f64,
    /// Below zero: a debt.
    level: f64,
    at: Instant,
}

impl Buckets {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, models: HashMap::new() }
    }

    /// Takes a request and its input tokens out of a model's buckets, or nothing at all.
    ///
    /// A request larger than its bucket is let through when that is full. Of the output, a single
    /// token must be left.
    pub(crate) fn admit(&mut self, now: Instant, model: &str, input: u64) -> Result<(), OverLimit> {
        let buckets = self.of(now, model);
        let wanted = [1.0, input as f64, 0.0];
        let needed = [1.0, input as f64, 1.0];
        let late = buckets.iter().zip(needed).zip(KINDS).filter_map(|((bucket, needed), kind)| {
            let bucket = bucket.as_ref()?;
            let wait = bucket.wait(needed.min(bucket.capacity));
            (wait > 0.0).then_some((wait, kind, bucket.limit.get()))
        });
        if let Some((wait, kind, limit)) = late.max_by(|a, b| a.0.total_cmp(&b.0)) {
            return Err(OverLimit { kind, limit, retry_after: wait.ceil() as u64 });
        }
        for (bucket, wanted) in buckets.iter_mut().zip(wanted) {
            if let Some(bucket) = bucket {
                bucket.level -= wanted;
            }
        }
        Ok(())
    }

    /// Takes the tokens of an answer that begins.
    pub(crate) fn answer(&mut self, now: Instant, model: &str, output: u64) {
        if let [.., Some(bucket)] = self.of(now, model) {
            bucket.level -= output as f64;
        }
    }

    /// Gives the input tokens back of a request that gets no answer.
    pub(crate) fn fail(&mut self, now: Instant, model: &str, input: u64) {
        if let [_, Some(bucket), _] = self.of(now, model) {
            bucket.level = (bucket.level + input as f64).min(bucket.capacity);
        }
    }

    /// Returns the headers that say how a model's buckets stand.
    pub(crate) fn headers(&mut self, now: Instant, model: &str) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        for (bucket, kind) in self.of(now, model).iter().zip(KINDS) {
            let Some(bucket) = bucket else { continue };
            let full = SignedDuration::try_from_secs_f64(bucket.wait(bucket.capacity));
            let reset = Timestamp::now() + full.unwrap_or_default();
            for (what, value) in [
                ("limit", bucket.limit.to_string()),
                ("remaining", (bucket.level.max(0.0) as u64).to_string()),
                // In whole seconds, and not too early.
                ("reset", format!("{:.0}", reset + SignedDuration::from_secs(1))),
            ] {
                let name = format!("anthropic-ratelimit-{kind}-{what}");
                let name = HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                    headers.push((name, value));
                }
            }
        }
        headers
    }

    fn of(&mut self, now: Instant, model: &str) -> &mut [Option<Bucket>; 3] {
        if self.models.len() >= MAX_MODELS && !self.models.contains_key(model) {
            self.models.clear();
        }
        let Limits {
            requests_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            burst,
        } = self.limits;
        let limits = [requests_per_minute, input_tokens_per_minute, output_tokens_per_minute];
        let full = || limits.map(|limit| limit.map(|limit| Bucket::full(limit, burst, now)));
        let buckets = self.models.entry(model.to_owned()).or_insert_with(full);
        for bucket in buckets.iter_mut().flatten() {
            bucket.fill(now);
        }
        buckets
    }
}

impl Bucket {
    fn full(limit: NonZeroU32, burst: Burst, at: Instant) -> Self {
        let capacity = (f64::from(limit.get()) / 60.0 * burst.0).max(1.0);
        Self { limit, capacity, level: capacity, at }
    }

    /// In a second.
    fn rate(&self) -> f64 {
        f64::from(self.limit.get()) / 60.0
    }

    fn fill(&mut self, now: Instant) {
        let more = self.rate() * now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + more).min(self.capacity);
        self.at = now;
    }

    /// Returns in how many seconds so much is in it.
    fn wait(&self, needed: f64) -> f64 {
        // A billionth of a token is the noise of the sums.
        ((needed - self.level - 1e-9) / self.rate()).max(0.0)
    }
}

impl OverLimit {
    pub(crate) fn message(&self) -> String {
        let Self { kind, limit, .. } = self;
        let kind = kind.replace('-', " ");
        format!("Rehearsal: the scenario allows {limit} {kind} a minute, and this would be more.")
    }

    pub(crate) fn retry_after(&self) -> (HeaderName, HeaderValue) {
        (RETRY_AFTER, HeaderValue::from(self.retry_after))
    }
}

#[cfg(test)]
mod tests;
