//! The ready tasks of a worker, best first.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use protocol::{Priority, Time};

use crate::graph::TaskIx;
use crate::urgency::Urgency;
use crate::work;

/// The level above the highest priority: overdue, ordered by age alone.
const OVERDUE: u8 = Priority::High as u8 + 1;

/// Where a ready task stands among the others: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    level: Reverse<u8>,
    path: Reverse<u16>,
    since: Time,
    ix: TaskIx,
    promotion: Option<Time>,
}

impl Rank {
    /// Returns the rank at `now` of a task that has been ready since `since`.
    pub(crate) fn new(
        ix: TaskIx,
        urgency: &Urgency,
        since: Time,
        now: Time,
        aging: Duration,
    ) -> Self {
        let aging = u64::try_from(aging.as_millis()).unwrap_or(u64::MAX).max(1);
        let waited = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let steps = waited / aging;
        let level = u8::try_from(steps).unwrap_or(u8::MAX).saturating_add(urgency.inherited as u8);
        let (level, path, promotion) = if level >= OVERDUE {
            (OVERDUE, 0, None)
        } else {
            let wait = Duration::from_millis(aging.saturating_mul(steps + 1));
            (level, urgency.path, Some(since + wait))
        };
        Self { level: Reverse(level), path: Reverse(path), since, ix, promotion }
    }

    pub(crate) fn task(&self) -> TaskIx {
        self.ix
    }

    /// Returns when the task moves up; `None` when it is at the top.
    pub(crate) fn promotion(&self) -> Option<Time> {
        self.promotion
    }
}

/// The ready tasks of a worker, best first.
#[derive(Debug, Default)]
pub(crate) struct Queue(BTreeSet<Rank>);

impl Queue {
    pub(crate) fn insert(&mut self, rank: Rank) {
        work::count();
        self.0.insert(rank);
    }

    pub(crate) fn remove(&mut self, rank: &Rank) {
        work::count();
        self.0.remove(rank);
    }

    pub(crate) fn first(&self) -> Option<Rank> {
        work::count();
        self.0.first().copied()
    }
}
