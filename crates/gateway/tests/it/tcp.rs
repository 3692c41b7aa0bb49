//! The way out by TCP, where anybody could call and only the replica may.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gateway::{ListenError, PortListener, Secret, limits};
use http::Response;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::{
    internet::{Internet, Way, is_untouched, pass, replica},
    support::{Log, caller, full, raw_upstream, read_head, soon, upstream},
};

const ANY: &str = "127.0.0.1:0";

async fn open(way: &Way, secret: &Secret, rules: &[&str]) -> PortListener {
    let address = ANY.parse().unwrap();
    let port = way.world.gateway.listen_tcp(replica(rules), secret.clone(), address).await.unwrap();
    port.assign(Some(caller("marie-1", 1)));
    port
}

fn basic(password: &str) -> String {
    format!("Proxy-Authorization: Basic {}", STANDARD.encode(format!("supervisor:{password}")))
}

/// Says this and returns the answer's head.
async fn say(to: SocketAddr, request: &str, header: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let text = format!("{request}\r\nHost: a.example\r\n{header}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    (read_head(&mut stream).await, stream)
}

/// Returns the body of an answer.
async fn body(head: &str, stream: &mut TcpStream) -> String {
    let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    soon("a body", stream.read_exact(&mut body)).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn request_with_the_secret_goes_on_without_it() {
    let (log, _guard) = Log::capture();
    let (url, _) = upstream(|request| async move {
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        let key = request.headers().get("x-api-key").and_then(|key| key.to_str().ok());
        Response::new(full(format!("{key:?} {names:?}")))
    })
    .await;
    let way = Internet::default().open_to(&url, &[]).await;
    let secret = Secret::generate();
    let port = open(&way, &secret, &[]).await;

    let header = format!("X-Supervisor-Secret: {}\r\nX-Api-Key: dummy", secret.expose());
    let (head, mut stream) = say(port.address(), "GET /v1/models/x HTTP/1.1", &header).await;

    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let seen = body(&head, &mut stream).await;
    assert!(seen.contains("sk-real"), "{seen}");
    assert!(!seen.contains("secret"), "{seen}");
    assert!(!log.text().contains(secret.expose()));
}

#[tokio::test]
async fn request_without_it_gets_no_further_and_learns_nothing() {
    let (up, url) = raw_upstream().await;
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let way = internet.open_to(&url, &[]).await;
    let (secret, other) = (Secret::generate(), Secret::generate());
    let port = open(&way, &secret, &["a.example:80", "a.example:8443"]).await;
    let (good, bad) = (secret.expose(), other.expose());
    let mut bodies = Vec::new();
    for (request, header, status) in [
        ("GET /v1/models/x HTTP/1.1", String::new(), "401"),
        ("GET /v1/models/x HTTP/1.1", format!("x-supervisor-secret: {bad}"), "401"),
        ("GET /v1/models/x HTTP/1.1", format!("x-supervisor-secret: {}", &good[1..]), "401"),
        ("GET /v1/models/x HTTP/1.1", "x-supervisor-secret:".to_owned(), "401"),
        ("GET /v1/models/x HTTP/1.1", format!("x-api-key: {good}"), "401"),
        ("GET /nowhere HTTP/1.1", String::new(), "401"),
        ("GET http://a.example/ HTTP/1.1", String::new(), "407"),
        ("GET http://a.example/ HTTP/1.1", format!("x-supervisor-secret: {good}"), "407"),
        ("GET http://a.example/ HTTP/1.1", basic(bad), "407"),
        ("GET http://evil.example/ HTTP/1.1", basic(bad), "407"),
        ("CONNECT a.example:8443 HTTP/1.1", String::new(), "407"),
        ("CONNECT a.example:8443 HTTP/1.1", basic(bad), "407"),
        ("CONNECT a.example:8443 HTTP/1.1", basic(""), "407"),
    ] {
        let (head, mut stream) = say(port.address(), request, &header).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {header}: {head}");
        let challenge = head.contains("proxy-authenticate: Basic realm=\"supervisor\"");
        assert_eq!(challenge, status == "407", "{head}");
        bodies.push(body(&head, &mut stream).await);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(way.asked().is_empty());
    assert!(is_untouched(server) && is_untouched(up));
}

#[tokio::test]
async fn hello_is_for_the_replica_only() {
    let way = Internet::default().open(&[]).await;
    let secret = Secret::generate();
    let port = open(&way, &secret, &[]).await;
    let hello = "HEAD /api/hello HTTP/1.1";
    assert!(say(port.address(), hello, "").await.0.starts_with("HTTP/1.1 401 "));
    let header = format!("x-supervisor-secret: {}", secret.expose());
    assert!(say(port.address(), hello, &header).await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn proxy_takes_the_secret_as_a_password() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let way = internet.open(&[]).await;
    let secret = Secret::generate();
    let port = open(&way, &secret, &["a.example:80", "a.example:8443"]).await;
    let header = basic(secret.expose());

    let (head, mut client) = say(port.address(), "CONNECT a.example:8443 HTTP/1.1", &header).await;
    assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
    let (mut stream, _) = soon("a connection", server.accept()).await.unwrap();
    pass(&mut client, &mut stream, b"up").await;
    pass(&mut stream, &mut client, b"down").await;

    let asking = say(port.address(), "GET http://a.example/ HTTP/1.1", &header);
    let serving = async {
        let (mut stream, _) = soon("a connection", server.accept()).await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        head
    };
    let ((answer, _client), seen) = tokio::join!(asking, serving);
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert!(!seen.to_lowercase().contains("authorization"), "{seen}");
}

#[tokio::test]
async fn replica_has_no_use_for_the_secret_of_another() {
    let way = Internet::default().open(&[]).await;
    let (marie, emma) = (Secret::generate(), Secret::generate());
    let port = open(&way, &marie, &[]).await;
    let other = open(&way, &emma, &[]).await;
    let hello = "HEAD /api/hello HTTP/1.1";
    let header = |secret: &Secret| format!("x-supervisor-secret: {}", secret.expose());
    for (port, secret, status) in [
        (&port, &marie, "200"),
        (&port, &emma, "401"),
        (&other, &emma, "200"),
        (&other, &marie, "401"),
    ] {
        let (head, _) = say(port.address(), hello, &header(secret)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

#[tokio::test]
async fn stranger_that_opens_all_the_connections_it_may_takes_none_of_the_replicas() {
    let (url, _) = upstream(|_| async { Response::new(full("")) }).await;
    let way = Internet::default().open_to(&url, &[]).await;
    let secret = Secret::generate();
    let port = open(&way, &secret, &[]).await;
    let mut strangers = Vec::new();
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(port.address()).await.unwrap()
    };
    for _ in 0..limits::MAX_CONNECTIONS {
        strangers.push(connect().await);
    }
    // They are taken in the order in which they came.
    let mut one_more = connect().await;
    assert_eq!(soon("its end", one_more.read(&mut [0])).await.unwrap(), 0);

    let header = format!("X-Supervisor-Secret: {}", secret.expose());
    let (head, _) =
        soon("an answer", say(port.address(), "HEAD /api/hello HTTP/1.1", &header)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    drop(strangers.pop());
    soon("room for another", async {
        loop {
            let mut stream = connect().await;
            stream.write_all(b"HEAD /api/hello HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            if stream.read(&mut [0]).await.is_ok_and(|len| len == 1) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn port_is_given_back_and_one_that_is_taken_says_so() {
    let way = Internet::default().open(&[]).await;
    let secret = Secret::generate();
    let port = open(&way, &secret, &[]).await;
    let address = port.address();
    let again = || way.world.gateway.listen_tcp(replica(&[]), secret.clone(), address);

    let error = again().await.unwrap_err();
    assert!(matches!(error, ListenError::Address { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert!(error.hint().unwrap().contains("Choose another port"));
    let mut client = TcpStream::connect(address).await.unwrap();
    soon("the close", port.close()).await;

    assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap_or(0), 0);
    again().await.unwrap().close().await;
    let nobody = TcpListener::bind(address).await;
    assert!(nobody.is_ok());
}
