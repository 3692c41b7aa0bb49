//! Hours of silence, in no time: tokio's clock jumps ahead when everybody waits.

use std::{io, time::Duration};

use bytes::Bytes;
use gateway::limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::Instant,
};

use crate::support::World;

/// Returns both ends of a request that is under way: the client's and the upstream's.
async fn request() -> (World, gateway::Listener, UnixStream, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("up.sock");
    let upstream = UnixListener::bind(&path).unwrap();
    let world = World::new(&format!("unix:{}", path.display()));
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    client.write_all(b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (stream, _) = upstream.accept().await.unwrap();
    (world, replica, client, stream)
}

async fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

fn assert_about(elapsed: Duration, limit: Duration) {
    assert!(elapsed >= limit && elapsed < limit + Duration::from_secs(2), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn upstream_that_never_answers_is_a_504() {
    let start = Instant::now();
    let (_world, _replica, mut client, _stream) = request().await;

    let answer = read_until(&mut client, "}}").await;

    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("timeout_error"), "{answer}");
    assert!(answer.contains("gave no answer within 370 s"), "{answer}");
    assert_about(start.elapsed(), limits::RESPONSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn upstream_that_falls_silent_in_a_stream_breaks_it() {
    let (_world, _replica, mut client, mut stream) = request().await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    // Slow is not silent: one event in five minutes, for half an hour.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(300)).await;
        stream.write_all(b"5\r\nhello\r\n").await.unwrap();
        read_until(&mut client, "hello\r\n").await;
    }
    let start = Instant::now();

    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();

    assert_eq!(rest, "", "not even the last chunk of a clean end");
    assert_about(start.elapsed(), limits::IDLE_TIMEOUT);
}

/// Answers a request with more than the sockets hold.
fn answer_with_much(mut stream: UnixStream) -> (Bytes, JoinHandle<io::Result<UnixStream>>) {
    let body = crate::support::noise(3_000_000);
    let sent = body.clone();
    let upstream = tokio::spawn(async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n").await?;
        stream.write_all(&sent).await?;
        Ok(stream)
    });
    (body, upstream)
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_slowly_is_neither_gone_nor_taken_for_a_silent_upstream() {
    let (_world, _replica, mut client, stream) = request().await;
    let (body, upstream) = answer_with_much(stream);
    read_until(&mut client, "\r\n\r\n").await;

    let mut received = vec![0; body.len()];
    for piece in received.chunks_mut(500_000) {
        tokio::time::sleep(Duration::from_secs(300)).await;
        client.read_exact(piece).await.unwrap();
    }
    assert!(received == body, "the bytes changed");
    drop(upstream.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn client_that_takes_nothing_more_is_gone() {
    let (_world, _replica, mut client, stream) = request().await;
    let (_, upstream) = answer_with_much(stream);
    read_until(&mut client, "\r\n\r\n").await;
    let start = Instant::now();

    upstream.await.unwrap().unwrap_err();

    assert_about(start.elapsed(), limits::IDLE_TIMEOUT);
}
