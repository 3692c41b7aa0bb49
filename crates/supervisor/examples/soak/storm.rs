//! Kills the daemon, again and again, until there is nothing left to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::{Plan, RunId};
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::place::Place;
use crate::plan::{self, WORKERS};
use crate::random::Random;

/// How long to wait for something to be written before the daemon is killed all the same.
const LONGEST: Duration = Duration::from_millis(600);

/// By how many tasks the kills may be ahead of the work, and how long the daemon lives at most to catch up.
const AHEAD: usize = 20;
const LONGEST_LIFE: Duration = Duration::from_secs(2);

/// What there is to do, and how often to interrupt it.
#[derive(Debug)]
pub(crate) struct Aim {
    pub(crate) plans: Vec<Plan>,
    pub(crate) drops: usize,
    pub(crate) kills: usize,
    /// Of a thousand kills of the daemon, how many come with one of a worker.
    pub(crate) with_worker: u64,
    /// How much longer a life of the daemon is than usual.
    pub(crate) pace: f64,
    pub(crate) seed: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The runs, in the order of the plans.
    pub(crate) runs: Vec<RunId>,
    pub(crate) kills: usize,
    /// Of these, how many hit a daemon that had just written into a journal.
    pub(crate) after_write: usize,
    pub(crate) workers_killed: usize,
    pub(crate) took: Duration,
    /// Results as they were when they were seen first.
    pub(crate) seen: BTreeMap<PathBuf, Vec<u8>>,
}

/// Carries it out.
pub(crate) fn run(place: &mut Place, aim: &Aim) -> Result<Done> {
    let start = Instant::now();
    let mut random = Random::new(aim.seed);
    let mut drops_random = Random::new(aim.seed ^ 0xd0);
    let mut done = Done::default();
    let mut dropped = 0;
    place.up()?;
    let mut plans = aim.plans.iter();
    let mut told = Instant::now();
    let mut is_last = false;
    while !is_last {
        if done.runs.last().is_none_or(|run| place.has_ended(*run)) {
            match plans.next() {
                Some(plan) => {
                    // Handing in is no part of the storm: a person whose daemon is away types it again.
                    place.answers()?;
                    done.runs.push(place.submit(plan)?);
                }
                None => is_last = true,
            }
        }
        // Spread over all of it; where the work was ahead of the kills, the rest comes at the end.
        let due = aim.drops * (done.kills + 1) / aim.kills.max(1);
        while dropped < aim.drops && (dropped < due || is_last) {
            let (worker, id, text) = plan::drop_of(dropped, &mut drops_random)?;
            place.drop_file(worker.as_str(), &id, &text)?;
            dropped += 1;
        }
        if done.kills < aim.kills {
            catch_up(place, aim, &mut done)?;
            interrupt(place, aim, &mut random, &mut done)?;
        } else {
            sleep(Duration::from_millis(20));
            if let Some(status) = place.ended()? {
                return Err(format!("the daemon ended with {status}:\n{}", place.log()).into());
            }
        }
        look(place, &mut done)?;
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            let results = done.seen.len();
            eprintln!(
                "  {} kills, {results} results, {:.0} s",
                done.kills,
                start.elapsed().as_secs_f64()
            );
        }
    }
    place.answers()?;
    place.wait("all dropped tasks have ended", |place| {
        let ended = |number: usize| {
            let name = format!("drop-{number:04}.json");
            WORKERS.iter().any(|worker| place.path("results").join(worker).join(&name).is_file())
        };
        Ok((0..dropped).all(ended))
    })?;
    look(place, &mut done)?;
    done.took = start.elapsed();
    Ok(done)
}

/// Lets the daemon live as long as the kills are ahead of the work: on a slow machine they would be over
/// before most of it was begun.
fn catch_up(place: &Place, aim: &Aim, done: &mut Done) -> Result<()> {
    let all = aim.plans.iter().map(|plan| plan.tasks.len()).sum::<usize>() + aim.drops;
    let start = Instant::now();
    while done.kills * all > (done.seen.len() + AHEAD) * aim.kills && start.elapsed() < LONGEST_LIFE
    {
        sleep(Duration::from_millis(10));
        look(place, done)?;
    }
    Ok(())
}

/// Kills the daemon at a moment that nobody could choose, and starts it again.
fn interrupt(place: &mut Place, aim: &Aim, random: &mut Random, done: &mut Done) -> Result<()> {
    let with_worker = random.in_thousand(aim.with_worker);
    done.after_write += usize::from(moment(random, aim.pace, || written(place, done)));
    let first = random.in_thousand(500);
    if with_worker && first {
        done.workers_killed += usize::from(kill_worker(place, random)?);
    }
    place.kill()?;
    done.kills += 1;
    if with_worker && !first {
        done.workers_killed += usize::from(kill_worker(place, random)?);
    }
    place.start()
}

/// Waits for a moment to kill somebody who was just started. True when it is right after something was
/// written.
pub(crate) fn moment(random: &mut Random, pace: f64, written: impl Fn() -> u64) -> bool {
    let kind = random.below(3);
    let mut pause = |from: u64, to: u64| {
        let micros = Duration::from_micros(from + random.below(to - from));
        micros.mul_f64(pace)
    };
    match kind {
        // While it starts.
        0 => sleep(pause(0, 120_000)),
        // At any time.
        1 => sleep(pause(50_000, 400_000)),
        // Right after it wrote something, when most is under way.
        _ => {
            let (before, start) = (written(), Instant::now());
            let limit = LONGEST.mul_f64(pace);
            while written() == before && start.elapsed() < limit {
                sleep(Duration::from_micros(500));
            }
            sleep(Duration::from_micros(random.below(8_000)));
            return true;
        }
    }
    false
}

/// Returns how much is in the journals that are written at present.
fn written(place: &Place, done: &Done) -> u64 {
    let runs = done.runs.last().copied().into_iter().chain([RunId::Adhoc]);
    runs.map(|run| fs::metadata(place.installation.journal(run)).map_or(0, |meta| meta.len())).sum()
}

fn kill_worker(place: &Place, random: &mut Random) -> Result<bool> {
    let workers = place.workers()?;
    if workers.is_empty() {
        return Ok(false);
    }
    let at = usize::try_from(random.below(workers.len() as u64))?;
    // A worker that has ended meanwhile needs no killing.
    Ok(Pid::from_raw(workers[at]).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()))
}

/// Takes note of results that are new.
pub(crate) fn look(place: &Place, done: &mut Done) -> Result<()> {
    for worker in WORKERS {
        let Ok(entries) = fs::read_dir(place.path("results").join(worker)) else { continue };
        for entry in entries {
            let path = entry?.path();
            let is_result = path.extension().is_some_and(|extension| extension == "json");
            if is_result && !done.seen.contains_key(&path) {
                let contents = fs::read(&path)?;
                done.seen.insert(path, contents);
            }
        }
    }
    Ok(())
}
