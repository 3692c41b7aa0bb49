//! What was spent, by whom, and what may still be.
//!
//! [`Ledger::reserve`] holds the most that a request can take against every budget that concerns it,
//! and writes that down, before the request goes out; [`Reservation::settle`] books what it took
//! and lets go of the rest. So what is spent never passes a budget, whatever is out at once and whenever the
//! process is killed: what was out then stays held, because nobody knows what it took.

mod books;
mod commit;
mod line;
mod log;
mod refusal;
mod reservation;
mod scope;
mod totals;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::Time;
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

use self::{
    books::{Books, Out, Place},
    commit::{Lines, Ticket},
    line::{Line, VERSION},
    log::Log,
};
pub use self::{
    refusal::{OverBudget, Refused},
    reservation::{Reservation, Spent},
    scope::{Amount, Budget, Day, Notice, Scope, Worst},
    totals::{Entry, Filter, Sums, Totals},
};
use crate::Caller;

/// Who used what is known for this many days; what is older is forgotten when the file is made small. So
/// the budget of a run or task counts no more than that, too.
const KEPT_DAYS: u64 = 400;

/// A waiting request looks again after this time, for what nobody tells it: a new day, a disk with room,
/// somebody before it who waits for another budget now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The longest name of a model that is kept, in bytes.
const MAX_MODEL: usize = 128;

/// Why a ledger can't be opened.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The system does not let us.
    #[error("the ledger `{}` can't be opened", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is damaged, and it is not the last one.
    #[error("line {line} of the ledger `{}` is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// It was written by a later version.
    #[error("the ledger `{}` is of version {version}, and this build reads up to {VERSION}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl LedgerError {
    /// Returns what to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "Mend the permissions or the disk, and start again.".to_owned(),
            Self::Damaged { .. } => {
                "Nothing was changed. Restore the file from a backup, or delete \
                that line: what it says is then not counted. Moved away, all is counted from zero."
                    .to_owned()
            }
            Self::Newer { .. } => "Nothing was changed. Use that version.".to_owned(),
        }
    }
}

/// How a scope stands: today's figures for a worker and for the day, else those of all time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its budget.
    pub budget: Budget,
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that are out.
    pub in_flight: u64,
    /// How many of those that have ended have no price.
    pub unpriced: u64,
    /// What those that have ended took, as far as it is known.
    pub spent: Worst,
    /// What is held: for those that are out, and for those that broke off.
    pub held: Worst,
    /// How much of that is held for those that broke off: for good.
    pub lost: Worst,
    /// The most that the request could take which was last refused since the budget was set, if one was: that much must
    /// be left for it to go out. Forgotten with the process.
    pub refused: Option<Worst>,
}

/// The books of all requests and all budgets. A clone is the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    /// The file; empty where there is none.
    path: PathBuf,
    state: Mutex<State>,
    /// A write to the file has ended.
    written: Condvar,
    clock: Box<dyn Fn() -> Time + Send + Sync>,
    /// Something came free, or the queues have changed.
    changed: Notify,
    notices: mpsc::UnboundedSender<Notice>,
}

#[derive(Debug)]
struct State {
    books: Books,
    lines: Lines,
    /// The number of the next request. It is its own within the file.
    next: u64,
}

