//! The world outside, as badly as it may behave, and records of its own to judge by.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use protocol::{
    Attempt, Choice, Decider, DecisionId, Event, FailureKind, HoldScope, OnDependencyFailure, Plan,
    PlanTask, Priority, Record, ReplicaId, RunId, RunMode, RunState, Status, Task, TaskError,
    TaskId, TaskKind, TaskResult, TaskSource, Time, Token,
};
use scheduler::{
    Command, Config, Input, Phase, Refusal, RunPhase, Scheduler, Step, Target, TaskEntry,
    TaskState, Used,
};

use crate::records::Records;
use crate::support::*;

/// More than any of these plays takes.
const MOST_TURNS: u32 = 40_000;

/// Random numbers that are the same for the same seed (SplitMix64; Steele and others, 2014).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Returns an error of one of these kinds that says what it is about, rightly or not.
    fn any_error(&mut self, kinds: &[FailureKind], entry: &TaskEntry, now: Time) -> TaskError {
        let task = &entry.task;
        let scopes = [
            None,
            Some(HoldScope::Task(task.id.clone())),
            Some(HoldScope::Run(task.run)),
            Some(HoldScope::Worker(task.worker.clone())),
            Some(HoldScope::All),
            Some(HoldScope::Task(id("another"))),
            Some(HoldScope::Run(run_id(98))),
            Some(HoldScope::Worker(worker("another"))),
        ];
        let times = [None, None, Some(Time::ZERO), Some(now + 300 * SECOND), Some(FAR)];
        let (scope, retry_at) = (self.pick(&scopes), self.pick(&times));
        TaskError { scope, retry_at, ..error(self.pick(kinds)) }
    }
}

/// A time at which nobody cares any more.
const FAR: Time = Time::from_millis(u64::MAX);

/// What becomes of an attempt.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Complete,
    Fail(TaskError),
    /// Reports a status that is not for it to say.
    Odd(Status),
    Hang,
    Die,
    Unstartable(FailureKind, bool),
}

/// What a replica works on, or did last.
struct Work {
    task: TaskId,
    attempt: Attempt,
    /// Something of it may still be running.
    active: bool,
    report: Option<TaskResult>,
}

/// A replica as it really is, which the scheduler can't see.
#[derive(Default)]
struct Container {
    running: bool,
    work: Option<Work>,
    /// Commands that were given and not yet carried out.
    orders: VecDeque<Command>,
}

/// Something on its way to the scheduler.
#[derive(Clone, Debug)]
enum Message {
    Input(Box<Input>),
    /// The replica may be gone. Whether it is, is looked at when it is said.
    Gone(ReplicaId),
}

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    /// How often what happened.
    pub(crate) seen: BTreeMap<&'static str, u32>,
    config: Config,
    now: Time,
    rng: Rng,
    seed: u64,
    /// Fair: every attempt ends by its task and number, people only add, nothing is lost.
    fair: bool,
    restarts: u32,
    faults: u32,
    wishes: u32,
    opened: u64,
    dropped: u32,
    containers: BTreeMap<ReplicaId, Container>,
    inbox: Vec<Message>,
    said: Vec<Input>,
    journal: Vec<(Time, Event)>,
    records: Records,
}

