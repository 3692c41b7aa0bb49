//! The pace as tasks use it: waiting, and a turn that gives back what it holds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use protocol::{Time, WorkerId};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    allowance::Cost,
    config::PaceConfig,
    core::{Asked, Core, End, HeldUntil, Outcome, Verdict},
    queue::Id,
    told::Told,
    words::{Blocked, Held, LimitStatus, Next, PaceStatus, Scope, WaitReason, Waits, Want},
};
use crate::tokens::Tokens;

/// Lets requests go to the model's API when all limits allow it, in order.
///
/// One for all accounts. Cloning it is cheap and gives the same one.
///
/// When nothing holds a request back its turn costs a microsecond or two and no task, timer or wait.
/// While requests wait, one task of its own looks after the time.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Rings when the task that looks after the time has to look again.
    bell: Notify,
    /// Whether there is such a task. Not behind the lock: a runtime that ends drops tasks when it
    /// likes, also while they are being spawned.
    driven: AtomicBool,
    /// What the wall's clock showed, and when.
    wall: (Time, Instant),
}

#[derive(Debug)]
struct State {
    core: Core,
    waiters: HashMap<Id, oneshot::Sender<Outcome>, RandomState>,
    /// When the task that looks after the time looks again by itself.
    looks_at: Option<Instant>,
}

impl Pace {
    /// Returns a pace that has seen nothing yet.
    pub fn new(config: PaceConfig) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Time::ZERO + since;
        // The low digits of the time differ between gateways, and that is all that is needed.
        Self::at(config, wall, since.subsec_nanos().into())
    }

    /// Returns a pace for which it is `wall` now, and whose jitter follows from `seed`.
    pub fn at(config: PaceConfig, wall: Time, seed: u64) -> Self {
        let now = Instant::now();
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                core: Core::new(config, seed, now),
                waiters: HashMap::default(),
                looks_at: None,
            }),
            bell: Notify::new(),
            driven: AtomicBool::new(false),
            wall: (wall, now),
        }))
    }

    /// Waits until the request may go.
    ///
    /// A request takes its turn only when the limits of its worker, its model and its account all
    /// allow it. Whoever is first in order goes first: by priority, within a priority by `since`, and
    /// whoever has waited a minute longer than one of the next higher priority goes before it. One
    /// that only its own worker's or its own model's limit holds back holds up no other.
    ///
    /// # Errors
    ///
    /// [`Held`], at once, when it is known that the wait would end after `want.give_up`; otherwise when
    /// that time has come.
    ///
    /// # Cancel safety
    ///
    /// To drop the future is to leave the queue; nothing is taken then.
    /// It has to be polled in a tokio runtime with a clock.
    pub async fn turn(&self, mut want: Want) -> Result<Turn, Held> {
        let inner = &self.0;
        let (id, outcome) = {
            let mut state = inner.lock();
            let asked = state.core.ask(Instant::now(), &want);
            inner.flush(&mut state);
            match asked {
                Asked::Go(id) => return Ok(Turn::new(inner, id, want)),
                Asked::Held(held) => return Err(inner.held(&want, held)),
                Asked::Wait(id) => {
                    let (sender, outcome) = oneshot::channel();
                    state.waiters.insert(id, sender);
                    (id, outcome)
                }
            }
        };
        let mut place = InQueue { inner, id, left: false };
        let outcome = outcome.await.unwrap_or_else(|_| panic!("BUG: a waiter was forgotten"));
        place.left = true;
        match outcome {
            Outcome::Go(waits) => {
                want.waited.add_all(&waits);
                Ok(Turn::new(inner, id, want))
            }
            Outcome::Held(held, waits) => {
                want.waited.add_all(&waits);
                Err(inner.held(&want, held))
            }
        }
    }

    /// Returns how things stand, for each model of each account that was used.
    pub fn status(&self) -> Vec<PaceStatus> {
        let lanes = self.0.lock().core.status(Instant::now());
        let mut all: Vec<_> = lanes
            .into_iter()
            .map(|lane| PaceStatus {
                account: lane.account,
                model: lane.model,
                limits: lane.limits,
                in_flight: lane.in_flight,
                window: lane.window,
                waiting: lane.waiting,
                blocked: lane.block.map(|block| Blocked {
                    reason: block.reason,
                    scope: block.scope,
                    until: block.until.map(|until| self.0.time(until)),
                }),
            })
            .collect();
        all.sort_by(|a, b| (&a.account, &a.model).cmp(&(&b.account, &b.model)));
        all
    }
}

