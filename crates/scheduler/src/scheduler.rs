//! The reducer itself.

use std::collections::{BTreeSet, HashMap, HashSet};

use protocol::{Choice, Event, HoldScope, RunId, ShortRunId, Time, mutant};

use crate::graph::{Graph, TaskIx};
use crate::hold::Holds;
use crate::replicas::Workers;
use crate::run::{Run, RunIx};
use crate::{Command, Config, Input, Phase, Refusal, Step, TaskState};

/// What has happened, and what follows from it.
///
/// A pure reducer: every change of state is an [`Event`], recorded by one fold that runs live and
/// in replay alike; after each input the rules bring everything in line with it, by further
/// events. Time must not go backwards from call to call; where it does, it is taken to stand still.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) graph: Graph,
    pub(crate) runs: Vec<Run>,
    pub(crate) run_index: HashMap<RunId, RunIx>,
    pub(crate) shorts: HashSet<ShortRunId>,
    pub(crate) workers: Workers,
    /// When something has to be done about a task: at most one time for each.
    pub(crate) timers: BTreeSet<(Time, TaskIx)>,
    /// When a ready task moves up.
    pub(crate) promotions: BTreeSet<(Time, TaskIx)>,
    pub(crate) holds: Holds,
    pub(crate) todo: Todo,
}

/// Where the rules may have something to do. Whether they do is decided when it is looked at.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    /// Tasks that may depend on one that did not complete.
    pub(crate) doomed: BTreeSet<TaskIx>,
    /// Tasks that somebody wants an end to.
    pub(crate) cancelled: BTreeSet<TaskIx>,
    /// Tasks whose last attempt failed for good.
    pub(crate) given_up: BTreeSet<TaskIx>,
    /// Runs of which something changed.
    pub(crate) runs: BTreeSet<RunIx>,
}

/// A step while it is made.
pub(crate) struct Turn<'a> {
    pub(crate) now: Time,
    pub(crate) rng: &'a mut dyn FnMut() -> u64,
    pub(crate) step: Step,
}

impl Turn<'_> {
    pub(crate) fn command(&mut self, command: Command) {
        self.step.commands.push(command);
    }
}

impl Scheduler {
    /// Returns a scheduler to which nothing has happened yet.
    pub fn new(config: Config) -> Self {
        Self {
            workers: Workers::new(&config),
            config,
            now: Time::ZERO,
            graph: Graph::default(),
            runs: Vec::new(),
            run_index: HashMap::new(),
            shorts: HashSet::new(),
            timers: BTreeSet::new(),
            promotions: BTreeSet::new(),
            holds: Holds::default(),
            todo: Todo::default(),
        }
    }

    /// Takes in an event that was recorded, and decides nothing.
    ///
    /// Events come in the order in which they were recorded. One that does not fit, since another
    /// one before it was lost, is left out.
    pub fn replay(&mut self, at: Time, event: &Event) {
        self.now = self.now.max(at);
        if mutant!(AcceptedDoneAgain, true, !matches!(event, Event::TaskEnded { .. })) {
            self.apply(at, event);
        }
    }

    /// Goes on after [`replay`](Self::replay): call it once, before the first
    /// [`step`](Self::step).
    ///
    /// The commands for the attempts that are out are given again, and whatever the last step
    /// before the end decided but did not record is decided anew. Results and task files
    /// are not: whoever keeps them compares them with the tasks. `rng` as in
    /// [`step`](Self::step).
    pub fn resume(&mut self, now: Time, rng: &mut dyn FnMut() -> u64) -> Step {
        self.now = self.now.max(now);
        let mut turn = Turn { now: self.now, rng, step: Step::default() };
        self.workers.unpause();
        self.let_go_at_start(&mut turn);
        self.tell_budgets(&mut turn);
        self.todo.runs.extend(0..self.runs.len());
        for ix in self.live_tasks() {
            let entry = &self.graph[ix].entry;
            let Some(live) = entry.live() else {
                continue;
            };
            let (task, attempt) = (entry.task.id.clone(), live.attempt);
            let replica = live.replica.clone();
            turn.command(match &live.phase {
                Phase::Launching | Phase::Running { .. } => {
                    Command::Dispatch { task, attempt, replica }
                }
                Phase::Stopping { error, .. } => {
                    Command::Interrupt { task, attempt, replica, reason: error.message.clone() }
                }
            });
        }
        self.settle(&mut turn);
        turn.step
    }

