//! A scheduler with a clock, and short ways to say what happens to it.

use std::time::Duration;

use protocol::{
    Attempt, Choice, DecisionKind, Event, FailureKind, HoldScope, Plan, PlanLimits, Priority,
    ReplicaId, RunId, RunMode, Status, Task, TaskError, TaskId, TaskKind, TaskResult, TaskSource,
    Time, Usage, WorkerId,
};
use scheduler::{
    Command, Config, Input, LiveAttempt, Phase, Refusal, RunPhase, Scheduler, Step, Target,
    TaskEntry, TaskState, WorkerLimits,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub(crate) fn id(name: &str) -> TaskId {
    name.parse().unwrap()
}

pub(crate) fn ids(names: &[&str]) -> Vec<TaskId> {
    names.iter().map(|name| id(name)).collect()
}

pub(crate) fn replica(name: &str) -> ReplicaId {
    name.parse().unwrap()
}

pub(crate) fn limits() -> WorkerLimits {
    WorkerLimits { replicas: 2, per_task: false, timeout: 100 * SECOND, retries: 2, resumes: true }
}

/// The orchestrator, marie, anga and fabien, with two replicas and two retries each.
pub(crate) fn config() -> Config {
    let names = ["orchestrator", "marie", "anga", "fabien"];
    Config {
        workers: names.into_iter().map(|name| (worker(name), limits())).collect(),
        max_running: 4,
        plan: PlanLimits { tasks: 50, depth: 10 },
        backoff_base: 10 * SECOND,
        backoff_max: 30 * SECOND,
        aging: 600 * SECOND,
        timeout_margin: 5 * SECOND,
        stop_grace: 20 * SECOND,
        max_lost: 3,
    }
}

/// One worker, marie, with this many replicas.
pub(crate) fn only_marie(replicas: u32) -> Config {
    let mut config = config();
    config.workers.retain(|name, _| name.as_str() == "marie");
    config.workers.values_mut().for_each(|limits| limits.replicas = replicas);
    config
}

pub(crate) fn task(name: &str, worker_: &str, dependencies: &[&str]) -> Task {
    Task {
        id: id(name),
        worker: worker(worker_),
        description: format!("do {name}"),
        dependencies: ids(dependencies),
        priority: Priority::Medium,
        timeout: None,
        run: RunId::Adhoc,
        retries: None,
        on_dependency_failure: protocol::OnDependencyFailure::Skip,
        budget_usd: None,
        budget_tokens: None,
        verify: None,
        context: Default::default(),
        kind: TaskKind::Work,
    }
}

pub(crate) fn error(kind: FailureKind) -> TaskError {
    TaskError::new(kind, format!("it was {kind}"))
}

/// The answer that grants no more than before.
pub(crate) const GO_ON: Choice = Choice::GoOn { budget_usd: None, budget_tokens: None };

pub(crate) fn go_on_with(usd: f64) -> Choice {
    Choice::GoOn { budget_usd: Some(usd), budget_tokens: None }
}

pub(crate) fn run_id(number: u64) -> RunId {
    format!("00000000-0000-7000-8000-{number:012}").parse().unwrap()
}

pub(crate) fn plan(json: &str) -> Plan {
    protocol::strict::from_slice(json.as_bytes()).unwrap()
}

/// What a worker reports of an attempt that is complete.
pub(crate) fn report(entry: &TaskEntry, live: &LiveAttempt) -> TaskResult {
    TaskResult {
        version: 1,
        task_id: entry.task.id.clone(),
        run: entry.task.run,
        worker: entry.task.worker.clone(),
        attempt: live.attempt.get(),
        token: Some(live.token),
        status: Status::Complete,
        summary: "done".to_owned(),
        findings: Vec::new(),
        recommendations: Vec::new(),
        artifacts: Vec::new(),
        execution_time: 1.5,
        error: None,
        usage: Usage { input_tokens: 10, output_tokens: 1, ..Usage::default() },
        cost_usd: Some(0.25),
        model: None,
        session_id: Some(live.session),
        rehearsal: false,
        started_at: Time::ZERO,
        finished_at: Time::ZERO,
        plan: None,
        report: None,
    }
}

/// A scheduler with a clock.
pub(crate) struct Rig {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Time,
    /// What the random numbers are, for all 64 bits.
    pub(crate) random: u64,
    draws: u64,
    pub(crate) journal: Vec<(Time, Event)>,
}

impl Rig {
    /// With the standing run open.
    pub(crate) fn new(config: Config) -> Self {
        let mut rig = Self {
            scheduler: Scheduler::new(config),
            now: Time::from_millis(1_000_000),
            random: 0,
            draws: 0,
            journal: Vec::new(),
        };
        rig.open(RunId::Adhoc, "adhoc", RunMode::Adhoc, None, None).unwrap();
        rig
    }

    pub(crate) fn try_step(&mut self, input: Input) -> Result<Step, Refusal> {
        // Tokens have to differ, waits have to be what the test says: the high bits decide those.
        let (random, draws) = (self.random, &mut self.draws);
        let mut rng = || {
            *draws += 1;
            random ^ *draws
        };
        let step = self.scheduler.step(self.now, &mut rng, input)?;
        self.journal.extend(step.events.iter().map(|event| (self.now, event.clone())));
        Ok(step)
    }

    pub(crate) fn step(&mut self, input: Input) -> Step {
        self.try_step(input).unwrap()
    }

    pub(crate) fn tick(&mut self) -> Step {
        self.step(Input::Tick)
    }

    /// Lets time pass, and nothing else happen.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Sleeps until the scheduler wants to be woken, and wakes it.
    pub(crate) fn wake(&mut self) -> Step {
        self.now = self.scheduler.next_wakeup().expect("somebody should wake the scheduler");
        self.tick()
    }

    pub(crate) fn open(
        &mut self,
        run: RunId,
        short: &str,
        mode: RunMode,
        request: Option<&str>,
        plan: Option<Plan>,
    ) -> Result<Step, Refusal> {
        self.try_step(Input::OpenRun {
            run,
            short: short.parse().unwrap(),
            name: None,
            mode,
            request: request.map(str::to_owned),
            plan,
            priority: Priority::Medium,
            budget_usd: None,
            budget_tokens: None,
            rehearsal: true,
        })
    }

    pub(crate) fn add(&mut self, task: Task) -> Step {
        self.step(Input::AddTask { task, source: TaskSource::Drop })
    }

    pub(crate) fn entry(&self, name: &str) -> &TaskEntry {
        self.scheduler.task(&id(name)).unwrap()
    }

    pub(crate) fn state(&self, name: &str) -> &TaskState {
        &self.entry(name).state
    }

    pub(crate) fn status(&self, name: &str) -> Option<Status> {
        self.entry(name).status()
    }

    pub(crate) fn live(&self, name: &str) -> &LiveAttempt {
        let entry = self.entry(name);
        entry.live().unwrap_or_else(|| panic!("`{name}` is {:?}", entry.state))
    }

    pub(crate) fn start(&mut self, name: &str) -> Step {
        let attempt = self.live(name).attempt;
        self.step(Input::AttemptStarted { task: id(name), attempt })
    }

    pub(crate) fn report(&self, name: &str) -> TaskResult {
        report(self.entry(name), self.live(name))
    }

    pub(crate) fn complete(&mut self, name: &str) -> Step {
        let report = self.report(name);
        self.step(Input::AttemptReported { report })
    }

    pub(crate) fn fail(&mut self, name: &str, kind: FailureKind) -> Step {
        let report = self.failure(name, kind);
        self.step(Input::AttemptReported { report })
    }

    pub(crate) fn failure(&self, name: &str, kind: FailureKind) -> TaskResult {
        let error = Some(error(kind));
        TaskResult { status: Status::Failed, error, ..self.report(name) }
    }

    /// Fails it with an error that says more than its kind.
    pub(crate) fn fail_with(&mut self, name: &str, error: TaskError) -> Step {
        let error = Some(error);
        let report = TaskResult { status: Status::Failed, error, ..self.report(name) };
        self.step(Input::AttemptReported { report })
    }

    /// Fails it since a budget of that scope is used up.
    pub(crate) fn over_budget(&mut self, name: &str, scope: HoldScope) -> Step {
        let scope = Some(scope);
        self.fail_with(name, TaskError { scope, ..error(FailureKind::Budget) })
    }

    pub(crate) fn decide(&mut self, decision: &str, choice: Choice) -> Step {
        let decision = decision.parse().unwrap();
        self.step(Input::Decide { decision, choice })
    }

    /// The questions that are open, with what they are about.
    pub(crate) fn decisions(&self) -> Vec<(String, DecisionKind, HoldScope)> {
        let decisions = self.scheduler.decisions();
        decisions.map(|d| (d.id.to_string(), d.kind, d.scope.clone())).collect()
    }

    /// Fails it once and for all.
    pub(crate) fn fail_for_good(&mut self, name: &str) -> Step {
        self.fail(name, FailureKind::Refused)
    }

    pub(crate) fn plan_reported(&mut self, name: &str, json: &str) -> Step {
        let plan = Some(serde_json::from_str(json).unwrap());
        let report = TaskResult { plan, ..self.report(name) };
        self.step(Input::AttemptReported { report })
    }

    pub(crate) fn gone(&mut self, name: &str) -> Step {
        let error = error(FailureKind::WorkerLost);
        self.step(Input::ReplicaGone {
            replica: replica(name),
            used: scheduler::Used::default(),
            error,
            pause: false,
        })
    }

    pub(crate) fn cancel(&mut self, name: &str) -> Step {
        self.step(Input::Cancel(Target::Task(id(name))))
    }

    pub(crate) fn retry(&mut self, name: &str) -> Step {
        self.step(Input::Retry(Target::Task(id(name))))
    }

    pub(crate) fn phase(&self, run: RunId) -> RunPhase {
        self.scheduler.run(&run).unwrap().phase
    }

    /// Makes another scheduler from what was recorded, and lets it go on.
    pub(crate) fn restart(&mut self, config: Config) -> Step {
        self.scheduler = Scheduler::new(config);
        for (at, event) in &self.journal {
            self.scheduler.replay(*at, event);
        }
        let (random, draws) = (self.random, &mut self.draws);
        let mut rng = || {
            *draws += 1;
            random ^ *draws
        };
        let step = self.scheduler.resume(self.now, &mut rng);
        self.journal.extend(step.events.iter().map(|event| (self.now, event.clone())));
        step
    }
}

/// The tasks that a step dispatched, in order, with their replicas: `a on marie-1`.
pub(crate) fn dispatched(step: &Step) -> Vec<String> {
    let dispatch = |command: &Command| match command {
        Command::Dispatch { task, replica, .. } => Some(format!("{task} on {replica}")),
        _ => None,
    };
    step.commands.iter().filter_map(dispatch).collect()
}

pub(crate) fn attempt(number: u32) -> Attempt {
    Attempt::new(number).unwrap()
}

pub(crate) fn stopping(live: &LiveAttempt) -> Option<FailureKind> {
    match &live.phase {
        Phase::Stopping { error, .. } => Some(error.kind),
        _ => None,
    }
}
