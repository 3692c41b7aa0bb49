//! Task files that people drop into `tasks/<worker>/`.
//!
//! A file counts once it parses. One that does not is given time: whoever writes it may not be done. It
//! is rejected when it has not changed for [`PATIENCE`], with its reason beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use protocol::atomic_file::{self, Durability};
use protocol::disk::{self as fs, Folder, MetadataExt as _};
use protocol::untrusted::Refusal;
use protocol::{Task, TaskFile, TaskId, WorkerId, strict};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::admit::{self, Admission};
use crate::inbox::{Inbox, Message};
use crate::install::Installation;

/// How long a file that can't be taken has to stay as it is until it is rejected, and how long one has
/// to be gone until that means something: editors write in steps.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often the folder is looked at, whatever the watcher says.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often a file is looked at that is in doubt: one that is there in between has not been gone, though
/// nobody was told.
const GLANCE_EVERY: Duration = Duration::from_millis(400);

/// The most files that are taken with one question to the dispatcher: they share a write of the journal.
const BATCH: usize = 256;

/// What identifies a state of a file: its number, size and time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark(u64, u64, i64, i64);

impl Mark {
    fn of(meta: &fs::Metadata) -> Self {
        Self(meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
    }
}

/// What identifies a folder: its number, and its birth where that is known, since numbers come again.
type Identity = (u64, Option<SystemTime>);

/// A file that is not taken yet, or that is missed.
#[derive(Debug)]
struct Doubt {
    /// Its state; `None` when it is gone.
    mark: Option<Mark>,
    since: Instant,
    /// When it was looked at last.
    looked: Instant,
}

impl Doubt {
    fn due(&self) -> Instant {
        (self.since + PATIENCE).min(self.looked + GLANCE_EVERY)
    }
}

/// A file with a task in it.
#[derive(Debug)]
struct Ready {
    name: String,
    path: PathBuf,
    mark: Mark,
    task: Task,
}

/// The watch on one worker's folder.
#[derive(Debug)]
pub struct Drops {
    installation: Installation,
    worker: WorkerId,
    inbox: Inbox,
    hints: mpsc::UnboundedSender<Option<String>>,
    /// The folder that is watched: one that was removed and made again is another.
    watched: Option<Identity>,
    /// Files that were taken, as they were then.
    taken: BTreeMap<String, Mark>,
    doubts: BTreeMap<String, Doubt>,
}

impl Drops {
    /// Makes the folder, watches it, and starts to take what is dropped there.
    ///
    /// # Errors
    ///
    /// Any I/O error in making the folder.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(installation: Installation, worker: WorkerId, inbox: Inbox) -> io::Result<()> {
        fs::create_dir_all(installation.rejected(&worker))?;
        let (hints, heard) = mpsc::unbounded_channel();
        let mut drops = Self {
            installation,
            worker,
            inbox,
            hints,
            watched: None,
            taken: BTreeMap::new(),
            doubts: BTreeMap::new(),
        };
        // Nobody waits for it: on a full disk the loop answers when there is room, and until then the daemon
        // has to say so.
        tokio::spawn(async move {
            // First the watch, then the scan: nothing falls between them.
            drops.watch().await;
            drops.run(heard).await;
        });
        Ok(())
    }

    /// Watches the folder, unless it is the one that is watched already.
    async fn watch(&mut self) {
        let folder = self.installation.tasks(&self.worker);
        let found = fs::metadata(&folder).ok().map(|meta| (meta.ino(), meta.created().ok()));
        if found.is_none() || found == self.watched {
            return;
        }
        self.watched = found;
        let hints = self.hints.clone();
        let look = Arc::new(move |name: Option<&str>| {
            let _ = hints.send(name.map(str::to_owned));
        });
        self.inbox.ask(move |dispatcher| dispatcher.watch(&folder, look)).await;
    }

    async fn run(mut self, mut hints: mpsc::UnboundedReceiver<Option<String>>) {
        let mut next_look = Instant::now();
        let mut heard = Vec::new();
        loop {
            let doubt = self.doubts.values().map(Doubt::due).min();
            tokio::select! {
                // A look at everything makes up for whatever hints hold up.
                biased;
                () = self.inbox.closed() => return,
                () = sleep_until(next_look) => {
                    self.look().await;
                    next_look = Instant::now() + LOOK_EVERY;
                }
                number = hints.recv_many(&mut heard, BATCH) => {
                    if number == 0 {
                        return;
                    }
                    if heard.contains(&None) {
                        next_look = Instant::now();
                    }
                    // Several events tell of one file.
                    let names: BTreeSet<_> = heard.drain(..).flatten().collect();
                    self.look_at_all(names).await;
                }
                () = until(doubt) => self.look_at_doubts().await,
            }
        }
    }

