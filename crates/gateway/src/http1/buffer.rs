//! What has come and is not read yet, and what is written and has not gone yet.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, AsyncWrite};

use super::Wire;

/// What is fetched at once to begin with: a head, with a short body.
pub(crate) const FIRST: usize = 8 * 1024;

/// Bytes that have come in.
#[derive(Debug, Default)]
pub(crate) struct Inbuf {
    bytes: Vec<u8>,
    start: usize,
    was_full: bool,
}

impl Inbuf {
    /// Returns what is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Forgets the first bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.bytes.len());
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Reads once, and returns how many bytes have come: none at the connection's end.
    ///
    /// It holds `most` bytes at most; whoever calls this has consumed some of so many.
    pub(crate) fn poll_fill(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 && self.bytes.capacity() - self.bytes.len() < FIRST / 8 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        // What came filled it, so there was more.
        if self.was_full || self.bytes.len() == self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).clamp(FIRST, most.max(FIRST));
            self.bytes.reserve_exact(capacity.saturating_sub(self.bytes.len()));
            self.was_full = false;
        }
        if self.bytes.len() == self.bytes.capacity() {
            return Poll::Ready(Err(io::Error::other("more has come than there is room for")));
        }
        let room = most.max(FIRST).saturating_sub(self.bytes.len());
        let filled = pin!(wire.read_buf(&mut (&mut self.bytes).limit(room))).poll(cx);
        self.was_full = self.bytes.len() == self.bytes.capacity();
        filled
    }
}

/// Bytes that are to go out.
#[derive(Debug, Default)]
pub(crate) struct Outbuf {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbuf {
    /// Returns what to append to.
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns how much is still to go.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes until nothing is left, also of `body`, of which `sent` bytes are gone already.
    pub(crate) fn poll_flush(
        &mut self,
        body: &[u8],
        sent: &mut usize,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let (own, rest) = (&self.bytes[self.sent..], &body[*sent..]);
            let wire = Pin::new(&mut *wire);
            let written = match (own.is_empty(), rest.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(wire.poll_write(cx, own))?,
                (true, false) => ready!(wire.poll_write(cx, rest))?,
                (false, false) => {
                    ready!(wire.poll_write_vectored(cx, &[IoSlice::new(own), IoSlice::new(rest)]))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_own = written.min(own.len());
            self.sent += of_own;
            *sent += written - of_own;
        }
        self.bytes.clear();
        self.sent = 0;
        Pin::new(wire).poll_flush(cx)
    }
}
