//! Requests to the model: metered, paced, and sent only where no budget could be passed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gateway::{
    Budget, Caller, Filter, GATEWAY_HEADER, Gateway, Listener, STOPPED, Scope, StopKind, Tokens,
    Usd, WAITED_HEADER,
    pace::{AccountId, Limits, PaceConfig},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use protocol::{Attempt, RunId};
use tokio::sync::Notify;

use crate::support::{
    Body, World, account, caller, chunks, client, full, json, piece, replica, send, soon, until,
    upstream,
};

const MODEL: &str = "claude-sonnet-5-5";

/// An answer of 1,000 tokens in and 200 out: $0.002 and $0.002 at $2 and $10 for a million.
pub(crate) const ANSWER: &str = "event: message_start\n\
    data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-5-5\",\"usage\":{\"input_tokens\":1000,\"output_tokens\":1}}}\n\n\
    event: message_delta\n\
    data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":200}}\n\n\
    event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// So many tokens of output could cost $1.
pub(crate) const DEAR: u64 = 100_000;

pub(crate) fn ask(max_tokens: u64) -> String {
    format!(r#"{{"model":"{MODEL}","max_tokens":{max_tokens},"stream":true,"messages":[]}}"#)
}

pub(crate) fn request(body: impl Into<Bytes>) -> Request<Body> {
    let head = Request::post("/v1/messages?beta=true").header("host", "anything");
    head.header("accept-encoding", "gzip, br").body(full(body)).unwrap()
}

pub(crate) fn streamed(body: Body) -> Response<Body> {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

fn refused(status: u16, kind: &str, message: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut response =
        Response::builder().status(status).header("content-type", "application/json");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let error = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    response.body(full(error.to_string())).unwrap()
}

pub(crate) async fn at_work(world: &World, name: &str, attempt: u32) -> Listener {
    let listener = world.replica(name, Some("the-key")).await;
    listener.assign(Some(caller(name, attempt)));
    listener
}

/// Returns two replicas that share an account, which has two requests in flight at most, each with a task of its own.
/// The first has the money for one dear request at a time.
async fn two_at_work(url: &str) -> (World, [Listener; 2]) {
    let limits = Limits { max_in_flight: Some(2), ..Limits::default() };
    let world = World::with(url, PaceConfig { account: limits, ..PaceConfig::default() });
    bound(&world.gateway, task(), 1.5);
    let shared = account("shared", Some("the-key"));
    let at_work = async |name: &str, task: &str| {
        let replica = gateway::Replica { account: Arc::clone(&shared), ..replica(name, None) };
        let listener = world.gateway.listen(replica, &world.socket(name)).await.unwrap();
        listener.assign(Some(Caller { task: task.parse().unwrap(), ..caller(name, 1) }));
        listener
    };
    let both = [at_work("marie-1", "task").await, at_work("marie-2", "other").await];
    (world, both)
}

/// Asks how many milliseconds ago a request waited.
pub(crate) async fn waited(listener: &Listener) -> Option<u64> {
    let question = Request::head("/api/hello").header("host", "anything").body(full("")).unwrap();
    let response = send(listener.path(), question).await;
    assert_eq!(response.headers()[GATEWAY_HEADER], "hello");
    response.headers().get(WAITED_HEADER).map(|millis| millis.to_str().unwrap().parse().unwrap())
}

pub(crate) fn usd(dollars: f64) -> Usd {
    Usd::from_dollars(dollars).unwrap()
}

pub(crate) fn bound(gateway: &Gateway, scope: Scope, dollars: f64) {
    gateway.ledger().set_budget(scope, Budget { usd: Some(usd(dollars)), tokens: None });
}

pub(crate) fn task() -> Scope {
    Scope::Task("task".parse().unwrap())
}

/// Waits until nothing is out any more: an answer is booked when its last byte is on its way.
pub(crate) async fn settled(gateway: &Gateway) -> gateway::Totals {
    soon("all is booked", async {
        loop {
            let totals = gateway.ledger().totals(&Filter::default());
            if totals.in_flight == 0 {
                return totals;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

pub(crate) async fn read(response: Response<Incoming>) -> Bytes {
    soon("the body", response.into_body().collect()).await.unwrap().to_bytes()
}

#[tokio::test]
async fn answer_is_metered_as_it_passes_and_no_byte_of_it_changes() {
    let seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let log = Arc::clone(&seen);
    let (url, _) = upstream(move |request: Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            log.lock().unwrap().push((head.headers, body));
            streamed(full(ANSWER))
        }
    })
    .await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;

    let mut question = request(ask(500));
    question.headers_mut().insert("x-claude-code-agent-id", HeaderValue::from_static("a1"));
    let response = send(replica.path(), question).await;

    assert_eq!(response.status(), 200);
    assert_eq!(read(response).await, ANSWER);
    let (headers, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(body, ask(500));
    assert_eq!(headers["accept-encoding"], "identity");
    assert_eq!(headers["x-api-key"], "the-key");
    let totals = settled(&world.gateway).await;
    let tokens = Tokens { input: 1000, output: 200, ..Tokens::default() };
    assert_eq!((totals.sums.requests, totals.sums.tokens), (1, tokens));
    assert_eq!(totals.cost(), Some(usd(0.004)));
    assert_eq!((totals.sums.held, totals.sums.cut_off), (Usd::ZERO, 0));
    let of_agents =
        (totals.sums.of_agents, totals.sums.of_agents_tokens, totals.sums.of_agents_cost);
    assert_eq!(of_agents, (1, 1200, usd(0.004)));
}

#[tokio::test]
async fn without_an_attempt_nobody_asks_the_model() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("k")).await;
    replica.assign(None);
    let status = async |replica: &Listener| send(replica.path(), request(ask(9))).await.status();

    assert_eq!(status(&replica).await, 403);
    replica.assign(Some(caller("marie-1", 1)));
    assert_eq!(status(&replica).await, 200);
    replica.assign(None);
    assert_eq!(status(&replica).await, 403);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn request_that_could_not_be_booked_is_refused() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;
    let twice = r#"{"model":"a","max_tokens":1,"max_tokens":2,"messages":[]}"#;

    for body in ["", "[]", "{}", twice] {
        let response = send(replica.path(), request(body)).await;
        assert_eq!(response.status(), 400, "{body}");
        assert_eq!(json(response).await["error"]["type"], "invalid_request_error");
    }
    let large = vec![b' '; gateway::limits::MAX_REQUEST + 1];
    assert_eq!(send(replica.path(), request(large)).await.status(), 413);
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn later_is_not_an_answer_for_the_client() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (url, _) = upstream(move |request: Request<Incoming>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, ask(500), "each time the same");
            match number {
                0 => refused(429, "rate_limit_error", "later", &[("retry-after", "0")]),
                1 => refused(529, "overloaded_error", "later", &[]),
                _ => streamed(full(ANSWER)),
            }
        }
    })
    .await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;

    let response = send(replica.path(), request(ask(500))).await;

    assert_eq!(response.status(), 200);
    assert_eq!(read(response).await, ANSWER);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.requests, totals.cost()), (1, Some(usd(0.004))));
    assert!(!totals.sums.waits.is_empty(), "{totals:?}");
}

