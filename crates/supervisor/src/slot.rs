//! A replica's slot: the pair of folders through which attempts go in and results come out.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::Permissions;
#[cfg(not(feature = "simulate"))]
use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gateway::Caller;
use protocol::atomic_file::{self, Durability};
use protocol::disk::{self as fs, Folder, MetadataExt as _};
use protocol::untrusted::{Bounds, Refusal};
use protocol::{
    Assignment, Attempt, CANCEL_FILE, FailureKind, Priority, ReplicaId, RunId, Status, TaskError,
    TaskId, TaskResult, Time, Token, WorkerId, mutant, strict,
};
#[cfg(not(feature = "simulate"))]
use rustix::fs::FileType;
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::install::Installation;
use crate::runtime::Owner;

/// The bounds of what an attempt may leave behind.
const ARTIFACTS: Bounds = Bounds { entries: 4096, depth: 16, bytes: 1 << 30 };

/// The largest transcript that is kept. A worker of ours ends its own at 256 MiB.
#[cfg(not(feature = "simulate"))]
const MAX_TRANSCRIPT: u64 = 512 << 20;

/// How much is told of why a result can't be used. It goes into the journal and the next attempt's prompt.
const MAX_WHY: usize = 2000;

/// The largest assignment: what a worker reads.
const MAX_ASSIGNMENT: u64 = 16 << 20;

/// The most names of a worker's folder that are looked at in one go: there may be millions.
const MAX_NAMES: usize = if cfg!(test) { 64 } else { 4096 };

/// How much of two files is compared at a time.
const PIECE: usize = 64 << 10;

/// How a folder is opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How deep folders are handed over: each level is held open meanwhile.
const MAX_DEPTH: usize = 64;

/// An attempt whose result is waited for: what the result has to say of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The task.
    pub task: TaskId,
    /// Its run.
    pub run: RunId,
    /// Its worker.
    pub worker: WorkerId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The task's priority.
    pub priority: Priority,
    /// What the result has to echo.
    pub token: Token,
    /// Whether the model is the built-in stand-in.
    pub rehearsal: bool,
}

impl Awaited {
    /// Returns what is waited for when this is put before a worker.
    pub fn of(assignment: &Assignment) -> Self {
        let task = &assignment.task;
        Self {
            task: task.id.clone(),
            run: task.run,
            worker: task.worker.clone(),
            attempt: assignment.attempt,
            priority: task.priority,
            token: assignment.token,
            rehearsal: assignment.rehearsal,
        }
    }

    /// Returns on whose account the attempt asks the model on that replica.
    pub fn caller(&self, replica: &ReplicaId) -> Caller {
        Caller {
            replica: replica.clone(),
            worker: self.worker.clone(),
            run: self.run,
            task: self.task.clone(),
            attempt: self.attempt,
            priority: self.priority,
        }
    }

    /// Returns whether it is that one.
    pub fn is(&self, task: &TaskId, attempt: Attempt) -> bool {
        (&self.task, self.attempt) == (task, attempt)
    }
}

/// The slot of one replica.
#[derive(Clone, Debug)]
pub struct Slot {
    installation: Installation,
    worker: WorkerId,
    replica: ReplicaId,
    /// Who the worker runs as; `None` when it is who we are.
    owner: Option<Owner>,
    /// Whether the worker can't change what is linked into its `/tasks`.
    walls: bool,
}

impl Slot {
    /// Returns the slot of a replica.
    pub fn new(
        installation: Installation,
        worker: WorkerId,
        replica: ReplicaId,
        owner: Option<Owner>,
        walls: bool,
    ) -> Self {
        Self { installation, worker, replica, owner, walls }
    }

    /// The folder that is `/tasks` in the container.
    pub fn tasks(&self) -> PathBuf {
        self.installation.task_slot(&self.worker, &self.replica)
    }

    /// The folder that is `/results` in the container.
    pub fn results(&self) -> PathBuf {
        self.installation.result_slot(&self.worker, &self.replica)
    }

