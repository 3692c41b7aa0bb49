//! Which attempt a replica works on.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use protocol::{Attempt, TaskId};

use crate::{caller::Caller, stop::Stop};

/// The attempt that a replica works on, if it does, as the daemon says.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<Option<Arc<Case>>>);

/// One attempt, as the gateway sees it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) caller: Caller,
    stop: OnceLock<Stop>,
    /// How many of its requests wait for something of ours.
    waiting: AtomicUsize,
}

/// A request that waits for something of ours, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
                Arc::new(Case { caller, stop: OnceLock::new(), waiting: AtomicUsize::new(0) })
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
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Returns whether a request of the attempt waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Notes why the attempt gets nothing more; the first reason stays.
    pub(crate) fn set_stop(&self, stop: Stop) -> &Stop {
        self.stop.get_or_init(|| stop)
    }
}