impl Pace {
    /// Returns the limits of the workers that have some of their own, by worker.
    pub fn worker_limits(&self) -> Vec<(WorkerId, Vec<LimitStatus>)> {
        let mut all = self.0.lock().core.worker_limits(Instant::now());
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked: others must not be stopped by it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the wall's clock shows then.
    fn time(&self, at: Instant) -> Time {
        self.wall.0 + at.saturating_duration_since(self.wall.1)
    }

    /// Tells those who waited what became of them, and sees to it that the time is looked after.
    fn flush(self: &Arc<Self>, state: &mut State) {
        for (id, outcome) in state.core.take_outcomes() {
            if let Some(waiter) = state.waiters.remove(&id) {
                // One that has gone away gives its turn back by itself.
                let _ = waiter.send(outcome);
            }
        }
        if state.core.waiting() == 0 {
            return;
        }
        if self.driven.load(Ordering::Acquire) {
            let next = state.core.next_wake();
            if next.is_some_and(|next| state.looks_at.is_none_or(|at| next < at)) {
                self.bell.notify_one();
            }
        } else if let Ok(runtime) = Handle::try_current() {
            // Without one, who waits is not polled either.
            self.driven.store(true, Ordering::Release);
            runtime.spawn(drive(Driving { inner: Arc::clone(self), gone: false }));
        }
    }

    fn held(&self, want: &Want, held: HeldUntil) -> Held {
        let HeldUntil { reason, scope, until } = held;
        let until = until.map(|until| self.time(until));
        let what = match (reason, scope) {
            (WaitReason::RateLimited, _) => "the API lets no more requests through".to_owned(),
            (WaitReason::Overloaded, _) => "the API is overloaded".to_owned(),
            (WaitReason::Unreachable, _) => "the API can't be reached".to_owned(),
            (_, Scope::Account) => {
                format!("account `{}` is at its limit of {reason}", want.account)
            }
            (_, Scope::Model) => format!("model `{}` is at its limit of {reason}", want.model),
            (_, Scope::Worker) => format!("worker `{}` is at its limit of {reason}", want.worker),
        };
        let message = match until {
            Some(until) => format!("{what} until {until}"),
            None => what,
        };
        Held { reason, until, waited: want.waited, message }
    }
}

/// A request in the queue. Leaves it when dropped.
struct InQueue<'a> {
    inner: &'a Arc<Inner>,
    id: Id,
    left: bool,
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        if !self.left {
            let mut state = self.inner.lock();
            state.waiters.remove(&self.id);
            state.core.leave(Instant::now(), self.id);
            self.inner.flush(&mut state);
        }
    }
}

/// The task that looks after the time; another can follow it when it is gone, however it went.
struct Driving {
    inner: Arc<Inner>,
    /// It has said so itself.
    gone: bool,
}

impl Drop for Driving {
    fn drop(&mut self) {
        if !self.gone {
            self.inner.driven.store(false, Ordering::Release);
        }
    }
}

async fn drive(mut driving: Driving) {
    let inner = Arc::clone(&driving.inner);
    loop {
        let next = {
            let mut state = inner.lock();
            state.core.tick(Instant::now());
            let next = state.core.next_wake();
            state.looks_at = next;
            inner.flush(&mut state);
            if state.core.waiting() == 0 {
                // Under the lock, so that whoever waits next starts another.
                inner.driven.store(false, Ordering::Release);
                driving.gone = true;
                return;
            }
            next
        };
        match next {
            Some(next) => tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = inner.bell.notified() => {}
            },
            None => inner.bell.notified().await,
        }
    }
}

/// A request that may go, is on its way, or is being answered.
///
/// Dropped without a word it counts as what it was estimated to be, and makes room for another.
#[derive(Debug)]
#[must_use = "a turn that is dropped counts as a request that was sent"]
pub struct Turn {
    inner: Arc<Inner>,
    id: Id,
    want: Want,
    ended: bool,
}

impl Turn {
    fn new(inner: &Arc<Inner>, id: Id, want: Want) -> Self {
        Self { inner: Arc::clone(inner), id, want, ended: false }
    }

    /// Returns what it has waited for, and how long: what was in [`Want::waited`], and in the queue.
    pub fn waited(&self) -> &Waits {
        &self.want.waited
    }

    /// Takes over what the head of the API's answer says, and says what to do with the answer.
    ///
    /// To be called once, with any answer, whatever its status. After [`Next::Again`] the turn is
    /// over: nothing was charged, and its room is another's.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) -> Next {
        let line =
            |(name, value)| (HeaderName::as_str(name).as_bytes(), HeaderValue::as_bytes(value));
        let lines: Vec<_> = headers.iter().map(line).collect();
        self.heard(status, lines.into_iter())
    }

    /// Does the same with headers that are in no map. Their names are in lower case.
    pub(crate) fn heard<'a>(
        &mut self,
        status: StatusCode,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Next {
        let now = Instant::now();
        let told = Told::read(headers, self.inner.time(now));
        let mut state = self.inner.lock();
        let verdict = state.core.answered(now, self.id, status.as_u16(), &told);
        self.inner.flush(&mut state);
        match verdict {
            Verdict::Deliver => Next::Deliver,
            Verdict::Again { input } => {
                self.ended = true;
                Next::Again(Box::new(Want { input, ..self.want.clone() }))
            }
        }
    }

    /// No connection to the API could be made. The turn is over; what is returned asks for another: the same request
    /// in the same place.
    pub fn unreached(mut self) -> Want {
        self.ended = true;
        let mut state = self.inner.lock();
        state.core.unreached(Instant::now(), self.id);
        self.inner.flush(&mut state);
        drop(state);
        self.want.clone()
    }

    /// The API broke the answer off with `overloaded_error`. The turn goes on until it is settled.
    pub fn overloaded(&mut self) {
        let mut state = self.inner.lock();
        state.core.overloaded(Instant::now(), self.id);
        self.inner.flush(&mut state);
    }

    /// The answer has ended, and cost so many tokens.
    pub fn settle(self, tokens: &Tokens) {
        let read = tokens.read().saturating_sub(tokens.cache_read);
        self.end(End::Spent(Cost { input: read as f64, output: tokens.output as f64 }));
    }

    /// The request was not sent after all: nothing is charged.
    pub fn release(self) {
        self.end(End::Unsent);
    }

    /// Does the same, and returns what was wanted, for another turn later. It keeps its place among those who wait:
    /// that goes by when it came.
    pub(crate) fn give_back(self) -> Want {
        let want = self.want.clone();
        self.release();
        want
    }

    fn end(mut self, end: End) {
        self.end_once(end);
    }

    fn end_once(&mut self, end: End) {
        if !std::mem::replace(&mut self.ended, true) {
            let mut state = self.inner.lock();
            state.core.end(Instant::now(), self.id, end);
            self.inner.flush(&mut state);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end_once(End::Unknown);
    }
}
