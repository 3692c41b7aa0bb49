//! Counts the work that a step does, in tests only: no clock is as exact.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Notes one unit of work: a turn of a loop, or a look into an index.
#[inline]
pub(crate) fn count() {
    #[cfg(test)]
    DONE.with(|done| done.set(done.get() + 1));
}

/// Returns the work since the last call on this thread.
#[cfg(test)]
pub(crate) fn take() -> u64 {
    DONE.with(std::cell::Cell::take)
}
