//! The rehearsal as a server.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::cache::PromptCache;
use crate::limits::Buckets;
use crate::line::{Line, ResetSwitch};
use crate::listener::Listener;
use crate::scenario::{RuleUses, Scenario};
use crate::seen::{SeenRequest, SeenRequests};
use crate::service::Connection;

/// A stand-in for the model's API. Clones are cheap and are the same stand-in.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use rehearsal::{Rehearsal, Scenario};
///
/// let rehearsal = Rehearsal::new(Scenario::default());
/// let listener = tokio::net::UnixListener::bind("rehearsal.sock")?;
/// rehearsal.clone().serve_unix(listener, std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Rehearsal {
    shared: Arc<Shared>,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) scenario: Scenario,
    state: Mutex<State>,
    observer: Box<dyn Fn(&SeenRequest) + Send + Sync>,
}

/// What changes from request to request. Held only between two awaits, never over one.
#[derive(Debug)]
pub(crate) struct State {
    requests: u64,
    pub(crate) uses: RuleUses,
    pub(crate) cache: PromptCache,
    pub(crate) limits: Buckets,
    seen: SeenRequests,
}

impl State {
    pub(crate) fn next_number(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

impl Rehearsal {
    /// Returns a stand-in that answers by the scenario.
    pub fn new(scenario: Scenario) -> Self {
        Self::observed(scenario, |_| {})
    }

    /// Returns a stand-in that also shows each request to `observer`, when its answer is decided
    /// and before it is sent.
    pub fn observed(
        scenario: Scenario,
        observer: impl Fn(&SeenRequest) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            requests: 0,
            uses: RuleUses::new(&scenario),
            cache: PromptCache::default(),
            limits: Buckets::new(scenario.limits),
            seen: SeenRequests::default(),
        };
        let (state, observer) = (Mutex::new(state), Box::new(observer));
        Self { shared: Arc::new(Shared { scenario, state, observer }) }
    }

    /// Returns the last 1,000 requests, oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.state().seen.to_vec()
    }

    /// Serves the connections of a unix socket until `shutdown`.
    ///
    /// Open connections are closed then, in the middle of an answer if need be. So they are when
    /// the future is dropped.
    pub async fn serve_unix(self, listener: UnixListener, shutdown: impl Future<Output = ()>) {
        self.serve(listener, shutdown).await;
    }

    /// Serves the connections of a TCP socket until `shutdown`, as
    /// [`serve_unix`](Self::serve_unix).
    pub async fn serve_tcp(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.serve(listener, shutdown).await;
    }

    /// Serves one connection until its client leaves, or a scenario breaks it.
    pub async fn serve_stream<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_line(stream, |_| {}).await;
    }

    async fn serve<L: Listener>(self, listener: L, shutdown: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                // Empties the set of what is over; `None` when nothing is left.
                Some(_) = connections.join_next() => {}
                accepted = listener.next() => match accepted {
                    Ok(stream) => {
                        connections.spawn(self.clone().serve_line(stream, L::close_hard));
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "Cannot accept.");
                        // Out of file descriptors, most likely: trying again at once would spin.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    async fn serve_line<S>(self, stream: S, close_hard: fn(&S))
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let reset = Arc::new(ResetSwitch::default());
        let io = TokioIo::new(Line::new(stream, Arc::clone(&reset), close_hard));
        let connection = Connection::new(self.shared, reset);
        let service = hyper::service::service_fn(move |request| connection.clone().answer(request));
        if let Err(error) = http1::Builder::new().serve_connection(io, service).await {
            // Clients that leave early and scenarios that break off both end here.
            debug!(error = &error as &dyn std::error::Error, "Connection ended early.");
        }
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock leaves the state half-changed, so a panic did not either.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a request and shows it to the observer.
    pub(crate) fn saw(&self, request: SeenRequest) {
        (self.observer)(&request);
        self.state().seen.push(request);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}
