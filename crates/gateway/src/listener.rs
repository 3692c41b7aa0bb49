//! The daemon's gateway, and one listener per replica.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header::PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::{Attempt, ReplicaId, TaskId, WorkerId};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, debug, error, info_span, warn};

use crate::{
    account::Account,
    admission::is_for_elsewhere,
    answer,
    audit::Audit,
    body::{self, ResponseBody},
    caller::Caller,
    client::{Client, TlsRootsError},
    conn::{self, Conn, Gone, Next, Untaken},
    desk::{Desk, RefusedRequests},
    egress::{Egress, EgressPolicy, Outside},
    governor::Governor,
    http1::{RequestHead, Wire},
    lanes::Lanes,
    ledger::Ledger,
    limits,
    pace::{LimitStatus, PaceConfig, PaceStatus},
    policy::RequestPolicy,
    prefix::CacheBreak,
    prices::Prices,
    proxy::{Proxy, Reply},
    quota::Quota,
    room::Room,
    secret::Secret,
    socket::{self, ListenError, SocketFile},
    stop::Stop,
    upstream::Upstream,
};

/// The way to the model's API, for all replicas of a daemon.
///
/// A clone is the same gateway; its connections to the upstream are shared.
#[derive(Clone, Debug)]
pub struct Gateway {
    upstream: Upstream,
    lanes: Arc<Lanes>,
    outside: Outside,
    governor: Arc<Governor>,
    staggers: bool,
    audit: Option<Audit>,
}

impl Gateway {
    /// Returns a gateway to `upstream`, whose requests to the model are priced by `prices`, booked in
    /// `ledger`, and kept to the limits of `pace`. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// For an `https` upstream the system's trusted certificates (or those of `SSL_CERT_FILE`)
    /// are read now; without one it can't work.
    pub fn new(
        upstream: Upstream,
        prices: Prices,
        ledger: Ledger,
        pace: PaceConfig,
    ) -> Result<Self, TlsRootsError> {
        let lanes = Arc::new(Lanes::here(Client::new(&upstream)?));
        let governor = Arc::new(Governor::new(prices, ledger, pace));
        let (outside, staggers, audit) = (Outside::default(), true, None);
        Ok(Self { upstream, lanes, outside, governor, staggers, audit })
    }

    /// Returns the same gateway, in which no request waits until another that has the same prefix has put it
    /// into the prompt cache.
    pub fn without_stagger(self) -> Self {
        Self { staggers: false, ..self }
    }