impl Ledger {
    /// Reads a ledger's file, or begins one; without a file it is in memory only. Returns it with the
    /// [`Notice`]s that it will give.
    ///
    /// What was out when the file was last written stays held for good. Budgets are not in the file:
    /// they are set anew.
    ///
    /// # Errors
    ///
    /// See [`LedgerError`]. A last line that is not whole is no error: what it was about was never done,
    /// or counts as held.
    pub fn open(
        file: Option<&Path>,
        clock: impl Fn() -> Time + Send + Sync + 'static,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), LedgerError> {
        let (log, lines) = match file {
            Some(path) => Log::open(path)?,
            None => (Log::nowhere(), Vec::new()),
        };
        let is_of_before =
            matches!(lines.first(), Some(Line::Ledger { version }) if *version < VERSION);
        let path = file.unwrap_or(Path::new(""));
        let (ledger, notices) = Self::begin(log, lines, path, clock)?;
        // An earlier build must not take for damage what it does not know.
        if is_of_before && let Err(error) = ledger.0.with_log(State::make_small) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, ledger = %path.display(), "It stays in its old form for now.");
        }
        Ok((ledger, notices))
    }

    /// Reads a ledger's file to look at it. The file is not touched, so this does no harm where another
    /// process writes it; what is booked in this ledger is in memory only. Without the file nothing was
    /// spent.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn read(
        file: &Path,
        clock: impl Fn() -> Time + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        Ok(Self::begin(Log::nowhere(), Log::read(file)?, file, clock)?.0)
    }

    fn begin(
        log: Log,
        lines: Vec<Line>,
        file: &Path,
        clock: impl Fn() -> Time + Send + Sync + 'static,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Notice>), LedgerError> {
        let mut state = State { books: Books::default(), lines: Lines::new(log), next: 1 };
        state.books.turn_to(Day::of(clock()));
        for (line, number) in lines.into_iter().zip(1..) {
            if !state.replay(line) {
                let (path, line) = (file.to_owned(), number);
                let why = "it is about a request that is not, or no longer, out".to_owned();
                return Err(LedgerError::Damaged { path, line, why });
            }
        }
        let out: Vec<_> = state.books.out().map(|(id, _)| id).collect();
        out.into_iter().for_each(|id| _ = state.books.lost(id));
        let (notices, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            path: file.to_owned(),
            state: Mutex::new(state),
            written: Condvar::new(),
            clock: Box::new(clock),
            changed: Notify::new(),
            notices,
        };
        Ok((Self(Arc::new(shared)), receiver))
    }

    /// Sets, raises, lowers or lifts the budget of a scope. What is out already stays out.
    pub fn set_budget(&self, scope: Scope, budget: Budget) {
        let mut state = self.0.today();
        state.books.set_budget(scope, budget);
        self.0.after(state, None);
    }

    /// Returns the first scope of a caller that has a budget.
    pub(crate) fn bounded(&self, caller: &Caller) -> Option<Scope> {
        let scopes = [
            Scope::Task(caller.task.clone()),
            Scope::Run(caller.run),
            Scope::Worker(caller.worker.clone()),
            Scope::Day,
        ];
        let books = &self.0.lock().books;
        scopes.into_iter().find(|scope| books.has_budget(scope))
    }

    /// Returns how a scope stands.
    pub fn standing(&self, scope: &Scope) -> Standing {
        self.0.today().books.standing(scope)
    }

    /// Returns what the requests that are meant used, in sum. Takes time with the number of attempts,
    /// unless the filter has a run.
    pub fn totals(&self, filter: &Filter) -> Totals {
        self.0.lock().books.totals(filter)
    }

    /// Returns what the requests that are meant used: one entry for each attempt, model and day.
    pub fn entries(&self, filter: &Filter) -> Vec<Entry> {
        self.0.lock().books.entries(filter).cloned().collect()
    }

    /// Shows what the requests that are meant used, as [`entries`](Self::entries) returns it but without a
    /// copy, and returns those that are out: an entry for each, as it would be booked if nobody ever learned
    /// what it used. Both are as of one moment, since nobody can book anything meanwhile: `look` should be
    /// quick, and must not ask the ledger.
    pub fn look(&self, filter: &Filter, look: impl FnMut(&Entry)) -> Vec<Entry> {
        let state = self.0.lock();
        state.books.entries(filter).for_each(look);
        state.books.pending(filter).collect()
    }

    /// Returns the day on which a request would be booked now.
    pub fn today(&self) -> Day {
        self.0.today().books.today()
    }

    /// Books how long a request waited that did not go out, or that used nothing: by reason, in milliseconds. It counts
    /// as no request.
    pub fn note_waits(&self, caller: &Caller, model: &str, waits: BTreeMap<String, u64>) {
        let mut state = self.0.today();
        let entry = Entry {
            run: caller.run,
            task: caller.task.clone(),
            attempt: caller.attempt,
            worker: caller.worker.clone(),
            day: state.books.today(),
            model: head(model, MAX_MODEL).into(),
            sums: Sums { waits, ..Sums::default() },
        };
        let ticket = state.lines.push(&Line::sum(&entry));
        state.books.book(entry);
        self.0.after(state, Some(ticket));
    }

    /// Holds the most that a request can take, on all accounts that it concerns, and writes that
    /// down. Nothing is held after an error.
    ///
    /// # Errors
    ///
    /// See [`Refused`]. Also when others wait for the same budget in
    /// [`reserve_when_free`](Self::reserve_when_free): nobody is overtaken.
    pub fn reserve(
        &self,
        caller: &Caller,
        model: &str,
        worst: Worst,
    ) -> Result<Reservation, Refused> {
        let (reservation, ticket) = self.try_reserve(caller, model, worst, None)?;
        match self.0.write_now(ticket) {
            Ok(()) => Ok(reservation.written()),
            Err(source) => Err(self.0.unwritable(source)),
        }
    }

    /// Like [`reserve`](Self::reserve), but waits until `give_up` for what may pass: first come, first
    /// served for each budget.
    ///
    /// # Errors
    ///
    /// See [`Refused`]. What can't pass is said at once; it may also turn out so while waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it holds nothing, and its place in the queue is free.
    pub async fn reserve_when_free(
        &self,
        caller: &Caller,
        model: &str,
        worst: Worst,
        give_up: Instant,
    ) -> Result<Reservation, Refused> {
        self.reserve_letting_go(caller, model, worst, give_up, || {}).await
    }

    /// Does the same, and calls `let_go` each time before it waits: for what others should have meanwhile.
    pub(crate) async fn reserve_letting_go(
        &self,
        caller: &Caller,
        model: &str,
        worst: Worst,
        give_up: Instant,
        mut let_go: impl FnMut(),
    ) -> Result<Reservation, Refused> {
        let mut queued = Queued { shared: &self.0, place: None };
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let refused = match self.try_reserve(caller, model, worst, Some(&mut queued.place)) {
                Ok((reservation, ticket)) => match self.0.write(ticket).await {
                    Ok(()) => return Ok(reservation.written()),
                    Err(source) => self.0.unwritable(source),
                },
                Err(refused) => refused,
            };
            let now = Instant::now();
            if !refused.may_pass() || now >= give_up {
                return Err(refused);
            }
            let_go();
            tokio::select! {
                () = changed => {}
                () = sleep_until(give_up.min(now + LOOK_AGAIN)) => {}
            }
        }
    }

    /// Holds what a request can take, and queues the line that says so. The request may go out when that is
    /// written.
    fn try_reserve(
        &self,
        caller: &Caller,
        model: &str,
        worst: Worst,
        place: Option<&mut Option<Place>>,
    ) -> Result<(Reservation, Ticket), Refused> {
        let model = head(model, MAX_MODEL);
        let state = self.0.unstick(self.0.lock());
        let mut state = state.map_err(|source| self.0.unwritable(source))?;
        let now = (self.0.clock)();
        state.books.turn_to(Day::of(now));
        state.books.check(caller, model, worst, place)?;
        let (id, day) = (state.next, state.books.today());
        let out = Out { caller: caller.clone(), day, model: model.into(), worst };
        let ticket = state.lines.push(&Line::reserved(id, day.begin().max(now), &out));
        state.next += 1;
        state.books.reserved(id, out);
        drop(state);
        Ok((Reservation::new(Arc::clone(&self.0), id, worst), ticket))
    }

    /// Makes safe on disk what was written, and makes the file small when it has grown by much. To be
    /// called from time to time where waiting is allowed; without it a power cut may lose what was
    /// written last, and the file grows.
    ///
    /// # Errors
    ///
    /// Any I/O error. No money is lost from the books, and it is right to call again.
    pub fn sync(&self) -> io::Result<()> {
        let today = Day::of((self.0.clock)());
        let file = self.0.with_log(|state, log| {
            state.books.turn_to(today);
            if let Some(error) = state.lines.failure() {
                return Err(error);
            }
            if log.is_large() {
                state.make_small(log)?;
            }
            Ok(log.to_sync())
        })?;
        file.map_or(Ok(()), |file| file.sync_data())
    }
}

