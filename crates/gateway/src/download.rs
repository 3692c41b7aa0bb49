//! The upstream's answer on its way to the client, as it comes.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use hyper::ext::ReasonPhrase;
use tokio::time::Instant;

use crate::{
    booking::Booking,
    client::{Answer, Broken},
    conn::{Conn, Gone, Request},
    credential::Credential,
    exchange::{End, Exchange},
    http1::{CHUNK_END, Framing, LAST_CHUNK, Then, put_chunk_head},
    limits,
};

/// How much is written at once, at most, if so much is there.
const ENOUGH: usize = limits::BUFFER;

/// The upstream's answer, watched for silence.
#[derive(Debug)]
pub(crate) struct Download {
    answer: Answer,
    exchange: Exchange,
    /// What is booked for it, if it is the model's.
    booking: Option<Booking>,
    /// Since when the upstream is being waited for, if it is.
    waiting: Option<Instant>,
    /// Since when the client takes nothing, and how much it has left to take.
    stuck: Option<(Instant, usize)>,
    is_over: bool,
}

impl Download {
    pub(crate) fn new(answer: Answer, exchange: Exchange, booking: Option<Booking>) -> Self {
        Self { answer, exchange, booking, waiting: None, stuck: None, is_over: false }
    }

    /// Hands the answer on. Returns whether the client was told that it may send another request.
    ///
    /// # Errors
    ///
    /// When either side breaks off. The client sees its connection break, and no end of the answer.
    ///
    /// # Cancel safety
    ///
    /// To drop the future is to break off both connections.
    pub(crate) async fn send(mut self, conn: &mut Conn, request: &Request) -> Result<bool, Gone> {
        let framing = conn.put_head(request, &self.answer.head, request.keeps_alive);
        self.answer.recycle_fields();
        let sent = poll_fn(|cx| self.poll_send(conn, framing, cx)).await;
        self.exchange.set_up(conn.read());
        sent.map(|()| request.keeps_alive && framing != Framing::UntilClose)
    }

    fn poll_send(
        &mut self,
        conn: &mut Conn,
        framing: Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        loop {
            // The request goes on also while nobody reads the answer.
            if let Poll::Ready(Err(Gone)) = self.answer.poll_upload(Some(&mut *conn), cx) {
                return Poll::Ready(Err(Gone));
            }
            if !self.answer.is_uploading() && conn.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            while !self.is_over && conn.out.len() < ENOUGH {
                match self.answer.at_hand() {
                    Ok(Then::Data(len)) => self.put(conn, framing, len),
                    Ok(Then::More) => break,
                    Ok(Then::End) => {
                        if framing == Framing::Chunked {
                            conn.out.bytes_mut().extend_from_slice(LAST_CHUNK);
                        }
                        self.end(End::Complete);
                    }
                    Err(broken) => return Poll::Ready(Err(self.break_off(&broken))),
                }
            }
            if !conn.out.is_empty() {
                if let Poll::Ready(flushed) = conn.poll_flush(cx) {
                    flushed?;
                    self.stuck = None;
                    continue;
                }
                // While it takes nothing, it keeps its turn from others, and its budget.
                let left = conn.out.len();
                let same = self.stuck.filter(|(_, before)| *before == left);
                let (since, _) = *self.stuck.insert(same.unwrap_or((Instant::now(), left)));
                ready!(conn.alarm.poll(cx, since + limits::IDLE_TIMEOUT));
                return Poll::Ready(Err(Gone));
            }
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            match self.answer.poll_more(cx) {
                Poll::Ready(Ok(())) => self.waiting = None,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(self.break_off(&broken))),
                Poll::Pending => {
                    let since = *self.waiting.get_or_insert_with(Instant::now);
                    ready!(conn.alarm.poll(cx, since + limits::IDLE_TIMEOUT));
                    self.end(End::Silent);
                    return Poll::Ready(Err(Gone));
                }
            }
        }
    }

    /// Puts bytes that are at hand into what is to go out.
    fn put(&mut self, conn: &mut Conn, framing: Framing, len: usize) {
        let out = conn.out.bytes_mut();
        let data = self.answer.data(len);
        if framing == Framing::Chunked {
            put_chunk_head(out, len);
            out.extend_from_slice(data);
            out.extend_from_slice(CHUNK_END);
        } else {
            out.extend_from_slice(data);
        }
        self.exchange.add_down(len);
        if let Some(booking) = &mut self.booking {
            booking.see(data);
        }
        self.answer.take(len);
    }

    /// Notes how it ended. What is booked is settled as soon as all is known, and not only when the client
    /// has taken the last byte.
    fn end(&mut self, end: End) {
        self.is_over = true;
        self.exchange.set_end(end);
        drop(self.booking.take());
    }

    fn break_off(&mut self, broken: &Broken) -> Gone {
        tracing::debug!(error = broken as &dyn std::error::Error, "Answer broke off.");
        self.end(End::Broken);
        Gone
    }
}

/// Returns a short answer of the upstream's, as far as it comes soon; what is longer is cut off.
pub(crate) async fn short(mut answer: Answer, mut conn: Option<&mut Conn>) -> Response<Bytes> {
    let mut all = Vec::new();
    let reading = poll_fn(|cx| {
        loop {
            if let Poll::Ready(Err(Gone)) = answer.poll_upload(conn.as_deref_mut(), cx) {
                return Poll::Ready(());
            }
            match answer.at_hand() {
                Ok(Then::Data(len)) => {
                    let room = limits::MAX_ERROR.saturating_sub(all.len());
                    all.extend_from_slice(&answer.data(len)[..len.min(room)]);
                    answer.take(len);
                    if len > room {
                        return Poll::Ready(());
                    }
                }
                Ok(Then::More) => {
                    if ready!(answer.poll_more(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Ok(Then::End) | Err(_) => return Poll::Ready(()),
            }
        }
    });
    // What came until then is all that is told.
    let _ = tokio::time::timeout(limits::DRAIN_TIMEOUT, reading).await;
    let mut response = Response::new(Bytes::from(all));
    *response.status_mut() = answer.head.status;
    for (name, value) in answer.head.fields.onward() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            response.headers_mut().append(name, value);
        }
    }
    if let Ok(reason) = ReasonPhrase::try_from(answer.head.reason) {
        response.extensions_mut().insert(reason);
    }
    response
}

/// Returns an error of the upstream's without the key, should it quote what it was sent.
pub(crate) async fn without_key(
    answer: Answer,
    conn: Option<&mut Conn>,
    credential: Option<&Credential>,
) -> Response<Bytes> {
    let error = short(answer, conn).await;
    match credential {
        Some(credential) => error.map(|said| credential.taken_out_of(said)),
        None => error,
    }
}
