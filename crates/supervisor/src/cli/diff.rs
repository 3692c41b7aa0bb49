//! `supervisor diff`: where two runs part.

use std::collections::BTreeMap;

use protocol::{Event, Record, RunId, ShortRunId, Task, TaskId, Time};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::DiffArgs;
use super::context::Context;
use super::history::{History, Story};
use super::replay::task_of;
use super::table::Table;
use super::text::{count, duration, local, one_line};
use super::{Outcome, Stop};

/// How much of a message is shown.
const MAX_MESSAGE: usize = 80;

/// Where two runs part.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    left: RunId,
    right: RunId,
    /// Whether nothing of what is compared differs.
    same: bool,
    /// How many tasks both have, and nothing of which differs.
    same_tasks: usize,
    /// The first difference of each task, and of the run itself; the earliest first.
    partings: Vec<Parting>,
}

/// The first difference of a task.
#[derive(Debug, Serialize)]
struct Parting {
    /// The task, without the run's prefix; `null` for the run itself.
    task: Option<String>,
    left: Option<Side>,
    right: Option<Side>,
}

/// What one of the runs did there. Absent when nothing of the task is left in it.
#[derive(Debug, Serialize)]
struct Side {
    seq: u64,
    at: Time,
    /// Seconds since the run was opened.
    after: f64,
    what: String,
}

/// Carries out the command.
pub(crate) fn run(context: &mut Context, args: &DiffArgs) -> Result<Outcome, Stop> {
    let history = History::read(&context.installation()?)?;
    let (left, right) = (history.find(&args.left)?, history.find(&args.right)?);
    let difference = compare(&left, &right);
    if args.json {
        context.screen.out_json(&difference)?;
    } else {
        context.screen.out(&render(&difference, left.short, right.short))?;
    }
    Ok(if difference.same { Outcome::Done } else { Outcome::Incomplete })
}

/// Compares two runs task by task and event by event. Times, ids, tokens, sessions and replicas are
/// left out, and so are the words of agents and what they cost: two runs never share those.
pub(crate) fn compare(left: &Story<'_>, right: &Story<'_>) -> Difference {
    let (lefts, rights) = (by_task(left), by_task(right));
    let mut partings = Vec::new();
    let mut same_tasks = 0;
    let none = Vec::new();
    let names = lefts.keys().chain(rights.keys().filter(|name| !lefts.contains_key(*name)));
    for name in names {
        let (a, b) = (lefts.get(name).unwrap_or(&none), rights.get(name).unwrap_or(&none));
        let same = a.iter().zip(b).take_while(|(a, b)| a.1 == b.1).count();
        if same == a.len() && same == b.len() {
            same_tasks += usize::from(name.is_some());
            continue;
        }
        let side = |story: &Story<'_>, of: &[(&Record, Value)]| {
            of.get(same).map(|(record, _)| Side {
                seq: record.seq,
                at: record.at,
                after: record.at.since(opened(story)).as_secs_f64(),
                what: brief(&record.event, story.short),
            })
        };
        let (left, right) = (side(left, a), side(right, b));
        partings.push(Parting { task: name.clone(), left, right });
    }
    let first = |parting: &Parting| {
        let sides = [&parting.left, &parting.right].into_iter().flatten();
        sides.map(|side| side.after).fold(f64::INFINITY, f64::min)
    };
    partings.sort_by(|a, b| first(a).total_cmp(&first(b)));
    let (left, right, same) = (left.run, right.run, partings.is_empty());
    Difference { left, right, same, same_tasks, partings }
}

fn opened(story: &Story<'_>) -> Time {
    story.records.first().map_or(Time::ZERO, |record| record.at)
}

/// Returns the events of each task, and under `None` those of the run, with what counts of each.
fn by_task<'a>(story: &Story<'a>) -> BTreeMap<Option<String>, Vec<(&'a Record, Value)>> {
    let mut tasks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in story.records {
        let task = task_of(&record.event).map(|task| name(task, story.short).to_owned());
        let counts = what_counts(&record.event, story.short);
        tasks.entry(task).or_default().push((record, counts));
    }
    tasks
}

fn name<'a>(task: &'a TaskId, short: &ShortRunId) -> &'a str {
    local(task.as_str(), Some(short.as_str()))
}

fn names(tasks: &[TaskId], short: &ShortRunId) -> Vec<String> {
    tasks.iter().map(|task| name(task, short).to_owned()).collect()
}

