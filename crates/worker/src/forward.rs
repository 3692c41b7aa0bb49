//! The way to other hosts: a port on the loopback that leads to the gateway's socket.
//!
//! Programs find a proxy by its address and know nothing of sockets. What they ask for is decided at
//! the gateway; here nothing is read of it. One thread carries all connections, so that they cost no
//! more of the limit on processes, and never wait for each other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::geteuid;

use crate::gateway::Gateway;

/// The port in a container, where all ports are ours: that of Squid, which stands for a proxy.
pub(crate) const PORT: u16 = 3128;

/// The most connections at once. Further ones wait until one ends.
const CONNECTIONS: usize = 128;

/// How much is under way in each direction of a connection.
const BUFFER: usize = 16 << 10;

/// How often a connection is read or written before the others get their turn.
const TURNS: usize = 16;

/// How long to wait when there is no memory, or no file descriptor, for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The port that leads to the gateway.
#[derive(Debug)]
pub(crate) struct Forwarder {
    listener: TcpListener,
    port: u16,
    gateway: Gateway,
    /// Whether others use this loopback, too.
    shared: bool,
}

impl Forwarder {
    /// Takes a port: [`PORT`], or any where the loopback is shared with others.
    ///
    /// # Errors
    ///
    /// That there is no loopback, or that the port is taken.
    pub(crate) fn bind(gateway: Gateway, shared: bool) -> io::Result<Self> {
        let port = if shared { 0 } else { PORT };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port, gateway, shared })
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Begins to carry, until the process ends.
    pub(crate) fn start(self) -> io::Result<()> {
        let carry = move || {
            let mut links = Vec::new();
            loop {
                if let Err(error) = self.turn(&mut links) {
                    tracing::warn!(%error, "The way to other hosts is held up.");
                    thread::sleep(PAUSE);
                }
            }
        };
        thread::Builder::new().name("forwarder".to_owned()).spawn(carry).map(|_| ())
    }

    /// Waits until something can be done, and does it.
    fn turn(&self, links: &mut Vec<Link>) -> io::Result<()> {
        let mut fds = Vec::new();
        // The link of each; what takes new ones belongs to none.
        let mut owners = Vec::new();
        if links.len() < CONNECTIONS {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
            owners.push(usize::MAX);
        }
        for (number, link) in links.iter().enumerate() {
            for (fd, flags) in link.waits_for() {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                owners.push(number);
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ready = fds.iter().zip(owners).filter(|(fd, _)| !fd.revents().is_empty());
        let ready: BTreeSet<usize> = ready.map(|(_, owner)| owner).collect();
        let mut number = 0;
        links.retain_mut(|link| {
            let keep = !ready.contains(&number) || link.advance();
            number += 1;
            keep
        });
        if ready.contains(&usize::MAX) {
            links.extend(self.accept()?);
        }
        Ok(())
    }

    /// Takes a connection. `None` when it is not to be carried.
    fn accept(&self) -> io::Result<Option<Link>> {
        let (client, peer) = match self.listener.accept() {
            Ok(accepted) => accepted,
            // It has gone away again.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if self.shared && !is_own(peer, self.port) {
            tracing::warn!(%peer, "Another user's connection to the gateway is refused.");
            return Ok(None);
        }
        client.set_nonblocking(true)?;
        let gateway = match self.gateway.connect() {
            Ok(gateway) => gateway,
            Err(error) => {
                tracing::warn!(%error, "The gateway can't be reached.");
                return Ok(None);
            }
        };
        gateway.set_nonblocking(true)?;
        Ok(Some(Link { client, gateway, up: Flow::new(), down: Flow::new() }))
    }
}

/// Returns whether the other end of a connection to our port is a process of our own user.
///
/// Whoever reaches the gateway can use the key. Its socket is in a private folder; a port is open to
/// every user of the machine.
fn is_own(peer: SocketAddr, port: u16) -> bool {
    let SocketAddr::V4(peer) = peer else { return false };
    let ours = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        owner(&table, peer, ours).is_some_and(|uid| uid == geteuid().as_raw())
    })
}

