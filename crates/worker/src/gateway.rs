//! The gateway: how it is reached, and what has to be shown there.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::Door;

use crate::args::Args;

/// The header in which a request for the model's API shows the secret.
const SECRET_HEADER: &str = "x-supervisor-secret";

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
}
