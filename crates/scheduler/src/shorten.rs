//! Makes a journal shorter without changing what it leads to.
//!
//! What grows without bound is what happened to attempts. Once a task has ended, its attempts are a few
//! sums; those are put into the event of its end, and their own events are left out. All other events
//! stay as they are, with their numbers and times.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use protocol::{DecisionKind, Event, PlanLimits, Record, TaskId};

use crate::{Config, Scheduler};

/// Returns fewer records that lead to the same state as these, all of one run and in order; `None` when
/// that can't be shown.
///
/// Both are folded and compared, which takes as long as a replay: it is for a thread of its own.
pub fn shorten(records: &[Record]) -> Option<Vec<Record>> {
    let mut ends: HashMap<&TaskId, Vec<usize>> = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        if let Event::TaskEnded { result, .. } = &record.event {
            ends.entry(&result.task_id).or_default().push(at);
        }
    }
    // The end of the life of a task in which something happened, named by where it is in the list.
    let end_of = |at: usize, task: &TaskId| {
        let ends = ends.get(task)?;
        ends.get(ends.partition_point(|end| *end < at)).copied()
    };
    let mut kept = HashSet::new();
    let mut all = Scheduler::new(nothing());
    let mut sums = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        match &record.event {
            // A hold, perhaps an open one: its reason is in no other event.
            Event::AttemptFailed { task, error, .. } if DecisionKind::of(error.kind).is_some() => {
                kept.extend(end_of(at, task));
            }
            // Where the end of another attempt was lost, this is the proof of it.
            Event::AttemptDispatched { task, replica, .. }
                if all.attempt_on(replica).is_some_and(|(other, _)| other != task) =>
            {
                kept.extend(end_of(at, task));
            }
            _ => {}
        }
        all.replay(record.at, &record.event);
        if let Event::TaskEnded { result, .. } = &record.event {
            let ix = all.graph.find(&result.task_id);
            sums.insert(at, ix.map(|ix| all.graph[ix].attempts()));
        }
    }
    let mut short = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        let left_out = of_attempts(&record.event)
            .and_then(|task| end_of(at, task))
            .is_some_and(|end| !kept.contains(&end));
        if left_out {
            continue;
        }
        let mut record = record.clone();
        if let Event::TaskEnded { attempts, .. } = &mut record.event
            && !kept.contains(&at)
        {
            *attempts = sums.remove(&at).flatten().map(Box::new);
        }
        short.push(record);
    }
    let mut again = Scheduler::new(nothing());
    for record in &short {
        again.replay(record.at, &record.event);
    }
    same(&all, &again).then_some(short)
}

/// Returns the task of an event that is only about its attempts, or about an end to them.
fn of_attempts(event: &Event) -> Option<&TaskId> {
    match event {
        Event::PlanRejected { task, .. }
        | Event::AttemptDispatched { task, .. }
        | Event::AttemptStarted { task, .. }
        | Event::AttemptStopping { task, .. }
        | Event::AttemptFailed { task, .. } => Some(task),
        Event::CancelRequested { task, .. } => task.as_ref(),
        Event::RunOpened { .. }
        | Event::TaskAdded { .. }
        | Event::PlanAccepted { .. }
        | Event::TaskEnded { .. }
        | Event::TaskReset { .. }
        | Event::RunEnded { .. }
        | Event::DecisionRaised { .. }
        | Event::DecisionMade { .. } => None,
    }
}

/// Returns whether two schedulers know the same.
fn same(a: &Scheduler, b: &Scheduler) -> bool {
    let tasks = |s: &Scheduler| s.graph.len();
    let decisions = |s: &Scheduler| {
        s.decisions().map(|decision| (decision.clone(), s.hold(decision.id).cloned())).collect()
    };
    let (open, other): (Vec<_>, Vec<_>) = (decisions(a), decisions(b));
    tasks(a) == tasks(b)
        && a.runs().eq(b.runs())
        && a.running() == b.running()
        && open == other
        && a.budgets().eq(b.budgets())
        && a.runs().all(|run| {
            let pairs = a.run_tasks(&run.run).zip(b.run_tasks(&run.run));
            a.run_tasks(&run.run).count() == b.run_tasks(&run.run).count()
                && pairs.into_iter().all(|(x, y)| {
                    x == y
                        && a.held_by(x) == b.held_by(y)
                        && a.waiting_for(&x.task.id) == b.waiting_for(&y.task.id)
                })
        })
}

/// A configuration in which nothing is decided: only what is recorded counts.
fn nothing() -> Config {
    Config {
        workers: BTreeMap::new(),
        max_running: 0,
        plan: PlanLimits { tasks: 0, depth: 0 },
        backoff_base: Duration::ZERO,
        backoff_max: Duration::ZERO,
        aging: Duration::from_secs(600),
        timeout_margin: Duration::ZERO,
        stop_grace: Duration::ZERO,
        max_lost: 0,
    }
}
