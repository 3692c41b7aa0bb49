//! A connection that can be cut with a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says whether the connection, when it closes, closes with a reset.
#[derive(Debug, Default)]
pub(crate) struct ResetSwitch(AtomicBool);

impl ResetSwitch {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A byte stream with its [`ResetSwitch`].
///
/// hyper owns the stream, so the switch is looked at when hyper lets go of it.
#[derive(Debug)]
pub(crate) struct Line<S> {
    stream: S,
    reset: Arc<ResetSwitch>,
    /// Makes the coming close a reset. Does nothing on streams that know no reset.
    close_hard: fn(&S),
}

impl<S> Line<S> {
    pub(crate) fn new(stream: S, reset: Arc<ResetSwitch>, close_hard: fn(&S)) -> Self {
        Self { stream, reset, close_hard }
    }
}

impl<S> Drop for Line<S> {
    fn drop(&mut self) {
        if self.reset.0.load(Ordering::Relaxed) {
            (self.close_hard)(&self.stream);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
