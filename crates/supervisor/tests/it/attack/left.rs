//! What an attempt leaves behind: the next, innocent task of the same worker is not hurt by it.

use std::time::{Duration, Instant};

use super::{Attack, Life};

/// What stays where nobody ends it, and files and folders that are in the way.
const THINGS: [&str; 12] = [
    "left-nothing",
    "left-shared-memory",
    "left-many-segments",
    "left-semaphores",
    "left-messages",
    "left-posix-queues",
    "left-dev-shm",
    "left-tmp",
    "left-tmp-inodes",
    "left-scratch-links",
    "left-deep-folders",
    "left-keyring",
];

/// Processes, and what stands in the way of the next attempt or of the next worker.
const PROCESSES: [&str; 13] = [
    "left-detached",
    "left-open-files",
    "left-inotify",
    "left-abstract-sockets",
    "left-ports",
    "left-fork-bomb",
    "left-closed-folders",
    "left-closed-files",
    "left-next-names link",
    "left-next-names fifo",
    "left-lock-held",
    "left-lock-fifo",
    "left-terminated",
];

/// How long an innocent task may take, in a container that is started for it.
const AT_ONCE: Duration = Duration::from_secs(15);

#[test]
fn docker_resident_container_keeps_nothing_that_hurts_the_next_task() {
    let test = "docker_resident_container_keeps_nothing_that_hurts_the_next_task";
    hurt_nobody(test, Life::Resident, &THINGS);
}

#[test]
fn docker_fresh_container_finds_nothing_that_hurts_its_task() {
    hurt_nobody("docker_fresh_container_finds_nothing_that_hurts_its_task", Life::Fresh, &THINGS);
}

#[test]
fn docker_resident_container_keeps_nobody_who_hurts_the_next_task() {
    let test = "docker_resident_container_keeps_nobody_who_hurts_the_next_task";
    hurt_nobody(test, Life::Resident, &PROCESSES);
}

#[test]
fn docker_fresh_container_finds_nobody_who_hurts_its_task() {
    hurt_nobody("docker_fresh_container_finds_nobody_who_hurts_its_task", Life::Fresh, &PROCESSES);
}

fn hurt_nobody(test: &'static str, life: Life, tricks: &[&str]) {
    let Some(attack) = Attack::of(test) else { return };
    let settings = format!(
        "replicas = 1\n{}[resources]\nmemory_mib = 1024\ntmp_mib = 128\npids = 128\n",
        life.setting(&attack.world)
    );
    attack.make_worker("mallory", &settings);
    let mut attack = Attack { patience: AT_ONCE, ..attack.start() };
    for trick in tricks {
        println!("{trick}");
        let row = trick.replace(' ', "-");
        let innocent = format!("{row}-after");
        if row != "left-nothing" {
            let (name, kind) = trick.split_once(' ').unwrap_or((trick, ""));
            let order = format!("left {name} {innocent} {kind}");
            let ended = attack.task("mallory", &row, &order, &["--retries", "0"]);
            attack.verdicts.say(&row, ended.status.is_some(), &ended.told());
        }
        if row == "left-lock-fifo" && life == Life::Resident {
            // The lock is taken by the next worker of this slot.
            let container = attack.world.container("mallory-1");
            attack.world.docker(&["rm", "--force", &container]);
        }
        let start = Instant::now();
        let after = attack.task("mallory", &innocent, "innocent", &["--retries", "0"]);
        let saw = format!("the next task: {}, after {:.1?}", after.told(), start.elapsed());
        attack.verdicts.say(&row, after.is_complete() && start.elapsed() < AT_ONCE, &saw);
        // What it found, and what it could not do, counts for the trick that came before.
        for line in attack.said(&innocent) {
            let Ok(said) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if said["held"] == false {
                attack.verdicts.say(&row, false, &format!("{} {}", said["row"], said["saw"]));
            }
        }
        if !attack.verdicts.holds(&row) {
            attack.mend("mallory");
        }
    }
    attack.verdicts.finish();
}
