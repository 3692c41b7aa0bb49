//! The model's API behind a recorder: every byte that has left is kept.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rehearsal::{Rehearsal, Scenario};

/// The stand-in for the model's API, and what has reached it.
pub(super) struct Recorder {
    pub(super) address: String,
    /// What each connection has sent.
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    _runtime: tokio::runtime::Runtime,
}

/// A request as it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The request line and the headers.
    pub(super) head: String,
    pub(super) body: String,
}

impl Recorder {
    pub(super) fn start(scenario: &str) -> Self {
        let scenario = Scenario::from_toml(scenario).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let api = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let target = api.local_addr().unwrap();
        runtime.spawn(Rehearsal::new(scenario).serve_tcp(api, std::future::pending()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let sent: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let (to_client, from_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || carry(from_server, to_client, |_| ()));
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    carry(client, server, |piece| all.lock().unwrap()[number].extend(piece));
                });
            }
        });
        Self { address, sent, _runtime: runtime }
    }

    /// Returns whether a text has left.
    pub(super) fn has_seen(&self, text: &str) -> bool {
        let sent = self.sent.lock().unwrap();
        let has =
            |bytes: &Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        sent.iter().any(has)
    }

    /// Returns the requests for messages, in the order of their connections.
    pub(super) fn messages(&self) -> Vec<Sent> {
        let sent = self.sent.lock().unwrap();
        let all = sent.iter().flat_map(|bytes| requests(&String::from_utf8_lossy(bytes)));
        all.filter(|request| request.head.starts_with("POST /v1/messages")).collect()
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        see(&piece[..read]);
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Takes a connection's requests apart; the gateway says of each how long it is.
fn requests(text: &str) -> Vec<Sent> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, more)) = rest.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        assert!(!chunked, "the gateway sends bodies whole: {head}");
        let end = more.len().min(length.unwrap_or(0));
        let Some(body) = more.get(..end) else { break };
        found.push(Sent { head: head.to_owned(), body: body.to_owned() });
        rest = &more[end..];
    }
    found
}
