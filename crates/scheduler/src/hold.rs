//! Holds: scopes to which nothing is dispatched until somebody decides, or time does.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    Choice, Decider, Decision, DecisionId, DecisionKind, Event, HoldScope, RunId, TaskError, Time,
};

use crate::graph::TaskIx;
use crate::run::Run;
use crate::scheduler::Turn;
use crate::{Command, Refusal, Scheduler, TaskEntry, TaskState, work};

/// The longest message of a failure that is put into a question, in bytes. It may be an agent's.
const LONGEST_REASON: usize = 500;

/// A scope to which nothing is dispatched, since an attempt in it failed in a way that only a
/// person can mend.
#[derive(Clone, Debug)]
pub struct Hold {
    /// What is held.
    pub scope: HoldScope,
    /// What kind of failure it was.
    pub kind: DecisionKind,
    /// The failure.
    pub error: TaskError,
    /// The question. Absent only until the end of the step that began the hold.
    pub decision: Option<Decision>,
    /// When it ends by itself.
    pub(crate) until: Option<Time>,
    /// The tasks of which an attempt failed so. None of them is out.
    pub(crate) stopped: BTreeSet<TaskIx>,
}

/// Which tasks it stopped is not compared: they are known by their places in one scheduler. See
/// [`Scheduler::stopped_by`].
impl PartialEq for Hold {
    fn eq(&self, other: &Self) -> bool {
        let Self { scope, kind, error, decision, until, stopped: _ } = self;
        (scope, kind, error, decision, until)
            == (&other.scope, &other.kind, &other.error, &other.decision, &other.until)
    }
}

/// What a scope may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// US dollars.
    pub usd: Option<f64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

/// A budget that somebody decided on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decided {
    budget: Budget,
    /// When it is over: that of a day ends with the day.
    until: Option<Time>,
}

/// The holds, and what was decided.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    /// Never an empty map within.
    by_scope: BTreeMap<HoldScope, BTreeMap<DecisionKind, Hold>>,
    /// The questions that are open.
    open: BTreeMap<DecisionId, (HoldScope, DecisionKind)>,
    /// What every question was about that ever came up.
    scopes: BTreeMap<DecisionId, HoldScope>,
    /// Holds without a question.
    unasked: BTreeSet<(HoldScope, DecisionKind)>,
    budgets: BTreeMap<HoldScope, Decided>,
    /// When a hold of the scope was let go last.
    let_go: BTreeMap<HoldScope, Time>,
    /// When to look at a scope again. What there is to do is decided then.
    alarms: BTreeSet<(Time, HoldScope)>,
}

impl Holds {
    pub(crate) fn is_held(&self, scope: &HoldScope) -> bool {
        work::count();
        self.by_scope.contains_key(scope)
    }

    /// Forgets what was decided about a scope that is no more, and that nothing holds.
    pub(crate) fn forget(&mut self, scope: &HoldScope) {
        self.budgets.remove(scope);
        self.let_go.remove(scope);
    }

    pub(crate) fn next_alarm(&self) -> Option<Time> {
        self.alarms.first().map(|&(at, _)| at)
    }

    fn get(&self, scope: &HoldScope, kind: DecisionKind) -> Option<&Hold> {
        self.by_scope.get(scope)?.get(&kind)
    }

    fn get_mut(&mut self, scope: &HoldScope, kind: DecisionKind) -> Option<&mut Hold> {
        self.by_scope.get_mut(scope)?.get_mut(&kind)
    }

    /// Adds a hold. Returns whether it is the first of its scope.
    fn insert(&mut self, hold: Hold) -> bool {
        if let Some(until) = hold.until {
            self.alarms.insert((until, hold.scope.clone()));
        }
        match &hold.decision {
            Some(decision) => {
                self.open.insert(decision.id, (hold.scope.clone(), hold.kind));
            }
            None => {
                self.unasked.insert((hold.scope.clone(), hold.kind));
            }
        }
        let holds = self.by_scope.entry(hold.scope.clone()).or_default();
        holds.insert(hold.kind, hold);
        holds.len() == 1
    }

