//! A run's progress: what its events mean to somebody who watches.
//!
//! Lines are only ever added, so that it reads the same on a terminal and in a log.

use std::collections::HashMap;

use anstyle::Style;
use jiff::tz::TimeZone;
use protocol::{
    Attempt, Choice, Decider, DecisionKind, Event, Plan, Record, ReplicaId, RunMode, RunState,
    Status, Task, TaskError, TaskId, TaskResult, TaskSource, Time, WorkerId,
};

use super::text::{
    self, BAD, BOLD, DIM, GOOD, LIVE, NOTE, at_cost, clean, clock, count, duration, indent, local,
    number, one_line, paint, usd,
};

/// The widest column of names; a longer name moves its own line.
const MAX_WIDTH: usize = 32;

/// How much of a message is shown in a line.
const MAX_MESSAGE: usize = 300;

/// What was seen of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    zone: TimeZone,
    short: Option<String>,
    workers: HashMap<TaskId, WorkerId>,
    replicas: HashMap<TaskId, ReplicaId>,
    /// The plan, while its tasks come in, and how many there are to be.
    coming: Option<(usize, Vec<Task>)>,
    task_width: usize,
    worker_width: usize,
}

impl Progress {
    /// Returns the progress of a run of which nothing was seen yet.
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            short: None,
            workers: HashMap::new(),
            replicas: HashMap::new(),
            coming: None,
            task_width: 12,
            worker_width: 12,
        }
    }

    /// Takes in what happened and returns the lines that tell of it; often there are none.
    pub(crate) fn take(&mut self, record: &Record) -> String {
        let at = record.at;
        match &record.event {
            Event::RunOpened { short, name, mode, .. } => {
                self.short = Some(short.to_string());
                opened(short.as_str(), name.as_deref(), *mode)
            }
            Event::TaskAdded { task, source } => self.added(at, task, *source),
            Event::PlanRejected { task, reasons } => {
                let mut text =
                    self.line(at, task, BAD, "the plan can't be carried out; it is told why:");
                for reason in reasons {
                    text.push_str(&indent(&one_line(reason, MAX_MESSAGE), 12));
                }
                text
            }
            Event::PlanAccepted { tasks, plan, .. } => match plan {
                Some(plan) => self.planned(&rows_of_plan(plan)),
                None => {
                    self.coming = Some((*tasks, Vec::new()));
                    String::new()
                }
            },
            Event::AttemptDispatched { task, replica, .. } => {
                self.replicas.insert(task.clone(), replica.clone());
                String::new()
            }
            Event::AttemptStarted { task, attempt } => self.started(at, task, *attempt),
            // Its end, or the retry, says why; this is only the way there.
            Event::AttemptStopping { .. } => String::new(),
            Event::AttemptFailed { task, attempt, error, retry_at, .. } => {
                self.failed(at, task, *attempt, error, *retry_at)
            }
            Event::TaskEnded { result, because, .. } => {
                self.workers.insert(result.task_id.clone(), result.worker.clone());
                self.ended(at, result, because)
            }
            Event::CancelRequested { task: Some(task), .. } => {
                self.line(at, task, NOTE, "somebody asks for its end")
            }
            Event::CancelRequested { task: None, .. } => {
                format!("{}  {}\n", self.time(at), paint(NOTE, "somebody asks for the run's end"))
            }
            Event::TaskReset { task } => self.line(at, task, NOTE, "is to be done again"),
            Event::TasksForgotten { tasks, .. } => {
                let what = format!("{} cleared away", count(tasks.len(), "task"));
                format!("{}  {}\n", self.time(at), paint(DIM, what))
            }
            // Whoever follows a run is told of all that hold it up, with what to type.
            Event::DecisionRaised { .. } => String::new(),
            Event::DecisionMade { decision, choice, by } => {
                let what = format!("decision {decision}: {}", answer(*choice, *by));
                format!("{}  {}\n", self.time(at), paint(NOTE, what))
            }
            Event::RunEnded { state, .. } => {
                let what = format!("the run is {}", state.as_str());
                format!("{}  {}\n", self.time(at), paint(run_style(*state), what))
            }
        }
    }

    /// Returns a line for an event of which the progress says nothing, for somebody who reads them all.
    pub(crate) fn in_passing(&self, record: &Record) -> String {
        let at = record.at;
        match &record.event {
            Event::TaskAdded { task, .. } => self.line(at, &task.id, DIM, "added"),
            Event::PlanAccepted { tasks, .. } => {
                let what = format!("the plan is accepted: {}", count(*tasks, "task"));
                format!("{}  {}\n", self.time(at), paint(DIM, what))
            }
            Event::AttemptDispatched { task, attempt, replica, resume, .. } => {
                let how = if *resume { ", the session goes on" } else { "" };
                let what = format!("attempt {attempt} is handed to {replica}{how}");
                self.line(at, task, DIM, &what)
            }
            Event::AttemptStopping { task, attempt, error } => {
                let why = one_line(&error.message, MAX_MESSAGE);
                self.line(at, task, DIM, &format!("attempt {attempt} is being stopped: {why}"))
            }
            Event::AttemptFailed { task, attempt, error, .. } => {
                let why = one_line(&error.message, MAX_MESSAGE);
                let what = format!("attempt {attempt} failed ({}): {why}", error.kind);
                self.line(at, task, NOTE, &what)
            }
            Event::DecisionRaised { decision } => {
                let question = one_line(&decision.question, MAX_MESSAGE);
                let what = format!("decision {} is needed: {question}", decision.id);
                format!("{}  {}\n", self.time(at), paint(NOTE, what))
            }
            Event::RunOpened { .. }
            | Event::DecisionMade { .. }
            | Event::PlanRejected { .. }
            | Event::AttemptStarted { .. }
            | Event::TaskEnded { .. }
            | Event::CancelRequested { .. }
            | Event::TaskReset { .. }
            | Event::TasksForgotten { .. }
            | Event::RunEnded { .. } => String::new(),
        }
    }

    fn added(&mut self, at: Time, task: &Task, source: TaskSource) -> String {
        self.workers.insert(task.id.clone(), task.worker.clone());
        match (&mut self.coming, source) {
            (Some((expected, tasks)), TaskSource::Plan) => {
                tasks.push(task.clone());
                if tasks.len() < *expected {
                    return String::new();
                }
                let tasks = self.coming.take().map(|(_, tasks)| tasks).unwrap_or_default();
                self.planned(&tasks.iter().map(|task| self.row(task)).collect::<Vec<_>>())
            }
            // What needs others says so; what needs nothing starts soon, and that is said then.
            (_, TaskSource::Supervisor) => String::new(),
            _ if task.dependencies.is_empty() => String::new(),
            _ => {
                let waits = format!("waits for {}", self.names(&task.dependencies));
                self.line(at, &task.id, DIM, &waits)
            }
        }
    }

    /// Shows a plan: who does what, and what waits for what.
    fn planned(&mut self, rows: &[Row]) -> String {
        let width = |column: fn(&Row) -> &String, least: usize| {
            let widest = rows.iter().map(|row| column(row).chars().count()).max();
            widest.unwrap_or_default().clamp(least, MAX_WIDTH)
        };
        self.task_width = width(|row| &row.task, self.task_width);
        self.worker_width = width(|row| &row.worker, self.worker_width);
        let mut workers: Vec<&str> = rows.iter().map(|row| row.worker.as_str()).collect();
        workers.sort_unstable();
        workers.dedup();
        let short = self.short.clone().unwrap_or_default();
        let tasks = count(rows.len(), "task");
        let heading = format!("plan: {tasks} for {}", text::list(workers));
        let mut shown = format!("{short:<8}  {}\n", paint(BOLD, heading));
        for Row { task, worker, waits_for } in rows {
            let (t, w) = (self.task_width, self.worker_width);
            let line = match waits_for.as_str() {
                "" => format!("          {task:<t$}  {worker}"),
                names => format!(
                    "          {task:<t$}  {worker:<w$}  {}",
                    paint(DIM, format!("waits for {names}"))
                ),
            };
            shown.push_str(&line);
            shown.push('\n');
        }
        shown
    }

    fn started(&mut self, at: Time, task: &TaskId, attempt: Attempt) -> String {
        let what = match self.replicas.get(task) {
            Some(replica) => format!("running (attempt {attempt} on {replica})"),
            None => format!("running (attempt {attempt})"),
        };
        self.line(at, task, LIVE, &what)
    }

    fn failed(
        &mut self,
        at: Time,
        task: &TaskId,
        attempt: Attempt,
        error: &TaskError,
        retry_at: Option<Time>,
    ) -> String {
        // Without a further attempt the task's end follows at once and says the same.
        let Some(retry_at) = retry_at else {
            return String::new();
        };
        let why = one_line(&error.message, MAX_MESSAGE);
        let next = match retry_at.since(at).as_secs_f64() {
            _ if DecisionKind::of(error.kind).is_some() => "waits for a decision".to_owned(),
            wait if wait < 0.05 => "tries again".to_owned(),
            wait => format!("tries again in {}", duration(wait)),
        };
        let what = format!("attempt {attempt} failed ({}): {why}; {next}", error.kind);
        self.line(at, task, NOTE, &what)
    }

    fn ended(&mut self, at: Time, result: &TaskResult, because: &[TaskId]) -> String {
        let task = &result.task_id;
        let why = result.error.as_ref().map(|error| one_line(&error.message, MAX_MESSAGE));
        match result.status {
            Status::Complete => {
                let what = format!(
                    "complete in {}, {}",
                    duration(result.execution_time),
                    at_cost(result.cost_usd)
                );
                self.line(at, task, GOOD, &what)
            }
            Status::Failed => {
                let tries = match result.attempt {
                    0 | 1 => String::new(),
                    n => format!(" at attempt {n}"),
                };
                let kind =
                    result.error.as_ref().map(|e| format!(" ({})", e.kind)).unwrap_or_default();
                let what = format!("failed{tries}{kind}: {}", why.unwrap_or_default());
                let mut text = self.line(at, task, BAD, &what);
                if let Some(hint) = result.error.as_ref().and_then(|error| error.hint.as_ref()) {
                    text.push_str(&indent(&format!("Hint: {}", clean(hint)), 10));
                }
                text
            }
            Status::Skipped if !because.is_empty() => {
                let chain: Vec<_> = because.iter().map(|id| self.name(id).to_owned()).collect();
                let what = format!("skipped, since {} did not complete", chain.join(" <- "));
                self.line(at, task, NOTE, &what)
            }
            Status::Skipped => {
                self.line(at, task, NOTE, &format!("skipped: {}", why.unwrap_or_default()))
            }
            Status::Cancelled => self.line(at, task, NOTE, "cancelled"),
        }
    }

    /// Returns a line about a task.
    fn line(&self, at: Time, task: &TaskId, style: Style, what: &str) -> String {
        let worker = self.workers.get(task).map(WorkerId::as_str).unwrap_or_default();
        let (t, w) = (self.task_width, self.worker_width);
        let (time, task) = (self.time(at), self.name(task));
        format!("{time}  {task:<t$}  {worker:<w$}  {}\n", paint(style, what))
    }

    fn row(&self, task: &Task) -> Row {
        Row {
            task: self.name(&task.id).to_owned(),
            worker: task.worker.to_string(),
            waits_for: self.names(&task.dependencies),
        }
    }

    fn name<'a>(&self, task: &'a TaskId) -> &'a str {
        local(task.as_str(), self.short.as_deref())
    }

    fn names(&self, tasks: &[TaskId]) -> String {
        text::list(tasks.iter().map(|task| self.name(task)))
    }

    fn time(&self, at: Time) -> String {
        paint(DIM, clock(at, &self.zone))
    }
}

