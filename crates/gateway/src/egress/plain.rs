//! A plain HTTP request to another host.

use http::{HeaderValue, Request, Response, Uri, Version, header::HOST, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    passage::{Counted, End, Passage},
    target::{HTTP, Target},
};
use crate::{
    headers::{retain, strip_hop_by_hop},
    limits,
    secret::SECRET_HEADER,
};

type Outgoing = Connection<TokioIo<Counted<TcpStream>>, Incoming>;

/// Makes a request ours: its path alone, its host, and no header that ends here.
pub(super) fn rewrite(mut request: Request<Incoming>, target: &Target) -> Request<Incoming> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    retain(headers, |name| *name != SECRET_HEADER);
    let host = match target.port {
        HTTP => target.host.to_string(),
        _ => target.to_string(),
    };
    let host = HeaderValue::try_from(host).expect("BUG: a host should be a legal header value");
    headers.insert(HOST, host);
    request
}

/// Makes an answer ours.
pub(super) fn take_over(response: &mut Response<Incoming>) {
    *response.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(response.headers_mut());
}

/// Begins to speak HTTP.
pub(super) async fn handshake(
    stream: Counted<TcpStream>,
) -> Result<(SendRequest<Incoming>, Outgoing), hyper::Error> {
    Builder::new()
        // Some old server may know no other spelling.
        .title_case_headers(true)
        .max_buf_size(limits::BUFFER)
        .handshake(TokioIo::new(stream))
        .await
}

/// Carries one request and its answer, until both have ended or nothing passes any more.
pub(super) async fn run(connection: Outgoing, mut passage: Passage) {
    let end = tokio::select! {
        ended = connection => if ended.is_ok() { End::Complete } else { End::Broken },
        () = passage.idle() => End::Idle,
    };
    passage.set_end(end);
}
