//! An internet on loopback: names that lead to servers of the test.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use gateway::{EgressPolicy, Listener, Lookup, Outside, Replica, Resolver, pace::PaceConfig};
use protocol::HostName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::support::{self, Log, World, read_head, soon};

/// Names and what they lead to: an answer for each question, the last one again and again. A name
/// without answers is never answered.
#[derive(Debug, Default)]
pub(crate) struct Internet {
    names: Mutex<HashMap<String, Vec<Vec<SocketAddr>>>>,
    asked: Mutex<Vec<String>>,
    servers: Vec<SocketAddr>,
}

impl Internet {
    /// Adds a server that the test plays by hand.
    pub(crate) async fn server(&mut self, name: &str) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.servers.push(address);
        self.name(name, &[&[address]]);
        listener
    }

    /// Adds a name that leads there, the first time, the second time and so on.
    pub(crate) fn name(&mut self, name: &str, answers: &[&[SocketAddr]]) {
        let answers = answers.iter().map(|addresses| addresses.to_vec()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), answers);
    }

    /// Opens a gateway to this internet, and a replica with these rules.
    pub(crate) async fn open(self, rules: &[&str]) -> Way {
        self.open_to("unix:/nowhere", rules).await
    }

    pub(crate) async fn open_to(self, model: &str, rules: &[&str]) -> Way {
        let gateway = crate::support::gateway(model, PaceConfig::default());
        let exempt = self.servers.clone();
        let internet = Arc::new(self);
        let outside = Outside::new(Arc::clone(&internet) as Arc<dyn Resolver>).exempting(exempt);
        let world =
            World { dir: tempfile::tempdir().unwrap(), gateway: gateway.with_outside(outside) };
        let listener =
            world.gateway.listen(replica(rules), &world.socket("marie-1")).await.unwrap();
        listener.assign(Some(support::caller("marie-1", 1)));
        Way { internet, world, listener }
    }
}

/// Returns a replica with a key that reaches other hosts by these rules.
pub(crate) fn replica(rules: &[&str]) -> Replica {
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Replica { egress: EgressPolicy { rules }, ..support::replica("marie-1", Some("sk-real")) }
}

impl Resolver for Internet {
    fn resolve<'a>(&'a self, host: &'a HostName, port: u16) -> Lookup<'a> {
        self.asked.lock().unwrap().push(format!("{host}:{port}"));
        let mut names = self.names.lock().unwrap();
        let answer = match names.get_mut(host.as_str()) {
            None => Err(io::Error::other("no such name")),
            Some(answers) if answers.is_empty() => return Box::pin(std::future::pending()),
            Some(answers) if answers.len() == 1 => Ok(answers[0].clone()),
            Some(answers) => Ok(answers.remove(0)),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A replica's way to an internet.
pub(crate) struct Way {
    pub(crate) internet: Arc<Internet>,
    pub(crate) world: World,
    pub(crate) listener: Listener,
}

impl Way {
    /// Says this to the proxy and returns what it answers first.
    pub(crate) async fn say(&self, request: &str) -> (String, UnixStream) {
        let mut stream = UnixStream::connect(self.listener.path()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        (read_head(&mut stream).await, stream)
    }

    /// Asks for a tunnel and returns the answer.
    pub(crate) async fn connect(&self, to: &str) -> (String, UnixStream) {
        self.say(&format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n")).await
    }

    /// Opens a tunnel. Returns the client's end, and the server's.
    pub(crate) async fn tunnel(&self, to: &str, server: &TcpListener) -> (UnixStream, TcpStream) {
        let (head, client) = self.connect(to).await;
        assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
        let (stream, _) = soon("a connection", server.accept()).await.unwrap();
        (client, stream)
    }

    /// Asks for a tunnel and returns the refusal, which is the same in head and body.
    pub(crate) async fn refused(&self, to: &str) -> String {
        let (head, mut stream) = self.connect(to).await;
        refusal(&head, &mut stream).await
    }

    /// Returns what was looked up.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.internet.asked.lock().unwrap().clone()
    }
}

/// Returns status and text of a refusal.
pub(crate) async fn refusal(head: &str, stream: &mut (impl AsyncRead + Unpin)) -> String {
    let value = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
    };
    let mut body = vec![0; value("content-length:").parse().unwrap()];
    soon("a body", stream.read_exact(&mut body)).await.unwrap();
    let said = String::from_utf8(body).unwrap();
    assert_eq!(value("x-supervisor-egress:"), said.trim_end());
    assert!(said.starts_with("gateway: ") && said.ends_with('\n'), "{said}");
    let status = value("HTTP/1.1");
    assert_eq!(&status[4..], said.trim_end(), "the reason phrase");
    let by = if status.starts_with('4') { "refused" } else { "unreachable" };
    assert_eq!(value("x-supervisor-gateway:"), by);
    status
}

/// Returns whether nobody has knocked.
pub(crate) fn is_untouched(server: TcpListener) -> bool {
    let server = server.into_std().unwrap();
    server.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads to the end.
pub(crate) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("the end", stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Sends `bytes` one way through a tunnel and ends that direction.
pub(crate) async fn pass(
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
    bytes: &[u8],
) {
    let sending = async {
        from.write_all(bytes).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let ((), got) = soon("bytes", async { tokio::join!(sending, rest(to)) }).await;
    assert!(got == bytes, "{} bytes of {} or others", got.len(), bytes.len());
}

/// Returns the lines of the log that have all of these in them.
pub(crate) fn lines(log: &Log, parts: &[&str]) -> Vec<String> {
    let has = |line: &&str| parts.iter().all(|part| line.contains(part));
    log.text().lines().filter(has).map(str::to_owned).collect()
}
