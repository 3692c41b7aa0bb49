//! Where messages begin and end, between clients and upstreams that are careless or hostile.

use std::{path::Path, sync::atomic::Ordering};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::{
    internet::Internet,
    support::{Body, World, full, get, noise, raw_upstream, read_head, send, soon, upstream},
};

/// Answers with the request's first line and body.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let line = format!("{} {} ", request.method(), request.uri());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(full([line.as_bytes(), &body[..]].concat()))
}

/// Numbers that look random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Returns a body in chunks of these sizes, in turns.
fn chunked(body: &[u8], sizes: &[usize], trailer: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), body);
    for &size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        if chunk.is_empty() {
            break;
        }
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    bytes
}

/// Reads one answer by the length that it states.
async fn answer(client: &mut UnixStream) -> (String, Vec<u8>) {
    let head = read_head(client).await;
    let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    soon("a body", client.read_exact(&mut body)).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_order_however_they_are_cut() {
    let (url, _) = upstream(echo).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    for seed in 1..=40 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for number in 0..6 {
            let body = noise(random.below(3) * random.below(20_000));
            let head = format!("POST /v1/models/m{number} HTTP/1.1\r\nHost: a\r\n");
            bytes.extend_from_slice(head.as_bytes());
            match random.below(4) {
                0 if body.is_empty() => bytes.extend_from_slice(b"\r\n"),
                0 | 1 => {
                    let line = format!("Content-Length: {}\r\n\r\n", body.len());
                    bytes.extend_from_slice(line.as_bytes());
                    bytes.extend_from_slice(&body);
                }
                kind => {
                    let trailer = if kind == 2 { "" } else { "x-trailer: GET / HTTP/1.1\r\n" };
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    let sizes = [1 + random.below(3), 1 + random.below(9000)];
                    bytes.extend_from_slice(&chunked(&body, &sizes, trailer));
                }
            }
            let line = format!("POST /v1/models/m{number} ");
            expected.push([line.as_bytes(), &body[..]].concat());
        }
        let mut client = UnixStream::connect(replica.path()).await.unwrap();
        let (mut reading, mut writing) = client.split();
        let asking = async {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let most = 1 << random.below(15);
                let size = (1 + random.below(most)).min(rest.len());
                writing.write_all(&rest[..size]).await.unwrap();
                rest = &rest[size..];
                tokio::task::yield_now().await;
            }
        };
        let answered = async {
            for expected in &expected {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(reading.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let length = format!("content-length: {}\r\n", expected.len());
                assert!(head.contains(&length), "seed {seed}: {head}");
                let mut body = vec![0; expected.len()];
                reading.read_exact(&mut body).await.unwrap();
                assert!(body == *expected, "seed {seed}: another answer");
            }
        };
        soon("all answers", async { tokio::join!(asking, answered) }).await;
    }
}

/// Plays one answer by hand, and returns what the client reads, to the end of the connection or of the answer.
async fn play(listener: &TcpListener, socket: &Path, request: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut client = UnixStream::connect(socket).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(stream);
    let mut read = Vec::new();
    // A client that closes its end first is taken for gone.
    let _ = soon("the end", client.read_to_end(&mut read)).await;
    read
}

const GET_AND_CLOSE: &str = "GET /v1/models/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn answer_is_the_same_however_it_is_cut() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    for (head, body, expected) in [
        ("content-length: 11", "hello world", "content-length: 11"),
        (
            "Transfer-Encoding: chunked",
            "5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx-t: 1\r\n\r\n",
            "transfer-encoding: chunked",
        ),
        ("x-until: close", "hello world", "transfer-encoding: chunked"),
    ] {
        let text = format!(
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
             HTTP/1.1 200 Fine\r\n{head}\r\nx-a: b\r\n\r\n{body}"
        );
        for at in 1..text.len() {
            let (one, two) = text.as_bytes().split_at(at);
            let mut pieces = vec![one, two];
            if at == 1 {
                pieces = text.as_bytes().chunks(1).collect();
            }
            let read = play(&listener, replica.path(), GET_AND_CLOSE, &pieces).await;
            let read = String::from_utf8(read).unwrap();
            let (head, mut body) = read.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{at}: {head}");
            assert!(head.contains(expected), "{at}: {head}");
            let mut whole = String::new();
            if expected.starts_with("transfer") {
                while let Some((size, rest)) = body.split_once("\r\n") {
                    let size = usize::from_str_radix(size, 16).unwrap();
                    whole.push_str(&rest[..size]);
                    assert_eq!(&rest[size..size + 2], "\r\n");
                    body = &rest[size + 2..];
                    if size == 0 {
                        break;
                    }
                }
                assert_eq!(body, "", "nothing behind the last chunk");
            } else {
                whole.push_str(body);
            }
            assert_eq!(whole, "hello world", "{at}");
        }
    }
}

