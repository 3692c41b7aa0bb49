//! What a plan may take, going by what past tasks took. No model is asked.

use std::cmp::Reverse;
use std::collections::HashMap;

use protocol::{ORCHESTRATOR, Plan, Status, TaskId, TaskKind, Time, WorkerId};
use scheduler::{Scheduler, TaskEntry};

use crate::api::usage::{Estimate, Past, Spread, TaskEstimate};

/// How many past tasks of a worker count, the latest: what it was long ago it may not be any more.
const LATEST: usize = 100;

/// Returns what a plan may take, with splitting and answering the request. It looks at every task that the
/// scheduler knows.
pub fn of(scheduler: &Scheduler, plan: &Plan) -> Estimate {
    let own = |name: &str, kind| Some((name.parse().ok()?, ORCHESTRATOR.parse().ok()?, kind));
    let work = plan.tasks.iter().map(|task| (task.id.clone(), task.worker.clone(), TaskKind::Work));
    let planned: Vec<(TaskId, WorkerId, TaskKind)> = own("plan", TaskKind::Plan)
        .into_iter()
        .chain(work)
        .chain(own("answer", TaskKind::Synthesize))
        .collect();
    let entries = scheduler.runs().flat_map(|run| scheduler.run_tasks(&run.run));
    let past = past(&planned, entries);
    let find = |worker: &WorkerId, kind| {
        past.iter().find(|past| past.kind == kind && past.worker == *worker)
    };
    let tasks: Vec<TaskEstimate> = planned
        .into_iter()
        .map(|(id, worker, kind)| {
            let past = find(&worker, kind);
            TaskEstimate {
                cost_usd: past.and_then(|past| past.cost_usd),
                tokens: past.and_then(|past| past.tokens),
                id,
                worker,
                kind,
            }
        })
        .collect();
    let costs = tasks.iter().map(|task| task.cost_usd);
    let tokens = tasks.iter().map(|task| task.tokens);
    Estimate {
        cost_usd: costs.clone().collect::<Option<Vec<_>>>().map(|all| sum(all.into_iter())),
        known_cost_usd: sum(costs.flatten()),
        tokens: tokens.clone().collect::<Option<Vec<_>>>().map(|all| sum(all.into_iter())),
        known_tokens: sum(tokens.flatten()),
        tasks,
        past,
    }
}

/// What one past task took.
#[derive(Clone, Copy, Debug)]
struct Took {
    ended: Time,
    cost_usd: Option<f64>,
    tokens: u64,
}

/// Returns what there is to go by for each kind of task of each worker that is planned, in the plan's
/// order.
fn past<'a>(
    planned: &[(TaskId, WorkerId, TaskKind)],
    entries: impl Iterator<Item = &'a TaskEntry>,
) -> Vec<Past> {
    let mut took: HashMap<(&WorkerId, TaskKind), Vec<Took>> = HashMap::new();
    let mut order = Vec::new();
    for (_, worker, kind) in planned {
        took.entry((worker, *kind)).or_insert_with(|| {
            order.push((worker, *kind));
            Vec::new()
        });
    }
    for entry in entries {
        let done = entry
            .result
            .as_ref()
            .filter(|result| entry.status() == Some(Status::Complete) && !result.rehearsal);
        if let (Some(result), Some(of)) =
            (done, took.get_mut(&(&entry.task.worker, entry.task.kind)))
        {
            let tokens = entry.usage.input().saturating_add(entry.usage.output_tokens);
            of.push(Took { ended: result.finished_at, cost_usd: entry.cost_usd, tokens });
        }
    }
    let past = order.into_iter().map(|(worker, kind)| {
        let mut took = took.remove(&(worker, kind)).unwrap_or_default();
        took.sort_by_key(|took| Reverse(took.ended));
        took.truncate(LATEST);
        let costs: Vec<f64> = took.iter().filter_map(|took| took.cost_usd).collect();
        Past {
            worker: worker.clone(),
            kind,
            tasks: took.len() as u64,
            unpriced: (took.len() - costs.len()) as u64,
            cost_usd: spread(costs),
            tokens: spread(took.iter().map(|took| took.tokens as f64).collect()),
        }
    });
    past.collect()
}

/// Returns the median, between the two in the middle where there are two, and the 90th percentile by nearest
/// rank: of fewer than ten the largest. `None` without a figure.
fn spread(mut figures: Vec<f64>) -> Option<Spread> {
    figures.sort_by(f64::total_cmp);
    let count = figures.len();
    let low = *figures.get(count.checked_sub(1)? / 2)?;
    let high = *figures.get(count / 2)?;
    let p90 = *figures.get((count * 9).div_ceil(10) - 1)?;
    Some(Spread { median: low + (high - low) / 2.0, p90 })
}

fn sum(spreads: impl Iterator<Item = Spread>) -> Spread {
    spreads.fold(Spread::default(), |sum, one| Spread {
        median: sum.median + one.median,
        p90: sum.p90 + one.p90,
    })
}

#[cfg(test)]
mod tests;