/// A task as a plan shows it.
#[derive(Debug)]
struct Row {
    task: String,
    worker: String,
    waits_for: String,
}

fn rows_of_plan(plan: &Plan) -> Vec<Row> {
    let row = |task: &protocol::PlanTask| Row {
        task: task.id.to_string(),
        worker: task.worker.to_string(),
        waits_for: text::list(&task.dependencies),
    };
    plan.tasks.iter().map(row).collect()
}

fn opened(short: &str, name: Option<&str>, mode: RunMode) -> String {
    let named = name.map(|name| format!(" ({})", one_line(name, 80))).unwrap_or_default();
    let what = match mode {
        RunMode::Request => "the request is split",
        RunMode::PlanOnly => "the request is split, and no more",
        RunMode::Plan => "the plan is carried out",
        RunMode::Adhoc => "tasks without a plan",
    };
    format!("{}  {what}{named}\n", paint(BOLD, format!("{short:<8}")))
}

fn answer(choice: Choice, by: Decider) -> String {
    let what = match choice {
        Choice::Stop => "stop".to_owned(),
        Choice::GoOn { budget_usd, budget_tokens } => {
            let tokens = budget_tokens.map(|tokens| format!("{} tokens", number(tokens)));
            let parts: Vec<_> = budget_usd.map(usd).into_iter().chain(tokens).collect();
            match parts.is_empty() {
                true => "go on".to_owned(),
                false => format!("go on, with {}", parts.join(" and ")),
            }
        }
    };
    let why = match by {
        Decider::Person => "",
        Decider::Retry => " (by a retry)",
        Decider::Restart => " (by a restart)",
        Decider::Time => " (its time is over)",
    };
    format!("{what}{why}")
}

/// Returns the style of the way a run ended.
pub(crate) fn run_style(state: RunState) -> Style {
    match state {
        RunState::Complete => GOOD,
        RunState::Partial | RunState::Cancelled => NOTE,
        RunState::Failed => BAD,
    }
}
