//! The threads on which connections are served.
//!
//! A runtime with several threads moves a task to whichever of them is idle, wakes threads for that, and
//! makes all of them share one queue, one timer and one poll of the system. For requests that only pass through
//! that is a quarter of the work. Here each thread has a runtime and connections to the upstream of its own: a
//! request begins and ends where its connection came in.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;

/// Where connections are served: each on one lane, in turns.
#[derive(Debug)]
pub(crate) struct Lanes {
    all: Vec<Lane>,
    next: AtomicUsize,
    /// Ends the threads.
    _ending: Option<DropGuard>,
}

#[derive(Debug)]
struct Lane {
    /// None: the runtime of whoever listens.
    runtime: Option<Handle>,
    client: Arc<Client>,
}

impl Lanes {
    /// Returns one lane, on the runtime of whoever listens.
    pub(crate) fn here(client: Client) -> Self {
        let all = vec![Lane { runtime: None, client: Arc::new(client) }];
        Self { all, next: AtomicUsize::new(0), _ending: None }
    }

    /// Starts threads, each of which is a lane.
    pub(crate) fn threads(count: NonZeroUsize, client: &Client) -> io::Result<Self> {
        let ending = CancellationToken::new();
        let start = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, ended) = (runtime.handle().clone(), ending.clone());
            thread::Builder::new()
                .name(format!("gateway-{number}"))
                .spawn(move || runtime.block_on(ended.cancelled()))?;
            Ok(Lane { runtime: Some(handle), client: Arc::new(client.with_own_connections()) })
        };
        let all = (0..count.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Self { all, next: AtomicUsize::new(0), _ending: Some(ending.drop_guard()) })
    }

    /// Serves a connection on the next lane. `serve` gets the lane's client.
    pub(crate) fn spawn<F>(&self, tasks: &mut JoinSet<()>, serve: impl FnOnce(Arc<Client>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let lane = &self.all[self.next.fetch_add(1, Ordering::Relaxed) % self.all.len()];
        let serving = serve(Arc::clone(&lane.client));
        match &lane.runtime {
            Some(runtime) => tasks.spawn_on(serving, runtime),
            None => tasks.spawn(serving),
        };
    }

    /// Returns the client of the first lane.
    pub(crate) fn client(&self) -> &Client {
        &self.all[0].client
    }
}
