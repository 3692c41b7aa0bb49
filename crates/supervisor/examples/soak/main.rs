//! Kills the real daemon at random moments, a thousand times, and counts what that cost.
//!
//! Real processes, real files, the real program: plans of tasks that depend on each other, and tasks dropped
//! as files; some workers are killed by their own task, others from outside. Nothing may be lost, nothing
//! accepted twice, no process left, and what comes of it is what comes of it without a kill. With
//! `--containers` the same is tried of real containers with the real agent, and of their engine.
//! `make soak` runs it; `docs/reliability.md` is what it writes with `--write`.

mod check;
mod containers;
#[path = "../../tests/support/engine.rs"]
mod engine;
mod latency;
mod peers;
mod place;
mod plan;
mod random;
mod report;
mod storm;
mod tally;
mod task;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

use crate::peers::Load;
use crate::place::{Place, Programs};
use crate::plan::{REPLICAS, WORKERS};
use crate::random::Random;
use crate::report::{Compared, Report, Round};
use crate::storm::Aim;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// How long a life of the daemon is on average, as far as the storm decides it.
const LIFE: Duration = Duration::from_millis(200);

/// The loop in which we are compared with others.
const PEER_TASKS: usize = 200;
const PEER_KILLS: usize = 20;

/// Kill the daemon at random moments and count what it costs
#[derive(Debug, Parser)]
#[command(
    name = "soak",
    after_long_help = "\
Exit codes:
  0  nothing was lost, done twice or left over
  1  something was
  2  the command line is wrong
  3  it could not be tried"
)]
struct Options {
    /// How often the daemon is killed
    #[arg(long, default_value_t = 1000)]
    kills: usize,

    /// How many tasks there are, and a twentieth more that is dropped as files: 2000 if not given, or with
    /// containers two for each interruption
    #[arg(long)]
    tasks: Option<usize>,

    /// In how many plans they come
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    plans: u16,

    /// How many workers die while the daemon lives, for the time until the next attempt; with 0 it is
    /// not measured
    #[arg(long, default_value_t = 200)]
    deaths: usize,

    /// Decides all that is random here; made up, and printed, when left out
    #[arg(long)]
    seed: Option<u64>,

    /// Interrupt three real containers instead, so often: the daemon, their engine, they themselves and what
    /// is in them. The engine is one of its own, which needs root
    #[arg(long, value_name = "TIMES")]
    containers: Option<usize>,

    /// Run a smaller loop for us, for pueue and for huey, too; they are installed into this folder
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,

    /// Write the report to this file, too
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Keep the installation where something is wrong with it
    #[arg(long)]
    keep: bool,

    /// The program `supervisor`; by default the one that was built along with this
    #[arg(long, value_name = "FILE")]
    supervisor: Option<PathBuf>,

    /// The program `worker`
    #[arg(long, value_name = "FILE", env = "SUPERVISOR_WORKER")]
    worker: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

impl Options {
    /// Returns how many tasks there are in plans.
    fn tasks(&self) -> usize {
        self.tasks.unwrap_or(2000)
    }
}

/// What else this program is.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Task(task::Manner),
    #[command(hide = true)]
    PeerTask { folder: PathBuf, name: String, millis: u64, seed: u64 },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.role {
        Some(Role::Task(manner)) => task::run(manner).map(|()| true),
        Some(Role::PeerTask { folder, name, millis, seed }) => {
            peers::task(folder, name, *millis, *seed).map(|()| true)
        }
        None => soak(&options),
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

/// Returns whether nothing is wrong.
fn soak(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs()
    });
    println!("Seed: {seed} (`--seed {seed}` chooses the same again)");
    let programs = programs(options)?;
    if let Some(interruptions) = options.containers {
        let tasks = options.tasks.unwrap_or(2 * interruptions);
        let aim = containers::Aim { tasks, interruptions, seed };
        return containers::soak(&programs, aim, options.write.as_deref());
    }
    let tasks = options.tasks();
    let mut random = Random::new(seed);
    let each = tasks.div_ceil(options.plans.into());
    let plans: Vec<_> = (0..options.plans)
        .map(|number| plan::of_size(&format!("p{number}"), each, &WORKERS, &mut random))
        .collect::<Result<_>>()?;
    let drops = tasks / 20;
    let aim = |kills| Aim { plans: plans.clone(), drops, kills, with_worker: 50, pace: 1.0, seed };

