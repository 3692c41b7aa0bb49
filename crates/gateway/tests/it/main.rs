//! The gateway between real clients and real servers, over real sockets.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in helpers too")]

mod answers;
mod away;
mod bench;
mod bodies;
mod connections;
mod contents;
mod egress;
mod egress_http;
mod egress_tls;
mod framing;
mod headers;
mod internet;
mod ledger;
mod message;
mod pace;
mod sockets;
mod streams;
mod support;
mod tcp;
mod timeouts;
mod tls;