    /// Looks at everything: what is there, and what was there.
    async fn look(&mut self) {
        let folder = self.installation.tasks(&self.worker);
        self.watch().await;
        let names = match fs::read_dir(&folder) {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| atomic_file::is_visible(name))
                .collect::<BTreeSet<_>>(),
            Err(error) => {
                let text = format!("`{}` can't be read: {error}", folder.display());
                self.inbox.notice(&folder.display(), Some(text));
                // A folder that somebody removed is made again, and watched again; not so an installation.
                if fs::is_dir(self.installation.root())
                    && fs::create_dir_all(self.installation.rejected(&self.worker)).is_ok()
                {
                    self.inbox.notice(&folder.display(), None);
                    self.watched = None;
                    self.watch().await;
                }
                return;
            }
        };
        let missed: Vec<_> =
            self.taken.keys().filter(|name| !names.contains(*name)).cloned().collect();
        self.look_at_all(names.into_iter().chain(missed)).await;
    }

    async fn look_at_doubts(&mut self) {
        let now = Instant::now();
        let due = self.doubts.iter().filter(|(_, doubt)| doubt.due() <= now);
        let due: Vec<_> = due.map(|(name, _)| name.clone()).collect();
        self.look_at_all(due).await;
    }

    async fn look_at_all(&mut self, names: impl IntoIterator<Item = String>) {
        let mut ready = Vec::new();
        for name in names {
            ready.extend(self.look_at(&name).await);
            if ready.len() == BATCH {
                self.take(std::mem::take(&mut ready)).await;
            }
        }
        if !ready.is_empty() {
            self.take(ready).await;
        }
    }

    /// Looks at a file, and returns it if it can be taken.
    async fn look_at(&mut self, name: &str) -> Option<Ready> {
        if name == "rejected" {
            return None;
        }
        let path = self.installation.tasks(&self.worker).join(name);
        let mark = match fs::symlink_metadata(&path) {
            Ok(meta) => Some(Mark::of(&meta)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "Can't look at a dropped file.");
                return None;
            }
        };
        match mark {
            Some(mark) if self.taken.get(name) == Some(&mark) => {
                self.doubts.remove(name);
            }
            Some(mark) => return self.read(name, path, mark).await,
            None if self.taken.contains_key(name) => {
                if self.has_stayed(name, None) {
                    self.doubts.remove(name);
                    self.taken.remove(name);
                    if let Some(task) = name.strip_suffix(".json").and_then(|s| s.parse().ok()) {
                        let worker = self.worker.clone();
                        self.inbox.send(Message::TaskFileGone { worker, task });
                    }
                }
            }
            None => {
                self.doubts.remove(name);
            }
        }
        None
    }

    /// Returns whether a file has been as it is for long enough.
    fn has_stayed(&mut self, name: &str, mark: Option<Mark>) -> bool {
        let now = Instant::now();
        let new = Doubt { mark, since: now, looked: now };
        let doubt = self.doubts.entry(name.to_owned()).or_insert(new);
        if doubt.mark != mark {
            *doubt = Doubt { mark, since: now, looked: now };
        }
        doubt.looked = now;
        doubt.since + PATIENCE <= now
    }

    /// Reads a file; rejects it when it is wrong and has stayed so.
    async fn read(&mut self, name: &str, path: PathBuf, mark: Mark) -> Option<Ready> {
        match read(&path, name, &self.worker) {
            Ok(task) => {
                self.doubts.remove(name);
                return Some(Ready { name: name.to_owned(), path, mark, task });
            }
            Err(Problem::Io(error)) => {
                if self.has_stayed(name, Some(mark)) {
                    // Not the file's fault, so it stays; a person has to look.
                    let text = format!("`{}` can't be read: {error}", path.display());
                    warn!(path = %path.display(), %error, "Can't read a dropped file.");
                    self.inbox.notice(&path.display(), Some(text));
                    self.doubts.remove(name);
                    self.taken.insert(name.to_owned(), mark);
                }
            }
            Err(Problem::Bad(why)) => {
                if self.has_stayed(name, Some(mark)) {
                    self.reject(name, &path, &why).await;
                }
            }
        }
        None
    }

    /// Has the dispatcher take tasks, and does with their files what it says.
    async fn take(&mut self, ready: Vec<Ready>) {
        let tasks: Vec<_> = ready.iter().map(|ready| ready.task.clone()).collect();
        let admissions = self.inbox.ask(move |d| {
            let admit = |task| admit::task(d, task, protocol::TaskSource::Drop);
            tasks.into_iter().map(admit).collect::<Vec<_>>()
        });
        // `None` when the daemon ends.
        for (ready, admission) in ready.into_iter().zip(admissions.await.unwrap_or_default()) {
            self.taken(ready, admission).await;
        }
    }

    async fn taken(&mut self, ready: Ready, admission: Admission) {
        let Ready { name, path, mark, task } = ready;
        match admission {
            Admission::Added => {
                info!(task = %task.id, "Took a dropped task.");
                self.forget_reason(&name);
                self.taken.insert(name, mark);
            }
            Admission::Existed { ended: false } => {
                self.taken.insert(name, mark);
            }
            Admission::Existed { ended: true } => {
                info!(task = %task.id, "A dropped task has been done before; its result is there.");
                if let Err(error) = atomic_file::remove(&path) {
                    warn!(path = %path.display(), %error, "Can't remove a dropped file.");
                }
            }
            Admission::Refused(failure) => {
                let mut why = vec![failure.to_string()];
                why.extend(failure.causes());
                let why = Why {
                    message: why.join(": "),
                    place: serde_json::Map::new(),
                    hint: failure.cure().unwrap_or("Mend it and drop it again.").to_owned(),
                };
                self.reject(&name, &path, &why).await;
            }
        }
    }

    /// Removes the reason why a file was rejected that has been mended and moved back.
    fn forget_reason(&self, name: &str) {
        let folder = self.installation.rejected(&self.worker);
        let note = folder.join(format!("{name}.why.json"));
        if !fs::exists(&folder.join(name))
            && let Err(error) = atomic_file::remove(&note)
        {
            warn!(file = %note.display(), %error, "Can't remove the reason of a rejected drop.");
        }
    }

    /// Moves a file to `rejected/` and says why.
    async fn reject(&mut self, name: &str, path: &Path, why: &Why) {
        self.doubts.remove(name);
        self.taken.remove(name);
        let folder = self.installation.rejected(&self.worker);
        let moved = fs::create_dir_all(&folder).and_then(|()| {
            let kept = free_name(&folder, name);
            let mut text = json!({
                "file": format!("tasks/{}/{name}", self.worker),
                "message": why.message,
            });
            if let Some(object) = text.as_object_mut() {
                object.extend(why.place.clone());
                object.insert("hint".to_owned(), why.hint.clone().into());
                object.insert("rejected_at".to_owned(), crate::clock::wall().to_string().into());
            }
            let mut text = serde_json::to_vec_pretty(&text)?;
            text.push(b'\n');
            let note = folder.join(format!("{kept}.why.json"));
            // The reason first: where there is no room for it, the file stays and is tried again.
            atomic_file::replace(&note, &text, Durability::Synced)?;
            atomic_file::move_to(path, &folder.join(&kept), Durability::Synced)
        });
        match moved {
            Ok(()) => warn!(file = %path.display(), why = why.message, "Rejected a dropped file."),
            Err(error) => warn!(file = %path.display(), %error, "Can't reject a dropped file."),
        }
        // An edited file of a task that is under way: what was accepted comes back.
        if let Some(id) = name.strip_suffix(".json").and_then(|stem| stem.parse().ok()) {
            self.inbox.ask(move |d| admit::show_again(d, &id)).await;
        }
    }
}

