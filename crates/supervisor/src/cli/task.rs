//! `supervisor task`: one task for one worker, without a plan.

use std::path::Path;

use protocol::{Event, HoldScope, Priority, RunId, WorkerId};
use serde_json::{Value, json};

use super::args::TaskArgs;
use super::context::Context;
use super::decisions::Lookout;
use super::follow::{Follow, News};
use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::replay::task_of;
use super::text::NOTE;
use super::{Outcome, Stop, input, result, text};
use crate::api::types::{DecisionView, NewTask, TaskAdded, TaskStatus, TaskView};
use crate::client::Client;
use crate::failure::Failure;
use crate::install::Installation;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &TaskArgs) -> Result<Outcome, Stop> {
    let description = match args.text.as_str() {
        "-" => input::text(Path::new("-"))?,
        text if text.trim().is_empty() => {
            let hint = "Say what to do, in plain words.";
            return Err(Failure::bad_input("the text of the task is empty").hint(hint).into());
        }
        text => text.to_owned(),
    };
    let installation = context.installation()?;
    let client = Client::connect(&installation).await?;
    let added: TaskAdded = client
        .post("/v1/tasks", &body(args, &description))
        .await
        .map_err(|failure| unread(&installation, &args.worker, failure))?;
    let task = added.task_id.as_str();
    if added.existed {
        context.screen.err(&format!("The task {task} was there before, and is the same.\n"));
    }
    if args.detach {
        match args.json {
            true => context.screen.out_json(&added)?,
            false => context.screen.out(&format!("{task}\n"))?,
        }
        context.screen.err(&what_next(task));
        return Ok(Outcome::Done);
    }
    let Some(ended) = unless_interrupted(follow(context, &installation, &added)).await else {
        let heading = format!("\nThe task {task} goes on without you.\n");
        context.screen.err(&format!("{heading}{}", what_next(task)));
        return Ok(Outcome::Interrupted);
    };
    let view = ended?;
    result::print_task(context, &view, args.json)?;
    Ok(if view.status == TaskStatus::Complete { Outcome::Done } else { Outcome::Incomplete })
}

/// Returns the failure with a better cure, where the worker is newer than the daemon.
fn unread(installation: &Installation, worker: &WorkerId, failure: Failure) -> Failure {
    let is_unknown = failure.to_string() == format!("there is no worker `{worker}`");
    if !is_unknown || !installation.workspace(worker).join("worker.toml").is_file() {
        return failure;
    }
    failure.hint(format!(
        "`workspaces/{worker}` came after the supervisor's start. To have it read: supervisor down; \
         supervisor up --detach"
    ))
}

/// Returns the task as the format of tasks has it.
fn body(args: &TaskArgs, description: &str) -> NewTask {
    let mut task = json!({ "worker": args.worker, "description": description });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            task[name] = value;
        }
    };
    set("task_id", args.id.as_ref().map(|id| json!(id)));
    set("dependencies", (!args.after.is_empty()).then(|| json!(args.after)));
    set("priority", (args.priority != Priority::default()).then(|| json!(args.priority)));
    set("timeout", args.timeout.map(Value::from));
    set("retries", args.retries.map(Value::from));
    let asked_otherwise = args.on_dependency_failure != "skip";
    set("on_dependency_failure", asked_otherwise.then(|| json!(args.on_dependency_failure)));
    set("budget_usd", args.budget.map(Value::from));
    set("budget_tokens", args.budget_tokens.map(Value::from));
    let mut verify = serde_json::Map::new();
    if !args.verify_artifact.is_empty() {
        verify.insert("artifacts".to_owned(), json!(args.verify_artifact));
    }
    if let Some(command) = &args.verify_command {
        verify.insert("command".to_owned(), json!(command));
    }
    set("verify", (!verify.is_empty()).then_some(Value::Object(verify)));
    NewTask(task)
}

/// Shows the task's progress until it has ended, and returns how.
async fn follow(
    context: &mut Context,
    installation: &Installation,
    added: &TaskAdded,
) -> Result<TaskView, Failure> {
    let task = &added.task_id;
    let path = format!("/v1/tasks/{task}");
    let view = async || -> Result<TaskView, Failure> {
        Client::connect(installation).await?.get(&path).await
    };
    let first = view().await?;
    if first.status.has_ended() {
        return Ok(first);
    }
    let mut progress = Progress::new(context.zone.clone());
    let mut follow =
        Follow::new(installation.clone(), RunId::Adhoc.to_string()).starting_at(added.offset);
    let adhoc = RunId::Adhoc.to_string();
    let mut lookout = Lookout::new(installation.clone(), adhoc, context.zone.clone());
    let concerns = |question: &DecisionView| match &question.decision.scope {
        HoldScope::Task(held) => held == task,
        HoldScope::Worker(held) => *held == first.worker,
        HoldScope::Run(_) | HoldScope::All => true,
    };
    loop {
        let news = tokio::select! {
            biased;
            news = follow.next() => news?,
            questions = lookout.next(concerns) => {
                context.screen.err(&questions);
                continue;
            }
        };
        match news {
            News::Event(entry) => {
                let Some(record) =
                    entry.record.filter(|record| task_of(&record.event) == Some(task))
                else {
                    continue;
                };
                context.screen.err(&progress.take(&record));
                if matches!(record.event, Event::TaskEnded { .. }) {
                    // It may be an end that was undone since: what is now, the daemon knows.
                    let now = view().await?;
                    if now.status.has_ended() {
                        return Ok(now);
                    }
                }
            }
            News::Away => context.screen.err(&text::paint(
                NOTE,
                "The supervisor went away. The task is kept; waiting for the supervisor.\n",
            )),
            News::Back => context.screen.err(&text::paint(NOTE, "The supervisor is back.\n")),
            // The run of single tasks never ends; if it does, the task has.
            News::End => return view().await,
        }
    }
}

fn what_next(task: &str) -> String {
    format!(
        "  supervisor logs {task} -f   what the agent says and does
  supervisor result {task}    its result, when it has ended
  supervisor cancel {task}    put an end to it
"
    )
}