/// Returns the user of the end `from` of a connection to `to`, by the kernel's table.
fn owner(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<u32> {
    // As the kernel writes them; of an IPv4 address in IPv6's clothes that is the end.
    let shown = |address: SocketAddrV4| {
        let ip = u32::from_ne_bytes(address.ip().octets());
        format!("{ip:08X}:{:04X}", address.port())
    };
    let (from, to) = (shown(from), shown(to));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&from) && fields.next()?.ends_with(&to);
        is_it.then(|| fields.nth(4)?.parse().ok())?
    })
}

/// A connection and what it leads to.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    gateway: UnixStream,
    up: Flow,
    down: Flow,
}

impl Link {
    /// Returns what has to happen before it can go on.
    fn waits_for(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        // An end that waits for nothing is left out: its hanging up would be told for ever.
        let flags = |reads: &Flow, writes: &Flow| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads.wants_input());
            flags.set(PollFlags::OUT, writes.has_output());
            flags
        };
        [
            (self.client.as_fd(), flags(&self.up, &self.down)),
            (self.gateway.as_fd(), flags(&self.down, &self.up)),
        ]
        .into_iter()
        .filter(|(_, flags)| !flags.is_empty())
    }

    /// Carries what there is to carry. Returns whether there may be more.
    fn advance(&mut self) -> bool {
        let Self { client, gateway, up, down } = self;
        let up_goes = up.advance(&*client, &*gateway, || gateway.shutdown(Shutdown::Write));
        let down_goes = down.advance(&*gateway, &*client, || client.shutdown(Shutdown::Write));
        up_goes.is_ok() && down_goes.is_ok() && !(up.closed && down.closed)
    }
}

/// One direction of a connection.
#[derive(Debug)]
struct Flow {
    buffer: Box<[u8]>,
    /// What was read and is yet to be written.
    filled: Range<usize>,
    /// Whether nothing more will be read.
    ended: bool,
    /// Whether that was passed on.
    closed: bool,
}

