//! A CONNECT, once it stands: bytes both ways.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::HostRule;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use super::{
    client_hello,
    passage::{Counted, End, Passage},
    refusal::{Refusal, Refusals},
    target::Target,
};
use crate::limits;

/// The record by which TLS says that there is no such server here: a fatal alert, `unrecognized_name`
/// (RFC 8446, section 6). The client's own error is then about the name, and not about the network.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Carries bytes both ways until both sides have ended or nothing passes any more.
pub(super) async fn run(
    upgrade: OnUpgrade,
    mut server: Counted<TcpStream>,
    mut passage: Passage,
    refusals: Arc<Refusals>,
) {
    let carrying = async {
        match upgrade.await {
            Ok(client) => {
                carry(TokioIo::new(client), &mut server, &passage.target, &refusals).await
            }
            // Gone before it got its answer.
            Err(_) => (End::Broken, None),
        }
    };
    let (end, refused) = tokio::select! {
        end = carrying => end,
        () = passage.idle() => (End::Idle, None),
    };
    if let Some(refusal) = refused {
        passage.set_refused(refusal.to_string());
    }
    passage.set_end(end);
}

async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    server: &mut Counted<TcpStream>,
    target: &Target,
    refusals: &Refusals,
) -> (End, Option<Refusal>) {
    if target.port == HostRule::DEFAULT_PORT {
        match client_hello::read(&mut client, target.host.as_str()).await {
            Ok(Some(hello)) => {
                if server.write_all(&hello).await.is_err() {
                    return (End::Broken, None);
                }
            }
            Ok(None) => return (End::Broken, None),
            Err(bad) => {
                let refusal = Refusal::Tls(target.clone(), bad);
                refusals.log(&refusal);
                // The connection is over, whether or not anybody reads why.
                let _ = client.write_all(&UNRECOGNIZED_NAME).await;
                let _ = client.shutdown().await;
                return (End::Refused, Some(refusal));
            }
        }
    }
    let size = limits::TUNNEL_BUFFER;
    match copy_bidirectional_with_sizes(&mut client, server, size, size).await {
        Ok(_) => (End::Complete, None),
        Err(_) => (End::Broken, None),
    }
}
