//! What a worker is told of an attempt, and what the attempt may spend.

use std::time::Duration;

use protocol::{
    AgentSpec, Assignment, Attempt, Event, FailureKind, Input, RunId, SessionPlan, Status, Task,
    TaskError, TaskId, TaskKind,
};
use scheduler::RunEntry;

use super::Dispatcher;
use crate::slot::Awaited;
use crate::workers::{self, Worker};

impl Dispatcher {
    /// Returns what a worker has to know for an attempt; `None` when the attempt is over by now.
    pub(super) fn assignment(
        &self,
        task: &TaskId,
        attempt: Attempt,
    ) -> Option<Result<Assignment, TaskError>> {
        let entry = self.scheduler.task(task)?;
        let live = entry.live().filter(|live| live.attempt == attempt)?;
        let run = self.scheduler.run(&entry.task.run)?;
        let worker = match workers::load(&self.installation, &entry.task.worker) {
            Ok(worker) => worker,
            Err(failure) => {
                let mut message = vec![failure.to_string()];
                message.extend(failure.causes());
                let error = TaskError::new(FailureKind::Invalid, message.join(": "));
                return Some(Err(error.with_hint("Mend it and retry the task.")));
            }
        };
        let config = &worker.config;
        let is_work = entry.task.kind == TaskKind::Work;
        let request = run.request.clone().filter(|_| is_work);
        let inputs = entry.task.dependencies.iter().filter_map(|id| {
            let dependency = self.scheduler.task(id)?;
            let status = dependency.status()?;
            let worker = dependency.task.worker.clone();
            Some(Input { task: id.clone(), worker, status })
        });
        let budget_usd = match self.budget(run, entry.task.budget_usd.or(config.budget_usd)) {
            Ok(budget) => budget,
            Err(error) => return Some(Err(error)),
        };
        let session = entry.session.filter(|session| session.id == live.session);
        Some(Ok(Assignment {
            task: Task::clone(&entry.task),
            attempt,
            token: live.token,
            session: SessionPlan {
                id: live.session,
                resume: live.resume,
                used: session.map(|session| session.used).unwrap_or_default(),
                cost_usd: session.map(|session| session.cost_usd).unwrap_or_default(),
            },
            timeout: entry.task.timeout.unwrap_or(Duration::from_secs(config.timeout.into())),
            idle_timeout: Duration::from_secs(config.idle_timeout.into()),
            budget_usd,
            agent: self.agent(&worker, entry.task.kind),
            request,
            workers: (entry.task.kind == TaskKind::Plan).then(|| self.catalogue()),
            inputs: inputs.collect(),
            feedback: entry.feedback.clone(),
            rehearsal: self.rehearsal,
        }))
    }

    /// Returns what is waited for of an attempt; `None` when it is over by now.
    pub(super) fn awaited(&self, task: &TaskId, attempt: Attempt) -> Option<Awaited> {
        let entry = self.scheduler.task(task)?;
        let live = entry.live().filter(|live| live.attempt == attempt)?;
        Some(Awaited {
            task: task.clone(),
            run: entry.task.run,
            worker: entry.task.worker.clone(),
            attempt,
            priority: entry.task.priority,
            token: live.token,
            rehearsal: self.rehearsal,
        })
    }

    /// Planning and synthesis need no tools: that keeps their requests small.
    fn agent(&self, worker: &Worker, kind: TaskKind) -> AgentSpec {
        let mut agent = worker.agent();
        if kind != TaskKind::Work {
            agent.tools.clear();
            agent.subagents = None;
            agent.mcp = None;
        }
        agent
    }

    fn catalogue(&self) -> serde_json::Value {
        let others = self.workers.values().filter(|w| w.id.as_str() != protocol::ORCHESTRATOR);
        others.map(Worker::catalogue_entry).collect()
    }

    /// Adds up what runs with a budget spend. A failed attempt is counted as such, not again with its
    /// task.
    pub(super) fn count_cost(&mut self, run: RunId, event: &Event) {
        let cost = match event {
            Event::AttemptFailed { cost_usd, .. } => *cost_usd,
            Event::TaskEnded { result, .. } if result.status == Status::Complete => result.cost_usd,
            _ => return,
        };
        if self.scheduler.run(&run).is_some_and(|run| run.budget_usd.is_some()) {
            *self.spent.entry(run).or_default() += cost;
        }
    }

    /// Returns what an attempt may spend: its own budget, or what is left of the run's.
    ///
    /// # Errors
    ///
    /// A failure of kind `budget` when nothing is left.
    fn budget(&self, run: &RunEntry, own: Option<f64>) -> Result<Option<f64>, TaskError> {
        if self.rehearsal {
            // Nothing is billed, whatever the CLI reckons.
            return Ok(None);
        }
        let Some(budget) = run.budget_usd else { return Ok(own) };
        let left = budget - self.spent.get(&run.run).copied().unwrap_or_default();
        if left > 0.0 {
            return Ok(Some(own.map_or(left, |own| own.min(left))));
        }
        let message = format!("the run's budget of ${budget:.2} is used up");
        Err(TaskError::new(FailureKind::Budget, message)
            .with_hint("Submit what is left as a new run, with a budget of its own."))
    }
}
