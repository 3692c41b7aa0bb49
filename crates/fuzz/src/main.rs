//! `fuzz`: runs targets for as long as one likes; `fuzz intake` measures the memory of the intake.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fuzz::{Bound, Intake, Mutator, TARGETS};

/// Feeds parsers, and the intake of results, with what nobody should send.
#[derive(Debug, Parser)]
struct Args {
    /// The seed; the same one makes the same inputs.
    #[arg(long, default_value_t = 1, global = true)]
    seed: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run targets, all of them if none is named.
    Run {
        /// Their names.
        targets: Vec<String>,
        /// How long to run each, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Hand in results, and fail if the memory grows by more than 16 MiB.
    Intake {
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        results: u64,
    },
}

/// How much the memory may grow, in KiB.
const MAX_GROWTH: u64 = 16 << 10;

/// So many results are handed in before the memory is looked at first: the allocator has its pools then.
const WARM_UP: u64 = 1_000;

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Command::Run { targets, seconds } => {
            let is_meant =
                |name: &str| targets.is_empty() || targets.iter().any(|target| target == name);
            for target in TARGETS.iter().filter(|target| is_meant(target.name)) {
                let taken =
                    fuzz::run(*target, args.seed, Bound::Time(Duration::from_secs(seconds)));
                println!("{:<12} {taken:>10} inputs, nothing wrong", target.name);
            }
            ExitCode::SUCCESS
        }
        Command::Intake { results } => intake(args.seed, results),
    }
}

fn intake(seed: u64, results: u64) -> ExitCode {
    let intake = Intake::new();
    let mut corpus = fuzz::corpus("result");
    // Most of the others are about other tasks: this one counts, as long as it is not changed too much.
    corpus.extend(std::iter::repeat_n(intake.good(), corpus.len()));
    let mut mutator = Mutator::new(seed, corpus);
    let (mut before, mut counted) = (0, 0);
    for number in 0..results + WARM_UP {
        if number == WARM_UP {
            before = memory("VmRSS:");
        }
        let input = mutator.input();
        counted += u64::from(intake.hand_in(input));
        assert!(!intake.hand_in_file(input), "it has no proof, and counts");
    }
    // At its highest, wherever that was.
    let grown = memory("VmHWM:").saturating_sub(before);
    println!(
        "{results} results: {counted} counted, the others were refused; memory {before} KiB, at most {grown} \
         KiB more"
    );
    if grown > MAX_GROWTH {
        eprintln!("the memory grew by more than {MAX_GROWTH} KiB");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns what the kernel says of this process's memory, in KiB.
fn memory(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
