use std::sync::atomic::Ordering;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::support::{Body, World, full, post, raw_upstream, read_head, send, soon, upstream};

/// Answers with the credentials it got.
async fn whoami(request: Request<Incoming>) -> Response<Body> {
    let all = |name| {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(",")
    };
    Response::new(full(format!("{}|{}", all("x-api-key"), all("authorization"))))
}

async fn ask(socket: &std::path::Path) -> String {
    let mut request = post(full("{}"));
    request.headers_mut().append("x-api-key", "dummy".parse().unwrap());
    request.headers_mut().append("X-Api-Key", "dummy2".parse().unwrap());
    request.headers_mut().append("authorization", "Bearer mine".parse().unwrap());
    let response = send(socket, request).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn key_replaces_every_credential_of_the_client() {
    let (url, _) = upstream(whoami).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("sk-real")).await;

    assert_eq!(ask(replica.path()).await, "sk-real|");
}

#[tokio::test]
async fn without_a_key_the_clients_credentials_pass() {
    let (url, _) = upstream(whoami).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    assert_eq!(ask(replica.path()).await, "dummy,dummy2|Bearer mine");
}

#[tokio::test]
async fn each_replica_has_its_own_key() {
    let (url, _) = upstream(whoami).await;
    let world = World::new(&url);
    let marie = world.replica("marie-1", Some("sk-marie")).await;
    let paul = world.replica("paul-1", Some("sk-paul")).await;
    let home = world.replica("home-1", None).await;

    // More than once: their requests share the connections to the upstream.
    for _ in 0..3 {
        assert_eq!(ask(marie.path()).await, "sk-marie|");
        assert_eq!(ask(paul.path()).await, "sk-paul|");
        assert_eq!(ask(home.path()).await, "dummy,dummy2|Bearer mine");
    }
}

#[tokio::test]
async fn client_can_not_talk_the_gateway_out_of_the_key() {
    let (url, _) = upstream(whoami).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("sk-real")).await;
    let mut request = post(full("{}"));
    request.headers_mut().insert("connection", "x-api-key, close".parse().unwrap());

    let response = send(replica.path(), request).await;

    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "sk-real|");
}

#[tokio::test]
async fn heads_pass_but_for_host_and_hop_with_names_in_lower_case() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&format!("{url}/prefix"));
    let replica = world.replica("marie-1", None).await;
    let mut client = UnixStream::connect(replica.path()).await.unwrap();

    client
        .write_all(
            b"POST /v1/models/x?beta=true&q=%7e HTTP/1.1\r\nHost: inside\r\nX-Stainless-OS: Linux\r\n\
              Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\naccept: a\r\nAccept: b\r\n\
              User-Agent: claude-cli/2\r\nproxy-authorization: Basic x\r\nx-odd: caf\xc3\xa9\r\n\
              Content-Length: 2\r\n\r\n{}",
        )
        .await
        .unwrap();
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();

    let host = url.strip_prefix("http://").unwrap();
    assert_eq!(
        read_head(&mut stream).await,
        format!(
            "POST /prefix/v1/models/x?beta=true&q=%7e HTTP/1.1\r\nhost: {host}\r\n\
             x-stainless-os: Linux\r\naccept: a\r\naccept: b\r\nuser-agent: claude-cli/2\r\n\
             x-odd: café\r\ncontent-length: 2\r\naccept-encoding: identity\r\n\r\n"
        )
    );

    stream
        .write_all(
            b"HTTP/1.1 529 Overloaded Now\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
              Request-Id: req_1\r\nset-cookie: a\r\nSet-Cookie: b\r\nretry-after: 7\r\n\
              Content-Length: 2\r\n\r\nno",
        )
        .await
        .unwrap();

    assert_eq!(
        read_head(&mut client).await,
        "HTTP/1.1 529 Overloaded Now\r\nrequest-id: req_1\r\nset-cookie: a\r\nset-cookie: b\r\n\
         retry-after: 7\r\ncontent-length: 2\r\n\r\n"
    );
    let mut body = [0; 2];
    soon("the body", client.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"no");
}

/// Says this, and returns all that is answered until the connection ends.
async fn refused(socket: &std::path::Path, request: &[u8]) -> String {
    let mut client = UnixStream::connect(socket).await.unwrap();
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon("the end", client.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// What two servers could read in two ways is answered once, and nothing of it gets any further: neither it, nor what
/// may be hidden in it.
#[tokio::test]
async fn request_that_can_be_read_in_two_ways_reaches_nobody() {
    let (url, taken) = upstream(whoami).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("sk-real")).await;
    let hidden = "GET /v1/models/x HTTP/1.1\r\nhost: a\r\n\r\n";
    for lines in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "content-length: 3\r\ncontent-length: 44",
        "content-length: 3\r\ncontent-length: 3",
        "content-length: +3",
        "content-length: 3, 3",
        "content-length : 3",
        "content-length: 3\r\n 4",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding:\x0bchunked",
    ] {
        let head = format!("POST /v1/models/x HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
        let answer = refused(replica.path(), format!("{head}0\r\n\r\n{hidden}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{lines}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{lines}: {answer}");
        assert_eq!(answer.matches("content-length: ").count(), 1, "{lines}: {answer}");
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}
