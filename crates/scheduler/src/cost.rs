//! What a step costs, counted in turns of loops and looks into indexes, for 100,000 tasks.

use std::time::Duration;

use protocol::{
    Choice, Event, HoldScope, PlanLimits, Priority, RunId, RunMode, Status, TaskFile, TaskSource,
    Time,
};

use crate::{Command, Config, Input, Scheduler, Step, WorkerLimits, work};

const TASKS: usize = 100_000;

/// The most work of a step for each event, command and edge of the graph that it is about.
const MOST: u64 = 4;

/// Fewer where each task costs as much as the longest path that counts.
const STEEP: usize = 10_000;

/// A scheduler that is watched: the work of each step is compared with what the step changed.
struct Watched {
    scheduler: Scheduler,
    now: Time,
    draws: u64,
    live: Vec<(protocol::TaskId, protocol::ReplicaId)>,
    total: u64,
    ended: usize,
}

impl Watched {
    fn new() -> Self {
        let limits = WorkerLimits {
            replicas: 8,
            per_task: false,
            timeout: Duration::from_secs(60),
            retries: 1,
            resumes: true,
        };
        let config = Config {
            workers: [("w".parse().unwrap(), limits)].into(),
            max_running: 8,
            plan: PlanLimits { tasks: 100, depth: 10 },
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            aging: Duration::from_secs(600),
            timeout_margin: Duration::from_secs(1),
            stop_grace: Duration::from_secs(1),
            max_lost: 3,
        };
        let mut watched = Self {
            scheduler: Scheduler::new(config),
            now: Time::from_millis(1),
            draws: 0,
            live: Vec::new(),
            total: 0,
            ended: 0,
        };
        watched.step(
            Input::OpenRun {
                run: RunId::Adhoc,
                short: "adhoc".parse().unwrap(),
                name: None,
                mode: RunMode::Adhoc,
                request: None,
                plan: None,
                priority: Priority::Medium,
                budget_usd: None,
                budget_tokens: None,
                rehearsal: true,
            },
            0,
        );
        watched
    }

    /// Takes a step that may touch that many edges of the graph.
    fn step(&mut self, input: Input, edges: usize) -> Step {
        let draws = &mut self.draws;
        let mut rng = || {
            *draws += 1;
            *draws
        };
        work::take();
        let step = self.scheduler.step(self.now, &mut rng, input).unwrap();
        let done = work::take();
        self.total += done;
        let changed = 1 + edges + step.events.len() + step.commands.len();
        assert!(done / changed as u64 <= MOST, "{done} for {changed} things that changed");
        for command in &step.commands {
            if let Command::Dispatch { task, replica, .. } = command {
                self.live.push((task.clone(), replica.clone()));
            }
        }
        for event in &step.events {
            if let Event::TaskEnded { result, .. } = event {
                self.ended += 1;
                self.live.retain(|(task, _)| *task != result.task_id);
            }
        }
        step
    }

    fn add(&mut self, name: &str, dependencies: &[String], edges: usize) {
        let text = format!(
            r#"{{"task_id": "{name}", "worker": "w", "description": "x", "dependencies": []}}"#
        );
        let file: TaskFile = protocol::strict::from_slice(text.as_bytes()).unwrap();
        let mut task = file.into_task(None).unwrap();
        task.dependencies = dependencies.iter().map(|name| name.parse().unwrap()).collect();
        self.step(Input::AddTask { task, source: TaskSource::Api }, edges + dependencies.len());
    }

    /// Completes everything, one attempt after the other.
    fn finish(&mut self, edges_of: impl Fn(&str) -> usize) {
        while let Some((task, _)) = self.live.first().cloned() {
            self.now = self.now + Duration::from_millis(1);
            let entry = self.scheduler.task(&task).unwrap();
            let live = entry.live().unwrap();
            let mut report = protocol::TaskResult::without_report(
                task.clone(),
                RunId::Adhoc,
                "w".parse().unwrap(),
                Some(live.attempt),
                Status::Complete,
                protocol::TaskError::new(protocol::FailureKind::Invalid, ""),
                self.now,
            );
            report.token = Some(live.token);
            let edges = edges_of(task.as_str());
            self.step(Input::AttemptReported { report }, edges);
        }
    }

    /// Checks that all is done, and that all steps together did no more than `each` per task.
    fn check(&self, tasks: usize, each: u64) {
        assert_eq!(self.ended, tasks);
        assert_eq!(self.scheduler.next_wakeup(), None);
        let done = self.total / tasks as u64;
        assert!(done <= each, "{done} per task");
    }
}

#[test]
fn independent_tasks_cost_the_same_each_however_many_there_are() {
    let mut watched = Watched::new();
    for n in 0..TASKS {
        watched.add(&format!("t{n}"), &[], 0);
    }
    watched.finish(|_| 0);
    watched.check(TASKS, 40);
}

#[test]
fn layers_cost_what_their_edges_cost() {
    let width = 1_000;
    let mut watched = Watched::new();
    for n in 0..TASKS {
        let layer = n / width;
        let above: Vec<_> = (0..3)
            .filter(|_| layer > 0)
            .map(|d| format!("t{}", (layer - 1) * width + (n + d) % width))
            .collect();
        // The first tasks of a layer make the path of a cone above them one longer.
        let cone = if layer > 0 { 3 * layer * (2 * layer + 3).min(width) } else { 0 };
        watched.add(&format!("t{n}"), &above, cone);
    }
    watched.finish(|_| 6);
    watched.check(TASKS, 250);
}

