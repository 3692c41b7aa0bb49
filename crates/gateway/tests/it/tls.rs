//! An upstream that speaks TLS, with a certificate of the test's own.
//!
//! Trusted certificates come from the environment, which a test can't change for itself: it runs
//! itself again as a child process that plays the daemon.

use std::{fs::File, io::Write as _, process::Output, sync::Arc};

use http::Response;
use http_body_util::BodyExt as _;
use tokio::{net::TcpListener, process::Command};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::support::{World, full, json, post, send, serve, soon};

/// Names the upstream to the child process.
const UPSTREAM: &str = "GATEWAY_TEST_TLS_UPSTREAM";

#[tokio::test]
async fn https_upstream_is_reached_only_if_its_certificate_is_trusted() {
    if let Ok(url) = std::env::var(UPSTREAM) {
        return play_daemon(&url).await;
    }
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let url = tls_upstream(&own).await;

    let trusting = soon("a child", child(&url, &own.cert.pem())).await;
    let doubting = soon("a child", child(&url, &other.cert.pem())).await;

    let said = String::from_utf8_lossy(&trusting.stdout).into_owned();
    assert!(trusting.status.success() && said.contains("ANSWER 200: POST sk-real"), "{trusting:?}");
    let said = String::from_utf8_lossy(&doubting.stdout).into_owned();
    assert!(said.contains("ANSWER 502: gateway: cannot reach"), "{doubting:?}");
    assert!(said.contains("invalid peer certificate"), "{doubting:?}");
}

/// What the child does: one request through a gateway, and its answer to stdout.
async fn play_daemon(url: &str) {
    let world = World::new(url);
    let replica = world.replica("marie-1", Some("sk-real")).await;
    let response = send(replica.path(), post(full("{}"))).await;
    let status = response.status().as_u16();
    let text = if status == 200 {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    } else {
        json(response).await["error"]["message"].to_string().replace('"', "")
    };
    println!("ANSWER {status}: {text}");
}

async fn child(url: &str, trusted: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let certificates = dir.path().join("trusted.pem");
    File::create(&certificates).unwrap().write_all(trusted.as_bytes()).unwrap();
    let test = "tls::https_upstream_is_reached_only_if_its_certificate_is_trusted";
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(UPSTREAM, url)
        .env("SSL_CERT_FILE", &certificates)
        .env_remove("SSL_CERT_DIR")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// Starts an HTTPS server that says which method and key it got. Returns its URL.
async fn tls_upstream(identity: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that doesn't trust us breaks off here.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            tokio::spawn(serve(
                stream,
                |request: http::Request<hyper::body::Incoming>| async move {
                    let key = request.headers()["x-api-key"].to_str().unwrap();
                    Response::new(full(format!("{} {key}", request.method())))
                },
            ));
        }
    });
    url
}
