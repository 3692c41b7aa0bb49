use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::untrusted::Refusal;
use rustix::io::Errno;

use super::intake::said;
use super::tree::FOLDER;
use super::*;

fn io(errno: Errno) -> Refusal {
    Refusal::Io { path: "x".into(), source: errno.into() }
}

#[test]
fn what_the_system_lacks_is_no_fault_of_the_worker() {
    assert!(theirs(io(Errno::MFILE)).is_err());
    assert!(theirs(io(Errno::IO)).is_err());
    assert!(theirs(io(Errno::ACCESS)).is_ok());
    assert!(theirs(Refusal::NotAFile("x".into())).is_ok());
    assert_eq!(said(&io(Errno::ACCESS)), "can't read `x`: Permission denied (os error 13)");
}

#[test]
fn folder_is_handed_over_with_all_in_it_and_nothing_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (outside, slot) = (dir.path().join("outside"), dir.path().join("slot"));
    fs::create_dir_all(slot.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    for file in [outside.join("file"), slot.join("file"), slot.join("a/b/file")] {
        fs::File::create(file).unwrap();
    }
    symlink(&outside, slot.join("link")).unwrap();
    symlink(outside.join("file"), slot.join("a/link")).unwrap();
    symlink("/nowhere", slot.join("dangling")).unwrap();
    let meta = fs::metadata(&slot).unwrap();
    // Only root may give files away; anybody else may give them to himself.
    let uid = if rustix::process::geteuid().is_root() { 12345 } else { meta.uid() };

    hand_over(&slot, Owner { uid, gid: meta.gid() }).unwrap();

    for path in ["", "a", "a/b", "a/b/file", "file", "link", "a/link"] {
        assert_eq!(fs::symlink_metadata(slot.join(path)).unwrap().uid(), uid, "{path}");
    }
    for path in [outside.join("file"), outside, dir.path().to_owned()] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), meta.uid(), "{}", path.display());
    }
}

#[test]
fn slot_name_can_be_a_link_to_a_folder_and_nothing_behind_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::File::create(outside.join("file")).unwrap();
    symlink(&outside, dir.path().join("link")).unwrap();
    remove_tree(&dir.path().join("link")).unwrap();
    remove_tree(&dir.path().join("link")).unwrap();
    assert!(outside.join("file").exists());
    assert!(!dir.path().join("link").is_symlink());
}

