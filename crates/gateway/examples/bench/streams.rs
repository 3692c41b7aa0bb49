//! Many streams at once, each of which takes its time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

use crate::{
    Failure, Result, sse,
    wire::{self, Address, Answer},
};

/// How far apart a stream's text deltas are. A model writes 50 to 100 tokens a second, several to a delta.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

/// Opens so many streams at once, reads all to their end, and returns how long each of their `events` took
/// from the upstream, in order of size.
///
/// # Errors
///
/// If a stream breaks, or an event is missing.
pub(crate) fn run(
    at: &[Address],
    streams: usize,
    events: usize,
    body: &[u8],
) -> Result<Vec<Duration>> {
    let header = format!("{}: {events} {}\r\n", sse::STREAM_HEADER, EVERY.as_millis());
    let request: Arc<[u8]> = wire::request(&header, body).into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let delays = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        let mut open = JoinSet::new();
        for at in at.iter().cycle().take(streams) {
            let (at, request, delays) = (at.clone(), Arc::clone(&request), Arc::clone(&delays));
            open.spawn(async move {
                let seen = match &at {
                    Address::Tcp(to) => follow(TcpStream::connect(to).await?, &request).await?,
                    Address::Unix(to) => follow(UnixStream::connect(to).await?, &request).await?,
                };
                delays.lock().map_err(|_| "another stream failed")?.extend(seen);
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = open.join_next().await {
            ended??;
        }
        Ok::<_, Failure>(())
    })?;
    let mut delays = std::mem::take(&mut *delays.lock().map_err(|_| "a stream failed")?);
    if delays.len() < streams * events * 99 / 100 {
        return Err(
            format!("only {} events of {} came whole", delays.len(), streams * events).into()
        );
    }
    delays.sort_unstable();
    Ok(delays)
}

async fn follow<S>(mut stream: S, request: &[u8]) -> Result<Vec<Duration>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    let (mut answer, mut seen) = (Answer::default(), Vec::new());
    let mut buffer = vec![0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err("a stream breaks off".into());
        }
        let mut look = |piece: &[u8]| {
            seen.extend(sse::ages(piece));
            Ok(())
        };
        if answer.feed(&buffer[..read], &mut look)? {
            return Ok(seen);
        }
    }
}
