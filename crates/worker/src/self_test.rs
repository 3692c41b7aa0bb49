//! What has to be so before the first attempt is taken: nothing can be reached but the gateway, and the
//! gateway lets out only what it should.
//!
//! It costs a millisecond or two, and an answer of the model's API; it needs nothing of the image. No packet leaves
//! where the walls hold: without a route the kernel itself says no.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use protocol::SELF_TEST_HOST;
use rustix::io::Errno;

use crate::args::Args;
use crate::gateway::{Answer, Gateway};
use crate::paths::Paths;
use crate::service::Fault;
use crate::signals::Signals;

/// Addresses that must be out of reach: two that are always there on the Internet, and the one at which
/// clouds hand out the machine's own credentials.
const OUTSIDE: [SocketAddr; 3] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), 443),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)), 443),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80),
];

/// What the system says where there is no way to an address.
const NO_WAY: [Errno; 7] = [
    Errno::NETUNREACH,
    Errno::HOSTUNREACH,
    Errno::NETDOWN,
    Errno::ADDRNOTAVAIL,
    Errno::AFNOSUPPORT,
    Errno::ACCESS,
    Errno::PERM,
];

/// A name that every resolver of the Internet knows (RFC 2606 keeps it for examples).
const KNOWN_NAME: &str = "example.com";

/// How long a connection, or an answer to a question for a name, is waited for, where the system does not
/// say at once that there is no way.
const MOMENT: Duration = Duration::from_millis(300);

/// How long the gateway may take for an answer. It takes less than a millisecond.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the model's API may take for one: a little longer than the gateway takes to find out that it can't be
/// reached.
const ANSWER_OF_API: Duration = Duration::from_secs(15);

/// How long the gateway may be away: as long as a restart of the daemon takes, also on a slow machine. The same for
/// the model's API: what takes longer is waited for without a container.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the gateway is asked meanwhile.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];

/// How long after an API that is away is asked again.
const PAUSE_OF_API: Duration = Duration::from_secs(2);

/// Why no attempt is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was found out that it should not, or could not.
    Fault(Fault),
    /// That signal came first.
    Signal(u8),
}

/// Finds out whether attempts may be taken.
///
/// A gateway that is away is waited for, since the daemon may be starting again, and so is the model's API.
///
/// # Errors
///
/// See [`Failure`].
pub(crate) fn run(paths: &Paths, args: &Args, signals: &Signals) -> Result<(), Failure> {
    let (began, walls) = (Instant::now(), !args.no_walls);
    // On a network that has an end, a packet may be sent, and comes to nothing.
    let routed = matches!(paths.gateway, Gateway::Port { .. });
    if walls && let Some(hole) = hole(&OUTSIDE, &resolv_conf(), routed) {
        let why = format!("the network can be reached from its container: {hole}");
        return Err(Failure::Fault(Fault::Unfit(why)));
    }
    let [mut pause, longest] = PAUSES;
    loop {
        let fault = match way_out(paths, !args.no_model, signals) {
            Ok(()) => break,
            Err(WayOut::Open(why)) => return Err(Failure::Fault(Fault::Unfit(why))),
            Err(WayOut::Away(why)) => {
                Fault::Missing(format!("the gateway has not answered for {PATIENCE:?}: {why}"))
            }
            Err(WayOut::Mute(why)) => {
                pause = pause.max(PAUSE_OF_API);
                Fault::Unreachable(why)
            }
        };
        if let Some(signal) = signals.raised() {
            return Err(Failure::Signal(signal));
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::Fault(fault));
        }
        signals.wait(pause);
        pause = (pause * 2).min(longest);
    }
    let ms = began.elapsed().as_millis();
    let walls = if walls { "The walls hold, and " } else { "" };
    let who = if args.no_model { "the gateway" } else { "the model's API" };
    tracing::info!(ms, "{walls}{who} answers.");
    Ok(())
}

/// Returns the way out that there is, if there is one.
fn hole(outside: &[SocketAddr], resolv_conf: &str, routed: bool) -> Option<String> {
    // At the same time, for those that are waited for.
    thread::scope(|scope| {
        let mut probes: Vec<_> = Vec::new();
        for &address in outside {
            probes.push(scope.spawn(move || reaches(address, routed)));
        }
        for server in name_servers(resolv_conf) {
            probes.push(scope.spawn(move || resolves(server)));
        }
        let untold = |_| Some("BUG: a probe of the self-test ended early".to_owned());
        probes.into_iter().find_map(|probe| probe.join().unwrap_or_else(untold))
    })
}

/// Says how an address can be reached, if it can: by a route, unless there may be one (`routed`), or by an
/// answer. What can't be told counts as if it could.
fn reaches(address: SocketAddr, routed: bool) -> Option<String> {
    let no_way = |error: &io::Error| {
        Errno::from_io_error(error).is_some_and(|errno| NO_WAY.contains(&errno))
    };
    // This only asks for the route: nothing is sent.
    match bound_like(address).and_then(|socket| socket.connect(address)) {
        Ok(()) if routed => {}
        Ok(()) => return Some(format!("there is a route to {address}")),
        Err(error) if no_way(&error) => {}
        Err(error) => return Some(format!("a route to {address} can't be excluded: {error}")),
    }
    // There may be ways without a route.
    match TcpStream::connect_timeout(&address, MOMENT) {
        Ok(_) => Some(format!("{address} answers")),
        Err(error) if no_way(&error) => None,
        Err(error) if routed && error.kind() == io::ErrorKind::TimedOut => None,
        Err(error) => Some(format!("a connection to {address} can't be excluded: {error}")),
    }
}

