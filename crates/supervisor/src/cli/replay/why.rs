//! The reasons of what happened, as far as the state before it shows them.

use protocol::{
    Attempt, Decider, Event, FailureKind, Priority, ReplicaId, RunMode, Status, Task, TaskError,
    TaskId, TaskKind, TaskResult, TaskSource, Time,
};
use scheduler::{Phase, Scheduler, TaskEntry, TaskState};

use crate::cli::text::{count, duration, list, one_line};

/// How much of a message is shown.
const MAX_MESSAGE: usize = 300;

/// Returns why this happens, a sentence each. `before` is the state without it.
pub(super) fn why(before: &Scheduler, at: Time, event: &Event) -> Vec<String> {
    match event {
        Event::RunOpened { mode, .. } => vec![opened(*mode).to_owned()],
        Event::TaskAdded { task, source } => added(before, task, *source),
        Event::PlanRejected { reasons, .. } => {
            reasons.iter().map(|reason| one_line(reason, MAX_MESSAGE)).collect()
        }
        Event::PlanAccepted { given, .. } => {
            let mut why = vec!["its workers exist, it has no cycle, and it keeps the limits"];
            if !given.is_empty() {
                why.push("what it builds on from earlier runs is complete");
            }
            why.into_iter().map(str::to_owned).collect()
        }
        Event::AttemptDispatched { task, attempt, replica, resume, .. } => {
            dispatched(before, at, task, *attempt, replica, *resume)
        }
        Event::AttemptStarted { .. } => {
            vec!["the replica runs and has the attempt before it".to_owned()]
        }
        Event::AttemptStopping { error, .. } => vec![said(error)],
        Event::AttemptFailed { task, error, counted, retry_at, paused, .. } => {
            failed(before, at, task, error, *counted, *retry_at, *paused)
        }
        Event::TaskEnded { result, because, .. } => ended(before, result, because),
        Event::CancelRequested { .. } => vec!["somebody asked for it".to_owned()],
        Event::TaskReset { task } => reset(before, task),
        Event::TasksForgotten { .. } => {
            vec!["`supervisor gc --results` cleared them away".to_owned()]
        }
        Event::RunEnded { run, .. } => vec![figures(before.run_tasks(run))],
        Event::DecisionRaised { decision } => {
            vec![format!("only a person can mend that ({})", decision.kind)]
        }
        Event::DecisionMade { by, .. } => vec![
            match by {
                Decider::Person => "somebody answered",
                Decider::Retry => "somebody asked for a retry",
                Decider::Restart => "the supervisor was started again",
                Decider::Time => "its time is over",
            }
            .to_owned(),
        ],
    }
}

fn opened(mode: RunMode) -> &'static str {
    match mode {
        RunMode::Request => "somebody submitted a request",
        RunMode::Plan => "somebody submitted a plan",
        RunMode::PlanOnly => "somebody asked for the plan of a request",
        RunMode::Adhoc => "there is always a run for tasks without one",
    }
}

fn added(before: &Scheduler, task: &Task, source: TaskSource) -> Vec<String> {
    let from = match (source, task.kind) {
        (TaskSource::Drop, _) => format!("its file was put into tasks/{}/", task.worker),
        (TaskSource::Api, _) => "somebody asked for it".to_owned(),
        (TaskSource::Plan, _) => "it is in the run's plan".to_owned(),
        (TaskSource::Supervisor, TaskKind::Plan) => "the request is to be split".to_owned(),
        (TaskSource::Supervisor, _) => {
            let work = before.run_tasks(&task.run);
            let work = work.filter(|entry| entry.task.kind == TaskKind::Work);
            format!("all work of the run has ended: {}", figures(work))
        }
    };
    let is_over = |id: &&TaskId| before.task(id).is_some_and(|entry| entry.status().is_some());
    let open: Vec<_> = task.dependencies.iter().filter(|id| !is_over(id)).collect();
    let needs = match (task.dependencies.is_empty(), open.is_empty()) {
        (true, _) => "it depends on nothing".to_owned(),
        (false, true) => "what it depends on has ended".to_owned(),
        (false, false) => format!("it waits for {}", list(open)),
    };
    vec![from, needs]
}

