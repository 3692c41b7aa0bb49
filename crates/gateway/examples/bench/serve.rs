//! The gateway, and an upstream that nginx can't play, each as a process of its own.

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use gateway::{
    Account, Budget, Caller, Credential, EgressPolicy, Gateway, Ledger, Listener, Prices, Replica,
    RequestPolicy, Scope, Upstream, Usd,
    pace::{AccountId, Limits, PaceConfig},
};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use protocol::{Attempt, Priority, ReplicaId, RunId, Time, WorkerId};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpSocket;
use tracing_subscriber::EnvFilter;

use crate::{Result, UPSTREAM_KEY, bodies, sse};

/// Opens the gateway as the daemon does, one listener for each socket. Whatever the daemon switches on,
/// this does, too: what is measured is the gateway as it is used.
async fn open(upstream: &str, sockets: &[PathBuf]) -> Result<Vec<Listener>> {
    // Beside the sockets, in a folder of the harness's.
    let file = sockets.first().ok_or("no socket is named")?.with_extension("ledger");
    file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let (ledger, _notices) = Ledger::open(Some(&file), now)?;
    let budget = Budget { usd: Some(Usd::MAX), tokens: Some(u64::MAX) };
    ledger.set_budget(Scope::Day, budget);
    ledger.set_budget(Scope::Run(RunId::Adhoc), budget);
    let limits = Limits {
        requests_per_minute: Some(u32::MAX),
        input_tokens_per_minute: Some(u64::MAX / 2),
        output_tokens_per_minute: Some(u64::MAX / 2),
        max_in_flight: None,
    };
    let pace = PaceConfig { account: limits, ..PaceConfig::default() };
    let gateway = Gateway::new(Upstream::parse(upstream)?, Prices::built_in(), ledger, pace)?
        .with_own_threads()?;
    let key = Arc::new(Credential::api_key(UPSTREAM_KEY.to_owned())?);
    let account = Arc::new(Account::new(AccountId::new("bench"), Some(key)));
    let mut listeners = Vec::new();
    for (ix, socket) in sockets.iter().enumerate() {
        let (id, worker): (ReplicaId, WorkerId) =
            (format!("bench-{ix}").parse()?, "bench".parse()?);
        let task = format!("task-{ix}").parse()?;
        let caller = Caller {
            replica: id.clone(),
            worker: worker.clone(),
            run: RunId::Adhoc,
            attempt: Attempt::new(1).ok_or("attempts count from 1")?,
            priority: Priority::Medium,
            task,
        };
        let (account, egress) = (Arc::clone(&account), EgressPolicy::default());
        let requests = RequestPolicy { models: vec!["*".parse()?], ..RequestPolicy::default() };
        let replica = Replica { id, worker, account, egress, requests };
        let listener = gateway.listen(replica, socket).await?;
        listener.assign(Some(caller));
        listeners.push(listener);
    }
    Ok(listeners)
}

fn now() -> Time {
    Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// Runs the gateway until standard input ends. Threads and log are those of the daemon.
pub(crate) fn gateway(upstream: &str, sockets: &[PathBuf]) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new("info"))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listeners = runtime.block_on(open(upstream, sockets))?;
    until_end("ready")?;
    drop(listeners);
    Ok(())
}

/// Runs the upstream until standard input ends.
pub(crate) fn upstream() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = {
        let _context = runtime.enter();
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        // A thousand come at once.
        socket.listen(4096)?
    };
    let address = listener.local_addr()?;
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
            );
        }
    });
    until_end(&address.to_string())
}

/// Says a line and waits for the end of standard input.
fn until_end(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers as the request's headers ask.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let response = Response::builder().header("content-type", "text/event-stream; charset=utf-8");
    if let Some((events, every)) = pair(&parts.headers, sse::STREAM_HEADER) {
        body.collect().await?;
        return Ok(response.body(slow_stream(events, Duration::from_millis(every)))?);
    }
    if let Some((seed, len)) = pair(&parts.headers, bodies::ANSWER_HEADER) {
        let hash = bodies::hex(&Sha256::digest(body.collect().await?.to_bytes()));
        let pieces = bodies::pieces(seed, len as usize).map(|piece| Ok(Frame::data(piece)));
        return Ok(response
            .header(bodies::HASH_HEADER, hash)
            .body(StreamBody::new(stream::iter(pieces)).boxed_unsync())?);
    }
    body.collect().await?;
    Ok(response.body(Full::new(Bytes::from(sse::ANSWER)).boxed_unsync())?)
}

/// Returns two numbers from a header.
fn pair(headers: &HeaderMap, name: &str) -> Option<(u64, u64)> {
    let (a, b) = headers.get(name)?.to_str().ok()?.split_once(' ')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// An answer of so many text deltas, one at a time; each says when it was sent.
fn slow_stream(events: u64, every: Duration) -> Body {
    let begin = tokio::time::Instant::now();
    let all = stream::unfold(0, move |n| async move {
        let piece = match n {
            0 => sse::BEGIN.to_owned(),
            n if n <= events => {
                tokio::time::sleep_until(begin + every * u32::try_from(n).unwrap_or(u32::MAX))
                    .await;
                sse::delta(&sse::sent_now())
            }
            n if n == events + 1 => sse::END.to_owned(),
            _ => return None,
        };
        Some((Ok(Frame::data(Bytes::from(piece))), n + 1))
    });
    StreamBody::new(all).boxed_unsync()
}
