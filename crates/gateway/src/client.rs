//! The client side: connections to the upstream.

use std::{
    error::Error as StdError,
    future::poll_fn,
    io, mem,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use thiserror::Error;
use tokio::net::UnixStream;
use tower_service::Service;

use crate::{
    conn::{Conn, Gone},
    http1::{
        AnswerHead, BadBody, BadHead, CHUNK_END, Decoder, Framing, Inbuf, LAST_CHUNK, Outbuf,
        Reading, Then, Wire, put_chunk_head,
    },
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
    Exchange(#[source] Broken),
    /// The client broke off its request, or doesn't wait for an answer any more.
    #[error("the client broke off its request")]
    Gone,
}

/// Why an exchange with the upstream can't go on.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
    #[error("its answer can't be read: {0}")]
    Head(#[from] BadHead),
    #[error("its answer can't be read: {0}")]
    Body(#[from] BadBody),
    #[error("connection closed before the answer came")]
    NoHead,
    #[error("connection closed before the answer was over")]
    NoEnd,
}

/// What a request is sent with.
#[derive(Debug)]
pub(crate) enum RequestBody<'a> {
    /// What was read before, so that it can be sent more than once.
    Whole(Bytes),
    /// What comes, as it comes. It is framed as the head says.
    Passing(&'a mut Conn, Framing),
}

impl Client {
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, TlsRootsError> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        // Shared among a name's addresses, so that one dead address leaves time for the next.
        tcp.set_connect_timeout(Some(limits::CONNECT_TIMEOUT));
        // Finds out within a minute that the network is gone: while a stream is silent, and while a request is sent.
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(Duration::from_secs(60)));
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

    /// Sends a request, whose head `put_head` writes, all up to the body, and returns the upstream's answer. The request's body
    /// need not be out by then: see [`Answer::poll_upload`]. Calls `began` when something of it is written, perhaps
    /// more than once: before that, nothing was sent.
    ///
    /// # Errors
    ///
    /// When a kept connection turns out to be closed before anything of the request is written, the request
    /// goes out on another one. All else is an error.
    ///
    /// # Cancel safety
    ///
    /// To drop the future, or later the answer, is to close the connection to the upstream.
    pub(crate) async fn request(
        &self,
        put_head: impl Fn(&mut Vec<u8>),
        body: RequestBody<'_>,
        to_head: bool,
        mut began: impl FnMut(),
    ) -> Result<Answer, NoAnswer> {
        let (body, framing, mut conn) = match body {
            RequestBody::Whole(body) => (body, Framing::None, None),
            RequestBody::Passing(conn, framing) => (Bytes::new(), framing, Some(conn)),
        };
        loop {
            let kept = self.kept().await;
            let is_kept = kept.is_some();
            let mut line = match kept {
                Some(line) => line,
                None => self.connect().await.map_err(NoAnswer::Connect)?,
            };
            put_head(line.out.bytes_mut());
            let mut upload = Upload { body: body.clone(), sent: 0, framing, is_out: false };
            let exchanged = poll_fn(|cx| {
                let conn = conn.as_deref_mut();
                let exchanged = line.poll_exchange(&mut upload, conn, to_head, cx);
                if line.written > 0 {
                    began();
                }
                exchanged
            });
            match exchanged.await {
                Ok(head) => {
                    let answer = Answer {
                        decoder: Decoder::new(head.framing),
                        head,
                        line: Some(line),
                        upload: Some(upload).filter(|upload| !upload.is_out),
                        idle: Arc::clone(&self.idle),
                    };
                    return Ok(answer);
                }
                // Nothing of it was written, so nothing of the client's body was taken.
                Err(NoAnswer::Exchange(_)) if is_kept && line.written == 0 => {}
                Err(NoAnswer::Exchange(broken)) if line.written == 0 => {
                    return Err(NoAnswer::Connect(broken.into()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a connection that was kept and is still open.
    async fn kept(&self) -> Option<Line> {
        loop {
            let mut line = self.idle.take()?;
            // What comes unasked, or the end: whichever it is, no answer of ours would be told from it.
            let fill = |cx: &mut Context<'_>| {
                Poll::Ready(line.inbuf.poll_fill(&mut line.wire, cx, limits::BUFFER).is_ready())
            };
            if !poll_fn(fill).await {
                line.written = 0;
                return Some(line);
            }
        }
    }

    async fn connect(&self) -> Result<Line, BoxError> {
        let to = self.upstream.clone();
        let wire = match &self.connector {
            Connector::Tcp(connector) => Wire::Tcp(connector.clone().call(to).await?.into_inner()),
            Connector::Tls(connector) => {
                Wire::Tls(Box::new(TokioIo::new(connector.clone().call(to).await?)))
            }
            Connector::Unix(connector) => Wire::Unix(connector.clone().call(to).await?),
        };
        let (inbuf, out, reading) = Default::default();
        Ok(Line { wire, inbuf, out, reading, written: 0 })
    }
}

/// A connection to the upstream. To drop it is to close it.
#[derive(Debug)]
pub(crate) struct Line {
    wire: Wire,
    inbuf: Inbuf,
    out: Outbuf,
    reading: Reading,
    /// How much of the request was written.
    written: u64,
}

/// The rest of a request.
#[derive(Debug)]
struct Upload {
    /// A body that was read before, and how much of it is gone.
    body: Bytes,
    sent: usize,
    /// How the client's is to be framed, if it is sent as it comes.
    framing: Framing,
    is_out: bool,
}

/// Why an upload can't go on.
enum Stopped {
    Client,
    Upstream(io::Error),
}

impl Line {
    /// Sends a request, and waits for its answer meanwhile: it may come early.
    fn poll_exchange(
        &mut self,
        upload: &mut Upload,
        mut conn: Option<&mut Conn>,
        to_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<AnswerHead, NoAnswer>> {
        let mut failure = None;
        if !upload.is_out {
            match self.poll_upload(upload, conn.as_deref_mut(), cx) {
                Poll::Ready(Err(Stopped::Client)) => return Poll::Ready(Err(NoAnswer::Gone)),
                Poll::Ready(Err(Stopped::Upstream(error))) => failure = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if upload.is_out
            && let Some(conn) = conn
            && conn.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Err(NoAnswer::Gone));
        }
        loop {
            if self.written > 0 {
                match self.reading.answer(self.inbuf.bytes(), to_head) {
                    Err(bad) => return Poll::Ready(Err(NoAnswer::Exchange(bad.into()))),
                    Ok(Some((head, length))) => {
                        self.inbuf.consume(length);
                        // "Go on", and the like. We do in any case.
                        if head.status.is_informational()
                            && head.status != StatusCode::SWITCHING_PROTOCOLS
                        {
                            continue;
                        }
                        if failure.is_some() {
                            // It has said why, and takes no more.
                            upload.is_out = true;
                        }
                        return Poll::Ready(Ok(AnswerHead {
                            keeps_alive: head.keeps_alive && failure.is_none(),
                            ..head
                        }));
                    }
                    Ok(None) => {}
                }
            } else if let Some(error) = failure {
                return Poll::Ready(Err(NoAnswer::Exchange(error.into())));
            }
            let filled = self.inbuf.poll_fill(&mut self.wire, cx, limits::BUFFER);
            let broken = match (filled, failure.take()) {
                (Poll::Ready(Ok(1..)), none) => {
                    failure = none;
                    continue;
                }
                (Poll::Pending, None) => return Poll::Pending,
                (Poll::Ready(_) | Poll::Pending, Some(error)) => error.into(),
                (Poll::Ready(Ok(0)), None) => Broken::NoHead,
                (Poll::Ready(Err(error)), None) => error.into(),
            };
            return Poll::Ready(Err(NoAnswer::Exchange(broken)));
        }
    }

    /// Sends what there is of a request. Is ready when that was all.
    fn poll_upload(
        &mut self,
        upload: &mut Upload,
        mut conn: Option<&mut Conn>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        loop {
            let before = self.out.len() + upload.body.len() - upload.sent;
            let flushed = self.out.poll_flush(&upload.body, &mut upload.sent, &mut self.wire, cx);
            let after = self.out.len() + upload.body.len() - upload.sent;
            self.written += (before - after) as u64;
            ready!(flushed).map_err(Stopped::Upstream)?;
            let Some(conn) = conn.as_deref_mut().filter(|_| upload.framing != Framing::None) else {
                // Its memory is somebody else's from now on.
                upload.body = Bytes::new();
                upload.sent = 0;
                upload.is_out = true;
                return Poll::Ready(Ok(()));
            };
            let is_chunked = upload.framing == Framing::Chunked;
            let out = self.out.bytes_mut();
            match ready!(conn.poll_body(cx)).map_err(|Gone| Stopped::Client)? {
                Some(len) => {
                    if is_chunked {
                        put_chunk_head(out, len);
                    }
                    out.extend_from_slice(conn.data(len));
                    conn.take(len);
                    if is_chunked {
                        out.extend_from_slice(CHUNK_END);
                    }
                }
                None => {
                    if is_chunked {
                        out.extend_from_slice(LAST_CHUNK);
                    }
                    upload.framing = Framing::None;
                }
            }
        }
    }
}

/// The upstream's answer. Read to its end, its connection is kept for the next request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: AnswerHead,
    decoder: Decoder,
    /// None when it is kept already, or closed.
    line: Option<Line>,
    /// The rest of the request, if there is one.
    upload: Option<Upload>,
    idle: Arc<Pool<Line>>,
}

impl Answer {
    /// Gives up the head's lines, which are written. Their memory serves the next answer.
    pub(crate) fn recycle_fields(&mut self) {
        if let Some(line) = &mut self.line {
            line.reading.recycle(mem::take(&mut self.head.fields));
        }
    }

    /// Returns whether a part of the request is still to be sent.
    pub(crate) fn is_uploading(&self) -> bool {
        self.upload.is_some() && self.line.is_some()
    }

    /// Sends the rest of the request. That must go on also while nobody reads the answer. Is ready when there is no
    /// more to do.
    ///
    /// # Errors
    ///
    /// When the client broke off its request.
    pub(crate) fn poll_upload(
        &mut self,
        conn: Option<&mut Conn>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        let (Some(upload), Some(line)) = (&mut self.upload, &mut self.line) else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(line.poll_upload(upload, conn, cx));
        self.upload = None;
        Poll::Ready(match sent {
            Ok(()) => Ok(()),
            Err(Stopped::Client) => Err(Gone),
            Err(Stopped::Upstream(_)) => {
                // It takes no more, and may have said why.
                self.head.keeps_alive = false;
                Ok(())
            }
        })
    }

    /// Returns how many bytes of the body are at hand, [`data`](Self::data), or that more must be waited for, or that
    /// it is over.
    pub(crate) fn at_hand(&mut self) -> Result<Then, Broken> {
        let Some(line) = &mut self.line else { return Ok(Then::End) };
        let step = self.decoder.step(line.inbuf.bytes())?;
        line.inbuf.consume(step.skip);
        if step.then == Then::End {
            // What comes behind an answer is nothing that was asked for.
            let is_clean = line.inbuf.is_empty() && self.head.keeps_alive && self.upload.is_none();
            if let Some(line) = self.line.take().filter(|_| is_clean) {
                self.idle.keep(line);
            }
        }
        Ok(step.then)
    }

    /// Returns the bytes that are at hand.
    pub(crate) fn data(&self, len: usize) -> &[u8] {
        self.line.as_ref().map_or(&[], |line| &line.inbuf.bytes()[..len])
    }

    /// Takes bytes that were at hand.
    pub(crate) fn take(&mut self, len: usize) {
        if let Some(line) = &mut self.line {
            line.inbuf.consume(len);
            self.decoder.took(len);
        }
    }

    /// Waits until more is at hand.
    ///
    /// # Errors
    ///
    /// When the upstream breaks off.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(line) = &mut self.line else { return Poll::Ready(Ok(())) };
        let filled = ready!(line.inbuf.poll_fill(&mut line.wire, cx, limits::BUFFER))?;
        if filled == 0 {
            // Some answers end so. None that was broken off does.
            self.head.keeps_alive = false;
            if !self.decoder.close() {
                return Poll::Ready(Err(Broken::NoEnd));
            }
        }
        Poll::Ready(Ok(()))
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
    type Response = UnixStream;
    type Error = io::Error;
    type Future = BoxFuture<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let path = Arc::clone(&self.0);
        Box::pin(async move { UnixStream::connect(&path).await })
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
