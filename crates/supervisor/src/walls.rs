//! What a person is told of walls and limits that do not hold.

use std::io;
use std::path::Path;

use protocol::untrusted::Folder;
use protocol::{SELF_TEST_FILE, SelfTest, Wall};

/// More than a list of all walls needs.
const MAX_BYTES: u64 = 4096;

/// Returns the names of walls, for a sentence.
pub fn names(walls: &[Wall]) -> String {
    walls.iter().map(|wall| wall.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns what to tell of walls that `who` lacks, each with its cure; `None` where it lacks none.
pub fn notice(who: &str, walls: &[Wall]) -> Option<String> {
    if walls.is_empty() {
        return None;
    }
    let cures: Vec<_> = walls.iter().map(|wall| wall.cure()).collect();
    Some(format!("{who} does not keep: {}. {}", names(walls), cures.join(" ")))
}

/// Returns what the worker of a slot found out about its container; `None` where it has said nothing that can be
/// understood.
///
/// An agent can write this file, too: what it says is shown, and decides nothing.
pub fn of_slot(results: &Path) -> io::Result<Option<Vec<Wall>>> {
    let said = Folder::open(results)?.read(Path::new(SELF_TEST_FILE), MAX_BYTES);
    let test = said.ok().and_then(|bytes| serde_json::from_slice::<SelfTest>(&bytes).ok());
    Ok(test.map(|test| {
        let mut holes = test.holes;
        holes.sort();
        holes.dedup();
        holes
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_of_its_container_is_read_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SELF_TEST_FILE);
        assert_eq!(of_slot(dir.path()).unwrap(), None);
        let write = |text: &str| {
            let how = protocol::atomic_file::Durability::Volatile;
            protocol::atomic_file::replace(&path, text.as_bytes(), how).unwrap();
        };
        write(r#"{"holes":["pids","memory","pids"]}"#);
        assert_eq!(of_slot(dir.path()).unwrap(), Some(vec![Wall::Memory, Wall::Pids]));
        write(r#"{"holes":["everything"]}"#);
        assert_eq!(of_slot(dir.path()).unwrap(), None);
        std::fs::remove_file(&path).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let how = protocol::atomic_file::Durability::Volatile;
        protocol::atomic_file::replace(&elsewhere, br#"{"holes":["pids"]}"#, how).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(of_slot(dir.path()).unwrap(), None);
    }

    #[test]
    fn notice_names_what_does_not_hold_and_how_to_mend_it() {
        assert_eq!(notice("marie-1", &[]), None);
        let text = notice("marie-1", &[Wall::Pids, Wall::Cpus]).unwrap();
        assert_eq!(
            text,
            "marie-1 does not keep: pids, cpus. For a rootless engine, delegate the controller `pids` to your user. \
             For a rootless engine, delegate the controller `cpu` to your user."
        );
    }
}
