//! `supervisor status`: what runs, what waits and why, what failed and why.

use jiff::tz::TimeZone;
use protocol::{HoldScope, Time};

use super::args::StatusArgs;
use super::context::Context;
use super::summary::{run_style, status_style};
use super::table::{Cell, Table};
use super::text::{
    self, BAD, BOLD, NOTE, clean, count, duration, list, moment, number, one_line, paint, usd,
};
use super::{Outcome, Stop, decisions, strays, target, usage};
use crate::api::types::{Health, RunView, StatusReport, TaskStatus, TaskView, WorkerView};
use crate::api::usage::Today;
use crate::client::Client;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &StatusArgs) -> Result<Outcome, Stop> {
    let path = match &args.run {
        Some(run) => format!("/v1/status?run={}", target::name(run)?),
        None => "/v1/status".to_owned(),
    };
    let installation = context.installation()?;
    let report: StatusReport = Client::connect(&installation).await?.get(&path).await?;
    if args.json {
        context.screen.out_json(&report)?;
    } else {
        let one = args.run.is_some();
        let mut text = render(&report, one, text::now(), &context.zone);
        if !one {
            let workers: Vec<&str> = report.workers.iter().map(|w| w.worker.as_str()).collect();
            for stray in strays::find(&installation, &workers) {
                text.push_str(&format!("\n{} {}\n", paint(NOTE, "Note:"), stray));
            }
        }
        context.screen.out(&text)?;
    }
    Ok(Outcome::Done)
}

/// Returns the report as text; about one run only, if it was asked for.
pub(crate) fn render(report: &StatusReport, one: bool, now: Time, zone: &TimeZone) -> String {
    let mut text = String::new();
    if !one {
        text.push_str(&daemon(&report.daemon, &report.today, zone));
    }
    // What waits for a decision is told with what to type.
    let held = |worker: &&WorkerView| {
        report.decisions.iter().any(|view| match &view.decision.scope {
            HoldScope::Worker(held) => *held == worker.worker,
            HoldScope::All => true,
            HoldScope::Task(_) | HoldScope::Run(_) => false,
        })
    };
    for worker in report.workers.iter().filter(|worker| !held(worker)) {
        text.push_str(&paused(worker));
    }
    if !report.decisions.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&decisions::render(&report.decisions, zone));
    }
    if report.runs.is_empty() {
        text.push_str("\nNo run is open. `supervisor submit FILE` begins one.\n");
    }
    for run in &report.runs {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&one_run(run, now, zone));
    }
    text
}

fn daemon(health: &Health, today: &Today, zone: &TimeZone) -> String {
    let model = match health.rehearsal {
        true => paint(NOTE, "rehearsal (no model is asked)"),
        false => health.upstream.clone(),
    };
    let mut text = format!(
        "{} serves {} since {} (process {}, version {})\nWorkers run as {}; model: {model}\n",
        paint(BOLD, "The supervisor"),
        health.folder,
        moment(health.started_at, zone),
        health.pid,
        health.version,
        runtime(&health.runtime),
    );
    text.push_str(&spent(today, health.rehearsal));
    for notice in &health.notices {
        text.push_str(&format!("{} {}\n", paint(NOTE, "Note:"), clean(notice)));
    }
    text
}

/// Says what the day has taken, and of how much.
fn spent(today: &Today, rehearsal: bool) -> String {
    if today.day.is_empty() {
        return String::new();
    }
    let mut figures = Vec::new();
    match today.budget_usd {
        _ if rehearsal => figures.push("nothing is billed".to_owned()),
        Some(budget) => figures.push(format!("{} of {}", usage::spent(today), usd(budget))),
        None => figures.push(usage::spent(today)),
    }
    let tokens = number(today.tokens);
    figures.push(match today.budget_tokens {
        Some(budget) => format!("{tokens} of {} tokens", number(budget)),
        None => format!("{tokens} tokens"),
    });
    let requests = usize::try_from(today.requests).unwrap_or(usize::MAX);
    figures.push(count(requests, "request"));
    format!("Today ({}, UTC): {}\n", today.day, figures.join(", "))
}

/// Returns a runtime in words.
pub(crate) fn runtime(name: &str) -> String {
    match name {
        "docker" => "containers".to_owned(),
        "process" => "plain processes, without a container's walls".to_owned(),
        other => other.to_owned(),
    }
}

fn paused(worker: &WorkerView) -> String {
    let Some(error) = &worker.paused else {
        return String::new();
    };
    let name = paint(BAD, format!("{} is paused", worker.worker));
    let mut text = format!("{name} ({}): {}\n", error.kind, one_line(&error.message, 500));
    if let Some(hint) = &error.hint {
        text.push_str(&format!("  Hint: {}\n", one_line(hint, 500)));
    }
    text
}

/// Returns a run with its tasks as a table.
pub(crate) fn one_run(run: &RunView, now: Time, zone: &TimeZone) -> String {
    let name = run.name.as_ref().map(|name| format!(" ({})", one_line(name, 60)));
    let ended = run.tasks.iter().filter(|task| task.status.has_ended()).count();
    let mut text = format!(
        "{}{}: {}, {ended} of {} ended, opened {}\n",
        paint(BOLD, format!("Run {}", run.short)),
        name.unwrap_or_default(),
        paint(run_style(run.state), run.state.as_str()),
        count(run.tasks.len(), "task"),
        moment(run.opened_at, zone),
    );
    if run.tasks.is_empty() {
        return text;
    }
    let mut table = Table::new(&["TASK", "WORKER", "STATUS", ">ATTEMPT", "NOTE"]);
    for task in &run.tasks {
        table.row([
            task.task_id.as_str().into(),
            task.worker.as_str().into(),
            Cell::styled(status_style(task.status), task.status.as_str()),
            task.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string()).into(),
            note(task, now).into(),
        ]);
    }
    text.push_str(&table.render());
    text
}

/// Returns what there is to say of a task: why it waits or did not complete, how long it runs.
fn note(task: &TaskView, now: Time) -> String {
    let mut parts = Vec::new();
    if task.status == TaskStatus::Running
        && let Some(since) = task.since
    {
        parts.push(format!("for {}", duration(now.since(since).as_secs_f64())));
    }
    // The reason of a task that waits names the same tasks, and says more of them.
    let said = task.reason.as_ref().is_some_and(|reason| reason.starts_with("waits for "));
    if !task.waiting_for.is_empty() && !said {
        parts.push(format!("waits for {}", list(&task.waiting_for)));
    }
    if let Some(reason) = &task.reason {
        parts.push(one_line(reason, 200));
    }
    parts.join("; ")
}