/// Says that a name server answers, if it does.
fn resolves(server: SocketAddr) -> Option<String> {
    let ask = || {
        let socket = bound_like(server)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(MOMENT))?;
        socket.send(&question(KNOWN_NAME))?;
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer)?;
        Ok::<_, io::Error>(answer[..len].to_vec())
    };
    // No error, no answer.
    let answer = ask().ok()?;
    has_address(&answer).then(|| format!("the name server {server} resolves {KNOWN_NAME}"))
}

fn bound_like(address: SocketAddr) -> io::Result<UdpSocket> {
    match address {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn resolv_conf() -> String {
    fs::read("/etc/resolv.conf")
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default()
}

fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let addresses = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // A zone would be of an interface that is not there.
        Some(SocketAddr::new(address.split('%').next()?.parse().ok()?, 53))
    });
    addresses.collect()
}

/// Returns a question for a name's IPv4 address (RFC 1035, 4.1).
fn question(name: &str) -> Vec<u8> {
    // Number 1, recursion wanted, one question.
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.extend(u8::try_from(label.len()));
        message.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Returns whether an answer has answers, and no error (RFC 1035, 4.1.1).
fn has_address(answer: &[u8]) -> bool {
    matches!(answer, [_, _, _, flags, _, _, high, low, ..] if flags & 0xf == 0 && (*high, *low) != (0, 0))
}

/// What is wrong with the way out.
#[derive(Debug, PartialEq, Eq)]
enum WayOut {
    /// It leads where it should not.
    Open(String),
    /// There is none, for now.
    Away(String),
    /// It does not lead to the model's API, for now.
    Mute(String),
}

/// Checks that the gateway refuses what is on no list, as an agent would ask for it, and that the model's API
/// answers through it, if it is to be asked: something, since what a key is good for is not the container's business.
fn way_out(paths: &Paths, asks_model: bool, signals: &Signals) -> Result<(), WayOut> {
    let away = |what: &str, error: &io::Error| WayOut::Away(format!("{what}: {error}"));
    let port = TcpStream::connect((Ipv4Addr::LOCALHOST, paths.proxy))
        .map_err(|error| away("the loopback", &error))?;
    let host = format!("{SELF_TEST_HOST}:443");
    let secret = paths.gateway.proxy_header().map(|line| line + "\r\n").unwrap_or_default();
    let connect = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{secret}\r\n");
    let limits = [port.set_read_timeout(Some(ANSWER)), port.set_write_timeout(Some(ANSWER))];
    let answer = limits.into_iter().collect::<io::Result<()>>().and_then(|()| {
        (&port).write_all(connect.as_bytes())?;
        Answer::read(&port)
    });
    match answer.map_err(|error| away("the way to other hosts", &error))?.status {
        403 => {}
        200..=299 => {
            let why = format!("the gateway lets {host} through, which is on no list");
            return Err(WayOut::Open(why));
        }
        other => {
            let why = format!("a host that is on no list is answered with {other}");
            return Err(WayOut::Away(why));
        }
    }
    let away = |error| away("the gateway", &error);
    // The gateway itself answers the other one.
    let hello = if asks_model { "GET /api/hello" } else { "HEAD /api/hello" };
    let socket = paths.gateway.ask(hello, ANSWER).map_err(away)?;
    if !signals.wait_for(&socket, ANSWER_OF_API) {
        return Err(WayOut::Mute(format!("the model's API has not answered in {ANSWER_OF_API:?}")));
    }
    let answer = Answer::read(&socket).map_err(away)?;
    if answer.by == "unreachable" { Err(WayOut::Mute(answer.message)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn local() -> UdpSocket {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    /// An address that the system lets nobody connect to, with or without a network.
    const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), 80);

    #[test]
    fn what_has_a_route_is_a_hole_also_where_nobody_answers() {
        assert_eq!(hole(&[NOWHERE], "", false), None);
        let silent = local().local_addr().unwrap();
        let hole = hole(&[NOWHERE, silent], "", false).unwrap();
        assert_eq!(hole, format!("there is a route to {silent}"));
        // Where there may be a route, an answer is a hole, and be it a refusal.
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for address in [silent, open.local_addr().unwrap()] {
            assert!(reaches(address, true).is_some(), "{address}");
        }
    }

    #[test]
    fn name_server_is_a_hole_when_it_resolves() {
        let answers = [(0x80, 1, true), (0x83, 0, false), (0x83, 1, false), (0x80, 0, false)];
        for (flags, count, expected) in answers {
            let server = local();
            let address = server.local_addr().unwrap();
            thread::spawn(move || {
                let mut message = [0; 512];
                let (len, from) = server.recv_from(&mut message).unwrap();
                assert_eq!(&message[12..len - 4], b"\x07example\x03com\0");
                (message[2], message[3], message[7]) = (0x81, flags, count);
                server.send_to(&message[..len], from).unwrap();
            });
            assert_eq!(resolves(address).is_some(), expected, "{flags:x} {count}");
        }
        // Nobody is there.
        assert_eq!(resolves(local().local_addr().unwrap()), None);
    }

    #[test]
    fn name_servers_are_read_as_resolvers_read_them() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 127.0.0.11\n\
                    nameserver\tfe80::1%eth0 x\nnameserver\nnameserver x\noptions ndots:0";
        let servers: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.11:53", "[fe80::1]:53"]);
    }
}
