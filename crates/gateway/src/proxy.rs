//! One request's way through the gateway.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use crate::{
    account::Account,
    admission::{self, Verdict},
    answer,
    ask::{CountAsk, Demand},
    audit::{Audit, Trail},
    client::{Answer, Client, NoAnswer, RequestBody},
    conn::{Conn, Unread},
    credential::Credential,
    desk::{Case, Desk},
    download::{Download, without_key},
    egress::Egress,
    exchange::{End, Exchange},
    governor::Governor,
    http1::{Framing, RequestHead, put, put_length},
    limits,
    policy::RequestPolicy,
    room::Room,
    secret::SECRET_HEADER,
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
    pub(crate) requests: RequestPolicy,
    pub(crate) audit: Option<Audit>,
    /// The upstream's host, as it is noted.
    pub(crate) host: Arc<str>,
}

/// An answer of the gateway itself, and how the exchange ended by it.
pub(crate) type Own = Box<(Response<Bytes>, End)>;

pub(crate) fn own(answer: Response<Bytes>, end: End) -> Own {
    Box::new((answer, end))
}

/// What a client is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// By the gateway itself.
    Own(Response<Bytes>),
    /// By the upstream.
    Upstream(Box<Download>),
}

impl Proxy {
    /// Answers a request. Whatever goes wrong becomes an answer, too. The request's body need not be read by then.
    ///
    /// # Cancel safety
    ///
    /// To drop the future, or later the answer, is to break off the upstream's request at once.
    pub(crate) async fn serve(
        &self,
        request: &RequestHead,
        conn: &mut Conn,
        client: &Client,
    ) -> Reply {
        let mut exchange =
            Exchange::new(Arc::clone(&self.replica), request.method.clone(), request.path.clone());
        let answered = match admission::judge(&request.method, &request.path) {
            Verdict::Ask => self.ask_model(request, conn, client, &mut exchange).await,
            Verdict::Count => {
                let counted = self.count_tokens(request, conn, client, &mut exchange).await;
                counted.map(|answer| (answer, None))
            }
            Verdict::Forward { needs_attempt } => {
                let forwarded = match self.case(&mut exchange) {
                    Err(refused) if needs_attempt => Err(refused),
                    _ => self.forward(request, conn, client, None).await,
                };
                forwarded.map(|answer| (answer, None))
            }
            Verdict::Hello => {
                let waited = self.desk.current().and_then(|case| case.waited());
                Err(own(answer::hello(waited), End::Own))
            }
            Verdict::Refuse => {
                // Noted, if there is an attempt.
                let _ = self.case(&mut exchange);
                Err(own(answer::refused(), End::Own))
            }
        };
        match answered {
            Ok((answer, booking)) => {
                exchange.set_status(answer.head.status);
                Reply::Upstream(Box::new(Download::new(answer, exchange, booking)))
            }
            Err(own) => {
                let (answer, end) = *own;
                exchange.set_status(answer.status());
                exchange.set_up(conn.read());
                exchange.add_down(answer.body().len());
                exchange.set_end(end);
                if end == End::Own && exchange.has_trail() {
                    exchange.set_refused(answer::said(&answer));
                }
                Reply::Own(answer)
            }
        }
    }

    /// Returns the attempt that a request belongs to.
    pub(crate) fn case(&self, exchange: &mut Exchange) -> Result<Arc<Case>, Own> {
        let Some(case) = self.desk.current() else {
            return Err(own(answer::unassigned(), End::Own));
        };
        let trail = self.audit.as_ref().map(|audit| Trail::new(audit.clone(), Arc::clone(&case)));
        exchange.set_trail(trail, &self.host);
        Ok(case)
    }

    /// Reads a request's body.
    pub(crate) async fn whole(&self, conn: &mut Conn) -> Result<Bytes, Own> {
        conn.whole().await.map_err(|unread| match unread {
            Unread::TooLarge => own(answer::too_large(), End::Own),
            Unread::Broken => gone(&self.upstream),
        })
    }

    /// Refuses a request that contains what its worker's configuration does not allow.
    pub(crate) fn judge(
        &self,
        case: &Arc<Case>,
        model: &str,
        demands: &[Demand],
    ) -> Result<(), Own> {
        let (worker, egress) = (self.egress.worker(), self.egress.policy());
        self.requests.judge(worker, egress, model, demands).map_err(|forbidden| {
            tracing::debug!(%case.caller.task, %forbidden, "A request was refused.");
            let answer = answer::forbidden(&forbidden);
            self.governor.refuse(case, forbidden);
            own(answer, End::Own)
        })
    }

