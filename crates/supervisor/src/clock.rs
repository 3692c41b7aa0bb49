//! The daemon's clock.

use std::time::SystemTime;

use protocol::Time;
use tokio::time::Instant;

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
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Time::ZERO + wall;
        Self { start: wall.max(latest), since: Instant::now() }
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
