//! The only way out of a worker's container: a streaming reverse proxy to the model's API.
//!
//! One [`Gateway`] per daemon knows the [`Upstream`]. Each replica gets its own unix socket, a
//! [`Listener`], so which replica is calling is known by which socket it calls on: there is no
//! token to steal. With a [`Credential`] the gateway adds the API key, which then never enters the
//! container; without one the client's own headers pass.
//!
//! A request's way through is `proxy`: `admission` decides whether it may leave at all,
//! `headers` makes it ours, `client` sends it, `body` streams the answer back, and `exchange` says
//! in one debug line how it went. Nothing is stored on the way, and nothing is buffered beyond
//! [`limits::BUFFER`] per direction, so a slow reader slows the writer down.
//!
//! # Examples
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use gateway::{Credential, Gateway, Upstream};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let gateway = Gateway::new(Upstream::parse("https://api.anthropic.com")?)?;
//! let key = Arc::new(Credential::api_key(std::env::var("ANTHROPIC_API_KEY")?)?);
//! let socket = Path::new("/run/user/1000/supervisor/gateway/marie-1/gateway.sock");
//! let listener = gateway.listen("marie-1", socket, Some(key)).await?;
//! // … the replica lives …
//! listener.close().await;
//! # Ok(())
//! # }
//! ```

mod admission;
mod answer;
mod body;
mod caller;
mod client;
mod credential;
mod exchange;
mod headers;
pub mod limits;
mod listener;
mod money;
mod pool;
mod proxy;
mod socket;
mod tokens;
mod upstream;

pub use crate::{
    answer::{GATEWAY_HEADER, REFUSED, UNREACHABLE},
    caller::Caller,
    client::TlsRootsError,
    credential::{Credential, InvalidCredential},
    listener::{Gateway, Listener},
    money::Usd,
    socket::{DIR_MODE, ListenError, SOCKET_MODE},
    tokens::Tokens,
    upstream::{InvalidUpstream, Upstream},
};
