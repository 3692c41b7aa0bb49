//! Bounds: who takes more than an attempt may have is stopped, told so, and cleaned up after.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Attack, has_setting};

/// What an attempt of the worker may have, in MiB, and in files.
const DISK: u64 = 64;
const FILES: u64 = 2000;

#[test]
fn docker_agent_that_takes_too_much_is_stopped() {
    const TEST: &str = "docker_agent_that_takes_too_much_is_stopped";
    let Some(attack) = Attack::of(TEST) else { return };
    let mut settings =
        "replicas = 1\n[resources]\nmemory_mib = 256\ntmp_mib = 64\npids = 64\ncpus = 0.5\n"
            .to_owned();
    // Where it has no such setting, there is no such bound.
    for (name, value) in [("disk_mib", DISK), ("files", FILES), ("shm_mib", 64)] {
        if has_setting(&attack.world, name) {
            settings.push_str(&format!("{name} = {value}\n"));
        }
    }
    attack.make_worker("mallory", &settings);
    let mut attack = attack.start();
    let twice = |bound: u64| (2 * bound).to_string();
    for (row, more, kind) in [
        ("bounds-disk", twice(DISK), "disk"),
        ("bounds-disk-elsewhere", twice(DISK), "disk"),
        ("bounds-disk-hidden", twice(DISK), "disk"),
        ("bounds-disk-deleted", twice(DISK), "disk"),
        ("bounds-files", twice(FILES), "disk"),
        ("bounds-memory", "512".to_owned(), "oom"),
    ] {
        let ended =
            attack.task("mallory", row, &format!("bounds {row} {more}"), &["--retries", "0"]);
        let held = ended.kind() == kind;
        attack.verdicts.say(row, held, &ended.told());
        clean(&mut attack, row);
    }
    for row in ["bounds-one-file", "bounds-nesting", "bounds-line"] {
        let ended = attack.task("mallory", row, &format!("bounds {row}"), &["--retries", "0"]);
        attack.verdicts.say(row, ended.status.is_some(), &ended.told());
        clean(&mut attack, row);
    }
    let ended =
        attack.task("mallory", "inside", "bounds bounds-inside 64 64 64 50", &["--retries", "0"]);
    attack.take_rows("inside");
    attack.verdicts.say("bounds-honest-end", ended.is_complete(), &ended.told());
    attack.verdicts.finish();
}

/// The host's folders hold no more than before, soon after the end. The results' own copies are bounded, too.
fn clean(attack: &mut Attack, row: &str) {
    let slot = attack.world.path("results/mallory/.slots");
    let start = Instant::now();
    let left = loop {
        let left = size(&slot);
        if left.0 < 8 << 20 && left.1 < 20 {
            break None;
        }
        if start.elapsed() > Duration::from_secs(10) {
            break Some(left);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if let Some((bytes, files)) = left {
        let saw = format!("{} MiB and {files} files stay in the worker's folder", bytes >> 20);
        attack.verdicts.say(row, false, &saw);
    }
    if !attack.verdicts.holds(row) {
        attack.mend("mallory");
    }
}

fn size(folder: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        sum.1 += 1;
        if meta.is_dir() {
            // What is nested deeper than this has been seen to be there.
            let inner =
                if entry.path().components().count() > 60 { (0, 50) } else { size(&entry.path()) };
            sum = (sum.0 + inner.0, sum.1 + inner.1);
        } else {
            sum.0 += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
        }
    }
    sum
}
