//! `supervisor decisions` and `supervisor decide`: questions that wait for a person.

use std::collections::HashSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use protocol::{Choice, DecisionId};

use super::args::{Answer, DecideArgs, JsonArgs};
use super::context::Context;
use super::text::{BAD, DIM, clock, indent, moment, number, one_line, paint, usd};
use super::{Outcome, Stop};
use crate::api::types::{DecisionAnswer, DecisionView};
use crate::client::Client;
use crate::install::Installation;

/// How often whoever follows a run looks for new questions. They are not all in its journal.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Lists the questions that are open.
pub(crate) async fn run(context: &mut Context, args: &JsonArgs) -> Result<Outcome, Stop> {
    let decisions: Vec<DecisionView> = context.client().await?.get("/v1/decisions").await?;
    if args.json {
        context.screen.out_json(&decisions)?;
    } else if decisions.is_empty() {
        context.screen.out("Nothing waits for a decision.\n")?;
    } else {
        let zone = context.zone.clone();
        context.screen.out(&render(&decisions, &zone))?;
    }
    Ok(Outcome::Done)
}

/// Answers a question.
pub(crate) async fn decide(context: &mut Context, args: &DecideArgs) -> Result<Outcome, Stop> {
    let (id, choice) = (args.id, choice(&args.answer));
    let path = format!("/v1/decisions/{id}");
    let client = context.client().await?;
    let _: serde_json::Value = client.post(&path, &DecisionAnswer { choice }).await?;
    let what = match choice {
        Choice::GoOn { .. } => "what waited for it goes on",
        Choice::Stop => "what waited for it is stopped",
    };
    context
        .screen
        .err(&format!("{id} is decided: {what}. `supervisor status` shows how far it is.\n"));
    Ok(Outcome::Done)
}

fn choice(answer: &Answer) -> Choice {
    match answer {
        Answer::GoOn { budget, budget_tokens } => {
            Choice::GoOn { budget_usd: *budget, budget_tokens: *budget_tokens }
        }
        Answer::Stop => Choice::Stop,
    }
}

/// Returns the questions, each with what is known and what to type.
pub(crate) fn render(decisions: &[DecisionView], zone: &TimeZone) -> String {
    decisions.iter().map(|view| one(view, zone)).collect::<Vec<_>>().join("\n")
}

fn one(view: &DecisionView, zone: &TimeZone) -> String {
    let decision = &view.decision;
    let heading = paint(BAD, format!("Decision {}", decision.id));
    let since = moment(decision.raised_at, zone);
    let until = decision.until.map(|until| format!(", until {}", moment(until, zone)));
    let until = until.unwrap_or_default();
    let mut text = format!("{heading} ({}), open since {since}{until}\n", decision.kind);
    text.push_str(&indent(&one_line(&decision.question, 1000), 2));
    if let Some(figures) = figures(view) {
        text.push_str(&format!("  {figures}\n"));
    }
    if let Some(hint) = &view.hint {
        text.push_str(&format!("  Hint: {}\n", one_line(hint, 500)));
    }
    for command in &view.commands {
        text.push_str(&format!("    {}\n", one_line(command, 200)));
    }
    text
}

fn figures(view: &DecisionView) -> Option<String> {
    let usd = view.budget_usd.map(|budget| {
        let spent = view.spent_usd.map_or_else(|| "an unknown part".to_owned(), usd);
        format!("{spent} of {}", usd(budget))
    });
    let tokens = view.budget_tokens.zip(view.spent_tokens);
    let tokens = tokens.map(|(all, used)| format!("{} of {} tokens", number(used), number(all)));
    let parts: Vec<_> = usd.into_iter().chain(tokens).collect();
    (!parts.is_empty()).then(|| format!("Used: {}", parts.join(", ")))
}

/// Looks out for questions that hold up a run while somebody follows it.
#[derive(Debug)]
pub(crate) struct Lookout {
    installation: Installation,
    run: String,
    told: HashSet<DecisionId>,
    zone: TimeZone,
    timer: tokio::time::Interval,
}

impl Lookout {
    /// Returns a lookout for a run of which nothing was told yet.
    pub(crate) fn new(installation: Installation, run: impl Into<String>, zone: TimeZone) -> Self {
        let mut timer = tokio::time::interval(LOOK_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { installation, run: run.into(), told: HashSet::new(), zone, timer }
    }

    /// Waits for new questions and returns them as text. A daemon that does not answer has none to
    /// tell; whoever follows the run notices that it is away.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self, keep: impl Fn(&DecisionView) -> bool) -> String {
        loop {
            self.timer.tick().await;
            let Ok(client) = Client::connect(&self.installation).await else { continue };
            let path = format!("/v1/decisions?run={}", self.run);
            let Ok(open) = client.get::<Vec<DecisionView>>(&path).await else { continue };
            let mut text = String::new();
            for view in open.iter().filter(|view| keep(view)) {
                if self.told.insert(view.decision.id) {
                    text.push_str(&self.tell(view));
                }
            }
            if !text.is_empty() {
                return text;
            }
        }
    }

    fn tell(&self, view: &DecisionView) -> String {
        let time = paint(DIM, clock(view.decision.raised_at, &self.zone));
        let text = one(view, &self.zone);
        let (heading, rest) = text.split_once('\n').unwrap_or((&text, ""));
        format!("{time}  {heading}\n{}", indent(rest, 8))
    }
}
