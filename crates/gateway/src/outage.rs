//! Whether the upstream can be reached, for people to see.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::{Duration, Instant};

/// Whether connections to the upstream come about.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// Whether there is something below: each answer looks here.
    is_noted: AtomicBool,
    /// When a connection last failed, and why, if none has come about since.
    last: Mutex<Option<(Instant, String)>>,
}

impl Outage {
    /// For how long a failure says how things are: while somebody wants to ask, somebody tries more often.
    const FRESH: Duration = Duration::from_secs(60);

    /// A connection failed.
    pub(crate) fn began(&self, why: String) {
        *self.last() = Some((Instant::now(), why));
        self.is_noted.store(true, Ordering::Relaxed);
    }

    /// One came about.
    pub(crate) fn ended(&self) {
        if self.is_noted.load(Ordering::Relaxed) {
            *self.last() = None;
            self.is_noted.store(false, Ordering::Relaxed);
        }
    }

    /// Returns why there is no connection, as far as is known now.
    pub(crate) fn why(&self) -> Option<String> {
        let last = self.last();
        let (at, why) = last.as_ref()?;
        (at.elapsed() < Self::FRESH).then(|| why.clone())
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
