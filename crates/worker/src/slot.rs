//! The slot: the folder in which attempts appear, and the one for their results.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use protocol::{Attempt, CONFIG_DIR, SESSION_FILE, TaskId, atomic_file};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::signals::Signals;

/// How often the folder is read when no event says so. An event may be lost.
const RESCAN: Duration = Duration::from_secs(1);

/// How often it is read where there are no events at all.
const POLL: Duration = Duration::from_millis(100);

/// An attempt in the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The task.
    pub(crate) task: TaskId,
    /// Which attempt.
    pub(crate) attempt: Attempt,
    /// Its folder in `/tasks`.
    pub(crate) tasks: PathBuf,
    /// Its folder in `/results`.
    pub(crate) results: PathBuf,
    /// Its result file.
    pub(crate) result: PathBuf,
}

impl Place {
    /// Returns the folder for artifacts.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.results.join("artifacts")
    }

    /// Returns the agent's configuration folder.
    pub(crate) fn config(&self) -> PathBuf {
        self.results.join(CONFIG_DIR)
    }

    /// Returns the transcript of the session that an earlier attempt began, where there is one.
    pub(crate) fn earlier_session(&self) -> PathBuf {
        self.tasks.join(SESSION_FILE)
    }

    /// Returns the note of the session's id.
    pub(crate) fn session(&self) -> PathBuf {
        self.results.join("session")
    }
}

/// The two folders of a replica.
#[derive(Debug)]
pub(crate) struct Slot {
    tasks: PathBuf,
    results: PathBuf,
    /// What we have reported and the supervisor has not yet removed.
    handled: HashSet<String>,
}

impl Slot {
    pub(crate) fn new(tasks: &Path, results: &Path) -> Self {
        Self { tasks: tasks.to_owned(), results: results.to_owned(), handled: HashSet::new() }
    }

    /// Returns the attempt that has waited longest.
    ///
    /// # Errors
    ///
    /// That the folder can't be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Place>> {
        let mut names = HashSet::new();
        let mut waiting: Vec<(SystemTime, Place)> = Vec::new();
        for entry in fs::read_dir(&self.tasks)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            let Some(place) = self.place(&name) else {
                continue;
            };
            // The folder's own time changes when a `cancel` file appears, this one does not.
            let since = fs::metadata(place.tasks.join("task.json")).and_then(|m| m.modified());
            if let Ok(since) = since
                && !self.handled.contains(&name)
                && !place.result.exists()
            {
                waiting.push((since, place));
            }
            names.insert(name);
        }
        self.handled.retain(|name| names.contains(name));
        waiting.sort_by(|a, b| (a.0, &a.1.task, a.1.attempt).cmp(&(b.0, &b.1.task, b.1.attempt)));
        Ok(waiting.into_iter().next().map(|(_, place)| place))
    }

    /// Notes that an attempt was reported: it is not run again, also when the result is taken away
    /// before its folder is.
    pub(crate) fn handled(&mut self, place: &Place) {
        self.handled.insert(place.task.slot_name(place.attempt));
    }

    fn place(&self, name: &str) -> Option<Place> {
        let (task, attempt) =
            atomic_file::is_visible(name).then(|| TaskId::from_slot_name(name))??;
        Some(Place {
            task,
            attempt,
            tasks: self.tasks.join(name),
            results: self.results.join(name),
            result: self.results.join(format!("{name}.json")),
        })
    }
}

/// Wakes up when something changes in a folder.
#[derive(Debug)]
pub(crate) struct Alarm {
    inotify: Option<OwnedFd>,
}

impl Alarm {
    /// Begins to watch. What happens after that wakes up the next [`wait`](Self::wait).
    pub(crate) fn watch(folder: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).and_then(|fd| {
            let events = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE;
            inotify::add_watch(&fd, folder, events)?;
            Ok(fd)
        });
        let inotify = inotify
            .inspect_err(|error| tracing::warn!(%error, "No file events: the folder is polled."));
        Self { inotify: inotify.ok() }
    }

    /// Waits for a change, a signal, or long enough to look again without a reason.
    pub(crate) fn wait(&self, signals: &Signals) {
        let wake = signals.wake();
        let mut fds = vec![PollFd::new(&wake, PollFlags::IN)];
        if let Some(inotify) = &self.inotify {
            fds.push(PollFd::new(inotify, PollFlags::IN));
        }
        let limit = if self.inotify.is_some() { RESCAN } else { POLL };
        let limit = Timespec::try_from(limit).ok();
        // An interrupted wait is a wait that is over.
        let _ = poll(&mut fds, limit.as_ref());
        if let Some(inotify) = &self.inotify {
            // What happened does not matter, only that it is taken away.
            while rustix::io::read(inotify, &mut [0; 4096]).is_ok_and(|len| len > 0) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(dir: &Path, name: &str) {
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::File::create(dir.join(name).join("task.json")).unwrap();
    }

    #[test]
    fn slot_gives_out_what_is_whole_and_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let (tasks, results) = (dir.path().join("tasks"), dir.path().join("results"));
        fs::create_dir(&tasks).unwrap();
        fs::create_dir(&results).unwrap();
        let mut slot = Slot::new(&tasks, &results);
        for name in [".hidden.1", "x.1.tmp", "noattempt", "x.0", "x.01", "X.1"] {
            attempt(&tasks, name);
        }
        fs::create_dir(tasks.join("unfinished.1")).unwrap();
        assert_eq!(slot.next().unwrap(), None);

        attempt(&tasks, "b.2");
        attempt(&tasks, "a.1");
        fs::File::open(tasks.join("a.1/task.json"))
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(5))
            .unwrap();
        let first = slot.next().unwrap().unwrap();
        assert_eq!(first.task.slot_name(first.attempt), "b.2");
        slot.handled(&first);
        let second = slot.next().unwrap().unwrap();
        assert_eq!(second.task.as_str(), "a");
        fs::File::create(&second.result).unwrap();
        assert_eq!(slot.next().unwrap(), None);

        // The same attempt, dispatched again after its folder was away, is a new one to us.
        fs::remove_dir_all(tasks.join("b.2")).unwrap();
        assert_eq!(slot.next().unwrap(), None);
        attempt(&tasks, "b.2");
        assert_eq!(slot.next().unwrap(), Some(first));
    }
}
