//! The intake of results as a whole: a replica's slot, with what a hostile worker may leave in it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use protocol::{
    Attempt, FailureKind, Priority, ReportKey, ReportSecret, RunId, SessionId, Status, TaskResult,
    Time, Token, WorkerId,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use supervisor::install::Installation;
use supervisor::slot::{Awaited, Slot};
use tempfile::TempDir;

/// What must never be read: it lies outside of the slot.
const SECRET: &str = "a secret of the host";

/// Names that mean something in a slot, and some that do not.
const NAMES: &[&str] = &[
    "a.1.json",
    "a.1",
    "a.1/artifacts",
    "a.1/artifacts/report.md",
    "a.1/artifacts/sub",
    "a.1/artifacts/sub/b.csv",
    "a.1/transcript.jsonl",
    "a.2.json",
    "b.1.json",
    ".worker.lock",
    ".x.tmp",
    "a.1/artifacts/\u{202e}x",
    "a.1/artifacts/line\nbreak",
    "x",
    "a.1.json.json",
    "a.1/artifacts/sub/sub",
];

/// A slot that waits for the first attempt of the task `a`.
#[derive(Debug)]
pub struct Intake {
    dir: TempDir,
    slot: Slot,
    awaited: Awaited,
    private: PathBuf,
    secret: ReportSecret,
}