fn dispatched(
    before: &Scheduler,
    at: Time,
    task: &TaskId,
    attempt: Attempt,
    replica: &ReplicaId,
    resume: bool,
) -> Vec<String> {
    let Some(entry) = before.task(task) else {
        return vec!["its task is in no journal that can be read".to_owned()];
    };
    let mut why = Vec::new();
    if attempt > Attempt::FIRST
        && let Some(error) = &entry.last_error
    {
        let mut last = format!("the attempt before it failed ({})", said(error));
        if let TaskState::Backoff { until } = entry.state
            && until <= at
        {
            let after = duration(at.since(until).as_secs_f64());
            last.push_str(&format!(", and its wait was over {after} ago"));
        }
        why.push(last);
    } else if !entry.task.dependencies.is_empty() {
        let how = |id: &TaskId| {
            let status = before.task(id).and_then(TaskEntry::status);
            format!("{id} is {}", status.map_or("not here", Status::as_str))
        };
        why.push(list(entry.task.dependencies.iter().map(how)));
    }
    let worker = &entry.task.worker;
    let running = match before.running() {
        0 => "nothing else runs".to_owned(),
        others => format!("{} at the same time", count(others, "attempt")),
    };
    why.push(format!("{replica} is free; {running}"));
    let others = before.ready(worker).saturating_sub(usize::from(entry.state == TaskState::Ready));
    if others > 0
        && let Some(standing) = before.standing(task)
    {
        let priority = match standing.priority {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
        };
        let waited = duration(at.since(standing.since).as_secs_f64());
        why.push(format!(
            "{} ready for {worker} too; it goes first by priority ({priority}), then the chain \
             below it ({}), then age ({waited})",
            match others {
                1 => "1 other task is".to_owned(),
                others => format!("{others} other tasks are"),
            },
            count(standing.chain.into(), "task"),
        ));
    }
    if resume {
        why.push("its session can be gone on with".to_owned());
    }
    why
}

fn failed(
    before: &Scheduler,
    at: Time,
    task: &TaskId,
    error: &TaskError,
    counted: bool,
    retry_at: Option<Time>,
    paused: bool,
) -> Vec<String> {
    let mut why = vec![said(error)];
    if let Some(entry) = before.task(task) {
        if let Some(Phase::Stopping { error: asked, .. }) = entry.live().map(|live| &live.phase)
            && asked != error
        {
            why.push(format!("it was being stopped: {}", said(asked)));
        }
        why.push(match counted {
            true => format!("it counts: failure {} of this task", entry.counted_failures + 1),
            false => "it uses up no retry".to_owned(),
        });
    }
    if paused {
        why.push("no attempt of its worker could be started: the worker is paused".to_owned());
    }
    why.push(match retry_at {
        Some(retry_at) if retry_at <= at => "it is tried again at once".to_owned(),
        Some(retry_at) => {
            let wait = duration(retry_at.since(at).as_secs_f64());
            format!("it may be tried again in {wait}")
        }
        None if before.task(task).is_some_and(|entry| entry.cancel_requested) => {
            "it is not tried again: somebody asked for its end".to_owned()
        }
        None => match error.kind {
            FailureKind::Refused | FailureKind::Invalid => {
                "it is not tried again: such a failure does not pass".to_owned()
            }
            FailureKind::Tampered => {
                "it is not tried again by itself: look at its transcript first".to_owned()
            }
            _ => "it is not tried again: its retries are used up".to_owned(),
        },
    });
    why
}

fn ended(before: &Scheduler, result: &TaskResult, because: &[TaskId]) -> Vec<String> {
    let error = result.error.as_ref().map(said);
    match result.status {
        Status::Complete => vec![format!(
            "attempt {} was the live one, echoed its token, and what it handed in was checked",
            result.attempt
        )],
        Status::Skipped if !because.is_empty() => {
            let how = |id: &TaskId| match before.task(id).and_then(TaskEntry::status) {
                Some(status) => format!("{id} ({status})"),
                None => id.to_string(),
            };
            let chain: Vec<_> = because.iter().map(how).collect();
            vec![format!("it depends on {}", chain.join(" <- "))]
        }
        Status::Failed | Status::Skipped | Status::Cancelled => error.into_iter().collect(),
    }
}

fn reset(before: &Scheduler, task: &TaskId) -> Vec<String> {
    let entry = before.task(task);
    let status = entry.and_then(TaskEntry::status).map(|status| format!(": it was {status}"));
    vec![format!("somebody asked to do again what did not complete{}", status.unwrap_or_default())]
}

fn said(error: &TaskError) -> String {
    format!("{}: {}", error.kind, one_line(&error.message, MAX_MESSAGE))
}

/// Counts tasks by their ends: `2 complete, 1 failed`.
fn figures<'a>(tasks: impl Iterator<Item = &'a TaskEntry>) -> String {
    let mut found = [0_usize; 4];
    let states = [Status::Complete, Status::Failed, Status::Skipped, Status::Cancelled];
    let mut open = 0;
    for entry in tasks {
        match states.iter().position(|status| entry.status() == Some(*status)) {
            Some(at) => found[at] += 1,
            None => open += 1,
        }
    }
    let known = states.iter().map(|status| status.as_str()).zip(found).chain([("open", open)]);
    let named: Vec<_> =
        known.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
    if named.is_empty() { "there are no tasks".to_owned() } else { named.join(", ") }
}
