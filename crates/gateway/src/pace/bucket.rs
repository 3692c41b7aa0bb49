//! Buckets that are refilled continuously: one of requests, and one of tokens.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use tokio::time::{Duration, Instant};

/// The time over which all rates are given.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// No wait is reckoned to be longer. It keeps absurd numbers from running out of the clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Returns the instant so many seconds later, at most [`LONGEST`].
pub(crate) fn later(now: Instant, seconds: f64) -> Instant {
    // Rounded up to whole microseconds, so that who wakes up then finds what it waited for.
    let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST);
    now + (wait + Duration::from_micros(1)).min(LONGEST)
}

/// Tokens, whose number is known only after they were spent.
///
/// A request takes what it is expected to need, and settles when it is known, so that the level can
/// be below zero: what comes later waits until the debt is paid off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Debt {
    /// What the bucket holds when full: a minute's worth.
    capacity: f64,
    level: f64,
    at: Instant,
}

impl Debt {
    /// Returns a full bucket.
    pub(crate) fn new(per_minute: u64, now: Instant) -> Self {
        Self { capacity: per_minute as f64, level: per_minute as f64, at: now }
    }

    pub(crate) fn per_minute(&self) -> u64 {
        self.capacity as u64
    }

    pub(crate) fn level(&mut self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + elapsed * self.rate()).min(self.capacity);
        self.level
    }

    /// Returns tokens per second.
    fn rate(&self) -> f64 {
        self.capacity / MINUTE.as_secs_f64()
    }

    /// Returns when `need` will be there if nothing else is taken: now or earlier means that it is.
    /// Who needs more than the bucket holds goes when it is full. `None`: never.
    pub(crate) fn ready_at(&mut self, now: Instant, need: f64) -> Option<Instant> {
        let missing = need.min(self.capacity) - self.level(now);
        if self.capacity <= 0.0 {
            None
        } else if missing <= 0.0 {
            Some(now)
        } else {
            Some(later(now, missing / self.rate()))
        }
    }

    /// Takes that much; a negative amount gives back.
    pub(crate) fn take(&mut self, now: Instant, amount: f64) {
        self.level = (self.level(now) - amount).min(self.capacity);
    }

    /// Brings the bucket in line with the server's: `remaining` there, of which up to `pending` may
    /// not have been counted yet.
    pub(crate) fn adopt(&mut self, now: Instant, limit: u64, remaining: f64, pending: f64) {
        let level = self.level(now);
        self.capacity = limit as f64;
        self.level = level.max(remaining - pending).min(remaining).min(self.capacity);
    }
}

/// Requests, counted by governor (GCRA).
///
/// governor has no refund, no look ahead and no change of its quota. It does let us keep its state,
/// one number, ourselves: the time at which the bucket will be full. So a look is a check whose
/// outcome is not kept, and what the server says of the bucket is another number.
#[derive(Debug)]
pub(crate) struct Requests {
    limiter: RateLimiter<NotKeyed, Full, Told, NoOpMiddleware<Nanos>>,
    full: Full,
    epoch: Instant,
    per_minute: u32,
    /// Nanoseconds for which one request is refilled.
    period: u64,
    burst: u32,
}

/// When the bucket will be full, in nanoseconds on governor's clock. 0: it is.
#[derive(Clone, Debug, Default)]
struct Full(Arc<AtomicU64>);

/// A clock that is told the time.
#[derive(Debug, Default)]
struct Told(AtomicU64);

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

impl StateStore for Full {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // Nobody else looks meanwhile: all of this lives behind one lock.
        let (outcome, full) = f(Some(self.0.load(Ordering::Relaxed).into()))?;
        self.0.store(full.into(), Ordering::Relaxed);
        Ok(outcome)
    }
}

impl Requests {
    /// Returns a full bucket of `burst` requests (at least one) that is refilled with `per_minute`.
    /// `None` for a rate of zero, which governor does not know.
    pub(crate) fn new(per_minute: u32, burst: u32, now: Instant) -> Option<Self> {
        // A rate above a billion has no bound that matters.
        let per_minute = NonZeroU32::new(per_minute.min(1_000_000_000))?;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        let full = Full::default();
        Some(Self {
            limiter: RateLimiter::new(quota, full.clone(), Told::default()),
            full,
            epoch: now,
            per_minute: per_minute.get(),
            period: u64::try_from(quota.replenish_interval().as_nanos()).unwrap_or(u64::MAX),
            burst: burst.get(),
        })
    }

