//! One request's way through the gateway.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header::HOST, uri::PathAndQuery};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    admission::{self, Verdict},
    answer,
    body::{self, Download, RequestBody, ResponseBody},
    client::{Answer, Client, NoAnswer},
    credential::Credential,
    exchange::{End, Exchange},
    headers::strip_hop_by_hop,
    limits,
    upstream::Upstream,
};

/// What one replica's requests go through.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) replica: Arc<str>,
    pub(crate) upstream: Upstream,
    pub(crate) client: Client,
    pub(crate) credential: Option<Arc<Credential>>,
}

impl Proxy {
    /// Answers a request. Whatever goes wrong becomes an answer, too.
    ///
    /// # Cancel safety
    ///
    /// To drop the future, or later the response, is to break off the upstream's request at once. So
    /// hyper does when the client goes away.
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let mut exchange = Exchange::new(
            Arc::clone(&self.replica),
            request.method().clone(),
            request.uri().path().to_owned(),
        );
        let (answer, end) = match admission::judge(&request) {
            Verdict::Forward(path) => match self.forward(request, path, &mut exchange).await {
                Ok(response) => {
                    exchange.set_status(response.status());
                    return response.map(|incoming| {
                        ResponseBody::Upstream(Box::new(Download::new(incoming, exchange)))
                    });
                }
                Err(failure) => failure,
            },
            Verdict::Hello => (answer::hello(), End::Own),
            Verdict::Refuse(refusal) => {
                body::drain(request.into_body()).await;
                (answer::refused(refusal), End::Own)
            }
        };
        exchange.set_status(answer.status());
        exchange.add_down(answer.body().len());
        exchange.set_end(end);
        answer.map(|bytes| ResponseBody::Own(Full::new(bytes)))
    }

    /// Sends a request on and returns the upstream's answer; or the gateway's own one if there is none.
    async fn forward(
        &self,
        request: Request<Incoming>,
        path: PathAndQuery,
        exchange: &mut Exchange,
    ) -> Result<Response<Answer>, (Response<Bytes>, End)> {
        let (mut parts, incoming) = request.into_parts();
        parts.uri = match self.upstream.target(path) {
            Ok(uri) => uri,
            Err(error) => {
                return Err((answer::no_answer(&self.upstream, &error), End::Unreachable));
            }
        };
        parts.version = Version::HTTP_11;
        strip_hop_by_hop(&mut parts.headers);
        parts.headers.insert(HOST, self.upstream.host_header());
        // After the headers that `Connection` names are gone, so that it can't name this one.
        if let Some(credential) = &self.credential {
            credential.apply(&mut parts.headers);
        }
        // `parts` keeps its extensions: hyper keeps the spelling of the header names there.
        let (body, mut rest) = RequestBody::new(incoming, exchange.upload());
        let sending = self.client.request(Request::from_parts(parts, body));

        let failure = match tokio::time::timeout(limits::RESPONSE_TIMEOUT, sending).await {
            Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                // Nobody asked: `Upgrade` ends at this hop.
                let error = std::io::Error::other("it switched to another protocol");
                (answer::no_answer(&self.upstream, &error), End::Unreachable)
            }
            Ok(Ok(mut response)) => {
                *response.version_mut() = Version::HTTP_11;
                strip_hop_by_hop(response.headers_mut());
                return Ok(response);
            }
            Ok(Err(_)) if exchange.is_upload_broken() => {
                // Nobody reads this answer.
                let error = std::io::Error::other("the client broke off its request");
                return Err((answer::no_answer(&self.upstream, &error), End::ClientGone));
            }
            Ok(Err(error @ NoAnswer::Connect(_))) => {
                (answer::unreachable(&self.upstream, &error), End::Unreachable)
            }
            Ok(Err(error)) => (answer::no_answer(&self.upstream, &error), End::Unreachable),
            Err(_elapsed) => (answer::silent(&self.upstream), End::Silent),
        };
        if let Ok(rest) = rest.try_recv() {
            body::drain(rest).await;
        }
        Err(failure)
    }
}
