//! `supervisor plan`: split a request and show the plan.

use protocol::Plan;

use super::args::PlanArgs;
use super::context::Context;
use super::table::Table;
use super::text::{count, list, one_line};
use super::{Outcome, Stop, submit, summary};
use crate::api::types::{RunOpened, RunStatus, RunSummary, SubmitRun};
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
    if args.json {
        context.screen.out_json(&plan)?;
        return Ok(Outcome::Done);
    }
    context.screen.err("\n");
    context.screen.out(&render(&plan, figures.rehearsal))?;
    context.screen.err(&how_to_run(&args.file.display().to_string()));
    Ok(Outcome::Done)
}

/// Returns the plan as a table.
pub(crate) fn render(plan: &Plan, rehearsal: bool) -> String {
    let mut table = Table::new(&["TASK", "WORKER", "WAITS FOR", "WHAT"]);
    for task in &plan.tasks {
        let waits_for = match task.dependencies.as_slice() {
            [] => "-".to_owned(),
            dependencies => list(dependencies),
        };
        table.row([
            task.id.as_str().into(),
            task.worker.as_str().into(),
            waits_for.into(),
            one_line(&task.description, 60).into(),
        ]);
    }
    let note = if rehearsal { "\nThis is a rehearsal: no model was asked.\n" } else { "" };
    format!(
        "{}\n{}; cost: unknown (no past runs to go by)\n{note}",
        table.render(),
        count(plan.tasks.len(), "task")
    )
}

fn how_to_run(file: &str) -> String {
    format!(
        "\nNothing of it was started. To carry it out, as it is or changed by you:\n  supervisor plan \
         {file} --json > plan.json\n  supervisor submit --plan plan.json\n"
    )
}
