//! One replica's proxy.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use protocol::{EgressKind, HostName, HostRule, SELF_TEST_HOST, WorkerId};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument as _;

use super::{
    outside::Outside,
    passage::{Counted, Passage},
    plain,
    refusal::{Refusal, Refusals},
    target::Target,
    tunnel,
};
use crate::{
    audit::{Audit, Trail, Tried},
    body::{self, ResponseBody},
    desk::Desk,
    limits,
    upstream::Upstream,
};

/// Which hosts a replica may reach besides the model's API. By default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// A host is allowed if one of these matches it.
    pub rules: Vec<HostRule>,
}

/// Why a host may not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// Why.
    pub reason: String,
    /// What to do about it, if there is something.
    pub cure: Option<String>,
}

impl EgressPolicy {
    pub(crate) fn allows(&self, target: &Target) -> bool {
        self.rule_for(target).is_some()
    }

    fn rule_for(&self, target: &Target) -> Option<&HostRule> {
        self.rules.iter().find(|rule| rule.matches(&target.host, target.port))
    }

    /// Returns the rule by which a worker reaches `destination`: a host with or without a port, or a URL. Looks up no
    /// name: whether the host's addresses are public is seen when it is reached.
    ///
    /// # Errors
    ///
    /// [`NotAllowed`], in the words that its tools are told.
    pub fn would_allow(
        &self,
        destination: &str,
        worker: &WorkerId,
        upstream: Option<&Upstream>,
    ) -> Result<HostRule, NotAllowed> {
        let target = match destination.contains("://") {
            true => Target::of_source(destination),
            false => Target::of_source(&format!("https://{destination}")),
        };
        let judged = target.and_then(|target| {
            if upstream.and_then(Upstream::host_name).as_ref() == Some(&target.host) {
                return Err(Refusal::Model(target));
            }
            self.rule_for(&target).cloned().ok_or(Refusal::NotListed(target))
        });
        judged.map_err(|refusal| NotAllowed {
            cure: refusal.hint(worker),
            reason: refusal.to_string(),
        })
    }
}

/// A forward proxy for the tools of one replica. To drop it is to end all of its connections.
#[derive(Debug)]
pub(crate) struct Egress {
    worker: WorkerId,
    policy: EgressPolicy,
    outside: Outside,
    /// The host of the model's API. Past the gateway nothing would be counted.
    model: Option<HostName>,
    audit: Option<(Audit, Arc<Desk>)>,
    places: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    connections: TaskTracker,
    closed: CancellationToken,
    _closing: DropGuard,
}

impl Egress {
    pub(crate) fn new(
        worker: WorkerId,
        policy: EgressPolicy,
        outside: Outside,
        model: Option<HostName>,
    ) -> Self {
        let closed = CancellationToken::new();
        Self {
            refusals: Arc::new(Refusals::new(worker.clone())),
            worker,
            policy,
            outside,
            model,
            audit: None,
            places: Arc::new(Semaphore::new(limits::MAX_EGRESS)),
            connections: TaskTracker::new(),
            _closing: closed.clone().drop_guard(),
            closed,
        }
    }

    /// Returns the same proxy, which notes what is tried in an attempt.
    pub(crate) fn noted(self, audit: Option<Audit>, desk: Arc<Desk>) -> Self {
        Self { audit: audit.map(|audit| (audit, desk)), ..self }
    }

    pub(crate) fn worker(&self) -> &WorkerId {
        &self.worker
    }

    pub(crate) fn policy(&self) -> &EgressPolicy {
        &self.policy
    }

    fn trail(&self) -> Option<Trail> {
        let (audit, desk) = self.audit.as_ref()?;
        Some(Trail::new(audit.clone(), desk.current()?))
    }

    /// Answers a `CONNECT`, or a request with an absolute URL. Whatever goes wrong becomes an answer, too.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before its end leaves nothing open.
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let method = request.method().clone();
        let is_tunnel = method == Method::CONNECT;
        let served =
            if is_tunnel { self.connect(request).await } else { self.forward(request).await };
        served.unwrap_or_else(|refusal| {
            let (host, port) = refusal.target();
            // A worker that starts makes sure that it is refused; no attempt has tried that.
            let is_tried = host != Some(SELF_TEST_HOST);
            if let Some(trail) = self.trail().filter(|_| is_tried) {
                trail.note(&Tried {
                    kind: if is_tunnel { EgressKind::Connect } else { EgressKind::Http },
                    host,
                    port,
                    method: Some(method.as_str()).filter(|_| !is_tunnel),
                    path: None,
                    model: None,
                    bytes_up: 0,
                    bytes_down: 0,
                    refused: Some(&refusal.to_string()),
                });
            }
            self.refusals.answer(&refusal).map(|bytes| ResponseBody::Own(Full::new(bytes)))
        })
    }

    /// Ends all connections, and returns when none is left.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.connections.close();
        self.connections.wait().await;
    }

    async fn connect(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let target = Target::of_connect(request.uri())?;
        let (passage, stream) = self.open(target, Method::CONNECT).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        self.spawn(tunnel::run(upgrade, stream, passage, Arc::clone(&self.refusals)));
        Ok(Response::new(ResponseBody::Own(Full::new(Bytes::new()))))
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Refusal> {
        let opened = match Target::of_absolute(&request) {
            Ok(target) => self.open(target, request.method().clone()).await,
            Err(refusal) => Err(refusal),
        };
        let (passage, stream) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                body::drain(request.into_body()).await;
                return Err(refusal);
            }
        };
        let target = passage.target.clone();
        let no_answer = |error| Refusal::NoAnswer(target.clone(), error);
        let (mut sender, connection) = plain::handshake(stream).await.map_err(no_answer)?;
        self.spawn(plain::run(connection, passage));
        let request = plain::rewrite(request, &target);
        let mut response = sender.send_request(request).await.map_err(no_answer)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked: `Upgrade` ends at this hop.
            return Err(Refusal::Switched(target));
        }
        plain::take_over(&mut response);
        Ok(response.map(ResponseBody::Egress))
    }

    /// Connects to where a request wants to go, if it may.
    async fn open(
        &self,
        target: Target,
        method: Method,
    ) -> Result<(Passage, Counted<TcpStream>), Refusal> {
        if self.model.as_ref() == Some(&target.host) {
            return Err(Refusal::Model(target));
        }
        if !self.policy.allows(&target) {
            return Err(Refusal::NotListed(target));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Refusal::TooMany(target));
        };
        let stream = self.outside.connect(&target).await?;
        let note = self.trail().map(|trail| (trail, method));
        Passage::new(target.clone(), self.worker.clone(), stream, place, note)
            .map_err(|error| Refusal::Unreachable(target, error))
    }

    /// Runs a connection to its end, or until the proxy is closed.
    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        let running = async move {
            // Dropped in either case, which is what ends and logs it.
            let _ = closed.run_until_cancelled_owned(connection).await;
        };
        self.connections.spawn(running.in_current_span());
    }
}
