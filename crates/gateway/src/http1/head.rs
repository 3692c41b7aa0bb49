//! The heads of requests and answers.

use std::mem::{self, MaybeUninit};

use http::{Method, StatusCode, uri::PathAndQuery};
use thiserror::Error;

use super::{Fields, Framing, fields::Kind};
use crate::{limits, number};

/// The most header lines of a message. The CLI sends about 25, the API answers with about 40.
const MAX_LINES: usize = 100;

/// A request for this host: its target is a path.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the client knows chunks.
    pub(crate) is_1_1: bool,
    /// Whether the client may send another request behind this one.
    pub(crate) keeps_alive: bool,
    /// Whether the client waits to be told that its body is wanted.
    pub(crate) expects: bool,
}

/// What begins a connection's next message.
#[derive(Debug)]
pub(crate) enum Sought {
    Request(Box<RequestHead>),
    /// One that names a host: the egress proxy's. Nothing of it is consumed.
    Elsewhere,
}

/// An answer's first lines.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    /// What the server says beside it.
    pub(crate) reason: Vec<u8>,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// What `Content-Length` says, whether or not there is a body.
    pub(crate) length: Option<u64>,
    /// Whether the connection can be used again.
    pub(crate) keeps_alive: bool,
}

/// A head that can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadHead {
    #[error("its head has more than {} bytes or {MAX_LINES} lines", limits::BUFFER)]
    TooLong,
    #[error("it is not HTTP/1.1: {0}")]
    Malformed(#[from] httparse::Error),
    #[error("it asks for something that is no path")]
    Target,
    #[error("its method is none")]
    Method,
    #[error("its status is none")]
    Status,
    #[error("it has a length and chunks")]
    TwoFramings,
    #[error("its length is said more than once")]
    TwoLengths,
    #[error("its length is not a number")]
    Length,
    #[error("its transfer coding is another than `chunked`")]
    Coding,
}

/// Reads heads from a connection's bytes, each byte once.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// So many bytes were looked at, and there is no end of a head in them.
    seen: usize,
    /// Memory for the next one.
    spare: Fields,
}

