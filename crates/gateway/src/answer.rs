//! What the gateway answers by itself, in the API's own form, so that the CLI shows the reason.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

use crate::{
    http1::BadHead,
    limits,
    policy::Forbidden,
    stop::{Stop, StopKind},
    upstream::Upstream,
};

/// The header by which an answer of the gateway itself is told from one of the upstream.
pub const GATEWAY_HEADER: HeaderName = HeaderName::from_static("x-supervisor-gateway");

/// [`GATEWAY_HEADER`] of a request that was not let through. To repeat it is useless.
pub const REFUSED: HeaderValue = HeaderValue::from_static("refused");

/// [`GATEWAY_HEADER`] of a request that the upstream did not answer. To repeat it may help.
pub const UNREACHABLE: HeaderValue = HeaderValue::from_static("unreachable");

/// [`GATEWAY_HEADER`] of a request for which there is nothing more: the attempt is at its end.
pub const STOPPED: HeaderValue = HeaderValue::from_static("stopped");

/// By this the CLI is kept from trying again; it heeds it for every status (measured, 2.1.327).
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Says in a hello how many milliseconds ago a request of the attempt waited here, and not for the upstream.
pub const WAITED_HEADER: HeaderName = HeaderName::from_static("x-supervisor-waited");

/// Returns the answer to the question whether somebody is here, which the CLI asks, and the worker of an agent
/// that is silent.
pub(crate) fn hello(waited: Option<Duration>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(GATEWAY_HEADER, HeaderValue::from_static("hello"));
    let waited = waited.and_then(|waited| u64::try_from(waited.as_millis()).ok());
    headers.extend(waited.map(|millis| (WAITED_HEADER, HeaderValue::from(millis))));
    response
}

/// A part of the API that a worker has no use for.
pub(crate) fn refused() -> Response<Bytes> {
    let message = "gateway: of the model's API only /v1/messages, /v1/messages/count_tokens, \
                   /v1/models and /api/hello are let through";
    error(StatusCode::NOT_FOUND, "not_found_error", message, REFUSED)
}

/// The attempt gets nothing more.
pub(crate) fn stopped(stop: &Stop) -> Response<Bytes> {
    let (status, kind) = match &stop.kind {
        StopKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        // Nobody's fault here, both: whoever has only the status must not count it either.
        StopKind::Overloaded | StopKind::Unreachable => (overloaded(), "overloaded_error"),
        StopKind::Auth => (StatusCode::UNAUTHORIZED, "authentication_error"),
        StopKind::Budget(_) | StopKind::Unbounded | StopKind::Billing => {
            (StatusCode::PAYMENT_REQUIRED, "billing_error")
        }
    };
    let mut response = error(status, kind, &format!("gateway: {}", stop.message), STOPPED);
    response.headers_mut().insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    response
}

/// The API's own status for "too many for now, of everybody together".
fn overloaded() -> StatusCode {
    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// The request is longer than what the API takes.
pub(crate) fn too_large() -> Response<Bytes> {
    let message = format!("gateway: the request has more than {} bytes", limits::MAX_REQUEST);
    error(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &message, REFUSED)
}

/// The request is none that the API would take.
pub(crate) fn unreadable(why: &dyn Error) -> Response<Bytes> {
    error(StatusCode::BAD_REQUEST, "invalid_request_error", &format!("gateway: {why}"), REFUSED)
}

/// What came is no request, or could be taken for another one than it is meant to be. Nothing that comes behind it
/// on its connection is read.
pub(crate) fn malformed(why: &BadHead) -> Response<Bytes> {
    let status = match why {
        BadHead::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    let message = format!("gateway: the request can't be read: {why}");
    error(status, "invalid_request_error", &message, REFUSED)
}

/// A request for the model's API came by a connection on which the egress proxy was asked before.
pub(crate) fn misdirected() -> Response<Bytes> {
    let message = "gateway: this connection is the egress proxy's; use another for the model's API";
    error(StatusCode::MISDIRECTED_REQUEST, "invalid_request_error", message, REFUSED)
}

/// What the request may cost can't be written down for now, so it is not sent.
pub(crate) fn unbookable(why: &dyn Error) -> Response<Bytes> {
    let message = format!("gateway: {why}: {}", causes(why));
    error(StatusCode::SERVICE_UNAVAILABLE, "api_error", &message, REFUSED)
}

/// There is nothing to book the request on.
pub(crate) fn unassigned() -> Response<Bytes> {
    let message = "gateway: no attempt runs here, so there is no one to ask the model for";
    error(StatusCode::FORBIDDEN, "permission_error", message, REFUSED)
}

/// The request contains what its worker's configuration does not allow. Others of the attempt may pass.
pub(crate) fn forbidden(why: &Forbidden) -> Response<Bytes> {
    let message = format!("gateway: {why}");
    let mut response = error(StatusCode::FORBIDDEN, "permission_error", &message, REFUSED);
    response.headers_mut().insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    response
}

/// Returns what an answer of the gateway itself says.
pub(crate) fn said(answer: &Response<Bytes>) -> String {
    let body = serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap_or_default();
    let said = body["error"]["message"].as_str().unwrap_or_default();
    said.strip_prefix("gateway: ").unwrap_or(said).to_owned()
}

/// Somebody calls who has not shown the replica's secret. Says nothing of what was wrong with it.
pub(crate) fn stranger(status: StatusCode) -> Response<Bytes> {
    let message = "gateway: this way out is for one replica, which has to show its secret";
    error(status, "authentication_error", message, REFUSED)
}

/// The upstream could not be reached: nothing was sent.
pub(crate) fn unreachable(upstream: &Upstream, why: &dyn Error) -> Response<Bytes> {
    let message = format!("gateway: {}", cannot_reach(upstream, why));
    error(StatusCode::BAD_GATEWAY, "api_error", &message, UNREACHABLE)
}

/// Says that there is no connection to the upstream, and why.
pub(crate) fn cannot_reach(upstream: &Upstream, why: &dyn Error) -> String {
    format!("cannot reach the model's API at {}: {}", upstream.host(), causes(why))
}

/// The upstream was reached and then gave no answer that could be handed on.
pub(crate) fn no_answer(upstream: &Upstream, why: &dyn Error) -> Response<Bytes> {
    let message =
        format!("gateway: the model's API at {} gave no answer: {}", upstream.host(), causes(why));
    error(StatusCode::BAD_GATEWAY, "api_error", &message, UNREACHABLE)
}

/// The upstream took longer than [`limits::RESPONSE_TIMEOUT`].
pub(crate) fn silent(upstream: &Upstream) -> Response<Bytes> {
    let message = format!(
        "gateway: the model's API at {} gave no answer within {} s",
        upstream.host(),
        limits::RESPONSE_TIMEOUT.as_secs()
    );
    error(StatusCode::GATEWAY_TIMEOUT, "timeout_error", &message, UNREACHABLE)
}

fn error(status: StatusCode, kind: &str, message: &str, by: HeaderValue) -> Response<Bytes> {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}});
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(GATEWAY_HEADER, by);
    response
}

/// Returns an error's causes, outermost first, in one line; or the error, if it has none. The
/// outermost error of the HTTP client only says that there is one.
fn causes(error: &dyn Error) -> String {
    let Some(mut cause) = error.source() else {
        return error.to_string();
    };
    let mut text = cause.to_string();
    while let Some(next) = cause.source() {
        let said = next.to_string();
        // Some errors repeat their cause in their own text.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next;
    }
    text
}
