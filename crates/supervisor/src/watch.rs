//! Watching folders: an event is a hint that somebody should look.
//!
//! Folders are watched one by one, not recursively, and from before anything writes into them. An event
//! may be lost, doubled or late; whoever is told looks at the folder, and looks anyway from time to
//! time. Where no events come at all, that is all there is: a probe, a file that is made and removed in
//! each folder, tells.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, warn};

/// What is done when a folder should be looked at. The name says at what; `None` is the whole folder.
///
/// It is called for every event, from the watcher's own thread: it must not wait, and a worker that makes a
/// million files calls it a million times.
pub type Look = Arc<dyn Fn(Option<&str>) + Send + Sync>;

/// The probe: no reader looks at a name like that.
const PROBE: &str = ".watch-probe.tmp";

/// How long a probe may stay unheard of until its folder counts as one without events. They take
/// microseconds; under load, seconds.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// A folder, and what is known of its events.
struct Watched {
    look: Look,
    hearing: Hearing,
}

enum Hearing {
    /// Events come.
    Heard,
    /// The folder has been probed.
    Probed(Instant),
    /// It can't be watched, for this reason.
    Deaf(String),
}

type Folders = Arc<Mutex<BTreeMap<PathBuf, Watched>>>;

/// The watch on all folders of a daemon.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    folders: Folders,
    patience: Duration,
    #[cfg(test)]
    is_refused: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("watcher", &self.watcher).finish_non_exhaustive()
    }
}

impl Watch {
    /// Starts to watch: nothing yet.
    pub fn start() -> Self {
        Self {
            watcher: None,
            folders: Folders::default(),
            patience: PROBE_PATIENCE,
            #[cfg(test)]
            is_refused: false,
        }
    }

    /// Returns a watch that the system refuses.
    #[cfg(test)]
    pub(crate) fn deaf() -> Self {
        Self { is_refused: true, ..Self::start() }
    }

    /// Watches a folder. To watch it again, after it was made anew, is right.
    pub fn add(&mut self, folder: &Path, look: Look) {
        let watched = Watched { look, hearing: Hearing::Probed(Instant::now()) };
        lock(&self.folders).insert(folder.to_owned(), watched);
        if let Err(error) = self.listen(folder) {
            warn!(folder = %folder.display(), %error, "Can't watch; looking from time to time.");
            if let Some(watched) = lock(&self.folders).get_mut(folder) {
                watched.hearing = Hearing::Deaf(explain(&error));
            }
            return;
        }
        if let Err(error) = probe(folder) {
            // What can't be probed may be heard of all the same.
            debug!(folder = %folder.display(), %error, "Can't probe.");
            if let Some(watched) = lock(&self.folders).get_mut(folder) {
                watched.hearing = Hearing::Heard;
            }
        }
    }

    /// Has the system tell of events in a folder.
    fn listen(&mut self, folder: &Path) -> notify::Result<()> {
        #[cfg(test)]
        if self.is_refused {
            return Err(notify::Error::io(rustix::io::Errno::MFILE.into()));
        }
        #[cfg(feature = "simulate")]
        if protocol::disk::simulated::is_there() {
            protocol::disk::simulated::with(|disk| disk.watch(folder));
            return Ok(());
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            // Each time anew: somebody may have raised the limit.
            None => {
                let told = Arc::clone(&self.folders);
                let watcher = notify::recommended_watcher(move |event| tell(&told, event))?;
                self.watcher.insert(watcher)
            }
        };
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }

    /// Returns why folders are only looked at from time to time, if that is so.
    pub fn trouble(&self) -> Option<String> {
        let folders = lock(&self.folders);
        let mut silent = Vec::new();
        for (folder, watched) in folders.iter() {
            match &watched.hearing {
                Hearing::Deaf(why) => return Some(why.clone()),
                Hearing::Probed(since) if since.elapsed() > self.patience => silent.push(folder),
                Hearing::Probed(_) | Hearing::Heard => {}
            }
        }
        let first = silent.iter().min()?;
        let more = match silent.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "`{}`{more} is looked at every few seconds, since its file system tells of no changes, as \
             network and virtual ones do. Nothing needs to be done; on a local disk it is faster.",
            first.display()
        ))
    }
}

fn lock(folders: &Folders) -> MutexGuard<'_, BTreeMap<PathBuf, Watched>> {
    folders.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a file in a folder, and removes it. Where the worker has put something in its place, that is an
/// error, and nothing more.
#[cfg(not(feature = "simulate"))]
fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(PROBE);
    // An earlier one, from before a crash.
    let _ = std::fs::remove_file(&path);
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)
}

/// A simulated folder tells of its events, and has no probe.
#[cfg(feature = "simulate")]
fn probe(folder: &Path) -> io::Result<()> {
    Err(io::Error::other(format!("{} has no {PROBE}", folder.display())))
}

/// A watch that the simulation plays.
#[cfg(feature = "simulate")]
impl Watch {
    /// Returns what tells the watch of an event.
    pub(crate) fn teller(&self) -> impl Fn(notify::Result<notify::Event>) + use<> {
        let folders = Arc::clone(&self.folders);
        move |event| tell(&folders, event)
    }
}

fn tell(folders: &Folders, event: notify::Result<notify::Event>) {
    let mut folders = lock(folders);
    let event = match event {
        // Before anything else: an overflow has no paths.
        Ok(event) if !event.need_rescan() => event,
        _ => {
            for watched in folders.values_mut() {
                // The probe's event may be among those that are lost.
                if matches!(watched.hearing, Hearing::Probed(_)) {
                    watched.hearing = Hearing::Heard;
                }
                protocol::mutant!(OverflowDropped, (watched.look)(None), ());
            }
            return;
        }
    };
    let matters = match event.kind {
        // Of a rename the name that is left behind matters only where a file is missed; of a write,
        // its end would be enough, but not every system tells it.
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
        EventKind::Modify(ModifyKind::Name(mode)) => mode != RenameMode::Both,
        EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Modify(_) => true,
        EventKind::Access(kind) => {
            matches!(kind, notify::event::AccessKind::Close(notify::event::AccessMode::Write))
        }
    };
    for path in &event.paths {
        if let Some(watched) = folders.get(path) {
            if matters {
                (watched.look)(None);
            }
        } else if let Some(watched) = path.parent().and_then(|parent| folders.get_mut(parent)) {
            if matches!(watched.hearing, Hearing::Probed(_)) {
                watched.hearing = Hearing::Heard;
            }
            match path.file_name().and_then(|name| name.to_str()) {
                Some(name) if matters && protocol::atomic_file::is_visible(name) => {
                    (watched.look)(Some(name));
                }
                _ => {}
            }
        }
    }
}

fn explain(error: &notify::Error) -> String {
    let limit = match &error.kind {
        notify::ErrorKind::MaxFilesWatch => Some("fs.inotify.max_user_watches"),
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(24) => {
            Some("fs.inotify.max_user_instances")
        }
        _ => None,
    };
    match limit {
        Some(name) => format!(
            "folders are looked at every few seconds, since no more can be watched: raise `{name}` \
             with sysctl"
        ),
        None => format!("folders are looked at every few seconds, since watching fails: {error}"),
    }
}

#[cfg(test)]
mod tests;
