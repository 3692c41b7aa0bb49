//! The agent's configuration folder: an attempt's own, made anew at each start of the attempt.
//!
//! Whatever an agent leaves there (settings, hooks, memory, snapshots of its shell) is read by no other
//! attempt, nor by this one when it is started again. Only the transcript of the session goes on.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::atomic_file::{self, Durability};
use protocol::untrusted::Folder;
use protocol::{CONFIG_DIR, SessionId, session};

use crate::scratch;
use crate::slot::Place;

/// The folder while it is made.
const NEW: &str = ".config.new";

/// The login that the CLI reads in its configuration folder.
const LOGIN: &str = ".credentials.json";

/// Makes the folder, with the session's transcript where there is one: this attempt's own from before it
/// was interrupted, else the one that it was given. `cwd` is where the agent will be started.
///
/// # Errors
///
/// Any I/O error of writing.
pub(crate) fn make(
    place: &Place,
    id: SessionId,
    login: Option<&Path>,
    cwd: &Path,
) -> io::Result<()> {
    // Opened before anything is removed: it can be read as long as it is open.
    let own = |name: &str| {
        let results = Folder::open(&place.results).ok()?;
        session::find(&results.folder(Path::new(name)).ok()?, id)
    };
    let transcripts = [own(CONFIG_DIR), own(NEW), File::open(place.earlier_session()).ok()];
    let new = place.results.join(NEW);
    scratch::remove(&new)?;
    let target = new.join(session::place(cwd, id));
    fs::create_dir_all(target.parent().unwrap_or(&new))?;
    for transcript in transcripts.into_iter().flatten() {
        let mut file = File::create(&target)?;
        if session::copy(transcript, &mut file, id)? {
            break;
        }
        tracing::warn!(session = %id, "What should be the session's transcript is none.");
        fs::remove_file(&target)?;
    }
    if let Some(login) = login {
        match fs::copy(login.join(LOGIN), new.join(LOGIN)) {
            Ok(_) => fs::set_permissions(new.join(LOGIN), Permissions::from_mode(0o600))?,
            // The CLI says by itself that nobody is signed in.
            Err(error) => tracing::warn!(%error, "The worker's own login can't be read."),
        }
    }
    let config = place.config();
    scratch::remove(&config)?;
    atomic_file::move_to(&new, &config, Durability::Volatile)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(dir: &Path) -> Place {
        for name in ["tasks", "results"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        Place {
            task: "t".parse().unwrap(),
            attempt: protocol::Attempt::FIRST,
            tasks: dir.join("tasks"),
            results: dir.join("results"),
            result: dir.join("results.json"),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Returns what is in a folder: paths of files.
    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path().strip_prefix(folder).unwrap().to_owned();
                    found.push(path.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn of_what_an_agent_left_only_its_session_is_in_the_folder_of_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (place, id, cwd) = (place(dir.path()), SessionId::from_random(1, 2), Path::new("/w"));
        make(&place, id, None, cwd).unwrap();
        assert_eq!(files(&place.config()), [""; 0]);

        write(&place.earlier_session(), "{\"n\":1}\n");
        make(&place, id, None, cwd).unwrap();
        let transcript = format!("projects/-w/{id}.jsonl");
        assert_eq!(files(&place.config()), [&*transcript]);

        // What was said since then counts, and nothing else that is there.
        write(&place.config().join(&transcript), "{\"n\":1}\n{\"n\":2}\n{\"torn");
        for name in [".claude.json", "settings.json", "projects/-w/memory/MEMORY.md"] {
            write(&place.config().join(name), "{\"env\":{\"PATH\":\"/evil\"}}");
        }
        make(&place, id, None, cwd).unwrap();
        assert_eq!(files(&place.config()), [&*transcript]);
        let text = fs::read_to_string(place.config().join(&transcript)).unwrap();
        assert_eq!(text, "{\"n\":1}\n{\"n\":2}\n");

        // One that is none is not taken: what the attempt was given is.
        write(&place.config().join(&transcript), "{\"sessionId\":\"another\"}\n");
        make(&place, id, None, cwd).unwrap();
        let text = fs::read_to_string(place.config().join(&transcript)).unwrap();
        assert_eq!(text, "{\"n\":1}\n");
    }

    #[test]
    fn nothing_behind_a_link_in_the_place_of_the_folder_is_read_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (place, id, cwd) = (place(dir.path()), SessionId::from_random(1, 2), Path::new("/w"));
        let outside = dir.path().join("outside");
        let theirs = outside.join(format!("projects/-w/{id}.jsonl"));
        write(&theirs, "{}\n");
        for name in [CONFIG_DIR, NEW] {
            symlink(&outside, place.results.join(name)).unwrap();
        }
        make(&place, id, None, cwd).unwrap();
        assert_eq!(files(&place.config()), [""; 0]);
        assert!(theirs.exists() && !place.config().is_symlink());
    }

    #[test]
    fn of_the_workers_own_login_only_its_credentials_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (place, id) = (place(dir.path()), SessionId::from_random(1, 2));
        let login = dir.path().join("login");
        for name in [LOGIN, "settings.json", "projects/-w/memory/MEMORY.md"] {
            write(&login.join(name), "{}");
        }
        make(&place, id, Some(&login), Path::new("/w")).unwrap();
        assert_eq!(files(&place.config()), [LOGIN]);
        let mode = fs::metadata(place.config().join(LOGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
