//! How one request went.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::{Method, StatusCode};
use tokio::time::{Duration, Instant};

/// What is known about one request and its answer. Says it in one debug line when dropped.
///
/// Has no place for headers and bodies, nor for a query, so none can get into a log.
#[derive(Debug)]
pub(crate) struct Exchange {
    replica: Arc<str>,
    method: Method,
    path: String,
    started: Instant,
    status: Option<StatusCode>,
    first_byte: Option<Duration>,
    upload: Arc<Upload>,
    bytes_down: u64,
    end: End,
}

/// What a request's body reports while the exchange waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    bytes: AtomicU64,
    broken: AtomicBool,
    over: AtomicBool,
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

impl Upload {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Nothing more of the body will be asked for.
    pub(crate) fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Exchange {
    pub(crate) fn new(replica: Arc<str>, method: Method, path: String) -> Self {
        Self {
            replica,
            method,
            path,
            started: Instant::now(),
            status: None,
            first_byte: None,
            upload: Arc::default(),
            bytes_down: 0,
            end: End::ClientGone,
        }
    }

    pub(crate) fn upload(&self) -> Arc<Upload> {
        Arc::clone(&self.upload)
    }

    /// Returns whether the client broke off in the middle of its request.
    pub(crate) fn is_upload_broken(&self) -> bool {
        self.upload.broken.load(Ordering::Relaxed)
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
            path = self.path,
            status = self.status.map(|status| status.as_u16()),
            bytes_up = self.upload.bytes.load(Ordering::Relaxed),
            bytes_down = self.bytes_down,
            first_byte = self.first_byte.map(|after| after.as_secs_f64()),
            elapsed = self.started.elapsed().as_secs_f64(),
            end = ?self.end,
            "Exchange ended."
        );
    }
}
