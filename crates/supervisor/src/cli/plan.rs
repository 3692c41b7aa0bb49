//! `supervisor plan`: split a request and show the plan.

use protocol::{Plan, TaskKind};

use super::args::PlanArgs;
use super::context::Context;
use super::table::Table;
use super::text::{cost, count, list, number, one_line, usd};
use super::{Outcome, Stop, submit, summary};
use crate::api::types::{RunOpened, RunStatus, RunSummary, SubmitRun};
use crate::api::usage::{Estimate, Past, Spread, TaskEstimate};
use crate::client::Client;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &PlanArgs) -> Result<Outcome, Stop> {
    let request = submit::request(&args.file)?;
    let installation = context.installation()?;
    let client = Client::connect(&installation).await?;
    let order = SubmitRun { request: Some(request), plan_only: true, ..SubmitRun::default() };
    let opened: RunOpened = client.post("/v1/runs", &order).await?;
    if !submit::follow(context, &installation, &opened).await? {
        return Ok(Outcome::Interrupted);
    }
    let client = Client::connect(&installation).await?;
    let figures: RunSummary = client.get(&format!("/v1/runs/{}", opened.run)).await?;
    if figures.state != RunStatus::Complete {
        context.screen.err(&summary::render(&figures, opened.short.as_str()));
        return Ok(Outcome::Incomplete);
    }
    let plan: Plan = client.get(&format!("/v1/runs/{}/plan", opened.run)).await?;
    let estimate: Estimate = client.get(&format!("/v1/runs/{}/estimate", opened.run)).await?;
    context.screen.err("\n");
    if args.json {
        context.screen.err(&price(&estimate));
        context.screen.out_json(&plan)?;
        return Ok(Outcome::Done);
    }
    context.screen.out(&render(&plan, &estimate, figures.rehearsal))?;
    context.screen.err(&how_to_run(&args.file.display().to_string()));
    Ok(Outcome::Done)
}

/// Returns the plan as a table, and its price.
pub(crate) fn render(plan: &Plan, estimate: &Estimate, rehearsal: bool) -> String {
    let mut table = Table::new(&["TASK", "WORKER", "WAITS FOR", ">COST", "WHAT"]);
    for task in &plan.tasks {
        let waits_for = match task.dependencies.as_slice() {
            [] => "-".to_owned(),
            dependencies => list(dependencies),
        };
        let is_it = |of: &&TaskEstimate| of.kind == TaskKind::Work && of.id == task.id;
        let past = estimate.tasks.iter().find(is_it).and_then(|of| of.cost_usd);
        table.row([
            task.id.as_str().into(),
            task.worker.as_str().into(),
            waits_for.into(),
            cost(past.map(|past| past.median)).into(),
            one_line(&task.description, 60).into(),
        ]);
    }
    let note = if rehearsal { "\nThis is a rehearsal: no model was asked.\n" } else { "" };
    let tasks = count(plan.tasks.len(), "task");
    format!("{}\n{tasks}; {}{note}", table.render(), price(estimate))
}

/// Says what the plan may cost, and what that is based on.
fn price(estimate: &Estimate) -> String {
    let Estimate { cost_usd, known_cost_usd, tokens, known_tokens, past, .. } = estimate;
    if past.iter().all(|past| past.tasks == 0) {
        return "cost: unknown (no past runs to go by)\n".to_owned();
    }
    let dollars = |of: &Spread| format!("{}, to be cautious {}", usd(of.median), usd(of.p90));
    let thousands = |of: &Spread| {
        let [median, p90] = [of.median, of.p90].map(|tokens| number(tokens.round() as u64));
        format!("{median}, to be cautious {p90}")
    };
    let sum = |all: &Option<Spread>, known: &Spread, say: &dyn Fn(&Spread) -> String| match all {
        Some(all) => say(all),
        None => format!("unknown; what is known of it: {}", say(known)),
    };
    let mut text = format!(
        "with splitting and answering it\n  cost:   {}\n  tokens: {}\n",
        sum(cost_usd, known_cost_usd, &dollars),
        sum(tokens, known_tokens, &thousands),
    );
    text.push_str("Those are sums of medians, and of 90th percentiles,\n");
    past.iter().for_each(|past| text.push_str(&format!("  {}\n", basis(past))));
    text
}

/// Says what the figures for a worker are based on.
fn basis(past: &Past) -> String {
    let what = match past.kind {
        TaskKind::Work => format!("of {}", past.worker),
        TaskKind::Plan => "that split requests".to_owned(),
        TaskKind::Synthesize => "that answered requests".to_owned(),
    };
    let found = match usize::try_from(past.tasks).unwrap_or(usize::MAX) {
        0 => return format!("from no task {what}: unknown"),
        tasks => count(tasks, "task"),
    };
    let spread = match past.cost_usd {
        Some(of) => format!("{}, 9 of 10 up to {}", usd(of.median), usd(of.p90)),
        None => "cost unknown".to_owned(),
    };
    let without = match past.unpriced {
        0 => String::new(),
        unpriced => format!(" ({unpriced} without a price)"),
    };
    format!("from {found} {what}{without}: {spread}")
}

fn how_to_run(file: &str) -> String {
    format!(
        "\nNothing of it was started. To carry it out, as it is or changed by you:\n  supervisor plan \
         {file} --json > plan.json\n  supervisor submit --plan plan.json\n"
    )
}
