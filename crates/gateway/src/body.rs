//! Bodies on their way, frame by frame, as they come.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    client::Answer,
    exchange::{End, Exchange, Upload},
    limits,
};

/// A request's body on its way to the upstream.
///
/// What the upstream doesn't take comes back: a client must be able to finish its request before
/// it can be expected to read the answer.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    upload: Arc<Upload>,
    rest: Option<oneshot::Sender<Incoming>>,
}

impl RequestBody {
    /// Returns the body to send, and where it comes back if it is dropped before its end.
    pub(crate) fn new(
        incoming: Incoming,
        upload: Arc<Upload>,
    ) -> (Self, oneshot::Receiver<Incoming>) {
        let (sender, rest) = oneshot::channel();
        (Self { incoming: Some(incoming), upload, rest: Some(sender) }, rest)
    }

    /// Returns what tells how far it is.
    pub(crate) fn upload(&self) -> Arc<Upload> {
        Arc::clone(&self.upload)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.upload.add(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => self.upload.set_broken(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.upload.set_over();
        if let (Some(incoming), Some(rest)) = (self.incoming.take(), self.rest.take()) {
            // Nobody waits for it when the client is gone.
            let _ = rest.send(incoming);
        }
    }
}

/// Reads what is left of a request's body, and forgets it, for [`limits::DRAIN_TIMEOUT`] at most.
pub(crate) async fn drain(mut rest: Incoming) {
    let reading = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Out of time: the client gets its answer now, or not at all.
    let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, reading).await;
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// An answer of the gateway itself.
    Own(Full<Bytes>),
    /// The upstream's answer.
    Upstream(Box<Download>),
}

/// The upstream's answer, watched for silence.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: Answer,
    exchange: Exchange,
    /// Runs while the upstream is being waited for, and only then.
    silence: Option<Pin<Box<Sleep>>>,
}

/// Why a response ends before its end. The client sees its connection break.
#[derive(Debug, Error)]
pub(crate) enum BrokenBody {
    #[error("the upstream broke off its answer")]
    Broken(#[source] hyper::Error),
    #[error("the upstream was silent for {} s", limits::IDLE_TIMEOUT.as_secs())]
    Silent,
}

impl Download {
    pub(crate) fn new(incoming: Answer, mut exchange: Exchange) -> Self {
        if incoming.is_end_stream() {
            exchange.set_end(End::Complete);
        }
        Self { incoming, exchange, silence: None }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            let silence = self.silence.get_or_insert_with(|| {
                Box::pin(sleep_until(Instant::now() + limits::IDLE_TIMEOUT))
            });
            ready!(silence.as_mut().poll(cx));
            self.exchange.set_end(End::Silent);
            return Poll::Ready(Some(Err(BrokenBody::Silent)));
        };
        self.silence = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.add_down(data.len());
                }
                // A body of known length is not asked for more after its last byte.
                if self.incoming.is_end_stream() {
                    self.exchange.set_end(End::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.exchange.set_end(End::Broken);
                Some(Err(BrokenBody::Broken(error)))
            }
            None => {
                self.exchange.set_end(End::Complete);
                None
            }
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
