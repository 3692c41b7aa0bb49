//! Heads of responses, and responses that are an error.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use crate::decision::Refused;
use crate::error::ApiError;
use crate::playback::{self, Body};
use crate::scenario::Step;

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const EVENT_STREAM: HeaderValue =
    HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Returns a response to the request with this number.
pub(crate) fn response(
    status: u16,
    content_type: HeaderValue,
    number: u64,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if let Ok(id) = HeaderValue::from_str(&request_id(number)) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Returns an error in the API's form.
pub(crate) fn error(status: u16, error: &ApiError, number: u64) -> Response<Body> {
    let body = error.to_json(&request_id(number)).to_string();
    response(status, JSON, number, playback::full(body))
}

/// Returns the answer to a request that is over a limit.
pub(crate) fn over_limit(refused: Refused, number: u64) -> Response<Body> {
    let Refused { why, limits } = refused;
    let mut answer = error(429, &ApiError::new(429, why.message()), number);
    answer.headers_mut().extend(limits);
    answer.headers_mut().extend([why.retry_after()]);
    answer
}

/// Returns the error that a step answers with instead of a message, if it does.
pub(crate) fn scripted_error(step: &Step, stream: bool, number: u64) -> Option<Response<Body>> {
    let status = step.error_status(stream)?;
    if let Some(body) = &step.body {
        return Some(response(status, JSON, number, playback::full(body.clone())));
    }
    let given = step.error.clone().or_else(|| step.sse_error.as_ref().map(|e| e.error()));
    let error_body = given.unwrap_or_else(|| {
        ApiError::new(status, "Rehearsal: the scenario answers with this error on purpose.")
    });
    Some(error(status, &error_body, number))
}

/// Adds a step's headers; they replace what is there.
pub(crate) fn add_headers(headers: &mut HeaderMap, step: &Step) {
    for (name, value) in &step.headers {
        // Checked when the scenario was read; a value with a task's name filled in is not used.
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

fn request_id(number: u64) -> String {
    format!("req_rehearsal_{number:06}")
}
