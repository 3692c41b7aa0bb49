//! Translates what happened outside, and what somebody wants, into events.

use std::collections::HashSet;

use protocol::{
    Event, ORCHESTRATOR, PlanFault, RunId, RunMode, ShortRunId, Status, Task, TaskId, TaskKind,
    TaskSource, WorkerId, strict,
};

use crate::scheduler::Turn;
use crate::{Input, Refusal, RunPhase, Scheduler, Target, TaskEntry};

impl Scheduler {
    /// Records what an input says, if it says anything new. First checks, then records: an error
    /// leaves everything as it was.
    pub(crate) fn take_in(&mut self, turn: &mut Turn<'_>, input: Input) -> Result<(), Refusal> {
        match input {
            Input::Tick => {}
            Input::OpenRun { .. } => return self.open_run(turn, input),
            Input::AddTask { task, source } => return self.add_task(turn, task, source),
            Input::Cancel(Target::Run(run)) => {
                let &ix = self.run_index.get(&run).ok_or(Refusal::UnknownRun(run))?;
                let run_ = &self.runs[ix];
                let standing = run_.entry.mode == RunMode::Adhoc;
                if run_.ended.is_some() || (standing && run_.open.is_empty()) {
                    return Err(Refusal::AlreadyEnded);
                }
                if !run_.entry.cancel_requested {
                    self.record(turn, Event::CancelRequested { run, task: None });
                }
            }
            Input::Cancel(Target::Task(id)) => {
                let ix = self.graph.find(&id).ok_or_else(|| Refusal::UnknownTask(id.clone()))?;
                let entry = &self.graph[ix].entry;
                if entry.status().is_some() {
                    return Err(Refusal::AlreadyEnded);
                }
                if !entry.cancel_requested {
                    let run = entry.task.run;
                    self.record(turn, Event::CancelRequested { run, task: Some(id) });
                }
            }
            Input::Retry(target) => return self.retry(turn, &target),
            Input::Forget(tasks) => {
                let named: HashSet<&TaskId> = tasks.iter().collect();
                let tasks = self.dispensable_tasks(&[], |entry| named.contains(&entry.task.id));
                if !tasks.is_empty() {
                    self.record(turn, Event::TasksForgotten { run: RunId::Adhoc, tasks });
                }
            }
            Input::Decide { decision, choice } => return self.decide(turn, decision, choice),
            Input::AttemptStarted { task, attempt } => self.attempt_started(turn, task, attempt),
            Input::AttemptReported { report } => self.attempt_reported(turn, report),
            Input::AttemptUnstartable { task, attempt, error, pause } => {
                self.attempt_unstartable(turn, task, attempt, error, pause);
            }
            Input::ReplicaStarted { replica } => self.workers.set_up(&replica, true),
            Input::ReplicaGone { replica, used, error, pause } => {
                self.replica_gone(turn, &replica, used, error, pause);
            }
        }
        Ok(())
    }

    fn open_run(&mut self, turn: &mut Turn<'_>, input: Input) -> Result<(), Refusal> {
        let Input::OpenRun {
            run,
            short,
            name,
            mode,
            request,
            plan,
            priority,
            budget_usd,
            budget_tokens,
            rehearsal,
        } = input
        else {
            return Ok(());
        };
        if self.run_index.contains_key(&run) {
            // Said twice.
            return Ok(());
        }
        if mode != RunMode::Adhoc {
            self.check_worker(&orchestrator())?;
            // The last of the names that the run may need for its own tasks.
            let own = |local: &str| own_name(&short, local);
            let (plan_task, _) = (own("plan")?, own("answer-65535")?);
            if self.shorts.contains(&short)
                || (mode != RunMode::Plan && self.graph.is_taken(&plan_task))
            {
                return Err(Refusal::Exists(plan_task));
            }
        }
        let (mut request, mut tasks, mut given) = (request, Vec::new(), Vec::new());
        if mode == RunMode::Plan {
            let plan = plan.unwrap_or_default();
            tasks = plan
                .resolve(run, &short, priority, &self.plan_workers(), self.config.plan)
                .map_err(Refusal::Plan)?;
            self.check_given(&plan.given).map_err(Refusal::Plan)?;
            if let Some(task) = tasks.iter().find(|task| self.graph.is_taken(&task.id)) {
                return Err(Refusal::Exists(task.id.clone()));
            }
            request = request.or(plan.request);
            given = plan.given;
        }
        self.record(
            turn,
            Event::RunOpened {
                run,
                short,
                name,
                mode,
                request,
                priority,
                budget_usd,
                budget_tokens,
                rehearsal,
            },
        );
        if mode == RunMode::Plan {
            self.record(turn, Event::PlanAccepted { run, tasks: tasks.len(), given, plan: None });
            self.add_planned(turn, tasks);
        }
        Ok(())
    }

    /// Checks that the tasks of other runs on which a plan builds are complete: a task that is may
    /// not be done again, so nothing ever waits for them.
    fn check_given(&self, given: &[TaskId]) -> Result<(), Vec<PlanFault>> {
        let fault = |task: &TaskId| {
            // An answer may be written again.
            let work = self.task(task).filter(|entry| entry.task.kind == TaskKind::Work);
            let status = work.and_then(TaskEntry::status);
            let fault = PlanFault::NotGiven { task: task.clone(), status };
            (status != Some(Status::Complete)).then_some(fault)
        };
        let faults: Vec<_> = given.iter().filter_map(fault).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn add_task(
        &mut self,
        turn: &mut Turn<'_>,
        mut task: Task,
        source: TaskSource,
    ) -> Result<(), Refusal> {
        if self.graph.find(&task.id).is_some() {
            return Err(Refusal::Exists(task.id));
        }
        if let Some(gone) =
            task.dependencies.iter().chain([&task.id]).find(|id| self.graph.is_gone(id))
        {
            return Err(Refusal::Gone(gone.clone()));
        }
        self.check_worker(&task.worker)?;
        let &run = self.run_index.get(&task.run).ok_or(Refusal::UnknownRun(task.run))?;
        let run = &self.runs[run].entry;
        if run.cancel_requested || matches!(run.phase, RunPhase::Ended { .. }) {
            return Err(Refusal::RunEnded(task.run));
        }
        if let Some(cycle) = self.cycle_with(&task) {
            return Err(Refusal::Cycle(cycle));
        }
        // Planning and answering are for the scheduler itself to ask for.
        task.kind = TaskKind::Work;
        self.record(turn, Event::TaskAdded { task, source });
        Ok(())
    }

    fn check_worker(&self, worker: &WorkerId) -> Result<(), Refusal> {
        if self.config.workers.contains_key(worker) {
            return Ok(());
        }
        let names = self.config.workers.keys().map(WorkerId::as_str);
        let nearest = strict::nearest(worker.as_str(), names);
        Err(Refusal::UnknownWorker { worker: worker.clone(), nearest })
    }
}

fn orchestrator() -> WorkerId {
    ORCHESTRATOR.parse().expect("BUG: the orchestrator's name is an id")
}

fn own_name(short: &ShortRunId, local: &str) -> Result<TaskId, Refusal> {
    let local: TaskId = local.parse().expect("BUG: our own names are ids");
    local.in_run(short).map_err(|_| Refusal::Plan(vec![PlanFault::LongId(local)]))
}
