//! How many requests may be in flight, as far as the API's answers tell.
//!
//! Like TCP: slow start, then one more per window of successes, and less on trouble (AIMD). One window
//! for each model of an account, since the API refuses and is overloaded by model.

use tokio::time::{Duration, Instant};

/// What is tried first where nothing is known: about as many as one session with sub-agents has in
/// flight by itself, so that a gateway that nothing weighs on holds nothing back.
const FIRST: f64 = 16.0;

/// Where slow start begins after an outage.
const AGAIN: f64 = 2.0;

/// More than anybody has in flight.
const MOST: f64 = 65_536.0;

/// While nothing was ever refused, no answer for so long counts as a good one: the API refuses at once,
/// but lets a request that does not stream wait for its answer to be complete.
const NO_NEWS: Duration = Duration::from_secs(1);

/// How long a level that was refused with a 429 is not tried again; doubles each time that it is refused again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest it is not tried again.
const MOST_PATIENCE: Duration = Duration::from_secs(160);

/// What the API complains of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// 429, and no limit per minute explains it.
    Limited,
    /// 529.
    Overloaded,
}

#[derive(Debug)]
pub(crate) struct Window {
    size: f64,
    /// Up to where it grows by one for each success.
    threshold: f64,
    /// Requests up to this one were sent before the last cut: what becomes of them says nothing new.
    cut_at: u64,
    /// No growth before.
    quiet_until: Option<Instant>,
    patience: Duration,
    /// The size that a 429 was answered to.
    refused_at: f64,
    /// Whether anything was ever refused.
    refused: bool,
    grew: Instant,
}

impl Window {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            size: FIRST,
            threshold: MOST,
            cut_at: 0,
            quiet_until: None,
            patience: PATIENCE,
            refused_at: MOST,
            refused: false,
            grew: now,
        }
    }

    /// Returns how many requests may be in flight: at least one.
    pub(crate) fn size(&self) -> u32 {
        self.size as u32
    }

    /// Returns whether one more may go when so many are in flight, and if not, when to look again.
    pub(crate) fn check(&mut self, now: Instant, in_flight: u32) -> Result<(), Option<Instant>> {
        if in_flight >= self.size() && !self.refused {
            let due = self.grew + NO_NEWS;
            if now < due {
                return Err(Some(due));
            }
            self.size = (self.size * 2.0).min(MOST);
            self.grew = now;
        }
        if in_flight < self.size() { Ok(()) } else { Err(None) }
    }

    /// The API took a request and answers it. `in_flight` counts it; `waiting` says whether others
    /// wait for room.
    pub(crate) fn succeed(&mut self, now: Instant, in_flight: u32, waiting: bool) {
        // What nobody uses must not grow: it would be no bound when it is needed.
        let used = waiting || f64::from(in_flight) * 2.0 >= self.size;
        if !used || self.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        let more = if self.size < self.threshold { 1.0 } else { 1.0 / self.size };
        self.size = (self.size + more).min(MOST);
        self.grew = now;
        if self.size > self.refused_at + 1.0 {
            // What was refused once is not any more.
            (self.refused_at, self.patience) = (MOST, PATIENCE);
        }
    }

    /// The API refused request number `seq`; `last` is the last one that was sent. Only the first of
    /// those that were in flight together counts.
    pub(crate) fn cut(&mut self, now: Instant, trouble: Trouble, seq: u64, last: u64) {
        self.refused = true;
        if seq <= self.cut_at {
            return;
        }
        self.cut_at = last;
        match trouble {
            // The limit is about here. It is felt out again, more and more rarely.
            Trouble::Limited => {
                if self.refused_at < MOST {
                    self.patience = (self.patience * 2).min(MOST_PATIENCE);
                }
                self.refused_at = self.size;
                self.size = (self.size * 0.7).max(1.0);
                self.threshold = self.size;
                self.quiet_until = Some(now + self.patience);
            }
            // That it can't take as much as it could has nothing to do with how much that was: when it
            // is over, as much as before is soon reached again.
            Trouble::Overloaded => {
                if self.size > self.threshold || self.threshold >= MOST {
                    self.threshold = self.size;
                }
                self.size = (self.size * 0.5).max(1.0);
            }
        }
    }

    /// An outage has ended.
    pub(crate) fn restart(&mut self) {
        self.size = self.size.min(AGAIN);
    }
}
