//! `supervisor check`: whether task and plan files can be accepted, without a daemon.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use protocol::strict::{self, nearest};
use protocol::{
    InvalidTask, Plan, PlanLimits, Priority, RunId, ShortRunId, Task, TaskFile, TaskId, WorkerId,
};

use super::args::CheckArgs;
use super::context::Context;
use super::text::{BAD, GOOD, count, indent, list, paint};
use super::{Outcome, Stop, input};
use crate::config::{Config, Flags};
use crate::failure::Failure;
use crate::install::Installation;

/// What a file is, or what is wrong with it: a sentence each.
type Verdict = Result<String, Vec<String>>;

/// Carries out the command.
pub(crate) fn run(context: &mut Context, args: &CheckArgs) -> Result<Outcome, Stop> {
    let place = Place::of(context);
    if place.workers.is_none() {
        context.screen.err("Not in an installation: whether workers exist is not checked.\n");
    }
    let verdicts = check(&place, &args.files);
    for (path, verdict) in &verdicts {
        context.screen.out(&render(path, verdict))?;
    }
    let bad = verdicts.iter().filter(|(_, verdict)| verdict.is_err()).count();
    match bad {
        0 => Ok(Outcome::Done),
        _ => {
            let files = count(verdicts.len(), "file");
            Err(Failure::bad_input(format!("{bad} of {files} can't be accepted")).into())
        }
    }
}

/// What the files are checked against.
#[derive(Debug)]
struct Place {
    /// The workers that there are; unknown outside of an installation.
    workers: Option<Vec<WorkerId>>,
    limits: PlanLimits,
}

impl Place {
    fn of(context: &Context) -> Self {
        // Those of a fresh installation.
        let limits = PlanLimits { tasks: 200, depth: 50 };
        let Ok(installation) = context.installation() else {
            return Self { workers: None, limits };
        };
        let config = Config::load(&installation, Flags::default(), |name| std::env::var(name).ok());
        let limits = config.map_or(limits, |config| PlanLimits {
            tasks: config.plan_max_tasks.value,
            depth: config.plan_max_depth.value,
        });
        Self { workers: Some(workers(&installation)), limits }
    }
}

/// Returns the workers of an installation: the folders of `workspaces/` with a `worker.toml`.
pub(crate) fn workers(installation: &Installation) -> Vec<WorkerId> {
    let folders = fs::read_dir(installation.workspaces()).into_iter().flatten().flatten();
    let mut workers: Vec<WorkerId> = folders
        .filter(|folder| folder.path().join("worker.toml").is_file())
        .filter_map(|folder| folder.file_name().to_str()?.parse().ok())
        .collect();
    workers.sort();
    workers
}

fn check(place: &Place, files: &[PathBuf]) -> Vec<(PathBuf, Verdict)> {
    let mut tasks = Vec::new();
    let mut verdicts: Vec<(PathBuf, Verdict)> = Vec::new();
    for path in files {
        let verdict = check_file(place, path).map(|(what, task)| {
            tasks.extend(task.map(|task| (verdicts.len(), task)));
            what
        });
        verdicts.push((path.clone(), verdict));
    }
    for (at, fault) in faults_between(&tasks) {
        match &mut verdicts[at].1 {
            Err(faults) => faults.push(fault),
            verdict => *verdict = Err(vec![fault]),
        }
    }
    verdicts
}

/// Checks one file. Its content decides what it is: what has `tasks` is a plan.
fn check_file(place: &Place, path: &Path) -> Result<(String, Option<Named>), Vec<String>> {
    let bytes = input::bytes(path).map_err(|failure| {
        let mut faults = failure.causes();
        faults.extend(failure.cure().map(str::to_owned));
        faults
    })?;
    if let Some(faults) = something_else(path, &bytes) {
        return Err(faults);
    }
    let is_plan = serde_json::from_slice::<serde_json::Value>(&bytes)
        .is_ok_and(|value| value.get("tasks").is_some());
    if is_plan {
        return check_plan(place, &bytes).map(|what| (what, None));
    }
    let file: TaskFile = strict::from_slice(&bytes).map_err(place_and_cure)?;
    check_task(place, path, file).map(|(what, task)| (what, Some(task)))
}

/// Says of a file that is clearly no task and no plan what it is, and what to do with it.
fn something_else(path: &Path, bytes: &[u8]) -> Option<Vec<String>> {
    let (what, cure) = if path.extension().is_some_and(|extension| extension == "toml") {
        ("a configuration", "`supervisor doctor` checks supervisor.toml and each worker.toml.")
    } else if std::str::from_utf8(bytes).is_ok_and(is_prose) {
        ("plain text", "If it is a request, nothing need be checked: `supervisor submit FILE`.")
    } else {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let has = |name| value.get(name).is_some();
        if has("status") && has("attempt") {
            ("a result", "It needs no check: the supervisor writes results.")
        } else if has("event") {
            ("an event", "It needs no check: the supervisor writes the journal.")
        } else {
            return None;
        }
    };
    Some(vec![format!("it is {what}, not a task or a plan"), cure.to_owned()])
}

/// Returns whether a text begins as no JSON text does.
fn is_prose(text: &str) -> bool {
    text.trim_start().starts_with(|first: char| first.is_alphabetic() || first == '#')
}