    /// Makes the folders, so that they can be watched before anything writes into them, and the agent's
    /// own folder, `config_dir`. Looks at everything in them, so it is for the start of a replica.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn make(&self, config_dir: &Path) -> io::Result<()> {
        fs::create_dir_all(self.tasks())?;
        for folder in [&self.results(), config_dir] {
            fs::create_dir_all(folder)?;
            if let Some(owner) = self.owner {
                hand_over(folder, owner)?;
            }
        }
        // Artifacts will be moved into the worker's folder of results: it must not be lost with them.
        atomic_file::sync_folder(&self.installation.results())
    }

    /// Returns whether the folders are there.
    pub fn is_there(&self) -> bool {
        fs::is_dir(&self.tasks()) && fs::is_dir(&self.results())
    }

    /// Puts an attempt before the worker: its folder appears by one rename.
    ///
    /// # Errors
    ///
    /// Any I/O error; nothing is visible to the worker then.
    pub fn stage(&self, assignment: &Assignment) -> io::Result<()> {
        let name = assignment.task.id.slot_name(assignment.attempt);
        let target = self.tasks().join(&name);
        let partial = self.tasks().join(format!(".{name}.tmp"));
        remove_tree(&partial)?;
        fs::create_dir(&partial)?;
        let json = serde_json::to_vec_pretty(assignment).map_err(io::Error::other)?;
        atomic_file::create(&partial.join("task.json"), &json, Durability::Volatile)?;
        let inputs = partial.join("inputs");
        fs::create_dir(&inputs)?;
        for input in &assignment.inputs {
            let dir = inputs.join(input.task.as_str());
            fs::create_dir(&dir)?;
            let result = self.installation.result_file(&input.worker, &input.task);
            self.put(&result, &dir.join("result.json"))?;
            let artifacts = self.installation.artifacts(&input.worker, &input.task);
            self.put_tree(&artifacts, &dir.join("artifacts"))?;
        }
        atomic_file::move_to(&partial, &target, Durability::Volatile)
    }

    /// Puts one file there: as a link where the worker can't write through it, else as a copy.
    fn put(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.walls && fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        fs::copy(from, to).map(|_| ())
    }

    fn put_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(from) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        fs::create_dir(to)?;
        for entry in entries {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.put_tree(&entry.path(), &to)?;
            } else {
                self.put(&entry.path(), &to)?;
            }
        }
        Ok(())
    }

    /// Returns whether an attempt was put before the worker.
    pub fn has(&self, awaited: &Awaited) -> bool {
        fs::is_dir(&self.tasks().join(awaited.task.slot_name(awaited.attempt)))
    }

    /// Returns whether an attempt was put before the worker whole. After a power cut its file may be empty,
    /// or cut, and so may be what it was given.
    ///
    /// # Errors
    ///
    /// Any I/O error on our side: then nothing is known.
    pub fn has_whole(&self, assignment: &Assignment) -> io::Result<bool> {
        let name = assignment.task.id.slot_name(assignment.attempt);
        let file = Path::new(&name).join("task.json");
        let bytes = match Folder::open(&self.tasks())?.read(&file, MAX_ASSIGNMENT) {
            Ok(bytes) => bytes,
            Err(refusal) => return theirs(refusal).map(|_| false),
        };
        // Another version may have written the rest of it.
        let found = serde_json::from_slice::<serde_json::Value>(&bytes);
        if !found.is_ok_and(|found| found["token"] == serde_json::json!(assignment.token)) {
            return Ok(false);
        }
        mutant!(TornInputsTrusted, self.has_inputs(&self.tasks().join(&name), assignment), Ok(true))
    }

    /// Returns whether an attempt was given what it should be.
    fn has_inputs(&self, staged: &Path, assignment: &Assignment) -> io::Result<bool> {
        for input in &assignment.inputs {
            let dir = staged.join("inputs").join(input.task.as_str());
            let result = self.installation.result_file(&input.worker, &input.task);
            let artifacts = self.installation.artifacts(&input.worker, &input.task);
            if !is_same(&result, &dir.join("result.json"))?
                || !has_tree(&artifacts, &dir.join("artifacts"))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks the worker to stop an attempt.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn interrupt(&self, task: &TaskId, attempt: Attempt, reason: &str) -> io::Result<()> {
        let dir = self.tasks().join(task.slot_name(attempt));
        if !fs::is_dir(&dir) {
            return Ok(());
        }
        atomic_file::replace(&dir.join(CANCEL_FILE), reason.as_bytes(), Durability::Volatile)
    }

    /// Takes in the result of an attempt, if it is there: artifacts are copied to where the worker can't
    /// change them any more, synced, and named as they will be published. May be called again, also
    /// after a crash in the middle.
    ///
    /// A result that can't be used becomes a report that says so: the attempt is over either way.
    ///
    /// # Errors
    ///
    /// I/O errors on our side, such as a full disk; the result is still in the slot then.
    pub fn take_in(&self, awaited: &Awaited, now: Time) -> io::Result<Option<TaskResult>> {
        let unusable = |why: &dyn fmt::Display| Ok(Some(unusable(awaited, why, now)));
        let name = awaited.task.slot_name(awaited.attempt);
        let folder = Folder::open(&self.results())?;
        let file = PathBuf::from(format!("{name}.json"));
        let bytes = match folder.read(&file, strict::MAX_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(refusal) if refusal.is_missing() => return Ok(None),
            Err(refusal) => return unusable(&said(&theirs(refusal)?)),
        };
        let mut report: TaskResult = match strict::from_slice(&bytes) {
            Ok(report) => report,
            Err(fault) => return unusable(&fault),
        };
        // The scheduler would ignore it, and the attempt would wait for its deadline in vain.
        if let Some(why) = strangeness(&report, awaited) {
            return unusable(&why);
        }
        // What the supervisor knows itself it does not take from a container.
        report.rehearsal = awaited.rehearsal;
        if let Some(error) = &mut report.error {
            // Whose limit it met and when that is lifted, the gateway knows: what a container says of it
            // could hold up everybody.
            error.scope = None;
            error.retry_at = None;
        }
        if awaited.rehearsal {
            // The CLI prices the stand-in's tokens as if they were a model's.
            report.cost_usd = Some(0.0);
        }
        if report.status == Status::Complete {
            let private = self.installation.attempt(report.run, &report.task_id, awaited.attempt);
            match self.copy_artifacts(&folder, &name, &private.join("artifacts"))? {
                Ok(copied) => {
                    if let Some(missing) = report.artifacts.iter().find(|a| !copied.contains(a)) {
                        let why = format!("it names the artifact `{missing}`, which is not there");
                        return unusable(&why);
                    }
                    let target = self.installation.artifacts(&self.worker, &report.task_id);
                    let publish = |path: &String| self.installation.relative(&target.join(path));
                    report.artifacts = copied.iter().map(publish).collect();
                }
                Err(refusal) => return unusable(&said(&theirs(refusal)?)),
            }
        } else {
            report.artifacts.clear();
        }
        Ok(Some(report))
    }

    /// Copies all artifacts to where only we can write, and returns their paths; or why they are
    /// refused.
    fn copy_artifacts(
        &self,
        folder: &Folder,
        name: &str,
        to: &Path,
    ) -> io::Result<Result<Vec<String>, Refusal>> {
        // What an earlier try has copied.
        remove_tree(to)?;
        let from = match folder.folder(&Path::new(name).join("artifacts")) {
            Ok(from) => from,
            Err(refusal) if refusal.is_missing() => return Ok(Ok(Vec::new())),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let files = match from.files(ARTIFACTS) {
            Ok(files) => files,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if files.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let mut folders = std::collections::BTreeSet::from([to.to_owned()]);
        let mut paths = Vec::with_capacity(files.len());
        // Files may have grown since they were counted.
        let mut room = ARTIFACTS.bytes;
        for file in files {
            let target = to.join(&file.path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
                folders.extend(
                    parent.ancestors().take_while(|p| p.starts_with(to)).map(Path::to_owned),
                );
            }
            let (source, len) = match from.open_file(Path::new(&file.path), room) {
                Ok(opened) => opened,
                Err(refusal) => return Ok(Err(refusal)),
            };
            room -= len;
            let mut copy = fs::File::create(&target)?;
            // The file may grow while it is read; what was counted is what is taken.
            io::copy(&mut io::Read::take(source, len), &mut copy)?;
            copy.set_permissions(Permissions::from_mode(0o644))?;
            mutant!(ArtifactNotSynced, copy.sync_all()?, ());
            paths.push(file.path);
        }
        for folder in folders.iter().rev() {
            atomic_file::sync_folder(folder)?;
        }
        // Up to the run's folder, which is safe since its journal was made: what is safe in a folder is
        // lost with it.
        for folder in to.ancestors().skip(1).take(3) {
            mutant!(ArtifactFolderNotSynced, atomic_file::sync_folder(folder)?, ());
        }
        Ok(Ok(paths))
    }

    /// Clears away an attempt that is over; keeps its transcript. Ok when there is nothing.
    ///
    /// # Errors
    ///
    /// Any I/O error; it may be called again.
    pub fn clear(&self, run: RunId, task: &TaskId, attempt: Attempt) -> io::Result<()> {
        let name = task.slot_name(attempt);
        let left = self.results().join(&name);
        // First what is kept: as long as the order is there, it is known that something is left to do.
        keep_transcript(&left, &self.installation.attempt(run, task, attempt))?;
        mutant!(ClearedInWrongOrder, remove_tree(&self.results().join(format!("{name}.json")))?);
        // Then the worker's order, then its result: the other way round it would begin anew.
        remove_tree(&self.tasks().join(&name))?;
        remove_tree(&left)?;
        // Whatever the worker has put there: it need not be a file.
        remove_tree(&self.results().join(format!("{name}.json")))
    }

    /// Returns the attempts that are before the worker. Only we write there: what a worker leaves under the
    /// name of another attempt is not among them.
    ///
    /// # Errors
    ///
    /// Any I/O error, but that there is no such folder: then there are none.
    pub fn staged(&self) -> io::Result<Vec<(TaskId, Attempt)>> {
        let entries = match fs::read_dir(self.tasks()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| TaskId::from_slot_name(&name)).collect())
    }

    /// Clears away all attempts but one: what a crash, or a worker that makes things up, left. Of what is in
    /// the folder of results a bounded number is removed at a time; what has the name of the attempt that is
    /// next is always among it.
    ///
    /// # Errors
    ///
    /// Any I/O error; it may be called again.
    pub fn clear_strangers(&self, next: (&TaskId, Attempt), is_there: bool) -> io::Result<()> {
        let own = next.0.slot_name(next.1);
        let is_kept = |name: &str| is_there && name == own;
        for entry in fs::read_dir(self.tasks())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_kept(&name) {
                remove_tree(&entry.path())?;
            }
        }
        if !is_there {
            remove_tree(&self.results().join(&own))?;
            remove_tree(&self.results().join(format!("{own}.json")))?;
        }
        let (mut removed, mut first) = (0, String::new());
        for entry in fs::read_dir(self.results())?.take(MAX_NAMES) {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".json").unwrap_or(&name);
            if atomic_file::is_visible(&name) && !is_kept(stem) {
                remove_tree(&entry.path())?;
                removed += 1;
                first = if removed == 1 { name } else { first };
            }
        }
        if removed > 0 {
            // Once for all of them: a worker could fill the log.
            let replica = &self.replica;
            tracing::warn!(%replica, removed, first, "Removed what belongs to no attempt.");
        }
        Ok(())
    }
}