    /// Takes a hold out, with its question. Returns it, and whether it was the last of its scope.
    fn remove(&mut self, scope: &HoldScope, kind: DecisionKind) -> Option<(Hold, bool)> {
        let holds = self.by_scope.get_mut(scope)?;
        let hold = holds.remove(&kind)?;
        let last = holds.is_empty();
        if last {
            self.by_scope.remove(scope);
        }
        self.unasked.remove(&(scope.clone(), kind));
        if let Some(decision) = &hold.decision {
            self.open.remove(&decision.id);
        }
        Some((hold, last))
    }
}

/// Returns what a failure of a task's attempt is about. A scope that the task is not in counts for
/// nothing: a report may say anything.
pub(crate) fn scope_of(entry: &TaskEntry, kind: DecisionKind, error: &TaskError) -> HoldScope {
    let task = &entry.task;
    let fits = |scope: &&HoldScope| match scope {
        HoldScope::Task(id) => *id == task.id,
        HoldScope::Run(run) => *run == task.run,
        HoldScope::Worker(worker) => *worker == task.worker,
        HoldScope::All => true,
    };
    error.scope.as_ref().filter(fits).cloned().unwrap_or_else(|| match kind {
        DecisionKind::Budget => HoldScope::Task(task.id.clone()),
        DecisionKind::Auth | DecisionKind::Billing => HoldScope::Worker(task.worker.clone()),
    })
}

impl Scheduler {
    // ---- The fold ----

    /// Holds back what an attempt's failure is about, if it is one that only a person can mend. The
    /// attempt had been dispatched at `dispatched`.
    pub(crate) fn hold_back(&mut self, at: Time, ix: TaskIx, dispatched: Time, error: &TaskError) {
        let Some(kind) = DecisionKind::of(error.kind) else {
            return;
        };
        let scope = scope_of(&self.graph[ix].entry, kind, error);
        // It was refused what somebody has granted since.
        if self.holds.let_go.get(&scope).is_some_and(|&then| dispatched < then) {
            return;
        }
        if self.holds.get(&scope, kind).is_none() {
            let ends = matches!(scope, HoldScope::Worker(_) | HoldScope::All);
            let until = error.retry_at.filter(|_| ends);
            let (error, stopped) = (error.clone(), BTreeSet::new());
            let scope = scope.clone();
            self.begin_hold(at, Hold { scope, kind, error, decision: None, until, stopped });
        }
        if let Some(hold) = self.holds.get_mut(&scope, kind) {
            hold.stopped.insert(ix);
            self.graph[ix].stopped_by = Some((scope, kind));
        }
    }

    pub(crate) fn apply_decision_raised(&mut self, at: Time, decision: &Decision) {
        let Decision { id, kind, scope, .. } = decision;
        if self.holds.scopes.insert(*id, scope.clone()).is_some() {
            return;
        }
        if let Some(hold) = self.holds.get_mut(scope, *kind) {
            if hold.decision.is_none() {
                hold.decision = Some(decision.clone());
                self.holds.unasked.remove(&(scope.clone(), *kind));
                self.holds.open.insert(*id, (scope.clone(), *kind));
            }
            return;
        }
        // The failure is in another journal, and was lost. It will be found again.
        let is_over = match scope {
            HoldScope::Task(task) => {
                let ix = self.graph.find(task);
                ix.is_none_or(|ix| self.graph[ix].entry.status().is_some())
            }
            HoldScope::Run(run) => {
                let ix = self.run_index.get(run);
                ix.is_none_or(|&ix| {
                    self.runs[ix].ended.is_some() || self.runs[ix].entry.cancel_requested
                })
            }
            HoldScope::Worker(_) | HoldScope::All => false,
        };
        if !is_over {
            let error = TaskError::new(kind.failure(), decision.question.clone());
            let (scope, kind, until) = (scope.clone(), *kind, decision.until);
            let (decision, stopped) = (Some(decision.clone()), BTreeSet::new());
            self.begin_hold(at, Hold { scope, kind, error, decision, until, stopped });
        }
    }