#[tokio::test]
async fn wait_that_is_too_long_ends_the_attempt_at_once_and_says_when() {
    let (url, taken) = upstream(|_| async {
        refused(429, "rate_limit_error", "later", &[("retry-after", "3600")])
    })
    .await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;

    let response = send(replica.path(), request(ask(9))).await;

    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()[GATEWAY_HEADER], STOPPED);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let stop = replica.stop(&caller("marie-1", 1).task, Attempt::new(1).unwrap()).unwrap();
    assert_eq!(stop.kind, StopKind::RateLimited);
    assert!(stop.until.is_some(), "{stop:?}");
    assert_eq!(replica.stop(&caller("marie-1", 1).task, Attempt::new(2).unwrap()), None);
    // The attempt is over, whatever its sub-agents still ask; others are told without asking again.
    let other = at_work(&world, "marie-2", 1).await;
    for replica in [&replica, &other] {
        assert_eq!(send(replica.path(), request(ask(9))).await.status(), 429);
    }
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.requests, totals.sums.held), (0, Usd::ZERO));
}

#[tokio::test]
async fn request_that_could_pass_a_budget_is_not_sent_until_it_is_raised() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    bound(&world.gateway, task(), 0.01);
    let replica = at_work(&world, "marie-1", 1).await;

    // 100,000 tokens of output could cost $1.
    let response = send(replica.path(), request(ask(100_000))).await;

    assert_eq!(response.status(), 402);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let said = json(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("the budget of task `task` is $0.0100"), "{said}");
    let stop = replica.stop(&caller("marie-1", 1).task, Attempt::new(1).unwrap()).unwrap();
    assert_eq!(stop.kind, StopKind::Budget(task()));
    // Over is over, also for a smaller one: the attempt's end is on its way.
    assert_eq!(send(replica.path(), request(ask(9))).await.status(), 402);
    assert_eq!(taken.load(Ordering::SeqCst), 0);

    bound(&world.gateway, task(), 2.0);
    replica.assign(Some(caller("marie-1", 2)));
    assert_eq!(send(replica.path(), request(ask(100_000))).await.status(), 200);
}

