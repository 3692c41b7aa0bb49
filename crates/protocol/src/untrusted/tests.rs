//! Opening beneath a folder, by `openat2` and without it: the second must be as strict as the first.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

use super::*;

/// How long each race is run. What it looks for shows within milliseconds.
const RACE: Duration = Duration::from_millis(300);

const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

type Open = fn(&Folder, &Path, OFlags) -> Result<OwnedFd, Refusal>;

/// Both ways to open.
const WAYS: [(&str, Open); 2] = [
    ("openat2", |folder, path, flags| folder.open_beneath(path, flags)),
    ("step by step", |folder, path, flags| {
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Refusal::Escapes(path.to_owned()));
        }
        folder.open_stepwise(path, flags).map_err(|errno| refusal(path, errno))
    }),
];

/// A folder `inside`, with what a hostile worker may leave there, beside what it must not reach.
fn world() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir_all(inside.join("folder/deeper")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    for (path, text) in [
        ("inside/file", "fine"),
        ("inside/folder/file", "fine"),
        ("inside/folder/deeper/file", "fine"),
        ("outside/file", "secret"),
    ] {
        fs::File::create(dir.path().join(path)).unwrap().write_all(text.as_bytes()).unwrap();
    }
    for (target, link) in [
        ("../outside", "up"),
        ("../outside/file", "up-file"),
        ("/etc", "etc"),
        ("/proc/self/root", "magic"),
        ("folder", "within"),
        ("folder/file", "within-file"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
        ("../../outside", "folder/deeper/up"),
    ] {
        symlink(target, inside.join(link)).unwrap();
    }
    mknodat(CWD, inside.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    drop(UnixListener::bind(inside.join("socket")).unwrap());
    let folder = Folder::open(&inside).unwrap();
    (dir, folder)
}

#[test]
fn without_openat2_the_same_is_opened_and_the_same_is_refused() {
    let (_dir, folder) = world();
    let dirs = READ | OFlags::DIRECTORY;
    let fine =
        [("file", READ), ("folder/file", READ), ("folder/deeper/file", READ), ("folder", dirs)];
    let refused = [
        "..",
        "../outside/file",
        "/etc/passwd",
        "folder/../../outside/file",
        "up/file",
        "up-file",
        "etc/passwd",
        "magic/etc/passwd",
        "within/file",
        "within-file",
        "dangling",
        "loop",
        "loop/file",
        "folder/deeper/up/file",
        "folder/deeper/up",
        "file/file",
        "nothing",
        "socket",
        "nothing/file",
        "pipe/file",
    ];
    for (way, open) in WAYS {
        for (path, flags) in fine {
            assert!(open(&folder, Path::new(path), flags).is_ok(), "{way}: {path}");
        }
        for path in refused {
            for flags in [READ, dirs] {
                let refusal = open(&folder, Path::new(path), flags);
                assert!(refusal.is_err(), "{way}: {path} was opened");
            }
        }
        let missing = open(&folder, Path::new("nothing"), READ).unwrap_err();
        assert!(missing.is_missing(), "{way}: {missing}");
        // A link is never told for what is missing: an attempt with one would be waited for in vain.
        for path in ["dangling", "up/nothing", "within/nothing"] {
            let refusal = open(&folder, Path::new(path), READ).unwrap_err();
            assert!(!refusal.is_missing(), "{way}: {path}: {refusal}");
        }
    }
}

/// Ends what goes on beside a look, also when that panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges two entries as fast as it can, while `look` looks.
fn race(dir: &Path, one: &str, other: &str, mut look: impl FnMut()) {
    let over = AtomicBool::new(false);
    let swap = || {
        renameat_with(CWD, dir.join(one), CWD, dir.join(other), RenameFlags::EXCHANGE).unwrap();
    };
    std::thread::scope(|scope| {
        let swaps = scope.spawn(|| {
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                swap();
                swaps += 1;
            }
            swaps
        });
        let (guard, start, mut looks) = (Over(&over), Instant::now(), 0);
        while start.elapsed() < RACE {
            look();
            looks += 1;
        }
        drop(guard);
        let swaps: u64 = swaps.join().unwrap();
        assert!(swaps > 100 && looks > 100, "no race: {swaps} swaps, {looks} looks");
    });
}

#[test]
fn what_is_swapped_for_a_link_while_it_is_opened_never_leads_out() {
    for (way, open) in WAYS {
        for (path, one, other) in [
            ("folder/file", "folder", "up"),
            ("folder/deeper/file", "folder", "up"),
            ("file", "file", "up-file"),
            ("file", "file", "pipe"),
            ("folder/file", "folder", "pipe"),
        ] {
            let (dir, folder) = world();
            let (mut opened, mut refused) = (0, 0);
            race(&dir.path().join("inside"), one, other, || {
                match open(&folder, Path::new(path), READ) {
                    Ok(fd) => {
                        let mut text = String::new();
                        let stat = rustix::fs::fstat(&fd).unwrap();
                        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                            File::from(fd).read_to_string(&mut text).unwrap();
                            assert_eq!(text, "fine", "{way}: {path} led out");
                        }
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
            });
            assert!(opened > 0 || refused > 0);
        }
    }
}

#[test]
fn listing_never_follows_what_is_swapped_for_a_link_meanwhile() {
    let (dir, _) = world();
    let inside = dir.path().join("list");
    fs::create_dir_all(inside.join("folder")).unwrap();
    File::create(inside.join("folder/mine")).unwrap();
    symlink("../outside", dir.path().join("link")).unwrap();
    let folder = Folder::open(&inside).unwrap();
    let bounds = Bounds { entries: 10, depth: 3, bytes: 1000 };
    let mut found = 0;
    race(dir.path(), "list/folder", "link", || {
        if let Ok(files) = folder.files(bounds) {
            assert!(files.iter().all(|file| file.path.ends_with("mine")), "{files:?}");
            found += 1;
        }
    });
    assert!(found > 0);
}

#[test]
fn what_is_read_is_bounded_also_when_it_grows_meanwhile() {
    let (dir, folder) = world();
    let path = dir.path().join("inside/file");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            while !over.load(Ordering::Relaxed) {
                for len in [10, 10 << 30, 0] {
                    file.set_len(len).unwrap();
                }
            }
        });
        let (_guard, start, mut read) = (Over(&over), Instant::now(), 0);
        while start.elapsed() < RACE {
            match folder.read(Path::new("file"), 1000) {
                Ok(bytes) => {
                    assert!(bytes.len() <= 1000);
                    read += 1;
                }
                Err(refusal) => assert!(matches!(refusal, Refusal::TooLarge { .. }), "{refusal}"),
            }
        }
        assert!(read > 0);
    });
}

