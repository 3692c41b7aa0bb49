//! A world around a gateway: an upstream, replicas, and clients in their containers.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gateway::{
    Account, Caller, Credential, EgressPolicy, Gateway, Ledger, Listener, Prices, Replica,
    RequestPolicy, Upstream,
    pace::{AccountId, PaceConfig},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1::SendRequest,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use protocol::{Attempt, Priority, RunId, ServerTool};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::mpsc,
};

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Waits for what must come soon. Long enough for a machine that is busy with other things.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting: {what}"),
    }
}

/// Waits until something is so, and soon.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A gateway and its folder.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) gateway: Gateway,
}

impl World {
    pub(crate) fn new(upstream: &str) -> Self {
        Self::with(upstream, PaceConfig::default())
    }

    pub(crate) fn with(upstream: &str, pace: PaceConfig) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), gateway: gateway(upstream, pace) }
    }

    /// Returns the same world, whose gateway has threads of its own.
    pub(crate) fn on_threads(self) -> Self {
        let count = 3.try_into().unwrap();
        Self { gateway: self.gateway.with_threads(count).unwrap(), ..self }
    }

    pub(crate) fn socket(&self, replica: &str) -> PathBuf {
        self.dir.path().join(replica).join("gateway.sock")
    }

    /// Opens the way out of a replica that works on an attempt.
    pub(crate) async fn replica(&self, name: &str, key: Option<&str>) -> Listener {
        let replica = self::replica(name, key);
        let listener = self.gateway.listen(replica, &self.socket(name)).await.unwrap();
        listener.assign(Some(caller(name, 1)));
        listener
    }
}

/// Returns a gateway with nothing booked and list prices.
pub(crate) fn gateway(upstream: &str, pace: PaceConfig) -> Gateway {
    let (ledger, _) = Ledger::open(None, || protocol::Time::ZERO).unwrap();
    let upstream = Upstream::parse(upstream).unwrap();
    Gateway::new(upstream, Prices::built_in(), ledger, pace).unwrap()
}

pub(crate) fn caller(replica: &str, attempt: u32) -> Caller {
    Caller {
        replica: replica.parse().unwrap(),
        worker: "marie".parse().unwrap(),
        run: RunId::Adhoc,
        task: "task".parse().unwrap(),
        attempt: Attempt::new(attempt).unwrap(),
        priority: Priority::Medium,
    }
}

/// Returns a replica of `marie` that may ask any model, with the API's search, and reaches no other host.
pub(crate) fn replica(name: &str, key: Option<&str>) -> Replica {
    Replica {
        id: name.parse().unwrap(),
        worker: "marie".parse().unwrap(),
        account: account(name, key),
        egress: EgressPolicy::default(),
        requests: RequestPolicy {
            models: vec!["*".parse().unwrap()],
            server_tools: vec![ServerTool::WebSearch],
        },
    }
}

/// Returns an account with a key, or with none.
pub(crate) fn account(name: &str, key: Option<&str>) -> Arc<Account> {
    let key = key.map(|key| Arc::new(Credential::api_key(key.to_owned()).unwrap()));
    Arc::new(Account::new(AccountId::new(name), key))
}

/// Starts an HTTP server on loopback. Returns its URL and how many connections it has taken.
pub(crate) async fn upstream<H, F>(handler: H) -> (String, Arc<AtomicUsize>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (listener, url) = raw_upstream().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, handler.clone()));
        }
    });
    (url, taken)
}

/// Starts an HTTP server on a unix socket.
pub(crate) fn unix_upstream<H, F>(path: &Path, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, handler.clone()));
        }
    });
}

pub(crate) async fn serve<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answering = handler(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    // A client that goes away is part of many tests.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Opens a port for a server that the test plays by hand.
pub(crate) async fn raw_upstream() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Connects as a client in the container does.
pub(crate) async fn client(socket: &Path) -> SendRequest<Body> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends a request on a connection of its own.
pub(crate) async fn send(socket: &Path, request: Request<Body>) -> Response<Incoming> {
    soon("an answer", client(socket).await.send_request(request)).await.unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "anything").body(full("")).unwrap()
}

/// Returns a request that passes as it comes.
pub(crate) fn post(body: Body) -> Request<Body> {
    Request::post("/v1/models/x?beta=true").header("host", "anything").body(body).unwrap()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Returns a body of unknown length, and where its chunks are put in. Ends when that is dropped.
pub(crate) fn chunks() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let next: Option<io::Result<Bytes>> = receiver.recv().await;
        next.map(|chunk| (chunk.map(Frame::data), receiver))
    });
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// Returns the next piece of a body's data.
pub(crate) async fn piece(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = soon("a piece of the body", body.frame()).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

pub(crate) async fn json(response: Response<Incoming>) -> serde_json::Value {
    assert_eq!(response.headers()["content-type"], "application/json");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// Reads a message's head, up to and with the empty line.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Returns bytes that no buffer mix-up leaves as they are (xorshift).
pub(crate) fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// What is logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes down what this thread logs, on every level, until the guard is dropped.
    pub(crate) fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        (log, tracing::subscriber::set_default(subscriber.finish()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
