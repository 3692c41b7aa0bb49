//! How a run goes from its request to its answer.

use protocol::{
    Event, ORCHESTRATOR, OnDependencyFailure, Plan, PlanFault, RunMode, RunState, ShortRunId,
    Status, Task, TaskId, TaskKind, TaskResult, TaskSource, WorkerId, strict,
};

use crate::graph::TaskIx;
use crate::run::RunIx;
use crate::scheduler::Turn;
use crate::{RunEntry, Scheduler};

/// The local name of the task that answers.
const ANSWER: &str = "answer";

impl Scheduler {
    /// Does what is next for a run: asks for the plan, accepts it, asks for the answer, ends it.
    pub(crate) fn settle_run(&mut self, turn: &mut Turn<'_>, ix: RunIx) {
        let run = &self.runs[ix];
        if run.ended.is_some() || run.entry.mode == RunMode::Adhoc {
            return;
        }
        if run.entry.cancel_requested {
            return self.end_run(turn, ix, RunState::Cancelled);
        }
        let Some(accepted) = run.accepted else {
            return self.settle_planning(turn, ix);
        };
        if run.entry.mode == RunMode::PlanOnly {
            return self.end_run(turn, ix, RunState::Complete);
        }
        if run.from_plan < accepted {
            return self.restore_plan(turn, ix);
        }
        if run.work_open > 0 {
            return;
        }
        if run.work_complete == 0 {
            return self.end_run(turn, ix, RunState::Failed);
        }
        let Some(answer) = run.answer_task else {
            return match self.answer_task(ix) {
                Some(task) => {
                    self.record(turn, Event::TaskAdded { task, source: TaskSource::Supervisor });
                }
                None => self.end_run(turn, ix, RunState::Partial),
            };
        };
        let all = run.work_complete == run.work;
        let entry = &self.graph[answer].entry;
        match entry.status() {
            None => {}
            Some(Status::Complete) if all => self.end_run(turn, ix, RunState::Complete),
            Some(_) => self.end_run(turn, ix, RunState::Partial),
        }
    }

    fn settle_planning(&mut self, turn: &mut Turn<'_>, ix: RunIx) {
        let run = &self.runs[ix];
        if run.entry.mode == RunMode::Plan {
            return self.withdraw(turn, ix);
        }
        let Some(plan_task) = run.plan_task else {
            let task = plan_task(&run.entry);
            return match task {
                Some(task) => {
                    self.record(turn, Event::TaskAdded { task, source: TaskSource::Supervisor });
                }
                None => self.end_run(turn, ix, RunState::Failed),
            };
        };
        let entry = &self.graph[plan_task].entry;
        let plan = match (entry.status(), &entry.result) {
            (None, _) => return,
            (Some(Status::Complete), Some(result)) => self.resolve(ix, result),
            (Some(Status::Cancelled), _) => return self.end_run(turn, ix, RunState::Cancelled),
            (Some(_), _) => return self.end_run(turn, ix, RunState::Failed),
        };
        // The plan was checked when it was reported; only other limits after a restart refuse it.
        let Ok((plan, tasks)) = plan else {
            return self.end_run(turn, ix, RunState::Failed);
        };
        let only = self.runs[ix].entry.mode == RunMode::PlanOnly;
        let run = self.runs[ix].entry.run;
        let (plan, given) = (only.then_some(plan), Vec::new());
        self.record(turn, Event::PlanAccepted { run, tasks: tasks.len(), given, plan });
        if !only {
            self.add_planned(turn, tasks);
        }
    }

    /// Adds the tasks of a plan that are not there yet.
    pub(crate) fn add_planned(&mut self, turn: &mut Turn<'_>, tasks: Vec<Task>) {
        for task in tasks {
            if self.graph.find(&task.id).is_none() {
                self.record(turn, Event::TaskAdded { task, source: TaskSource::Plan });
            }
        }
    }

    /// Adds the tasks that a torn journal has lost. A given plan is in no event, but then nobody
    /// was told that it had been accepted.
    fn restore_plan(&mut self, turn: &mut Turn<'_>, ix: RunIx) {
        let result = self.runs[ix].plan_task.and_then(|ix| self.graph[ix].entry.result.clone());
        match result.map(|result| self.resolve(ix, &result)) {
            Some(Ok((_, tasks))) => self.add_planned(turn, tasks),
            Some(Err(_)) | None => self.withdraw(turn, ix),
        }
        let run = &mut self.runs[ix];
        run.accepted = run.accepted.map(|tasks| tasks.min(run.from_plan));
    }

    fn withdraw(&mut self, turn: &mut Turn<'_>, ix: RunIx) {
        let run = self.runs[ix].entry.run;
        self.record(turn, Event::CancelRequested { run, task: None });
    }

    /// Ends the run, if all of its tasks have ended.
    fn end_run(&mut self, turn: &mut Turn<'_>, ix: RunIx, state: RunState) {
        if self.runs[ix].open.is_empty() {
            let run = self.runs[ix].entry.run;
            self.record(turn, Event::RunEnded { run, state });
        }
    }

    /// Returns what is wrong with the plan of a report that should hold one.
    pub(crate) fn plan_faults(
        &self,
        kind: TaskKind,
        ix: TaskIx,
        report: &TaskResult,
    ) -> Option<Vec<String>> {
        match kind {
            TaskKind::Plan => self.resolve(self.graph[ix].run, report).err(),
            TaskKind::Work | TaskKind::Synthesize => None,
        }
    }

