//! The client side: connections to the upstream.

use std::{
    error::Error as StdError,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, ResponseFuture, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use thiserror::Error;
use tokio::net::UnixStream;
use tower_service::Service;

use crate::{
    body::RequestBody,
    limits,
    upstream::{Route, Upstream},
};

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A pool of connections to one upstream, shared by all replicas.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    Tcp(HyperClient<Bounded<HttpConnector>, RequestBody>),
    Tls(HyperClient<Bounded<HttpsConnector<HttpConnector>>, RequestBody>),
    Unix(HyperClient<Bounded<UnixConnector>, RequestBody>),
}

impl Client {
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, TlsRootsError> {
        let mut builder = HyperClient::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::POOL_IDLE_TIMEOUT)
            .http1_preserve_header_case(true)
            .http1_max_headers(limits::MAX_HEADERS)
            .http1_max_buf_size(limits::BUFFER);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        // Shared among a name's addresses, so that one dead address leaves time for the next.
        tcp.set_connect_timeout(Some(limits::CONNECT_TIMEOUT));
        // Finds out that the network is gone while a stream is silent.
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        Ok(match upstream.route() {
            Route::Unix(path) => {
                Self::Unix(builder.build(Bounded(UnixConnector(Arc::clone(path)))))
            }
            Route::Tcp if upstream.uses_tls() => {
                tcp.enforce_http(false);
                let tls = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                    .map_err(TlsRootsError)?
                    .https_only()
                    .enable_http1()
                    .wrap_connector(tcp);
                Self::Tls(builder.build(Bounded(tls)))
            }
            Route::Tcp => Self::Tcp(builder.build(Bounded(tcp))),
        })
    }

    /// Sends a request. To drop the returned future, or later the response's body, is to close
    /// the connection to the upstream.
    pub(crate) fn request(&self, request: Request<RequestBody>) -> ResponseFuture {
        match self {
            Self::Tcp(client) => client.request(request),
            Self::Tls(client) => client.request(request),
            Self::Unix(client) => client.request(request),
        }
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