fn place_and_cure(fault: strict::ParseFault) -> Vec<String> {
    vec![fault.to_string(), fault.hint()]
}

fn check_plan(place: &Place, bytes: &[u8]) -> Verdict {
    let plan: Plan = strict::from_slice(bytes).map_err(|fault| match &fault {
        strict::ParseFault::Shape { hint: None, .. } => vec![
            fault.to_string(),
            "Compare it with the format: `supervisor schema plan` prints it.".to_owned(),
        ],
        _ => place_and_cure(fault),
    })?;
    let named = || plan.tasks.iter().map(|task| task.worker.clone()).collect();
    let mut workers: Vec<WorkerId> = place.workers.clone().unwrap_or_else(named);
    // It splits and answers; no plan may name it, and the daemon refuses one that does.
    workers.retain(|worker| worker.as_str() != protocol::ORCHESTRATOR);
    // As long as the short form of a run usually is.
    let short: ShortRunId = "0000".parse().expect("BUG: digits should be an id");
    match plan.resolve(RunId::Adhoc, &short, Priority::default(), &workers, place.limits) {
        Ok(tasks) => Ok(format!("plan of {}", count(tasks.len(), "task"))),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
    }
}

/// What the files' tasks have to do with each other.
#[derive(Debug)]
struct Named {
    id: TaskId,
    dependencies: Vec<TaskId>,
}

fn check_task(place: &Place, path: &Path, file: TaskFile) -> Result<(String, Named), Vec<String>> {
    let mut faults = Vec::new();
    let id = file.task_id.clone();
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    if path != Path::new("-") && (stem != id.as_str() || extension != Some("json")) {
        faults.push(format!("the file must have the name of its task: rename it to `{id}.json`"));
    }
    let dependencies = file.dependencies.clone();
    let named = move || Named { id, dependencies };
    let mut what = String::new();
    match file.into_task(folder(path).as_ref()) {
        Ok(task) => {
            what = format!("task for {}", task.worker);
            faults.extend(unknown_worker(place, &task));
        }
        Err(InvalidTask::NoWorker) if faults.is_empty() => {
            what.push_str("task; it goes to the worker into whose folder it is put");
        }
        Err(fault) => faults.push(fault.to_string()),
    }
    if faults.is_empty() { Ok((what, named())) } else { Err(faults) }
}

fn unknown_worker(place: &Place, task: &Task) -> Option<String> {
    let workers = place.workers.as_ref()?;
    if workers.contains(&task.worker) {
        return None;
    }
    let names = || workers.iter().map(WorkerId::as_str);
    let cure = match nearest(task.worker.as_str(), names()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are: {}", list(names())),
    };
    Some(format!("the worker `{}` does not exist ({cure})", task.worker))
}

/// Returns the worker in whose folder a file lies, if it lies in one.
fn folder(path: &Path) -> Option<WorkerId> {
    let parent = path.parent()?;
    let is_tasks = parent.parent()?.file_name()? == "tasks";
    parent.file_name()?.to_str()?.parse().ok().filter(|_| is_tasks)
}

/// Returns what is wrong between the tasks, with the number of the file that it is wrong with.
fn faults_between(tasks: &[(usize, Named)]) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let mut files: HashMap<&TaskId, usize> = HashMap::new();
    for (at, task) in tasks {
        if files.insert(&task.id, *at).is_some() {
            faults.push((*at, format!("another of these files has the task `{}` too", task.id)));
        }
    }
    let needs: HashMap<&TaskId, &[TaskId]> =
        tasks.iter().map(|(_, task)| (&task.id, task.dependencies.as_slice())).collect();
    let mut told = HashSet::new();
    for (at, task) in tasks {
        if told.contains(&task.id) {
            continue;
        }
        if let Some(cycle) = cycle_through(&task.id, &needs) {
            faults.push((*at, format!("tasks wait for each other: {}", join(&cycle))));
            told.extend(cycle.into_iter().cloned());
        }
    }
    faults
}

fn join(cycle: &[&TaskId]) -> String {
    let names: Vec<&str> = cycle.iter().map(|id| id.as_str()).collect();
    names.join(" -> ")
}

/// Returns a chain of dependencies that leads from a task back to itself.
fn cycle_through<'a>(
    start: &'a TaskId,
    needs: &HashMap<&'a TaskId, &'a [TaskId]>,
) -> Option<Vec<&'a TaskId>> {
    // Depth first with a stack of its own: a chain may be longer than the thread's stack.
    let mut seen = HashSet::new();
    let mut path = vec![start];
    let mut stack = vec![needs.get(start)?.iter()];
    while let Some(next) = stack.last_mut() {
        match next.next() {
            Some(id) if id == start => {
                path.push(start);
                return Some(path);
            }
            Some(id) => {
                if let Some(more) = needs.get(id)
                    && seen.insert(id)
                {
                    path.push(id);
                    stack.push(more.iter());
                }
            }
            None => {
                stack.pop();
                path.pop();
            }
        }
    }
    None
}

fn render(path: &Path, verdict: &Verdict) -> String {
    let path = path.display();
    match verdict {
        Ok(what) => format!("{}   {path} ({what})\n", paint(GOOD, "ok")),
        Err(faults) => {
            let faults: String = faults.iter().map(|fault| indent(fault, 5)).collect();
            format!("{}  {path}\n{faults}", paint(BAD, "bad"))
        }
    }
}