    /// Returns the same gateway, which notes each way out that is tried in an attempt.
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// Returns the same gateway, which serves connections on threads of its own: one for every two cores, see
    /// [`with_threads`](Self::with_threads).
    ///
    /// With one for each core they would be in each other's way, and in that of those who ask: on two cores, beside
    /// load and upstream, two threads do no more than one, and take twice as long for it at half the rate (measured).
    ///
    /// # Errors
    ///
    /// As for [`with_threads`](Self::with_threads).
    pub fn with_own_threads(self) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.with_threads(NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN))
    }

    /// Returns the same gateway, which serves connections on so many threads of its own. They end with the last clone
    /// of the gateway.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads or file descriptors.
    pub fn with_threads(self, count: NonZeroUsize) -> io::Result<Self> {
        let lanes = Arc::new(Lanes::threads(count, self.lanes.client())?);
        Ok(Self { lanes, ..self })
    }

    /// Returns what was spent, and by whom.
    pub fn ledger(&self) -> &Ledger {
        &self.governor.ledger
    }

    /// Returns what each model costs.
    pub fn prices(&self) -> &Prices {
        &self.governor.prices
    }

    /// Returns why there was no connection to the upstream within the last minute, if there has been none since.
    pub fn outage(&self) -> Option<String> {
        self.governor.outage.why()
    }

    /// Returns how things stand with the limits, for each model of each account that was used.
    pub fn limits(&self) -> Vec<PaceStatus> {
        self.governor.pace.status()
    }

    /// Returns the limits of the workers that have some of their own, and what is left of them.
    pub fn worker_limits(&self) -> Vec<(WorkerId, Vec<LimitStatus>)> {
        self.governor.pace.worker_limits()
    }

    /// Returns what the latest attempts were refused because of what their requests contained, oldest first.
    pub fn refused(&self) -> Vec<RefusedRequests> {
        self.governor.refused()
    }

    /// Returns the latest requests, oldest first, that did not read from the prompt cache what they should have.
    pub fn cache_breaks(&self) -> Vec<CacheBreak> {
        self.governor.prefixes.breaks()
    }

    /// Returns the same gateway with another view of the network for the egress proxy.
    pub fn with_outside(self, outside: Outside) -> Self {
        Self { outside, ..self }
    }

    /// Opens the way out for a replica: a socket at `path`, where each request for the model's API is
    /// sent on with the replica's credential, or with the client's own if it has none, and where its
    /// tools find a proxy to the hosts that it may reach.
    ///
    /// The socket gets mode [`SOCKET_MODE`](crate::SOCKET_MODE): whoever finds it can use the key. So
    /// it belongs into a folder of its own below a private one; if its folder is missing it is made, with
    /// [`DIR_MODE`](crate::DIR_MODE). A socket that a dead process has left behind is replaced.
    ///
    /// # Errors
    ///
    /// If the path is too long for a socket, is taken by something that is not a dead socket, or the
    /// file system says no.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before its end has changed nothing.
    pub async fn listen(&self, replica: Replica, path: &Path) -> Result<Listener, ListenError> {
        let (socket, file) = socket::bind(path).await?;
        let (desk, serving) = self.serve(replica, socket, None);
        Ok(Listener { file, desk, serving })
    }

    /// Opens the way out for a replica that can't share a unix socket: a TCP listener at `address`, with
    /// a port of the system's choice if that is 0.
    ///
    /// Every request has to show `secret`: one for the model's API in
    /// [`SECRET_HEADER`](crate::SECRET_HEADER), one for the proxy as the password of
    /// `Proxy-Authorization: Basic`. Others are answered with 401 and 407. From each address come at most
    /// [`MAX_CONNECTIONS`](limits::MAX_CONNECTIONS) at once; further ones are closed. Nothing is encrypted: the
    /// address belongs to an internal network.
    ///
    /// # Errors
    ///
    /// If the address is in use or none of this machine.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before its end has changed nothing.
    pub async fn listen_tcp(
        &self,
        replica: Replica,
        secret: Secret,
        address: SocketAddr,
    ) -> Result<PortListener, ListenError> {
        let fail = |source| ListenError::Address { address, source };
        let socket = TcpListener::bind(address).await.map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        let (desk, serving) = self.serve(replica, socket, Some(secret));
        Ok(PortListener { address, desk, serving })
    }

    fn serve(
        &self,
        replica: Replica,
        socket: impl Socket,
        secret: Option<Secret>,
    ) -> (Arc<Desk>, Serving) {
        let Replica { id, worker, account, egress, requests } = replica;
        let desk = Arc::new(Desk::default());
        let span = info_span!("gateway", replica = %id);
        let model = self.upstream.host_name();
        let door = Arc::new(Door {
            proxy: Proxy {
                replica: id.as_str().into(),
                upstream: self.upstream.clone(),
                account,
                governor: Arc::clone(&self.governor),
                staggers: self.staggers,
                desk: Arc::clone(&desk),
                room: Room::new(),
                egress: Egress::new(worker, egress, self.outside.for_another(), model)
                    .noted(self.audit.clone(), Arc::clone(&desk)),
                requests,
                audit: self.audit.clone(),
                host: self.upstream.host().into(),
            },
            secret,
            warnings: Quota::new(),
        });
        let closed = CancellationToken::new();
        let lanes = Arc::clone(&self.lanes);
        let accepting = tokio::spawn(accept(socket, door, lanes, closed.clone()).instrument(span));
        (desk, Serving { closing: closed.drop_guard(), accepting })
    }
}

