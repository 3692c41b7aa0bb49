//! One request's way through the gateway.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, HOST},
    request::Parts,
    uri::PathAndQuery,
};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    account::Account,
    admission::{self, Verdict},
    answer,
    body::{self, Download, RequestBody, ResponseBody},
    client::{Answer, Client, NoAnswer},
    credential::Credential,
    desk::Desk,
    egress::Egress,
    exchange::{End, Exchange},
    governor::Governor,
    headers::strip_hop_by_hop,
    limits,
    room::Room,
    upstream::Upstream,
};

/// What one replica's requests go through.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) replica: Arc<str>,
    pub(crate) upstream: Upstream,
    pub(crate) account: Arc<Account>,
    pub(crate) governor: Arc<Governor>,
    pub(crate) staggers: bool,
    pub(crate) desk: Arc<Desk>,
    pub(crate) room: Room,
    pub(crate) egress: Egress,
}

/// An answer of the gateway itself, and how the exchange ended by it.
pub(crate) type Own = Box<(Response<Bytes>, End)>;

pub(crate) fn own(answer: Response<Bytes>, end: End) -> Own {
    Box::new((answer, end))
}

/// Returns an error of the upstream's without the key, should it quote what it was sent.
pub(crate) async fn without_key(
    response: Response<Answer>,
    credential: Option<&Credential>,
) -> Response<Bytes> {
    let (mut head, incoming) = response.into_parts();
    let said = body::short(incoming).await;
    head.headers.remove(CONTENT_LENGTH);
    let said = match credential {
        Some(credential) => credential.taken_out_of(said),
        None => said,
    };
    Response::from_parts(head, said)
}

impl Proxy {
    /// Answers a request. Whatever goes wrong becomes an answer, too.
    ///
    /// # Cancel safety
    ///
    /// To drop the future, or later the response, is to break off the upstream's request at once. So
    /// hyper does when the client goes away.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        client: &Client,
    ) -> Response<ResponseBody> {
        if admission::is_for_elsewhere(&request) {
            return self.egress.serve(request).await;
        }
        let mut exchange = Exchange::new(
            Arc::clone(&self.replica),
            request.method().clone(),
            request.uri().path().to_owned(),
        );
        let answered = match admission::judge(&request) {
            Verdict::Ask(path) => self.ask_model(request, path, client, &mut exchange).await,
            Verdict::Forward(path) => self
                .forward(request, path, client, &mut exchange)
                .await
                .map(|response| (response, None)),
            Verdict::Hello => Err(own(answer::hello(), End::Own)),
            Verdict::Refuse => {
                body::drain(request.into_body()).await;
                Err(own(answer::refused(), End::Own))
            }
        };
        match answered {
            Ok((response, booking)) => {
                exchange.set_status(response.status());
                response.map(|incoming| {
                    ResponseBody::Upstream(Box::new(Download::new(incoming, exchange, booking)))
                })
            }
            Err(own) => {
                let (answer, end) = *own;
                exchange.set_status(answer.status());
                exchange.add_down(answer.body().len());
                exchange.set_end(end);
                answer.map(|bytes| ResponseBody::Own(Full::new(bytes)))
            }
        }
    }

    /// Sends a request on as it comes, and returns the upstream's answer; or the gateway's own one if there
    /// is none.
    async fn forward(
        &self,
        request: Request<Incoming>,
        path: PathAndQuery,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Response<Answer>, Own> {
        let (mut parts, incoming) = request.into_parts();
        let credential = match self.account.credential().await {
            Ok(credential) => credential,
            Err(stop) => {
                body::drain(incoming).await;
                return Err(own(answer::stopped(&stop), End::Own));
            }
        };
        self.address(&mut parts, path, credential.as_deref())?;
        let (body, mut rest) = RequestBody::passing(incoming, exchange.upload());
        let sending = client.request(Request::from_parts(parts, body));

        let failure = match tokio::time::timeout(limits::RESPONSE_TIMEOUT, sending).await {
            Ok(Ok(response)) => {
                let response = self.incoming(response)?;
                if response.status().as_u16() < 400 {
                    return Ok(response);
                }
                let error = without_key(response, credential.as_deref()).await;
                return Err(own(error, End::Complete));
            }
            Ok(Err(_)) if exchange.is_upload_broken() => {
                // Nobody reads this answer.
                let error = std::io::Error::other("the client broke off its request");
                return Err(own(answer::no_answer(&self.upstream, &error), End::ClientGone));
            }
            Ok(Err(error @ NoAnswer::Connect(_))) => {
                own(answer::unreachable(&self.upstream, &error), End::Unreachable)
            }
            Ok(Err(error)) => own(answer::no_answer(&self.upstream, &error), End::Unreachable),
            Err(_elapsed) => own(answer::silent(&self.upstream), End::Silent),
        };
        if let Ok(rest) = rest.try_recv() {
            body::drain(rest).await;
        }
        Err(failure)
    }

    /// Makes a request's head the upstream's.
    pub(crate) fn address(
        &self,
        parts: &mut Parts,
        path: PathAndQuery,
        credential: Option<&Credential>,
    ) -> Result<(), Own> {
        parts.uri = self
            .upstream
            .target(path)
            .map_err(|error| own(answer::no_answer(&self.upstream, &error), End::Unreachable))?;
        parts.version = Version::HTTP_11;
        strip_hop_by_hop(&mut parts.headers);
        parts.headers.insert(HOST, self.upstream.host_header());
        // What is compressed can't be metered, nor searched for the key.
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // After the headers that `Connection` names are gone, so that it can't name this one.
        if let Some(credential) = credential {
            credential.apply(&mut parts.headers);
        }
        Ok(())
    }

    /// Makes an answer's head the client's.
    pub(crate) fn incoming(&self, mut response: Response<Answer>) -> Result<Response<Answer>, Own> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked: `Upgrade` ends at this hop.
            let error = std::io::Error::other("it switched to another protocol");
            return Err(own(answer::no_answer(&self.upstream, &error), End::Unreachable));
        }
        *response.version_mut() = Version::HTTP_11;
        strip_hop_by_hop(response.headers_mut());
        Ok(response)
    }
}
