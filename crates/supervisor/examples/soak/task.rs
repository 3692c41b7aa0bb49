//! The program that workers run in place of Claude Code. It tells the tally what it does, makes its output
//! of its name and its inputs alone, and in some cases kills its own worker in the middle.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, getppid, kill_process};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::plan::local;
use crate::{Result, random, tally};

/// The artifact that is made of the task's name and its inputs.
pub(crate) const OUT: &str = "out.txt";

/// The artifact that says which attempt made it.
pub(crate) const ATTEMPT: &str = "attempt.txt";

/// How a task behaves.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Manner {
    /// Where the tally is
    pub(crate) folder: std::path::PathBuf,
    /// How long a task takes, in ms, on average
    pub(crate) millis: u64,
    /// Of a thousand tasks, how many kill their worker at the first attempt
    pub(crate) deaths: u64,
    /// What decides which
    pub(crate) seed: u64,
}

/// Does the task that the environment names.
pub(crate) fn run(manner: &Manner) -> Result<()> {
    let var = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let (task, attempt) = (var("SUPERVISOR_TASK")?, var("SUPERVISOR_ATTEMPT")?.parse::<u32>()?);
    let artifacts = var("SUPERVISOR_ARTIFACTS")?;
    let name = local(&task);
    let folder = &manner.folder;
    // The lock goes with its process: who gets it not is beside another.
    let lock = File::create(folder.join("locks").join(&task))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        tally::note(folder, "beside", &task, attempt)?;
    }
    tally::note(folder, "begins", &task, attempt)?;
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt)?;
    let mut inputs = Vec::new();
    for (input, from) in inputs_of(&prompt) {
        match fs::read_to_string(Path::new(&from).join("artifacts").join(OUT)) {
            Ok(out) => inputs.push(format!("{}={out}", local(&input))),
            Err(_) => tally::note(folder, "blind", &task, attempt)?,
        }
    }
    inputs.sort();

    let number = random::of_name(name, manner.seed);
    // Half to one and a half times the average.
    let length = manner.millis / 2 + number % manner.millis.max(1);
    let dies = attempt == 1 && (number >> 32) % 1000 < manner.deaths;
    sleep(Duration::from_millis(length / 2));
    if dies && let Some(worker) = getppid() {
        tally::note(folder, "dies", &task, attempt)?;
        kill_process(worker, Signal::KILL)?;
        // An agent that was left alone goes on; that its work counts for nothing is for others to see to.
    }
    sleep(Duration::from_millis(length / 2));

    let digest = Sha256::digest(format!("{name}: {}", inputs.join(" ")));
    let out: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    if prompt.contains("kind=\"synthesize\"") {
        let report = format!("{} inputs: {out}", inputs.len());
        println!("{}", json!({ "summary": "The answer.", "report": report }));
    } else {
        write(&Path::new(&artifacts).join(OUT), &out)?;
        write(&Path::new(&artifacts).join(ATTEMPT), &attempt.to_string())?;
        println!("{}", json!({ "summary": out, "artifacts": [OUT, ATTEMPT] }));
    }
    tally::note(folder, "ends", &task, attempt)
}

#[expect(clippy::disallowed_methods, reason = "agents write in place; that is what is tried here")]
fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
}

/// Returns the inputs that a prompt names, with their folders.
fn inputs_of(prompt: &str) -> Vec<(String, String)> {
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let lines = prompt.lines().filter(|line| line.starts_with("<input task="));
    lines.filter_map(|line| Some((value(line, "task")?, value(line, "folder")?))).collect()
}
