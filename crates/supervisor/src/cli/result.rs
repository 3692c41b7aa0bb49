//! `supervisor result`: the answer of a run, or the result of a task.

use std::fs;

use super::args::ResultArgs;
use super::context::Context;
use super::summary::{GO_LIVE, status_style, tokens};
use super::text::{BOLD, NOTE, at_cost, clean, duration, indent, paint};
use super::{Outcome, Stop, target};
use crate::api::types::{RunStatus, RunSummary, TaskStatus, TaskView};
use crate::client::Client;
use crate::failure::Failure;
use crate::install::Installation;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &ResultArgs) -> Result<Outcome, Stop> {
    let id = target::name(&args.id)?;
    let installation = context.installation()?;
    let client = Client::connect(&installation).await?;
    if let Some(run) = client.find::<RunSummary>(&format!("/v1/runs/{id}")).await? {
        return print_run(context, &installation, id, &run, args.json);
    }
    let Some(task) = client.find::<TaskView>(&format!("/v1/tasks/{id}")).await? else {
        return Err(target::unknown(id).into());
    };
    print_task(context, &task, args.json)?;
    Ok(if task.status == TaskStatus::Complete { Outcome::Done } else { Outcome::Incomplete })
}

fn print_run(
    context: &mut Context,
    installation: &Installation,
    id: &str,
    run: &RunSummary,
    json: bool,
) -> Result<Outcome, Stop> {
    if json {
        context.screen.out_json(run)?;
    } else {
        let answer = answer(installation, id, run)?;
        if context.screen.out_is_terminal() {
            context.screen.out(&clean(&String::from_utf8_lossy(&answer)))?;
        } else {
            context.screen.out_raw(&answer)?;
        }
        if run.state == RunStatus::Partial {
            let note = format!("\nThe answer has gaps: `supervisor status {id}` shows them.\n");
            context.screen.err(&paint(NOTE, note));
        }
    }
    Ok(if run.state == RunStatus::Complete { Outcome::Done } else { Outcome::Incomplete })
}

fn answer(installation: &Installation, id: &str, run: &RunSummary) -> Result<Vec<u8>, Failure> {
    let Some(path) = &run.answer else {
        let state = run.state.as_str();
        return Err(if run.state.has_ended() {
            Failure::bad_input(format!("run {id} is {state} and has no answer"))
                .hint(format!("`supervisor status {id}` shows what failed and why."))
        } else {
            Failure::bad_input(format!("run {id} is {state}: there is no answer yet"))
                .hint(format!("`supervisor events {id} -f` shows what happens until there is one."))
        });
    };
    fs::read(installation.root().join(path)).map_err(|error| {
        Failure::unavailable(format!("the answer `{path}` can't be read")).because(error)
    })
}

/// Prints the result of a task, or says that there is none yet.
pub(crate) fn print_task(context: &mut Context, view: &TaskView, json: bool) -> Result<(), Stop> {
    if view.result.is_none() {
        let task = &view.task_id;
        let message = format!("task {task} is {}: there is no result yet", view.status.as_str());
        let failure = Failure::bad_input(message);
        let failure = match &view.reason {
            Some(reason) => failure.because(reason.clone()),
            None => failure,
        };
        let hint = match view.status {
            TaskStatus::Waiting | TaskStatus::Ready => {
                "`supervisor status` shows what it waits for.".to_owned()
            }
            _ => format!("`supervisor logs {task} -f` shows what the agent says and does."),
        };
        return Err(failure.hint(hint).into());
    }
    match (&view.result, json) {
        (Some(result), true) => context.screen.out_json(result),
        _ => context.screen.out(&render(view)),
    }
}

/// Returns the result of a task as text.
pub(crate) fn render(view: &TaskView) -> String {
    let Some(result) = &view.result else {
        return String::new();
    };
    let status = paint(status_style(view.status), result.status);
    let mut text = format!("{} by {} is {status}", paint(BOLD, &result.task_id), result.worker);
    if result.attempt > 0 {
        text.push_str(&format!(
            " (attempt {}, {}, {} tokens, {})",
            result.attempt,
            duration(result.execution_time),
            tokens(&result.usage),
            at_cost(view.cost_usd),
        ));
    }
    text.push('\n');
    if let Some(error) = &result.error {
        text.push_str(&format!(
            "\n{} {}\n",
            paint(BOLD, format!("{}:", error.kind)),
            clean(&error.message)
        ));
        if let Some(hint) = &error.hint {
            text.push_str(&format!("Hint: {}\n", clean(hint)));
        }
    }
    let repeats_error = result.error.as_ref().is_some_and(|error| error.message == result.summary);
    if !result.summary.trim().is_empty() && !repeats_error {
        text.push_str(&format!("\n{}\n", clean(result.summary.trim_end())));
    }
    section(&mut text, "Findings", &result.findings);
    section(&mut text, "Recommendations", &result.recommendations);
    section(&mut text, "Artifacts", &result.artifacts);
    if result.rehearsal {
        let note = "This is a rehearsal: no model was asked, nothing was billed, and the text is a stand-in.";
        text.push_str(&format!("\n{}\n{GO_LIVE}\n", paint(NOTE, note)));
    }
    text
}

fn section(text: &mut String, heading: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    text.push_str(&format!("\n{}\n", paint(BOLD, heading)));
    for item in items {
        let item = indent(&clean(item.trim_end()), 4);
        text.push_str(&format!("  - {}", item.trim_start()));
    }
}