/// Returns what two runs that went the same way share of an event.
fn what_counts(event: &Event, short: &ShortRunId) -> Value {
    match event {
        Event::RunOpened {
            mode, request, priority, budget_usd, budget_tokens, rehearsal, ..
        } => {
            json!(["opened", mode, request, priority, budget_usd, budget_tokens, rehearsal])
        }
        Event::TaskAdded { task, source } => {
            let Task { worker, description, priority, kind, retries, context, .. } = task;
            let (timeout, budget) = (task.timeout, (task.budget_usd, task.budget_tokens));
            let needs = (names(&task.dependencies, short), task.on_dependency_failure);
            let rest = (timeout, budget, needs, &task.verify, context, retries);
            json!(["added", source, worker, description, priority, kind, rest])
        }
        Event::PlanRejected { reasons, .. } => json!(["rejected", reasons]),
        Event::PlanAccepted { tasks, given, plan, .. } => json!(["accepted", tasks, given, plan]),
        Event::AttemptDispatched { attempt, resume, .. } => json!(["handed out", attempt, resume]),
        Event::AttemptStarted { attempt, .. } => json!(["started", attempt]),
        Event::AttemptStopping { attempt, error, .. } => json!(["stopping", attempt, error.kind]),
        Event::AttemptFailed { attempt, error, counted, retry_at, .. } => {
            json!(["failed", attempt, error.kind, counted, retry_at.is_some()])
        }
        Event::TaskEnded { result, because, .. } => {
            let error = result.error.as_ref().map(|error| error.kind);
            let folder = format!("results/{}/{}/", result.worker, result.task_id);
            let artifact = |path: &String| path.strip_prefix(&folder).unwrap_or(path).to_owned();
            let artifacts: Vec<_> = result.artifacts.iter().map(artifact).collect();
            let because = names(because, short);
            json!(["ended", result.status, result.attempt, error, artifacts, because])
        }
        Event::CancelRequested { task, .. } => json!(["cancel", task.is_some()]),
        Event::TaskReset { .. } => json!(["reset"]),
        Event::TasksForgotten { tasks, .. } => json!(["forgotten", names(tasks, short)]),
        Event::RunEnded { state, .. } => json!(["ended", state]),
        Event::DecisionRaised { decision } => json!(["question", decision.kind]),
        Event::DecisionMade { choice, by, .. } => json!(["answer", choice, by]),
    }
}

/// Says what an event is, in a cell of a table.
fn brief(event: &Event, short: &ShortRunId) -> String {
    match event {
        Event::RunOpened { mode, request, .. } => {
            let what = format!("opened ({mode:?})").to_lowercase();
            match request {
                Some(request) => format!("{what}: {}", one_line(request, MAX_MESSAGE)),
                None => what,
            }
        }
        Event::TaskAdded { task, .. } => {
            let needs = names(&task.dependencies, short);
            let needs = if needs.is_empty() {
                String::new()
            } else {
                format!(" after {}", needs.join(", "))
            };
            let what = one_line(&task.description, MAX_MESSAGE);
            format!("added for {}{needs}: {what}", task.worker)
        }
        Event::PlanRejected { reasons, .. } => {
            format!("the plan is rejected: {}", one_line(&reasons.join("; "), MAX_MESSAGE))
        }
        Event::PlanAccepted { tasks, .. } => {
            format!("the plan is accepted: {}", count(*tasks, "task"))
        }
        Event::AttemptDispatched { attempt, replica, .. } => {
            format!("attempt {attempt} is handed to {replica}")
        }
        Event::AttemptStarted { attempt, .. } => format!("attempt {attempt} starts"),
        Event::AttemptStopping { attempt, error, .. } => {
            format!("attempt {attempt} is being stopped ({})", error.kind)
        }
        Event::AttemptFailed { attempt, error, .. } => {
            let why = one_line(&error.message, MAX_MESSAGE);
            format!("attempt {attempt} failed ({}): {why}", error.kind)
        }
        Event::TaskEnded { result, .. } => match &result.error {
            Some(error) => {
                let why = one_line(&error.message, MAX_MESSAGE);
                format!("{} ({}): {why}", result.status, error.kind)
            }
            None => format!(
                "{} at attempt {}, {}",
                result.status,
                result.attempt,
                count(result.artifacts.len(), "artifact")
            ),
        },
        Event::CancelRequested { .. } => "somebody asks for its end".to_owned(),
        Event::TaskReset { .. } => "it is to be done again".to_owned(),
        Event::TasksForgotten { tasks, .. } => {
            format!("{} cleared away", count(tasks.len(), "task"))
        }
        Event::RunEnded { state, .. } => format!("the run is {}", state.as_str()),
        Event::DecisionRaised { decision } => format!("decision {} is needed", decision.id),
        Event::DecisionMade { decision, .. } => format!("decision {decision} is made"),
    }
}

fn render(difference: &Difference, left: &ShortRunId, right: &ShortRunId) -> String {
    let same = count(difference.same_tasks, "task");
    if difference.same {
        return format!("Runs {left} and {right} went the same way: {same}.\n");
    }
    let mut table = Table::new(&["TASK", "RUN", ">EVENT", ">AFTER", "WHAT"]);
    for parting in &difference.partings {
        let mut task = parting.task.as_deref().unwrap_or("(the run)");
        for (short, side) in [(left, &parting.left), (right, &parting.right)] {
            let [seq, after, what] = match side {
                Some(side) => [format!("#{}", side.seq), duration(side.after), side.what.clone()],
                None => ["-".to_owned(), "-".to_owned(), "nothing more".to_owned()],
            };
            table.row([task.into(), short.as_str().into(), seq.into(), after.into(), what.into()]);
            task = "";
        }
    }
    let parted = difference.partings.iter().filter(|parting| parting.task.is_some()).count();
    format!(
        "Runs {left} and {right} part in {}; {same} went the same way. Where each parts first:\n\n{}",
        count(parted, "task"),
        table.render()
    )
}