#[tokio::test]
async fn model_without_a_price_is_counted_and_has_no_cost_but_no_dollar_budget_lets_it_through() {
    let (url, _) = upstream(|_| async { streamed(full(ANSWER.replace(MODEL, "new-one"))) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;
    let unknown = ask(10).replace(MODEL, "new-one");

    assert_eq!(
        read(send(replica.path(), request(unknown.clone())).await).await.len(),
        ANSWER.len() - 10
    );
    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.tokens.output, totals.cost()), (200, None));

    bound(&world.gateway, Scope::Day, 1000.0);
    let response = send(replica.path(), request(unknown)).await;
    assert_eq!(response.status(), 402);
    let said = json(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("`new-one` has no price"), "{said}");
}

#[tokio::test]
async fn request_whose_cost_has_no_bound_goes_out_only_where_there_is_no_budget() {
    let (url, _) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;
    let search = r#""tools":[{"type":"web_search_20250305","name":"web_search"}],"messages""#;
    let search = ask(10).replace(r#""messages""#, search);

    let response = send(replica.path(), request(search.clone())).await;
    assert_eq!(response.status(), 200);
    read(response).await;
    let budget = Budget { usd: None, tokens: Some(1_000_000_000) };
    world.gateway.ledger().set_budget(Scope::Day, budget);

    let response = send(replica.path(), request(search)).await;
    assert_eq!(response.status(), 402);
    let said = json(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("a tool that the API runs by itself"), "{said}");
    let stop = replica.stop(&caller("marie-1", 1).task, Attempt::new(1).unwrap()).unwrap();
    assert_eq!(stop.kind, StopKind::Unbounded, "no larger budget would help");
}

#[tokio::test]
async fn key_that_is_refused_is_tried_once_for_all_who_have_it() {
    let (url, taken) = upstream(|request: Request<Incoming>| async move {
        match request.headers()["x-api-key"].as_bytes() {
            b"good" => streamed(full(ANSWER)),
            _ => refused(401, "authentication_error", "invalid x-api-key", &[]),
        }
    })
    .await;
    let world = World::new(&url);
    let shared = account("shared", Some("bad"));
    let mut listeners = Vec::new();
    for name in ["marie-1", "marie-2"] {
        let replica = gateway::Replica { account: Arc::clone(&shared), ..replica(name, None) };
        let listener = world.gateway.listen(replica, &world.socket(name)).await.unwrap();
        listener.assign(Some(caller(name, 1)));
        listeners.push(listener);
    }

    for listener in &listeners {
        let response = send(listener.path(), request(ask(9))).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    let stop = listeners[1].stop(&caller("marie-2", 1).task, Attempt::new(1).unwrap()).unwrap();
    assert_eq!(stop.kind, StopKind::Auth);

    let good = Arc::new(gateway::Credential::api_key("good".to_owned()).unwrap());
    shared.renew(async { Some((AccountId::new("account"), good)) }).await;
    listeners[0].assign(Some(caller("marie-1", 2)));
    assert_eq!(send(listeners[0].path(), request(ask(9))).await.status(), 200);
}

#[tokio::test]
async fn request_that_waits_is_not_sent_once_its_attempt_is_stopped() {
    let answer = Arc::new(Notify::new());
    let let_go = Arc::clone(&answer);
    let (url, taken) = upstream(move |_| {
        let let_go = Arc::clone(&let_go);
        async move {
            let_go.notified().await;
            streamed(full(ANSWER))
        }
    })
    .await;
    let account = Limits { max_in_flight: Some(1), ..Limits::default() };
    let world = World::with(&url, PaceConfig { account, ..PaceConfig::default() });
    bound(&world.gateway, task(), 0.5);
    let replica = at_work(&world, "marie-1", 1).await;
    assert_eq!(waited(&replica).await, None);
    let ask_for = |tokens| {
        let path = replica.path().to_owned();
        tokio::spawn(async move { send(&path, request(ask(tokens))).await.status() })
    };
    let waiting = || world.gateway.limits().iter().map(|lane| lane.waiting).sum::<usize>();
    // Time passes since the last wait.
    let until_nobody_waits = async || while waited(&replica).await == Some(0) {};
    let first = ask_for(9);
    until("the first is sent", || taken.load(Ordering::SeqCst) > 0).await;
    soon("that one is the model's", until_nobody_waits()).await;
    let dear = ask_for(100_000);
    until("one waits", || waiting() >= 1).await;
    let late = ask_for(9);
    until("two wait", || waiting() >= 2).await;
    assert_eq!(waited(&replica).await, Some(0));

    answer.notify_one();

    assert_eq!(soon("the first", first).await.unwrap(), 200);
    assert_eq!(soon("the dear one", dear).await.unwrap(), 402);
    assert_eq!(soon("the late one", late).await.unwrap(), 402);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    soon("nobody waits", until_nobody_waits()).await;
}

#[tokio::test]
async fn error_that_quotes_the_key_is_handed_on_without_it() {
    let paths = ["/v1/messages", "/v1/messages/count_tokens"];
    for (status, path) in [400, 401, 404, 413, 500, 503]
        .into_iter()
        .flat_map(|status| paths.map(|path| (status, path)))
    {
        let (url, _) = upstream(move |request: Request<Incoming>| async move {
            let key = request.headers()["x-api-key"].to_str().unwrap().to_owned();
            refused(status, "some_error", &format!("bad: {key}, {key}"), &[])
        })
        .await;
        let world = World::new(&url);
        let replica = at_work(&world, "marie-1", 1).await;

        let mut question = request(ask(9));
        *question.uri_mut() = path.parse().unwrap();
        let response = send(replica.path(), question).await;

        assert_eq!(response.status(), status, "{path}");
        let said = String::from_utf8(read(response).await.to_vec()).unwrap();
        assert!(said.contains("bad: (the key), (the key)"), "{status} {path}: {said}");
        assert!(!said.contains("the-key"), "{said}");
    }
}

#[tokio::test]
async fn answer_that_breaks_off_holds_the_most_that_it_may_have_cost() {
    let begun = Arc::new(Notify::new());
    let is_read = Arc::clone(&begun);
    let (url, _) = upstream(move |_| {
        let is_read = Arc::clone(&is_read);
        async move {
            let (sender, body) = chunks();
            tokio::spawn(async move {
                let start = ANSWER.split("event: message_delta").next().unwrap();
                sender.send(Ok(Bytes::from(start))).await.unwrap();
                is_read.notified().await;
                sender.send(Err(std::io::Error::other("gone"))).await.unwrap();
            });
            streamed(body)
        }
    })
    .await;
    let world = World::new(&url);
    let replica = at_work(&world, "marie-1", 1).await;

    let mut body = send(replica.path(), request(ask(1000))).await.into_body();
    piece(&mut body).await.unwrap().unwrap();
    begun.notify_one();
    assert!(soon("the end", body.collect()).await.is_err());

    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.cut_off, totals.sums.tokens.input), (1, 1000));
    let worst = totals.sums.cost + totals.sums.held;
    assert!(worst >= usd(0.002 + 0.01), "{totals:?}");
}

