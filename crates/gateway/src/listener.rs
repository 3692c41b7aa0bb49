//! The daemon's gateway, and one listener per replica.

use std::{convert::Infallible, io, path::Path, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, error, info_span, warn};

use crate::{
    client::{Client, TlsRootsError},
    credential::Credential,
    limits,
    proxy::Proxy,
    socket::{self, ListenError, SocketFile},
    upstream::Upstream,
};

/// The way to the model's API, for all replicas of a daemon.
///
/// A clone is the same gateway; its connections to the upstream are shared.
#[derive(Clone, Debug)]
pub struct Gateway {
    upstream: Upstream,
    client: Client,
}

impl Gateway {
    /// Returns a gateway to `upstream`. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// For an `https` upstream the system's trusted certificates (or those of `SSL_CERT_FILE`)
    /// are read now; without one it can't work.
    pub fn new(upstream: Upstream) -> Result<Self, TlsRootsError> {
        let client = Client::new(&upstream)?;
        Ok(Self { upstream, client })
    }

    /// Opens the way out for a replica: a socket at `path`, where each request is sent on with
    /// `credential`, or with the client's own if there is none.
    ///
    /// The socket gets mode [`SOCKET_MODE`](crate::SOCKET_MODE): whoever finds it can use the key. So
    /// it belongs into a folder of its own below a private one; if its folder is missing it is made, with
    /// [`DIR_MODE`](crate::DIR_MODE). A socket that a dead process has left behind is replaced.
    ///
    /// # Errors
    ///
    /// If the path is too long for a socket, is taken by something that is not a dead socket, or the
    /// file system says no.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before its end has changed nothing.
    pub async fn listen(
        &self,
        replica: impl Into<Arc<str>>,
        path: &Path,
        credential: Option<Arc<Credential>>,
    ) -> Result<Listener, ListenError> {
        let replica = replica.into();
        let (socket, file) = socket::bind(path).await?;
        let span = info_span!("gateway", %replica);
        let proxy = Arc::new(Proxy {
            replica,
            upstream: self.upstream.clone(),
            client: self.client.clone(),
            credential,
        });
        let closed = CancellationToken::new();
        let accepting = accept(socket, proxy, closed.clone()).instrument(span);
        Ok(Listener { file, _closing: closed.drop_guard(), accepting: tokio::spawn(accepting) })
    }
}

/// The open way out of one replica. Ends when dropped, with every connection that is open.
#[derive(Debug)]
#[must_use = "a listener that is dropped is closed"]
pub struct Listener {
    file: SocketFile,
    /// Tells the accept loop to end; also when the listener is dropped without `close`.
    _closing: DropGuard,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Returns where the socket is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Removes the socket, ends all connections, and returns when none is left.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has closed the listener all the same; only the wait is cut short.
    pub async fn close(self) {
        let Self { file, _closing: closing, accepting } = self;
        drop(file);
        drop(closing);
        if let Err(panic) = accepting.await {
            error!(error = &panic as &dyn std::error::Error, "Accept loop failed.");
        }
    }
}

/// Takes connections until the listener is closed. Owns them: none outlives it.
async fn accept(socket: UnixListener, proxy: Arc<Proxy>, closed: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = closed.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(panic) = ended {
                    error!(error = &panic as &dyn std::error::Error, "Connection failed.");
                }
            }
            stream = next(&socket), if connections.len() < limits::MAX_CONNECTIONS => {
                connections.spawn(serve(stream, Arc::clone(&proxy)).in_current_span());
            }
        }
    }
    drop(socket);
    connections.shutdown().await;
}

/// Returns the next connection.
async fn next(socket: &UnixListener) -> UnixStream {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors or memory, as a rule. The connection waits in the queue.
                warn!(error = &error as &dyn std::error::Error, "Cannot accept a connection.");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve(stream: UnixStream, proxy: Arc<Proxy>) {
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, Infallible>(proxy.serve(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::KEEP_ALIVE_TIMEOUT)
        // Of header lines hyper takes 100. The CLI sends about 25, the API answers with about 40; for any other
        // number hyper would fetch memory for each message.
        .max_header_size(limits::BUFFER)
        .max_buf_size(limits::BUFFER)
        .preserve_header_case(true)
        // The upstream's answers have their own.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Mostly a client that went away, which is its right.
        debug!(error = &error as &dyn std::error::Error, "Connection broke.");
    }
}