    pub(crate) fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Tells the clock, and returns what it shows.
    fn tell(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        let nanos = u64::try_from(since).unwrap_or(u64::MAX);
        self.limiter.clock().0.store(nanos, Ordering::Relaxed);
        nanos
    }

    /// Returns how many requests the bucket holds.
    pub(crate) fn level(&self, now: Instant) -> f64 {
        let ahead = self.full.0.load(Ordering::Relaxed).saturating_sub(self.tell(now));
        f64::from(self.burst) - ahead as f64 / self.period as f64
    }

    /// Returns when one will be there: now or earlier means that it is.
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        self.tell(now);
        let kept = self.full.0.load(Ordering::Relaxed);
        let looked = self.limiter.check();
        self.full.0.store(kept, Ordering::Relaxed);
        match looked {
            Ok(()) => now,
            Err(not_until) => {
                later(now, not_until.wait_time_from(self.limiter.clock().now()).as_secs_f64())
            }
        }
    }

    /// Takes one, if it is there.
    pub(crate) fn take(&self, now: Instant) {
        self.tell(now);
        // Who takes has looked. Between look and take there is no time.
        let _ = self.limiter.check();
    }

    /// Sets what the bucket holds: no more than it can.
    pub(crate) fn set_level(&self, now: Instant, level: f64) {
        let missing = (f64::from(self.burst) - level).max(0.0);
        // `as` stops at the ends. Beyond a minute's worth of debt nothing is gained by knowing.
        let ahead = (missing * self.period as f64) as u64;
        let full = self.tell(now).saturating_add(ahead);
        self.full.0.store(if ahead == 0 { 0 } else { full }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let bucket = Requests::new(60, 3, start).unwrap();
        let mut now = start;
        let mut taken = Vec::new();
        while taken.len() < 6 {
            let at = bucket.ready_at(now);
            if at <= now {
                bucket.take(now);
                taken.push((now - start).as_secs());
            } else {
                now = at;
            }
        }
        assert_eq!(taken, [0, 0, 0, 1, 2, 3]);
        assert!(Requests::new(0, 3, start).is_none());
    }

    #[test]
    fn request_bucket_shows_and_takes_any_level() {
        let now = Instant::now();
        let bucket = Requests::new(600, 50, now).unwrap();
        for level in [50.0, 49.0, 1.0, 0.0, -5.0] {
            bucket.set_level(now, level);
            assert!((bucket.level(now) - level).abs() < 0.001, "{level}");
            assert_eq!(bucket.ready_at(now) <= now, level >= 1.0, "{level}");
        }
        bucket.set_level(now, f64::NEG_INFINITY);
        assert!(bucket.ready_at(now) > now);
        bucket.set_level(now, 1e9);
        assert!((bucket.level(now) - 50.0).abs() < 0.001);
    }

    proptest! {
        /// What went out is what was there and what came in, whatever is taken, settled and told.
        #[test]
        fn tokens_are_conserved(
            per_minute in 1_u64..1_000_000,
            steps in prop::collection::vec((0_u64..5_000, 0.0..2e5, 0.0..2e5), 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Debt::new(per_minute, now);
            let (mut spent, mut open) = (0.0, Vec::new());
            for (step, estimate, actual) in steps {
                now += Duration::from_millis(step);
                if bucket.ready_at(now, estimate).unwrap() <= now {
                    bucket.take(now, estimate);
                    open.push((estimate, actual));
                }
                if open.len() > 3 {
                    let (estimate, actual) = open.remove(0);
                    bucket.take(now, actual - estimate);
                    spent += actual;
                }
            }
            let reserved: f64 = open.iter().map(|(estimate, _)| estimate).sum();
            let level = bucket.level(now);
            prop_assert!(level <= per_minute as f64);
            let income = per_minute as f64 * (1.0 + (now - start).as_secs_f64() / 60.0);
            // Less where it overflowed: a full bucket takes nothing in.
            prop_assert!(level <= income - spent - reserved + 1.0);
        }

        #[test]
        fn wait_ends_when_the_tokens_are_there(
            per_minute in 1_u64..10_000_000, taken in 0.0..1e8, need in 0.0..1e8,
        ) {
            let now = Instant::now();
            let mut bucket = Debt::new(per_minute, now);
            bucket.take(now, taken);
            let at = bucket.ready_at(now, need).unwrap();
            if at < now + LONGEST {
                prop_assert_eq!(bucket.ready_at(at, need), Some(at));
            }
        }
    }
}
