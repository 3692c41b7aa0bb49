//! Tunnels to port 443, which must begin with TLS, and for the right host.

use std::{sync::Arc, time::Duration};

use gateway::limits;
use rcgen::generate_simple_self_signed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use crate::{
    internet::{Internet, Way, lines, rest},
    support::{Log, soon},
};

fn client_config(trusted: Option<CertificateDer<'static>>, sni: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_sni = sni;
    Arc::new(config)
}

/// Returns what a client says first to a host of this name.
fn hello(name: &'static str, sni: bool) -> Vec<u8> {
    let name = name.try_into().unwrap();
    let mut client = ClientConnection::new(client_config(None, sni), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A replica that may reach `a.example`, and the server that is there.
async fn world() -> (Way, TcpListener) {
    let mut internet = Internet::default();
    let server = internet.server("a.example").await;
    (internet.open(&["a.example"]).await, server)
}

/// Opens a tunnel and says this in it. Returns what comes back, and what the server got.
async fn say(way: &Way, server: &TcpListener, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut client, mut stream) = way.tunnel("a.example:443", server).await;
    client.write_all(bytes).await.unwrap();
    (rest(&mut client).await, rest(&mut stream).await)
}

/// What TLS says for "there is no such server here".
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

#[tokio::test]
async fn tls_goes_through_end_to_end() {
    let identity = generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let (way, server) = world().await;
    let (client, stream) = way.tunnel("a.example:443", &server).await;
    let serving = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"ping");
        stream.write_all(b"pong").await.unwrap();
        stream.shutdown().await.unwrap();
    });

    let connector = TlsConnector::from(client_config(Some(identity.cert.der().clone()), true));
    let connecting = connector.connect("a.example".try_into().unwrap(), client);
    let mut client = soon("the handshake", connecting).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();

    assert_eq!(rest(&mut client).await, b"pong");
    serving.await.unwrap();
}

#[tokio::test]
async fn client_that_asks_for_another_host_gets_an_alert_and_the_server_nothing() {
    let (log, _guard) = Log::capture();
    let (way, server) = world().await;
    for (bytes, reason) in [
        (hello("evil.example", true), "asks for `evil.example`"),
        (hello("a.example", false), "has no server name"),
        (hello("192.0.2.1", true), "has no server name"),
        (b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n".to_vec(), "it is not TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "it is not TLS"),
    ] {
        let (answer, got) = say(&way, &server, &bytes).await;
        assert_eq!(answer, UNRECOGNIZED_NAME, "{reason}");
        assert_eq!(got, b"", "{reason}");
        assert!(!lines(&log, &[" WARN ", "host=\"a.example\"", reason]).is_empty(), "{reason}");
    }
    drop(way);
    let ended = || lines(&log, &[" INFO ", "end=Refused", "bytes_up=0 "]).len();
    let all = async {
        while ended() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the ends", all).await;
}

#[tokio::test]
async fn clients_own_error_is_about_the_name() {
    let (way, server) = world().await;
    let (client, _stream) = way.tunnel("a.example:443", &server).await;
    let connector = TlsConnector::from(client_config(None, true));

    let connecting = connector.connect("evil.example".try_into().unwrap(), client);
    let error = soon("the alert", connecting).await.unwrap_err().to_string();

    assert!(error.contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn hello_may_come_in_pieces() {
    let (way, server) = world().await;
    let (mut client, mut stream) = way.tunnel("a.example:443", &server).await;
    let whole = hello("a.example", true);
    let sending = async {
        for byte in &whole {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let mut got = vec![0; whole.len()];

    let (read, ()) =
        soon("the hello", async { tokio::join!(stream.read_exact(&mut got), sending) }).await;

    read.unwrap();
    assert_eq!(got, whole);
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"more");
}

#[tokio::test]
async fn server_gets_nothing_of_a_hello_that_is_cut_off() {
    let (log, _guard) = Log::capture();
    let (way, server) = world().await;
    let whole = hello("a.example", true);
    for len in [1, 5, 9, 60, whole.len() - 1] {
        let (mut client, mut stream) = way.tunnel("a.example:443", &server).await;
        client.write_all(&whole[..len]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{len}");
    }
    assert_eq!(lines(&log, &[" WARN ", "ended before the TLS ClientHello did"]).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn client_that_says_nothing_is_not_waited_for() {
    let (way, server) = world().await;
    let (mut client, mut stream) = way.tunnel("a.example:443", &server).await;
    client.write_all(&hello("a.example", true)[..20]).await.unwrap();
    let start = Instant::now();

    assert_eq!(rest_unhurried(&mut client).await, UNRECOGNIZED_NAME);

    let waited = start.elapsed();
    assert!(waited >= limits::CLIENT_HELLO_TIMEOUT, "{waited:?}");
    assert!(waited < limits::CLIENT_HELLO_TIMEOUT * 2, "{waited:?}");
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

/// Reads to the end. With paused time, a bound on the wait would come first.
async fn rest_unhurried(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}
