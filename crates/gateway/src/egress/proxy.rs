//! One replica's proxy.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use protocol::{HostName, HostRule, WorkerId};
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
    body::{self, ResponseBody},
    limits,
};

/// Which hosts a replica may reach besides the model's API. By default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// A host is allowed if one of these matches it.
    pub rules: Vec<HostRule>,
}

impl EgressPolicy {
    fn allows(&self, target: &Target) -> bool {
        self.rules.iter().any(|rule| rule.matches(&target.host, target.port))
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
            places: Arc::new(Semaphore::new(limits::MAX_EGRESS)),
            connections: TaskTracker::new(),
            _closing: closed.clone().drop_guard(),
            closed,
        }
    }

    /// Answers a `CONNECT`, or a request with an absolute URL. Whatever goes wrong becomes an answer, too.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before its end leaves nothing open.
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let served = if request.method() == Method::CONNECT {
            self.connect(request).await
        } else {
            self.forward(request).await
        };
        served.unwrap_or_else(|refusal| {
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
        let (passage, stream) = self.open(target).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        self.spawn(tunnel::run(upgrade, stream, passage, Arc::clone(&self.refusals)));
        Ok(Response::new(ResponseBody::Own(Full::new(Bytes::new()))))
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Refusal> {
        let opened = match Target::of_absolute(&request) {
            Ok(target) => self.open(target).await,
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
    async fn open(&self, target: Target) -> Result<(Passage, Counted<TcpStream>), Refusal> {
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
        Passage::new(target.clone(), self.worker.clone(), stream, place)
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
