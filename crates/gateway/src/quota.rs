//! A bound on what a replica can make us write to the log.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::limits;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(60);

/// Counts warnings, so that there are [`limits::WARNINGS_PER_MINUTE`] at most. A replica can ask for
/// what it may not have as quickly as it can write.
#[derive(Debug)]
pub(crate) struct Quota(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    asked: u32,
}

impl Quota {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window { began: Instant::now(), asked: 0 }))
    }

    /// Returns whether to write one more warning: how many were left out in the window before this
    /// one, if this is the first of its window.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if window.began.elapsed() >= WINDOW {
            left_out = window.asked.saturating_sub(limits::WARNINGS_PER_MINUTE);
            *window = Window { began: Instant::now(), asked: 0 };
        }
        window.asked = window.asked.saturating_add(1);
        (window.asked <= limits::WARNINGS_PER_MINUTE).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn warnings_stop_at_the_bound_and_the_next_says_how_many_were_left_out() {
        let quota = Quota::new();
        for _ in 0..limits::WARNINGS_PER_MINUTE {
            assert_eq!(quota.take(), Some(0));
        }
        assert_eq!((quota.take(), quota.take()), (None, None));
        tokio::time::advance(WINDOW).await;
        assert_eq!((quota.take(), quota.take()), (Some(2), Some(0)));
    }
}
