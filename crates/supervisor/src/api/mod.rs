//! The HTTP API on the daemon's unix socket.
//!
//! It is for whoever may open the socket: the user who started the daemon. [`openapi`] describes it.

pub mod openapi;
mod routes;
pub mod types;
pub mod usage;

pub use routes::{Api, router};
