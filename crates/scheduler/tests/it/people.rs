//! What people ask for: cancel and retry.

use protocol::{Event, FailureKind, OnDependencyFailure, RunMode, RunState, Status, Task};
use scheduler::{Command, Input, Refusal, RunPhase, Target, TaskState};

use crate::support::*;

const TWO: &str = r#"{"tasks": [
    {"id": "a", "worker": "marie", "description": "x"},
    {"id": "b", "worker": "anga", "description": "x", "dependencies": ["a"]}
]}"#;

fn with_run() -> Rig {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "r1", RunMode::Plan, None, Some(plan(TWO))).unwrap();
    rig
}

#[test]
fn cancelled_task_that_waits_ends_at_once() {
    let mut rig = Rig::new(config());
    rig.add(task("b", "marie", &["a"]));
    let step = rig.cancel("b");

    assert_eq!(rig.status("b"), Some(Status::Cancelled));
    assert_eq!(step.commands, [Command::Publish { task: id("b") }]);
}

#[test]
fn cancelled_task_that_runs_ends_when_its_attempt_is_over() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.start("a");
    let step = rig.cancel("a");
    assert!(matches!(&step.commands[..], [Command::Interrupt { .. }]), "{step:?}");
    assert_eq!(rig.cancel("a"), Default::default(), "once is enough");

    rig.wake();
    rig.gone("marie-1");
    assert_eq!(rig.status("a"), Some(Status::Cancelled));
    assert_eq!(rig.scheduler.next_wakeup(), None);
}

#[test]
fn report_does_not_save_a_cancelled_task() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.cancel("a");
    rig.complete("a");

    let result = rig.entry("a").result.clone().unwrap();
    assert_eq!(result.status, Status::Cancelled);
    assert_eq!((result.cost_usd, rig.entry("a").cost_usd), (Some(0.25), Some(0.25)));
}

#[test]
fn attempt_stopped_for_its_timeout_can_still_be_cancelled() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.start("a");
    rig.wake();
    let kill_at = rig.scheduler.next_wakeup();
    rig.pass(SECOND);
    let step = rig.cancel("a");
    assert_eq!(step.commands, [], "it was asked to stop already");
    assert_eq!(rig.scheduler.next_wakeup(), kill_at);

    rig.complete("a");
    assert_eq!(rig.status("a"), Some(Status::Cancelled));
}

#[test]
fn cancelled_run_ends_with_its_last_attempt() {
    let mut rig = with_run();
    rig.step(Input::Cancel(Target::Run(run_id(1))));
    assert_eq!(rig.status("r1.b"), Some(Status::Cancelled));
    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);
    let late = Task { run: run_id(1), ..task("late", "marie", &[]) };
    let add = Input::AddTask { task: late, source: protocol::TaskSource::Drop };
    assert_eq!(rig.try_step(add), Err(Refusal::RunEnded(run_id(1))));

    let step = rig.gone("marie-1");
    assert_eq!(step.commands.last(), Some(&Command::CloseRun { run: run_id(1) }));
    let state = RunState::Cancelled;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });
}

#[test]
fn cancel_of_the_standing_run_ends_its_tasks_and_not_the_run() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &["b"]));
    rig.step(Input::Cancel(Target::Run(protocol::RunId::Adhoc)));
    assert_eq!(rig.status("a"), Some(Status::Cancelled));

    rig.add(task("b", "marie", &[]));
    assert!(matches!(rig.state("b"), TaskState::Live(_)));
}

#[test]
fn what_has_ended_or_never_was_can_not_be_cancelled() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.complete("a");
    let mut cancel = |target| rig.try_step(Input::Cancel(target)).unwrap_err();

    assert_eq!(cancel(Target::Task(id("a"))), Refusal::AlreadyEnded);
    assert_eq!(cancel(Target::Task(id("b"))), Refusal::UnknownTask(id("b")));
    assert_eq!(cancel(Target::Run(run_id(3))), Refusal::UnknownRun(run_id(3)));
    assert_eq!(cancel(Target::Run(protocol::RunId::Adhoc)), Refusal::AlreadyEnded);
}

