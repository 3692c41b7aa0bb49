//! How one request went.

use std::sync::Arc;

use http::{Method, StatusCode, uri::PathAndQuery};
use tokio::time::{Duration, Instant};

/// What is known about one request and its answer. Says it in one debug line when dropped.
///
/// Has no place for headers and bodies, nor for a query, so none can get into a log.
#[derive(Debug)]
pub(crate) struct Exchange {
    replica: Arc<str>,
    method: Method,
    path: PathAndQuery,
    started: Instant,
    status: Option<StatusCode>,
    first_byte: Option<Duration>,
    bytes_up: u64,
    bytes_down: u64,
    end: End,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every byte of the upstream's answer was handed on.
    Complete,
    /// The gateway itself answered: hello, or no.
    Own,
    /// The upstream could not be reached, or broke off before it answered.
    Unreachable,
    /// The upstream was silent for too long.
    Silent,
    /// The upstream broke off in the middle of its answer.
    Broken,
    /// The client, or the listener, went away before the end. What holds until another is recorded.
    ClientGone,
}

impl Exchange {
    pub(crate) fn new(replica: Arc<str>, method: Method, path: PathAndQuery) -> Self {
        Self {
            replica,
            method,
            path,
            started: Instant::now(),
            status: None,
            first_byte: None,
            bytes_up: 0,
            bytes_down: 0,
            end: End::ClientGone,
        }
    }

    /// Notes how much of the request's body was read.
    pub(crate) fn set_up(&mut self, bytes: u64) {
        self.bytes_up = bytes;
    }

    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(crate) fn add_down(&mut self, bytes: usize) {
        self.first_byte.get_or_insert_with(|| self.started.elapsed());
        self.bytes_down += bytes as u64;
    }

    pub(crate) fn set_end(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        tracing::debug!(
            replica = %self.replica,
            method = %self.method,
            path = self.path.path(),
            status = self.status.map(|status| status.as_u16()),
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            first_byte = self.first_byte.map(|after| after.as_secs_f64()),
            elapsed = self.started.elapsed().as_secs_f64(),
            end = ?self.end,
            "Exchange ended."
        );
    }
}