    pub(crate) fn apply_decision_made(&mut self, at: Time, decision: DecisionId, choice: Choice) {
        let Some((scope, kind)) = self.holds.open.get(&decision).cloned() else {
            return;
        };
        let Some(hold) = self.end_hold(at, &scope, kind) else {
            return;
        };
        match choice {
            Choice::GoOn { budget_usd, budget_tokens } => {
                self.holds.let_go.insert(scope.clone(), at);
                if budget_usd.is_some() || budget_tokens.is_some() {
                    let old = self.holds.budgets.get(&scope).filter(|old| !old.is_over(at));
                    let old = old.map(|old| old.budget).unwrap_or_default();
                    let budget = Budget {
                        usd: budget_usd.or(old.usd),
                        tokens: budget_tokens.or(old.tokens),
                    };
                    let until = hold.until;
                    if let Some(until) = until {
                        self.holds.alarms.insert((until, scope.clone()));
                    }
                    self.holds.budgets.insert(scope, Decided { budget, until });
                }
            }
            Choice::Stop => match scope {
                HoldScope::Run(run) => {
                    let why = &hold.error.message;
                    let reason = format!("the run was stopped by decision {decision}: {why}");
                    self.apply_cancel(at, run, None, Some(reason.into()));
                }
                HoldScope::Task(_) | HoldScope::Worker(_) | HoldScope::All => {
                    for ix in hold.stopped {
                        work::count();
                        self.todo.given_up.insert(ix);
                        self.place(at, ix);
                    }
                }
            },
        }
    }

    /// Ends the holds of something that is over, with their questions.
    pub(crate) fn drop_holds(&mut self, at: Time, scope: &HoldScope) {
        let kinds = self.holds.by_scope.get(scope).map(|holds| holds.keys().copied());
        let kinds: Vec<_> = kinds.into_iter().flatten().collect();
        for kind in kinds {
            self.end_hold(at, scope, kind);
        }
    }

    /// Notes that the task is no longer one that a hold stopped: it is out, or over.
    pub(crate) fn forget_stop(&mut self, ix: TaskIx) {
        if let Some((scope, kind)) = self.graph[ix].stopped_by.take()
            && let Some(hold) = self.holds.get_mut(&scope, kind)
        {
            hold.stopped.remove(&ix);
        }
    }

    fn begin_hold(&mut self, at: Time, hold: Hold) {
        let scope = hold.scope.clone();
        if self.holds.insert(hold) {
            self.mark(at, &scope, true);
        }
    }

    fn end_hold(&mut self, at: Time, scope: &HoldScope, kind: DecisionKind) -> Option<Hold> {
        let (hold, last) = self.holds.remove(scope, kind)?;
        for &ix in &hold.stopped {
            work::count();
            self.graph[ix].stopped_by = None;
        }
        if last {
            self.mark(at, scope, false);
        }
        Some(hold)
    }

    /// Takes what a scope holds out of the queues, or puts it back. In time O(workers), whatever is
    /// in the queues.
    fn mark(&mut self, at: Time, scope: &HoldScope, held: bool) {
        match scope {
            HoldScope::All => {}
            HoldScope::Worker(worker) => {
                let ix = self.workers.intern(worker);
                self.workers.get_mut(ix).held = held;
            }
            HoldScope::Run(run) => {
                if let Some(&ix) = self.run_index.get(run) {
                    self.runs[ix].held = held;
                    self.workers.hold_run(ix, held);
                }
            }
            HoldScope::Task(task) => {
                let Some(ix) = self.graph.find(task) else {
                    return;
                };
                let is_ready = self.graph[ix].entry.state == TaskState::Ready;
                if is_ready && held {
                    self.leave(ix);
                }
                self.graph[ix].held = held;
                if is_ready && !held {
                    self.enqueue(at, ix);
                }
            }
        }
    }

    // ---- The rules ----

    /// Asks about each hold that has no question yet.
    pub(crate) fn raise_questions(&mut self, turn: &mut Turn<'_>) {
        while let Some((scope, kind)) = self.holds.unasked.pop_first() {
            work::count();
            let Some(hold) = self.holds.get(&scope, kind) else {
                continue;
            };
            let last = self.holds.scopes.last_key_value();
            let decision = Decision {
                id: last.map_or(DecisionId::FIRST, |(id, _)| id.next()),
                kind,
                question: self.question(hold),
                raised_at: turn.now,
                until: hold.until,
                scope,
            };
            self.record(turn, Event::DecisionRaised { decision });
        }
    }

