//! `supervisor replay`: a run's journal folded again, to show how it stood at any point, and why.

mod until;
mod why;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal};

use jiff::tz::TimeZone;
use protocol::{Event, Record, RunId, TaskId};
use scheduler::Scheduler;
use serde::Serialize;

use super::args::ReplayArgs;
use super::context::Context;
use super::history::{History, Story};
use super::progress::Progress;
use super::text::{BOLD, DIM, NOTE, clock, indent, paint};
use super::{Outcome, Stop, status};
use crate::api::types::{RunView, TaskStatus};
use crate::config::{Config, Flags};
use crate::failure::Failure;
use crate::{daemon, view, workers};

pub(crate) use until::Until;

/// What whoever steps through a run may type.
const KEYS: &str = "Enter: the next event; s: the state; q: the end\n";

/// A run after some of its events.
#[derive(Debug, Serialize)]
struct Point {
    /// The last of these events.
    #[serde(flatten)]
    step: Step,
    /// How many events of the run have happened, and how many there are.
    events: usize,
    of: usize,
    /// How the run stands.
    state: RunView,
}

/// An event, why it happened, and what it changed.
#[derive(Debug, Serialize)]
struct Step {
    #[serde(flatten)]
    record: Record,
    why: Vec<String>,
    changes: Vec<Change>,
}

/// A task that stands otherwise than before.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    task_id: TaskId,
    from: Option<TaskStatus>,
    to: Option<TaskStatus>,
}

/// Carries out the command.
pub(crate) fn run(context: &mut Context, args: &ReplayArgs) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let environment = |name: &'static str| std::env::var(name).ok();
    let config = Config::load(&installation, Flags::default(), environment)?;
    let workers = workers::load_all(&installation)?;
    let history = History::read(&installation)?;
    let story = history.find(&args.run)?;
    let point = last_of(&story, args.until, &context.zone)?;
    for error in history.unread() {
        let note =
            format!("{} {error}. What it held up here is not shown.\n", paint(NOTE, "Note:"));
        context.screen.err(&note);
    }
    let scheduler = daemon::scheduler(&config, &workers);
    let mut replay = Replay::new(scheduler, &story, context.zone.clone());
    let asks =
        args.step && !args.json && context.screen.out_is_terminal() && io::stdin().is_terminal();
    if asks {
        context.screen.err(&paint(DIM, KEYS));
    }
    let mut last = None;
    for (run, record) in history.all() {
        if record.seq > point.seq {
            break;
        }
        if run != story.run {
            replay.scheduler.replay(record.at, &record.event);
            continue;
        }
        let step = replay.take(record);
        if args.step {
            show(context, &replay, &step, args.json)?;
            if asks && record.seq < point.seq && !next(context, &replay, record)? {
                return Ok(Outcome::Done);
            }
        }
        last = Some(step);
    }
    let Some(step) = last else { return Ok(Outcome::Done) };
    if args.json {
        if !args.step {
            let (events, of) = (replay.events, story.records.len());
            let state = replay.state(&step.record)?;
            context.screen.out_json(&Point { step, events, of, state })?;
        }
        return Ok(Outcome::Done);
    }
    if !args.step {
        show(context, &replay, &step, false)?;
    }
    let text = format!("\n{}", replay.render(&step.record, story.records.len())?);
    context.screen.out(&text)?;
    Ok(Outcome::Done)
}

/// Returns the last event of the run up to that point.
fn last_of<'a>(
    story: &Story<'a>,
    until: Option<Until>,
    zone: &TimeZone,
) -> Result<&'a Record, Failure> {
    let (Some(first), Some(last)) = (story.records.first(), story.records.last()) else {
        return Err(Failure::bad_input(format!("nothing has happened in run {}", story.short)));
    };
    let Some(until) = until else { return Ok(last) };
    let includes = until.point(last.at, zone);
    let found = story.records.iter().rev().find(|record| includes.has(record));
    found.ok_or_else(|| {
        let message = format!("run {} had not begun by then", story.short);
        let (from, to) = (first.seq, last.seq);
        let hint = format!(
            "It begins with event {from}, at {}, and what is known of it ends with event {to}, at {}.",
            first.at, last.at
        );
        Failure::bad_input(message).hint(hint)
    })
}

fn show(context: &mut Context, replay: &Replay, step: &Step, json: bool) -> Result<(), Stop> {
    if json {
        return context.screen.out_json(step);
    }
    let text = replay.tell(step);
    context.screen.out(&text)
}

/// Asks how to go on. False is not at all.
fn next(context: &mut Context, replay: &Replay, at: &Record) -> Result<bool, Stop> {
    loop {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        match (read, line.trim()) {
            (Ok(0) | Err(_), _) | (_, "q") => return Ok(false),
            (_, "s") => {
                let state = replay.render(at, replay.of)?;
                context.screen.out(&state)?;
            }
            (_, "") => return Ok(true),
            _ => context.screen.err(&paint(DIM, KEYS)),
        }
    }
}

