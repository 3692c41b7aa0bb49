//! Usage, read from an answer as it passes.

mod lines;
mod usage;

use std::sync::Arc;

use self::{lines::Lines, usage::Seen};
use crate::{Terms, Tokens};

/// The longest answer without a stream that is read: more is passed on, but not understood. The
/// longest output there is (128,000 tokens) takes about half a megabyte.
const MAX_WHOLE: usize = 8 << 20;

/// Reads the usage of one answer while its bytes pass.
///
/// It never changes a byte, holds one back or fails: what it can't read is missing in the
/// [`Reading`]. Of a stream it looks only at the events that carry usage, and keeps at most
/// 64 KiB of it, whatever comes; of an answer that is no stream it keeps a copy of up to 8 MiB.
///
/// # Examples
///
/// ```
/// use gateway::Meter;
///
/// let mut meter = Meter::new("text/event-stream; charset=utf-8");
/// meter.feed(b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
/// meter.feed(b"{\"model\":\"claude-opus-5-5\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n");
/// let reading = meter.reading();
/// assert_eq!((reading.tokens.input, reading.tokens.output, reading.complete), (7, 1, false));
/// ```
#[derive(Debug)]
pub struct Meter(Form);

#[derive(Debug)]
enum Form {
    Stream {
        lines: Lines,
        seen: Seen,
    },
    Whole(Vec<u8>),
    /// Nothing that could be read.
    Other,
}

/// What an answer said about its usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The tokens, so far. The output of a stream that breaks off was counted when it began, so it is too
    /// low then.
    pub tokens: Tokens,
    /// What else the cost depends on.
    pub terms: Terms,
    /// Which model answered.
    pub model: Option<Arc<str>>,
    /// Whether this is all: the input was seen, and why the answer stopped.
    pub complete: bool,
    /// The type of the error that the answer is, or that its stream ended in: `overloaded_error`.
    pub error: Option<String>,
}

impl Meter {
    /// Returns a meter for an answer with this `content-type`.
    pub fn new(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        Self(if kind.eq_ignore_ascii_case("text/event-stream") {
            Form::Stream { lines: Lines::default(), seen: Seen::default() }
        } else if kind.eq_ignore_ascii_case("application/json") {
            Form::Whole(Vec::new())
        } else {
            Form::Other
        })
    }

    /// Takes note of the next bytes of the answer.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Form::Stream { lines, seen } => lines.feed(bytes, seen),
            Form::Whole(copy) if copy.len() + bytes.len() <= MAX_WHOLE => {
                copy.extend_from_slice(bytes);
            }
            Form::Whole(_) => self.0 = Form::Other,
            Form::Other => {}
        }
    }

    /// Returns whether the model has begun to answer, as far as that is told: an error may be all that comes.
    pub fn has_begun(&self) -> bool {
        match &self.0 {
            Form::Stream { seen, .. } => seen.has_begun(),
            Form::Whole(copy) => !copy.is_empty(),
            Form::Other => true,
        }
    }

    /// Returns what was read so far. Of an answer that is no stream that is nothing before its end.
    pub fn reading(&self) -> Reading {
        match &self.0 {
            Form::Stream { seen, .. } => seen.reading(),
            Form::Whole(copy) => {
                let mut seen = Seen::default();
                seen.whole(copy);
                seen.reading()
            }
            Form::Other => Reading::default(),
        }
    }
}

#[cfg(test)]
mod tests;
