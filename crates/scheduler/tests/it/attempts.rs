//! What becomes of attempts.

use protocol::{Event, FailureKind, Status, Task, TaskResult, Token, Usage};
use scheduler::{Command, Input, Phase, TaskState};

use crate::support::*;

fn one() -> Rig {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig
}

fn has_replica_stop(step: &scheduler::Step) -> bool {
    step.commands.contains(&Command::StopReplica { replica: replica("marie-1") })
}

#[test]
fn complete_report_ends_the_task_with_its_result() {
    let mut rig = one();
    rig.start("a");
    let report = rig.report("a");
    let step = rig.complete("a");

    let expected = TaskResult { token: None, ..report };
    assert_eq!(rig.entry("a").result.as_deref(), Some(&expected));
    assert_eq!(
        step.events,
        [Event::TaskEnded { result: Box::new(expected), because: Vec::new(), attempts: None }]
    );
    assert_eq!(step.commands, [Command::Publish { task: id("a") }]);
}

#[test]
fn report_counts_only_with_the_number_and_the_token_of_the_live_attempt() {
    let mut rig = one();
    rig.start("a");
    let right = rig.report("a");
    let wrong = [
        TaskResult { token: None, ..right.clone() },
        TaskResult { token: Some(Token::from_random(77, 88)), ..right.clone() },
        TaskResult { attempt: 2, ..right.clone() },
        TaskResult { attempt: 0, ..right.clone() },
        TaskResult { run: run_id(1), ..right.clone() },
        TaskResult { worker: worker("anga"), ..right.clone() },
        TaskResult { task_id: id("b"), ..right },
    ];
    for report in wrong {
        let step = rig.step(Input::AttemptReported { report });
        assert_eq!(step, Default::default());
    }
    assert!(matches!(rig.live("a").phase, Phase::Running { .. }));
}

#[test]
fn report_of_an_earlier_attempt_is_ignored_even_with_a_number_that_fits() {
    let mut rig = one();
    let first = rig.report("a");
    rig.fail("a", FailureKind::Network);
    assert_eq!(rig.live("a").attempt, attempt(2));

    rig.step(Input::AttemptReported { report: first.clone() });
    rig.step(Input::AttemptReported { report: TaskResult { attempt: 2, ..first } });
    assert_eq!(rig.live("a").attempt, attempt(2));
}

#[test]
fn report_said_twice_counts_once() {
    let mut rig = one();
    let report = rig.report("a");
    rig.complete("a");

    assert_eq!(rig.step(Input::AttemptReported { report }), Default::default());
    assert_eq!(rig.entry("a").cost_usd, Some(0.25));
}

#[test]
fn start_said_late_or_twice_does_not_move_the_deadline() {
    let mut rig = one();
    rig.start("a");
    let wake = rig.scheduler.next_wakeup();
    rig.pass(SECOND);

    assert_eq!(rig.start("a"), Default::default());
    assert_eq!(rig.scheduler.next_wakeup(), wake);
}

#[test]
fn container_that_hangs_is_asked_to_stop_at_its_deadline_and_stopped_after_the_grace() {
    let mut rig = one();
    assert_eq!(rig.scheduler.next_wakeup(), None, "an attempt that launches has no deadline");
    rig.start("a");
    let started = rig.now;

    let step = rig.wake();
    assert_eq!(rig.now, started + 105 * SECOND);
    assert!(matches!(&step.commands[..], [Command::Interrupt { .. }]), "{step:?}");
    assert_eq!(stopping(rig.live("a")), Some(FailureKind::Timeout));

    let step = rig.wake();
    assert_eq!(rig.now, started + 125 * SECOND);
    assert_eq!(step.commands, [Command::StopReplica { replica: replica("marie-1") }]);
    assert_eq!(rig.scheduler.next_wakeup(), None, "once is enough, the runtime makes sure");

    let step = rig.gone("marie-1");
    assert!(matches!(&step.events[0], Event::AttemptFailed { error, counted: true, .. }
        if error.kind == FailureKind::Timeout));
    assert_eq!(rig.live("a").attempt, attempt(2));
}

#[test]
fn own_timeout_of_a_task_goes_before_its_workers() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(Task { timeout: Some(7 * SECOND), ..task("a", "marie", &[]) });
    rig.start("a");

    assert_eq!(rig.scheduler.next_wakeup(), Some(rig.now + 12 * SECOND));
}

#[test]
fn attempt_that_completes_while_it_is_stopped_for_its_timeout_is_accepted() {
    let mut rig = one();
    rig.start("a");
    rig.wake();

    assert!(!has_replica_stop(&rig.complete("a")));
    assert_eq!(rig.status("a"), Some(Status::Complete));
}

#[test]
fn attempt_that_fails_while_it_is_stopped_fails_for_its_own_reason_if_it_has_one() {
    let mut rig = one();
    rig.start("a");
    rig.wake();
    rig.fail("a", FailureKind::Cancelled);
    assert_eq!(rig.entry("a").last_error.clone().unwrap().kind, FailureKind::Timeout);

    rig.start("a");
    rig.wake();
    rig.fail("a", FailureKind::Refused);
    assert_eq!(rig.status("a"), Some(Status::Failed));
}

