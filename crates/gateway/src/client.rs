//! The client side: connections to the upstream.

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    io,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{TrySendError, http1},
    rt::{Read, Write},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use thiserror::Error;
use tokio::net::UnixStream;
use tower_service::Service;

use crate::{
    body::RequestBody,
    limits,
    pool::Pool,
    upstream::{Route, Upstream},
};

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connections to one upstream, shared by all replicas.
///
/// A connection has no task of its own: whoever waits for its answer drives it. So a request's way
/// through the gateway is one task on one thread, and what has arrived together leaves together.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    connector: Connector,
    upstream: Uri,
    idle: Arc<Pool<Line>>,
}

#[derive(Clone, Debug)]
enum Connector {
    Tcp(Bounded<HttpConnector>),
    Tls(Bounded<HttpsConnector<HttpConnector>>),
    Unix(Bounded<UnixConnector>),
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum NoAnswer {
    /// Nothing was sent.
    #[error("cannot connect")]
    Connect(#[source] BoxError),
    /// The request may have been received, or a part of it.
    #[error("cannot exchange a request for an answer")]
    Exchange(#[source] hyper::Error),
}

impl Client {
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, TlsRootsError> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        // Shared among a name's addresses, so that one dead address leaves time for the next.
        tcp.set_connect_timeout(Some(limits::CONNECT_TIMEOUT));
        // Finds out that the network is gone while a stream is silent.
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = match upstream.route() {
            Route::Unix(path) => Connector::Unix(Bounded(UnixConnector(Arc::clone(path)))),
            Route::Tcp if upstream.uses_tls() => {
                tcp.enforce_http(false);
                let tls = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                    .map_err(TlsRootsError)?
                    .https_only()
                    .enable_http1()
                    .wrap_connector(tcp);
                Connector::Tls(Bounded(tls))
            }
            Route::Tcp => Connector::Tcp(Bounded(tcp)),
        };
        let idle = Pool::new(limits::POOL_IDLE_TIMEOUT);
        Ok(Self { connector, upstream: upstream.origin(), idle })
    }

    /// Returns a client to the same upstream that shares no connection with this one.
    pub(crate) fn with_own_connections(&self) -> Self {
        Self { idle: Pool::new(limits::POOL_IDLE_TIMEOUT), ..self.clone() }
    }

    /// Sends a request, whose URI is a path, and returns the upstream's answer.
    ///
    /// # Errors
    ///
    /// When a kept connection turns out to be closed before anything of the request is written, the request
    /// goes out on another one. All else is an error.
    ///
    /// # Cancel safety
    ///
    /// To drop the future, or later the response's body, is to close the connection to the upstream.
    pub(crate) async fn request(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Answer>, NoAnswer> {
        loop {
            let (mut line, is_kept) = match self.kept().await {
                Some(line) => (line, true),
                None => (self.connect().await.map_err(NoAnswer::Connect)?, false),
            };
            let upload = request.body().upload();
            match line.send(request).await {
                Ok(response) => {
                    let mut line = Some(line);
                    if !upload.is_over() {
                        // Must go on also while nobody reads the answer.
                        line.take().into_iter().for_each(Line::detach);
                    }
                    let (parts, incoming) = response.into_parts();
                    let mut answer = Answer { incoming, line, idle: Arc::clone(&self.idle) };
                    if answer.is_end_stream() {
                        at_once(|cx| answer.keep_line(cx)).await;
                    }
                    return Ok(Response::from_parts(parts, answer));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(NoAnswer::Exchange(error.into_error())),
                },
            }
        }
    }

    /// Returns a connection that was kept and is still open.
    async fn kept(&self) -> Option<Line> {
        loop {
            let mut line = self.idle.take()?;
            // Also finds out whether the other end has closed it.
            at_once(|cx| line.drive(cx)).await;
            if line.sender.is_ready() {
                return Some(line);
            }
        }
    }

    async fn connect(&self) -> Result<Line, BoxError> {
        let to = self.upstream.clone();
        match &self.connector {
            Connector::Tcp(connector) => Line::open(connector.clone().call(to).await?).await,
            Connector::Tls(connector) => Line::open(connector.clone().call(to).await?).await,
            Connector::Unix(connector) => Line::open(connector.clone().call(to).await?).await,
        }
    }
}

/// A connection to the upstream. To drop it is to close it.
pub(crate) struct Line {
    sender: http1::SendRequest<RequestBody>,
    /// Must be polled for anything to happen. None once it is closed.
    connection: Option<BoxFuture<hyper::Result<()>>>,
}

impl Line {
    async fn open<T>(io: T) -> Result<Self, BoxError>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        // The names of headers go on in lower case, both ways, as they do by HTTP/2. To keep how they were
        // spelled is an eighth of the work on a request, and says nothing to anybody.
        let (sender, connection) =
            http1::Builder::new().max_buf_size(limits::BUFFER).handshake(io).await?;
        Ok(Self { sender, connection: Some(Box::pin(connection)) })
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            // Before it is driven there can't be an answer, and afterwards nothing else wakes us.
            drive(&mut self.connection, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, cx);
    }

    /// Lets the connection go on by itself until the answer is read, or nobody wants it.
    fn detach(self) {
        if let Some(connection) = self.connection {
            // How it ends is seen in the answer's body.
            tokio::spawn(connection);
        }
    }
}

/// Calls a function that has to know who is to be woken.
async fn at_once(mut call: impl FnMut(&mut Context<'_>)) {
    poll_fn(|cx| {
        call(cx);
        Poll::Ready(())
    })
    .await;
}

/// Does what can be done on a connection without waiting.
fn drive(connection: &mut Option<BoxFuture<hyper::Result<()>>>, cx: &mut Context<'_>) {
    if let Some(open) = connection
        && open.as_mut().poll(cx).is_ready()
    {
        // An error is also the error of the exchange, or of the answer's body.
        *connection = None;
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("is_open", &self.connection.is_some()).finish_non_exhaustive()
    }
}

/// The body of the upstream's answer. Read to its end, its connection is kept for the next request.
#[derive(Debug)]
pub(crate) struct Answer {
    incoming: Incoming,
    /// None when it is kept already, or goes on by itself.
    line: Option<Line>,
    idle: Arc<Pool<Line>>,
}

impl Answer {
    /// Keeps the connection, after the last of the body.
    fn keep_line(&mut self, cx: &mut Context<'_>) {
        if let Some(mut line) = self.line.take() {
            // It only now finds out that the answer is over, and whether the other end keeps it, too.
            line.drive(cx);
            if line.sender.is_ready() {
                self.idle.keep(line);
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some(line) = &mut self.line
        {
            line.drive(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        let frame = ready!(frame);
        if frame.is_none() || self.incoming.is_end_stream() {
            self.keep_line(cx);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A connector that gives up after [`limits::CONNECT_TIMEOUT`], whatever it waits for.
#[derive(Clone, Debug)]
pub(crate) struct Bounded<C>(C);

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(limits::CONNECT_TIMEOUT, self.0.call(uri));
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_elapsed) => {
                    let seconds = limits::CONNECT_TIMEOUT.as_secs();
                    Err(format!("no connection after {seconds} s").into())
                }
            }
        })
    }
}

/// Connects to one unix socket, whatever the URI.
#[derive(Clone, Debug)]
pub(crate) struct UnixConnector(Arc<Path>);

impl Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = BoxFuture<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let path = Arc::clone(&self.0);
        Box::pin(async move { UnixStream::connect(&path).await.map(TokioIo::new) })
    }
}

/// The system's trusted certificates can't be read, so nobody at the other end can be trusted.
#[derive(Debug, Error)]
#[error("cannot read the system's trusted certificates")]
pub struct TlsRootsError(#[source] io::Error);

impl TlsRootsError {
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> String {
        "Install the package `ca-certificates`, or set SSL_CERT_FILE to a PEM file of trusted \
         certificates."
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never gets there.
    struct Nowhere;

    impl Service<Uri> for Nowhere {
        type Response = ();
        type Error = io::Error;
        type Future = std::future::Pending<io::Result<()>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _uri: Uri) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_never_comes_about_is_given_up() {
        let start = tokio::time::Instant::now();

        let error = Bounded(Nowhere).call(Uri::from_static("http://a")).await.unwrap_err();

        assert_eq!(error.to_string(), "no connection after 10 s");
        assert_eq!(start.elapsed().as_secs(), limits::CONNECT_TIMEOUT.as_secs());
    }
}
