//! The stand-in as a client sees it, without the CLI.

mod caching;
mod endpoints;
mod faults;
mod limits;
mod sockets;
mod stock;
mod streaming;
mod support;
