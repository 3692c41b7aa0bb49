//! How one request went.

use std::sync::Arc;

use http::{Method, StatusCode, uri::PathAndQuery};
use protocol::EgressKind;
use tokio::time::{Duration, Instant};

use crate::audit::{Trail, Tried};

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
    /// Where it is noted, if an attempt is known that it belongs to.
    trail: Option<(Trail, Arc<str>)>,
    model: Option<Arc<str>>,
    refused: Option<String>,
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
            trail: None,
            model: None,
            refused: None,
        }
    }

    /// Notes which attempt it belongs to, and which host it is for.
    pub(crate) fn set_trail(&mut self, trail: Option<Trail>, host: &Arc<str>) {
        self.trail = trail.map(|trail| (trail, Arc::clone(host)));
    }

    pub(crate) fn set_model(&mut self, model: &Arc<str>) {
        self.model = Some(Arc::clone(model));
    }

    /// Notes why the gateway said no.
    pub(crate) fn set_refused(&mut self, why: String) {
        self.refused = Some(why);
    }

    /// Returns whether somebody wants to know why the gateway said no.
    pub(crate) fn has_trail(&self) -> bool {
        self.trail.is_some()
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
        if let Some((trail, host)) = &self.trail {
            trail.note(&Tried {
                kind: EgressKind::Model,
                host: Some(host),
                port: None,
                method: Some(self.method.as_str()),
                path: Some(self.path.path()),
                model: self.model.as_deref(),
                bytes_up: self.bytes_up,
                bytes_down: self.bytes_down,
                refused: self.refused.as_deref(),
            });
        }
    }
}
