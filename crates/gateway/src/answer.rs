//! What the gateway answers by itself, in the API's own form, so that the CLI shows the reason.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

use crate::{admission::Refusal, limits, upstream::Upstream};

/// The header by which an answer of the gateway itself is told from one of the upstream.
pub const GATEWAY_HEADER: HeaderName = HeaderName::from_static("x-supervisor-gateway");

/// [`GATEWAY_HEADER`] of a request that was not let through. To repeat it is useless.
pub const REFUSED: HeaderValue = HeaderValue::from_static("refused");

/// [`GATEWAY_HEADER`] of a request that the upstream did not answer. To repeat it may help.
pub const UNREACHABLE: HeaderValue = HeaderValue::from_static("unreachable");

/// Returns the answer to the CLI's question whether somebody is here.
pub(crate) fn hello() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(GATEWAY_HEADER, HeaderValue::from_static("hello"));
    response
}

pub(crate) fn refused(refusal: Refusal) -> Response<Bytes> {
    let (status, kind, message) = refusal.answer();
    error(status, kind, message, REFUSED)
}

/// Somebody calls who has not shown the replica's secret. Says nothing of what was wrong with it.
pub(crate) fn stranger(status: StatusCode) -> Response<Bytes> {
    let message = "gateway: this way out is for one replica, which has to show its secret";
    error(status, "authentication_error", message, REFUSED)
}

/// The upstream could not be reached: nothing was sent.
pub(crate) fn unreachable(upstream: &Upstream, why: &dyn Error) -> Response<Bytes> {
    let message =
        format!("gateway: cannot reach the model's API at {}: {}", upstream.host(), causes(why));
    error(StatusCode::BAD_GATEWAY, "api_error", &message, UNREACHABLE)
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
