//! The gateway: how it is reached, and what has to be shown there.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::Door;
use serde_json::Value;

use crate::args::Args;

/// The header in which a request for the model's API shows the secret.
const SECRET_HEADER: &str = "x-supervisor-secret";

/// The header by which the gateway's own answers are told from the API's.
const GATEWAY_HEADER: &str = "x-supervisor-gateway:";

/// The header by which it says how many milliseconds ago a request of the agent waited there.
const WAITED_HEADER: &str = "x-supervisor-waited:";

/// How long the gateway may take to say whether a request waits there. It takes less than a millisecond.
const ANSWER: Duration = Duration::from_secs(1);

/// How much of an answer is read.
const MAX_ANSWER: u64 = 16 * 1024;

/// How long a connection to an address of the host may take. It takes less than a millisecond.
const CONNECT: Duration = Duration::from_secs(1);

/// The way to the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Gateway {
    /// A socket that is ours alone: nothing has to be shown.
    Socket(PathBuf),
    /// A port, for which there is a secret. Its number is read from the file for each connection: it is
    /// another one when the supervisor was started again.
    Port { file: PathBuf, secret: Secret },
}

/// What only this replica knows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Gateway {
    /// Returns the way that the command line names.
    ///
    /// # Errors
    ///
    /// That there is no such file, or that it does not say where the gateway is.
    pub(crate) fn new(args: &Args) -> io::Result<Self> {
        let Some(file) = &args.door else {
            return Ok(Self::Socket(std::path::absolute(&args.gateway)?));
        };
        let file = std::path::absolute(file)?;
        let secret = Secret(read(&file)?.secret);
        Ok(Self::Port { file, secret })
    }

    /// Connects. Whether by a socket or by a port is no difference to a stream of bytes.
    ///
    /// # Errors
    ///
    /// That nobody is there.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Socket(path) => UnixStream::connect(path),
            Self::Port { file, .. } => {
                let stream = TcpStream::connect_timeout(&read(file)?.address, CONNECT)?;
                stream.set_nodelay(true)?;
                Ok(OwnedFd::from(stream).into())
            }
        }
    }

    /// Sends a request without a body, whose answer may then be waited for that long at a time.
    ///
    /// # Errors
    ///
    /// That nobody is there, or takes it.
    pub(crate) fn ask(&self, request: &str, patience: Duration) -> io::Result<UnixStream> {
        let mut socket = self.connect()?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        let secret = self.header().map(|line| line + "\r\n").unwrap_or_default();
        let request = format!("{request} HTTP/1.1\r\nhost: gateway\r\n{secret}\r\n");
        socket.write_all(request.as_bytes())?;
        Ok(socket)
    }

    /// Returns how long ago a request of the agent waited there, and not for the model: for its turn, say. `None` when
    /// none did, or nobody knows.
    pub(crate) fn waited(&self) -> Option<Duration> {
        self.ask("HEAD /api/hello", ANSWER).and_then(Answer::read).ok()?.waited
    }

    /// Returns the header that a request for the model's API has to have, if it has to have one.
    pub(crate) fn header(&self) -> Option<String> {
        Some(format!("{SECRET_HEADER}: {}", self.secret()?))
    }

    /// Returns the header that a request to the proxy has to have, if it has to have one.
    pub(crate) fn proxy_header(&self) -> Option<String> {
        Some(format!(
            "proxy-authorization: Basic {}",
            base64(&format!("worker:{}", self.secret()?))
        ))
    }

    /// Returns the URL of the proxy that is on that port of the loopback.
    pub(crate) fn proxy_url(&self, port: u16) -> String {
        match self.secret() {
            Some(secret) => format!("http://worker:{secret}@127.0.0.1:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        }
    }

    fn secret(&self) -> Option<&str> {
        match self {
            Self::Socket(_) => None,
            Self::Port { secret, .. } => Some(&secret.0),
        }
    }
}

/// As much of an answer as has to be known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// What it says of itself, if it is the gateway's.
    pub(crate) by: String,
    /// What an error of the gateway's says.
    pub(crate) message: String,
    /// How long ago a request waited in the gateway.
    waited: Option<Duration>,
}