impl Intake {
    /// Returns a slot in a folder of its own: in memory where there is such a file system.
    ///
    /// # Panics
    ///
    /// When it can't be made.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = done(tempfile::tempdir_in(place), "a folder is made");
        let installation = done(Installation::at(dir.path()), "the folder is an installation");
        put(&dir.path().join("secret"), SECRET.as_bytes());
        let id = |text: &str| -> WorkerId { done(text.parse(), "it is a name") };
        let replica = done("marie-1".parse(), "it is a replica's name");
        let secret = ReportKey::new([7; 32]).secret(&replica);
        let slot =
            Slot::new(installation.clone(), id("marie"), replica, None, true, secret.clone());
        done(slot.make(None), "the slot is made");
        let awaited = Awaited {
            task: done("a".parse(), "it is a task's name"),
            run: RunId::Adhoc,
            worker: id("marie"),
            attempt: Attempt::FIRST,
            priority: Priority::Medium,
            token: Token::from_random(1, 2),
            session: SessionId::from_random(1, 2),
            verify: None,
            rehearsal: false,
        };
        let private = installation.attempt(RunId::Adhoc, &awaited.task, Attempt::FIRST);
        Self { dir, slot, awaited, private, secret }
    }

    /// Returns what a good worker hands in.
    pub fn good(&self) -> Vec<u8> {
        let awaited = &self.awaited;
        let error = protocol::TaskError::new(FailureKind::BadOutput, "");
        let report = TaskResult {
            status: Status::Complete,
            summary: "It is done.".to_owned(),
            findings: vec!["One.".to_owned()],
            error: None,
            token: Some(awaited.token),
            ..TaskResult::without_report(
                awaited.task.clone(),
                awaited.run,
                awaited.worker.clone(),
                Some(awaited.attempt),
                Status::Failed,
                error,
                Time::from_millis(5),
            )
        };
        serde_json::to_vec(&report).unwrap_or_else(|error| panic!("BUG: {error}"))
    }

    /// Hands in any bytes with the worker's proof. Returns whether they were taken for what the attempt reports.
    ///
    /// # Panics
    ///
    /// When a result counts that must not.
    pub fn hand_in(&self, bytes: &[u8]) -> bool {
        self.hand_in_file(&self.secret.seal(self.awaited.report_of(), bytes))
    }

    /// Hands in a file of any bytes. Returns whether they were taken for what the attempt reports.
    ///
    /// # Panics
    ///
    /// When a result counts that must not.
    pub fn hand_in_file(&self, bytes: &[u8]) -> bool {
        put(&self.slot.results().join("a.1.json"), bytes);
        let counts = self.take_in() == Some(true);
        drop(fs::remove_file(self.slot.results().join("a.1.json")));
        counts
    }

    /// Takes in what is there: `None` where nothing is, else whether it counts.
    fn take_in(&self) -> Option<bool> {
        let report =
            done(self.slot.take_in(&self.awaited, Time::from_millis(9)), "nothing is amiss here");
        let report = report?;
        let awaited = &self.awaited;
        // Whatever was there: it is about the attempt, with its token, and says nothing of outside.
        assert_eq!((&report.task_id, report.run), (&awaited.task, awaited.run));
        assert_eq!((&report.worker, report.attempt), (&awaited.worker, awaited.attempt.get()));
        assert_eq!(report.token, Some(awaited.token));
        let shown = serde_json::to_string(&report).unwrap_or_else(|error| panic!("BUG: {error}"));
        assert!(!shown.contains(SECRET), "it was read: {shown}");
        assert!(
            report.artifacts.iter().all(|path| path.starts_with("results/marie/a/")),
            "{report:?}"
        );
        let unusable = report.error.as_ref().is_some_and(|e| {
            e.kind == FailureKind::Tampered || e.message.starts_with("the result can't be used")
        });
        Some(!unusable)
    }

    /// Makes one thing in the slot, as a byte says.
    fn leave(&self, what: u8, path: &Path, bytes: &[u8]) {
        let outside = self.dir.path().join("secret");
        // What can't be made is not: the parent may be a pipe by now.
        let _ = match what % 12 {
            0 => fs::create_dir_all(path),
            1 => symlink(&outside, path),
            2 => symlink(self.dir.path(), path),
            3 => symlink("../../../secret", path),
            4 => mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).map_err(Into::into),
            5 => UnixListener::bind(path).map(drop),
            6 => try_put(path, b"")
                .and_then(|()| File::options().write(true).open(path)?.set_len(10 << 30)),
            7 => fs::hard_link(self.slot.results().join("x"), path),
            8 => fs::remove_file(path),
            9 => fs::create_dir_all(path.join("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18")),
            10 => try_put(path, &self.secret.seal(self.awaited.report_of(), &self.good())),
            _ => try_put(path, bytes),
        };
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes are a program: what is made where, and the rest of them what is in it.
pub(crate) fn slot(bytes: &[u8]) {
    thread_local! {
        static INTAKE: Intake = Intake::new();
    }
    INTAKE.with(|intake| {
        let (program, contents) = bytes.split_at(bytes.len().min(24));
        for step in program.chunks_exact(2) {
            let name = NAMES[usize::from(step[1]) % NAMES.len()];
            intake.leave(step[0], &intake.slot.results().join(name), contents);
        }
        let _ = intake.take_in();
        // Again, as after a restart in the middle.
        let _ = intake.take_in();
        no_link_is_kept(&intake.private);
        let awaited = &intake.awaited;
        let cleared = intake.slot.clear(awaited.run, &awaited.task, awaited.attempt);
        done(cleared, "what is over is cleared away");
        no_link_is_kept(&intake.private);
        let next = (&awaited.task, awaited.attempt);
        done(intake.slot.clear_strangers(next, false), "what is strange is cleared away");
        let results = fs::read_dir(intake.slot.results());
        for entry in done(results, "the slot is there").flatten() {
            let name = entry.file_name();
            assert!(name.to_string_lossy().starts_with('.'), "{name:?} is left");
            // Hidden names are nobody's, and stay; not for the next input.
            drop(fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path())));
        }
        drop(fs::remove_dir_all(&intake.private));
        let secret = fs::read_to_string(intake.dir.path().join("secret"));
        assert_eq!(secret.ok().as_deref(), Some(SECRET), "what is outside has changed");
    });
}

/// Asserts that nothing in a folder of ours is anything but a file of what is allowed.
fn no_link_is_kept(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type();
        match kind {
            Ok(kind) if kind.is_dir() => no_link_is_kept(&entry.path()),
            Ok(kind) if kind.is_file() => {
                let mut start = Vec::new();
                let file = File::open(entry.path());
                let read = file.and_then(|file| file.take(100).read_to_end(&mut start));
                assert!(read.is_ok() && start != SECRET.as_bytes(), "{:?}", entry.path());
                assert!(
                    entry.metadata().is_ok_and(|meta| meta.len() <= 1 << 30),
                    "a giant is kept"
                );
            }
            _ => panic!("{} is kept, and is no file", entry.path().display()),
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    done(try_put(path, bytes), "a file is written");
}

fn try_put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Not into a pipe, on which this would wait.
    drop(fs::remove_file(path));
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(bytes)
}

fn done<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("BUG: {what}: {error:?}"))
}
