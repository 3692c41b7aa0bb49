//! Who warms which prefix, and who waits. Time comes from the caller.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map},
    sync::Arc,
};

use protocol::Priority;
use tokio::{sync::Notify, time::Instant};

/// How many prefixes are remembered at most: one for each worker and model makes a few dozen, with those
/// of sub-agents a few hundred. What requests stand on is never forgotten.
const MAX_ENTRIES: usize = 4_096;

/// How many entries there are before the first look for cold ones.
const FIRST_SWEEP: usize = 64;

/// All prefixes that are warm or being warmed.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<u64, Entry, foldhash::fast::RandomState>,
    sweep_at: usize,
    last_number: u64,
}

/// What is known of one prefix.
#[derive(Debug, Default)]
struct Entry {
    warm_until: Option<Instant>,
    /// Those that have gone and have no first byte yet.
    gone: Vec<Request>,
    /// Those that wait. None does while the prefix is warm.
    waiting: Vec<(Request, Arc<Notify>)>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// Counts up from request to request.
    number: u64,
    priority: Priority,
}

/// What a request does that comes in.
#[derive(Debug)]
pub(super) enum Entered {
    /// It goes.
    Goes(u64),
    /// It waits until it is notified.
    Waits(u64, Arc<Notify>),
}

impl Table {
    /// Lets a request in, and gives it a number.
    pub(super) fn enter(&mut self, key: u64, priority: Priority, now: Instant) -> Entered {
        self.sweep(now);
        self.last_number += 1;
        let number = self.last_number;
        let request = Request { number, priority };
        let entry = self.entries.entry(key).or_default();
        if entry.is_warm(now) || entry.may_go(priority) {
            entry.gone.push(request);
            return Entered::Goes(number);
        }
        let turn = Arc::new(Notify::new());
        entry.waiting.push((request, Arc::clone(&turn)));
        Entered::Waits(number, turn)
    }

    /// Lets a request go that has waited long enough.
    pub(super) fn give_up(&mut self, key: u64, number: u64) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(at) = entry.waiting.iter().position(|(request, _)| request.number == number) {
            let (request, _) = entry.waiting.remove(at);
            entry.gone.push(request);
        }
    }

    /// The answer to a request begins.
    pub(super) fn warmed(&mut self, key: u64, number: u64, until: Instant, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.gone.retain(|request| request.number != number);
        entry.warm_until = entry.warm_until.max(Some(until));
        if !entry.is_warm(now) {
            // It began when its time was over already.
            return entry.settle();
        }
        for (request, turn) in entry.waiting.drain(..) {
            entry.gone.push(request);
            turn.notify_one();
        }
    }

    /// A request goes away without an answer.
    pub(super) fn left(&mut self, key: u64, number: u64) {
        let hash_map::Entry::Occupied(mut occupied) = self.entries.entry(key) else { return };
        let entry = occupied.get_mut();
        entry.gone.retain(|request| request.number != number);
        entry.waiting.retain(|(request, _)| request.number != number);
        entry.settle();
        if entry.is_idle() && entry.warm_until.is_none() {
            occupied.remove();
        }
    }

    /// Now and then forgets what is cold; where that is not enough, all that nobody stands on.
    fn sweep(&mut self, now: Instant) {
        if self.entries.len() < self.sweep_at.max(FIRST_SWEEP) {
            return;
        }
        self.entries.retain(|_, entry| !entry.is_idle() || entry.is_warm(now));
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.retain(|_, entry| !entry.is_idle());
        }
        // Only when there are twice as many, so that sweeping costs each request a few steps.
        self.sweep_at = (2 * self.entries.len()).clamp(FIRST_SWEEP, MAX_ENTRIES);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    fn is_warm(&self, now: Instant) -> bool {
        self.warm_until.is_some_and(|until| now < until)
    }

    fn is_idle(&self) -> bool {
        self.gone.is_empty() && self.waiting.is_empty()
    }

    /// Returns whether a request goes though the prefix is cold.
    fn may_go(&self, priority: Priority) -> bool {
        self.gone.iter().all(|request| request.priority < priority)
    }

    /// Lets those go that may.
    fn settle(&mut self) {
        let waiting = |entry: &Self| {
            let requests = entry.waiting.iter().map(|(request, _)| *request).enumerate();
            // Numbers grow: among equals the least one has waited longest.
            requests.max_by_key(|(_, request)| (request.priority, Reverse(request.number)))
        };
        while let Some((at, request)) = waiting(self)
            && self.may_go(request.priority)
        {
            let (_, turn) = self.waiting.remove(at);
            self.gone.push(request);
            turn.notify_one();
        }
    }
}
