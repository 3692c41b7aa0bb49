//! The command line.

use std::path::PathBuf;

use clap::{Args as Options, Parser, Subcommand};
use protocol::{Resources, Wall};

/// Run the attempts that appear in a slot, one after the other
///
/// Started by the supervisor, as process 1 of a worker's container or as its child.
#[derive(Debug, Parser)]
#[command(name = "worker", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// What to do instead.
    #[command(subcommand)]
    pub(crate) mode: Option<Mode>,

    /// The folder in which attempts appear
    #[arg(long, value_name = "DIR", default_value = "/tasks")]
    pub(crate) tasks: PathBuf,

    /// The folder for their results
    #[arg(long, value_name = "DIR", default_value = "/results")]
    pub(crate) results: PathBuf,

    /// The worker's files
    #[arg(long, value_name = "DIR", default_value = "/workspace")]
    pub(crate) workspace: PathBuf,

    /// The folder with the worker's own login, where it has one
    #[arg(long, value_name = "DIR")]
    pub(crate) login: Option<PathBuf>,

    /// The socket that leads to the model's API
    #[arg(long, value_name = "SOCKET", default_value = "/run/gateway/gateway.sock")]
    pub(crate) gateway: PathBuf,

    /// The file that says at which port the gateway is, where there is no socket
    #[arg(long, value_name = "FILE", conflicts_with = "gateway")]
    pub(crate) door: Option<PathBuf>,

    /// The Claude Code CLI
    #[arg(long, value_name = "PATH", default_value = "claude")]
    pub(crate) claude: PathBuf,

    /// The agent's HOME; by default a fresh folder for each attempt
    #[arg(long, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,

    /// A folder of our own that is emptied before and after each attempt
    ///
    /// By default /tmp when this is process 1, otherwise a fresh folder there.
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,

    /// Do not expect the network to be out of reach: this is no container
    #[arg(long)]
    pub(crate) no_walls: bool,

    /// Do not wait for the model's API: what runs here is a program that asks no model
    #[arg(long)]
    pub(crate) no_model: bool,

    /// How much an attempt may write, in MiB
    #[arg(long, value_name = "MIB", default_value_t = Resources::default().disk_mib)]
    pub(crate) disk_mib: u64,

    /// How many files and folders an attempt may write
    #[arg(long, value_name = "N", default_value_t = Resources::default().files)]
    pub(crate) files: u64,

    /// The limit on memory that this container should have, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,

    /// The limit on processes that it should have
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u64>,

    /// The limit on processors that it should have
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<f64>,

    /// Expect the workspace to be writable
    #[arg(long)]
    pub(crate) shared_workspace: bool,

    /// Walls and limits without which attempts are taken, too
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) r#unsafe: Vec<Wall>,

    /// End after one attempt
    #[arg(long)]
    pub(crate) once: bool,

    /// Log what is found and decided, too
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// Run the command by which a task checks what an attempt left, and end as it does
    Check(CheckArgs),
}

/// Where a check finds things.
#[derive(Debug, Options)]
pub(crate) struct CheckArgs {
    /// The attempt's folder, with its assignment and its inputs
    #[arg(long, value_name = "DIR")]
    pub(crate) task: PathBuf,

    /// The folder of the artifacts that were taken in, if there are any; it is copied
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,

    /// The worker's files
    #[arg(long, value_name = "DIR", default_value = "/workspace")]
    pub(crate) workspace: PathBuf,

    /// A folder of our own for the copy
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    pub(crate) scratch: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn a_container_needs_no_options() {
        let args = Args::parse_from(["worker"]);
        assert_eq!(args.tasks, PathBuf::from("/tasks"));
        assert_eq!((args.scratch, args.no_walls), (None, false));
    }
}