    fn question(&self, hold: &Hold) -> String {
        let scope = match &hold.scope {
            HoldScope::Task(task) => format!("task {task}"),
            HoldScope::Run(run) => {
                let run = self.run_index.get(run).map(|&ix| &self.runs[ix].entry.short);
                run.map_or("the run".to_owned(), |short| format!("run {short}"))
            }
            HoldScope::Worker(worker) => format!("worker {worker}"),
            HoldScope::All => "the whole installation".to_owned(),
        };
        let message = hold.error.message.trim().trim_end_matches('.');
        let message = match message.char_indices().find(|&(at, _)| at >= LONGEST_REASON) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message.to_owned(),
        };
        match hold.kind {
            DecisionKind::Budget => {
                let (first, rest) = scope.split_at(1);
                let scope = format!("{}{rest}", first.to_uppercase());
                format!(
                    "{scope} may spend no more: {message}. Raise the budget and go on, or stop?"
                )
            }
            DecisionKind::Auth => format!(
                "The credential of {scope} is refused: {message}. Mend it and go on, or stop?"
            ),
            DecisionKind::Billing => format!(
                "The account of {scope} has no credit: {message}. Add credit and go on, or stop?"
            ),
        }
    }

    /// Does what is due by now: holds end, and so do budgets that somebody gave to a day.
    pub(crate) fn fire_alarms(&mut self, turn: &mut Turn<'_>) {
        while let Some((at, scope)) = self.holds.alarms.first().cloned()
            && at <= turn.now
        {
            work::count();
            self.holds.alarms.pop_first();
            let is_due =
                |hold: &Hold| hold.scope == scope && hold.until.is_some_and(|until| until <= at);
            self.let_go(turn, Decider::Time, is_due);
            if self.holds.budgets.get(&scope).is_some_and(|decided| decided.is_over(turn.now)) {
                turn.command(Command::SetBudget { scope });
            }
        }
    }

    /// Lets the holds go that a start of the daemon mends, perhaps: keys and configuration were read
    /// anew. Where that was not enough, it comes up again.
    pub(crate) fn let_go_at_start(&mut self, turn: &mut Turn<'_>) {
        self.raise_questions(turn);
        let bound_in_journal = |scope: &HoldScope| match scope {
            HoldScope::Worker(_) | HoldScope::All => false,
            HoldScope::Run(_) | HoldScope::Task(_) => self.budget(scope) != Budget::default(),
        };
        let kept: BTreeSet<_> = self
            .holds
            .open
            .iter()
            .filter(|(_, (scope, kind))| *kind == DecisionKind::Budget && bound_in_journal(scope))
            .map(|(id, _)| *id)
            .collect();
        let is_kept = |hold: &Hold| hold.decision.as_ref().is_some_and(|d| kept.contains(&d.id));
        self.let_go(turn, Decider::Restart, |hold| !is_kept(hold));
    }

    /// Lets holds go. Returns whether there were any.
    pub(crate) fn let_go(
        &mut self,
        turn: &mut Turn<'_>,
        by: Decider,
        which: impl Fn(&Hold) -> bool,
    ) -> bool {
        let holds =
            self.holds.open.values().filter_map(|(scope, kind)| self.holds.get(scope, *kind));
        let due = holds.filter(|hold| which(hold)).filter_map(|hold| hold.decision.as_ref());
        let due: Vec<_> = due.map(|decision| decision.id).collect();
        let choice = Choice::GoOn { budget_usd: None, budget_tokens: None };
        for &decision in &due {
            self.record(turn, Event::DecisionMade { decision, choice, by });
        }
        !due.is_empty()
    }

    /// Takes in somebody's answer.
    pub(crate) fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        decision: DecisionId,
        choice: Choice,
    ) -> Result<(), Refusal> {
        if !self.holds.open.contains_key(&decision) {
            return Err(match self.holds.scopes.contains_key(&decision) {
                true => Refusal::AlreadyDecided(decision),
                false => Refusal::UnknownDecision(decision),
            });
        }
        self.record(turn, Event::DecisionMade { decision, choice, by: Decider::Person });
        Ok(())
    }

    /// Tells of the budgets that the journals hold, and of each open run: for one that names none, the configuration may.
    pub(crate) fn tell_budgets(&self, turn: &mut Turn<'_>) {
        let open = |run: &&Run| run.ended.is_none() && run.entry.run != RunId::Adhoc;
        for run in self.runs.iter().filter(open) {
            turn.command(Command::SetBudget { scope: HoldScope::Run(run.entry.run) });
        }
        for (scope, decided) in &self.holds.budgets {
            let is_told = match scope {
                HoldScope::Run(_) => true,
                HoldScope::Task(task) => {
                    self.task(task).is_none_or(|entry| entry.status().is_some())
                }
                HoldScope::Worker(_) | HoldScope::All => decided.is_over(self.now),
            };
            if !is_told {
                turn.command(Command::SetBudget { scope: scope.clone() });
            }
        }
    }

    // ---- What it can be asked ----

    /// Returns the questions that are open, in the order in which they came up.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        let holds =
            self.holds.open.values().filter_map(|(scope, kind)| self.holds.get(scope, *kind));
        holds.filter_map(|hold| hold.decision.as_ref())
    }

    /// Returns the hold that waits for a decision; `None` when that is not open.
    pub fn hold(&self, decision: DecisionId) -> Option<&Hold> {
        let (scope, kind) = self.holds.open.get(&decision)?;
        self.holds.get(scope, *kind)
    }

    /// Returns the tasks that were stopped by what a decision is about and that have not ended, in
    /// order of addition.
    pub fn stopped_by(&self, decision: DecisionId) -> impl Iterator<Item = &TaskEntry> {
        let tasks = self.hold(decision).map(|hold| hold.stopped.iter());
        tasks.into_iter().flatten().map(|&ix| &self.graph[ix].entry)
    }

    /// Returns why a task is not dispatched, if something holds it: the widest hold first.
    pub fn held_by(&self, task: &TaskEntry) -> Option<&Hold> {
        let task = &task.task;
        let scopes = [
            HoldScope::All,
            HoldScope::Worker(task.worker.clone()),
            HoldScope::Run(task.run),
            HoldScope::Task(task.id.clone()),
        ];
        let holds = scopes.iter().find_map(|scope| self.holds.by_scope.get(scope))?;
        holds.values().next()
    }

    /// Returns what a decision is or was about, whether it is open or not.
    pub fn scope(&self, decision: DecisionId) -> Option<&HoldScope> {
        self.holds.scopes.get(&decision)
    }

    /// Returns what a scope may spend by its journal: what somebody decided last, else what the task
    /// or the run was given. Where that says nothing, the configuration holds.
    pub fn budget(&self, scope: &HoldScope) -> Budget {
        let own = match scope {
            HoldScope::Task(id) => self.task(id).map(|entry| Budget {
                usd: entry.task.budget_usd,
                tokens: entry.task.budget_tokens,
            }),
            HoldScope::Run(id) => {
                self.run(id).map(|run| Budget { usd: run.budget_usd, tokens: run.budget_tokens })
            }
            HoldScope::Worker(_) | HoldScope::All => None,
        };
        let own = own.unwrap_or_default();
        let decided = self.holds.budgets.get(scope).filter(|decided| !decided.is_over(self.now));
        let decided = decided.map(|decided| decided.budget).unwrap_or_default();
        Budget { usd: decided.usd.or(own.usd), tokens: decided.tokens.or(own.tokens) }
    }

    /// Returns the budgets that somebody decided on and that hold now.
    pub fn budgets(&self) -> impl Iterator<Item = (&HoldScope, Budget)> {
        let now = self.now;
        let decided = self.holds.budgets.iter().filter(move |(_, decided)| !decided.is_over(now));
        decided.map(|(scope, _)| (scope, self.budget(scope)))
    }
}

impl Decided {
    fn is_over(&self, now: Time) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}
