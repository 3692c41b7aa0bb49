//! The first message of a TLS connection, read for the one name in it.
//!
//! By RFC 8446, sections 4.1.2 and 5.1, and RFC 6066, section 3. Strict: what another reader could
//! read in another way is refused.

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::limits;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The largest payload of a record.
const MAX_RECORD: usize = 1 << 14;

/// Why the beginning of a connection is not a ClientHello for the right host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadHello {
    #[error("it is not TLS")]
    NotTls,
    #[error("the TLS ClientHello is malformed")]
    Malformed,
    #[error("the TLS ClientHello is longer than {} bytes", limits::MAX_CLIENT_HELLO)]
    TooLong,
    #[error("the TLS ClientHello has no server name")]
    NoName,
    #[error("the TLS ClientHello asks for `{0}`")]
    OtherName(String),
    #[error("no TLS ClientHello came within {} s", limits::CLIENT_HELLO_TIMEOUT.as_secs())]
    Silent,
    #[error("the connection ended before the TLS ClientHello did")]
    Cut,
}

/// What is known of a ClientHello that may still be coming.
#[derive(Debug, PartialEq, Eq)]
enum Progress<'a> {
    /// At least so many bytes, from the beginning, are needed to know more.
    Need(usize),
    /// It is there and asks for this name.
    Name(&'a [u8]),
}

/// Reads a ClientHello that asks for `host`. Returns all bytes read, which may be more.
///
/// Returns `None` if the connection ends before its first byte.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    host: &str,
) -> Result<Option<Vec<u8>>, BadHello> {
    let reading = async {
        let mut bytes = Vec::with_capacity(2048);
        let mut message = Vec::new();
        loop {
            match server_name(&bytes, &mut message)? {
                Progress::Name(name) if name.eq_ignore_ascii_case(host.as_bytes()) => break,
                Progress::Name(name) => {
                    return Err(BadHello::OtherName(name.escape_ascii().to_string()));
                }
                Progress::Need(len) => {
                    while bytes.len() < len {
                        match stream.read_buf(&mut bytes).await {
                            Ok(0) if bytes.is_empty() => return Ok(None),
                            Ok(0) | Err(_) => return Err(BadHello::Cut),
                            Ok(_) => {}
                        }
                    }
                }
            }
        }
        Ok(Some(bytes))
    };
    timeout(limits::CLIENT_HELLO_TIMEOUT, reading).await.unwrap_or(Err(BadHello::Silent))
}

/// Returns the name that a ClientHello asks for. `message` is where it is put together from its records.
fn server_name<'a>(bytes: &[u8], message: &'a mut Vec<u8>) -> Result<Progress<'a>, BadHello> {
    message.clear();
    let mut at = 0;
    loop {
        let record = &bytes[at..];
        if record.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD)
            || record.get(1).is_some_and(|version| *version != 3)
        {
            return Err(BadHello::NotTls);
        }
        let Some((&[_, _, _, high, low], payload)) = record.split_first_chunk() else {
            return need(at + 5);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > MAX_RECORD {
            return Err(BadHello::Malformed);
        }
        at += 5 + len;
        let Some(payload) = payload.get(..len) else {
            return need(at);
        };
        message.extend_from_slice(payload);
        if message[0] != CLIENT_HELLO {
            return Err(BadHello::Malformed);
        }
        let Some(&[_, a, b, c]) = message.first_chunk() else { continue };
        let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        if whole > limits::MAX_CLIENT_HELLO {
            return Err(BadHello::TooLong);
        }
        if message.len() >= whole {
            // It must end where its record ends.
            let body = (message.len() == whole).then_some(&message[4..]);
            return name_in(body.ok_or(BadHello::Malformed)?).map(Progress::Name);
        }
    }
}

fn need<'a>(len: usize) -> Result<Progress<'a>, BadHello> {
    if len > limits::MAX_CLIENT_HELLO { Err(BadHello::TooLong) } else { Ok(Progress::Need(len)) }
}

/// Returns the name in a ClientHello without its header.
fn name_in(hello: &[u8]) -> Result<&[u8], BadHello> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?; // version, random
    hello.list8()?; // session id
    hello.list16()?; // cipher suites
    hello.list8()?; // compression methods
    if hello.0.is_empty() {
        return Err(BadHello::NoName);
    }
    let mut extensions = Reader(hello.list16()?);
    hello.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, value) = (extensions.u16()?, extensions.list16()?);
        if kind == SERVER_NAME && found.replace(value).is_some() {
            return Err(BadHello::Malformed);
        }
    }
    let mut value = Reader(found.ok_or(BadHello::NoName)?);
    let mut names = Reader(value.list16()?);
    value.end()?;
    if names.take(1)? != [HOST_NAME] {
        return Err(BadHello::Malformed);
    }
    let name = names.list16()?;
    names.end()?;
    if name.is_empty() { Err(BadHello::NoName) } else { Ok(name) }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, BadHello> {
        let (&taken, rest) = self.0.split_first_chunk().ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(taken))
    }

    /// A list with its length in one byte.
    fn list8(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    /// A list with its length in two bytes.
    fn list16(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.u16()?;
        self.take(len.into())
    }

    fn end(&self) -> Result<(), BadHello> {
        if self.0.is_empty() { Ok(()) } else { Err(BadHello::Malformed) }
    }
}