    /// Takes in one input and returns what follows from it.
    ///
    /// `now` must not go backwards. An input about an attempt that is over, or that was taken in
    /// before, changes nothing, so inputs may come late and twice. `rng` returns random numbers,
    /// all 64 bits of them uniform: tokens, sessions and waits are made of them. Running a step
    /// with [`Input::Tick`] right after another changes nothing.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]; nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use protocol::{PlanLimits, Priority, RunId, RunMode, TaskSource, Time};
    /// use scheduler::{Command, Config, Input, Scheduler, WorkerLimits};
    ///
    /// let marie = WorkerLimits {
    ///     replicas: 1,
    ///     per_task: false,
    ///     timeout: Duration::from_secs(600),
    ///     retries: 2,
    ///     resumes: true,
    /// };
    /// let mut scheduler = Scheduler::new(Config {
    ///     workers: [("marie".parse()?, marie)].into(),
    ///     max_running: 4,
    ///     plan: PlanLimits { tasks: 100, depth: 20 },
    ///     backoff_base: Duration::from_secs(5),
    ///     backoff_max: Duration::from_secs(300),
    ///     aging: Duration::from_secs(600),
    ///     timeout_margin: Duration::from_secs(15),
    ///     stop_grace: Duration::from_secs(20),
    ///     max_lost: 5,
    /// });
    /// let mut seed = 0_u64;
    /// let mut rng = || {
    ///     seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    ///     seed
    /// };
    /// let now = Time::from_millis(1_000);
    /// let open = Input::OpenRun {
    ///     run: RunId::Adhoc,
    ///     short: "adhoc".parse()?,
    ///     name: None,
    ///     mode: RunMode::Adhoc,
    ///     request: None,
    ///     plan: None,
    ///     priority: Priority::Medium,
    ///     budget_usd: None,
    ///     budget_tokens: None,
    ///     rehearsal: true,
    /// };
    /// scheduler.step(now, &mut rng, open).expect("the run is new");
    ///
    /// let file: protocol::TaskFile = protocol::strict::from_slice(
    ///     br#"{"task_id": "sec-001", "worker": "marie", "description": "Review Emma's progress"}"#,
    /// )?;
    /// let add = Input::AddTask { task: file.into_task(None)?, source: TaskSource::Drop };
    /// let step = scheduler.step(now, &mut rng, add).expect("its name is new and marie exists");
    ///
    /// assert!(matches!(&step.commands[..], [
    ///     Command::WriteTaskFile { .. },
    ///     Command::Dispatch { replica, .. },
    /// ] if replica.as_str() == "marie-1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn step(
        &mut self,
        now: Time,
        rng: &mut dyn FnMut() -> u64,
        input: Input,
    ) -> Result<Step, Refusal> {
        let now = self.now.max(now);
        let mut turn = Turn { now, rng, step: Step::default() };
        self.take_in(&mut turn, input)?;
        self.now = now;
        self.settle(&mut turn);
        Ok(turn.step)
    }

    /// Dispatches nothing more; what runs comes to its end.
    pub fn drain(&mut self) {
        self.config.max_running = 0;
    }

    /// Returns when [`Input::Tick`] is due at the latest, if nothing else comes before. In time
    /// O(1).
    pub fn next_wakeup(&self) -> Option<Time> {
        let timer = self.timers.first().map(|&(at, _)| at);
        timer.into_iter().chain(self.holds.next_alarm()).min()
    }

    /// Records something that was decided just now, and what it means for the files.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, event: Event) {
        self.apply(turn.now, &event);
        match &event {
            Event::TaskAdded { task, .. } => {
                turn.command(Command::WriteTaskFile { task: task.id.clone() });
            }
            Event::TaskReset { task } => {
                turn.command(Command::WriteTaskFile { task: task.clone() });
            }
            Event::TaskEnded { result, .. } => {
                turn.command(Command::Publish { task: result.task_id.clone() });
            }
            Event::RunEnded { run, .. } => turn.command(Command::CloseRun { run: *run }),
            // Where it names no budget, the configuration may. Nothing bounds the standing run.
            Event::RunOpened { run, .. } if *run != RunId::Adhoc => {
                turn.command(Command::SetBudget { scope: HoldScope::Run(*run) });
            }
            Event::DecisionMade {
                decision,
                choice: Choice::GoOn { budget_usd, budget_tokens },
                ..
            } => {
                if (budget_usd.is_some() || budget_tokens.is_some())
                    && let Some(scope) = self.scope(*decision).cloned()
                {
                    turn.command(Command::SetBudget { scope });
                }
            }
            Event::RunOpened { .. }
            | Event::PlanRejected { .. }
            | Event::PlanAccepted { .. }
            | Event::AttemptDispatched { .. }
            | Event::AttemptStarted { .. }
            | Event::AttemptStopping { .. }
            | Event::AttemptFailed { .. }
            | Event::CancelRequested { .. }
            | Event::TasksForgotten { .. }
            | Event::DecisionRaised { .. }
            | Event::DecisionMade { .. } => {}
        }
        turn.step.events.push(event);
    }

    /// Returns the tasks with a live attempt, in order of addition.
    fn live_tasks(&self) -> Vec<TaskIx> {
        let mut live: Vec<_> = self.workers.live_tasks().collect();
        live.sort_unstable();
        debug_assert!(
            live.iter().all(|&ix| matches!(self.graph[ix].entry.state, TaskState::Live(_)))
        );
        live
    }
}
