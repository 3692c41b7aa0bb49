//! Lines of a program's output, of bounded length.

use std::io::{self, BufRead};

/// The longest line that is kept whole. A result line is a few kilobytes; one of megabytes is a
/// file that a tool printed.
pub(crate) const MAX_LINE: usize = 8 << 20;

/// A line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The bytes; at most the bound.
    pub(crate) bytes: Vec<u8>,
    /// How many bytes the line had.
    pub(crate) len: u64,
}

impl Line {
    /// Returns whether the line was longer than what is kept.
    pub(crate) fn is_cut(&self) -> bool {
        self.len > self.bytes.len() as u64
    }
}

/// Reads the next line, keeping at most `max` bytes of it. `None` at the end.
pub(crate) fn read(from: &mut impl BufRead, max: usize) -> io::Result<Option<Line>> {
    let mut line = Line { bytes: Vec::new(), len: 0 };
    let mut any = false;
    loop {
        let chunk = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            return Ok(any.then_some(line));
        }
        any = true;
        let end = chunk.iter().position(|b| *b == b'\n');
        let text = &chunk[..end.unwrap_or(chunk.len())];
        let room = max - line.bytes.len();
        line.bytes.extend_from_slice(&text[..text.len().min(room)]);
        line.len += text.len() as u64;
        let used = end.map_or(chunk.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, max: usize) -> Vec<(String, u64)> {
        let mut from = io::BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| read(&mut from, max).expect("memory can be read"))
            .map(|line| (String::from_utf8_lossy(&line.bytes).into_owned(), line.len))
            .collect()
    }

    #[test]
    fn lines_are_split_and_the_last_needs_no_end() {
        let line = |text: &str| (text.to_owned(), text.len() as u64);
        assert_eq!(all("one\n\nthree", 100), [line("one"), line(""), line("three")]);
        assert_eq!(all("", 100), []);
        assert_eq!(all("\n", 100), [line("")]);
    }

    #[test]
    fn long_line_is_cut_and_the_next_one_is_not() {
        let cut = ("abcd".to_owned(), 10);
        assert_eq!(all("abcdefghij\nk", 4), [cut, ("k".to_owned(), 1)]);
    }
}