    println!("Without a kill: {} tasks", tasks + drops);
    let calm = once(options, &programs, &aim(0), 10, 0)?;
    println!("With {} kills", options.kills);
    // While the daemon is away, who is done waits for it: on a fast machine for a third of the time. Where it is more,
    // the kills wait for the work; the other way round some would find nothing left to interrupt.
    let millis = millis(options.kills, LIFE.mul_f64(0.6), tasks)?;
    let storm = once(options, &programs, &aim(options.kills), millis, 50)?;
    let is_same = calm.findings.state == storm.findings.state;
    println!("  the same final state as without: {}", if is_same { "yes" } else { "NO" });
    for (name, state) in &storm.findings.state {
        if calm.findings.state.get(name) != Some(state) {
            println!("    {name}: {state:?}, without kills {:?}", calm.findings.state.get(name));
        }
    }
    let latencies = match options.deaths {
        0 => None,
        deaths => {
            println!("{deaths} deaths of workers while the daemon lives");
            Some(latency::measure(&programs, deaths, seed)?)
        }
    };
    let peers = match &options.peers {
        Some(folder) => Some(compare(options, &programs, folder, seed)?),
        None => None,
    };
    let report = Report { options, seed, millis, calm, storm, is_same, latencies, peers };
    let text = report.markdown();
    println!("\n{text}");
    if let Some(file) = &options.write {
        containers::keep_part(file, &text)?;
    }
    Ok(report.is_met())
}

/// Returns how long tasks take on average, in ms, so that all of them last as long as so many lives.
fn millis(kills: usize, life: Duration, tasks: usize) -> Result<u64> {
    let at_once = u32::try_from(WORKERS.len() * REPLICAS)?;
    let all = (life * u32::try_from(kills)? * at_once).as_millis();
    Ok(u64::try_from(all / u128::try_from(tasks.max(1))?)?.clamp(20, 5_000))
}

/// Runs the smaller loop for us and for others.
fn compare(
    options: &Options,
    programs: &Programs,
    folder: &std::path::Path,
    seed: u64,
) -> Result<Compared> {
    let (tasks, kills, pace) = (PEER_TASKS, PEER_KILLS, 3.0);
    let millis = millis(kills, LIFE.mul_f64(pace), tasks)?;
    let at_once = WORKERS.len() * REPLICAS;
    let load = Load { tasks, kills, millis, pace, at_once, seed };
    println!("The smaller loop: {tasks} tasks, {kills} kills");
    let plans = vec![plan::of_singles(tasks)?];
    let aim = Aim { plans, drops: 0, kills, with_worker: 0, pace, seed };
    let ours = once(options, programs, &aim, millis, 0)?;
    Ok(Compared { load, ours, peers: peers::run(folder, &load)? })
}

/// Does all that there is to do, with so many kills.
fn once(
    options: &Options,
    programs: &Programs,
    aim: &Aim,
    millis: u64,
    deaths: u64,
) -> Result<Round> {
    let mut place = Place::new(programs, millis, deaths, aim.seed)?;
    let done = match storm::run(&mut place, aim) {
        Ok(done) => done,
        Err(error) if options.keep => {
            let kept = place.keep()?;
            return Err(format!("{error}\nIt is kept in {}", kept.display()).into());
        }
        Err(error) => return Err(error),
    };
    let findings = check::check(&mut place, &aim.plans, aim.drops, aim.seed, &done)?;
    let round = Round { findings, done };
    println!(
        "  {} tasks, {} attempts, {} kills in {:.0} s, {} workers killed from outside, {} by their task",
        round.findings.tasks,
        round.findings.attempts,
        round.done.kills,
        round.done.took.as_secs_f64(),
        round.done.workers_killed,
        round.findings.deaths
    );
    for (what, wrong) in round.findings.wrong() {
        println!("  {what}: {}", wrong.len());
        for line in wrong.iter().take(10) {
            println!("    {line}");
        }
    }
    if !round.findings.is_clean() && options.keep {
        println!("  kept in {}", place.keep()?.display());
    }
    Ok(round)
}

fn programs(options: &Options) -> Result<Programs> {
    let supervisor = match &options.supervisor {
        Some(path) => path.clone(),
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().and_then(|examples| examples.parent());
            folder.ok_or("this program is in no folder")?.join("supervisor")
        }
    };
    let worker =
        options.worker.clone().ok_or("which worker? Give it with --worker; `make soak` does")?;
    for program in [&supervisor, &worker] {
        if !program.is_file() {
            return Err(
                format!("there is no `{}`: `make soak` builds it", program.display()).into()
            );
        }
    }
    Ok(Programs { supervisor: supervisor.canonicalize()?, worker: worker.canonicalize()? })
}
