//! What a container may leave in its folder, and what of it is read.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use protocol::untrusted::{Bounds, Folder, Refusal};
use tempfile::TempDir;

const BOUNDS: Bounds = Bounds { entries: 10, depth: 3, bytes: 1000 };

fn folder() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("inside")).unwrap();
    write(&dir.path().join("secret"), b"secret");
    let folder = Folder::open(&dir.path().join("inside")).unwrap();
    (dir, folder)
}

fn write(path: &Path, contents: &[u8]) {
    File::create(path).unwrap().write_all(contents).unwrap();
}

fn fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn no_path_and_no_link_leads_out() {
    let (dir, folder) = folder();
    let inside = dir.path().join("inside");
    symlink("../secret", inside.join("link")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    for path in ["../secret", "/etc/passwd", "link", "up/secret", "magic/etc/passwd", "./../secret"]
    {
        let refusal = folder.read(Path::new(path), 100).unwrap_err();
        assert!(matches!(refusal, Refusal::Escapes(_)), "{path}: {refusal:?}");
    }
    assert!(folder.folder(Path::new("up")).is_err());
}

#[test]
fn pipes_sockets_and_folders_are_refused_at_once() {
    let (dir, folder) = folder();
    let inside = dir.path().join("inside");
    fifo(&inside.join("pipe"));
    let _socket = UnixListener::bind(inside.join("socket")).unwrap();
    fs::create_dir(inside.join("dir")).unwrap();
    for name in ["pipe", "socket", "dir"] {
        let refusal = folder.read(Path::new(name), 100).unwrap_err();
        assert!(matches!(refusal, Refusal::NotAFile(_)), "{name}: {refusal:?}");
    }
    assert!(folder.read(Path::new("nothing"), 100).unwrap_err().is_missing());
}

#[test]
fn a_giant_is_refused_by_its_size_before_it_is_read() {
    let (dir, folder) = folder();
    let sparse = File::create(dir.path().join("inside/giant")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    let refusal = folder.read(Path::new("giant"), 1000).unwrap_err();
    assert!(matches!(refusal, Refusal::TooLarge { len, max: 1000, .. } if len == 10 << 30));
    write(&dir.path().join("inside/exact"), &[b'x'; 1000]);
    assert_eq!(folder.read(Path::new("exact"), 1000).unwrap().len(), 1000);
}

#[test]
fn all_files_are_found_in_order_and_anything_else_is_refused() {
    let (dir, folder) = folder();
    let inside = dir.path().join("inside");
    fs::create_dir_all(inside.join("b/c")).unwrap();
    write(&inside.join("b/c/two.md"), b"12");
    write(&inside.join("a.md"), b"1");
    let found: Vec<_> =
        folder.files(BOUNDS).unwrap().into_iter().map(|file| (file.path, file.len)).collect();
    assert_eq!(found, [("a.md".to_owned(), 1), ("b/c/two.md".to_owned(), 2)]);

    symlink("a.md", inside.join("b/link")).unwrap();
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::Escapes(_))));
    fs::remove_file(inside.join("b/link")).unwrap();
    fifo(&inside.join("b/pipe"));
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::NotAFile(_))));
    fs::remove_file(inside.join("b/pipe")).unwrap();
    write(&inside.join("b/line\nbreak"), b"1");
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::BadName(_))));
}

#[test]
fn number_depth_and_sum_of_files_are_bounded() {
    let (dir, folder) = folder();
    let inside = dir.path().join("inside");
    write(&inside.join("large"), &[b'x'; 600]);
    write(&inside.join("other"), &[b'x'; 600]);
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::TooLarge { .. })));
    fs::remove_file(inside.join("other")).unwrap();
    fs::create_dir_all(inside.join("1/2/3/4")).unwrap();
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::TooMany { .. })));
    fs::remove_dir_all(inside.join("1")).unwrap();
    for n in 0..10 {
        write(&inside.join(format!("{n}")), b"");
    }
    assert!(matches!(folder.files(BOUNDS), Err(Refusal::TooMany { .. })));
}
