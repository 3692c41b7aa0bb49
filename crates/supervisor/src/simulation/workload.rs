//! What is submitted, and what has to become of it.

use protocol::disk::simulated::Rng;
use protocol::{
    OnDependencyFailure, Plan, PlanTask, Priority, RunId, RunMode, ShortRunId, Task, TaskId,
    TaskKind, Verify, WorkerId,
};
use scheduler::Input;
use uuid::Uuid;

/// No journal grows as large.
const NEVER: u64 = u64::MAX / 4;

/// What somebody submits.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A task, over the API.
    Task(Task),
    /// A task, as a file that is dropped.
    Drop(Task),
    /// A run, over the API.
    Run(Box<Input>),
}

/// What becomes of a task, however often it is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done at once.
    Complete,
    /// It fails that many times first, in a way that may pass.
    Flaky(u32),
    /// It fails for good.
    Refused,
}

/// What is submitted in a run of the simulation, and to whom.
#[derive(Debug)]
pub(super) struct Workload {
    /// Whether all that goes wrong may pass: then the end is that of an undisturbed run.
    pub(super) fair: bool,
    pub(super) max_running: usize,
    pub(super) walls: bool,
    /// From how many bytes on journals are made shorter.
    pub(super) growth: u64,
    /// The workers: name, replicas, and whether each attempt has a container of its own.
    pub(super) workers: [(&'static str, u32, bool); 3],
    /// What is submitted, and when, in milliseconds.
    pub(super) wants: Vec<(u64, What)>,
    seed: u64,
}

impl Workload {
    pub(super) fn new(seed: u64, rng: &mut Rng) -> Self {
        let workers = [
            ("marie", 1, false),
            ("emma", 1 + u32::from(rng.per_mille(700)), rng.per_mille(400)),
            ("orchestrator", 1, false),
        ];
        let mut wants = Vec::new();
        let tasks = 2 + rng.index(7);
        for i in 0..tasks {
            let mut dependencies = Vec::new();
            for j in 0..tasks {
                // Some are submitted before what they depend on.
                if j < i && rng.per_mille(250) {
                    dependencies.push(id(&format!("t{j}")));
                }
            }
            let task = Task {
                id: id(&format!("t{i}")),
                worker: worker(["marie", "emma"][rng.index(2)]),
                description: "Do it.".to_owned(),
                dependencies,
                priority: [Priority::Low, Priority::Medium, Priority::High][rng.index(3)],
                timeout: None,
                run: RunId::Adhoc,
                retries: None,
                on_dependency_failure: if rng.per_mille(200) {
                    OnDependencyFailure::Run
                } else {
                    OnDependencyFailure::Skip
                },
                budget_usd: None,
                budget_tokens: None,
                // A check that passes: it takes time, and may be lost.
                verify: (i % 3 == 0)
                    .then(|| Verify { artifacts: Vec::new(), command: Some("true".to_owned()) }),
                context: serde_json::Map::new(),
                kind: TaskKind::Work,
            };
            let what = if rng.per_mille(250) { What::Drop(task) } else { What::Task(task) };
            wants.push((rng.below(60_000), what));
        }
        for i in 0..rng.index(3) {
            wants.push((rng.below(60_000), What::Run(Box::new(run(i, rng)))));
        }
        Self {
            fair: rng.per_mille(750),
            max_running: 1 + rng.index(4),
            walls: rng.per_mille(500),
            growth: if rng.per_mille(400) { 500 + rng.below(6_000) } else { NEVER },
            workers,
            wants,
            seed,
        }
    }

    /// Returns whether journals are made shorter.
    pub(super) fn has_snapshots(&self) -> bool {
        self.growth < NEVER
    }

    /// Returns what becomes of a task.
    pub(super) fn fate(&self, task: &TaskId, kind: TaskKind) -> Fate {
        if kind != TaskKind::Work {
            return Fate::Complete;
        }
        let name = task
            .as_str()
            .bytes()
            .fold(self.seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut rng = Rng::new(name);
        match rng.below(10) {
            0 => Fate::Refused,
            1 | 2 => Fate::Flaky(1 + u32::try_from(rng.below(3)).unwrap_or(0)),
            _ => Fate::Complete,
        }
    }
}

/// Returns a plan of a few tasks.
pub(super) fn plan(rng: &mut Rng) -> Plan {
    let tasks = 1 + rng.index(4);
    let tasks = (0..tasks).map(|i| PlanTask {
        id: id(&format!("p{i}")),
        worker: worker(["marie", "emma"][rng.index(2)]),
        description: "Do a part.".to_owned(),
        dependencies: (0..i).filter(|_| rng.per_mille(400)).map(|j| id(&format!("p{j}"))).collect(),
        priority: None,
        timeout: None,
        retries: None,
        on_dependency_failure: None,
        budget_usd: None,
        budget_tokens: None,
        verify: None,
        context: serde_json::Map::new(),
    });
    Plan { version: None, request: None, given: Vec::new(), tasks: tasks.collect() }
}

fn run(number: usize, rng: &mut Rng) -> Input {
    let run = RunId::Submitted(Uuid::from_u64_pair(rng.next_u64(), rng.next_u64()));
    let short: ShortRunId = format!("r{number}xx").parse().unwrap_or_else(|_| run.short(|_| false));
    let given = rng.per_mille(600);
    Input::OpenRun {
        run,
        short,
        name: None,
        mode: if given { RunMode::Plan } else { RunMode::Request },
        request: Some("What is it?".to_owned()),
        plan: given.then(|| plan(rng)),
        priority: Priority::Medium,
        budget_usd: None,
        budget_tokens: None,
        rehearsal: false,
    }
}

pub(super) fn id(text: &str) -> TaskId {
    text.parse().unwrap_or_else(|_| panic!("BUG: {text} is no task id"))
}

pub(super) fn worker(text: &str) -> WorkerId {
    text.parse().unwrap_or_else(|_| panic!("BUG: {text} is no worker"))
}