impl Answer {
    /// Reads an answer's head, and the body of what may be an error of the gateway's.
    ///
    /// # Errors
    ///
    /// That there is none, or none in time, or that it is no HTTP.
    pub(crate) fn read(stream: impl Read) -> io::Result<Self> {
        let mut stream = BufReader::new(stream.take(MAX_ANSWER));
        let mut line = || {
            let mut line = Vec::new();
            stream.read_until(b'\n', &mut line)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&line).trim_end().to_owned())
        };
        let first = line()?;
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| match first.as_str() {
            "" => io::Error::new(io::ErrorKind::UnexpectedEof, "no answer"),
            _ => io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP"),
        })?;
        let (mut answer, mut length) = (Self { status, ..Self::default() }, 0);
        loop {
            let line = line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(by) = line.strip_prefix(GATEWAY_HEADER) {
                by.trim().clone_into(&mut answer.by);
            } else if let Some(value) = line.strip_prefix(WAITED_HEADER) {
                answer.waited = value.trim().parse().ok().map(Duration::from_millis);
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        if status >= 400 && !answer.by.is_empty() {
            let mut body = Vec::new();
            stream.take(length).read_to_end(&mut body)?;
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let said = body["error"]["message"].as_str().unwrap_or("it does not say why");
            said.strip_prefix("gateway: ").unwrap_or(said).clone_into(&mut answer.message);
        }
        Ok(answer)
    }
}

fn read(file: &Path) -> io::Result<Door> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("can't read {}: {error}", file.display()))
    };
    let door: Door = serde_json::from_slice(&fs::read(file).map_err(named)?)?;
    if !door.secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(io::Error::other(format!("{} has no secret", file.display())));
    }
    Ok(door)
}

/// Returns a text in Base64 (RFC 4648, section 4).
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut coded = String::new();
    for three in text.as_bytes().chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|n| u32::from(three.get(n).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n) & 63) as usize];
            coded.push(if n <= three.len() { digit.into() } else { '=' });
        }
    }
    coded
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser;
    use protocol::atomic_file::{Durability, replace};

    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (len, coded) in vectors.iter().enumerate() {
            assert_eq!(base64(&"foobar"[..len]), *coded);
        }
        assert_eq!(base64("~~~???"), "fn5+Pz8/");
    }

    #[test]
    fn port_is_looked_up_each_time_and_the_secret_is_shown_where_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("door.json");
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let door = Door { address: listener.local_addr().unwrap(), secret: "s3".to_owned() };
            replace(&file, &serde_json::to_vec(&door).unwrap(), Durability::Volatile).unwrap();
            listener
        };
        let listener = listen();
        let args = Args::parse_from(["worker", "--door", file.to_str().unwrap()]);
        let gateway = Gateway::new(&args).unwrap();
        gateway.connect().unwrap();
        listener.accept().unwrap();
        let other = listen();
        gateway.connect().unwrap();
        other.accept().unwrap();
        assert_eq!(gateway.header().as_deref(), Some("x-supervisor-secret: s3"));
        let proxy = "proxy-authorization: Basic d29ya2VyOnMz";
        assert_eq!(gateway.proxy_header().as_deref(), Some(proxy));
        assert_eq!(gateway.proxy_url(1), "http://worker:s3@127.0.0.1:1");
        assert!(!format!("{gateway:?}").contains("s3"));

        let bad = br#"{"address":"127.0.0.1:1","secret":"a\r\nb"}"#;
        replace(&file, bad, Durability::Volatile).unwrap();
        assert!(Gateway::new(&args).is_err());
        let args = Args::parse_from(["worker", "--gateway", "/g.sock"]);
        let gateway = Gateway::new(&args).unwrap();
        assert_eq!((gateway.header(), gateway.proxy_header()), (None, None));
        assert_eq!(gateway.proxy_url(1), "http://127.0.0.1:1");
    }

    #[test]
    fn answer_says_who_gives_it() {
        let read = |answer: &[u8]| {
            Answer::read(answer).ok().map(|answer| (answer.status, answer.by, answer.message))
        };
        let own = |by: &str, message: &str| (by.to_owned(), message.to_owned());
        let said = |status, (by, message): (String, String)| Some((status, by, message));
        let none = own("", "");
        assert_eq!(read(b"HTTP/1.1 403 Forbidden\r\nx: 200\r\n\r\n"), said(403, none.clone()));
        assert_eq!(read(b"HTTP/1.0 200\r\n"), said(200, none.clone()));
        let waits =
            b"HTTP/1.1 200 OK\r\nx-supervisor-gateway: waiting\r\ncontent-length: 9\r\n\r\n";
        assert_eq!(read(waits), said(200, own("waiting", "")));
        let head = "HTTP/1.1 502 x\r\nX-Supervisor-Gateway: unreachable\r\ncontent-length: ";
        let body = r#"{"error":{"message":"gateway: nobody is there"}}"#;
        for (body, message) in [(body, "nobody is there"), ("{", "it does not say why")] {
            let answer = format!("{head}{}\r\n\r\n{body}and more", body.len());
            assert_eq!(read(answer.as_bytes()), said(502, own("unreachable", message)), "{body}");
        }
        // Of the API, or whatever stands before it.
        assert_eq!(read(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), said(502, none));
        for no in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 4\r\n", b"SSH-2.0-x\r\n", b"\xff\xff\n"] {
            assert_eq!(read(no), None, "{no:?}");
        }
    }
}
