//! HTTP/1.1 as the load needs it: requests that are bytes, and answers that are only followed to
//! their end. A client library would cost more than what is measured.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    str::FromStr,
};

use crate::Result;

/// Where a contender listens.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Returns a new connection, blocking or not.
    pub(crate) fn connect(&self, nonblocking: bool) -> Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(nonblocking)?;
                stream.into()
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(nonblocking)?;
                stream.into()
            }
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(s: &str) -> std::result::Result<Self, AddrParseError> {
        match s.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => s.parse().map(Self::Tcp),
        }
    }
}

/// The key that the contenders' clients send; the gateway puts its own in its place.
pub(crate) const CLIENT_KEY: &str = "sk-bench-client";

/// Returns a request with the headers that the CLI sends, as measured with 2.1.327.
pub(crate) fn request(more_headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = head(&format!("{more_headers}Content-Length: {}\r\n", body.len()));
    request.extend_from_slice(body);
    request
}

/// Returns a request's head. `more_headers` are whole lines and say how the body is framed.
pub(crate) fn head(more_headers: &str) -> Vec<u8> {
    format!(
        "POST /v1/messages?beta=true HTTP/1.1\r\n\
         Accept: application/json\r\n\
         Content-Type: application/json\r\n\
         User-Agent: claude-cli/2.1.327 (external, sdk-cli)\r\n\
         X-Claude-Code-Session-Id: 5245a466-31c5-4f0a-9c9e-0d8f9b6a7c11\r\n\
         X-Stainless-Arch: x64\r\n\
         X-Stainless-Lang: js\r\n\
         X-Stainless-OS: Linux\r\n\
         X-Stainless-Package-Version: 0.94.0\r\n\
         X-Stainless-Retry-Count: 0\r\n\
         X-Stainless-Runtime: node\r\n\
         X-Stainless-Runtime-Version: v26.12.1\r\n\
         X-Stainless-Timeout: 600\r\n\
         anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14,\
         context-management-2025-06-27,per-turn-control-2026-07-01,\
         mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,\
         advanced-tool-use-2025-11-20,effort-2025-11-24\r\n\
         anthropic-dangerous-direct-browser-access: true\r\n\
         anthropic-version: 2023-06-01\r\n\
         x-api-key: {CLIENT_KEY}\r\n\
         x-app: cli\r\n\
         Connection: keep-alive\r\n\
         Host: api.anthropic.com\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         {more_headers}\r\n"
    )
    .into_bytes()
}

/// Follows one answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    head: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body whose length was said.
    Length(u64),
    /// In the line with a chunk's size, of which so much is read.
    Size(u64),
    /// So many bytes of a chunk.
    Chunk(u64),
    /// In the line end behind a chunk, or behind the last, which is empty.
    Behind {
        last: bool,
    },
    Done,
}

impl Answer {
    /// Takes what was read, and hands the pieces of the body to `body`. Returns whether this was the end.
    ///
    /// # Errors
    ///
    /// If the status is not 200, or the answer is not well-formed, or goes on behind its end.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        body: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        while let Some(&byte) = bytes.first() {
            let used = match self.state {
                State::Head => self.feed_head(bytes)?,
                State::Length(left) | State::Chunk(left) => {
                    let now = bytes.len().min(usize::try_from(left)?);
                    body(&bytes[..now])?;
                    self.state = match (self.state, left - now as u64) {
                        (State::Length(_), 0) => State::Done,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::Behind { last: false },
                        (_, left) => State::Chunk(left),
                    };
                    now
                }
                State::Size(size) => {
                    self.state = match byte {
                        b'\n' if size == 0 => State::Behind { last: true },
                        b'\n' => State::Chunk(size),
                        b'\r' => State::Size(size),
                        _ => {
                            let digit = char::from(byte).to_digit(16);
                            State::Size(size * 16 + u64::from(digit.ok_or("no chunk size")?))
                        }
                    };
                    1
                }
                State::Behind { last } => {
                    match (byte, last) {
                        (b'\r', _) => {}
                        (b'\n', false) => self.state = State::Size(0),
                        (b'\n', true) => self.state = State::Done,
                        _ => return Err("a chunk does not end where it should".into()),
                    }
                    1
                }
                State::Done => return Err("there is more behind the end of an answer".into()),
            };
            bytes = &bytes[used..];
        }
        Ok(self.state == State::Done)
    }

    /// Returns the head, once it is there.
    pub(crate) fn head(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// Begins anew, for the next answer.
    pub(crate) fn reset(&mut self) {
        self.head.clear();
        self.state = State::Head;
    }

    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let Some(end) = self.head[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(bytes.len());
        };
        self.head.truncate(from + end + 4);
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&self.head)?;
        if response.code != Some(200) {
            return Err(format!("not the answer that was expected:\n{}", self.head()).into());
        }
        let value = |name: &str| {
            let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        self.state = match (value("transfer-encoding"), value("content-length")) {
            (Some("chunked"), None) => State::Size(0),
            (None, Some(length)) => match length.parse()? {
                0 => State::Done,
                length => State::Length(length),
            },
            _ => return Err("the end of an answer can't be told".into()),
        };
        Ok(self.head.len() - before)
    }
}
