//! Tunnels to other hosts: who gets one, and what it carries.

use std::{net::SocketAddr, time::Duration};

use gateway::limits;
use http::Response;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    time::Instant,
};

use crate::{
    internet::{Internet, is_untouched, lines, pass, rest},
    support::{Log, full, get, noise, send, soon, unix_upstream},
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn tunnel_carries_bytes_both_ways_and_either_side_may_end_first() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let way = internet.open(&["a.example:8443"]).await;
    let (up, down) = (noise(3_000_000), noise(2_000_000));

    let (mut client, mut stream) = way.tunnel("a.example:8443", &server).await;
    pass(&mut client, &mut stream, &up).await;
    pass(&mut stream, &mut client, &down).await;

    let (mut client, mut stream) = way.tunnel("A.Example.:8443", &server).await;
    pass(&mut stream, &mut client, &down).await;
    pass(&mut client, &mut stream, &up).await;
    assert_eq!(way.asked(), ["a.example:8443", "a.example:8443"]);
}

#[tokio::test]
async fn client_need_not_wait_for_the_answer() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let way = internet.open(&["a.example:8443"]).await;

    let (head, mut client) =
        way.say("CONNECT a.example:8443 HTTP/1.1\r\nhost: a.example:8443\r\n\r\nearly").await;
    let (mut stream, _) = soon("a connection", server.accept()).await.unwrap();

    assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
    client.write_all(b" and late").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"early and late");
}

#[tokio::test]
async fn host_off_the_list_is_refused_with_the_setting_and_not_looked_up() {
    let mut internet = Internet::default();
    let server = internet.server("evil.example").await;
    internet.name("a.example", &[&[server.local_addr().unwrap()]]);
    let way = internet.open(&["a.example", "*.b.example", "c.example:8443"]).await;

    assert_eq!(
        way.refused("evil.example:443").await,
        "403 gateway: `evil.example:443` is not among the hosts that this worker may reach; to allow \
         it, add \"evil.example\" to `egress` in workspaces/marie/worker.toml"
    );
    let refusal = way.refused("c.example:22").await;
    assert!(refusal.contains("add \"c.example:22\" to `egress`"), "{refusal}");
    for to in [
        "a.example:80",
        "a.example:0",
        "b.example:443",
        "x.b.example:8443",
        "xb.example:443",
        "c.example:443",
        "a.example.evil.example:443",
        "evil-a.example:443",
    ] {
        let refusal = way.refused(to).await;
        assert!(refusal.starts_with("403 gateway: "), "{to}: {refusal}");
        assert!(refusal.contains("is not among the hosts"), "{to}: {refusal}");
    }
    assert!(way.asked().is_empty());
    assert!(is_untouched(server));
}

#[tokio::test]
async fn nothing_is_allowed_by_default() {
    let way = Internet::default().open(&[]).await;
    let refusal = way.refused("docs.example.com:443").await;
    assert!(refusal.contains("is not among the hosts"), "{refusal}");
}

#[tokio::test]
async fn address_in_any_spelling_is_refused() {
    let way = Internet::default().open(&["*.a.example", "a.example:80"]).await;
    for to in [
        "127.0.0.1:443",
        "127.1:443",
        "2130706433:443",
        "0177.0.0.1:443",
        "017700000001:443",
        "0x7f000001:443",
        "0x7f.0.0.1:443",
        "0X7F.1:443",
        "127.0.0.1.:443",
        "169.254.169.254:80",
        "8.8.8.8:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "[::ffff:7f00:1]:443",
        "[64:ff9b::7f00:1]:443",
        "[fd00:ec2::254]:80",
        "[fe80::1]:443",
    ] {
        let refusal = way.refused(to).await;
        assert!(refusal.starts_with("403 gateway: "), "{to}: {refusal}");
        assert!(refusal.contains("an IP address can't be allowed"), "{to}: {refusal}");
    }
    assert!(way.asked().is_empty());
}

