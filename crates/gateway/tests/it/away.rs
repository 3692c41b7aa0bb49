//! An upstream to which there is no connection.

use std::time::Duration;

use gateway::{Filter, GATEWAY_HEADER, STOPPED, StopKind, Usd, limits, pace::WaitReason};
use protocol::Attempt;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};

use crate::{
    message::{
        ANSWER, DEAR, ask, at_work, bound, read, request, settled, streamed, task, usd, waited,
    },
    support::{World, client, full, json, raw_upstream, send, serve, soon, until},
};

/// Returns an address at which connections do not come about, and what makes that so.
async fn black_hole() -> (String, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody takes what comes; when the queue is full, the system drops what asks.
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    let moment = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(moment, TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    (format!("http://{address}"), listener, queue)
}

#[tokio::test]
async fn request_whose_client_goes_away_before_there_is_a_connection_costs_nothing() {
    let (url, _listener, _queue) = black_hole().await;
    let world = World::new(&url);
    bound(&world.gateway, task(), 1.5);
    let replica = at_work(&world, "marie-1", 1).await;
    let path = replica.path().to_owned();
    let asked = tokio::spawn(async move { send(&path, request(ask(DEAR))).await });
    let out = || world.gateway.ledger().totals(&Filter::default()).in_flight;
    until("it connects", || out() > 0).await;
    assert_eq!(waited(&replica).await, Some(0), "it waits for the network, not for the model");

    asked.abort();

    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.requests, totals.sums.held), (0, Usd::ZERO), "{totals:?}");
    assert_eq!(world.gateway.limits()[0].in_flight, 0);
}

#[tokio::test]
async fn api_that_is_away_is_waited_for_and_costs_nothing() {
    let (listener, url) = raw_upstream().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let world = World::new(&url);
    // For one of them at a time.
    bound(&world.gateway, task(), 1.5);
    let replica = at_work(&world, "marie-1", 1).await;
    let path = replica.path().to_owned();
    let asked = tokio::spawn(async move { send(&path, request(ask(DEAR))).await });
    until("it is held back", || {
        let lanes = world.gateway.limits();
        let blocked =
            lanes.first().filter(|lane| lane.waiting == 1).and_then(|lane| lane.blocked.as_ref());
        blocked.is_some_and(|blocked| blocked.reason == WaitReason::Unreachable)
    })
    .await;
    let why = world.gateway.outage().unwrap();
    assert!(why.starts_with("cannot reach the model's API at 127.0.0.1:"), "{why}");

    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, |_| async { streamed(full(ANSWER)) }));
        }
    });
    let response = soon("the answer", asked).await.unwrap();

    assert_eq!((response.status().as_u16(), world.gateway.outage()), (200, None));
    assert_eq!(read(response).await, ANSWER);
    let totals = settled(&world.gateway).await;
    assert_eq!((totals.sums.requests, totals.sums.held), (1, Usd::ZERO), "{totals:?}");
    assert_eq!(totals.cost(), Some(usd(0.004)));
    assert!(totals.sums.waits.contains_key("unreachable"), "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_api_stays_away_ends_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&format!("unix:{}/nobody.sock", dir.path().display()));
    let replica = at_work(&world, "marie-1", 1).await;
    let start = Instant::now();

    // No bound on the wait: with paused time, that would come first.
    let response = client(replica.path()).await.send_request(request(ask(9))).await.unwrap();

    assert_eq!(start.elapsed().as_secs(), limits::HOLD_TIMEOUT.as_secs());
    assert_eq!((response.status().as_u16(), &response.headers()[GATEWAY_HEADER]), (529, &STOPPED));
    assert_eq!(response.headers()["x-should-retry"], "false");
    let message = json(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("gateway: cannot reach the model's API at "), "{message}");
    assert!(message.contains("No such file"), "{message}");
    let stop = replica.stop(&"task".parse().unwrap(), Attempt::new(1).unwrap()).unwrap();
    assert_eq!((stop.kind, stop.until), (StopKind::Unreachable, None));
    let sums = world.gateway.ledger().totals(&Filter::default()).sums;
    assert_eq!((sums.requests, sums.held), (0, Usd::ZERO));
    assert!(sums.waits["unreachable"] > 290_000, "{sums:?}");
}
