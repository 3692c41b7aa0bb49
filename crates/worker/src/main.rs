//! Process 1 of a worker's container: takes an attempt from its slot, runs the agent, reports.
//!
//! One attempt at a time, all of it synchronous: [`service`] looks for work, [`attempt`] carries
//! one attempt from its folder to its result, [`child`] watches over the one program that runs.
//! The only other threads read and write that program's pipes, reap what has ended ([`process`]), and
//! carry what it says to other hosts ([`forward`]). Before the first attempt is taken, [`self_test`]
//! finds out whether the walls hold. With `check` it runs a task's own check instead, where no agent was. Before
//! anything else, process 1 is closed to its agent, and [`seccomp`] denies what nobody here needs.

mod args;
mod artifacts;
mod attempt;
mod cgroup;
mod check;
mod child;
mod claude;
mod command;
mod config;
mod delivery;
mod disk;
mod environment;
mod failure;
mod forward;
mod gateway;
mod leftovers;
mod lines;
mod mounts;
mod oom;
mod paths;
mod process;
mod prompt;
mod report;
mod scratch;
mod seccomp;
mod self_test;
mod service;
mod session;
mod signals;
mod slot;
mod stream;
mod text;
mod transcript;
mod usage;
mod walls;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before anything else: nobody of our user may look into process 1, or take it over.
    if let Err(error) = process::close_to_others() {
        let _ = writeln!(std::io::stderr(), "worker: can't close process 1 to its agent: {error}");
        return ExitCode::FAILURE;
    }
    // Before there is any other thread.
    let filter = seccomp::install();
    let args = args::Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // Else a line that can't be written is complained of with `eprintln!`, which then panics: a full disk
        // with the log on it would end the worker.
        .log_internal_errors(false)
        .with_max_level(if args.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO })
        .init();
    if let Err(error) = &filter {
        tracing::warn!(error, "The kernel does not take the filter of system calls.");
    }
    if let Some(args::Mode::Check(check)) = &args.mode {
        return check::run(check);
    }
    match service::run(&args, &filter) {
        Ok(end) => ExitCode::from(end.code()),
        Err(fault) => {
            // Not through the log: this is the answer to whoever started us.
            let _ = writeln!(std::io::stderr(), "{fault}");
            ExitCode::from(fault.code())
        }
    }
}