/// The fold, as far as it has come.
struct Replay {
    scheduler: Scheduler,
    run: RunId,
    progress: Progress,
    /// What the progress says of the last event.
    told: String,
    zone: TimeZone,
    /// Who depends on whom, as far as is known by now.
    dependents: HashMap<TaskId, Vec<TaskId>>,
    events: usize,
    of: usize,
}

impl Replay {
    fn new(scheduler: Scheduler, story: &Story<'_>, zone: TimeZone) -> Self {
        Self {
            scheduler,
            run: story.run,
            progress: Progress::new(zone.clone()),
            told: String::new(),
            zone,
            dependents: HashMap::new(),
            events: 0,
            of: story.records.len(),
        }
    }

    /// Takes in the next event of the run.
    fn take(&mut self, record: &Record) -> Step {
        let why = why::why(&self.scheduler, record.at, &record.event);
        if let Event::TaskAdded { task, .. } = &record.event {
            for dependency in &task.dependencies {
                self.dependents.entry(dependency.clone()).or_default().push(task.id.clone());
            }
        }
        let before = self.near(&record.event);
        self.scheduler.replay(record.at, &record.event);
        let after = self.near(&record.event);
        self.events += 1;
        self.told = self.progress.take(record);
        if self.told.is_empty() {
            self.told = self.progress.in_passing(record);
        }
        let change = |(task_id, to): (TaskId, Option<TaskStatus>)| {
            let from = before.get(&task_id).copied().flatten();
            (from != to).then_some(Change { task_id, from, to })
        };
        let changes = after.into_iter().filter_map(change).collect();
        Step { record: record.clone(), why, changes }
    }

    /// Returns how the tasks stand that an event can move: its own, and those right below.
    fn near(&self, event: &Event) -> BTreeMap<TaskId, Option<TaskStatus>> {
        let Some(task) = task_of(event) else { return BTreeMap::new() };
        let below = self.dependents.get(task).into_iter().flatten();
        let status = |id: &TaskId| {
            let entry = self.scheduler.task(id)?;
            Some(view::task_status(&entry.state))
        };
        std::iter::once(task).chain(below).map(|id| (id.clone(), status(id))).collect()
    }

    /// Returns the last step as text: what happened, why, and what it changed.
    fn tell(&self, step: &Step) -> String {
        let record = &step.record;
        let what = &self.told;
        let mut text = format!("{} {what}", paint(DIM, format!("#{:<5}", record.seq)));
        for reason in &step.why {
            text.push_str(&indent(&format!("why: {reason}"), 10));
        }
        // That the task itself is in this state now, the event says.
        let own = task_of(&record.event);
        for change in step.changes.iter().filter(|change| Some(&change.task_id) != own) {
            if let Some(to) = change.to {
                let what = format!("so {} is {}", change.task_id, to.as_str());
                text.push_str(&indent(&paint(BOLD, what), 10));
            }
        }
        text
    }

    fn state(&self, at: &Record) -> Result<RunView, Failure> {
        let run = self.scheduler.run(&self.run);
        let run = run.ok_or_else(|| {
            Failure::bad_input("the run's opening is missing in its journal")
                .hint("Restore the file from a backup.")
        })?;
        Ok(view::run(&self.scheduler, run, at.at))
    }

    fn render(&self, at: &Record, of: usize) -> Result<String, Failure> {
        let heading = format!(
            "After event {} ({} of {of} of this run), at {}:",
            at.seq,
            self.events,
            clock(at.at, &self.zone)
        );
        let state = status::one_run(&self.state(at)?, at.at, &self.zone);
        Ok(format!("{}\n{state}", paint(BOLD, heading)))
    }
}

/// Returns the task that an event is about, if it is about one.
pub(crate) fn task_of(event: &Event) -> Option<&TaskId> {
    match event {
        Event::TaskAdded { task, .. } => Some(&task.id),
        Event::TaskEnded { result, .. } => Some(&result.task_id),
        Event::PlanRejected { task, .. }
        | Event::AttemptDispatched { task, .. }
        | Event::AttemptStarted { task, .. }
        | Event::AttemptStopping { task, .. }
        | Event::AttemptFailed { task, .. }
        | Event::TaskReset { task } => Some(task),
        Event::CancelRequested { task, .. } => task.as_ref(),
        Event::RunOpened { .. }
        | Event::PlanAccepted { .. }
        | Event::TasksForgotten { .. }
        | Event::RunEnded { .. }
        | Event::DecisionRaised { .. }
        | Event::DecisionMade { .. } => None,
    }
}
