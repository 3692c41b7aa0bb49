//! Room for requests that wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    http1::Framing,
    limits::{MAX_REQUEST, MAX_WAITING},
};

/// What one permit stands for, in bytes.
const UNIT: usize = 4096;

/// Memory for the requests of one replica to the model, which are kept until they are answered.
#[derive(Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WAITING / UNIT)))
    }

    /// Waits until there is room for a body that is framed so, which it has until what is returned is
    /// dropped. All of it is taken at once: two that had half of theirs would wait for each other.
    pub(crate) async fn take(&self, framing: Framing) -> Option<OwnedSemaphorePermit> {
        let told = match framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).unwrap_or(MAX_REQUEST),
            Framing::Chunked | Framing::UntilClose => MAX_REQUEST,
        };
        let bytes = told.clamp(1, MAX_REQUEST);
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        // Nobody closes it.
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}
