//! The header lines of one message.

use std::{fmt, ops::Range};

use crate::number;

/// The header lines of one message, in the order in which they came, their names in lower case.
///
/// A list and no map: most of them are only handed on, and the few that somebody asks for are found by a walk that
/// costs less than to hash all of them.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

#[derive(Clone)]
struct Line {
    name: Range<u32>,
    value: Range<u32>,
    kind: Kind,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection; it may name other lines that are, too.
    Connection,
    /// How long the body is.
    Length,
    /// How the body is coded for this hop.
    Coding,
    Expect,
    /// This hop, in another way (RFC 9110, section 7.6.1). Trailers end here, so nobody needs to be told of them.
    Hop,
    /// The message.
    Message,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        match name {
            b"connection" => Self::Connection,
            b"content-length" => Self::Length,
            b"transfer-encoding" => Self::Coding,
            b"expect" => Self::Expect,
            b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"upgrade" => Self::Hop,
            _ => Self::Message,
        }
    }
}

impl Fields {
    /// Copies the lines that a parser has found in `head`, into the memory of others that nobody needs any more.
    pub(super) fn of(head: &[u8], lines: &[httparse::Header<'_>], spare: Self) -> Self {
        // Where a part of the head stands in it; one without a byte may stand anywhere. A head has no more than
        // `limits::BUFFER` bytes.
        let place = |part: &[u8]| {
            if part.is_empty() {
                return 0..0;
            }
            let at = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
            assert!(at < head.len(), "BUG: a line should be a part of its head");
            at as u32..(at + part.len()) as u32
        };
        let Self { mut bytes, lines: mut all } = spare;
        bytes.clear();
        bytes.extend_from_slice(head);
        all.clear();
        let line = |line: &httparse::Header<'_>| {
            let (name, value) = (place(line.name.as_bytes()), place(line.value));
            let spelled = &mut bytes[name.start as usize..name.end as usize];
            spelled.make_ascii_lowercase();
            Line { kind: Kind::of(spelled), name, value }
        };
        all.extend(lines.iter().map(line));
        Self { bytes, lines: all }
    }

    /// Returns all lines, as names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.lines.iter().map(|line| (self.part(&line.name), self.part(&line.value)))
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Returns the values of all lines that are about something.
    pub(super) fn about(&self, kind: Kind) -> impl Iterator<Item = &[u8]> + Clone {
        self.lines.iter().filter(move |line| line.kind == kind).map(|line| self.part(&line.value))
    }

    /// Returns the values of all lines with a name, which is in lower case.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + Clone {
        let same = move |(found, _): &(&[u8], &[u8])| *found == name.as_bytes();
        self.iter().filter(same).map(|(_, value)| value)
    }

    /// Returns the value of the first line with a name.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Returns the value of the first line with a name, if it is printable ASCII.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.get(name)?;
        // All of them, and not up to the first that is not: that goes eight at a time.
        let printable = |ok: bool, byte: &u8| ok & matches!(byte, b'\t' | b' '..=b'~');
        std::str::from_utf8(value).ok().filter(|_| value.iter().fold(true, printable))
    }

    /// Returns the value of the only line with a name.
    pub(crate) fn only(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.all(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    /// Returns the lines that do not end at this hop, nor say how the message is framed: it is framed anew for the
    /// next.
    pub(crate) fn onward(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.going_on().map(|line| (self.part(&line.name), self.part(&line.value)))
    }

    fn going_on(&self) -> impl Iterator<Item = &Line> {
        let names_others = self.options().any(|option| {
            !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close")
        });
        self.lines.iter().filter(move |line| {
            let is_named = || {
                let name = self.part(&line.name);
                self.options().any(|option| option.eq_ignore_ascii_case(name))
            };
            line.kind == Kind::Message && !(names_others && is_named())
        })
    }

    /// Appends the lines that go on to the next hop, but for those whose names `ends_here` knows.
    pub(crate) fn put_onward(&self, out: &mut Vec<u8>, ends_here: impl Fn(&[u8]) -> bool) {
        // Most lines stand as they are to be written, one behind the other, and are copied together.
        let mut run = 0..0;
        for line in self.going_on().filter(|line| !ends_here(self.part(&line.name))) {
            let (begin, end) = (line.name.start as usize, line.value.end as usize + 2);
            let colon = self.bytes.get(line.name.end as usize..line.value.start as usize);
            let line_end = self.bytes.get(line.value.end as usize..end);
            let is_usual = colon == Some(b": ") && line_end == Some(b"\r\n");
            if is_usual && begin == run.end {
                run.end = end;
                continue;
            }
            out.extend_from_slice(&self.bytes[run]);
            run = begin..end;
            if !is_usual {
                put(out, self.part(&line.name), self.part(&line.value));
                run = 0..0;
            }
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    /// Returns what `Connection` lists.
    pub(super) fn options(&self) -> impl Iterator<Item = &[u8]> {
        let parts = |value| <[u8]>::split(value, |byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.about(Kind::Connection).flat_map(parts)
    }
}

/// Appends a line. Neither name nor value may have a line end in it.
pub(crate) fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line that says how long a body is.
pub(crate) fn put_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    number::put(out, length);
    out.extend_from_slice(b"\r\n");
}

/// The names alone: there may be a key among the values.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name.escape_ascii().to_string()))
            .finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns fields with these lines.
    pub(crate) fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut head = String::from("GET / HTTP/1.1\r\n");
        lines.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += "\r\n";
        let mut lines = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut lines);
        request.parse(head.as_bytes()).unwrap();
        Fields::of(head.as_bytes(), request.headers, Fields::default())
    }

    #[test]
    fn lines_of_the_hop_go_and_all_others_stay_in_order() {
        let fields = fields(&[
            ("Connection", "close, X-Mine"),
            ("accept", "a"),
            ("x-mine", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Accept", "b"),
            ("connection", "x-other"),
            ("x-other", "2"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("expect", "100-continue"),
            ("upgrade", "websocket"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic"),
            ("transfer-encoding", "chunked"),
            ("content-length", "1"),
            ("content-encoding", "br"),
        ]);

        let left: Vec<_> = fields.onward().collect();

        let expected: [(&[u8], &[u8]); 3] =
            [(b"accept", b"a"), (b"accept", b"b"), (b"content-encoding", b"br")];
        assert_eq!(left, expected);
        let mut out = Vec::new();
        fields.put_onward(&mut out, |name| name == b"content-encoding");
        assert_eq!(out, b"accept: a\r\naccept: b\r\n");
    }

    #[test]
    fn lines_are_written_in_one_way_however_they_came() {
        let head = "GET / HTTP/1.1\r\nA:  1 \r\nB:2\nC: 3\nD: 4\r\nE: 5\r\nF:\r\nG: 7\r\n\r\n";
        let mut lines = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut lines);
        request.parse(head.as_bytes()).unwrap();
        let fields = Fields::of(head.as_bytes(), request.headers, Fields::default());
        let mut out = Vec::new();
        fields.put_onward(&mut out, |name| name == b"e");
        assert_eq!(out, b"a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\nf: \r\ng: 7\r\n");
    }

    #[test]
    fn line_is_found_by_its_name_whatever_its_case() {
        let fields = fields(&[("X-Key", "one"), ("x-key", "two"), ("x-odd", "caf\u{e9}")]);
        assert_eq!((fields.text("x-key"), fields.only("x-key")), (Some("one"), None));
        assert_eq!((fields.text("x-odd"), fields.only("x-odd").is_some()), (None, true));
        assert!(!format!("{fields:?}").contains("one"));
    }
}
