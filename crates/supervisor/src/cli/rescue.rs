//! `supervisor rescue`: what is left of a run, as a plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use protocol::atomic_file::{self, Durability};
use protocol::{Event, FORMAT_VERSION, Plan, PlanTask, Status, Task, TaskId, TaskKind, TaskSource};

use super::args::RescueArgs;
use super::context::Context;
use super::history::{History, Story};
use super::text::{NOTE, count, list, local, paint};
use super::{Outcome, Stop};
use crate::failure::Failure;

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) plan: Plan,
    /// How the tasks of the plan stand in the run: `2 failed, 1 skipped`.
    states: BTreeMap<&'static str, usize>,
    /// Whether the run goes on by itself.
    open: bool,
}

/// Carries out the command.
pub(crate) fn run(context: &mut Context, args: &RescueArgs) -> Result<Outcome, Stop> {
    let history = History::read(&context.installation()?)?;
    let story = history.find(&args.run)?;
    let left = left_of(&story)?;
    let mut text = serde_json::to_string_pretty(&left.plan)
        .map_err(|error| Failure::bad_input("the plan can't be written as JSON").because(error))?;
    text.push('\n');
    match &args.output {
        None => context.screen.out_raw(text.as_bytes())?,
        Some(path) => write(path, &text)?,
    }
    let file =
        args.output.as_deref().map_or("plan.json".to_owned(), |path| path.display().to_string());
    context.screen.err(&tell(&left, &story, &file, args.output.is_none()));
    Ok(Outcome::Done)
}

/// Returns what is left of a run: its work that is not complete, with what is complete as given.
///
/// # Errors
///
/// Bad input when nothing is left, or there is no plan to be carried on with.
pub(crate) fn left_of(story: &Story<'_>) -> Result<Left, Failure> {
    let short = story.short.as_str();
    let (mut request, mut given, mut open) = (None, Vec::new(), true);
    let mut work: Vec<&Task> = Vec::new();
    let mut ends: HashMap<&TaskId, Status> = HashMap::new();
    for record in story.records {
        match &record.event {
            Event::RunOpened { request: asked, .. } => request.clone_from(asked),
            Event::PlanAccepted { given: earlier, .. } => given.clone_from(earlier),
            Event::TaskAdded { task, source } => {
                open = true;
                if task.kind == TaskKind::Work && *source != TaskSource::Supervisor {
                    work.push(task);
                }
            }
            Event::TaskEnded { result, .. } => {
                ends.insert(&result.task_id, result.status);
            }
            Event::TaskReset { task } => {
                open = true;
                ends.remove(task);
            }
            Event::RunEnded { .. } => open = false,
            _ => {}
        }
    }
    let is_complete = |task: &&Task| ends.get(&task.id) == Some(&Status::Complete);
    let (complete, left): (Vec<&Task>, Vec<&Task>) = work.into_iter().partition(is_complete);
    if left.is_empty() && complete.is_empty() {
        return Err(Failure::bad_input(format!(
            "run {short} has no tasks, so nothing can be rescued"
        ))
        .hint("Submit its request again: `supervisor events` shows it."));
    }
    if left.is_empty() {
        let hint = format!(
            "If its answer is missing, have it written: `supervisor retry {short}`. `supervisor \
             result TASK` shows the result of a task."
        );
        let message = format!("nothing is left of run {short}: all of its work is complete");
        return Err(Failure::bad_input(message).hint(hint));
    }
    // Two names that are the same without the run's prefix keep it.
    let mut names = HashSet::new();
    let here: HashMap<&TaskId, TaskId> = left
        .iter()
        .map(|task| {
            let name = local(task.id.as_str(), Some(short)).parse().unwrap_or(task.id.clone());
            let name = if names.insert(name.clone()) { name } else { task.id.clone() };
            (&task.id, name)
        })
        .collect();
    given.extend(complete.iter().map(|task| task.id.clone()));
    for task in &left {
        // From another run; whether it is complete is found out when the plan is submitted.
        given.extend(task.dependencies.iter().filter(|id| !here.contains_key(id)).cloned());
    }
    let mut seen = HashSet::new();
    given.retain(|id| seen.insert(id.clone()));
    let mut states = BTreeMap::new();
    for task in &left {
        *states.entry(ends.get(&task.id).map_or("not over", |end| end.as_str())).or_default() += 1;
    }
    let tasks = left.iter().map(|task| planned(task, &here)).collect();
    Ok(Left { plan: Plan { version: Some(FORMAT_VERSION), request, given, tasks }, states, open })
}

fn planned(task: &Task, here: &HashMap<&TaskId, TaskId>) -> PlanTask {
    let name = |id: &TaskId| here.get(id).unwrap_or(id).clone();
    PlanTask {
        id: name(&task.id),
        worker: task.worker.clone(),
        description: task.description.clone(),
        dependencies: task.dependencies.iter().map(name).collect(),
        priority: Some(task.priority),
        timeout: task.timeout.and_then(|timeout| u32::try_from(timeout.as_secs()).ok()),
        retries: task.retries,
        on_dependency_failure: Some(task.on_dependency_failure),
        budget_usd: task.budget_usd,
        budget_tokens: task.budget_tokens,
        verify: task.verify.clone(),
        context: task.context.clone(),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    atomic_file::create(path, text.as_bytes(), Durability::Synced).map_err(|error| {
        let hint = "Give a name in a folder that you may write to, that no file has yet.";
        Failure::bad_input(format!("`{}` can't be written", path.display()))
            .because(error)
            .hint(hint)
    })
}

/// Says what the plan holds, what it builds on, and what to type.
fn tell(left: &Left, story: &Story<'_>, file: &str, printed: bool) -> String {
    let short = story.short.as_str();
    let states: Vec<_> = left.states.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let tasks = count(left.plan.tasks.len(), "task");
    let mut text = format!("Left of run {short}: {tasks} ({}).\n", states.join(", "));
    if !left.plan.given.is_empty() {
        let used = |id: &&TaskId| left.plan.tasks.iter().any(|task| task.dependencies.contains(id));
        let used: Vec<_> = left.plan.given.iter().filter(used).collect();
        let depends = match used.is_empty() {
            true => "No task of the plan depends on them".to_owned(),
            false => format!("Tasks of the plan depend on {}", list(used)),
        };
        text.push_str(&format!(
            "Not done again: {}, complete in {short} or before. They are `given` in the plan by their full \
             names. {depends}; the new run's answer has the results of all of them. That works in this \
             installation only, and as long as run {short} is kept.\n",
            count(left.plan.given.len(), "task"),
        ));
    }
    if left.open {
        text.push_str(&format!(
            "{} run {short} is not over. Cancel it first, or its tasks are done twice: supervisor cancel \
             {short}\n",
            paint(NOTE, "Note:"),
        ));
    }
    text.push_str("To carry it out, as it is or changed by you:\n");
    if printed {
        text.push_str(&format!("  supervisor rescue {short} --output {file}\n"));
    }
    text.push_str(&format!("  supervisor submit --plan {file}\n"));
    text
}
