//! A client's connection: requests in, answers out.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    http1::{
        AnswerHead, BadBody, BadHead, Decoder, FIRST, Framing, Inbuf, Outbuf, Reading, RequestHead,
        Sought, Then, Wire, put, put_length, put_status,
    },
    limits,
};

/// Lets a client go on that waits to be told that its body is wanted.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection. One request at a time: the next is read when the answer to the last is written, so what
/// comes early waits, and answers are in order.
///
/// To drop it is to close it.
#[derive(Debug)]
pub(crate) struct Conn {
    wire: Wire,
    inbuf: Inbuf,
    pub(crate) out: Outbuf,
    reading: Reading,
    /// The body of the request at hand.
    body: Decoder,
    /// The client waits to be told that its body is wanted.
    expects: bool,
    /// It is being told.
    is_telling: bool,
    /// The answer has begun.
    is_answering: bool,
    /// The client went away, or can't be understood any more.
    is_gone: bool,
    /// How much of the body was read.
    read: u64,
    pub(crate) alarm: Alarm,
}

/// What comes in by a connection.
#[derive(Debug)]
pub(crate) enum Next {
    Request(Box<RequestHead>),
    /// A request for the egress proxy, which has not been taken.
    Elsewhere,
    /// Nothing any more.
    Closed,
}

/// The client went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why a request's body could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It has more than [`limits::MAX_REQUEST`] bytes.
    TooLarge,
    /// The client broke off.
    Broken,
}

impl Conn {
    pub(crate) fn new(wire: Wire) -> Self {
        Self {
            wire,
            inbuf: Inbuf::default(),
            out: Outbuf::default(),
            reading: Reading::default(),
            body: Decoder::new(Framing::None),
            expects: false,
            is_telling: false,
            is_answering: false,
            is_gone: false,
            read: 0,
            alarm: Alarm::default(),
        }
    }

    /// Returns the next request. Waits for it for [`limits::KEEP_ALIVE_TIMEOUT`] at most.
    ///
    /// # Errors
    ///
    /// What is wrong with its head. Nothing that follows can be understood then.
    pub(crate) async fn next(&mut self) -> Result<Next, BadHead> {
        let until = Instant::now() + limits::KEEP_ALIVE_TIMEOUT;
        poll_fn(|cx| self.poll_next(cx, until)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<Result<Next, BadHead>> {
        loop {
            // Some clients end a body with a line end that is not part of it (RFC 9112, section 2.2).
            let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            let blanks = self.inbuf.bytes().iter().take_while(blank).count();
            self.inbuf.consume(blanks);
            match self.reading.request(self.inbuf.bytes())? {
                Some((Sought::Request(head), length)) => {
                    self.inbuf.consume(length);
                    (self.body, self.read) = (Decoder::new(head.framing), 0);
                    self.expects = head.expects && !self.body.is_over();
                    self.is_answering = false;
                    return Poll::Ready(Ok(Next::Request(head)));
                }
                Some((Sought::Elsewhere, _)) => return Poll::Ready(Ok(Next::Elsewhere)),
                None => {}
            }
            // A long body is better read where it is to be.
            let most = if self.inbuf.is_empty() { FIRST } else { limits::BUFFER };
            match self.inbuf.poll_fill(&mut self.wire, cx, most) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(Next::Closed)),
                Poll::Pending => {
                    ready!(self.alarm.poll(cx, until));
                    return Poll::Ready(Ok(Next::Closed));
                }
            }
        }
    }

    /// Takes back the head of a request whose answer is here. Its memory serves the next one.
    pub(crate) fn recycle(&mut self, head: RequestHead) {
        self.reading.recycle(head.fields);
    }

