//! The loop with played workers, on tokio's paused clock.

mod attempts;
mod checks;
mod commits;
mod decisions;
mod reports;
mod restarts;
mod views;
