//! Plain HTTP requests to other hosts.

use gateway::limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    time::Instant,
};

use crate::{
    internet::{Internet, Way, is_untouched, lines, refusal, rest},
    support::{Log, noise, read_head, soon},
};

/// A replica that may reach `a.example` by HTTP, and the server that is there.
async fn world() -> (Way, TcpListener) {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    (internet.open(&["a.example:80", "a.example:8080", "b.example"]).await, server)
}

/// Sends a request. Returns the client's end, the server's, and what it got as head.
async fn ask(way: &Way, server: &TcpListener, request: &str) -> (UnixStream, TcpStream, String) {
    let mut client = UnixStream::connect(way.listener.path()).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = soon("a connection", server.accept()).await.unwrap();
    let head = read_head(&mut stream).await;
    (client, stream, head)
}

#[tokio::test]
async fn request_goes_on_with_its_own_headers_and_no_others() {
    let (way, server) = world().await;
    let (mut client, mut stream, head) = ask(
        &way,
        &server,
        "GET http://A.example/x/../y?q=%2f HTTP/1.1\r\nHost: a.example:80\r\nAccept: a\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n\
         X-Supervisor-Secret: s\r\nX-Mine: 1\r\nConnection: x-mine\r\nX-Kept: 2\r\n\r\n",
    )
    .await;

    let mut lines: Vec<_> = head.lines().filter(|line| !line.is_empty()).collect();
    let first = lines.remove(0);
    lines.sort_unstable();
    assert_eq!(first, "GET /x/../y?q=%2f HTTP/1.1");
    // Above all no key: the replica has one for the model's API.
    assert_eq!(lines, ["Accept: a", "Host: a.example", "X-Kept: 2"]);

    stream
        .write_all(
            b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\nx-theirs: 1\r\nconnection: x-hop\r\n\
              x-hop: 1\r\nproxy-authenticate: Basic\r\n\r\nhello",
        )
        .await
        .unwrap();
    let head = read_head(&mut client).await;
    let mut body = [0; 5];
    soon("the body", client.read_exact(&mut body)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{head}");
    assert!(head.contains("x-theirs: 1"), "{head}");
    assert!(!head.contains("x-hop") && !head.contains("proxy-authenticate"), "{head}");
    assert_eq!(&body, b"hello");
}

#[tokio::test]
async fn port_is_part_of_the_host_header_unless_it_is_80() {
    let (way, server) = world().await;
    for (url, host, path) in [
        ("http://a.example", "a.example", "/"),
        ("http://a.example?q=1", "a.example", "/?q=1"),
        ("http://a.example:80/z", "a.example", "/z"),
        ("http://a.example:8080/z", "a.example:8080", "/z"),
    ] {
        let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (_client, _stream, head) = ask(&way, &server, &request).await;
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{url}: {head}");
        assert!(head.contains(&format!("\r\nHost: {host}\r\n")), "{url}: {head}");
    }
    assert_eq!(way.asked()[2..], ["a.example:80", "a.example:8080"]);
}

#[tokio::test]
async fn bodies_pass_both_ways_and_the_connection_serves_on() {
    let (way, server) = world().await;
    let mut client = UnixStream::connect(way.listener.path()).await.unwrap();
    let (up, down) = (noise(2_000_000), noise(1_500_000));
    for _ in 0..2 {
        let head = "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\
                    content-length: 2000000\r\n\r\n";
        let serving = async {
            let (mut stream, _) = server.accept().await.unwrap();
            read_head(&mut stream).await;
            let mut got = vec![0; up.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert!(got == up);
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1500000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&down).await.unwrap();
        };
        let asking = async {
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&up).await.unwrap();
            read_head(&mut client).await;
            let mut got = vec![0; down.len()];
            client.read_exact(&mut got).await.unwrap();
            assert!(got == down);
        };
        soon("the bodies", async { tokio::join!(serving, asking) }).await;
    }
}