/// Who a way out is for, and what its requests may do.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The replica.
    pub id: ReplicaId,
    /// Its worker, whose configuration a refusal names.
    pub worker: WorkerId,
    /// Whose key its requests to the model's API get, and whose limits count for them.
    pub account: Arc<Account>,
    /// Which other hosts it may reach.
    pub egress: EgressPolicy,
    /// What its requests to the model may contain.
    pub requests: RequestPolicy,
}

/// The open way out of one replica. Ends when dropped, with every connection that is open.
#[derive(Debug)]
#[must_use = "a listener that is dropped is closed"]
pub struct Listener {
    file: SocketFile,
    desk: Arc<Desk>,
    serving: Serving,
}

impl Listener {
    /// Returns where the socket is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Says on whose account the replica's requests to the model go from now on. Until it is said, and
    /// after `None`, they are refused; those that are under way stay where they were booked.
    pub fn assign(&self, caller: Option<Caller>) {
        self.desk.assign(caller);
    }

    /// Returns why an attempt got nothing more from the model, if that is so, and it is the last one that
    /// was assigned.
    pub fn stop(&self, task: &TaskId, attempt: Attempt) -> Option<Stop> {
        self.desk.stop(task, attempt)
    }

    /// Returns what an attempt was refused because of what its requests contained, if anything, and if it is the
    /// last one that was assigned.
    pub fn refused(&self, task: &TaskId, attempt: Attempt) -> Option<RefusedRequests> {
        self.desk.refused(task, attempt)
    }

    /// Removes the socket, ends all connections, and returns when none is left.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has closed the listener all the same; only the wait is cut short.
    pub async fn close(self) {
        let Self { file, desk: _, serving } = self;
        drop(file);
        serving.close().await;
    }
}

/// The open way out of one replica, by TCP. Ends when dropped, with every connection that is open.
#[derive(Debug)]
#[must_use = "a listener that is dropped is closed"]
pub struct PortListener {
    address: SocketAddr,
    desk: Arc<Desk>,
    serving: Serving,
}

impl PortListener {
    /// Returns where it listens, with its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says on whose account the replica's requests to the model go from now on. Until it is said, and
    /// after `None`, they are refused; those that are under way stay where they were booked.
    pub fn assign(&self, caller: Option<Caller>) {
        self.desk.assign(caller);
    }

    /// Returns why an attempt got nothing more from the model, if that is so, and it is the last one that
    /// was assigned.
    pub fn stop(&self, task: &TaskId, attempt: Attempt) -> Option<Stop> {
        self.desk.stop(task, attempt)
    }

    /// Returns what an attempt was refused because of what its requests contained, if anything, and if it is the
    /// last one that was assigned.
    pub fn refused(&self, task: &TaskId, attempt: Attempt) -> Option<RefusedRequests> {
        self.desk.refused(task, attempt)
    }

    /// Gives the port back, ends all connections, and returns when none is left.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has closed the listener all the same; only the wait is cut short.
    pub async fn close(self) {
        self.serving.close().await;
    }
}

/// An accept loop that runs.
#[derive(Debug)]
struct Serving {
    /// Tells the accept loop to end; also when the listener is dropped without `close`.
    closing: DropGuard,
    accepting: JoinHandle<()>,
}

impl Serving {
    async fn close(self) {
        let Self { closing, accepting } = self;
        drop(closing);
        if let Err(panic) = accepting.await {
            error!(error = &panic as &dyn std::error::Error, "Accept loop failed.");
        }
    }
}