/// Returns whether all that is in a folder is in another one, too. What is not there has nothing in it.
fn has_tree(from: &Path, to: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let has = if entry.file_type()?.is_dir() { has_tree } else { is_same };
        if !has(&entry.path(), &to)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether two files are one, or hold the same.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::NotFound => {
            return Err(error);
        }
        _ => return Ok(false),
    };
    let is_one = (a.dev(), a.ino()) == (b.dev(), b.ino());
    if is_one || a.len() != b.len() || !b.is_file() {
        return Ok(is_one);
    }
    let (mut a, mut b) = (fs::File::open(one)?, fs::File::open(other)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let read = io::Read::read(&mut a, &mut left)?;
        if read == 0 {
            return Ok(true);
        }
        io::Read::read_exact(&mut b, &mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// Returns the slots that a worker serves, wherever it runs: it holds a lock in its folder of results, and
/// that ends with it.
#[cfg(not(feature = "simulate"))]
pub fn served(results: &Path) -> Vec<PathBuf> {
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let slots = folders(results).into_iter().flat_map(|worker| folders(&worker.join(".slots")));
    // The worker can put a pipe in its place, on which a plain opening would wait for ever.
    let is_held = |slot: &PathBuf| {
        let lock =
            Folder::open(slot).map(|slot| slot.open_file(Path::new(".worker.lock"), u64::MAX));
        let Ok(Ok((lock, _))) = lock else { return false };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    };
    slots.filter(is_held).collect()
}

/// Returns none: who serves is what the simulated engine says.
#[cfg(feature = "simulate")]
pub fn served(_results: &Path) -> Vec<PathBuf> {
    Vec::new()
}

/// Returns in what a report is not one of this attempt, if it is not.
fn strangeness(report: &TaskResult, of: &Awaited) -> Option<&'static str> {
    if report.task_id != of.task || report.run != of.run || report.worker != of.worker {
        Some("it is about another task")
    } else if mutant!(OldAttemptCounts, report.attempt != of.attempt.get(), false) {
        Some("it is about another attempt")
    } else if mutant!(TokenIgnored, report.token != Some(of.token), false) {
        Some("its token is not the attempt's")
    } else {
        None
    }
}

/// Returns the refusal of a worker's file, where it is not the system that lacks something.
///
/// # Errors
///
/// What the system lacks: another try may succeed with nothing changed by the worker.
fn theirs(refusal: Refusal) -> io::Result<Refusal> {
    match refusal {
        Refusal::Io { source, .. } if is_ours(&source) => Err(source),
        refusal => Ok(refusal),
    }
}

/// Returns why a file is refused, with what the system says.
fn said(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Io { source, .. } => format!("{refusal}: {source}"),
        refusal => refusal.to_string(),
    }
}

fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::INTR, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// Moves the transcript out of what an attempt left. A link, or anything else that is no file, is not
/// kept, nor a giant; nor is what lies behind a link that the worker has put in place of its folder.
fn keep_transcript(left: &Path, keep: &Path) -> io::Result<()> {
    const NAME: &str = "transcript.jsonl";
    #[cfg(feature = "simulate")]
    return fs::keep(left, NAME, keep);
    #[cfg(not(feature = "simulate"))]
    keep_file(left, NAME, keep)
}

#[cfg(not(feature = "simulate"))]
fn keep_file(left: &Path, name: &str, keep: &Path) -> io::Result<()> {
    let Ok(folder) = rustix::fs::open(left, FOLDER | OFlags::NOFOLLOW, Mode::empty()) else {
        return Ok(());
    };
    let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || len > MAX_TRANSCRIPT {
        tracing::warn!(folder = %left.display(), len, "A transcript is not kept.");
        return Ok(());
    }
    fs::create_dir_all(keep)?;
    let kept = keep.join(name);
    rustix::fs::renameat(&folder, name, rustix::fs::CWD, &kept)?;
    // A worker that still runs may have put something else there between the look and the move.
    match fs::symlink_metadata(&kept) {
        Ok(meta) if !meta.is_file() => remove_tree(&kept),
        _ => Ok(()),
    }
}

