//! The numbers the gateway lives by, each with its reason.
//!
//! The Claude Code CLI has limits of its own: it gives up on a request after 360 s without a first
//! byte and on a stream after 300 s of silence, and then tries again in its own way. The gateway's
//! limits lie just above, so that the CLI decides while it lives, and nothing hangs when it doesn't.

use std::time::Duration;

/// How long connecting to the upstream may take: name lookup, TCP and TLS together.
///
/// A few seconds are a slow network, ten are a dead one; the CLI retries a 502 by itself.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a request's head the upstream's response head may come.
///
/// It includes connecting and sending the body. Just above the CLI's 360 s.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(370);

/// How long the upstream may be silent in the middle of a response.
///
/// Just above the CLI's 300 s. Only waiting for the upstream counts, not a client that doesn't read.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(310);

/// How long a client's connection may wait for its next request, or take to send its head.
///
/// A tool call between two turns of a session often takes minutes, and reconnecting to a unix
/// socket costs next to nothing.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a connection to the upstream stays open unused.
///
/// Long enough for the next turn of a busy session, shorter than the minute or more after which
/// servers and middleboxes usually drop it: a POST sent into a closing connection can't be repeated.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the gateway goes on reading the body of a request that it answers itself.
///
/// A client that is still writing may take the end of its connection for the answer and never
/// read the real one.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections one replica may have open at once. Further ones wait in the kernel's queue.
///
/// A session with many sub-agents has about a dozen requests in flight.
pub const MAX_CONNECTIONS: usize = 64;

/// How many bytes hyper may buffer per connection and direction, which also bounds a message's head.
///
/// 64 KiB: eight times what servers usually take as a head, and a few reads of a fast stream.
pub const BUFFER: usize = 64 * 1024;
