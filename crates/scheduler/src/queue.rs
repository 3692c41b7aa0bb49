//! The ready tasks of a worker, best first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::{Priority, Time};

use crate::graph::TaskIx;
use crate::run::RunIx;
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

/// The ready tasks of a worker, best first. Those of runs that are held are passed over, at no cost.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The tasks of each run, best first. None is empty.
    runs: BTreeMap<RunIx, BTreeSet<Rank>>,
    /// The best of each run that is not held, best first.
    heads: BTreeSet<(Rank, RunIx)>,
}

impl Queue {
    /// Adds a task of a run, which is `held` or not.
    pub(crate) fn insert(&mut self, run: RunIx, rank: Rank, held: bool) {
        work::count();
        let tasks = self.runs.entry(run).or_default();
        let head = tasks.first().copied();
        tasks.insert(rank);
        if !held && head.is_none_or(|head| rank < head) {
            if let Some(head) = head {
                self.heads.remove(&(head, run));
            }
            self.heads.insert((rank, run));
        }
    }

    pub(crate) fn remove(&mut self, run: RunIx, rank: &Rank) {
        work::count();
        let Some(tasks) = self.runs.get_mut(&run) else {
            return;
        };
        tasks.remove(rank);
        let head = tasks.first().copied();
        if head.is_none() {
            self.runs.remove(&run);
        }
        // The run is not held, and this was its best.
        if self.heads.remove(&(*rank, run))
            && let Some(head) = head
        {
            self.heads.insert((head, run));
        }
    }

    /// Passes a run over from now on, or no longer.
    pub(crate) fn hold(&mut self, run: RunIx, held: bool) {
        work::count();
        if let Some(&head) = self.runs.get(&run).and_then(BTreeSet::first) {
            match held {
                true => self.heads.remove(&(head, run)),
                false => self.heads.insert((head, run)),
            };
        }
    }

    /// Returns how many tasks there are, those of runs that are held included.
    pub(crate) fn len(&self) -> usize {
        self.runs.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn first(&self) -> Option<Rank> {
        work::count();
        self.heads.first().map(|&(rank, _)| rank)
    }
}