/// What takes connections.
trait Socket: Send + Sync + 'static {
    /// A connection that belongs to no runtime.
    type Accepted: Send + 'static;

    /// Whether others than the replica can connect, and make it wait.
    const IS_PUBLIC: bool;

    /// Returns from where a connection comes, where others can connect.
    fn peer(accepted: &Self::Accepted) -> Option<IpAddr>;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send;

    /// Makes a connection one of the runtime that this is called on.
    fn open(accepted: Self::Accepted) -> io::Result<Wire>;
}

impl Socket for UnixListener {
    type Accepted = std::os::unix::net::UnixStream;

    const IS_PUBLIC: bool = false;

    fn peer(_accepted: &Self::Accepted) -> Option<IpAddr> {
        None
    }

    async fn accept(&self) -> io::Result<Self::Accepted> {
        UnixListener::accept(self).await?.0.into_std()
    }

    fn open(accepted: Self::Accepted) -> io::Result<Wire> {
        UnixStream::from_std(accepted).map(Wire::Unix)
    }
}

impl Socket for TcpListener {
    type Accepted = std::net::TcpStream;

    const IS_PUBLIC: bool = true;

    fn peer(accepted: &Self::Accepted) -> Option<IpAddr> {
        accepted.peer_addr().map(|address| address.ip()).ok()
    }

    async fn accept(&self) -> io::Result<Self::Accepted> {
        let (stream, _) = TcpListener::accept(self).await?;
        // A stream's events are small, and each is awaited. Fails for a client that is gone already.
        let _ = stream.set_nodelay(true);
        stream.into_std()
    }

    fn open(accepted: Self::Accepted) -> io::Result<Wire> {
        TcpStream::from_std(accepted).map(Wire::Tcp)
    }
}

/// What a replica's requests come in by.
#[derive(Debug)]
struct Door {
    proxy: Proxy,
    /// What a request has to show, where others than the replica could call.
    secret: Option<Secret>,
    warnings: Quota,
}

impl Door {
    /// Answers a request for the model's API.
    async fn answer(&self, request: &RequestHead, conn: &mut Conn, client: &Client) -> Reply {
        if self.secret.as_ref().is_some_and(|secret| !secret.is_shown(&request.fields)) {
            self.warn_of_stranger();
            return Reply::Own(answer::stranger(StatusCode::UNAUTHORIZED));
        }
        self.proxy.serve(request, conn, client).await
    }

    /// Answers a request for another host. hyper reads it: these are few, and some become tunnels.
    async fn answer_elsewhere(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        // Many clients of a proxy show a password only when they are asked for it.
        let shows_nothing = !request.headers().contains_key(PROXY_AUTHORIZATION);
        let turned_away = self.secret.as_ref().and_then(|secret| secret.turn_away(&mut request));
        let own = match turned_away {
            None if is_for_elsewhere(&request) => return self.proxy.egress.serve(request).await,
            None => answer::misdirected(),
            Some(answer) => {
                let asks = answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
                if asks && shows_nothing {
                    debug!("A request to the proxy was asked for the replica's secret.");
                } else {
                    self.warn_of_stranger();
                }
                answer
            }
        };
        body::drain(request.into_body()).await;
        own.map(|bytes| ResponseBody::Own(Full::new(bytes)))
    }

    fn warn_of_crowd(&self, peer: IpAddr) {
        if self.warnings.take().is_some() {
            warn!(%peer, "It has all the connections open that it may, and gets no other.");
        }
    }

    fn warn_of_stranger(&self) {
        if self.warnings.take().is_some() {
            warn!("A request without the replica's secret was refused.");
        } else {
            debug!("A request without the replica's secret was refused.");
        }
    }
}