impl World {
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let wishes = 10 + u32::try_from(rng.below(40)).unwrap();
        let restarts = u32::try_from(rng.below(6)).unwrap();
        let mut world = Self {
            scheduler: Scheduler::new(config.clone()),
            seen: BTreeMap::new(),
            records: Records::new(config.clone()),
            config,
            now: Time::from_millis(1_000),
            rng,
            seed,
            fair: false,
            restarts: 0,
            faults: 12,
            wishes,
            opened: 0,
            dropped: 0,
            containers: BTreeMap::new(),
            inbox: Vec::new(),
            said: Vec::new(),
            journal: Vec::new(),
        };
        world.open(RunId::Adhoc, "adhoc", RunMode::Adhoc, None);
        world.restarts = restarts;
        world
    }

    /// A world without bad luck, with some runs and drops from the start.
    pub(crate) fn fair(config: Config, seed: u64, restarts: bool) -> Self {
        let mut world = Self::new(config, seed);
        world.fair = true;
        world.wishes = 0;
        world.restarts = 0;
        for _ in 0..3 {
            world.open_any();
        }
        for _ in 0..12 {
            world.drop_any();
        }
        world.restarts = if restarts { 8 } else { 0 };
        world
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Lets things happen until nothing more can.
    pub(crate) fn play(&mut self) {
        for _ in 0..MOST_TURNS {
            if !self.turn() {
                return;
            }
        }
        panic!("it does not end: {:#?}", self.scheduler);
    }

    /// Lets one thing happen. Returns whether there was one.
    fn turn(&mut self) -> bool {
        if self.restarts > 0 && self.rng.chance(2) {
            self.restarts -= 1;
            self.restart(true);
            return true;
        }
        if self.wishes > 0 && self.rng.chance(15) {
            self.wishes -= 1;
            self.wish();
            return true;
        }
        if !self.fair && self.rng.chance(3) {
            self.mischief();
            return true;
        }
        if self.fair && self.scheduler.decisions().next().is_some() && self.rng.chance(3) {
            self.decide_one();
            return true;
        }
        let busy: Vec<_> = self
            .containers
            .iter()
            .filter(|(_, c)| !c.orders.is_empty())
            .map(|(r, _)| r.clone())
            .collect();
        let timer = self.scheduler.next_wakeup();
        if !busy.is_empty() && (self.inbox.is_empty() || self.rng.chance(50)) {
            self.let_time_pass(timer);
            let replica = self.rng.pick(&busy);
            self.carry_out(&replica);
        } else if !self.inbox.is_empty() && (timer.is_none() || !self.rng.chance(10)) {
            self.let_time_pass(timer);
            let at = self.rng.below(self.inbox.len());
            let message = self.inbox.swap_remove(at);
            self.deliver(message);
        } else if let Some(at) = timer {
            // Exactly then: nobody ticks who was not asked to.
            self.now = self.now.max(at);
            self.say(Input::Tick);
        } else {
            return self.unstick();
        }
        true
    }

    /// Things take time; the timer may even be late.
    fn let_time_pass(&mut self, timer: Option<Time>) {
        let millis = self.rng.below(4_000) as u64;
        let later = self.now + std::time::Duration::from_millis(millis);
        self.now = match timer {
            Some(at) if later > at && !self.rng.chance(10) => self.now.max(at),
            _ => later,
        };
    }

    // ---- What the scheduler is told ----

    /// Tells the scheduler, checks what it says, and notes its orders.
    fn say(&mut self, input: Input) {
        let before = self.rng.chance(5).then(|| format!("{:?}", self.scheduler));
        let (now, rng) = (self.now, &mut self.rng);
        match self.scheduler.step(now, &mut || rng.next(), input.clone()) {
            Ok(step) => {
                self.records.said(&input);
                let tear = self.restarts > 0 && !step.events.is_empty() && self.rng.chance(1);
                self.take(step, tear);
            }
            Err(refusal) => {
                if matches!(refusal, Refusal::Cycle(_)) {
                    self.saw("cycle");
                }
                if let Some(before) = before {
                    assert_eq!(format!("{:?}", self.scheduler), before, "{input:?}: {refusal:?}");
                }
            }
        }
        self.said.push(input);
    }

    fn take(&mut self, mut step: Step, tear: bool) {
        if tear {
            // The power goes in the middle of the write. No command was carried out yet.
            self.restarts -= 1;
            let keep = self.rng.below(step.events.len());
            step.events.truncate(keep);
            self.saw("torn write");
        }
        for event in &step.events {
            self.note(event);
            self.records.happened(self.now, event, &self.scheduler);
        }
        self.journal.extend(step.events.into_iter().map(|event| (self.now, event)));
        if tear {
            return self.restart(false);
        }
        for command in step.commands {
            self.records.ordered(self.now, &command, &self.scheduler);
            let replica = match &command {
                Command::Dispatch { replica, .. }
                | Command::Interrupt { replica, .. }
                | Command::Start { replica }
                | Command::StopReplica { replica } => replica.clone(),
                Command::SetBudget { .. }
                | Command::WriteTaskFile { .. }
                | Command::Publish { .. }
                | Command::CloseRun { .. } => continue,
            };
            self.containers.entry(replica).or_default().orders.push_back(command);
        }
        self.records.check(self.now, &self.scheduler);
        let rng = &mut self.rng;
        let again = self.scheduler.step(self.now, &mut || rng.next(), Input::Tick).unwrap();
        assert_eq!(again, Step::default(), "the step before left something to do");
    }

    /// Notes what a world has to show to be worth playing.
    fn note(&mut self, event: &Event) {
        match event {
            Event::PlanRejected { .. } => self.saw("plan rejected"),
            Event::AttemptDispatched { resume: true, .. } => self.saw("resumed session"),
            Event::AttemptStopping { error, .. } if error.kind == FailureKind::Timeout => {
                self.saw("stopped at its deadline");
            }
            Event::AttemptFailed { paused: true, .. } => self.saw("paused"),
            Event::DecisionRaised { decision } => match decision.scope {
                HoldScope::Task(_) => self.saw("decision about a task"),
                HoldScope::Run(_) => self.saw("decision about a run"),
                HoldScope::Worker(_) => self.saw("decision about a worker"),
                HoldScope::All => self.saw("decision about everything"),
            },
            Event::DecisionMade { choice, by, .. } => match (choice, by) {
                (_, Decider::Restart) => self.saw("decided by a restart"),
                (_, Decider::Retry) => self.saw("decided by a retry"),
                (_, Decider::Time) => self.saw("decided by time"),
                (Choice::Stop, Decider::Person) => self.saw("decided to stop"),
                (Choice::GoOn { .. }, Decider::Person) => self.saw("decided to go on"),
            },
            Event::AttemptFailed { error, retry_at: Some(at), .. } => match error.kind {
                FailureKind::WorkerLost => self.saw("new attempt after a lost worker"),
                kind if kind.passes() && error.retry_at.is_some() => {
                    self.saw("waited for a limit");
                }
                _ if *at > self.now => self.saw("backoff"),
                _ => {}
            },
            Event::TaskEnded { result, .. } if result.status == Status::Skipped => {
                self.saw("skipped");
            }
            Event::TaskReset { task } if task.as_str().ends_with("answer") => {
                self.saw("answer written again");
            }
            Event::TasksForgotten { .. } => self.saw("forgotten"),
            _ => {}
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Input(input) => {
                if let Input::AttemptStarted { task, attempt } = &*input
                    && let Some(entry) = self.scheduler.task(task)
                    && entry.last_attempt == Some(*attempt)
                    && entry.live().is_none()
                {
                    self.saw("started after its report");
                }
                self.say(*input);
            }
            Message::Gone(replica) => {
                let container = self.containers.entry(replica.clone()).or_default();
                if container.running {
                    // It was started again meanwhile: the word of its end is out of date.
                    return;
                }
                let order = |o: &Command| !matches!(o, Command::Interrupt { .. });
                if self.fair && container.orders.iter().any(order) {
                    // A runtime with an order for it first carries that out, and then looks again.
                    return;
                }
                // All that it had handed in is reported before.
                let report = container.work.as_ref().and_then(|work| work.report.clone());
                if let Some(report) = report {
                    let restarts = self.restarts;
                    self.say(Input::AttemptReported { report });
                    if self.restarts < restarts {
                        // It may not have been taken in. What is there is found again.
                        return;
                    }
                }
                let container = self.containers.entry(replica.clone()).or_default();
                if !container.running {
                    let kind = self.pick_lost();
                    let pause = !self.fair && self.rng.chance(5);
                    if pause {
                        self.saw("replica of no use");
                    }
                    self.say(Input::ReplicaGone {
                        replica,
                        used: Used::default(),
                        error: error(kind),
                        pause,
                    });
                }
            }
        }
    }

    fn pick_lost(&mut self) -> FailureKind {
        use FailureKind::*;
        self.rng.pick(&[WorkerLost, WorkerLost, WorkerLost, Oom, Cancelled, Network])
    }

    fn send(&mut self, input: Input) {
        if !self.fair && self.rng.chance(15) {
            self.inbox.push(Message::Input(Box::new(input.clone())));
            self.saw("input repeated");
        }
        self.inbox.push(Message::Input(Box::new(input)));
    }

    // ---- What replicas do ----

    fn fate(&mut self, entry: &TaskEntry, attempt: Attempt) -> Fate {
        use FailureKind::*;
        let may_pass = [
            RateLimited,
            Overloaded,
            Unreachable,
            Network,
            Server,
            Oom,
            Disk,
            Timeout,
            IdleTimeout,
            BadOutput,
            Unverified,
        ];
        let final_ = [Budget, Budget, Auth, Refused, Invalid, Dependency];
        let now = self.now;
        if self.fair {
            let mut hasher = DefaultHasher::new();
            (self.seed, entry.task.id.as_str(), attempt.get()).hash(&mut hasher);
            let mut rng = Rng(hasher.finish());
            return match rng.below(10) {
                0..6 => Fate::Complete,
                6..8 => Fate::Fail(rng.any_error(&may_pass, entry, now)),
                8 => Fate::Fail(rng.any_error(&final_, entry, now)),
                _ => Fate::Hang,
            };
        }
        let rng = &mut self.rng;
        if self.faults > 0 && rng.chance(20) {
            self.faults -= 1;
            return match rng.below(6) {
                0 => Fate::Fail(rng.any_error(&[Auth, Billing], entry, now)),
                1..3 => Fate::Fail(rng.any_error(&[Budget], entry, now)),
                3 => Fate::Unstartable(Auth, false),
                4 => Fate::Unstartable(rng.pick(&[WorkerLost, Auth]), true),
                _ => Fate::Die,
            };
        }
        match rng.below(20) {
            0..11 => Fate::Complete,
            11..14 => Fate::Fail(rng.any_error(&may_pass, entry, now)),
            14 => Fate::Fail(rng.any_error(&[Refused, Invalid, Dependency], entry, now)),
            15 => Fate::Fail(error(rng.pick(&[Cancelled, WorkerLost]))),
            16 => Fate::Odd(rng.pick(&[Status::Cancelled, Status::Skipped, Status::Failed])),
            17 => Fate::Unstartable(rng.pick(&[Network, Invalid, WorkerLost]), false),
            18 => Fate::Die,
            _ => Fate::Hang,
        }
    }

    fn carry_out(&mut self, replica: &ReplicaId) {
        let container = self.containers.get_mut(replica).unwrap();
        match container.orders.pop_front().unwrap() {
            Command::Dispatch { task, attempt, .. } => {
                if self.scheduler.attempt_on(replica) == Some((&task, attempt)) {
                    self.begin(replica, task, attempt);
                }
            }
            Command::Interrupt { task, attempt, .. } => {
                let work = container.work.as_ref();
                if work.is_some_and(|w| w.active && (&w.task, w.attempt) == (&task, attempt)) {
                    self.interrupt(replica);
                }
            }
            Command::StopReplica { .. } => {
                container.running = false;
                if let Some(work) = &mut container.work {
                    work.active = false;
                }
                self.inbox.push(Message::Gone(replica.clone()));
                self.saw("acted on a stop order");
            }
            Command::Start { .. } if !self.fair && self.rng.below(4) == 0 => {
                container.running = false;
                self.inbox.push(Message::Gone(replica.clone()));
                self.saw("a spare was lost");
            }
            Command::Start { .. } => {
                container.running = true;
                self.send(Input::ReplicaStarted { replica: replica.clone() });
                self.saw("a spare was started");
            }
            other => unreachable!("{other:?} is for no replica"),
        }
    }

    fn begin(&mut self, replica: &ReplicaId, task: TaskId, attempt: Attempt) {
        let started = Input::AttemptStarted { task: task.clone(), attempt };
        let container = &self.containers[replica];
        if let Some(work) =
            container.work.as_ref().filter(|w| (&w.task, w.attempt) == (&task, attempt))
        {
            // Told a second time, after a restart.
            match &work.report {
                Some(report) => {
                    let report = report.clone();
                    self.send(Input::AttemptReported { report });
                }
                None if container.running => self.send(started),
                None => self.inbox.push(Message::Gone(replica.clone())),
            }
            return;
        }
        for (other, container) in &self.containers {
            let Some(work) = container.work.as_ref().filter(|work| work.active) else {
                continue;
            };
            assert_ne!(other, replica, "`{}` still runs there", work.task);
            assert_ne!(work.task, task, "an attempt of it still runs on `{other}`");
        }
        let entry = self.scheduler.task(&task).unwrap().clone();
        let fate = self.fate(&entry, attempt);
        if let Fate::Unstartable(kind, pause) = fate {
            let error = error(kind);
            return self.send(Input::AttemptUnstartable { task, attempt, error, pause });
        }
        let report = match &fate {
            Fate::Complete => Some(self.complete_report(&entry)),
            Fate::Fail(error) => {
                let error = Some(error.clone());
                let report = report(&entry, entry.live().unwrap());
                Some(TaskResult { status: Status::Failed, error, ..report })
            }
            &Fate::Odd(status) => {
                Some(TaskResult { status, ..report(&entry, entry.live().unwrap()) })
            }
            Fate::Hang | Fate::Die | Fate::Unstartable(..) => None,
        };
        let lost_report = !self.fair && report.is_some() && self.rng.chance(5);
        let lost_start = !self.fair && !lost_report && fate != Fate::Hang && self.rng.chance(15);
        if lost_start {
            self.saw("lost start");
        } else {
            self.send(started);
        }
        let report = report.filter(|_| !lost_report);
        if lost_report {
            self.saw("lost report");
        }
        if let Some(report) = &report {
            self.send(Input::AttemptReported { report: report.clone() });
        }
        let active = report.is_none() && fate != Fate::Die;
        let container = self.containers.get_mut(replica).unwrap();
        container.running = fate != Fate::Die;
        container.work = Some(Work { task, attempt, active, report });
        if fate == Fate::Die {
            self.inbox.push(Message::Gone(replica.clone()));
        }
    }

    fn interrupt(&mut self, replica: &ReplicaId) {
        let work = self.containers[replica].work.as_ref().unwrap();
        let entry = self.scheduler.task(&work.task).unwrap().clone();
        let Some(live) = entry.live().filter(|live| live.attempt == work.attempt) else {
            return;
        };
        let choice = if self.fair { 3 } else { self.rng.below(4) };
        let container = self.containers.get_mut(replica).unwrap();
        let work = container.work.as_mut().unwrap();
        let status = match choice {
            0 => {
                container.running = false;
                work.active = false;
                return self.inbox.push(Message::Gone(replica.clone()));
            }
            1 => Status::Cancelled,
            2 => Status::Complete,
            _ => return self.saw("ignored an interrupt"),
        };
        let report = TaskResult { status, ..report(&entry, live) };
        work.active = false;
        work.report = Some(report.clone());
        self.send(Input::AttemptReported { report });
    }

    fn complete_report(&mut self, entry: &TaskEntry) -> TaskResult {
        let report = report(entry, entry.live().unwrap());
        if entry.task.kind != TaskKind::Plan {
            return report;
        }
        let plan = self.any_plan(self.fair_number(entry));
        TaskResult { plan: Some(serde_json::to_value(plan).unwrap()), ..report }
    }

    /// A number that, in a fair world, depends on nothing but the run.
    fn fair_number(&self, entry: &TaskEntry) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (self.seed, entry.task.id.as_str()).hash(&mut hasher);
        self.fair.then(|| hasher.finish())
    }

    fn any_plan(&mut self, seed: Option<u64>) -> Plan {
        let mut rng = Rng(seed.unwrap_or_else(|| self.rng.next()));
        let size = 1 + rng.below(6);
        let tasks = (0..size).map(|n| {
            let dependencies =
                (0..n).filter(|_| rng.chance(40)).map(|d| id(&format!("p{d}"))).collect();
            PlanTask {
                id: id(&format!("p{n}")),
                worker: worker(rng.pick(&["marie", "anga", "fabien"])),
                description: "x".to_owned(),
                dependencies,
                priority: rng.pick(&[None, Some(Priority::Low), Some(Priority::High)]),
                timeout: rng.pick(&[None, Some(20)]),
                retries: rng.pick(&[None, Some(1)]),
                on_dependency_failure: rng.pick(&[None, None, Some(OnDependencyFailure::Run)]),
                budget_usd: None,
                budget_tokens: None,
                verify: None,
                context: Default::default(),
            }
        });
        let mut plan = Plan { tasks: tasks.collect(), ..Plan::default() };
        if !self.fair && rng.chance(15) {
            plan.tasks[0].worker = worker("nobody");
        }
        plan
    }

    // ---- What people do ----

    fn wish(&mut self) {
        if !self.fair && self.rng.chance(10) {
            return self.forget_some();
        }
        match self.rng.below(14) {
            12.. => {
                // One that is open, one that is answered, or one that never was.
                let last = self.scheduler.decisions().last().map(|decision| decision.id);
                let ids: Vec<_> =
                    std::iter::successors(Some(DecisionId::FIRST), |id| Some(id.next()))
                        .take_while(|id| last.is_none_or(|last| *id <= last.next()))
                        .take(30)
                        .collect();
                let decision = self.rng.pick(&ids);
                let choice = self.any_choice();
                self.say(Input::Decide { decision, choice });
            }
            0..2 => self.open_any(),
            2..7 => self.drop_any(),
            7 => {
                let run = self.any_run();
                self.saw("cancel of a run");
                self.say(Input::Cancel(Target::Run(run)));
            }
            8 => {
                let task = self.any_task();
                self.saw("cancel of a task");
                self.say(Input::Cancel(Target::Task(task)));
            }
            9 => {
                let run = self.any_run();
                self.saw("retry of a run");
                self.say(Input::Retry(Target::Run(run)));
            }
            _ => {
                let task = self.any_task();
                self.saw("retry of a task");
                self.say(Input::Retry(Target::Task(task)));
            }
        }
    }

    /// Clears away what was dropped and has ended, or a part of it.
    fn forget_some(&mut self) {
        let dropped = self.scheduler.run_tasks(&RunId::Adhoc);
        let mut tasks: Vec<_> = dropped.map(|entry| entry.task.id.clone()).collect();
        let share = self.rng.pick(&[50, 100]);
        tasks.retain(|_| self.rng.chance(share));
        self.say(Input::Forget(tasks));
    }

    fn any_choice(&mut self) -> Choice {
        if !self.fair && self.rng.chance(40) {
            return Choice::Stop;
        }
        let budget_usd = self.rng.pick(&[None, Some(1.0), Some(2.5)]);
        let budget_tokens = self.rng.pick(&[None, Some(1_000)]);
        Choice::GoOn { budget_usd, budget_tokens }
    }

    /// Answers the question that has waited longest.
    fn decide_one(&mut self) {
        let decision = self.scheduler.decisions().next().unwrap().id;
        let choice = self.any_choice();
        self.say(Input::Decide { decision, choice });
    }

    fn any_run(&mut self) -> RunId {
        let runs: Vec<_> = self.scheduler.runs().map(|run| run.run).chain([run_id(99)]).collect();
        self.rng.pick(&runs)
    }

    fn any_task(&mut self) -> TaskId {
        let runs: Vec<_> = self.scheduler.runs().map(|run| run.run).collect();
        let run = self.rng.pick(&runs);
        let tasks: Vec<_> = self.scheduler.run_tasks(&run).map(|e| e.task.id.clone()).collect();
        if tasks.is_empty() { id("nobody-knows") } else { self.rng.pick(&tasks) }
    }

    fn open_any(&mut self) {
        if self.opened < 4 {
            self.opened += 1;
            let number = self.opened;
            let mode = self.rng.pick(&[RunMode::Request, RunMode::Plan, RunMode::PlanOnly]);
            let plan = (mode == RunMode::Plan).then(|| self.any_plan(None));
            self.open(run_id(number), &format!("r{number}"), mode, plan);
        }
    }

    fn open(&mut self, run: RunId, short: &str, mode: RunMode, plan: Option<Plan>) {
        self.say(Input::OpenRun {
            run,
            short: short.parse().unwrap(),
            name: None,
            mode,
            request: Some("x".to_owned()),
            plan,
            priority: Priority::Medium,
            budget_usd: None,
            budget_tokens: None,
            rehearsal: true,
        });
    }

    fn drop_any(&mut self) {
        let number = self.dropped;
        self.dropped += 1;
        // Half of the names are out of order, so that much depends on what is dropped later.
        let name = number ^ 1;
        let dependencies: BTreeSet<_> = (0..self.rng.below(4))
            .map(|_| match self.rng.below(10) {
                0 => format!("r{}.p{}", 1 + self.rng.below(4), self.rng.below(3)),
                1 => "r1.answer".to_owned(),
                _ => format!("t{}", self.rng.below(number as usize + 3)),
            })
            .collect();
        let run = if self.fair { RunId::Adhoc } else { self.any_run() };
        let dependencies: Vec<_> = dependencies.iter().map(String::as_str).collect();
        let task = Task {
            run: if self.rng.chance(30) { run } else { RunId::Adhoc },
            priority: self.rng.pick(&[Priority::Low, Priority::Medium, Priority::High]),
            on_dependency_failure: self
                .rng
                .pick(&[OnDependencyFailure::Skip, OnDependencyFailure::Run]),
            ..task(&format!("t{name}"), self.rng.pick(&["marie", "anga", "fabien"]), &dependencies)
        };
        if dependencies.iter().any(|name| self.scheduler.task(&id(name)).is_none()) {
            self.saw("dropped later");
        }
        self.say(Input::AddTask { task, source: TaskSource::Drop });
    }

    // ---- What else happens ----

    /// Says old things again, lies, and lets idle replicas die.
    fn mischief(&mut self) {
        if self.said.is_empty() {
            return;
        }
        let old = self.rng.pick(&self.said);
        match (self.rng.below(3), old) {
            (0, Input::AttemptReported { report }) => {
                self.saw("wrong token");
                let token = Some(Token::from_random(self.rng.next(), 0));
                self.say(Input::AttemptReported { report: TaskResult { token, ..report } });
            }
            (1, Input::AttemptReported { report }) => {
                let now = self.scheduler.task(&report.task_id).and_then(|e| e.last_attempt);
                self.saw("report of an old attempt");
                self.say(Input::AttemptReported { report: report.clone() });
                // The number of the live attempt, with an old token.
                let attempt = now.map_or(1, Attempt::get);
                if attempt != report.attempt {
                    self.say(Input::AttemptReported { report: TaskResult { attempt, ..report } });
                }
            }
            (_, old @ (Input::AttemptStarted { .. } | Input::AttemptReported { .. })) => {
                self.saw("input repeated");
                self.say(old);
            }
            _ => {
                let idle = |c: &Container| c.running && c.work.as_ref().is_none_or(|w| !w.active);
                let idle: Vec<_> = self
                    .containers
                    .iter()
                    .filter(|(_, c)| idle(c))
                    .map(|(r, _)| r.clone())
                    .collect();
                if !idle.is_empty() && self.faults > 0 {
                    let replica = self.rng.pick(&idle);
                    self.faults -= 1;
                    self.containers.get_mut(&replica).unwrap().running = false;
                    self.inbox.push(Message::Gone(replica));
                    self.saw("idle replica died");
                }
            }
        }
    }

    /// Does what a person or a scan would do when nothing moves any more. Returns whether that
    /// was anything.
    fn unstick(&mut self) -> bool {
        if self.wishes > 0 {
            self.wishes -= 1;
            self.wish();
            return true;
        }
        let open: Vec<_> = self
            .scheduler
            .runs()
            .flat_map(|run| self.scheduler.run_tasks(&run.run))
            .filter(|entry| entry.status().is_none())
            .map(|entry| entry.task.id.clone())
            .collect();
        if self.scheduler.decisions().next().is_some() {
            self.decide_one();
            return true;
        }
        if self.scheduler.paused().next().is_some() {
            let any = self.any_task();
            let target = if self.scheduler.task(&any).is_some() {
                Target::Task(any)
            } else {
                Target::Run(RunId::Adhoc)
            };
            self.say(Input::Retry(target));
            return true;
        }
        for task in open {
            let waits = self.scheduler.waiting_for(&task);
            let Some(missing) = waits.iter().find(|id| self.scheduler.task(id).is_none()) else {
                continue;
            };
            if !missing.as_str().contains('.') {
                let add = crate::support::task(missing.as_str(), "anga", &[]);
                self.say(Input::AddTask { task: add, source: TaskSource::Api });
            } else {
                // It would come with a plan, and none is coming.
                self.say(Input::Cancel(Target::Task(task)));
            }
            return true;
        }
        false
    }

    /// The daemon ends at any point and starts anew; replicas go on meanwhile.
    fn restart(&mut self, whole: bool) {
        self.saw("restart");
        if self.rng.chance(50) {
            self.shorten();
        }
        let mut scheduler = Scheduler::new(self.config.clone());
        for (at, event) in &self.journal {
            scheduler.replay(*at, event);
        }
        if whole {
            self.compare(&scheduler);
        }
        self.scheduler = scheduler;
        self.inbox.clear();
        for container in self.containers.values_mut() {
            container.orders.clear();
        }
        self.records.restarted(&self.scheduler);
        let rng = &mut self.rng;
        let step = self.scheduler.resume(self.now, &mut || rng.next());
        // What is there is found again.
        for (replica, container) in &self.containers {
            if let Some(report) = container.work.as_ref().and_then(|work| work.report.clone()) {
                let told = Input::AttemptReported { report };
                self.inbox.push(Message::Input(Box::new(told)));
            }
            let live = self.scheduler.attempt_on(replica);
            let work = container.work.as_ref().map(|work| (&work.task, work.attempt));
            if !container.running && live.is_some() && live == work {
                self.inbox.push(Message::Gone(replica.clone()));
            }
        }
        self.take(step, false);
    }

    /// Puts a snapshot in place of a part of the journal, run by run as a daemon does: what follows from
    /// it is compared by whoever reads the journal next.
    fn shorten(&mut self) {
        let upto = self.rng.below(self.journal.len() + 1);
        let mut runs = BTreeMap::<RunId, Vec<Record>>::new();
        let mut tail = Vec::new();
        let before = self.journal.len();
        for (seq, (at, event)) in std::mem::take(&mut self.journal).into_iter().enumerate() {
            let run = self.journal_of(&event);
            let record =
                Record { version: 1, seq: seq as u64, at, snapshot: None, event, commit: None };
            if seq < upto { runs.entry(run).or_default().push(record) } else { tail.push(record) }
        }
        let shorter = |records: Vec<Record>| {
            scheduler::shorten(&records).expect("a snapshot should lead to the same state")
        };
        let mut all: Vec<_> = runs.into_values().flat_map(shorter).chain(tail).collect();
        all.sort_by_key(|record| record.seq);
        self.journal = all.into_iter().map(|record| (record.at, record.event)).collect();
        if self.journal.len() < before {
            self.saw("shorter journal");
        }
    }

    /// Returns the run in whose journal an event is.
    fn journal_of(&self, event: &Event) -> RunId {
        let of = |task: &TaskId| self.scheduler.task(task).map_or(RunId::Adhoc, |e| e.task.run);
        let of_scope = |scope: &HoldScope| match scope {
            HoldScope::Run(run) => *run,
            HoldScope::Task(task) => of(task),
            HoldScope::Worker(_) | HoldScope::All => RunId::Adhoc,
        };
        match event {
            Event::RunOpened { run, .. }
            | Event::PlanAccepted { run, .. }
            | Event::CancelRequested { run, .. }
            | Event::TasksForgotten { run, .. }
            | Event::RunEnded { run, .. } => *run,
            Event::TaskAdded { task, .. } => task.run,
            Event::TaskEnded { result, .. } => result.run,
            Event::DecisionRaised { decision } => of_scope(&decision.scope),
            Event::DecisionMade { decision, .. } => {
                self.scheduler.scope(*decision).map_or(RunId::Adhoc, of_scope)
            }
            Event::PlanRejected { task, .. }
            | Event::AttemptDispatched { task, .. }
            | Event::AttemptStarted { task, .. }
            | Event::AttemptStopping { task, .. }
            | Event::AttemptFailed { task, .. }
            | Event::TaskReset { task } => of(task),
        }
    }

    /// Compares what was read from the journal with what wrote it.
    fn compare(&self, replayed: &Scheduler) {
        assert!(self.scheduler.runs().eq(replayed.runs()), "runs differ");
        assert_eq!(self.scheduler.running(), replayed.running());
        assert!(self.scheduler.decisions().eq(replayed.decisions()), "decisions differ");
        for decision in self.scheduler.decisions() {
            assert_eq!(self.scheduler.hold(decision.id), replayed.hold(decision.id));
            let stopped = self.scheduler.stopped_by(decision.id).map(|entry| &entry.task.id);
            assert!(stopped.eq(replayed.stopped_by(decision.id).map(|entry| &entry.task.id)));
        }
        let budgets: Vec<_> = replayed.budgets().collect();
        for budget in self.scheduler.budgets() {
            assert!(budgets.contains(&budget), "{budget:?} was forgotten");
        }
        for run in self.scheduler.runs() {
            let mut tasks = replayed.run_tasks(&run.run);
            for entry in self.scheduler.run_tasks(&run.run) {
                let other = tasks.next().expect("no task should be missing");
                let mut expected = entry.clone();
                match (&mut expected.state, &other.state) {
                    // Time that has passed is no event, and an order to stop is none either.
                    (state @ TaskState::Ready, TaskState::Backoff { until }) => {
                        assert!(*until <= self.now);
                        *state = other.state.clone();
                    }
                    (TaskState::Live(live), TaskState::Live(other)) => {
                        if let (
                            Phase::Stopping { kill_at: kill_at @ None, .. },
                            Phase::Stopping { kill_at: other, .. },
                        ) = (&mut live.phase, &other.phase)
                        {
                            assert!(other.is_some_and(|at| at <= self.now));
                            *kill_at = *other;
                        }
                    }
                    _ => {}
                }
                assert_eq!(&expected, other);
                assert_eq!(self.scheduler.held_by(entry), replayed.held_by(other));
                let id = &entry.task.id;
                assert_eq!(self.scheduler.waiting_for(id), replayed.waiting_for(id));
            }
            assert_eq!(tasks.next(), None);
        }
    }

    // ---- The end ----

    pub(crate) fn check_end(&self) {
        assert_eq!(self.scheduler.running(), 0);
        assert_eq!(self.scheduler.next_wakeup(), None);
        assert_eq!(self.scheduler.decisions().next(), None);
        for (replica, container) in &self.containers {
            let active = container.work.as_ref().is_some_and(|work| work.active);
            assert!(!active, "`{replica}` was left behind");
        }
        for run in self.scheduler.runs() {
            let entries: Vec<_> = self.scheduler.run_tasks(&run.run).collect();
            for entry in &entries {
                let status = entry.status();
                assert!(status.is_some(), "{:?} has not ended: {entry:?}", entry.task.id);
                assert_eq!(entry.result.as_ref().map(|result| result.status), status);
            }
            if run.mode == RunMode::Adhoc {
                assert_eq!(run.phase, RunPhase::Executing);
                continue;
            }
            let RunPhase::Ended { state, .. } = run.phase else {
                panic!("{:?} has not ended: {run:?}", run.run);
            };
            let work: Vec<_> =
                entries.iter().filter(|entry| entry.task.kind == TaskKind::Work).collect();
            let complete = |entry: &TaskEntry| entry.status() == Some(Status::Complete);
            let all = work.iter().all(|entry| complete(entry));
            let any = work.iter().any(|entry| complete(entry));
            let answered = entries
                .iter()
                .any(|entry| entry.task.kind == TaskKind::Synthesize && complete(entry));
            match state {
                RunState::Complete if run.mode == RunMode::PlanOnly => {
                    assert!(run.plan.is_some());
                }
                RunState::Complete => assert!(all && answered, "{run:?}"),
                RunState::Partial => assert!(any && !(all && answered), "{run:?}"),
                RunState::Failed => assert!(!answered, "{run:?}"),
                RunState::Cancelled => {}
            }
        }
    }

    /// How it all ended, without times.
    pub(crate) fn outcome(&self) -> Vec<String> {
        let mut outcome = Vec::new();
        for run in self.scheduler.runs() {
            let state = match run.phase {
                RunPhase::Ended { state, .. } => state.as_str(),
                _ => "open",
            };
            outcome.push(format!("{}: {state}", run.short));
            for entry in self.scheduler.run_tasks(&run.run) {
                let attempts = entry.last_attempt.map_or(0, Attempt::get);
                let status = entry.status();
                outcome.push(format!("{}: {status:?} {attempts}", entry.task.id));
            }
        }
        // Answers come in the order of the clock.
        outcome.sort();
        outcome
    }
}
