use std::os::unix::fs::{MetadataExt, symlink};

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
