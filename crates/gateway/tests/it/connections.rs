use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway::limits::MAX_CONNECTIONS;
use http::Response;
use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use crate::support::{
    World, client, full, get, post, raw_upstream, read_head, send, soon, unix_upstream, upstream,
};

#[tokio::test]
async fn requests_one_after_another_share_a_connection_on_both_sides() {
    let (url, taken) = upstream(|_| async { Response::new(full("ok")) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut sender = client(replica.path()).await;

    for _ in 0..10 {
        soon("readiness", sender.ready()).await.unwrap();
        let response = soon("an answer", sender.send_request(post(full("{}")))).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }

    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn answer_without_a_body_leaves_its_connection_to_the_next() {
    let (url, taken) = upstream(|request| async move {
        Response::builder()
            .status(if request.method() == "GET" { 204 } else { 200 })
            .body(full(""))
            .unwrap()
    })
    .await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    for _ in 0..3 {
        assert_eq!(send(replica.path(), get("/v1/models/x")).await.status(), 204);
        assert_eq!(send(replica.path(), post(full("{}"))).await.status(), 200);
    }

    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connection_that_the_upstream_has_closed_is_not_used_again() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    for n in 0..20 {
        let sending = tokio::spawn({
            let path = replica.path().to_owned();
            async move { send(&path, get("/v1/models/x")).await }
        });
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let response = sending.await.unwrap();
        assert_eq!(response.status(), 200, "request {n}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        // Without a word, as servers do with connections that are idle.
        drop(stream);
    }
}

#[tokio::test]
async fn connection_is_not_shared_before_its_answer_is_read() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let ask = || {
        let path = replica.path().to_owned();
        tokio::spawn(async move { send(&path, get("/v1/models/x")).await })
    };
    let first = ask();
    let (mut one, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut one).await;
    one.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
    let first = first.await.unwrap();

    let second = ask();
    let (mut two, _) = soon("another connection", listener.accept()).await.unwrap();
    read_head(&mut two).await;
    two.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo").await.unwrap();
    assert_eq!(second.await.unwrap().into_body().collect().await.unwrap().to_bytes(), "two");

    one.write_all(b"k").await.unwrap();
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn upstream_on_a_unix_socket_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("up.sock");
    unix_upstream(&path, |request| async move {
        let seen = format!("{} {:?}", request.uri(), request.headers()["host"]);
        Response::new(full(seen))
    });
    let world = World::new(&format!("unix:{}", path.display()));
    let replica = world.replica("marie-1", None).await;

    let response = send(replica.path(), post(full("{}"))).await;

    let seen = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(seen, "/v1/models/x?beta=true \"localhost\"");
}

#[tokio::test]
async fn connection_beyond_the_limit_waits_for_one_to_end() {
    let (url, _) = upstream(|_| async { Response::new(full("ok")) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let request = b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = UnixStream::connect(replica.path()).await.unwrap();
        stream.write_all(request).await.unwrap();
        read_head(&mut stream).await;
        open.push(stream);
    }
    let mut late = UnixStream::connect(replica.path()).await.unwrap();
    late.write_all(request).await.unwrap();

    // Can only be wrong in one direction: a slow machine makes it pass, never fail.
    let answered = tokio::time::timeout(Duration::from_millis(200), late.readable()).await;
    assert!(answered.is_err(), "connection {} was served", MAX_CONNECTIONS + 1);
    open.pop();

    assert!(read_head(&mut late).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn listener_that_is_closed_ends_its_connections_and_nobody_elses() {
    closing_ends_its_own(World::new).await;
    closing_ends_its_own(|url| World::new(url).on_threads()).await;
}

async fn closing_ends_its_own(world: impl Fn(&str) -> World) {
    let running = Arc::new(AtomicUsize::new(0));
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (url, _) = upstream({
        let running = Arc::clone(&running);
        move |_| {
            running.fetch_add(1, Ordering::SeqCst);
            let guard = Running(Arc::clone(&running));
            async {
                let _guard = guard;
                std::future::pending().await
            }
        }
    })
    .await;
    let world = world(&url);
    let (one, two) = (world.replica("one", None).await, world.replica("two", None).await);
    let ask = |path: &std::path::Path| {
        let path = path.to_owned();
        tokio::spawn(async move { client(&path).await.send_request(get("/v1/models/x")).await })
    };
    let (first, second) = (ask(one.path()), ask(two.path()));
    let count_is = async |n| {
        while running.load(Ordering::SeqCst) != n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("both requests", count_is(2)).await;

    soon("the close", one.close()).await;

    assert!(soon("the broken connection", first).await.unwrap().is_err());
    soon("the upstream's end", count_is(1)).await;
    assert!(!second.is_finished());
}

#[tokio::test]
async fn threads_end_with_the_gateway_and_its_listeners() {
    let ours = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("gateway-")).count()
    };
    let (url, _) = upstream(|_| async { Response::new(full("ok")) }).await;
    let world = World::new(&url).on_threads();
    let replica = world.replica("marie-1", None).await;
    drop(world.gateway);
    assert_eq!(send(replica.path(), get("/v1/models/x")).await.status(), 200);
    // A thread has its name when it has begun.
    soon("the threads' names", async {
        while ours() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    replica.close().await;

    soon("the threads' end", async {
        while ours() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