#[tokio::test]
async fn answer_that_can_not_be_told_from_the_next_is_none() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\nhello",
        "HTTP/2.0 200 OK\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nhello",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        let read = play(&listener, replica.path(), GET_AND_CLOSE, &[head.as_bytes()]).await;
        let read = String::from_utf8(read).unwrap();
        assert!(read.starts_with("HTTP/1.1 502 "), "{head:?}: {read}");
        assert!(read.contains("gave no answer: "), "{head:?}: {read}");
    }
    // What is wrong behind the head breaks the answer off: there is no end to it.
    for body in ["x\r\nhello", "5\nhello", "5\r\nhello0\r\n\r\n", "5\r\nhello\r\n0\r\n\n"] {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}\r\n\r\n");
        let read = play(&listener, replica.path(), GET_AND_CLOSE, &[head.as_bytes()]).await;
        let read = String::from_utf8(read).unwrap();
        assert!(read.is_empty() || read.starts_with("HTTP/1.1 200 "), "{body:?}: {read}");
        assert!(!read.contains("0\r\n\r\n"), "{body:?}: {read}");
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_nobodys() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    for late in [false, true] {
        let asking = tokio::spawn({
            let path = replica.path().to_owned();
            async move { send(&path, get("/v1/models/x")).await }
        });
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        read_head(&mut stream).await;
        let first = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        if late {
            stream.write_all(first).await.unwrap();
        } else {
            stream.write_all(&[&first[..], poison.as_bytes()].concat()).await.unwrap();
        }
        let body = asking.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "ok");
        if late {
            stream.write_all(poison.as_bytes()).await.unwrap();
            // It has arrived when the gateway has been told.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let asking = tokio::spawn({
            let path = replica.path().to_owned();
            async move { send(&path, get("/v1/models/x")).await }
        });
        let (mut other, _) = soon("another connection", listener.accept()).await.unwrap();
        read_head(&mut other).await;
        other
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ngood")
            .await
            .unwrap();
        let body = asking.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "good", "late: {late}");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_they_say() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    let mut upstream: Option<TcpStream> = None;
    for (method, said, expected) in [
        ("HEAD", "200 OK\r\ncontent-length: 5", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", "204 No Content\r\ncontent-length: 5", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "304 Not Modified\r\ncontent-length: 5",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        ),
        ("GET", "200 OK\r\ncontent-length: 0", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let request = format!("{method} /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut stream = match upstream.take() {
            Some(stream) => stream,
            None => soon("a connection", listener.accept()).await.unwrap().0,
        };
        // Each on the same connection, both ways: all are clean.
        assert!(read_head(&mut stream).await.starts_with(method));
        stream.write_all(format!("HTTP/1.1 {said}\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut client).await, expected);
        upstream = Some(stream);
    }
}

#[tokio::test]
async fn client_that_waits_is_told_to_go_on() {
    let (url, _) = upstream(echo).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        )
    };
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    for _ in 0..2 {
        client.write_all(head("/v1/models/x").as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hello").await.unwrap();
        let (_, body) = answer(&mut client).await;
        assert_eq!(body, b"POST /v1/models/x hello");
    }
    // What is refused is not asked for; nobody can tell whether it still comes.
    client.write_all(head("/elsewhere").as_bytes()).await.unwrap();
    let (head, _) = answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn old_client_gets_no_chunks_and_an_end() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let request = "GET /v1/models/x HTTP/1.0\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

    let read = play(&listener, replica.path(), request, &[answer]).await;

    assert_eq!(read, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello");
}

#[tokio::test]
async fn answer_that_comes_before_the_end_of_a_request_is_handed_on() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let total = 4 * 1024 * 1024;
    for status in ["413 Too Large", "200 OK"] {
        let mut client = UnixStream::connect(replica.path()).await.unwrap();
        let upstream = async {
            let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
            read_head(&mut stream).await;
            let said =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes");
            stream.write_all(said.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // As servers do that don't want the rest, but want to be heard.
            let mut forgotten = vec![0; 65536];
            while let Ok(1..) = stream.read(&mut forgotten).await {}
        };
        let asking = async {
            let head =
                format!("POST /v1/models/x HTTP/1.1\r\nhost: a\r\ncontent-length: {total}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            // What is no more than a body must not be taken for requests.
            let hidden = "GET /elsewhere HTTP/1.1\r\nhost: a\r\n\r\n";
            let body = hidden.repeat(total / hidden.len() + 1);
            client.write_all(&body.as_bytes()[..total]).await.unwrap();
            let (head, body) = answer(&mut client).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            assert_eq!(body, b"yes");
            // And the connection serves on.
            client.write_all(b"HEAD /api/hello HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        };
        soon("both", async { tokio::join!(upstream, asking) }).await;
    }
}

#[tokio::test]
async fn request_that_is_badly_framed_gets_no_further() {
    let (url, taken) = upstream(echo).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    for body in ["x\r\nhello", "5\nhello", "5\r\nhello0\r\n\r\n", "5\r\nhello\r\n0\r\n\n"] {
        let mut client = UnixStream::connect(replica.path()).await.unwrap();
        let head = "POST /v1/models/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(body.as_bytes()).await.unwrap();
        client
            .write_all(b"\r\n\r\nGET /v1/models/hidden HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut read = Vec::new();
        let _ = soon("the end", client.read_to_end(&mut read)).await;
        assert!(!String::from_utf8_lossy(&read).contains("200 OK"), "{body:?}");
    }
    // Their heads may have come through, but no request did.
    let before = taken.load(Ordering::SeqCst);
    assert_eq!(send(replica.path(), get("/v1/models/x")).await.status(), 200);
    assert!(taken.load(Ordering::SeqCst) > before, "their connections are not used again");
}

#[tokio::test]
async fn connection_of_the_proxys_is_no_way_to_the_api() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let (url, taken) = upstream(echo).await;
    let way = internet.open_to(&url, &["a.example:80"]).await;
    let mut client = UnixStream::connect(way.listener.path()).await.unwrap();
    // The other way round is no matter: it begins as the API's.
    client.write_all(b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.1, b"GET /v1/models/x ");

    client.write_all(b"GET http://a.example/ HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let (mut stream, _) = soon("a connection", server.accept()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("GET / HTTP/1.1\r\n"));
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(answer(&mut client).await.1, b"ok");

    client.write_all(b"GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (head, body) = answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("use another for the model's API"));
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}
