//! Whether requests go at all: the wait that the API asked for, and the breaker.

use tokio::time::{Duration, Instant};

use super::{bucket::LONGEST, random::Random, words::WaitReason};

/// So many refusals in a row, with no success between them, are an outage: from then on one request
/// alone finds out when it is over.
pub(crate) const IN_A_ROW: u32 = 5;

/// How long nothing goes after a refusal that names no time and is no outage yet.
const PAUSE: Duration = Duration::from_millis(250);

/// How long after an outage was noticed the first probe goes. Doubles with each that fails.
const FIRST_PROBE: Duration = Duration::from_secs(1);

/// The longest between two probes: an outage that ended is noticed so late at most, and then a
/// minute leaves time to come back to full speed. One that is not answered by then is no probe any more that
/// others wait for: an answer that does not stream begins when it is written to its end.
const MOST_PROBE: Duration = Duration::from_secs(15);

/// However long the API says to wait: a probe goes so often. The limit may have been raised meanwhile, and a time
/// that is wrong must not stop an account for ever.
const DOUBT: Duration = Duration::from_secs(15 * 60);

/// Up to how much longer than it must be a pause is, at random: other gateways of the same account
/// wait for the same moment.
const JITTER: f64 = 0.1;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    reason: Option<WaitReason>,
    /// Nothing goes before.
    shut_until: Option<Instant>,
    /// What the API said, however little of it is believed.
    told: Option<Instant>,
    probe: Probe,
    /// Refusals since the last success.
    row: u32,
    /// Outages and failed probes since the last success.
    trips: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Probe {
    /// All may go.
    #[default]
    No,
    /// The next one to go is the probe.
    Next,
    /// One is out. All from this one on are probes: nothing else went since.
    Sent { first: u64, last: Instant },
}

/// Why the gate is shut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shut {
    pub(crate) reason: WaitReason,
    /// When it may open.
    pub(crate) wake: Instant,
    /// Until when it is shut by what the API said.
    pub(crate) told: Option<Instant>,
}

impl Gate {
    pub(crate) fn check(&self, now: Instant) -> Result<(), Shut> {
        let probe = match self.probe {
            Probe::Sent { last, .. } => Some(last + MOST_PROBE),
            Probe::No | Probe::Next => None,
        };
        let Some(wake) = self.shut_until.max(probe).filter(|until| *until > now) else {
            return Ok(());
        };
        let reason = self.reason.unwrap_or(WaitReason::Overloaded);
        Err(Shut { reason, wake, told: self.told.filter(|until| *until > now) })
    }

    /// Request number `seq` goes.
    pub(crate) fn pass(&mut self, now: Instant, seq: u64) {
        self.probe = match self.probe {
            Probe::No => Probe::No,
            Probe::Next => Probe::Sent { first: seq, last: now },
            Probe::Sent { first, .. } => Probe::Sent { first, last: now },
        };
    }

    fn is_probe(&self, seq: u64) -> bool {
        matches!(self.probe, Probe::Sent { first, .. } if first <= seq)
    }

    /// Request number `seq` came to an end that says nothing about limits.
    pub(crate) fn forget(&mut self, seq: u64) {
        if self.is_probe(seq) {
            self.probe = Probe::Next;
        }
    }

    /// The API took request number `seq`. Returns whether that ended an outage: only a probe does,
    /// since others were sent before it.
    pub(crate) fn succeed(&mut self, seq: u64) -> bool {
        let ended = self.is_probe(seq);
        self.row = 0;
        if ended {
            *self = Self::default();
        }
        ended
    }

    /// The API refused request number `seq` for a reason that has nothing to do with how many are in
    /// flight, and said when it would not.
    pub(crate) fn pause(
        &mut self,
        now: Instant,
        reason: WaitReason,
        seq: u64,
        wait: Duration,
        random: &mut Random,
    ) {
        self.forget(seq);
        self.shut(now, reason, wait, random);
        let told = now + wait.min(LONGEST);
        if self.told.is_none_or(|before| before < told) {
            self.told = Some(told);
        }
        if wait > DOUBT {
            self.probe = Probe::Next;
        }
    }

    /// The API refused request number `seq` with trouble of that kind.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        reason: WaitReason,
        seq: u64,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) {
        let failed = self.is_probe(seq);
        self.row = self.row.saturating_add(1);
        if self.probe == Probe::No && self.row < IN_A_ROW {
            self.shut(now, reason, PAUSE, random);
        } else if self.probe == Probe::No || failed {
            let wait = FIRST_PROBE * 2_u32.pow(self.trips.min(8));
            self.trips = self.trips.saturating_add(1);
            self.probe = Probe::Next;
            self.shut(now, reason, wait.min(MOST_PROBE), random);
        }
        // Otherwise it was sent before the outage was noticed: nothing new.
        if let Some(wait) = retry_after {
            self.pause(now, reason, seq, wait, random);
        }
    }

    fn shut(&mut self, now: Instant, reason: WaitReason, wait: Duration, random: &mut Random) {
        let until = now + wait.min(DOUBT).mul_f64(1.0 + JITTER * random.unit());
        if self.shut_until.is_none_or(|before| before < until) {
            self.shut_until = Some(until);
            self.reason = Some(reason);
        }
    }
}
