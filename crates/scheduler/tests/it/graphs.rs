//! Who waits for whom, and what becomes of those who wait in vain.

use protocol::{FailureKind, OnDependencyFailure, RunMode, Status, Task};
use scheduler::{Input, Refusal, TaskState};

use crate::support::*;

fn runs_anyway(task: Task) -> Task {
    Task { on_dependency_failure: OnDependencyFailure::Run, ..task }
}

#[test]
fn task_starts_when_the_last_of_its_dependencies_is_accepted() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.add(task("c", "anga", &["b", "a"]));
    assert_eq!(rig.scheduler.waiting_for(&id("c")), ids(&["b", "a"]));

    assert_eq!(dispatched(&rig.complete("a")), [""; 0]);
    assert_eq!(rig.scheduler.waiting_for(&id("c")), ids(&["b"]));

    assert_eq!(dispatched(&rig.complete("b")), ["c on anga-1"]);
    assert_eq!(rig.scheduler.waiting_for(&id("c")), []);
}

#[test]
fn task_waits_for_one_that_is_dropped_later() {
    let mut rig = Rig::new(config());
    assert_eq!(dispatched(&rig.add(task("b", "marie", &["a"]))), [""; 0]);
    assert_eq!(rig.scheduler.waiting_for(&id("b")), ids(&["a"]));
    rig.add(task("a", "marie", &[]));

    assert_eq!(dispatched(&rig.complete("a")), ["b on marie-1"]);
}

#[test]
fn task_may_depend_on_one_that_has_ended() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.complete("a");

    assert_eq!(dispatched(&rig.add(task("b", "anga", &["a"]))), ["b on anga-1"]);
}

#[test]
fn task_may_depend_on_one_of_another_run() {
    let mut rig = Rig::new(config());
    rig.add(task("after", "marie", &["k3f9.a"]));
    let given = plan(r#"{"tasks": [{"id": "a", "worker": "anga", "description": "x"}]}"#);
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(given)).unwrap();

    assert_eq!(dispatched(&rig.complete("k3f9.a"))[0], "after on marie-1");
}

#[test]
fn what_depends_on_a_failed_task_is_skipped_with_the_chain_of_reasons() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &["a"]));
    rig.add(task("c", "marie", &["b"]));
    rig.fail_for_good("a");

    assert_eq!(rig.status("a"), Some(Status::Failed));
    assert_eq!(rig.entry("b").because, ids(&["a"]));
    assert_eq!(rig.entry("c").because, ids(&["b", "a"]));
    let result = rig.entry("c").result.clone().unwrap();
    let error = result.error.clone().unwrap();
    assert_eq!((result.status, result.attempt), (Status::Skipped, 0));
    assert_eq!(
        error.to_string(),
        "dependency: it depends on `b`, which was skipped since `a` failed (refused: it was \
         refused)"
    );
    assert_eq!(
        error.hint.as_deref(),
        Some("Retry `a`: what was skipped because of it is done then, too.")
    );
}

#[test]
fn task_added_below_a_failed_one_is_skipped_at_once() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.fail_for_good("a");
    rig.add(task("b", "marie", &["later", "a"]));

    assert_eq!(rig.status("b"), Some(Status::Skipped));
}

#[test]
fn chain_of_reasons_of_a_long_chain_keeps_its_ends() {
    let mut rig = Rig::new(config());
    rig.add(task("t0", "marie", &[]));
    for n in 1..60 {
        rig.add(task(&format!("t{n}"), "marie", &[&format!("t{}", n - 1)]));
    }
    rig.fail_for_good("t0");

    let because = &rig.entry("t59").because;
    assert_eq!(because.len(), 16);
    assert_eq!(because[..2], ids(&["t58", "t57"]));
    assert_eq!(because.last(), Some(&id("t0")));
}

#[test]
fn task_that_asked_to_runs_when_all_dependencies_have_ended() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.add(runs_anyway(task("c", "anga", &["a", "b"])));

    assert_eq!(dispatched(&rig.fail_for_good("a")), [""; 0]);
    assert_eq!(dispatched(&rig.complete("b")), ["c on anga-1"]);
}