fn unusable(awaited: &Awaited, why: &dyn fmt::Display, now: Time) -> TaskResult {
    // It may quote a name of a megabyte.
    let mut why = why.to_string();
    why.truncate(why.floor_char_boundary(MAX_WHY));
    let error = TaskError::new(FailureKind::BadOutput, format!("the result can't be used: {why}"));
    let mut report = TaskResult::without_report(
        awaited.task.clone(),
        awaited.run,
        awaited.worker.clone(),
        Some(awaited.attempt),
        Status::Failed,
        error,
        now,
    );
    report.token = Some(awaited.token);
    report.rehearsal = awaited.rehearsal;
    report
}

/// Gives a folder, with all that is in it, to whom the worker runs as: another runtime may have run it
/// as somebody else.
///
/// A worker that still runs may put a link in place of a folder at any moment. So nothing is named by
/// more than one component, beneath a folder that is held open.
fn hand_over(path: &Path, owner: Owner) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let parent = rustix::fs::open(path.parent().unwrap_or(path), FOLDER, Mode::empty())?;
    Ok(hand_over_entry(&parent, &CString::new(name.as_bytes())?, owner, MAX_DEPTH)?)
}

fn hand_over_entry(at: &OwnedFd, name: &CStr, owner: Owner, depth: usize) -> Result<(), Errno> {
    match rustix::fs::openat(at, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(folder) if depth > 0 => {
            for inner in Dir::read_from(&folder)? {
                let inner = inner?;
                if !is_dot(inner.file_name()) {
                    hand_over_entry(&folder, inner.file_name(), owner, depth - 1)?;
                }
            }
        }
        // A file, or a link; or what nobody but a worker that means harm nests so deep.
        Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => {}
        // Gone meanwhile.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    match rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes a folder with all that is in it, following no link.
///
/// A worker can nest folders deeper than files can be open, and than a path can name. So they are moved up
/// beside each other before they are removed, and two are open at a time.
#[cfg(not(feature = "simulate"))]
fn remove_folder(path: &Path) -> io::Result<()> {
    let top = rustix::fs::open(path, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    loop {
        let before = names(&top)?;
        if before.is_empty() {
            return fs::remove_dir(path);
        }
        for name in before {
            remove_entry(&top, &name)?;
        }
    }
}

/// Removes a file, or an empty folder; of another folder takes out what is in it: files for good, folders
/// to beside it.
#[cfg(not(feature = "simulate"))]
fn remove_entry(top: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let folder = rustix::fs::openat(top, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    for inner in names(&folder)? {
        match rustix::fs::unlinkat(&folder, &inner, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                let aside = CString::new(uuid::Uuid::new_v4().to_string());
                let aside = aside.map_err(|_| Errno::INVAL)?;
                rustix::fs::renameat(&folder, &inner, top, &aside)?;
            }
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        // Something was put there meanwhile: the next round finds it.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Returns some of the names in a folder, and none only when it is empty.
#[cfg(not(feature = "simulate"))]
fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !is_dot(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == MAX_NAMES {
            break;
        }
    }
    Ok(names)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Removes a file or a folder with all that is in it, following no link. `Ok` when there is none.
fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        #[cfg(feature = "simulate")]
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        #[cfg(not(feature = "simulate"))]
        Ok(meta) if meta.is_dir() => remove_folder(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