/// Why a file is no task.
#[derive(Debug)]
struct Why {
    message: String,
    /// `line`, `column` and `field`, as far as they are known.
    place: serde_json::Map<String, serde_json::Value>,
    hint: String,
}

#[derive(Debug)]
enum Problem {
    /// The system does not let us read it.
    Io(io::Error),
    /// It is wrong.
    Bad(Why),
}

fn bad(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    let place = serde_json::Map::new();
    Problem::Bad(Why { message: message.into(), place, hint: hint.into() })
}

fn read(path: &Path, name: &str, worker: &WorkerId) -> Result<Task, Problem> {
    let Some(stem) = name.strip_suffix(".json") else {
        return Err(bad("the name does not end in `.json`", "Rename it to `<task_id>.json`."));
    };
    let stem: TaskId = stem.parse().map_err(|error: protocol::InvalidId| {
        bad(format!("the file's name is no task id: {error}"), "Rename the file.")
    })?;
    let folder = Folder::open(path.parent().unwrap_or(path)).map_err(Problem::Io)?;
    let bytes = folder.read(Path::new(name), strict::MAX_BYTES as u64).map_err(|r| match r {
        Refusal::Io { source, .. } => Problem::Io(source),
        refusal => bad(refusal.to_string(), "Drop a plain file of at most 1 MiB."),
    })?;
    let file: TaskFile = strict::from_slice(&bytes).map_err(|fault| {
        let place = match &fault {
            strict::ParseFault::Truncated { line } => json!({ "line": line }),
            strict::ParseFault::Syntax { line, column, .. } => {
                json!({ "line": line, "column": column })
            }
            strict::ParseFault::Shape { line, column, field, .. } => {
                json!({ "line": line, "column": column, "field": field })
            }
            _ => json!({}),
        };
        let place = place.as_object().cloned().unwrap_or_default();
        Problem::Bad(Why { message: fault.to_string(), place, hint: fault.hint() })
    })?;
    if file.task_id != stem {
        let message = format!("`task_id` is {:?}, but the file is named `{name}`", file.task_id);
        return Err(bad(message, "Make them the same."));
    }
    file.into_task(Some(worker)).map_err(|invalid| bad(invalid.to_string(), invalid.hint()))
}

/// Returns a name that no file in `folder` has: the given one, or with a number before its ending.
fn free_name(folder: &Path, name: &str) -> String {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, "json"));
    let numbered = (2..).map(|n| format!("{stem}.{n}.{ending}"));
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| fs::symlink_metadata(folder.join(name)).is_err())
        .unwrap_or_else(|| name.to_owned())
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
