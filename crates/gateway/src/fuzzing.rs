//! Parsers of this crate that are nobody else's business, for the crate `fuzz`: each takes any bytes.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use protocol::Time;

use crate::{Meter, ask::Ask, egress, http1, ledger, pace};

/// The body of a request to the model.
///
/// # Panics
///
/// When what is read of it can't be.
pub fn ask(bytes: &[u8]) {
    match Ask::parse(bytes) {
        Ok(ask) => {
            assert!(ask.input_estimate <= ask.input_bound, "more is likely than possible: {ask:?}");
        }
        Err(error) => assert!(error.to_string().chars().count() < 300, "{error}"),
    }
}

/// The beginning of a connection through the egress proxy.
pub fn client_hello(bytes: &[u8]) {
    egress::read_any_hello(bytes);
}

/// The beginning of a connection, from a client or from an upstream, and bodies in chunks.
///
/// # Panics
///
/// When what is read depends on how it is cut, or is not what is written of it.
pub fn http(bytes: &[u8]) {
    http1::read_any(bytes);
}

/// The ledger's file.
pub fn ledger(bytes: &[u8]) {
    ledger::read_any(Path::new("ledger.jsonl"), bytes);
}

/// An answer of the model's API, in pieces: of the first byte are their number and form.
pub fn meter(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let kind = if first & 1 == 0 { "text/event-stream" } else { "application/json" };
    let size = usize::from(first >> 1).max(1);
    let (mut pieces, mut whole) = (Meter::new(kind), Meter::new(kind));
    for piece in rest.chunks(size) {
        pieces.feed(piece);
    }
    whole.feed(rest);
    assert_eq!(pieces.reading(), whole.reading(), "pieces should not matter");
}

/// The headers of an answer, as `name: value` lines.
pub fn limits(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    pace::read_any(&headers, Time::from_millis(1_800_000_000_000));
}