    /// Asks how many tokens a request has. It goes by the same rules as the request itself, but costs nothing.
    async fn count_tokens(
        &self,
        request: &RequestHead,
        conn: &mut Conn,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Answer, Own> {
        let _room = self.room.take(request.framing).await;
        let body = self.whole(conn).await?;
        let case = self.case(exchange)?;
        let ask = CountAsk::parse(&body).map_err(|why| own(answer::unreadable(&why), End::Own))?;
        exchange.set_model(&ask.model);
        self.judge(&case, &ask.model, &ask.demands)?;
        self.forward(request, conn, client, Some(body)).await
    }

    /// Sends a request on, as it comes or with the body that was read, and returns the upstream's answer; or the
    /// gateway's own one if there is none.
    async fn forward(
        &self,
        request: &RequestHead,
        conn: &mut Conn,
        client: &Client,
        read: Option<Bytes>,
    ) -> Result<Answer, Own> {
        let credential = match self.account.credential().await {
            Ok(credential) => credential,
            Err(stop) => return Err(own(answer::stopped(&stop), End::Own)),
        };
        let framing = match &read {
            Some(body) => Framing::Length(body.len() as u64),
            None => request.framing,
        };
        let head = self.outgoing(request, framing, credential.as_deref())?;
        let body = match read {
            Some(body) => RequestBody::Whole(body),
            None => RequestBody::Passing(&mut *conn, framing),
        };
        let sending = client.request(head, body, request.method == Method::HEAD, || ());

        match tokio::time::timeout(limits::RESPONSE_TIMEOUT, sending).await {
            Ok(Ok(answer)) => {
                self.governor.outage.ended();
                self.check(&answer)?;
                if answer.head.status.as_u16() < 400 {
                    return Ok(answer);
                }
                let error = without_key(answer, Some(conn), credential.as_deref()).await;
                Err(own(error, End::Complete))
            }
            Ok(Err(error)) => Err(self.no_answer(&error)),
            Err(_elapsed) => Err(own(answer::silent(&self.upstream), End::Silent)),
        }
    }

    /// Returns what is answered when the upstream gives no answer.
    pub(crate) fn no_answer(&self, error: &NoAnswer) -> Own {
        match error {
            NoAnswer::Connect(_) => {
                self.governor.outage.began(answer::cannot_reach(&self.upstream, error));
                own(answer::unreachable(&self.upstream, error), End::Unreachable)
            }
            NoAnswer::Exchange(_) => {
                own(answer::no_answer(&self.upstream, error), End::Unreachable)
            }
            NoAnswer::Gone => gone(&self.upstream),
        }
    }

    /// Returns what writes a request's head as it goes out, up to the body.
    pub(crate) fn outgoing<'a>(
        &'a self,
        request: &'a RequestHead,
        framing: Framing,
        credential: Option<&'a Credential>,
    ) -> Result<impl Fn(&mut Vec<u8>) + use<'a>, Own> {
        let target = self
            .upstream
            .target(&request.path)
            .map_err(|error| own(answer::no_answer(&self.upstream, &error), End::Unreachable))?;
        Ok(move |out: &mut Vec<u8>| {
            out.extend_from_slice(request.method.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(target.as_bytes());
            out.extend_from_slice(b" HTTP/1.1\r\n");
            put(out, b"host", self.upstream.host_header());
            request.fields.put_onward(out, |name| {
                // What is compressed can't be metered, nor searched for the key.
                let is_ours = matches!(name, b"host" | b"accept-encoding")
                    || name == SECRET_HEADER.as_str().as_bytes();
                is_ours || credential.is_some() && Credential::replaces(name)
            });
            match framing {
                Framing::Length(length) => put_length(out, length),
                Framing::Chunked | Framing::UntilClose => {
                    put(out, b"transfer-encoding", b"chunked");
                }
                Framing::None => {
                    if !matches!(request.method, Method::GET | Method::HEAD) {
                        put_length(out, 0);
                    }
                }
            }
            put(out, b"accept-encoding", b"identity");
            if let Some(credential) = credential {
                credential.put(out);
            }
            out.extend_from_slice(b"\r\n");
        })
    }

    /// Sees that an answer is one that can be handed on.
    pub(crate) fn check(&self, answer: &Answer) -> Result<(), Own> {
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked: `Upgrade` ends at this hop.
            let error = std::io::Error::other("it switched to another protocol");
            return Err(own(answer::no_answer(&self.upstream, &error), End::Unreachable));
        }
        Ok(())
    }
}

/// Returns an answer that nobody reads.
pub(crate) fn gone(upstream: &Upstream) -> Own {
    let error = std::io::Error::other("the client broke off its request");
    own(answer::no_answer(upstream, &error), End::ClientGone)
}
