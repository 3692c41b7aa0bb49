//! Letting tasks, runs and requests about them in: what the API and the drop folders share.

use protocol::{
    PlanFault, RunId, RunMode, Task, TaskFile, TaskId, TaskKind, TaskSource, WorkerId, strict,
};
use scheduler::{Input, Refusal, Target};
use serde_json::Value;
use uuid::Uuid;

use crate::api::types::{RunOpened, SubmitRun, TaskAdded};
use crate::dispatch::Dispatcher;
use crate::failure::Failure;
use crate::{publish, view};

/// What became of a task that somebody wants to add.
#[derive(Debug)]
pub enum Admission {
    /// It was added.
    Added,
    /// It was there already, the very same.
    Existed {
        /// Whether it has ended.
        ended: bool,
    },
    /// It can't be added.
    Refused(Failure),
}

/// Adds a task, unless the very same is there.
pub fn task(dispatcher: &mut Dispatcher, task: Task, source: TaskSource) -> Admission {
    if let Some(entry) = dispatcher.scheduler().task(&task.id) {
        if *entry.task == task {
            return Admission::Existed { ended: entry.status().is_some() };
        }
        let message = format!("there is another task {:?}, with other content", task.id);
        return Admission::Refused(
            Failure::bad_input(message)
                .hint("Choose another `task_id`, or cancel that task first and use a new name."),
        );
    }
    // After the look-up: the supervisor's own tasks lie in the drop folders too.
    if task.kind != TaskKind::Work {
        let message = "`kind` is set by the supervisor only";
        return Admission::Refused(Failure::bad_input(message).hint("Leave `kind` out."));
    }
    match dispatcher.request(Input::AddTask { task, source }) {
        Ok(()) => Admission::Added,
        Err(refusal) => Admission::Refused(failure(&refusal)),
    }
}

/// Shows the file of a task again, if the task has not ended.
pub fn show_again(dispatcher: &Dispatcher, id: &TaskId) {
    if let Some(entry) = dispatcher.scheduler().task(id).filter(|entry| entry.status().is_none())
        && let Err(error) = publish::task(dispatcher.installation(), &entry.task)
    {
        tracing::warn!(task = %id, %error, "Can't show a task again.");
    }
}

/// Adds a task that came over the API, as JSON of the task format; its name may be left out.
///
/// # Errors
///
/// Bad input, with field and cure.
pub fn new_task(dispatcher: &mut Dispatcher, mut json: Value) -> Result<TaskAdded, Failure> {
    if let Some(object) = json.as_object_mut()
        && !object.contains_key("task_id")
    {
        let worker = object.get("worker").and_then(Value::as_str).unwrap_or("task").to_owned();
        let name = free_task_name(dispatcher, &worker);
        object.insert("task_id".to_owned(), name.into());
    }
    let bad = || Failure::bad_input("this is not a task");
    let bytes = serde_json::to_vec(&json).map_err(|error| bad().because(error))?;
    let file: TaskFile = strict::from_slice(&bytes).map_err(|fault| {
        let hint = fault.hint();
        bad().because(fault).hint(hint)
    })?;
    let new = file.into_task(None).map_err(|invalid| {
        let hint = invalid.hint();
        bad().because(invalid).hint(hint)
    })?;
    let task_id = new.id.clone();
    let offset = dispatcher.committed(new.run);
    match task(dispatcher, new, TaskSource::Api) {
        Admission::Added => Ok(TaskAdded { task_id, existed: false, offset }),
        Admission::Existed { .. } => Ok(TaskAdded { task_id, existed: true, offset: 0 }),
        Admission::Refused(failure) => Err(failure),
    }
}

/// Makes up a name: the worker's and four characters.
fn free_task_name(dispatcher: &Dispatcher, worker: &str) -> String {
    loop {
        let run = RunId::Submitted(Uuid::from_u64_pair(dispatcher.random(), dispatcher.random()));
        let name = format!("{worker}-{}", run.short(|_| false));
        match name.parse() {
            Ok(id) if dispatcher.scheduler().task(&id).is_some() => {}
            // A name that can't be is refused with its reason where it is parsed.
            _ => return name,
        }
    }
}

