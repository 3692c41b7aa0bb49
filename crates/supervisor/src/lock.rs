//! One supervisor at a time: a lock on the installation that dies with the process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::failure::Failure;
use crate::install::{Installation, cant_write};

/// How long the lock of a process that is gone may be held yet: a child that it was just starting when it
/// was killed has it until it becomes another program.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How often such a lock is tried.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The lock. It is held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and notes in it who holds it.
    ///
    /// # Errors
    ///
    /// Unavailable when another process holds it, with what that one noted.
    pub fn take(installation: &Installation) -> Result<Self, Failure> {
        let path = installation.lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| cant_write(&path, e))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    // Only to say more; what can't be read is left out.
                    let holder = fs::read_to_string(&path).unwrap_or_default();
                    if is_gone(&holder) && start.elapsed() < LETTING_GO {
                        sleep(LOOK_EVERY);
                        continue;
                    }
                    let message = format!(
                        "another supervisor serves `{}` ({})",
                        installation.root().display(),
                        holder.trim()
                    );
                    return Err(Failure::unavailable(message)
                        .hint("Use that one, or stop it with `supervisor down`."));
                }
                Err(TryLockError::Error(error)) => return Err(cant_write(&path, error)),
            }
        }
        let note = format!("process {} on {}\n", std::process::id(), host());
        file.set_len(0)
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|e| cant_write(&path, e))?;
        Ok(Self { _file: file })
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns whether the process of that note was one of this machine, and is no more. One that takes the
/// lock just now has not noted itself yet: look again.
fn is_gone(note: &str) -> bool {
    let noted = note.trim().strip_prefix("process ").and_then(|note| note.split_once(" on "));
    let pid = noted.filter(|(_, on)| *on == host()).and_then(|(pid, _)| pid.parse().ok());
    let pid = pid.and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Returns an installation, and its lock as somebody else holds it who noted that.
    fn held_by(pid: u32) -> (tempfile::TempDir, Installation, File) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".supervisor")).unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        let mut file = File::create(installation.lock()).unwrap();
        file.lock().unwrap();
        file.write_all(format!("process {pid} on {}\n", host()).as_bytes()).unwrap();
        (dir, installation, file)
    }

    #[test]
    fn lock_that_a_killed_supervisors_last_child_still_has_is_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let (_dir, installation, file) = held_by(gone);
        let child = std::thread::spawn(move || {
            sleep(Duration::from_millis(100));
            drop(file);
        });
        Lock::take(&installation).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn lock_of_a_supervisor_that_lives_is_refused_at_once_with_its_process() {
        let (_dir, installation, _file) = held_by(std::process::id());
        let start = Instant::now();
        let refused = Lock::take(&installation).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())));
        assert!(start.elapsed() < LETTING_GO);
    }
}
