//! `supervisor schema` and `supervisor completions`: what this program knows about itself.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs, SchemaArgs};
use super::context::Context;
use super::{Outcome, Stop};
use crate::failure::Failure;

/// Prints the JSON Schema of a format.
pub(crate) fn run(context: &mut Context, args: &SchemaArgs) -> Result<Outcome, Stop> {
    let schema = protocol::schema::json_schema(&args.name)
        .ok_or_else(|| Failure::bad_input(format!("there is no format `{}`", args.name)))?;
    context.screen.out_raw(schema.as_bytes())?;
    Ok(Outcome::Done)
}

/// Prints a completion script.
pub(crate) fn completions(context: &mut Context, args: &CompletionsArgs) -> Result<Outcome, Stop> {
    // Into memory first: the generator panics where it can't write, as into a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "supervisor", &mut script);
    context.screen.out_raw(&script)?;
    Ok(Outcome::Done)
}