#[test]
fn folders_nested_deeper_than_files_can_be_open_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    fs::create_dir(&top).unwrap();
    let mut folder = rustix::fs::open(&top, FOLDER, Mode::empty()).unwrap();
    for _ in 0..1500 {
        rustix::fs::mkdirat(&folder, "a", Mode::RWXU).unwrap();
        rustix::fs::symlinkat("/", &folder, "link").unwrap();
        folder = rustix::fs::openat(&folder, "a", FOLDER, Mode::empty()).unwrap();
    }
    // What is usual.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit { current: Some(1024), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).unwrap();
    let removed = remove_tree(&top);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    removed.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn world() -> (tempfile::TempDir, Slot) {
    let dir = tempfile::tempdir().unwrap();
    let installation = Installation::at(dir.path()).unwrap();
    let replica = "marie-1".parse().unwrap();
    let secret = protocol::ReportKey::new([7; 32]).secret(&replica);
    let slot = Slot::new(installation, "marie".parse().unwrap(), replica, None, true, secret);
    slot.make(None).unwrap();
    (dir, slot)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn lock_of_a_worker_that_is_a_pipe_or_a_link_is_not_waited_for() {
    let (dir, slot) = world();
    let results = dir.path().join("results");
    let lock = slot.results().join(".worker.lock");
    rustix::fs::mknodat(rustix::fs::CWD, &lock, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(served(&results).is_empty());
    fs::remove_file(&lock).unwrap();
    // One of ours, that is held.
    let own = fs::File::create(dir.path().join("own")).unwrap();
    own.lock().unwrap();
    symlink(dir.path().join("own"), &lock).unwrap();
    assert!(served(&results).is_empty());
    fs::remove_file(&lock).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    assert_eq!(served(&results), [slot.results()]);
}

#[test]
fn what_a_worker_piles_up_is_cleared_in_bounded_steps_and_the_next_attempts_names_at_once() {
    let (_dir, slot) = world();
    for number in 0..100 * MAX_NAMES {
        fs::File::create(slot.results().join(format!("x.{number}.json"))).unwrap();
    }
    fs::create_dir_all(slot.results().join("next.2/artifacts")).unwrap();
    fs::File::create(slot.results().join("next.2/artifacts/planted")).unwrap();
    fs::File::create(slot.results().join("next.2.json")).unwrap();
    let next = ("next".parse().unwrap(), Attempt::new(2).unwrap());
    // Hidden, it is no less a stranger's; two names are the worker's own.
    fs::create_dir_all(slot.results().join(".mine/x")).unwrap();
    fs::File::create(slot.results().join(".x.tmp")).unwrap();
    fs::File::create(slot.results().join(WORKER_LOCK)).unwrap();
    fs::File::create(slot.results().join(SELF_TEST_FILE)).unwrap();
    let before = names_in(&slot.results()).len();
    slot.clear_strangers((&next.0, next.1), false).unwrap();
    let after = names_in(&slot.results());
    assert!(after.len() < before && !after.is_empty(), "{} of {before}", after.len());
    assert!(!after.iter().any(|name| name.starts_with("next.")));
    for _ in 0..=100 {
        slot.clear_strangers((&next.0, next.1), false).unwrap();
    }
    assert_eq!(names_in(&slot.results()), [SELF_TEST_FILE, WORKER_LOCK]);

    // What is there already is the attempt's own.
    fs::create_dir(slot.tasks().join("next.2")).unwrap();
    fs::create_dir(slot.results().join("next.2")).unwrap();
    slot.clear_strangers((&next.0, next.1), true).unwrap();
    assert_eq!(names_in(&slot.results()), [SELF_TEST_FILE, WORKER_LOCK, "next.2"]);
    assert_eq!(names_in(&slot.tasks()), ["next.2"]);
}

#[test]
fn giant_in_the_place_of_a_transcript_is_not_kept() {
    let (_dir, slot) = world();
    let left = slot.results().join("a.1");
    fs::create_dir(&left).unwrap();
    let keep = slot.installation.attempt(RunId::Adhoc, &"a".parse().unwrap(), Attempt::FIRST);
    for (len, is_kept) in [(MAX_TRANSCRIPT + 1, false), (MAX_TRANSCRIPT, true)] {
        fs::File::create(left.join("transcript.jsonl")).unwrap().set_len(len).unwrap();
        keep_transcript(&left, &keep).unwrap();
        assert_eq!(keep.join("transcript.jsonl").exists(), is_kept, "{len}");
    }
}

#[test]
fn folder_of_more_files_than_are_looked_at_in_one_go_is_removed() {
    let (_dir, slot) = world();
    let left = slot.results().join("a.1/artifacts");
    fs::create_dir_all(left.join("deeper")).unwrap();
    for number in 0..2 * MAX_NAMES + 7 {
        fs::File::create(left.join(format!("{number}"))).unwrap();
        fs::File::create(left.join(format!("deeper/{number}"))).unwrap();
    }
    slot.clear(RunId::Adhoc, &"a".parse().unwrap(), Attempt::FIRST).unwrap();
    assert_eq!(names_in(&slot.results()), [""; 0]);
}

#[derive(Default)]
struct Over(AtomicBool);

/// Ends what goes on beside a test, also when that panics.
struct Guard<'a>(&'a Over);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn link_that_takes_the_place_of_a_transcript_while_it_is_kept_is_not_kept() {
    let (_dir, slot) = world();
    let left = slot.results().join("a.1");
    let keep = slot.installation.attempt(RunId::Adhoc, &"a".parse().unwrap(), Attempt::FIRST);
    let kept = keep.join("transcript.jsonl");
    fs::create_dir_all(&left).unwrap();
    symlink("/etc/passwd", left.join("link")).unwrap();
    fs::File::create(left.join("transcript.jsonl")).unwrap();
    let over = Over::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.0.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    left.join("link"),
                    rustix::fs::CWD,
                    left.join("transcript.jsonl"),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let _guard = Guard(&over);
        for _ in 0..3000 {
            // What was there before is put back, for the next round.
            let _ = keep_transcript(&left, &keep);
            assert!(!kept.is_symlink(), "a link was kept");
            if kept.exists() {
                let _ = fs::remove_file(&kept);
                for (name, is_link) in [("transcript.jsonl", false), ("link", true)] {
                    match is_link {
                        true => drop(symlink("/etc/passwd", left.join(name))),
                        false => drop(fs::File::create_new(left.join(name))),
                    }
                }
            }
        }
    });
}