#[tokio::test]
async fn request_that_waits_for_money_lets_others_have_its_turn() {
    let (answer, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let shared = (Arc::clone(&answer), Arc::clone(&asked));
    let (url, _) = upstream(move |request: Request<Incoming>| {
        let (let_go, asked) = shared.clone();
        async move {
            if request.into_body().collect().await.unwrap().to_bytes() == ask(DEAR) {
                asked.fetch_add(1, Ordering::SeqCst);
                let_go.notified().await;
            }
            streamed(full(ANSWER))
        }
    })
    .await;
    let (world, [poor, other]) = two_at_work(&url).await;
    let ask_dear = || {
        let path = poor.path().to_owned();
        tokio::spawn(async move { read(send(&path, request(ask(DEAR))).await).await })
    };
    let first = ask_dear();
    until("the first is sent", || asked.load(Ordering::SeqCst) > 0).await;
    let second = ask_dear();

    for _ in 0..20 {
        let response = soon("another's turn", send(other.path(), request(ask(9)))).await;
        assert_eq!(read(response).await, ANSWER);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the second is not sent");

    answer.notify_one();
    assert_eq!(soon("the first", first).await.unwrap(), ANSWER);
    answer.notify_one();
    assert_eq!(soon("the second", second).await.unwrap(), ANSWER);
    let totals = settled(&world.gateway).await;
    assert!(totals.sums.waits.contains_key("budget"), "{totals:?}");
}

#[tokio::test]
async fn money_of_a_request_that_goes_away_before_its_second_turn_is_anothers() {
    // All answers wait for a word: those to dear questions for one of their own.
    let (dear, cheap) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let shared = (Arc::clone(&dear), Arc::clone(&cheap), Arc::clone(&asked));
    let (url, _) = upstream(move |request: Request<Incoming>| {
        let (dear, cheap, asked) = shared.clone();
        async move {
            let is_dear = request.into_body().collect().await.unwrap().to_bytes() == ask(DEAR);
            asked[usize::from(is_dear)].fetch_add(1, Ordering::SeqCst);
            if is_dear { dear } else { cheap }.notified().await;
            streamed(full(ANSWER))
        }
    })
    .await;
    let (world, [poor, other]) = two_at_work(&url).await;
    let send_off = |of: &Listener, tokens| {
        let path = of.path().to_owned();
        tokio::spawn(async move { read(send(&path, request(ask(tokens))).await).await })
    };
    // So many cheap and dear ones were sent, and so many wait for a turn.
    let reached = async |what: &str, cheap: usize, dear: usize, waiting: usize| {
        let waits = || world.gateway.limits().iter().map(|lane| lane.waiting).sum::<usize>();
        until(what, || {
            let sent = asked.each_ref().map(|count| count.load(Ordering::SeqCst));
            (sent, waits()) == ([cheap, dear], waiting)
        })
        .await;
    };
    let first = send_off(&poor, DEAR);
    reached("the first is sent", 0, 1, 0).await;
    let second = send_off(&poor, DEAR);
    let others = [send_off(&other, 9), send_off(&other, 9)];
    reached("one of two goes, since the second waits for money", 1, 1, 1).await;

    dear.notify_one();
    assert_eq!(soon("the first", first).await.unwrap(), ANSWER);
    reached("the second has money, and waits for a turn", 2, 1, 1).await;
    second.abort();
    reached("it is gone", 2, 1, 0).await;

    cheap.notify_one();
    cheap.notify_one();
    for other in others {
        assert_eq!(soon("another", other).await.unwrap(), ANSWER);
    }
    let third = send_off(&poor, DEAR);
    reached("the third has the money", 2, 2, 0).await;
    dear.notify_one();
    assert_eq!(soon("the third", third).await.unwrap(), ANSWER);
    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.requests, totals.sums.held), (4, Usd::ZERO), "{totals:?}");
}

