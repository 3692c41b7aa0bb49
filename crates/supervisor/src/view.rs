//! What the scheduler knows, as a person or a program wants to see it.

use protocol::{
    Attempt, HoldScope, Priority, RunId, RunMode, RunState, ShortRunId, Status, TaskKind, Time,
    Usage,
};
use scheduler::{Input, Phase, RunEntry, RunPhase, Scheduler, TaskEntry, TaskState};

use crate::api::types::{RunStatus, RunSummary, RunView, TaskStatus, TaskSummary, TaskView};
use crate::gateways::Gateways;
use crate::install::Installation;
use crate::usage::cache_share;

/// Returns the input that opens the standing run.
pub fn adhoc(rehearsal: bool) -> Input {
    Input::OpenRun {
        run: RunId::Adhoc,
        short: RunId::Adhoc.short(|_| false),
        name: None,
        mode: RunMode::Adhoc,
        request: None,
        plan: None,
        priority: Priority::default(),
        budget_usd: None,
        budget_tokens: None,
        rehearsal,
    }
}

/// Returns whether a run has ended.
pub fn has_ended(run: &RunEntry) -> bool {
    matches!(run.phase, RunPhase::Ended { .. })
}

/// Finds a run by its id or its short form.
pub fn find_run(scheduler: &Scheduler, id: &str) -> Option<RunId> {
    match id.parse::<RunId>() {
        Ok(run) => scheduler.run(&run).map(|run| run.run),
        Err(_) => {
            let short: ShortRunId = id.parse().ok()?;
            scheduler.runs().find(|run| run.short == short).map(|run| run.run)
        }
    }
}

/// Returns the state of a run.
pub fn run_status(run: &RunEntry) -> RunStatus {
    match run.phase {
        RunPhase::Planning => RunStatus::Planning,
        RunPhase::Executing => RunStatus::Executing,
        RunPhase::Synthesising => RunStatus::Synthesising,
        RunPhase::Ended { state, .. } => state.into(),
    }
}

/// Returns a run as it stands.
pub fn run(scheduler: &Scheduler, run: &RunEntry, now: Time) -> RunView {
    RunView {
        run: run.run,
        short: run.short.clone(),
        name: run.name.clone(),
        state: run_status(run),
        opened_at: run.opened,
        tasks: scheduler.run_tasks(&run.run).map(|entry| task(scheduler, entry, now)).collect(),
    }
}

/// Returns a task as it stands, without its result.
pub fn task(scheduler: &Scheduler, entry: &TaskEntry, now: Time) -> TaskView {
    let task = &entry.task;
    let waiting_for = match entry.state {
        TaskState::Waiting => scheduler.waiting_for(&task.id),
        _ => Vec::new(),
    };
    let (since, reason) = match &entry.state {
        TaskState::Waiting => {
            let names: Vec<_> = waiting_for
                .iter()
                .map(|id| match scheduler.task(id) {
                    Some(_) => id.to_string(),
                    None => format!("{id} (not here yet)"),
                })
                .collect();
            (None, Some(format!("waits for {}", names.join(", "))))
        }
        TaskState::Ready => (None, Some(ready(scheduler, entry))),
        TaskState::Backoff { until } => (None, Some(waits(entry, *until, now))),
        TaskState::Live(live) => {
            let doing = match &live.phase {
                Phase::Launching => format!("is handed to {}", live.replica),
                Phase::Running { .. } => format!("attempt {} on {}", live.attempt, live.replica),
                Phase::Stopping { error, .. } => format!("is being stopped: {}", error.message),
            };
            (live.phase.started(), Some(doing))
        }
        TaskState::Ended(status) => {
            let result = entry.result.as_ref();
            let error = result.and_then(|result| result.error.as_ref());
            let reason = error.map(|error| match status {
                Status::Failed => error.to_string(),
                _ => error.message.clone(),
            });
            (result.map(|result| result.finished_at), reason)
        }
    };
    TaskView {
        task_id: task.id.clone(),
        run: task.run,
        worker: task.worker.clone(),
        status: task_status(&entry.state),
        attempt: entry.last_attempt,
        waiting_for,
        reason,
        since,
        title: title(&task.description, task.kind),
        cost_usd: entry.cost_usd,
        result: None,
    }
}

/// Returns why a task that could go does not.
fn ready(scheduler: &Scheduler, entry: &TaskEntry) -> String {
    if let Some(hold) = scheduler.held_by(entry) {
        let id = hold.decision.as_ref().map(|decision| format!(" {}", decision.id));
        let (id, kind) = (id.unwrap_or_default(), hold.kind);
        return format!("waits for decision{id} ({kind}): {}", hold.error.message);
    }
    let worker = &entry.task.worker;
    match scheduler.paused().find(|(paused, _)| *paused == worker) {
        Some((_, error)) => format!("{worker} is paused: {error}"),
        None => format!("waits for room at {worker}"),
    }
}

/// Returns why a task waits for the time of its next attempt.
fn waits(entry: &TaskEntry, until: Time, now: Time) -> String {
    let error = entry.last_error.as_ref();
    let limit = error.filter(|error| error.kind.passes() && error.retry_at.is_some());
    if let Some(error) = limit {
        let whose = match &error.scope {
            Some(HoldScope::Worker(worker)) => worker.to_string(),
            Some(HoldScope::All) => "the account".to_owned(),
            // The message says whether it is the API's, or one that somebody has set.
            Some(HoldScope::Task(_) | HoldScope::Run(_)) | None => {
                return format!("goes on at {}: {}", utc(until, now), error.message);
            }
        };
        return format!("waits for the limit of {whose} to reset at {}", utc(until, now));
    }
    let seconds = until.since(now).as_secs_f64();
    let why = error.map(|error| format!(", after {error}")).unwrap_or_default();
    format!("tries again in {seconds:.1} s{why}")
}