#[test]
fn names_that_read_as_another_are_refused_and_other_scripts_are_not() {
    let bounds = Bounds { entries: 10, depth: 3, bytes: 1000 };
    for (name, shown) in [
        ("report\u{202e}dm.exe", "\"report\\u{202e}dm.exe\""),
        ("a\u{200b}.md", "\"a\\u{200b}.md\""),
        ("a\nb", "\"a\\nb\""),
        ("\u{1b}[2J", "\"\\u{1b}[2J\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join(name)).unwrap();
        let refusal = Folder::open(dir.path()).unwrap().files(bounds).unwrap_err();
        assert_eq!(refusal.to_string(), format!("{shown} has a name that can't be shown"));
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["отчёт.md", "報告.md", "می‌خواهم.md", "👩‍🚀.md", "a b.md"] {
        File::create(dir.path().join(name)).unwrap();
    }
    assert_eq!(Folder::open(dir.path()).unwrap().files(bounds).unwrap().len(), 5);
}

/// Needs the right to make one: a container has it not.
#[test]
fn device_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let zero = rustix::fs::makedev(1, 5);
    let made = mknodat(CWD, dir.path().join("x"), FileType::CharacterDevice, Mode::RUSR, zero);
    if made.is_err() {
        return;
    }
    let folder = Folder::open(dir.path()).unwrap();
    let refusal = folder.read(Path::new("x"), 100).unwrap_err();
    // Where the file system has no devices, it can't even be opened.
    assert!(matches!(refusal, Refusal::NotAFile(_) | Refusal::Io { .. }), "{refusal:?}");
    let bounds = Bounds { entries: 10, depth: 3, bytes: 1000 };
    assert!(matches!(folder.files(bounds), Err(Refusal::NotAFile(_))));
}