impl State {
    /// Books what a line says. Returns false when it can't be.
    fn replay(&mut self, line: Line) -> bool {
        match line {
            Line::Ledger { .. } => true,
            Line::Sum(line) => {
                self.books.book(line.into());
                true
            }
            Line::Reserved(line) => {
                let (id, out) = line.into_out();
                self.next = self.next.max(id.saturating_add(1));
                self.books.reserved(id, out)
            }
            Line::Settled { id, used, .. } => self.books.settled(id, &used),
            Line::Released { id } => self.books.released(id),
            Line::Lost { id } => self.books.lost(id),
        }
    }

    fn make_small(&mut self, log: &mut Log) -> io::Result<()> {
        let books = &mut self.books;
        books.forget_before(books.today().minus(KEPT_DAYS));
        let all = Filter::default();
        let sums = books.entries(&all).map(Line::sum);
        let out = books.out().map(|(id, out)| Line::reserved(id, out.day.begin(), out));
        log.rewrite(std::iter::once(Line::Ledger { version: VERSION }).chain(sums).chain(out))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state as of today.
    fn today(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.books.turn_to(Day::of((self.clock)()));
        state
    }

    fn unwritable(&self, source: io::Error) -> Refused {
        Refused::Unwritable { path: self.path.clone(), source }
    }

    /// Sees to the line by which the state has changed, if there is one, and tells whom it concerns.
    fn after(self: &Arc<Self>, mut state: MutexGuard<'_, State>, line: Option<Ticket>) {
        let (notices, waiting) = (state.books.take_notices(), state.books.anybody_waits());
        match line {
            Some(ticket) => self.write_soon(state, ticket),
            None => drop(state),
        }
        // Nobody listens where nobody cares.
        notices.into_iter().for_each(|notice| _ = self.notices.send(notice));
        if waiting {
            self.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A place in a queue, given up when dropped.
struct Queued<'a> {
    shared: &'a Arc<Shared>,
    place: Option<Place>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut state = self.shared.lock();
            state.books.unqueue(&place);
            self.shared.after(state, None);
        }
    }
}

/// Returns the beginning of a text, of at most so many bytes.
fn head(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Reads any bytes as a ledger's file.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(path: &Path, bytes: &[u8]) {
    log::read_any(path, bytes);
}

#[cfg(test)]
mod tests;
