//! Watching folders: an event is a hint that somebody should look.
//!
//! Folders are watched one by one, not recursively, and from before anything writes into them. An event
//! may be lost, doubled or late; whoever is told looks at the folder, and looks anyway from time to
//! time. Where no events come at all, that is all there is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::warn;

/// What is done when a folder should be looked at. The name says at what; `None` is the whole folder.
pub type Look = Arc<dyn Fn(Option<&str>) + Send + Sync>;

type Folders = Arc<Mutex<HashMap<PathBuf, Look>>>;

/// The watch on all folders of a daemon.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    folders: FoldersDebug,
    /// Why folders are only looked at from time to time.
    trouble: Option<String>,
}

/// [`Folders`], which has nothing to show.
struct FoldersDebug(Folders);

impl std::fmt::Debug for FoldersDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Folders")
    }
}

impl Watch {
    /// Starts to watch: nothing yet.
    pub fn start() -> Self {
        let folders = Folders::default();
        let told = Arc::clone(&folders);
        match notify::recommended_watcher(move |event| tell(&told, event)) {
            Ok(watcher) => {
                Self { watcher: Some(watcher), folders: FoldersDebug(folders), trouble: None }
            }
            Err(error) => Self {
                watcher: None,
                folders: FoldersDebug(folders),
                trouble: Some(explain(&error)),
            },
        }
    }

    /// Watches a folder. To watch it again, after it was made anew, is right.
    pub fn add(&mut self, folder: &Path, look: Look) {
        self.folders
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(folder.to_owned(), look);
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            warn!(folder = %folder.display(), %error, "Can't watch; looking from time to time.");
            self.trouble = Some(explain(&error));
        }
    }

    /// Returns why folders are only looked at from time to time, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

fn tell(folders: &Folders, event: notify::Result<notify::Event>) {
    let folders = folders.lock().unwrap_or_else(PoisonError::into_inner);
    let event = match event {
        // Before anything else: an overflow has no paths.
        Ok(event) if !event.need_rescan() => event,
        _ => {
            for look in folders.values() {
                look(None);
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
    if !matters {
        return;
    }
    for path in &event.paths {
        if let Some(look) = folders.get(path) {
            look(None);
        } else if let Some(look) = path.parent().and_then(|parent| folders.get(parent)) {
            match path.file_name().and_then(|name| name.to_str()) {
                Some(name) if protocol::atomic_file::is_visible(name) => look(Some(name)),
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
