//! The transcript of an attempt's session: kept when the attempt is over, handed to the task's next attempt.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::atomic_file::{self, Durability};
use protocol::disk::{self as fs, Folder};
use protocol::{Assignment, CONFIG_DIR, session};

use super::intake::theirs;
use super::tree::hand_over;
use super::{Awaited, Slot};

impl Slot {
    /// Keeps the transcript of an attempt's session, if there is one, where no worker can change it. What is
    /// no transcript is not kept; one that was kept before stays then.
    ///
    /// # Errors
    ///
    /// I/O errors on our side, such as a full disk; it may be called again.
    pub fn keep_session(&self, awaited: &Awaited) -> io::Result<()> {
        let config = Path::new(&awaited.task.slot_name(awaited.attempt)).join(CONFIG_DIR);
        let config = match Folder::open(&self.results())?.folder(&config) {
            Ok(config) => config,
            Err(refusal) => return theirs(refusal).map(drop),
        };
        let Some(left) = session::find(&config, awaited.session) else { return Ok(()) };
        let folder = self.installation.sessions(awaited.run);
        fs::create_dir_all(&folder)?;
        let kept = folder.join(session::file_name(awaited.session));
        let is_one = atomic_file::replace_with(&kept, Durability::Synced, |to| {
            session::copy(left, to, awaited.session)
        })?;
        if !is_one {
            let (task, attempt) = (&awaited.task, awaited.attempt);
            tracing::warn!(%task, %attempt, "What should be the session's transcript is none.");
        }
        Ok(())
    }

    /// Puts the transcript of an assignment's session there, if one was kept.
    pub(super) fn put_session(&self, assignment: &Assignment, to: &Path) -> io::Result<()> {
        let folder = self.installation.sessions(assignment.task.run);
        match fs::copy(folder.join(session::file_name(assignment.session.id)), to) {
            // It has all that was said: it is for the worker alone.
            Ok(_) => fs::set_permissions(to, Permissions::from_mode(0o600))?,
            // The worker begins the session anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.owner {
            Some(owner) => hand_over(to, owner),
            None => Ok(()),
        }
    }
}
