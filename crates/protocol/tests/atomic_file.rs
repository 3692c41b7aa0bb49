//! Files appear whole, under their final name, or not at all.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::atomic_file::{Durability, create, is_visible, move_to, remove, replace};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_file_never_takes_the_place_of_one_that_is_there() {
    for durability in [Durability::Synced, Durability::Volatile] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        create(&path, b"first", durability).unwrap();
        let error = create(&path, b"second", durability).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        replace(&path, b"third", durability).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(names(dir.path()), ["a.json"], "no partial file should be left");
    }
}

#[test]
fn others_may_read_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    create(&path, b"x", Durability::Volatile).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn what_is_moved_is_there_once_and_to_remove_what_is_gone_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("to")).unwrap();
    let (from, to) = (dir.path().join("a"), dir.path().join("to/b"));
    create(&from, b"x", Durability::Volatile).unwrap();
    move_to(&from, &to, Durability::Synced).unwrap();
    assert!(!from.exists());
    assert_eq!(fs::read(&to).unwrap(), b"x");
    remove(&to).unwrap();
    remove(&to).unwrap();
}

#[test]
fn hidden_and_temporary_names_are_not_for_readers() {
    for (name, visible) in
        [("a.json", true), (".a.json", false), ("a.tmp", false), (".x.tmp", false)]
    {
        assert_eq!(is_visible(name), visible, "{name}");
    }
}
