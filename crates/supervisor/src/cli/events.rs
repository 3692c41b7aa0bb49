//! `supervisor events`: a run's journal.

use super::args::EventsArgs;
use super::context::Context;
use super::follow::{Entry, Follow, News};
use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::text::{NOTE, one_line, paint};
use super::{Outcome, Stop, target};
use crate::client::Client;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &EventsArgs) -> Result<Outcome, Stop> {
    let run = target::name(&args.run)?;
    let installation = context.installation()?;
    let mut progress = Progress::new(context.zone.clone());
    if !args.follow {
        let client = Client::connect(&installation).await?;
        let mut lines = client.lines(&format!("/v1/runs/{run}/events")).await?;
        while let Some(line) = lines.next().await? {
            let record = serde_json::from_str(&line).ok();
            show(context, &mut progress, &Entry { line, record }, args.json)?;
        }
        return Ok(Outcome::Done);
    }
    let mut follow = Follow::new(installation, run);
    let watch = async {
        loop {
            match follow.next().await? {
                News::Event(entry) => show(context, &mut progress, &entry, args.json)?,
                News::Away => context.screen.err(&paint(NOTE, "The supervisor went away.\n")),
                News::Back => context.screen.err(&paint(NOTE, "The supervisor is back.\n")),
                News::End => return Ok(Outcome::Done),
            }
        }
    };
    unless_interrupted(watch).await.unwrap_or(Ok(Outcome::Interrupted))
}

fn show(
    context: &mut Context,
    progress: &mut Progress,
    entry: &Entry,
    json: bool,
) -> Result<(), Stop> {
    match (&entry.record, json) {
        (_, true) => context.screen.out_raw(format!("{}\n", entry.line).as_bytes()),
        (Some(record), false) => {
            if let Some(snapshot) = &record.snapshot {
                let events = "attempts that were over are left out; their tasks' sums have them";
                let text = format!("Up to event {} it is shortened: {events}.\n", snapshot.seq);
                context.screen.err(&paint(NOTE, &text));
            }
            let text = progress.take(record);
            let text = if text.is_empty() { progress.in_passing(record) } else { text };
            context.screen.out(&text)
        }
        (None, false) => {
            let line = one_line(&entry.line, 120);
            context.screen.out(&format!("an event of a later version: {line}\n"))
        }
    }
}
