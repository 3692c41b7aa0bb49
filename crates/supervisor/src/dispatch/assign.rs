//! What a worker is told of an attempt, and what its task may spend.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::time::Duration;

use protocol::{
    AgentSpec, Assignment, Attempt, FailureKind, HoldScope, Input, SessionPlan, Task, TaskError,
    TaskId, TaskKind,
};
use scheduler::Budget;

use super::Dispatcher;
use crate::slot::Awaited;
use crate::workers::{self, Worker};

/// Returns whether the system could not read something, that is there and may be read.
fn is_passing(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidData
    )
}

impl Dispatcher {
    /// Returns what a worker has to know for an attempt, and what its task may spend; `None` when the
    /// attempt is over by now.
    pub(super) fn assignment(
        &self,
        task: &TaskId,
        attempt: Attempt,
    ) -> Option<Result<(Assignment, Budget), TaskError>> {
        let entry = self.scheduler.task(task)?;
        let live = entry.live().filter(|live| live.attempt == attempt)?;
        let run = self.scheduler.run(&entry.task.run)?;
        let worker = match workers::load(&self.installation, &entry.task.worker) {
            Ok(worker) => worker,
            Err(failure) => {
                let mut message = vec![failure.to_string()];
                message.extend(failure.causes());
                // What can't be read now may well be read later, and is no fault of the task's.
                let kind = match failure.source().and_then(|error| error.downcast_ref()) {
                    Some(error) if is_passing(error) => FailureKind::WorkerLost,
                    _ => FailureKind::Invalid,
                };
                let error = TaskError::new(kind, message.join(": "));
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
        let budget = self.scheduler.budget(&HoldScope::Task(task.clone()));
        let budget = Budget {
            usd: budget.usd.or(config.budget_usd),
            tokens: budget.tokens.or(config.budget_tokens),
        };
        let session = entry.session.filter(|session| session.id == live.session);
        let assignment = Assignment {
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
            agent: self.agent(&worker, entry.task.kind),
            request,
            workers: (entry.task.kind == TaskKind::Plan).then(|| self.catalogue()),
            inputs: inputs.collect(),
            feedback: entry.feedback.clone(),
            rehearsal: self.rehearsal,
        };
        Some(Ok((assignment, budget)))
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
            session: live.session,
            verify: entry.task.verify.clone(),
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
}
