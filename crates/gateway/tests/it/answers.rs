use gateway::{GATEWAY_HEADER, REFUSED, UNREACHABLE};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use std::sync::atomic::Ordering;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::support::{
    Log, World, client, full, get, json, noise, post, raw_upstream, read_head, send, soon, upstream,
};

#[tokio::test]
async fn upstream_that_refuses_the_connection_is_a_502_that_says_so() {
    let (listener, url) = raw_upstream().await;
    drop(listener);
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    let response = send(replica.path(), post(full("{}"))).await;

    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()[GATEWAY_HEADER], UNREACHABLE);
    let error = json(response).await;
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "api_error");
    let host = url.strip_prefix("http://").unwrap();
    assert_eq!(
        error["error"]["message"],
        format!(
            "gateway: cannot reach the model's API at {host}: \
             tcp connect error: Connection refused (os error 111)"
        )
    );
}

#[tokio::test]
async fn client_can_finish_a_long_request_that_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&format!("unix:{}/nobody.sock", dir.path().display()));
    let replica = world.replica("marie-1", None).await;
    // Without hyper, which copes with a server that stops reading; others don't.
    let mut client = UnixStream::connect(replica.path()).await.unwrap();
    let body = noise(5_000_000);
    for path in ["/v1/models/x", "/elsewhere"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        soon("the request's end", client.write_all(&body)).await.unwrap();

        let head = read_head(&mut client).await;
        let status = if path == "/v1/models/x" { "502" } else { "404" };
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        client.read_exact(&mut body).await.unwrap();
    }
}

#[tokio::test]
async fn upstream_that_hangs_up_before_its_answer_is_a_502() {
    let (listener, url) = raw_upstream().await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
    });

    let response = send(replica.path(), get("/v1/models/x")).await;

    assert_eq!(response.status(), 502);
    let error = json(response).await;
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("gave no answer: connection closed before"), "{message}");
}

#[tokio::test]
async fn what_is_not_the_api_is_refused_without_asking_the_upstream() {
    let (url, taken) = upstream(|_| async { Response::new(full("reached")) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("sk-real")).await;
    let refused = async |method: Method, uri: &str| {
        let request =
            Request::builder().method(method).uri(uri).header("host", "x").body(full("")).unwrap();
        let response = send(replica.path(), request).await;
        assert_eq!(response.headers()[GATEWAY_HEADER], REFUSED);
        let status = response.status().as_u16();
        (status, json(response).await["error"]["message"].as_str().unwrap().to_owned())
    };

    let (status, message) = refused(Method::GET, "/admin").await;
    assert_eq!(status, 404);
    assert!(message.contains("only /v1/messages, "), "{message}");
    assert_eq!(refused(Method::POST, "/v1/../admin").await.0, 404);
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn hello_is_answered_here() {
    let (listener, url) = raw_upstream().await;
    drop(listener);
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut request = get("/api/hello");
    *request.method_mut() = Method::HEAD;

    assert_eq!(send(replica.path(), request).await.status(), 200);
}

#[tokio::test]
async fn head_that_is_too_long_is_refused() {
    let (url, _) = upstream(|_| async { Response::new(full("reached")) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let mut request = get("/v1/models/x");
    request.headers_mut().insert("x-long", "a".repeat(100_000).parse().unwrap());

    let response = soon("an answer", client(replica.path()).await.send_request(request)).await;

    assert_eq!(response.unwrap().status(), 431);
}

#[tokio::test]
async fn exchange_is_logged_with_its_figures_and_without_its_contents() {
    let (log, _guard) = Log::capture();
    let (url, _) = upstream(|_| async { Response::new(full("the answer")) }).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", Some("sk-real")).await;
    let mut request = post(full("the prompt"));
    request.headers_mut().insert("authorization", "Bearer mine".parse().unwrap());

    let response = send(replica.path(), request).await;
    response.into_body().collect().await.unwrap();
    replica.close().await;

    let log = log.text();
    let line = log.lines().find(|line| line.contains("Exchange ended.")).unwrap();
    for field in [
        "replica=marie-1",
        "method=POST",
        "path=\"/v1/models/x\"",
        "status=200",
        "bytes_up=10",
        "bytes_down=10",
        "first_byte=",
        "end=Complete",
    ] {
        assert!(line.contains(field), "{field} is not in: {line}");
    }
    // On every level, of every crate.
    for secret in ["sk-real", "Bearer", "the prompt", "the answer"] {
        assert!(!log.contains(secret), "{secret} is in: {log}");
    }
}