#[tokio::test]
async fn request_that_may_not_leave_is_refused_before_anything_is_looked_up() {
    let (way, server) = world().await;
    for (request, status, part) in [
        ("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example", 403, "add \"evil.example:80\""),
        // Its rule is for 443.
        ("GET http://b.example/ HTTP/1.1\r\nHost: b.example", 403, "add \"b.example:80\""),
        ("GET http://a.example:81/ HTTP/1.1\r\nHost: a.example:81", 403, "is not among the hosts"),
        ("GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1", 403, "an IP address"),
        ("GET http://2130706433/ HTTP/1.1\r\nHost: 2130706433", 403, "an IP address"),
        ("GET http://[::1]/ HTTP/1.1\r\nHost: [::1]", 403, "an IP address"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: evil.example", 400, "`Host` header"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: evil.example", 400, "`Host`"),
        ("GET http://a.example/ HTTP/1.1\r\nAccept: a", 400, "`Host` header"),
        ("GET http://a.example:443/ HTTP/1.1\r\nHost: a.example:443", 400, "use CONNECT"),
        ("GET https://b.example/ HTTP/1.1\r\nHost: b.example", 400, "use CONNECT"),
        ("GET ftp://b.example/ HTTP/1.1\r\nHost: b.example", 400, "use CONNECT"),
    ] {
        let (head, mut stream) = way.say(&format!("{request}\r\n\r\n")).await;
        let said = refusal(&head, &mut stream).await;
        assert!(said.starts_with(&status.to_string()), "{request}: {said}");
        assert!(said.contains(part), "{request}: {said}");
    }
    assert!(way.asked().is_empty());
    assert!(is_untouched(server));
}

#[tokio::test]
async fn client_can_finish_a_long_request_that_is_refused() {
    let (way, _server) = world().await;
    let head = "POST http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\
                content-length: 5000000\r\n\r\n";
    let mut client = UnixStream::connect(way.listener.path()).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    soon("the request's end", client.write_all(&noise(5_000_000))).await.unwrap();

    let head = read_head(&mut client).await;

    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[tokio::test]
async fn server_that_gives_no_answer_is_a_502() {
    let (way, server) = world().await;
    let request = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (answer, said) in [
        ("", "502 gateway: `a.example:80` gives no answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "502 gateway: `a.example:80` gives no answer"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "502 gateway: `a.example:80` switches to another protocol; use CONNECT for that",
        ),
    ] {
        let (mut client, mut stream, _) = ask(&way, &server, request).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream);
        let head = read_head(&mut client).await;
        assert_eq!(refusal(&head, &mut client).await, said);
    }
}

#[tokio::test]
async fn answer_that_breaks_off_breaks_off_here() {
    let (way, server) = world().await;
    let request = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let (mut client, mut stream, _) = ask(&way, &server, request).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    drop(stream);

    let head = read_head(&mut client).await;

    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(rest(&mut client).await, b"half");
}

#[tokio::test]
async fn client_that_goes_away_ends_the_request_at_the_server_too() {
    let (log, _guard) = Log::capture();
    let (way, server) = world().await;
    let request = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let (client, mut stream, _) = ask(&way, &server, request).await;

    drop(client);

    assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap_or(0), 0);
    soon("the close", way.listener.close()).await;
    assert_eq!(lines(&log, &[" INFO ", "Egress connection ended.", "port=80 "]).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn server_that_is_silent_for_too_long_is_given_up() {
    let (way, server) = world().await;
    let request = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut client = UnixStream::connect(way.listener.path()).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let (_stream, _) = server.accept().await.unwrap();
    let start = Instant::now();

    let mut answer = Vec::new();
    while !answer.ends_with(b"\n\n") && !answer.ends_with(b"answer\n") {
        answer.push(client.read_u8().await.unwrap());
    }

    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let waited = start.elapsed();
    assert!(waited >= limits::EGRESS_IDLE_TIMEOUT, "{waited:?}");
    assert!(waited <= limits::EGRESS_IDLE_TIMEOUT * 11 / 10, "{waited:?}");
}
