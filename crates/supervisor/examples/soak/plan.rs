//! What there is to do: plans whose tasks depend on each other, and tasks that are dropped as files.

use protocol::{Plan, PlanTask, TaskId, WorkerId};
use serde_json::json;

use crate::Result;
use crate::random::Random;

/// The workers that do it.
pub(crate) const WORKERS: [&str; 4] = ["ant", "bee", "cow", "dog"];

/// How many replicas each has.
pub(crate) const REPLICAS: usize = 2;

/// How far back a task may depend on others.
const REACH: u64 = 40;

/// The longest chain.
pub(crate) const DEPTH: usize = 40;

/// Returns the name of a task without its run's prefix.
pub(crate) fn local(task: &str) -> &str {
    task.split_once('.').map_or(task, |(_, local)| local)
}

/// Returns a plan of `size` tasks for these workers, each after up to three of those before it.
pub(crate) fn of_size(
    name: &str,
    size: usize,
    workers: &[&str],
    random: &mut Random,
) -> Result<Plan> {
    let mut tasks: Vec<PlanTask> = Vec::new();
    let mut depths: Vec<usize> = Vec::new();
    for number in 0..size {
        let mut before: Vec<usize> = Vec::new();
        for _ in 0..random.below(4) {
            let back = usize::try_from(1 + random.below(REACH))?;
            let Some(other) = number.checked_sub(back) else { continue };
            if depths[other] + 1 < DEPTH && !before.contains(&other) {
                before.push(other);
            }
        }
        depths.push(before.iter().map(|&other| depths[other] + 1).max().unwrap_or(1));
        let dependencies = before.iter().map(|&other| tasks[other].id.clone()).collect();
        let worker = one_of(workers, random.next())?;
        tasks.push(task(&format!("{name}-{number:04}"), worker, dependencies)?);
    }
    Ok(Plan { request: Some(format!("Do {name}")), tasks, ..Plan::default() })
}

/// Returns a plan of `chains` chains of tasks, one for each replica, so that there is always room.
pub(crate) fn of_chains(chains: usize, length: usize) -> Result<Plan> {
    let mut tasks: Vec<PlanTask> = Vec::new();
    for chain in 0..chains {
        for number in 0..length {
            let before = (number > 0).then(|| tasks.last().map(|task| task.id.clone())).flatten();
            let dependencies = before.into_iter().collect();
            let id = format!("chain-{chain}-{number:03}");
            tasks.push(task(&id, worker(chain as u64)?, dependencies)?);
        }
    }
    Ok(Plan { request: Some("Do chains".to_owned()), tasks, ..Plan::default() })
}

/// Returns a plan of `size` tasks, none after another.
pub(crate) fn of_singles(size: usize) -> Result<Plan> {
    let one = |number: usize| task(&format!("t-{number:04}"), worker(number as u64)?, Vec::new());
    let tasks = (0..size).map(one).collect::<Result<_>>()?;
    Ok(Plan { request: Some("Do singles".to_owned()), tasks, ..Plan::default() })
}

/// Returns the file of a task that somebody drops into a worker's folder, and the worker.
pub(crate) fn drop_of(number: usize, random: &mut Random) -> Result<(WorkerId, String, String)> {
    let id = format!("drop-{number:04}");
    let file = json!({ "task_id": id, "description": "Dropped by hand." });
    Ok((worker(random.next())?, id, file.to_string()))
}

fn worker(number: u64) -> Result<WorkerId> {
    one_of(&WORKERS, number)
}

fn one_of(workers: &[&str], number: u64) -> Result<WorkerId> {
    Ok(workers[usize::try_from(number % workers.len() as u64)?].parse()?)
}

fn task(id: &str, worker: WorkerId, dependencies: Vec<TaskId>) -> Result<PlanTask> {
    Ok(PlanTask {
        id: id.parse()?,
        worker,
        description: "Do it.".to_owned(),
        dependencies,
        priority: None,
        timeout: None,
        retries: None,
        on_dependency_failure: None,
        budget_usd: None,
        budget_tokens: None,
        verify: None,
        context: serde_json::Map::new(),
    })
}
