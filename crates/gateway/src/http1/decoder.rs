//! Where a body ends.

use thiserror::Error;

/// How much of chunk extensions and trailers one body may have, in bytes. Nobody reads them, and hardly anybody
/// sends them.
const MAX_ASIDE: usize = 16 * 1024;

/// The most digits of a chunk's size: more than any body has, and no number overflows.
const MAX_DIGITS: u8 = 15;

/// How a message's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// By `Content-Length`.
    Length(u64),
    /// By `Transfer-Encoding: chunked`.
    Chunked,
    /// By the connection's end. Answers only.
    UntilClose,
}

/// Follows a body to its end, in whatever pieces it comes.
///
/// It is exact, because what one hop takes for the end of a message and another does not is how requests are
/// smuggled: a size is hexadecimal digits and nothing else, lines end in CR LF, and what is not so is an error.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// Bytes of extensions and trailers.
    aside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Over,
    UntilClose,
    /// So many bytes of a body of known length, at least one.
    Length(u64),
    /// In a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    /// White space behind it.
    SizeEnd {
        size: u64,
    },
    /// In what may stand between a chunk's size and the line's end.
    Extension {
        size: u64,
    },
    /// Before the LF of that line.
    SizeLf {
        size: u64,
    },
    /// So many bytes of a chunk, at least one.
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// At the beginning of a line behind the last chunk.
    Trailer,
    InTrailer,
    TrailerLf,
    LastLf,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// So many bytes are framing, and are done with.
    pub(crate) skip: usize,
    pub(crate) then: Then,
}

/// What stands behind the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// So many bytes of the body, at least one. Whoever takes some of them says so: [`Decoder::took`].
    Data(usize),
    /// Nothing yet.
    More,
    /// The next message.
    End,
}

/// A body that is not framed as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadBody {
    #[error("a chunk's size is not a number")]
    Size,
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    #[error("a line among the chunks does not end as it should")]
    LineEnd,
    #[error("there are more than {MAX_ASIDE} bytes of extensions and trailers")]
    TooMuchAside,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, aside: 0 }
    }

    /// Returns whether the body is over.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Returns how many bytes are left of a body of known length.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.state {
            State::Over => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Takes note of the connection's end. Returns whether it is the body's.
    pub(crate) fn close(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Over;
        }
        self.is_over()
    }

    /// Looks at the next bytes.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<Step, BadBody> {
        let mut skip = 0;
        loop {
            let rest = &bytes[skip..];
            let data = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let then = match self.state {
                State::Over => Then::End,
                _ if rest.is_empty() => Then::More,
                State::UntilClose => Then::Data(rest.len()),
                State::Length(left) | State::Chunk(left) => Then::Data(data(left)),
                _ => {
                    self.state = self.framing(rest[0])?;
                    skip += 1;
                    continue;
                }
            };
            return Ok(Step { skip, then });
        }
    }

    /// Takes note of how much of the data is gone.
    pub(crate) fn took(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.state = match self.state {
            State::Length(left) if left <= bytes => State::Over,
            State::Length(left) => State::Length(left - bytes),
            State::Chunk(left) if left <= bytes => State::ChunkCr,
            State::Chunk(left) => State::Chunk(left - bytes),
            other => other,
        };
    }

    /// Takes a byte that is no data, and returns the state behind it.
    fn framing(&mut self, byte: u8) -> Result<State, BadBody> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_DIGITS {
                    return Err(BadBody::Size);
                }
                let digit = char::from(byte).to_digit(16).ok_or(BadBody::Size)?;
                State::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BadBody::Size),
            (State::Size { size, .. } | State::SizeEnd { size }, b'\r')
            | (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. } | State::SizeEnd { size }, b' ' | b'\t') => {
                self.count_aside()?;
                State::SizeEnd { size }
            }
            (State::Size { size, .. } | State::SizeEnd { size }, b';') => {
                self.count_aside()?;
                State::Extension { size }
            }
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_aside()?;
                State::Extension { size }
            }
            (State::Size { .. } | State::SizeEnd { .. }, _) => return Err(BadBody::Size),
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => State::Chunk(size),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::ChunkCr | State::ChunkLf, _) => return Err(BadBody::ChunkEnd),
            (State::Trailer, b'\r') => State::LastLf,
            (State::InTrailer, b'\r') => State::TrailerLf,
            (State::Trailer | State::InTrailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_aside()?;
                State::InTrailer
            }
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Over,
            (
                State::SizeLf { .. }
                | State::Extension { .. }
                | State::Trailer
                | State::InTrailer
                | State::TrailerLf
                | State::LastLf,
                _,
            ) => return Err(BadBody::LineEnd),
            (State::Over | State::UntilClose | State::Length(_) | State::Chunk(_), _) => self.state,
        })
    }

    fn count_aside(&mut self) -> Result<(), BadBody> {
        self.aside += 1;
        if self.aside > MAX_ASIDE { Err(BadBody::TooMuchAside) } else { Ok(()) }
    }
}

/// Appends the line before a chunk of this size, which is not 0.
pub(crate) fn put_chunk_head(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    let digit = |at: u32| b"0123456789abcdef"[size >> (4 * at) & 15];
    out.extend((0..digits).rev().map(digit));
    out.extend_from_slice(b"\r\n");
}

/// What stands behind a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk, which is empty, and the end of a body without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Reads any bytes as a body in chunks, at once and byte by byte.
///
/// # Panics
///
/// When that makes a difference.
#[cfg(feature = "fuzzing")]
pub(super) fn read_any(bytes: &[u8]) {
    let read = |size: usize| {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut body, mut at) = (Vec::new(), 0);
        while at < bytes.len() && !decoder.is_over() {
            let step = decoder.step(&bytes[at..bytes.len().min(at + size)])?;
            at += step.skip;
            if let Then::Data(len) = step.then {
                body.extend_from_slice(&bytes[at..at + len]);
                decoder.took(len);
                at += len;
            }
        }
        Ok::<_, BadBody>((body, at, decoder.is_over()))
    };
    assert_eq!(read(usize::MAX / 2), read(1), "pieces should not matter");
}

#[cfg(test)]
mod tests;
