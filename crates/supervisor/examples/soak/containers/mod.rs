//! The same with real containers: the real Claude Code CLI in three of them, its model played by a
//! rehearsal in here, on an engine of its own. The daemon, the engine, the containers and what runs in
//! them are killed, removed and started again, one after the other.

mod check;
mod latency;
mod report;
mod storm;

use std::path::Path;

use protocol::Plan;
use protocol::atomic_file::{self, Durability};
use rehearsal::{Rehearsal, Scenario};
use supervisor::config::CLI_VERSION;

use self::check::Findings;
use self::storm::Done;
use crate::engine::Engine;
use crate::place::{Place, Programs};
use crate::random::Random;
use crate::{Result, plan};

/// Who works, each in a container of its own.
const WORKERS: [&str; 3] = ["ant", "bee", "cow"];

/// How many tasks a plan has.
const PLAN: usize = 15;

/// An answer that takes a second, so that there is something to interrupt.
const SLOWLY: &str =
    "[[rule]]\nmatch = { kind = \"work\", turn = 0 }\nanswer = { delay = 1, then = \"default\" }\n";

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) tasks: usize,
    /// How often something is interrupted.
    pub(crate) interruptions: usize,
    pub(crate) seed: u64,
}

/// One time through all of it.
#[derive(Debug)]
struct Round {
    done: Done,
    findings: Findings,
}

/// Does all of it twice, first with nothing in its way, and tells. Returns whether nothing is wrong.
pub(crate) fn soak(programs: &Programs, aim: Aim, write: Option<&Path>) -> Result<bool> {
    if let Some(why) = Engine::impossible() {
        return Err(why.into());
    }
    let mut random = Random::new(aim.seed);
    let plans: Vec<Plan> = (0..aim.tasks.div_ceil(PLAN))
        .map(|number| plan::of_size(&format!("p{number}"), PLAN, &WORKERS, &mut random))
        .collect::<Result<_>>()?;
    let image = format!("supervisor-worker:{CLI_VERSION}");
    let mut engine = Engine::start()?;
    engine.load(&image)?;
    println!("Without an interruption: {} tasks in three containers", plans.len() * PLAN);
    let calm = once(programs, &plans, &mut engine, Aim { interruptions: 0, ..aim })?;
    println!("With {} interruptions", aim.interruptions);
    let storm = once(programs, &plans, &mut engine, aim)?;
    let text = report::markdown(aim, &calm, &storm);
    println!("\n{text}");
    if let Some(file) = write {
        let whole = std::fs::read_to_string(file)?;
        let before = whole.split(report::HEADING).next().unwrap_or_default();
        let text = format!("{}\n\n{text}", before.trim_end());
        atomic_file::replace(file, text.as_bytes(), Durability::Volatile)?;
    }
    Ok(report::is_met(&calm, &storm))
}

/// Writes the report of the other storm, and keeps the part that this one has written.
pub(crate) fn keep_part(file: &Path, text: &str) -> Result<()> {
    let before = std::fs::read_to_string(file).unwrap_or_default();
    let part = before.split_once(report::HEADING).map(|(_, part)| part);
    let part = part.map(|part| format!("\n{}{part}", report::HEADING)).unwrap_or_default();
    Ok(atomic_file::replace(file, format!("{text}{part}").as_bytes(), Durability::Volatile)?)
}

fn once(programs: &Programs, plans: &[Plan], engine: &mut Engine, aim: Aim) -> Result<Round> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = format!("http://{}", listener.local_addr()?);
    let model = Rehearsal::new(Scenario::from_toml(SLOWLY)?);
    runtime.spawn(model.clone().serve_tcp(listener, std::future::pending()));

    let env = vec![
        ("DOCKER_HOST", engine.endpoint()),
        ("SUPERVISOR_RUNTIME", "docker".to_owned()),
        ("ANTHROPIC_BASE_URL", address),
        ("ANTHROPIC_API_KEY", "sk-soak".to_owned()),
    ];
    let mut place = Place::empty(programs, env)?;
    place.write("supervisor.toml", "backoff_base = 0.2\nstop_grace = 5\n")?;
    for worker in WORKERS.into_iter().chain(["orchestrator"]) {
        let tools = if worker == "orchestrator" { "" } else { "\"Read\", \"Write\", \"Agent\"" };
        let text = format!(
            "description = \"Does what is to be done.\"\nmodel = \"claude-sonnet-5-5\"\ntools = [{tools}]\n\
             replicas = 1\ntimeout = 300\n"
        );
        place.write(&format!("workspaces/{worker}/worker.toml"), &text)?;
    }
    let done = storm::run(&mut place, engine, &model, plans, aim)?;
    let findings = check::check(&mut place, engine, plans, &done)?;
    println!(
        "  {} tasks, {} attempts, {} interruptions in {:.0} s",
        findings.tasks,
        findings.attempts,
        done.made.values().sum::<usize>(),
        done.took.as_secs_f64()
    );
    for (what, wrong) in findings.wrong() {
        println!("  {what}: {}", wrong.len());
        for line in wrong.iter().take(10) {
            println!("    {line}");
        }
    }
    Ok(Round { done, findings })
}
