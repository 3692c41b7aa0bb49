//! A replica's slot: the pair of folders through which attempts go in and results come out.

#[cfg(not(feature = "simulate"))]
use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use gateway::Caller;
use protocol::atomic_file::{self, Durability};
use protocol::disk::{self as fs, Folder, MetadataExt as _};
use protocol::{
    Assignment, Attempt, CANCEL_FILE, Priority, ReplicaId, ReportOf, ReportSecret, RunId,
    SELF_TEST_FILE, SESSION_FILE, SessionId, TaskId, Token, Verify, WorkerId, mutant,
};
#[cfg(not(feature = "simulate"))]
use rustix::fs::FileType;
#[cfg(not(feature = "simulate"))]
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::install::Installation;
use crate::runtime::{CheckSpec, Owner, ReplicaSpec};
use intake::theirs;
use tree::{MAX_NAMES, hand_over, has_tree, is_same};
pub(crate) use tree::{remove_tree, size};

mod intake;
mod session;
mod tree;
pub(crate) mod verify;

/// The largest transcript that is kept. A worker of ours ends its own at 256 MiB.
#[cfg(not(feature = "simulate"))]
const MAX_TRANSCRIPT: u64 = 512 << 20;

/// Held by the worker that serves a slot.
const WORKER_LOCK: &str = ".worker.lock";

/// The largest assignment: what a worker reads.
const MAX_ASSIGNMENT: u64 = 16 << 20;

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
    /// The Claude session.
    pub session: SessionId,
    /// What must hold before the result counts.
    pub verify: Option<Verify>,
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
            session: assignment.session.id,
            verify: task.verify.clone(),
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

    /// Returns what its report is about.
    pub fn report_of(&self) -> ReportOf<'_> {
        let Self { run, task, attempt, token, .. } = self;
        ReportOf { run: *run, task, attempt: *attempt, token: *token }
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
    /// What the worker proves its reports with.
    secret: ReportSecret,
}

impl Slot {
    /// Returns the slot of a replica.
    pub fn new(
        installation: Installation,
        worker: WorkerId,
        replica: ReplicaId,
        owner: Option<Owner>,
        walls: bool,
        secret: ReportSecret,
    ) -> Self {
        Self { installation, worker, replica, owner, walls, secret }
    }

    /// The folder that is `/tasks` in the container.
    pub fn tasks(&self) -> PathBuf {
        self.installation.task_slot(&self.worker, &self.replica)
    }

    /// The folder that is `/results` in the container.
    pub fn results(&self) -> PathBuf {
        self.installation.result_slot(&self.worker, &self.replica)
    }

