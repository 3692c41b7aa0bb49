//! Measures what the gateway costs: its top rate, its latency, its memory, and whether it changes a byte.
//!
//! Beside a direct connection, nginx as a plain reverse proxy, and LiteLLM's proxy, in one run, in turns,
//! with the same load on the same upstream. `make bench-gateway` runs it; `docs/performance.md` is what
//! it writes with `--write`.

mod bodies;
mod children;
mod contenders;
mod cores;
mod facts;
mod load;
mod others;
mod report;
mod run;
mod serve;
mod sse;
mod streams;
mod wire;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::wire::Address;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// The key that every proxy adds.
const UPSTREAM_KEY: &str = "sk-bench-upstream";

/// Measure what the gateway costs, beside nginx and LiteLLM
#[derive(Debug, Parser)]
#[command(
    name = "bench-gateway",
    after_long_help = "\
Exit codes:
  0  all targets are met
  1  a target is missed
  2  the command line is wrong
  3  it could not be measured"
)]
struct Options {
    /// Write the report to this file, too
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// How often each contender has its turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How long a turn takes, in seconds
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,

    /// How many streams are open at once
    #[arg(long, default_value_t = 1000)]
    streams: usize,

    /// Leave LiteLLM out, which takes a minute to install and ten seconds to start
    #[arg(long)]
    without_litellm: bool,

    /// See only that everything works: no target counts, and what is not installed is left out
    #[arg(long)]
    smoke: bool,

    #[command(subcommand)]
    role: Option<Role>,
}

/// The processes that a run starts, and its load alone.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    ServeGateway { upstream: String, sockets: Vec<PathBuf> },
    #[command(hide = true)]
    ServeUpstream,
    /// Put the load on sockets that are served already, for a profiler beside it
    Load {
        /// `unix:/path` or `host:port`; connections are spread over all of them
        #[arg(required = true)]
        at: Vec<Address>,
        /// So many requests a second, not as many as it can
        #[arg(long)]
        rate: Option<f64>,
        /// The size of a request's body
        #[arg(long, default_value_t = run::SMALL)]
        size: usize,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.role {
        Some(Role::ServeGateway { upstream, sockets }) => {
            serve::gateway(upstream, sockets).map(|()| true)
        }
        Some(Role::ServeUpstream) => serve::upstream().map(|()| true),
        Some(Role::Load { at, rate, size }) => {
            let length = Duration::from_secs_f64(options.seconds);
            run::once(at, *rate, *size, length).map(|()| true)
        }
        None => measure(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(3)
        }
    }
}

/// Returns whether all targets are met.
fn measure(options: &Options) -> Result<bool> {
    // A thousand streams are two thousand descriptors in a proxy; what we start inherits the limit.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;

    let plan = match options.smoke {
        true => run::Plan {
            rounds: 1,
            turn: Duration::from_millis(100),
            streams: 20,
            events: 5,
            with_litellm: false,
            is_smoke: true,
        },
        false => run::Plan {
            rounds: options.rounds,
            turn: Duration::from_secs_f64(options.seconds),
            streams: options.streams,
            events: 50,
            with_litellm: !options.without_litellm,
            is_smoke: false,
        },
    };
    let findings = run::run(&plan)?;
    let report = report::markdown(&plan, &findings);
    println!("{report}");
    if let Some(file) = &options.write {
        protocol::atomic_file::replace(
            file,
            report.as_bytes(),
            protocol::atomic_file::Durability::Volatile,
        )?;
    }
    Ok(options.smoke || report::targets(&plan, &findings).iter().all(|target| target.is_met))
}
