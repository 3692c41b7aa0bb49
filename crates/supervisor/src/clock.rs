//! The daemon's clock.

#[cfg(not(feature = "simulate"))]
use std::time::SystemTime;

use protocol::Time;
use tokio::time::Instant;

/// Returns the time that the wall's clock shows, which may go backwards.
pub fn wall() -> Time {
    #[cfg(feature = "simulate")]
    return crate::simulation::wall();
    #[cfg(not(feature = "simulate"))]
    return Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
}

/// A clock that never goes backwards: the wall's time when it was made, and monotonic time since.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Time,
    since: Instant,
}

impl Clock {
    /// Returns a clock that begins at the wall's time, or at `latest` if that is later: after a
    /// restart no event may seem older than one in the journal.
    pub fn starting_after(latest: Time) -> Self {
        Self { start: wall().max(latest), since: Instant::now() }
    }

    /// Returns the time.
    pub fn now(&self) -> Time {
        self.start + self.since.elapsed()
    }

    /// Returns the instant at which this clock shows `time`, for timers.
    pub fn instant(&self, time: Time) -> Instant {
        self.since + time.since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clock_that_was_set_back_goes_on_from_the_last_event() {
        // The journal's last event is from an hour ahead of the wall.
        let wall = Clock::starting_after(Time::ZERO).now();
        let latest = wall + Duration::from_secs(3600);
        let clock = Clock::starting_after(latest);
        assert_eq!(clock.now(), latest);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), latest + Duration::from_secs(5));
        assert_eq!(clock.instant(clock.now()), Instant::now());
    }
}