#[test]
fn chain_dropped_from_its_start_costs_no_more_than_the_longest_path_that_counts() {
    let mut watched = Watched::new();
    for n in 0..STEEP {
        let above: Vec<_> =
            (n > 0).then(|| format!("t{}", n.wrapping_sub(1))).into_iter().collect();
        watched.add(&format!("t{n}"), &above, 256);
    }
    watched.finish(|_| 2);
    watched.check(STEEP, 3 * 256);
}

#[test]
fn chain_dropped_from_its_end_costs_the_same_for_each_task() {
    let mut watched = Watched::new();
    for n in (0..TASKS).rev() {
        let above: Vec<_> =
            (n > 0).then(|| format!("t{}", n.wrapping_sub(1))).into_iter().collect();
        watched.add(&format!("t{n}"), &above, 0);
    }
    watched.finish(|_| 2);
    watched.check(TASKS, 40);
}

#[test]
fn chain_dropped_in_pairs_is_searched_for_cycles_at_its_short_end() {
    let mut watched = Watched::new();
    // 1, 3, 2, 5, 4, 7, 6, …: each even one has a task waiting for it and a long chain above.
    let order = (1..STEEP).map(|n| if n == 1 { 1 } else { n ^ 1 });
    let mut added = 0;
    for n in order {
        let above: Vec<_> = (n > 1).then(|| format!("t{}", n - 1)).into_iter().collect();
        watched.add(&format!("t{n}"), &above, 2 * 256);
        added += 1;
    }
    watched.finish(|_| 2);
    watched.check(added, 6 * 256);
}

#[test]
fn giant_fan_out_and_fan_in_cost_each_edge_once() {
    let mut watched = Watched::new();
    watched.add("root", &[], 0);
    for n in 0..TASKS {
        watched.add(&format!("t{n}"), &["root".to_owned()], 0);
    }
    let all: Vec<_> = (0..TASKS).map(|n| format!("t{n}")).collect();
    watched.add("end", &all, 2 * TASKS);
    watched.finish(|name| if name == "root" || name == "end" { TASKS } else { 2 });
    watched.check(TASKS + 2, 40);
}

#[test]
fn failure_at_the_top_of_a_long_chain_costs_what_it_skips() {
    let mut watched = Watched::new();
    for n in (0..TASKS).rev() {
        let above: Vec<_> =
            (n > 0).then(|| format!("t{}", n.wrapping_sub(1))).into_iter().collect();
        watched.add(&format!("t{n}"), &above, 0);
    }
    let step = watched.step(
        Input::AttemptUnstartable {
            task: "t0".parse().unwrap(),
            attempt: protocol::Attempt::FIRST,
            error: protocol::TaskError::new(protocol::FailureKind::Invalid, "x"),
            pause: false,
        },
        0,
    );
    assert_eq!(step.events.len(), TASKS + 1);
    watched.check(TASKS, 40);
}

#[test]
fn aging_costs_each_task_no_more_than_its_levels() {
    let mut watched = Watched::new();
    for n in 0..TASKS {
        watched.add(&format!("t{n}"), &[], 0);
    }
    work::take();
    for minutes in 0..60 {
        watched.now = watched.now + Duration::from_secs(60 * minutes);
        watched.scheduler.step(watched.now, &mut || 1, Input::Tick).unwrap();
    }
    let done = work::take();
    assert!(done < 5 * TASKS as u64 * 3, "{done}");
}

#[test]
fn hold_costs_the_same_however_much_it_holds() {
    let mut watched = Watched::new();
    for n in 0..TASKS {
        watched.add(&format!("t{n}"), &[], 0);
    }
    for scope in
        [HoldScope::All, HoldScope::Run(RunId::Adhoc), HoldScope::Worker("w".parse().unwrap())]
    {
        let (task, _) = watched.live.remove(0);
        let entry = watched.scheduler.task(&task).unwrap();
        let live = entry.live().unwrap().clone();
        let mut error = protocol::TaskError::new(protocol::FailureKind::Budget, "x");
        error.scope = Some(scope);
        let (run, status) = (RunId::Adhoc, Status::Failed);
        let mut report = protocol::TaskResult::without_report(
            task,
            run,
            "w".parse().unwrap(),
            Some(live.attempt),
            status,
            error,
            watched.now,
        );
        report.token = Some(live.token);
        let step = watched.step(Input::AttemptReported { report }, 0);
        assert!(step.commands.is_empty(), "{:?}", step.commands);
        let decision = watched.scheduler.decisions().next().unwrap().id;
        let choice = Choice::GoOn { budget_usd: Some(1.0), budget_tokens: None };
        let step = watched.step(Input::Decide { decision, choice }, 0);
        assert_eq!(step.commands.len(), 2, "{:?}", step.commands);
    }
    watched.finish(|_| 0);
    watched.check(TASKS, 40);
}

#[test]
fn thousands_of_tasks_that_wait_for_decisions_cost_nobody_else() {
    let mut watched = Watched::new();
    for n in 0..STEEP {
        watched.add(&format!("t{n}"), &[], 0);
        watched.live.clear();
        let name: protocol::TaskId = format!("t{n}").parse().unwrap();
        let live = watched.scheduler.task(&name).unwrap().live().unwrap().clone();
        let error = protocol::TaskError::new(protocol::FailureKind::Budget, "x");
        let mut report = protocol::TaskResult::without_report(
            name,
            RunId::Adhoc,
            "w".parse().unwrap(),
            Some(live.attempt),
            Status::Failed,
            error,
            watched.now,
        );
        report.token = Some(live.token);
        watched.step(Input::AttemptReported { report }, 0);
    }
    assert_eq!(watched.scheduler.decisions().count(), STEEP);
    watched.add("free", &[], 0);
    watched.finish(|_| 0);
    assert_eq!(watched.ended, 1);
    assert!(watched.total / STEEP as u64 <= 60, "{}", watched.total / STEEP as u64);
}
