//! One supervisor at a time: a lock on the installation that dies with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};

use crate::failure::Failure;
use crate::install::{Installation, cant_write};

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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only to say more; what can't be read is left out.
                let _ = file.read_to_string(&mut holder);
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
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let note = format!("process {} on {host}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|e| cant_write(&path, e))?;
        Ok(Self { _file: file })
    }
}
