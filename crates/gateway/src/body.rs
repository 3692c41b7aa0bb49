//! Bodies of the egress proxy.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::limits;

/// Reads what is left of a request's body, and forgets it, for [`limits::DRAIN_TIMEOUT`] at most.
pub(crate) async fn drain(mut rest: Incoming) {
    let reading = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Out of time: the client gets its answer now, or not at all.
    let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, reading).await;
}

/// An answer's body on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// The gateway's own.
    Own(Full<Bytes>),
    /// Another host's.
    Egress(Incoming),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Egress(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Egress(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Egress(body) => body.size_hint(),
        }
    }
}
