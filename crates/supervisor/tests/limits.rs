//! An account's limit in real time: thirty-two clients behind the gateway, and as many without it, side by side.
//!
//! The stand-in for the API has a real token bucket. Long runs, storms of 529 and other limits are in the
//! gateway's simulations (`gateway`, `it pace::`), where an hour takes a second.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::pace::{AccountId, PaceConfig};
use gateway::{
    Account, Caller, EgressPolicy, Gateway, Ledger, Listener, Prices, Replica, RequestPolicy,
    Upstream,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use protocol::{Attempt, Priority, RunId, Time};
use rehearsal::{Rehearsal, Scenario, SeenRequest};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

const CLIENTS: u32 = 32;

/// Tokens in a second, and how many seconds' worth may come at once: a machine that stands still for less
/// loses nothing by it.
const RATE: u64 = 2_000;
const BURST: u64 = 10;

/// How long the clients go on, and from when on it is measured: the tokens that the full bucket holds at
/// first are spent by then.
const SPAN: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(10);

/// A request of about 120 tokens: a second's worth is sixteen of them, so that a percent of the answers is
/// several, and the first of all, sent before the API has said what it allows, weigh little.
fn ask() -> String {
    let text = "word ".repeat(90);
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":1000,"stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

struct Api {
    rehearsal: Rehearsal,
    socket: PathBuf,
    dir: TempDir,
}

impl Api {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let scenario =
            format!("limits = {{ input_tokens_per_minute = {}, burst = {BURST} }}\n", RATE * 60);
        let rehearsal = Rehearsal::new(Scenario::from_toml(&scenario).unwrap());
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(rehearsal.clone().serve_unix(listener, std::future::pending()));
        Self { rehearsal, socket, dir }
    }

    /// Returns the tokens that count against the limit, the answers, and how many of these said 429.
    fn seen(&self) -> (u64, usize, usize) {
        let requests = self.rehearsal.requests();
        let input = |request: &SeenRequest| {
            let usage = request.usage?;
            Some(usage.input_tokens + usage.cache_creation_input_tokens)
        };
        let refused = requests.iter().filter(|request| request.answer.contains("429")).count();
        (requests.iter().filter_map(input).sum(), requests.len(), refused)
    }
}

/// Sends a request on a connection of its own and returns the answer's status, when it has ended.
async fn send(socket: &Path) -> u16 {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post("/v1/messages").header("host", "api").header("x-api-key", "k");
    let request = request.body(Full::new(Bytes::from(ask()))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let _ = response.into_body().collect().await;
    status
}

/// Has all clients ask. Returns the share of the tokens that the limit allowed and that were used, after the
/// beginning, and the share of all answers that said 429.
async fn all_ask(api: &Api, sockets: Vec<PathBuf>) -> (f64, f64) {
    let (begin, mut clients) = (Instant::now(), Vec::new());
    let end = begin + SPAN;
    for socket in sockets {
        clients.push(tokio::spawn(async move {
            let mut failed = 0;
            while Instant::now() < end {
                match timeout_at(end, send(&socket)).await {
                    Ok(200) => failed = 0,
                    // As the CLI does when it is alone.
                    Ok(_) => {
                        let seconds = 0.5 * f64::from(1 << std::cmp::min(failed, 6));
                        failed += 1;
                        let _ = timeout_at(end, sleep(Duration::from_secs_f64(seconds))).await;
                    }
                    Err(_) => {}
                }
            }
        }));
    }
    sleep_until(begin + WARM_UP).await;
    let (warm, (before, ..)) = (Instant::now(), api.seen());
    for client in clients {
        client.await.unwrap();
    }
    let (after, answers, refused) = api.seen();
    let allowed = RATE as f64 * warm.elapsed().as_secs_f64();
    ((after - before) as f64 / allowed, refused as f64 / answers as f64)
}

async fn replica(gateway: &Gateway, account: &Arc<Account>, dir: &Path, number: u32) -> Listener {
    let (id, worker) = (format!("w-{number}"), "w".parse::<protocol::WorkerId>().unwrap());
    let replica = Replica {
        id: id.parse().unwrap(),
        worker: worker.clone(),
        account: Arc::clone(account),
        egress: EgressPolicy::default(),
        requests: RequestPolicy { models: vec!["*".parse().unwrap()], ..RequestPolicy::default() },
    };
    let listener = gateway.listen(replica, &dir.join(&id).join("gateway.sock")).await.unwrap();
    listener.assign(Some(Caller {
        replica: id.parse().unwrap(),
        worker,
        run: RunId::Adhoc,
        task: format!("task-{number}").parse().unwrap(),
        attempt: Attempt::new(1).unwrap(),
        priority: Priority::Medium,
    }));
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_clients_use_up_the_limit_and_hardly_one_is_refused() {
    let api = Api::start();
    let upstream = Upstream::parse(&format!("unix:{}", api.socket.display())).unwrap();
    let (ledger, _notices) = Ledger::open(None, || Time::ZERO).unwrap();
    let gateway =
        Gateway::new(upstream, Prices::built_in(), ledger, PaceConfig::default()).unwrap();
    let account = Arc::new(Account::new(AccountId::new("a"), None));
    let mut listeners = Vec::new();
    for number in 1..=CLIENTS {
        listeners.push(replica(&gateway, &account, api.dir.path(), number).await);
    }

    // At the same time, so that whatever else the machine does is the same for both.
    let behind = listeners.iter().map(|listener| listener.path().to_owned()).collect();
    let alone = Api::start();
    let sockets = vec![alone.socket.clone(); CLIENTS as usize];
    let ((used, refused), (used_alone, refused_alone)) =
        tokio::join!(all_ask(&api, behind), all_ask(&alone, sockets));
    println!(
        "behind the gateway: {:.1} % of the allowed tokens, {:.2} % of the answers 429; each alone: \
         {:.1} %, {:.2} %",
        100.0 * used,
        100.0 * refused,
        100.0 * used_alone,
        100.0 * refused_alone,
    );
    assert!(used >= 0.95, "only {:.1} % of the allowed tokens were used", 100.0 * used);
    assert!(refused <= 0.01, "{:.2} % of the answers were 429", 100.0 * refused);
    assert!(refused_alone > 10.0 * refused.max(0.01), "alone they should be refused more often");
}
