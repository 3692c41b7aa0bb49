//! `supervisor workers`: who there is.

use super::args::JsonArgs;
use super::context::Context;
use super::table::{Cell, Table};
use super::text::{BAD, LIVE, list, one_line};
use super::{Outcome, Stop};
use crate::api::types::WorkerView;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &JsonArgs) -> Result<Outcome, Stop> {
    let workers: Vec<WorkerView> = context.client().await?.get("/v1/workers").await?;
    if args.json {
        context.screen.out_json(&workers)?;
    } else {
        context.screen.out(&render(&workers))?;
    }
    Ok(Outcome::Done)
}

/// Returns the workers as a table.
pub(crate) fn render(workers: &[WorkerView]) -> String {
    if workers.is_empty() {
        return "There are no workers: each is a folder in `workspaces/` with a `worker.toml`.\n"
            .to_owned();
    }
    let mut table = Table::new(&["WORKER", "MODEL", ">REPLICAS", "KEY", "NOW", "WHAT FOR"]);
    for worker in workers {
        let now = match (&worker.paused, worker.running.as_slice()) {
            (Some(error), _) => {
                Cell::styled(BAD, format!("paused: {}", one_line(&error.message, 40)))
            }
            (None, []) => "idle".into(),
            (None, running) => Cell::styled(LIVE, one_line(&list(running), 60)),
        };
        table.row([
            worker.worker.as_str().into(),
            worker.model.as_deref().unwrap_or("(the CLI's)").into(),
            worker.replicas.to_string().into(),
            worker.auth.as_str().into(),
            now,
            one_line(&worker.description, 60).into(),
        ]);
    }
    table.render()
}