#[test]
fn retry_resets_a_failed_task_and_what_was_skipped_because_of_it() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &["a"]));
    rig.add(task("c", "marie", &["b"]));
    rig.fail("a", FailureKind::Network);
    rig.fail_for_good("a");
    let step = rig.retry("a");

    let resets: Vec<_> =
        step.events.iter().filter(|e| matches!(e, Event::TaskReset { .. })).collect();
    let names = ["c", "b", "a"].map(|name| Event::TaskReset { task: id(name) });
    assert_eq!(resets, names.iter().collect::<Vec<_>>(), "whoever depends goes first");
    assert_eq!(step.commands[..3], ["c", "b", "a"].map(|n| Command::WriteTaskFile { task: id(n) }));
    let entry = rig.entry("a");
    assert_eq!((entry.counted_failures, entry.last_attempt), (0, Some(attempt(3))));
    assert_eq!((rig.state("c"), rig.entry("c").because.len()), (&TaskState::Waiting, 0));
    rig.complete("a");
    assert!(matches!(rig.state("b"), TaskState::Live(_)));
}

#[test]
fn retry_of_a_skipped_task_resets_what_it_was_skipped_because_of() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &["a"]));
    rig.fail_for_good("a");
    rig.retry("b");

    assert!(matches!(rig.state("a"), TaskState::Live(_)));
    assert_eq!(rig.state("b"), &TaskState::Waiting);
}

#[test]
fn retry_leaves_alone_what_was_skipped_for_another_reason() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("z", "marie", &[]));
    rig.add(task("b", "anga", &["z", "a"]));
    rig.fail_for_good("z");
    rig.fail_for_good("a");
    rig.retry("a");

    assert_eq!(rig.status("b"), Some(Status::Skipped));
}

#[test]
fn task_that_was_ready_waits_again_when_its_dependency_is_done_again() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig.add(Task { on_dependency_failure: OnDependencyFailure::Run, ..task("b", "marie", &["a"]) });
    rig.add(Task { priority: protocol::Priority::High, ..task("c", "marie", &[]) });
    rig.fail_for_good("a");
    assert_eq!(rig.state("b"), &TaskState::Ready);
    rig.retry("a");
    assert_eq!(rig.state("b"), &TaskState::Waiting);
    rig.complete("c");
    assert_eq!(dispatched(&rig.complete("a")), ["b on marie-1"]);
}

#[test]
fn retry_opens_a_run_again_and_its_answer_is_written_again() {
    let mut rig = with_run();
    rig.complete("r1.a");
    rig.fail_for_good("r1.b");
    rig.complete("r1.answer");
    let state = RunState::Partial;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });

    rig.step(Input::Retry(Target::Run(run_id(1))));
    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);
    assert_eq!(rig.state("r1.answer"), &TaskState::Waiting);
    rig.complete("r1.b");
    assert_eq!(rig.phase(run_id(1)), RunPhase::Synthesising);
    rig.complete("r1.answer");
    let state = RunState::Complete;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });
}

#[test]
fn answer_that_was_being_written_during_a_retry_is_written_again() {
    let mut rig = with_run();
    rig.complete("r1.a");
    rig.fail_for_good("r1.b");
    rig.retry("r1.b");
    assert!(matches!(rig.state("r1.answer"), TaskState::Live(_)));
    rig.complete("r1.answer");
    assert_eq!(rig.state("r1.answer"), &TaskState::Waiting);
    assert_eq!(rig.entry("r1.answer").counted_failures, 0);
    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);

    assert_eq!(dispatched(&rig.complete("r1.b")), ["r1.answer on orchestrator-1"]);
    assert_eq!(rig.phase(run_id(1)), RunPhase::Synthesising);
    rig.complete("r1.answer");
    assert_eq!(rig.status("r1.answer"), Some(Status::Complete));
}

#[test]
fn failed_answer_can_be_retried_alone() {
    let mut rig = with_run();
    rig.complete("r1.a");
    rig.complete("r1.b");
    rig.fail_for_good("r1.answer");
    let state = RunState::Partial;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });
    rig.retry("r1.answer");
    assert_eq!(rig.phase(run_id(1)), RunPhase::Synthesising);
}

#[test]
fn cancelled_run_can_be_retried() {
    let mut rig = with_run();
    rig.step(Input::Cancel(Target::Run(run_id(1))));
    rig.complete("r1.a");
    rig.step(Input::Retry(Target::Run(run_id(1))));
    for name in ["r1.a", "r1.b", "r1.answer"] {
        rig.complete(name);
    }
    let state = RunState::Complete;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });
}

#[test]
fn what_is_complete_or_goes_on_can_not_be_retried() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    let mut retry = |target| rig.try_step(Input::Retry(target)).unwrap_err();

    assert_eq!(retry(Target::Task(id("a"))), Refusal::NothingToRetry);
    assert_eq!(retry(Target::Run(protocol::RunId::Adhoc)), Refusal::NothingToRetry);
    assert_eq!(retry(Target::Task(id("b"))), Refusal::UnknownTask(id("b")));
    assert_eq!(retry(Target::Run(run_id(3))), Refusal::UnknownRun(run_id(3)));
}
