//! The gateway between real clients and real servers, over real sockets.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in helpers too")]

mod answers;
mod bench;
mod bodies;
mod connections;
mod headers;
mod sockets;
mod streams;
mod support;
mod timeouts;
mod tls;
