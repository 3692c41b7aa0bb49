//! Who goes first, and to whom.

use protocol::{FailureKind, Priority, Task};
use scheduler::Command;

use crate::support::*;

fn with(priority: Priority, task: Task) -> Task {
    Task { priority, ..task }
}

/// One replica, kept busy by the task `first`.
fn busy() -> Rig {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("first", "marie", &[]));
    rig
}

/// Completes one after the other, and returns the order in which they went.
fn order(rig: &mut Rig) -> Vec<String> {
    let mut order = Vec::new();
    let mut on_it = "first".to_owned();
    loop {
        let step = rig.complete(&on_it);
        let Some(next) = dispatched(&step).first().cloned() else {
            return order;
        };
        on_it = next.trim_end_matches(" on marie-1").to_owned();
        order.push(on_it.clone());
    }
}

#[test]
fn most_urgent_goes_first() {
    let mut rig = busy();
    rig.add(with(Priority::Low, task("low", "marie", &[])));
    rig.add(task("medium", "marie", &[]));
    rig.add(with(Priority::High, task("high", "marie", &[])));

    assert_eq!(order(&mut rig), ["high", "medium", "low"]);
}

#[test]
fn task_inherits_the_priority_of_what_waits_for_it() {
    let mut rig = busy();
    rig.add(task("other", "marie", &[]));
    rig.add(with(Priority::Low, task("root", "marie", &[])));
    rig.add(with(Priority::Low, task("middle", "marie", &["root"])));
    rig.add(with(Priority::High, task("leaf", "marie", &["middle"])));

    assert_eq!(order(&mut rig), ["root", "middle", "leaf", "other"]);
}

#[test]
fn task_loses_an_inherited_priority_with_the_last_that_had_it() {
    let mut rig = busy();
    rig.add(with(Priority::Low, task("root", "marie", &[])));
    rig.add(with(Priority::Low, task("middle", "marie", &["root"])));
    rig.add(with(Priority::High, task("leaf", "marie", &["middle"])));
    rig.add(task("other", "marie", &[]));
    rig.cancel("leaf");

    assert_eq!(order(&mut rig), ["other", "root", "middle"]);
}

#[test]
fn task_inherits_from_what_waited_for_it_before_it_was_added() {
    let mut rig = busy();
    rig.add(task("other", "marie", &[]));
    rig.add(with(Priority::High, task("leaf", "marie", &["root"])));
    rig.add(with(Priority::Low, task("root", "marie", &[])));

    assert_eq!(order(&mut rig), ["root", "leaf", "other"]);
}

#[test]
fn longer_critical_path_goes_first() {
    let mut rig = busy();
    rig.add(task("alone", "marie", &[]));
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.add(task("b2", "marie", &["b"]));
    rig.add(task("b3", "marie", &["b2"]));
    rig.add(task("a2", "marie", &["a"]));

    assert_eq!(order(&mut rig), ["b", "a", "b2", "alone", "b3", "a2"]);
}

#[test]
fn older_goes_first_among_equals() {
    let mut rig = busy();
    rig.add(task("z", "marie", &[]));
    rig.add(task("y", "marie", &[]));
    rig.pass(SECOND);
    rig.add(task("x", "marie", &[]));

    assert_eq!(order(&mut rig), ["z", "y", "x"]);
}

#[test]
fn task_that_waits_moves_up_one_level_with_each_step_of_aging() {
    let mut rig = busy();
    rig.add(with(Priority::Low, task("old", "marie", &[])));
    rig.pass(600 * SECOND);
    rig.add(task("young", "marie", &[]));
    assert_eq!(order(&mut rig), ["old", "young"]);

    let mut rig = busy();
    rig.add(with(Priority::Low, task("old", "marie", &[])));
    rig.pass(599 * SECOND);
    rig.add(task("young", "marie", &[]));
    assert_eq!(order(&mut rig), ["young", "old"]);
}

#[test]
fn overdue_task_goes_before_all_others_whatever_hangs_on_them() {
    let mut rig = busy();
    rig.add(with(Priority::Low, task("old", "marie", &[])));
    rig.pass(1_800 * SECOND);
    rig.add(with(Priority::High, task("young", "marie", &[])));
    rig.add(with(Priority::High, task("below", "marie", &["young"])));

    assert_eq!(order(&mut rig), ["old", "young", "below"]);
}

#[test]
fn nothing_starves_under_a_stream_of_urgent_tasks() {
    let mut rig = busy();
    rig.add(with(Priority::Low, task("patient", "marie", &[])));
    let mut on_it = "first".to_owned();
    for n in 0..40 {
        rig.pass(100 * SECOND);
        rig.add(with(Priority::High, task(&format!("high-{n}a"), "marie", &[])));
        rig.add(with(Priority::High, task(&format!("high-{n}b"), "marie", &[])));
        let step = rig.complete(&on_it);
        on_it = dispatched(&step)[0].trim_end_matches(" on marie-1").to_owned();
        if on_it == "patient" {
            assert_eq!(n, 17);
            return;
        }
    }
    panic!("it starves");
}

#[test]
fn no_more_attempts_at_once_than_the_worker_has_replicas() {
    let mut rig = Rig::new(config());
    let steps: Vec<_> = ["a", "b", "c"].map(|name| rig.add(task(name, "marie", &[]))).into();

    assert_eq!(
        steps.iter().flat_map(dispatched).collect::<Vec<_>>(),
        ["a on marie-1", "b on marie-2"]
    );
    assert_eq!(dispatched(&rig.complete("a")), ["c on marie-1"]);
}

