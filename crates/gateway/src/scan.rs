//! Walks over JSON where it stands.
//!
//! A body is mostly long texts that nobody here reads. A parser that checks each byte of them takes longer
//! than all else that is done for a request, so this one looks for their ends. What it walks over need not be
//! JSON in every detail: the API will see to that. But what is JSON is read as what it says.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::ask::Unreadable;

type Result<T> = std::result::Result<T, Unreadable>;

/// A place in a text.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Returns what says that something is wrong here.
    pub(crate) fn wrong(&self, what: &str) -> Unreadable {
        Unreadable::new(&format!("{what} at byte {}", self.at))
    }

    /// Returns the first byte of what comes next.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    #[inline]
    fn expect(&mut self, byte: u8, what: &str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads an object. `read` has to read the value of each key.
    pub(crate) fn object(
        &mut self,
        what: &str,
        mut read: impl FnMut(&mut Self, &str) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'{', what)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.text()?;
            self.expect(b':', "a colon is missing")?;
            read(self, &key)?;
            if self.is_over(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads a list. `read` has to read each of its values.
    pub(crate) fn list(
        &mut self,
        what: &str,
        mut read: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'[', what)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            read(self)?;
            if self.is_over(b']')? {
                return Ok(());
            }
        }
    }

    #[inline]
    fn is_over(&mut self, end: u8) -> Result<bool> {
        let is_over = self.peek() == Some(end);
        if !is_over && self.peek() != Some(b',') {
            return Err(self.wrong("a comma or an end is missing"));
        }
        self.at += 1;
        Ok(is_over)
    }

    /// Reads a text, and returns what it says.
    pub(crate) fn text(&mut self) -> Result<Cow<'a, str>> {
        self.expect(b'"', "a text is expected")?;
        let begin = self.at;
        self.at = self.stop(begin)?;
        if self.text.as_bytes()[self.at] == b'"' {
            // Most have nothing to unescape.
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[begin..self.at - 1]));
        }
        self.skip_text()?;
        let raw = &self.text[begin - 1..self.at];
        serde_json::from_str(raw).map(Cow::Owned).map_err(|_| self.wrong("a text is broken"))
    }

    /// Reads a text, and returns it as it stands there, with its quotes.
    pub(crate) fn raw_text(&mut self) -> Result<&'a str> {
        self.expect(b'"', "a text is expected")?;
        let begin = self.at - 1;
        self.skip_text()?;
        Ok(&self.text[begin..self.at])
    }

    /// Goes behind the quote that ends the text that has begun.
    ///
    /// Looks for quotes only, and then at what is before them: of what is escaped in a prompt most is no quote.
    fn skip_text(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        let mut from = begin;
        loop {
            let rest = bytes.get(from..).unwrap_or_default();
            let found = match soon(rest, |word| zeros(word ^ QUOTES)) {
                Ok(found) => Some(found),
                Err(plain) => memchr(b'"', &rest[plain..]).map(|found| plain + found),
            };
            let quote = from + found.ok_or_else(|| self.endless())?;
            let escapes = bytes[begin..quote].iter().rev().take_while(|byte| **byte == b'\\');
            from = quote + 1;
            if escapes.count() % 2 == 0 {
                self.at = from;
                return Ok(());
            }
        }
    }

    /// Returns where the next quote or backslash is.
    #[inline]
    fn stop(&self, from: usize) -> Result<usize> {
        let rest = self.text.as_bytes().get(from..).unwrap_or_default();
        let found = match soon(rest, |word| zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES)) {
            Ok(found) => Some(found),
            Err(plain) => memchr2(b'"', b'\\', &rest[plain..]).map(|found| plain + found),
        };
        found.map(|found| from + found).ok_or_else(|| self.endless())
    }

    fn endless(&self) -> Unreadable {
        self.wrong("a text that begins before has no end")
    }

    /// Walks over a value, however deep it is nested, and returns it as it stands there.
    pub(crate) fn value(&mut self) -> Result<&'a str> {
        let bytes = self.text.as_bytes();
        let first = self.peek().ok_or_else(|| self.wrong("a value is missing"))?;
        let begin = self.at;
        match first {
            b'"' => return self.raw_text(),
            b'{' | b'[' => {
                let mut depth = 0_usize;
                loop {
                    let Some(byte) = bytes.get(self.at) else {
                        return Err(self.wrong("a value that begins before has no end"));
                    };
                    self.at += 1;
                    match byte {
                        b'"' => self.skip_text()?,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                self.at += bytes[begin..].iter().take_while(|byte| is_part(byte)).count();
                if self.at == begin {
                    return Err(self.wrong("a value is missing"));
                }
            }
        }
        Ok(&self.text[begin..self.at])
    }

    /// Says whether all was read.
    pub(crate) fn end(mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("there is more than one value")),
        }
    }
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const QUOTES: u64 = ONES * b'"' as u64;
const BACKSLASHES: u64 = ONES * b'\\' as u64;

/// Returns the highest bit of each byte that is zero; also of others, but only behind one that is.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Returns where the first byte is that is looked for, if it is among the first 32; or how many of them are not.
///
/// Most come sooner than a search that is made for long texts is worth.
#[inline]
fn soon(bytes: &[u8], find: impl Fn(u64) -> u64) -> std::result::Result<usize, usize> {
    let (words, _) = bytes.as_chunks::<8>();
    let mut plain = 0;
    for word in words.iter().take(4) {
        let found = find(u64::from_le_bytes(*word));
        if found != 0 {
            return Ok(plain + (found.trailing_zeros() / 8) as usize);
        }
        plain += 8;
    }
    Err(plain)
}
