//! Bodies on their way, frame by frame, as they come.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    booking::Booking,
    client::Answer,
    exchange::{End, Exchange, Upload},
    limits,
};

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// It was read before, so that it can be sent more than once.
    Whole(Whole),
    /// It is sent on as it comes.
    Passing(Passing),
}

impl RequestBody {
    /// Returns a body that was read before.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Whole { body: Full::new(bytes), upload: Arc::default() })
    }

    /// Returns what tells how far it is.
    pub(crate) fn upload(&self) -> Arc<Upload> {
        match self {
            Self::Whole(body) => Arc::clone(&body.upload),
            Self::Passing(body) => Arc::clone(&body.upload),
        }
    }

    /// Returns the body to send, and where it comes back if it is dropped before its end.
    pub(crate) fn passing(
        incoming: Incoming,
        upload: Arc<Upload>,
    ) -> (Self, oneshot::Receiver<Incoming>) {
        let (sender, rest) = oneshot::channel();
        let passing = Passing { incoming: Some(incoming), upload, rest: Some(sender) };
        (Self::Passing(passing), rest)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                Pin::new(&mut body.body).poll_frame(cx).map_err(|never| match never {})
            }
            Self::Passing(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.body.is_end_stream(),
            Self::Passing(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.body.size_hint(),
            Self::Passing(body) => body.size_hint(),
        }
    }
}

/// A body that was read before.
#[derive(Debug)]
pub(crate) struct Whole {
    body: Full<Bytes>,
    upload: Arc<Upload>,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.upload.set_over();
    }
}

/// A body that is sent on as it comes.
///
/// What the upstream doesn't take comes back: a client must be able to finish its request before
/// it can be expected to read the answer.
#[derive(Debug)]
pub(crate) struct Passing {
    incoming: Option<Incoming>,
    upload: Arc<Upload>,
    rest: Option<oneshot::Sender<Incoming>>,
}

impl Body for Passing {
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

impl Drop for Passing {
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

/// Why a request's body could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It has more than [`limits::MAX_REQUEST`] bytes.
    TooLarge,
    /// The client broke off.
    Broken,
}

/// Reads a request's body to its end.
///
/// # Errors
///
/// [`Unread`]; of a body that is too large the rest is drained, so that the client reads the answer.
pub(crate) async fn whole(mut incoming: Incoming, upload: &Upload) -> Result<Bytes, Unread> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| upload.set_broken()).map(Frame::into_data) else {
            return Err(Unread::Broken);
        };
        let Ok(data) = data else { continue };
        upload.add(data.len());
        if first.len() + all.len() + data.len() > limits::MAX_REQUEST {
            drain(incoming).await;
            return Err(Unread::TooLarge);
        }
        // Most requests come in one piece, which needs no copy.
        if first.is_empty() && all.is_empty() {
            let known = usize::try_from(incoming.size_hint().lower()).unwrap_or(0);
            if known > 0 {
                all.reserve(data.len() + known.min(limits::MAX_REQUEST));
                all.extend_from_slice(&data);
            } else {
                first = data;
            }
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Returns a short body of the upstream's, as far as it comes soon; what is longer is cut off.
pub(crate) async fn short(mut incoming: Answer) -> Bytes {
    let mut all = BytesMut::new();
    let reading = async {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                let room = limits::MAX_ERROR.saturating_sub(all.len());
                all.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    break;
                }
            }
        }
    };
    // What came until then is all that is told.
    let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, reading).await;
    all.freeze()
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// An answer of the gateway itself.
    Own(Full<Bytes>),
    /// The upstream's answer.
    Upstream(Box<Download>),
    /// Another host's answer.
    Egress(Incoming),
}

/// The upstream's answer, watched for silence.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: Answer,
    exchange: Exchange,
    /// What is booked for it, if it is the model's.
    booking: Option<Booking>,
    /// Since when the upstream is being waited for, if it is.
    waiting: Option<Instant>,
    /// Rings when the upstream may have been silent for too long. Set anew only then, and not for each
    /// event: most come long before.
    alarm: Option<Pin<Box<Sleep>>>,
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
    pub(crate) fn new(incoming: Answer, exchange: Exchange, booking: Option<Booking>) -> Self {
        let mut download = Self { incoming, exchange, booking, waiting: None, alarm: None };
        if download.incoming.is_end_stream() {
            download.end(End::Complete);
        }
        download
    }

    /// Notes how it ended. What is booked is settled as soon as all is known, and not only when the client
    /// has taken the last byte.
    fn end(&mut self, end: End) {
        self.exchange.set_end(end);
        drop(self.booking.take());
    }

    /// Is ready when the upstream was silent for [`limits::IDLE_TIMEOUT`].
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.waiting.get_or_insert_with(Instant::now) + limits::IDLE_TIMEOUT;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() < until {
            alarm.as_mut().reset(until);
            ready!(alarm.as_mut().poll(cx));
        }
        Poll::Ready(())
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.poll_silence(cx));
            self.end(End::Silent);
            return Poll::Ready(Some(Err(BrokenBody::Silent)));
        };
        self.waiting = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.add_down(data.len());
                    if let Some(booking) = &mut self.booking {
                        booking.see(data);
                    }
                }
                // A body of known length is not asked for more after its last byte.
                if self.incoming.is_end_stream() {
                    self.end(End::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.end(End::Broken);
                Some(Err(BrokenBody::Broken(error)))
            }
            None => {
                self.end(End::Complete);
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
            Self::Egress(body) => Pin::new(body).poll_frame(cx).map_err(BrokenBody::Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
            Self::Egress(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body) => body.incoming.size_hint(),
            Self::Egress(body) => body.size_hint(),
        }
    }
}
