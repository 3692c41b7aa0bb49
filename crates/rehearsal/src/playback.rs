//! Carries out the beats of a delivery as the body of a response.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use thiserror::Error;

use crate::delivery::Beat;
use crate::line::ResetSwitch;

/// The body of every response.
pub(crate) type Body = UnsyncBoxBody<Bytes, Dropped>;

/// The connection is broken on purpose.
#[derive(Clone, Copy, Debug, Error)]
#[error("the scenario drops the connection here")]
pub(crate) struct Dropped;

/// Returns a body that is there at once.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Returns a body that plays the beats, and calls `begin` when its first bytes are asked for.
pub(crate) fn play(
    beats: Vec<Beat>,
    reset: Arc<ResetSwitch>,
    begin: impl FnOnce() + Send + 'static,
) -> Body {
    let state = (VecDeque::from(beats), reset, Some(begin));
    let frames = stream::unfold(state, |(mut beats, reset, mut begin)| async move {
        loop {
            match beats.pop_front()? {
                Beat::Wait(time) => tokio::time::sleep(time).await,
                Beat::Send(bytes) => {
                    if let Some(begin) = begin.take() {
                        begin();
                    }
                    return Some((Ok(Frame::data(bytes)), (beats, reset, begin)));
                }
                Beat::Abort { reset: hard } => {
                    // hyper flushes what it has only when the body has nothing to say just now.
                    tokio::task::yield_now().await;
                    if hard {
                        reset.set();
                    }
                    beats.clear();
                    return Some((Err(Dropped), (beats, reset, begin)));
                }
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}
