//! The program `supervisor`: the daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    supervisor::cli::run(supervisor::cli::parse(), supervisor::daemon::run)
}