#[test]
fn replica_that_was_asked_to_stop_is_not_used_before_it_is_gone() {
    let mut rig = one();
    rig.add(task("b", "marie", &[]));
    rig.start("a");
    rig.wake();
    rig.wake();

    let step = rig.complete("a");
    assert_eq!(dispatched(&step), [""; 0]);
    assert!(!has_replica_stop(&step), "it was asked already");
    assert_eq!(dispatched(&rig.gone("marie-1")), ["b on marie-1"]);
}

#[test]
fn failure_that_may_pass_is_retried_as_often_as_allowed() {
    use FailureKind::*;
    for kind in [Timeout, IdleTimeout, Network, Server, BadOutput, Unverified] {
        let mut rig = one();
        rig.fail("a", kind);
        rig.fail("a", kind);
        assert_eq!(rig.live("a").attempt, attempt(3));
        rig.fail("a", kind);

        assert_eq!(rig.status("a"), Some(Status::Failed), "{kind}");
        let result = rig.entry("a").result.clone().unwrap();
        assert_eq!((result.attempt, result.error.clone()), (3, Some(error(kind))));
    }
}

#[test]
fn own_retries_of_a_task_go_before_its_workers() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(Task { retries: Some(0), ..task("a", "marie", &[]) });
    rig.fail("a", FailureKind::Network);

    assert_eq!(rig.status("a"), Some(Status::Failed));
}

#[test]
fn failure_that_can_not_pass_is_not_retried() {
    for kind in [FailureKind::Refused, FailureKind::Invalid] {
        let mut rig = one();
        rig.fail("a", kind);
        assert_eq!(rig.status("a"), Some(Status::Failed), "{kind}");
    }
}

#[test]
fn task_waits_longer_after_each_failure_up_to_the_bound() {
    let mut rig = Rig::new(only_marie(1));
    rig.random = u64::MAX << 16;
    rig.add(Task { retries: Some(5), ..task("a", "marie", &[]) });
    for seconds in [10, 20, 30, 30] {
        rig.fail("a", FailureKind::Server);
        let until = rig.now + seconds * SECOND;
        assert_eq!(rig.state("a"), &TaskState::Backoff { until });
        assert_eq!(dispatched(&rig.wake()), ["a on marie-1"]);
        assert_eq!(rig.now, until);
    }
}

#[test]
fn lost_worker_costs_no_retry_until_it_happens_too_often_in_a_row() {
    let mut rig = one();
    rig.gone("marie-1");
    rig.gone("marie-1");
    rig.fail("a", FailureKind::Network);
    rig.gone("marie-1");
    rig.gone("marie-1");
    assert_eq!((rig.live("a").attempt, rig.entry("a").counted_failures), (attempt(6), 1));
    rig.gone("marie-1");

    let error = rig.entry("a").result.clone().unwrap().error.clone().unwrap();
    assert_eq!(error.message, "its replica was lost 3 times in a row: it was worker_lost");
    assert!(error.hint.is_some());
}

#[test]
fn attempt_out_of_memory_is_made_once_more() {
    let mut rig = one();
    rig.fail("a", FailureKind::Oom);
    assert_eq!((rig.live("a").resume, rig.entry("a").counted_failures), (false, 1));
    rig.fail("a", FailureKind::Oom);

    assert_eq!(rig.status("a"), Some(Status::Failed));
}

#[test]
fn attempt_that_filled_the_disk_is_made_once_more_and_told_so() {
    let mut rig = one();
    rig.fail("a", FailureKind::Disk);
    assert_eq!(rig.entry("a").counted_failures, 1);
    assert_eq!(rig.entry("a").feedback, ["it was disk"]);
    rig.fail("a", FailureKind::Disk);

    assert_eq!(rig.status("a"), Some(Status::Failed));
}

#[test]
fn report_that_nobody_asked_for_counts_as_a_lost_worker() {
    let mut rig = one();
    let report = TaskResult { status: Status::Cancelled, ..rig.report("a") };
    rig.step(Input::AttemptReported { report });
    assert_eq!(rig.entry("a").last_error.clone().unwrap().kind, FailureKind::WorkerLost);

    rig.fail("a", FailureKind::Cancelled);
    assert_eq!(rig.entry("a").last_error.clone().unwrap().kind, FailureKind::WorkerLost);
    assert_eq!(rig.entry("a").counted_failures, 0);
}

#[test]
fn report_that_says_nothing_of_use_is_bad_output() {
    for status in [Status::Skipped, Status::Failed] {
        let mut rig = one();
        let report = TaskResult { status, ..rig.report("a") };
        rig.step(Input::AttemptReported { report });
        assert_eq!(rig.entry("a").last_error.clone().unwrap().kind, FailureKind::BadOutput);
    }
}

