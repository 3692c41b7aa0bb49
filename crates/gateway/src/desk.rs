//! Which attempt a replica works on.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
}

impl Desk {
    /// Says on whose account the replica's requests go from now on. Those that are under way stay where
    /// they were booked.
    pub(crate) fn assign(&self, caller: Option<Caller>) {
        let mut current = self.current_mut();
        // Said twice, it is the same attempt, with what is known of it.
        if current.as_ref().map(|case| &case.caller) != caller.as_ref() {
            *current = caller.map(|caller| Arc::new(Case { caller, stop: OnceLock::new() }));
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

    /// Notes why the attempt gets nothing more; the first reason stays.
    pub(crate) fn set_stop(&self, stop: Stop) -> &Stop {
        self.stop.get_or_init(|| stop)
    }
}