#[tokio::test]
async fn answer_that_begins_with_an_error_puts_no_prefix_into_the_cache() {
    let (over, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let shared = (Arc::clone(&over), Arc::clone(&asked));
    let (url, _) = upstream(move |_| {
        let (over, asked) = shared.clone();
        async move {
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                return streamed(full(ANSWER));
            }
            let (sender, body) = chunks();
            tokio::spawn(async move {
                let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}\n\n";
                sender.send(Ok(Bytes::from(error))).await.unwrap();
                over.notified().await;
            });
            streamed(body)
        }
    })
    .await;
    let (_world, [one, other]) = two_at_work(&url).await;
    let system = "x".repeat(8_000);
    let question = serde_json::json!({
        "model": MODEL, "max_tokens": 9, "stream": true, "messages": [],
        "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
    });
    let question = || request(question.to_string());
    let mut first = send(one.path(), question()).await.into_body();
    piece(&mut first).await.unwrap().unwrap();

    let (path, question) = (other.path().to_owned(), question());
    let second = tokio::spawn(async move { read(send(&path, question).await).await });
    soon("the second waits", async { while waited(&other).await.is_none() {} }).await;
    // Long enough for one that goes at once.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(waited(&other).await, Some(0), "it went while nothing was written");
    over.notify_one();

    assert_eq!(soon("the second", second).await.unwrap(), ANSWER);
}

