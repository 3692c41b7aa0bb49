//! The client of the daemon's API: typed calls, and streams of lines.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::types::{ApiError, ErrorKind};
use crate::failure::Failure;
use crate::install::Installation;

/// How long an answer may take. The daemon answers from memory; a submission waits for one write
/// that is synced.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest line of a stream, in bytes: an event holds at most a plan or a result of 1 MiB,
/// which escapes make longer.
const MAX_LINE: usize = 16 << 20;

/// A client of one daemon. Each call makes a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How long an answer may take.
    timeout: Duration,
}

impl Client {
    /// The socket's name in the folder of the sockets.
    pub const SOCKET: &'static str = "api.sock";

    /// Returns a client of the daemon that serves this installation; there is one when this returns
    /// `Ok`.
    ///
    /// # Errors
    ///
    /// Unavailable when no daemon takes connections.
    pub async fn connect(installation: &Installation) -> Result<Self, Failure> {
        let socket = installation.sockets()?.join(Self::SOCKET);
        let client = Self { socket, timeout: ANSWER_TIMEOUT };
        client.open().await?;
        Ok(client)
    }

    /// Returns what is at that path.
    ///
    /// # Errors
    ///
    /// What the daemon says, or unavailable when it does not answer within 30 seconds.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (status, body) = self.call(Method::GET, path, Vec::new()).await?;
        decode(status, &body)
    }

    /// Returns what is at that path, or `None` when the daemon says that there is no such thing.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let (status, body) = self.call(Method::GET, path, Vec::new()).await?;
        if status == StatusCode::NOT_FOUND { Ok(None) } else { decode(status, &body).map(Some) }
    }

    /// Sends `body` to that path and returns the answer.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("BUG: a body of the API should be JSON");
        let (status, body) = self.call(Method::POST, path, body).await?;
        decode(status, &body)
    }

    /// Returns the same client for calls that take longer by design.
    #[must_use]
    pub fn patient(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Opens a stream of lines.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get). The stream itself may go on without end.
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let answer = self.send(Method::GET, path, Vec::new());
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| slow())??;
        let status = answer.status();
        if status.is_success() {
            return Ok(Lines { body: answer.into_body(), buffer: Vec::new(), scanned: 0 });
        }
        let body = tokio::time::timeout(ANSWER_TIMEOUT, collect(answer));
        Err(refusal(status, &body.await.map_err(|_| slow())??))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let call = async {
            let answer = self.send(method, path, body).await?;
            Ok((answer.status(), collect(answer).await?))
        };
        tokio::time::timeout(self.timeout, call).await.map_err(|_| slow())?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = self.open().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        // It ends when the answer has been read, or is dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "supervisor")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Failure::bad_input(format!("`{path}` is not a path")).because(e))?;
        sender.send_request(request).await.map_err(gone)
    }

    async fn open(&self) -> Result<UnixStream, Failure> {
        UnixStream::connect(&self.socket).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                let message = format!("`{}` can't be opened", self.socket.display());
                let hint = "The supervisor runs as another user: run this as that user.";
                return Failure::unavailable(message).because(error).hint(hint);
            }
            Failure::unavailable("no supervisor runs here")
                .because(error)
                .hint("Start it with `supervisor up --detach`, or `make up`.")
        })
    }
}

/// The lines of a stream.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no end of line.
    scanned: usize,
}

impl Lines {
    /// Returns the next line without its end, or `None` when the stream has ended. What follows the
    /// last end of line is no line: the daemon went away while it wrote.
    ///
    /// # Errors
    ///
    /// Unavailable when the stream breaks, or a line is longer than 16 MiB.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.scanned = 0;
                line.pop();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            self.scanned = self.buffer.len();
            if self.scanned > MAX_LINE {
                return Err(Failure::unavailable("the supervisor sent a line without end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(gone)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    Ok(answer.into_body().collect().await.map_err(gone)?.to_bytes())
}

fn decode<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Failure> {
    if !status.is_success() {
        return Err(refusal(status, body));
    }
    serde_json::from_slice(body).map_err(|error| {
        Failure::unavailable("the supervisor's answer can't be read")
            .because(error)
            .hint("It may be of another version: `supervisor down`, then `supervisor up --detach`.")
    })
}

/// Returns what the daemon said as a failure.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(error) = serde_json::from_slice::<ApiError>(body) else {
        return Failure::unavailable(format!("the supervisor answered with {status}"));
    };
    let failure = match error.kind {
        ErrorKind::BadInput | ErrorKind::NotFound | ErrorKind::Conflict => {
            Failure::bad_input(error.message)
        }
        ErrorKind::Unavailable => Failure::unavailable(error.message),
    };
    let failure = match Cause::chain(error.causes) {
        Some(cause) => failure.because(cause),
        None => failure,
    };
    match error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn gone(error: hyper::Error) -> Failure {
    Failure::unavailable("the supervisor went away before it answered").because(error).hint(
        "`supervisor status` shows whether it is back; its log is `.supervisor/supervisor.log`.",
    )
}

fn slow() -> Failure {
    Failure::unavailable("the supervisor did not answer within 30 seconds")
        .hint("Its log is `.supervisor/supervisor.log`.")
}

/// A cause that another process told, with its own.
#[derive(Debug)]
pub(crate) struct Cause {
    text: String,
    source: Option<Box<Cause>>,
}

impl Cause {
    /// Links causes, from the outermost to the innermost.
    pub(crate) fn chain(causes: Vec<String>) -> Option<Self> {
        let link = |source: Option<Self>, text| Some(Self { text, source: source.map(Box::new) });
        causes.into_iter().rev().fold(None, link)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}
