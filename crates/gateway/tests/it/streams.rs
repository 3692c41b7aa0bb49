use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use crate::support::{
    World, chunks, full, get, noise, piece, post, raw_upstream, read_head, send, soon, upstream,
};

const MIB: usize = 1024 * 1024;

/// What may lie in kernel and hyper buffers between two ends: four sockets' buffers of about
/// 200 KiB, two of hyper's per direction.
const IN_FLIGHT: usize = 3 * MIB;

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_is_sent() {
    let (events, body) = chunks();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let (url, _) = upstream(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async {
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    })
    .await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    let mut response = send(replica.path(), post(full("{}"))).await;

    for n in 0..50 {
        let event = Bytes::from(format!("event: ping\ndata: {n}\n\n"));
        events.send(Ok(event.clone())).await.unwrap();
        assert_eq!(piece(response.body_mut()).await.unwrap().unwrap(), event);
    }
    drop(events);
    assert!(piece(response.body_mut()).await.is_none());
}

/// Writes until `total` is written or the other end has not read for a while; counts along.
async fn write_until_stuck(stream: &mut UnixStream, total: usize, written: &AtomicUsize) -> bool {
    let block = noise(MIB / 4);
    while written.load(Ordering::SeqCst) < total {
        let at = written.load(Ordering::SeqCst) % block.len();
        match tokio::time::timeout(Duration::from_millis(300), stream.write(&block[at..])).await {
            Ok(n) => written.fetch_add(n.unwrap(), Ordering::SeqCst),
            Err(_) => return true,
        };
    }
    false
}

#[tokio::test]
async fn client_that_does_not_read_holds_the_upstream_back() {
    let total = 64 * MIB;
    let dir = tempfile::tempdir().unwrap();
    let upstream_path = dir.path().join("up.sock");
    let listener = UnixListener::bind(&upstream_path).unwrap();
    let world = World::new(&format!("unix:{}", upstream_path.display()));
    let replica = world.replica("marie-1", None).await;
    let sending = tokio::spawn({
        let path = replica.path().to_owned();
        async move { send(&path, get("/v1/models/big")).await }
    });
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = sending.await.unwrap();
    let written = Arc::new(AtomicUsize::new(0));

    assert!(
        soon("a halt", write_until_stuck(&mut stream, total, &written)).await,
        "the upstream could write everything, and nobody had read a byte"
    );
    assert!(written.load(Ordering::SeqCst) < IN_FLIGHT, "{written:?} bytes went somewhere");

    // And it goes on when the client does, never further ahead than that.
    let upstream = tokio::spawn({
        let written = Arc::clone(&written);
        async move {
            while written.load(Ordering::SeqCst) < total {
                write_until_stuck(&mut stream, total, &written).await;
            }
            stream
        }
    });
    let mut read = 0;
    while let Some(data) = piece(response.body_mut()).await {
        read += data.unwrap().len();
        let ahead = written.load(Ordering::SeqCst).saturating_sub(read);
        assert!(ahead < IN_FLIGHT, "the upstream is {ahead} bytes ahead");
    }
    assert_eq!(read, total);
    upstream.await.unwrap();
}

