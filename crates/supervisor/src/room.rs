//! Whether there is room on the disk: who can't write waits, and a person should know for what.

use std::time::Duration;

use rustix::fs::statvfs;
use tokio::time::sleep;
use tracing::warn;

use crate::inbox::Inbox;
use crate::install::Installation;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// With less than this somebody will soon have none: it is what a few attempts leave behind in transcripts
/// and sessions.
const LITTLE: u64 = 16 << 20;

/// Says in `status`, as long as it is so, that there is hardly any room where this installation is. It ends
/// with the dispatcher.
pub(crate) fn watch(installation: Installation, inbox: Inbox) {
    tokio::spawn(async move {
        let mut said = None;
        loop {
            let place = installation.clone();
            // A file system may be one that does not answer.
            let look = tokio::task::spawn_blocking(move || notice(&place));
            let notice = look.await.unwrap_or_default();
            if notice != said {
                if let (None, Some(text)) = (&said, &notice) {
                    warn!("{text}.");
                }
                said.clone_from(&notice);
                inbox.notice(&"room", notice);
            }
            tokio::select! {
                () = inbox.closed() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    });
}

fn notice(installation: &Installation) -> Option<String> {
    // Each may be a file system of its own.
    let folders = [installation.state(), installation.results()];
    let (folder, left) = folders.into_iter().find_map(|folder| {
        // What can't be looked at is found out by who writes there.
        let stat = statvfs(&folder).ok()?;
        let left = stat.f_bavail.saturating_mul(stat.f_frsize);
        (left < LITTLE).then_some((folder, left))
    })?;
    let (folder, left) = (installation.relative(&folder), left >> 10);
    Some(format!(
        "there is no room on the disk of `{folder}/` ({left} KiB are left): what can't be written waits, and \
         goes on by itself"
    ))
}