#[tokio::test]
async fn name_that_leads_to_no_public_address_is_refused() {
    let (log, _guard) = Log::capture();
    for (there, kind) in [
        ("127.0.0.1:443", "loopback"),
        ("10.0.0.1:443", "private"),
        ("172.17.0.1:443", "private"),
        ("192.168.0.1:443", "private"),
        ("100.64.0.1:443", "carrier-grade NAT"),
        ("169.254.169.254:443", "cloud metadata"),
        ("168.63.129.16:443", "cloud metadata"),
        ("0.0.0.0:443", "unspecified"),
        ("255.255.255.255:443", "broadcast"),
        ("224.0.0.1:443", "multicast"),
        ("192.0.2.1:443", "documentation"),
        ("[::]:443", "unspecified"),
        ("[::1]:443", "loopback"),
        ("[::ffff:127.0.0.1]:443", "loopback"),
        ("[::ffff:169.254.169.254]:443", "cloud metadata"),
        ("[64:ff9b::10.0.0.1]:443", "private"),
        ("[2002:7f00:1::]:443", "6to4"),
        ("[fd00:ec2::254]:443", "cloud metadata"),
        ("[fd00::1]:443", "unique-local"),
        ("[fe80::1]:443", "link-local"),
    ] {
        let there = address(there);
        let mut internet = Internet::default();
        internet.name("a.example", &[&[there]]);
        let way = internet.open(&["a.example"]).await;

        let refusal = way.refused("a.example:443").await;

        let expected = format!("`a.example:443` leads to an address that is not public ({kind})");
        assert_eq!(refusal, format!("403 gateway: {expected}"));
        let ip = there.ip();
        assert!(!refusal.contains(&ip.to_string()), "{refusal}");
        let found = lines(&log, &[" WARN ", "Egress refused.", &format!("address={ip} "), kind]);
        assert_eq!(found.len(), 1, "{ip}: {found:?}");
    }
}

#[tokio::test]
async fn address_of_this_machine_is_refused_though_it_be_public() {
    // Any address that this machine has and that is not special; most test machines have none.
    let Ok(socket) = std::net::UdpSocket::bind("0.0.0.0:0") else { return };
    let own = socket.connect("8.8.8.8:53").and_then(|()| socket.local_addr());
    let Ok(own) = own.map(|own| SocketAddr::new(own.ip(), 443)) else { return };
    let mut internet = Internet::default();
    internet.name("a.example", &[&[own]]);
    let way = internet.open(&["a.example"]).await;

    let refusal = way.refused("a.example:443").await;

    assert!(refusal.contains("is not public ("), "{refusal}");
}

#[tokio::test]
async fn one_bad_address_among_good_ones_is_enough() {
    for good_first in [true, false] {
        let mut internet = Internet::default();
        let good = internet.server("good.example").await;
        let victim = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut both = [good.local_addr().unwrap(), victim.local_addr().unwrap()];
        if !good_first {
            both.reverse();
        }
        internet.name("mixed.example", &[&both]);
        let way = internet.open(&["mixed.example:8443"]).await;

        let refusal = way.refused("mixed.example:8443").await;

        assert!(refusal.contains("is not public (loopback)"), "{refusal}");
        assert!(is_untouched(good) && is_untouched(victim), "good first: {good_first}");
    }
}

#[tokio::test]
async fn name_is_looked_up_once_and_what_was_checked_is_connected_to() {
    let mut internet = Internet::default();
    let good = internet.server("good.example").await;
    let victim = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (first, then) = (good.local_addr().unwrap(), victim.local_addr().unwrap());
    internet.name("rebinding.example", &[&[first], &[then]]);
    let way = internet.open(&["rebinding.example:8443"]).await;

    let (mut client, mut stream) = way.tunnel("rebinding.example:8443", &good).await;
    assert_eq!(way.asked().len(), 1);
    pass(&mut client, &mut stream, b"to the one that was checked").await;
    let refusal = way.refused("rebinding.example:8443").await;

    assert!(refusal.contains("is not public (loopback)"), "{refusal}");
    assert!(is_untouched(victim));
}

