//! The command line: each command in a module of its own.
//!
//! A command returns an `Outcome` or says why it had to `Stop`; what that means to the shell is
//! decided in one place, `exit_code`. Text is made by pure functions and printed by `screen`.

pub mod args;
mod auth;
mod check;
mod context;
mod decisions;
mod diff;
mod doctor;
mod down;
mod egress;
mod events;
mod follow;
mod gc;
mod history;
mod input;
mod interrupt;
mod left_behind;
mod log;
mod logs;
mod plan;
mod progress;
pub mod reference;
mod replay;
mod report;
mod rescue;
mod result;
mod schema;
mod screen;
mod status;
mod strays;
mod submit;
mod summary;
mod table;
mod target;
mod task;
#[cfg(test)]
mod tests;
mod text;
mod transcript;
mod up;
mod usage;
mod workers;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::config::Config;
use crate::failure::{Failure, FailureKind};
use crate::install::Installation;
use crate::keys::handover;
use args::{AuthCommand, Cli, Command};
use context::Context;

pub use doctor::tracked_credentials;
#[cfg(test)]
pub(crate) use report::failure as show_failure;

/// How a command ended that did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it is done.
    Done,
    /// The run or task ended, but not every task is complete; or two runs are not the same.
    Incomplete,
    /// Somebody interrupted it; what it followed goes on.
    Interrupted,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It could not.
    Failed(Failure),
    /// Whoever read its output has closed it, as `head` does.
    NobodyReads,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Reads the command line. Ends the process when it is wrong (2), or asks for help or the version.
pub fn parse() -> Cli {
    let command = Cli::command().color(early_color(std::env::args()));
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| error.exit())
}

/// Returns what `--color` says, before anything else is known: errors of usage obey it too.
fn early_color(args: impl Iterator<Item = String>) -> clap::ColorChoice {
    let args: Vec<String> = args.take_while(|arg| arg != "--").collect();
    let apart = args.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1].as_str());
    let joined = args.iter().find_map(|arg| arg.strip_prefix("--color="));
    apart.or(joined).and_then(|choice| choice.parse().ok()).unwrap_or_default()
}

/// Carries out a command and returns what the shell is told. `serve` is the daemon: it returns when
/// the daemon has ended.
pub fn run(
    cli: Cli,
    serve: impl AsyncFnOnce(Installation, Config) -> Result<(), Failure>,
) -> ExitCode {
    let mut context = Context::new(&cli);
    let is_daemon = matches!(&cli.command, Command::Up(args) if !args.detach);
    log::start(cli.verbose, is_daemon, cli.color);
    if is_daemon {
        // In the manner of the process, so before there are threads.
        if let Err(failure) = handover::leave_environment() {
            context.screen.err(&report::failure(&failure));
            return ExitCode::from(exit_code(&Err(failure.into())));
        }
        handover::shield();
    }
    let mut builder = match is_daemon {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let result = match builder.enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(cli, &mut context, serve));
            // A read of standard input that was given up must not hold the process.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::unavailable("threads can't be made").because(error).into()),
    };
    if let Err(Stop::Failed(failure)) = &result {
        context.screen.err(&report::failure(failure));
    }
    ExitCode::from(exit_code(&result))
}

/// Returns what a line of a transcript says.
#[cfg(feature = "fuzzing")]
pub(crate) fn render_line(line: &str) -> String {
    transcript::render(line)
}

async fn dispatch(
    cli: Cli,
    context: &mut Context,
    serve: impl AsyncFnOnce(Installation, Config) -> Result<(), Failure>,
) -> Result<Outcome, Stop> {
    match cli.command {
        Command::Up(args) => up::run(context, &args, serve).await,
        Command::Down(args) => down::run(context, &args).await,
        Command::Submit(args) => submit::run(context, &args).await,
        Command::Plan(args) => plan::run(context, &args).await,
        Command::Task(args) => task::run(context, &args).await,
        Command::Check(args) => check::run(context, &args),
        Command::Status(args) => status::run(context, &args).await,
        Command::Logs(args) => logs::run(context, &args).await,
        Command::Result(args) => result::run(context, &args).await,
        Command::Egress(args) => egress::run(context, &args),
        Command::Events(args) => events::run(context, &args).await,
        Command::Replay(args) => replay::run(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Rescue(args) => rescue::run(context, &args),
        Command::Cancel(args) => target::cancel(context, &args).await,
        Command::Retry(args) => target::retry(context, &args).await,
        Command::Decisions(args) => decisions::run(context, &args).await,
        Command::Decide(args) => decisions::decide(context, &args).await,
        Command::Usage(args) => usage::run(context, &args).await,
        Command::Workers(args) => workers::run(context, &args).await,
        Command::Auth(AuthCommand::Login { worker }) => auth::login(context, &worker).await,
        Command::Auth(AuthCommand::Status { worker }) => auth::status(context, worker.as_ref()),
        Command::Doctor(args) => doctor::run(context, &args).await,
        Command::Gc(args) => gc::run(context, &args).await,
        Command::Schema(args) => schema::run(context, &args),
        Command::Completions(args) => schema::completions(context, &args),
    }
}

/// Returns what the shell is told. 2, for a command line that is wrong, is clap's.
fn exit_code(result: &Result<Outcome, Stop>) -> u8 {
    match result {
        Ok(Outcome::Done) | Err(Stop::NobodyReads) => 0,
        Ok(Outcome::Incomplete) => 1,
        Ok(Outcome::Interrupted) => 130,
        Err(Stop::Failed(failure)) => match failure.kind() {
            FailureKind::BadInput => 3,
            FailureKind::Unavailable => 4,
        },
    }
}
