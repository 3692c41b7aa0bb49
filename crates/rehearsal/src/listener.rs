//! Where connections come from.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::debug;

/// A socket that clients connect to.
pub(crate) trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for a client. Dropping the future loses none.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Makes the coming close of a stream a reset, if it knows one.
    fn close_hard(stream: &Self::Stream);
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }

    fn close_hard(_: &UnixStream) {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Deltas are small, and each should leave at once.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn close_hard(stream: &TcpStream) {
        if let Err(error) = stream.set_zero_linger() {
            debug!(error = &error as &dyn std::error::Error, "Closing without a reset.");
        }
    }
}