#[tokio::test]
async fn upstream_that_does_not_read_holds_the_client_back() {
    let total = 64 * MIB;
    let dir = tempfile::tempdir().unwrap();
    let upstream_path = dir.path().join("up.sock");
    let listener = UnixListener::bind(&upstream_path).unwrap();
    let world = World::new(&format!("unix:{}", upstream_path.display()));
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    let head = format!("POST /v1/models/x HTTP/1.1\r\nhost: a\r\ncontent-length: {total}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let written = AtomicUsize::new(0);

    let (stuck, accepted) =
        tokio::join!(write_until_stuck(&mut client, total, &written), listener.accept());

    assert!(stuck, "the client could write everything, and nobody had read a byte");
    assert!(written.load(Ordering::SeqCst) < IN_FLIGHT, "{written:?} bytes went somewhere");
    drop(accepted);
}

#[tokio::test]
async fn request_goes_on_while_nobody_reads_the_answer_that_came_early() {
    let total = 16 * MIB;
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    let head = format!("POST /v1/models/x HTTP/1.1\r\nhost: a\r\ncontent-length: {total}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut upstream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut upstream).await;
    let (mut reading, mut writing) = upstream.split();
    let body = noise(total);

    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n");
    writing.write_all(head.as_bytes()).await.unwrap();
    let mut request = vec![0; total];
    let answered = async {
        // More than fits on the way, so the client's side of the gateway stands still.
        writing.write_all(&body).await.unwrap();
    };
    let asked = async {
        // Reads the answer only when the request is out.
        client.write_all(&body).await.unwrap();
        let mut answer = vec![0; total];
        read_head(&mut client).await;
        client.read_exact(&mut answer).await.unwrap();
        answer
    };
    let all = async { tokio::join!(asked, answered, reading.read_exact(&mut request)) };
    let (answer, (), read) = soon("both bodies", all).await;

    read.unwrap();
    assert!(request == body && answer == body);
}

/// Waits until the other end has closed, however it did.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _: io::Result<usize> = soon("the other end to close", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn client_that_goes_away_before_the_answer_ends_the_upstreams_request() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    client.write_all(b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;

    drop(client);

    closed(&mut stream).await;
}

#[tokio::test]
async fn client_that_goes_away_in_a_silent_stream_ends_the_upstreams_request() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    client.write_all(b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await
        .unwrap();
    read_head(&mut client).await;

    drop(client);

    closed(&mut stream).await;
}

#[tokio::test]
async fn client_that_goes_away_in_its_request_ends_the_upstreams_request() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    client
        .write_all(b"POST /v1/models/x HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;

    drop(client);

    closed(&mut stream).await;
}

#[tokio::test]
async fn answer_that_breaks_off_breaks_off_for_the_client() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    for head in ["transfer-encoding: chunked\r\n\r\n5\r\n", "content-length: 100\r\n\r\n"] {
        for reset in [false, true] {
            let sending = tokio::spawn({
                let path = replica.path().to_owned();
                async move { send(&path, get("/v1/models/x")).await }
            });
            let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
            read_head(&mut stream).await;
            let start = format!("HTTP/1.1 200 OK\r\n{head}hello\r\n");
            stream.write_all(start.as_bytes()).await.unwrap();
            let mut response = sending.await.unwrap();
            assert!(piece(response.body_mut()).await.unwrap().unwrap().starts_with(b"hello"));

            stream.set_zero_linger_if(reset);
            drop(stream);

            let rest = soon("the end", response.into_body().collect()).await;
            assert!(rest.is_err(), "a clean end after `{head}`, reset: {reset}");
        }
    }
}

trait SetLinger {
    /// Makes the close a reset instead of an orderly end.
    fn set_zero_linger_if(&self, reset: bool);
}

impl SetLinger for tokio::net::TcpStream {
    fn set_zero_linger_if(&self, reset: bool) {
        if reset {
            self.set_zero_linger().unwrap();
        }
    }
}

#[tokio::test]
async fn two_hundred_streams_at_once_all_arrive_whole() {
    let (url, _) = upstream(|request| async move {
        let (events, body) = chunks();
        let name = request.uri().path().to_owned();
        tokio::spawn(async move {
            for n in 0..20 {
                events.send(Ok(Bytes::from(format!("{name} {n}\n")))).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Response::new(body)
    })
    .await;
    for world in [World::new(&url), World::new(&url).on_threads()] {
        let mut replicas = Vec::new();
        for n in 0..4 {
            replicas.push(world.replica(&format!("marie-{n}"), None).await);
        }
        // All are open before the first is read.
        let mut responses = Vec::new();
        for n in 0..200 {
            let path = format!("/v1/models/{n}");
            responses.push((path.clone(), send(replicas[n % 4].path(), get(&path)).await));
        }
        let reading = responses.into_iter().map(|(path, response)| async move {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let expected: String = (0..20).map(|n| format!("{path} {n}\n")).collect();
            assert_eq!(body, expected);
        });

        soon("all streams", futures_util::future::join_all(reading)).await;
    }
}