/// Opens a run.
///
/// # Errors
///
/// Bad input, with what is wrong with the request or the plan.
pub fn run(dispatcher: &mut Dispatcher, submitted: SubmitRun) -> Result<RunOpened, Failure> {
    let SubmitRun { request, plan, plan_only, name, priority, budget_usd, budget_tokens } =
        submitted;
    let request = request.filter(|request| !request.trim().is_empty());
    let (mode, request) = match (&plan, request) {
        (Some(_), _) if plan_only => {
            return Err(Failure::bad_input("a plan is split already")
                .hint("Check it with `supervisor check`."));
        }
        (Some(plan), request) => (RunMode::Plan, request.or_else(|| plan.request.clone())),
        (None, None) => {
            return Err(Failure::bad_input("the request is empty").hint("Say what is to be done."));
        }
        (None, request) if plan_only => (RunMode::PlanOnly, request),
        (None, request) => (RunMode::Request, request),
    };
    check_budget(budget_usd, budget_tokens)?;
    let run = RunId::Submitted(Uuid::now_v7());
    let scheduler = dispatcher.scheduler();
    let short = run.short(|short| scheduler.runs().any(|run| run.short == *short));
    let input = Input::OpenRun {
        run,
        short: short.clone(),
        name,
        mode,
        request,
        plan,
        priority,
        budget_usd,
        budget_tokens,
        rehearsal: dispatcher.rehearsal(),
    };
    dispatcher.request(input).map_err(|refusal| failure(&refusal))?;
    Ok(RunOpened { run, short })
}

/// Checks the numbers of a budget.
///
/// # Errors
///
/// Bad input when one of them is nothing, or more than anybody means.
pub fn check_budget(usd: Option<f64>, tokens: Option<u64>) -> Result<(), Failure> {
    if let Some(usd) = usd.filter(|usd| !protocol::checked::is_budget(*usd)) {
        let message = format!("the budget is {usd}, and must be from 0.0001 to 1000000 dollars");
        return Err(Failure::bad_input(message)
            .hint("Give US dollars, as in `--budget 5`, or leave it out."));
    }
    if tokens == Some(0) {
        return Err(Failure::bad_input("the budget is 0 tokens, and must be at least 1")
            .hint("Give a number of tokens, as in `--budget-tokens 500000`, or leave it out."));
    }
    Ok(())
}

/// Finds what an id that a person typed is about.
///
/// # Errors
///
/// `None` when nothing here has that id.
pub fn target(dispatcher: &Dispatcher, id: &str) -> Option<Target> {
    if let Some(run) = view::find_run(dispatcher.scheduler(), id) {
        return Some(Target::Run(run));
    }
    let task: TaskId = id.parse().ok()?;
    dispatcher.scheduler().task(&task).map(|_| Target::Task(task))
}

/// Returns a refusal of the scheduler as it is told to whoever asked.
pub fn failure(refusal: &Refusal) -> Failure {
    let names = |ids: &[TaskId]| ids.iter().map(TaskId::as_str).collect::<Vec<_>>().join(" -> ");
    match refusal {
        Refusal::Exists(task) => Failure::bad_input(format!("there is another task {task:?}"))
            .hint("Choose another `task_id`."),
        Refusal::Gone(task) => Failure::bad_input(format!("the task {task:?} was cleared away"))
            .hint("A name is not used twice: choose another `task_id`, and depend on nothing that is gone."),
        Refusal::UnknownWorker { worker, nearest } => unknown_worker(worker, nearest.as_deref()),
        Refusal::UnknownRun(run) => Failure::bad_input(format!("there is no run {run:?}"))
            .hint("Leave `run` out; `supervisor status` lists the runs."),
        Refusal::RunEnded(run) => Failure::bad_input(format!("the run {run:?} has ended"))
            .hint("Leave `run` out, or open a new run."),
        Refusal::UnknownTask(task) => Failure::bad_input(format!("there is no task {task:?}"))
            .hint("`supervisor status` lists the tasks."),
        Refusal::Cycle(tasks) => {
            Failure::bad_input(format!("tasks would wait for each other: {}", names(tasks)))
                .hint("Take one of these dependencies out.")
        }
        Refusal::Plan(faults) => Failure::bad_input("the plan can't be carried out")
            .because(faults.iter().map(PlanFault::to_string).collect::<Vec<_>>().join("; "))
            .hint("Mend it; `supervisor check` tells when it is right."),
        Refusal::AlreadyEnded => Failure::bad_input("there is nothing to cancel: it has ended"),
        Refusal::NothingToRetry => {
            Failure::bad_input("there is nothing to do again: it is complete, or not over")
                .hint("Where it waits for a decision, `supervisor decisions` shows what to type.")
        }
        Refusal::UnknownDecision(id) => Failure::bad_input(format!("there is no decision {id}"))
            .hint("`supervisor decisions` lists those that are open."),
        Refusal::AlreadyDecided(id) => {
            Failure::bad_input(format!("decision {id} is answered, or what it was about is over"))
                .hint("`supervisor decisions` lists those that are open.")
        }
    }
}

fn unknown_worker(worker: &WorkerId, nearest: Option<&str>) -> Failure {
    let hint = match nearest {
        Some(name) => format!("Did you mean `{name}`? `supervisor workers` lists them."),
        None => "`supervisor workers` lists them.".to_owned(),
    };
    Failure::bad_input(format!("there is no worker {worker:?}")).hint(hint)
}