#[test]
fn next_attempt_goes_on_in_the_session_and_knows_what_was_wrong() {
    let mut rig = one();
    let first = rig.live("a").session;
    rig.fail("a", FailureKind::Unverified);

    let entry = rig.entry("a");
    assert_eq!((rig.live("a").session, rig.live("a").resume), (first, true));
    assert_eq!(entry.feedback, ["it was unverified"]);
    let session = entry.session.unwrap();
    assert_eq!((session.used.input_tokens, session.cost_usd), (10, 0.25));
}

#[test]
fn next_attempt_begins_anew_when_the_last_never_started_or_its_agent_can_not_go_on() {
    let mut rig = one();
    let first = rig.live("a").session;
    rig.gone("marie-1");
    assert!(!rig.live("a").resume);
    assert_ne!(rig.live("a").session, first);

    let mut config = only_marie(1);
    config.workers.values_mut().for_each(|limits| limits.resumes = false);
    let mut rig = Rig::new(config);
    rig.add(task("a", "marie", &[]));
    rig.fail("a", FailureKind::Network);
    assert!(!rig.live("a").resume);
    assert_eq!(rig.entry("a").session.unwrap().used, Usage::default());
}

#[test]
fn session_of_an_earlier_attempt_outlives_one_that_never_started() {
    let mut rig = one();
    let first = rig.live("a").session;
    rig.start("a");
    rig.gone("marie-1");
    rig.gone("marie-1");

    assert_eq!((rig.live("a").session, rig.live("a").resume), (first, true));
}

#[test]
fn usage_and_cost_of_all_attempts_add_up_and_the_result_has_its_own() {
    let mut rig = one();
    rig.fail("a", FailureKind::Network);
    rig.complete("a");

    let entry = rig.entry("a");
    assert_eq!((entry.usage.input_tokens, entry.cost_usd), (20, Some(0.5)));
    assert_eq!(entry.result.clone().unwrap().cost_usd, Some(0.25));
}

#[test]
fn usage_of_the_attempt_that_failed_last_is_counted_once() {
    let mut rig = one();
    rig.fail_for_good("a");

    let entry = rig.entry("a");
    let own = entry.result.clone().unwrap().cost_usd;
    assert_eq!((entry.cost_usd, own), (Some(0.25), Some(0.25)));
}

#[test]
fn attempt_that_can_not_be_started_fails_by_its_kind() {
    let mut rig = one();
    let unstartable = |kind, number| Input::AttemptUnstartable {
        task: id("a"),
        attempt: attempt(number),
        error: error(kind),
        pause: false,
    };
    rig.step(unstartable(FailureKind::Network, 1));
    assert_eq!(rig.live("a").attempt, attempt(2));
    rig.step(unstartable(FailureKind::Invalid, 1));
    assert_eq!(rig.live("a").attempt, attempt(2), "that was the one before");
    rig.step(unstartable(FailureKind::Invalid, 2));

    assert_eq!(rig.status("a"), Some(Status::Failed));
    let result = rig.entry("a").result.clone().unwrap();
    assert!(result.rehearsal, "the flag of the run");
}

#[test]
fn attempt_that_ran_is_over_only_when_its_replica_is_gone() {
    let mut rig = one();
    rig.start("a");
    let error = error(FailureKind::Invalid);
    let (task, attempt) = (id("a"), attempt(1));
    rig.step(Input::AttemptUnstartable { task, attempt, error, pause: false });

    assert_eq!(stopping(rig.live("a")), Some(FailureKind::Invalid));
    assert!(has_replica_stop(&rig.wake()));
    rig.gone("marie-1");
    assert_eq!(rig.status("a"), Some(Status::Failed));
}

#[test]
fn end_of_a_replica_that_does_nothing_changes_nothing_else() {
    let mut rig = one();
    assert_eq!(rig.gone("anga-1"), Default::default());
    rig.complete("a");
    assert_eq!(rig.gone("marie-1"), Default::default());
    assert_eq!(dispatched(&rig.add(task("b", "marie", &[]))), ["b on marie-1"]);
}

#[test]
fn cost_that_is_not_known_makes_the_sum_unknown_and_nonsense_is_not_known() {
    for cost in [None, Some(f64::NAN), Some(f64::INFINITY), Some(-1.0)] {
        let mut rig = one();
        let report = TaskResult { cost_usd: cost, ..rig.failure("a", FailureKind::Network) };
        rig.step(Input::AttemptReported { report });
        assert_eq!(rig.entry("a").session.unwrap().cost_usd, 0.0, "as far as it is known");
        rig.complete("a");

        let entry = rig.entry("a");
        assert_eq!((entry.cost_usd, entry.usage.input_tokens), (None, 20));
        assert_eq!(entry.result.clone().unwrap().cost_usd, Some(0.25), "its own is known");
    }
}

#[test]
fn what_a_lost_attempt_used_counts() {
    let mut rig = one();
    rig.start("a");
    let usage = Usage { output_tokens: 7, ..Usage::default() };
    rig.step(Input::ReplicaGone {
        replica: replica("marie-1"),
        used: scheduler::Used { usage, cost_usd: Some(0.25) },
        error: error(FailureKind::WorkerLost),
        pause: false,
    });
    assert_eq!((rig.entry("a").usage, rig.entry("a").cost_usd), (usage, Some(0.25)));
}
