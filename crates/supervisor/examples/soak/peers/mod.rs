//! The same kind of loop for two other queues, each installed, started and started again as its own
//! documentation says.

mod huey;
mod pueue;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::random::Random;
use crate::storm::moment;
use crate::tally::{self, Tally};

/// How long a queue may take for all that is left once nobody kills it any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What is asked of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) tasks: usize,
    pub(crate) kills: usize,
    /// How long a task takes, in ms, on average.
    pub(crate) millis: u64,
    /// How much longer a life is than in the storm of ours.
    pub(crate) pace: f64,
    /// How many tasks run at once.
    pub(crate) at_once: usize,
    pub(crate) seed: u64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// How it was run, a command or a sentence each.
    pub(crate) how: Vec<String>,
    pub(crate) kills: usize,
    /// Tasks that nobody did to the end.
    pub(crate) lost: usize,
    /// Tasks that the queue calls failed, or knows nothing of, though nothing was wrong with them.
    pub(crate) failed: usize,
    /// Tasks that were begun more than once, and that came to their end more than once.
    pub(crate) begun_again: usize,
    pub(crate) twice: usize,
    /// Tasks that ran on when the daemon was gone, and that it took for over when it was back.
    pub(crate) orphans: usize,
    /// Restarts after which the queue did nothing until somebody let it go on.
    pub(crate) stuck: usize,
    pub(crate) took: Duration,
}

/// A queue with a daemon of its own.
trait Queue {
    fn name(&self) -> String;
    fn how(&self) -> Vec<String>;
    /// Hands in all tasks. The daemon is up.
    fn add(&mut self, tasks: &[String], load: &Load) -> Result<()>;
    /// Starts the daemon and waits until it is up.
    fn start(&mut self) -> Result<()>;
    /// Does what its documentation says after a restart. True when it did nothing until then.
    fn go_on(&mut self) -> Result<bool>;
    fn daemon(&mut self) -> &mut Option<Child>;
    /// Returns whether the queue says that there is nothing left to do.
    fn is_idle(&mut self) -> Result<bool>;
    /// Returns how many tasks it has as done well.
    fn done(&mut self) -> Result<usize>;
    /// Has what failed done again, where there is a way to ask for it.
    fn again(&mut self) -> Result<bool>;
}

/// Runs both in turn; what is not there yet is installed into `folder`.
pub(crate) fn run(folder: &Path, load: &Load) -> Result<Vec<Peer>> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let dir = tempfile::Builder::new().prefix("peer").tempdir()?;
    let place = |name: &str| -> Result<PathBuf> {
        let place = dir.path().join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
    };
    let pueue =
        || storm(&mut pueue::Pueue::new(&folder, &place("pueue")?)?, &place("pueue")?, load);
    let huey =
        || storm(&mut huey::Huey::new(&folder, &place("huey")?, load)?, &place("huey")?, load);
    let mut found = Vec::new();
    for peer in [pueue(), huey()] {
        match peer {
            Ok(peer) => found.push(peer),
            // What others do is no verdict on us.
            Err(error) => eprintln!("Left out: {error}"),
        }
    }
    Ok(found)
}

/// Runs the loop; the daemon does not outlive it.
fn storm(queue: &mut dyn Queue, place: &Path, load: &Load) -> Result<Peer> {
    let found = kill_again_and_again(queue, place, load);
    end(queue)?;
    found
}

fn kill_again_and_again(queue: &mut dyn Queue, place: &Path, load: &Load) -> Result<Peer> {
    println!("The same for {}", queue.name());
    let start = Instant::now();
    let tasks: Vec<String> = (0..load.tasks).map(|number| format!("t-{number:04}")).collect();
    let tally = place.join(tally::FILE);
    let mut random = Random::new(load.seed);
    let (mut kills, mut orphans, mut stuck) = (0, 0, 0);
    queue.start()?;
    queue.add(&tasks, load)?;
    while kills < load.kills && !queue.is_idle()? {
        let written = || fs::metadata(&tally).map_or(0, |meta| meta.len());
        moment(&mut random, load.pace, written);
        end(queue)?;
        kills += 1;
        orphans += running(place)?;
        queue.start()?;
        stuck += usize::from(queue.go_on()?);
    }
    wait(queue)?;
    // Its own word, before anybody helps.
    let failed = load.tasks.saturating_sub(queue.done()?);
    if queue.again()? {
        wait(queue)?;
    }
    // Whoever runs on unseen may still come to its end.
    let limit = Instant::now();
    while running(place)? > 0 && limit.elapsed() < PATIENCE {
        sleep(LOOK);
    }
    end(queue)?;
    let tally = Tally::read(place)?;
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for (task, _) in &tally.ends {
        *ends.entry(task).or_default() += 1;
    }
    let begun_again = tally.begun.values().filter(|times| **times > 1).count();
    let peer = Peer {
        name: queue.name(),
        how: queue.how(),
        kills,
        lost: load.tasks - ends.len(),
        failed,
        begun_again,
        twice: ends.values().filter(|times| **times > 1).count(),
        orphans,
        stuck,
        took: start.elapsed(),
    };
    println!("  {peer:?}");
    Ok(peer)
}

/// Kills the daemon.
fn end(queue: &mut dyn Queue) -> Result<()> {
    if let Some(mut daemon) = queue.daemon().take() {
        daemon.kill()?;
        daemon.wait()?;
    }
    Ok(())
}

fn wait(queue: &mut dyn Queue) -> Result<()> {
    let start = Instant::now();
    // Twice in a row: a queue may be idle for a moment between two tasks.
    let mut idle = 0;
    while idle < 5 && start.elapsed() < PATIENCE {
        idle = if queue.is_idle()? { idle + 1 } else { 0 };
        sleep(LOOK);
    }
    Ok(())
}

/// Returns how many tasks run.
fn running(place: &Path) -> Result<usize> {
    let mark = format!("peer-task\0{}", place.display());
    let mut found = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(line) = fs::read(path.join("cmdline")) else { continue };
        // Not the shells in between, whose line has spaces where this has the ends of arguments.
        found += usize::from(String::from_utf8_lossy(&line).contains(&mark));
    }
    Ok(found)
}

/// Does a task of a peer that runs commands.
pub(crate) fn task(folder: &Path, name: &str, millis: u64, seed: u64) -> Result<()> {
    tally::note(folder, "begins", name, 1)?;
    let length = millis / 2 + crate::random::of_name(name, seed) % millis.max(1);
    sleep(Duration::from_millis(length));
    tally::note(folder, "ends", name, 1)
}

/// Runs a command that must succeed.
fn must(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        format!("can't start {}: {error}", command.get_program().to_string_lossy())
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?} failed: {said}").into())
}
