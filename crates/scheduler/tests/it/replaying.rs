//! After a restart.

use protocol::{Event, FailureKind, RunMode, RunState, Status};
use scheduler::{Command, RunPhase, Scheduler, TaskState};

use crate::support::*;

const TWO: &str = r#"{"tasks": [
    {"id": "a", "worker": "marie", "description": "x"},
    {"id": "b", "worker": "anga", "description": "x", "dependencies": ["a"]}
]}"#;

#[test]
fn live_attempts_are_dispatched_again_as_they_were() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "anga", &[]));
    rig.start("b");
    let (a, b) = (rig.live("a").clone(), rig.live("b").clone());
    rig.pass(SECOND);
    let step = rig.restart(config());

    assert_eq!(dispatched(&step), ["a on marie-1", "b on anga-1"]);
    assert_eq!(step.events, []);
    assert_eq!((rig.live("a"), rig.live("b")), (&a, &b));
}

#[test]
fn deadline_after_a_restart_counts_from_the_recorded_start() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.start("a");
    let started = rig.now;
    rig.pass(50 * SECOND);
    rig.restart(config());
    assert_eq!(rig.scheduler.next_wakeup(), Some(started + 105 * SECOND));

    rig.pass(500 * SECOND);
    let step = rig.restart(config());
    assert!(matches!(&step.commands[..], [Command::Dispatch { .. }, Command::Interrupt { .. }]));
}

#[test]
fn attempt_that_was_stopping_is_stopped_again() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.cancel("a");
    let step = rig.restart(config());
    assert!(matches!(&step.commands[..], [Command::Interrupt { .. }]));

    rig.pass(500 * SECOND);
    let step = rig.restart(config());
    let stop = Command::StopReplica { replica: replica("marie-1") };
    assert_eq!(step.commands.last(), Some(&stop));
    rig.gone("marie-1");
    assert_eq!(rig.status("a"), Some(Status::Cancelled));
}

#[test]
fn restart_lets_paused_workers_go_on() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.fail("a", FailureKind::Auth);
    assert_eq!(dispatched(&rig.restart(config())), ["a on marie-1"]);
}

#[test]
fn backoff_goes_on_after_a_restart() {
    let mut rig = Rig::new(config());
    rig.random = u64::MAX << 16;
    rig.add(task("a", "marie", &[]));
    rig.fail("a", FailureKind::Network);
    let wake = rig.scheduler.next_wakeup();
    rig.pass(SECOND);
    rig.restart(config());

    assert_eq!(rig.scheduler.next_wakeup(), wake);
    assert_eq!(dispatched(&rig.wake()), ["a on marie-1"]);
}

/// Plays a run to its end with a restart after the first `keep` events of each step, the rest
/// of which is lost with the commands, as when the power goes in the middle of a write.
fn play_torn(tear: usize, keep: usize) -> Rig {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "r1", RunMode::Request, Some("x"), None).unwrap();
    let mut bad_plan = true;
    for turn in 0..60 {
        let before = rig.journal.len();
        let live: Vec<_> = rig
            .scheduler
            .run_tasks(&run_id(1))
            .filter(|entry| entry.live().is_some())
            .map(|entry| entry.task.id.to_string())
            .collect();
        let Some(name) = live.first() else {
            return rig;
        };
        match name.as_str() {
            "r1.plan" if std::mem::take(&mut bad_plan) => rig.plan_reported(name, "{}"),
            "r1.plan" => rig.plan_reported(name, TWO),
            "r1.b" => rig.fail_for_good(name),
            _ => rig.complete(name),
        };
        if turn == tear {
            // What was torn off was never carried out; the report is found and told again.
            if turn == 0 && keep < 3 {
                bad_plan = true;
            }
            rig.journal.truncate((before + keep).min(rig.journal.len()));
            rig.restart(config());
        }
    }
    panic!("the run does not end");
}

