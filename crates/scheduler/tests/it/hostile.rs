//! All rules at once, in a world that behaves badly.

use proptest::prelude::*;
use protocol::RunState;
use scheduler::{Config, RunPhase};

use crate::support::*;
use crate::world::World;

prop_compose! {
    fn configs()(
        replicas in 1_u32..4,
        max_running in 1_usize..6,
        retries in 0_u32..4,
        per_task: bool,
        resumes: bool,
        max_lost in 1_u32..4,
        backoff in 0_u32..20,
    ) -> Config {
        let mut config = config();
        for limits in config.workers.values_mut() {
            limits.replicas = replicas;
            limits.retries = retries;
            limits.per_task = per_task;
            limits.resumes = resumes;
        }
        // Workers differ.
        config.workers.entry(worker("marie")).and_modify(|limits| limits.per_task = false);
        config.workers.entry(worker("anga")).and_modify(|limits| limits.replicas = 1);
        Config { max_running, max_lost, backoff_base: backoff * SECOND, ..config }
    }
}

proptest! {
    /// Late, repeated, reordered and missing inputs; attempts that fail in every kind, hang, do
    /// not stop when asked to, die; requests, plans, drops, cancels and retries at any time;
    /// restarts, also in the middle of a write. What must hold after each step is checked by the
    /// world, from its own records.
    #[test]
    fn every_run_ends_and_the_limits_hold_whatever_happens(seed: u64, config in configs()) {
        let mut world = World::new(config, seed);
        world.play();
        world.check_end();
    }

    /// What becomes of an attempt depends only on its task and number here, so restarts may make
    /// no difference to the end.
    #[test]
    fn run_ends_the_same_with_and_without_restarts(seed: u64, config in configs()) {
        let end = |restarts| {
            let mut world = World::fair(config.clone(), seed, restarts);
            world.play();
            world.check_end();
            world.outcome()
        };
        prop_assert_eq!(end(false), end(true));
    }
}

/// Guards the tests above against a world that is too kind to find anything.
#[test]
fn world_is_as_bad_as_it_claims() {
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    let mut config = config();
    config.workers.entry(worker("fabien")).and_modify(|limits| limits.per_task = true);
    for seed in 0..120 {
        let mut world = World::new(config.clone(), seed);
        world.play();
        for run in world.scheduler.runs() {
            if let RunPhase::Ended { state, .. } = run.phase {
                *seen.entry(state.as_str().to_owned()).or_default() += 1;
            }
        }
        for (what, times) in &world.seen {
            *seen.entry((*what).to_owned()).or_default() += times;
        }
    }
    let expected = [
        "a spare was lost",
        "a spare was started",
        "acted on a stop order",
        "answer written again",
        "backoff",
        "cancel of a run",
        "cancel of a task",
        "cycle",
        "decided by a restart",
        "decided by a retry",
        "decided by time",
        "decided to go on",
        "decided to stop",
        "decision about a run",
        "decision about a task",
        "decision about a worker",
        "decision about everything",
        "dropped later",
        "forgotten",
        "idle replica died",
        "ignored an interrupt",
        "input repeated",
        "lost report",
        "lost start",
        "new attempt after a lost worker",
        "paused",
        "plan rejected",
        "replica of no use",
        "report of an old attempt",
        "restart",
        "resumed session",
        "retry of a run",
        "retry of a task",
        "shorter journal",
        "skipped",
        "started after its report",
        "stopped at its deadline",
        "torn write",
        "waited for a limit",
        "wrong token",
    ];
    let states = [RunState::Complete, RunState::Partial, RunState::Failed, RunState::Cancelled];
    for what in expected.into_iter().chain(states.map(RunState::as_str)) {
        assert!(seen.get(what).is_some_and(|times| *times >= 3), "{what}: {seen:#?}");
    }
}