#[tokio::test]
async fn models_api_is_not_reached_past_the_gateway() {
    let mut internet = Internet::default();
    let server = internet.server("api.example").await;
    let rules = ["api.example", "api.example:80", "*.example.com"];
    let way = internet.open_to("https://API.example", &rules).await;
    for to in ["api.example:443", "API.example.:443", "api.example:80"] {
        let refusal = way.refused(to).await;
        assert!(refusal.starts_with("403 "), "{refusal}");
        assert!(refusal.contains("is the model's API"), "{refusal}");
    }
    assert!(is_untouched(server));
}

#[tokio::test]
async fn what_can_not_be_reached_says_why() {
    let mut internet = Internet::default();
    drop(internet.server("closed.example").await);
    internet.name("empty.example", &[&[]]);
    let rules = ["closed.example", "empty.example", "unknown.example"];
    let way = internet.open(&rules).await;
    for (to, said) in [
        ("closed.example:443", "502 gateway: `closed.example:443` can't be reached"),
        ("empty.example:443", "502 gateway: `empty.example:443` can't be reached"),
        ("unknown.example:443", "502 gateway: the name of `unknown.example:443` can't be resolved"),
    ] {
        assert_eq!(way.refused(to).await, said);
    }
    for (request, said) in [
        ("CONNECT a.example HTTP/1.1", "it names no port"),
        ("CONNECT a.example:x HTTP/1.1", "its port is no number"),
        ("CONNECT me:secret@a.example:443 HTTP/1.1", "a user name before its host"),
    ] {
        let (head, _) = way.say(&format!("{request}\r\nhost: a\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{request}: {head}");
        assert!(head.contains(said) || !head.contains("x-supervisor"), "{request}: {head}");
        assert!(!head.contains("secret"), "{head}");
    }
}

#[tokio::test]
async fn next_address_is_tried_when_the_first_is_dead() {
    let mut internet = Internet::default();
    let dead = internet.server("dead.example").await;
    let alive = internet.server("alive.example").await;
    let both = [dead.local_addr().unwrap(), alive.local_addr().unwrap()];
    drop(dead);
    internet.name("a.example", &[&both]);
    let way = internet.open(&["a.example:8443"]).await;

    let (mut client, mut stream) = way.tunnel("a.example:8443", &alive).await;

    pass(&mut client, &mut stream, b"hello").await;
}

#[tokio::test(start_paused = true)]
async fn host_that_is_never_found_is_a_504() {
    let mut internet = Internet::default();
    internet.name("slow.example", &[]);
    let way = internet.open(&["slow.example"]).await;
    let start = Instant::now();

    let refusal = way.refused("slow.example:443").await;

    assert_eq!(refusal, "504 gateway: `slow.example:443` gives no connection within 10 s");
    assert!(start.elapsed() >= limits::CONNECT_TIMEOUT);
}

#[tokio::test]
async fn tunnels_have_a_bound_and_leave_the_models_api_reachable() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.sock");
    unix_upstream(&model, |_| async { Response::new(full("ok")) });
    let way = internet.open_to(&format!("unix:{}", model.display()), &["a.example:8443"]).await;
    let mut open = Vec::new();
    for _ in 0..limits::MAX_EGRESS {
        open.push(way.tunnel("a.example:8443", &server).await);
    }

    let refusal = way.refused("a.example:8443").await;
    assert_eq!(refusal, "503 gateway: 64 connections to the outside are open");
    assert_eq!(send(way.listener.path(), get("/v1/models/x")).await.status(), 200);

    open.pop();
    let again = async {
        while !way.connect("a.example:8443").await.0.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a place", again).await;
}

#[tokio::test]
async fn client_that_goes_away_while_it_waits_gives_its_place_back() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    internet.name("slow.example", &[]);
    let way = internet.open(&["a.example:8443", "slow.example"]).await;
    let mut waiting = Vec::new();
    for _ in 0..limits::MAX_EGRESS {
        let mut stream = UnixStream::connect(way.listener.path()).await.unwrap();
        stream.write_all(b"CONNECT slow.example:443 HTTP/1.1\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    let all_asked = async {
        while way.asked().len() < limits::MAX_EGRESS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("all to wait", all_asked).await;

    drop(waiting);

    let again = async {
        while !way.connect("a.example:8443").await.0.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a place", again).await;
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn tunnel_that_is_silent_is_ended_and_a_slow_one_is_not() {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let way = internet.open(&["a.example:8443"]).await;
    let (mut client, mut stream) = way.tunnel("a.example:8443", &server).await;
    for _ in 0..6 {
        tokio::time::sleep(limits::EGRESS_IDLE_TIMEOUT * 9 / 10).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    }
    let quiet = Instant::now();

    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);

    let waited = quiet.elapsed();
    assert!(waited >= limits::EGRESS_IDLE_TIMEOUT, "{waited:?}");
    assert!(waited <= limits::EGRESS_IDLE_TIMEOUT * 11 / 10, "{waited:?}");
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn listener_that_is_closed_ends_its_tunnels() {
    let (log, _guard) = Log::capture();
    for close in [true, false] {
        let mut internet = Internet::default();
        let server = internet.server("a.example").await;
        let way = internet.open(&["a.example:8443"]).await;
        let (mut client, mut stream) = way.tunnel("a.example:8443", &server).await;

        if close {
            soon("the close", way.listener.close()).await;
            // Not a moment later.
            assert_eq!(lines(&log, &["Egress connection ended.", "end=Closed"]).len(), 1);
        } else {
            drop(way.listener);
        }

        assert_eq!(soon("the server's end", stream.read(&mut [0])).await.unwrap_or(0), 0);
        assert_eq!(soon("the client's end", client.read(&mut [0])).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn each_connection_and_each_refusal_is_logged_and_nothing_of_what_is_sent() {
    let (log, _guard) = Log::capture();
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    let port = server.local_addr().unwrap().port();
    let way = internet.open(&["a.example:8443"]).await;

    let (mut client, mut stream) = way.tunnel("a.example:8443", &server).await;
    pass(&mut client, &mut stream, b"a question").await;
    pass(&mut stream, &mut client, b"the answer is 42").await;
    way.refused("evil.example:443").await;
    let listener = way.listener;
    soon("the close", listener.close()).await;

    let ended = lines(&log, &[" INFO ", "Egress connection ended."]);
    let refused = lines(&log, &[" WARN ", "Egress refused."]);
    assert_eq!((ended.len(), refused.len()), (1, 1), "{ended:?} {refused:?}");
    for field in [
        "replica=marie-1",
        "worker=marie ",
        "host=\"a.example\"",
        "port=8443",
        &format!("address=127.0.0.1:{port} "),
        "bytes_up=10 ",
        "bytes_down=16 ",
        "elapsed=",
        "end=Complete",
    ] {
        assert!(ended[0].contains(field), "{field} is not in: {}", ended[0]);
    }
    for field in [
        "replica=marie-1",
        "worker=marie ",
        "host=\"evil.example\"",
        "port=443",
        "is not among the hosts",
        "`egress` in workspaces/marie/worker.toml",
    ] {
        assert!(refused[0].contains(field), "{field} is not in: {}", refused[0]);
    }
    for secret in ["a question", "answer is 42", "sk-real"] {
        assert!(!log.text().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn log_is_not_flooded_by_refusals() {
    let (log, _guard) = Log::capture();
    let way = Internet::default().open(&[]).await;
    for _ in 0..limits::WARNINGS_PER_MINUTE + 20 {
        way.refused("evil.example:443").await;
    }
    let warned = lines(&log, &[" WARN ", "Egress refused."]).len();
    // One more window may have begun, on a very slow machine.
    let bound = limits::WARNINGS_PER_MINUTE as usize;
    assert!((bound..bound + 20).contains(&warned), "{warned}");
}