#[test]
fn journal_torn_anywhere_leads_to_the_same_end() {
    for tear in 0..6 {
        for keep in 0..8 {
            let rig = play_torn(tear, keep);
            let context = format!("torn in step {tear} after {keep} events");
            let RunPhase::Ended { state, .. } = rig.phase(run_id(1)) else {
                panic!("{context}: {:?}", rig.scheduler.run(&run_id(1)));
            };
            assert_eq!(state, RunState::Partial, "{context}");
            let statuses: Vec<_> = rig
                .scheduler
                .run_tasks(&run_id(1))
                .map(|entry| (entry.task.id.to_string(), entry.status()))
                .collect();
            let expected = [
                ("r1.plan", Status::Complete),
                ("r1.a", Status::Complete),
                ("r1.b", Status::Failed),
                ("r1.answer", Status::Complete),
            ];
            let expected = expected.map(|(name, status)| (name.to_owned(), Some(status)));
            assert_eq!(statuses, expected, "{context}");
        }
    }
}

#[test]
fn given_plan_whose_acceptance_is_torn_is_withdrawn() {
    for keep in 1..4 {
        let mut rig = Rig::new(config());
        let before = rig.journal.len();
        rig.open(run_id(1), "r1", RunMode::Plan, None, Some(plan(TWO))).unwrap();
        rig.journal.truncate(before + keep);
        rig.restart(config());

        let state = RunState::Cancelled;
        assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now }, "{keep}");
    }
}

#[test]
fn rejection_that_is_recorded_twice_counts_once() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "r1", RunMode::Request, Some("x"), None).unwrap();
    rig.plan_reported("r1.plan", "{}");
    let rejected = rig.journal.iter().position(|(_, e)| matches!(e, Event::PlanRejected { .. }));
    rig.journal.truncate(rejected.unwrap() + 1);
    rig.restart(config());
    rig.plan_reported("r1.plan", "{}");

    assert_eq!(rig.live("r1.plan").attempt, attempt(2));
}

#[test]
fn later_dispatch_proves_the_end_of_an_earlier_attempt_on_the_same_replica() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.random = u64::MAX << 16;
    rig.fail("a", FailureKind::Network);
    rig.journal.retain(|(_, event)| !matches!(event, Event::AttemptFailed { .. }));
    rig.restart(only_marie(1));

    assert!(matches!(rig.state("b"), TaskState::Live(_)));
    assert_eq!(rig.state("a"), &TaskState::Ready);
    assert_eq!(rig.scheduler.running(), 1);
    rig.complete("b");
    assert_eq!(rig.live("a").attempt, attempt(2));
}

#[test]
fn journal_with_holes_is_read_as_far_as_it_fits() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "r1", RunMode::Request, Some("x"), None).unwrap();
    rig.plan_reported("r1.plan", TWO);
    rig.fail("r1.a", FailureKind::Network);
    rig.complete("r1.a");
    rig.fail_for_good("r1.b");
    rig.step(scheduler::Input::Retry(scheduler::Target::Run(run_id(1))));
    rig.step(scheduler::Input::Cancel(scheduler::Target::Run(run_id(1))));
    for hole in 0..rig.journal.len() {
        for length in 1..6 {
            let mut scheduler = Scheduler::new(config());
            for (n, (at, event)) in rig.journal.iter().enumerate() {
                if !(hole..hole + length).contains(&n) {
                    scheduler.replay(*at, event);
                }
            }
            scheduler.resume(rig.now, &mut || 7);
        }
    }
}

#[test]
fn worker_that_is_no_longer_configured_gets_nothing_new() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "anga", &[]));
    rig.add(task("b", "anga", &[]));
    rig.add(task("c", "anga", &[]));
    let step = rig.restart(only_marie(1));
    assert_eq!(dispatched(&step), ["a on anga-1", "b on anga-2"], "what runs comes to its end");

    assert_eq!(dispatched(&rig.complete("a")), [""; 0]);
    assert_eq!(rig.state("c"), &TaskState::Ready);
}

#[test]
fn fewer_replicas_after_a_restart_are_kept_to() {
    let mut rig = Rig::new(only_marie(3));
    for name in ["a", "b", "c", "d", "e"] {
        rig.add(task(name, "marie", &[]));
    }
    rig.restart(only_marie(2));
    assert_eq!(dispatched(&rig.complete("a")), [""; 0], "two others still run");
    assert_eq!(dispatched(&rig.complete("c")), ["d on marie-1"]);
    assert_eq!(dispatched(&rig.complete("b")), ["e on marie-2"]);
}
