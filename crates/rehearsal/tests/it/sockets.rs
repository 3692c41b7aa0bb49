use std::io::ErrorKind;

use rehearsal::{Rehearsal, Scenario};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;

use crate::support::{collect, post, request, send};

#[tokio::test]
async fn unix_socket_serves_until_shutdown() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let (stop, stopped) = oneshot::channel::<()>();
    let rehearsal = Rehearsal::new(Scenario::default());
    let server = tokio::spawn(rehearsal.clone().serve_unix(listener, async {
        stopped.await.expect("a word to stop");
    }));
    let stream = UnixStream::connect(&path).await.expect("a connection");
    let response = send(stream, post("/v1/messages", &request("x", &[]))).await;
    assert_eq!(collect(response.expect("a response")).await.status, 200);
    assert_eq!(rehearsal.requests().len(), 1);

    // Heard once, so that the server has surely taken it.
    let mut idle = UnixStream::connect(&path).await.expect("a connection");
    idle.write_all(b"HEAD /api/hello HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request sent");
    assert!(idle.read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0));
    stop.send(()).expect("a server");
    server.await.expect("the end of the server");
    assert_eq!(idle.read(&mut [0]).await.ok(), Some(0), "open connections should be closed");
}

/// Sends a request by hand, reads all there is, and returns how the connection ended.
async fn end_of(answer: &str) -> (String, Result<(), ErrorKind>) {
    let scenario =
        Scenario::from_toml(&format!("[[rule]]\nanswer = {answer}")).expect("a scenario");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(Rehearsal::new(scenario).serve_tcp(listener, std::future::pending()));
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let body = request("x", &[]).to_string();
    let head =
        format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("a request sent");
    let mut read = Vec::new();
    let end = loop {
        match stream.read_buf(&mut read).await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind()),
        }
    };
    (String::from_utf8(read).expect("UTF-8"), end)
}

#[tokio::test]
async fn tcp_connection_breaks_with_a_reset_when_asked_for() {
    let (read, end) = end_of("{ drop = \"before_headers\" }").await;
    assert_eq!((read.as_str(), end), ("", Ok(())));
    let (read, end) = end_of("{ drop = \"before_headers\", rst = true }").await;
    assert_eq!((read.as_str(), end), ("", Err(ErrorKind::ConnectionReset)));
    let (_, end) = end_of("{ drop = \"mid_text\", rst = true, text = \"some text\" }").await;
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    let (read, end) = end_of("{ drop = \"mid_text\", text = \"some text\" }").await;
    assert!(read.contains("content_block_delta") && !read.contains("message_delta"), "{read}");
    assert_eq!(end, Ok(()));
}