/// Takes connections until the listener is closed. Owns them: none outlives it.
async fn accept<S: Socket>(
    socket: S,
    door: Arc<Door>,
    lanes: Arc<Lanes>,
    closed: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut rooms = Rooms::default();
    loop {
        tokio::select! {
            () = closed.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(panic) = ended {
                    error!(error = &panic as &dyn std::error::Error, "Connection failed.");
                }
            }
            accepted = next(&socket), if S::IS_PUBLIC || connections.len() < limits::MAX_CONNECTIONS => {
                let room = match S::peer(&accepted).map(|peer| (peer, rooms.take(peer))) {
                    Some((peer, None)) => {
                        door.warn_of_crowd(peer);
                        continue;
                    }
                    Some((_, room)) => room,
                    None => None,
                };
                let door = Arc::clone(&door);
                lanes.spawn(&mut connections, |client| {
                    serve::<S>(accepted, room, door, client).in_current_span()
                });
            }
        }
    }
    drop(socket);
    connections.shutdown().await;
    door.proxy.egress.close().await;
}

/// How many more connections may come from where: nobody takes another's.
#[derive(Debug, Default)]
struct Rooms(HashMap<IpAddr, Arc<Semaphore>>);

impl Rooms {
    /// How many are remembered that have no connection open.
    const IDLE: usize = 256;

    fn take(&mut self, peer: IpAddr) -> Option<OwnedSemaphorePermit> {
        if self.0.len() > Self::IDLE {
            self.0.retain(|_, room| room.available_permits() < limits::MAX_CONNECTIONS);
        }
        let new = || Arc::new(Semaphore::new(limits::MAX_CONNECTIONS));
        let room = self.0.entry(peer).or_insert_with(new);
        Arc::clone(room).try_acquire_owned().ok()
    }
}

/// Returns the next connection.
async fn next<S: Socket>(socket: &S) -> S::Accepted {
    loop {
        match socket.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors or memory, as a rule. The connection waits in the queue.
                warn!(error = &error as &dyn std::error::Error, "Cannot accept a connection.");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection to its end. Until then it takes up `_room`.
async fn serve<S: Socket>(
    accepted: S::Accepted,
    _room: Option<OwnedSemaphorePermit>,
    door: Arc<Door>,
    client: Arc<Client>,
) {
    let stream = match S::open(accepted) {
        Ok(stream) => stream,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            return warn!(error, "A connection can't be watched.");
        }
    };
    let mut conn = Conn::new(stream);
    loop {
        let head = match conn.next().await {
            Ok(Next::Request(head)) => head,
            Ok(Next::Elsewhere) => return serve_elsewhere(conn.untaken(), door).await,
            Ok(Next::Closed) => return,
            Err(bad) => {
                debug!(error = &bad as &dyn std::error::Error, "A request can't be read.");
                if conn.answer(&Method::GET, &answer::malformed(&bad), false).await.is_ok() {
                    conn.close().await;
                }
                return;
            }
        };
        let request = conn::Request::of(&head);
        let reply = door.answer(&head, &mut conn, &client).await;
        conn.recycle(*head);
        let sent = match reply {
            Reply::Own(answer) => {
                // A client that is still writing may not read before it has done.
                let keeps_alive = conn.drain().await && request.keeps_alive;
                conn.answer(&request.method, &answer, keeps_alive).await.map(|()| keeps_alive)
            }
            Reply::Upstream(download) => match download.send(&mut conn, &request).await {
                Ok(keeps_alive) => Ok(conn.drain().await && keeps_alive),
                Err(gone) => Err(gone),
            },
        };
        match sent {
            Ok(true) => {}
            Ok(false) => return conn.close().await,
            // Either side went away: mostly the client, which is its right.
            Err(Gone) => return debug!("Connection broke."),
        }
    }
}

/// Serves a connection on which the egress proxy was asked, to its end.
async fn serve_elsewhere(stream: Untaken, door: Arc<Door>) {
    let service = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer_elsewhere(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::KEEP_ALIVE_TIMEOUT)
        // Of header lines hyper takes 100, as we do.
        .max_header_size(limits::BUFFER)
        .max_buf_size(limits::BUFFER)
        // The servers' answers have their own.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        // Mostly a client that went away, which is its right.
        debug!(error = &error as &dyn std::error::Error, "Connection broke.");
    }
}
