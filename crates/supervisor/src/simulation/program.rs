//! The program: plays seeds on all cores, and says what was violated and how to see it again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use protocol::mutants::Mutant;

use super::{Report, run};

/// Plays the daemon on simulated files, containers and time.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to play.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them; alone, with its trace, when `--seeds` is 1.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many at once; as many as there are cores when 0.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// How many lines of a trace are shown.
    #[arg(long, default_value_t = 60)]
    lines: usize,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Plant one fault after the other, and see that each is found.
    #[arg(long)]
    mutants: bool,
    /// Plant this fault.
    #[arg(long)]
    mutant: Option<String>,
    /// With `--mutants`: the file whose table is to be written.
    #[arg(long)]
    write: Option<std::path::PathBuf>,
    /// Say how often what happened.
    #[arg(long)]
    show: bool,
}

/// Plays what the command line says.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.mutants {
        return all_mutants(&args);
    }
    if args.seeds == 1 {
        return one(&args);
    }
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let found = Mutex::new(Vec::new());
    let seen = Mutex::new(BTreeMap::<String, u64>::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = BTreeMap::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= args.seeds {
                        break;
                    }
                    let report =
                        play(args.seed + number, args.planted(), number.is_multiple_of(50));
                    for (what, times) in &report.seen {
                        *own.entry(what.clone()).or_insert(0) += times;
                    }
                    if report.violation.is_some() {
                        if !args.keep_going {
                            next.store(args.seeds, Ordering::Relaxed);
                        }
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                    }
                }
                let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
                for (what, times) in own {
                    *all.entry(what).or_insert(0) += times;
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if args.show {
        for (what, times) in seen.into_inner().unwrap_or_else(PoisonError::into_inner) {
            println!("{times:>10}  {what}");
        }
    }
    if found.is_empty() {
        let rate = args.seeds as f64 / seconds;
        println!(
            "{} seeds from {}, no violation, {seconds:.1} s, {rate:.0} seeds/s on {threads} threads",
            args.seeds, args.seed
        );
        return ExitCode::SUCCESS;
    }
    let mut kinds = BTreeMap::<String, Vec<u64>>::new();
    for report in &found {
        let what = report.violation.clone().unwrap_or_default();
        let kind: String = what.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        kinds.entry(kind).or_default().push(report.seed);
    }
    println!("{} seeds with a violation:", found.len());
    for (kind, seeds) in &kinds {
        println!("  {:>5}  {kind}…  seeds {:?}", seeds.len(), &seeds[..seeds.len().min(5)]);
    }
    show(&run(found[0].seed, args.planted(), true), &args);
    ExitCode::FAILURE
}

impl Args {
    fn planted(&self) -> Option<Mutant> {
        let name = self.mutant.as_ref()?;
        let found = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == *name);
        Some(*found.unwrap_or_else(|| panic!("there is no mutant {name}: see docs/simulation.md")))
    }
}

/// Plants each fault, and plays seeds until it is found.
fn all_mutants(args: &Args) -> ExitCode {
    // What a planted fault breaks may panic: that is one way to be found.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seeds = args.seed..args.seed + args.seeds;
                    // What goes wrong without it says nothing.
                    let is_its_own = |report: &Report| {
                        report.violation.is_some()
                            && run(report.seed, None, false).violation.is_none()
                    };
                    let report = seeds.map(|seed| run(seed, Some(mutant), false)).find(is_its_own);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.insert(mutant as usize, report);
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut table = String::from(
        "| mutant | what is wrong then | seed | how it is found |\n| --- | --- | --- | --- |\n",
    );
    let mut survivors = 0;
    for (number, report) in &found {
        let mutant = Mutant::ALL[*number];
        let (seed, how) = match report {
            Some(report) => (report.seed.to_string(), short(report)),
            None => {
                survivors += 1;
                ("none".to_owned(), String::new())
            }
        };
        let _ = writeln!(table, "| `{mutant:?}` | {} | {seed} | {how} |", mutant.what());
    }
    print!("{table}");
    if survivors > 0 {
        println!("{survivors} mutants are not found within {} seeds", args.seeds);
        return ExitCode::FAILURE;
    }
    println!("all {} mutants are found", found.len());
    if let Some(file) = &args.write
        && let Err(error) = write_table(file, &table)
    {
        println!("`{}` can't be written: {error}", file.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns what was violated, for a table.
fn short(report: &Report) -> String {
    let what = report.violation.clone().unwrap_or_default();
    let what: String = what.lines().next().unwrap_or_default().chars().take(100).collect();
    what.replace('|', "/")
}

/// The marks between which the table stands.
const MARKS: (&str, &str) = ("<!-- mutants -->\n", "<!-- end of mutants -->");

fn write_table(file: &std::path::Path, table: &str) -> std::io::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let parts = text.split_once(MARKS.0).and_then(|(head, rest)| {
        let (_, tail) = rest.split_once(MARKS.1)?;
        Some((head, tail))
    });
    let (head, tail) =
        parts.ok_or_else(|| std::io::Error::other("it has no place for the table"))?;
    let mut out = std::fs::File::create(file)?;
    std::io::Write::write_all(
        &mut out,
        format!("{head}{}{table}{}{tail}", MARKS.0, MARKS.1).as_bytes(),
    )
}

/// Plays a seed, and now and then twice: the second time must be the same.
fn play(seed: u64, mutant: Option<Mutant>, twice: bool) -> Report {
    let report = run(seed, mutant, false);
    if twice && report.violation.is_none() {
        let again = run(seed, mutant, false);
        if again.hash != report.hash {
            let what = "the same seed led to something else the second time".to_owned();
            return Report { violation: Some(what), ..report };
        }
    }
    report
}

fn one(args: &Args) -> ExitCode {
    let report = run(args.seed, args.planted(), true);
    let again = run(args.seed, args.planted(), true);
    if args.show {
        for (what, times) in &report.seen {
            println!("{times:>10}  {what}");
        }
    }
    if report.hash != again.hash {
        println!("seed {} led to something else the second time:", args.seed);
        let pairs = report.trace.iter().zip(&again.trace);
        if let Some(at) = pairs.clone().position(|(a, b)| a != b) {
            for line in &report.trace[at.saturating_sub(10)..at] {
                println!("    {line}");
            }
            println!("  1 {}\n  2 {}", report.trace[at], again.trace[at]);
        }
        return ExitCode::FAILURE;
    }
    show(&report, args);
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show(report: &Report, args: &Args) {
    for line in &report.trace[report.trace.len().saturating_sub(args.lines)..] {
        println!("    {line}");
    }
    match &report.violation {
        Some(what) => println!("seed {}: {what}", report.seed),
        None => println!("seed {}: no violation; trace {:016x}", report.seed, report.hash),
    }
    let mutant = args.mutant.as_ref().map(|name| format!(" MUTANT={name}")).unwrap_or_default();
    println!("again: make simulate SEEDS=1 SEED={}{mutant}", report.seed);
}