#[test]
fn no_more_attempts_at_once_than_allowed_over_all_workers() {
    let mut config = config();
    config.max_running = 3;
    let mut rig = Rig::new(config);
    for name in ["a", "b", "c", "d"] {
        rig.add(task(name, if name < "c" { "marie" } else { "anga" }, &[]));
    }

    assert_eq!(rig.scheduler.running(), 3);
    assert_eq!(dispatched(&rig.complete("a")), ["d on anga-2"]);
}

#[test]
fn full_worker_does_not_hold_up_another() {
    let mut rig = Rig::new(config());
    for name in ["a", "b", "c"] {
        rig.add(with(Priority::High, task(name, "marie", &[])));
    }

    assert_eq!(dispatched(&rig.add(with(Priority::Low, task("d", "anga", &[])))), ["d on anga-1"]);
}

#[test]
fn replica_that_is_up_is_preferred_to_a_lower_one_that_is_not() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.complete("a");
    rig.complete("b");
    rig.gone("marie-1");

    assert_eq!(dispatched(&rig.add(task("c", "marie", &[]))), ["c on marie-2"]);
    assert_eq!(dispatched(&rig.add(task("d", "marie", &[]))), ["d on marie-1"]);
}

#[test]
fn spare_takes_the_next_task_and_a_replica_that_served_comes_back_only_when_it_is_gone() {
    let mut config = only_marie(1);
    config.workers.values_mut().for_each(|limits| limits.per_task = true);
    let mut rig = Rig::new(config);
    let start = |name: &str| Command::Start { replica: replica(name) };
    let step = rig.add(task("a", "marie", &[]));
    assert_eq!(dispatched(&step), ["a on marie-1"]);
    assert!(
        !step.commands.iter().any(|c| matches!(c, Command::Start { .. })),
        "no work is to come"
    );
    assert!(rig.add(task("b", "marie", &[])).commands.contains(&start("marie-2")));
    let step = rig.add(task("c", "marie", &["b"]));
    assert!(!step.commands.iter().any(|c| matches!(c, Command::Start { .. })), "one is enough");

    let step = rig.complete("a");
    assert!(step.commands.contains(&Command::StopReplica { replica: replica("marie-1") }));
    assert_eq!(dispatched(&step), ["b on marie-2"]);
    assert!(!step.commands.contains(&start("marie-1")), "it is not gone yet");
    let step = rig.gone("marie-1");
    assert!(step.commands.contains(&start("marie-1")));
    rig.step(scheduler::Input::ReplicaStarted { replica: replica("marie-1") });
    assert_eq!(dispatched(&rig.complete("b")), ["c on marie-1"]);
}

#[test]
fn spare_that_is_lost_is_not_replaced_before_an_attempt_has_run() {
    let mut config = only_marie(1);
    config.workers.values_mut().for_each(|limits| limits.per_task = true);
    let mut rig = Rig::new(config);
    let starts = |step: &scheduler::Step| {
        step.commands.iter().filter(|c| matches!(c, Command::Start { .. })).count()
    };
    rig.add(task("a", "marie", &[]));
    assert_eq!(starts(&rig.add(task("b", "marie", &[]))), 1);
    assert_eq!(starts(&rig.gone("marie-2")), 0);
    assert_eq!(starts(&rig.add(task("c", "marie", &[]))), 0, "`a` is not known to run");
    let started = scheduler::Input::AttemptStarted { task: id("a"), attempt: attempt(1) };
    assert_eq!(starts(&rig.step(started)), 1);
}

#[test]
fn spare_that_does_not_serve_pauses_its_worker() {
    let mut config = only_marie(1);
    config.workers.values_mut().for_each(|limits| limits.per_task = true);
    let mut rig = Rig::new(config);
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.step(scheduler::Input::ReplicaGone {
        replica: replica("marie-2"),
        used: scheduler::Used::default(),
        error: error(FailureKind::WorkerLost),
        pause: true,
    });
    assert_eq!(dispatched(&rig.complete("a")), [""; 0]);
    assert_eq!(rig.scheduler.paused().count(), 1);
}

#[test]
fn worker_that_nobody_can_start_is_paused_and_its_tasks_wait() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    let error = error(FailureKind::WorkerLost);
    for n in 1..=7 {
        let (task, attempt) = (id("a"), attempt(n));
        let error = error.clone();
        let step = scheduler::Input::AttemptUnstartable { task, attempt, error, pause: true };
        assert_eq!(dispatched(&rig.step(step)), [""; 0]);
        // However often: it is not the task's fault.
        assert_eq!(rig.state("a"), &scheduler::TaskState::Ready);
        let paused: Vec<_> = rig.scheduler.paused().map(|(id, _)| id.clone()).collect();
        assert_eq!(paused, [worker("marie")]);
        assert_eq!(dispatched(&rig.retry("a")), ["a on marie-1"]);
    }
    rig.complete("a");
    assert_eq!(rig.status("a"), Some(protocol::Status::Complete));
}

#[test]
fn worker_whose_replicas_do_not_serve_is_paused_and_its_tasks_wait() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    for n in 1..=7 {
        rig.start("a");
        let error = error(FailureKind::WorkerLost);
        let gone = scheduler::Input::ReplicaGone {
            replica: replica("marie-1"),
            used: scheduler::Used::default(),
            error,
            pause: true,
        };
        let step = rig.step(gone);
        assert_eq!(dispatched(&step), [""; 0]);
        assert_eq!(rig.state("a"), &scheduler::TaskState::Ready);
        assert_eq!(rig.entry("a").counted_failures, 0);
        let paused: Vec<_> = rig.scheduler.paused().map(|(id, _)| id.clone()).collect();
        assert_eq!(paused, [worker("marie")], "the {n}th time");
        assert_eq!(dispatched(&rig.retry("a")), ["a on marie-1"]);
    }
    rig.complete("a");
    assert_eq!(rig.status("a"), Some(protocol::Status::Complete));
}
