//! What a command is about: a run, a task or a worker; `supervisor cancel` and `retry`.

use protocol::TaskId;

use super::args::TargetArgs;
use super::context::Context;
use super::{Outcome, Stop};
use crate::api::types::TargetName;
use crate::failure::Failure;

/// Returns the name if it can be one. What can't be one never gets into a path of the API.
pub(crate) fn name(id: &str) -> Result<&str, Failure> {
    match id.parse::<TaskId>() {
        Ok(_) => Ok(id),
        Err(error) => {
            Err(Failure::bad_input(format!("`{id}` can't be the name of a run or a task"))
                .because(error)
                .hint("`supervisor status` shows the names of runs and tasks."))
        }
    }
}

/// Returns the failure to find a run or task of that name.
pub(crate) fn unknown(id: &str) -> Failure {
    Failure::bad_input(format!("there is no run or task `{id}`"))
        .hint("`supervisor status` shows the names of runs and tasks.")
}

/// Puts an end to a run or a task.
pub(crate) async fn cancel(context: &mut Context, args: &TargetArgs) -> Result<Outcome, Stop> {
    let id = ask(context, "/v1/cancel", &args.id).await?;
    context.screen.err(&format!("{id} is being cancelled. `supervisor status` shows its end.\n"));
    Ok(Outcome::Done)
}

/// Does again what did not complete.
pub(crate) async fn retry(context: &mut Context, args: &TargetArgs) -> Result<Outcome, Stop> {
    let id = ask(context, "/v1/retry", &args.id).await?;
    context.screen.err(&format!("{id} is done again. `supervisor status` shows how far it is.\n"));
    Ok(Outcome::Done)
}

async fn ask<'a>(context: &Context, path: &str, id: &'a str) -> Result<&'a str, Failure> {
    let id = name(id)?;
    let target = TargetName { id: id.to_owned() };
    let _: serde_json::Value = context.client().await?.post(path, &target).await?;
    Ok(id)
}
