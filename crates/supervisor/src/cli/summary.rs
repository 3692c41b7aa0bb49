//! A run's figures, as a person reads them when it has ended.

use anstyle::Style;
use protocol::Usage;

use super::table::{Cell, Table};
use super::text::{
    BAD, GOOD, LIVE, NOTE, at_cost, clean, cost, count, duration, indent, number, one_line, paint,
};
use super::usage;
use crate::api::types::{RunStatus, RunSummary, TaskStatus};

/// How to leave the rehearsal.
pub(crate) const GO_LIVE: &str = "To go live: export ANTHROPIC_API_KEY=…; supervisor down; make up";

/// Returns the table of tasks, what did not complete and why, the figures, and where the answer is.
pub(crate) fn render(summary: &RunSummary, short: &str) -> String {
    let mut table =
        Table::new(&["TASK", "WORKER", "STATUS", ">ATTEMPTS", ">TIME", ">TOKENS", ">COST"]);
    for task in &summary.tasks {
        table.row([
            task.task_id.as_str().into(),
            task.worker.as_str().into(),
            Cell::styled(status_style(task.status), task.status.as_str()),
            task.attempts.to_string().into(),
            if task.attempts == 0 { "-".into() } else { duration(task.execution_time).into() },
            tokens(&task.usage).into(),
            cost(task.cost_usd).into(),
        ]);
    }
    let mut text = String::new();
    if !table.is_empty() {
        text.push_str(&table.render());
        text.push('\n');
    }
    text.push_str(&faults(summary));
    text.push_str(&figures(summary, short));
    if summary.rehearsal {
        text.push_str(&paint(
            NOTE,
            "This is a rehearsal: no model was asked, nothing was billed, and the texts are stand-ins.",
        ));
        text.push_str(&format!("\n{GO_LIVE}\n"));
    }
    match &summary.answer {
        Some(path) => {
            text.push_str(&format!("\nAnswer: {path}\n`supervisor result {short}` prints it.\n"));
        }
        None => text.push_str(&format!(
            "\nThere is no answer. `supervisor logs {short}` shows what the agents did; `supervisor \
             retry {short}`\ndoes again what did not complete.\n"
        )),
    }
    text
}

fn figures(summary: &RunSummary, short: &str) -> String {
    let complete = summary.tasks.iter().filter(|task| task.status == TaskStatus::Complete).count();
    let all = summary.tasks.len();
    let tasks = match complete == all {
        true => count(all, "task"),
        false => format!("{complete} of {all} tasks complete"),
    };
    let state = paint(run_style(summary.state), summary.state.as_str());
    let mut text = format!(
        "Run {short} is {state}: {tasks} in {}, {} tokens, {}\n",
        duration(summary.elapsed),
        tokens(&summary.usage),
        at_cost(summary.cost_usd),
    );
    if let Some(saved) = summary.saved_usd.filter(|saved| *saved != 0.0) {
        let share = usage::percent(summary.cache_share);
        text.push_str(&format!(
            "{share} of its input came from the prompt cache, which saved {}\n",
            usage::signed(saved)
        ));
    }
    if !summary.waits.is_empty() {
        text.push_str(&format!("Its requests waited: {}\n", usage::waits(&summary.waits)));
    }
    text
}

/// Returns all tokens, read and written.
pub(crate) fn tokens(usage: &Usage) -> String {
    number(usage.input().saturating_add(usage.output_tokens))
}

/// Says of each task that did not complete why, and what to do.
fn faults(summary: &RunSummary) -> String {
    let mut text = String::new();
    for task in &summary.tasks {
        let Some(error) = &task.error else { continue };
        let style = status_style(task.status);
        let what = paint(style, format!("{} {}", task.task_id, task.status.as_str()));
        text.push_str(&format!("{what} ({}): {}\n", error.kind, one_line(&error.message, 1000)));
        if let Some(hint) = &error.hint {
            text.push_str(&indent(&format!("Hint: {}", clean(hint)), 2));
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Returns the style of a task's status.
pub(crate) fn status_style(status: TaskStatus) -> Style {
    match status {
        TaskStatus::Complete => GOOD,
        TaskStatus::Failed => BAD,
        TaskStatus::Skipped | TaskStatus::Cancelled => NOTE,
        TaskStatus::Running => LIVE,
        TaskStatus::Waiting | TaskStatus::Ready => Style::new(),
    }
}

/// Returns the style of a run's state.
pub(crate) fn run_style(state: RunStatus) -> Style {
    match state {
        RunStatus::Complete => GOOD,
        RunStatus::Failed => BAD,
        RunStatus::Partial | RunStatus::Cancelled => NOTE,
        RunStatus::Planning | RunStatus::Executing | RunStatus::Synthesising => LIVE,
    }
}