/// Returns a time as hours and minutes, with the day when it is another one. The daemon does not know
/// the zone of whoever reads it.
pub(crate) fn utc(time: Time, now: Time) -> String {
    let (time, now) = (time.to_string(), now.to_string());
    // RFC 3339 in UTC: 2026-11-20T14:05:00.000Z
    match (time.split_at_checked(10), now.get(..10)) {
        (Some((day, rest)), Some(today)) => {
            let clock = rest.get(1..6).unwrap_or(rest);
            if day == today { format!("{clock} UTC") } else { format!("{day} {clock} UTC") }
        }
        _ => time,
    }
}

/// Returns where a task stands, as a person sees it.
pub(crate) fn task_status(state: &TaskState) -> TaskStatus {
    match state {
        TaskState::Waiting | TaskState::Backoff { .. } => TaskStatus::Waiting,
        TaskState::Ready => TaskStatus::Ready,
        TaskState::Live(_) => TaskStatus::Running,
        TaskState::Ended(status) => (*status).into(),
    }
}

/// The longest title, in characters: it stands in a line of a table.
const MAX_TITLE: usize = 80;

fn title(description: &str, kind: TaskKind) -> String {
    match kind {
        TaskKind::Plan => return "split the request".to_owned(),
        TaskKind::Synthesize => return "answer the request".to_owned(),
        TaskKind::Work => {}
    }
    let line = description.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_TITLE) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line.to_owned(),
    }
}

/// Returns a run's figures; `None` when there is no such run.
pub fn summary(
    scheduler: &Scheduler,
    installation: &Installation,
    gateways: &Gateways,
    id: RunId,
    now: Time,
) -> Option<RunSummary> {
    let run = scheduler.run(&id)?;
    let mut usage = Usage::default();
    let mut cost_usd = Some(0.0);
    let mut tasks = Vec::new();
    for entry in scheduler.run_tasks(&id) {
        usage += entry.usage;
        cost_usd = cost_usd.zip(entry.cost_usd).map(|(sum, cost)| sum + cost);
        let result = entry.result.as_ref();
        tasks.push(TaskSummary {
            task_id: entry.task.id.clone(),
            worker: entry.task.worker.clone(),
            status: task_status(&entry.state),
            attempts: entry.last_attempt.map_or(0, Attempt::get),
            execution_time: result.map_or(0.0, |result| result.execution_time),
            usage: entry.usage,
            cost_usd: entry.cost_usd,
            error: result.and_then(|result| result.error.clone()),
        });
    }
    let (ended, end) = match run.phase {
        RunPhase::Ended { at, .. } => (true, at),
        _ => (false, now),
    };
    let (saved_usd, waits) = gateways.run_figures(id);
    let shown = |path: &std::path::Path| ended.then(|| installation.relative(path));
    Some(RunSummary {
        run: id,
        state: run_status(run),
        answer: answer(scheduler, id).and_then(|_| shown(&installation.answer(id))),
        summary: shown(&installation.summary(id)),
        tasks,
        cost_usd,
        usage,
        cache_share: cache_share(&usage),
        saved_usd,
        waits,
        elapsed: end.since(run.opened).as_secs_f64(),
        rehearsal: run.rehearsal,
    })
}

/// Returns the text of a run's answer, if it has one: the synthesis, or where that failed, what the
/// tasks said. A run that is cancelled or only split has none.
pub fn answer(scheduler: &Scheduler, id: RunId) -> Option<String> {
    let run = scheduler.run(&id)?;
    let RunPhase::Ended { state, .. } = run.phase else { return None };
    if matches!(run.mode, RunMode::PlanOnly | RunMode::Adhoc) || state == RunState::Cancelled {
        return None;
    }
    let mut text = String::new();
    if run.rehearsal {
        text.push_str("> Rehearsal: no model was asked. Everything here is made up.\n\n");
    }
    let synthesis = scheduler.run_tasks(&id).find(|entry| entry.task.kind == TaskKind::Synthesize);
    let report = synthesis
        .and_then(|entry| entry.result.as_ref())
        .filter(|result| result.status == Status::Complete)
        .and_then(|result| result.report.as_deref());
    match report {
        Some(report) => {
            text.push_str(report.trim_end());
            text.push('\n');
        }
        None => text.push_str(&without_synthesis(scheduler, id, synthesis)),
    }
    Some(text)
}

/// Says what there is where nobody could put it together.
fn without_synthesis(scheduler: &Scheduler, id: RunId, synthesis: Option<&TaskEntry>) -> String {
    let mut text = String::from("# No answer\n\n");
    match synthesis.and_then(|entry| entry.last_error.as_ref()) {
        Some(error) => text.push_str(&format!("The results could not be put together: {error}\n")),
        None => text.push_str("No task of this run was completed.\n"),
    }
    for entry in scheduler.run_tasks(&id).filter(|entry| entry.task.kind != TaskKind::Synthesize) {
        let Some(result) = &entry.result else { continue };
        text.push_str(&format!(
            "\n## {} ({}, {})\n\n{}\n",
            entry.task.id,
            entry.task.worker,
            result.status,
            result.summary.trim()
        ));
        if let Some(hint) = result.error.as_ref().and_then(|error| error.hint.as_ref()) {
            text.push_str(&format!("\n{hint}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shown_with_its_day_only_when_that_is_another() {
        let hours = |hours: u64| Time::from_millis(hours * 3_600_000 + 300_000);
        assert_eq!(utc(hours(14), hours(9)), "14:05 UTC");
        assert_eq!(utc(hours(24), hours(23)), "1970-01-02 00:05 UTC");
    }
}
