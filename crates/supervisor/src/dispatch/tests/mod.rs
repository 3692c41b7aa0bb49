//! The loop with played workers, on tokio's paused clock.

mod attempts;

mod reports;
mod restarts;

