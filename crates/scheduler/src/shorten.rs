//! Makes a journal shorter without changing what it leads to.
//!
//! What grows without bound is what happened to attempts. Once a task has ended, its attempts are a few
//! sums; those are put into the event of its end, and their own events are left out. Of tasks that were
//! cleared away only their names are left. All other events stay as they are, with their numbers and times.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use protocol::{Decision, DecisionKind, Event, PlanLimits, Record, TaskId};

use crate::{Config, Scheduler};

/// Returns fewer records that lead to the same state as these, all of one run and in order; `None` when
/// that can't be shown.
///
/// Both are folded and compared, which takes as long as a replay: it is for a thread of its own.
pub fn shorten(records: &[Record]) -> Option<Vec<Record>> {
    let remembered = without_forgotten(records);
    let whole = match &remembered {
        Cow::Borrowed(_) => None,
        Cow::Owned(_) => Some(fold(records)),
    };
    let records = &*remembered;
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
        if says_more(&all, &record.event)
            && let Some(task) = of_attempts(&record.event)
        {
            kept.extend(end_of(at, task));
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
    same(whole.as_ref().unwrap_or(&all), &fold(&short)).then_some(short)
}

/// Returns the records without those of tasks that are forgotten later on. That they were forgotten stays.
fn without_forgotten(records: &[Record]) -> Cow<'_, [Record]> {
    let mut forgotten: HashSet<&TaskId> = HashSet::new();
    for record in records {
        if let Event::TasksForgotten { tasks, .. } = &record.event {
            forgotten.extend(tasks);
        }
    }
    if forgotten.is_empty() {
        return Cow::Borrowed(records);
    }
    let mut all = Scheduler::new(nothing());
    for record in records {
        if says_more(&all, &record.event)
            && let Some(task) = of_attempts(&record.event)
        {
            forgotten.remove(task);
        }
        all.replay(record.at, &record.event);
    }
    let is_left =
        |record: &&Record| about(&record.event).is_none_or(|task| !forgotten.contains(task));
    Cow::Owned(records.iter().filter(is_left).cloned().collect())
}

/// Returns the task of an event that is about nothing but that task.
fn about(event: &Event) -> Option<&TaskId> {
    match event {
        Event::TaskAdded { task, .. } => Some(&task.id),
        Event::TaskEnded { result, .. } => Some(&result.task_id),
        Event::TaskReset { task } => Some(task),
        _ => of_attempts(event),
    }
}

fn fold(records: &[Record]) -> Scheduler {
    let mut scheduler = Scheduler::new(nothing());
    for record in records {
        scheduler.replay(record.at, &record.event);
    }
    scheduler
}

/// Returns whether what happened to an attempt means something for others than its task, by what was known
/// before.
fn says_more(before: &Scheduler, event: &Event) -> bool {
    match event {
        // A hold, perhaps an open one: its reason is in no other event.
        Event::AttemptFailed { error, .. } => DecisionKind::of(error.kind).is_some(),
        // Earlier versions could lose the end of another attempt in a crash: this is the proof of it.
        Event::AttemptDispatched { task, replica, .. } => {
            before.attempt_on(replica).is_some_and(|(other, _)| other != task)
        }
        _ => false,
    }
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
        | Event::TasksForgotten { .. }
        | Event::RunEnded { .. }
        | Event::DecisionRaised { .. }
        | Event::DecisionMade { .. } => None,
    }
}

/// Returns whether two schedulers know the same.
fn same(a: &Scheduler, b: &Scheduler) -> bool {
    let tasks = |s: &Scheduler| s.graph.len();
    let decisions = |s: &Scheduler| {
        let hold = |decision: &Decision| {
            let stopped = s.stopped_by(decision.id).map(|entry| entry.task.id.clone());
            (decision.clone(), s.hold(decision.id).cloned(), stopped.collect::<Vec<_>>())
        };
        s.decisions().map(hold).collect()
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
