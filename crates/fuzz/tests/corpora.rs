//! Each target, with its corpus and some seconds of what a seed makes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use fuzz::{Bound, TARGETS};

/// How long each target is run: all of them together take less than a minute, one after the other.
const TIME: Duration = Duration::from_millis(2500);

/// Makes a test for each target.
macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    task, plan, result, worker, config, journal, ledger, hosts, ids, time, key, transcript, meter, ask, limits, hello, http,
    assignment, slot,
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = *target.unwrap_or_else(|| panic!("there is no target `{name}`"));
    // The same every time, so that what CI finds is found here.
    let taken = fuzz::run(target, 1, Bound::Time(TIME));
    assert!(taken > 100, "only {taken} inputs were taken");
}

#[test]
fn every_target_is_tested() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED.iter().copied().collect());
}