    /// Makes the folders, so that they can be watched before anything writes into them, and gives the
    /// worker its own `login`, if it has one. Looks at everything in them, so it is for the start of a
    /// replica.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    pub fn make(&self, login: Option<&Path>) -> io::Result<()> {
        fs::create_dir_all(self.tasks())?;
        self.give(&self.tasks())?;
        for folder in [Some(self.results().as_path()), login].into_iter().flatten() {
            fs::create_dir_all(folder)?;
            if let Some(owner) = self.owner {
                hand_over(folder, owner)?;
            }
        }
        // Artifacts will be moved into the worker's folder of results: it must not be lost with them.
        atomic_file::sync_folder(&self.installation.results())
    }

    /// Removes the folders, with `scratch`, where the process runtime keeps an agent's `/tmp`. Nothing may run
    /// that has them.
    ///
    /// # Errors
    ///
    /// Any I/O error; it may be called again.
    pub fn remove(&self, scratch: &Path) -> io::Result<()> {
        [&self.tasks(), &self.results(), scratch].into_iter().try_for_each(remove_tree)
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
        self.make_folder(&partial)?;
        let json = serde_json::to_vec_pretty(assignment).map_err(io::Error::other)?;
        let order = partial.join("task.json");
        atomic_file::create(&order, &json, Durability::Volatile)?;
        self.give(&order)?;
        let inputs = partial.join("inputs");
        self.make_folder(&inputs)?;
        for input in &assignment.inputs {
            let dir = inputs.join(input.task.as_str());
            self.make_folder(&dir)?;
            let result = self.installation.result_file(&input.worker, &input.task);
            self.put(&result, &dir.join("result.json"))?;
            let artifacts = self.installation.artifacts(&input.worker, &input.task);
            self.put_tree(&artifacts, &dir.join("artifacts"))?;
        }
        if assignment.session.resume {
            self.put_session(assignment, &partial.join(SESSION_FILE))?;
        }
        atomic_file::move_to(&partial, &target, Durability::Volatile)
    }

    /// Puts one file there: as a link where the worker can read it and can't write through it, else as a copy.
    fn put(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.walls && self.may_read(from)? && fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        fs::copy(from, to)?;
        self.give(to)
    }

    /// Returns whether the worker may read a file of ours as it is: the user's umask decides about other users.
    fn may_read(&self, file: &Path) -> io::Result<bool> {
        Ok(self.owner.is_none() || fs::symlink_metadata(file)?.mode() & 0o004 != 0)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        self.give(path)
    }

    /// Gives what we have made for the worker to whom it runs as, since the umask may keep others from reading it.
    fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some(owner) => std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        }
    }

    fn put_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(from) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.make_folder(to)?;
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

    /// Returns how an attempt's work is checked that was taken in from this slot.
    pub fn check(&self, replica: &ReplicaSpec, of: &Awaited) -> CheckSpec {
        let artifacts = self.installation.attempt(of.run, &of.task, of.attempt).join("artifacts");
        CheckSpec {
            replica: replica.clone(),
            task: self.tasks().join(of.task.slot_name(of.attempt)),
            artifacts: fs::is_dir(&artifacts).then_some(artifacts),
        }
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
        let file = dir.join(CANCEL_FILE);
        atomic_file::replace(&file, reason.as_bytes(), Durability::Volatile)?;
        self.give(&file)
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
            // A worker that is at work has files of its own there that have no name yet; one that is not has two.
            let is_own = match is_there {
                true => !atomic_file::is_visible(&name),
                false => [WORKER_LOCK, SELF_TEST_FILE].contains(&name.as_str()),
            };
            if !is_own && !is_kept(stem) {
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
        let lock = Folder::open(slot).map(|slot| slot.open_file(Path::new(WORKER_LOCK), u64::MAX));
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

/// Moves the transcript out of what an attempt left. A link, or anything else that is no file, is not
/// kept, nor a giant; nor is what lies behind a link that the worker has put in place of its folder.
fn keep_transcript(left: &Path, keep: &Path) -> io::Result<()> {
    const NAME: &str = "transcript.jsonl";
    #[cfg(feature = "simulate")]
    return fs::keep(left, NAME, keep);
    #[cfg(not(feature = "simulate"))]
    keep_file(left, NAME, keep)
}

/// Returns the bits that the user wants no file to have. To ask the kernel by a call is to change them.
#[cfg(not(feature = "simulate"))]
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o077)
}

#[cfg(not(feature = "simulate"))]
fn keep_file(left: &Path, name: &str, keep: &Path) -> io::Result<()> {
    let Ok(folder) = rustix::fs::open(left, tree::FOLDER | OFlags::NOFOLLOW, Mode::empty()) else {
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
    // It came with the modes of the worker's umask, and from now on it is the user's.
    let how = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(&kept, how, Mode::empty())
        // With another name it may be anything of the user's, where there are no walls.
        && rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_nlink == 1)
    {
        let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666 & !umask()));
    }
    match fs::symlink_metadata(&kept) {
        // A worker that still runs may have put something else there between the look and the move.
        Ok(meta) if !meta.is_file() => remove_tree(&kept),
        // By its other name a later agent could change what this one is known by.
        Ok(meta) if std::os::unix::fs::MetadataExt::nlink(&meta) > 1 => {
            let copy = keep.join(format!(".{name}.tmp"));
            fs::copy(&kept, &copy)?;
            atomic_file::move_to(&copy, &kept, Durability::Volatile)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
