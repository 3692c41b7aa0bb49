//! Lines on their way to the file: whoever writes takes with it what others have queued meanwhile.
//!
//! The books change and a line is queued in one step, under the lock. The file is written without it, by one
//! at a time, so that nobody waits for the file who only wants to look at the books, and a thread that the system
//! stops in the middle of a write stops no other.

use std::{
    future::poll_fn,
    io, mem,
    sync::{Arc, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use tokio::{runtime::Handle, task::yield_now};

use super::{Shared, State, line::Line, log::Log};

/// What is queued, and who waits for it.
#[derive(Debug)]
pub(super) struct Lines {
    /// None while somebody writes.
    log: Option<Log>,
    queue: Vec<u8>,
    /// How many lines were ever queued, and how many of them are in the file.
    queued: u64,
    written: u64,
    /// Why the last write failed. What it was about is still queued.
    failure: Option<io::Error>,
    waiting: Vec<Waker>,
    /// How many threads wait for the end of a write. To tell nobody costs a system call, too.
    blocked: usize,
    /// Somebody will write soon.
    is_due: bool,
    /// Whether there is a file at all.
    is_kept: bool,
}

/// The number of a line that was queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

impl Lines {
    pub(super) fn new(log: Log) -> Self {
        Self {
            is_kept: log.is_kept(),
            log: Some(log),
            queue: Vec::new(),
            queued: 0,
            written: 0,
            failure: None,
            waiting: Vec::new(),
            blocked: 0,
            is_due: false,
        }
    }

    /// Queues a line. It has to be written then: nobody else sees to it.
    #[must_use]
    pub(super) fn push(&mut self, line: &Line) -> Ticket {
        if self.is_kept {
            line.write(&mut self.queue);
            self.queued += 1;
        }
        Ticket(self.queued)
    }

    /// Returns why the last write failed, if it did.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.failure.as_ref().map(copy)
    }

    /// Returns whether the last write failed, and nobody is trying again.
    fn is_stuck(&self) -> bool {
        self.failure.is_some() && self.log.is_some()
    }

    /// Says whether a line is in the file, or can't be for now; None while it has not been tried.
    pub(super) fn fate(&self, Ticket(number): Ticket) -> Option<io::Result<()>> {
        if self.written >= number {
            return Some(Ok(()));
        }
        self.failure.as_ref().filter(|_| self.log.is_some()).map(|error| Err(copy(error)))
    }

    /// Returns the file with all that is to be written into it, up to which line, unless somebody has it.
    pub(super) fn take(&mut self) -> Option<(Log, Vec<u8>, u64)> {
        let log = self.log.take_if(|_| !self.queue.is_empty())?;
        Some((log, mem::take(&mut self.queue), self.queued))
    }

    /// Notes what became of a write.
    pub(super) fn wrote(
        &mut self,
        log: Log,
        mut lines: Vec<u8>,
        upto: u64,
        written: io::Result<()>,
    ) {
        self.log = Some(log);
        self.failure = written.err();
        if self.failure.is_none() {
            self.written = upto;
            lines.clear();
        }
        // What failed comes before what was queued since.
        lines.append(&mut self.queue);
        self.queue = lines;
        self.waiting.drain(..).for_each(Waker::wake);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    #[cfg(test)]
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    #[cfg(test)]
    pub(super) fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }
}

impl Shared {
    /// Writes what is queued. Where somebody is writing, that one takes it along.
    fn write_queued<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some((mut log, lines, upto)) = state.lines.take() {
            drop(state);
            let written = log.append(&lines);
            let is_stuck = written.is_err();
            state = self.lock();
            state.lines.wrote(log, lines, upto, written);
            if state.lines.blocked > 0 {
                self.written.notify_all();
            }
            if is_stuck {
                break;
            }
        }
        state
    }

    /// Tries again what could not be written, so that nothing more is queued behind it in vain.
    ///
    /// # Errors
    ///
    /// That of the new try.
    pub(super) fn unstick<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> io::Result<MutexGuard<'a, State>> {
        if state.lines.is_stuck() {
            state = self.write_queued(state);
        }
        match &state.lines.failure {
            Some(error) if state.lines.is_stuck() => Err(copy(error)),
            _ => Ok(state),
        }
    }

    /// Writes a line that was queued, and all before it.
    ///
    /// # Errors
    ///
    /// Any I/O error. The line is still queued then.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has changed nothing: somebody else writes the line.
    pub(super) async fn write(&self, ticket: Ticket) -> io::Result<()> {
        if let Some(fate) = self.lock().lines.fate(ticket) {
            return fate;
        }
        // Whoever else has something to write on this thread comes first: one write serves all.
        yield_now().await;
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.lines.fate(ticket).is_none() {
                state = self.write_queued(state);
            }
            match state.lines.fate(ticket) {
                Some(fate) => Poll::Ready(fate),
                None => {
                    state.lines.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Does the same where waiting is allowed.
    pub(super) fn write_now(&self, ticket: Ticket) -> io::Result<()> {
        let mut state = self.write_queued(self.lock());
        loop {
            match state.lines.fate(ticket) {
                Some(fate) => return fate,
                None => state = self.await_write(state),
            }
        }
    }

    /// Writes a line that was queued, at once or as soon as what else is to be done now on this thread is done. If
    /// it can't be written, the next who writes does it.
    pub(super) fn write_soon(self: &Arc<Self>, mut state: MutexGuard<'_, State>, ticket: Ticket) {
        match Handle::try_current() {
            _ if state.lines.fate(ticket).is_some_and(|fate| fate.is_ok()) => {}
            Ok(_) if state.lines.is_due => {}
            Ok(runtime) => {
                state.lines.is_due = true;
                drop(state);
                let due = Due(Arc::clone(self));
                runtime.spawn(async move {
                    yield_now().await;
                    drop(due);
                });
            }
            Err(_) => {
                drop(state);
                if let Err(error) = self.write_now(ticket) {
                    self.complain(&error);
                }
            }
        }
    }

    /// Does something with the file when all that is queued is in it, or [can't be](Lines::failure).
    pub(super) fn with_log<T>(&self, work: impl FnOnce(&mut State, &mut Log) -> T) -> T {
        let mut state = self.lock();
        loop {
            state = self.write_queued(state);
            if let Some(mut log) = state.lines.log.take() {
                let done = work(&mut state, &mut log);
                state.lines.log = Some(log);
                return done;
            }
            state = self.await_write(state);
        }
    }

    fn await_write<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.lines.blocked += 1;
        let mut state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.lines.blocked -= 1;
        state
    }

    fn complain(&self, error: &io::Error) {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, ledger = %self.path.display(), "What was spent can't be written.");
    }
}

/// A write that is due: when this is dropped, in whatever way.
struct Due(Arc<Shared>);

impl Drop for Due {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.lines.is_due = false;
        let state = self.0.write_queued(state);
        let failure = state.lines.failure();
        drop(state);
        if let Some(error) = failure {
            self.0.complain(&error);
        }
    }
}

/// Returns an error that says the same.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