#[tokio::test]
async fn sixteen_at_once_never_pass_the_budget_and_none_waits_for_ever() {
    let (url, taken) = upstream(|_| async {
        tokio::task::yield_now().await;
        streamed(full(ANSWER))
    })
    .await;
    let world = World::with(&url, PaceConfig::default());
    // Each takes $0.004 and could take more; so some of a hundred and sixty get through.
    bound(&world.gateway, Scope::Run(RunId::Adhoc), 0.1);
    let mut clients = Vec::new();
    for number in 1..=16 {
        let listener = at_work(&world, &format!("marie-{number}"), 1).await;
        clients.push(tokio::spawn(async move {
            let mut sender = client(listener.path()).await;
            let mut done = 0;
            for _ in 0..10 {
                let response =
                    soon("a turn", sender.send_request(request(ask(300)))).await.unwrap();
                match response.status().as_u16() {
                    200 => done += 1,
                    402 => break,
                    other => panic!("{other}"),
                }
                read(response).await;
            }
            done
        }));
    }
    let mut done = 0;
    for client in clients {
        done += soon("all clients", client).await.unwrap();
    }

    let totals = settled(&world.gateway).await;
    assert_eq!(totals.sums.cost, usd(0.004).times(done));
    assert!(totals.sums.cost <= usd(0.1), "{totals:?}");
    // Nobody ended for money that another gave back.
    let left = usd(0.1).minus(totals.sums.cost);
    assert!(left < usd(0.02), "{left} was left by {done}");
    assert!(taken.load(Ordering::SeqCst) as u64 <= done);
}
