//! Why a request does not get out, and how its sender is told.

use std::{io, net::IpAddr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use hyper::ext::ReasonPhrase;
use protocol::{HostRule, InvalidHost, SELF_TEST_HOST, WorkerId};
use thiserror::Error;
use tracing::{debug, warn};

use super::{client_hello::BadHello, target::Target};
use crate::{
    answer::{GATEWAY_HEADER, REFUSED, UNREACHABLE},
    limits,
    quota::Quota,
};

/// The header that says in one line why the egress proxy did not do as asked.
///
/// Most programs show neither body nor headers of a proxy's answer, some show its reason phrase. So it
/// is said in all three.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-supervisor-egress");

/// Why a request does not get out.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("the request can't be sent on: {0}")]
    Malformed(&'static str),
    #[error("`{host}` can't be reached: {why}")]
    NoName { host: String, port: u16, why: InvalidHost },
    #[error("`{0}` is not among the hosts that this worker may reach")]
    NotListed(Target),
    #[error("`{0}` is the model's API, which is reached through the gateway and not past it")]
    Model(Target),
    /// The address is for the log alone: what the names of our network lead to is nobody's business.
    #[error("`{target}` leads to an address that is not public ({kind})")]
    NotPublic { target: Target, address: IpAddr, kind: &'static str },
    #[error("{} connections to the outside are open", limits::MAX_EGRESS)]
    TooMany(Target),
    #[error("the name of `{0}` can't be resolved")]
    Unresolved(Target, #[source] io::Error),
    #[error("`{0}` can't be reached")]
    Unreachable(Target, #[source] io::Error),
    #[error("`{0}` gives no connection within {limit} s", limit = limits::CONNECT_TIMEOUT.as_secs())]
    TimedOut(Target),
    #[error("`{0}` gives no answer")]
    NoAnswer(Target, #[source] hyper::Error),
    #[error("`{0}` switches to another protocol; use CONNECT for that")]
    Switched(Target),
    #[error("what is sent to `{0}` is not allowed on port 443: {1}")]
    Tls(Target, BadHello),
}

impl Refusal {
    /// Returns the status of the answer, and [`GATEWAY_HEADER`].
    fn status(&self) -> (StatusCode, HeaderValue) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, REFUSED),
            Self::NoName { .. }
            | Self::NotListed(_)
            | Self::Model(_)
            | Self::NotPublic { .. }
            | Self::Tls(..) => (StatusCode::FORBIDDEN, REFUSED),
            Self::TooMany(_) => (StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
            Self::Unresolved(..)
            | Self::Unreachable(..)
            | Self::NoAnswer(..)
            | Self::Switched(_) => (StatusCode::BAD_GATEWAY, UNREACHABLE),
            Self::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, UNREACHABLE),
        }
    }

    /// Returns what the operator can do about it, if there is something.
    pub(crate) fn hint(&self, worker: &WorkerId) -> Option<String> {
        match self {
            Self::NotListed(target) => {
                let rule = match target.port {
                    HostRule::DEFAULT_PORT => target.host.to_string(),
                    _ => target.to_string(),
                };
                Some(format!(
                    "to allow it, add \"{rule}\" to `egress` in workspaces/{worker}/worker.toml"
                ))
            }
            Self::Malformed(_)
            | Self::NoName { .. }
            | Self::Model(_)
            | Self::NotPublic { .. }
            | Self::TooMany(_)
            | Self::Unresolved(..)
            | Self::Unreachable(..)
            | Self::TimedOut(_)
            | Self::NoAnswer(..)
            | Self::Switched(_)
            | Self::Tls(..) => None,
        }
    }

    /// Returns the host and the port that the request is for, as far as they are known.
    pub(super) fn target(&self) -> (Option<&str>, Option<u16>) {
        match self {
            Self::Malformed(_) => (None, None),
            Self::NoName { host, port, .. } => (Some(host), Some(*port)),
            Self::NotListed(target)
            | Self::Model(target)
            | Self::NotPublic { target, .. }
            | Self::TooMany(target)
            | Self::Unresolved(target, _)
            | Self::Unreachable(target, _)
            | Self::TimedOut(target)
            | Self::Switched(target)
            | Self::NoAnswer(target, _)
            | Self::Tls(target, _) => (Some(target.host.as_str()), Some(target.port)),
        }
    }

    /// Returns what the sender is told.
    fn answer(&self, worker: &WorkerId) -> Response<Bytes> {
        let said = match self.hint(worker) {
            Some(hint) => format!("gateway: {self}; {hint}"),
            None => format!("gateway: {self}"),
        };
        let mut response = Response::new(Bytes::from(format!("{said}\n")));
        let (status, by) = self.status();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(GATEWAY_HEADER, by);
        if let Ok(value) = HeaderValue::try_from(&said) {
            headers.insert(REASON_HEADER, value);
        }
        if let Ok(phrase) = ReasonPhrase::try_from(said) {
            response.extensions_mut().insert(phrase);
        }
        response
    }
}

/// Says no, to the sender and to the log.
#[derive(Debug)]
pub(super) struct Refusals {
    worker: WorkerId,
    warnings: Quota,
}

impl Refusals {
    pub(super) fn new(worker: WorkerId) -> Self {
        Self { worker, warnings: Quota::new() }
    }

    /// Writes a refusal to the log and returns what the sender is told.
    pub(super) fn answer(&self, refusal: &Refusal) -> Response<Bytes> {
        self.log(refusal);
        refusal.answer(&self.worker)
    }

    /// Writes a refusal to the log: there somebody looks for why a tool of an agent does not work.
    pub(super) fn log(&self, refusal: &Refusal) {
        let worker = tracing::field::display(&self.worker);
        let (host, port) = refusal.target();
        if host == Some(SELF_TEST_HOST) {
            debug!(worker, "Egress refused to a worker that starts, as it should be.");
            return;
        }
        let address = match refusal {
            Refusal::NotPublic { address, .. } => Some(tracing::field::display(address)),
            _ => None,
        };
        let hint = refusal.hint(&self.worker);
        let reason = refusal as &dyn std::error::Error;
        match self.warnings.take() {
            Some(left_out) => {
                let left_out = (left_out > 0).then_some(left_out);
                warn!(worker, host, port, address, reason, hint, left_out, "Egress refused.");
            }
            None => debug!(worker, host, port, address, reason, "Egress refused."),
        }
    }
}
