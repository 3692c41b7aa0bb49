//! The lines of a stream of server-sent events, in whatever pieces they come.

use memchr::memchr;

use super::usage::Seen;

/// The longest line that is understood. Those with usage have less than 2 KiB.
const MAX_LINE: usize = 64 << 10;

/// Finds the data of events that may carry usage, and passes over the rest.
///
/// Most bytes of a stream are text in the data of events whose name says that there is no usage in
/// them: these cost a search for the end of the line, and are not copied.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// The rest of the line is of no interest.
    skipping: bool,
    /// The event's name says that it has no usage.
    dull: bool,
}

impl Lines {
    pub(super) fn feed(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.skipping {
                self.skipping = false;
            } else if self.begun.is_empty() {
                self.line(line, seen);
            } else if self.begun.len() + line.len() <= MAX_LINE {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(line);
                self.line(&whole, seen);
                whole.clear();
                self.begun = whole;
            } else {
                self.begun.clear();
            }
            bytes = rest;
        }
        if self.skipping || bytes.is_empty() {
            return;
        }
        let first = self.begun.first().or(bytes.first());
        let of_no_interest = self.dull && first == Some(&b'd');
        if of_no_interest || self.begun.len() + bytes.len() > MAX_LINE {
            self.begun.clear();
            self.skipping = true;
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, line: &[u8], seen: &mut Seen) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.dull = false;
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if !self.dull && line.len() <= MAX_LINE {
                let data = data.strip_prefix(b" ").unwrap_or(data);
                // Where somebody on the way dropped the names.
                if !data.starts_with(br#"{"type":"content_block_"#) {
                    seen.event(data);
                }
            }
        } else if let Some(name) = line.strip_prefix(b"event:") {
            let name = name.strip_prefix(b" ").unwrap_or(name);
            self.dull = name.starts_with(b"content_block_") || name == b"ping";
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.begun.capacity()
    }
}
