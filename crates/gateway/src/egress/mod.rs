//! The way to other hosts than the model's API: a forward proxy, on the same socket.
//!
//! A request with `CONNECT host:port` or an absolute `http://` URL goes through [`Egress::serve`].
//! `target` reads where it wants to go, the policy says whether its worker may, `outside` looks the
//! name up and connects, and only to an address that `address` takes for public: the one that was
//! checked, never one that was looked up again. A tunnel to port 443 must begin with a TLS
//! ClientHello (`hello`) that names the same host. Each connection is logged with its bytes when it
//! ends, each refusal with its reason.
//!
//! # Limits
//!
//! What is encrypted can't be seen. Two hosts that share a server are told apart by the name in the
//! ClientHello; whoever allows one of a content network's hosts allows what that network's servers
//! make of the `Host` inside of TLS. The inner name of an encrypted ClientHello (ECH) is not visible;
//! the outer one must be the host's. A rule with a port other than 443 allows any protocol on that
//! port, by CONNECT.

mod address;
mod client_hello;
mod outside;
mod passage;
mod plain;
mod proxy;
mod refusal;
mod target;
mod tunnel;

pub use self::{
    outside::{Lookup, Outside, Resolver},
    proxy::{EgressPolicy, NotAllowed},
    refusal::REASON_HEADER,
};
pub(crate) use self::{proxy::Egress, refusal::Refusal, target::Target};

/// Reads any bytes as the beginning of a connection.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any_hello(bytes: &[u8]) {
    client_hello::read_any(bytes);
}
