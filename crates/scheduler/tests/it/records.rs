//! What the world itself knows of what was decided, to judge each further decision by.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::SECOND;
use protocol::{
    Attempt, Choice, Decider, Decision, DecisionId, DecisionKind, Event, FailureKind, HoldScope,
    OnDependencyFailure, ReplicaId, RunId, Status, Task, TaskId, TaskKind, Time,
};
use scheduler::{Budget, Command, Config, Input, Phase, Scheduler, TaskState};

/// What was recorded of a task.
#[derive(Default)]
struct Record {
    last: Option<Attempt>,
    live: Option<ReplicaId>,
    ended: bool,
    counted: u32,
    lost: u32,
    limited: u32,
    ooms: u32,
    disks: u32,
    rejected: BTreeSet<Attempt>,
    cancelled: bool,
    not_before: Time,
    dispatched: Time,
    /// A decision says that it has to fail.
    stopped: bool,
    /// When it has to be asked to stop.
    deadline: Option<Time>,
    /// When its replica has to be stopped.
    kill_at: Option<Time>,
    killed: bool,
    /// It answers a run of which work was reset while its live attempt was out.
    stale: bool,
}

/// Something that waits for a decision.
#[derive(Default)]
struct Held {
    decision: Option<DecisionId>,
    until: Option<Time>,
    stopped: BTreeSet<TaskId>,
}

pub(crate) struct Records {
    config: Config,
    holds: BTreeMap<(HoldScope, DecisionKind), Held>,
    let_go: BTreeMap<HoldScope, Time>,
    budgets: BTreeMap<HoldScope, (Budget, Option<Time>)>,
    last_decision: Option<DecisionId>,
    tasks: BTreeMap<TaskId, Record>,
    /// Replicas that were asked to stop and that nobody has said to be gone.
    leaving: BTreeSet<ReplicaId>,
    /// The replica that the input of this step says to be gone.
    gone: Option<ReplicaId>,
    /// Whether that replica took no attempt, nor would another of its worker.
    unfit: bool,
}

