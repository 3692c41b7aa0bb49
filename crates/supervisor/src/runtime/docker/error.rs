//! What the engine's errors mean to us.

use bollard::errors::Error;

use crate::runtime::{RuntimeError, Source};

/// Returns the HTTP status that the engine answered with.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Says which call failed, and whether it got an answer at all.
pub(super) fn explain(
    endpoint: &str,
    action: &'static str,
    name: &str,
    error: Error,
) -> RuntimeError {
    if has_no_answer(&error) {
        return RuntimeError::Unreachable { endpoint: endpoint.to_owned(), source: cause(error) };
    }
    RuntimeError::Refused { action, name: name.to_owned(), source: cause(error) }
}

/// Returns whether the engine gave no answer, or only a part of one. The same call may succeed.
fn has_no_answer(error: &Error) -> bool {
    match error {
        Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => true,
        Error::JsonSerdeError { err } => err.is_eof(),
        // An engine that starts or stops says so.
        Error::DockerResponseServerError { status_code, .. } => *status_code == 503,
        _ => false,
    }
}

/// Returns the cause without bollard's wrapping, which would say it a second time.
fn cause(error: Error) -> Source {
    match error {
        Error::HyperLegacyError { err } => err.into(),
        Error::RequestTimeoutError => "it did not answer in time".into(),
        Error::SocketNotFoundError(_) => std::io::Error::from(std::io::ErrorKind::NotFound).into(),
        Error::DockerResponseServerError { status_code, message } => {
            format!("{} ({status_code})", message.trim()).into()
        }
        other => other.into(),
    }
}
