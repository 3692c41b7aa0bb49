//! The header lines of one message.

use std::{fmt, ops::Range};

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
}

impl Fields {
    /// Copies the lines that a parser has found.
    pub(super) fn of(lines: &[httparse::Header<'_>]) -> Self {
        let all = lines.iter().map(|line| line.name.len() + line.value.len()).sum();
        let mut fields =
            Self { bytes: Vec::with_capacity(all), lines: Vec::with_capacity(lines.len()) };
        for line in lines {
            let at = fields.bytes.len();
            fields.bytes.extend_from_slice(line.name.as_bytes());
            fields.bytes[at..].make_ascii_lowercase();
            let middle = fields.bytes.len();
            fields.bytes.extend_from_slice(line.value);
            let end = fields.bytes.len();
            // A head has no more than `limits::BUFFER` bytes.
            let range = |from: usize, to: usize| from as u32..to as u32;
            fields.lines.push(Line { name: range(at, middle), value: range(middle, end) });
        }
        fields
    }

    /// Returns all lines, as names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let part = |range: &Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        self.lines.iter().map(move |line| (part(&line.name), part(&line.value)))
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
        let printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
        let value = self.get(name).filter(|value| value.iter().all(printable))?;
        std::str::from_utf8(value).ok()
    }

    /// Returns the value of the only line with a name.
    pub(crate) fn only(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.all(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    /// Returns the lines that do not end at this hop (RFC 9110, section 7.6.1), nor say how the message is framed: it
    /// is framed anew for the next.
    pub(crate) fn onward(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let names_others = self.options().any(|option| {
            !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close")
        });
        self.iter().filter(move |(name, _)| {
            let is_named = || self.options().any(|option| option.eq_ignore_ascii_case(name));
            !(is_of_the_hop(name) || names_others && is_named())
        })
    }

    /// Returns what `Connection` lists.
    pub(super) fn options(&self) -> impl Iterator<Item = &[u8]> {
        let parts = |value| <[u8]>::split(value, |byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.all("connection").flat_map(parts)
    }
}

/// Returns whether a line is about one hop, or about the framing. `expect` is answered here; trailers end here, so
/// nobody needs to be told of them.
fn is_of_the_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"content-length"
            | b"expect"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
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
    put(out, b"content-length", Decimal::of(length).digits());
}

/// A number in decimal, without a detour through the machinery of `format!`.
struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    fn of(mut number: u64) -> Self {
        let (mut digits, mut from) = ([b'0'; 20], 20);
        loop {
            from -= 1;
            digits[from] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, from };
            }
        }
    }

    fn digits(&self) -> &[u8] {
        &self.digits[self.from..]
    }
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
    pub(crate) fn fields(lines: &[(&'static str, &str)]) -> Fields {
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        Fields::of(&lines)
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
    }

    #[test]
    fn line_is_found_by_its_name_whatever_its_case() {
        let fields = fields(&[("X-Key", "one"), ("x-key", "two"), ("x-odd", "caf\u{e9}")]);
        assert_eq!((fields.text("x-key"), fields.only("x-key")), (Some("one"), None));
        assert_eq!((fields.text("x-odd"), fields.only("x-odd").is_some()), (None, true));
        assert!(!format!("{fields:?}").contains("one"));
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            assert_eq!(Decimal::of(number).digits(), number.to_string().as_bytes());
        }
    }
}