impl Records {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            holds: BTreeMap::new(),
            let_go: BTreeMap::new(),
            budgets: BTreeMap::new(),
            last_decision: None,
            tasks: BTreeMap::new(),
            leaving: BTreeSet::new(),
            gone: None,
            unfit: false,
        }
    }

    pub(crate) fn said(&mut self, input: &Input) {
        self.gone = None;
        if let Input::ReplicaGone { replica, pause, .. } = input {
            self.leaving.remove(replica);
            self.gone = Some(replica.clone());
            self.unfit = *pause;
        }
    }

    /// Orders to stop are not recorded, so they are given again.
    pub(crate) fn restarted(&mut self, scheduler: &Scheduler) {
        self.leaving.clear();
        self.gone = None;
        for (id, record) in &mut self.tasks {
            record.killed = false;
            let live = scheduler.task(id).and_then(|entry| entry.live());
            assert_eq!(live.map(|live| &live.replica), record.live.as_ref(), "{id:?}");
        }
    }

    pub(crate) fn happened(&mut self, now: Time, event: &Event, scheduler: &Scheduler) {
        match event {
            Event::TaskAdded { task, .. } => {
                let new = self.tasks.insert(task.id.clone(), Record::default()).is_none();
                assert!(new, "{:?} was added twice", task.id);
            }
            Event::PlanRejected { task, .. } => {
                let record = self.tasks.get_mut(task).unwrap();
                record.rejected.extend(record.last);
            }
            Event::AttemptDispatched { task, attempt, replica, .. } => {
                self.dispatched(now, task, *attempt, replica, scheduler);
            }
            Event::AttemptStarted { task, .. } => {
                let timeout = self.timeout(task, scheduler);
                let record = self.tasks.get_mut(task).unwrap();
                record.deadline = Some(now + timeout + self.config.timeout_margin);
            }
            Event::AttemptStopping { task, error, .. } => {
                let record = self.tasks.get_mut(task).unwrap();
                assert!(record.live.is_some());
                if error.kind == FailureKind::Timeout {
                    assert!(record.deadline.is_some_and(|at| at <= now), "too early for {task:?}");
                }
                record.deadline = None;
                record.kill_at = record.kill_at.or(Some(now + self.config.stop_grace));
            }
            Event::AttemptFailed { .. } => self.failed(now, event, scheduler),
            Event::TaskEnded { result, because, .. } => {
                self.holds
                    .retain(|(scope, _), _| *scope != HoldScope::Task(result.task_id.clone()));
                for held in self.holds.values_mut() {
                    held.stopped.remove(&result.task_id);
                }
                let record = self.tasks.get_mut(&result.task_id).unwrap();
                if std::mem::take(&mut record.stopped) {
                    assert_eq!(result.status, Status::Failed, "{:?} was stopped", result.task_id);
                }
                assert!(!record.ended, "{:?} ended twice", result.task_id);
                record.ended = true;
                if result.status == Status::Complete {
                    assert!(!record.stale, "{:?} has a gap", result.task_id);
                    assert!(record.live.is_some(), "nobody did {:?}", result.task_id);
                    assert!(!record.cancelled, "{:?} was cancelled", result.task_id);
                }
                assert_eq!(result.token, None);
                assert_eq!(because.is_empty(), result.status != Status::Skipped);
                if let Some(replica) =
                    record.release().filter(|replica| Some(replica) != self.gone.as_ref())
                {
                    self.leaving.insert(replica);
                }
            }
            Event::CancelRequested { task, run } => match task {
                Some(task) => self.tasks.get_mut(task).unwrap().cancelled = true,
                None => self.run_cancelled(*run, scheduler),
            },
            Event::TasksForgotten { run, tasks } => {
                assert_eq!(*run, RunId::Adhoc);
                let all = scheduler.runs().flat_map(|run| scheduler.run_tasks(&run.run));
                let needed: BTreeSet<_> = all.flat_map(|entry| &entry.task.dependencies).collect();
                for task in tasks {
                    assert!(self.tasks.remove(task).unwrap().ended, "{task:?} has not ended");
                    assert_eq!(scheduler.task(task), None);
                    assert!(!needed.contains(task), "something depends on {task:?}");
                    self.let_go.remove(&HoldScope::Task(task.clone()));
                    self.budgets.remove(&HoldScope::Task(task.clone()));
                }
            }
            Event::TaskReset { task } => {
                let record = self.tasks.get_mut(task).unwrap();
                assert!(record.ended && record.live.is_none());
                *record = Record { last: record.last, ..Record::default() };
                let task = &scheduler.task(task).unwrap().task;
                if task.kind == TaskKind::Work {
                    let mut all = scheduler.run_tasks(&task.run);
                    let answer = all.find(|entry| entry.task.kind == TaskKind::Synthesize);
                    if let Some(answer) =
                        answer.and_then(|entry| self.tasks.get_mut(&entry.task.id))
                    {
                        answer.stale = answer.live.is_some();
                    }
                }
            }
            Event::RunOpened { .. } | Event::PlanAccepted { .. } => {}
            Event::DecisionRaised { decision } => {
                let Decision { id, kind, scope, raised_at, until, .. } = decision;
                assert!(Some(*id) > self.last_decision, "{id} came before");
                self.last_decision = Some(*id);
                assert_eq!(*raised_at, now);
                let held = self.holds.get_mut(&(scope.clone(), *kind)).expect("nothing to ask");
                assert_eq!((held.decision, held.until), (None, *until));
                held.decision = Some(*id);
            }
            Event::DecisionMade { decision, choice, by } => {
                self.decided(now, *decision, *choice, *by, scheduler);
            }
            Event::RunEnded { run, .. } => {
                self.holds.retain(|(scope, _), _| *scope != HoldScope::Run(*run));
                for entry in scheduler.run_tasks(run) {
                    let record = self.tasks.get(&entry.task.id);
                    assert!(record.is_none_or(|record| record.ended), "{:?}", entry.task.id);
                }
            }
        }
    }

    fn run_cancelled(&mut self, run: RunId, scheduler: &Scheduler) {
        self.holds.retain(|(scope, _), _| *scope != HoldScope::Run(run));
        for entry in scheduler.run_tasks(&run) {
            let record = self.tasks.get_mut(&entry.task.id);
            // A torn write may have lost the tasks of this very step.
            if let Some(record) = record.filter(|record| !record.ended) {
                record.cancelled = true;
            }
        }
    }

    fn decided(
        &mut self,
        now: Time,
        decision: DecisionId,
        choice: Choice,
        by: Decider,
        scheduler: &Scheduler,
    ) {
        let open = self.holds.iter().find(|(_, held)| held.decision == Some(decision));
        let key = open.expect("it is not open").0.clone();
        let held = self.holds.remove(&key).unwrap();
        let (scope, kind) = key;
        match by {
            Decider::Person => {}
            Decider::Retry => assert_ne!(kind, DecisionKind::Budget),
            Decider::Restart => assert!(
                kind != DecisionKind::Budget
                    || !matches!(scope, HoldScope::Run(_))
                    || scheduler.budget(&scope) == Budget::default(),
                "what the journal bounds, a restart does not mend"
            ),
            Decider::Time => assert!(held.until.is_some_and(|until| until <= now)),
        }
        match (choice, scope) {
            (Choice::GoOn { budget_usd, budget_tokens }, scope) => {
                self.let_go.insert(scope.clone(), now);
                if budget_usd.is_some() || budget_tokens.is_some() {
                    let old = self.budgets.get(&scope);
                    let old = old.filter(|(_, until)| until.is_none_or(|until| until > now));
                    let old = old.map(|(budget, _)| *budget).unwrap_or_default();
                    let usd = budget_usd.or(old.usd);
                    let budget = Budget { usd, tokens: budget_tokens.or(old.tokens) };
                    self.budgets.insert(scope, (budget, held.until));
                }
            }
            (Choice::Stop, HoldScope::Run(run)) => self.run_cancelled(run, scheduler),
            (Choice::Stop, _) => {
                for task in &held.stopped {
                    self.tasks.get_mut(task).unwrap().stopped = true;
                }
            }
        }
    }

    /// Returns what holds the task back.
    fn hold_on<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = &'a HoldScope> {
        self.holds.keys().map(|(scope, _)| scope).filter(|scope| match scope {
            HoldScope::Task(id) => *id == task.id,
            HoldScope::Run(run) => *run == task.run,
            HoldScope::Worker(worker) => *worker == task.worker,
            HoldScope::All => true,
        })
    }

    fn timeout(&self, task: &TaskId, scheduler: &Scheduler) -> std::time::Duration {
        let task = &scheduler.task(task).unwrap().task;
        task.timeout.unwrap_or(self.config.workers[&task.worker].timeout)
    }

    fn dispatched(
        &mut self,
        now: Time,
        id: &TaskId,
        attempt: Attempt,
        replica: &ReplicaId,
        scheduler: &Scheduler,
    ) {
        let task = &scheduler.task(id).unwrap().task;
        for dependency in &task.dependencies {
            let entry = scheduler.task(dependency);
            let status = entry.and_then(|entry| entry.status());
            let met = match task.on_dependency_failure {
                OnDependencyFailure::Skip => status == Some(Status::Complete),
                OnDependencyFailure::Run => status.is_some(),
            };
            assert!(met, "{id:?} was dispatched, and {dependency:?} is {entry:?}");
        }
        assert_eq!(self.hold_on(task).next(), None, "{id:?} is held");
        for (other, record) in &self.tasks {
            assert_ne!(record.live.as_ref(), Some(replica), "{id:?} went to where {other:?} is");
        }
        assert!(!self.leaving.contains(replica), "{replica:?} is not gone yet");
        let record = self.tasks.get_mut(id).unwrap();
        assert!(!record.ended && record.live.is_none(), "a second attempt of {id:?}");
        assert!(!record.cancelled, "{id:?} was cancelled");
        assert!(Some(attempt) > record.last, "{attempt} of {id:?} came before");
        assert!(now >= record.not_before, "{id:?} had to wait");
        assert!(!record.stopped, "{id:?} was stopped");
        record.dispatched = now;
        record.last = Some(attempt);
        record.live = Some(replica.clone());
    }

    fn failed(&mut self, now: Time, event: &Event, scheduler: &Scheduler) {
        let Event::AttemptFailed { task: id, attempt, error, counted, retry_at, paused, .. } =
            event
        else {
            return;
        };
        let task = &scheduler.task(id).unwrap().task;
        let retries = task.retries.unwrap_or(self.config.workers[&task.worker].retries);
        let record = self.tasks.get_mut(id).unwrap();
        assert_eq!(record.last, Some(*attempt));
        let rejected = record.rejected.contains(attempt);
        record.counted += u32::from(*counted);
        if !paused {
            record.lost = if error.kind == FailureKind::WorkerLost { record.lost + 1 } else { 0 };
            record.limited = if error.kind.passes() { record.limited + 1 } else { 0 };
        }
        record.ooms += u32::from(error.kind == FailureKind::Oom);
        record.disks += u32::from(error.kind == FailureKind::Disk);
        use FailureKind::*;
        let (counts, again) = match error.kind {
            _ if self.unfit && record.live == self.gone && record.kill_at.is_none() => {
                (false, true)
            }
            Cancelled => (false, false),
            _ if *paused => (false, true),
            Auth | Billing | Budget => (false, true),
            RateLimited | Overloaded | Unreachable => (false, true),
            WorkerLost => (false, record.lost < self.config.max_lost),
            Oom => (true, record.counted <= retries && record.ooms == 1),
            Disk => (true, record.counted <= retries && record.disks == 1),
            BadOutput if rejected => (true, record.rejected.len() < 2),
            Refused | Invalid | Dependency => (true, false),
            _ => (true, record.counted <= retries),
        };
        let again = (again || record.stale) && !record.cancelled;
        assert_eq!(*counted, counts && !record.stale, "{event:?}");
        assert_eq!(retry_at.is_some(), again, "{event:?} of {retries} retries");
        if let Some(at) = retry_at {
            let failures = match error.kind {
                WorkerLost => record.lost + record.counted,
                RateLimited | Overloaded | Unreachable => record.limited,
                _ => record.counted,
            };
            let doubled = 1 << failures.saturating_sub(1).min(20);
            let bound = (self.config.backoff_base * doubled).min(self.config.backoff_max);
            // A limit that is lifted later is waited for, but no longer than makes sense.
            let lifted =
                error.retry_at.filter(|_| error.kind.passes() && !record.stale).unwrap_or(now);
            assert!(lifted <= now + 8 * 24 * 3600 * SECOND, "{event:?} at {now}");
            assert!(*at >= lifted.max(now) && *at <= lifted.max(now + bound), "{event:?} at {now}");
            record.not_before = *at;
            if let Some(kind) = DecisionKind::of(error.kind).filter(|_| !paused) {
                let scope = error.scope.clone().expect("it should say what it is about");
                let since = self.let_go.get(&scope);
                if since.is_none_or(|&since| record.dispatched >= since) {
                    let is_wide = matches!(scope, HoldScope::Worker(_) | HoldScope::All);
                    let until = error.retry_at.filter(|_| is_wide);
                    let new = Held { until, ..Held::default() };
                    let held = self.holds.entry((scope, kind)).or_insert(new);
                    held.stopped.insert(id.clone());
                }
            }
        }
        if let Some(replica) =
            record.release().filter(|replica| Some(replica) != self.gone.as_ref())
        {
            self.leaving.insert(replica);
        }
    }

    pub(crate) fn ordered(&mut self, now: Time, command: &Command, scheduler: &Scheduler) {
        match command {
            Command::StopReplica { replica } => {
                match self.tasks.values_mut().find(|record| record.live.as_ref() == Some(replica)) {
                    Some(record) => {
                        assert!(
                            record.kill_at.is_some_and(|at| at <= now),
                            "{replica:?}: too early"
                        );
                        assert!(!record.killed, "{replica:?} was asked to stop twice");
                        record.killed = true;
                    }
                    None => {
                        self.leaving.insert(replica.clone());
                    }
                }
            }
            Command::Publish { task } => assert!(self.tasks[task].ended, "{task:?}"),
            Command::Dispatch { task, attempt, replica } => {
                assert_eq!(scheduler.attempt_on(replica), Some((task, *attempt)));
            }
            Command::SetBudget { .. }
            | Command::WriteTaskFile { .. }
            | Command::Interrupt { .. }
            | Command::CloseRun { .. } => {}
            Command::Start { replica } => {
                assert_eq!(scheduler.attempt_on(replica), None, "{replica:?} serves already");
                assert!(!self.leaving.contains(replica), "{replica:?} is not gone yet");
            }
        }
    }

    /// Checks what must hold after each step.
    pub(crate) fn check(&self, now: Time, scheduler: &Scheduler) {
        let mut running = 0;
        let mut per_worker = BTreeMap::<_, u32>::new();
        for (id, record) in &self.tasks {
            let entry = scheduler.task(id).unwrap();
            assert_eq!(entry.status().is_some(), record.ended, "{id:?}");
            assert_eq!(entry.live().map(|live| &live.replica), record.live.as_ref(), "{id:?}");
            let wake = |at: Time| scheduler.next_wakeup().is_some_and(|wake| wake <= at);
            if let Some(at) = record.deadline {
                assert!(now < at, "{id:?} is past its deadline");
                assert!(wake(at), "nobody will stop {id:?}");
            }
            if let Some(at) = record.kill_at {
                assert_eq!(record.killed, now >= at, "{id:?} is to be stopped at {at}");
                assert!(record.killed || wake(at), "nobody will stop {id:?}");
            }
            if let TaskState::Backoff { until } = entry.state {
                assert_eq!(until, record.not_before);
                assert!(now < until && wake(until), "nobody will start {id:?}");
            }
            if let Some(live) = entry.live() {
                running += 1;
                *per_worker.entry(entry.task.worker.clone()).or_default() += 1;
                assert_eq!(scheduler.attempt_on(&live.replica), Some((id, live.attempt)));
                assert!(
                    !record.cancelled || matches!(live.phase, Phase::Stopping { .. }),
                    "{id:?}"
                );
            }
            assert!(!record.stopped, "{id:?} should have failed");
            let holds: Vec<_> = self.hold_on(&entry.task).collect();
            match scheduler.held_by(entry) {
                Some(hold) => assert!(holds.contains(&&hold.scope), "{id:?}: {hold:?}"),
                None => assert_eq!(holds, [&HoldScope::All; 0], "{id:?}"),
            }
            let idle = matches!(entry.state, TaskState::Waiting);
            assert_eq!(!scheduler.waiting_for(id).is_empty(), idle, "{id:?}: {entry:?}");
        }
        assert_eq!(scheduler.running(), running);
        assert!(running <= self.config.max_running, "{running} at once");
        assert!(scheduler.next_wakeup().is_none_or(|at| at > now), "it wakes for nothing");

        for (worker, limits) in &self.config.workers {
            let live = per_worker.get(worker).copied().unwrap_or_default();
            assert!(live <= limits.replicas, "{live} of {worker:?}");
            let of_worker = |replica: &&ReplicaId| {
                replica.as_str().rsplit_once('-').is_some_and(|(name, _)| name == worker.as_str())
            };
            let leaving = u32::try_from(self.leaving.iter().filter(of_worker).count()).unwrap();
            let room = running < self.config.max_running
                && live + leaving < limits.replicas
                && scheduler.paused().all(|(paused, _)| paused != worker);
            for id in self.tasks.keys().filter(|_| room) {
                let entry = scheduler.task(id).unwrap();
                let idles = entry.task.worker == *worker && entry.state == TaskState::Ready;
                let is_held = self.hold_on(&entry.task).next().is_some();
                assert!(!idles || is_held, "there is room for {id:?}");
            }
        }
        let ids: BTreeSet<_> = self.holds.values().map(|held| held.decision).collect();
        let open: BTreeSet<_> = scheduler.decisions().map(|decision| Some(decision.id)).collect();
        assert_eq!(ids, open, "each hold has its question");
        for (id, held) in self.holds.values().filter_map(|held| Some((held.decision?, held))) {
            let stopped: BTreeSet<_> =
                scheduler.stopped_by(id).map(|entry| entry.task.id.clone()).collect();
            assert_eq!(stopped, held.stopped, "{id}");
            if let Some(until) = held.until {
                assert!(until > now && scheduler.next_wakeup().is_some_and(|at| at <= until));
            }
        }
        for (scope, (budget, until)) in &self.budgets {
            if until.is_none_or(|until| until > now) {
                assert_eq!(scheduler.budget(scope), *budget, "{scope:?}");
            }
        }
        for run in scheduler.runs() {
            let answers = scheduler.run_tasks(&run.run);
            assert!(answers.filter(|entry| entry.task.kind == TaskKind::Synthesize).count() <= 1);
        }
    }
}

impl Record {
    /// Notes that the live attempt is over. Returns its replica if that has yet to be gone.
    fn release(&mut self) -> Option<ReplicaId> {
        self.deadline = None;
        self.kill_at = None;
        self.stale = false;
        let replica = self.live.take();
        replica.filter(|_| std::mem::take(&mut self.killed))
    }
}
