//! Interrupts everything that can be interrupted, one after the other, until there is nothing left to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::{Plan, RunId};
use rehearsal::Rehearsal;
use rustix::process::{Pid, Signal, kill_process};

use super::latency::Death;
use super::{Aim, PLAN, WORKERS};
use crate::Result;
use crate::engine::Engine;
use crate::place::Place;
use crate::random::Random;

/// The longest wait between two interruptions that is for nothing but to hit another moment.
const PAUSE: u64 = 3_000_000;

/// By how many tasks the interruptions may be ahead of the work, and how long to wait at most until it has
/// caught up: a task whose worker is lost five times in a row fails, as it should.
const AHEAD: usize = 2;
const LONGEST: Duration = Duration::from_secs(40);

/// How long there may be no new result until something is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// What can be done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interruption {
    DaemonKilled,
    DaemonKilledAndContainerRemoved,
    ContainerKilled,
    ContainerRemoved,
    WorkerKilled,
    AgentKilled,
    EngineRestarted,
    EngineKilled,
    EngineKilledAndOutlived,
}

impl Interruption {
    /// Each with how many of a hundred.
    const ALL: [(Self, u64); 9] = [
        (Self::DaemonKilled, 28),
        (Self::DaemonKilledAndContainerRemoved, 6),
        (Self::ContainerKilled, 14),
        (Self::ContainerRemoved, 14),
        (Self::WorkerKilled, 14),
        (Self::AgentKilled, 6),
        (Self::EngineRestarted, 6),
        (Self::EngineKilled, 6),
        (Self::EngineKilledAndOutlived, 6),
    ];

    /// Returns what was done, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DaemonKilled => "daemon killed (`kill -9`)",
            Self::DaemonKilledAndContainerRemoved => {
                "daemon killed, and a container removed while it was away"
            }
            Self::ContainerKilled => "container killed (`docker kill`)",
            Self::ContainerRemoved => "container removed (`docker rm -f`)",
            Self::WorkerKilled => "worker in a container killed (`kill -9`)",
            Self::AgentKilled => "agent in a container killed (`kill -9`)",
            Self::EngineRestarted => "engine restarted (its containers end with it)",
            Self::EngineKilled => {
                "engine killed and started again (its containers live on, and are ended by the start)"
            }
            Self::EngineKilledAndOutlived => {
                "engine with `live-restore` killed and started again (its containers live on)"
            }
        }
    }

    fn chosen(random: &mut Random) -> Self {
        let mut number = random.below(100);
        for (interruption, share) in Self::ALL {
            match number.checked_sub(share) {
                Some(rest) => number = rest,
                None => return interruption,
            }
        }
        Self::DaemonKilled
    }
}

/// What was done, and seen meanwhile.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The runs, in the order of the plans.
    pub(super) runs: Vec<RunId>,
    pub(super) made: BTreeMap<Interruption, usize>,
    /// Results as they were when they were seen first.
    pub(super) seen: BTreeMap<PathBuf, Vec<u8>>,
    /// The last attempt of each task that asked the model.
    asked: BTreeMap<String, u32>,
    /// The number of the last request that was looked at.
    looked_at: u64,
    /// Attempts that asked the model after a later one of the same task had.
    pub(super) beside: Vec<String>,
    /// Containers that died while the daemon was there.
    pub(super) deaths: Vec<Death>,
    /// The most containers that there were at once.
    pub(super) containers: usize,
    pub(super) took: Duration,
}

/// Carries it out.
pub(super) fn run(
    place: &mut Place,
    engine: &mut Engine,
    model: &Rehearsal,
    plans: &[Plan],
    aim: Aim,
) -> Result<Done> {
    let (start, mut random) = (Instant::now(), Random::new(aim.seed ^ 0xc0));
    let (mut done, mut rest) = (Done::default(), plans.iter());
    let (mut made, mut told) = (0, Instant::now());
    place.up()?;
    let mut news = (Instant::now(), 0);
    loop {
        look(place, model, &mut done)?;
        if done.runs.last().is_none_or(|run| place.has_ended(*run)) {
            let Some(plan) = rest.next() else { break };
            place.answers()?;
            done.runs.push(place.submit(plan)?);
        }
        if done.seen.len() != news.1 {
            news = (Instant::now(), done.seen.len());
        }
        if news.0.elapsed() > PATIENCE {
            let status = String::from_utf8_lossy(&place.run(&["status"])?.stdout).into_owned();
            return Err(format!("nothing comes any more:\n{status}\n{}", place.log()).into());
        }
        let is_due = made * (plans.len() * PLAN) <= (done.seen.len() + AHEAD) * aim.interruptions;
        let waited = made > 0 && news.0.elapsed() > LONGEST;
        if made < aim.interruptions && (is_due || waited) {
            sleep(Duration::from_micros(random.below(PAUSE)));
            let interruption = Interruption::chosen(&mut random);
            if interrupt(place, engine, interruption, &mut random, &mut done.deaths)? {
                made += 1;
                *done.made.entry(interruption).or_default() += 1;
            }
        } else {
            sleep(Duration::from_millis(50));
            if let Some(status) = place.ended()? {
                return Err(format!("the daemon ended with {status}:\n{}", place.log()).into());
            }
        }
        done.containers = done.containers.max(containers(place, engine)?.len());
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            let (results, seconds) = (done.seen.len(), start.elapsed().as_secs());
            eprintln!("  {made} interruptions, {results} results, {seconds} s");
        }
    }
    place.answers()?;
    look(place, model, &mut done)?;
    done.took = start.elapsed();
    Ok(done)
}