#[test]
fn cycle_across_drops_is_refused_and_named() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &["c"]));
    rig.add(task("b", "marie", &["a"]));
    let add =
        Input::AddTask { task: task("c", "anga", &["b"]), source: protocol::TaskSource::Drop };

    assert_eq!(rig.try_step(add), Err(Refusal::Cycle(ids(&["c", "b", "a", "c"]))));
    assert_eq!(rig.scheduler.task(&id("c")), None);
    rig.add(task("c", "anga", &[]));
    assert_eq!(dispatched(&rig.complete("c")), ["a on marie-1"]);
}

#[test]
fn cycle_through_a_cancelled_task_is_refused_too() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &["b"]));
    rig.cancel("a");
    let add =
        Input::AddTask { task: task("b", "anga", &["a"]), source: protocol::TaskSource::Drop };

    assert_eq!(rig.try_step(add), Err(Refusal::Cycle(ids(&["b", "a", "b"]))));
}

#[test]
fn task_that_depends_on_itself_is_refused() {
    let mut rig = Rig::new(config());
    let add =
        Input::AddTask { task: task("a", "anga", &["a"]), source: protocol::TaskSource::Drop };

    assert_eq!(rig.try_step(add), Err(Refusal::Cycle(ids(&["a", "a"]))));
}

#[test]
fn dependency_named_twice_counts_once() {
    let mut rig = Rig::new(config());
    rig.add(task("b", "marie", &["a", "a"]));
    rig.add(task("a", "marie", &[]));
    rig.add(task("c", "anga", &["a", "a"]));
    rig.complete("a");

    assert!(matches!(rig.state("b"), TaskState::Live(_)));
    assert!(matches!(rig.state("c"), TaskState::Live(_)));
}

#[test]
fn task_that_can_not_be_added_is_refused_and_changes_nothing() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    let mut refusal = |task| {
        let before = format!("{:?}", rig.scheduler);
        let add = Input::AddTask { task, source: protocol::TaskSource::Api };
        let refusal = rig.try_step(add).unwrap_err();
        assert_eq!(format!("{:?}", rig.scheduler), before);
        refusal
    };

    assert_eq!(refusal(task("a", "marie", &[])), Refusal::Exists(id("a")));
    assert_eq!(
        refusal(task("b", "mary", &[])),
        Refusal::UnknownWorker { worker: worker("mary"), nearest: Some("marie".to_owned()) }
    );
    let elsewhere = Task { run: run_id(7), ..task("b", "marie", &[]) };
    assert_eq!(refusal(elsewhere), Refusal::UnknownRun(run_id(7)));
}

#[test]
fn kind_of_an_added_task_is_work_whatever_it_says() {
    let mut rig = Rig::new(config());
    rig.add(Task { kind: protocol::TaskKind::Plan, ..task("a", "marie", &[]) });

    assert_eq!(rig.entry("a").task.kind, protocol::TaskKind::Work);
    assert_eq!(dispatched(&rig.fail("a", FailureKind::Network)), ["a on marie-1"]);
}

#[test]
fn work_that_waits_for_the_answer_of_its_own_run_is_refused_however_it_comes_about() {
    let one = r#"{"tasks": [{"id": "a", "worker": "anga", "description": "x"}]}"#;
    let in_run =
        |name, dependencies: &[&str]| Task { run: run_id(1), ..task(name, "marie", dependencies) };
    let opened = || {
        let mut rig = Rig::new(config());
        rig.open(run_id(1), "r1", RunMode::Plan, None, Some(plan(one))).unwrap();
        rig
    };
    let refused = |rig: &mut Rig, task: Task| {
        let add = Input::AddTask { task, source: protocol::TaskSource::Drop };
        match rig.try_step(add) {
            Err(Refusal::Cycle(cycle)) => cycle,
            other => panic!("{other:?}"),
        }
    };

    let mut rig = opened();
    assert_eq!(refused(&mut rig, in_run("b", &["r1.answer"])), ids(&["b", "r1.answer", "b"]));
    rig.add(task("outside", "marie", &["r1.answer"]));
    let cycle = refused(&mut rig, in_run("b", &["outside"]));
    assert_eq!(cycle, ids(&["b", "outside", "r1.answer", "b"]));

    let mut rig = opened();
    rig.add(in_run("b", &["outside"]));
    let cycle = refused(&mut rig, task("outside", "marie", &["r1.answer"]));
    assert_eq!(cycle, ids(&["outside", "r1.answer", "b", "outside"]));
    rig.add(task("other", "marie", &["r1.answer"]));
}