    /// Returns the plan of a report and its tasks, or all that is wrong with it.
    fn resolve(&self, ix: RunIx, report: &TaskResult) -> Result<(Plan, Vec<Task>), Vec<String>> {
        let run = &self.runs[ix];
        let Some(plan) = &report.plan else {
            return Err(vec!["there is no plan in the report".to_owned()]);
        };
        let plan: Plan = strict::from_slice(plan.to_string().as_bytes()).map_err(|fault| {
            let hint = fault.hint();
            vec![if hint.is_empty() { fault.to_string() } else { format!("{fault}. {hint}") }]
        })?;
        // An agent must not get at what other people's runs have found.
        if !plan.given.is_empty() {
            return Err(vec![PlanFault::MayNotGive.to_string()]);
        }
        let RunEntry { run: id, short, priority, .. } = &run.entry;
        let tasks = plan
            .resolve(*id, short, *priority, &self.plan_workers(), self.config.plan)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        // After a torn write some of them are there already, from this very plan.
        let taken = |task: &&Task| {
            self.graph.find(&task.id).is_some_and(|other| {
                let other = &self.graph[other];
                other.run != ix || other.entry.source != TaskSource::Plan
            })
        };
        let local = |task: &Task| {
            let id = task.id.as_str();
            id.split_once('.').map_or(id, |(_, local)| local).to_owned()
        };
        let taken: Vec<_> = tasks
            .iter()
            .filter(taken)
            .map(|task| format!("the id {:?} is taken, choose another", local(task)))
            .collect();
        if taken.is_empty() { Ok((plan, tasks)) } else { Err(taken) }
    }

    /// Returns the workers that a plan may name.
    pub(crate) fn plan_workers(&self) -> Vec<WorkerId> {
        let all = self.config.workers.keys();
        all.filter(|worker| worker.as_str() != ORCHESTRATOR).cloned().collect()
    }

    /// Returns the task that answers the run's request, if there is a name left for it.
    fn answer_task(&self, ix: RunIx) -> Option<Task> {
        let run = &self.runs[ix];
        let entry = &run.entry;
        // A given plan may have a task of that name.
        let id = (1..=u16::MAX)
            .map(|n| if n == 1 { ANSWER.to_owned() } else { format!("{ANSWER}-{n}") })
            .filter_map(|local| own_id(&entry.short, &local))
            // A further name that somebody waits for could close a cycle.
            .enumerate()
            .find(|(n, id)| {
                self.graph.find(id).is_none() && (*n == 0 || self.graph.awaiting(id).is_empty())
            })?
            .1;
        let tasks = run.tasks.iter().map(|&task| &self.graph[task].entry.task);
        let work = tasks.filter(|task| task.kind == TaskKind::Work);
        let description = entry.request.clone().unwrap_or_else(|| {
            let name = entry.name.as_deref().unwrap_or(entry.short.as_str());
            format!("Report on the results of plan {name}")
        });
        Some(Task {
            description,
            dependencies: work.map(|task| &task.id).chain(&entry.given).cloned().collect(),
            on_dependency_failure: OnDependencyFailure::Run,
            ..supervisors_task(entry, id, TaskKind::Synthesize)
        })
    }

    /// Returns a result of a task that has none of its own.
    pub(crate) fn without_report(
        &self,
        ix: TaskIx,
        status: Status,
        error: protocol::TaskError,
        at: protocol::Time,
    ) -> TaskResult {
        let node = &self.graph[ix];
        let task = &node.entry.task;
        let (id, worker) = (task.id.clone(), task.worker.clone());
        let attempt = node.entry.last_attempt;
        let rehearsal = self.runs[node.run].entry.rehearsal;
        let result = TaskResult::without_report(id, task.run, worker, attempt, status, error, at);
        TaskResult { rehearsal, ..result }
    }
}

/// Returns the task that plans the run.
fn plan_task(entry: &RunEntry) -> Option<Task> {
    let id = own_id(&entry.short, "plan")?;
    let description = entry.request.clone().unwrap_or_default();
    Some(Task { description, ..supervisors_task(entry, id, TaskKind::Plan) })
}

/// Returns a name within the run, if there is room for it.
pub(crate) fn own_id(short: &ShortRunId, local: &str) -> Option<TaskId> {
    local.parse::<TaskId>().ok()?.in_run(short).ok()
}

/// Returns the name of a run's answer, unless its plan has a task of that name.
pub(crate) fn answer_name(short: &ShortRunId) -> Option<TaskId> {
    own_id(short, ANSWER)
}

fn supervisors_task(entry: &RunEntry, id: TaskId, kind: TaskKind) -> Task {
    Task {
        id,
        worker: ORCHESTRATOR.parse().expect("BUG: the orchestrator's name is an id"),
        description: String::new(),
        dependencies: Vec::new(),
        priority: entry.priority,
        timeout: None,
        run: entry.run,
        retries: None,
        on_dependency_failure: OnDependencyFailure::Skip,
        budget_usd: None,
        budget_tokens: None,
        verify: None,
        context: Default::default(),
        kind,
    }
}