impl Flow {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), filled: 0..0, ended: false, closed: false }
    }

    fn wants_input(&self) -> bool {
        self.filled.is_empty() && !self.ended
    }

    fn has_output(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Reads and writes as long as neither would have to wait, but not for ever.
    ///
    /// # Errors
    ///
    /// That the connection is broken.
    fn advance(
        &mut self,
        mut from: impl Read,
        mut to: impl Write,
        close: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        for _ in 0..TURNS {
            let done = if self.has_output() {
                to.write(&self.buffer[self.filled.clone()]).map(|n| self.filled.start += n)
            } else if self.ended {
                break;
            } else {
                from.read(&mut self.buffer).map(|n| {
                    self.filled = 0..n;
                    self.ended = n == 0;
                })
            };
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Nothing is left to be written: else nothing would have been read.
        if self.ended && !self.closed {
            self.closed = true;
            close()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A gateway, and a port that leads to it.
    fn world() -> (tempfile::TempDir, UnixListener, u16) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("g.sock");
        let gateway = UnixListener::bind(&socket).unwrap();
        let forwarder = Forwarder::bind(Gateway::Socket(socket), true).unwrap();
        let port = forwarder.port();
        forwarder.start().unwrap();
        (dir, gateway, port)
    }

    fn connect(port: u16) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        stream
    }

    fn read_all(mut from: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn pattern(len: usize, step: usize) -> Vec<u8> {
        (0..len).map(|n| (n * step % 251) as u8).collect()
    }

    #[test]
    fn bytes_pass_unchanged_both_ways_and_each_end_of_a_direction_is_passed_on() {
        let (_dir, gateway, port) = world();
        let (question, answer) = (pattern(3_000_000, 7), pattern(5_000_000, 11));
        let mut client = connect(port);
        let (asked, answered) = (question.clone(), answer.clone());
        let server = thread::spawn(move || {
            let (mut stream, _) = gateway.accept().unwrap();
            // All of the question first: its end is seen while the answer is still to come.
            let seen = read_all(&stream);
            stream.write_all(&answered).unwrap();
            seen == asked
        });
        client.write_all(&question).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&client) == answer);
        assert!(server.join().unwrap());
    }

    /// A peer that takes, or gives, a few bytes at a time, and nothing every other time.
    struct Fitful {
        bytes: Vec<u8>,
        at: usize,
        turn: usize,
    }

    impl Fitful {
        fn new(bytes: Vec<u8>, turn: usize) -> Self {
            Self { bytes, at: 0, turn }
        }

        fn few(&mut self, most: usize) -> io::Result<usize> {
            self.turn += 1;
            match self.turn % 4 {
                0 => Err(ErrorKind::WouldBlock.into()),
                1 => Err(ErrorKind::Interrupted.into()),
                _ => Ok(most.min(self.turn * 37 % 4000 + 1)),
            }
        }
    }

    impl Read for &mut Fitful {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = self.few(buf.len().min(self.bytes.len() - self.at))?;
            buf[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
            self.at += len;
            Ok(len)
        }
    }

    impl Write for &mut Fitful {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let len = self.few(buf.len())?;
            self.bytes.extend_from_slice(&buf[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_pass_in_whatever_pieces_they_come_and_go_and_the_end_is_passed_on_once() {
        let mut from = Fitful::new(pattern(100_000, 13), 0);
        let mut to = Fitful::new(Vec::new(), 2021);
        let (mut flow, mut ends) = (Flow::new(), 0);
        for _ in 0..1000 {
            flow.advance(&mut from, &mut to, || {
                ends += 1;
                Ok(())
            })
            .unwrap();
        }
        assert!(from.bytes == to.bytes);
        assert!(ends == 1 && flow.closed);
    }

    #[test]
    fn connection_that_nobody_reads_holds_up_no_other() {
        let (_dir, gateway, port) = world();
        let mut stuck = connect(port);
        let (_unread, _) = gateway.accept().unwrap();
        stuck.set_nonblocking(true).unwrap();
        // Until no byte more fits anywhere.
        while stuck.write(&[b'x'; BUFFER]).is_ok() {}
        let mut other = connect(port);
        let (mut served, _) = gateway.accept().unwrap();
        other.write_all(b"ping").unwrap();
        let mut seen = [0; 4];
        served.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"ping");
    }

    #[test]
    fn connections_past_the_bound_wait_for_a_place() {
        let (_dir, gateway, port) = world();
        let mut clients: Vec<_> = (0..=CONNECTIONS).map(|_| connect(port)).collect();
        let mut served: Vec<_> = (0..CONNECTIONS).map(|_| gateway.accept().unwrap()).collect();
        gateway.set_nonblocking(true).unwrap();
        // Everything that is carried is carried before the last one is taken.
        clients[0].write_all(b"ping").unwrap();
        served[0].0.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(gateway.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        gateway.set_nonblocking(false).unwrap();
        drop((clients.remove(0), served.remove(0)));
        gateway.accept().unwrap();
    }

    #[test]
    fn gateway_that_is_away_ends_the_connection_and_is_found_again() {
        let (dir, gateway, port) = world();
        drop(gateway);
        assert_eq!(read_all(connect(port)), b"");
        let socket = dir.path().join("g.sock");
        fs::remove_file(&socket).unwrap();
        let gateway = UnixListener::bind(&socket).unwrap();
        let _client = connect(port);
        gateway.accept().unwrap();
    }

    #[test]
    fn owner_of_a_connection_is_read_from_the_kernels_table() {
        let from = "127.0.0.1:42424".parse().unwrap();
        let to = "127.0.0.1:3128".parse().unwrap();
        let line = |from: &str, to: &str, uid: u32| {
            format!(
                "   7: {from} {to} 01 00000000:00000000 00:00000000 00000000  {uid}        0 99 1\n"
            )
        };
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
        let (ours, theirs) = ("0100007F:A5B8", "0100007F:0C38");
        let table = format!(
            "{head}{}{}{}",
            // The listener, our own end, and another connection from that port.
            line(theirs, "00000000:0000", 1),
            line(theirs, ours, 2),
            line(ours, "0100007F:0C39", 3),
        );
        assert_eq!(owner(&table, from, to), None);
        let table = table + &line(ours, theirs, 1000);
        assert_eq!(owner(&table, from, to), Some(1000));
        let mapped = "0000000000000000FFFF0000";
        let table = line(&format!("{mapped}{ours}"), &format!("{mapped}{theirs}"), 5);
        assert_eq!(owner(&table, from, to), Some(5));
    }
}
