//! Which attempt a replica works on.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use protocol::{Attempt, RunId, TaskId, WorkerId};
use tokio::time::{Duration, Instant};

use crate::{caller::Caller, policy::Forbidden, stop::Stop};

/// The attempt that a replica works on, if it does, as the daemon says.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<Option<Arc<Case>>>);

/// One attempt, as the gateway sees it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) caller: Caller,
    stop: OnceLock<Stop>,
    waits: Mutex<Waits>,
    refused: Mutex<Refused>,
}

/// How many requests of an attempt contained what they must not, and what was said to the last.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    last: Forbidden,
}

/// Requests to the model that an attempt was refused, because they contained more than its worker's configuration
/// allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequests {
    /// The run of the task.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Whose attempt it is.
    pub worker: WorkerId,
    /// How many.
    pub count: u64,
    /// What the last of them contained, and where.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Which requests of an attempt wait for something of ours.
#[derive(Debug, Default)]
struct Waits {
    /// How many do.
    now: usize,
    /// When the last one went out, or away.
    ended: Option<Instant>,
}

/// A request that waits for something of ours, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Case);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits_mut();
        waits.now -= 1;
        waits.ended = Some(Instant::now());
    }
}

impl Desk {
    /// Says on whose account the replica's requests go from now on. Those that are under way stay where
    /// they were booked.
    pub(crate) fn assign(&self, caller: Option<Caller>) {
        let mut current = self.current_mut();
        // Said twice, it is the same attempt, with what is known of it.
        if current.as_ref().map(|case| &case.caller) != caller.as_ref() {
            *current = caller.map(|caller| {
                Arc::new(Case {
                    caller,
                    stop: OnceLock::new(),
                    waits: Mutex::default(),
                    refused: Mutex::default(),
                })
            });
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Case>> {
        self.current_mut().clone()
    }

    /// Returns why an attempt gets nothing more, if it is the last one that was assigned.
    pub(crate) fn stop(&self, task: &TaskId, attempt: Attempt) -> Option<Stop> {
        let case = self.current()?;
        let caller = &case.caller;
        ((&caller.task, caller.attempt) == (task, attempt)).then(|| case.stop().cloned())?
    }

    /// Returns what an attempt was refused, if anything, and if it is the last one that was assigned.
    pub(crate) fn refused(&self, task: &TaskId, attempt: Attempt) -> Option<RefusedRequests> {
        let refused = self.current()?.refused();
        ((&refused.task, refused.attempt) == (task, attempt) && refused.count > 0)
            .then_some(refused)
    }

    fn current_mut(&self) -> MutexGuard<'_, Option<Arc<Case>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Case {
    /// Returns why the attempt gets nothing more, if that is so.
    pub(crate) fn stop(&self) -> Option<&Stop> {
        self.stop.get()
    }

    /// Notes that a request of the attempt waits.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        self.waits_mut().now += 1;
        Waiting(self)
    }

    /// Returns how long ago a request of the attempt waited, if one ever did.
    pub(crate) fn waited(&self) -> Option<Duration> {
        let waits = self.waits_mut();
        if waits.now > 0 { Some(Duration::ZERO) } else { waits.ended.map(|at| at.elapsed()) }
    }

    fn waits_mut(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request was refused because of what it contained. Returns how many were by now.
    pub(crate) fn refuse(&self, why: Forbidden) -> u64 {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.count += 1;
        refused.last = why;
        refused.count
    }

    pub(crate) fn refused(&self) -> RefusedRequests {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Caller { run, task, attempt, worker, .. } = self.caller.clone();
        RefusedRequests {
            run,
            task,
            attempt,
            worker,
            count: refused.count,
            what: refused.last.what.clone(),
            hint: refused.last.hint.clone(),
        }
    }

    /// Notes why the attempt gets nothing more; the first reason stays.
    pub(crate) fn set_stop(&self, stop: Stop) -> &Stop {
        self.stop.get_or_init(|| stop)
    }
}
