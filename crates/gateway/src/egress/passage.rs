//! One connection to the outside, and how it went.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::Method;
use protocol::{EgressKind, WorkerId};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};

use super::target::Target;
use crate::{
    audit::{Trail, Tried},
    limits,
};

/// An open connection to the outside. Says how it went in one info line when dropped.
///
/// Has no place for what is sent, nor for a path, so neither can get into a log.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) target: Target,
    worker: WorkerId,
    address: SocketAddr,
    started: Instant,
    traffic: Arc<Traffic>,
    end: End,
    /// Where it is noted, and by which method it was asked for.
    note: Option<(Trail, Method)>,
    /// Why nothing of it was let through after all.
    refused: Option<String>,
    _place: OwnedSemaphorePermit,
}

/// How a connection to the outside ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides said all they had to say.
    Complete,
    /// One side broke off.
    Broken,
    /// Neither side said anything for [`limits::EGRESS_IDLE_TIMEOUT`].
    Idle,
    /// It is not what port 443 is for.
    Refused,
    /// The listener was closed. What holds until another is recorded.
    Closed,
}

impl Passage {
    /// Begins the record of a connection, and returns the connection, counted.
    pub(super) fn new(
        target: Target,
        worker: WorkerId,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        note: Option<(Trail, Method)>,
    ) -> io::Result<(Self, Counted<TcpStream>)> {
        let address = stream.peer_addr()?;
        let traffic = Arc::<Traffic>::default();
        let stream = Counted { stream, traffic: Arc::clone(&traffic) };
        let (started, end) = (Instant::now(), End::Closed);
        let passage = Self {
            target,
            worker,
            address,
            started,
            traffic,
            end,
            note,
            refused: None,
            _place: place,
        };
        Ok((passage, stream))
    }

    /// Records why nothing of it was let through after all.
    pub(super) fn set_refused(&mut self, why: String) {
        self.refused = Some(why);
    }

    /// Records how the connection ended.
    pub(super) fn set_end(&mut self, end: End) {
        self.end = end;
    }

    /// Returns when nothing has passed for [`limits::EGRESS_IDLE_TIMEOUT`], or a tenth more.
    pub(super) async fn idle(&self) {
        let mut seen = self.traffic.all();
        let mut quiet = 0;
        while quiet < 10 {
            sleep(limits::EGRESS_IDLE_TIMEOUT / 10).await;
            let now = self.traffic.all();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        tracing::info!(
            worker = %self.worker,
            host = self.target.host.as_str(),
            port = self.target.port,
            address = %self.address,
            bytes_up = self.traffic.up.load(Ordering::Relaxed),
            bytes_down = self.traffic.down.load(Ordering::Relaxed),
            elapsed = self.started.elapsed().as_secs_f64(),
            end = ?self.end,
            "Egress connection ended."
        );
        if let Some((trail, method)) = &self.note {
            let is_tunnel = *method == Method::CONNECT;
            trail.note(&Tried {
                kind: if is_tunnel { EgressKind::Connect } else { EgressKind::Http },
                host: Some(self.target.host.as_str()),
                port: Some(self.target.port),
                method: Some(method.as_str()).filter(|_| !is_tunnel),
                path: None,
                model: None,
                bytes_up: self.traffic.up.load(Ordering::Relaxed),
                bytes_down: self.traffic.down.load(Ordering::Relaxed),
                refused: self.refused.as_deref(),
            });
        }
    }
}

/// How many bytes have passed.
#[derive(Debug, Default)]
struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    fn all(&self) -> u64 {
        self.up.load(Ordering::Relaxed).wrapping_add(self.down.load(Ordering::Relaxed))
    }
}

/// A connection to the outside whose bytes are counted: up what is written, down what is read.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.traffic.down.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.traffic.up.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
