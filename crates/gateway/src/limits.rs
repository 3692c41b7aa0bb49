//! The numbers the gateway lives by, each with its reason.
//!
//! The Claude Code CLI has limits of its own: it gives up on a request after 360 s without a first
//! byte and on a stream after 300 s of silence, and then tries again in its own way. The gateway's
//! limits lie just above, so that the CLI decides while it lives, and nothing hangs when it doesn't.

use std::time::Duration;

/// How long connecting to the upstream may take: name lookup, TCP and TLS together.
///
/// A few seconds are a slow network, ten are a dead one; who asks the model is tried again.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a request's head the upstream's response head may come.
///
/// It includes connecting and sending the body. Just above the CLI's 360 s.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(370);

/// How long a request may wait in the gateway, for its turn or for an answer that is more than "later".
///
/// It leaves a minute of the CLI's 360 s for the upstream's first byte.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the upstream may be silent in the middle of a response, or the client take nothing of it.
///
/// Just above the CLI's 300 s. While the client is waited for, the upstream is not.
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

/// How many connections one replica may have open at once. Further ones wait in the kernel's queue; by TCP, where
/// others could call and each address has room for so many, they are closed.
///
/// A session with many sub-agents has about a dozen requests in flight.
pub const MAX_CONNECTIONS: usize = 64;

/// How many connections to other hosts one replica may have open at once. Further ones are refused.
///
/// A package manager opens up to about fifty at once.
pub const MAX_EGRESS: usize = 64;

/// How long a connection to another host may be silent, both ways.
///
/// Long enough for a server that builds something before it answers.
pub const EGRESS_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How many warnings about refused requests one replica can bring into the log per minute. Further
/// ones are debug lines.
pub const WARNINGS_PER_MINUTE: u32 = 100;

/// How many names are looked up at once, for all replicas together. Each takes a thread, of the 512
/// that tokio has for such work.
pub const MAX_LOOKUPS: usize = 64;

/// How many of them are one replica's: servers of a domain that it may reach can be slow.
pub const MAX_LOOKUPS_OF_ONE: usize = 8;

/// How many addresses of a host are tried. Content networks answer with up to about eight.
pub const MAX_ADDRESSES: usize = 8;

/// How much later than the one before the next address of a host is tried (RFC 8305, section 5).
pub const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// How long a client may take to say, in its TLS ClientHello, whom it wants to talk to.
pub const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes a TLS ClientHello may have. With post-quantum keys it has about 2 KiB.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// How many bytes of a tunnel are in the gateway, per direction.
pub const TUNNEL_BUFFER: usize = 16 * 1024;

/// How many bytes are buffered per connection and direction, which also bounds a message's head.
///
/// 32 KiB: four times what servers usually take as a head. A connection keeps as much as it once needed.
pub const BUFFER: usize = 32 * 1024;

/// The largest request to the model that is taken, in bytes: the API's own limit.
pub const MAX_REQUEST: usize = 32 * 1024 * 1024;

/// How many bytes of requests to the model one replica may have waiting at once. Further ones are read when
/// there is room.
///
/// Two of the largest, or a thousand of the usual size: an agent must not fill the daemon's memory.
pub const MAX_WAITING: usize = 2 * MAX_REQUEST;

/// How much of an error that the upstream answers with is handed on, in bytes. They have about 200.
pub const MAX_ERROR: usize = 64 * 1024;
