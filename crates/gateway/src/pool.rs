//! What is kept for the next one who needs it, but not for long.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::time::{Duration, Instant, sleep_until};

/// Things that are kept while nobody uses them.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    timeout: Duration,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// In the order in which they came, so the first is the oldest.
    kept: Vec<(Instant, T)>,
    is_swept: bool,
}

impl<T: Send + 'static> Pool<T> {
    /// Returns an empty pool, which lets go of what has not been taken for so long.
    pub(crate) fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Self { timeout, state: Mutex::new(State { kept: Vec::new(), is_swept: false }) })
    }

    /// Takes what was kept last.
    pub(crate) fn take(&self) -> Option<T> {
        self.lock().kept.pop().map(|(_, thing)| thing)
    }

    /// Keeps a thing for the next who takes it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn keep(self: &Arc<Self>, thing: T) {
        let mut state = self.lock();
        state.kept.push((Instant::now(), thing));
        if !mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.timeout));
        }
    }

    /// Drops what has been kept for too long. Returns when to look again, if there is anything left.
    fn drop_old(&self) -> Option<Instant> {
        let mut state = self.lock();
        let now = Instant::now();
        let old = state.kept.partition_point(|(since, _)| *since + self.timeout <= now);
        let dropped: Vec<(Instant, T)> = state.kept.drain(..old).collect();
        let next = state.kept.first().map(|(since, _)| *since + self.timeout);
        state.is_swept = next.is_some();
        drop(state);
        // Not under the lock: to close a connection takes its time.
        drop(dropped);
        next
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what is old until nothing is kept, or nobody has the pool any more.
async fn sweep<T: Send + 'static>(pool: Weak<Pool<T>>, timeout: Duration) {
    let mut next = Instant::now() + timeout;
    loop {
        sleep_until(next).await;
        match pool.upgrade().and_then(|pool| pool.drop_old()) {
            Some(at) => next = at,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_last_is_taken_first() {
        let pool = Pool::new(TIMEOUT);
        pool.keep(1);
        pool.keep(2);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(2), Some(1), None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_dropped_at_its_time_again_and_again() {
        let pool = Pool::new(TIMEOUT);
        for _ in 0..3 {
            let (first, second) = (Arc::new(()), Arc::new(()));
            pool.keep(Arc::clone(&first));
            tokio::time::sleep(TIMEOUT / 2).await;
            pool.keep(Arc::clone(&second));

            tokio::time::sleep(TIMEOUT / 2 - Duration::from_millis(2)).await;
            assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 2));
            tokio::time::sleep(Duration::from_millis(4)).await;
            assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
            tokio::time::sleep(TIMEOUT / 2).await;
            assert_eq!(Arc::strong_count(&second), 1);
        }
    }
}
