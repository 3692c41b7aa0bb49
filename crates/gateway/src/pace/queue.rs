//! Who waits for a model of an account, in which order, and for what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;
use protocol::{Priority, WorkerId};
use tokio::time::{Duration, Instant};

use super::words::{WaitReason, Waits};

/// What a step of priority is worth.
///
/// Whoever has waited so much longer than one of the next higher priority goes before it. So nobody
/// starves: each waits for those that came before it and for those that come within two minutes,
/// and for nobody else. It is well below the six minutes that the CLI waits for a first byte.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// The number of a request, in the order in which they came to us.
pub(crate) type Id = u64;

/// A place in the order: it never changes while the request waits.
pub(crate) type Place = (Instant, Id);

/// Returns the place of a request.
pub(crate) fn place(since: Instant, priority: Priority, id: Id) -> Place {
    let steps = match priority {
        Priority::High => 0,
        Priority::Medium => 1,
        Priority::Low => 2,
    };
    (since + STEP * steps, id)
}

/// The requests of one worker with limits of its own; or of all the workers that have none.
pub(crate) type Party = Option<WorkerId>;

/// Counts the time that passes while something blocks, by reason. Whoever waits reads it when it
/// comes and when it goes: so nothing is done for each waiter meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct WaitClock {
    sums: Waits,
    running: Option<(WaitReason, Instant)>,
}

impl WaitClock {
    fn turn_to(&mut self, now: Instant, reason: Option<WaitReason>) {
        self.sums = self.read(now);
        self.running = reason.map(|reason| (reason, now));
    }

    fn read(&self, now: Instant) -> Waits {
        let mut sums = self.sums;
        if let Some((reason, since)) = self.running {
            sums.add(reason, now.saturating_duration_since(since));
        }
        sums
    }
}

/// The queue of a model.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    parties: HashMap<Party, PartyQueue, RandomState>,
    /// The first of each party that is not parked.
    heads: BTreeSet<(Place, Party)>,
    /// When to look again at those that are.
    timers: BTreeSet<(Instant, Party)>,
    /// All that wait, by when they give up.
    give_up: BTreeSet<(Instant, Id)>,
    clock: WaitClock,
}

#[derive(Debug, Default)]
struct PartyQueue {
    waiting: BTreeMap<Place, Id>,
    /// Whether the worker's own limit holds all of them back.
    parked: bool,
    /// When to look at that again.
    look_at: Option<Instant>,
    /// Time for which they were parked, and what the queue's clock counted meanwhile.
    own: WaitClock,
    hidden: Waits,
    parked_at: Waits,
}

impl PartyQueue {
    fn read(&self, now: Instant, queue: &WaitClock) -> Waits {
        let queue = queue.read(now);
        let hidden = if self.parked { queue.since(&self.parked_at) } else { Waits::default() };
        let mut sum = queue.since(&self.hidden).since(&hidden);
        sum.add_all(&self.own.read(now));
        sum
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.give_up.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.give_up.is_empty()
    }

    /// Returns the first that its worker's own limit does not hold back.
    pub(crate) fn head(&self) -> Option<(Place, &Party)> {
        self.heads.first().map(|(place, party)| (*place, party))
    }

    /// Puts a request in its place. Returns what [`remove`](Self::remove) takes off its waits.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        place: Place,
        party: &Party,
        give_up: Instant,
    ) -> Waits {
        self.give_up.insert((give_up, place.1));
        let queue = self.parties.entry(party.clone()).or_default();
        let first = queue.waiting.keys().next().copied();
        queue.waiting.insert(place, place.1);
        let before = queue.read(now, &self.clock);
        if first.is_none_or(|first| place < first) {
            if queue.parked {
                // It may need less than the one that the worker's limit held back.
                self.unpark(now, party);
            } else {
                if let Some(first) = first {
                    self.heads.remove(&(first, party.clone()));
                }
                self.heads.insert((place, party.clone()));
            }
        }
        before
    }

    /// Takes a request out. Returns its waits.
    pub(crate) fn remove(
        &mut self,
        now: Instant,
        place: Place,
        party: &Party,
        give_up: Instant,
        before: &Waits,
    ) -> Waits {
        self.give_up.remove(&(give_up, place.1));
        let Some(queue) = self.parties.get_mut(party) else { return Waits::default() };
        let waits = queue.read(now, &self.clock).since(before);
        queue.waiting.remove(&place);
        let next = queue.waiting.keys().next().copied();
        if self.heads.remove(&(place, party.clone())) {
            if let Some(next) = next {
                self.heads.insert((next, party.clone()));
            }
        } else if next.is_none_or(|next| place < next) {
            self.unpark(now, party);
        }
        if next.is_none() {
            self.parties.remove(party);
        }
        if self.is_empty() {
            self.blocked(now, None);
        }
        waits
    }

    /// The limit of the party's worker holds all of its requests back.
    ///
    /// They are looked at again when [`unpark`](Self::unpark) is called, and at `look_at`.
    pub(crate) fn park(
        &mut self,
        now: Instant,
        party: &Party,
        reason: WaitReason,
        look_at: Option<Instant>,
    ) {
        let Some(queue) = self.parties.get_mut(party) else { return };
        if let Some(first) = queue.waiting.keys().next() {
            self.heads.remove(&(*first, party.clone()));
        }
        queue.parked = true;
        queue.look_at = look_at;
        self.timers.extend(look_at.map(|at| (at, party.clone())));
        queue.parked_at = self.clock.read(now);
        queue.own.turn_to(now, Some(reason));
    }

    /// It may have ended.
    pub(crate) fn unpark(&mut self, now: Instant, party: &Party) {
        let Some(queue) = self.parties.get_mut(party).filter(|queue| queue.parked) else { return };
        queue.parked = false;
        if let Some(at) = queue.look_at.take() {
            self.timers.remove(&(at, party.clone()));
        }
        queue.own.turn_to(now, None);
        queue.hidden.add_all(&self.clock.read(now).since(&queue.parked_at));
        if let Some(first) = queue.waiting.keys().next() {
            self.heads.insert((*first, party.clone()));
        }
    }

    /// Brings back the parties whose time to be looked at has come.
    pub(crate) fn unpark_due(&mut self, now: Instant) {
        while let Some((_, party)) = self.timers.first().filter(|(at, _)| *at <= now) {
            let party = party.clone();
            self.unpark(now, &party);
        }
    }

    /// Something holds back all that are not parked; or nothing does.
    pub(crate) fn blocked(&mut self, now: Instant, reason: Option<WaitReason>) {
        if self.clock.running.map(|(reason, _)| reason) != reason {
            self.clock.turn_to(now, reason);
        }
    }

    /// Returns what holds them back.
    pub(crate) fn reason(&self) -> Option<WaitReason> {
        self.clock.running.map(|(reason, _)| reason)
    }

    /// Returns what holds this party back.
    pub(crate) fn reason_of(&self, party: &Party) -> Option<WaitReason> {
        let own = self.parties.get(party).and_then(|queue| queue.own.running);
        own.map(|(reason, _)| reason).or(self.reason())
    }

    /// Returns when a parked party is to be looked at, or somebody gives up.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.first_to_give_up().map(|(at, _)| at)).min()
    }

    /// Returns who gives up first, and when.
    pub(crate) fn first_to_give_up(&self) -> Option<(Instant, Id)> {
        self.give_up.first().copied()
    }
}