    /// Returns how many bytes of the body are at hand: [`data`](Self::data). None at its end.
    ///
    /// # Errors
    ///
    /// When the client breaks off, or the body is not framed as it should be: nothing that follows can be
    /// understood then.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Gone>> {
        loop {
            if self.is_gone {
                return Poll::Ready(Err(Gone));
            }
            match self.step() {
                Ok(Then::Data(len)) => return Poll::Ready(Ok(Some(len))),
                Ok(Then::End) => return Poll::Ready(Ok(None)),
                Ok(Then::More) => {}
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "Bad body.");
                    self.is_gone = true;
                    continue;
                }
            }
            ready!(self.poll_continue(cx))?;
            let filled = ready!(self.inbuf.poll_fill(&mut self.wire, cx, limits::BUFFER));
            self.is_gone = matches!(filled, Ok(0) | Err(_));
        }
    }

    fn step(&mut self) -> Result<Then, BadBody> {
        let step = self.body.step(self.inbuf.bytes())?;
        self.inbuf.consume(step.skip);
        Ok(step.then)
    }

    /// Says that the body is wanted, if the client waits for that.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        // Once the answer has begun, it is too late.
        if self.expects && !self.is_answering {
            (self.expects, self.is_telling) = (false, true);
            self.out.bytes_mut().extend_from_slice(CONTINUE);
        }
        if self.is_telling {
            ready!(self.poll_flush(cx))?;
            self.is_telling = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the bytes of the body that are at hand.
    pub(crate) fn data(&self, len: usize) -> &[u8] {
        &self.inbuf.bytes()[..len]
    }

    /// Takes bytes of the body that were at hand.
    pub(crate) fn take(&mut self, len: usize) {
        self.inbuf.consume(len);
        self.body.took(len);
        self.read += len as u64;
    }

    /// Returns how much of the body was read.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    ///
    /// [`Unread`]; of a body that is too large the rest is drained, so that the client reads the answer.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, Unread> {
        let told = self.body.left().unwrap_or(0);
        if told > limits::MAX_REQUEST as u64 {
            self.drain().await;
            return Err(Unread::TooLarge);
        }
        let mut all = BytesMut::with_capacity(usize::try_from(told).unwrap_or(0));
        loop {
            let at_hand = poll_fn(|cx| self.poll_body(cx)).await;
            match at_hand.map_err(|Gone| Unread::Broken)? {
                Some(len) => {
                    if all.len() + len > limits::MAX_REQUEST {
                        self.drain().await;
                        return Err(Unread::TooLarge);
                    }
                    all.extend_from_slice(self.data(len));
                    self.take(len);
                }
                None => return Ok(all.freeze()),
            }
            // What is not here yet need not go through the buffer.
            while let Some(left @ 1..) = self.body.left().filter(|_| self.inbuf.is_empty()) {
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                let mut room = bytes::BufMut::limit(&mut all, left);
                match self.wire.read_buf(&mut room).await {
                    Ok(len @ 1..) => {
                        self.body.took(len);
                        self.read += len as u64;
                    }
                    Ok(0) | Err(_) => {
                        self.is_gone = true;
                        return Err(Unread::Broken);
                    }
                }
            }
        }
    }

    /// Reads what is left of the body, and forgets it, for [`limits::DRAIN_TIMEOUT`] at most. Returns whether the
    /// next request can be read.
    pub(crate) async fn drain(&mut self) -> bool {
        if self.body.is_over() {
            return !self.is_gone;
        }
        if self.expects || self.is_gone {
            // It will not send it, or it will: nobody can tell.
            return false;
        }
        let reading = poll_fn(|cx| {
            while let Some(len) = ready!(self.poll_body(cx))? {
                self.take(len);
            }
            Poll::Ready(Ok::<_, Gone>(()))
        });
        // Out of time: the client gets its answer now, or not at all.
        matches!(timeout(limits::DRAIN_TIMEOUT, reading).await, Ok(Ok(())))
    }

    /// Is ready when the client went away. To be asked while nothing is expected of it.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        // What has come behind the request waits; so long nobody knows what comes behind that.
        if !self.is_gone {
            if !self.body.is_over() || !self.inbuf.is_empty() {
                return Poll::Pending;
            }
            let filled = ready!(self.inbuf.poll_fill(&mut self.wire, cx, limits::BUFFER));
            self.is_gone = matches!(filled, Ok(0) | Err(_));
        }
        if self.is_gone { Poll::Ready(Gone) } else { Poll::Pending }
    }

    /// Waits for something as long as the client is there.
    pub(crate) async fn unless_gone<F: Future>(&mut self, future: F) -> Result<F::Output, Gone> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll_gone(cx).map(Err),
        })
        .await
    }

    /// Writes what is to go out.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let written = ready!(self.out.poll_flush(&[], &mut 0, &mut self.wire, cx));
        self.is_gone |= written.is_err();
        Poll::Ready(written.map_err(|_| Gone))
    }

    /// Puts the head of the upstream's answer into what is to go out. Returns how its body is to be framed.
    pub(crate) fn put_head(
        &mut self,
        request: &Request,
        head: &AnswerHead,
        keeps_alive: bool,
    ) -> Framing {
        self.is_answering = true;
        let framing = match head.framing {
            Framing::UntilClose | Framing::Chunked if request.is_1_1 => Framing::Chunked,
            Framing::Chunked => Framing::UntilClose,
            other => other,
        };
        let out = self.out.bytes_mut();
        put_status(out, head.status, &head.reason);
        head.fields.put_onward(out, |_| false);
        match (framing, head.length) {
            (Framing::Length(length), _) => put_length(out, length),
            (Framing::Chunked, _) => put(out, b"transfer-encoding", b"chunked"),
            // How long it would be.
            (Framing::None, Some(length)) if head.status != StatusCode::NO_CONTENT => {
                put_length(out, length);
            }
            (Framing::None | Framing::UntilClose, _) => {}
        }
        self.end_head(keeps_alive && framing != Framing::UntilClose);
        framing
    }

    /// Writes an answer of the gateway itself.
    pub(crate) async fn answer(
        &mut self,
        method: &Method,
        answer: &Response<Bytes>,
        keeps_alive: bool,
    ) -> Result<(), Gone> {
        self.is_answering = true;
        let reason = match answer.extensions().get::<ReasonPhrase>() {
            Some(reason) => reason.as_bytes(),
            None => answer.status().canonical_reason().unwrap_or_default().as_bytes(),
        };
        let out = self.out.bytes_mut();
        put_status(out, answer.status(), reason);
        for (name, value) in answer.headers() {
            put(out, name.as_str().as_bytes(), value.as_bytes());
        }
        put_length(out, answer.body().len() as u64);
        self.end_head(keeps_alive);
        if method != Method::HEAD {
            self.out.bytes_mut().extend_from_slice(answer.body());
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn end_head(&mut self, keeps_alive: bool) {
        if !keeps_alive || self.expects {
            put(self.out.bytes_mut(), b"connection", b"close");
        }
        self.out.bytes_mut().extend_from_slice(b"\r\n");
    }

    /// Closes the connection in a way in which the client reads what was written last, also when it is still
    /// writing.
    pub(crate) async fn close(mut self) {
        if self.is_gone || self.wire.shutdown().await.is_err() {
            return;
        }
        let reading = poll_fn(|cx| {
            loop {
                self.inbuf.consume(self.inbuf.bytes().len());
                match ready!(self.inbuf.poll_fill(&mut self.wire, cx, limits::BUFFER)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(()),
                }
            }
        });
        // Out of time: then it won't be read.
        let _ = timeout(limits::DRAIN_TIMEOUT, reading).await;
    }

    /// Returns the connection with all that was not taken.
    pub(crate) fn untaken(self) -> Untaken {
        Untaken { inbuf: self.inbuf, wire: self.wire }
    }
}

/// What an answer has to know of its request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) is_1_1: bool,
    pub(crate) keeps_alive: bool,
}

impl Request {
    pub(crate) fn of(head: &RequestHead) -> Self {
        let RequestHead { is_1_1, keeps_alive, .. } = *head;
        Self { method: head.method.clone(), is_1_1, keeps_alive }
    }
}

/// A connection from which something was read already.
#[derive(Debug)]
pub(crate) struct Untaken {
    inbuf: Inbuf,
    wire: Wire,
}

impl tokio::io::AsyncRead for Untaken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.inbuf.is_empty() {
            return Pin::new(&mut self.wire).poll_read(cx, buf);
        }
        let count = self.inbuf.bytes().len().min(buf.remaining());
        buf.put_slice(&self.inbuf.bytes()[..count]);
        self.inbuf.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Untaken {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// A timer that is set anew only when it has rung: most of what it watches over comes long before.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Is ready at `until`, or later. It may be another time at each call, if only no earlier one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let alarm = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() < until {
            alarm.as_mut().reset(until);
            ready!(alarm.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}