/// Interrupts something. Returns false when there was nothing of the kind.
fn interrupt(
    place: &mut Place,
    engine: &mut Engine,
    interruption: Interruption,
    random: &mut Random,
    deaths: &mut Vec<Death>,
) -> Result<bool> {
    let running = containers(place, engine)?;
    let one = match running.len() {
        0 => None,
        count => Some(running[usize::try_from(random.below(count as u64))?].clone()),
    };
    let mut died = |container: &str, kill: &dyn Fn() -> Result<bool>| {
        let death = Death::of(engine, container, kill)?;
        let is_dead = death.is_some();
        deaths.extend(death);
        Ok(is_dead)
    };
    match (interruption, one) {
        (Interruption::DaemonKilled, _) => {
            place.kill()?;
            place.start()?;
        }
        (Interruption::DaemonKilledAndContainerRemoved, Some(container)) => {
            place.kill()?;
            docker(engine, &["rm", "--force", &container])?;
            place.start()?;
        }
        (Interruption::ContainerKilled, Some(container)) => {
            return died(&container, &|| docker(engine, &["kill", &container]));
        }
        (Interruption::ContainerRemoved, Some(container)) => {
            return died(&container, &|| docker(engine, &["rm", "--force", &container]));
        }
        (Interruption::WorkerKilled, Some(container)) => {
            return died(&container, &|| kill_in(engine, &container, "worker"));
        }
        (Interruption::AgentKilled, Some(container)) => {
            return kill_in(engine, &container, "claude");
        }
        (Interruption::EngineRestarted, _) => {
            engine.stop()?;
            engine.start_again()?;
        }
        (Interruption::EngineKilled, _) => {
            engine.kill()?;
            engine.start_again()?;
        }
        (Interruption::EngineKilledAndOutlived, _) => {
            engine.kill()?;
            engine.live_restore = true;
            let started = engine.start_again();
            engine.live_restore = false;
            started?;
        }
        (_, None) => return Ok(false),
    }
    Ok(true)
}

/// Returns the containers of this installation that run.
pub(super) fn containers(place: &Place, engine: &Engine) -> Result<Vec<String>> {
    let label = format!("label=supervisor.installation={}", place.installation.id());
    let output = engine.command().args(["ps", "--quiet", "--filter", &label]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Returns whether the engine did so: what was there a moment ago may be gone.
fn docker(engine: &Engine, arguments: &[&str]) -> Result<bool> {
    Ok(engine.command().args(arguments).output()?.status.success())
}

/// Kills a program in a container, from outside.
fn kill_in(engine: &Engine, container: &str, program: &str) -> Result<bool> {
    let output = engine.command().args(["top", container, "-eo", "pid,comm"]).output()?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let pids = table.lines().filter_map(|line| {
        let (pid, name) = line.trim().split_once(char::is_whitespace)?;
        (name.trim() == program).then(|| pid.parse().ok()).flatten()
    });
    Ok(pids.filter_map(Pid::from_raw).any(|pid| kill_process(pid, Signal::KILL).is_ok()))
}

/// Takes note of results and of requests that are new.
fn look(place: &Place, model: &Rehearsal, done: &mut Done) -> Result<()> {
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
    for request in model.requests() {
        if request.number <= done.looked_at {
            continue;
        }
        done.looked_at = request.number;
        let (Some(task), Some(attempt)) = (request.task, request.attempt) else { continue };
        let last = done.asked.entry(task.clone()).or_default();
        if attempt < *last {
            done.beside.push(format!("{task}: attempt {attempt} asked the model after {last} had"));
        }
        *last = attempt.max(*last);
    }
    Ok(())
}
