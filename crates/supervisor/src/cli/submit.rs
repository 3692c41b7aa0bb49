//! `supervisor submit`: split, run, answer; and the following of a run that `plan` shares.

use std::path::Path;

use super::args::SubmitArgs;
use super::context::Context;
use super::decisions::Lookout;
use super::follow::{Follow, News};
use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::text::{BOLD, NOTE, paint};
use super::{Outcome, Stop, input, summary};
use crate::api::types::{RunOpened, RunStatus, RunSummary, SubmitRun};
use crate::client::Client;
use crate::failure::Failure;
use crate::install::Installation;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &SubmitArgs) -> Result<Outcome, Stop> {
    let order = order(args)?;
    let installation = context.installation()?;
    let client = Client::connect(&installation).await?;
    let opened: RunOpened = client.post("/v1/runs", &order).await?;
    let short = opened.short.as_str();
    if args.detach {
        if args.json {
            context.screen.out_json(&opened)?;
        } else {
            context.screen.out(&format!("{short}\n"))?;
        }
        context.screen.err(&what_next(short));
        return Ok(Outcome::Done);
    }
    if !follow(context, &installation, &opened).await? {
        return Ok(Outcome::Interrupted);
    }
    // The daemon may have been restarted meanwhile.
    let client = Client::connect(&installation).await?;
    let figures: RunSummary = client.get(&format!("/v1/runs/{}", opened.run)).await?;
    if args.json {
        context.screen.out_json(&figures)?;
    } else {
        context.screen.err("\n");
        context.screen.out(&summary::render(&figures, short))?;
    }
    Ok(if figures.state == RunStatus::Complete { Outcome::Done } else { Outcome::Incomplete })
}

fn order(args: &SubmitArgs) -> Result<SubmitRun, Failure> {
    let (request, plan) = match args.plan {
        true => (None, Some(input::plan(&args.file)?)),
        false => (Some(request(&args.file)?), None),
    };
    Ok(SubmitRun {
        request,
        plan,
        plan_only: false,
        name: args.name.clone(),
        priority: args.priority,
        budget_usd: args.budget,
        budget_tokens: args.budget_tokens,
    })
}

/// Reads a request, and says so where somebody hands in a plan as one.
pub(crate) fn request(file: &Path) -> Result<String, Failure> {
    let text = input::text(file)?;
    let is_plan = serde_json::from_str::<serde_json::Value>(&text)
        .is_ok_and(|value| value.get("tasks").is_some_and(serde_json::Value::is_array));
    if is_plan {
        let message = format!("`{}` is a plan, not a request", file.display());
        let hint = "Hand it in with `supervisor submit --plan`.";
        return Err(Failure::bad_input(message).hint(hint));
    }
    Ok(text)
}

/// Shows a run's progress on standard error until it ends. False when somebody interrupts that.
pub(crate) async fn follow(
    context: &mut Context,
    installation: &Installation,
    opened: &RunOpened,
) -> Result<bool, Failure> {
    let mut progress = Progress::new(context.zone.clone());
    let mut follow = Follow::new(installation.clone(), opened.short.as_str());
    let zone = context.zone.clone();
    let mut lookout = Lookout::new(installation.clone(), opened.short.as_str(), zone);
    let screen = &mut context.screen;
    let watch = async {
        loop {
            let news = tokio::select! {
                biased;
                news = follow.next() => news?,
                questions = lookout.next(|_| true) => {
                    screen.err(&questions);
                    continue;
                }
            };
            match news {
                News::Event(entry) => {
                    if let Some(record) = &entry.record {
                        screen.err(&progress.take(record));
                    }
                }
                News::Away => screen.err(&notice(
                    "The supervisor went away. The run is kept; waiting for the supervisor to come \
                     back.",
                )),
                News::Back => screen.err(&notice("The supervisor is back.")),
                News::End => return Ok(()),
            }
        }
    };
    match unless_interrupted(watch).await {
        Some(ended) => ended.map(|()| true),
        None => {
            context.screen.err(&interrupted(opened.short.as_str()));
            Ok(false)
        }
    }
}

fn notice(text: &str) -> String {
    format!("{}\n", paint(NOTE, text))
}

fn interrupted(short: &str) -> String {
    let heading = paint(BOLD, format!("Run {short} goes on without you."));
    format!("\n{heading}\n{}", what_next(short))
}

/// Says how to look at a run that nobody follows.
pub(crate) fn what_next(short: &str) -> String {
    format!(
        "  supervisor status {short}      how far it is
  supervisor events {short} -f   what happens, as it happens
  supervisor result {short}      its answer, when it has ended
  supervisor cancel {short}      put an end to it
"
    )
}
