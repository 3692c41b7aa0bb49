//! SIGTERM and SIGINT: somebody wants us to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

/// The signals that ask us to end.
///
/// Process 1 ignores every signal that it has no handler for, so these are handlers.
#[derive(Debug)]
pub(crate) struct Signals {
    last: Arc<AtomicUsize>,
    wake: UnixStream,
}

impl Signals {
    /// Begins to catch them.
    pub(crate) fn catch() -> io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        let (wake, raised) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            // First the number, then the wake-up: actions run in the order of registration.
            let number = usize::try_from(signal).unwrap_or_default();
            signal_hook::flag::register_usize(signal, Arc::clone(&last), number)?;
            signal_hook::low_level::pipe::register(signal, raised.try_clone()?)?;
        }
        Ok(Self { last, wake })
    }

    /// Returns the last signal that came, if one did.
    pub(crate) fn raised(&self) -> Option<u8> {
        u8::try_from(self.last.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
    }

    /// Waits so long, or until a signal comes.
    pub(crate) fn wait(&self, time: Duration) {
        wait(&mut [PollFd::new(&self.wake, PollFlags::IN)], time);
    }

    /// Waits so long, or until a signal comes, for something to be read. Returns whether there is.
    pub(crate) fn wait_for(&self, stream: &impl AsFd, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.wake, PollFlags::IN), PollFd::new(stream, PollFlags::IN)];
        wait(&mut fds, time);
        !fds[1].revents().is_empty()
    }

    /// Returns what becomes readable when a signal comes, and stays so.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Waits until something is to be read, and no longer than that.
fn wait(fds: &mut [PollFd<'_>], time: Duration) {
    let limit = Timespec::try_from(time).ok();
    // What fails is looked at by whoever waited.
    let _ = rustix::io::retry_on_intr(|| poll(fds, limit.as_ref()));
}