impl Reading {
    /// Returns a request's head and its length in bytes, once it is there. Empty lines before it have to be taken
    /// away first.
    pub(crate) fn request(&mut self, bytes: &[u8]) -> Result<Option<(Sought, usize)>, BadHead> {
        if !self.is_worth_it(bytes) {
            return self.go_on(bytes);
        }
        let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut lines);
        let httparse::Status::Complete(length) = parsed.map_err(too_many)? else {
            return self.go_on(bytes);
        };
        self.seen = 0;
        let method = request.method.unwrap_or_default();
        let target = request.path.unwrap_or_default();
        if method == "CONNECT" || !(target.starts_with('/') || target == "*") {
            return Ok(Some((Sought::Elsewhere, length)));
        }
        let is_1_1 = request.version == Some(1);
        let fields = Fields::of(&bytes[..length], request.headers, mem::take(&mut self.spare));
        let said = Said::of(&fields, is_1_1)?;
        let head = RequestHead {
            method: method.parse().map_err(|_| BadHead::Method)?,
            path: target.parse().map_err(|_| BadHead::Target)?,
            framing: said.framing().unwrap_or(Framing::None),
            is_1_1,
            keeps_alive: is_1_1 && !closes(&fields),
            expects: is_1_1
                && fields
                    .about(Kind::Expect)
                    .any(|value| value.eq_ignore_ascii_case(b"100-continue")),
            fields,
        };
        Ok(Some((Sought::Request(Box::new(head)), length)))
    }

    /// Returns an answer's head and its length in bytes, once it is there. Those of "go on" come like all others.
    pub(crate) fn answer(
        &mut self,
        bytes: &[u8],
        to_head: bool,
    ) -> Result<Option<(AnswerHead, usize)>, BadHead> {
        if !self.is_worth_it(bytes) {
            return self.go_on(bytes);
        }
        let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
        let mut answer = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut answer,
            bytes,
            &mut lines,
        );
        let httparse::Status::Complete(length) = parsed.map_err(too_many)? else {
            return self.go_on(bytes);
        };
        self.seen = 0;
        let is_1_1 = answer.version == Some(1);
        let status =
            StatusCode::from_u16(answer.code.unwrap_or_default()).map_err(|_| BadHead::Status)?;
        let fields = Fields::of(&bytes[..length], answer.headers, mem::take(&mut self.spare));
        let said = Said::of(&fields, is_1_1)?;
        let has_none = to_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let head = AnswerHead {
            status,
            reason: answer.reason.unwrap_or_default().into(),
            framing: match has_none {
                true => Framing::None,
                false => said.framing().unwrap_or(Framing::UntilClose),
            },
            length: said.length,
            keeps_alive: is_1_1 && !closes(&fields),
            fields,
        };
        Ok(Some((head, length)))
    }

    /// Takes back what nobody needs any more. Its memory serves the next head.
    pub(crate) fn recycle(&mut self, fields: Fields) {
        self.spare = fields;
    }

    /// Returns whether there may be a whole head by now. The first bytes are looked at in any case: what can't
    /// become a head need not be waited for.
    fn is_worth_it(&self, bytes: &[u8]) -> bool {
        if self.seen == 0 {
            return !bytes.is_empty();
        }
        let from = self.seen.saturating_sub(3).min(bytes.len());
        let new = &bytes[from..];
        memchr::memchr_iter(b'\n', new)
            .any(|at| matches!(&new[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
    }

    fn go_on<T>(&mut self, bytes: &[u8]) -> Result<Option<T>, BadHead> {
        self.seen = bytes.len();
        if bytes.len() >= limits::BUFFER { Err(BadHead::TooLong) } else { Ok(None) }
    }
}

fn too_many(error: httparse::Error) -> BadHead {
    match error {
        httparse::Error::TooManyHeaders => BadHead::TooLong,
        other => BadHead::Malformed(other),
    }
}

fn closes(fields: &Fields) -> bool {
    fields.options().any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// What a head says of the body's framing.
struct Said {
    length: Option<u64>,
    is_chunked: bool,
}

impl Said {
    fn of(fields: &Fields, is_1_1: bool) -> Result<Self, BadHead> {
        let (mut length, mut is_chunked) = (None, false);
        for value in fields.about(Kind::Length) {
            if length.is_some() {
                return Err(BadHead::TwoLengths);
            }
            length = Some(number::read(value).ok_or(BadHead::Length)?);
        }
        for value in fields.about(Kind::Coding) {
            // Before 1.1 nobody knew it; said twice, it was done twice.
            if is_chunked || !is_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadHead::Coding);
            }
            is_chunked = true;
        }
        if is_chunked && length.is_some() {
            return Err(BadHead::TwoFramings);
        }
        Ok(Self { length, is_chunked })
    }

    fn framing(&self) -> Option<Framing> {
        match self.is_chunked {
            true => Some(Framing::Chunked),
            false => self.length.map(Framing::Length),
        }
    }
}

/// Appends an answer's first line.
pub(crate) fn put_status(out: &mut Vec<u8>, status: StatusCode, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Reads any bytes as a request's head and as an answer's.
///
/// # Panics
///
/// When it matters how they are cut, or what is written of them is read in another way.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(limits::BUFFER)];
    let mut cut = Reading::default();
    let (mut in_pieces, mut at) = (Ok(None), 0);
    while at < bytes.len() && matches!(in_pieces, Ok(None)) {
        at += 1;
        in_pieces = cut.request(&bytes[..at]);
    }
    match (Reading::default().request(bytes), in_pieces) {
        (Ok(Some((Sought::Request(head), length))), Ok(Some((Sought::Request(other), same)))) => {
            assert_eq!((length, head.framing), (same, other.framing));
            let mut out = format!("{} {} HTTP/1.1\r\n", head.method, head.path).into_bytes();
            head.fields.onward().for_each(|(name, value)| super::put(&mut out, name, value));
            out.extend_from_slice(b"\r\n");
            let read = Reading::default().request(&out);
            let Ok(Some((Sought::Request(again), all))) = read else {
                panic!("what is written should be read: {read:?}");
            };
            assert_eq!((all, again.framing), (out.len(), Framing::None));
            assert_eq!((&again.method, &again.path), (&head.method, &head.path));
            assert!(again.fields.iter().eq(head.fields.onward()));
        }
        (Ok(Some((Sought::Elsewhere, one))), Ok(Some((Sought::Elsewhere, other)))) => {
            assert_eq!(one, other);
        }
        // What is wrong with a head is seen at its end, at the latest.
        (Ok(None) | Err(_), Ok(None)) | (Err(_), Err(_)) => {}
        (one, other) => panic!("pieces should not matter: {one:?} and {other:?}"),
    }
    for to_head in [false, true] {
        if let Ok(Some((head, length))) = Reading::default().answer(bytes, to_head) {
            assert!(length <= bytes.len());
            assert!(!to_head || head.framing == Framing::None);
        }
    }
}

#[cfg(test)]
mod tests;
