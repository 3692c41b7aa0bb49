//! Ctrl-C while something is followed.

use tokio::signal::unix::{SignalKind, signal};

/// Does the work and returns what it returns, or `None` when somebody interrupts it.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    let Ok(mut interrupts) = signal(SignalKind::interrupt()) else {
        // Then the signal ends the process, as it does by itself.
        return Some(work.await);
    };
    tokio::select! {
        done = work => Some(done),
        _ = interrupts.recv() => None,
    }
}

/// Does the work and lets interrupts pass: they are for another program in the same terminal.
pub(crate) async fn beside_interrupts<T>(work: impl Future<Output = T>) -> T {
    let _caught = signal(SignalKind::interrupt());
    work.await
}
