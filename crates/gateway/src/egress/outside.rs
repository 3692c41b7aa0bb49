//! The network outside: names, addresses, connections.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    pin::Pin,
    sync::Arc,
};

use protocol::HostName;
use tokio::{
    net::TcpStream,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::{address::not_public, refusal::Refusal, target::Target};
use crate::limits;

/// The addresses of a name, on their way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Looks names up.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// Returns the addresses at which `host` may be reached on `port`, the best first.
    ///
    /// # Errors
    ///
    /// Whatever keeps the name from being resolved.
    fn resolve<'a>(&'a self, host: &'a HostName, port: u16) -> Lookup<'a>;

    /// Returns one for another replica, where they can be in each other's way.
    fn for_another(&self) -> Option<Arc<dyn Resolver>> {
        None
    }
}

/// The system's own: files, DNS and what else it is set up for.
#[derive(Clone, Debug)]
struct System {
    /// A lookup holds a thread, and can't be called off: whoever owns the servers of an allowed domain
    /// could otherwise take all of them.
    threads: Arc<Semaphore>,
    /// And one replica could take those of all others.
    own: Arc<Semaphore>,
}

impl System {
    fn with(threads: Arc<Semaphore>) -> Self {
        Self { threads, own: Arc::new(Semaphore::new(limits::MAX_LOOKUPS_OF_ONE)) }
    }

    fn of_another(&self) -> Self {
        Self::with(Arc::clone(&self.threads))
    }

    /// Waits until another lookup may begin, and returns what is to be held until its thread ends.
    async fn permits(self) -> Result<[OwnedSemaphorePermit; 2], AcquireError> {
        let own = self.own.acquire_owned().await?;
        Ok([own, self.threads.acquire_owned().await?])
    }
}

impl Resolver for System {
    fn resolve<'a>(&'a self, host: &'a HostName, port: u16) -> Lookup<'a> {
        let (permits, host) = (self.clone().permits(), host.clone());
        Box::pin(async move {
            let permits = permits.await.map_err(io::Error::other)?;
            let looking = spawn_blocking(move || {
                let _held = permits;
                Ok((host.as_str(), port).to_socket_addrs()?.collect())
            });
            looking.await.map_err(io::Error::other)?
        })
    }

    fn for_another(&self) -> Option<Arc<dyn Resolver>> {
        Some(Arc::new(self.of_another()))
    }
}

/// The network as the egress proxy sees it: names, and the public addresses behind them.
#[derive(Clone, Debug)]
pub struct Outside {
    resolver: Arc<dyn Resolver>,
    /// May be connected to, whatever they are.
    exempt: Vec<SocketAddr>,
}

impl Outside {
    /// Returns the network with names of this resolver's. [`Default`] has the system's.
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, exempt: Vec::new() }
    }

    /// Returns the same network for another replica.
    pub(crate) fn for_another(&self) -> Self {
        let resolver = self.resolver.for_another();
        Self { resolver: resolver.unwrap_or_else(|| Arc::clone(&self.resolver)), ..self.clone() }
    }

    /// Returns the network with these addresses in it, though they are not public.
    ///
    /// For tests, whose internet is on loopback: no setting leads here.
    #[doc(hidden)]
    pub fn exempting(self, exempt: Vec<SocketAddr>) -> Self {
        Self { exempt, ..self }
    }

    /// Connects to a host, if every address of it may be connected to.
    ///
    /// One that may not is reason enough to refuse them all: whoever answers so has no honest use for
    /// it, or it is a name of our own network.
    pub(super) async fn connect(&self, target: &Target) -> Result<TcpStream, Refusal> {
        let connecting = async {
            let found = self.resolver.resolve(&target.host, target.port).await;
            let addresses = found.map_err(|error| Refusal::Unresolved(target.clone(), error))?;
            let bad = |address: &SocketAddr| Some((address.ip(), self.off_limits(address)?));
            if let Some((address, kind)) = addresses.iter().find_map(bad) {
                return Err(Refusal::NotPublic { target: target.clone(), address, kind });
            }
            race(addresses).await.map_err(|error| Refusal::Unreachable(target.clone(), error))
        };
        match timeout(limits::CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(Refusal::TimedOut(target.clone())),
        }
    }

    /// Returns what kind of address this is, if it may not be connected to.
    fn off_limits(&self, address: &SocketAddr) -> Option<&'static str> {
        if self.exempt.contains(address) {
            return None;
        }
        let ip = address.ip();
        not_public(ip).or_else(|| is_own(ip).then_some("this machine's own"))
    }
}

impl Default for Outside {
    fn default() -> Self {
        Self::new(Arc::new(System::with(Arc::new(Semaphore::new(limits::MAX_LOOKUPS)))))
    }
}

/// Returns whether the address is one of this machine. What listens here may trust whoever reaches it
/// by an address that a firewall guards from outside.
///
/// Only an own address can be bound to (unless `net.ipv4.ip_nonlocal_bind` is set: then egress is refused).
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Connects to the first address that answers. The next is tried a little later, whether or not the
/// one before has failed by then (RFC 8305).
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut tries = JoinSet::new();
    let mut wait = std::time::Duration::ZERO;
    for address in addresses.into_iter().take(limits::MAX_ADDRESSES) {
        tries.spawn(async move {
            sleep(wait).await;
            TcpStream::connect(address).await
        });
        wait += limits::NEXT_ADDRESS_DELAY;
    }
    let mut failure = io::Error::other("it has no address");
    while let Some(tried) = tries.join_next().await {
        match tried.map_err(io::Error::other).flatten() {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_known_and_those_of_others_are_let_through() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        for other in ["8.8.8.8:443", "[2001:4860:4860::8888]:443"] {
            assert_eq!(Outside::default().off_limits(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_whose_lookups_are_slow_keeps_no_other_from_its_own() {
        let system = System::with(Arc::new(Semaphore::new(limits::MAX_LOOKUPS)));
        let mut slow = Vec::new();
        for _ in 0..limits::MAX_LOOKUPS_OF_ONE {
            slow.push(system.clone().permits().await.unwrap());
        }
        let next = |system: System| timeout(limits::CONNECT_TIMEOUT, system.permits());
        assert!(next(system.clone()).await.is_err(), "it has all it may");
        assert!(next(system.of_another()).await.is_ok());
        drop(slow.pop());
        assert!(next(system).await.is_ok());
    }
}
